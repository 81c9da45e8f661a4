// What one parse or one render may spend, and how it fails. Templates come from model files and
// messages from clients: both are hostile, so every loop and every allocation is paid for here.
//
// Inside jinja/ a failure is a TemplateError exception: an expression evaluator made of Results
// would be twice the code. It never leaves the folder: ChatTemplate catches it at its border.
#pragma once

#include <cstddef>
#include <cstdint>
#include <exception>
#include <string>
#include <utility>

#include <fmt/format.h>

namespace impetus::jinja {

struct TemplateError : std::exception {
  std::string message;
  bool raised_by_template = false;  // raise_exception(): the message is the template author's
  uint32_t line = 0;                // 1-based; 0: not known yet, filled in by who knows the node
  uint32_t column = 0;
  const char* what() const noexcept override { return message.c_str(); }
};

template <typename... Args>
[[noreturn]] void fail(fmt::format_string<Args...> format, Args&&... args) {
  TemplateError failure;
  failure.message = fmt::format(format, std::forward<Args>(args)...);
  throw failure;
}

struct Limits {
  static constexpr size_t source_bytes = size_t{1} << 20;
  static constexpr uint64_t steps = 10'000'000;  // nodes evaluated, items and bytes/16 touched
  static constexpr uint64_t bytes = uint64_t{256} << 20;  // created in total, freed or not
  static constexpr size_t output_bytes = size_t{64} << 20;
  static constexpr int syntax_depth = 200;    // nesting of the source, length of operator chains
  static constexpr int runtime_depth = 1000;  // evaluator frames: about 60 nested macro calls
  static constexpr int value_depth = 100;  // lists in lists; bounds recursive printing and freeing
  static constexpr int64_t range_items = 100'000;  // as jinja2's sandbox
  static constexpr size_t variables = 1000;
  static constexpr int64_t pad_columns = 100'000;
};

class Budget {
 public:
  void step(uint64_t count = 1) {
    steps_ += count;
    if (steps_ > Limits::steps) fail("the template runs too long (limit: {} steps)", Limits::steps);
  }
  // Before (where the size is known) or right after making a value of `count` bytes.
  void take(uint64_t count) {
    if (count > Limits::bytes || (bytes_ += count) > Limits::bytes) {
      fail("the template makes too much data (limit: {} MiB)", Limits::bytes >> 20);
    }
    step(count / 16);
  }

 private:
  uint64_t steps_ = 0;
  uint64_t bytes_ = 0;
};

// Counts a recursion for as long as it lives.
class DepthGuard {
 public:
  DepthGuard(int& depth, int depth_max, const char* what) : depth_(depth) {
    if (depth_ >= depth_max) fail("{} is nested too deeply (limit: {})", what, depth_max);
    ++depth_;
  }
  ~DepthGuard() { --depth_; }
  DepthGuard(const DepthGuard&) = delete;
  DepthGuard& operator=(const DepthGuard&) = delete;

 private:
  int& depth_;
};

}  // namespace impetus::jinja

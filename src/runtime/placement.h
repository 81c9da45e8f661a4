// Which processors are tried for which part of the work, in which order, and what happens where the
// first is not to be had. A value: the user, or a plan, says it; the runtime follows it.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "backend/executor.h"

namespace impetus {

// What to do where a processor that was wanted is absent, or refuses the model.
enum class Fallback : uint8_t {
  forbid,  // fail, and say why
  warn,    // take the next, and log why
  allow,   // take the next; the model's details alone say so
};

// Names for each phase, best first: of a backend ("cpu-avx512"), or of a device ("cpu": the first
// backend of it). A phase without names tries all backends in the order of their list.
struct Placement {
  std::vector<std::string> prefill, decode, embeddings;
  // Of the names above, those known and not on this machine: why.
  std::map<std::string, std::string> absent = {};
};

// "prefill=NAME", "decode=NAME" or "embeddings=NAME" begins that phase's own list, which the names
// after it go on; names before any of them are every phase's, tried behind its own.
// invalid_argument for another word before the '='.
Result<Placement> parse_placement(std::span<const std::string> items);

// An encoder for texts that are too long for another, and whose device's loop is to drive it.
struct LongerEncoder {
  std::unique_ptr<Encoder> encoder;
  const Backend* home = nullptr;
};

// A name with what it means here.
struct Rung {
  std::string name;
  Backend* backend = nullptr;  // null: absent
  std::string absent = {};     // why
  ThreadPlan threads = {};     // to load it with; 0: as the load options say
};
// What to try for each phase, in order.
struct Ladders {
  std::vector<Rung> prefill, decode, embeddings;
  // Told of everything that is loaded, with the threads it got; may put something around it.
  std::function<std::unique_ptr<Executor>(const ThreadPlan&, std::unique_ptr<Executor>)>
      watch_executor = {};
  std::function<std::unique_ptr<Encoder>(const ThreadPlan&, std::unique_ptr<Encoder>)>
      watch_encoder = {};
  // Where set, runs what touches a backend on the thread that drives it, and waits; false where
  // that thread has ended. Unset: no thread drives any of them yet.
  std::function<bool(const Backend&, const std::function<void()>&)> run_on = {};
  template <typename Call>
  auto run(const Backend& backend, Call&& call) const -> decltype(call()) {
    if (!run_on) return call();
    std::optional<decltype(call())> result;
    if (!run_on(backend, [&] { result.emplace(call()); })) {
      return error(ErrorCode::unavailable, "{} takes no more work", backend.descriptor().backend);
    }
    return std::move(*result);
  }

  // One backend for everything.
  static Ladders only(Backend& backend);
};
// invalid_argument, listing what there is, for a name that is neither a backend's nor absent.
Result<Ladders> resolve_placement(const Placement& placement,
                                  std::span<const std::unique_ptr<Backend>> backends);

}  // namespace impetus

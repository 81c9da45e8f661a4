// Result<T>: the return type of everything that may fail for a reason outside the program.
//
// Errors are values with a code (what a caller can act on) and a message (what a person reads: what
// is wrong, where, and what to do). Bugs are asserted, never returned. Not thread-shared.
#pragma once

#include <cassert>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>

#include <fmt/format.h>

namespace impetus {

enum class ErrorCode : uint8_t {
  invalid_argument,     // a request or option is malformed or out of range
  not_found,            // a file, model or tensor is not there
  corrupt,              // bytes contradict their format
  unsupported,          // well-formed, but outside what this build does
  context_length,       // more tokens than the model or its KV cache can hold
  insufficient_memory,  // a reservation was refused before anything was allocated
  overloaded,           // a bounded queue is full: try again later
  unauthorized,
  cancelled,
  unavailable,  // shutting down, device lost, model not loaded
  io,           // the operating system said no
  internal,     // a result that must not leave the program (NaN logits, ...)
};

std::string_view to_string(ErrorCode code);

struct Error {
  ErrorCode code = ErrorCode::internal;
  std::string message;
  std::string param = {};  // the request field at fault, where one is; empty otherwise

  // Prepends where the error happened: "model.safetensors: tensor x: ...".
  Error within(std::string_view place) && {
    message = fmt::format("{}: {}", place, message);
    return std::move(*this);
  }
};

template <typename... Args>
Error error(ErrorCode code, fmt::format_string<Args...> format, Args&&... args) {
  return Error{code, fmt::format(format, std::forward<Args>(args)...)};
}

template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : state_(std::in_place_index<0>, std::move(value)) {}
  Result(Error error) : state_(std::in_place_index<1>, std::move(error)) {}

  bool ok() const { return state_.index() == 0; }
  explicit operator bool() const { return ok(); }

  T& value() & { return assert(ok()), *std::get_if<0>(&state_); }
  const T& value() const& { return assert(ok()), *std::get_if<0>(&state_); }
  T&& value() && { return assert(ok()), std::move(*std::get_if<0>(&state_)); }
  T& operator*() & { return value(); }
  const T& operator*() const& { return value(); }
  T&& operator*() && { return std::move(*this).value(); }
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }

  const Error& error() const& { return assert(!ok()), *std::get_if<1>(&state_); }
  Error&& error() && { return assert(!ok()), std::move(*std::get_if<1>(&state_)); }

 private:
  std::variant<T, Error> state_;
};

template <>
class [[nodiscard]] Result<void> {
 public:
  Result() = default;
  Result(Error error) : error_(std::move(error)) {}

  bool ok() const { return !error_; }
  explicit operator bool() const { return ok(); }
  const Error& error() const& { return assert(!ok()), *error_; }
  Error&& error() && { return assert(!ok()), std::move(*error_); }

 private:
  std::optional<Error> error_;
};

#define IMPETUS_CONCAT_INNER(a, b) a##b
#define IMPETUS_CONCAT(a, b) IMPETUS_CONCAT_INNER(a, b)

// IMPETUS_TRY(auto x, f());  binds the value or returns the error.
#define IMPETUS_TRY(declaration, expression)                                             \
  auto IMPETUS_CONCAT(result_, __LINE__) = (expression);                                 \
  if (!IMPETUS_CONCAT(result_, __LINE__).ok())                                           \
    return std::move(IMPETUS_CONCAT(result_, __LINE__)).error();                         \
  declaration = std::move(*IMPETUS_CONCAT(result_, __LINE__))

// IMPETUS_CHECK(f());  returns the error of a Result<void>.
#define IMPETUS_CHECK(expression)                                          \
  do {                                                                     \
    if (auto result_ = (expression); !result_.ok()) return std::move(result_).error(); \
  } while (false)

}  // namespace impetus

// What a lane does about a processor that fails it: shared by both kinds of lanes.
//
//   a step for which there is no memory   is tried again in smaller pieces; one that cannot be any
//                                         smaller `failures_max` times; then another processor is
//                                         asked for
//   a device that says it is gone         another processor is asked for
//   another error, or an exception        is tried once more; who meets it twice without a token
//                                         between ends with it. After `failures_max` without a
//                                         token between, another is asked for
//   a step that does not end              its thread is given up (device_loop.h), the executor with
//                                         it, and another processor is asked for
//
// While another is sought the lane waits, and takes new work. Where there is none, what was in the
// step ends with the error and the lane goes on as it is; but after a step that hangs it can only
// end everything.
#pragma once

#include <algorithm>
#include <exception>
#include <functional>
#include <new>
#include <string>
#include <utility>

#include "base/result.h"

namespace impetus {

struct DeviceFailure {
  enum class Kind : uint8_t {
    memory,  // this model's steps do not fit there
    lost,    // by its own word, or by repeated failures
    hangs,   // nothing that stands on it may be destroyed any more
  } kind = Kind::lost;
  std::string backend;
  Error error;      // its message names the backend
  std::string why;  // without
};

struct LaneGuard {
  // At least this long a step may take, whatever was expected of it; 0: no step is watched.
  double step_seconds = 0;
  // On the loop's thread, with no lock held; quick. Ok: the lane waits for rehome(), resume() or
  // fail(). An error: there is no other processor. Unset: there never is.
  std::function<Result<void>(const DeviceFailure&)> on_failure = {};

  static constexpr double factor = 20;    // over what was expected
  static constexpr int failures_max = 3;  // of steps, one after the other

  // Of a step that should take `expected` seconds; 0: nobody knows.
  double limit(double expected) const {
    if (!(step_seconds > 0)) return 0;
    return expected > 0 ? std::max(step_seconds, factor * expected) : factor * step_seconds;
  }
  Result<void> ask(const DeviceFailure& failure) const {
    if (!on_failure) return failure.error;
    return on_failure(failure);
  }
};

// call(), whose exceptions become errors.
template <typename Call>
auto guarded(Call&& call) -> decltype(call()) {
  try {
    return call();
  } catch (const std::bad_alloc&) {
    return error(ErrorCode::insufficient_memory, "the system is out of memory");
  } catch (const std::exception& failure) {
    return error(ErrorCode::internal, "an exception left the backend, which is a bug of it: {}",
                 failure.what());
  } catch (...) {
    return error(ErrorCode::internal, "an unknown exception left the backend, a bug of it");
  }
}

// A step's error, by what it says of the device; its message names the backend.
inline DeviceFailure device_failure(const std::string& backend, Error error) {
  const auto kind = error.code == ErrorCode::insufficient_memory ? DeviceFailure::Kind::memory
                                                                 : DeviceFailure::Kind::lost;
  std::string why = error.message;
  return {kind, backend, std::move(error).within(backend), std::move(why)};
}

inline DeviceFailure hanging(const std::string& backend, double seconds) {
  DeviceFailure failure = device_failure(
      backend, error(ErrorCode::unavailable, "a step did not end within {:.3g} s (--step-timeout)",
                     seconds));
  failure.kind = DeviceFailure::Kind::hangs;
  return failure;
}

}  // namespace impetus

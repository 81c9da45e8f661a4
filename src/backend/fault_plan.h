// Faults planted into the steps of a processor, for tests: the fake's (fake.h), or a real one's
// behind a wrapper (tests/support/faulty_backend.h). One plan may be shared by all that one
// processor runs; its steps are counted together. Thread-safe; a step that hangs keeps it alive.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <limits>
#include <map>
#include <mutex>

#include "base/result.h"

namespace impetus {

class FaultPlan {
 public:
  enum class Kind : uint8_t {
    error,      // internal
    memory,     // insufficient_memory, once
    lost,       // unavailable
    exception,  // thrown
    bad_alloc,  // thrown
    odd,        // thrown, and no std::exception
    hang,       // until release(); then the step goes on as if nothing had been
  };

  // The `step`th from now on; 0 is the next. Every one from there on where `lasting`.
  void at(int64_t step, Kind kind, bool lasting = false);
  // Steps of more tokens are insufficient_memory from now on.
  void memory_for(int64_t tokens);
  void clear();    // nothing is planted any more; what hangs hangs on
  void release();  // what hangs goes on, and nothing hangs again
  int64_t steps() const;
  int64_t hanging() const;

  // By the processor, at the start of a step, before it touches anything.
  Result<void> meet(int64_t tokens);

 private:
  mutable std::mutex mutex_;
  std::condition_variable released_;
  std::map<int64_t, Kind> planted_;
  std::map<int64_t, Kind> lasting_;  // at most one
  int64_t tokens_max_ = std::numeric_limits<int64_t>::max();
  int64_t steps_ = 0;
  int64_t hanging_ = 0;
  bool release_ = false;
};

}  // namespace impetus

#include "backend/fault_plan.h"

#include <new>
#include <stdexcept>

namespace impetus {

void FaultPlan::at(int64_t step, Kind kind, bool lasting) {
  const std::lock_guard lock(mutex_);
  if (lasting) lasting_.clear();
  (lasting ? lasting_ : planted_)[steps_ + step] = kind;
}

void FaultPlan::memory_for(int64_t tokens) {
  const std::lock_guard lock(mutex_);
  tokens_max_ = tokens;
}

void FaultPlan::clear() {
  const std::lock_guard lock(mutex_);
  planted_.clear();
  lasting_.clear();
  tokens_max_ = std::numeric_limits<int64_t>::max();
}

void FaultPlan::release() {
  const std::lock_guard lock(mutex_);
  release_ = true;
  released_.notify_all();
}

int64_t FaultPlan::steps() const {
  const std::lock_guard lock(mutex_);
  return steps_;
}

int64_t FaultPlan::hanging() const {
  const std::lock_guard lock(mutex_);
  return hanging_;
}

Result<void> FaultPlan::meet(int64_t tokens) {
  std::unique_lock lock(mutex_);
  const int64_t step = steps_++;
  if (tokens > tokens_max_) {
    return error(ErrorCode::insufficient_memory, "no memory for {} tokens (planted)", tokens);
  }
  auto found = planted_.find(step);
  if (found == planted_.end()) {
    found = lasting_.begin();
    if (found == lasting_.end() || found->first > step) return {};
  }
  switch (found->second) {
    case Kind::error:
      return error(ErrorCode::internal, "an error (planted)");
    case Kind::memory:
      return error(ErrorCode::insufficient_memory, "no memory (planted)");
    case Kind::lost:
      return error(ErrorCode::unavailable, "the device is gone (planted)");
    case Kind::exception:
      throw std::runtime_error("an exception (planted)");
    case Kind::bad_alloc:
      throw std::bad_alloc();
    case Kind::odd:
      throw 7;
    case Kind::hang:
      ++hanging_;
      released_.wait(lock, [this] { return release_; });
      --hanging_;
      return {};
  }
  return {};
}

}  // namespace impetus

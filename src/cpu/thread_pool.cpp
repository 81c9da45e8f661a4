#include "cpu/thread_pool.h"

#include <chrono>

namespace impetus::cpu {
namespace {

// Longer than the serial work between two loops of a step; short against a step.
constexpr auto kSpin = std::chrono::microseconds(60);

// loop_ = number * kLoop + (may be entered ? kOpen : 0) + workers inside.
constexpr uint64_t kInside = 0xffff;
constexpr uint64_t kOpen = kInside + 1;
constexpr uint64_t kLoop = 2 * kOpen;

inline void pause() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Whether `ready` came true while spinning.
template <typename Ready>
bool spin_until(Ready ready) {
  const auto end = std::chrono::steady_clock::now() + kSpin;
  do {
    for (int i = 0; i < 64; ++i) {
      if (ready()) return true;
      pause();
    }
  } while (std::chrono::steady_clock::now() < end);
  return ready();
}

}  // namespace

ThreadPool::ThreadPool(int threads) {
  try {
    for (int i = 1; i < threads; ++i) workers_.emplace_back([this, i] { work(i); });
  } catch (...) {
    stop();  // the system gives no more threads: those that run must end first
    throw;
  }
  set_threads(0);
}

ThreadPool::~ThreadPool() {
  stop();
}

void ThreadPool::set_threads(int threads) {
  const int wanted = threads < 1 ? capacity() : std::min(threads, capacity());
  if (wanted == active_.load(std::memory_order_relaxed)) return;
  {
    const std::lock_guard lock(mutex_);
    active_.store(wanted);
  }
  parked_.notify_all();
  wake_.notify_all();  // who is left out goes to park, and is not woken by every loop
}

void ThreadPool::stop() {
  {
    const std::lock_guard lock(mutex_);
    stop_.store(true);
  }
  wake_.notify_all();
  parked_.notify_all();
  for (auto& worker : workers_) worker.join();
}

void ThreadPool::take_items(int thread) {
  const int64_t items = items_;
  for (int64_t item; (item = next_.fetch_add(1, std::memory_order_relaxed)) < items;) {
    function_(context_, item, thread);
  }
}

void ThreadPool::run(int64_t items, void* context, Function function) {
  function_ = function;
  context_ = context;
  items_ = items;
  next_.store(0, std::memory_order_relaxed);
  // Publishes the loop. Sequentially consistent with asleep_: either the worker that goes to sleep
  // sees the new loop, or it is seen here and woken.
  const uint64_t number = loop_.load(std::memory_order_relaxed) / kLoop + 1;
  loop_.store(number * kLoop + kOpen);
  if (asleep_.load() > 0) {
    {
      const std::lock_guard lock(mutex_);
    }
    wake_.notify_all();
  }
  take_items(0);
  // No items are left: who has not come by now need not come. Also takes in what the others wrote.
  const auto empty = [](uint64_t loop) { return (loop & kInside) == 0; };
  if (empty(loop_.fetch_and(~kOpen, std::memory_order_acq_rel))) return;
  const auto left = [&] { return empty(loop_.load(std::memory_order_acquire)); };
  if (spin_until(left)) return;
  std::unique_lock lock(mutex_);
  caller_asleep_.store(true);
  left_.wait(lock, [&] { return empty(loop_.load()); });
  caller_asleep_.store(false);
}

void ThreadPool::work(int thread) {
  uint64_t seen = 0;  // number of the loop entered last
  uint64_t loop = 0;
  const auto stopped = [&] { return stop_.load(std::memory_order_relaxed); };
  const auto to_do = [&] {
    loop = loop_.load();
    return ((loop & kOpen) != 0 && loop / kLoop != seen) || thread >= threads() || stopped();
  };
  while (true) {
    if (!spin_until(to_do)) {
      std::unique_lock lock(mutex_);
      asleep_.fetch_add(1);
      wake_.wait(lock, to_do);
      asleep_.fetch_sub(1);
    }
    if (thread >= threads() && !stopped()) {
      std::unique_lock lock(mutex_);
      parked_.wait(lock, [&] { return thread < threads() || stopped(); });
      continue;
    }
    if (stop_.load()) return;
    // What was read last may be a loop that was closed, or done, while this worker was left out.
    if ((loop & kOpen) == 0 || loop / kLoop == seen) continue;
    if (!loop_.compare_exchange_strong(loop, loop + 1)) continue;  // closed, or another came too
    seen = loop / kLoop;
    take_items(thread);
    // Only a closed loop has somebody who waits for the last to leave.
    if ((loop_.fetch_sub(1) & (kInside | kOpen)) == 1 && caller_asleep_.load()) {
      {
        const std::lock_guard lock(mutex_);
      }
      left_.notify_one();
    }
  }
}

}  // namespace impetus::cpu

#include "cpu/thread_pool.h"

#include <chrono>

namespace impetus::cpu {
namespace {

// Longer than the serial work between two loops of a step; short against a step.
constexpr auto kSpin = std::chrono::microseconds(60);

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
}

ThreadPool::~ThreadPool() {
  stop();
}

void ThreadPool::stop() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
    generation_.fetch_add(1);
  }
  wake_.notify_all();
  for (auto& worker : workers_) worker.join();
}

void ThreadPool::take_items(int thread) {
  // Read once: after the last item of this thread the caller may already set up the next loop.
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
  busy_.store(static_cast<int>(workers_.size()), std::memory_order_relaxed);
  // Publishes the loop. Sequentially consistent with asleep_: either the worker that goes to sleep
  // sees the new generation, or it is seen here and woken.
  generation_.fetch_add(1);
  if (asleep_.load() > 0) {
    {
      const std::lock_guard lock(mutex_);
    }
    wake_.notify_all();
  }
  take_items(0);
  const auto left = [this] { return busy_.load(std::memory_order_acquire) == 0; };
  if (spin_until(left)) return;
  std::unique_lock lock(mutex_);
  caller_asleep_.store(true);
  left_.wait(lock, [this] { return busy_.load() == 0; });
  caller_asleep_.store(false);
}

void ThreadPool::work(int thread) {
  uint64_t seen = 0;
  while (true) {
    const auto moved = [&] { return generation_.load(std::memory_order_acquire) != seen; };
    if (!spin_until(moved)) {
      std::unique_lock lock(mutex_);
      asleep_.fetch_add(1);
      wake_.wait(lock, [&] { return generation_.load() != seen; });
      asleep_.fetch_sub(1);
    }
    // Generations move one by one: the caller waits for every worker before the next.
    ++seen;
    if (stop_) return;
    take_items(thread);
    if (busy_.fetch_sub(1) == 1 && caller_asleep_.load()) {
      {
        const std::lock_guard lock(mutex_);
      }
      left_.notify_one();
    }
  }
}

}  // namespace impetus::cpu

// Workers that share one parallel loop at a time.
//
// The thread that calls parallel_for is one of the N, so N = 1 has no worker at all. Items are
// handed out by an atomic counter, in order. parallel_for returns when every item is done and every
// worker that came has left; that is the only barrier there is. A worker that comes too late,
// asleep or kept off its core by another program, is not waited for. Between loops workers spin for
// a while, so that a loop which follows soon starts at once, then sleep: an idle pool costs
// nothing.
//
// REQUIRES: one thread at a time calls parallel_for, never from inside a loop; the body does not
// throw.
#pragma once

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

namespace impetus::cpu {

class ThreadPool {
 public:
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  // How many share the loops now, and at most.
  int threads() const { return active_.load(std::memory_order_relaxed); }
  int capacity() const { return static_cast<int>(workers_.size()) + 1; }
  // Loops from now on use `threads` threads; 0 or too many: all. The others sleep meanwhile.
  void set_threads(int threads);

  // body(item, thread) for item in [0, items); thread is in [0, threads()), the caller's is 0.
  template <typename Body>
  void parallel_for(int64_t items, Body&& body) {
    if (items <= 1 || threads() == 1) {
      for (int64_t item = 0; item < items; ++item) body(item, 0);
      return;
    }
    using Plain = std::remove_reference_t<Body>;
    run(items, const_cast<void*>(static_cast<const void*>(&body)),
        [](void* context, int64_t item, int thread) {
          (*static_cast<Plain*>(context))(item, thread);
        });
  }

  // body(begin, end, thread) over [0, count) in runs of at least `grain`; inline where one
  // suffices.
  template <typename Body>
  void parallel_ranges(int64_t count, int64_t grain, Body&& body) {
    const int64_t step = std::max(grain, (count + 4 * threads() - 1) / (4 * threads()));
    if (count <= step) {
      if (count > 0) body(int64_t{0}, count, 0);
      return;
    }
    parallel_for((count + step - 1) / step, [&](int64_t item, int thread) {
      body(item * step, std::min(count, (item + 1) * step), thread);
    });
  }

 private:
  using Function = void (*)(void* context, int64_t item, int thread);

  void run(int64_t items, void* context, Function function);
  void work(int thread);
  void stop();
  void take_items(int thread);

  // The loop that runs now: written while it is closed and empty, read by those who entered.
  Function function_ = nullptr;
  void* context_ = nullptr;
  int64_t items_ = 0;

  alignas(64) std::atomic<int64_t> next_{0};
  // Number of the loop, whether it may be entered, and how many workers are inside (in the .cpp).
  alignas(64) std::atomic<uint64_t> loop_{0};
  alignas(64) std::atomic<int> asleep_{0};
  std::atomic<bool> stop_{false};
  std::atomic<int> active_{1};
  std::atomic<bool> caller_asleep_{false};
  std::mutex mutex_;
  std::condition_variable wake_;
  std::condition_variable left_;
  std::condition_variable parked_;  // workers that the present number of threads leaves out
  std::vector<std::thread> workers_;
};

}  // namespace impetus::cpu

#include "cpu/thread_pool.h"

#include <gtest/gtest.h>
#include <time.h>

#include <array>
#include <chrono>
#include <numeric>

namespace impetus::cpu {
namespace {

TEST(ThreadPool, EveryItemOnce) {
  for (const int threads : {1, 2, 3, 8}) {
    ThreadPool pool(threads);
    EXPECT_EQ(pool.threads(), threads);
    for (const int64_t items : {0, 1, 2, 7, 1000}) {
      std::vector<std::atomic<int>> hits(static_cast<size_t>(items));
      pool.parallel_for(items, [&](int64_t item, int thread) {
        ASSERT_LT(thread, threads);
        ++hits[static_cast<size_t>(item)];
      });
      for (const auto& hit : hits) EXPECT_EQ(hit, 1);
    }
  }
}

TEST(ThreadPool, LoopsSeeEachOthersWrites) {
  ThreadPool pool(4);
  std::vector<int64_t> values(257, 1);
  for (int round = 0; round < 3000; ++round) {
    // Plain memory: each loop reads what others wrote in the one before.
    std::vector<int64_t> next(values.size());
    pool.parallel_for(static_cast<int64_t>(values.size()), [&](int64_t i, int) {
      const size_t n = values.size();
      next[static_cast<size_t>(i)] = values[(static_cast<size_t>(i) + 1) % n] + 1;
    });
    values.swap(next);
  }
  EXPECT_EQ(values.front(), 3001);
  EXPECT_EQ(std::accumulate(values.begin(), values.end(), int64_t{0}), 257 * 3001);
}

TEST(ThreadPool, WakesAfterSleep) {
  ThreadPool pool(3);
  for (int round = 0; round < 20; ++round) {
    std::this_thread::sleep_for(std::chrono::milliseconds(2));  // long past the spinning
    std::atomic<int> done = 0;
    pool.parallel_for(10, [&](int64_t, int) { ++done; });
    EXPECT_EQ(done, 10);
  }
}

TEST(ThreadPool, WaitsForASlowWorker) {
  ThreadPool pool(2);
  std::atomic<int> done = 0;
  pool.parallel_for(2, [&](int64_t, int thread) {
    // Whoever is not the caller is slow, so that the caller goes to sleep.
    if (thread != 0) std::this_thread::sleep_for(std::chrono::milliseconds(5));
    ++done;
  });
  EXPECT_EQ(done, 2);
}

// A worker that other programs keep off its core must not hold up a loop that is done without it.
TEST(ThreadPool, DoesNotWaitForAWorkerThatComesLate) {
  ThreadPool pool(64);  // far more than cores: most come late
  const auto start = std::chrono::steady_clock::now();
  int64_t sum = 0;
  for (int round = 0; round < 200; ++round) {
    std::atomic<int64_t> part = 0;
    pool.parallel_for(2, [&](int64_t item, int) { part += item + 1; });
    sum += part;
  }
  EXPECT_EQ(sum, 600);
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(5));
}

TEST(ThreadPool, FewerThreadsShareTheLoopWhereAsked) {
  ThreadPool pool(4);
  for (const int wanted : {2, 1, 3, 0, 9}) {
    pool.set_threads(wanted);
    const int threads = wanted == 0 || wanted > 4 ? 4 : wanted;
    EXPECT_EQ(pool.threads(), threads);
    EXPECT_EQ(pool.capacity(), 4);
    std::atomic<int> done = 0, beyond = 0;
    for (int round = 0; round < 200; ++round) {
      pool.parallel_for(16, [&](int64_t, int thread) {
        ++done;
        if (thread >= threads) ++beyond;
      });
    }
    EXPECT_EQ(done, 200 * 16);
    EXPECT_EQ(beyond, 0);
  }
}

// Loops right after the number of threads changed, when those left out come back.
TEST(ThreadPool, ChangingThreadsBetweenLoopsLosesAndDoublesNothing) {
  ThreadPool pool(6);
  for (int round = 0; round < 20'000; ++round) {
    pool.set_threads(round % 3 == 0 ? 1 : round % 3 == 1 ? 0 : 3);
    std::array<int, 9> hits{};  // on this loop's stack: a late worker would write elsewhere
    std::atomic<int> done = 0;
    pool.parallel_for(std::ssize(hits), [&](int64_t item, int) {
      ++hits[static_cast<size_t>(item)];
      ++done;
    });
    ASSERT_EQ(done, std::ssize(hits));
    for (const int hit : hits) ASSERT_EQ(hit, 1);
  }
}

TEST(ThreadPool, IdleCostsNothing) {
  ThreadPool pool(4);
  pool.parallel_for(100, [](int64_t, int) {});
  std::this_thread::sleep_for(std::chrono::milliseconds(5));
  const auto cpu = [] {
    timespec t{};
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_nsec) * 1e-9;
  };
  const double before = cpu();
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  EXPECT_LT(cpu() - before, 0.02);
}

TEST(ThreadPool, RangesCoverAll) {
  ThreadPool pool(3);
  for (const int64_t count : {0, 1, 5, 100, 1001}) {
    for (const int64_t grain : {1, 16, 5000}) {
      std::vector<int> hits(static_cast<size_t>(count));
      pool.parallel_ranges(count, grain, [&](int64_t begin, int64_t end, int) {
        for (int64_t i = begin; i < end; ++i) ++hits[static_cast<size_t>(i)];
      });
      for (const int hit : hits) EXPECT_EQ(hit, 1);
    }
  }
}

}  // namespace
}  // namespace impetus::cpu

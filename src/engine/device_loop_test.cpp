// Lanes beside each other on one device: shares of time, bounded delays, coming and going.
#include "engine/device_loop.h"

#include <algorithm>

#include <gtest/gtest.h>

#include "tests/simulation/runner_fakes.h"

namespace impetus {
namespace {

using namespace simulation;

// Work without end in slices of one length.
struct Busy final : LaneWork {
  Busy(TestClock& clock_, double slice_) : clock(clock_), slice(slice_) {}
  bool has_work() override { return working; }
  void run_slice() override {
    EXPECT_FALSE(closed);
    const double from = clock.now();
    clock.pass(slice);
    longest = std::max(longest, clock.now() - from);
    ++slices;
    if (at_slice) at_slice(slices);
  }
  void close() override { closed = true; }
  TestClock& clock;
  const double slice;
  double longest = 0;  // the loop's thread
  std::atomic<bool> working = true;
  std::atomic<bool> closed = false;
  std::atomic<int> slices = 0;
  std::function<void(int slices)> at_slice;  // set before it is attached
};

struct Shares {
  double a = 0, b = 0, longest = 0;  // seconds
};

// Two lanes until the second has had `slices`; read on the loop's thread, where nothing moves.
Shares share(TestClock& clock, double slice_a, double share_a, double slice_b, double share_b,
             int slices) {
  Gate attached, done;
  Shares shares;
  DeviceLoop::Place place_a, place_b;
  auto a = std::make_shared<Busy>(clock, slice_a), b = std::make_shared<Busy>(clock, slice_b);
  a->at_slice = [&](int) { attached.wait(); };
  b->at_slice = [&](int count) {
    attached.wait();
    if (count != slices) return;
    shares = {place_a.busy_seconds(), place_b.busy_seconds(), std::max(a->longest, b->longest)};
    done.open();
  };
  DeviceLoop loop(clock.reader());
  place_a = loop.attach(a, share_a);
  place_b = loop.attach(b, share_b);
  attached.open();
  done.wait();
  EXPECT_GE(loop.busy_seconds(), shares.a + shares.b);
  place_a.detach();
  EXPECT_TRUE(a->closed);
  place_b.detach();
  return shares;
}

TEST(DeviceLoop, SharesTimeByWeightNotBySlices) {
  TestClock clock;
  const Shares shares = share(clock, 0.007, 3, 0.020, 1, 200);
  EXPECT_NEAR(shares.a / shares.b, 3, 0.1);
}

TEST(DeviceLoop, SharesRealTimeToo) {
  TestClock clock(true);
  const Shares shares = share(clock, 0.002, 2, 0.005, 1, 40);
  // However long the machine made a slice: what one lane is ahead is never more than its longest.
  EXPECT_NEAR(shares.a / 2, shares.b, 2 * shares.longest);
}

TEST(DeviceLoop, SleepsUntilWokenAndClosesWhatIsLeft) {
  TestClock clock;
  auto idle = std::make_shared<Busy>(clock, 0.001);
  idle->working = false;
  {
    DeviceLoop loop(clock.reader());
    const auto place = loop.attach(idle, 1);
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    EXPECT_EQ(idle->slices, 0);
    idle->working = true;
    place.wake();
    while (idle->slices < 3) std::this_thread::yield();
  }
  EXPECT_TRUE(idle->closed);
}

TEST(DeviceLoop, LanesComeAndGoWhileItRuns) {
  TestClock clock;
  DeviceLoop loop(clock.reader());
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 50; ++i) {
        auto work = std::make_shared<Busy>(clock, 0.001);
        const auto place = loop.attach(work, 1);
        while (work->slices < 1) std::this_thread::yield();
        place.detach();
        EXPECT_TRUE(work->closed);
        EXPECT_EQ(work.use_count(), 1);
      }
    });
  }
  for (auto& thread : threads) thread.join();
}

// Chat that never pauses, and a stream of embedding requests of one text: by the fake clock, none
// waits longer than a step and a slice or two.
TEST(Lanes, EmbeddingsUnderChatWaitASliceOrTwo) {
  TestClock clock;
  Gate gate;
  DeviceLoop loop(clock.reader());
  GenerationLane chat(loop,
                      std::make_unique<HookedModel>(4096, 16, 64,
                                                    [&](auto) {
                                                      gate.wait();
                                                      clock.pass(0.030);
                                                    }),
                      {}, 1);
  EmbeddingLane embed(
      loop,
      std::make_unique<FakeEncoder>(512,
                                    [&](const EncoderBatch& batch) {
                                      clock.pass(1e-4 * static_cast<double>(batch.tokens.size()));
                                    }),
      1000, 1);
  std::vector<std::shared_ptr<Recorder>> sinks;
  for (int i = 0; i < 8; ++i) {
    sinks.push_back(std::make_shared<Recorder>());
    ASSERT_TRUE(chat.submit(generation({i}, 8000, i), sinks.back()).ok());
  }
  gate.open();
  while (sinks[0]->count() == 0) std::this_thread::yield();
  // Each answer submits the next, from the device's thread, so that no other thread's pace counts.
  std::mutex mutex;
  std::condition_variable finished;
  std::vector<double> waits;
  std::function<void()> next = [&] {
    const double from = clock.now();
    ASSERT_TRUE(embed
                    .submit({.texts = {std::vector<TokenId>(50, 1)}, .token_types = {}},
                            [&, from](auto answer) {
                              EXPECT_TRUE(answer.ok());
                              {
                                const std::lock_guard lock(mutex);
                                waits.push_back(clock.now() - from);
                                if (waits.size() == 100) return finished.notify_all();
                              }
                              next();
                            })
                    .ok());
  };
  next();
  std::unique_lock lock(mutex);
  finished.wait(lock, [&] { return waits.size() == 100; });
  EXPECT_LE(*std::max_element(waits.begin() + 1, waits.end()), 0.075);
  for (const auto& sink : sinks) EXPECT_FALSE(sink->ended());
}

// Ten thousand texts in the queue: chat keeps its half of the device.
TEST(Lanes, ChatUnderEmbeddingsKeepsItsShare) {
  TestClock clock;
  Gate gate;
  Vectors texts;  // before the lanes, whose end it hears
  double worst = 0, before = 0;
  // Looked at on the device's thread, which runs on meanwhile otherwise.
  double of_chat = 0, of_embed = 0;
  bool embedded_first = false;
  DeviceLoop loop(clock.reader());
  EmbeddingLane embed(
      loop,
      std::make_unique<FakeEncoder>(512,
                                    [&](const EncoderBatch& batch) {
                                      gate.wait();
                                      clock.pass(1e-4 * static_cast<double>(batch.tokens.size()));
                                    }),
      10000, 1);
  GenerationLane chat(
      loop, std::make_unique<HookedModel>(64, 16, 64, [&](auto) { clock.pass(0.010); }), {}, 1);
  ASSERT_TRUE(
      embed
          .submit({.texts = std::vector<std::vector<TokenId>>(10000, std::vector<TokenId>(20, 1)),
                   .token_types = {}},
                  texts.done())
          .ok());
  auto sink = std::make_shared<Recorder>();
  sink->verdict = [&](size_t count) {
    if (count > 5) worst = std::max(worst, clock.now() - before);
    before = clock.now();
    return true;
  };
  sink->at_end = [&](FinishReason) {
    of_chat = chat.busy_seconds();
    of_embed = embed.busy_seconds();
    embedded_first = texts.answered();
  };
  ASSERT_TRUE(chat.submit(generation({1}, 200), sink).ok());
  gate.open();
  EXPECT_EQ(sink->wait(), FinishReason::length);
  EXPECT_FALSE(embedded_first);
  EXPECT_LE(worst, 0.035);  // a slice of embeddings and its own step
  EXPECT_NEAR(of_chat / of_embed, 1, 0.1);
}

// A lane that leaves just as the loop looks about for work is not forgotten.
TEST(DeviceLoop, NoGoodbyeIsMissed) {
  TestClock clock;
  DeviceLoop loop(clock.reader());
  for (int i = 0; i < 20'000; ++i) {
    const auto idle = std::make_shared<Busy>(clock, 1);
    idle->working = false;
    const auto place = loop.attach(idle, 1);
    const auto spin = [](int from) {
      for (std::atomic<int> left = from; left > 0;) --left;
    };
    spin(i % 500);
    place.wake();  // the loop is about to look, or to sleep
    spin(i / 500 * 25);
    place.detach();
    ASSERT_TRUE(idle->closed);
  }
}

}  // namespace
}  // namespace impetus

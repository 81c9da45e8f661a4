#include <random>

#include <gtest/gtest.h>

#include "engine/runner.h"
#include "tests/simulation/runner_fakes.h"

namespace impetus {
namespace {

using namespace simulation;
using Request = EmbeddingLane::Request;

std::vector<TokenId> text(int64_t tokens, TokenId salt) {
  std::vector<TokenId> result(tokens);
  for (int64_t i = 0; i < tokens; ++i) result[i] = static_cast<TokenId>(mix(salt, i) % 900);
  return result;
}

// Everything below is queued while the first batch, of one text, is held at the gate.
struct Held {
  explicit Held(int64_t batch_tokens_max = 1024, int64_t waiting_max = 4096)
      : lane(loop,
             std::make_unique<FakeEncoder>(batch_tokens_max,
                                           [this](const EncoderBatch& batch) {
                                             gate.wait();
                                             const std::lock_guard lock(mutex);
                                             batches.emplace_back();
                                             for (size_t i = 0; i + 1 < batch.offsets.size(); ++i)
                                               batches.back().push_back(batch.offsets[i + 1] -
                                                                        batch.offsets[i]);
                                           }),
             waiting_max, 1) {
    EXPECT_TRUE(lane.submit({.texts = {{1}}, .token_types = {}}, first.done()).ok());
    while (lane.counts().waiting_texts > 0) std::this_thread::yield();
  }
  Vectors first;
  Gate gate;
  std::mutex mutex;
  std::vector<std::vector<int32_t>> batches;
  DeviceLoop loop;
  EmbeddingLane lane;
};

TEST(EmbeddingLane, AnswersEachTextOfEachRequest) {
  DeviceLoop loop;
  EmbeddingLane lane(loop, std::make_unique<FakeEncoder>(256), 10000, 1);
  std::vector<Vectors> answers(50);
  std::vector<Request> requests;
  for (int r = 0; r < 50; ++r) {
    Request request;
    for (int t = 0; t <= r % 7; ++t) {
      request.texts.push_back(text(1 + (r * 31 + t * 17) % 120, r * 100 + t));
      if (r % 3 == 0) request.token_types.emplace_back(request.texts.back().size(), t % 2);
    }
    if (r % 5 == 0) request.output = EncodeOutput::hidden;
    requests.push_back(request);
    ASSERT_TRUE(lane.submit(std::move(request), answers[r].done()).ok());
  }
  for (int r = 0; r < 50; ++r) {
    const auto& answer = answers[r].wait();
    ASSERT_TRUE(answer.ok());
    ASSERT_EQ(answer->size(), requests[r].texts.size());
    for (size_t t = 0; t < answer->size(); ++t) {
      const auto& tokens = requests[r].texts[t];
      const int type = r % 3 == 0 ? t % 2 : 0;
      const auto row = FakeEncoder::row(tokens, type);
      const auto& values = (*answer)[t];
      EXPECT_EQ(values.size(), r % 5 == 0 ? 3 * tokens.size() : 3);
      EXPECT_EQ(std::vector<float>(values.end() - 3, values.end()), row);
    }
  }
  EXPECT_EQ(lane.counts().waiting_texts, 0);
  EXPECT_GT(lane.counts().tokens, 1000);
}

TEST(EmbeddingLane, TextsOfManyRequestsShareABatchSortedByLength) {
  Held held;
  std::vector<Vectors> answers(8);
  for (int i = 0; i < 8; ++i) {
    ASSERT_TRUE(
        held.lane.submit({.texts = {text(1 + i * 3 % 8, i)}, .token_types = {}}, answers[i].done())
            .ok());
  }
  held.gate.open();
  for (auto& answer : answers) ASSERT_TRUE(answer.wait().ok());
  ASSERT_EQ(held.batches.size(), 2u);
  EXPECT_EQ(held.batches[1], (std::vector<int32_t>{8, 7, 6, 5, 4, 3, 2, 1}));
}

TEST(EmbeddingLane, TheOldestAlwaysGoesSoALongTextIsNotPassedForEver) {
  Held held;
  Vectors lengthy;
  std::vector<Vectors> shorts(2000);
  ASSERT_TRUE(held.lane.submit({.texts = {text(1024, 1)}, .token_types = {}}, lengthy.done()).ok());
  for (size_t i = 0; i < shorts.size(); ++i)
    ASSERT_TRUE(
        held.lane.submit({.texts = {text(5, i)}, .token_types = {}}, shorts[i].done()).ok());
  held.gate.open();
  ASSERT_TRUE(lengthy.wait().ok());
  for (auto& answer : shorts) ASSERT_TRUE(answer.wait().ok());
  EXPECT_EQ(held.batches[1], std::vector<int32_t>{1024});
}

TEST(EmbeddingLane, RefusesWhatCannotRun) {
  Held held(64, 4);
  const auto code = [&](Request request) {
    return held.lane.submit(std::move(request), nullptr).error().code;
  };
  EXPECT_EQ(code({}), ErrorCode::invalid_argument);
  EXPECT_EQ(code({.texts = {{1}, {}}, .token_types = {}}), ErrorCode::invalid_argument);
  EXPECT_EQ(code({.texts = {{1}}, .token_types = {{0, 0}}}), ErrorCode::invalid_argument);
  EXPECT_EQ(code({.texts = {{1}, {2}}, .token_types = {{0}}}), ErrorCode::invalid_argument);
  EXPECT_EQ(code({.texts = {text(65, 1)}, .token_types = {}}), ErrorCode::context_length);
  EXPECT_EQ(code({.texts = {{1}, {1}, {1}, {1}, {1}}, .token_types = {}}),
            ErrorCode::invalid_argument);
  Vectors three;
  ASSERT_TRUE(held.lane.submit({.texts = {{1}, {1}, {1}}, .token_types = {}}, three.done()).ok());
  EXPECT_EQ(code({.texts = {{1}, {1}}, .token_types = {}}), ErrorCode::overloaded);
  EXPECT_EQ(held.lane.counts().waiting_texts, 3);
  held.gate.open();
  ASSERT_TRUE(three.wait().ok());
}

TEST(EmbeddingLane, CancelsWaitingAndRunning) {
  Held held;
  Vectors waiting, kept;
  const auto id = held.lane.submit({.texts = {{1}, {2}}, .token_types = {}}, waiting.done());
  ASSERT_TRUE(held.lane.submit({.texts = {{3}}, .token_types = {}}, kept.done()).ok());
  held.lane.cancel(*id);
  held.lane.cancel(*id);
  held.lane.cancel(1);  // the one in the encoder now
  EXPECT_EQ(held.lane.counts().waiting_texts, 1);
  held.gate.open();
  EXPECT_EQ(waiting.wait().error().code, ErrorCode::cancelled);
  EXPECT_EQ(held.first.wait().error().code, ErrorCode::cancelled);
  EXPECT_TRUE(kept.wait().ok());
}

TEST(EmbeddingLane, AnErrorFailsOnlyItsBatch) {
  Held held(16);
  Vectors bad, beside, later;
  ASSERT_TRUE(
      held.lane
          .submit({.texts = {text(12, 1), {FakeEncoder::poison}, text(12, 2)}, .token_types = {}},
                  bad.done())
          .ok());
  ASSERT_TRUE(held.lane.submit({.texts = {text(3, 3)}, .token_types = {}}, beside.done()).ok());
  ASSERT_TRUE(held.lane.submit({.texts = {text(12, 4)}, .token_types = {}}, later.done()).ok());
  held.gate.open();
  EXPECT_EQ(bad.wait().error().code, ErrorCode::internal);
  EXPECT_FALSE(beside.wait().ok());
  EXPECT_TRUE(later.wait().ok());
  // Tried once more; its third text was dropped, not computed.
  EXPECT_EQ(held.batches.size(), 4u);
}

TEST(EmbeddingLane, ASliceComesToTwentyMilliseconds) {
  TestClock clock;
  std::vector<double> slices;
  DeviceLoop loop(clock.reader());
  Gate gate;
  EmbeddingLane lane(loop,
                     std::make_unique<FakeEncoder>(
                         100000,
                         [&](const EncoderBatch& batch) {
                           gate.wait();
                           // 40 us a token: 500 tokens in 20 ms; later a machine five times slower.
                           const double cost = slices.size() < 60 ? 40e-6 : 200e-6;
                           slices.push_back(cost * static_cast<double>(batch.tokens.size()));
                           clock.pass(slices.back());
                         }),
                     100000, 1);
  Vectors answer;
  Request request;
  for (int i = 0; i < 5000; ++i) request.texts.push_back(text(10, i));
  ASSERT_TRUE(lane.submit(std::move(request), answer.done()).ok());
  gate.open();
  ASSERT_TRUE(answer.wait().ok());
  ASSERT_GT(slices.size(), 100u);
  EXPECT_LE(slices[0], 0.003);  // small before anything is known
  for (size_t i = 10; i < 60; ++i) EXPECT_NEAR(slices[i], 0.020, 0.002);
  for (size_t i = 70; i + 1 < slices.size(); ++i) EXPECT_NEAR(slices[i], 0.020, 0.004);
}

TEST(EmbeddingLane, DestroyingALaneEndsEverything) {
  DeviceLoop loop;
  std::vector<Vectors> answers(20);
  {
    EmbeddingLane lane(
        loop,
        std::make_unique<FakeEncoder>(
            64,
            [](const EncoderBatch&) { std::this_thread::sleep_for(std::chrono::milliseconds(2)); }),
        100, 1);
    for (auto& answer : answers)
      ASSERT_TRUE(lane.submit({.texts = {text(40, 1)}, .token_types = {}}, answer.done()).ok());
  }
  int cancelled = 0;
  for (auto& answer : answers) {
    ASSERT_TRUE(answer.answered());
    cancelled += !answer.wait().ok();
  }
  EXPECT_GT(cancelled, 10);
}

TEST(EmbeddingLane, AStormOfSubmitsAndCancelsAgainstDestruction) {
  for (int round = 0; round < 12; ++round) {
    auto loop = std::make_unique<DeviceLoop>();
    auto lane = std::make_unique<EmbeddingLane>(*loop, std::make_unique<FakeEncoder>(128), 200, 1);
    std::atomic<int> accepted = 0, answered = 0;
    std::vector<std::thread> threads;
    for (int t = 0; t < 4; ++t) {
      threads.emplace_back([&, t] {
        std::mt19937 random(round * 10 + t);
        for (int i = 0; i < 80; ++i) {
          Request request;
          for (unsigned n = 1 + random() % 4; n > 0; --n)
            request.texts.push_back(text(1 + random() % 100, i));
          if (random() % 10 == 0) request.texts[0][0] = FakeEncoder::poison;
          // A quarter submits another from its callback.
          const bool chain = random() % 4 == 0;
          const auto id = lane->submit(std::move(request), [&, chain](auto) {
            if (chain &&
                lane->submit({.texts = {{1}}, .token_types = {}}, [&](auto) { ++answered; }).ok())
              ++accepted;
            ++answered;
          });
          if (!id.ok()) continue;
          ++accepted;
          if (random() % 3 == 0) lane->cancel(*id);
        }
      });
    }
    for (auto& thread : threads) thread.join();
    if (round % 2) loop.reset();
    // Not reset(): the callbacks use the pointer until the destructor has returned.
    lane.get_deleter()(lane.get());
    lane.release();
    EXPECT_EQ(accepted.load(), answered.load());
  }
}

}  // namespace
}  // namespace impetus

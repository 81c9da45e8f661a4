#include <random>

#include <gtest/gtest.h>

#include "engine/runner.h"
#include "tests/simulation/runner_fakes.h"

namespace impetus {
namespace {

using namespace simulation;

std::unique_ptr<HookedModel> model(HookedModel::Hook hook = {}, int32_t blocks = 256) {
  return std::make_unique<HookedModel>(blocks, 4, 64, std::move(hook));
}
void slowly(std::span<const SequenceStep>) {
  std::this_thread::sleep_for(std::chrono::microseconds(200));
}

TEST(GenerationLane, AnswersAsAlone) {
  DeviceLoop loop;
  GenerationLane lane(loop, model(), {}, 1);
  std::vector<std::shared_ptr<Recorder>> sinks;
  for (int i = 0; i < 40; ++i) {
    sinks.push_back(std::make_shared<Recorder>());
    ASSERT_TRUE(lane.submit(generation({1, 2, 3, 4, i % 5}, 20, i), sinks.back()).ok());
  }
  for (int i = 0; i < 40; ++i) {
    EXPECT_EQ(sinks[i]->wait(), FinishReason::length);
    EXPECT_EQ(sinks[i]->tokens(),
              alone(std::vector<TokenId>{1, 2, 3, 4, i % 5}, i, 20, {}, 1000).answer);
    EXPECT_EQ(sinks[i]->usage().prompt_tokens, 5);
    EXPECT_EQ(sinks[i]->usage().answer_tokens, 20);
  }
  EXPECT_EQ(sinks[39]->usage().cached_tokens, 4);
  EXPECT_EQ(lane.capacity(), 1024);
  EXPECT_GT(lane.busy_seconds(), 0);
  EXPECT_GE(loop.busy_seconds(), lane.busy_seconds());
}

TEST(GenerationLane, TheSinkSaysEnough) {
  DeviceLoop loop;
  GenerationLane lane(loop, model(), {}, 1);
  for (const int64_t tokens_max : {100, 7}) {  // in the midst, and at the very last token
    auto sink = std::make_shared<Recorder>();
    sink->verdict = [](size_t count) { return count < 7; };
    ASSERT_TRUE(lane.submit(generation({1}, tokens_max), sink).ok());
    EXPECT_EQ(sink->wait(), FinishReason::stop);
    EXPECT_EQ(sink->tokens().size(), 7u);
  }
}

TEST(GenerationLane, CancelEndsWithinAStep) {
  DeviceLoop loop;
  GenerationLane lane(loop, model(slowly), {}, 1);
  auto sink = std::make_shared<Recorder>();
  const auto id = lane.submit(generation({1}, 900), sink);
  while (sink->count() < 3) std::this_thread::yield();
  lane.cancel(*id);
  EXPECT_EQ(sink->wait(), FinishReason::cancelled);
  EXPECT_EQ(lane.counts().blocks_used, 0);
  lane.cancel(*id);
}

TEST(GenerationLane, AFailedStepIsToldAndTheLaneGoesOn) {
  struct Failing final : Executor {
    SimulatedModel model{64, 4, 64};
    const BackendDescriptor& descriptor() const override { return model.descriptor(); }
    const KvStorage& kv() const override { return model.kv(); }
    KvStorage& kv() override { return model.kv(); }
    int64_t step_tokens_max() const override { return 64; }
    Result<std::vector<SequenceResult>> execute(std::span<const SequenceStep> batch) override {
      model.fail_next = model.steps == 2;
      return model.execute(batch);
    }
  };
  DeviceLoop loop;
  GenerationLane lane(loop, std::make_unique<Failing>(), {}, 1);
  auto first = std::make_shared<Recorder>(), second = std::make_shared<Recorder>();
  ASSERT_TRUE(lane.submit(generation({1}, 20), first).ok());
  EXPECT_EQ(first->wait(), FinishReason::error);
  EXPECT_EQ(first->error().code, ErrorCode::unavailable);
  ASSERT_TRUE(lane.submit(generation({1}, 20), second).ok());
  EXPECT_EQ(second->wait(), FinishReason::length);
}

TEST(GenerationLane, ASinkMaySubmitAndCancel) {
  DeviceLoop loop;
  GenerationLane lane(loop, model(), {}, 1);
  auto last = std::make_shared<Recorder>();
  auto other = std::make_shared<Recorder>();
  auto first = std::make_shared<Recorder>();
  const auto id = lane.submit(generation({2}, 900), other);
  first->verdict = [&](size_t count) {
    if (count == 2) lane.cancel(*id);
    return true;
  };
  first->at_end = [&](FinishReason) { EXPECT_TRUE(lane.submit(generation({3}, 5), last).ok()); };
  ASSERT_TRUE(lane.submit(generation({1}, 5), first).ok());
  first->wait();
  EXPECT_EQ(last->wait(), FinishReason::length);
  EXPECT_EQ(other->wait(), FinishReason::cancelled);
}

TEST(GenerationLane, DestroyingALaneEndsEverything) {
  DeviceLoop loop;
  std::vector<std::shared_ptr<Recorder>> sinks;
  auto lane =
      std::make_unique<GenerationLane>(loop, model(slowly), SchedulerLimits{.running_max = 4}, 1);
  for (int i = 0; i < 10; ++i) {
    sinks.push_back(std::make_shared<Recorder>());
    ASSERT_TRUE(lane->submit(generation({i}, 900), sinks.back()).ok());
  }
  // A sink that submits at its end meets a lane that is closed.
  sinks[0]->at_end = [lane = lane.get()](FinishReason) {
    EXPECT_EQ(lane->submit(generation({1}, 5), nullptr).error().code, ErrorCode::unavailable);
  };
  while (sinks[0]->count() < 2) std::this_thread::yield();
  lane.reset();
  for (const auto& sink : sinks) {
    ASSERT_TRUE(sink->ended());
    EXPECT_EQ(sink->wait(), FinishReason::cancelled);
    EXPECT_EQ(sink.use_count(), 1);
  }
}

TEST(GenerationLane, ALaneDestroyedByItsOwnSinkEndsTheRest) {
  DeviceLoop loop;
  auto lane = std::make_unique<GenerationLane>(loop, model(slowly), SchedulerLimits{}, 1);
  auto destroyer = std::make_shared<Recorder>(), other = std::make_shared<Recorder>();
  Gate submitted;
  destroyer->verdict = [&](size_t count) {
    submitted.wait();
    if (count == 3) lane.reset();
    return true;
  };
  ASSERT_TRUE(lane->submit(generation({1}, 900), other).ok());
  ASSERT_TRUE(lane->submit(generation({2}, 900), destroyer).ok());
  submitted.open();
  EXPECT_EQ(destroyer->wait(), FinishReason::cancelled);
  EXPECT_EQ(other->wait(), FinishReason::cancelled);
}

TEST(GenerationLane, ALoopThatGoesFirstEndsItsLanes) {
  auto loop = std::make_unique<DeviceLoop>();
  GenerationLane lane(*loop, model(slowly), {}, 1);
  auto sink = std::make_shared<Recorder>();
  ASSERT_TRUE(lane.submit(generation({1}, 900), sink).ok());
  while (sink->count() < 2) std::this_thread::yield();
  loop.reset();
  EXPECT_TRUE(sink->ended());
  EXPECT_EQ(sink->wait(), FinishReason::cancelled);
  EXPECT_EQ(lane.submit(generation({1}, 5), sink).error().code, ErrorCode::unavailable);
  SequenceStep step;
  const std::vector<TokenId> tokens{1};
  step.tokens = tokens;
  EXPECT_EQ(lane.run_exclusive({&step, 1}).error().code, ErrorCode::unavailable);
}

TEST(GenerationLane, RunsTheExecutorByHandBetweenSteps) {
  DeviceLoop loop;
  GenerationLane lane(loop, model(), {}, 1);
  auto sink = std::make_shared<Recorder>();
  ASSERT_TRUE(lane.submit(generation({1, 2, 3}, 600), sink).ok());
  // Three chunks of at most 64 each, every position's logits in order, twice in one batch.
  std::vector<TokenId> tokens(150);
  for (int i = 0; i < 150; ++i) tokens[i] = i % 11;
  std::vector<SequenceStep> steps(3);
  for (auto& step : steps) step.tokens = tokens;
  steps[0].output = steps[1].output = StepOutput::logits_all;
  steps[2].output = StepOutput::logits_last;
  for (int round = 0; round < 20; ++round) {
    const auto results = lane.run_exclusive(steps);
    ASSERT_TRUE(results.ok());
    ASSERT_EQ(results->size(), 3u);
    EXPECT_EQ((*results)[1].logits, std::vector<float>(tokens.begin(), tokens.end()));
    EXPECT_EQ((*results)[2].logits, std::vector<float>{static_cast<float>(tokens.back())});
  }
  EXPECT_EQ(sink->wait(), FinishReason::length);
  EXPECT_EQ(sink->tokens(), alone(std::vector<TokenId>{1, 2, 3}, 1, 600, {}, 10000).answer);
  EXPECT_EQ(lane.counts().blocks_used, 0);

  const BlockId block = 0;
  steps[0].blocks = {&block, 1};
  EXPECT_EQ(lane.run_exclusive(steps).error().code, ErrorCode::invalid_argument);
  const std::vector<TokenId> many(1025, 1);
  SequenceStep large;
  large.tokens = many;
  EXPECT_EQ(lane.run_exclusive({&large, 1}).error().code, ErrorCode::context_length);
}

TEST(GenerationLane, RunByHandFromACallbackIsRefused) {
  DeviceLoop loop;
  GenerationLane lane(loop, model(), {}, 1);
  auto sink = std::make_shared<Recorder>();
  sink->verdict = [&](size_t) {
    EXPECT_EQ(lane.run_exclusive({}).error().code, ErrorCode::internal);
    return true;
  };
  ASSERT_TRUE(lane.submit(generation({1}, 2), sink).ok());
  sink->wait();
}

TEST(GenerationLane, AStormOfSubmitsAndCancelsAgainstDestruction) {
  for (int round = 0; round < 12; ++round) {
    DeviceLoop loop;
    auto lane = std::make_unique<GenerationLane>(
        loop, model({}, 32), SchedulerLimits{.running_max = 6, .waiting_max = 20}, 1);
    std::mutex mutex;
    std::vector<std::shared_ptr<Recorder>> accepted;
    std::vector<std::thread> threads;
    for (int t = 0; t < 4; ++t) {
      threads.emplace_back([&, t] {
        std::mt19937 random(round * 10 + t);
        for (int i = 0; i < 60; ++i) {
          auto sink = std::make_shared<Recorder>();
          const auto stop_at = random() % 30;
          sink->verdict = [stop_at](size_t count) { return count < stop_at; };
          const auto id = lane->submit(
              generation({1, 2, 3, 4, 5, static_cast<TokenId>(random() % 3)}, 1 + random() % 60, i),
              sink);
          if (!id.ok()) {
            EXPECT_EQ(id.error().code, ErrorCode::overloaded);
            std::this_thread::yield();
            continue;
          }
          if (random() % 3 == 0) lane->cancel(*id);
          lane->counts();
          const std::lock_guard lock(mutex);
          accepted.push_back(std::move(sink));
        }
      });
    }
    for (auto& thread : threads) thread.join();
    lane.reset();  // with work left
    EXPECT_FALSE(accepted.empty());
    for (const auto& sink : accepted) {
      EXPECT_TRUE(sink->ended());
      EXPECT_EQ(sink.use_count(), 1);
    }
  }
}

}  // namespace
}  // namespace impetus

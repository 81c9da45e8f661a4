// Processors that throw, run out of memory, are lost or hang, under lanes that go on: nothing that
// was told is told twice, and every answer is that of a right engine.
#include "engine/guard.h"

#include <chrono>
#include <future>
#include <random>

#include <gtest/gtest.h>

#include "backend/fake.h"
#include "engine/runner.h"
#include "engine/split_executor.h"
#include "tests/simulation/runner_fakes.h"

namespace impetus {
namespace {

using simulation::Recorder;
using Kind = FaultPlan::Kind;
using namespace std::chrono_literals;

constexpr double kStepSeconds = 0.02;  // the limit is 20 times that: nothing is expected of fakes

// Processors one below the other, each on a loop of its own, with whoever moves lanes down.
class Ladder {
 public:
  explicit Ladder(size_t rungs, FakeOptions options = {}) : options_(options) {
    for (size_t i = 0; i < rungs; ++i) {
      plans.push_back(std::make_shared<FaultPlan>());
      loops.push_back(std::make_unique<DeviceLoop>());
    }
  }
  ~Ladder() {
    chat.reset();
    embed.reset();
    for (const auto& plan : plans) plan->release();
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
      changed_.notify_all();
    }
    if (mover_.joinable()) mover_.join();
  }
  FakeOptions at(size_t rung) const {
    FakeOptions made = options_;
    made.name = "rung-" + std::to_string(rung);
    made.faults = plans[rung];
    return made;
  }
  LaneGuard guard() {
    LaneGuard guard;
    guard.step_seconds = kStepSeconds;
    guard.on_failure = [this](const DeviceFailure& failure) -> Result<void> {
      const std::lock_guard lock(mutex_);
      failures.push_back(failure);
      if (rung_ + 1 >= plans.size()) return failure.error;
      ++wanted_;
      changed_.notify_all();
      return {};
    };
    return guard;
  }
  void start_chat(SchedulerLimits limits = {}) {
    limits_ = limits;
    chat = std::make_unique<GenerationLane>(*loops[0], std::make_shared<FakeExecutor>(at(0)),
                                            limits, 1, guard());
    mover_ = std::thread([this] { move(); });
  }
  void start_embed() {
    embed = std::make_unique<EmbeddingLane>(*loops[0], std::make_shared<FakeEncoder>(at(0)), 1000,
                                            1, guard());
    mover_ = std::thread([this] { move(); });
  }
  size_t rung() {
    const std::lock_guard lock(mutex_);
    return rung_;
  }

  std::vector<std::shared_ptr<FaultPlan>> plans;
  std::vector<std::unique_ptr<DeviceLoop>> loops;
  std::unique_ptr<GenerationLane> chat;
  std::unique_ptr<EmbeddingLane> embed;
  std::vector<DeviceFailure> failures;  // once all is quiet

 private:
  void move() {
    std::unique_lock lock(mutex_);
    for (;;) {
      changed_.wait(lock, [this] { return stopping_ || wanted_ > 0; });
      if (stopping_) return;
      --wanted_;
      const size_t next = ++rung_;
      const DeviceFailure failure = failures.back();
      lock.unlock();
      const bool hangs = failure.kind == DeviceFailure::Kind::hangs;
      if (chat) {
        if (failure.kind != DeviceFailure::Kind::memory) chat->evict(hangs);
        (void)chat->rehome(*loops[next], std::make_shared<FakeExecutor>(at(next)), limits_);
      } else {
        if (failure.kind != DeviceFailure::Kind::memory) embed->evict(hangs);
        (void)embed->rehome(*loops[next], std::make_shared<FakeEncoder>(at(next)));
      }
      lock.lock();
    }
  }

  FakeOptions options_;
  SchedulerLimits limits_;
  std::mutex mutex_;
  std::condition_variable changed_;
  int wanted_ = 0;
  size_t rung_ = 0;
  bool stopping_ = false;
  std::thread mover_;
};

struct Asked {
  SequenceRequest request;
  std::shared_ptr<Recorder> sink = std::make_shared<Recorder>();
};

SequenceRequest some_request(std::mt19937_64& random) {
  SequenceRequest request;
  request.prompt.resize(1 + random() % 60);
  for (TokenId& token : request.prompt) token = static_cast<TokenId>(random() % 5);
  request.tokens_max = static_cast<int64_t>(1 + random() % 40);
  request.sampling.temperature = random() % 2 ? 1.0f : 0.0f;
  request.sampling.seed = random();
  return request;
}

std::vector<TokenId> right(const SequenceRequest& request) {
  return fake_answer(request.prompt, request.sampling, request.tokens_max, FakeOptions{}.vocab);
}

std::vector<Asked> ask(GenerationLane& lane, std::mt19937_64& random, int count) {
  std::vector<Asked> all(static_cast<size_t>(count));
  for (Asked& one : all) {
    one.request = some_request(random);
    EXPECT_TRUE(lane.submit(one.request, one.sink).ok());
  }
  return all;
}

void expect_right(std::vector<Asked>& all) {
  for (Asked& one : all) {
    EXPECT_EQ(one.sink->wait(), FinishReason::length) << one.sink->error().message;
    EXPECT_EQ(one.sink->tokens(), right(one.request));
  }
}

std::vector<std::string> names(const std::vector<const BackendDescriptor*>& list) {
  std::vector<std::string> all;
  for (const BackendDescriptor* one : list) all.push_back(one->backend);
  return all;
}

// Those that a request may be the cause of.
bool may_be_the_requests(Kind kind) {
  return kind == Kind::error || kind == Kind::exception || kind == Kind::odd;
}

std::string name_of(const ::testing::TestParamInfo<Kind>& info) {
  static constexpr const char* names[] = {"Error",    "Memory", "Lost", "Exception",
                                          "BadAlloc", "Odd",    "Hang"};
  return names[static_cast<size_t>(info.param)];
}

class EveryFault : public ::testing::TestWithParam<Kind> {};
class TheDevicesFault : public ::testing::TestWithParam<Kind> {};
class MaybeTheRequests : public ::testing::TestWithParam<Kind> {};

// The first that meets it meets it twice, and ends; the third time it is the processor's.
TEST_P(MaybeTheRequests, ThreeInARowLoseTheProcessor) {
  std::mt19937_64 random(4);
  Ladder ladder(2);
  ladder.plans[0]->at(7, GetParam(), /*lasting=*/true);
  ladder.start_chat({.running_max = 1});
  Asked first{some_request(random)}, second{some_request(random)};
  first.request.tokens_max = 30;
  ASSERT_TRUE(ladder.chat->submit(first.request, first.sink).ok());
  ASSERT_TRUE(ladder.chat->submit(second.request, second.sink).ok());
  EXPECT_EQ(first.sink->wait(), FinishReason::error);
  EXPECT_NE(first.sink->error().message.find("rung-0"), std::string::npos);
  EXPECT_EQ(second.sink->wait(), FinishReason::length) << second.sink->error().message;
  EXPECT_EQ(second.sink->tokens(), right(second.request));
  EXPECT_EQ(names(second.sink->usage().ran_on.prefill), (std::vector<std::string>{"rung-1"}));
  ASSERT_EQ(ladder.failures.size(), 1u);
  EXPECT_EQ(ladder.failures[0].kind, DeviceFailure::Kind::lost);
}

// One request is under way when its processor fails for good: the next goes on with its answer.
TEST_P(TheDevicesFault, TheNextProcessorGoesOnWithTheAnswer) {
  std::mt19937_64 random(5);
  Ladder ladder(2);
  ladder.plans[0]->at(7, GetParam(), /*lasting=*/true);
  ladder.start_chat();
  Asked one{some_request(random)};
  one.request.tokens_max = 30;
  ASSERT_TRUE(ladder.chat->submit(one.request, one.sink).ok());
  EXPECT_EQ(one.sink->wait(), FinishReason::length) << one.sink->error().message;
  EXPECT_EQ(one.sink->tokens(), right(one.request));
  EXPECT_EQ(names(one.sink->usage().ran_on.prefill),
            (std::vector<std::string>{"rung-0", "rung-1"}));
  EXPECT_EQ(names(one.sink->usage().ran_on.decode), (std::vector<std::string>{"rung-0", "rung-1"}));
  EXPECT_EQ(ladder.chat->counts().moved, 1);
  std::vector<Asked> more = ask(*ladder.chat, random, 5);
  expect_right(more);
  EXPECT_EQ(names(more[0].sink->usage().ran_on.prefill), (std::vector<std::string>{"rung-1"}));
  ASSERT_GE(ladder.failures.size(), 1u);
  EXPECT_EQ(ladder.failures[0].backend, "rung-0");
  EXPECT_EQ(ladder.failures[0].kind, GetParam() == Kind::hang ? DeviceFailure::Kind::hangs
                                     : GetParam() == Kind::memory || GetParam() == Kind::bad_alloc
                                         ? DeviceFailure::Kind::memory
                                         : DeviceFailure::Kind::lost);
  EXPECT_NE(ladder.failures[0].error.message.find("rung-0"), std::string::npos);
}

// Where there is no other, it ends with an error that names the processor, and nothing else does.
TEST_P(EveryFault, WithoutAnotherTheErrorNamesTheProcessor) {
  std::mt19937_64 random(6);
  Ladder ladder(1);
  ladder.plans[0]->at(7, GetParam(), true);
  ladder.start_chat();
  Asked one{some_request(random)};
  one.request.tokens_max = 30;
  ASSERT_TRUE(ladder.chat->submit(one.request, one.sink).ok());
  EXPECT_EQ(one.sink->wait(), FinishReason::error);
  EXPECT_NE(one.sink->error().message.find("rung-0"), std::string::npos)
      << one.sink->error().message;
  const auto so_far = right(one.request);
  ASSERT_LT(one.sink->tokens().size(), so_far.size());
  EXPECT_TRUE(
      std::ranges::equal(one.sink->tokens(), std::span(so_far).first(one.sink->tokens().size())));
  ladder.plans[0]->clear();
  if (GetParam() == Kind::hang) {
    const auto refused = ladder.chat->submit(some_request(random), std::make_shared<Recorder>());
    ASSERT_FALSE(refused.ok());
    EXPECT_EQ(refused.error().code, ErrorCode::unavailable);
    EXPECT_NE(refused.error().message.find("rung-0"), std::string::npos);
  } else {  // what passed is over
    auto more = ask(*ladder.chat, random, 3);
    expect_right(more);
  }
}

TEST_P(EveryFault, TextsAreEmbeddedByTheNext) {
  std::mt19937_64 random(7);
  Ladder ladder(2);
  ladder.plans[0]->at(3, GetParam(), true);
  ladder.start_embed();
  std::vector<EmbeddingLane::Request> requests(40);
  std::vector<std::promise<Result<EmbeddingLane::Answer>>> answers(requests.size());
  for (size_t i = 0; i < requests.size(); ++i) {
    requests[i].texts.resize(1 + random() % 4);
    for (auto& text : requests[i].texts) {
      text.resize(1 + random() % 20);
      for (TokenId& token : text) token = static_cast<TokenId>(random() % 90);
    }
    ASSERT_TRUE(
        ladder.embed
            ->submit(requests[i],
                     [&answers, i](auto answer) { answers[i].set_value(std::move(answer)); })
            .ok());
  }
  size_t failed = 0;
  for (size_t i = 0; i < requests.size(); ++i) {
    const auto answer = answers[i].get_future().get();
    if (!answer.ok() && may_be_the_requests(GetParam())) {
      EXPECT_NE(answer.error().message.find("rung-0"), std::string::npos);
      ++failed;
      continue;
    }
    ASSERT_TRUE(answer.ok()) << answer.error().message;
    for (size_t t = 0; t < requests[i].texts.size(); ++t) {
      EXPECT_EQ(answer->vectors[t], fake_embedding(requests[i].texts[t], FakeOptions{}.dimension));
    }
  }
  EXPECT_EQ(failed > 0, may_be_the_requests(GetParam()));
  EXPECT_LT(failed, requests.size() / 2);
  EXPECT_GT(ladder.embed->counts().moved, 0);
  EXPECT_EQ(ladder.rung(), 1u);
}

TEST_P(EveryFault, TextsWithoutAnotherEndWithItsName) {
  Ladder ladder(1);
  ladder.plans[0]->at(0, GetParam(), true);
  ladder.start_embed();
  std::promise<Result<EmbeddingLane::Answer>> answer;
  ASSERT_TRUE(ladder.embed
                  ->submit({.texts = {{1, 2, 3}}, .token_types = {}},
                           [&](auto given) { answer.set_value(std::move(given)); })
                  .ok());
  const auto given = answer.get_future().get();
  ASSERT_FALSE(given.ok());
  EXPECT_NE(given.error().message.find("rung-0"), std::string::npos) << given.error().message;
}

INSTANTIATE_TEST_SUITE_P(Guard, EveryFault,
                         ::testing::Values(Kind::error, Kind::memory, Kind::lost, Kind::exception,
                                           Kind::bad_alloc, Kind::odd, Kind::hang),
                         name_of);
INSTANTIATE_TEST_SUITE_P(Guard, TheDevicesFault,
                         ::testing::Values(Kind::memory, Kind::lost, Kind::bad_alloc, Kind::hang),
                         name_of);
INSTANTIATE_TEST_SUITE_P(Guard, MaybeTheRequests,
                         ::testing::Values(Kind::error, Kind::exception, Kind::odd), name_of);

// One fault that passes costs nobody anything, and nothing moves.
TEST(Guard, WhatPassesIsTriedAgain) {
  for (const Kind kind : {Kind::error, Kind::memory, Kind::exception, Kind::bad_alloc, Kind::odd}) {
    std::mt19937_64 random(8);
    Ladder ladder(2);
    ladder.plans[0]->at(4, kind);
    ladder.start_chat();
    auto all = ask(*ladder.chat, random, 12);
    expect_right(all);
    EXPECT_EQ(ladder.rung(), 0u);
    EXPECT_TRUE(ladder.failures.empty());
  }
}

// Steps that are too large for the memory become smaller, and nobody fails.
TEST(Guard, MemoryForFewTokensSuffices) {
  for (const int64_t tokens : {1, 2, 5, 17}) {
    std::mt19937_64 random(9);
    Ladder ladder(2);
    ladder.plans[0]->memory_for(tokens);
    ladder.start_chat();
    auto all = ask(*ladder.chat, random, 12);
    expect_right(all);
    EXPECT_EQ(ladder.rung(), 0u) << tokens;
  }
}

// A request that breaks every step it is in ends alone; those beside it are tried again.
TEST(Guard, WhoMeetsAnErrorTwiceEndsWithIt) {
  DeviceLoop loop;
  auto executor = std::make_shared<FakeExecutor>(FakeOptions{});
  executor->on_step([](std::span<const SequenceStep> batch) {
    for (const SequenceStep& step : batch) {
      if (step.tokens.front() == 66) throw std::runtime_error("poison (planted)");
    }
  });
  GenerationLane lane(loop, executor, {.running_max = 1}, 1, {});
  std::mt19937_64 random(10);
  auto before = ask(lane, random, 2);
  Asked poison{some_request(random)};
  poison.request.prompt = {66, 1};
  ASSERT_TRUE(lane.submit(poison.request, poison.sink).ok());
  auto after = ask(lane, random, 2);
  EXPECT_EQ(poison.sink->wait(), FinishReason::error);
  EXPECT_NE(poison.sink->error().message.find("poison"), std::string::npos);
  expect_right(before);
  expect_right(after);
}

// While one device hangs another's lanes, and other lanes of the same loop, run on.
TEST(Guard, AHangDisturbsNobodyElse) {
  std::mt19937_64 random(11);
  Ladder ladder(2);
  ladder.plans[0]->at(0, Kind::hang);
  ladder.start_chat();
  GenerationLane beside(*ladder.loops[0], std::make_shared<FakeExecutor>(FakeOptions{}), {}, 1);
  auto stuck = ask(*ladder.chat, random, 1);
  while (ladder.plans[0]->hanging() == 0) std::this_thread::yield();
  auto others = ask(beside, random, 4);
  expect_right(others);
  expect_right(stuck);
  EXPECT_EQ(ladder.plans[0]->hanging(), 1);
}

// The step that hung ends after all, in the middle of a step of its sequences elsewhere.
TEST(Guard, AStepThatComesBackTooLateIsIgnored) {
  std::mt19937_64 random(12);
  Ladder ladder(3);
  ladder.plans[0]->at(2, Kind::hang);
  ladder.plans[1]->at(2, Kind::hang);
  ladder.start_chat();
  auto all = ask(*ladder.chat, random, 8);
  while (ladder.plans[1]->hanging() == 0) std::this_thread::yield();
  ladder.plans[0]->release();
  while (ladder.plans[0]->hanging() > 0) std::this_thread::yield();
  std::this_thread::sleep_for(20ms);
  ladder.plans[1]->release();
  expect_right(all);
  auto more = ask(*ladder.chat, random, 8);
  expect_right(more);
}

TEST(Guard, RequestsWaitOrLeaveWhileAnotherIsSought) {
  std::mt19937_64 random(13);
  const auto plan = std::make_shared<FaultPlan>();
  plan->at(3, Kind::lost, true);
  FakeOptions options;
  options.faults = plan;
  DeviceLoop first, second;
  std::promise<void> asked;
  LaneGuard guard;
  guard.on_failure = [&](const DeviceFailure&) -> Result<void> {
    asked.set_value();
    return {};
  };
  GenerationLane lane(first, std::make_shared<FakeExecutor>(options), {}, 1, guard);
  Asked begun{some_request(random)}, leaves{some_request(random)};
  begun.request.tokens_max = leaves.request.tokens_max = 20;
  ASSERT_TRUE(lane.submit(begun.request, begun.sink).ok());
  const auto id = lane.submit(leaves.request, leaves.sink);
  asked.get_future().wait();
  auto late = ask(lane, random, 3);
  while (!lane.waits()) std::this_thread::yield();
  lane.cancel(*id);
  EXPECT_EQ(leaves.sink->wait(), FinishReason::cancelled);
  EXPECT_FALSE(begun.sink->ended());
  EXPECT_FALSE(late[0].sink->ended());
  lane.evict(false);
  ASSERT_TRUE(lane.rehome(second, std::make_shared<FakeExecutor>(FakeOptions{}), {}).ok());
  EXPECT_EQ(begun.sink->wait(), FinishReason::length);
  EXPECT_EQ(begun.sink->tokens(), right(begun.request));
  expect_right(late);
}

TEST(Guard, WhatIsTooLongForTheNextEndsAsThat) {
  const auto plan = std::make_shared<FaultPlan>();
  plan->at(3, Kind::lost, true);
  FakeOptions options, small;
  options.faults = plan;
  small.blocks = 2;
  DeviceLoop loop;
  std::promise<void> asked;
  LaneGuard guard;
  guard.on_failure = [&](const DeviceFailure&) -> Result<void> {
    asked.set_value();
    return {};
  };
  GenerationLane lane(loop, std::make_shared<FakeExecutor>(options), {}, 1, guard);
  auto longer = std::make_shared<Recorder>(), fits = std::make_shared<Recorder>();
  ASSERT_TRUE(lane.submit(simulation::generation(std::vector<TokenId>(40, 1), 20), longer).ok());
  ASSERT_TRUE(lane.submit(simulation::generation({1, 2}, 10), fits).ok());
  asked.get_future().wait();
  lane.evict(false);
  ASSERT_TRUE(lane.rehome(loop, std::make_shared<FakeExecutor>(small), {}).ok());
  EXPECT_EQ(longer->wait(), FinishReason::error);
  EXPECT_EQ(longer->error().code, ErrorCode::context_length);
  EXPECT_EQ(fits->wait(), FinishReason::length);
  EXPECT_EQ(lane.capacity(), 32);
}

// Closing while a step hangs waits no longer than that step may take.
TEST(Guard, ALaneWhoseStepHangsCanBeClosed) {
  const auto plan = std::make_shared<FaultPlan>();
  plan->at(1, Kind::hang);
  FakeOptions options;
  options.faults = plan;
  auto sink = std::make_shared<Recorder>();
  {
    DeviceLoop loop;
    LaneGuard guard;
    guard.step_seconds = kStepSeconds;
    GenerationLane lane(loop, std::make_shared<FakeExecutor>(options), {}, 1, guard);
    ASSERT_TRUE(lane.submit(simulation::generation({1, 2}, 10), sink).ok());
    while (plan->hanging() == 0) std::this_thread::yield();
  }
  EXPECT_NE(sink->wait(), FinishReason::length);
  plan->release();
  while (plan->hanging() > 0) std::this_thread::yield();
}

TEST(Guard, ARunByHandThatHangsIsToldSo) {
  const auto plan = std::make_shared<FaultPlan>();
  plan->at(0, Kind::hang);
  FakeOptions options;
  options.faults = plan;
  DeviceLoop loop;
  LaneGuard guard;
  guard.step_seconds = kStepSeconds;
  GenerationLane lane(loop, std::make_shared<FakeExecutor>(options), {}, 1, guard);
  {
    const std::vector<TokenId> tokens{1, 2, 3};
    SequenceStep step;
    step.tokens = tokens;
    step.output = StepOutput::logits_last;
    EXPECT_EQ(lane.run_exclusive({&step, 1}).error().code, ErrorCode::unavailable);
  }
  plan->release();  // it reads its tokens now
  while (plan->hanging() > 0) std::this_thread::yield();
}

// Random requests and cancels over three processors with random faults; the last is sound.
TEST(Guard, SeededSchedulesLoseAndRepeatNothing) {
  int64_t moved = 0;
  size_t hangs = 0;
  for (uint64_t seed = 1; seed <= 40; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937_64 random(seed);
    FakeOptions options;
    options.blocks = static_cast<int32_t>(8 + random() % 40);
    options.block_tokens = random() % 2 ? 4 : 16;
    options.step_tokens_max = static_cast<int64_t>(8 + random() % 60);
    if (options.blocks * options.block_tokens < 110)
      options.blocks = 110 / options.block_tokens + 1;
    Ladder ladder(3, options);
    // One that may be a sequence's fault: the second in a row would end it, and rightly.
    const Kind passing[] = {Kind::error, Kind::exception, Kind::odd};
    ladder.plans[0]->at(static_cast<int64_t>(random() % 30), passing[random() % 3]);
    for (size_t rung = 0; rung < 3; ++rung) {
      if (random() % 2) ladder.plans[rung]->at(static_cast<int64_t>(random() % 20), Kind::memory);
      if (random() % 3 == 0) {
        ladder.plans[rung]->memory_for(static_cast<int64_t>(1 + random() % 20));
      }
      const Kind ends[] = {Kind::lost, Kind::hang, Kind::memory};
      if (rung < 2 && random() % 4) {
        ladder.plans[rung]->at(static_cast<int64_t>(random() % 60), ends[random() % 3], true);
      }
    }
    ladder.start_chat({.step_tokens_max = options.step_tokens_max,
                       .running_max = static_cast<int64_t>(1 + random() % 12)});
    std::vector<Asked> all(20);
    std::vector<bool> cancelled(all.size());
    for (size_t i = 0; i < all.size(); ++i) {
      all[i].request = some_request(random);
      const auto id = ladder.chat->submit(all[i].request, all[i].sink);
      ASSERT_TRUE(id.ok());
      if (random() % 8 == 0) {
        cancelled[i] = true;
        std::this_thread::sleep_for(std::chrono::microseconds(random() % 500));
        ladder.chat->cancel(*id);
      }
    }
    for (size_t i = 0; i < all.size(); ++i) {
      const FinishReason reason = all[i].sink->wait();
      const auto whole = right(all[i].request);
      const auto& got = all[i].sink->tokens();
      if (!cancelled[i]) {
        EXPECT_EQ(reason, FinishReason::length) << all[i].sink->error().message;
        EXPECT_EQ(got, whole);
      } else {
        ASSERT_LE(got.size(), whole.size());
        EXPECT_TRUE(std::ranges::equal(got, std::span(whole).first(got.size())));
      }
    }
    EXPECT_EQ(ladder.chat->counts().blocks_used, 0);
    moved += ladder.chat->counts().moved;
    for (const DeviceFailure& one : ladder.failures) {
      hangs += one.kind == DeviceFailure::Kind::hangs;
    }
  }
  EXPECT_GT(moved, 100);
  EXPECT_GT(hangs, 5u);
}

// A pair, one of whose sides fails: who else was in the step goes on, and the error names the side.
TEST(Guard, APairSaysWhichSideFailed) {
  for (const size_t side : {0, 1}) {
    for (const Kind kind : {Kind::lost, Kind::exception, Kind::hang}) {
      std::mt19937_64 random(14);
      FakeOptions sides[2];
      std::shared_ptr<FaultPlan> plans[2];
      for (size_t i = 0; i < 2; ++i) {
        plans[i] = std::make_shared<FaultPlan>();
        sides[i].faults = plans[i];
        sides[i].name = i == 0 ? "prefill" : "decode";
      }
      plans[side]->at(2, kind, true);
      DeviceLoop first, second;
      std::promise<DeviceFailure> asked;
      LaneGuard guard;
      guard.step_seconds = kStepSeconds;
      guard.on_failure = [&](const DeviceFailure& failure) -> Result<void> {
        asked.set_value(failure);
        return {};
      };
      auto pair = SplitExecutor::create(std::make_unique<FakeExecutor>(sides[0]),
                                        std::make_unique<FakeExecutor>(sides[1]));
      ASSERT_TRUE(pair.ok());
      GenerationLane lane(first, std::shared_ptr<Executor>(std::move(*pair)),
                          {.step_tokens_max = 16, .running_max = 8}, 1, guard);
      auto all = ask(lane, random, 10);
      const DeviceFailure failure = asked.get_future().get();
      EXPECT_EQ(failure.backend, sides[side].name);
      lane.evict(kind == Kind::hang);
      ASSERT_TRUE(lane.rehome(second, std::make_shared<FakeExecutor>(FakeOptions{}), {}).ok());
      for (Asked& one : all) {
        if (one.sink->wait() == FinishReason::length) {
          EXPECT_EQ(one.sink->tokens(), right(one.request));
        } else {  // it met the exception twice
          EXPECT_EQ(kind, Kind::exception);
          EXPECT_NE(one.sink->error().message.find(sides[side].name), std::string::npos);
        }
      }
      for (const auto& plan : plans) plan->release();
    }
  }
}

}  // namespace
}  // namespace impetus

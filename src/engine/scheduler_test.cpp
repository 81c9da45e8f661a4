#include "engine/scheduler.h"

#include <algorithm>
#include <chrono>
#include <numeric>

#include <gtest/gtest.h>

#include "tests/simulation/simulated_model.h"

namespace impetus {
namespace {

using simulation::alone;
using simulation::SimulatedModel;
using Kind = SequenceEvent::Kind;

std::vector<TokenId> prompt_of(int64_t tokens, TokenId salt = 0) {
  std::vector<TokenId> prompt(tokens);
  for (int64_t i = 0; i < tokens; ++i) {
    prompt[i] = static_cast<TokenId>(simulation::mix(salt, i) % simulation::vocabulary);
  }
  return prompt;
}

SequenceRequest request_of(std::vector<TokenId> prompt, int64_t tokens_max, uint64_t seed = 1) {
  SequenceRequest request;
  request.prompt = std::move(prompt);
  request.tokens_max = tokens_max;
  request.sampling.seed = seed;
  return request;
}

struct Outcome {
  std::vector<TokenId> tokens;
  int64_t cached = -1;
  std::optional<FinishReason> reason;
  Error error;
};

struct Bench {
  explicit Bench(SchedulerLimits limits, int32_t blocks = 64, int32_t block_tokens = 4)
      : model(blocks, block_tokens, limits.step_tokens_max),
        scheduler(limits, blocks, block_tokens) {}

  void receive(const std::vector<SequenceEvent>& events) {
    for (const SequenceEvent& event : events) {
      Outcome& outcome = outcomes[event.id];
      if (event.kind == Kind::prefilled) outcome.cached = event.cached_tokens;
      if (event.kind == Kind::token) outcome.tokens.push_back(event.token.id);
      if (event.kind == Kind::finished) {
        outcome.reason = event.reason;
        outcome.error = event.error;
      }
    }
  }
  void step() {
    const auto steps = scheduler.plan_step();
    if (steps.empty()) return receive(scheduler.take_events());
    auto results = model.execute(steps);
    EXPECT_EQ(model.violation, "");
    receive(results.ok() ? scheduler.finish_step(*results) : scheduler.fail_step(results.error()));
  }
  void run() {
    while (scheduler.has_work()) step();
  }
  SequenceId submit(SequenceRequest request) {
    const auto id = scheduler.submit(std::move(request));
    EXPECT_TRUE(id.ok());
    return id.ok() ? *id : 0;
  }

  SimulatedModel model;
  Scheduler scheduler;
  std::map<SequenceId, Outcome> outcomes;
};

TEST(Scheduler, RefusesWhatCannotRun) {
  Scheduler scheduler({.waiting_max = 1, .context = 10}, 4, 4);
  EXPECT_EQ(scheduler.submit(request_of({}, 1)).error().code, ErrorCode::invalid_argument);
  EXPECT_EQ(scheduler.submit(request_of({1}, 0)).error().code, ErrorCode::invalid_argument);
  EXPECT_EQ(scheduler.submit(request_of(prompt_of(10), 1)).error().code, ErrorCode::context_length);
  EXPECT_TRUE(scheduler.submit(request_of(prompt_of(9), 1)).ok());
  EXPECT_EQ(scheduler.submit(request_of({1}, 1)).error().code, ErrorCode::overloaded);
  Scheduler small({}, 2, 4);
  EXPECT_EQ(small.submit(request_of(prompt_of(8), 1)).error().code, ErrorCode::context_length);
}

TEST(Scheduler, EndsByLengthAtTokensMaxAndAtTheContext) {
  Bench bench({.context = 12});
  const auto a = bench.submit(request_of(prompt_of(5), 3));
  const auto b = bench.submit(request_of(prompt_of(5, 1), 100));
  bench.run();
  EXPECT_EQ(bench.outcomes[a].tokens.size(), 3u);
  EXPECT_EQ(bench.outcomes[a].reason, FinishReason::length);
  EXPECT_EQ(bench.outcomes[b].tokens.size(), 7u);
  EXPECT_EQ(bench.outcomes[b].reason, FinishReason::length);
}

TEST(Scheduler, AStopTokenIsNotPartOfTheAnswer) {
  const auto prompt = prompt_of(6);
  const auto free = alone(prompt, 1, 20, {}, 1000);
  Bench bench({});
  auto request = request_of(prompt, 20);
  request.stop_tokens = {free.answer[4]};
  const auto first =
      std::find(free.answer.begin(), free.answer.end(), free.answer[4]) - free.answer.begin();
  const auto id = bench.submit(request);
  bench.run();
  EXPECT_EQ(bench.outcomes[id].reason, FinishReason::stop);
  EXPECT_EQ(bench.outcomes[id].tokens,
            std::vector<TokenId>(free.answer.begin(), free.answer.begin() + first));
}

TEST(Scheduler, ChunksPromptsOldestFirstBesideDecoding) {
  Bench bench({.step_tokens_max = 8});
  bench.submit(request_of(prompt_of(4, 1), 10, 1));
  bench.step();  // prefilled: decodes from now on
  bench.submit(request_of(prompt_of(10, 2), 10, 2));
  bench.submit(request_of(prompt_of(10, 3), 10, 3));
  const auto steps = bench.scheduler.plan_step();
  ASSERT_EQ(steps.size(), 2u);
  EXPECT_EQ(steps[0].tokens.size(), 1u);
  EXPECT_EQ(steps[1].tokens.size(), 7u);
  EXPECT_EQ(steps[1].output, StepOutput::none);
  auto results = bench.model.execute(steps);
  bench.receive(bench.scheduler.finish_step(*results));
  const auto next = bench.scheduler.plan_step();
  ASSERT_EQ(next.size(), 3u);
  EXPECT_EQ(next[1].tokens.size(), 3u);
  EXPECT_EQ(next[1].position, 7);
  EXPECT_EQ(next[1].output, StepOutput::sample);
  EXPECT_EQ(next[2].tokens.size(), 4u);
}

TEST(Scheduler, ARepeatedPromptIsFoundButForItsLastBlock) {
  for (const int64_t size : {1, 4, 5, 8, 9, 100}) {
    Bench bench({});
    bench.submit(request_of(prompt_of(size), 1, 1));
    bench.run();
    const auto again = bench.submit(request_of(prompt_of(size), 1, 2));
    bench.run();
    EXPECT_EQ(bench.outcomes[again].cached, (size - 1) / 4 * 4);
    EXPECT_EQ(bench.model.computed[2], size - (size - 1) / 4 * 4);
  }
}

TEST(Scheduler, TheNextTurnFindsItsOwnAnswer) {
  Bench bench({});
  auto conversation = prompt_of(10);
  const auto first = bench.submit(request_of(conversation, 15));
  bench.run();
  const auto& answer = bench.outcomes[first].tokens;
  conversation.insert(conversation.end(), answer.begin(), answer.end());
  // The last token of the answer was never computed: 24 positions stand, six blocks.
  const auto turn = prompt_of(9, 5);
  conversation.insert(conversation.end(), turn.begin(), turn.end());
  const auto second = bench.submit(request_of(conversation, 3));
  bench.run();
  EXPECT_EQ(bench.outcomes[second].cached, 24);
}

TEST(Scheduler, EqualPromptsTogetherAreComputedOnce) {
  Bench bench({.step_tokens_max = 16}, 256);
  constexpr int siblings = 8;
  for (int i = 0; i < siblings; ++i) {
    bench.submit(request_of(prompt_of(101), 5, 100 + i));
  }
  bench.run();
  // One computes all 101 and answers; each other computes the last block's one token.
  EXPECT_EQ(bench.model.computed_total, 101 + (siblings - 1) * 1 + siblings * 4);
  for (const auto& [id, outcome] : bench.outcomes) {
    EXPECT_EQ(outcome.cached, id == 1 ? 0 : 100);
    EXPECT_EQ(outcome.tokens, alone(prompt_of(101), 99 + id, 5, {}, 1000).answer);
  }
}

TEST(Scheduler, ASharedSystemPromptIsComputedOnce) {
  Bench bench({.step_tokens_max = 32}, 512);
  for (int i = 0; i < 10; ++i) {
    auto prompt = prompt_of(80);
    const auto tail = prompt_of(7, 100 + i);
    prompt.insert(prompt.end(), tail.begin(), tail.end());
    bench.submit(request_of(prompt, 1, i));
  }
  bench.run();
  EXPECT_LE(bench.model.computed_total, 80 + 10 * 7);
}

TEST(Scheduler, PreemptedSequencesComeBackWithTheSameTokens) {
  Bench bench({.step_tokens_max = 32}, 16);  // 64 positions for four of up to 45
  for (int i = 0; i < 4; ++i) bench.submit(request_of(prompt_of(5, i), 40, i));
  bench.run();
  EXPECT_GT(bench.scheduler.counts().preemptions, 0);
  for (int i = 0; i < 4; ++i) {
    EXPECT_EQ(bench.outcomes[i + 1].tokens, alone(prompt_of(5, i), i, 40, {}, 64).answer);
  }
  EXPECT_EQ(bench.scheduler.counts().blocks_used, 0);
}

TEST(Scheduler, AFailedStepEndsItsSequencesAloneAndLeavesNothingToFind) {
  Bench bench({.step_tokens_max = 8, .running_max = 1});
  const auto a = bench.submit(request_of(prompt_of(16), 4, 1));
  const auto b = bench.submit(request_of(prompt_of(16), 4, 2));
  bench.step();
  bench.model.fail_next = true;
  bench.step();
  EXPECT_EQ(bench.outcomes[a].reason, FinishReason::error);
  EXPECT_EQ(bench.outcomes[a].error.code, ErrorCode::unavailable);
  bench.run();
  EXPECT_EQ(bench.outcomes[b].reason, FinishReason::length);
  EXPECT_EQ(bench.outcomes[b].cached, 8);  // the first step stood, the failed one did not
  EXPECT_EQ(bench.outcomes[b].tokens, alone(prompt_of(16), 2, 4, {}, 1000).answer);
}

TEST(Scheduler, ANanRowEndsOneSequenceAndItsWholeChainIsForgotten) {
  Bench bench({.step_tokens_max = 8});
  const auto a = bench.submit(request_of(prompt_of(8, 1), 20, 1));
  bench.step();
  const auto b = bench.submit(request_of(prompt_of(4, 2), 20, 2));
  bench.step();
  bench.model.nan_seeds = {1};
  bench.step();
  EXPECT_EQ(bench.outcomes[a].reason, FinishReason::error);
  bench.run();
  EXPECT_EQ(bench.outcomes[b].tokens, alone(prompt_of(4, 2), 2, 20, {}, 1000).answer);
  const auto again = bench.submit(request_of(prompt_of(9, 1), 1, 3));
  bench.run();
  EXPECT_EQ(bench.outcomes[again].cached, 0);
}

TEST(Scheduler, CancelsWaitingRunningAndInFlight) {
  Bench bench({.step_tokens_max = 64, .running_max = 1});
  const auto a = bench.submit(request_of(prompt_of(4), 20));
  const auto b = bench.submit(request_of(prompt_of(4), 20));
  bench.scheduler.cancel(b);
  bench.scheduler.cancel(12345);
  const auto events = bench.scheduler.take_events();
  ASSERT_EQ(events.size(), 1u);
  EXPECT_EQ(events[0].id, b);
  EXPECT_EQ(events[0].reason, FinishReason::cancelled);
  auto results = bench.model.execute(bench.scheduler.plan_step());
  bench.scheduler.cancel(a);
  EXPECT_TRUE(bench.scheduler.take_events().empty());
  const auto last = bench.scheduler.finish_step(*results);
  ASSERT_EQ(last.size(), 1u);  // the token in flight is dropped
  EXPECT_EQ(last[0].reason, FinishReason::cancelled);
  EXPECT_FALSE(bench.scheduler.has_work());
}

TEST(Scheduler, AWrongNumberOfResultsFailsTheStep) {
  Bench bench({});
  bench.submit(request_of(prompt_of(4), 20));
  ASSERT_EQ(bench.scheduler.plan_step().size(), 1u);
  const auto events = bench.scheduler.finish_step({});
  ASSERT_EQ(events.size(), 1u);
  EXPECT_EQ(events[0].reason, FinishReason::error);
}

TEST(Scheduler, LendsBlocksByPreempting) {
  Bench bench({}, 8);
  const auto a = bench.submit(request_of(prompt_of(12), 15));
  bench.step();
  EXPECT_EQ(bench.scheduler.borrow_blocks(33).error().code, ErrorCode::context_length);
  const auto blocks = *bench.scheduler.borrow_blocks(32);
  EXPECT_EQ(blocks.size(), 8u);
  EXPECT_TRUE(bench.scheduler.plan_step().empty());
  bench.scheduler.return_blocks(blocks);
  bench.run();
  EXPECT_EQ(bench.outcomes[a].tokens, alone(prompt_of(12), 1, 15, {}, 32).answer);
}

// A step at 256 sequences of 600 tokens, more waiting behind, costs at most 150 microseconds to
// schedule.
TEST(Scheduler, AStepAt256SequencesIsCheap) {
  Scheduler scheduler({.step_tokens_max = 512, .running_max = 256, .waiting_max = 1000}, 49152, 16);
  for (int i = 0; i < 300; ++i) {
    auto prompt = prompt_of(600, i);
    ASSERT_TRUE(scheduler.submit(request_of(prompt, 2000, i)).ok());
  }
  std::vector<double> micros;
  std::vector<SequenceResult> results;
  for (int step = 0; step < 4000 && micros.size() < 1000; ++step) {
    const auto from = std::chrono::steady_clock::now();
    const auto steps = scheduler.plan_step();
    const auto planned = std::chrono::steady_clock::now();
    const bool full = steps.size() == 256;
    results.clear();
    results.resize(steps.size());
    for (auto& result : results) result.token->id = 3;
    const auto finishing = std::chrono::steady_clock::now();
    const auto events = scheduler.finish_step(results);
    const auto to = std::chrono::steady_clock::now();
    if (!full) continue;
    micros.push_back(std::chrono::duration<double, std::micro>(planned - from).count() +
                     std::chrono::duration<double, std::micro>(to - finishing).count());
  }
  ASSERT_EQ(micros.size(), 1000u);
  std::ranges::sort(micros);
  fmt::print("schedule a step of 256: median {:.1f} us, p99 {:.1f} us\n", micros[500], micros[990]);
#if defined(NDEBUG) && !__has_feature(address_sanitizer) && !__has_feature(thread_sanitizer)
  EXPECT_LE(micros[500], 150);
#endif
}

}  // namespace
}  // namespace impetus

// The pair's book-keeping, step by step; src/engine/simulation_test.cpp has the random schedules.
#include "engine/split_executor.h"

#include <gtest/gtest.h>

#include "backend/fake.h"

namespace impetus {
namespace {

struct Pair {
  FakeExecutor* prefill;
  FakeExecutor* decode;
  std::unique_ptr<SplitExecutor> split;

  explicit Pair(int32_t prefill_blocks = 8, int32_t decode_blocks = 8) {
    auto one = std::make_unique<FakeExecutor>(
        FakeOptions{.blocks = prefill_blocks, .block_tokens = 4, .name = "one"});
    auto other = std::make_unique<FakeExecutor>(
        FakeOptions{.blocks = decode_blocks, .block_tokens = 4, .name = "other"});
    prefill = one.get();
    decode = other.get();
    split = std::move(*SplitExecutor::create(std::move(one), std::move(other)));
  }
};

SequenceStep step_of(std::span<const TokenId> all, int64_t from, int64_t to,
                     std::span<const BlockId> blocks, StepPhase phase) {
  SequenceStep step;
  step.tokens = all.subspan(static_cast<size_t>(from), static_cast<size_t>(to - from));
  step.position = from;
  step.blocks = blocks;
  step.output = StepOutput::logits_last;
  step.phase = phase;
  return step;
}

const std::vector<TokenId> kTokens = {5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16};
const std::vector<BlockId> kBlocks = {3, 1, 6};

std::vector<float> right(int64_t length) {
  return fake_logits(std::span(kTokens).first(static_cast<size_t>(length)), 97);
}

TEST(SplitExecutor, OffersWhatBothHaveAndRefusesStrangers) {
  EXPECT_EQ(Pair(8, 5).split->kv().blocks(), 5);
  EXPECT_EQ(Pair(4, 5).split->kv().blocks(), 4);
  EXPECT_EQ(Pair().split->descriptor().backend, "one+other");
  const auto odd =
      SplitExecutor::create(std::make_unique<FakeExecutor>(FakeOptions{.block_tokens = 4}),
                            std::make_unique<FakeExecutor>(FakeOptions{.block_tokens = 16}));
  ASSERT_FALSE(odd.ok());
  EXPECT_EQ(odd.error().code, ErrorCode::unsupported);
}

TEST(SplitExecutor, CopiesWhatIsMissingAndNothingTwice) {
  Pair pair;
  const auto run = [&](int64_t from, int64_t to, StepPhase phase) {
    const auto step = step_of(kTokens, from, to, kBlocks, phase);
    auto results = pair.split->execute({&step, 1});
    EXPECT_TRUE(results.ok()) << results.error().message;
    if (!results.ok()) return std::string("failed");
    EXPECT_EQ((*results)[0].logits, right(to));
    EXPECT_GE((*results)[0].handoff_seconds, 0);
    return (*results)[0].ran_on->backend;
  };
  EXPECT_EQ(run(0, 6, StepPhase::prefill), "one");
  EXPECT_EQ(pair.split->positions_handed_over(), 0);
  EXPECT_EQ(run(6, 7, StepPhase::decode), "other");
  EXPECT_EQ(pair.split->positions_handed_over(), 6);
  EXPECT_EQ(run(7, 8, StepPhase::decode), "other");
  EXPECT_EQ(run(8, 9, StepPhase::decode), "other");
  EXPECT_EQ(pair.split->positions_handed_over(), 6);
  EXPECT_EQ(run(9, 12, StepPhase::prefill), "one");  // the next turn: 6, 7 and 8 come back
  EXPECT_EQ(pair.split->positions_handed_over(), 9);
  EXPECT_EQ(run(11, 12, StepPhase::decode), "other");  // written again by the other side
  EXPECT_EQ(pair.split->positions_handed_over(), 11);
}

TEST(SplitExecutor, ABlockUsedAgainIsReadAsItIsNow) {
  Pair pair;
  const std::vector<TokenId> others = {50, 51, 52, 53, 54, 55, 56, 57};
  const auto run = [&](std::span<const TokenId> all, int64_t from, int64_t to, StepPhase phase) {
    const auto step = step_of(all, from, to, kBlocks, phase);
    auto results = pair.split->execute({&step, 1});
    EXPECT_TRUE(results.ok()) << results.error().message;
    return results.ok() ? (*results)[0].logits : std::vector<float>{};
  };
  run(kTokens, 0, 7, StepPhase::prefill);
  run(kTokens, 7, 8, StepPhase::decode);  // now both sides have all of it
  run(others, 0, 6, StepPhase::prefill);
  EXPECT_EQ(run(others, 6, 8, StepPhase::decode), fake_logits(others, 97));
  run(kTokens, 0, 5, StepPhase::decode);
  EXPECT_EQ(run(kTokens, 5, 8, StepPhase::prefill), right(8));
}

TEST(SplitExecutor, WhatAFailureOverwroteIsLost) {
  for (const StepPhase phase : {StepPhase::prefill, StepPhase::decode}) {
    Pair pair;
    const auto first = step_of(kTokens, 0, 8, kBlocks, phase);
    ASSERT_TRUE(pair.split->execute({&first, 1}).ok());
    (phase == StepPhase::prefill ? pair.prefill : pair.decode)
        ->fail_next(error(ErrorCode::unavailable, "lost"));
    const auto again = step_of(kTokens, 4, 8, kBlocks, phase);
    ASSERT_FALSE(pair.split->execute({&again, 1}).ok());
    for (const StepPhase reader : {StepPhase::prefill, StepPhase::decode}) {
      const auto after = step_of(kTokens, 8, 9, kBlocks, reader);
      const auto refused = pair.split->execute({&after, 1});
      ASSERT_FALSE(refused.ok());
      EXPECT_EQ(refused.error().code, ErrorCode::invalid_argument);
    }
    ASSERT_TRUE(pair.split->execute({&again, 1}).ok());  // what stood before it still stands
  }
}

TEST(SplitExecutor, AMixedBatchKeepsItsOrder) {
  Pair pair;
  const std::vector<BlockId> other_blocks = {0, 2};
  const auto first = step_of(kTokens, 0, 4, kBlocks, StepPhase::prefill);
  ASSERT_TRUE(pair.split->execute({&first, 1}).ok());
  const std::vector<SequenceStep> batch = {
      step_of(kTokens, 4, 5, kBlocks, StepPhase::decode),
      step_of(kTokens, 0, 7, other_blocks, StepPhase::prefill),
  };
  const auto results = pair.split->execute(batch);
  ASSERT_TRUE(results.ok());
  EXPECT_EQ((*results)[0].logits, right(5));
  EXPECT_EQ((*results)[1].logits, right(7));
  EXPECT_EQ((*results)[0].ran_on, &pair.decode->descriptor());
  EXPECT_EQ((*results)[1].ran_on, &pair.prefill->descriptor());
}

TEST(SplitExecutor, AFailingSideTakesItsOwnSequencesAlone) {
  for (const bool prefill_fails : {true, false}) {
    Pair pair;
    const std::vector<BlockId> other_blocks = {0, 2};
    const auto first = step_of(kTokens, 0, 4, kBlocks, StepPhase::prefill);
    ASSERT_TRUE(pair.split->execute({&first, 1}).ok());
    const std::vector<SequenceStep> batch = {
        step_of(kTokens, 4, 5, kBlocks, StepPhase::decode),
        step_of(kTokens, 0, 7, other_blocks, StepPhase::prefill),
    };
    (prefill_fails ? pair.prefill : pair.decode)->fail_next(error(ErrorCode::unavailable, "lost"));
    const auto results = pair.split->execute(batch);
    ASSERT_TRUE(results.ok());
    const size_t bad = prefill_fails ? 1 : 0;
    ASSERT_FALSE((*results)[bad].token.ok());
    EXPECT_EQ((*results)[bad].token.error().code, ErrorCode::unavailable);
    EXPECT_TRUE((*results)[1 - bad].token.ok());
    EXPECT_EQ((*results)[1 - bad].logits, right(prefill_fails ? 5 : 7));
    // What was lost is not read again by mistake; what stood before still stands.
    const auto on = prefill_fails ? step_of(kTokens, 7, 8, other_blocks, StepPhase::decode)
                                  : step_of(kTokens, 5, 6, kBlocks, StepPhase::decode);
    const auto lost = pair.split->execute({&on, 1});
    ASSERT_FALSE(lost.ok());
    EXPECT_EQ(lost.error().code, ErrorCode::invalid_argument);
    const auto again = step_of(kTokens, 4, 5, kBlocks, StepPhase::decode);
    const auto whole = pair.split->execute({&again, 1});
    ASSERT_TRUE(whole.ok()) << whole.error().message;
    EXPECT_EQ((*whole)[0].logits, right(5));
  }
}

TEST(SplitExecutor, AWholeStepOfOneSideFailsWhole) {
  Pair pair;
  pair.prefill->fail_next(error(ErrorCode::unavailable, "lost"));
  const auto step = step_of(kTokens, 0, 4, kBlocks, StepPhase::prefill);
  const auto results = pair.split->execute({&step, 1});
  ASSERT_FALSE(results.ok());
  EXPECT_EQ(results.error().code, ErrorCode::unavailable);
}

}  // namespace
}  // namespace impetus

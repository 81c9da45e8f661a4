#include "backend/fake.h"

#include <gtest/gtest.h>

#include <cmath>

namespace impetus {
namespace {

// Runs prompt and answer in chunks of `chunk` with the given blocks.
std::vector<TokenId> generate(FakeExecutor& executor, std::span<const TokenId> prompt,
                              std::span<const BlockId> blocks, int64_t chunk, int64_t count,
                              const SamplingParams& params) {
  std::vector<TokenId> tokens(prompt.begin(), prompt.end());
  int64_t position = 0;
  while (static_cast<int64_t>(tokens.size() - prompt.size()) < count) {
    const auto size = static_cast<int64_t>(tokens.size());
    const int64_t n = std::min(chunk, size - position);
    SequenceStep step;
    step.tokens = std::span(tokens).subspan(static_cast<size_t>(position), static_cast<size_t>(n));
    step.position = position;
    step.blocks = blocks;
    position += n;
    if (position == size) {
      step.output = StepOutput::sample;
      step.sampling = &params;
      step.context = {prompt, std::span(tokens).subspan(prompt.size()), size, nullptr};
    }
    auto results = executor.execute({&step, 1});
    EXPECT_TRUE(results.ok()) << results.error().message;
    if (step.output == StepOutput::sample) tokens.push_back((*results)[0].token->id);
  }
  return {tokens.begin() + static_cast<std::ptrdiff_t>(prompt.size()), tokens.end()};
}

const std::vector<TokenId> kPrompt = {5,  6,  7,  8,  9,  10, 11, 12, 13,
                                      14, 15, 16, 17, 18, 19, 20, 21};

TEST(FakeExecutor, ChunksAndBlocksDoNotMatter) {
  SamplingParams params;
  params.seed = 3;
  const auto wanted = fake_answer(kPrompt, params, 10, 97);
  for (const int64_t chunk : {1, 3, 16, 64}) {
    FakeExecutor executor(FakeOptions{});
    EXPECT_EQ(generate(executor, kPrompt, std::vector<BlockId>{4, 2}, chunk, 10, params), wanted);
  }
}

TEST(FakeExecutor, AForeignBlockShows) {
  SamplingParams params;
  FakeExecutor executor(FakeOptions{});
  const std::vector<TokenId> one = {1};
  SequenceStep step;
  step.tokens = one;
  step.position = 16;  // positions 0..15 were never written
  const std::vector<BlockId> blocks = {0, 1};
  step.blocks = blocks;
  step.output = StepOutput::logits_last;
  const auto results = executor.execute({&step, 1});
  ASSERT_TRUE(results.ok());
  std::vector<TokenId> all(16, 0);
  all.push_back(1);
  EXPECT_NE((*results)[0].logits, fake_logits(all, 97));
}

TEST(FakeExecutor, RefusesWhatNoEngineMayDo) {
  FakeExecutor executor(FakeOptions{});
  const std::vector<TokenId> tokens = {1, 2};
  const auto run = [&](std::vector<std::vector<BlockId>> lists) {
    std::vector<SequenceStep> batch;
    for (const auto& list : lists)
      batch.push_back({tokens, 0, list, StepOutput::none, nullptr, {}});
    return executor.execute(batch).ok();
  };
  EXPECT_TRUE(run({{1}, {2}}));
  EXPECT_FALSE(run({{1, 1}}));
  EXPECT_FALSE(run({{}}));
  EXPECT_FALSE(run({{64}}));
  EXPECT_FALSE(run({{-1}}));
  EXPECT_FALSE(run({{1}, {1}}));     // two writers
  EXPECT_FALSE(run({{1}, {2, 1}}));  // a reader of what another writes
}

TEST(FakeExecutor, FailsOnDemand) {
  FakeExecutor executor(FakeOptions{});
  const std::vector<BlockId> blocks = {0};
  SamplingParams params;
  const std::vector<TokenId> tokens = {1, 2};
  SequenceStep step{tokens, 0, blocks, StepOutput::sample, &params, {tokens, {}, 2, nullptr}};
  executor.fail_next(error(ErrorCode::unavailable, "device lost"));
  const auto failed = executor.execute({&step, 1});
  ASSERT_FALSE(failed.ok());
  EXPECT_EQ(failed.error().code, ErrorCode::unavailable);
  executor.nan_where([](std::span<const TokenId> all) { return all.size() == 2; });
  const auto row = executor.execute({&step, 1});
  ASSERT_TRUE(row.ok());
  EXPECT_FALSE((*row)[0].token.ok());
  executor.nan_where(nullptr);
  EXPECT_TRUE((*executor.execute({&step, 1}))[0].token.ok());
  EXPECT_EQ(executor.steps(), 3);
}

TEST(FakeEncoder, TextsAreIndependent) {
  FakeEncoder encoder(FakeOptions{});
  const std::vector<TokenId> tokens = {1, 2, 3, 4, 5};
  const std::vector<int32_t> offsets = {0, 2, 5};
  const auto both = encoder.encode({tokens, offsets, {}, EncodeOutput::pooled});
  ASSERT_TRUE(both.ok());
  const auto second = fake_embedding(std::span(tokens).subspan(2), 8);
  EXPECT_EQ(std::vector<float>(both->values.begin() + 8, both->values.end()), second);
  double square = 0;
  for (const float x : second) square += static_cast<double>(x) * static_cast<double>(x);
  EXPECT_NEAR(square, 1, 1e-5);
  const std::vector<int32_t> empty = {0, 0, 5};
  EXPECT_FALSE(encoder.encode({tokens, empty, {}, EncodeOutput::pooled}).ok());
}

// What every backend's descriptor owes its readers.
TEST(BackendDescriptor, Contract) {
  FakeBackend backend;
  const BackendDescriptor& d = backend.descriptor();
  EXPECT_FALSE(d.device.empty());
  EXPECT_EQ(d.backend.rfind(d.device, 0), 0u) << "a backend's name begins with its device's";
  EXPECT_FALSE(d.name.empty());
  EXPECT_FALSE(d.weights.empty());
  for (const DType type : d.weights) EXPECT_TRUE(is_weight(type));
  EXPECT_FALSE(d.kv.empty());
  EXPECT_GE(d.threads, 1);
}

}  // namespace
}  // namespace impetus

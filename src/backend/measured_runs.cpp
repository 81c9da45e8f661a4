#include "backend/measured_runs.h"

#include <algorithm>
#include <memory>
#include <numeric>
#include <utility>

namespace impetus {

Result<void> run_step(Executor& executor, int64_t sequences, int64_t length, int64_t past,
                      StepOutput output) {
  SamplingParams greedy;
  greedy.temperature = 0;
  const std::vector<TokenId> tokens(static_cast<size_t>(length), 1);
  const int64_t each = (past + length - 1) / executor.kv().block_tokens() + 1;
  std::vector<BlockId> blocks(static_cast<size_t>(each * sequences));
  std::iota(blocks.begin(), blocks.end(), 0);
  std::vector<SequenceStep> batch(static_cast<size_t>(sequences));
  for (int64_t s = 0; s < sequences; ++s) {
    SequenceStep& one = batch[static_cast<size_t>(s)];
    one.tokens = tokens;
    one.position = past;
    one.blocks =
        std::span(blocks).subspan(static_cast<size_t>(s * each), static_cast<size_t>(each));
    one.output = output;
    one.sampling = &greedy;
    one.context.position = past + length;
  }
  IMPETUS_TRY([[maybe_unused]] const auto results, executor.execute(batch));
  return {};
}

Run decode_run(Executor& executor, int64_t rows, bool enqueues, int64_t past) {
  // The tokens that were drawn, at the positions that follow, as the engine goes on: a backend may
  // have begun with the next step.
  const int64_t block_tokens = executor.kv().block_tokens();
  const int64_t before = enqueues ? past : 0, count = enqueues ? kDecodePositions : 2 * kBlock;
  const int64_t most = std::max<int64_t>(1, (before + count) / block_tokens);
  const int64_t each = std::clamp<int64_t>(executor.kv().blocks() / rows, 1, most);
  const int64_t end = each * block_tokens, begin = std::clamp<int64_t>(end - count, 0, before);
  struct State {
    SamplingParams greedy;
    std::vector<BlockId> blocks;
    std::vector<TokenId> tokens;
    int64_t position = 0;
  };
  const auto state = std::make_shared<State>();
  state->greedy.temperature = 0;
  state->position = begin;
  state->blocks.resize(static_cast<size_t>(each * rows));
  std::iota(state->blocks.begin(), state->blocks.end(), 0);
  state->tokens.assign(static_cast<size_t>(rows), 1);
  Run run;
  run.step = [&executor, state, each, begin, end]() -> Result<void> {
    std::vector<SequenceStep> batch(state->tokens.size());
    for (size_t s = 0; s < batch.size(); ++s) {
      const auto own = static_cast<size_t>(each);
      batch[s].tokens = {&state->tokens[s], 1};
      batch[s].position = state->position;
      batch[s].blocks = std::span(state->blocks).subspan(s * own, own);
      batch[s].output = StepOutput::sample;
      batch[s].sampling = &state->greedy;
      batch[s].context.position = state->position + 1;
    }
    IMPETUS_TRY(const auto results, executor.execute(batch));
    for (size_t s = 0; s < results.size(); ++s) {
      state->tokens[s] = results[s].token.ok() ? results[s].token->id : 1;
    }
    if (++state->position == end) state->position = begin;
    return {};
  };
  // Where a step is begun before the one ahead of it is fetched, one alone says little: some are
  // there when they are asked for, and the next takes twice as long.
  run.stretch = enqueues ? 16 : 1;
  return run;
}

Run chunk_run(Executor& executor, int64_t rows, StepOutput output) {
  return {[&executor, rows, output] {
    return run_step(executor, std::max<int64_t>(1, rows / kBlock), std::min(rows, kBlock), 0,
                    output);
  }};
}

Run at_run(Executor& executor, int64_t rows, int64_t past) {
  return {[&executor, rows, past] {
    return run_step(executor, 1, rows, past, StepOutput::logits_last);
  }};
}

Run prompt_run(Executor& executor, int64_t rows) {
  return {[&executor, rows] { return run_step(executor, 1, rows, 0, StepOutput::sample); }};
}

Run encode_run(Encoder& encoder, int64_t texts, int64_t length) {
  std::vector<int32_t> offsets;
  for (int64_t i = 0; i <= texts; ++i) offsets.push_back(static_cast<int32_t>(i * length));
  return {[&encoder, tokens = std::vector<TokenId>(static_cast<size_t>(texts * length), 1),
           offsets = std::move(offsets)]() -> Result<void> {
    IMPETUS_TRY([[maybe_unused]] const auto vectors, encoder.encode({tokens, offsets, {}}));
    return {};
  }};
}

}  // namespace impetus

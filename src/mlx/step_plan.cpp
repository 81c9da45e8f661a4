#include "mlx/step_plan.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace impetus::mlx_backend {

std::vector<SlotRun> runs_of(std::span<const BlockId> blocks, int64_t begin, int64_t end,
                             int32_t block_tokens) {
  std::vector<SlotRun> runs;
  for (int64_t p = begin; p < end;) {
    const int64_t within = p % block_tokens;
    const int64_t count = std::min(end - p, block_tokens - within);
    const int64_t slot =
        int64_t{blocks[static_cast<size_t>(p / block_tokens)]} * block_tokens + within;
    if (!runs.empty() && runs.back().end == slot) {
      runs.back().end += count;
    } else {
      runs.push_back({slot, slot + count});
    }
    p += count;
  }
  return runs;
}

Result<void> check_batch(const ModelSpec& spec, int32_t blocks, int32_t block_tokens,
                         int64_t step_tokens_max, std::span<const SequenceStep> batch) {
  constexpr auto kBad = ErrorCode::invalid_argument;
  int64_t total = 0;
  for (size_t s = 0; s < batch.size(); ++s) {
    const SequenceStep& step = batch[s];
    const auto count = static_cast<int64_t>(step.tokens.size());
    if (count == 0) return error(kBad, "sequence {} of the step has no tokens", s);
    if (step.position < 0) return error(kBad, "sequence {}: position {}", s, step.position);
    total += count;
    if (total > step_tokens_max) {
      return error(kBad, "a step of more than {} tokens, the most that this model was loaded for",
                   step_tokens_max);
    }
    if (step.position > spec.context - count) {
      return error(ErrorCode::context_length,
                   "sequence {}: {} tokens from position {} on exceed the context of {}", s, count,
                   step.position, spec.context);
    }
    const int64_t needed = (step.position + count - 1) / block_tokens + 1;
    if (static_cast<int64_t>(step.blocks.size()) < needed) {
      return error(kBad, "sequence {}: {} KV blocks where {} positions need {}", s,
                   step.blocks.size(), step.position + count, needed);
    }
    for (const BlockId block : step.blocks.first(static_cast<size_t>(needed))) {
      if (block < 0 || block >= blocks) {
        return error(kBad, "sequence {}: KV block {} of {}", s, block, blocks);
      }
    }
    for (const TokenId token : step.tokens) {
      if (token < 0 || token >= spec.vocab) {
        return error(kBad, "sequence {}: token {} is outside the vocabulary of {}", s, token,
                     spec.vocab);
      }
    }
    if (step.output == StepOutput::sample && step.sampling == nullptr) {
      return error(kBad, "sequence {} asks for a token without sampling parameters", s);
    }
  }
  return {};
}

std::array<int32_t, Draw::kWords> Draw::words() const {
  std::array<int32_t, kWords> words{};
  const double doubles[] = {inverse, random, top_p, least};
  std::memcpy(words.data(), doubles, sizeof(doubles));
  words[8] = top_k;
  return words;
}

std::optional<Draw> draw_of(const SequenceStep& step, int64_t vocab, int64_t later) {
  if (step.output != StepOutput::sample || step.context.mask != nullptr) return std::nullopt;
  const SamplingParams& p = *step.sampling;
  if (!p.logit_bias.empty() || p.top_logprobs >= 0 || p.repetition_penalty != 1.0f ||
      p.presence_penalty != 0.0f || p.frequency_penalty != 0.0f) {
    return std::nullopt;
  }
  Draw draw;
  if (p.temperature <= 0 || p.top_k == 1) return draw;
  draw.inverse = 1.0 / static_cast<double>(p.temperature);
  if (!(draw.inverse > 0) || std::isnan(p.top_p)) return std::nullopt;
  draw.random = uniform(p.seed, static_cast<uint64_t>(step.context.position + later));
  if (p.top_p < 1.0f) draw.top_p = static_cast<double>(p.top_p);
  if (p.min_p > 0) draw.least = std::min(1.0, static_cast<double>(p.min_p));
  if (p.top_k > 0 && p.top_k < vocab) draw.top_k = p.top_k;
  if (draw.top_k > Draw::kMost) return std::nullopt;
  return draw;
}

void StepPlan::make(std::span<const SequenceStep> batch, int32_t block_tokens) {
  *this = StepPlan();
  single_ = batch.size() == 1;
  one_row_each = true;
  for (size_t s = 0; s < batch.size(); ++s) {
    const SequenceStep& step = batch[s];
    const auto count = static_cast<int64_t>(step.tokens.size());
    const int64_t end = step.position + count, first = rows();
    for (int64_t i = 0; i < count; ++i) {
      const int64_t position = step.position + i;
      tokens.push_back(step.tokens[static_cast<size_t>(i)]);
      positions.push_back(static_cast<int32_t>(position));
      slots.push_back(step.blocks[static_cast<size_t>(position / block_tokens)] * block_tokens +
                      static_cast<int32_t>(position % block_tokens));
    }
    PlannedSequence sequence;
    sequence.row = first;
    sequence.count = count;
    sequence.position = step.position;
    sequence.runs = runs_of(step.blocks, 0, end, block_tokens);
    if (single_) written = runs_of(step.blocks, step.position, end, block_tokens);
    one_row_each = one_row_each && count == 1;
    length_max = std::max(length_max, end);
    sequences.push_back(std::move(sequence));
    if (step.output == StepOutput::none) continue;
    for (int64_t r = step.output == StepOutput::logits_all ? first : rows() - 1; r < rows(); ++r) {
      outputs.push_back(static_cast<int32_t>(r));
      output_sequence.push_back(static_cast<int32_t>(s));
      output_position.push_back(positions[static_cast<size_t>(r)]);
    }
  }
}

void StepPlan::narrow() {
  narrowed_ = true;
  // Of a sequence either its last row is wanted, or all, or none.
  std::vector<PlannedSequence> kept;
  for (size_t i = 0; i < outputs.size();) {
    size_t end = i;
    while (end < outputs.size() && output_sequence[end] == output_sequence[i]) ++end;
    PlannedSequence sequence = std::move(sequences[static_cast<size_t>(output_sequence[i])]);
    sequence.position = output_position[i];
    sequence.count = static_cast<int64_t>(end - i);
    sequence.row = static_cast<int64_t>(i);
    kept.push_back(std::move(sequence));
    i = end;
  }
  sequences = std::move(kept);
}

bool StepKey::make_next(std::span<const SequenceStep> batch,
                        std::span<const SequenceResult> results, const ModelSpec& spec,
                        int32_t block_tokens) {
  sequences_.clear();
  for (size_t s = 0; s < batch.size(); ++s) {
    const SequenceStep& step = batch[s];
    const int64_t position = step.position + static_cast<int64_t>(step.tokens.size());
    if (step.output != StepOutput::sample || step.tokens.size() != 1 ||
        (!results.empty() && !results[s].token.ok()) || position >= spec.context ||
        static_cast<int64_t>(step.blocks.size()) * block_tokens <= position) {
      return false;
    }
    const auto covered = static_cast<size_t>(position / block_tokens + 1);
    sequences_.push_back(
        {results.empty() ? TokenId{0} : results[s].token->id,
         position,
         {step.blocks.begin(), step.blocks.begin() + static_cast<std::ptrdiff_t>(covered)},
         draw_of(step, spec.vocab, 1).value_or(Draw{})});
  }
  return !sequences_.empty();
}

std::vector<SequenceStep> StepKey::steps() const {
  std::vector<SequenceStep> steps;
  for (const One& one : sequences_) {
    SequenceStep step;
    step.tokens = {&one.token, 1};
    step.position = one.position;
    step.blocks = one.blocks;
    step.output = StepOutput::logits_last;
    step.phase = StepPhase::decode;
    steps.push_back(step);
  }
  return steps;
}

std::vector<Draw> StepKey::draws() const {
  std::vector<Draw> draws;
  for (const One& one : sequences_) draws.push_back(one.draw);
  return draws;
}

bool StepKey::matches(std::span<const SequenceStep> batch) const {
  if (batch.size() != sequences_.size()) return false;
  for (size_t s = 0; s < batch.size(); ++s) {
    const SequenceStep& step = batch[s];
    const One& one = sequences_[s];
    if (step.tokens.size() != 1 || step.tokens[0] != one.token || step.position != one.position ||
        (step.output != StepOutput::sample && step.output != StepOutput::logits_last) ||
        step.blocks.size() < one.blocks.size() ||
        !std::equal(one.blocks.begin(), one.blocks.end(), step.blocks.begin())) {
      return false;
    }
  }
  return true;
}

}  // namespace impetus::mlx_backend

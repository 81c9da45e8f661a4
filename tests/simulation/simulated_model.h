// A pretend decoder whose tokens betray every mistake in the handling of KV blocks.
//
// The KV of a position is a digest of its token and of the KV of all positions before it, read back
// through the step's block list; the next token is a digest of all that. So a block that is given
// to two sequences, freed too early, or found under a wrong prefix shows as a wrong token, as it
// would in a real model. alone() says the right answer without any blocks.
#pragma once

#include <cstdint>
#include <cstring>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "backend/kv_handoff.h"

namespace impetus::simulation {

inline uint64_t mix(uint64_t a, uint64_t b) {
  uint64_t h = a * 0x9e3779b97f4a7c15u ^ (b + 0x632be59bd9b4e019u);
  h = (h ^ (h >> 31)) * 0xbf58476d1ce4e5b9u;
  h = (h ^ (h >> 27)) * 0x94d049bb133111ebu;
  return h ^ (h >> 31);
}

constexpr TokenId vocabulary = 11;  // few, so that stop tokens and equal blocks are met often

inline TokenId draw(uint64_t digest, uint64_t seed, int64_t position) {
  return static_cast<TokenId>(mix(mix(digest, seed), static_cast<uint64_t>(position)) % vocabulary);
}

// The answer to a prompt by itself: tokens until a stop token (not included), tokens_max or
// capacity.
struct Alone {
  std::vector<TokenId> answer;
  bool stopped = false;  // by a stop token
};
inline Alone alone(std::span<const TokenId> prompt, uint64_t seed, int64_t tokens_max,
                   std::span<const TokenId> stop_tokens, int64_t capacity) {
  Alone result;
  uint64_t digest = 0;
  for (const TokenId token : prompt) digest = mix(digest, mix(digest, token));
  auto size = static_cast<int64_t>(prompt.size());
  for (int64_t i = 0; i < tokens_max && size < capacity; ++i, ++size) {
    const TokenId token = draw(digest, seed, size);
    for (const TokenId stop : stop_tokens) result.stopped |= stop == token;
    if (result.stopped) break;
    result.answer.push_back(token);
    digest = mix(digest, mix(digest, token));
  }
  return result;
}

class SimulatedModel final : public Executor, private KvStorage {
 public:
  SimulatedModel(int32_t blocks, int32_t block_tokens, int64_t step_tokens_max,
                 std::string name = "simulated")
      : blocks_(blocks),
        block_tokens_(block_tokens),
        step_tokens_max_(step_tokens_max),
        kv_(static_cast<size_t>(blocks) * block_tokens, 0) {
    descriptor_.device = descriptor_.backend = std::move(name);
  }

  const BackendDescriptor& descriptor() const override { return descriptor_; }
  const KvStorage& kv() const override { return *this; }
  KvStorage& kv() override { return *this; }
  int64_t step_tokens_max() const override { return step_tokens_max_; }

  // What the next call meets: the failure of the whole step, or NaN logits of the rows with these
  // seeds.
  bool fail_next = false;
  std::vector<uint64_t> nan_seeds;

  // Tokens computed since the start, per seed: with a seed a request, what its prompt has cost.
  std::map<uint64_t, int64_t> computed;
  int64_t computed_total = 0;
  int64_t steps = 0;
  int64_t handed_over = 0;  // positions that came from another storage
  // What the caller did that no caller may: the first such thing, in words.
  std::string violation;

  Result<std::vector<SequenceResult>> execute(std::span<const SequenceStep> batch) override {
    ++steps;
    int64_t step_tokens = 0;
    std::vector<int64_t> writers(blocks_, -1);
    for (size_t i = 0; i < batch.size(); ++i) {
      step_tokens += static_cast<int64_t>(batch[i].tokens.size());
      check(batch[i], static_cast<int64_t>(i), writers);
    }
    if (step_tokens > step_tokens_max_) blame("a step exceeds its budget of tokens");
    if (!violation.empty()) return impetus::error(ErrorCode::internal, "{}", violation);
    if (fail_next) {
      fail_next = false;
      for (const SequenceStep& step : batch) spoil(step);
      return impetus::error(ErrorCode::unavailable, "the device was lost (simulated)");
    }
    std::vector<SequenceResult> results(batch.size());
    for (size_t i = 0; i < batch.size(); ++i) run(batch[i], results[i]);
    nan_seeds.clear();
    return results;
  }

 private:
  int32_t blocks() const override { return blocks_; }
  int32_t block_tokens() const override { return block_tokens_; }
  int64_t block_bytes() const override { return block_tokens_ * 8; }
  // A digest's halves pass as a key and a value of one f32 each.
  DType dtype() const override { return DType::f32; }
  KvShape shape() const override { return {1, 1, 1}; }
  Result<void> export_block(BlockId block, int32_t begin, int32_t end,
                            std::span<std::byte> out) const override {
    IMPETUS_CHECK(check_handoff(*this, block, begin, end, dtype(), out.size()));
    const size_t count = out.size() / 8;
    for (size_t i = 0; i < count; ++i) {
      const uint64_t digest = kv_[static_cast<size_t>(block * block_tokens_ + begin) + i];
      const uint32_t halves[2] = {static_cast<uint32_t>(digest),
                                  static_cast<uint32_t>(digest >> 32)};
      std::memcpy(out.data() + i * 4, &halves[0], 4);
      std::memcpy(out.data() + (count + i) * 4, &halves[1], 4);
    }
    return {};
  }
  Result<void> import_block(BlockId block, int32_t begin, int32_t end, DType type,
                            std::span<const std::byte> in) override {
    IMPETUS_CHECK(check_handoff(*this, block, begin, end, type, in.size()));
    const size_t count = in.size() / 8;
    for (size_t i = 0; i < count; ++i) {
      uint32_t halves[2];
      std::memcpy(&halves[0], in.data() + i * 4, 4);
      std::memcpy(&halves[1], in.data() + (count + i) * 4, 4);
      kv_[static_cast<size_t>(block * block_tokens_ + begin) + i] = halves[0] | uint64_t{halves[1]}
                                                                                    << 32;
    }
    handed_over += end - begin;
    return {};
  }

  uint64_t& at(const SequenceStep& step, int64_t position) {
    return kv_[static_cast<size_t>(step.blocks[position / block_tokens_]) * block_tokens_ +
               position % block_tokens_];
  }
  void blame(const char* what) {
    if (violation.empty()) violation = what;
  }

  void check(const SequenceStep& step, int64_t row, std::vector<int64_t>& writers) {
    const int64_t end = step.position + static_cast<int64_t>(step.tokens.size());
    if (step.tokens.empty()) return blame("a step has no tokens");
    const auto covered = static_cast<int64_t>(step.blocks.size()) * block_tokens_;
    if (covered < end || covered > end + block_tokens_) {
      return blame("a step's blocks do not cover its positions");
    }
    for (const BlockId block : step.blocks) {
      if (block < 0 || block >= blocks_) return blame("a block is out of range");
    }
    for (int64_t p = step.position; p < end + (ahead(step) ? 1 : 0); ++p) {
      int64_t& writer = writers[step.blocks[p / block_tokens_]];
      if (writer >= 0 && writer != row) return blame("two sequences write one block");
      writer = row;
    }
    const auto prompt = static_cast<int64_t>(step.context.prompt.size());
    if (prompt > 0 && (step.phase == StepPhase::prefill ? end > prompt : step.position < prompt)) {
      return blame("a step's phase is not where its positions lie");
    }
    if (step.output != StepOutput::sample) return;
    if (!step.sampling) return blame("a sampled row has no sampling parameters");
    const auto history =
        static_cast<int64_t>(step.context.prompt.size() + step.context.answer.size());
    if (step.context.position != end || history != end) blame("a row's history is wrong");
  }

  // Whether an executor may write the next position already.
  bool ahead(const SequenceStep& step) const {
    const int64_t end = step.position + static_cast<int64_t>(step.tokens.size());
    return step.output == StepOutput::sample && step.tokens.size() == 1 &&
           static_cast<int64_t>(step.blocks.size()) * block_tokens_ > end;
  }

  void spoil(const SequenceStep& step) {
    for (size_t i = 0; i < step.tokens.size(); ++i) at(step, step.position + i) = 0xdeadbeef;
  }
  void spoil_ahead(const SequenceStep& step) {
    if (ahead(step)) at(step, step.position + 1) = 0xdeadbeef;
  }

  void run(const SequenceStep& step, SequenceResult& result) {
    result.ran_on = &descriptor_;
    uint64_t digest = 0;
    for (int64_t p = 0; p < step.position; ++p) digest = mix(digest, at(step, p));
    for (size_t i = 0; i < step.tokens.size(); ++i) {
      const uint64_t value = mix(digest, step.tokens[i]);
      at(step, step.position + i) = value;
      digest = mix(digest, value);
    }
    spoil_ahead(step);
    const auto count = static_cast<int64_t>(step.tokens.size());
    computed_total += count;
    if (step.sampling) computed[step.sampling->seed] += count;
    for (const uint64_t seed : nan_seeds) {
      if (!step.sampling || seed != step.sampling->seed) continue;
      spoil(step);
      result.token = impetus::error(ErrorCode::internal, "the logits are NaN (simulated)");
      return;
    }
    if (step.output == StepOutput::sample) {
      const int64_t end = step.position + count;
      result.token = SampledToken{.id = draw(digest, step.sampling->seed, end), .top = {}};
    } else if (step.output == StepOutput::logits_all) {
      for (int64_t i = 0; i < count; ++i)
        result.logits.push_back(static_cast<float>(step.tokens[i]));
    } else if (step.output == StepOutput::logits_last) {
      result.logits.push_back(static_cast<float>(step.tokens.back()));
    }
  }

  int32_t blocks_;
  int32_t block_tokens_;
  int64_t step_tokens_max_;
  std::vector<uint64_t> kv_;  // [blocks, block_tokens]
  BackendDescriptor descriptor_;
};

}  // namespace impetus::simulation

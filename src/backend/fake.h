// A backend without a model, for the tests of engine and runtime.
//
// The executor's next logits are a hash of every token of the sequence, read back from its own
// simulated KV blocks: a wrong block, one freed too early, a stale prefix or a chunk run twice
// shows as another token. `fake_logits` tells what is right. Also refused, as a bug of the caller:
// a block listed twice by one sequence, and one that a sequence writes while another of the batch
// lists it.
#pragma once

#include <chrono>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "backend/executor.h"
#include "backend/fault_plan.h"

namespace impetus {

// What the fake model says after these tokens: [vocab], from a hash of all of them.
std::vector<float> fake_logits(std::span<const TokenId> tokens, int64_t vocab);

// The answer that a right engine gives for this prompt: `count` tokens, alone.
std::vector<TokenId> fake_answer(std::span<const TokenId> prompt, const SamplingParams& params,
                                 int64_t count, int64_t vocab);

// The fake encoder's vector for one text: [dimension], of length 1.
std::vector<float> fake_embedding(std::span<const TokenId> tokens, int64_t dimension);

// A position's token, as the one element of its key and of its value.
class FakeKvStorage : public KvStorage {
 public:
  FakeKvStorage(int32_t blocks, int32_t block_tokens)
      : blocks_(blocks),
        tokens_(block_tokens),
        memory_(static_cast<size_t>(blocks) * static_cast<size_t>(block_tokens), -1) {}
  int32_t blocks() const override { return blocks_; }
  int32_t block_tokens() const override { return tokens_; }
  int64_t block_bytes() const override { return int64_t{tokens_} * 4; }
  DType dtype() const override { return DType::f32; }
  KvShape shape() const override { return {1, 1, 1}; }
  Result<void> export_block(BlockId block, int32_t begin, int32_t end,
                            std::span<std::byte> out) const override;
  Result<void> import_block(BlockId block, int32_t begin, int32_t end, DType type,
                            std::span<const std::byte> in) override;

  // -1: never written.
  TokenId& at(BlockId block, int64_t slot) {
    return memory_[static_cast<size_t>(int64_t{block} * tokens_ + slot)];
  }
  TokenId at(BlockId block, int64_t slot) const {
    return memory_[static_cast<size_t>(int64_t{block} * tokens_ + slot)];
  }

 private:
  int32_t blocks_;
  int32_t tokens_;
  std::vector<TokenId> memory_;  // [blocks, block_tokens]
};

struct FakeOptions {
  int64_t vocab = 97;
  int32_t blocks = 64;
  int32_t block_tokens = 16;
  int64_t step_tokens_max = 64;
  int64_t dimension = 8;                   // encoder
  int64_t text_tokens_max = 0;             // encoder; 0: as many as a step
  std::chrono::microseconds step_time{0};  // each call sleeps this long
  std::string name = "fake";               // of device and backend
  bool emulated = false;                   // the backend says that it is
  bool enqueues = false;                   // the same
  std::shared_ptr<FaultPlan> faults = {};  // what its steps meet; may be shared
};

class FakeExecutor : public Executor {
 public:
  explicit FakeExecutor(const FakeOptions& options);

  const BackendDescriptor& descriptor() const override { return descriptor_; }
  const KvStorage& kv() const override { return kv_; }
  KvStorage& kv() override { return kv_; }
  int64_t step_tokens_max() const override { return options_.step_tokens_max; }
  Result<std::vector<SequenceResult>> execute(std::span<const SequenceStep> batch) override;

  // The next step fails as a whole, and its blocks are scrambled.
  void fail_next(Error error) { failures_.push_back(std::move(error)); }
  // Rows whose whole sequence satisfies this get NaN logits: an error of that row alone.
  void nan_where(std::function<bool(std::span<const TokenId>)> predicate) {
    nan_ = std::move(predicate);
  }
  // Called at the start of every step, with its batch.
  void on_step(std::function<void(std::span<const SequenceStep>)> hook) { hook_ = std::move(hook); }

  int64_t steps() const { return steps_; }
  int64_t tokens_run() const { return tokens_run_; }

 private:
  Result<void> check(std::span<const SequenceStep> batch) const;
  std::vector<TokenId> read_back(const SequenceStep& step, int64_t length) const;

  FakeOptions options_;
  BackendDescriptor descriptor_;
  FakeKvStorage kv_;
  std::deque<Error> failures_;
  std::function<bool(std::span<const TokenId>)> nan_;
  std::function<void(std::span<const SequenceStep>)> hook_;
  SamplerScratch scratch_;
  int64_t steps_ = 0;
  int64_t tokens_run_ = 0;
};

class FakeEncoder : public Encoder {
 public:
  explicit FakeEncoder(const FakeOptions& options);

  const BackendDescriptor& descriptor() const override { return descriptor_; }
  int64_t batch_tokens_max() const override { return options_.step_tokens_max; }
  int64_t text_tokens_max() const override {
    return options_.text_tokens_max > 0 ? options_.text_tokens_max : options_.step_tokens_max;
  }
  Result<Encoded> encode(const EncoderBatch& batch) override;

  void fail_next(Error error) { failures_.push_back(std::move(error)); }
  void on_batch(std::function<void(const EncoderBatch&)> hook) { hook_ = std::move(hook); }
  int64_t batches() const { return batches_; }

 private:
  FakeOptions options_;
  BackendDescriptor descriptor_;
  std::deque<Error> failures_;
  std::function<void(const EncoderBatch&)> hook_;
  int64_t batches_ = 0;
};

// Loads fakes whatever the weights; vocabulary and dimension come from the spec.
class FakeBackend : public Backend {
 public:
  explicit FakeBackend(FakeOptions options = {});

  const BackendDescriptor& descriptor() const override { return descriptor_; }
  Result<std::unique_ptr<Executor>> load_decoder(const ModelSpec& spec, const WeightSet& weights,
                                                 const LoadOptions& options,
                                                 MemoryLedger& ledger) override;
  Result<std::unique_ptr<Encoder>> load_encoder(const ModelSpec& spec, const WeightSet& weights,
                                                const LoadOptions& options,
                                                MemoryLedger& ledger) override;

 private:
  FakeOptions options_;
  BackendDescriptor descriptor_;
};

}  // namespace impetus

// Fakes for tests of the threads: a clock that only work moves, models and encoders that cost time,
// and consumers that check the order of what they hear.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <optional>
#include <thread>

#include <gtest/gtest.h>

#include "engine/runner.h"
#include "tests/simulation/simulated_model.h"

namespace impetus::simulation {

// Time that passes by pass() alone; or real time, where pass() sleeps.
class TestClock {
 public:
  explicit TestClock(bool real = false) : real_(real) {}
  void pass(double seconds) {
    if (real_) return std::this_thread::sleep_for(std::chrono::duration<double>(seconds));
    nanos_ += static_cast<int64_t>(seconds * 1e9);
  }
  double now() const {
    if (!real_) return static_cast<double>(nanos_.load()) * 1e-9;
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch())
        .count();
  }
  DeviceLoop::Clock reader() const {
    return [this] { return now(); };
  }

 private:
  const bool real_;
  std::atomic<int64_t> nanos_ = 0;
};

// Holds the device's thread until opened, so that a test can queue everything first.
class Gate {
 public:
  void open() {
    const std::lock_guard lock(mutex_);
    open_ = true;
    opened_.notify_all();
  }
  void wait() {
    std::unique_lock lock(mutex_);
    opened_.wait(lock, [this] { return open_; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable opened_;
  bool open_ = false;
};

// A model whose steps run a hook (which may pass time) first.
class HookedModel final : public Executor {
 public:
  using Hook = std::function<void(std::span<const SequenceStep>)>;
  HookedModel(int32_t blocks, int32_t block_tokens, int64_t step_tokens_max, Hook hook = {})
      : model_(blocks, block_tokens, step_tokens_max), hook_(std::move(hook)) {}
  const BackendDescriptor& descriptor() const override { return model_.descriptor(); }
  const KvStorage& kv() const override { return model_.kv(); }
  KvStorage& kv() override { return model_.kv(); }
  int64_t step_tokens_max() const override { return model_.step_tokens_max(); }
  Result<std::vector<SequenceResult>> execute(std::span<const SequenceStep> batch) override {
    if (hook_) hook_(batch);
    auto results = model_.execute(batch);
    EXPECT_EQ(model_.violation, "");
    return results;
  }

 private:
  SimulatedModel model_;
  Hook hook_;
};

// [n, 3]: a digest of the text, its first token's type, its length. hidden: [tokens, 3] of each
// prefix.
class FakeEncoder final : public Encoder {
 public:
  static constexpr TokenId poison = 999;
  using Hook = std::function<void(const EncoderBatch&)>;
  explicit FakeEncoder(int64_t batch_tokens_max, Hook hook = {})
      : batch_tokens_max_(batch_tokens_max), hook_(std::move(hook)) {}
  const BackendDescriptor& descriptor() const override { return descriptor_; }
  int64_t batch_tokens_max() const override { return batch_tokens_max_; }

  static std::vector<float> row(std::span<const TokenId> text, int32_t type) {
    uint64_t digest = 1;
    for (const TokenId token : text) digest = mix(digest, token);
    return {static_cast<float>(digest % 65521), static_cast<float>(type),
            static_cast<float>(text.size())};
  }

  Result<Encoded> encode(const EncoderBatch& batch) override {
    if (hook_) hook_(batch);
    EXPECT_LE(static_cast<int64_t>(batch.tokens.size()), batch_tokens_max_);
    std::vector<float> output;
    for (size_t i = 0; i + 1 < batch.offsets.size(); ++i) {
      const auto text =
          batch.tokens.subspan(batch.offsets[i], batch.offsets[i + 1] - batch.offsets[i]);
      const int32_t type = batch.token_types.empty() ? 0 : batch.token_types[batch.offsets[i]];
      for (size_t n = batch.output == EncodeOutput::pooled ? text.size() : 1; n <= text.size();
           ++n) {
        if (text[n - 1] == poison) return error(ErrorCode::internal, "poison (simulated)");
        const auto values = row(text.first(n), type);
        output.insert(output.end(), values.begin(), values.end());
      }
    }
    const BackendDescriptor* self = &descriptor_;
    return Encoded{std::move(output), std::vector(batch.offsets.size() - 1, self)};
  }

 private:
  int64_t batch_tokens_max_;
  Hook hook_;
  BackendDescriptor descriptor_;
};

// Records one sequence and can be waited for; complains about what comes after the end.
class Recorder : public TokenSink {
 public:
  void on_prefilled(int64_t cached_tokens, const RanOn& ran_on) override {
    EXPECT_GE(ran_on.prefill.size(), 1u);  // more where it was moved
    EXPECT_TRUE(ran_on.decode.empty());
    const std::lock_guard lock(mutex_);
    EXPECT_FALSE(reason_);
    cached_ = cached_tokens;
  }
  bool on_token(const SampledToken& token) override {
    size_t count;
    {
      const std::lock_guard lock(mutex_);
      EXPECT_FALSE(reason_);
      EXPECT_GE(cached_, 0);
      tokens_.push_back(token.id);
      count = tokens_.size();
    }
    return !verdict || verdict(count);
  }
  void on_finished(FinishReason reason, const Error& error, const TokenUsage& usage) override {
    if (at_end) at_end(reason);
    const std::lock_guard lock(mutex_);
    EXPECT_FALSE(reason_) << "ended twice";
    EXPECT_EQ(usage.answer_tokens, static_cast<int64_t>(tokens_.size()));
    reason_ = reason;
    error_ = error;
    usage_ = usage;
    ended_.notify_all();
  }

  FinishReason wait() {
    std::unique_lock lock(mutex_);
    ended_.wait(lock, [this] { return reason_.has_value(); });
    return *reason_;
  }
  bool ended() const {
    const std::lock_guard lock(mutex_);
    return reason_.has_value();
  }
  size_t count() const {
    const std::lock_guard lock(mutex_);
    return tokens_.size();
  }
  // After wait().
  const std::vector<TokenId>& tokens() const { return tokens_; }
  const TokenUsage& usage() const { return usage_; }
  const Error& error() const { return error_; }

  // Set before the submit.
  std::function<bool(size_t count)> verdict;
  std::function<void(FinishReason)> at_end;

 private:
  mutable std::mutex mutex_;
  std::condition_variable ended_;
  std::vector<TokenId> tokens_;
  int64_t cached_ = -1;
  std::optional<FinishReason> reason_;
  Error error_;
  TokenUsage usage_;
};

// One embedding request's answer.
class Vectors {
 public:
  EmbeddingLane::Done done() {
    return [this](Result<EmbeddingLane::Answer> result) {
      const std::lock_guard lock(mutex_);
      EXPECT_FALSE(result_) << "answered twice";
      if (result.ok()) {
        EXPECT_EQ(result->ran_on.size(), 1u);
        result_.emplace(std::move(result->vectors));
      } else {
        result_.emplace(std::move(result).error());
      }
      answered_.notify_all();
    };
  }
  const Result<std::vector<std::vector<float>>>& wait() {
    std::unique_lock lock(mutex_);
    answered_.wait(lock, [this] { return result_.has_value(); });
    return *result_;
  }
  bool answered() const {
    const std::lock_guard lock(mutex_);
    return result_.has_value();
  }

 private:
  mutable std::mutex mutex_;
  std::condition_variable answered_;
  std::optional<Result<std::vector<std::vector<float>>>> result_;
};

inline SequenceRequest generation(std::vector<TokenId> prompt, int64_t tokens_max,
                                  uint64_t seed = 1) {
  SequenceRequest request;
  request.prompt = std::move(prompt);
  request.tokens_max = tokens_max;
  request.sampling.seed = seed;
  return request;
}

}  // namespace impetus::simulation

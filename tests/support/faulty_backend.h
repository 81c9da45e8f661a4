// A real backend under another name, whose steps meet planted faults (backend/fault_plan.h): a
// device that throws, runs out of memory, is lost or hangs, with the numbers of a sound one.
#pragma once

#include <memory>
#include <string>
#include <utility>

#include "backend/executor.h"
#include "backend/fault_plan.h"

namespace impetus::testing {

class FaultyExecutor final : public Executor {
 public:
  FaultyExecutor(std::unique_ptr<Executor> inner, const BackendDescriptor& descriptor,
                 std::shared_ptr<FaultPlan> faults)
      : inner_(std::move(inner)), descriptor_(descriptor), faults_(std::move(faults)) {}
  const BackendDescriptor& descriptor() const override { return descriptor_; }
  const KvStorage& kv() const override { return std::as_const(*inner_).kv(); }
  KvStorage& kv() override { return inner_->kv(); }
  int64_t step_tokens_max() const override { return inner_->step_tokens_max(); }
  Result<std::vector<SequenceResult>> execute(std::span<const SequenceStep> batch) override {
    int64_t tokens = 0;
    for (const SequenceStep& step : batch) tokens += static_cast<int64_t>(step.tokens.size());
    IMPETUS_CHECK(faults_->meet(tokens));
    IMPETUS_TRY(auto results, inner_->execute(batch));
    for (SequenceResult& one : results) one.ran_on = &descriptor_;
    return results;
  }
  // Known, so that a hang shows as early as the options say.
  double expected_seconds(std::span<const SequenceStep>) const override { return 1e-3; }

 private:
  std::unique_ptr<Executor> inner_;
  const BackendDescriptor descriptor_;
  std::shared_ptr<FaultPlan> faults_;
};

class FaultyEncoder final : public Encoder {
 public:
  FaultyEncoder(std::unique_ptr<Encoder> inner, const BackendDescriptor& descriptor,
                std::shared_ptr<FaultPlan> faults, int64_t text_tokens_max)
      : inner_(std::move(inner)),
        descriptor_(descriptor),
        faults_(std::move(faults)),
        text_tokens_max_(text_tokens_max) {}
  const BackendDescriptor& descriptor() const override { return descriptor_; }
  int64_t batch_tokens_max() const override { return inner_->batch_tokens_max(); }
  int64_t text_tokens_max() const override {
    return text_tokens_max_ > 0 ? text_tokens_max_ : inner_->text_tokens_max();
  }
  Result<Encoded> encode(const EncoderBatch& batch) override {
    IMPETUS_CHECK(faults_->meet(static_cast<int64_t>(batch.tokens.size())));
    IMPETUS_TRY(auto encoded, inner_->encode(batch));
    for (auto& one : encoded.ran_on) one = &descriptor_;
    return encoded;
  }
  double expected_seconds(const EncoderBatch&) const override { return 1e-3; }

 private:
  std::unique_ptr<Encoder> inner_;
  const BackendDescriptor descriptor_;
  std::shared_ptr<FaultPlan> faults_;
  const int64_t text_tokens_max_;
};

class FaultyBackend final : public Backend {
 public:
  // `name`: of device and backend. `text_tokens_max` > 0: its encoders take no longer texts.
  FaultyBackend(std::unique_ptr<Backend> inner, std::string name, std::shared_ptr<FaultPlan> faults,
                int64_t text_tokens_max = 0)
      : inner_(std::move(inner)),
        descriptor_(inner_->descriptor()),
        faults_(std::move(faults)),
        text_tokens_max_(text_tokens_max) {
    descriptor_.device = descriptor_.backend = std::move(name);
  }
  const BackendDescriptor& descriptor() const override { return descriptor_; }
  Result<std::unique_ptr<Executor>> load_decoder(const ModelSpec& spec, const WeightSet& weights,
                                                 const LoadOptions& options,
                                                 MemoryLedger& ledger) override {
    IMPETUS_TRY(auto executor, inner_->load_decoder(spec, weights, options, ledger));
    return std::unique_ptr<Executor>(
        std::make_unique<FaultyExecutor>(std::move(executor), descriptor_, faults_));
  }
  Result<std::unique_ptr<Encoder>> load_encoder(const ModelSpec& spec, const WeightSet& weights,
                                                const LoadOptions& options,
                                                MemoryLedger& ledger) override {
    IMPETUS_TRY(auto encoder, inner_->load_encoder(spec, weights, options, ledger));
    return std::unique_ptr<Encoder>(std::make_unique<FaultyEncoder>(std::move(encoder), descriptor_,
                                                                    faults_, text_tokens_max_));
  }

 private:
  std::unique_ptr<Backend> inner_;
  BackendDescriptor descriptor_;
  std::shared_ptr<FaultPlan> faults_;
  const int64_t text_tokens_max_;
};

}  // namespace impetus::testing

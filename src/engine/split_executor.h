// Two executors of one model as one: prefill on the first, decoding on the second, KV handed over
// as it is needed. The engine drives the pair like any other executor, so scheduler, prefix cache
// and preemption know nothing of it.
//
// Block ids are mirrored: block 7 of the pair is block 7 of either side, and the pair offers as
// many as the smaller side has. Of each block the pair remembers how many leading positions are
// valid on each side. Before a side runs, what its sequences read and it lacks is copied from the
// other; what it writes is no longer valid on the other.
//
// A mixed batch is cut in two, prefill first; both sides run on the caller's thread, one after the
// other. Failure: a side's error is of its own sequences where the batch was cut in two, and of the
// whole step where it was not. Either way the positions that the side was to write are valid
// nowhere. A sequence that reads such a position, or one never computed, is refused as
// invalid_argument: the caller forgot that it was lost.
//
// With two equal processors the rule of backend/executor.h holds bit for bit. Unlike ones round
// differently, so there it holds up to one exception: a prompt whose prefix the cache found may
// read positions that were decoded, as another's answer, on the second.
#pragma once

#include <array>
#include <atomic>
#include <memory>
#include <vector>

#include "backend/executor.h"

namespace impetus {

class SplitExecutor final : public Executor {
 public:
  // unsupported where the two cannot share blocks: other block sizes, or another model's KV.
  static Result<std::unique_ptr<SplitExecutor>> create(std::unique_ptr<Executor> prefill,
                                                       std::unique_ptr<Executor> decode);

  const BackendDescriptor& descriptor() const override { return descriptor_; }  // of both
  const KvStorage& kv() const override { return kv_; }
  KvStorage& kv() override { return kv_; }
  int64_t step_tokens_max() const override;
  Result<std::vector<SequenceResult>> execute(std::span<const SequenceStep> batch) override;
  const BackendDescriptor& at_work() const override {
    return sides_[running_.load(std::memory_order_relaxed)].executor->at_work();
  }
  double expected_seconds(std::span<const SequenceStep> batch) const override;  // of both sides

  const Executor& prefill() const { return *sides_[0].executor; }
  const Executor& decode() const { return *sides_[1].executor; }
  // Positions copied from side to side since the start.
  int64_t positions_handed_over() const { return handed_over_; }

 private:
  friend struct SplitExecutorTestPeer;  // the simulation plants bugs

  // The sizes of the pair's blocks. Its KV lies in two places, so nothing is handed over from here.
  class Kv final : public KvStorage {
   public:
    Kv(const KvStorage& prefill, const KvStorage& decode) : prefill_(prefill), decode_(decode) {}
    int32_t blocks() const override;
    int32_t block_tokens() const override { return decode_.block_tokens(); }
    int64_t block_bytes() const override { return prefill_.block_bytes() + decode_.block_bytes(); }
    DType dtype() const override { return decode_.dtype(); }
    KvShape shape() const override { return decode_.shape(); }
    Result<void> export_block(BlockId, int32_t, int32_t, std::span<std::byte>) const override;
    Result<void> import_block(BlockId, int32_t, int32_t, DType,
                              std::span<const std::byte>) override;

   private:
    const KvStorage& prefill_;
    const KvStorage& decode_;
  };

  struct Side {
    std::unique_ptr<Executor> executor;
    std::vector<int32_t> valid;  // [blocks]: leading positions that stand here
  };

  SplitExecutor(std::unique_ptr<Executor> prefill, std::unique_ptr<Executor> decode);

  Result<void> check(std::span<const SequenceStep> batch) const;
  // Runs steps of one phase on its side; results in their order.
  Result<std::vector<SequenceResult>> run(StepPhase phase, std::span<const SequenceStep> steps);
  // Copies to `side` what the step reads and it lacks.
  Result<void> bring(size_t side, const SequenceStep& step);
  // Calls touch(block, first slot, end slot) for each block that the step writes.
  template <typename Touch>
  void for_written(const SequenceStep& step, Touch&& touch) const;

  std::array<Side, 2> sides_;  // by StepPhase
  Kv kv_;
  BackendDescriptor descriptor_;
  std::vector<std::byte> scratch_;
  std::atomic<size_t> running_ = 0;  // the side that runs, or ran last
  int64_t handed_over_ = 0;
};

}  // namespace impetus

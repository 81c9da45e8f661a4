// What a batch is to MLX's decoder: rows, runs of slots, wanted rows. Pure; no MLX in it.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "backend/executor.h"

namespace impetus::mlx_backend {

// Consecutive slots of the KV pool.
struct SlotRun {
  int64_t begin = 0, end = 0;
};

// Slots of positions [begin, end) of a sequence, as few runs as they make.
std::vector<SlotRun> runs_of(std::span<const BlockId> blocks, int64_t begin, int64_t end,
                             int32_t block_tokens);

// invalid_argument or context_length for a batch that no executor of these bounds can run.
Result<void> check_batch(const ModelSpec& spec, int32_t blocks, int32_t block_tokens,
                         int64_t step_tokens_max, std::span<const SequenceStep> batch);

// Whether the likeliest token, which the device knows, is all that is wanted.
bool greedy(const SequenceStep& step);

// Consecutive rows of one sequence.
struct PlannedSequence {
  int64_t row = 0, count = 0, position = 0;  // `position` of its first row
  std::vector<SlotRun> runs;                 // of positions [0, position + count)
};

struct StepPlan {
  std::vector<int32_t> tokens, positions, slots;  // a row
  std::vector<PlannedSequence> sequences;
  std::vector<SlotRun> written;  // by the only sequence
  bool one_row_each = false;
  int64_t length_max = 0;  // positions of a sequence

  // Rows whose logits are wanted, rising, and whose they are.
  std::vector<int32_t> outputs, output_sequence;
  std::vector<int64_t> output_position;

  void make(std::span<const SequenceStep> batch, int32_t block_tokens);
  // From here on `sequences` are of the wanted rows alone, which are rows 0, 1, ... now.
  void narrow();

  int64_t rows() const { return static_cast<int64_t>(tokens.size()); }
  bool single() const { return single_; }
  bool idle() const { return narrowed_ && outputs.empty(); }

 private:
  bool single_ = false, narrowed_ = false;
};

// A decode step that is expected: every sequence of a batch with the token it just got.
class StepKey {
 public:
  // False where it cannot be foreseen: a prompt among them, a sequence that failed, a block that is
  // not given yet, the context's end. Without results (empty) its tokens are not known yet: 0.
  bool make_next(std::span<const SequenceStep> batch, std::span<const SequenceResult> results,
                 int64_t context, int32_t block_tokens);
  // The expected step, to be run; borrows from this object.
  std::vector<SequenceStep> steps() const;
  bool matches(std::span<const SequenceStep> batch) const;

 private:
  struct One {
    TokenId token = 0;
    int64_t position = 0;
    std::vector<BlockId> blocks;
  };
  std::vector<One> sequences_;
};

}  // namespace impetus::mlx_backend

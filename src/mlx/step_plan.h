// What a batch is to MLX's decoder: rows, runs of slots, wanted rows. Pure; no MLX in it.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
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

// How a token is drawn from logits, as kernels/draw.cuh has it: sampling parameters without those
// that look at the history.
struct Draw {
  double inverse = 0;           // 1 / temperature; 0: the likeliest, and nothing else counts
  double random = 0;            // in [0, 1)
  double top_p = 1, least = 0;  // 1: none; of a weight, by min-p
  int32_t top_k = 0;            // 0: none

  static constexpr int kWords = 10;
  static constexpr int kMost = 2048;  // that top-k may keep
  std::array<int32_t, kWords> words() const;
  bool operator==(const Draw&) const = default;
};
// Nothing where the host must sample: penalties, a mask, log probabilities, more than kMost to be
// sorted, no sampling at all.
// `later`: so many tokens after the one that the step is to draw.
std::optional<Draw> draw_of(const SequenceStep& step, int64_t vocab, int64_t later = 0);

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
                 const ModelSpec& spec, int32_t block_tokens);
  // The expected step, to be run; borrows from this object.
  std::vector<SequenceStep> steps() const;
  std::vector<Draw> draws() const;  // of its tokens, one a sequence
  bool matches(std::span<const SequenceStep> batch) const;

 private:
  struct One {
    TokenId token = 0;
    int64_t position = 0;
    std::vector<BlockId> blocks;
    Draw draw;
  };
  std::vector<One> sequences_;
};

}  // namespace impetus::mlx_backend

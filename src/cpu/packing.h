// Weights from the mapped file into the panel layouts of kernels.h, at load.
//
// A PackedLinear is one product whose output columns come from one or more tensors that share their
// input (q, k and v; gate and up). Each tensor starts at a whole panel; neighbours of one layout
// lie in one matrix, so that a single loop computes them. Types stay as the file has them, except
// that WeightPrecision::int8 turns f32, f16 and bf16 into Q8_0, and that MLX's codes of 2 and 3
// bits take 4, those of 5 and 6, and mxfp4's, take 8.
//
// Threads: packing uses the pool; what it made is immutable.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "backend/executor.h"
#include "cpu/kernels/kernels.h"
#include "cpu/memory.h"
#include "cpu/thread_pool.h"

namespace impetus::cpu {

// The forms of activations that a product wants, as bits.
enum Form : uint8_t { kFormF32 = 1, kFormBf16 = 2, kFormQ8 = 4 };
Form form_of(WeightLayout layout);

int64_t panel_bytes(WeightLayout layout, int64_t k);
inline int64_t panels_of(int64_t rows) {
  return (rows + kPanel - 1) / kPanel;
}

struct PackedMatrix {
  WeightLayout layout = WeightLayout::f32;
  int64_t panels = 0;
  int64_t first_column = 0;  // in the product's output
  const std::byte* data = nullptr;
  std::vector<float> bias;  // [16 * panels], or empty
};

struct PackedLinear {
  int64_t k = 0;
  int64_t columns = 0;  // of the output: whole panels
  uint8_t forms = 0;
  std::vector<PackedMatrix> matrices;
  struct Segment {
    size_t matrix = 0;
    int64_t first_panel = 0;   // in its matrix
    int64_t first_column = 0;  // in the output
    int64_t rows = 0;          // outputs that mean something
  };
  std::vector<Segment> segments;  // one a tensor
};

// What a decoder or encoder keeps: the packed bytes and the promise for them.
struct PackedWeights {
  Reservation reservation;
  Memory memory;
};

class WeightPacker {
 public:
  WeightPacker(const WeightSet& weights, WeightPrecision precision, ThreadPool& pool)
      : weights_(weights), precision_(precision), pool_(pool) {}

  // Plans `target`, which must stay where it is until pack. unsupported, naming file and tensor,
  // where int8 is asked for and the rows are no whole number of 32-blocks.
  Result<void> add(PackedLinear& target, std::span<const Linear> tensors);
  int64_t bytes() const { return bytes_; }
  // Reserves, packs everything added, and lets go of the mapped pages as it goes. Tensors in `keep`
  // (an embedding that is the head too) stay mapped, but their pages leave memory all the same.
  Result<PackedWeights> pack(std::string purpose, MemoryLedger& ledger);

 private:
  struct Job {
    PackedLinear* target;
    size_t segment;
    const NamedTensor* tensor;
    const NamedTensor* bias;
  };
  void pack_tensor(const Job& job, std::byte* out) const;

  const WeightSet& weights_;
  WeightPrecision precision_;
  ThreadPool& pool_;
  std::vector<Job> jobs_;
  int64_t bytes_ = 0;
};

// A norm's weight or a bias, whatever its type, as f32.
std::vector<float> to_floats(const NamedTensor& tensor);

}  // namespace impetus::cpu

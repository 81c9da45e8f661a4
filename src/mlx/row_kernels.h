// Kernels of our own on CUDA for what prompts and an encoder's texts do row by row between their
// products and attention, where the host's time for each of MLX's operations is most of a layer's:
// norms of queries and keys, rotation, and the write to the KV pool in one; a gate; a sum and its
// layer norm; the vectors of texts, tokens drawn from logits, and what the host reads of a step.
// Their text: kernels/place.cuh, gated.cuh, add_layer_norm.cuh, pool_texts.cuh, draw.cuh, tell.cuh.
// Includes MLX: only the sources of this folder include this.
#pragma once

#include <algorithm>
#include <functional>
#include <memory>
#include <optional>

#include "mlx/decode_kernels.h"

namespace impetus::mlx_backend {

// How kernels/*.cuh are launched: as they say themselves.
inline constexpr int kPlaceThreads = 256, kGatedThreads = 256, kLayerNormThreads = 128;
inline constexpr int kPoolThreads = 256, kTellThreads = 256, kDrawThreads = 256;
inline constexpr int kLayerNormColumns = 4096;  // pool_texts' as well
// Blocks of threads for a gate's [rows, columns].
constexpr int gated_blocks(int rows, int columns) {
  return static_cast<int>((static_cast<int64_t>(rows) * (columns / 8) + kGatedThreads - 1) /
                          kGatedThreads);
}

// Blocks of threads for so many values of tell.
constexpr int tell_blocks(int count) {
  return std::clamp((count + kTellThreads - 1) / kTellThreads, 1, 512);
}

// Of a row that the host must draw; what draw counts of each; and blocks of threads for it.
inline constexpr int kNotDrawn = -3, kDrawCounts = 33;
constexpr int draw_runs(int vocab) {
  return (vocab + kDrawThreads - 1) / kDrawThreads;
}
constexpr int draw_blocks(int vocab) {
  return std::clamp((draw_runs(vocab) + 7) / 8, 1, 64);
}

// Its working memory for so many rows.
constexpr int64_t draw_bytes(int64_t rows, int64_t vocab) {
  return 2 * rows * (kDrawCounts * 4 + draw_runs(static_cast<int>(vocab)) * 8);
}

// Where the rows of a step stand.
struct PlaceStep {
  mx::array plan = mx::array(0);  // i32 [2, rows]: positions, then slots of the KV pool
  mx::array host = mx::array(0);  // what `plan` is made of, until the step has run
  int rows = 0;
};
PlaceStep place_step(const StepPlan& plan, HostPages& host);

// Where the kernels run; arrays as kernels/*.cuh say. Lazy, as MLX's operations are.
class RowKernels {
 public:
  virtual ~RowKernels() = default;
  // qkv [rows, (heads + 2 * kv_heads) * head_dim] in the type of activations -> queries [rows,
  // heads, 1, head_dim] in that of keys and values. Writes the rows' keys and values into the pool
  // behind MLX's back: what reads them takes the queries, too, and a step ends when these are made.
  virtual mx::array place(const PlaceStep& step, const mx::array& qkv, const mx::array& keys,
                          const mx::array& values, const mx::array& q_norm,
                          const mx::array& k_norm) = 0;
  // [rows, 2 * columns], a gate and what it lets through -> [rows, columns].
  virtual mx::array gated(const mx::array& both) = 0;
  // The layer norm of residual + x, [rows, columns].
  virtual mx::array add_layer_norm(const mx::array& residual, const mx::array& x,
                                   const mx::array& weight,
                                   const std::optional<mx::array>& bias) = 0;
  // What a text's rows [tokens, columns] are pooled to.
  struct Pool {
    bool mean = true;  // else the first row
    bool normalize = true;
  };
  // offsets: i32 [texts + 1]. Writes f32 [texts, columns] into `out` behind MLX's back; what is
  // returned is there when `out` is written.
  virtual mx::array pool(Pool how, const mx::array& rows, const mx::array& offsets,
                         const mx::array& out) = 0;
  // A token of each row of logits, f32 [rows, vocab] as they lie, as the reference sampler draws
  // it. likeliest: i32 [rows or more]; draws: i32 [rows, Draw::kWords]. Writes i32 [rows] into
  // `out` behind MLX's back: ids, or kNotDrawn. Returns i32 [rows], there when `out` is written:
  // the same, with the likeliest for the latter. REQUIRES: a draw before it has ended, or made
  // `likeliest`'s logits.
  virtual mx::array draw(const mx::array& logits, const mx::array& likeliest,
                         const mx::array& draws, const mx::array& out) = 0;
  // values, f32 or i32, as they are: `out` and what is returned as of `pool`.
  virtual mx::array tell(const mx::array& values, const mx::array& out) = 0;
};

// For an encoder `shape` says heads and the type of activations.
using RowKernelMaker =
    std::function<std::unique_ptr<RowKernels>(const DecodeShape& shape, const ModelSpec& spec)>;

std::unique_ptr<RowKernels> make_cuda_row_kernels(const DecodeShape& shape, const ModelSpec& spec,
                                                  const std::shared_ptr<KernelCode>& code);

// Runs the kernels of a decoder (place, gated, tell), or those of an encoder (add_layer_norm,
// pool), once beside MLX's own operations on small random rows: how far apart they are at most,
// relative to the largest value. For a machine's first use of them.
double row_kernels_error(RowKernels& kernels, const DecodeShape& shape, const ModelSpec& spec);

// Whether `draw` draws here what the reference sampler does, for such a vocabulary; false with a
// warning. Throws where the device itself no longer answers.
bool draws_right(RowKernels& kernels, const ModelSpec& spec);

// The maker's kernels, if they have a form for the shape and do here what MLX's operations do; else
// null, with a warning. Throws where the device itself no longer answers.
std::unique_ptr<RowKernels> checked_row_kernels(const RowKernelMaker& make,
                                                const DecodeShape& shape, const ModelSpec& spec);

}  // namespace impetus::mlx_backend

// Kernels of our own for decode steps on CUDA, where the host's time for each of MLX's operations
// is what a step costs: one attention for all rows over the pool's blocks, which also writes the
// rows' keys and values; norms joined with the sums before them; products of few rows. Their text:
// kernels/*.cuh.
// Includes MLX: only the sources of this folder include this.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <utility>

#include "mlx/host_pages.h"
#include "mlx/kernel_code.h"
#include "mlx/kv_pool.h"
#include "mlx/step_plan.h"
#include "mlx/weights.h"

namespace impetus::mlx_backend {

struct DecodeShape {
  int heads = 0, kv_heads = 0, head_dim = 0;
  bool neighbours = false;  // pairs that are rotated together
  bool qk_norm = false;
  mx::Dtype activations = mx::float16, kv = mx::float16;
};

// How kernels/*.cuh are launched: as they say themselves.
inline constexpr int kAttendThreads = 128, kNormThreads = 256, kHeadsAtOnce = 4;
inline constexpr int kFewRowsWarps = 8, kFewRowsThreads = 32 * kFewRowsWarps, kFewRowsMax = 8;
// Outputs of a product that a warp makes at once, and warps that share the columns of these.
constexpr int few_rows_outputs(bool gated) {
  return gated ? 8 : 16;
}
constexpr int few_rows_split(int tiles) {
  int split = 1;
  while (split < kFewRowsWarps && tiles * split < 256 * kFewRowsWarps) split *= 2;
  return split;
}
// Blocks of threads for a head of keys, each with some of its query heads.
constexpr int pieces_of(int heads, int kv_heads) {
  return (heads / kv_heads + kHeadsAtOnce - 1) / kHeadsAtOnce;
}

// What a step's attention is launched with.
struct AttendStep {
  // i32 [rows, width]: position, then blocks, then zeros to a power of two
  mx::array plan = mx::array(0);
  mx::array host = mx::array(0);  // what `plan` is made of, until the step has run
  int rows = 0, shares = 1;       // positions are cut into so many
};

// Where the kernels run; arrays as kernels/*.cuh say. Lazy, as MLX's operations are.
class DecodeKernels {
 public:
  virtual ~DecodeKernels() = default;
  // -> [rows, heads * head_dim]. Writes into the pool behind MLX's back: an array that holds it
  // keeps its buffer, and steps stand in line by their tokens.
  virtual mx::array attend(const AttendStep& step, const mx::array& qkv, const mx::array& keys,
                           const mx::array& values, const mx::array& q_norm,
                           const mx::array& k_norm) = 0;
  // residual + x, and its norm times `weight`.
  virtual std::pair<mx::array, mx::array> add_norm(const mx::array& residual, const mx::array& x,
                                                   const mx::array& weight) = 0;
  // x [rows, in] times a matrix that `few_rows_take` -> [rows, out], without its bias. `gated`: the
  // matrix is a gate and what it lets through, one after another -> [rows, out / 2].
  virtual mx::array few_rows(const mx::array& x, const Matrix& matrix, bool gated) = 0;
};

using DecodeKernelMaker =
    std::function<std::unique_ptr<DecodeKernels>(const DecodeShape& shape, const ModelSpec& spec)>;

std::unique_ptr<DecodeKernels> make_cuda_kernels(const DecodeShape& shape, const ModelSpec& spec,
                                                 const std::shared_ptr<KernelCode>& code);
// Whether the kernels have a form for it.
bool kernels_take(const DecodeShape& shape, const ModelSpec& spec);

// Tiles of outputs that few_rows makes of a matrix.
int few_rows_tiles(const Matrix& matrix, bool gated);
// Whether `few_rows` has a form for so many rows in the type of activations, faster than MLX's.
bool few_rows_take(const Matrix& matrix, mx::Dtype activations, int64_t rows);

// The plan of a step with one row a sequence.
AttendStep attend_step(const StepPlan& plan, const DecodeShape& shape, HostPages& host);

// Runs the kernels once beside MLX's own operations on small random rows: how far apart they are
// at most, relative to the largest value. For a machine's first use of them.
double kernels_error(DecodeKernels& kernels, const DecodeShape& shape, const ModelSpec& spec);
// What the rounding of their types explains of it.
double kernels_error_limit(const DecodeShape& shape);

// The maker's kernels, if they have a form for the shape and do here what MLX's operations do; else
// null, with a warning. Throws where the device itself no longer answers.
std::unique_ptr<DecodeKernels> checked_kernels(const DecodeKernelMaker& make,
                                               const DecodeShape& shape, const ModelSpec& spec);
// Whether few_rows does what MLX's operation does with matrices of the model, each kind of them
// once, and random rows; else a warning. True with a matrix: it is a gate and what it lets through.
bool few_rows_right(DecodeKernels& kernels,
                    std::span<const std::pair<const Matrix*, bool>> matrices,
                    const DecodeShape& shape, const ModelSpec& spec);

}  // namespace impetus::mlx_backend

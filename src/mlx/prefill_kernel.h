// A kernel of our own for attention of many rows a sequence on CUDA: prompts over the KV pool's
// blocks, texts of an encoder over their own rows, all sequences of a batch in one launch. MLX
// takes cuDNN there, which builds a graph for each pair of lengths, for seconds with a mask. Its
// text: kernels/prefill.cuh. Includes MLX: only the sources of this folder include this.
#pragma once

#include <functional>
#include <memory>
#include <span>

#include "mlx/host_pages.h"
#include "mlx/kernel_code.h"
#include "mlx/kv_pool.h"
#include "mlx/step_plan.h"

namespace impetus::mlx_backend {

struct PrefillShape {
  int heads = 0, kv_heads = 0, head_dim = 0;
  // Keys lie in the KV pool, and a row sees positions up to its own; else they are rows of the
  // batch, and a row sees all of its text.
  bool pool = true;
  mx::Dtype type = mx::float16;  // of queries, keys, values and what is made of them
};

// How kernels/prefill.cuh is launched and what it is told of a tile: as it says itself.
inline constexpr int kPrefillThreads = 128, kTileRows = 64, kTilePlan = 5;

// What one attention over all rows of a batch is launched with.
struct PrefillStep {
  mx::array plan = mx::array(0);  // i32: kTilePlan numbers a tile, then the blocks of sequences
  mx::array host = mx::array(0);  // what `plan` is made of, until the step has run
  int tiles = 0, rows = 0;
};
// Sequences without runs are texts, whose keys are their own rows.
PrefillStep prefill_step(std::span<const PlannedSequence> sequences, HostPages& host);

// Where the kernel runs. Lazy, as MLX's operations are.
class PrefillKernel {
 public:
  virtual ~PrefillKernel() = default;
  // Both -> [rows, heads * head_dim]. With the pool: queries [rows, heads, 1, head_dim], which are
  // copied where they do not lie row by row, as RowKernels::place leaves them; keys and values the
  // pool's, written before.
  virtual mx::array attend(const PrefillStep& step, const mx::array& queries, const mx::array& keys,
                           const mx::array& values) = 0;
  // Without: qkv [rows, (heads + 2 * kv_heads) * head_dim], as one product makes them.
  virtual mx::array attend_texts(const PrefillStep& step, const mx::array& qkv) = 0;
};

using PrefillMaker = std::function<std::unique_ptr<PrefillKernel>(const PrefillShape& shape)>;

std::unique_ptr<PrefillKernel> make_cuda_prefill(const PrefillShape& shape,
                                                 const std::shared_ptr<KernelCode>& code);
// Whether the kernel has a form for it.
bool prefill_takes(const PrefillShape& shape);

// Runs the kernel once beside MLX's own operations on small random rows: how far apart they are at
// most, relative to the largest value. `device`: on more rows than a host runs soon.
double prefill_error(PrefillKernel& kernel, const PrefillShape& shape, bool device);
// What the rounding of its type explains of it.
double prefill_error_limit(const PrefillShape& shape);

// The maker's kernel, if it has a form for the shape and does here what MLX's operations do; else
// null, with a warning that begins with `family`. Throws where the device no longer answers.
std::unique_ptr<PrefillKernel> checked_prefill(const PrefillMaker& make, const PrefillShape& shape,
                                               const std::string& family, bool device);

}  // namespace impetus::mlx_backend

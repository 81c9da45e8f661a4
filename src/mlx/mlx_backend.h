// MLX as a processor: Apple's array library, which runs on Metal, on CUDA or on the CPU, whichever
// its build has. Decoders and encoders through the shared forward, with MLX's fused operations.
//
// Threads: as backend/executor.h says; beside that, loading may run on another thread than
// stepping. MLX keeps global state (streams, limits, an allocator), so every call into it takes
// turns, over all backends and models of the process. Failure: an exception of MLX becomes an
// Error: out of memory insufficient_memory, a device that is gone unavailable, any other internal.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "backend/executor.h"

namespace impetus {
namespace mlx_backend {
class DecodeKernels;
struct DecodeShape;
struct StepForm;
class StepKernel;
class PrefillKernel;
struct PrefillShape;
class RowKernels;
struct EncodeForm;
class EncodeKernel;
}  // namespace mlx_backend

struct MlxOptions {
  // The next decode step of the same sequences is computed while the engine is busy with the last
  // one's tokens. `automatic`: where the device computes beside the host, so on a GPU;
  // IMPETUS_MLX_RUN_AHEAD=on|off decides instead.
  enum class RunAhead { automatic, off, on } run_ahead = RunAhead::automatic;
  // Computes on MLX's CPU even where its build has a GPU.
  bool cpu = false;
  // Takes the paths of a GPU on a CPU too: batched attention, KV moved by operations. For tests.
  bool as_gpu = false;
  // Kernels of our own for decode steps; without, those of CUDA where MLX computes there. For
  // tests.
  std::function<std::unique_ptr<mlx_backend::DecodeKernels>(const mlx_backend::DecodeShape& shape,
                                                            const ModelSpec& spec)>
      decode_kernels = nullptr;
  // The same for whole decode steps in one launch; only beside those above.
  std::function<std::unique_ptr<mlx_backend::StepKernel>(const mlx_backend::StepForm& form)>
      decode_step = nullptr;
  // So many of these launches at most, one behind another, make a step of more sequences; 0: as
  // many as are faster than several launches by the clock, on CUDA.
  int step_launches = 0;
  // The same for the attention of prompts and of encoders' texts.
  std::function<std::unique_ptr<mlx_backend::PrefillKernel>(const mlx_backend::PrefillShape& shape)>
      prefill_kernel = nullptr;
  // The same for what prompts and texts do row by row; prompts use them where both others run.
  std::function<std::unique_ptr<mlx_backend::RowKernels>(const mlx_backend::DecodeShape& shape,
                                                         const ModelSpec& spec)>
      row_kernels = nullptr;
  // The same for batches of texts in one launch; only beside the kernel of attention. Without
  // `encode_rows` it takes as many tokens as it is faster for by the clock.
  std::function<std::unique_ptr<mlx_backend::EncodeKernel>(const mlx_backend::EncodeForm& form)>
      encode_step = nullptr;
  int64_t encode_rows = 0;
  // Where those of CUDA are kept compiled for the next start; empty: they are not.
  std::filesystem::path kernels_folder = {};
  // Rows from which prompts' products take quantised matrices dequantised; 0: as `product_seconds`
  // has it. For tests.
  int64_t dequantised_from = 0;
  // What a product of so many rows takes, of a matrix dequantised first or of its codes: asked some
  // times by turns. From as many rows on as the former is faster, prompts use it. Without, a clock
  // where MLX computes on CUDA, and elsewhere only codes. For tests.
  std::function<double(int64_t rows, bool dequantised, const std::function<void()>& product)>
      product_seconds = nullptr;
  // How long the host spins for a step's end before it sleeps until then, where the device has
  // nothing else to do; negative: 2 ms on CUDA, elsewhere not at all. For tests.
  double spin_seconds = -1;
  // Of memory of the GPU's own, for models; 0: on CUDA most of what is free there, else the host's.
  int64_t memory_bytes = 0;
  // Elements of logits, and of scores where MLX writes those out, that stand at once; 0: millions.
  // For tests, whose models are small.
  int64_t elements_max = 0;
  // Called where MLX is ("load", "layer" where the host waits for one, "step", "encode"), in the
  // middle of the work; what it throws is as if MLX had. For tests.
  std::function<void(std::string_view where)> fault = nullptr;
};

// device "mlx"; backend "mlx-metal", "mlx-cuda" or "mlx-cpu". unavailable where MLX itself fails.
Result<std::unique_ptr<Backend>> make_mlx_backend(const MlxOptions& options = {});

// "0.32.4"
std::string mlx_version();

}  // namespace impetus

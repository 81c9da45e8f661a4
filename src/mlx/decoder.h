// Decoders through MLX. Includes no MLX.
#pragma once

#include <memory>

#include "backend/executor.h"
#include "mlx/mlx_backend.h"

namespace impetus::mlx_backend {

// What the backend tells its models; `descriptor` outlives them.
struct Machine {
  BackendDescriptor descriptor;
  std::unique_ptr<MemoryLedger> memory;        // of the GPU's own; none: the host's
  bool cpu = true;                             // computes on MLX's CPU
  bool cuda = false;                           // computes on CUDA
  bool as_gpu = false;                         // takes the paths of a GPU
  bool run_ahead = false;                      // by its own choice, without being asked
  double spin_seconds = 0;                     // as eval_and_spin has it
  int64_t logit_elements = int64_t{16} << 20;  // at a time
  int64_t score_elements = int64_t{8} << 20;   // the same, where MLX writes them out: on its CPU
  int64_t dequantised_from = 0;                // rows; 0: by `product_seconds`
  decltype(MlxOptions::product_seconds) product_seconds;  // none: products of codes alone
  std::function<void(std::string_view)> fault;
  decltype(MlxOptions::decode_kernels) decode_kernels;  // none: MLX's operations alone
  decltype(MlxOptions::decode_step) decode_step;        // the same
  int step_launches = 0;                                // as MlxOptions has it
  decltype(MlxOptions::prefill_kernel) prefill_kernel;  // the same
  decltype(MlxOptions::row_kernels) row_kernels;        // the same
  decltype(MlxOptions::encode_step) encode_step;        // the same
  int64_t encode_rows = 0;                              // of `encode_step`; 0: by the clock

  void may_fail(std::string_view where) const {
    if (fault) fault(where);
  }
};

// `weights` must outlive the executor: it borrows from the mapped file where MLX can.
Result<std::unique_ptr<Executor>> make_decoder(std::shared_ptr<const Machine> machine,
                                               const ModelSpec& spec, const WeightSet& weights,
                                               const LoadOptions& options, MemoryLedger& ledger);
Result<std::unique_ptr<Encoder>> make_encoder(std::shared_ptr<const Machine> machine,
                                              const ModelSpec& spec, const WeightSet& weights,
                                              const LoadOptions& options, MemoryLedger& ledger);

// What became of steps that were run ahead, and of the pool's writes; for tests. Zero for executors
// of others.
struct DecoderCounters {
  int64_t ahead_used = 0, ahead_dropped = 0;
  int64_t kv_copies = 0;
  int64_t own_kernels = 0;     // steps that ran by DecodeKernels
  int64_t whole_steps = 0;     // of these: by one launch, DecodeStep's
  int64_t own_prefills = 0;    // steps whose attention was PrefillKernel's
  int64_t own_places = 0;      // of these, whose rows were RowKernels', too
  int64_t drawn = 0;           // tokens that the device drew and that are not just the likeliest
  int64_t dequantised = 0;     // products with matrices that were dequantised first
  int64_t borrowed_bytes = 0;  // of weights, read where the file is mapped
};
DecoderCounters counters_of(const Executor& executor);
// Batches that an encoder's one launch made; for tests.
int64_t whole_steps_of(const Encoder& encoder);

}  // namespace impetus::mlx_backend

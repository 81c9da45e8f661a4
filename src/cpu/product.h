// Matrix products over the pool, between activations and packed weights.
#pragma once

#include "cpu/kernels/kernels.h"
#include "cpu/memory.h"
#include "cpu/packing.h"
#include "cpu/thread_pool.h"

namespace impetus::cpu {

// What every model of the backend shares.
struct Machine {
  explicit Machine(int threads) : pool(threads) {}
  const KernelTable* kernels = nullptr;
  ThreadPool pool;
  BackendDescriptor descriptor;
};

// Rows of k values in f32 and in the forms that the weights which read them want. Borrowed memory.
class Activations {
 public:
  Activations() = default;
  // Room for `rows` rows of at most `k_max` values.
  Activations(Carver& carver, int64_t rows, int64_t k_max, uint8_t forms);

  // The width of the rows from now on; what they held is lost.
  void set_width(int64_t k);
  int64_t width() const { return k_; }

  // [width] f32, followed by room up to a whole panel.
  float* row(int64_t r) const { return x_ + r * stride_; }
  int64_t stride() const { return stride_; }

  // Makes the other forms of rows [begin, end) from their f32 values.
  void convert(const KernelTable& kernels, uint8_t forms, int64_t begin, int64_t end) const;
  // The same for columns [begin, end) of one row from values elsewhere. `begin` is a multiple of
  // 32, and so is `end` where it is not the width.
  void convert_columns(const KernelTable& kernels, uint8_t forms, int64_t row, const float* values,
                       int64_t begin, int64_t end) const;

  // The kernel's view of rows from `row` on, in the form that `layout` wants.
  MatmulArgs args(WeightLayout layout, int64_t row, int64_t rows) const;

 private:
  QuantizedRows quantized(int64_t row) const;

  int64_t k_ = 0;
  int64_t stride_ = 0;
  float* x_ = nullptr;
  uint16_t* bf16_ = nullptr;
  QuantizedRows q8_{};
};

// out[r, 0..columns) (+)= x[r] W + bias for rows [0, rows).
void multiply(Machine& machine, const PackedLinear& weights, const Activations& x, int64_t rows,
              float* out, int64_t out_stride, bool accumulate);

// Feed-forward's first half. For each row and column of `out`: gated: silu(x W_gate) * (x W_up),
// from the two segments of `weights`; else activation(x W + bias) from its one. `out` gets the
// forms its reader wants while the values are still in the cache. `scratch`: kHiddenScratch floats
// a thread.
using ActivationFunction = void (*)(const float* x, int64_t n, float* out);
inline constexpr int64_t kHiddenScratch = 12288;
void multiply_activate(Machine& machine, const PackedLinear& weights, const Activations& x,
                       int64_t rows, ActivationFunction activation, const Activations& out,
                       uint8_t out_forms, float* scratch);

}  // namespace impetus::cpu

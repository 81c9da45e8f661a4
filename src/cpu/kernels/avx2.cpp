#include "cpu/kernels/kernels.h"
#include "cpu/kernels/peaks.h"
#include "cpu/kernels/simd_avx2.h"
// The rest is written over Simd.
#include "cpu/kernels/attention.inc.h"
#include "cpu/kernels/elementwise.inc.h"
#include "cpu/kernels/matmul_avx2.inc.h"

namespace impetus::cpu {
namespace {

constexpr KernelTable kTable = {
    .name = "avx2",
    .peaks = &kAvx2Peaks,
    .matmul = {matmul<FloatKernel<FloatSource::f32>>, matmul<FloatKernel<FloatSource::f16>>,
               matmul<FloatKernel<FloatSource::bf16>>, matmul<QuantKernel<Q8Format>>,
               matmul<QuantKernel<Q4Format>>, matmul<QuantKernel<G4Format<ScaleType::f16>>>,
               matmul<QuantKernel<G4Format<ScaleType::bf16>>>,
               matmul<QuantKernel<G4Format<ScaleType::f32>>>,
               matmul<QuantKernel<G8Format<ScaleType::f16>>>,
               matmul<QuantKernel<G8Format<ScaleType::bf16>>>,
               matmul<QuantKernel<G8Format<ScaleType::f32>>>},
    .attention = {attention<KvType::f32>, attention<KvType::f16>, attention<KvType::bf16>},
    .quantize_rows = quantize_rows,
    .to_bf16 = to_bf16,
    .rms_norm = rms_norm,
    .layer_norm = layer_norm,
    .add = add,
    .silu_multiply = silu_multiply,
    .gelu_erf = gelu_erf,
    .gelu_tanh = gelu_tanh,
    .relu = relu,
    .rope_halves = rope_halves,
    .rope_neighbours = rope_neighbours,
    .store_key = {store_key<KvType::f32>, store_key<KvType::f16>, store_key<KvType::bf16>},
    .store_value = {store_value<KvType::f32>, store_value<KvType::f16>, store_value<KvType::bf16>},
};

}  // namespace

const KernelTable* avx2_kernels() {
  return &kTable;
}

}  // namespace impetus::cpu

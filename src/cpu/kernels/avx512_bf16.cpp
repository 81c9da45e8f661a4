#include "cpu/kernels/kernels.h"
#include "cpu/kernels/peaks.h"
#include "cpu/kernels/simd_avx512.h"
// The rest is written over Simd.
#include "cpu/kernels/matmul.inc.h"

namespace impetus::cpu {
namespace {

// One chain of vdpbf16ps over pairs of k for each output. (The instruction takes denormals as
// zero.)
struct Bf16Kernel {
  static constexpr int k_per_unit = 2;
  static constexpr int unit_bytes = 64;
  static constexpr int staged_bytes = 0;
  static constexpr int activation_bytes = 2;
  static constexpr int tile_rows = 6;
  static constexpr int many_panels = 4;
  static constexpr int few_panels = 4;
  static constexpr int few_rows = 6;
  static constexpr int unstaged_rows = kRowsPerBlock;
  static constexpr int stage_from_rows = 0;
  static constexpr int chunk_units = 256;
  static constexpr bool has_correction = false;
  static constexpr int next_bytes = 0;

  static void correct(const MatmulArgs&, int64_t, int, int64_t, int64_t, int32_t*) {}
  static void activations(const MatmulArgs& a, int64_t row, int64_t unit, Pass* pass) {
    pass->x = reinterpret_cast<const uint8_t*>(a.x_bf16 + row * a.x_stride + unit * 2);
    pass->x_stride = a.x_stride * 2;
  }
  static void stage(const uint8_t*, int64_t, uint8_t*) {}

  template <int rows, int panels, bool staged>
  static void tile(const Pass& pass) {
    __m512 sums[rows][panels];
    for (int r = 0; r < rows; ++r) {
      for (int p = 0; p < panels; ++p) {
        sums[r][p] = _mm512_loadu_ps(pass.sums + r * pass.sums_stride + p * kPanel);
      }
    }
    const uint8_t* weights = pass.weights;
    TileRows x(pass);
    auto unit = [&](int64_t i) __attribute__((always_inline)) {
      if constexpr (rows < 3) {
        for (int p = 0; p < panels; ++p) {
          _mm_prefetch(
              reinterpret_cast<const char*>(weights + i * 64 + p * pass.panel_stride + 2048),
              _MM_HINT_T0);
        }
      }
      __m512bh w[panels];
      for (int p = 0; p < panels; ++p) {
        w[p] = reinterpret_cast<__m512bh>(
            _mm512_loadu_si512(weights + i * 64 + p * pass.panel_stride));
      }
      for (int r = 0; r < rows; ++r) {
        __m512bh pair = reinterpret_cast<__m512bh>(_mm512_set1_epi32(load_i32(x.row(r) + i * 4)));
        for (int p = 0; p < panels; ++p) sums[r][p] = _mm512_dpbf16_ps(sums[r][p], pair, w[p]);
      }
      load_fence();
    };
    int64_t u = 0;
    for (; u + 4 <= pass.units; u += 4, weights += 256, x.advance(16)) {
      unit(0);
      unit(1);
      unit(2);
      unit(3);
    }
    for (; u < pass.units; ++u, weights += 64, x.advance(4)) unit(0);
    for (int r = 0; r < rows; ++r) {
      for (int p = 0; p < panels; ++p) {
        _mm512_storeu_ps(pass.sums + r * pass.sums_stride + p * kPanel, sums[r][p]);
      }
    }
  }
};

}  // namespace

const KernelTable* avx512_bf16_kernels() {
  static const KernelTable table = [] {
    KernelTable with_bf16 = *avx512_kernels();
    with_bf16.matmul[static_cast<int>(WeightLayout::bf16)] = matmul<Bf16Kernel>;
    with_bf16.peaks = &kAvx512Bf16Peaks;
    return with_bf16;
  }();
  return &table;
}

}  // namespace impetus::cpu

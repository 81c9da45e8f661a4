// Matrix kernels on AVX-512 for quantised weights, by vpdpbusd (f32, f16 and bf16 weights are
// FloatKernel's; avx512_bf16.cpp has a better one for bf16).
#pragma once

#include "cpu/kernels/matmul.inc.h"

namespace impetus::cpu {
namespace {

inline __m512i broadcast_i32(const uint8_t* p) {
  return _mm512_set1_epi32(load_i32(p));
}

inline __m512i load_64(const uint8_t* p) {
  return _mm512_loadu_si512(p);
}

// Quantised weights. Per block and output: an exact integer sum started at -offset * sum(q), then
// one step of the chain: sum = fma(isum * weight scale, x scale, sum); with a bias, that starts at
// 0 and sum = fma(fma(isum, weight scale, bias * sum(q)), x scale, sum). Staged: { f32 scale[16];
// f32 bias[16] where there is one; uint8 q[8][16][4] }, aligned, nibbles apart.
template <class Format>
struct QuantKernel {
  static constexpr bool nibbles = Format::nibbles;
  static constexpr bool biased = Format::biased;
  static constexpr int k_per_unit = 32;
  static constexpr int unit_bytes = Format::bytes;
  static constexpr int staged_codes = biased ? 128 : 64;
  static constexpr int staged_bytes = staged_codes + 512;
  static constexpr int activation_bytes = 1;
  static constexpr int tile_rows = 6;
  static constexpr int staged_panels = 2;
  static constexpr int many_panels = 2;
  static constexpr int few_panels = 4;
  static constexpr int few_rows = 2;
  static constexpr int unstaged_rows = 12;
  static constexpr int stage_from_rows = 13;
  static constexpr int chunk_units = 16;
  static constexpr bool has_correction = true;
  static constexpr int next_bytes = 0;  // staging fetches its own

  static void correct(const MatmulArgs& a, int64_t row, int rows, int64_t unit, int64_t units,
                      int32_t* out) {
    const int32_t* sums = a.x_q8.sum + row * (a.k / 32) + unit;
    for (int r = 0; r < rows; ++r, sums += a.k / 32, out += units) {
      for (int64_t u = 0; u < units; ++u) out[u] = biased ? sums[u] : sums[u] * -Format::offset;
    }
  }
  static void activations(const MatmulArgs& a, int64_t row, int64_t unit, Pass* pass) {
    pass->x = reinterpret_cast<const uint8_t*>(a.x_q8.q) + row * a.k + unit * 32;
    pass->x_stride = a.k;
    pass->x_scale = a.x_q8.scale + row * (a.k / 32) + unit;
    pass->scale_stride = a.k / 32;
  }

  // Sixteen scales, or biases, as they are packed.
  static __m512 packed_scales(const uint8_t* at) {
    if constexpr (Format::scale_type == ScaleType::f32) {
      return _mm512_loadu_ps(at);
    } else {
      const __m256i halves = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at));
      if constexpr (Format::scale_type == ScaleType::f16) {
        return _mm512_cvtph_ps(halves);
      } else {
        return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
      }
    }
  }
  template <bool staged>
  static __m512 scales(const uint8_t* block) {
    return staged ? _mm512_loadu_ps(block) : packed_scales(block);
  }
  template <bool staged>
  static __m512 biases(const uint8_t* block) {
    return staged ? _mm512_loadu_ps(block + 64)
                  : packed_scales(block + kPanel * Format::scale_bytes);
  }

  // Weights of k group g (k = 4 g ..) of a block.
  template <bool staged>
  static __m512i group(const uint8_t* block, int g) {
    if constexpr (staged) {
      return load_64(block + staged_codes + g * 64);
    } else if constexpr (!nibbles) {
      return load_64(block + Format::codes + g * 64);
    } else {
      const __m512i mask = _mm512_set1_epi8(15);
      __m512i both = load_64(block + Format::codes + g % 4 * 64);
      return _mm512_and_si512(g < 4 ? both : _mm512_srli_epi16(both, 4), mask);
    }
  }

  static void stage(const uint8_t* from, int64_t units, uint8_t* to) {
    for (int64_t u = 0; u < units; ++u, from += unit_bytes, to += staged_bytes) {
      // What the next chunk will stage.
      for (int line = 0; line < unit_bytes; line += 64) {
        _mm_prefetch(reinterpret_cast<const char*>(from + chunk_units * unit_bytes + line),
                     _MM_HINT_T0);
      }
      _mm512_storeu_ps(to, scales<false>(from));
      if constexpr (biased) _mm512_storeu_ps(to + 64, biases<false>(from));
      for (int g = 0; g < 8; ++g) {
        _mm512_storeu_si512(to + staged_codes + g * 64, group<false>(from, g));
      }
    }
  }

  template <int rows, int panels, bool staged>
  static void tile(const Pass& pass) {
    constexpr int step = staged ? staged_bytes : unit_bytes;
    __m512 sums[rows][panels];
    for (int r = 0; r < rows; ++r) {
      for (int p = 0; p < panels; ++p) {
        sums[r][p] = _mm512_loadu_ps(pass.sums + r * pass.sums_stride + p * kPanel);
      }
    }
    const uint8_t* weights = pass.weights;
    TileRows x(pass);
    for (int64_t u = 0; u < pass.units; ++u, weights += step, x.advance(32)) {
      if constexpr (!staged && rows < 3) {
        for (int p = 0; p < panels; ++p) {
          for (int line = 0; line < unit_bytes; line += 64) {
            _mm_prefetch(
                reinterpret_cast<const char*>(weights + p * pass.panel_stride + 4096 + line),
                _MM_HINT_T0);
          }
        }
      }
      __m512i isum[rows][panels];
      for (int r = 0; r < rows; ++r) {
        const __m512i start =
            biased ? _mm512_setzero_si512()
                   : _mm512_set1_epi32(pass.correction[r * pass.correction_stride + u]);
        for (int p = 0; p < panels; ++p) isum[r][p] = start;
      }
#pragma clang loop unroll(full)
      for (int g = 0; g < 8; ++g) {
        __m512i w[panels];
        for (int p = 0; p < panels; ++p) w[p] = group<staged>(weights + p * pass.panel_stride, g);
        for (int r = 0; r < rows; ++r) {
          __m512i q = broadcast_i32(x.row(r) + g * 4);
          for (int p = 0; p < panels; ++p) isum[r][p] = _mm512_dpbusd_epi32(isum[r][p], w[p], q);
        }
        load_fence();
      }
      __m512 scale[panels];
      for (int p = 0; p < panels; ++p) {
        const uint8_t* block = weights + p * pass.panel_stride;
        scale[p] = scales<staged>(block);
      }
      for (int r = 0; r < rows; ++r) {
        __m512 x_scale = _mm512_set1_ps(pass.x_scale[r * pass.scale_stride + u]);
        for (int p = 0; p < panels; ++p) {
          __m512 product;
          if constexpr (biased) {
            const __m512 sum =
                _mm512_set1_ps(static_cast<float>(pass.correction[r * pass.correction_stride + u]));
            const __m512 bias = biases<staged>(weights + p * pass.panel_stride);
            product =
                _mm512_fmadd_ps(_mm512_cvtepi32_ps(isum[r][p]), scale[p], _mm512_mul_ps(bias, sum));
          } else {
            product = _mm512_mul_ps(_mm512_cvtepi32_ps(isum[r][p]), scale[p]);
          }
          sums[r][p] = _mm512_fmadd_ps(product, x_scale, sums[r][p]);
        }
      }
    }
    for (int r = 0; r < rows; ++r) {
      for (int p = 0; p < panels; ++p) {
        _mm512_storeu_ps(pass.sums + r * pass.sums_stride + p * kPanel, sums[r][p]);
      }
    }
  }
};

}  // namespace
}  // namespace impetus::cpu

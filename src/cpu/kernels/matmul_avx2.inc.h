// Matrix kernels on AVX2 for quantised weights (f32, f16 and bf16 weights are FloatKernel's).
#pragma once

#include "cpu/kernels/matmul.inc.h"

namespace impetus::cpu {
namespace {

inline __m256i broadcast_i32(const uint8_t* p) {
  return _mm256_set1_epi32(load_i32(p));
}

inline __m256i load_32(const uint8_t* p) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
}

alignas(32) constexpr int16_t kNibbleFactors[32] = {1,  1,  1,  1,  1,  1,  1,  1,  1,  1,  1,
                                                    1,  1,  1,  1,  1,  16, 16, 16, 16, 16, 16,
                                                    16, 16, 16, 16, 16, 16, 16, 16, 16, 16};

// Per block and output an exact integer sum, then one step of the chain:
// sum = fma(isum * weight scale, x scale, sum), or that with a bias, as on AVX-512.
//
// vpmaddubsw saturates at 16 bits, so weights are taken by nibbles: a pair of products is at most
// 2 * 15 * 127 = 3810, and the eight of a block can be added in 16 bits (30480). An 8-bit weight is
// its low nibble plus 16 times its high nibble, two such sums.
//
// A tile keeps two 16-bit accumulators a row: for 4 bits the panel's two halves of 8 outputs; for 8
// bits the two nibbles of one half, which it does twice. Staged block: { f32 scale[16]; f32
// bias[16] where there is one; uint8 q[..][2][32] }, nibbles apart. 4 bits: for k group g of 8 the
// two halves. 8 bits: for each half and k group the low nibbles, then the high ones.
template <class Format>
struct QuantKernel {
  static constexpr bool nibbles = Format::nibbles;
  static constexpr bool biased = Format::biased;
  static constexpr int k_per_unit = 32;
  static constexpr int unit_bytes = Format::bytes;
  static constexpr int staged_codes = biased ? 128 : 64;
  static constexpr int staged_bytes = staged_codes + (nibbles ? 512 : 1024);
  static constexpr int activation_bytes = 1;
  static constexpr int tile_rows = 4;  // with more, accumulators are spilled
  static constexpr int staged_panels = 1;
  static constexpr int many_panels = 1;
  static constexpr int few_panels = 1;
  static constexpr int few_rows = 1;
  static constexpr int unstaged_rows = 4;
  static constexpr int stage_from_rows = 5;
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

  // Eight scales, or biases, as they are packed.
  static __m256 packed_scales(const uint8_t* at, int half) {
    if constexpr (Format::scale_type == ScaleType::f32) {
      return _mm256_loadu_ps(reinterpret_cast<const float*>(at) + half * 8);
    } else {
      const __m128i halves = _mm_loadu_si128(reinterpret_cast<const __m128i*>(at) + half);
      if constexpr (Format::scale_type == ScaleType::f16) {
        return _mm256_cvtph_ps(halves);
      } else {
        return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16));
      }
    }
  }
  static __m256i low(__m256i bytes) { return _mm256_and_si256(bytes, _mm256_set1_epi8(15)); }
  static __m256i high(__m256i bytes) { return low(_mm256_srli_epi16(bytes, 4)); }

  // The two weight vectors of step g (0..7); `half` matters for 8 bits only.
  template <bool staged>
  static void pair(const uint8_t* block, int half, int g, __m256i* first, __m256i* second) {
    if constexpr (staged) {
      const uint8_t* at = block + staged_codes + (nibbles ? 0 : half * 512) + g * 64;
      *first = load_32(at);
      *second = load_32(at + 32);
    } else if constexpr (nibbles) {
      const uint8_t* at = block + Format::codes + g % 4 * 64;
      *first = g < 4 ? low(load_32(at)) : high(load_32(at));
      *second = g < 4 ? low(load_32(at + 32)) : high(load_32(at + 32));
    } else {
      __m256i both = load_32(block + Format::codes + g * 64 + half * 32);
      *first = low(both);
      *second = high(both);
    }
  }

  static void stage(const uint8_t* from, int64_t units, uint8_t* to) {
    for (int64_t u = 0; u < units; ++u, from += unit_bytes, to += staged_bytes) {
      // What the next chunk will stage.
      for (int line = 0; line < unit_bytes; line += 64) {
        _mm_prefetch(reinterpret_cast<const char*>(from + chunk_units * unit_bytes + line),
                     _MM_HINT_T0);
      }
      for (int half = 0; half < 2; ++half) {
        _mm256_storeu_ps(reinterpret_cast<float*>(to) + half * 8, scales<false>(from, half));
        if constexpr (biased) {
          _mm256_storeu_ps(reinterpret_cast<float*>(to + 64) + half * 8, biases<false>(from, half));
        }
      }
      uint8_t* out = to + staged_codes;
      for (int half = 0; half < (nibbles ? 1 : 2); ++half) {
        for (int g = 0; g < 8; ++g, out += 64) {
          __m256i first;
          __m256i second;
          pair<false>(from, half, g, &first, &second);
          _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), first);
          _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + 32), second);
        }
      }
    }
  }

  template <bool staged>
  static __m256 scales(const uint8_t* block, int half) {
    return staged ? _mm256_loadu_ps(reinterpret_cast<const float*>(block) + half * 8)
                  : packed_scales(block, half);
  }
  template <bool staged>
  static __m256 biases(const uint8_t* block, int half) {
    return staged ? _mm256_loadu_ps(reinterpret_cast<const float*>(block + 64) + half * 8)
                  : packed_scales(block + kPanel * Format::scale_bytes, half);
  }

  // `correction`: what the integer sum lacks, or, with a bias, what the bias is multiplied by.
  template <bool staged>
  static void finish(__m256i isum, const uint8_t* block, int half, int32_t correction,
                     __m256 x_scale, float* sums) {
    const __m256 scale = scales<staged>(block, half);
    __m256 product;
    if constexpr (biased) {
      const __m256 sum = _mm256_set1_ps(static_cast<float>(correction));
      product = _mm256_fmadd_ps(_mm256_cvtepi32_ps(isum), scale,
                                _mm256_mul_ps(biases<staged>(block, half), sum));
    } else {
      isum = _mm256_add_epi32(isum, _mm256_set1_epi32(correction));
      product = _mm256_mul_ps(_mm256_cvtepi32_ps(isum), scale);
    }
    _mm256_storeu_ps(sums, _mm256_fmadd_ps(product, x_scale, _mm256_loadu_ps(sums)));
  }

  template <int rows, int panels, bool staged>
  static void tile(const Pass& pass) {
    static_assert(panels == 1);
    constexpr int step = staged ? staged_bytes : unit_bytes;
    const uint8_t* factors = reinterpret_cast<const uint8_t*>(kNibbleFactors);
    asm("" : "+r"(factors));
    const uint8_t* weights = pass.weights;
    TileRows x(pass);
    for (int64_t u = 0; u < pass.units; ++u, weights += step, x.advance(32)) {
      if constexpr (!staged) {
        for (int line = 0; line < unit_bytes; line += 64) {
          _mm_prefetch(reinterpret_cast<const char*>(weights + 4096 + line), _MM_HINT_T0);
        }
      }
      for (int half = 0; half < (nibbles ? 1 : 2); ++half) {
        __m256i sums[rows][2];
#pragma clang loop unroll(full)
        for (int g = 0; g < 8; ++g) {
          __m256i first;
          __m256i second;
          pair<staged>(weights, half, g, &first, &second);
          for (int r = 0; r < rows; ++r) {
            __m256i q = broadcast_i32(x.row(r) + g * 4);
            __m256i one = _mm256_maddubs_epi16(first, q);
            __m256i two = _mm256_maddubs_epi16(second, q);
            sums[r][0] = g == 0 ? one : _mm256_add_epi16(sums[r][0], one);
            sums[r][1] = g == 0 ? two : _mm256_add_epi16(sums[r][1], two);
            // Or the compiler would add products in pairs first, for which registers lack.
            asm("" : "+x"(sums[r][0]), "+x"(sums[r][1]));
          }
          load_fence();
        }
        // Scales and factors come from memory where they are used: no register is free for them.
        for (int r = 0; r < rows; ++r) {
          const int32_t correction = pass.correction[r * pass.correction_stride + u];
          __m256 x_scale = _mm256_set1_ps(pass.x_scale[r * pass.scale_stride + u]);
          float* out = pass.sums + r * pass.sums_stride;
          if constexpr (nibbles) {
            for (int h = 0; h < 2; ++h) {
              __m256i isum = _mm256_madd_epi16(sums[r][h], load_32(factors));
              finish<staged>(isum, weights, h, correction, x_scale, out + h * 8);
            }
          } else {
            __m256i lower = _mm256_madd_epi16(sums[r][0], load_32(factors));
            __m256i upper = _mm256_madd_epi16(sums[r][1], load_32(factors + 32));
            finish<staged>(_mm256_add_epi32(upper, lower), weights, half, correction, x_scale,
                           out + half * 8);
          }
          load_fence();
        }
      }
    }
  }
};

}  // namespace
}  // namespace impetus::cpu

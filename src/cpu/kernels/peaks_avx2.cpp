#include <immintrin.h>

#include "cpu/kernels/peaks.h"

// The empty assembly keeps the compiler from seeing through the loops, and from leaving registers.
namespace impetus::cpu {
namespace {

// A product and its addition in 16 bits, the cheapest use of 8-bit products without VNNI.
double int8(int64_t rounds) {
  __m256i sums[10] = {};
  __m256i a = _mm256_set1_epi8(3);
  __m256i b = _mm256_set1_epi8(5);
  asm volatile("" : "+x"(a), "+x"(b));
  for (int64_t i = 0; i < rounds; ++i) {
    for (auto& sum : sums) {
      asm volatile("" : "+x"(a));  // or the product would be taken out of the loop
      __m256i product = _mm256_maddubs_epi16(a, b);
      sum = _mm256_add_epi16(sum, product);
      asm volatile("" : "+x"(sum));
    }
  }
  return static_cast<double>(rounds) * 10 * 64;
}

double f32(int64_t rounds) {
  __m256 sums[12] = {};
  __m256 a = _mm256_set1_ps(0.5f);
  asm volatile("" : "+x"(a));
  for (int64_t i = 0; i < rounds; ++i) {
    for (auto& sum : sums) {
      sum = _mm256_fmadd_ps(a, a, sum);
      asm volatile("" : "+x"(sum));
    }
  }
  return static_cast<double>(rounds) * 12 * 16;
}

void read(const void* data, size_t bytes) {
  const char* p = static_cast<const char*>(data);
  __m256i sums[4] = {};
  for (size_t i = 0; i < bytes; i += 128) {
    _mm_prefetch(p + i + 4096, _MM_HINT_T0);
    _mm_prefetch(p + i + 4096 + 64, _MM_HINT_T0);
    for (int j = 0; j < 4; ++j) {
      const __m256i* at = reinterpret_cast<const __m256i*>(p + i + j * 32);
      sums[j] = _mm256_or_si256(sums[j], _mm256_load_si256(at));
    }
  }
  asm volatile("" : : "x"(sums[0]), "x"(sums[1]), "x"(sums[2]), "x"(sums[3]));
}

}  // namespace

const PeakLoops kAvx2Peaks = {int8, f32, f32, read};

}  // namespace impetus::cpu

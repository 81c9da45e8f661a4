#include <immintrin.h>

#include "cpu/kernels/peaks.h"

// The empty assembly keeps the compiler from seeing through the loops, and from leaving registers.
namespace impetus::cpu {
namespace {

double int8(int64_t rounds) {
  __m512i sums[12] = {};
  __m512i a = _mm512_set1_epi8(3);
  __m512i b = _mm512_set1_epi8(5);
  asm volatile("" : "+v"(a), "+v"(b));
  for (int64_t i = 0; i < rounds; ++i) {
    for (auto& sum : sums) {
      sum = _mm512_dpbusd_epi32(sum, a, b);
      asm volatile("" : "+v"(sum));
    }
  }
  return static_cast<double>(rounds) * 12 * 128;
}

// The file's flags leave BF16 out, since its other loops run without it.
__attribute__((target("avx512bf16"))) double bf16(int64_t rounds) {
  __m512 sums[12] = {};
  __m512i raw = _mm512_set1_epi16(0x3f80);
  asm volatile("" : "+v"(raw));
  __m512bh a = reinterpret_cast<__m512bh>(raw);
  for (int64_t i = 0; i < rounds; ++i) {
    for (auto& sum : sums) {
      sum = _mm512_dpbf16_ps(sum, a, a);
      asm volatile("" : "+v"(sum));
    }
  }
  return static_cast<double>(rounds) * 12 * 64;
}

double f32(int64_t rounds) {
  __m512 sums[12] = {};
  __m512 a = _mm512_set1_ps(0.5f);
  asm volatile("" : "+v"(a));
  for (int64_t i = 0; i < rounds; ++i) {
    for (auto& sum : sums) {
      sum = _mm512_fmadd_ps(a, a, sum);
      asm volatile("" : "+v"(sum));
    }
  }
  return static_cast<double>(rounds) * 12 * 32;
}

void read(const void* data, size_t bytes) {
  const char* p = static_cast<const char*>(data);
  __m512i sums[4] = {};
  for (size_t i = 0; i < bytes; i += 256) {
    for (int j = 0; j < 4; ++j) {
      _mm_prefetch(p + i + j * 64 + 4096, _MM_HINT_T0);
      sums[j] = _mm512_or_si512(sums[j], _mm512_load_si512(p + i + j * 64));
    }
  }
  asm volatile("" : : "v"(sums[0]), "v"(sums[1]), "v"(sums[2]), "v"(sums[3]));
}

}  // namespace

const PeakLoops kAvx512Peaks = {int8, f32, f32, read};
const PeakLoops kAvx512Bf16Peaks = {int8, bf16, f32, read};

}  // namespace impetus::cpu

// The kernels over rows and elements, written once over `Simd`.
#pragma once

#include "cpu/kernels/kernels.h"
#include "cpu/kernels/math.inc.h"

namespace impetus::cpu {
namespace {

// Calls f(offset, lanes) for each vector of n elements; only the last has fewer lanes than width.
template <class Function>
inline void for_vectors(int64_t n, Function f) {
  int64_t i = 0;
  for (; i + Simd::width <= n; i += Simd::width) f(i, Simd::width);
  if (i < n) f(i, static_cast<int>(n - i));
}

inline Simd::F load_lanes(const float* p, int lanes) {
  return lanes == Simd::width ? Simd::load(p) : Simd::load_n(p, lanes);
}

inline void store_lanes(float* p, Simd::F x, int lanes) {
  if (lanes == Simd::width) {
    Simd::store(p, x);
  } else {
    Simd::store_n(p, x, lanes);
  }
}

void quantize_rows(const float* x, int64_t x_stride, int64_t m, int64_t k, QuantizedRows out) {
  using S = Simd;
  constexpr int vectors = 32 / S::width;
  for (int64_t row = 0; row < m; ++row) {
    const float* in = x + row * x_stride;
    int8_t* q = out.q + row * k;
    float* scales = out.scale + row * (k / 32);
    int32_t* sums = out.sum + row * (k / 32);
    for (int64_t block = 0; block < k / 32; ++block, in += 32, q += 32) {
      S::F values[vectors];
      for (int v = 0; v < vectors; ++v) values[v] = S::load(in + v * S::width);
      // Magnitudes order as their bits do, NaN above infinity.
      S::I top = S::magnitude(values[0]);
      for (int v = 1; v < vectors; ++v) top = S::max_int(top, S::magnitude(values[v]));
      uint32_t bits = S::max_int_lane(top);
      float amax;
      memcpy(&amax, &bits, 4);
      if (bits >= 0x7f800000u || amax < kQuantizedZero) [[unlikely]] {
        memset(q, 0, 32);
        scales[block] = bits >= 0x7f800000u ? __builtin_nanf("") : 0.0f;
        sums[block] = 0;
        continue;
      }
      S::F inverse = S::set1(127.0f / amax);
      S::I sum{};
      for (int v = 0; v < vectors; ++v) {
        S::I rounded = S::round_to_int(S::mul(values[v], inverse));
        S::store_int8(q + v * S::width, rounded);
        sum = S::add_int(sum, rounded);
      }
      scales[block] = amax / 127.0f;
      sums[block] = S::sum_int(sum);
    }
  }
}

void to_bf16(const float* x, int64_t n, uint16_t* out) {
  for_vectors(n, [&](int64_t i, int lanes) {
    Simd::F value = load_lanes(x + i, lanes);
    if (lanes == Simd::width) {
      Simd::store_bf16(out + i, value);
    } else {
      uint16_t last[Simd::width];
      Simd::store_bf16(last, value);
      memcpy(out + i, last, static_cast<size_t>(lanes) * 2);
    }
  });
}

// Four chains, so that the additions overlap; their order depends on n alone.
template <class Function>
inline float sum_over(int64_t n, Function f) {
  using S = Simd;
  S::F sums[4] = {S::zero(), S::zero(), S::zero(), S::zero()};
  int64_t i = 0;
  for (; i + 4 * S::width <= n; i += 4 * S::width) {
    for (int j = 0; j < 4; ++j) sums[j] = S::add(sums[j], f(i + j * S::width, S::width));
  }
  for (; i < n; i += S::width) {
    int lanes = n - i < S::width ? static_cast<int>(n - i) : S::width;
    sums[0] = S::add(sums[0], f(i, lanes));
  }
  return S::sum(S::add(S::add(sums[0], sums[1]), S::add(sums[2], sums[3])));
}

void rms_norm(const float* x, const float* weight, float eps, int64_t n, float* out) {
  using S = Simd;
  float squares = sum_over(n, [&](int64_t i, int lanes) {
    S::F v = load_lanes(x + i, lanes);
    return S::mul(v, v);
  });
  S::F scale = S::set1(1.0f / __builtin_sqrtf(squares / static_cast<float>(n) + eps));
  for_vectors(n, [&](int64_t i, int lanes) {
    S::F v = S::mul(load_lanes(x + i, lanes), scale);
    store_lanes(out + i, S::mul(v, load_lanes(weight + i, lanes)), lanes);
  });
}

void layer_norm(const float* x, const float* weight, const float* bias, float eps, int64_t n,
                float* out) {
  using S = Simd;
  S::F mean = S::set1(sum_over(n, [&](int64_t i, int lanes) { return load_lanes(x + i, lanes); }) /
                      static_cast<float>(n));
  float squares = sum_over(n, [&](int64_t i, int lanes) {
    S::F v = S::sub(load_lanes(x + i, lanes), mean);
    if (lanes < S::width) v = S::zero_after(v, lanes);
    return S::mul(v, v);
  });
  S::F scale = S::set1(1.0f / __builtin_sqrtf(squares / static_cast<float>(n) + eps));
  for_vectors(n, [&](int64_t i, int lanes) {
    S::F v = S::mul(S::sub(load_lanes(x + i, lanes), mean), scale);
    v = S::mul(v, load_lanes(weight + i, lanes));
    if (bias != nullptr) v = S::add(v, load_lanes(bias + i, lanes));
    store_lanes(out + i, v, lanes);
  });
}

void add(const float* x, const float* y, int64_t n, float* out) {
  for_vectors(n, [&](int64_t i, int lanes) {
    store_lanes(out + i, Simd::add(load_lanes(x + i, lanes), load_lanes(y + i, lanes)), lanes);
  });
}

void silu_multiply(const float* gate, const float* up, int64_t n, float* out) {
  for_vectors(n, [&](int64_t i, int lanes) {
    Simd::F g = load_lanes(gate + i, lanes);
    store_lanes(out + i, Simd::mul(times_sigmoid(g, g), load_lanes(up + i, lanes)), lanes);
  });
}

// x Phi(x), with the complementary error function by Abramowitz and Stegun 7.1.26 (error 1.5e-7):
// h = erfc(|x| / sqrt 2) / 2, then x h for negative x and x - x h for the others, so that small
// results are not differences of large ones.
void gelu_erf(const float* x, int64_t n, float* out) {
  using S = Simd;
  for_vectors(n, [&](int64_t i, int lanes) {
    S::F v = load_lanes(x + i, lanes);
    S::F minus_z = S::mul(S::negative_abs(v), S::set1(0.70710678118654752f));
    S::F t = S::div(S::set1(1.0f), S::fnma(S::set1(0.3275911f), minus_z, S::set1(1.0f)));
    S::F p = S::set1(1.061405429f);
    p = S::fma(p, t, S::set1(-1.453152027f));
    p = S::fma(p, t, S::set1(1.421413741f));
    p = S::fma(p, t, S::set1(-0.284496736f));
    p = S::fma(p, t, S::set1(0.254829592f));
    S::F half = S::mul(S::mul(p, t), S::set1(0.5f));
    S::F minus_square = S::mul(S::sub(S::zero(), minus_z), minus_z);
    S::F tail = S::mul(v, S::mul(half, exp_negative(minus_square)));
    store_lanes(out + i, S::select_less(v, S::zero(), tail, S::sub(v, tail)), lanes);
  });
}

// v (1 + tanh u) / 2 = v sigmoid(2 u).
void gelu_tanh(const float* x, int64_t n, float* out) {
  using S = Simd;
  for_vectors(n, [&](int64_t i, int lanes) {
    S::F v = load_lanes(x + i, lanes);
    S::F cubic = S::mul(S::mul(v, v), S::set1(0.044715f));
    S::F twice = S::mul(S::mul(v, S::set1(1.59576912160573071f)), S::add(cubic, S::set1(1.0f)));
    store_lanes(out + i, times_sigmoid(v, twice), lanes);
  });
}

void relu(const float* x, int64_t n, float* out) {
  for_vectors(n, [&](int64_t i, int lanes) {
    Simd::F v = load_lanes(x + i, lanes);
    store_lanes(out + i, Simd::select_less(v, Simd::zero(), Simd::zero(), v), lanes);
  });
}

void rope_halves(float* x, const float* cosine, const float* sine, int64_t head_dim) {
  using S = Simd;
  int64_t half = head_dim / 2;
  for_vectors(half, [&](int64_t i, int lanes) {
    S::F a = load_lanes(x + i, lanes);
    S::F b = load_lanes(x + half + i, lanes);
    S::F c = load_lanes(cosine + i, lanes);
    S::F s = load_lanes(sine + i, lanes);
    store_lanes(x + i, S::fnma(b, s, S::mul(a, c)), lanes);
    store_lanes(x + half + i, S::fma(a, s, S::mul(b, c)), lanes);
  });
}

void rope_neighbours(float* x, const float* cosine, const float* sine, int64_t head_dim) {
  using S = Simd;
  int64_t i = 0;
  for (; i + S::width <= head_dim; i += S::width) {
    S::store(x + i, S::rotate_pairs(S::load(x + i), cosine + i / 2, sine + i / 2));
  }
  for (; i < head_dim; i += 2) {
    float a = x[i];
    float b = x[i + 1];
    x[i] = a * cosine[i / 2] - b * sine[i / 2];
    x[i + 1] = b * cosine[i / 2] + a * sine[i / 2];
  }
}

// ---- the key/value cache
// --------------------------------------------------------------------------

template <KvType type>
struct KvElement {
  using Stored = uint16_t;
};
template <>
struct KvElement<KvType::f32> {
  using Stored = float;
};

template <KvType type>
inline void convert_lanes(const float* x, int lanes, typename KvElement<type>::Stored* out) {
  Simd::F value = load_lanes(x, lanes);
  if constexpr (type == KvType::f32) Simd::store(out, value);
  if constexpr (type == KvType::f16) Simd::store_f16(out, value);
  if constexpr (type == KvType::bf16) Simd::store_bf16(out, value);
}

template <KvType type>
void store_key(const float* key, int64_t head_dim, int64_t slot, void* block) {
  using Stored = typename KvElement<type>::Stored;
  Stored* out = static_cast<Stored*>(block) + slot / 16 * head_dim * 16 + slot % 16;
  for_vectors(head_dim, [&](int64_t i, int lanes) {
    Stored converted[Simd::width];
    convert_lanes<type>(key + i, lanes, converted);
    for (int d = 0; d < lanes; ++d) out[(i + d) * 16] = converted[d];
  });
}

template <KvType type>
void store_value(const float* value, int64_t head_dim, int64_t slot, void* block) {
  using Stored = typename KvElement<type>::Stored;
  Stored* out = static_cast<Stored*>(block) + slot * head_dim;
  for_vectors(head_dim, [&](int64_t i, int lanes) {
    Stored converted[Simd::width];
    convert_lanes<type>(value + i, lanes, converted);
    memcpy(out + i, converted, sizeof(Stored) * static_cast<size_t>(lanes));
  });
}

}  // namespace
}  // namespace impetus::cpu

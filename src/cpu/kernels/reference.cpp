// Every kernel in its most obvious form: one loop an index, sums in double. It sets the tolerance
// for the instruction-set files, and it is what runs on a machine that has none of them.
#include <math.h>
#include <string.h>

#include "cpu/kernels/kernels.h"
#include "cpu/kernels/peaks.h"

namespace impetus::cpu {
namespace {

uint32_t bits_of(float value) {
  uint32_t bits;
  memcpy(&bits, &value, 4);
  return bits;
}

float float_of(uint32_t bits) {
  float value;
  memcpy(&value, &bits, 4);
  return value;
}

float from_bf16(uint16_t value) {
  return float_of(static_cast<uint32_t>(value) << 16);
}

uint16_t to_bf16_one(float value) {
  uint32_t bits = bits_of(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40u);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

float from_f16(uint16_t value) {
  uint32_t sign = static_cast<uint32_t>(value & 0x8000u) << 16;
  uint32_t exponent = (value >> 10) & 31u;
  uint32_t mantissa = value & 0x3ffu;
  if (exponent == 31) {
    // A signalling NaN comes back quiet, as the hardware conversion gives it.
    uint32_t quiet = mantissa != 0 ? 0x400000u : 0u;
    return float_of(sign | 0x7f800000u | quiet | (mantissa << 13));
  }
  if (exponent != 0) return float_of(sign | ((exponent + 112) << 23) | (mantissa << 13));
  float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
  return float_of(sign | bits_of(magnitude));
}

// IEEE 754 binary16, to nearest even.
uint16_t to_f16_one(float value) {
  uint32_t bits = bits_of(value);
  uint32_t sign = (bits >> 16) & 0x8000u;
  uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) {
    return static_cast<uint16_t>(sign | 0x7e00u | ((magnitude >> 13) & 0x3ffu));
  }
  if (magnitude >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);
  if (magnitude < 0x38800000u) {  // below the smallest normal half: units of 2^-24
    return static_cast<uint16_t>(sign |
                                 static_cast<uint32_t>(nearbyintf(float_of(magnitude) * 0x1p24f)));
  }
  uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u);
  return static_cast<uint16_t>(sign | ((rounded - 0x38000000u) >> 13));
}

// ---- matrix products
// ------------------------------------------------------------------------------

int64_t panel_bytes_of(WeightLayout layout, int64_t k) {
  switch (layout) {
    case WeightLayout::f32:
      return k * kPanel * 4;
    case WeightLayout::f16:
      return k * kPanel * 2;
    case WeightLayout::bf16:
      return (k + 1) / 2 * kPanel * 4;
    case WeightLayout::q8_0:
      return k / 32 * 544;
    case WeightLayout::q4_0:
      return k / 32 * 288;
    case WeightLayout::g4_f16:
    case WeightLayout::g4_bf16:
      return k / 32 * (256 + 64);
    case WeightLayout::g4_f32:
      return k / 32 * (256 + 128);
    case WeightLayout::g8_f16:
    case WeightLayout::g8_bf16:
      return k / 32 * (512 + 64);
    case WeightLayout::g8_f32:
      return k / 32 * (512 + 128);
  }
  return 0;
}

uint16_t load_u16(const uint8_t* bytes) {
  uint16_t value;
  memcpy(&value, bytes, 2);
  return value;
}

double dot_f32(const MatmulArgs& a, const uint8_t* panel, int64_t row, int lane) {
  double sum = 0;
  for (int64_t k = 0; k < a.k; ++k) {
    float weight;
    memcpy(&weight, panel + (k * kPanel + lane) * 4, 4);
    sum += static_cast<double>(a.x[row * a.x_stride + k]) * weight;
  }
  return sum;
}

double dot_f16(const MatmulArgs& a, const uint8_t* panel, int64_t row, int lane) {
  double sum = 0;
  for (int64_t k = 0; k < a.k; ++k) {
    float weight = from_f16(load_u16(panel + (k * kPanel + lane) * 2));
    sum += static_cast<double>(a.x[row * a.x_stride + k]) * weight;
  }
  return sum;
}

double dot_bf16(const MatmulArgs& a, const uint8_t* panel, int64_t row, int lane) {
  double sum = 0;
  for (int64_t k = 0; k < a.k; ++k) {
    float weight = from_bf16(load_u16(panel + (k / 2 * kPanel * 2 + lane * 2 + k % 2) * 2));
    sum += static_cast<double>(from_bf16(a.x_bf16[row * a.x_stride + k])) * weight;
  }
  return sum;
}

double dot_q8_0(const MatmulArgs& a, const uint8_t* panel, int64_t row, int lane) {
  double sum = 0;
  for (int64_t block = 0; block < a.k / 32; ++block) {
    const uint8_t* bytes = panel + block * 544;
    const int8_t* q = a.x_q8.q + row * a.k + block * 32;
    int32_t isum = 0;
    for (int k = 0; k < 32; ++k) {
      int weight = bytes[32 + (k / 4 * kPanel + lane) * 4 + k % 4] - 128;
      isum += weight * q[k];
    }
    double scale = static_cast<double>(from_f16(load_u16(bytes + lane * 2))) *
                   a.x_q8.scale[row * (a.k / 32) + block];
    sum += isum * scale;
  }
  return sum;
}

double dot_q4_0(const MatmulArgs& a, const uint8_t* panel, int64_t row, int lane) {
  double sum = 0;
  for (int64_t block = 0; block < a.k / 32; ++block) {
    const uint8_t* bytes = panel + block * 288;
    const int8_t* q = a.x_q8.q + row * a.k + block * 32;
    int32_t isum = 0;
    for (int k = 0; k < 32; ++k) {
      int byte = bytes[32 + (k % 16 / 4 * kPanel + lane) * 4 + k % 4];
      int weight = (k < 16 ? byte & 15 : byte >> 4) - 8;
      isum += weight * q[k];
    }
    double scale = static_cast<double>(from_f16(load_u16(bytes + lane * 2))) *
                   a.x_q8.scale[row * (a.k / 32) + block];
    sum += isum * scale;
  }
  return sum;
}

enum class ScaleType { f16, bf16, f32 };

template <ScaleType type>
double load_scale(const uint8_t* at, int index) {
  if (type == ScaleType::f32) {
    float value;
    memcpy(&value, at + index * 4, 4);
    return value;
  }
  const uint16_t bits = load_u16(at + index * 2);
  return type == ScaleType::f16 ? from_f16(bits) : from_bf16(bits);
}

template <bool nibbles, ScaleType type>
double dot_grouped(const MatmulArgs& a, const uint8_t* panel, int64_t row, int lane) {
  constexpr int scale_bytes = type == ScaleType::f32 ? 4 : 2;
  constexpr int codes = 2 * kPanel * scale_bytes;
  double sum = 0;
  for (int64_t block = 0; block < a.k / 32; ++block) {
    const uint8_t* bytes = panel + block * (codes + (nibbles ? 256 : 512));
    const int8_t* q = a.x_q8.q + row * a.k + block * 32;
    int32_t isum = 0;
    int32_t qsum = 0;
    for (int k = 0; k < 32; ++k) {
      int byte = bytes[codes + ((nibbles ? k % 16 : k) / 4 * kPanel + lane) * 4 + k % 4];
      int code = !nibbles ? byte : k < 16 ? byte & 15 : byte >> 4;
      isum += code * q[k];
      qsum += q[k];
    }
    const double scale = load_scale<type>(bytes, lane);
    const double bias = load_scale<type>(bytes + kPanel * scale_bytes, lane);
    sum += (isum * scale + qsum * bias) * a.x_q8.scale[row * (a.k / 32) + block];
  }
  return sum;
}

template <WeightLayout layout, double (*dot)(const MatmulArgs&, const uint8_t*, int64_t, int)>
void matmul(const MatmulArgs& a) {
  for (int64_t row = 0; row < a.m; ++row) {
    for (int64_t panel = a.panel_begin; panel < a.panel_end; ++panel) {
      const uint8_t* bytes =
          static_cast<const uint8_t*>(a.weights) + panel * panel_bytes_of(layout, a.k);
      for (int lane = 0; lane < kPanel; ++lane) {
        double sum = dot(a, bytes, row, lane);
        if (a.bias != nullptr) sum += a.bias[panel * kPanel + lane];
        float* out = a.out + row * a.out_stride + panel * kPanel + lane;
        *out = static_cast<float>(a.accumulate ? *out + sum : sum);
      }
    }
  }
}

// ---- attention
// ------------------------------------------------------------------------------------

template <KvType type>
float load_kv(const void* block, int64_t index) {
  if constexpr (type == KvType::f32) return static_cast<const float*>(block)[index];
  uint16_t raw = static_cast<const uint16_t*>(block)[index];
  return type == KvType::f16 ? from_f16(raw) : from_bf16(raw);
}

template <KvType type>
float load_key(const AttentionArgs& a, int position, int d) {
  int slot = position % a.block_tokens;
  return load_kv<type>(a.key_blocks[position / a.block_tokens],
                       (static_cast<int64_t>(slot / 16) * a.head_dim + d) * 16 + slot % 16);
}

template <KvType type>
float load_value(const AttentionArgs& a, int position, int d) {
  int slot = position % a.block_tokens;
  return load_kv<type>(a.value_blocks[position / a.block_tokens],
                       static_cast<int64_t>(slot) * a.head_dim + d);
}

template <KvType type>
double score(const AttentionArgs& a, int row, int position) {
  double sum = 0;
  for (int d = 0; d < a.head_dim; ++d) {
    sum += static_cast<double>(a.query[row * a.query_stride + d]) * load_key<type>(a, position, d);
  }
  return sum;
}

template <KvType type>
void attention(const AttentionArgs& a) {
  for (int row = 0; row < a.rows; ++row) {
    double top = -INFINITY;
    for (int j = 0; j < a.visible[row]; ++j) top = fmax(top, score<type>(a, row, j));
    for (int d0 = 0; d0 < a.head_dim;
         d0 += 16) {  // scores again for each 16 outputs: no memory needed
      double total = 0;
      double sums[16] = {};
      for (int j = 0; j < a.visible[row]; ++j) {
        double weight = exp(score<type>(a, row, j) - top);
        total += weight;
        for (int d = d0; d < a.head_dim && d < d0 + 16; ++d) {
          sums[d - d0] += weight * load_value<type>(a, j, d);
        }
      }
      for (int d = d0; d < a.head_dim && d < d0 + 16; ++d) {
        a.out[row * a.out_stride + d] = static_cast<float>(sums[d - d0] / total);
      }
    }
  }
}

// ---- rows and elements
// ----------------------------------------------------------------------------

void quantize_rows(const float* x, int64_t x_stride, int64_t m, int64_t k, QuantizedRows out) {
  for (int64_t row = 0; row < m; ++row) {
    for (int64_t block = 0; block < k / 32; ++block) {
      const float* in = x + row * x_stride + block * 32;
      int8_t* q = out.q + row * k + block * 32;
      uint32_t top = 0;  // magnitudes order as their bits do, NaN above infinity
      for (int i = 0; i < 32; ++i) {
        uint32_t magnitude = bits_of(in[i]) & 0x7fffffffu;
        if (magnitude > top) top = magnitude;
      }
      float amax = float_of(top);
      float scale = amax / 127.0f;
      float inverse = 127.0f / amax;
      if (top >= 0x7f800000u) {
        scale = NAN;
        inverse = 0;
      } else if (amax < kQuantizedZero) {
        scale = 0;
        inverse = 0;
      }
      int32_t sum = 0;
      for (int i = 0; i < 32; ++i) {
        int32_t rounded = inverse == 0 ? 0 : static_cast<int32_t>(nearbyintf(in[i] * inverse));
        q[i] = static_cast<int8_t>(rounded);
        sum += rounded;
      }
      out.scale[row * (k / 32) + block] = scale;
      out.sum[row * (k / 32) + block] = sum;
    }
  }
}

void to_bf16(const float* x, int64_t n, uint16_t* out) {
  for (int64_t i = 0; i < n; ++i) out[i] = to_bf16_one(x[i]);
}

void rms_norm(const float* x, const float* weight, float eps, int64_t n, float* out) {
  double squares = 0;
  for (int64_t i = 0; i < n; ++i) squares += static_cast<double>(x[i]) * x[i];
  double scale = 1.0 / sqrt(squares / static_cast<double>(n) + eps);
  for (int64_t i = 0; i < n; ++i) out[i] = static_cast<float>(x[i] * scale * weight[i]);
}

void layer_norm(const float* x, const float* weight, const float* bias, float eps, int64_t n,
                float* out) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += x[i];
  double mean = sum / static_cast<double>(n);
  double squares = 0;
  for (int64_t i = 0; i < n; ++i) squares += (x[i] - mean) * (x[i] - mean);
  double scale = 1.0 / sqrt(squares / static_cast<double>(n) + eps);
  for (int64_t i = 0; i < n; ++i) {
    double value = (x[i] - mean) * scale * weight[i];
    out[i] = static_cast<float>(bias != nullptr ? value + bias[i] : value);
  }
}

void add(const float* x, const float* y, int64_t n, float* out) {
  for (int64_t i = 0; i < n; ++i) out[i] = x[i] + y[i];
}

void silu_multiply(const float* gate, const float* up, int64_t n, float* out) {
  for (int64_t i = 0; i < n; ++i) {
    double g = gate[i];
    out[i] = static_cast<float>(g / (1.0 + exp(-g)) * up[i]);
  }
}

void gelu_erf(const float* x, int64_t n, float* out) {
  for (int64_t i = 0; i < n; ++i) {
    double v = x[i];
    out[i] = static_cast<float>(0.5 * v * erfc(-v * 0.70710678118654752440));
  }
}

void gelu_tanh(const float* x, int64_t n, float* out) {
  for (int64_t i = 0; i < n; ++i) {
    double v = x[i];
    double inner = 0.79788456080286535588 * (v + 0.044715 * v * v * v);
    // v (1 + tanh inner) / 2 without the cancellation at negative v.
    out[i] = static_cast<float>(v / (1.0 + exp(-2.0 * inner)));
  }
}

void relu(const float* x, int64_t n, float* out) {
  for (int64_t i = 0; i < n; ++i) out[i] = x[i] < 0 ? 0.0f : x[i];
}

void rope_halves(float* x, const float* cosine, const float* sine, int64_t head_dim) {
  int64_t half = head_dim / 2;
  for (int64_t i = 0; i < half; ++i) {
    double a = x[i];
    double b = x[i + half];
    x[i] = static_cast<float>(a * cosine[i] - b * sine[i]);
    x[i + half] = static_cast<float>(b * cosine[i] + a * sine[i]);
  }
}

void rope_neighbours(float* x, const float* cosine, const float* sine, int64_t head_dim) {
  for (int64_t i = 0; i < head_dim / 2; ++i) {
    double a = x[2 * i];
    double b = x[2 * i + 1];
    x[2 * i] = static_cast<float>(a * cosine[i] - b * sine[i]);
    x[2 * i + 1] = static_cast<float>(b * cosine[i] + a * sine[i]);
  }
}

template <KvType type>
void store_kv(float value, void* block, int64_t index) {
  if constexpr (type == KvType::f32) static_cast<float*>(block)[index] = value;
  if constexpr (type == KvType::f16) static_cast<uint16_t*>(block)[index] = to_f16_one(value);
  if constexpr (type == KvType::bf16) static_cast<uint16_t*>(block)[index] = to_bf16_one(value);
}

template <KvType type>
void store_key(const float* key, int64_t head_dim, int64_t slot, void* block) {
  for (int64_t d = 0; d < head_dim; ++d) {
    store_kv<type>(key[d], block, (slot / 16 * head_dim + d) * 16 + slot % 16);
  }
}

template <KvType type>
void store_value(const float* value, int64_t head_dim, int64_t slot, void* block) {
  for (int64_t d = 0; d < head_dim; ++d) store_kv<type>(value[d], block, slot * head_dim + d);
}

constexpr KernelTable kTable = {
    .name = "reference",
    .peaks = &kReferencePeaks,
    .matmul = {matmul<WeightLayout::f32, dot_f32>, matmul<WeightLayout::f16, dot_f16>,
               matmul<WeightLayout::bf16, dot_bf16>, matmul<WeightLayout::q8_0, dot_q8_0>,
               matmul<WeightLayout::q4_0, dot_q4_0>,
               matmul<WeightLayout::g4_f16, dot_grouped<true, ScaleType::f16>>,
               matmul<WeightLayout::g4_bf16, dot_grouped<true, ScaleType::bf16>>,
               matmul<WeightLayout::g4_f32, dot_grouped<true, ScaleType::f32>>,
               matmul<WeightLayout::g8_f16, dot_grouped<false, ScaleType::f16>>,
               matmul<WeightLayout::g8_bf16, dot_grouped<false, ScaleType::bf16>>,
               matmul<WeightLayout::g8_f32, dot_grouped<false, ScaleType::f32>>},
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

const KernelTable* reference_kernels() {
  return &kTable;
}

}  // namespace impetus::cpu

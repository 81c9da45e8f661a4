// Every matmul kernel of every table against a product computed here from the unpacked weights.
#include <gtest/gtest.h>

#include <memory>

#include "cpu/kernels_test_support.h"

namespace impetus::cpu {
namespace {

constexpr WeightLayout kLayouts[] = {
    WeightLayout::f32,    WeightLayout::f16,     WeightLayout::bf16,    WeightLayout::q8_0,
    WeightLayout::q4_0,   WeightLayout::g4_f16,  WeightLayout::g4_bf16, WeightLayout::g4_f32,
    WeightLayout::g8_f16, WeightLayout::g8_bf16, WeightLayout::g8_f32};
constexpr const char* kLayoutNames[] = {"f32",     "f16",    "bf16",   "q8_0",    "q4_0",  "g4_f16",
                                        "g4_bf16", "g4_f32", "g8_f16", "g8_bf16", "g8_f32"};
static_assert(std::size(kLayouts) == kWeightLayouts && std::size(kLayoutNames) == kWeightLayouts);

bool is_quantised(WeightLayout layout) {
  return layout >= WeightLayout::q8_0;
}
bool is_grouped(WeightLayout layout) {
  return layout >= WeightLayout::g4_f16;
}
bool is_four_bits(WeightLayout layout) {
  return layout == WeightLayout::q4_0 || (is_grouped(layout) && layout <= WeightLayout::g4_f32);
}
// The type of a quantised layout's scales, as plain weights have it.
WeightLayout scale_type(WeightLayout layout) {
  switch (layout) {
    case WeightLayout::g4_f32:
    case WeightLayout::g8_f32:
      return WeightLayout::f32;
    case WeightLayout::g4_bf16:
    case WeightLayout::g8_bf16:
      return WeightLayout::bf16;
    default:
      return WeightLayout::f16;
  }
}
float rounded_to(WeightLayout type, float value) {
  if (type == WeightLayout::f16) return float_from_f16(f16_from_float(value));
  if (type == WeightLayout::bf16) {
    return std::bit_cast<float>(std::bit_cast<uint32_t>(value) & 0xffff0000u);
  }
  return value;
}

// One product: weights as numbers and as panels, activations in the form the layout wants.
struct Problem {
  WeightLayout layout;
  int64_t m;
  int64_t n;
  int64_t k;
  int64_t panels;
  std::vector<float> w;        // [n][k]: values; quantised: whole numbers
  std::vector<float> w_scale;  // quantised: [n][k / 32]
  std::vector<float> w_bias;   // grouped: the same
  std::unique_ptr<Guarded<uint8_t>> packed;
  int64_t x_stride = 0;
  std::unique_ptr<Guarded<float>> x;
  std::unique_ptr<Guarded<uint16_t>> x_bf16;
  std::unique_ptr<Guarded<int8_t>> q;
  std::unique_ptr<Guarded<float>> scale;
  std::unique_ptr<Guarded<int32_t>> sum;
  std::unique_ptr<Guarded<float>> bias;

  double weight(int64_t row, int64_t column) const { return w[row * k + column]; }
};

template <class T>
std::unique_ptr<Guarded<T>> guarded(int64_t count) {
  return std::make_unique<Guarded<T>>(static_cast<size_t>(count));
}

void put(Guarded<uint8_t>& to, int64_t at, const void* from, size_t bytes) {
  std::memcpy(to.data() + at, from, bytes);
}

void pack_floats(Problem& p) {
  const bool f32 = p.layout == WeightLayout::f32;
  const bool bf16 = p.layout == WeightLayout::bf16;
  const int64_t rows = bf16 ? (p.k + 1) / 2 * 2 : p.k;
  p.packed = guarded<uint8_t>(p.panels * rows * 16 * (f32 ? 4 : 2));
  for (int64_t n = 0; n < p.n; ++n) {
    for (int64_t k = 0; k < p.k; ++k) {
      int64_t in_panel = bf16 ? (k / 2 * 16 + n % 16) * 2 + k % 2 : k * 16 + n % 16;
      int64_t index = n / 16 * rows * 16 + in_panel;
      float value = p.w[n * p.k + k];
      if (f32) {
        put(*p.packed, index * 4, &value, 4);
      } else {
        uint16_t raw = bf16 ? static_cast<uint16_t>(std::bit_cast<uint32_t>(value) >> 16)
                            : f16_from_float(value);
        put(*p.packed, index * 2, &raw, 2);
      }
    }
  }
}

void pack_scale(Problem& p, int64_t at, int64_t lane, float value) {
  if (scale_type(p.layout) == WeightLayout::f32) {
    put(*p.packed, at + lane * 4, &value, 4);
    return;
  }
  const uint16_t bits = scale_type(p.layout) == WeightLayout::bf16
                            ? static_cast<uint16_t>(std::bit_cast<uint32_t>(value) >> 16)
                            : f16_from_float(value);
  put(*p.packed, at + lane * 2, &bits, 2);
}

void pack_blocks(Problem& p) {
  const bool four = is_four_bits(p.layout);
  const int64_t scales = scale_type(p.layout) == WeightLayout::f32 ? 64 : 32;
  const int64_t codes = scales * (is_grouped(p.layout) ? 2 : 1);
  const int64_t block_bytes = codes + (four ? 256 : 512);
  const int above = is_grouped(p.layout) ? 0 : four ? 8 : 128;
  const int64_t blocks = p.k / 32;
  p.packed = guarded<uint8_t>(p.panels * blocks * block_bytes);
  for (int64_t n = 0; n < p.panels * 16; ++n) {
    for (int64_t b = 0; b < blocks; ++b) {
      int64_t at = (n / 16 * blocks + b) * block_bytes;
      pack_scale(p, at, n % 16, n < p.n ? p.w_scale[n * blocks + b] : 0);
      if (is_grouped(p.layout)) {
        pack_scale(p, at + scales, n % 16, n < p.n ? p.w_bias[n * blocks + b] : 0);
      }
      for (int j = 0; j < 32; ++j) {
        int value = n < p.n ? static_cast<int>(p.w[n * p.k + b * 32 + j]) : 0;
        if (four) {
          int64_t index = at + codes + (j % 16 / 4 * 16 + n % 16) * 4 + j % 4;
          int nibble = value + above;
          (*p.packed)[index] |= static_cast<uint8_t>(j < 16 ? nibble : nibble << 4);
        } else {
          int64_t index = at + codes + (j / 4 * 16 + n % 16) * 4 + j % 4;
          (*p.packed)[index] = static_cast<uint8_t>(value + above);
        }
      }
    }
  }
}

// `magnitude` scales activations and, for float layouts, weights by its inverse root.
Problem make_problem(Random& random, WeightLayout layout, int64_t m, int64_t n, int64_t k,
                     float magnitude = 1.0f, bool extremes = false) {
  Problem p{};
  p.layout = layout;
  p.m = m;
  p.n = n;
  p.k = k;
  p.panels = (n + 15) / 16;
  p.w.resize(static_cast<size_t>(n * k));
  if (is_quantised(layout)) {
    const int count = is_four_bits(layout) ? 16 : 256;
    const int low = is_grouped(layout) ? 0 : -count / 2;
    const int high = low + count - 1;
    for (float& value : p.w) {
      value = static_cast<float>(extremes ? (random.between(0, 7) != 0 ? low : high)
                                          : random.between(low, high));
    }
    p.w_scale.resize(static_cast<size_t>(n * (k / 32)));
    p.w_bias.resize(p.w_scale.size());
    for (float& value : p.w_scale) value = rounded_to(scale_type(layout), random.normal() * 0.05f);
    for (float& value : p.w_bias) value = rounded_to(scale_type(layout), random.normal() * 0.5f);
    pack_blocks(p);
  } else {
    for (float& value : p.w) {
      value = random.normal();
      value = rounded_to(layout, value);
    }
    pack_floats(p);
  }

  std::vector<float> x(static_cast<size_t>(m * k));
  for (float& value : x) {
    value = random.normal() * magnitude;
    if (extremes) value = random.between(0, 3) != 0 ? -magnitude : magnitude;
  }
  const KernelTable* reference = reference_kernels();
  if (is_quantised(layout)) {
    p.q = guarded<int8_t>(m * k);
    p.scale = guarded<float>(m * (k / 32));
    p.sum = guarded<int32_t>(m * (k / 32));
    reference->quantize_rows(x.data(), k, m, k, {p.q->data(), p.scale->data(), p.sum->data()});
  } else if (layout == WeightLayout::bf16) {
    p.x_stride = (k + 1) / 2 * 2 + random.between(0, 1) * 6;
    p.x_bf16 = guarded<uint16_t>((m - 1) * p.x_stride + (k + 1) / 2 * 2);
    for (int64_t r = 0; r < m; ++r) {
      reference->to_bf16(x.data() + r * k, k, p.x_bf16->data() + r * p.x_stride);
    }
  } else {
    p.x_stride = k + random.between(0, 5);
    p.x = guarded<float>((m - 1) * p.x_stride + k);
    for (int64_t r = 0; r < m; ++r) {
      std::memcpy(p.x->data() + r * p.x_stride, x.data() + r * k, static_cast<size_t>(k) * 4);
    }
  }
  p.bias = guarded<float>(p.panels * 16);
  for (int64_t i = 0; i < p.panels * 16; ++i) (*p.bias)[static_cast<size_t>(i)] = random.normal();
  return p;
}

MatmulArgs args_of(const Problem& p, int64_t row, int64_t rows, int64_t panel_begin,
                   int64_t panel_end, float* out, int64_t out_stride) {
  MatmulArgs a{};
  if (p.x) a.x = p.x->data() + row * p.x_stride;
  if (p.x_bf16) a.x_bf16 = p.x_bf16->data() + row * p.x_stride;
  if (p.q) {
    a.x_q8 = {p.q->data() + row * p.k, p.scale->data() + row * (p.k / 32),
              p.sum->data() + row * (p.k / 32)};
  }
  a.x_stride = p.x_stride;
  a.m = rows;
  a.k = p.k;
  a.weights = p.packed->data();
  a.panel_begin = panel_begin;
  a.panel_end = panel_end;
  a.out = out + row * out_stride;
  a.out_stride = out_stride;
  return a;
}

// The exact sum and the sum of the magnitudes of what is added in f32.
void exact(const Problem& p, int64_t row, int64_t n, double* sum, double* magnitude) {
  *sum = 0;
  *magnitude = 0;
  if (n >= p.n) return;
  if (is_quantised(p.layout)) {
    for (int64_t b = 0; b < p.k / 32; ++b) {
      double isum = 0, qsum = 0;
      for (int64_t k = b * 32; k < b * 32 + 32; ++k) {
        const double q = (*p.q)[static_cast<size_t>(row * p.k + k)];
        isum += p.weight(n, k) * q;
        qsum += q;
      }
      const double x_scale = (*p.scale)[static_cast<size_t>(row * (p.k / 32) + b)];
      double term = isum * p.w_scale[n * (p.k / 32) + b] * x_scale;
      double bias = is_grouped(p.layout) ? qsum * p.w_bias[n * (p.k / 32) + b] * x_scale : 0;
      *sum += term + bias;
      *magnitude += std::abs(term) + std::abs(bias);
    }
    return;
  }
  for (int64_t k = 0; k < p.k; ++k) {
    size_t index = static_cast<size_t>(row * p.x_stride + k);
    double x = p.x ? (*p.x)[index] : float_from_bf16((*p.x_bf16)[index]);
    *sum += x * p.weight(n, k);
    *magnitude += std::abs(x * p.weight(n, k));
  }
}

// Each output is one chain of `steps` roundings (two a k where vdpbf16ps may round each product's
// addition; per block one for the scale product and one for the fma), then bias and old output: the
// classic bound of that chain times the sum of magnitudes. Results near the smallest numbers may
// lose a denormal per step; bf16 instructions take denormals as zero.
double tolerance(const Problem& p, double magnitude, double others) {
  // A bias adds a product of its own.
  const double rounded = is_grouped(p.layout) ? 3 : 2;
  double steps = is_quantised(p.layout) ? rounded * static_cast<double>(p.k) / 32 + 1
                                        : 2.0 * static_cast<double>(p.k);
  double smallest = p.layout == WeightLayout::bf16 ? 0x1p-122 : 0x1p-148;
  return rounding_bound(steps + 3) * (magnitude + others) +
         smallest * (static_cast<double>(p.k) + 3);
}

void check(const KernelTable& table, const Problem& p, bool bias, bool accumulate, Random& random) {
  const int64_t stride = p.panels * 16 + random.between(0, 3);
  Guarded<float> out(static_cast<size_t>(p.m * stride));
  for (size_t i = 0; i < out.size(); ++i) out[i] = random.normal();
  std::vector<float> before(out.data(), out.data() + out.size());
  auto kernel = table.matmul[static_cast<int>(p.layout)];

  MatmulArgs a = args_of(p, 0, p.m, 0, p.panels, out.data(), stride);
  a.bias = bias ? p.bias->data() : nullptr;
  a.accumulate = accumulate;
  kernel(a);
  ASSERT_TRUE(out.intact());
  for (int64_t r = 0; r < p.m; ++r) {
    for (int64_t n = 0; n < stride; ++n) {
      const size_t at = static_cast<size_t>(r * stride + n);
      if (n >= p.panels * 16) {
        ASSERT_EQ(out[at], before[at]) << "written beside the panels";
        continue;
      }
      double sum;
      double magnitude;
      exact(p, r, n, &sum, &magnitude);
      double others = 0;
      if (bias) {
        sum += (*p.bias)[static_cast<size_t>(n)];
        others += std::abs((*p.bias)[static_cast<size_t>(n)]);
      }
      if (accumulate) {
        sum += before[at];
        others += std::abs(before[at]);
      }
      ASSERT_LE(std::abs(out[at] - sum), tolerance(p, magnitude, others))
          << "row " << r << " output " << n << ": " << out[at] << " for " << sum;
    }
  }

  // The same rows in other company, and the panels in other portions: the same bits.
  Guarded<float> parts(out.size());
  std::memcpy(parts.data(), before.data(), before.size() * sizeof(float));
  for (int64_t row = 0; row < p.m;) {
    int64_t rows = random.between(0, 1) != 0 ? 1 : random.between(1, p.m - row);
    for (int64_t panel = 0; panel < p.panels;) {
      int64_t end = random.between(panel + 1, p.panels);
      MatmulArgs part = args_of(p, row, rows, panel, end, parts.data(), stride);
      part.bias = a.bias;
      part.accumulate = accumulate;
      kernel(part);
      panel = end;
    }
    row += rows;
  }
  ASSERT_TRUE(same_bits(out.data(), parts.data(), out.size())) << "a row depends on its batch";
}

class KernelsMatmul : public testing::TestWithParam<WeightLayout> {};

TEST_P(KernelsMatmul, RandomShapesAgreeWithTheExactProductAndRowsAreIndependent) {
  const WeightLayout layout = GetParam();
  for (const KernelTable* table : every_table()) {
    Random random(7 + static_cast<uint64_t>(layout));
    for (int round = 0; round < 120; ++round) {
      int64_t m = random.between(1, 40);
      int64_t n = random.between(1, 150);
      int64_t k = is_quantised(layout) ? 32 * random.between(1, 12) : random.between(1, 300);
      Problem p = make_problem(random, layout, m, n, k);
      SCOPED_TRACE(testing::Message() << table->name << " m " << m << " n " << n << " k " << k);
      check(*table, p, random.between(0, 1) != 0, random.between(0, 1) != 0, random);
      if (HasFatalFailure()) return;
    }
  }
}

// Past every blocking limit: many rows, many chunks of k, and so long a k that row blocks shrink.
TEST_P(KernelsMatmul, LongAndTallShapes) {
  const WeightLayout layout = GetParam();
  const int64_t shapes[][3] = {{7, 40, 1600}, {13, 33, 1088},  {97, 48, 544},
                               {205, 70, 96}, {30, 32, 14336}, {1, 200, 2048}};
  for (const KernelTable* table : every_table()) {
    Random random(11);
    for (const auto& [m, n, k] : shapes) {
      Problem p = make_problem(random, layout, m, n, k);
      SCOPED_TRACE(testing::Message() << table->name << " m " << m << " n " << n << " k " << k);
      check(*table, p, true, true, random);
      if (HasFatalFailure()) return;
    }
  }
}

TEST_P(KernelsMatmul, TinyHugeAndExtremeNumbers) {
  const WeightLayout layout = GetParam();
  for (const KernelTable* table : every_table()) {
    Random random(13);
    for (float magnitude : {0.0f, 1e-42f, 1e-37f, 1e-20f, 1e20f, 1e33f}) {
      for (bool extremes : {false, true}) {
        Problem p = make_problem(random, layout, 14, 35, 192, magnitude, extremes);
        SCOPED_TRACE(testing::Message() << table->name << " magnitude " << magnitude);
        check(*table, p, false, false, random);
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST_P(KernelsMatmul, ANanInOneRowStaysInThatRow) {
  const WeightLayout layout = GetParam();
  for (const KernelTable* table : every_table()) {
    Random random(17);
    Problem p = make_problem(random, layout, 14, 40, 96);
    std::vector<float> clean(static_cast<size_t>(p.m * 48));
    auto kernel = table->matmul[static_cast<int>(layout)];
    kernel(args_of(p, 0, p.m, 0, 3, clean.data(), 48));
    const float nan = std::nanf("");
    if (p.x) (*p.x)[static_cast<size_t>(5 * p.x_stride + 70)] = nan;
    if (p.x_bf16) (*p.x_bf16)[static_cast<size_t>(5 * p.x_stride + 70)] = 0x7fc0;
    if (p.scale) (*p.scale)[5 * 3 + 2] = nan;
    std::vector<float> out(clean.size());
    kernel(args_of(p, 0, p.m, 0, 3, out.data(), 48));
    for (int64_t r = 0; r < p.m; ++r) {
      if (r == 5) {
        for (int64_t n = 0; n < p.n; ++n)
          ASSERT_TRUE(std::isnan(out[static_cast<size_t>(r * 48 + n)]));
      } else {
        ASSERT_TRUE(
            same_bits(&clean[static_cast<size_t>(r * 48)], &out[static_cast<size_t>(r * 48)], 48));
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Layouts, KernelsMatmul, testing::ValuesIn(kLayouts), [](const auto& info) {
  return kLayoutNames[static_cast<int>(info.param)];
});

}  // namespace
}  // namespace impetus::cpu

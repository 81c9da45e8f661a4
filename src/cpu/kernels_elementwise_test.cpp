// Row and element kernels of every table against the reference, within what f32 allows.
#include <gtest/gtest.h>

#include <functional>

#include "cpu/kernels_test_support.h"

namespace impetus::cpu {
namespace {

using Floats = std::vector<float>;

Floats random_floats(Random& random, int64_t n, float spread = 1.0f) {
  Floats x(static_cast<size_t>(n));
  for (float& value : x) value = random.normal() * spread;
  return x;
}

// Runs f(table, out) for every table over guarded memory and compares with the reference's result.
void compare(int64_t n, const std::function<void(const KernelTable&, float*)>& f,
             const std::function<double(size_t, float)>& allowed) {
  Guarded<float> expected(static_cast<size_t>(n));
  f(*reference_kernels(), expected.data());
  for (const KernelTable* table : every_table()) {
    Guarded<float> got(static_cast<size_t>(n));
    f(*table, got.data());
    ASSERT_TRUE(got.intact());
    for (size_t i = 0; i < got.size(); ++i) {
      ASSERT_LE(std::abs(static_cast<double>(got[i]) - expected[i]), allowed(i, expected[i]))
          << table->name << " n " << n << " at " << i << ": " << got[i] << " for " << expected[i];
    }
  }
}

constexpr int64_t kSizes[] = {1,  2,  3,  7,  8,  9,   15,  16,   17,
                              31, 33, 63, 64, 65, 100, 384, 2048, 2049};

TEST(KernelsElementwise, QuantizeRowsIsBitEqualEverywhere) {
  Random random(41);
  for (int round = 0; round < 200; ++round) {
    const int64_t m = random.between(1, 5);
    const int64_t k = 32 * random.between(1, 9);
    const int64_t stride = k + random.between(0, 7);
    Guarded<float> x(static_cast<size_t>((m - 1) * stride + k));
    for (size_t i = 0; i < x.size(); ++i) {
      // Magnitudes of every size; sometimes bits of any kind, NaN and infinity among them.
      float value = random.normal() * std::ldexp(1.0f, static_cast<int>(random.between(-3, 3)));
      if (round % 4 == 1) value = std::ldexp(value, static_cast<int>(random.between(-149, 120)));
      if (round % 4 == 2) value = std::bit_cast<float>(static_cast<uint32_t>(random.bits()));
      if (round % 4 == 3) value = static_cast<float>(random.between(-254, 254)) * 0.5f;  // ties
      x[i] = value;
    }
    struct Out {
      explicit Out(size_t n) : q(n), scale(n / 32), sum(n / 32) {}
      Guarded<int8_t> q;
      Guarded<float> scale;
      Guarded<int32_t> sum;
    };
    auto quantize = [&](const KernelTable& table) {
      auto out = std::make_unique<Out>(static_cast<size_t>(m * k));
      table.quantize_rows(x.data(), stride, m, k,
                          {out->q.data(), out->scale.data(), out->sum.data()});
      return out;
    };
    auto expected = quantize(*reference_kernels());
    for (int64_t block = 0; block < m * k / 32; ++block) {
      const float* in = x.data() + block / (k / 32) * stride + block % (k / 32) * 32;
      const float scale = expected->scale[static_cast<size_t>(block)];
      int32_t sum = 0;
      for (int i = 0; i < 32; ++i) {
        const int q = expected->q[static_cast<size_t>(block * 32 + i)];
        ASSERT_LE(std::abs(q), 127);
        sum += q;
        if (!std::isnan(scale)) {
          ASSERT_LE(std::abs(static_cast<double>(q) * scale - in[i]),
                    0.5001 * scale + kQuantizedZero);
        }
      }
      ASSERT_EQ(sum, expected->sum[static_cast<size_t>(block)]);
    }
    for (const KernelTable* table : every_table()) {
      auto got = quantize(*table);
      ASSERT_EQ(0, std::memcmp(got->q.data(), expected->q.data(), got->q.size())) << table->name;
      ASSERT_EQ(0, std::memcmp(got->sum.data(), expected->sum.data(), got->sum.size() * 4));
      for (size_t i = 0; i < got->scale.size(); ++i) {
        bool both_nan = std::isnan(got->scale[i]) && std::isnan(expected->scale[i]);
        ASSERT_TRUE(both_nan || got->scale[i] == expected->scale[i]) << table->name;
      }
    }
  }
}

TEST(KernelsElementwise, QuantizeRowsMarksNanAndInfinity) {
  for (const KernelTable* table : every_table()) {
    for (float bad : {std::nanf(""), INFINITY, -INFINITY}) {
      Floats x(96, 1.0f);
      x[40] = bad;
      std::vector<int8_t> q(96);
      float scale[3];
      int32_t sum[3];
      table->quantize_rows(x.data(), 96, 1, 96, {q.data(), scale, sum});
      EXPECT_EQ(scale[0], 1.0f / 127.0f);
      EXPECT_TRUE(std::isnan(scale[1])) << table->name;
      EXPECT_EQ(q[40], 0);
      EXPECT_EQ(sum[1], 0);
      EXPECT_EQ(q[95], 127);
    }
  }
}

TEST(KernelsElementwise, ToBf16RoundsToNearestEvenBitForBit) {
  Random random(43);
  for (int64_t n : kSizes) {
    Guarded<float> x(static_cast<size_t>(n));
    for (size_t i = 0; i < x.size(); ++i) {
      uint32_t bits = static_cast<uint32_t>(random.bits());
      if (i % 3 == 0) bits = (bits & 0xffff0000u) | 0x8000u;  // ties
      if (i % 7 == 0) bits |= 0x7f800000u;                    // NaN and infinity
      if (i % 11 == 0) bits &= 0x807fffffu;                   // denormals
      x[i] = std::bit_cast<float>(bits);
    }
    Guarded<uint16_t> expected(static_cast<size_t>(n));
    reference_kernels()->to_bf16(x.data(), n, expected.data());
    for (size_t i = 0; i < x.size(); ++i) {
      float back = float_from_bf16(expected[i]);
      if (std::isnan(x[i])) {
        ASSERT_TRUE(std::isnan(back));
      } else if (std::isfinite(back)) {
        ASSERT_LE(std::abs(static_cast<double>(back) - x[i]), std::abs(x[i]) * 0x1p-8 + 0x1p-134);
      }
    }
    for (const KernelTable* table : every_table()) {
      Guarded<uint16_t> got(static_cast<size_t>(n));
      table->to_bf16(x.data(), n, got.data());
      ASSERT_EQ(0, std::memcmp(got.data(), expected.data(), static_cast<size_t>(n) * 2))
          << table->name;
    }
  }
}

// The sums round n times at most, relative to their magnitudes; the rest is a handful of
// operations.
TEST(KernelsElementwise, Norms) {
  Random random(47);
  for (int64_t n : kSizes) {
    for (float spread : {1e-6f, 1.0f, 1e6f}) {
      Floats x = random_floats(random, n, spread);
      Floats weight = random_floats(random, n);
      Floats bias = random_floats(random, n);
      double bound = rounding_bound(static_cast<double>(n) + 8);
      compare(
          n,
          [&](const KernelTable& t, float* out) {
            t.rms_norm(x.data(), weight.data(), 1e-5f, n, out);
          },
          [&](size_t, float e) { return bound * std::abs(e) + 1e-37; });
      if (n < 7) continue;  // a deviation of next to nothing has no relative precision
      for (const float* b :
           {static_cast<const float*>(nullptr), static_cast<const float*>(bias.data())}) {
        compare(
            n,
            [&](const KernelTable& t, float* out) {
              t.layer_norm(x.data(), weight.data(), b, 1e-5f, n, out);
            },
            [&](size_t i, float e) {
              double size = std::abs(e) + (b != nullptr ? std::abs(b[i]) : 0.0);
              return 8 * bound * (size + std::abs(weight[i])) + 1e-37;
            });
      }
    }
  }
}

TEST(KernelsElementwise, AddAndRelu) {
  Random random(53);
  for (int64_t n : kSizes) {
    Floats x = random_floats(random, n);
    Floats y = random_floats(random, n);
    compare(
        n, [&](const KernelTable& t, float* out) { t.add(x.data(), y.data(), n, out); },
        [](size_t, float) { return 0.0; });
    compare(
        n, [&](const KernelTable& t, float* out) { t.relu(x.data(), n, out); },
        [](size_t, float) { return 0.0; });
  }
}

// Smooth functions: swept over every magnitude. exp is good to 2 units in the last place, and its
// argument, of size at most |2 u|, carries up to three roundings: 4 + 3 |2 u| units where the
// result has not died out. gelu_erf's formula is good to 1.5e-7 in erf (its header line promises
// 1e-6).
TEST(KernelsElementwise, Activations) {
  Floats x;
  for (double v = -100; v <= 100; v += 0.0037) x.push_back(static_cast<float>(v));
  for (int e = -149; e < 127; ++e) {
    x.push_back(std::ldexp(1.37f, e));
    x.push_back(-std::ldexp(1.37f, e));
  }
  const int64_t n = static_cast<int64_t>(x.size());
  Floats up(x.size(), 1.25f);
  compare(
      n, [&](const KernelTable& t, float* out) { t.silu_multiply(x.data(), up.data(), n, out); },
      [&](size_t i, float e) {
        double units = 10 + 2 * std::min(std::abs(static_cast<double>(x[i])), 90.0);
        return units * kHalfUlp * std::abs(e) + 1e-35;
      });
  compare(
      n, [&](const KernelTable& t, float* out) { t.gelu_tanh(x.data(), n, out); },
      [&](size_t i, float e) {
        double v = x[i];
        double twice = 2 * std::abs(0.7978845608 * (v + 0.044715 * v * v * v));
        double units = 10 + 8 * std::min(twice, 90.0);
        return units * kHalfUlp * std::abs(e) + 1e-35;
      });
  compare(
      n, [&](const KernelTable& t, float* out) { t.gelu_erf(x.data(), n, out); },
      [&](size_t, float e) {
        return std::min(1e-6, 4e-7 + 2e-7 * std::abs(e)) + 2 * kHalfUlp * std::abs(e);
      });

  for (const KernelTable* table : every_table()) {
    const float odd[] = {std::nanf(""), INFINITY, 0.0f, -0.0f, 3e38f, 1e-45f, -3e38f};
    float one[7] = {1, 1, 1, 1, 1, 1, 1};
    float out[7];
    table->silu_multiply(odd, one, 7, out);
    EXPECT_TRUE(std::isnan(out[0]) && out[1] == INFINITY && out[2] == 0 && out[6] == 0)
        << table->name;
    table->gelu_tanh(odd, 7, out);
    EXPECT_TRUE(std::isnan(out[0]) && out[2] == 0 && out[4] == 3e38f) << table->name;
    table->gelu_erf(odd, 7, out);
    EXPECT_TRUE(std::isnan(out[0]) && out[2] == 0 && out[4] == 3e38f) << table->name;
  }
}

TEST(KernelsElementwise, Rope) {
  Random random(59);
  for (int64_t head_dim : {2, 4, 6, 8, 16, 18, 30, 32, 34, 64, 80, 96, 100, 128}) {
    Floats x = random_floats(random, head_dim);
    Floats cosine;
    Floats sine;
    for (int64_t i = 0; i < head_dim / 2; ++i) {
      double angle = random.normal() * 10;
      cosine.push_back(static_cast<float>(std::cos(angle)));
      sine.push_back(static_cast<float>(std::sin(angle)));
    }
    for (bool halves : {true, false}) {
      compare(
          head_dim,
          [&](const KernelTable& t, float* out) {
            std::copy(x.begin(), x.end(), out);
            (halves ? t.rope_halves : t.rope_neighbours)(out, cosine.data(), sine.data(), head_dim);
          },
          [&](size_t, float) { return 4 * kHalfUlp * 8; });  // pairs are shorter than 8
    }
  }
}

TEST(KernelsElementwise, StoresWriteTheSameBytes) {
  Random random(61);
  for (int64_t head_dim : {2, 6, 8, 16, 20, 64, 80, 130}) {
    for (int type = 0; type < 3; ++type) {
      const size_t bytes = static_cast<size_t>(48 * head_dim) * (type == 0 ? 4 : 2);
      Floats x = random_floats(random, head_dim, 100.0f);
      x[0] = random.between(0, 1) != 0 ? 1e-6f : 1e6f;  // a denormal half, and one too large
      for (int64_t slot : {0, 5, 16, 47}) {
        Guarded<uint8_t> key(bytes, 0x11);
        Guarded<uint8_t> value(bytes, 0x11);
        reference_kernels()->store_key[type](x.data(), head_dim, slot, key.data());
        reference_kernels()->store_value[type](x.data(), head_dim, slot, value.data());
        for (const KernelTable* table : every_table()) {
          Guarded<uint8_t> got_key(bytes, 0x11);
          Guarded<uint8_t> got_value(bytes, 0x11);
          table->store_key[type](x.data(), head_dim, slot, got_key.data());
          table->store_value[type](x.data(), head_dim, slot, got_value.data());
          EXPECT_EQ(0, std::memcmp(key.data(), got_key.data(), bytes))
              << table->name << ' ' << type;
          EXPECT_EQ(0, std::memcmp(value.data(), got_value.data(), bytes))
              << table->name << ' ' << type;
        }
      }
    }
  }
}

TEST(KernelsTable, TheReferenceComesFirstAndNamesAreTold) {
  std::vector<const KernelTable*> tables = every_table();
  ASSERT_FALSE(tables.empty());
  EXPECT_STREQ(tables[0]->name, "reference");
  std::string names;
  for (const KernelTable* table : tables) names += std::string(table->name) + " ";
  RecordProperty("tables", names);
  std::printf("kernel tables tested: %s\n", names.c_str());
}

}  // namespace
}  // namespace impetus::cpu

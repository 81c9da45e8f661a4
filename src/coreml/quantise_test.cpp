#include "coreml/quantise.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <set>

#include "tensor/dtype.h"

namespace impetus::coreml {
namespace {

std::vector<float> normal(int64_t count, uint64_t seed, double deviation = 0.05) {
  std::mt19937_64 random(seed);
  std::normal_distribution<double> distribution(0, deviation);
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = static_cast<float>(distribution(random));
  return values;
}

double decibels(std::span<const float> signal, std::span<const float> noisy) {
  double power = 0;
  for (const float value : signal) power += static_cast<double>(value) * static_cast<double>(value);
  return 10 * std::log10(power / squared_error(signal, noisy));
}

TEST(Int8, ErrorsWithinHalfAStepForRowsOfAnyScale) {
  std::mt19937_64 random(1);
  for (int repeat = 0; repeat < 60; ++repeat) {
    const int64_t rows = 1 + static_cast<int64_t>(random() % 9);
    const int64_t columns = 1 + static_cast<int64_t>(random() % 70);
    const double deviation = std::pow(10.0, static_cast<double>(random() % 10) - 6);
    const auto weights = normal(rows * columns, random(), deviation);
    const Int8Rows made = quantise_int8(weights, rows, columns);
    for (int64_t r = 0; r < rows; ++r) {
      const float scale = f16_to_f32(made.scales[static_cast<size_t>(r)]);
      ASSERT_GT(scale, 0);
      for (int64_t c = 0; c < columns; ++c) {
        const auto i = static_cast<size_t>(r * columns + c);
        ASSERT_GE(made.values[i], -127);
        const float back = scale * static_cast<float>(made.values[i]);
        ASSERT_LE(std::fabs(back - weights[i]), scale * 0.50001f) << weights[i];
      }
    }
  }
}

TEST(Int8, ZeroRowsConstantRowsAndOutliers) {
  std::vector<float> weights(4 * 8, 0.0f);
  std::fill_n(weights.begin() + 8, 8, -0.3f);
  std::fill_n(weights.begin() + 16, 8, 0.01f);
  weights[16] = 60000;  // one outlier takes its row's resolution, and no other's
  std::fill_n(weights.begin() + 24, 8, 1e-7f);
  const Int8Rows made = quantise_int8(weights, 4, 8);
  EXPECT_EQ(made.scales[0], 0x3c00);
  const auto back = dequantise(made);
  for (size_t i = 0; i < 8; ++i) {
    EXPECT_EQ(back[i], 0);
    EXPECT_NEAR(back[8 + i], -0.3f, 0.3f / 127);
    EXPECT_NEAR(back[24 + i], 1e-7f, 6e-8f);
  }
  EXPECT_NEAR(back[16], 60000, 60000 / 254.0);
  EXPECT_EQ(back[17], 0);
}

TEST(Palettes, FewDistinctValuesAreExact) {
  std::mt19937_64 random(3);
  for (const int bits : {1, 2, 4, 6, 8}) {
    std::vector<float> known;
    for (int i = 0; i < 1 << bits; ++i) {
      known.push_back(f16_to_f32(f32_to_f16(static_cast<float>(i * i) * 0.37f - 11)));
    }
    std::vector<float> weights(12 * 31);
    for (float& weight : weights) weight = known[random() % known.size()];
    EXPECT_EQ(dequantise(palettise(weights, 12, 31, bits, 1)), weights) << bits;
    EXPECT_EQ(dequantise(palettise(weights, 12, 31, bits, 3)), weights) << bits;
  }
  const std::vector<float> constant(64, -2.5f);
  EXPECT_EQ(dequantise(palettise(constant, 8, 8, 4, 1)), constant);
  const std::vector<float> zeros = {0.0f, -0.0f, 0.0f, -0.0f};
  EXPECT_EQ(dequantise(palettise(zeros, 2, 2, 4, 2)), std::vector<float>(4, 0.0f));
}

TEST(Palettes, EveryWeightGetsItsNearestEntry) {
  std::mt19937_64 random(4);
  for (int repeat = 0; repeat < 20; ++repeat) {
    const int64_t groups = 1 + static_cast<int64_t>(random() % 3);
    const int64_t rows = groups * (1 + static_cast<int64_t>(random() % 6));
    const int64_t columns = 1 + static_cast<int64_t>(random() % 90);
    const int bits = 1 + static_cast<int>(random() % 8);
    auto weights = normal(rows * columns, random());
    weights[random() % weights.size()] = 900;  // an outlier
    const Palette made = palettise(weights, rows, columns, bits, groups);
    ASSERT_EQ(made.lut.size(), static_cast<size_t>(groups) << bits);
    const auto back = dequantise(made);
    const auto per_group = static_cast<size_t>(rows / groups * columns);
    for (size_t i = 0; i < weights.size(); ++i) {
      const float weight = f16_to_f32(f32_to_f16(weights[i]));
      const float got = std::fabs(back[i] - weight);
      const size_t group = i / per_group;
      for (size_t k = 0; k < size_t{1} << bits; ++k) {
        const float entry = f16_to_f32(made.lut[(group << bits) + k]);
        ASSERT_LE(got, std::fabs(entry - weight)) << repeat << " " << i << " " << k;
      }
    }
  }
}

// Lloyd and Max: the least error of n levels over a Gaussian, in dB below its power.
TEST(Palettes, AsGoodAsTheBestQuantiserOfAGaussian) {
  const auto weights = normal(400 * 500, 5);
  const std::pair<int, double> best[] = {{1, 4.40}, {2, 9.30}, {4, 20.22}, {6, 31.89}};
  for (const auto& [bits, limit] : best) {
    const double got = decibels(weights, dequantise(palettise(weights, 400, 500, bits, 1)));
    EXPECT_NEAR(got, limit, 0.15) << bits;
  }
}

// Against the optimum by dynamic programming, on groups small enough for it.
TEST(Palettes, CloseToTheOptimum) {
  std::mt19937_64 random(6);
  double ours = 0, optimal = 0;
  for (int repeat = 0; repeat < 20; ++repeat) {
    auto weights = normal(120, random());
    for (float& weight : weights) weight = f16_to_f32(f32_to_f16(weight));
    ours += squared_error(weights, dequantise(palettise(weights, 1, 120, 3, 1)));
    std::ranges::sort(weights);
    const size_t n = weights.size();
    std::vector<double> best(n + 1, 1e30);
    best[0] = 0;
    for (int k = 0; k < 8; ++k) {
      std::vector<double> next(n + 1, 1e30);
      next[0] = 0;
      for (size_t first = 0; first < n; ++first) {
        double sum = 0, squares = 0;
        for (size_t end = first; end < n; ++end) {
          const auto value = static_cast<double>(weights[end]);
          sum += value;
          squares += value * value;
          const double cost = squares - sum * sum / static_cast<double>(end - first + 1);
          next[end + 1] = std::min(next[end + 1], best[first] + cost);
        }
      }
      best = next;
    }
    optimal += best[n];
  }
  EXPECT_LT(ours, optimal * 1.12);
  EXPECT_GE(ours, optimal * 0.999);
}

TEST(Palettes, GroupsFollowRowsOfUnlikeScale) {
  auto weights = normal(16 * 64, 7);
  for (size_t i = weights.size() / 2; i < weights.size(); ++i) weights[i] *= 100;
  const auto one = dequantise(palettise(weights, 16, 64, 4, 1));
  const auto two = dequantise(palettise(weights, 16, 64, 4, 2));
  const auto small = [&](const std::vector<float>& values) {
    return std::span(values).first(weights.size() / 2);
  };
  EXPECT_GT(decibels(small(weights), small(two)), decibels(small(weights), small(one)) + 15);
}

TEST(Packed, LowestBitsFirst) {
  const std::vector<uint8_t> four = {1, 2, 3, 15, 7};
  EXPECT_EQ(packed(four, 4),
            (std::vector<std::byte>{std::byte{0x21}, std::byte{0xf3}, std::byte{7}}));
  std::mt19937_64 random(8);
  for (int bits = 1; bits <= 8; ++bits) {
    std::vector<uint8_t> indices(77);
    for (uint8_t& index : indices) index = static_cast<uint8_t>(random() % (1u << bits));
    const auto bytes = packed(indices, bits);
    ASSERT_EQ(bytes.size(), (77 * static_cast<size_t>(bits) + 7) / 8);
    for (size_t i = 0; i < indices.size(); ++i) {
      unsigned value = 0;
      for (size_t b = 0; b < static_cast<size_t>(bits); ++b) {
        const size_t bit = i * static_cast<size_t>(bits) + b;
        value |= (static_cast<unsigned>(bytes[bit / 8]) >> (bit % 8) & 1u) << b;
      }
      ASSERT_EQ(value, indices[i]) << bits << " " << i;
    }
  }
}

TEST(Groups, OfAtLeastSoManyRows) {
  EXPECT_EQ(groups_of(384, 8), 48);
  EXPECT_EQ(groups_of(30, 8), 3);
  EXPECT_EQ(groups_of(17, 8), 1);
  EXPECT_EQ(groups_of(8, 8), 1);
  EXPECT_EQ(groups_of(4, 8), 1);
}

}  // namespace
}  // namespace impetus::coreml

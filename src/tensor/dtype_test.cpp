#include "tensor/dtype.h"

#include <bit>
#include <cmath>
#include <limits>

#include <gtest/gtest.h>

namespace impetus {
namespace {

// The definition of IEEE binary16, computed another way than the conversion under test.
double half_value(uint16_t bits) {
  const int exponent = bits >> 10 & 31;
  const int mantissa = bits & 1023;
  const double magnitude =
      exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(1024 + mantissa, exponent - 25);
  return bits & 0x8000 ? -magnitude : magnitude;
}

TEST(F16, EveryHalfHasItsValueAndComesBack) {
  for (uint32_t i = 0; i < 65536; ++i) {
    const auto bits = static_cast<uint16_t>(i);
    const float value = f16_to_f32(bits);
    if ((bits & 0x7fff) > 0x7c00) {
      EXPECT_TRUE(std::isnan(value)) << bits;
      EXPECT_EQ(f32_to_f16(value), bits | 0x0200) << "NaN stays NaN, and quiet";
    } else if ((bits & 0x7fff) == 0x7c00) {
      EXPECT_EQ(value, bits & 0x8000 ? -INFINITY : INFINITY);
      EXPECT_EQ(f32_to_f16(value), bits);
    } else {
      EXPECT_EQ(value, half_value(bits)) << bits;
      EXPECT_EQ(std::signbit(value), (bits & 0x8000) != 0) << bits;
      EXPECT_EQ(f32_to_f16(value), bits);
    }
  }
}

TEST(F16, HandValues) {
  EXPECT_EQ(f16_to_f32(0x3c00), 1.0f);
  EXPECT_EQ(f16_to_f32(0xc000), -2.0f);
  EXPECT_EQ(f16_to_f32(0x7bff), 65504.0f);
  EXPECT_EQ(f16_to_f32(0x0001), 0x1p-24f);
  EXPECT_EQ(f16_to_f32(0x0400), 0x1p-14f);
  EXPECT_EQ(f16_to_f32(0x3555), 0.333251953125f);
  EXPECT_EQ(f32_to_f16(1.0f / 3.0f), 0x3555);
}

// Between every two neighbours: the middle goes to the even one, a step off it to the nearer one.
// This covers subnormals, the border to normals, and every binade.
TEST(F16, RoundsToNearestEvenEverywhere) {
  for (uint16_t low = 0; low < 0x7bff; ++low) {
    const auto high = static_cast<uint16_t>(low + 1);
    const float middle = (f16_to_f32(low) + f16_to_f32(high)) / 2;  // exact in f32
    const uint16_t even = low & 1 ? high : low;
    ASSERT_EQ(f32_to_f16(middle), even) << low;
    ASSERT_EQ(f32_to_f16(std::nextafter(middle, INFINITY)), high) << low;
    ASSERT_EQ(f32_to_f16(std::nextafter(middle, -INFINITY)), low) << low;
    ASSERT_EQ(f32_to_f16(-middle), even | 0x8000) << low;
  }
}

TEST(F16, TheEndsOfTheRange) {
  EXPECT_EQ(f32_to_f16(65519.996f), 0x7bff);
  EXPECT_EQ(f32_to_f16(65520.0f), 0x7c00) << "the middle past the largest half rounds to infinity";
  EXPECT_EQ(f32_to_f16(std::numeric_limits<float>::max()), 0x7c00);
  EXPECT_EQ(f32_to_f16(-std::numeric_limits<float>::max()), 0xfc00);
  EXPECT_EQ(f32_to_f16(0x1p-25f), 0x0000) << "half the smallest: a tie, to even";
  EXPECT_EQ(f32_to_f16(std::nextafter(0x1p-25f, 1.0f)), 0x0001);
  EXPECT_EQ(f32_to_f16(std::numeric_limits<float>::denorm_min()), 0x0000);
  EXPECT_EQ(f32_to_f16(-0.0f), 0x8000);
  EXPECT_TRUE(std::isnan(f16_to_f32(f32_to_f16(std::bit_cast<float>(0x7f800001u)))))
      << "a NaN whose payload is only in the lower bits does not become infinity";
}

TEST(Bf16, EveryValueComesBackAndRoundsToNearestEven) {
  for (uint32_t i = 0; i < 65536; ++i) {
    const auto bits = static_cast<uint16_t>(i);
    const float value = bf16_to_f32(bits);
    EXPECT_EQ(std::bit_cast<uint32_t>(value), i << 16);
    if (std::isnan(value)) {
      EXPECT_TRUE(std::isnan(bf16_to_f32(f32_to_bf16(value))));
      continue;
    }
    EXPECT_EQ(f32_to_bf16(value), bits);
  }
  for (uint16_t low = 0; low < 0x7f7f; ++low) {
    const auto high = static_cast<uint16_t>(low + 1);
    const float middle = std::bit_cast<float>(static_cast<uint32_t>(low) << 16 | 0x8000u);
    ASSERT_EQ(f32_to_bf16(middle), low & 1 ? high : low) << low;
    ASSERT_EQ(f32_to_bf16(std::nextafter(middle, INFINITY)), high) << low;
    ASSERT_EQ(f32_to_bf16(std::nextafter(middle, 0.0f)), low) << low;
  }
  EXPECT_TRUE(std::isnan(bf16_to_f32(f32_to_bf16(std::bit_cast<float>(0x7f800001u)))));
  EXPECT_EQ(f32_to_bf16(std::numeric_limits<float>::max()), 0x7f80);
}

TEST(DType, BytesOf) {
  EXPECT_EQ(bytes_of(DType::f32, 3), 12);
  EXPECT_EQ(bytes_of(DType::q8_0, 64), 68);
  EXPECT_EQ(bytes_of(DType::q4_0, 64), 36);
  EXPECT_EQ(bytes_of(DType::q4_0, 63), std::nullopt);
  EXPECT_EQ(bytes_of(DType::f32, -1), std::nullopt);
  EXPECT_EQ(bytes_of(DType::f32, std::numeric_limits<int64_t>::max()), std::nullopt);
  EXPECT_EQ(bytes_of(DType::i64, 0), 0);
}

}  // namespace
}  // namespace impetus

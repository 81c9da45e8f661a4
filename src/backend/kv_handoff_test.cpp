#include "backend/kv_handoff.h"

#include <cmath>
#include <random>

#include <gtest/gtest.h>

#include "tensor/tensor.h"

namespace impetus {
namespace {

TEST(KvHandoff, BytesOfEachType) {
  const KvShape shape{3, 2, 64};
  EXPECT_EQ(kv_bytes(shape, 5, DType::f32), 3 * 2 * 2 * 64 * 5 * 4);
  EXPECT_EQ(kv_bytes(shape, 5, DType::bf16), 3 * 2 * 2 * 64 * 5 * 2);
  EXPECT_EQ(kv_bytes(shape, 5, DType::q8_0), 3 * 2 * 2 * 5 * (64 / 32 * 34));
  EXPECT_TRUE(check_kv_type(DType::q8_0, 64).ok());
  EXPECT_TRUE(check_kv_type(DType::f16, 17).ok());
  EXPECT_NE(check_kv_type(DType::q8_0, 80).error().message.find("heads of 80"), std::string::npos);
  for (const DType type : {DType::q4_0, DType::i8, DType::grouped}) {
    EXPECT_EQ(check_kv_type(type, 64).error().code, ErrorCode::unsupported);
  }
}

// More than one piece, and the last one not whole.
TEST(KvHandoff, ToQ8AndBack) {
  std::mt19937_64 random(3);
  std::normal_distribution<float> normal(0, 4);
  std::vector<float> values(256 * 3 + 96);
  for (float& value : values) value = normal(random);
  values[7] = 0;
  std::fill_n(values.begin() + 64, 32, 0.0f);
  std::vector<std::byte> made(values.size() / 32 * 34), wanted(made.size());
  convert_kv(DType::f32, std::as_bytes(std::span(values)), DType::q8_0, made);
  quantize_q8_0(values.data(), static_cast<int64_t>(values.size()),
                reinterpret_cast<BlockQ8_0*>(wanted.data()));
  EXPECT_EQ(made, wanted);
  std::vector<float> back(values.size()), exact(values.size());
  convert_kv(DType::q8_0, made, DType::f32, std::as_writable_bytes(std::span(back)));
  dequantize(DType::q8_0, wanted.data(), static_cast<int64_t>(exact.size()), exact.data());
  EXPECT_EQ(back, exact);
  // From a type that was rounded before, too.
  std::vector<std::byte> halves(values.size() * 2), of_halves(made.size()),
      rounded(values.size() * 4);
  convert_kv(DType::f32, std::as_bytes(std::span(values)), DType::f16, halves);
  convert_kv(DType::f16, halves, DType::q8_0, of_halves);
  convert_kv(DType::f16, halves, DType::f32, rounded);
  convert_kv(DType::f32, rounded, DType::q8_0, made);
  EXPECT_EQ(of_halves, made);
}

TEST(KvHandoff, WhatIsNotFiniteStaysSo) {
  for (const float bad : {std::nanf(""), INFINITY, -INFINITY}) {
    std::vector<float> values(96, 1.0f), back(96);
    values[40] = bad;
    std::vector<std::byte> made(3 * 34);
    convert_kv(DType::f32, std::as_bytes(std::span(values)), DType::q8_0, made);
    convert_kv(DType::q8_0, made, DType::f32, std::as_writable_bytes(std::span(back)));
    EXPECT_FALSE(std::isfinite(back[40]));
    EXPECT_NEAR(back[0], 1, 1e-3);
    EXPECT_NEAR(back[95], 1, 1e-3);
  }
}

}  // namespace
}  // namespace impetus

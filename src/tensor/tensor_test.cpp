#include "tensor/tensor.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include <gtest/gtest.h>

#include "tests/support/bytes.h"

namespace impetus {
namespace {

using testing::random_floats;

TEST(Shape, RefusesWhatOverflows) {
  const auto shape = [](std::vector<int64_t> dims) { return Shape::checked(dims); };
  EXPECT_EQ(shape({2, 3})->elements(), 6);
  EXPECT_EQ(shape({2, 3, 4})->rows(), 6);
  EXPECT_EQ(shape({2, 3, 4})->columns(), 4);
  EXPECT_EQ(shape({})->elements(), 1);
  EXPECT_EQ(shape({5, 0})->elements(), 0);
  EXPECT_EQ(shape({1, 2, 3, 4, 5}).error().code, ErrorCode::unsupported);
  EXPECT_EQ(shape({3, -1}).error().code, ErrorCode::corrupt);
  EXPECT_EQ(shape({int64_t{1} << 32, int64_t{1} << 32}).error().code, ErrorCode::corrupt);
  // A zero must not hide an overflow: rows() leaves it out.
  EXPECT_EQ(shape({int64_t{1} << 32, int64_t{1} << 32, 0}).error().code, ErrorCode::corrupt);
  EXPECT_EQ(shape({2, 3})->to_string(), "[2, 3]");
}

TEST(Tensor, IsAlignedAndZero) {
  const auto tensor = Tensor::zeros(DType::f16, {3, 5});
  ASSERT_TRUE(tensor.ok());
  const TensorView view = tensor->view();
  EXPECT_EQ(view.data.size(), 30u);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(view.data.data()) % 64, 0u);
  for (const std::byte byte : view.data) EXPECT_EQ(byte, std::byte{0});
  EXPECT_EQ(view.row(2).data(), view.data.data() + 20);
}

TEST(Tensor, RefusesRowsThatAreNoWholeBlocks) {
  EXPECT_FALSE(Tensor::zeros(DType::q8_0, {2, 16}).ok()) << "32 elements, but half a block a row";
  EXPECT_TRUE(Tensor::zeros(DType::q8_0, {2, 64}).ok());
  const auto source = Tensor::zeros(DType::f32, {2, 16});
  EXPECT_FALSE(convert(source->view(), DType::q4_0).ok());
}

TEST(Quantise, BlocksMeanWhatTheFormatSays) {
  BlockQ8_0 eight{.d = f32_to_f16(0.5f), .q = {}};
  eight.q[0] = -128;
  eight.q[31] = 3;
  float out[32];
  dequantize(DType::q8_0, reinterpret_cast<const std::byte*>(&eight), 32, out);
  EXPECT_EQ(out[0], -64.0f);
  EXPECT_EQ(out[31], 1.5f);
  EXPECT_EQ(out[1], 0.0f);

  BlockQ4_0 four{.d = f32_to_f16(2.0f), .q = {}};
  four.q[0] = 0x1f;  // element 0: 15 - 8; element 16: 1 - 8
  dequantize(DType::q4_0, reinterpret_cast<const std::byte*>(&four), 32, out);
  EXPECT_EQ(out[0], 14.0f);
  EXPECT_EQ(out[16], -14.0f);
  EXPECT_EQ(out[1], -16.0f);
}

// |x - d q| <= d / 2 by rounding, and the scale itself is rounded to f16, by at most d / 2^11 or,
// for subnormal scales, 2^-25: up to 127 times that more.
TEST(Quantise, Q8ErrorIsBounded) {
  for (uint32_t seed = 0; seed < 200; ++seed) {
    auto values = random_floats(64, seed);
    for (float& value : values) value *= std::ldexp(1.0f, static_cast<int>(seed % 20) - 10);
    BlockQ8_0 blocks[2];
    float back[64];
    quantize_q8_0(values.data(), 64, blocks);
    dequantize(DType::q8_0, reinterpret_cast<const std::byte*>(blocks), 64, back);
    for (int i = 0; i < 64; ++i) {
      float peak = 0;
      for (int j = i / 32 * 32; j < i / 32 * 32 + 32; ++j)
        peak = std::max(peak, std::fabs(values[j]));
      const float d = peak / 127;
      // 1 % over the bound for the rounding of 1 / d and of the product.
      const float bound = d / 2 + 127 * std::max(d / 2048, 0x1p-25f);
      ASSERT_LE(std::fabs(values[i] - back[i]), 1.01f * bound) << seed << " " << i;
    }
  }
}

// Half a step, except that the side away from the extreme clips at 7 of 8 steps: a whole step.
TEST(Quantise, Q4ErrorIsBounded) {
  for (uint32_t seed = 0; seed < 200; ++seed) {
    const auto values = random_floats(32, seed);
    BlockQ4_0 block;
    float back[32];
    quantize_q4_0(values.data(), 32, &block);
    dequantize(DType::q4_0, reinterpret_cast<const std::byte*>(&block), 32, back);
    float extreme = 0;
    for (const float value : values) {
      if (std::fabs(value) > std::fabs(extreme)) extreme = value;
    }
    const float d = std::fabs(extreme) / 8;
    for (int i = 0; i < 32; ++i) {
      const bool away = values[i] * extreme < 0;
      const float bound = (away ? d : d / 2) + 8 * d / 2048;
      ASSERT_LE(std::fabs(values[i] - back[i]), 1.01f * bound) << seed << " " << i;
    }
  }
}

TEST(Quantise, WhatIsOnTheGridStaysExactly) {
  for (int step = -127; step <= 127; ++step) {
    float values[32] = {127 * 0.25f};
    for (int i = 1; i < 32; ++i) values[i] = 0.25f * static_cast<float>(step);
    BlockQ8_0 block;
    float back[32];
    quantize_q8_0(values, 32, &block);
    dequantize(DType::q8_0, reinterpret_cast<const std::byte*>(&block), 32, back);
    ASSERT_EQ(std::memcmp(values, back, sizeof(values)), 0) << step;
  }
  for (int step = -8; step <= 7; ++step) {
    float values[32] = {-8 * 0.5f};
    for (int i = 1; i < 32; ++i) values[i] = 0.5f * static_cast<float>(step);
    BlockQ4_0 block;
    float back[32];
    quantize_q4_0(values, 32, &block);
    dequantize(DType::q4_0, reinterpret_cast<const std::byte*>(&block), 32, back);
    for (int i = 0; i < 32; ++i) ASSERT_EQ(values[i], back[i]) << step;
  }
}

TEST(Quantise, ZerosStayZeros) {
  const float values[32] = {};
  float back[32];
  BlockQ8_0 eight;
  quantize_q8_0(values, 32, &eight);
  dequantize(DType::q8_0, reinterpret_cast<const std::byte*>(&eight), 32, back);
  for (const float value : back) EXPECT_EQ(value, 0.0f);
  BlockQ4_0 four;
  quantize_q4_0(values, 32, &four);
  dequantize(DType::q4_0, reinterpret_cast<const std::byte*>(&four), 32, back);
  for (const float value : back) EXPECT_EQ(value, 0.0f);
}

Tensor tensor_of(const std::vector<float>& values, Shape shape) {
  Tensor tensor = std::move(Tensor::zeros(DType::f32, shape)).value();
  std::memcpy(tensor.mutable_bytes().data(), values.data(), values.size() * 4);
  return tensor;
}

TEST(Convert, EveryPairOfWeightTypes) {
  const Tensor source = tensor_of(random_floats(3 * 64, 7), {3, 64});
  for (const DType first : {DType::f32, DType::f16, DType::bf16, DType::q8_0, DType::q4_0}) {
    const auto once = convert(source.view(), first);
    ASSERT_TRUE(once.ok());
    for (const DType second : {DType::f32, DType::f16, DType::bf16, DType::q8_0, DType::q4_0}) {
      const auto twice = convert(once->view(), second);
      ASSERT_TRUE(twice.ok());
      EXPECT_EQ(twice->view().shape, source.view().shape);
      for (int64_t r = 0; r < 3; ++r) {
        float back[64];
        dequantize(second, twice->view().row(r).data(), 64, back);
        for (int i = 0; i < 64; ++i) {
          float wanted;
          std::memcpy(&wanted, source.view().row(r).data() + 4 * i, 4);
          ASSERT_NEAR(back[i], wanted, 0.3) << to_string(first) << " " << to_string(second);
        }
      }
      if (first == second) {
        EXPECT_EQ(std::memcmp(once->view().data.data(), twice->view().data.data(),
                              once->view().data.size()),
                  0);
      }
    }
  }
}

TEST(Convert, RefusesWhatTheTargetCannotHold) {
  auto values = random_floats(64, 3);
  values[40] = 1e6f;
  const Tensor large = tensor_of(values, {2, 32});
  EXPECT_NE(convert(large.view(), DType::f16).error().message.find("row 1"), std::string::npos);
  EXPECT_TRUE(convert(large.view(), DType::bf16).ok());
  EXPECT_TRUE(convert(large.view(), DType::q8_0).ok());
  EXPECT_FALSE(convert(large.view(), DType::q4_0).ok());
  for (const float value : {NAN, INFINITY}) {
    values[40] = value;
    const Tensor odd = tensor_of(values, {2, 32});
    EXPECT_TRUE(convert(odd.view(), DType::f16).ok());
    EXPECT_FALSE(convert(odd.view(), DType::q8_0).ok());
    EXPECT_FALSE(convert(odd.view(), DType::q4_0).ok());
  }
  const auto integers = Tensor::zeros(DType::i32, {2, 32});
  EXPECT_FALSE(convert(integers->view(), DType::f32).ok());
  EXPECT_TRUE(convert(Tensor::zeros(DType::f32, {0, 32})->view(), DType::q8_0).ok());
}

}  // namespace
}  // namespace impetus

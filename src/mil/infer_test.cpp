// The rules against oracles that count: windows and slices are laid out one by one, and operations
// that mean the same are compared. Random shapes, remainders and signs included.
#include <algorithm>
#include <numeric>
#include <random>

#include <gtest/gtest.h>

#include "mil/builder.h"
#include "mil/operations.h"

namespace impetus::mil {
namespace {

using Var = FunctionBuilder::Var;
using Ints = FunctionBuilder::Ints;

class Rules : public ::testing::Test {
 protected:
  int32_t between(int32_t low, int32_t high) {
    return std::uniform_int_distribution<int32_t>(low, high)(random_);
  }
  std::vector<int64_t> shape(int32_t rank, int32_t most = 6) {
    std::vector<int64_t> dims;
    for (int32_t i = 0; i < rank; ++i) dims.push_back(between(1, most));
    return dims;
  }
  static Var input(FunctionBuilder& b, std::string_view name, std::vector<int64_t> dims) {
    return b.input(name, {DataType::f16, std::move(dims)});
  }

  std::mt19937 random_{20240607};
};

// How often a window of `kernel` (dilated) fits when it starts at 0, stride, ... of `length` with
// padding; with `ceil` also where it hangs over the end, as long as it starts within the input.
int64_t windows(int64_t length, int64_t before, int64_t after, int64_t kernel, int64_t stride,
                bool ceil) {
  int64_t count = 0;
  const int64_t padded = length + before + after;
  for (int64_t start = 0;; start += stride) {
    const bool fits = start + kernel <= padded;
    // It hangs over, but the window before it left something uncovered.
    const bool hangs = ceil && count > 0 && start - stride + kernel < padded &&
                       (start < length + before || before + after == 0);
    if (!fits && !hangs) return count;
    ++count;
  }
}

TEST_F(Rules, WindowsAreAsManyAsFit) {
  int fitting = 0;
  for (int round = 0; round < 3000; ++round) {
    const int32_t length = between(1, 20), kernel = between(1, 5), stride = between(1, 4);
    const int32_t dilation = between(1, 3), before = between(0, 3), after = between(0, 3);
    const int32_t span = (kernel - 1) * dilation + 1;
    FunctionBuilder b(Opset::core_ml7);
    const Var x = input(b, "x", {1, 2, length, 9});
    const Var weight = b.constant(
        f16_values(std::vector<float>(static_cast<size_t>(2 * 3 * kernel)), {3, 2, kernel, 1}));
    const Var y = b.conv(x, weight, {},
                         {.strides = {stride, 1},
                          .dilations = {dilation, 1},
                          .pad_type = "custom",
                          .pad = {before, after, 0, 0}});
    const int64_t wanted = windows(length, before, after, span, stride, false);
    ASSERT_EQ(y.ok(), wanted > 0) << length << " " << span << " " << before << " " << after;
    if (!y.ok()) continue;
    ++fitting;
    EXPECT_EQ(b.type(y).shape, (std::vector<int64_t>{1, 3, wanted, 9}));
    const Var same = b.conv(
        x, weight, {}, {.strides = {stride, 1}, .dilations = {dilation, 1}, .pad_type = "same"});
    EXPECT_EQ(b.type(same).shape[2], (length + stride - 1) / stride);
  }
  EXPECT_GT(fitting, 1000);
}

TEST_F(Rules, PoolsWithCeilHangOverTheEnd) {
  for (int round = 0; round < 3000; ++round) {
    const int32_t length = between(1, 20), kernel = between(1, 5), stride = between(1, kernel);
    const int32_t pad = between(0, kernel / 2);
    const bool ceil = between(0, 1) == 1;
    FunctionBuilder b(Opset::core_ml7);
    const Var x = input(b, "x", {1, 2, length});
    const Var y = b.op("max_pool", {{"x", x},
                                    {"kernel_sizes", Value::ints(Ints{kernel})},
                                    {"strides", Value::ints(Ints{stride})},
                                    {"pad_type", Value::scalar(std::string("custom"))},
                                    {"pad", Value::ints(Ints{pad, pad})},
                                    {"ceil_mode", Value::scalar(ceil)}});
    const int64_t wanted = windows(length, pad, pad, kernel, stride, ceil);
    ASSERT_EQ(y.ok(), wanted > 0);
    if (y.ok()) {
      EXPECT_EQ(b.type(y).shape[2], wanted)
          << length << " kernel " << kernel << " stride " << stride << " pad " << pad << ceil;
    }
  }
}

TEST_F(Rules, SlicesHoldWhatLiesBetween) {
  for (int round = 0; round < 5000; ++round) {
    const int32_t length = between(2, 12);
    const int32_t stride = between(1, 4) * (between(0, 1) == 0 ? 1 : -1);
    const int32_t begin = between(-length, length - 1), end = between(-length, length);
    const bool from_start = between(0, 3) == 0, to_end = between(0, 3) == 0;
    int32_t first = begin < 0 ? begin + length : begin, last = end < 0 ? end + length : end;
    if (from_start) first = stride > 0 ? 0 : length - 1;
    if (to_end) last = stride > 0 ? length : -1;
    int64_t wanted = 0;
    for (int32_t at = first; stride > 0 ? at < last : at > last; at += stride) ++wanted;
    FunctionBuilder b(Opset::core_ml7);
    const Var x = input(b, "x", {3, length});
    const Var y = b.slice_by_index(x, {.begin = {0, begin},
                                       .end = {3, end},
                                       .stride = {1, stride},
                                       .begin_mask = {false, from_start},
                                       .end_mask = {false, to_end}});
    if (!y.ok()) {  // only what runs the wrong way is refused
      EXPECT_EQ(wanted, 0) << begin << ":" << end << ":" << stride << " of " << length;
      continue;
    }
    EXPECT_EQ(b.type(y).shape, (std::vector<int64_t>{3, wanted}))
        << begin << ":" << end << ":" << stride << " of " << length << from_start << to_end;
  }
}

TEST_F(Rules, BroadcastTakesTheLongerOfEach) {
  for (int round = 0; round < 2000; ++round) {
    std::vector<int64_t> whole = shape(between(0, 5)), a = whole, b_dims = whole;
    for (size_t i = 0; i < whole.size(); ++i) {
      const int32_t pick = between(0, 3);
      if (pick == 0) a[i] = 1;
      if (pick == 1) b_dims[i] = 1;
    }
    // Leading ones may be left out.
    auto& shorter = between(0, 1) == 0 ? a : b_dims;
    while (!shorter.empty() && shorter.front() == 1) shorter.erase(shorter.begin());
    FunctionBuilder b(Opset::core_ml7);
    const Var y = b.add(input(b, "x", a), input(b, "y", b_dims));
    ASSERT_TRUE(y.ok()) << b.error()->message;
    EXPECT_EQ(b.type(y).shape, whole);
  }
}

TEST_F(Rules, ProductsInOtherWordsHaveOneType) {
  for (int round = 0; round < 500; ++round) {
    const int32_t batch = between(1, 4), n = between(1, 6), k = between(1, 6), m = between(1, 6);
    FunctionBuilder b(Opset::core_ml7);
    const Var x = input(b, "x", {batch, n, k}), y = input(b, "y", {batch, k, m});
    const Var product = b.matmul(x, y);
    const Var einsum = b.op("einsum", {{"values", FunctionBuilder::Vars{x, y}},
                                       {"equation", Value::scalar(std::string("bnk,bkm->bnm"))}});
    const Var turned = b.matmul(b.transpose(x, {0, 2, 1}), b.transpose(y, {0, 2, 1}), true, true);
    ASSERT_TRUE(turned.ok()) << b.error()->message;
    EXPECT_EQ(b.type(product).shape, (std::vector<int64_t>{batch, n, m}));
    EXPECT_EQ(b.type(einsum), b.type(product));
    EXPECT_EQ(b.type(turned), b.type(product));

    const std::vector<float> zeros(static_cast<size_t>(m * k));
    const Var linear = b.linear(x, b.constant(f16_values(zeros, {m, k})));
    const Var conv = b.conv(b.expand_dims(b.transpose(x, {0, 2, 1}), {2}),
                            b.constant(f16_values(zeros, {m, k, 1, 1})));
    ASSERT_TRUE(conv.ok()) << b.error()->message;
    EXPECT_EQ(b.type(b.transpose(b.squeeze(conv, {2}), {0, 2, 1})), b.type(linear));
  }
}

TEST_F(Rules, MovingElementsLosesNone) {
  for (int round = 0; round < 1000; ++round) {
    const int32_t rank = between(1, 5);
    const std::vector<int64_t> dims = shape(rank);
    FunctionBuilder b(Opset::core_ml7);
    const Var x = input(b, "x", dims);
    const auto elements = b.type(x).elements();

    Ints perm(static_cast<size_t>(rank));
    std::iota(perm.begin(), perm.end(), 0);
    std::ranges::shuffle(perm, random_);
    const Var turned = b.transpose(x, perm);
    for (size_t i = 0; i < perm.size(); ++i) {
      EXPECT_EQ(b.type(turned).shape[i], dims[static_cast<size_t>(perm[i])]);
    }
    EXPECT_EQ(b.type(b.reshape(turned, {-1})).shape, (std::vector<int64_t>{*elements}));
    const int32_t axis = between(-rank - 1, rank);
    EXPECT_EQ(b.type(b.squeeze(b.expand_dims(x, {axis}), {axis})), b.type(x));

    // What a split takes apart a concat joins.
    const int32_t along = between(-rank, rank - 1);
    int64_t left = dims[static_cast<size_t>(along < 0 ? along + rank : along)];
    Ints sizes;
    while (left > 0) {
      sizes.push_back(between(1, static_cast<int32_t>(left)));
      left -= sizes.back();
    }
    EXPECT_EQ(b.type(b.concat(b.split(x, sizes, along), along)), b.type(x));

    // A reduction over every axis, one after another, is the reduction over all.
    Var one_by_one = x;
    for (int32_t i = 0; i < rank; ++i) one_by_one = b.reduce("sum", one_by_one, {-1}, false);
    Ints all(static_cast<size_t>(rank));
    std::iota(all.begin(), all.end(), 0);
    EXPECT_EQ(b.type(one_by_one), b.type(b.reduce("sum", x, all, false)));
    EXPECT_EQ(b.type(b.reduce("max", x, all, true)).shape,
              std::vector<int64_t>(static_cast<size_t>(rank), 1));
    EXPECT_FALSE(b.error()) << b.error()->message;
  }
}

TEST_F(Rules, GatherPutsTheIndicesInTheAxis) {
  for (int round = 0; round < 500; ++round) {
    const int32_t rank = between(1, 4), axis = between(-rank, rank - 1);
    const std::vector<int64_t> dims = shape(rank), indices = shape(between(0, 3));
    FunctionBuilder b(Opset::core_ml7);
    const Var y = b.op("gather", {{"x", input(b, "x", dims)},
                                  {"indices", b.input("i", {DataType::i32, indices})},
                                  {"axis", Value::scalar(axis)},
                                  {"batch_dims", Value::scalar(0)},
                                  {"validate_indices", Value::scalar(false)}});
    std::vector<int64_t> wanted = dims;
    const auto at = wanted.erase(wanted.begin() + (axis < 0 ? axis + rank : axis));
    wanted.insert(at, indices.begin(), indices.end());
    ASSERT_TRUE(y.ok()) << b.error()->message;
    EXPECT_EQ(b.type(y).shape, wanted);
  }
}

}  // namespace
}  // namespace impetus::mil

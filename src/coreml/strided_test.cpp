#include "coreml/strided.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <random>

#include <gtest/gtest.h>

#include "tensor/dtype.h"

namespace impetus::coreml {
namespace {

using mil::DataType;

// A view over memory of its own, which begins full of `fill`.
struct Owned {
  std::vector<std::byte> bytes;
  StridedView view;

  Owned(mil::TensorType type, std::vector<int64_t> strides, std::byte fill) {
    view.type = std::move(type);
    view.strides = std::move(strides);
    bytes.assign(static_cast<size_t>(*span_of(view) * mil::bits_of(view.type.dtype) / 8 + 64),
                 fill);
    view.data = bytes.data();
  }
};

float at(const StridedView& view, const std::vector<int64_t>& index) {
  int64_t offset = 0;
  for (size_t d = 0; d < index.size(); ++d) offset += index[d] * view.strides[d];
  if (view.type.dtype == DataType::f32) {
    return reinterpret_cast<const float*>(view.data)[offset];
  }
  return f16_to_f32(reinterpret_cast<const uint16_t*>(view.data)[offset]);
}

TEST(Strided, PadsRowsAsTheEngineDoes) {
  EXPECT_EQ(padded_strides({DataType::f16, {1, 384, 1, 16}}, 64),
            (std::vector<int64_t>{384 * 32, 32, 32, 1}));
  EXPECT_EQ(padded_strides({DataType::f16, {1, 16, 1, 1}}, 64),
            (std::vector<int64_t>{16 * 32, 32, 32, 1}));
  EXPECT_EQ(padded_strides({DataType::f32, {2, 3}}, 0), (std::vector<int64_t>{3, 1}));
}

TEST(Strided, RoundTripsAndTouchesNoPadding) {
  std::mt19937_64 random(11);
  for (int round = 0; round < 200; ++round) {
    std::vector<int64_t> shape(1 + random() % 4);
    for (int64_t& length : shape) length = 1 + static_cast<int64_t>(random() % 7);
    // Dimensions in any order in memory, each with some room.
    std::vector<size_t> order(shape.size());
    for (size_t d = 0; d < order.size(); ++d) order[d] = d;
    std::shuffle(order.begin(), order.end(), random);
    std::vector<int64_t> strides(shape.size());
    int64_t stride = 1 + static_cast<int64_t>(random() % 2);
    for (const size_t d : order) {
      strides[d] = stride;
      stride = stride * shape[d] + static_cast<int64_t>(random() % 3);
    }
    const auto type = random() % 2 ? DataType::f16 : DataType::f32;
    Owned memory({type, shape}, strides, std::byte{0x5a});
    const auto before = memory.bytes;
    ASSERT_TRUE(check_view(memory.view, shape, "x").ok());
    std::vector<float> values(static_cast<size_t>(*memory.view.type.elements()));
    for (float& value : values) value = static_cast<float>(random() % 2000) / 8 - 100;
    EXPECT_EQ(write_strided(values, memory.view), 0);
    std::vector<int64_t> index(shape.size(), 0);
    std::vector<bool> written(memory.bytes.size());
    const auto width = static_cast<size_t>(mil::bits_of(type) / 8);
    for (const float value : values) {
      EXPECT_EQ(at(memory.view, index), value);
      int64_t offset = 0;
      for (size_t d = 0; d < index.size(); ++d) offset += index[d] * strides[d];
      for (size_t b = 0; b < width; ++b) written[static_cast<size_t>(offset) * width + b] = true;
      for (size_t d = index.size(); d-- > 0;) {
        if (++index[d] < shape[d]) break;
        index[d] = 0;
      }
    }
    for (size_t i = 0; i < written.size(); ++i) {
      if (!written[i]) ASSERT_EQ(memory.bytes[i], before[i]) << "padding was written";
    }
    std::vector<float> back(values.size());
    EXPECT_EQ(read_strided(memory.view, back), 0);
    EXPECT_EQ(back, values);
  }
}

TEST(Strided, CountsWhatIsNotFinite) {
  Owned memory({DataType::f16, {2, 3}}, {32, 1}, std::byte{0xff});
  const float inf = std::numeric_limits<float>::infinity();
  EXPECT_EQ(write_strided(std::vector<float>{1, 65504, 65520, -1e9f, NAN, inf}, memory.view), 4);
  std::vector<float> back(6);
  EXPECT_EQ(read_strided(memory.view, back), 4);  // the padding's NaN is nobody's
  EXPECT_EQ(back[1], 65504);
  EXPECT_EQ(back[2], inf);
}

TEST(Strided, RefusesWhatIsNoTensor) {
  std::byte memory[4096];
  const auto checked = [&](mil::TensorType type, std::vector<int64_t> strides,
                           std::byte* data = nullptr) {
    return check_view({std::move(type), data, std::move(strides)}, std::vector<int64_t>{2, 3},
                      "hidden");
  };
  EXPECT_TRUE(checked({DataType::f16, {2, 3}}, {32, 1}, memory).ok());
  EXPECT_TRUE(checked({DataType::f16, {2, 3}}, {1, 2}, memory).ok());  // transposed
  const Result<void> refused[] = {
      checked({DataType::f16, {2, 3}}, {32, 1}),          // no memory
      checked({DataType::f16, {3, 2}}, {32, 1}, memory),  // another shape
      checked({DataType::i32, {2, 3}}, {32, 1}, memory),  // another type
      checked({DataType::f16, {2, 3}}, {32}, memory),     // a stride too few
      checked({DataType::f16, {2, 3}}, {2, 1}, memory),   // rows overlap
      checked({DataType::f16, {2, 3}}, {0, 1}, memory),   // one row for all
      checked({DataType::f16, {2, 3}}, {-32, 1}, memory),
      checked({DataType::f16, {2, 3}}, {INT64_MAX, INT64_MAX}, memory),
  };
  for (const auto& bad : refused) {
    ASSERT_FALSE(bad.ok()) << &bad - refused;
    EXPECT_EQ(bad.error().code, ErrorCode::internal);
    EXPECT_NE(bad.error().message.find("'hidden'"), std::string::npos) << bad.error().message;
  }
}

}  // namespace
}  // namespace impetus::coreml

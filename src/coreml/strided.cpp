#include "coreml/strided.h"

#include <cmath>
#include <cstring>

#include <fmt/ranges.h>

#include "tensor/dtype.h"

namespace impetus::coreml {
namespace {

int64_t width_of(mil::DataType type) {
  return mil::bits_of(type) / 8;
}

// Calls touch(offset of the row's first element, place in the packed values) for each row of the
// last dimension.
template <typename Touch>
void for_rows(const StridedView& view, Touch&& touch) {
  const auto& shape = view.type.shape;
  const size_t outer = shape.size() - 1;
  std::vector<int64_t> at(outer, 0);
  for (int64_t packed = 0, total = view.type.elements().value_or(0); packed < total;
       packed += shape.back()) {
    int64_t offset = 0;
    for (size_t d = 0; d < outer; ++d) offset += at[d] * view.strides[d];
    touch(offset, packed);
    for (size_t d = outer; d-- > 0;) {
      if (++at[d] < shape[d]) break;
      at[d] = 0;
    }
  }
}

}  // namespace

std::vector<int64_t> padded_strides(const mil::TensorType& type, int64_t row_bytes) {
  std::vector<int64_t> strides(type.shape.size());
  int64_t stride = 1;
  for (size_t d = strides.size(); d-- > 0;) {
    strides[d] = stride;
    stride *= type.shape[d];
    if (d + 1 == strides.size() && row_bytes > 0) {
      const int64_t row = row_bytes / width_of(type.dtype);
      stride = (stride + row - 1) / row * row;
    }
  }
  return strides;
}

std::optional<int64_t> span_of(const StridedView& view) {
  if (view.strides.size() != view.type.shape.size()) return std::nullopt;
  const auto elements = view.type.elements();
  if (!elements) return std::nullopt;
  if (*elements == 0) return 0;
  int64_t last = 0;
  for (size_t d = 0; d < view.strides.size(); ++d) {
    int64_t reach = 0;
    if (view.strides[d] < 0 ||
        __builtin_mul_overflow(view.strides[d], view.type.shape[d] - 1, &reach) ||
        __builtin_add_overflow(last, reach, &last)) {
      return std::nullopt;
    }
  }
  return last + 1;
}

Result<void> check_view(const StridedView& view, std::span<const int64_t> shape,
                        std::string_view name) {
  const auto wrong = [&](std::string_view what) {
    return error(ErrorCode::internal, "'{}' is {} with strides [{}]: {}", name,
                 view.type.to_string(), fmt::join(view.strides, ", "), what);
  };
  if (view.type.dtype != mil::DataType::f16 && view.type.dtype != mil::DataType::f32) {
    return wrong("fp16 or fp32 is wanted");
  }
  if (!std::ranges::equal(view.type.shape, shape) || shape.empty()) {
    return wrong(fmt::format("the shape [{}] is wanted", fmt::join(shape, ", ")));
  }
  if (!span_of(view)) return wrong("these are no strides of it");
  // From the fastest dimension to the slowest, each must step over all of the one before.
  std::vector<size_t> order;
  for (size_t d = 0; d < shape.size(); ++d) {
    if (shape[d] > 1) order.push_back(d);
  }
  std::ranges::sort(order, {}, [&](size_t d) { return view.strides[d]; });
  int64_t reach = 0;
  for (const size_t d : order) {
    if (view.strides[d] <= reach) return wrong("its elements overlap");
    reach += view.strides[d] * (shape[d] - 1);
  }
  if (view.data == nullptr) return wrong("it has no memory");
  return {};
}

int64_t write_strided(std::span<const float> values, const StridedView& to) {
  int64_t overflown = 0;
  const int64_t columns = to.type.shape.back(), step = to.strides.back();
  const bool half = to.type.dtype == mil::DataType::f16;
  for_rows(to, [&](int64_t offset, int64_t packed) {
    const float* from = values.data() + packed;
    if (half) {
      auto* row = reinterpret_cast<uint16_t*>(to.data) + offset;
      for (int64_t i = 0; i < columns; ++i) {
        const uint16_t bits = f32_to_f16(from[i]);
        overflown += (bits & 0x7c00u) == 0x7c00u;
        row[i * step] = bits;
      }
    } else {
      auto* row = reinterpret_cast<float*>(to.data) + offset;
      for (int64_t i = 0; i < columns; ++i) {
        overflown += !std::isfinite(from[i]);
        row[i * step] = from[i];
      }
    }
  });
  return overflown;
}

int64_t read_strided(const StridedView& from, std::span<float> values) {
  int64_t odd = 0;
  const int64_t columns = from.type.shape.back(), step = from.strides.back();
  const bool half = from.type.dtype == mil::DataType::f16;
  for_rows(from, [&](int64_t offset, int64_t packed) {
    float* to = values.data() + packed;
    if (half) {
      const auto* row = reinterpret_cast<const uint16_t*>(from.data) + offset;
      for (int64_t i = 0; i < columns; ++i) to[i] = f16_to_f32(row[i * step]);
    } else {
      const auto* row = reinterpret_cast<const float*>(from.data) + offset;
      for (int64_t i = 0; i < columns; ++i) to[i] = row[i * step];
    }
    for (int64_t i = 0; i < columns; ++i) odd += !std::isfinite(to[i]);
  });
  return odd;
}

}  // namespace impetus::coreml

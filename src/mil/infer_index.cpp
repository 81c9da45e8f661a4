// Type rules of gathers and of values made out of nothing.
// Source: coremltools ops/defs iOS15/{scatter_gather,tensor_operation}, iOS16, iOS17.
#include <algorithm>
#include <array>
#include <cmath>

#include "mil/infer.h"

namespace impetus::mil::infer {
namespace {

// Where validate_indices asks for it, constant indices must lie in [0, length).
Result<void> check_indices(const Reader& read, int64_t length) {
  IMPETUS_TRY(const bool wanted, read.flag("validate_indices", false));
  if (!wanted || !known(length)) return {};
  IMPETUS_TRY(const auto indices, read.ints_if_known("indices"));
  if (!indices) return {};
  for (const int64_t index : *indices) {
    if (index < 0 || index >= length) {
      return wrong("indices holds {}, outside of [0, {})", index, length);
    }
  }
  return {};
}

Result<Shape> joined(std::span<const int64_t> a, std::span<const int64_t> b,
                     std::span<const int64_t> c) {
  Shape shape(a.begin(), a.end());
  shape.insert(shape.end(), b.begin(), b.end());
  shape.insert(shape.end(), c.begin(), c.end());
  if (shape.size() > kRankMax) return wrong("the result would have {} dimensions", shape.size());
  return shape;
}

// batch_dims, with the leading dimensions of x and indices agreeing.
Result<size_t> batch_of(const Reader& read, const TensorType& x, const TensorType& indices) {
  IMPETUS_TRY(const int64_t batch, read.integer("batch_dims", 0));
  const auto bound = static_cast<int64_t>(std::min(x.shape.size(), indices.shape.size()));
  if (batch < 0 || batch > bound) {
    return wrong("batch_dims {} is more than x {} and indices {} share", batch, x.to_string(),
                 indices.to_string());
  }
  const auto count = static_cast<size_t>(batch);
  if (!agree(std::span(x.shape).first(count), std::span(indices.shape).first(count))) {
    return wrong("x {} and indices {} differ in their first {} dimensions", x.to_string(),
                 indices.to_string(), batch);
  }
  return count;
}

// One number, known before the program runs.
Result<std::optional<double>> number(const Reader& read, std::string_view parameter) {
  IMPETUS_TRY(const Operand* const bound, read.operand(parameter));
  IMPETUS_TRY(const TensorType type, read.tensor(parameter));
  if (type.elements() != 1) {
    return wrong("{} is {} where one number is wanted", parameter, type.to_string());
  }
  if (bound->constant == nullptr) return std::optional<double>();
  if (!is_float(type.dtype)) {
    IMPETUS_TRY(const auto values, bound->constant->as_ints());
    if (values.size() == 1) return std::optional(static_cast<double>(values.front()));
  } else {
    IMPETUS_TRY(const auto values, bound->constant->as_floats());
    if (values.size() == 1) return std::optional(static_cast<double>(values.front()));
  }
  return wrong("{} is not one number", parameter);
}

Result<DataType> type_of_value(const Reader& read, std::string_view parameter) {
  IMPETUS_TRY(const auto type, read.tensor_if(parameter));
  if (!type) return DataType::f32;
  if (type->elements() != 1) {
    return wrong("{} is {} where one value is wanted", parameter, type->to_string());
  }
  return type->dtype;
}

}  // namespace

Types gather(const Operands& operands) {
  const Reader read(operands);
  IMPETUS_TRY(const TensorType x, read.tensor("x"));
  IMPETUS_TRY(const TensorType indices, read.tensor("indices"));
  IMPETUS_TRY(const int64_t wanted, read.integer("axis", 0));
  IMPETUS_TRY(const size_t axis, axis_of(wanted, x.shape.size()));
  IMPETUS_TRY(const size_t batch, batch_of(read, x, indices));
  if (batch > axis) return wrong("batch_dims {} reaches past axis {}", batch, axis);
  IMPETUS_CHECK(check_indices(read, x.shape[axis]));
  IMPETUS_TRY(Shape shape,
              joined(std::span(x.shape).first(axis), std::span(indices.shape).subspan(batch),
                     std::span(x.shape).subspan(axis + 1)));
  return one(x.dtype, std::move(shape));
}

Types gather_along_axis(const Operands& operands) {
  const Reader read(operands);
  IMPETUS_TRY(const TensorType x, read.tensor("x"));
  IMPETUS_TRY(TensorType indices, read.tensor("indices"));
  IMPETUS_TRY(const int64_t wanted, read.integer("axis", 0));
  IMPETUS_TRY(const size_t axis, axis_of(wanted, x.shape.size()));
  if (x.shape.size() != indices.shape.size()) {
    return wrong("x is {} and indices is {}: they must have one rank", x.to_string(),
                 indices.to_string());
  }
  for (size_t i = 0; i < x.shape.size(); ++i) {
    if (i != axis && !agree(x.shape[i], indices.shape[i])) {
      return wrong("x {} and indices {} differ in dimension {}", x.to_string(), indices.to_string(),
                   i);
    }
  }
  IMPETUS_CHECK(check_indices(read, x.shape[axis]));
  return one(x.dtype, std::move(indices.shape));
}

Types gather_nd(const Operands& operands) {
  const Reader read(operands);
  IMPETUS_TRY(const TensorType x, read.tensor("x"));
  IMPETUS_TRY(const TensorType indices, read.tensor("indices"));
  IMPETUS_TRY(const size_t batch, batch_of(read, x, indices));
  if (indices.shape.empty() || !known(indices.shape.back())) {
    return wrong("indices is {}; its last dimension must be known", indices.to_string());
  }
  const int64_t depth = indices.shape.back();
  if (batch >= indices.shape.size() || depth > static_cast<int64_t>(x.shape.size() - batch)) {
    return wrong("indices {} with batch_dims {} go deeper than x {}", indices.to_string(), batch,
                 x.to_string());
  }
  IMPETUS_TRY(Shape shape,
              joined(std::span(indices.shape).first(indices.shape.size() - 1),
                     std::span(x.shape).subspan(batch + static_cast<size_t>(depth)), {}));
  return one(x.dtype, std::move(shape));
}

Types fill(const Operands& operands) {
  const Reader read(operands);
  IMPETUS_TRY(const TensorType type, read.tensor("shape"));
  IMPETUS_TRY(const DataType dtype, type_of_value(read, "value"));
  IMPETUS_TRY(const auto shape, read.ints_if_known("shape"));
  if (type.shape.size() != 1 || !known(type.shape[0]) ||
      type.shape[0] > static_cast<int64_t>(kRankMax)) {
    return wrong("shape is {}: the result's rank is unknown", type.to_string());
  }
  if (!shape) return one(dtype, Shape(static_cast<size_t>(type.shape[0]), kUnknown));
  if (std::ranges::any_of(*shape, [](int64_t dim) { return dim < 0; })) {
    return wrong("shape holds a number below 0");
  }
  return one(dtype, *shape);
}

Types fill_like(const Operands& operands) {
  const Reader read(operands);
  IMPETUS_TRY(TensorType like, read.tensor("ref_tensor"));
  IMPETUS_TRY(const DataType dtype, type_of_value(read, "value"));
  return one(dtype, std::move(like.shape));
}

Types range_1d(const Operands& operands) {
  const Reader read(operands);
  IMPETUS_TRY(const TensorType type, read.tensor("start"));
  std::array<std::optional<double>, 3> values;
  const std::array<std::string_view, 3> names{"start", "end", "step"};
  for (size_t i = 0; i < 3; ++i) {
    IMPETUS_TRY(const TensorType other, read.tensor(names[i]));
    if (other.dtype != type.dtype) {
      return wrong("start is {} and {} is {}: they must have one element type", type.to_string(),
                   names[i], other.to_string());
    }
    IMPETUS_TRY(values[i], number(read, names[i]));
  }
  const auto& [start, end, step] = values;
  if (step && *step == 0) return wrong("step is 0");
  if (!start || !end || !step) return one(type.dtype, {kUnknown});
  const double count = std::ceil((*end - *start) / *step);
  if (!(count <= static_cast<double>(kDimensionMax))) {
    return wrong("from {} to {} by {} are too many", *start, *end, *step);
  }
  return one(type.dtype, {count > 0 ? static_cast<int64_t>(count) : 0});
}

Types one_hot(const Operands& operands) {
  const Reader read(operands);
  IMPETUS_TRY(TensorType indices, read.tensor("indices"));
  IMPETUS_TRY(const int64_t wanted, read.integer("axis", -1));
  IMPETUS_TRY(const auto on, read.tensor_if("on_value"));
  IMPETUS_TRY(const auto off, read.tensor_if("off_value"));
  IMPETUS_TRY(const auto size, read.ints_if_known("one_hot_vector_size"));
  if (!read.has("one_hot_vector_size")) {
    return wrong("required parameter one_hot_vector_size is missing");
  }
  const DataType dtype = on ? on->dtype : off ? off->dtype : DataType::i32;
  if (on && off && on->dtype != off->dtype) {
    return wrong("on_value is {} and off_value is {}: they must have one element type",
                 on->to_string(), off->to_string());
  }
  IMPETUS_TRY(const size_t axis, axis_of(wanted, indices.shape.size() + 1));
  int64_t length = kUnknown;
  if (size) {
    if (size->size() != 1 || size->front() < 0) {
      return wrong("one_hot_vector_size is {}", show(*size));
    }
    length = size->front();
  }
  indices.shape.insert(indices.shape.begin() + static_cast<ptrdiff_t>(axis), length);
  return one(dtype, std::move(indices.shape));
}

Types band_part(const Operands& operands) {
  const Reader read(operands);
  IMPETUS_TRY(TensorType x, read.tensor("x"));
  IMPETUS_CHECK(read.integer("lower", -1));
  IMPETUS_CHECK(read.integer("upper", -1));
  if (x.shape.size() < 2) return wrong("x is {}; its rank must be at least 2", x.to_string());
  return one(x.dtype, std::move(x.shape));
}

}  // namespace impetus::mil::infer

// Type rules of reductions and norms.
// Source: coremltools ops/defs iOS15/{reduction,normalization,tensor_operation}, iOS17/reduction.
#include <algorithm>
#include <numeric>

#include "mil/infer.h"

namespace impetus::mil::infer {
namespace {

Shape without(const Shape& shape, std::span<const size_t> axes, bool keep) {
  Shape left;
  for (size_t i = 0; i < shape.size(); ++i) {
    if (!std::ranges::binary_search(axes, i)) {
      left.push_back(shape[i]);
    } else if (keep) {
      left.push_back(1);
    }
  }
  return left;
}

// All dimensions where the parameter is not bound.
Result<std::vector<size_t>> axes_or_all(const Reader& read, size_t rank) {
  IMPETUS_TRY(const auto axes, read.ints("axes"));
  if (axes) return axes_of(*axes, rank);
  std::vector<size_t> all(rank);
  std::iota(all.begin(), all.end(), size_t{0});
  return all;
}

Result<void> check_shaped(const Reader& read, std::string_view parameter,
                          std::span<const int64_t> shape) {
  IMPETUS_TRY(const auto type, read.tensor_if(parameter));
  if (type && !agree(type->shape, shape)) {
    return wrong("{} is {}; its shape must be {}", parameter, type->to_string(), show(shape));
  }
  return {};
}

Result<void> check_scalar(const Reader& read, std::string_view parameter) {
  IMPETUS_TRY(const auto type, read.tensor_if(parameter));
  if (type && type->elements() != 1) {
    return wrong("{} is {} where one number is wanted", parameter, type->to_string());
  }
  return {};
}

Types channel_norm(const Operands& operands, std::initializer_list<std::string_view> vectors,
                   size_t least, size_t most) {
  const Reader read(operands);
  IMPETUS_TRY(TensorType x, read.tensor("x"));
  if (x.shape.size() < least || x.shape.size() > most) {
    return wrong("x is {}; its rank must be {} to {}", x.to_string(), least, most);
  }
  for (const std::string_view name : vectors) {
    IMPETUS_CHECK(check_shaped(read, name, std::span(x.shape).subspan(1, 1)));
  }
  IMPETUS_CHECK(check_scalar(read, "epsilon"));
  return one(x.dtype, std::move(x.shape));
}

}  // namespace

Types reduce(const Operands& operands) {
  const Reader read(operands);
  IMPETUS_TRY(const TensorType x, read.tensor("x"));
  IMPETUS_TRY(const bool keep, read.flag("keep_dims", false));
  IMPETUS_TRY(const auto axes, axes_or_all(read, x.shape.size()));
  return one(x.dtype, without(x.shape, axes, keep));
}

Types reduce_arg(const Operands& operands) {
  const Reader read(operands);
  IMPETUS_TRY(const TensorType x, read.tensor("x"));
  IMPETUS_TRY(const int64_t wanted, read.integer("axis", -1));
  IMPETUS_TRY(const bool keep, read.flag("keep_dims", false));
  IMPETUS_TRY(const std::string name, read.text("output_dtype", "int32"));
  IMPETUS_TRY(const size_t axis, axis_of(wanted, x.shape.size()));
  if (name != "int32" && name != "uint16") {
    return wrong("output_dtype \"{}\" is neither int32 nor uint16", name);
  }
  return one(name == "int32" ? DataType::i32 : DataType::u16,
             without(x.shape, std::span(&axis, 1), keep));
}

Types softmax(const Operands& operands) {
  const Reader read(operands);
  IMPETUS_TRY(TensorType x, read.tensor("x"));
  IMPETUS_TRY(const int64_t axis, read.integer("axis", -1));
  IMPETUS_CHECK(axis_of(axis, x.shape.size()));
  return one(x.dtype, std::move(x.shape));
}

Types layer_norm(const Operands& operands) {
  const Reader read(operands);
  IMPETUS_TRY(TensorType x, read.tensor("x"));
  IMPETUS_TRY(const auto axes, axes_or_all(read, x.shape.size()));
  Shape normalised;
  for (const size_t axis : axes) normalised.push_back(x.shape[axis]);
  IMPETUS_CHECK(check_shaped(read, "gamma", normalised));
  IMPETUS_CHECK(check_shaped(read, "beta", normalised));
  IMPETUS_CHECK(check_scalar(read, "epsilon"));
  return one(x.dtype, std::move(x.shape));
}

Types instance_norm(const Operands& operands) {
  return channel_norm(operands, {"gamma", "beta"}, 3, 4);
}

Types batch_norm(const Operands& operands) {
  for (const std::string_view name : {"mean", "variance"}) {
    IMPETUS_CHECK(Reader(operands).operand(name));
  }
  return channel_norm(operands, {"mean", "variance", "gamma", "beta"}, 3, 5);
}

Types l2_norm(const Operands& operands) {
  return channel_norm(operands, {}, 3, kRankMax);
}

Types cumsum(const Operands& operands) {
  const Reader read(operands);
  IMPETUS_TRY(TensorType x, read.tensor("x"));
  IMPETUS_TRY(const int64_t axis, read.integer("axis", 0));
  IMPETUS_CHECK(axis_of(axis, x.shape.size()));
  IMPETUS_CHECK(read.flag("exclusive", false));
  IMPETUS_CHECK(read.flag("reverse", false));
  return one(x.dtype, std::move(x.shape));
}

Types argsort(const Operands& operands) {
  const Reader read(operands);
  IMPETUS_TRY(TensorType x, read.tensor("x"));
  IMPETUS_TRY(const int64_t axis, read.integer("axis", -1));
  IMPETUS_CHECK(axis_of(axis, x.shape.size()));
  return one(DataType::i32, std::move(x.shape));
}

}  // namespace impetus::mil::infer

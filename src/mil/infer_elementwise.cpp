// Type rules of operations that keep or broadcast shapes.
// Source: coremltools ops/defs
// iOS15/{activation,elementwise_unary,elementwise_binary,control_flow}.
#include <algorithm>
#include <array>

#include "mil/infer.h"

namespace impetus::mil::infer {
namespace {

// A vector with a value a channel; channels are dimension 1.
Result<void> check_channels(const TensorType& x, const TensorType& vector, std::string_view name) {
  if (vector.shape.size() != 1) {
    return wrong("{} is {} where a vector is wanted", name, vector.to_string());
  }
  if (!agree(vector.shape[0], x.shape[1])) {
    return wrong("{} is {}, but x {} has {} channels", name, vector.to_string(), x.to_string(),
                 x.shape[1]);
  }
  return {};
}

Types cast_to(const Operands& operands, std::span<const DataType> allowed) {
  const Reader read(operands);
  IMPETUS_TRY(TensorType x, read.tensor("x"));
  IMPETUS_TRY(const std::string name, read.text("dtype"));
  IMPETUS_TRY(const DataType type, type_named(name));
  if (std::ranges::find(allowed, type) == allowed.end()) {
    return wrong("dtype \"{}\" is nothing that this opset casts to", name);
  }
  return one(type, std::move(x.shape));
}

Types broadcast_xy(const Operands& operands, std::optional<DataType> result) {
  const Reader read(operands);
  IMPETUS_TRY(const TensorType x, read.tensor("x"));
  IMPETUS_TRY(const TensorType y, read.tensor("y"));
  if (x.dtype != y.dtype) {
    return wrong("x is {} and y is {}: they must have one element type", x.to_string(),
                 y.to_string());
  }
  IMPETUS_TRY(Shape shape, broadcast(x.shape, "x", y.shape, "y"));
  return one(result.value_or(x.dtype), std::move(shape));
}

}  // namespace

Types gelu(const Operands& operands) {
  IMPETUS_TRY(const std::string mode, Reader(operands).text("mode", "EXACT"));
  if (mode != "EXACT" && mode != "TANH_APPROXIMATION" && mode != "SIGMOID_APPROXIMATION") {
    return wrong("mode \"{}\" is none of EXACT, TANH_APPROXIMATION, SIGMOID_APPROXIMATION", mode);
  }
  return same_as_x(operands);
}

Types prelu(const Operands& operands) {
  const Reader read(operands);
  IMPETUS_TRY(const TensorType x, read.tensor("x"));
  IMPETUS_TRY(const TensorType alpha, read.tensor("alpha"));
  if (x.shape.size() < 3 || x.shape.size() > 5) {
    return wrong("x is {}; its rank must be 3 to 5", x.to_string());
  }
  IMPETUS_CHECK(check_channels(x, alpha, "alpha"));
  return same_as_x(operands);
}

Types softplus_parametric(const Operands& operands) {
  const Reader read(operands);
  IMPETUS_TRY(const TensorType x, read.tensor("x"));
  if (x.shape.size() < 3) return wrong("x is {}; its rank must be at least 3", x.to_string());
  for (const std::string_view name : {"alpha", "beta"}) {
    IMPETUS_TRY(const TensorType vector, read.tensor(name));
    IMPETUS_CHECK(check_channels(x, vector, name));
  }
  return same_as_x(operands);
}

Types clip7(const Operands& operands) {
  const Reader read(operands);
  std::array<float, 2> bounds{};
  for (size_t i = 0; i < 2; ++i) {
    IMPETUS_TRY(const Operand* const bound, read.operand(i == 0 ? "alpha" : "beta"));
    if (bound->constant == nullptr || bound->constant->type.tensor.elements() != 1) {
      return same_as_x(operands);
    }
    IMPETUS_TRY(const std::vector<float> values, bound->constant->as_floats());
    bounds[i] = values.front();
  }
  if (!(bounds[0] < bounds[1])) {
    return wrong("alpha {} must be below beta {}", bounds[0], bounds[1]);
  }
  return same_as_x(operands);
}

Types cast5(const Operands& operands) {
  static constexpr std::array kAllowed{DataType::f16, DataType::f32, DataType::i32,
                                       DataType::boolean};
  return cast_to(operands, kAllowed);
}

Types cast7(const Operands& operands) {
  static constexpr std::array kAllowed{DataType::f16, DataType::f32,    DataType::i8,
                                       DataType::u8,  DataType::i16,    DataType::u16,
                                       DataType::i32, DataType::boolean};
  return cast_to(operands, kAllowed);
}

Types arithmetic(const Operands& operands) {
  return broadcast_xy(operands, std::nullopt);
}

Types comparison(const Operands& operands) {
  return broadcast_xy(operands, DataType::boolean);
}

Types select(const Operands& operands) {
  const Reader read(operands);
  IMPETUS_TRY(const TensorType cond, read.tensor("cond"));
  IMPETUS_TRY(const TensorType a, read.tensor("a"));
  IMPETUS_TRY(const TensorType b, read.tensor("b"));
  if (a.dtype != b.dtype) {
    return wrong("a is {} and b is {}: they must have one element type", a.to_string(),
                 b.to_string());
  }
  IMPETUS_TRY(const Shape values, broadcast(a.shape, "a", b.shape, "b"));
  IMPETUS_TRY(Shape shape, broadcast(values, "a and b", cond.shape, "cond"));
  return one(a.dtype, std::move(shape));
}

}  // namespace impetus::mil::infer

#include "mil/infer.h"

#include <algorithm>

#include <fmt/ranges.h>

namespace impetus::mil {
namespace infer {
namespace {

// The constant of a tensor of numbers or strings that is small enough to be read.
Result<const Value*> readable(const Operand& operand, std::string_view parameter) {
  const Value& value = *operand.constant;
  const auto elements = value.type.tensor.elements();
  if (value.type.kind != ValueType::Kind::tensor || !elements) {
    return wrong("{} is {}, not a constant tensor", parameter, value.type.to_string());
  }
  if (*elements > kConstantMax) {
    return wrong("{} is {}: more than {} elements", parameter, value.type.to_string(),
                 kConstantMax);
  }
  return &value;
}

Error unknown_constant(std::string_view parameter) {
  return wrong("{} must be a constant, and is computed while the program runs", parameter);
}

Result<TensorType> bounded(const ValueType& type, std::string_view parameter) {
  if (type.kind != ValueType::Kind::tensor) {
    return wrong("{} is {} where a tensor is wanted", parameter, type.to_string());
  }
  if (type.tensor.shape.size() > kRankMax) {
    return wrong("{} has {} dimensions; the most are {}", parameter, type.tensor.shape.size(),
                 kRankMax);
  }
  for (const int64_t dim : type.tensor.shape) {
    if (dim > kDimensionMax || (dim < 0 && dim != kUnknown)) {
      return wrong("{} is {}: {} is no length", parameter, type.to_string(), dim);
    }
  }
  return type.tensor;
}

}  // namespace

Result<const Operand*> Reader::operand(std::string_view parameter) const {
  const auto bound = operands_.all(parameter);
  if (bound.empty()) return wrong("required parameter {} is missing", parameter);
  if (bound.size() > 1) {
    return wrong("parameter {} is bound to {} values and takes one", parameter, bound.size());
  }
  return &bound.front();
}

Result<TensorType> Reader::tensor(std::string_view parameter) const {
  IMPETUS_TRY(const Operand* const bound, operand(parameter));
  return bounded(bound->type, parameter);
}

Result<std::optional<TensorType>> Reader::tensor_if(std::string_view parameter) const {
  if (!has(parameter)) return std::optional<TensorType>();
  IMPETUS_TRY(TensorType type, tensor(parameter));
  return std::optional(std::move(type));
}

Result<std::vector<TensorType>> Reader::tensors(std::string_view parameter) const {
  const auto bound = operands_.all(parameter);
  if (bound.empty()) return wrong("required parameter {} is missing", parameter);
  std::vector<TensorType> types;
  for (const Operand& one : bound) {
    IMPETUS_TRY(TensorType type, bounded(one.type, parameter));
    types.push_back(std::move(type));
  }
  return types;
}

Result<std::optional<Ints>> Reader::ints_if_known(std::string_view parameter) const {
  if (!has(parameter)) return std::optional<Ints>();
  IMPETUS_TRY(const Operand* const bound, operand(parameter));
  if (bound->constant == nullptr) return std::optional<Ints>();
  IMPETUS_TRY(const Value* const value, readable(*bound, parameter));
  auto values = value->as_ints();
  if (!values.ok()) return std::move(values).error().within(parameter);
  for (const int64_t one : *values) {
    if (one > kDimensionMax || one < -kDimensionMax) {
      return wrong("{} holds {}, which is out of all bounds", parameter, one);
    }
  }
  return std::optional(std::move(*values));
}

Result<std::optional<Ints>> Reader::ints(std::string_view parameter) const {
  IMPETUS_TRY(auto values, ints_if_known(parameter));
  if (!values && has(parameter)) return unknown_constant(parameter);
  return values;
}

Result<int64_t> Reader::integer(std::string_view parameter, std::optional<int64_t> absent) const {
  if (absent && !has(parameter)) return *absent;
  IMPETUS_CHECK(operand(parameter));
  IMPETUS_TRY(const auto values, ints(parameter));
  if (values->size() != 1) {
    return wrong("{} has {} elements where one integer is wanted", parameter, values->size());
  }
  return values->front();
}

Result<bool> Reader::flag(std::string_view parameter, bool absent) const {
  if (!has(parameter)) return absent;
  IMPETUS_TRY(const Operand* const bound, operand(parameter));
  if (bound->constant == nullptr) return unknown_constant(parameter);
  auto value = bound->constant->as_bool();
  if (!value.ok()) return std::move(value).error().within(parameter);
  return *value;
}

Result<std::string> Reader::text(std::string_view parameter, std::string_view absent) const {
  if (!has(parameter) && !absent.empty()) return std::string(absent);
  IMPETUS_TRY(const Operand* const bound, operand(parameter));
  if (bound->constant == nullptr) return unknown_constant(parameter);
  auto value = bound->constant->as_string();
  if (!value.ok()) return std::move(value).error().within(parameter);
  return *value;
}

Result<std::vector<bool>> Reader::flags(std::string_view parameter, size_t count) const {
  IMPETUS_TRY(const auto values, ints(parameter));
  std::vector<bool> flags(count, false);
  if (!values) return flags;
  if (values->size() != count) {
    return wrong("{} has {} elements and wants {}", parameter, values->size(), count);
  }
  for (size_t i = 0; i < count; ++i) flags[i] = (*values)[i] != 0;
  return flags;
}

Types one(DataType dtype, Shape shape) {
  std::vector<ValueType> types;
  types.push_back({.tensor = {dtype, std::move(shape)}});
  return types;
}

std::string show(std::span<const int64_t> shape) {
  std::vector<std::string> dims;
  for (const int64_t dim : shape) dims.push_back(dim < 0 ? "?" : std::to_string(dim));
  return fmt::format("[{}]", fmt::join(dims, ", "));
}

bool agree(std::span<const int64_t> a, std::span<const int64_t> b) {
  return std::ranges::equal(a, b, [](int64_t x, int64_t y) { return agree(x, y); });
}

Result<std::optional<int64_t>> product(std::span<const int64_t> dims) {
  if (std::ranges::any_of(dims, [](int64_t dim) { return !known(dim); })) {
    return std::optional<int64_t>();
  }
  const auto elements = TensorType{DataType::u8, {dims.begin(), dims.end()}}.elements();
  if (!elements) return wrong("{} has more elements than can be counted", show(dims));
  return elements;
}

Result<Shape> broadcast(std::span<const int64_t> a, std::string_view a_name,
                        std::span<const int64_t> b, std::string_view b_name) {
  const size_t rank = std::max(a.size(), b.size());
  Shape shape(rank);
  for (size_t i = 0; i < rank; ++i) {
    const int64_t x = i + a.size() < rank ? 1 : a[i + a.size() - rank];
    const int64_t y = i + b.size() < rank ? 1 : b[i + b.size() - rank];
    if (x == y || y == 1) {
      shape[i] = x;
    } else if (x == 1) {
      shape[i] = y;
    } else if (known(x) && known(y)) {
      return wrong("{} {} and {} {} do not broadcast: {} against {}", a_name, show(a), b_name,
                   show(b), x, y);
    } else {  // an unknown length against a longer one must be that, or 1
      const int64_t length = std::max(x, y);
      shape[i] = length > 1 ? length : kUnknown;
    }
  }
  return shape;
}

Result<size_t> axis_of(int64_t axis, size_t rank, std::string_view parameter) {
  const auto signed_rank = static_cast<int64_t>(rank);
  if (axis < -signed_rank || axis >= signed_rank) {
    return wrong("{} {} is outside of rank {}", parameter, axis, rank);
  }
  return static_cast<size_t>(axis < 0 ? axis + signed_rank : axis);
}

Result<std::vector<size_t>> axes_of(std::span<const int64_t> axes, size_t rank,
                                    std::string_view parameter) {
  std::vector<size_t> result;
  for (const int64_t axis : axes) {
    IMPETUS_TRY(const size_t at, axis_of(axis, rank, parameter));
    result.push_back(at);
  }
  std::ranges::sort(result);
  if (std::ranges::adjacent_find(result) != result.end()) {
    return wrong("{} {} name a dimension twice", parameter, show(axes));
  }
  return result;
}

Result<DataType> type_named(std::string_view name) {
  for (int i = 0; i <= static_cast<int>(DataType::u64); ++i) {
    if (to_string(static_cast<DataType>(i)) == name) return static_cast<DataType>(i);
  }
  return wrong("\"{}\" is no element type", name);
}

Types same_as_x(const Operands& operands) {
  IMPETUS_TRY(TensorType x, Reader(operands).tensor("x"));
  return one(x.dtype, std::move(x.shape));
}

}  // namespace infer

namespace {

std::string names_of(TypeSet types) {
  std::vector<std::string_view> names;
  for (int i = 0; i <= static_cast<int>(DataType::u64); ++i) {
    if ((types >> i & 1u) != 0) names.push_back(to_string(static_cast<DataType>(i)));
  }
  return fmt::format("{}", fmt::join(names, ", "));
}

Result<void> check_parameter(const ParameterSpec& spec, std::span<const Operand> bound,
                             bool every_parameter) {
  using infer::wrong;
  if (bound.empty()) {
    if (!spec.optional) return wrong("required parameter {} is missing", spec.name);
    if (every_parameter && !spec.omittable) {
      return wrong("parameter {} is missing; Core ML wants all of them written out", spec.name);
    }
    return {};
  }
  if (!spec.many && bound.size() > 1) {
    return wrong("parameter {} is bound to {} values and takes one", spec.name, bound.size());
  }
  for (const Operand& operand : bound) {
    if (spec.constant && !operand.fixed) {
      return wrong("parameter {} must be a constant, and is computed while the program runs",
                   spec.name);
    }
    if (spec.types == 0) continue;
    if (operand.type.kind != ValueType::Kind::tensor) {
      return wrong("{} is {} where a tensor is wanted", spec.name, operand.type.to_string());
    }
    if ((spec.types >> static_cast<unsigned>(operand.type.tensor.dtype) & 1u) == 0) {
      return wrong("{} is {}; it may be {}", spec.name, operand.type.to_string(),
                   names_of(spec.types));
    }
  }
  return {};
}

// Parameters of one letter have one element type.
Result<void> check_agreement(const OperationSpec& spec, const Operands& operands) {
  for (size_t i = 0; i < spec.parameters.size(); ++i) {
    const ParameterSpec& first = spec.parameters[i];
    const auto one = operands.all(first.name);
    if (first.same == 0 || one.empty()) continue;
    for (const Operand& other : one) {
      if (other.type.tensor.dtype != one.front().type.tensor.dtype) {
        return infer::wrong("{} holds {} and {}, which differ in element type", first.name,
                            one.front().type.to_string(), other.type.to_string());
      }
    }
    for (const ParameterSpec& second : spec.parameters.subspan(i + 1)) {
      const auto two = operands.all(second.name);
      if (second.same != first.same || two.empty()) continue;
      if (two.front().type.tensor.dtype != one.front().type.tensor.dtype) {
        return infer::wrong("{} is {} and {} is {}: they must have one element type", first.name,
                            one.front().type.to_string(), second.name,
                            two.front().type.to_string());
      }
    }
  }
  return {};
}

Result<void> check_countable(const ValueType& type) {
  if (type.kind != ValueType::Kind::tensor || !type.tensor.fixed()) return {};
  const auto bytes = type.tensor.bytes();
  const bool bounded = type.tensor.shape.size() <= kRankMax &&
                       std::ranges::all_of(type.tensor.shape,
                                           [](int64_t dim) { return dim <= kDimensionMax; });
  if (!bytes || !bounded) return infer::wrong("the result would be {}", type.to_string());
  return {};
}

}  // namespace

Result<std::vector<ValueType>> infer_types(const OperationSpec& spec, const Operands& operands,
                                           bool every_parameter) {
  if (spec.infer == nullptr) {
    return error(ErrorCode::unsupported, "{} has no type rule in this build", spec.type);
  }
  for (const auto& [name, bound] : operands.bound()) {
    if (std::ranges::find(spec.parameters, name, &ParameterSpec::name) == spec.parameters.end()) {
      return infer::wrong("{} has no parameter {}", spec.type, name);
    }
  }
  for (const ParameterSpec& parameter : spec.parameters) {
    IMPETUS_CHECK(check_parameter(parameter, operands.all(parameter.name), every_parameter));
  }
  IMPETUS_CHECK(check_agreement(spec, operands));
  IMPETUS_TRY(auto types, spec.infer(operands));
  for (const ValueType& type : types) IMPETUS_CHECK(check_countable(type));
  return types;
}

bool compatible(const ValueType& declared, const ValueType& inferred) {
  return declared.kind == inferred.kind && declared.tensor.dtype == inferred.tensor.dtype &&
         infer::agree(declared.tensor.shape, inferred.tensor.shape) &&
         std::ranges::equal(declared.elements, inferred.elements, compatible);
}

const Operand* Operands::find(std::string_view parameter) const {
  const auto bound = all(parameter);
  return bound.size() == 1 ? &bound.front() : nullptr;
}

std::span<const Operand> Operands::all(std::string_view parameter) const {
  const auto found = bound_.find(parameter);
  if (found == bound_.end()) return {};
  return found->second;
}

void Operands::add(std::string_view parameter, Operand operand) {
  auto found = bound_.find(parameter);
  if (found == bound_.end()) {
    found = bound_.emplace(std::string(parameter), std::vector<Operand>()).first;
  }
  found->second.push_back(std::move(operand));
}

}  // namespace impetus::mil

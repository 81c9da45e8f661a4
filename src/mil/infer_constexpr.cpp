// Type rules of constants, compressed weights and quantised activations.
// Source: coremltools ops/defs iOS16/constexpr_ops, iOS17/quantization_ops, iOS18/compression.
#include <algorithm>
#include <bit>

#include "mil/infer.h"

namespace impetus::mil::infer {
namespace {

// Scales and zero points: one, or one for each slice along `axis`.
Result<void> check_along(const TensorType& data, const TensorType& type, std::string_view name,
                         size_t axis) {
  if (type.shape.empty()) return {};
  if (type.shape.size() == 1 && agree(type.shape[0], data.shape[axis])) return {};
  return wrong("{} is {}; it must be one number or one for each of the {} along axis {} of {}",
               name, type.to_string(), data.shape[axis], axis, data.to_string());
}

Result<Shape> shape_constant(const Reader& read) {
  IMPETUS_CHECK(read.operand("shape"));
  IMPETUS_TRY(const auto shape, read.ints("shape"));
  if (shape->size() > kRankMax ||
      std::ranges::any_of(*shape, [](int64_t dim) { return dim < 0; })) {
    return wrong("shape {} is none", show(*shape));
  }
  return *shape;
}

Result<int64_t> vector_length(const Reader& read, std::string_view parameter) {
  IMPETUS_TRY(const TensorType type, read.tensor(parameter));
  if (type.shape.size() != 1 || !known(type.shape[0])) {
    return wrong("{} is {} where a vector is wanted", parameter, type.to_string());
  }
  return type.shape[0];
}

// Bits that are set in a constant's first `count` bits; an error where its padding has any.
Result<int64_t> set_bits(const Value& value, int64_t count) {
  int64_t set = 0;
  const auto bytes = value.bytes.view;
  if (static_cast<int64_t>(bytes.size()) != count / 8 + (count % 8 != 0 ? 1 : 0)) {
    return wrong("mask has {} bytes for {} elements", bytes.size(), count);
  }
  for (const std::byte byte : bytes) set += std::popcount(std::to_integer<uint8_t>(byte));
  if (count % 8 != 0 && (std::to_integer<unsigned>(bytes.back()) >> (count % 8)) != 0) {
    return wrong("mask has bits set past its {} elements", count);
  }
  return set;
}

Result<void> check_scales(const Operands& operands) {
  const Reader read(operands);
  IMPETUS_TRY(const TensorType input, read.tensor("input"));
  IMPETUS_TRY(const TensorType scale, read.tensor("scale"));
  IMPETUS_TRY(const auto zero, read.tensor_if("zero_point"));
  if (scale.shape.size() > 1) {
    return wrong("scale is {}; it must be one number or a vector", scale.to_string());
  }
  if (scale.shape.empty()) {
    if (read.has("axis")) return wrong("axis is there, but scale is one number");
    if (zero && !zero->shape.empty()) {
      return wrong("zero_point is {}, but scale is one number", zero->to_string());
    }
    return {};
  }
  if (!read.has("axis")) return wrong("scale is {}; then axis must be there", scale.to_string());
  IMPETUS_TRY(const int64_t wanted, read.integer("axis"));
  IMPETUS_TRY(const size_t axis, axis_of(wanted, input.shape.size()));
  IMPETUS_CHECK(check_along(input, scale, "scale", axis));
  if (!zero) return {};
  if (zero->shape.size() != 1) {
    return wrong("zero_point is {}, but scale is {}", zero->to_string(), scale.to_string());
  }
  return check_along(input, *zero, "zero_point", axis);
}

}  // namespace

Types constant(const Operands& operands) {
  IMPETUS_TRY(const Operand* const value, Reader(operands).operand("val"));
  return std::vector{value->type};
}

Types affine_dequantize(const Operands& operands) {
  const Reader read(operands);
  IMPETUS_TRY(TensorType data, read.tensor("quantized_data"));
  IMPETUS_TRY(const TensorType scale, read.tensor("scale"));
  IMPETUS_TRY(const TensorType zero, read.tensor("zero_point"));
  IMPETUS_TRY(const int64_t wanted, read.integer("axis"));
  IMPETUS_TRY(const size_t axis, axis_of(wanted, data.shape.size()));
  IMPETUS_CHECK(check_along(data, scale, "scale", axis));
  IMPETUS_CHECK(check_along(data, zero, "zero_point", axis));
  return one(scale.dtype, std::move(data.shape));
}

// Indices of log2(size of lut) bits, packed from the least significant bit.
Types lut_to_dense6(const Operands& operands) {
  const Reader read(operands);
  IMPETUS_TRY(const int64_t bytes, vector_length(read, "indices"));
  IMPETUS_TRY(const int64_t entries, vector_length(read, "lut"));
  IMPETUS_TRY(const TensorType lut, read.tensor("lut"));
  IMPETUS_TRY(Shape shape, shape_constant(read));
  if (entries != 2 && entries != 4 && entries != 16 && entries != 64 && entries != 256) {
    return wrong("lut has {} entries; it must have 2, 4, 16, 64 or 256", entries);
  }
  const int64_t bits = std::countr_zero(static_cast<uint64_t>(entries));
  IMPETUS_TRY(const auto elements, product(shape));
  int64_t all = 0;
  if (__builtin_mul_overflow(*elements, bits, &all) || bytes != all / 8 + (all % 8 != 0 ? 1 : 0)) {
    return wrong("indices has {} bytes; {} elements of {} bits need another number", bytes,
                 *elements, bits);
  }
  return one(lut.dtype, std::move(shape));
}

// lut: [groups along each dimension of indices ..., 2^bits, vector].
Types lut_to_dense8(const Operands& operands) {
  const Reader read(operands);
  IMPETUS_TRY(TensorType indices, read.tensor("indices"));
  IMPETUS_TRY(const TensorType lut, read.tensor("lut"));
  const size_t rank = indices.shape.size();
  if (rank < 1 || lut.shape.size() != rank + 2 || !indices.fixed() || !lut.fixed()) {
    return wrong("lut is {} and indices {}: lut must have two dimensions more, all known",
                 lut.to_string(), indices.to_string());
  }
  for (size_t i = 0; i < rank; ++i) {
    if (lut.shape[i] == 0 || indices.shape[i] % lut.shape[i] != 0) {
      return wrong("lut {} does not divide indices {} in dimension {}", lut.to_string(),
                   indices.to_string(), i);
    }
  }
  const int bits = bits_of(indices.dtype);
  if (bits > 8 || lut.shape[rank] != int64_t{1} << bits) {
    return wrong("lut is {}; indices of {} need {} entries", lut.to_string(),
                 to_string(indices.dtype), bits > 8 ? 0 : int64_t{1} << bits);
  }
  const int64_t vector = lut.shape[rank + 1];
  if (!read.has("vector_axis")) {
    if (vector != 1) return wrong("lut is {}: vectors need vector_axis", lut.to_string());
    return one(lut.dtype, std::move(indices.shape));
  }
  IMPETUS_TRY(const int64_t wanted, read.integer("vector_axis"));
  IMPETUS_TRY(const size_t axis, axis_of(wanted, rank, "vector_axis"));
  if (vector < 1 || __builtin_mul_overflow(indices.shape[axis], vector, &indices.shape[axis])) {
    return wrong("lut is {}: no vectors", lut.to_string());
  }
  return one(lut.dtype, std::move(indices.shape));
}

Types sparse_to_dense6(const Operands& operands) {
  const Reader read(operands);
  IMPETUS_TRY(const TensorType data, read.tensor("nonzero_data"));
  IMPETUS_TRY(const int64_t values, vector_length(read, "nonzero_data"));
  IMPETUS_CHECK(vector_length(read, "mask"));
  IMPETUS_TRY(Shape shape, shape_constant(read));
  IMPETUS_TRY(const auto elements, product(shape));
  IMPETUS_TRY(const Operand* const mask, read.operand("mask"));
  if (mask->constant != nullptr) {
    IMPETUS_TRY(const int64_t set, set_bits(*mask->constant, *elements));
    if (set != values) return wrong("mask sets {} elements, nonzero_data has {}", set, values);
  }
  return one(data.dtype, std::move(shape));
}

Types sparse_to_dense8(const Operands& operands) {
  const Reader read(operands);
  IMPETUS_TRY(const TensorType data, read.tensor("nonzero_data"));
  IMPETUS_TRY(const int64_t values, vector_length(read, "nonzero_data"));
  IMPETUS_TRY(TensorType mask, read.tensor("mask"));
  IMPETUS_TRY(const Operand* const bound, read.operand("mask"));
  IMPETUS_TRY(const auto elements, product(mask.shape));
  if (bound->constant != nullptr && elements) {
    IMPETUS_TRY(const int64_t set, set_bits(*bound->constant, *elements));
    if (set != values) return wrong("mask sets {} elements, nonzero_data has {}", set, values);
  }
  return one(data.dtype, std::move(mask.shape));
}

Types constexpr_cast(const Operands& operands) {
  const Reader read(operands);
  IMPETUS_TRY(TensorType source, read.tensor("source_val"));
  IMPETUS_TRY(const std::string name, read.text("output_dtype"));
  if (name != "fp32") return wrong("output_dtype \"{}\" must be fp32", name);
  return one(DataType::f32, std::move(source.shape));
}

Types blockwise_shift_scale(const Operands& operands) {
  const Reader read(operands);
  IMPETUS_TRY(TensorType data, read.tensor("data"));
  IMPETUS_TRY(const TensorType scale, read.tensor("scale"));
  IMPETUS_TRY(const auto offset, read.tensor_if("offset"));
  if (data.shape.empty() || scale.shape.size() != data.shape.size()) {
    return wrong("data is {} and scale {}: they must have one rank of at least 1", data.to_string(),
                 scale.to_string());
  }
  for (size_t i = 0; i < data.shape.size(); ++i) {
    if (scale.shape[i] == 0 ||
        (known(scale.shape[i]) && known(data.shape[i]) && data.shape[i] % scale.shape[i] != 0)) {
      return wrong("scale {} does not divide data {} in dimension {}", scale.to_string(),
                   data.to_string(), i);
    }
  }
  if (offset && !agree(offset->shape, scale.shape)) {
    return wrong("offset is {} and scale {}: they must have one shape", offset->to_string(),
                 scale.to_string());
  }
  if (offset && !is_float(offset->dtype) && offset->dtype != data.dtype) {
    return wrong("offset is {} and data {}: they must have one element type", offset->to_string(),
                 data.to_string());
  }
  return one(scale.dtype, std::move(data.shape));
}

Types quantize(const Operands& operands) {
  const Reader read(operands);
  IMPETUS_TRY(TensorType input, read.tensor("input"));
  IMPETUS_TRY(const std::string name, read.text("output_dtype"));
  IMPETUS_TRY(const DataType type, type_named(name));
  IMPETUS_TRY(const auto zero, read.tensor_if("zero_point"));
  if (type != DataType::i8 && type != DataType::u8) {
    return wrong("output_dtype \"{}\" is neither int8 nor uint8", name);
  }
  if (zero && zero->dtype != type) {
    return wrong("zero_point is {}, but output_dtype is {}", zero->to_string(), name);
  }
  IMPETUS_CHECK(check_scales(operands));
  return one(type, std::move(input.shape));
}

Types dequantize(const Operands& operands) {
  const Reader read(operands);
  IMPETUS_TRY(TensorType input, read.tensor("input"));
  IMPETUS_TRY(const TensorType scale, read.tensor("scale"));
  IMPETUS_CHECK(check_scales(operands));
  return one(scale.dtype, std::move(input.shape));
}

}  // namespace impetus::mil::infer

#include "mil/program.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>

#include <fmt/ranges.h>

#include "tensor/dtype.h"

namespace impetus::mil {
namespace {

struct TypeRow {
  DataType type;
  std::string_view name;
  int bits;
};
constexpr std::array<TypeRow, 22> kTypes{{
    {DataType::boolean, "bool", 8},
    {DataType::string, "string", 0},
    {DataType::f16, "fp16", 16},
    {DataType::f32, "fp32", 32},
    {DataType::f64, "fp64", 64},
    {DataType::bf16, "bf16", 16},
    {DataType::f8e4m3fn, "fp8e4m3fn", 8},
    {DataType::f8e5m2, "fp8e5m2", 8},
    {DataType::i4, "int4", 4},
    {DataType::i8, "int8", 8},
    {DataType::i16, "int16", 16},
    {DataType::i32, "int32", 32},
    {DataType::i64, "int64", 64},
    {DataType::u1, "uint1", 1},
    {DataType::u2, "uint2", 2},
    {DataType::u3, "uint3", 3},
    {DataType::u4, "uint4", 4},
    {DataType::u6, "uint6", 6},
    {DataType::u8, "uint8", 8},
    {DataType::u16, "uint16", 16},
    {DataType::u32, "uint32", 32},
    {DataType::u64, "uint64", 64},
}};

const TypeRow& row_of(DataType type) {
  return *std::ranges::find(kTypes, type, &TypeRow::type);
}

struct OpsetRow {
  std::string_view name;
  int specification, macos;
};
constexpr std::array<OpsetRow, 5> kOpsets{{
    {"CoreML5", 6, 12},
    {"CoreML6", 7, 13},
    {"CoreML7", 8, 14},
    {"CoreML8", 9, 15},
    {"CoreML9", 10, 26},
}};

template <typename T>
T read_at(const Bytes& bytes, size_t index) {
  T value;
  std::memcpy(&value, bytes.view.data() + index * sizeof(T), sizeof(T));
  return value;
}

template <typename T>
Bytes bytes_of_values(std::span<const T> values) {
  std::vector<std::byte> bytes(values.size_bytes());
  if (!bytes.empty()) std::memcpy(bytes.data(), values.data(), bytes.size());
  return Bytes::own(std::move(bytes));
}

// Bits [index * bits, + bits) of a little-endian bit stream.
uint32_t packed_at(const Bytes& bytes, size_t index, int bits) {
  uint32_t value = 0;
  for (int bit = 0; bit < bits; ++bit) {
    const size_t at = index * static_cast<size_t>(bits) + static_cast<size_t>(bit);
    const auto byte = std::to_integer<uint32_t>(bytes.view[at / 8]);
    value |= ((byte >> (at % 8)) & 1u) << bit;
  }
  return value;
}

// nullopt for what is no integer.
std::optional<int64_t> integer_at(const Bytes& bytes, DataType type, size_t index) {
  switch (type) {
    case DataType::boolean:
      return read_at<uint8_t>(bytes, index) != 0 ? 1 : 0;
    case DataType::i8:
      return read_at<int8_t>(bytes, index);
    case DataType::i16:
      return read_at<int16_t>(bytes, index);
    case DataType::i32:
      return read_at<int32_t>(bytes, index);
    case DataType::i64:
      return read_at<int64_t>(bytes, index);
    case DataType::u8:
      return read_at<uint8_t>(bytes, index);
    case DataType::u16:
      return read_at<uint16_t>(bytes, index);
    case DataType::u32:
      return read_at<uint32_t>(bytes, index);
    case DataType::u64: {
      const auto value = read_at<uint64_t>(bytes, index);
      if (value > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) return std::nullopt;
      return static_cast<int64_t>(value);
    }
    case DataType::i4: {
      const auto value = static_cast<int64_t>(packed_at(bytes, index, 4));
      return value >= 8 ? value - 16 : value;
    }
    case DataType::u1:
    case DataType::u2:
    case DataType::u3:
    case DataType::u4:
    case DataType::u6:
      return packed_at(bytes, index, bits_of(type));
    default:
      return std::nullopt;
  }
}

std::optional<float> float_at(const Bytes& bytes, DataType type, size_t index) {
  switch (type) {
    case DataType::f16:
      return f16_to_f32(read_at<uint16_t>(bytes, index));
    case DataType::bf16:
      return bf16_to_f32(read_at<uint16_t>(bytes, index));
    case DataType::f32:
      return read_at<float>(bytes, index);
    case DataType::f64:
      return static_cast<float>(read_at<double>(bytes, index));
    default:
      break;
  }
  const auto integer = integer_at(bytes, type, index);
  return integer ? std::optional<float>(static_cast<float>(*integer)) : std::nullopt;
}

Error wrong(const ValueType& type, std::string_view wanted) {
  return error(ErrorCode::corrupt, "a constant is {} where {} is wanted", type.to_string(), wanted);
}

// Elements of a tensor constant whose bytes are really there.
Result<size_t> elements_there(const Value& value, std::string_view wanted) {
  const auto elements = value.type.tensor.elements();
  const auto bytes = value.type.tensor.bytes();
  if (value.type.kind != ValueType::Kind::tensor || !elements || !bytes ||
      value.type.tensor.dtype == DataType::string ||
      value.bytes.view.size() != static_cast<size_t>(*bytes)) {
    return wrong(value.type, wanted);
  }
  return static_cast<size_t>(*elements);
}

}  // namespace

std::string_view to_string(DataType type) {
  return row_of(type).name;
}
int bits_of(DataType type) {
  return row_of(type).bits;
}

bool is_float(DataType type) {
  return type == DataType::f16 || type == DataType::f32 || type == DataType::f64 ||
         type == DataType::bf16 || type == DataType::f8e4m3fn || type == DataType::f8e5m2;
}

bool TensorType::fixed() const {
  return std::ranges::none_of(shape, [](int64_t dim) { return dim < 0; });
}

std::optional<int64_t> TensorType::elements() const {
  int64_t product = 1;
  for (const int64_t dim : shape) {
    if (dim < 0 || __builtin_mul_overflow(product, dim, &product)) return std::nullopt;
  }
  return product;
}

std::optional<int64_t> TensorType::bytes() const {
  const auto count = elements();
  int64_t bits = 0;
  if (!count || __builtin_mul_overflow(*count, int64_t{bits_of(dtype)}, &bits)) return std::nullopt;
  return bits / 8 + (bits % 8 != 0 ? 1 : 0);
}

std::string TensorType::to_string() const {
  std::vector<std::string> dims;
  for (const int64_t dim : shape) dims.push_back(dim < 0 ? "?" : std::to_string(dim));
  return fmt::format("{}[{}]", mil::to_string(dtype), fmt::join(dims, ", "));
}

std::string ValueType::to_string() const {
  std::vector<std::string> inner;
  for (const ValueType& one : elements) inner.push_back(one.to_string());
  switch (kind) {
    case Kind::tensor:
      return tensor.to_string();
    case Kind::state:
      return fmt::format("state<{}>", tensor.to_string());
    case Kind::list:
      return fmt::format("list<{}>", fmt::join(inner, ", "));
    case Kind::tuple:
      return fmt::format("tuple<{}>", fmt::join(inner, ", "));
    case Kind::dictionary:
      return fmt::format("dictionary<{}>", fmt::join(inner, ", "));
  }
  return "?";
}

Bytes Bytes::own(std::vector<std::byte> bytes) {
  auto kept = std::make_shared<const std::vector<std::byte>>(std::move(bytes));
  const std::span<const std::byte> view(*kept);
  return {view, std::move(kept)};
}

Value Value::tensor(TensorType type, Bytes bytes) {
  assert(type.bytes() && static_cast<size_t>(*type.bytes()) == bytes.view.size());
  return {.type = {.tensor = std::move(type)}, .bytes = std::move(bytes)};
}

Value Value::scalar(bool value) {
  const uint8_t byte = value ? 1 : 0;
  return tensor({DataType::boolean}, bytes_of_values(std::span(&byte, 1)));
}

Value Value::scalar(int32_t value) {
  return tensor({DataType::i32}, bytes_of_values(std::span<const int32_t>(&value, 1)));
}

Value Value::scalar(float value, DataType type) {
  assert(type == DataType::f32 || type == DataType::f16);
  if (type == DataType::f32)
    return tensor({type}, bytes_of_values(std::span<const float>(&value, 1)));
  const uint16_t half = f32_to_f16(value);
  return tensor({type}, bytes_of_values(std::span<const uint16_t>(&half, 1)));
}

Value Value::scalar(std::string value) {
  Value made{.type = {.tensor = {DataType::string}}};
  made.strings.push_back(std::move(value));
  return made;
}

Value Value::ints(std::span<const int32_t> values) {
  return tensor({DataType::i32, {static_cast<int64_t>(values.size())}}, bytes_of_values(values));
}

Value Value::bools(std::initializer_list<bool> values) {
  std::vector<uint8_t> bytes(values.begin(), values.end());
  return tensor({DataType::boolean, {static_cast<int64_t>(bytes.size())}},
                bytes_of_values(std::span<const uint8_t>(bytes)));
}

Result<std::vector<int64_t>> Value::as_ints() const {
  IMPETUS_TRY(const size_t count, elements_there(*this, "integers"));
  std::vector<int64_t> values(count);
  for (size_t i = 0; i < count; ++i) {
    const auto one = integer_at(bytes, type.tensor.dtype, i);
    if (!one) return wrong(type, "integers");
    values[i] = *one;
  }
  return values;
}

Result<std::vector<float>> Value::as_floats() const {
  IMPETUS_TRY(const size_t count, elements_there(*this, "numbers"));
  std::vector<float> values(count);
  for (size_t i = 0; i < count; ++i) {
    const auto one = float_at(bytes, type.tensor.dtype, i);
    if (!one) return wrong(type, "numbers");
    values[i] = *one;
  }
  return values;
}

Result<bool> Value::as_bool() const {
  IMPETUS_TRY(const size_t count, elements_there(*this, "one bool"));
  if (count != 1 || type.tensor.dtype != DataType::boolean) return wrong(type, "one bool");
  return read_at<uint8_t>(bytes, 0) != 0;
}

Result<std::string> Value::as_string() const {
  if (type.kind != ValueType::Kind::tensor || type.tensor.dtype != DataType::string ||
      strings.size() != 1) {
    return wrong(type, "one string");
  }
  return strings.front();
}

std::string_view Operation::name() const {
  return outputs.empty() ? type : outputs.front().name;
}

std::string_view to_string(Opset opset) {
  return kOpsets[static_cast<size_t>(opset)].name;
}

std::optional<Opset> opset_from(std::string_view name) {
  const auto found = std::ranges::find(kOpsets, name, &OpsetRow::name);
  if (found == kOpsets.end()) return std::nullopt;
  return static_cast<Opset>(found - kOpsets.begin());
}

int specification_version_of(Opset opset) {
  return kOpsets[static_cast<size_t>(opset)].specification;
}
int macos_of(Opset opset) {
  return kOpsets[static_cast<size_t>(opset)].macos;
}

const Block* Function::block() const {
  const auto found = blocks.find(opset);
  return found == blocks.end() ? nullptr : &found->second;
}

}  // namespace impetus::mil

// Writes GGUF in memory (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md), and lies where
// a test asks it to. Tests only: nothing is checked.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "tensor/dtype.h"
#include "tests/support/bytes.h"

namespace impetus::testing {

class GgufWriter {
 public:
  explicit GgufWriter(uint32_t version = 3) : version_(version) {}

  GgufWriter& u8(std::string_view key, uint8_t value) { return scalar(key, 0, value); }
  GgufWriter& i8(std::string_view key, int8_t value) { return scalar(key, 1, value); }
  GgufWriter& u16(std::string_view key, uint16_t value) { return scalar(key, 2, value); }
  GgufWriter& i16(std::string_view key, int16_t value) { return scalar(key, 3, value); }
  GgufWriter& u32(std::string_view key, uint32_t value) { return scalar(key, 4, value); }
  GgufWriter& i32(std::string_view key, int32_t value) { return scalar(key, 5, value); }
  GgufWriter& f32(std::string_view key, float value) { return scalar(key, 6, value); }
  GgufWriter& boolean(std::string_view key, bool value) {
    return scalar(key, 7, static_cast<uint8_t>(value));
  }
  GgufWriter& u64(std::string_view key, uint64_t value) { return scalar(key, 10, value); }
  GgufWriter& i64(std::string_view key, int64_t value) { return scalar(key, 11, value); }
  GgufWriter& f64(std::string_view key, double value) { return scalar(key, 12, value); }
  GgufWriter& string(std::string_view key, std::string_view value) {
    begin(key, 8);
    put_string(metadata_, value);
    return *this;
  }
  GgufWriter& strings(std::string_view key, const std::vector<std::string>& values) {
    begin_array(key, 8, values.size());
    for (const std::string& value : values) put_string(metadata_, value);
    return *this;
  }
  GgufWriter& i32s(std::string_view key, const std::vector<int32_t>& values) {
    return array(key, 5, values);
  }
  GgufWriter& u8s(std::string_view key, const std::vector<uint8_t>& values) {
    return array(key, 0, values);
  }
  GgufWriter& f32s(std::string_view key, const std::vector<float>& values) {
    return array(key, 6, values);
  }
  GgufWriter& booleans(std::string_view key, const std::vector<uint8_t>& values) {
    return array(key, 7, values);
  }
  // A value of any type number, with these bytes.
  GgufWriter& raw(std::string_view key, uint32_t type, const Bytes& value) {
    begin(key, type);
    append(metadata_, value);
    return *this;
  }

  // What the file's layout uses; written as general.alignment only by the caller.
  GgufWriter& align(uint64_t alignment) {
    alignment_ = alignment;
    return *this;
  }

  // `shape` is row-major, as everywhere in this project; the file has it reversed.
  GgufWriter& tensor(std::string_view name, DType type, std::vector<uint64_t> shape, Bytes data) {
    return typed_tensor(name, type_number(type), std::move(shape), std::move(data));
  }
  GgufWriter& typed_tensor(std::string_view name, uint32_t type, std::vector<uint64_t> shape,
                           Bytes data, std::optional<uint64_t> offset = std::nullopt) {
    tensors_.push_back({std::string(name), type, std::move(shape), std::move(data), offset});
    return *this;
  }
  GgufWriter& f32_tensor(std::string_view name, std::vector<uint64_t> shape, uint32_t seed = 1) {
    uint64_t elements = 1;
    for (const uint64_t dim : shape) elements *= dim;
    return tensor(name, DType::f32, std::move(shape),
                  bytes_of_values(random_floats(elements, seed)));
  }

  GgufWriter& claim_tensors(uint64_t count) {
    tensor_count_ = count;
    return *this;
  }
  GgufWriter& claim_entries(uint64_t count) {
    entry_count_ = count;
    return *this;
  }

  Bytes finish() const {
    Bytes out;
    append(out, "GGUF");
    append_value(out, version_);
    append_value<uint64_t>(out, tensor_count_.value_or(tensors_.size()));
    append_value<uint64_t>(out, entry_count_.value_or(entries_));
    append(out, metadata_);
    Bytes data;
    for (const TensorEntry& tensor : tensors_) {
      put_string(out, tensor.name);
      append_value<uint32_t>(out, static_cast<uint32_t>(tensor.shape.size()));
      for (size_t i = tensor.shape.size(); i > 0; --i)
        append_value<uint64_t>(out, tensor.shape[i - 1]);
      append_value(out, tensor.type);
      pad(data);
      append_value<uint64_t>(out, tensor.offset.value_or(data.size()));
      append(data, tensor.data);
    }
    if (!tensors_.empty()) pad(out);
    append(out, data);
    return out;
  }

  static uint32_t type_number(DType type) {
    switch (type) {
      case DType::f32:
        return 0;
      case DType::f16:
        return 1;
      case DType::q4_0:
        return 2;
      case DType::q8_0:
        return 8;
      case DType::i8:
        return 24;
      case DType::i32:
        return 26;
      case DType::i64:
        return 27;
      case DType::bf16:
        return 30;
      case DType::grouped:
      case DType::u32:
      case DType::u8:
        break;  // GGUF has none
    }
    return 0xffff;
  }

 private:
  struct TensorEntry {
    std::string name;
    uint32_t type;
    std::vector<uint64_t> shape;
    Bytes data;
    std::optional<uint64_t> offset;
  };

  void pad(Bytes& out) const {
    out.resize((out.size() + alignment_ - 1) / alignment_ * alignment_);
  }

  static void put_string(Bytes& out, std::string_view text) {
    append_value<uint64_t>(out, text.size());
    append(out, text);
  }
  void begin(std::string_view key, uint32_t type) {
    ++entries_;
    put_string(metadata_, key);
    append_value(metadata_, type);
  }
  void begin_array(std::string_view key, uint32_t type, uint64_t count) {
    begin(key, 9);
    append_value(metadata_, type);
    append_value(metadata_, count);
  }
  template <typename T>
  GgufWriter& scalar(std::string_view key, uint32_t type, T value) {
    begin(key, type);
    append_value(metadata_, value);
    return *this;
  }
  template <typename T>
  GgufWriter& array(std::string_view key, uint32_t type, const std::vector<T>& values) {
    begin_array(key, type, values.size());
    append(metadata_, bytes_of_values(values));
    return *this;
  }

  uint32_t version_;
  uint64_t entries_ = 0;
  Bytes metadata_;
  uint64_t alignment_ = 32;
  std::vector<TensorEntry> tensors_;
  std::optional<uint64_t> tensor_count_, entry_count_;
};

}  // namespace impetus::testing

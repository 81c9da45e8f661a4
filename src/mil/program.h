// A Core ML ML Program as plain data: functions of operations in the model intermediate language
// (MIL), constants with their bytes, and the model's description around it. Knows no protobuf, no
// file and no processor. Format: MIL.proto and Model.proto of coremltools
// (https://github.com/apple/coremltools/tree/main/mlmodel/format).
//
// Values: nothing is shared but constants' bytes, which an owner keeps alive (a mapped weight file,
// or the builder's buffer). Immutable use from any thread. What stands here may be hostile or
// ill-typed until validate() (operations.h) has passed it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "base/result.h"

namespace impetus::mil {

enum class DataType : uint8_t {
  boolean,
  string,
  f16,
  f32,
  f64,
  bf16,
  f8e4m3fn,
  f8e5m2,
  i4,
  i8,
  i16,
  i32,
  i64,
  u1,
  u2,
  u3,
  u4,
  u6,
  u8,
  u16,
  u32,
  u64,
};

std::string_view to_string(DataType type);  // MIL's own words: "fp16", "int32", "bool", ...
int bits_of(DataType type);                 // in weight.bin; 8 for boolean, 0 for string
bool is_float(DataType type);

// The length of a dimension that the program leaves open.
inline constexpr int64_t kUnknown = -1;

struct TensorType {
  DataType dtype = DataType::f32;
  std::vector<int64_t> shape = {};  // empty: a scalar

  bool operator==(const TensorType&) const = default;
  bool fixed() const;                       // no unknown dimension
  std::optional<int64_t> elements() const;  // nullopt: unknown dimensions, negative ones, overflow
  std::optional<int64_t> bytes() const;     // packed, rounded up to whole bytes; also for string
  std::string to_string() const;            // "fp16[1, 384, 1, 128]"
};

struct ValueType {
  enum class Kind : uint8_t { tensor, state, list, tuple, dictionary };

  Kind kind = Kind::tensor;
  TensorType tensor = {};  // of a tensor, or what a state wraps
  std::vector<ValueType> elements =
      {};                     // a list's one type, a tuple's, a dictionary's key and value
  int64_t length = kUnknown;  // of a list

  bool operator==(const ValueType&) const = default;
  std::string to_string() const;
};

// Bytes that somebody keeps alive. Little-endian, row-major; types under 8 bits packed from the
// least significant bit; a bool is one byte.
struct Bytes {
  std::span<const std::byte> view;
  std::shared_ptr<const void> owner;

  static Bytes own(std::vector<std::byte> bytes);
};

// A constant.
struct Value {
  ValueType type;
  Bytes bytes = {};                       // a tensor of numbers or bools
  std::vector<std::string> strings = {};  // a tensor of strings
  std::vector<Value> elements = {};       // of a list or tuple; a dictionary's key, value, key, ...
  // Where a reader found the bytes: the offset of the blob's metadata in weight.bin; -1: in the
  // program itself. Equal offsets are one blob. Writers decide anew.
  int64_t blob_offset = -1;

  static Value scalar(bool value);
  static Value scalar(int32_t value);
  static Value scalar(float value, DataType type = DataType::f32);  // f32 or f16, rounded
  static Value scalar(std::string value);
  static Value ints(std::span<const int32_t> values);  // rank 1
  static Value bools(std::initializer_list<bool> values);
  static Value tensor(TensorType type, Bytes bytes);  // REQUIRES as many bytes as the type has

  // The elements as numbers; an error that says what the value is instead, where it is not an
  // integer (or bool), number, one bool, one string.
  Result<std::vector<int64_t>> as_ints() const;
  Result<std::vector<float>> as_floats() const;  // also of integers; sub-byte types too
  Result<bool> as_bool() const;
  Result<std::string> as_string() const;
};

// A name or word from a file as it may stand in a message or on a terminal: what is not printable
// ASCII becomes '?', and what is long is cut.
std::string shown(std::string_view name);

struct NamedType {
  std::string name;
  ValueType type;
};

// What a parameter is bound to: an earlier result or input by name, or a constant on the spot.
using Binding = std::variant<std::string, Value>;
// Several only where the parameter takes a list (concat's values).
using Argument = std::vector<Binding>;

struct Block;

struct Operation {
  std::string type;  // "conv", "const", ...
  std::map<std::string, Argument, std::less<>> inputs;
  std::vector<NamedType> outputs;
  std::vector<Block> blocks;  // of cond, while_loop
  // "name"; of a const also "val"; of CoreML6's constexpr_* also their parameters.
  std::map<std::string, Value, std::less<>> attributes;

  std::string_view name() const;  // its first output's, else its type
};

struct Block {
  std::vector<NamedType> inputs;
  std::vector<std::string> outputs;
  std::vector<Operation> operations;  // each after those whose results it uses
  std::map<std::string, Value, std::less<>> attributes;
};

// Which set of operations a function is written in; each contains those before it.
enum class Opset : uint8_t { core_ml5, core_ml6, core_ml7, core_ml8, core_ml9 };
std::string_view to_string(Opset opset);  // "CoreML5", ...
std::optional<Opset> opset_from(std::string_view name);
int specification_version_of(Opset opset);  // 6, ...
int macos_of(Opset opset);                  // the first that runs it: 12, 13, 14, 15, 26

struct Function {
  std::vector<NamedType> inputs;
  std::string opset;                    // as the file says: opset_from may not know it
  std::map<std::string, Block> blocks;  // by opset; the function's own runs
  std::map<std::string, Value, std::less<>> attributes;

  const Block* block() const;  // of its own opset; null where there is none
};

struct Program {
  int64_t version = 1;
  std::map<std::string, Function> functions;
  std::map<std::string, Value, std::less<>> attributes;
};

// An input, output or state as the model's description declares it.
struct Feature {
  enum class Kind : uint8_t { array, image, state, other };
  enum class Color : uint8_t { none, grayscale, rgb, bgr, grayscale_f16 };

  std::string name;
  Kind kind = Kind::array;
  // The default shape where it is flexible; an array's is empty where it is not declared (outputs
  // of flexible models). An image's: uint8 (fp16 for grayscale_f16) [1, channels, height, width].
  TensorType type;
  bool optional = false;
  // Flexible shapes, where there are any.
  std::vector<std::vector<int64_t>> enumerated = {};
  std::vector<std::pair<int64_t, int64_t>> ranges = {};  // a dimension each; upper -1: unbounded
  Color color = Color::none;                             // of an image
};

struct FunctionDescription {
  std::string name;
  std::vector<Feature> inputs, outputs, states;
};

struct Metadata {
  std::string description, version, author, license;
  std::map<std::string, std::string> user;
};

struct Model {
  int specification_version = 7;
  // One for each function of the program. A model without named functions has one, "main", which is
  // written at the top level of its description.
  std::vector<FunctionDescription> functions;
  std::string default_function = "main";
  Metadata metadata;
  Program program;
};

}  // namespace impetus::mil

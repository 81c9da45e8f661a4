// Programs built by hand, for tests of the interpreter.
#pragma once

#include <cmath>
#include <cstring>
#include <functional>
#include <initializer_list>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "mil/interpreter.h"
#include "mil/program.h"
#include "tensor/dtype.h"

namespace impetus::mil::testing {

using Dims = std::vector<int64_t>;

inline int64_t count_of(const Dims& shape) {
  int64_t count = 1;
  for (const int64_t dimension : shape) count *= dimension;
  return count;
}

inline ValueType tensor_type(DataType dtype, Dims shape) {
  return {ValueType::Kind::tensor, {dtype, std::move(shape)}, {}, kUnknown};
}

// A tensor of numbers as a constant; floats are rounded to the type.
inline Value constant(DataType dtype, Dims shape, const std::vector<double>& values) {
  std::vector<std::byte> bytes;
  const auto put = [&](auto value) {
    const auto* from = reinterpret_cast<const std::byte*>(&value);
    bytes.insert(bytes.end(), from, from + sizeof(value));
  };
  const int bits = bits_of(dtype);
  if (bits < 8) {
    bytes.resize((values.size() * static_cast<size_t>(bits) + 7) / 8);
    for (size_t i = 0; i < values.size(); ++i) {
      const auto value = static_cast<uint32_t>(static_cast<int32_t>(values[i]));
      for (size_t bit = 0; bit < static_cast<size_t>(bits); ++bit) {
        const size_t at = i * static_cast<size_t>(bits) + bit;
        if ((value >> bit & 1u) != 0) bytes[at / 8] |= std::byte(1u << (at % 8));
      }
    }
    return Value::tensor({dtype, std::move(shape)}, Bytes::own(std::move(bytes)));
  }
  for (const double value : values) {
    switch (dtype) {
      case DataType::f16:
        put(f32_to_f16(static_cast<float>(value)));
        break;
      case DataType::f32:
        put(static_cast<float>(value));
        break;
      case DataType::i32:
        put(static_cast<int32_t>(value));
        break;
      case DataType::u32:
        put(static_cast<uint32_t>(value));
        break;
      case DataType::i16:
        put(static_cast<int16_t>(value));
        break;
      case DataType::u16:
        put(static_cast<uint16_t>(value));
        break;
      case DataType::i8:
        put(static_cast<int8_t>(value));
        break;
      default:
        put(static_cast<uint8_t>(value));
        break;
    }
  }
  return Value::tensor({dtype, std::move(shape)}, Bytes::own(std::move(bytes)));
}
inline Value ints(std::initializer_list<int32_t> values) {
  return Value::ints(std::vector<int32_t>(values));
}
inline Value ints(const Dims& values) {
  return Value::ints(std::vector<int32_t>(values.begin(), values.end()));
}

// Values of a tensor as doubles, whatever their type.
struct Numbers {
  DataType dtype = DataType::f32;
  Dims shape;
  std::vector<double> values;
};

inline bool stands_at_the_border(DataType type) {  // what a function may take and give
  return type == DataType::f16 || type == DataType::f32 || type == DataType::i32;
}

class ProgramBuilder {
 public:
  explicit ProgramBuilder(Opset opset = Opset::core_ml8) : opset_(opset) {
    function_.opset = std::string(to_string(opset));
    description_.name = "main";
  }

  // Types that no function takes come as int32 and are cast.
  std::string input(const std::string& name, DataType dtype, Dims shape) {
    const DataType outside = stands_at_the_border(dtype) ? dtype : DataType::i32;
    function_.inputs.push_back({name, tensor_type(outside, shape)});
    description_.inputs.push_back({.name = name, .type = {outside, shape}});
    if (outside == dtype) return name;
    return op("cast", {{"x", {name}}, {"dtype", {Value::scalar(std::string(to_string(dtype)))}}},
              {{name + "_cast", tensor_type(dtype, shape)}});
  }
  std::string state(const std::string& name, DataType dtype, Dims shape) {
    ValueType type = tensor_type(dtype, shape);
    type.kind = ValueType::Kind::state;
    function_.inputs.push_back({name, type});
    description_.states.push_back(
        {.name = name, .kind = Feature::Kind::state, .type = {dtype, shape}});
    return name;
  }
  // Returns the first result's name.
  std::string op(const std::string& type, std::map<std::string, Argument, std::less<>> inputs,
                 std::vector<NamedType> outputs,
                 std::map<std::string, Value, std::less<>> attributes = {}) {
    Operation operation;
    operation.type = type;
    operation.inputs = std::move(inputs);
    operation.outputs = std::move(outputs);
    operation.attributes = std::move(attributes);
    if (!operation.outputs.empty()) {
      operation.attributes.emplace("name", Value::scalar(operation.outputs.front().name));
    }
    block_.operations.push_back(std::move(operation));
    return block_.operations.back().outputs.empty() ? ""
                                                    : block_.operations.back().outputs.front().name;
  }
  std::string constant(const std::string& name, Value value) {
    const ValueType type = value.type;
    return op("const", {}, {{name, type}}, {{"val", std::move(value)}});
  }
  void output(const std::string& name, DataType dtype, const Dims& shape) {
    std::string given = name;
    if (!stands_at_the_border(dtype)) {
      given = op("cast", {{"x", {name}}, {"dtype", {Value::scalar(std::string("int32"))}}},
                 {{name + "_out", tensor_type(DataType::i32, shape)}});
      dtype = DataType::i32;
    }
    block_.outputs.push_back(given);
    description_.outputs.push_back({.name = given, .type = {dtype, shape}});
  }
  Function& function() { return function_; }
  FunctionDescription& description() { return description_; }
  Block& block() { return block_; }
  Model model() const {
    Model model;
    model.specification_version = specification_version_of(opset_);
    model.functions = {description_};
    Function function = function_;
    function.blocks[function.opset] = block_;
    model.program.functions["main"] = std::move(function);
    return model;
  }

 private:
  Opset opset_;
  Function function_;
  FunctionDescription description_;
  Block block_;
};

inline TensorValue value_of(const Numbers& numbers) {
  TensorValue value;
  value.type = {numbers.dtype, numbers.shape};
  for (const double v : numbers.values) {
    if (is_float(numbers.dtype)) {
      value.floats.push_back(static_cast<float>(v));
    } else {
      value.ints.push_back(static_cast<int32_t>(v));
    }
  }
  return value;
}
inline std::vector<double> numbers_of(const TensorValue& value) {
  std::vector<double> numbers(value.floats.begin(), value.floats.end());
  numbers.insert(numbers.end(), value.ints.begin(), value.ints.end());
  return numbers;
}

struct Given {
  std::string parameter;
  std::vector<Numbers> tensors;
};

// One operation: tensors as inputs of the function, the rest as constants.
struct OneOperation {
  std::string type;
  std::vector<Given> tensors;
  std::map<std::string, Value, std::less<>> constants;
  std::vector<TensorType> results;
  Opset opset = Opset::core_ml8;

  Model model() const {
    ProgramBuilder builder(opset);
    std::map<std::string, Argument, std::less<>> inputs;
    int number = 0;
    for (const Given& given : tensors) {
      for (const Numbers& tensor : given.tensors) {
        inputs[given.parameter].emplace_back(
            builder.input("in" + std::to_string(number++), tensor.dtype, tensor.shape));
      }
    }
    for (const auto& [name, value] : constants) inputs[name] = {value};
    std::vector<NamedType> outputs;
    for (size_t i = 0; i < results.size(); ++i) {
      outputs.push_back(
          {"out" + std::to_string(i), tensor_type(results[i].dtype, results[i].shape)});
    }
    builder.op(type, std::move(inputs), outputs);
    for (size_t i = 0; i < results.size(); ++i) {
      builder.output("out" + std::to_string(i), results[i].dtype, results[i].shape);
    }
    return builder.model();
  }

  Result<RunResult> run(const InterpreterOptions& options = {}) const {
    IMPETUS_TRY(const Interpreter interpreter, Interpreter::load(model(), "", options));
    TensorValues inputs;
    int number = 0;
    for (const Given& given : tensors) {
      for (const Numbers& tensor : given.tensors) {
        Numbers outside = tensor;
        if (!stands_at_the_border(tensor.dtype)) outside.dtype = DataType::i32;
        inputs["in" + std::to_string(number++)] = value_of(outside);
      }
    }
    return interpreter.run(inputs);
  }

  // The values of result `index`; a failure's message is thrown to the test as an exception.
  std::vector<double> values(const InterpreterOptions& options = {}, size_t index = 0) const {
    const auto result = run(options);
    if (!result.ok()) throw std::runtime_error(type + ": " + result.error().message);
    auto found = result->outputs.find("out" + std::to_string(index));
    if (found == result->outputs.end()) {
      found = result->outputs.find("out" + std::to_string(index) + "_out");
    }
    return numbers_of(found->second);
  }
};

// Seeded numbers; those of fp16 are representable.
class Random {
 public:
  explicit Random(uint64_t seed) : engine_(seed) {}
  int64_t whole(int64_t low, int64_t high) {
    return std::uniform_int_distribution<int64_t>(low, high)(engine_);
  }
  Dims shape(int64_t rank, int64_t most) {
    Dims shape;
    for (int64_t i = 0; i < rank; ++i) shape.push_back(whole(1, most));
    return shape;
  }
  Numbers numbers(DataType dtype, const Dims& shape, double low = -2, double high = 2) {
    Numbers numbers{dtype, shape, {}};
    for (int64_t i = 0; i < count_of(shape); ++i) {
      double value = std::uniform_real_distribution<double>(low, high)(engine_);
      if (dtype == DataType::f16) value = f16_to_f32(f32_to_f16(static_cast<float>(value)));
      if (dtype == DataType::f32) value = static_cast<float>(value);
      if (!is_float(dtype))
        value = static_cast<double>(whole(static_cast<int64_t>(low), static_cast<int64_t>(high)));
      numbers.values.push_back(value);
    }
    return numbers;
  }
  std::mt19937_64& engine() { return engine_; }

 private:
  std::mt19937_64 engine_;
};

}  // namespace impetus::mil::testing

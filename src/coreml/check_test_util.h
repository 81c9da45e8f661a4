// Programs written by hand for the tests of the check.
#pragma once

#include <cstring>
#include <initializer_list>
#include <string>
#include <utility>
#include <vector>

#include "coreml/check.h"
#include "mil/program.h"
#include "tensor/dtype.h"

namespace impetus::coreml {

using mil::DataType;
using mil::TensorType;
using mil::Value;

inline TensorType f16(std::vector<int64_t> shape) {
  return {DataType::f16, std::move(shape)};
}

// A constant of one number everywhere.
inline Value filled(const TensorType& type, float number) {
  const auto count = static_cast<size_t>(type.elements().value_or(0));
  std::vector<std::byte> bytes(static_cast<size_t>(type.bytes().value_or(0)));
  for (size_t i = 0; number != 0 && i < count; ++i) {
    if (type.dtype == DataType::f16) {
      const uint16_t half = f32_to_f16(number);
      std::memcpy(bytes.data() + 2 * i, &half, 2);
    } else if (type.dtype == DataType::f32) {
      std::memcpy(bytes.data() + 4 * i, &number, 4);
    }
  }
  return Value::tensor(type, mil::Bytes::own(std::move(bytes)));
}

// A constant whose bytes are not there: for shapes that no memory holds.
inline Value claimed(const TensorType& type) {
  Value value;
  value.type.tensor = type;
  return value;
}

// One function, "main", by default with a first input x.
class Draft {
 public:
  using Bound = std::pair<std::string, std::vector<mil::Binding>>;

  Draft() {
    function_.opset = "CoreML8";
    function_.blocks["CoreML8"];
  }
  explicit Draft(const TensorType& x) : Draft() { input("x", x); }

  Draft& input(const std::string& name, const TensorType& type,
               mil::ValueType::Kind kind = mil::ValueType::Kind::tensor) {
    function_.inputs.push_back({name, {.kind = kind, .tensor = type}});
    return *this;
  }

  Draft& constant(const std::string& name, Value value) {
    mil::Operation operation;
    operation.type = "const";
    operation.outputs = {{name, value.type}};
    operation.attributes["val"] = std::move(value);
    block().operations.push_back(std::move(operation));
    return *this;
  }

  // The last result is the function's output.
  Draft& operation(const std::string& type, const std::string& name, const TensorType& result,
                   std::initializer_list<Bound> bound) {
    mil::Operation operation;
    operation.type = type;
    operation.outputs = {{name, {.tensor = result}}};
    for (const auto& [parameter, bindings] : bound) operation.inputs[parameter] = bindings;
    block().operations.push_back(std::move(operation));
    block().outputs = {name};
    return *this;
  }
  // A unary one.
  Draft& operation(const std::string& type, const std::string& name, const TensorType& result,
                   const std::string& x = "x") {
    return operation(type, name, result, {{"x", {x}}});
  }

  // 1x1, weights of 0.
  Draft& convolution(const std::string& name, const TensorType& x, int64_t outputs,
                     const std::string& from = "x", int64_t width = 1, int32_t stride = 1) {
    TensorType result = x;
    result.shape[1] = outputs;
    constant(name + "_weight", filled(f16({outputs, x.shape[1], 1, width}), 0));
    return operation("conv", name, result,
                     {{"x", {from}},
                      {"weight", {name + "_weight"}},
                      {"strides", {Value::ints(std::vector<int32_t>{1, stride})}}});
  }

  mil::Block& block() { return function_.blocks["CoreML8"]; }

  mil::Model model() const {
    mil::Model model;
    model.specification_version = 9;
    model.program.functions["main"] = function_;
    mil::FunctionDescription description;
    description.name = "main";
    for (const mil::NamedType& input : function_.inputs) {
      description.inputs.push_back(
          {.name = input.name, .kind = mil::Feature::Kind::array, .type = input.type.tensor});
    }
    model.functions.push_back(std::move(description));
    return model;
  }

 private:
  mil::Function function_;
};

inline std::vector<Finding> findings_of(const CheckReport& report, std::string_view rule) {
  std::vector<Finding> found;
  for (const Finding& one : report.findings) {
    if (one.rule == rule) found.push_back(one);
  }
  return found;
}

}  // namespace impetus::coreml

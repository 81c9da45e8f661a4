// Models to write and read again, and what two of them differ in.
#pragma once

#include <algorithm>
#include <cstring>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "mil/program.h"

namespace impetus::mil::testing {

// ---- Comparison: the first place where two values differ, empty where they do not.

inline std::string difference(const Value& a, const Value& b, const std::string& at) {
  if (a.type != b.type) return at + ": " + a.type.to_string() + " and " + b.type.to_string();
  if (!std::ranges::equal(a.bytes.view, b.bytes.view)) return at + ": bytes";
  if (a.strings != b.strings) return at + ": strings";
  if (a.elements.size() != b.elements.size()) return at + ": number of elements";
  for (size_t i = 0; i < a.elements.size(); ++i) {
    const std::string found = difference(a.elements[i], b.elements[i], at + ".element");
    if (!found.empty()) return found;
  }
  return "";
}

inline std::string difference(const NamedType& a, const NamedType& b, const std::string& at) {
  return a.name == b.name && a.type == b.type ? "" : at + "." + a.name;
}
inline std::string difference(const std::string& a, const std::string& b, const std::string& at) {
  return a == b ? "" : at + ": " + a + " and " + b;
}
inline std::string difference(const Binding& a, const Binding& b, const std::string& at) {
  if (a.index() != b.index()) return at + ": kinds of binding";
  if (a.index() == 0) return difference(std::get<0>(a), std::get<0>(b), at);
  return difference(std::get<1>(a), std::get<1>(b), at);
}

inline std::string difference(const Operation& a, const Operation& b, const std::string& at);
inline std::string difference(const Block& a, const Block& b, const std::string& at);
inline std::string difference(const Function& a, const Function& b, const std::string& at);
inline std::string difference(const Feature& a, const Feature& b, const std::string& at) {
  return a.name == b.name && a.kind == b.kind && a.type == b.type && a.optional == b.optional &&
                 a.enumerated == b.enumerated && a.ranges == b.ranges && a.color == b.color
             ? ""
             : at + "." + a.name;
}
inline std::string difference(const FunctionDescription& a, const FunctionDescription& b,
                              const std::string& at);

template <typename T>
std::string difference(const std::vector<T>& a, const std::vector<T>& b, const std::string& at) {
  if (a.size() != b.size())
    return at + ": " + std::to_string(a.size()) + " and " + std::to_string(b.size());
  for (size_t i = 0; i < a.size(); ++i) {
    std::string found = difference(a[i], b[i], at + "[" + std::to_string(i) + "]");
    if (!found.empty()) return found;
  }
  return "";
}

template <typename K, typename T, typename C>
std::string difference(const std::map<K, T, C>& a, const std::map<K, T, C>& b,
                       const std::string& at) {
  if (a.size() != b.size()) return at + ": number of entries";
  for (auto x = a.begin(), y = b.begin(); x != a.end(); ++x, ++y) {
    if (x->first != y->first) return at + ": " + x->first + " and " + y->first;
    std::string found = difference(x->second, y->second, at + "." + x->first);
    if (!found.empty()) return found;
  }
  return "";
}

inline std::string first_of(std::initializer_list<std::string> found) {
  for (const std::string& one : found) {
    if (!one.empty()) return one;
  }
  return "";
}

inline std::string difference(const Operation& a, const Operation& b, const std::string& at) {
  return first_of({difference(a.type, b.type, at + ".type"),
                   difference(a.inputs, b.inputs, at + ".inputs"),
                   difference(a.outputs, b.outputs, at + ".outputs"),
                   difference(a.blocks, b.blocks, at + ".blocks"),
                   difference(a.attributes, b.attributes, at + ".attributes")});
}
inline std::string difference(const Block& a, const Block& b, const std::string& at) {
  return first_of({difference(a.inputs, b.inputs, at + ".inputs"),
                   difference(a.outputs, b.outputs, at + ".outputs"),
                   difference(a.operations, b.operations, at + ".operations"),
                   difference(a.attributes, b.attributes, at + ".attributes")});
}
inline std::string difference(const Function& a, const Function& b, const std::string& at) {
  return first_of({difference(a.inputs, b.inputs, at + ".inputs"),
                   difference(a.opset, b.opset, at + ".opset"),
                   difference(a.blocks, b.blocks, at + ".blocks"),
                   difference(a.attributes, b.attributes, at + ".attributes")});
}
inline std::string difference(const FunctionDescription& a, const FunctionDescription& b,
                              const std::string& at) {
  return first_of({difference(a.name, b.name, at), difference(a.inputs, b.inputs, at + ".inputs"),
                   difference(a.outputs, b.outputs, at + ".outputs"),
                   difference(a.states, b.states, at + ".states")});
}

// Where a constant's bytes were found does not count.
inline std::string difference(const Model& a, const Model& b) {
  if (a.specification_version != b.specification_version) return "specification version";
  if (a.program.version != b.program.version) return "program version";
  const Metadata &x = a.metadata, &y = b.metadata;
  return first_of(
      {difference(a.functions, b.functions, "description"),
       difference(a.default_function, b.default_function, "default function"),
       difference(x.description, y.description, "metadata"),
       difference(x.version, y.version, "metadata"), difference(x.author, y.author, "metadata"),
       difference(x.license, y.license, "metadata"), difference(x.user, y.user, "metadata"),
       difference(a.program.functions, b.program.functions, "functions"),
       difference(a.program.attributes, b.program.attributes, "attributes")});
}

// ---- Models

inline Operation constant(const std::string& name, Value value) {
  Operation made;
  made.type = "const";
  made.outputs = {{name, value.type}};
  made.attributes = {{"name", Value::scalar(name)}, {"val", std::move(value)}};
  return made;
}

inline Value f16_values(std::vector<int64_t> shape, uint32_t seed) {
  std::mt19937 random(seed);
  const TensorType type{DataType::f16, std::move(shape)};
  std::vector<std::byte> bytes(static_cast<size_t>(*type.bytes()));
  for (size_t i = 0; i < bytes.size(); i += 2) {
    const auto half = static_cast<uint16_t>(0x3000 + random() % 0x800 + (random() % 2 << 15));
    std::memcpy(bytes.data() + i, &half, 2);
  }
  return Value::tensor(type, Bytes::own(std::move(bytes)));
}

// y = conv(x) + shift, with as many channels; x [1, channels, 1, length].
inline Function conv_function(Opset opset, int64_t length, uint32_t seed = 1) {
  constexpr int64_t kChannels = 4;
  const ValueType activation{.tensor = {DataType::f16, {1, kChannels, 1, length}}};
  Block block;
  const auto add = [&](const std::string& name, Value value) {
    block.operations.push_back(constant(name, std::move(value)));
  };
  add("weight", f16_values({kChannels, kChannels, 1, 1}, seed));
  add("bias", f16_values({kChannels}, seed + 1));
  add("shift", f16_values({1, kChannels, 1, 1}, seed + 2));
  add("strides", Value::ints(std::vector<int32_t>{1, 1}));
  add("pad", Value::ints(std::vector<int32_t>{0, 0, 0, 0}));
  add("pad_type", Value::scalar(std::string("valid")));
  add("groups", Value::scalar(int32_t{1}));
  Operation conv;
  conv.type = "conv";
  for (const auto* name : {"weight", "bias", "strides", "pad", "pad_type", "groups"}) {
    conv.inputs[name] = {std::string(name)};
  }
  conv.inputs["x"] = {std::string("x")};
  conv.inputs["dilations"] = {std::string("strides")};
  conv.outputs = {{"convolved", activation}};
  conv.attributes = {{"name", Value::scalar(std::string("convolved"))}};
  Operation sum;
  sum.type = "add";
  sum.inputs = {{"x", {std::string("convolved")}}, {"y", {std::string("shift")}}};
  sum.outputs = {{"y", activation}};
  sum.attributes = {{"name", Value::scalar(std::string("y"))}};
  block.operations.push_back(std::move(conv));
  block.operations.push_back(std::move(sum));
  block.outputs = {"y"};

  Function function;
  function.inputs = {{"x", activation}};
  function.opset = to_string(opset);
  function.blocks[function.opset] = std::move(block);
  return function;
}

inline FunctionDescription description_of(const std::string& name, const Function& function) {
  const TensorType& type = function.inputs[0].type.tensor;
  FunctionDescription made;
  made.name = name;
  Feature x, y;
  x.name = "x";
  y.name = "y";
  x.type = y.type = type;
  made.inputs = {x};
  made.outputs = {y};
  return made;
}

inline Model conv_model() {
  Model model;
  model.specification_version = 7;
  Function main = conv_function(Opset::core_ml6, 16);
  model.functions = {description_of("main", main)};
  model.metadata = {.description = "a convolution",
                    .version = "1",
                    .author = "",
                    .license = "",
                    .user = {{"purpose", "test"}, {"a", "b"}}};
  model.program.functions["main"] = std::move(main);
  return model;
}

// The same weights in two functions of different lengths.
inline Model two_function_model() {
  Model model;
  model.specification_version = 9;
  model.default_function = "length_16";
  for (const int64_t length : {16, 32}) {
    const std::string name = "length_" + std::to_string(length);
    Function function = conv_function(Opset::core_ml8, length);
    model.functions.push_back(description_of(name, function));
    model.program.functions[name] = std::move(function);
  }
  return model;
}

}  // namespace impetus::mil::testing

// Cases of the table's rules in words: operands as "fp16[1, ?, 4]", constants as Values.
#pragma once

#include <algorithm>
#include <charconv>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include <gtest/gtest.h>

#include "mil/builder.h"
#include "mil/operations.h"

namespace impetus::mil::testing {

inline DataType dtype_of(std::string_view name) {
  for (int i = 0; i <= static_cast<int>(DataType::u64); ++i) {
    if (to_string(static_cast<DataType>(i)) == name) return static_cast<DataType>(i);
  }
  ADD_FAILURE() << name;
  return DataType::f32;
}

// "fp16[1, ?, 4]", "state fp16[2]".
inline ValueType parsed(std::string_view text) {
  ValueType type;
  if (text.starts_with("state ")) {
    type.kind = ValueType::Kind::state;
    text.remove_prefix(6);
  }
  const size_t open = text.find('[');
  type.tensor.dtype = dtype_of(text.substr(0, open));
  std::string_view dims = text.substr(open + 1, text.size() - open - 2);
  while (!dims.empty()) {
    const size_t comma = std::min(dims.find(','), dims.size());
    int64_t dim = kUnknown;
    if (dims[0] != '?') std::from_chars(dims.data(), dims.data() + comma, dim);
    type.tensor.shape.push_back(dim);
    dims.remove_prefix(std::min(comma + 2, dims.size()));
  }
  return type;
}

struct Bound {
  std::string_view parameter;
  std::variant<std::string_view, Value, std::vector<std::string_view>> to;
};

inline Value ints(std::initializer_list<int32_t> values) {
  return Value::ints(std::span(values.begin(), values.size()));
}
inline Value text(std::string_view value) {
  return Value::scalar(std::string(value));
}
inline Value integer(int32_t value) {
  return Value::scalar(value);
}
inline Value half(float value) {
  return Value::scalar(value, DataType::f16);
}
// A constant whose values do not matter.
inline Value zeros(std::string_view type) {
  const TensorType tensor = parsed(type).tensor;
  return raw_values(tensor.dtype, tensor.shape,
                    std::vector<std::byte>(static_cast<size_t>(*tensor.bytes())));
}
inline Value bits(std::string_view type, std::initializer_list<int> bytes) {
  std::vector<std::byte> data;
  for (const int byte : bytes) data.push_back(static_cast<std::byte>(byte));
  const TensorType tensor = parsed(type).tensor;
  return raw_values(tensor.dtype, tensor.shape, data);
}

inline std::string inferred(std::string_view type, Opset opset,
                            const std::vector<Bound>& bindings) {
  const OperationSpec* spec = find_operation(type, opset);
  if (spec == nullptr) return "no such operation";
  Operands operands;
  for (const auto& [parameter, to] : bindings) {
    if (const auto* value = std::get_if<Value>(&to)) {
      operands.add(parameter, {.type = value->type, .constant = value, .fixed = true});
    } else if (const auto* one = std::get_if<std::string_view>(&to)) {
      operands.add(parameter, {.type = parsed(*one)});
    } else {
      for (const std::string_view each : std::get<std::vector<std::string_view>>(to)) {
        operands.add(parameter, {.type = parsed(each)});
      }
    }
  }
  const auto types = infer_types(*spec, operands);
  if (!types.ok()) return "error: " + types.error().message;
  std::string shown;
  for (const ValueType& one : *types) {
    shown += (shown.empty() ? "" : "; ") + one.to_string();
  }
  return shown;
}

struct Case {
  std::string_view type;
  Opset opset;
  std::vector<Bound> bindings;
  std::string_view wanted;  // result types, or what an error must hold
};

// Fewer known lengths may only make the result less known: never another one, never an error but
// for a rank that is then unknown.
inline void expect_sound(const Case& one, uint32_t seed) {
  Operands whole, masked;
  for (const auto& [parameter, to] : one.bindings) {
    if (const auto* value = std::get_if<Value>(&to)) {
      const Operand operand{.type = value->type, .constant = value, .fixed = true};
      whole.add(parameter, operand);
      masked.add(parameter, operand);
      continue;
    }
    const auto* single = std::get_if<std::string_view>(&to);
    for (const std::string_view text :
         single != nullptr ? std::vector{*single} : std::get<std::vector<std::string_view>>(to)) {
      ValueType type = parsed(text);
      whole.add(parameter, {.type = type});
      for (int64_t& dim : type.tensor.shape) {
        seed = seed * 1664525u + 1013904223u;
        if ((seed >> 16) % 3 == 0) dim = kUnknown;
      }
      masked.add(parameter, {.type = type});
    }
  }
  const OperationSpec& spec = *find_operation(one.type, one.opset);
  const auto known = infer_types(spec, whole), less = infer_types(spec, masked);
  ASSERT_TRUE(known.ok());
  if (!less.ok()) {
    EXPECT_NE(less.error().message.find("known"), std::string::npos)
        << one.type << ": " << less.error().message;
    return;
  }
  ASSERT_EQ(known->size(), less->size());
  for (size_t i = 0; i < known->size(); ++i) {
    EXPECT_TRUE(compatible((*known)[i], (*less)[i]))
        << one.type << ": " << (*known)[i].to_string() << ", " << (*less)[i].to_string();
  }
}

inline void expect_all(const std::vector<Case>& cases) {
  for (const Case& one : cases) {
    const std::string got = inferred(one.type, one.opset, one.bindings);
    const size_t open = one.wanted.find('[');
    if (open <= 6 && one.wanted.find(' ') > open && one.wanted.ends_with(']')) {
      EXPECT_EQ(got, one.wanted) << one.type;
      // Of squeeze coremltools' rule keeps what it does not know to be 1 long.
      if (one.type == "squeeze") continue;
      for (uint32_t seed = 0; seed < 20; ++seed) expect_sound(one, seed);
    } else {
      EXPECT_TRUE(got.starts_with("error: ") && got.find(one.wanted) != std::string::npos)
          << one.type << ": \"" << got << "\" should hold \"" << one.wanted << "\"";
    }
  }
}

using Many = std::vector<std::string_view>;

}  // namespace impetus::mil::testing

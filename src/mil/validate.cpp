// validate(): the judgement of a whole program. Names and scopes are walk()'s; types are the
// rules'.
#include <algorithm>
#include <map>
#include <set>
#include <string>

#include <fmt/ranges.h>

#include "mil/infer.h"
#include "mil/operations.h"
#include "mil/walk.h"

namespace impetus::mil {
namespace {

using infer::wrong;

Result<void> check_identifier(std::string_view name, std::string_view what) {
  if (is_identifier(name)) return {};
  return wrong("{} \"{}\" is no identifier of MIL ([A-Za-z_][A-Za-z0-9_@]*, no reserved word)",
               what, name);
}

Result<void> check_tensor(const TensorType& type) {
  if (type.shape.size() > kRankMax) return wrong("a rank of {}", type.shape.size());
  for (const int64_t dim : type.shape) {
    if (dim < kUnknown || dim > kDimensionMax) return wrong("{} is no length", dim);
  }
  if (type.fixed() && !type.bytes()) return wrong("{} cannot be counted", type.to_string());
  return {};
}

Result<void> check_type(const ValueType& type, int depth = 1) {
  if (depth > kValueDepthMax) return wrong("a type is nested more than {} deep", kValueDepthMax);
  if (type.kind == ValueType::Kind::tensor || type.kind == ValueType::Kind::state) {
    return check_tensor(type.tensor);
  }
  for (const ValueType& element : type.elements) IMPETUS_CHECK(check_type(element, depth + 1));
  return {};
}

// A constant's bytes are there, as many as its type has.
Result<void> check_value(const Value& value, int depth = 1) {
  if (depth > kValueDepthMax) return wrong("a constant is nested more than {} deep", kValueDepthMax);
  IMPETUS_CHECK(check_type(value.type));
  if (value.type.kind != ValueType::Kind::tensor) {
    for (const Value& element : value.elements) IMPETUS_CHECK(check_value(element, depth + 1));
    return {};
  }
  const auto elements = value.type.tensor.elements();
  if (!elements) return wrong("a constant is {}", value.type.to_string());
  const bool text = value.type.tensor.dtype == DataType::string;
  const auto held = static_cast<int64_t>(text ? value.strings.size() : value.bytes.view.size());
  const int64_t wanted = text ? *elements : *value.type.tensor.bytes();
  if (held != wanted) {
    return wrong("a constant is {} and holds {} {} instead of {}", value.type.to_string(), held,
                 text ? "strings" : "bytes", wanted);
  }
  return {};
}

// "name" is a string; nothing else but a constexpr's or const's parameters stands there.
Result<void> check_attributes(const Visit& visit, bool every_parameter) {
  for (const auto& [name, value] : visit.operation.attributes) {
    if (auto checked = check_value(value); !checked.ok()) {
      return std::move(checked).error().within(fmt::format("attribute {}", name));
    }
    if (name == "name") {
      IMPETUS_CHECK(value.as_string());
    } else if (visit.spec != nullptr && !visit.spec->attributes) {
      return wrong("it has an attribute {}; only \"name\" may stand there", name);
    }
  }
  if (every_parameter && !visit.operation.attributes.contains("name")) {
    return wrong("it has no name");
  }
  return {};
}

Result<void> check_bindings(const Visit& visit) {
  for (const auto& [parameter, bindings] : visit.operation.inputs) {
    if (bindings.empty()) return wrong("parameter {} is bound to nothing", parameter);
    for (const Binding& binding : bindings) {
      const Value* value = std::get_if<Value>(&binding);
      if (value == nullptr) continue;
      if (auto checked = check_value(*value); !checked.ok()) {
        return std::move(checked).error().within(parameter);
      }
    }
  }
  if (visit.spec != nullptr && visit.spec->attributes && !visit.operation.inputs.empty()) {
    return wrong("its parameters must be attributes, and {} is an input",
                 visit.operation.inputs.begin()->first);
  }
  return {};
}

Result<void> check_results(const Visit& visit, bool every_parameter) {
  IMPETUS_TRY(const auto inferred, infer_types(*visit.spec, visit.operands, every_parameter));
  const auto& outputs = visit.operation.outputs;
  if (outputs.size() != inferred.size()) {
    return wrong("it declares {} results and has {}", outputs.size(), inferred.size());
  }
  for (size_t i = 0; i < outputs.size(); ++i) {
    if (!compatible(outputs[i].type, inferred[i])) {
      return wrong("its result \"{}\" is declared {} and is {}", outputs[i].name,
                   outputs[i].type.to_string(), inferred[i].to_string());
    }
  }
  return {};
}

// What can be said of loops and branches without types: their number of blocks and values.
Result<void> check_blocks(const Visit& visit) {
  const Operation& operation = visit.operation;
  const bool branch = operation.type == "cond", loop = operation.type == "while_loop";
  if (!branch && !loop) {
    if (visit.spec != nullptr && !operation.blocks.empty()) return wrong("it takes no blocks");
    return {};
  }
  if (operation.blocks.size() != 2) return wrong("it has {} blocks", operation.blocks.size());
  for (size_t i = 0; i < 2; ++i) {
    const Block& block = operation.blocks[i];
    const size_t results = loop && i == 0 ? 1 : operation.outputs.size();
    const size_t inputs = loop ? operation.outputs.size() : 0;
    if (block.outputs.size() != results || block.inputs.size() != inputs) {
      return wrong("its block {} takes {} values and gives {}; {} and {} are wanted", i,
                   block.inputs.size(), block.outputs.size(), inputs, results);
    }
  }
  return {};
}

std::optional<Opset> first_opset_of(std::string_view type) {
  for (const Opset opset :
       {Opset::core_ml5, Opset::core_ml6, Opset::core_ml7, Opset::core_ml8, Opset::core_ml9}) {
    if (find_operation(type, opset) != nullptr) return opset;
  }
  return std::nullopt;
}

Result<void> check_known(const Visit& visit, Unknown unknown) {
  const std::string& type = visit.operation.type;
  if (visit.spec == nullptr) {
    if (const auto first = first_opset_of(type)) {
      return wrong("{} needs {}, and the function is written in {}", type, to_string(*first),
                   to_string(visit.opset));
    }
  }
  if (unknown == Unknown::refuse && (visit.spec == nullptr || visit.spec->infer == nullptr)) {
    return error(ErrorCode::unsupported, "{} is no operation that this build can type", type);
  }
  return {};
}

Result<void> check_operation(const Visit& visit, Unknown unknown, bool every_parameter) {
  for (const NamedType& output : visit.operation.outputs) {
    IMPETUS_CHECK(check_identifier(output.name, "the result"));
    IMPETUS_CHECK(check_type(output.type));
  }
  for (const Block& block : visit.operation.blocks) {
    for (const NamedType& input : block.inputs) {
      IMPETUS_CHECK(check_identifier(input.name, "the block's input"));
      IMPETUS_CHECK(check_type(input.type));
    }
  }
  IMPETUS_CHECK(check_known(visit, unknown));
  IMPETUS_CHECK(check_bindings(visit));
  IMPETUS_CHECK(check_attributes(visit, every_parameter));
  IMPETUS_CHECK(check_blocks(visit));
  if (visit.spec == nullptr || visit.spec->infer == nullptr) return {};
  return check_results(visit, every_parameter);
}

// A declared array or state against the value that the function has under its name.
Result<void> check_feature(const Feature& feature, const ValueType& type, int specification) {
  if (feature.kind == Feature::Kind::state || type.kind == ValueType::Kind::state) {
    if (feature.kind != Feature::Kind::state || type.kind != ValueType::Kind::state) {
      return wrong("it is a state only on one side: the function has {}", type.to_string());
    }
  } else if (feature.kind != Feature::Kind::array) {
    return {};  // images and dictionaries: theirs is not a tensor's type
  }
  if (type.kind != ValueType::Kind::tensor && type.kind != ValueType::Kind::state) {
    return wrong("it is an array, and the function has {}", type.to_string());
  }
  const TensorType& held = type.tensor;
  // An empty shape leaves it open, as coremltools does for flexible results.
  if (feature.type.dtype != held.dtype ||
      (!feature.type.shape.empty() && !infer::agree(feature.type.shape, held.shape))) {
    return wrong("it is described as {}, and the function has {}", feature.type.to_string(),
                 type.to_string());
  }
  if (held.dtype == DataType::f16 && specification < 7) {
    return wrong("fp16 features need specification version 7 and not {}", specification);
  }
  if (held.dtype == DataType::i8 && specification < 10) {
    return wrong("int8 features need specification version 10 and not {}", specification);
  }
  for (const auto& shape : feature.enumerated) {
    if (!infer::agree(shape, held.shape)) {
      return wrong("shape {} is offered, and the function has {}", infer::show(shape),
                   type.to_string());
    }
  }
  if (!feature.ranges.empty() && feature.ranges.size() != held.shape.size()) {
    return wrong("{} ranges are offered, and the function has {}", feature.ranges.size(),
                 type.to_string());
  }
  for (size_t i = 0; i < feature.ranges.size(); ++i) {
    const auto [low, high] = feature.ranges[i];
    if (low < 0 || (high >= 0 && high < low) ||
        (infer::known(held.shape[i]) &&
         (low > held.shape[i] || (high >= 0 && high < held.shape[i])))) {
      return wrong("dimension {} ranges from {} to {}, and the function has {}", i, low, high,
                   type.to_string());
    }
  }
  return {};
}

// One feature for each value and the other way round.
Result<void> check_features(std::span<const Feature> features, std::span<const NamedType> values,
                            std::string_view what, int specification) {
  std::map<std::string_view, const ValueType*> types;
  for (const NamedType& value : values) types.emplace(value.name, &value.type);
  std::set<std::string_view> seen;
  for (const Feature& feature : features) {
    const std::string place = fmt::format("{} \"{}\"", what, feature.name);
    if (!seen.insert(feature.name).second) return wrong("{} is described twice", place);
    const auto found = types.find(feature.name);
    if (found == types.end()) return wrong("{} is described, and the function has none", place);
    if (auto checked = check_feature(feature, *found->second, specification); !checked.ok()) {
      return std::move(checked).error().within(place);
    }
  }
  for (const NamedType& value : values) {
    if (!seen.contains(value.name)) {
      return wrong("the function's {} \"{}\" is not described", what, value.name);
    }
  }
  return {};
}

Result<void> check_description(const FunctionDescription& description, const Function& function,
                               int specification) {
  std::vector<Feature> inputs = description.inputs;
  inputs.insert(inputs.end(), description.states.begin(), description.states.end());
  for (const Feature& state : description.states) {
    if (state.kind != Feature::Kind::state) {
      return wrong("\"{}\" is described among the states and is none", state.name);
    }
  }
  for (const Feature& input : description.inputs) {
    if (input.kind == Feature::Kind::state) {
      return wrong("the state \"{}\" is described among the inputs", input.name);
    }
  }
  IMPETUS_CHECK(check_features(inputs, function.inputs, "input", specification));
  IMPETUS_TRY(const auto outputs, outputs_of(function));
  return check_features(description.outputs, outputs, "output", specification);
}

Result<void> check_function(const Function& function, int specification, Unknown unknown,
                            bool every_parameter) {
  for (const NamedType& input : function.inputs) {
    IMPETUS_CHECK(check_identifier(input.name, "the input"));
    IMPETUS_CHECK(check_type(input.type));
  }
  IMPETUS_CHECK(walk(function, [&](const Visit& visit) -> Result<void> {
    if (auto checked = check_operation(visit, unknown, every_parameter); !checked.ok()) {
      return std::move(checked).error().within(visit.where());
    }
    return {};
  }));
  const auto opset = opset_from(function.opset);  // walk() knew it
  if (specification_version_of(*opset) > specification) {
    return wrong("{} needs specification version {}, and the model has {}", function.opset,
                 specification_version_of(*opset), specification);
  }
  const bool states = std::ranges::any_of(function.inputs, [](const NamedType& input) {
    return input.type.kind == ValueType::Kind::state;
  });
  if (states && *opset < Opset::core_ml8) return wrong("states need CoreML8");
  const Block& block = *function.block();
  if (block.outputs.empty()) return wrong("it gives nothing");
  std::set<std::string_view> outputs;
  for (const std::string& output : block.outputs) {
    if (!outputs.insert(output).second) return wrong("it gives \"{}\" twice", output);
  }
  return {};
}

using Descriptions = std::map<std::string_view, const FunctionDescription*>;

// By name, so that a program of very many functions is judged in one pass.
Result<Descriptions> descriptions_of(const Model& model) {
  Descriptions descriptions;
  for (const FunctionDescription& one : model.functions) {
    if (!model.program.functions.contains(one.name)) {
      return wrong("the function \"{}\" is described, and the program has none", one.name);
    }
    if (!descriptions.emplace(one.name, &one).second) {
      return wrong("function {} is described twice", one.name);
    }
  }
  return descriptions;
}

// A function, and what the model's description says of it.
Result<void> check_described(const Descriptions& descriptions, const std::string& name,
                             const Function& function, int specification, Unknown unknown,
                             bool every_parameter) {
  const auto judge = [&]() -> Result<void> {
    IMPETUS_CHECK(check_identifier(name, "its name"));
    IMPETUS_CHECK(check_function(function, specification, unknown, every_parameter));
    const auto found = descriptions.find(name);
    if (found == descriptions.end()) return wrong("the model does not describe it");
    return check_description(*found->second, function, specification);
  };
  auto judged = judge();
  if (!judged.ok()) return std::move(judged).error().within(fmt::format("function {}", name));
  return {};
}

}  // namespace

Result<void> validate_function(const Model& model, const std::string& name, Unknown unknown) {
  if (model.program.functions.empty()) return wrong("the program has no function");
  const auto found = model.program.functions.find(name);
  if (found == model.program.functions.end()) {
    std::vector<std::string_view> names;
    for (const auto& [key, function] : model.program.functions) names.push_back(key);
    return error(ErrorCode::not_found, "there is no function \"{}\"; the program has {}", name,
                 fmt::join(names, ", "));
  }
  IMPETUS_TRY(const Descriptions descriptions, descriptions_of(model));
  return check_described(descriptions, name, found->second, model.specification_version, unknown,
                         false);
}

Result<void> validate(const Model& model, Unknown unknown, bool every_parameter) {
  if (model.program.functions.empty()) return wrong("the program has no function");
  IMPETUS_TRY(const Descriptions descriptions, descriptions_of(model));
  for (const auto& [name, function] : model.program.functions) {
    IMPETUS_CHECK(check_described(descriptions, name, function, model.specification_version,
                                  unknown, every_parameter));
  }
  if (!model.program.functions.contains(model.default_function)) {
    return wrong("the default function \"{}\" is not there", model.default_function);
  }
  if (model.functions.size() > 1 && model.specification_version < 9) {
    return wrong("several functions need specification version 9 and not {}",
                 model.specification_version);
  }
  return {};
}

}  // namespace impetus::mil

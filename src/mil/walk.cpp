#include "mil/walk.h"

#include <algorithm>
#include <map>
#include <string_view>
#include <utility>

namespace impetus::mil {
namespace {

// Declared names with what is known of them; a nested block's stand on top of those around it.
class Scope {
 public:
  explicit Scope(const Scope* outer) : outer_(outer) {}

  const Operand* find(std::string_view name) const {
    for (const Scope* scope = this; scope != nullptr; scope = scope->outer_) {
      if (const auto found = scope->names_.find(name); found != scope->names_.end()) {
        return &found->second;
      }
    }
    return nullptr;
  }

  Result<void> define(const std::string& name, Operand operand) {
    if (find(name) != nullptr) {
      return error(ErrorCode::corrupt, "the name \"{}\" is defined twice", name);
    }
    names_.emplace(name, std::move(operand));
    return {};
  }

 private:
  const Scope* outer_;
  std::map<std::string_view, Operand> names_;  // views into the function
};

std::string place_of(const Operation& operation) {
  return fmt::format("operation {} ({})", operation.name(), operation.type);
}

Operand immediate(const Value& value) {
  return {.type = value.type, .constant = &value, .fixed = true};
}

Result<Operands> resolve(const Operation& operation, const Scope& scope) {
  Operands operands;
  for (const auto& [parameter, bindings] : operation.inputs) {
    for (const Binding& binding : bindings) {
      if (const Value* value = std::get_if<Value>(&binding)) {
        operands.add(parameter, immediate(*value));
        continue;
      }
      const std::string& name = std::get<std::string>(binding);
      const Operand* operand = scope.find(name);
      if (operand == nullptr) {
        return error(ErrorCode::corrupt,
                     "parameter {} is bound to \"{}\", which nothing before it defines: the "
                     "program is cyclic, or something is missing",
                     parameter, name);
      }
      operands.add(parameter, *operand);
    }
  }
  if (operation.type == "const" || operation.type.starts_with("constexpr_")) {
    for (const auto& [name, value] : operation.attributes) {
      if (name == "name" || operation.inputs.contains(name)) continue;
      operands.add(name, immediate(value));
    }
  }
  return operands;
}

// Whether the results are made of constants only. States and random numbers are not.
bool is_fixed(const Operation& operation, const Operands& operands) {
  if (operation.type == "const" || operation.type.starts_with("constexpr_")) return true;
  if (operation.inputs.empty() || !operation.blocks.empty() ||
      operation.type.starts_with("random_")) {
    return false;
  }
  return std::ranges::all_of(operation.inputs, [&](const auto& input) {
    return std::ranges::all_of(operands.all(input.first), &Operand::fixed);
  });
}

class Walker {
 public:
  Walker(Opset opset, const Visitor& visit) : opset_(opset), visit_(visit) {}

  Result<void> block(const Block& block, const Scope* outer, std::span<const NamedType> inputs,
                     int depth) {
    if (depth >= kBlockDepthMax) {
      return error(ErrorCode::corrupt, "blocks are nested more than {} deep", kBlockDepthMax);
    }
    Scope scope(outer);
    for (const NamedType& input : inputs) {
      IMPETUS_CHECK(scope.define(input.name, {.type = input.type}));
    }
    for (const NamedType& input : block.inputs) {
      IMPETUS_CHECK(scope.define(input.name, {.type = input.type}));
    }
    for (const Operation& operation : block.operations) {
      IMPETUS_CHECK(step(operation, scope, depth));
    }
    for (const std::string& output : block.outputs) {
      if (scope.find(output) == nullptr) {
        return error(ErrorCode::corrupt, "nothing defines the block's output \"{}\"", output);
      }
    }
    return {};
  }

 private:
  Result<void> step(const Operation& operation, Scope& scope, int depth) {
    auto operands = resolve(operation, scope);
    if (!operands.ok()) return std::move(operands).error().within(place_of(operation));
    const Visit visit{.operation = operation,
                      .operands = *operands,
                      .spec = find_operation(operation.type, opset_),
                      .opset = opset_,
                      .depth = depth,
                      .fixed = is_fixed(operation, *operands)};
    IMPETUS_CHECK(visit_(visit));
    for (const Block& inner : operation.blocks) {
      if (auto done = block(inner, &scope, {}, depth + 1); !done.ok()) {
        return std::move(done).error().within(place_of(operation));
      }
    }
    const auto value = operation.attributes.find("val");
    for (const NamedType& output : operation.outputs) {
      Operand operand{.type = output.type, .fixed = visit.fixed};
      if (operation.type == "const" && value != operation.attributes.end()) {
        operand.constant = &value->second;
      }
      if (auto done = scope.define(output.name, std::move(operand)); !done.ok()) {
        return std::move(done).error().within(place_of(operation));
      }
    }
    return {};
  }

  Opset opset_;
  const Visitor& visit_;
};

Result<const Block*> own_block(const Function& function) {
  const Block* block = function.block();
  if (block == nullptr) {
    return error(ErrorCode::corrupt, "there is no block for the function's opset \"{}\"",
                 function.opset);
  }
  return block;
}

}  // namespace

std::string Visit::where() const {
  return place_of(operation);
}

Result<void> walk(const Function& function, const Visitor& visit) {
  IMPETUS_TRY(const Block* const block, own_block(function));
  const auto opset = opset_from(function.opset);
  if (!opset) {
    return error(ErrorCode::unsupported,
                 "the opset \"{}\" is unknown; this build knows CoreML5 to CoreML9",
                 function.opset);
  }
  return Walker(*opset, visit).block(*block, nullptr, function.inputs, 0);
}

Result<std::vector<NamedType>> outputs_of(const Function& function) {
  IMPETUS_TRY(const Block* const block, own_block(function));
  std::map<std::string_view, const ValueType*> types;
  for (const NamedType& input : function.inputs) types.emplace(input.name, &input.type);
  for (const NamedType& input : block->inputs) types.emplace(input.name, &input.type);
  for (const Operation& operation : block->operations) {
    for (const NamedType& output : operation.outputs) types.emplace(output.name, &output.type);
  }
  std::vector<NamedType> outputs;
  for (const std::string& name : block->outputs) {
    const auto found = types.find(name);
    if (found == types.end()) {
      return error(ErrorCode::corrupt, "nothing defines the block's output \"{}\"", name);
    }
    outputs.push_back({name, *found->second});
  }
  return outputs;
}

}  // namespace impetus::mil

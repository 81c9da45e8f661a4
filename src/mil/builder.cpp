#include "mil/builder.h"

#include <algorithm>
#include <cassert>
#include <cstring>

#include "mil/walk.h"
#include "tensor/dtype.h"

namespace impetus::mil {
namespace {

using Var = FunctionBuilder::Var;
using Vars = FunctionBuilder::Vars;

template <typename T>
Value values_of(DataType dtype, std::vector<int64_t> shape, std::span<const T> values) {
  return raw_values(dtype, std::move(shape), std::as_bytes(values));
}

Value flags(const std::vector<bool>& given, size_t count) {
  std::vector<uint8_t> bytes(given.empty() ? std::vector<uint8_t>(count, 0)
                                           : std::vector<uint8_t>(given.begin(), given.end()));
  return values_of(DataType::boolean, {static_cast<int64_t>(bytes.size())},
                   std::span<const uint8_t>(bytes));
}

Value text(std::string_view value) {
  return Value::scalar(std::string(value));
}

Value or_ones(const FunctionBuilder::Ints& given, size_t count, int32_t filler) {
  return Value::ints(given.empty() ? FunctionBuilder::Ints(count, filler) : given);
}

// What makes two small constants one.
std::string key_of(const Value& value) {
  std::string key = value.type.to_string();
  for (const std::string& one : value.strings) key += fmt::format("\"{}\":{}", one, one.size());
  key.append(reinterpret_cast<const char*>(value.bytes.view.data()), value.bytes.view.size());
  return key;
}

// Whether "first,second->result" is "nchw,nwhu->nchu" or "chw,whr->chr" in other letters.
bool is_known_einsum(std::string_view first, std::string_view second, std::string_view result) {
  std::string letters, form;
  for (const std::string_view term : {first, second, result}) {
    for (const char letter : term) {
      size_t at = letters.find(letter);
      if (at == std::string::npos) {
        at = letters.size();
        letters += letter;
      }
      form += static_cast<char>('0' + at);
    }
    form += ' ';
  }
  return form == "0123 0324 0124 " || form == "012 213 013 ";
}

size_t rank_of(const FunctionBuilder& builder, Var x) {
  return builder.type(x).shape.size();
}

}  // namespace

Value raw_values(DataType dtype, std::vector<int64_t> shape, std::span<const std::byte> bytes) {
  return Value::tensor({dtype, std::move(shape)},
                       Bytes::own(std::vector<std::byte>(bytes.begin(), bytes.end())));
}

Value f32_values(std::span<const float> values, std::vector<int64_t> shape) {
  return values_of(DataType::f32, std::move(shape), values);
}

Value f16_values(std::span<const float> values, std::vector<int64_t> shape) {
  std::vector<uint16_t> halves(values.size());
  std::ranges::transform(values, halves.begin(), f32_to_f16);
  return values_of(DataType::f16, std::move(shape), std::span<const uint16_t>(halves));
}

Result<FunctionDescription> describe(std::string name, const Function& function) {
  FunctionDescription description;
  description.name = std::move(name);
  for (const NamedType& input : function.inputs) {
    const bool state = input.type.kind == ValueType::Kind::state;
    (state ? description.states : description.inputs)
        .push_back({.name = input.name,
                    .kind = state ? Feature::Kind::state : Feature::Kind::array,
                    .type = input.type.tensor});
  }
  IMPETUS_TRY(const auto outputs, outputs_of(function));
  for (const NamedType& output : outputs) {
    description.outputs.push_back({.name = output.name, .type = output.type.tensor});
    if (!output.type.tensor.fixed()) description.outputs.back().type.shape.clear();
  }
  return description;
}

const TensorType& FunctionBuilder::type(Var var) const {
  static const TensorType kNone;
  return var.ok() ? slots_[static_cast<size_t>(var.id_)].type.tensor : kNone;
}

Var FunctionBuilder::fail(std::string_view type, std::string_view name, Error error) {
  if (!error_) {
    error_ = std::move(error).within(name.empty() ? std::string(type)
                                                  : fmt::format("operation {} ({})", name, type));
  }
  return {};
}

// `wanted` made an identifier that nothing else has.
std::string FunctionBuilder::unique(std::string_view wanted) {
  const std::string base = sanitised(wanted);
  std::string name = base;
  int& count = name_counts_[base];
  while (!names_.insert(name).second) name = fmt::format("{}_{}", base, count++);
  return name;
}

int FunctionBuilder::slot(std::string name, ValueType type) {
  slots_.push_back({.name = std::move(name), .type = std::move(type)});
  return static_cast<int>(slots_.size()) - 1;
}

Var FunctionBuilder::input(std::string_view name, TensorType type) {
  if (error_) return {};
  if (!is_identifier(name) || names_.contains(name)) {
    return fail(
        "input", name,
        impetus::error(ErrorCode::invalid_argument, "the name is taken or no identifier of MIL"));
  }
  names_.emplace(name);
  Var var;
  var.id_ = slot(std::string(name), {.tensor = std::move(type)});
  slots_.back().input = true;
  inputs_.push_back(var.id_);
  return var;
}

Var FunctionBuilder::state(std::string_view name, TensorType type) {
  if (!error_ && opset_ < Opset::core_ml8) {
    return fail("state", name, impetus::error(ErrorCode::unsupported, "states need CoreML8"));
  }
  const Var var = input(name, std::move(type));
  if (var.ok()) slots_.back().type.kind = ValueType::Kind::state;
  return var;
}

Var FunctionBuilder::constant(Value value, std::string_view name) {
  if (error_) return {};
  Var var;
  var.id_ = slot(unique(name.empty() ? "const" : name), value.type);
  Slot& made = slots_.back();
  made.fixed = true;
  made.constant = std::make_unique<const Value>(value);
  nodes_.push_back({.type = "const",
                    .name = made.name,
                    .inputs = {{"val", std::move(value)}},
                    .results = {var.id_},
                    .attributes = true});
  return var;
}

Var FunctionBuilder::number(float value, DataType type) {
  if (type != DataType::f16 && type != DataType::f32) {
    return fail("const", {}, impetus::error(ErrorCode::unsupported, "a number is fp16 or fp32"));
  }
  return small(Value::scalar(value, type), "number", to_string(type));
}

// A parameter's value: equal ones are one constant, named after its first user.
Var FunctionBuilder::small(Value value, std::string_view owner, std::string_view parameter) {
  if (error_) return {};
  constexpr size_t kShared = 256;
  if (value.bytes.view.size() > kShared) {
    return constant(std::move(value), fmt::format("{}_{}", owner, parameter));
  }
  std::string key = key_of(value);
  if (const auto found = small_.find(key); found != small_.end()) return found->second;
  const Var var = constant(std::move(value), fmt::format("{}_{}", owner, parameter));
  small_.emplace(std::move(key), var);
  return var;
}

Operand FunctionBuilder::operand(Var var) const {
  const Slot& slot = slots_[static_cast<size_t>(var.id_)];
  return {.type = slot.type, .constant = slot.constant.get(), .fixed = slot.fixed};
}

// Turns each Value into a constant operation, or leaves it in place where the operation wants it
// there; gives what the rules see.
Result<void> FunctionBuilder::resolve(const OperationSpec& spec, std::string_view name,
                                      Inputs& inputs, Operands& operands) {
  const bool in_place = spec.type.starts_with("constexpr_");
  for (auto& [parameter, input] : inputs) {
    if (Value* value = std::get_if<Value>(&input)) {
      if (in_place) {
        operands.add(parameter, {.type = value->type, .constant = value, .fixed = true});
        continue;
      }
      const Var made = small(std::move(*value), name, parameter);
      input = made;
    }
    const Var* single = std::get_if<Var>(&input);
    const Vars vars = single != nullptr ? Vars{*single} : std::get<Vars>(input);
    for (const Var var : vars) {
      if (!var.ok()) {
        return impetus::error(ErrorCode::invalid_argument, "{} is no value of this function",
                              parameter);
      }
      operands.add(parameter, operand(var));
    }
    // A constexpr takes constants on the spot, and CoreML8's names of other constexpr.
    if (!in_place) continue;
    if (single != nullptr && operand(*single).constant != nullptr) {
      input = *operand(*single).constant;
    } else if (spec.attributes) {
      return impetus::error(ErrorCode::invalid_argument, "{} must be a constant", parameter);
    }
  }
  return {};
}

Result<std::vector<int>> FunctionBuilder::write(std::string_view type, Inputs inputs,
                                                std::string_view name) {
  const OperationSpec* const spec = find_operation(type, opset_);
  if (spec == nullptr) {
    return impetus::error(ErrorCode::unsupported, "{} has no such operation", to_string(opset_));
  }
  const std::string wanted = sanitised(name.empty() ? type : name);
  Operands operands;
  IMPETUS_CHECK(resolve(*spec, wanted, inputs, operands));
  IMPETUS_TRY(auto types, infer_types(*spec, operands, true));
  const bool fixed = type.starts_with("constexpr_") ||
                     std::ranges::all_of(operands.bound(), [](const auto& bound) {
                       return std::ranges::all_of(bound.second, &Operand::fixed);
                     });
  Node node{.type = std::string(type),
            .name = {},
            .inputs = std::move(inputs),
            .results = {},
            .attributes = spec->attributes};
  for (size_t i = 0; i < types.size(); ++i) {
    node.results.push_back(slot(
        unique(types.size() == 1 ? wanted : fmt::format("{}_{}", wanted, i)), std::move(types[i])));
    slots_.back().fixed = fixed;
  }
  if (types.empty()) node.name = unique(wanted);
  nodes_.push_back(std::move(node));
  return nodes_.back().results;
}

Vars FunctionBuilder::ops(std::string_view type, Inputs inputs, std::string_view name) {
  if (error_) return {};
  auto results = write(type, std::move(inputs), name);
  if (!results.ok()) {
    fail(type, name, std::move(results).error());
    return {};
  }
  Vars vars(results->size());
  for (size_t i = 0; i < vars.size(); ++i) vars[i].id_ = (*results)[i];
  return vars;
}

Var FunctionBuilder::op(std::string_view type, Inputs inputs, std::string_view name) {
  const Vars vars = ops(type, std::move(inputs), name);
  if (error_) return {};
  if (vars.size() != 1) {
    return fail(type, name,
                impetus::error(ErrorCode::invalid_argument, "it has {} results", vars.size()));
  }
  return vars.front();
}

void FunctionBuilder::output(Var var, std::string_view name) {
  if (error_) return;
  if (!var.ok() || !is_identifier(name)) {
    fail("output", name,
         impetus::error(ErrorCode::invalid_argument,
                        "the value is not of this function, or its name no identifier of MIL"));
    return;
  }
  const auto taken = std::ranges::find(slots_, name, &Slot::name);
  const auto id = static_cast<size_t>(taken - slots_.begin());
  if (taken != slots_.end() && (taken->input || taken->output)) {
    fail("output", name,
         impetus::error(ErrorCode::invalid_argument, "the name is an input's or output's"));
    return;
  }
  const Slot& given = slots_[static_cast<size_t>(var.id_)];
  if (given.input || given.output || given.constant != nullptr) var = identity(var);
  if (error_) return;
  if (taken != slots_.end() && id != static_cast<size_t>(var.id_)) {
    slots_[id].name = unique(name);  // something inside makes room
  }
  names_.emplace(name);
  Slot& made = slots_[static_cast<size_t>(var.id_)];
  made.name = name;
  made.output = true;
  outputs_.push_back(var.id_);
}

Operation FunctionBuilder::written(Node& node) {
  const auto name_of = [this](int id) { return slots_[static_cast<size_t>(id)].name; };
  Operation operation;
  operation.type = std::move(node.type);
  for (const int result : node.results) {
    operation.outputs.push_back({name_of(result), slots_[static_cast<size_t>(result)].type});
  }
  operation.attributes.emplace(
      "name", Value::scalar(node.results.empty() ? node.name : name_of(node.results.front())));
  for (auto& [parameter, input] : node.inputs) {
    if (Value* value = std::get_if<Value>(&input)) {
      if (node.attributes) {
        operation.attributes.emplace(parameter, std::move(*value));
      } else {
        operation.inputs[parameter].emplace_back(std::move(*value));
      }
    } else if (const Var* var = std::get_if<Var>(&input)) {
      operation.inputs[parameter].emplace_back(name_of(var->id_));
    } else {
      for (const Var one : std::get<Vars>(input)) {
        operation.inputs[parameter].emplace_back(name_of(one.id_));
      }
    }
  }
  return operation;
}

Result<Function> FunctionBuilder::finish() {
  if (error_) return *error_;
  if (outputs_.empty()) {
    return impetus::error(ErrorCode::invalid_argument, "the function has no output");
  }
  Function function;
  function.opset = to_string(opset_);
  for (const int id : inputs_) {
    const Slot& slot = slots_[static_cast<size_t>(id)];
    function.inputs.push_back({slot.name, slot.type});
  }
  Block block;
  for (Node& node : nodes_) block.operations.push_back(written(node));
  for (const int id : outputs_) block.outputs.push_back(slots_[static_cast<size_t>(id)].name);
  function.blocks.emplace(function.opset, std::move(block));
  return function;
}

// --- Operations.

Var FunctionBuilder::conv(Var x, Var weight, std::optional<Var> bias, const Window& window,
                          std::string_view name) {
  const size_t rank = rank_of(*this, x), spatial = rank < 2 ? 0 : rank - 2;
  Inputs inputs{{"x", x},
                {"weight", weight},
                {"strides", or_ones(window.strides, spatial, 1)},
                {"pad_type", text(window.pad_type)},
                {"pad", or_ones(window.pad, 2 * spatial, 0)},
                {"dilations", or_ones(window.dilations, spatial, 1)},
                {"groups", Value::scalar(window.groups)}};
  if (bias) inputs.emplace_back("bias", *bias);
  return op("conv", std::move(inputs), name);
}

Var FunctionBuilder::linear(Var x, Var weight, std::optional<Var> bias, std::string_view name) {
  if (error_) return {};
  if (bias) return op("linear", {{"x", x}, {"weight", weight}, {"bias", *bias}}, name);
  const TensorType& of_weight = type(weight);
  if (of_weight.shape.size() != 2 || !of_weight.bytes()) {
    return fail("linear", name,
                impetus::error(ErrorCode::invalid_argument, "weight is {}; it must have rank 2",
                               of_weight.to_string()));
  }
  const TensorType zeros{of_weight.dtype, {of_weight.shape[0]}};
  const std::vector<std::byte> bytes(static_cast<size_t>(zeros.bytes().value_or(0)));
  return op("linear",
            {{"x", x}, {"weight", weight}, {"bias", raw_values(zeros.dtype, zeros.shape, bytes)}},
            name);
}

Var FunctionBuilder::matmul(Var x, Var y, bool transpose_x, bool transpose_y,
                            std::string_view name) {
  return op("matmul",
            {{"x", x},
             {"y", y},
             {"transpose_x", Value::scalar(transpose_x)},
             {"transpose_y", Value::scalar(transpose_y)}},
            name);
}

Var FunctionBuilder::einsum(std::string_view equation, Var x, Var y, std::string_view name) {
  const size_t comma = equation.find(','), arrow = equation.find("->");
  if (comma < arrow && arrow < equation.size()) {
    const std::string_view first = equation.substr(0, comma);
    const std::string_view second = equation.substr(comma + 1, arrow - comma - 1);
    const std::string_view result = equation.substr(arrow + 2);
    if (is_known_einsum(first, second, result)) {
      return op("einsum", {{"values", Vars{x, y}}, {"equation", text(equation)}}, name);
    }
    if (is_known_einsum(second, first, result)) {
      return op("einsum",
                {{"values", Vars{y, x}},
                 {"equation", text(fmt::format("{},{}->{}", second, first, result))}},
                name);
    }
  }
  return fail(
      "einsum", name,
      impetus::error(ErrorCode::unsupported,
                     "equation \"{}\" is none that Core ML runs; write transpose and matmul",
                     equation));
}

Var FunctionBuilder::gelu(Var x, std::string_view mode, std::string_view name) {
  return op("gelu", {{"x", x}, {"mode", text(mode)}}, name);
}

Var FunctionBuilder::rsqrt(Var x, float epsilon, std::string_view name) {
  return op("rsqrt", {{"x", x}, {"epsilon", number(epsilon, type(x).dtype)}}, name);
}

Var FunctionBuilder::clip(Var x, float low, float high, std::string_view name) {
  const DataType dtype = type(x).dtype;
  return op("clip", {{"x", x}, {"alpha", number(low, dtype)}, {"beta", number(high, dtype)}}, name);
}

Var FunctionBuilder::cast(Var x, DataType type, std::string_view name) {
  return op("cast", {{"x", x}, {"dtype", text(to_string(type))}}, name);
}

Var FunctionBuilder::softmax(Var x, int32_t axis, std::string_view name) {
  return op("softmax", {{"x", x}, {"axis", Value::scalar(axis)}}, name);
}

Var FunctionBuilder::layer_norm(Var x, Ints axes, std::optional<Var> gamma, std::optional<Var> beta,
                                float epsilon, std::string_view name) {
  if (error_) return {};
  // gamma, beta and epsilon have one element type, which from CoreML7 on may be another than x's.
  const DataType dtype = type(gamma ? *gamma : beta ? *beta : x).dtype;
  Inputs inputs{{"x", x}, {"axes", Value::ints(axes)}, {"epsilon", number(epsilon, dtype)}};
  if (gamma) inputs.emplace_back("gamma", *gamma);
  if (beta) inputs.emplace_back("beta", *beta);
  return op("layer_norm", std::move(inputs), name);
}

Var FunctionBuilder::add(Var x, float y, std::string_view name) {
  return error_ ? Var() : binary("add", x, number(y, type(x).dtype), name);
}
Var FunctionBuilder::mul(Var x, float y, std::string_view name) {
  return error_ ? Var() : binary("mul", x, number(y, type(x).dtype), name);
}

Var FunctionBuilder::reduce(std::string_view kind, Var x, Ints axes, bool keep_dims,
                            std::string_view name) {
  return op(fmt::format("reduce_{}", kind),
            {{"x", x}, {"axes", Value::ints(axes)}, {"keep_dims", Value::scalar(keep_dims)}}, name);
}

Var FunctionBuilder::reshape(Var x, Ints shape, std::string_view name) {
  return op("reshape", {{"x", x}, {"shape", Value::ints(shape)}}, name);
}

Var FunctionBuilder::transpose(Var x, Ints perm, std::string_view name) {
  return op("transpose", {{"x", x}, {"perm", Value::ints(perm)}}, name);
}

Var FunctionBuilder::expand_dims(Var x, Ints axes, std::string_view name) {
  return op("expand_dims", {{"x", x}, {"axes", Value::ints(axes)}}, name);
}

Var FunctionBuilder::squeeze(Var x, Ints axes, std::string_view name) {
  if (error_) return {};
  const Var squeezed = op("squeeze", {{"x", x}, {"axes", Value::ints(axes)}}, name);
  if (squeezed.ok() && rank_of(*this, squeezed) + axes.size() != rank_of(*this, x)) {
    return fail("squeeze", name,
                impetus::error(ErrorCode::invalid_argument, "x is {}: an axis is not 1 long",
                               type(x).to_string()));
  }
  return squeezed;
}

Var FunctionBuilder::concat(Vars values, int32_t axis, std::string_view name) {
  return op("concat",
            {{"values", std::move(values)},
             {"axis", Value::scalar(axis)},
             {"interleave", Value::scalar(false)}},
            name);
}

Vars FunctionBuilder::split(Var x, Ints sizes, int32_t axis, std::string_view name) {
  Vars vars =
      ops("split", {{"x", x}, {"split_sizes", Value::ints(sizes)}, {"axis", Value::scalar(axis)}},
          name);
  // So that a caller may index what an error has left empty.
  if (error_) vars.assign(sizes.size(), Var());
  return vars;
}

FunctionBuilder::Inputs FunctionBuilder::slice_inputs(Var x, const Slice& slice) const {
  const size_t rank = rank_of(*this, x);
  return {{"x", x},
          {"begin", Value::ints(slice.begin)},
          {"end", Value::ints(slice.end)},
          {"stride", or_ones(slice.stride, rank, 1)},
          {"begin_mask", flags(slice.begin_mask, rank)},
          {"end_mask", flags(slice.end_mask, rank)},
          {"squeeze_mask", flags(slice.squeeze_mask, rank)}};
}

Var FunctionBuilder::slice_by_index(Var x, const Slice& slice, std::string_view name) {
  return op("slice_by_index", slice_inputs(x, slice), name);
}

Var FunctionBuilder::slice(Var x, Ints begin, Ints end, std::string_view name) {
  Slice slice{.begin = std::move(begin), .end = std::move(end)};
  for (const int32_t one : slice.end) slice.end_mask.push_back(one == 0);
  return slice_by_index(x, slice, name);
}

Var FunctionBuilder::affine_dequantize(Value data, Value zero_point, Value scale, int32_t axis,
                                       std::string_view name) {
  return op("constexpr_affine_dequantize",
            {{"quantized_data", std::move(data)},
             {"zero_point", std::move(zero_point)},
             {"scale", std::move(scale)},
             {"axis", Value::scalar(axis)}},
            name);
}

Var FunctionBuilder::lut_to_dense(Value indices, Value lut, std::span<const uint32_t> shape,
                                  std::string_view name) {
  return op("constexpr_lut_to_dense",
            {{"indices", std::move(indices)},
             {"lut", std::move(lut)},
             {"shape", values_of(DataType::u32, {static_cast<int64_t>(shape.size())}, shape)}},
            name);
}

Var FunctionBuilder::lut_to_dense_grouped(Value indices, Value lut,
                                          std::optional<int32_t> vector_axis,
                                          std::string_view name) {
  Inputs inputs{{"indices", std::move(indices)}, {"lut", std::move(lut)}};
  if (vector_axis) inputs.emplace_back("vector_axis", Value::scalar(*vector_axis));
  return op("constexpr_lut_to_dense", std::move(inputs), name);
}

Var FunctionBuilder::blockwise_shift_scale(Value data, Value scale, std::optional<Value> offset,
                                           std::string_view name) {
  Inputs inputs{{"data", std::move(data)}, {"scale", std::move(scale)}};
  if (offset) inputs.emplace_back("offset", std::move(*offset));
  return op("constexpr_blockwise_shift_scale", std::move(inputs), name);
}

Var FunctionBuilder::sparse_to_dense(Value nonzero, Value mask, std::span<const uint32_t> shape,
                                     std::string_view name) {
  Inputs inputs{{"nonzero_data", std::move(nonzero)}, {"mask", std::move(mask)}};
  if (opset_ < Opset::core_ml8) {
    inputs.emplace_back("shape",
                        values_of(DataType::u32, {static_cast<int64_t>(shape.size())}, shape));
  }
  return op("constexpr_sparse_to_dense", std::move(inputs), name);
}

Var FunctionBuilder::constexpr_cast(Value source, std::string_view name) {
  return op("constexpr_cast", {{"source_val", std::move(source)}, {"output_dtype", text("fp32")}},
            name);
}

Var FunctionBuilder::quantize(Var x, Value scale, std::optional<Value> zero_point, DataType type,
                              std::optional<int32_t> axis, std::string_view name) {
  Inputs inputs{{"input", x}, {"scale", std::move(scale)}, {"output_dtype", text(to_string(type))}};
  if (zero_point) inputs.emplace_back("zero_point", std::move(*zero_point));
  if (axis) inputs.emplace_back("axis", Value::scalar(*axis));
  return op("quantize", std::move(inputs), name);
}

Var FunctionBuilder::dequantize(Var x, Value scale, std::optional<Value> zero_point,
                                std::optional<int32_t> axis, std::string_view name) {
  Inputs inputs{{"input", x}, {"scale", std::move(scale)}};
  if (zero_point) inputs.emplace_back("zero_point", std::move(*zero_point));
  if (axis) inputs.emplace_back("axis", Value::scalar(*axis));
  return op("dequantize", std::move(inputs), name);
}

Var FunctionBuilder::read_state(Var state, std::string_view name) {
  return op("read_state", {{"input", state}}, name);
}

void FunctionBuilder::write_state(Var state, Var data, std::string_view name) {
  ops("write_state", {{"input", state}, {"data", data}}, name);
}

Var FunctionBuilder::slice_update(Var x, Var update, const Slice& slice, std::string_view name) {
  Inputs inputs = slice_inputs(x, slice);
  inputs.emplace_back("update", update);
  return op("slice_update", std::move(inputs), name);
}

}  // namespace impetus::mil

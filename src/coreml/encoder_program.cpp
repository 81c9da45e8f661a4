#include "coreml/encoder_program.h"

#include <algorithm>
#include <array>
#include <cassert>
#include <cmath>
#include <cstring>
#include <optional>
#include <set>

#include "coreml/quantise.h"

namespace impetus::coreml {
namespace {

using mil::Argument;
using mil::DataType;
using mil::Operation;
using mil::TensorType;
using mil::Value;

template <typename T>
mil::Bytes bytes_of_values(std::span<const T> values) {
  const auto bytes = std::as_bytes(values);
  return mil::Bytes::own({bytes.begin(), bytes.end()});
}

Value tensor(TensorType type, std::span<const uint16_t> values) {
  return Value::tensor(std::move(type), bytes_of_values(values));
}
Value tensor(TensorType type, std::span<const int8_t> values) {
  return Value::tensor(std::move(type), bytes_of_values(values));
}
Value zeros(TensorType type) {
  const auto bytes = static_cast<size_t>(*type.bytes());
  return Value::tensor(std::move(type), mil::Bytes::own(std::vector<std::byte>(bytes)));
}

Operation constant(const std::string& name, Value value) {
  Operation made;
  made.type = "const";
  made.outputs = {{name, value.type}};
  made.attributes = {{"name", Value::scalar(name)}, {"val", std::move(value)}};
  return made;
}

// Decoded to f32, scaled, and held to what fp16 can say.
Result<std::vector<float>> decoded(const WeightSet& weights, const NamedTensor& tensor,
                                   float scale) {
  const int64_t columns = tensor.view.shape.columns();
  std::vector<float> values(static_cast<size_t>(tensor.view.shape.elements()));
  for (int64_t r = 0; r < tensor.view.shape.rows(); ++r) {
    dequantize_row(tensor.view, r, values.data() + r * columns);
  }
  for (size_t i = 0; i < values.size(); ++i) {
    values[i] *= scale;
    if (!(std::fabs(values[i]) <= 65504.0f)) {
      return error(ErrorCode::unsupported,
                   "{}: tensor {}: element {} is {}, which fp16 cannot hold; the Neural Engine "
                   "computes in fp16",
                   weights.path_of(tensor), tensor.name, i, values[i]);
    }
  }
  return values;
}

std::vector<uint16_t> halves_of(std::span<const float> values) {
  std::vector<uint16_t> halves(values.size());
  std::ranges::transform(values, halves.begin(), f32_to_f16);
  return halves;
}

int palette_bits(Precision precision) {
  switch (precision) {
    case Precision::palettized8:
      return 8;
    case Precision::palettized6:
      return 6;
    case Precision::palettized4:
      return 4;
    default:
      return 0;
  }
}

// Grouped tables cost their entries again for each group: 256 entries pay for none, and fewer bits
// want smaller groups. The engine takes groups of 8 channels or more.
int64_t palette_groups(int64_t rows, int bits) {
  if (bits == 8) return 1;
  return groups_of(rows, 8);
}

// Fewer than 8 bits hurt most where a layer writes into the residual: there palettes keep 8, which
// is half of the weights. Without it 6 bits do not reach a cosine of 0.998 to f32 over sentences
// (texts of one word stay below it with it, too).
bool keeps_8_bits(std::string_view name) {
  return name.ends_with("_value") || name.ends_with("_attention_output") || name.ends_with("_down");
}

Operation int8_weight(const std::string& name, const Int8Rows& rows, int64_t out, int64_t in,
                      mil::Opset opset) {
  const TensorType type{DataType::f16, {out, in, 1, 1}};
  Value data = tensor({DataType::i8, {out, in, 1, 1}}, rows.values);
  Operation made;
  made.outputs = {{name, {.tensor = type}}};
  made.attributes = {{"name", Value::scalar(name)}};
  if (opset >= mil::Opset::core_ml8) {
    made.type = "constexpr_blockwise_shift_scale";
    made.inputs = {{"data", {std::move(data)}},
                   {"scale", {tensor({DataType::f16, {out, 1, 1, 1}}, rows.scales)}}};
    return made;
  }
  made.type = "constexpr_affine_dequantize";
  made.attributes.emplace("quantized_data", std::move(data));
  made.attributes.emplace("zero_point", zeros({DataType::i8, {out}}));
  made.attributes.emplace("scale", tensor({DataType::f16, {out}}, rows.scales));
  made.attributes.emplace("axis", Value::scalar(int32_t{0}));
  return made;
}

Operation palettised_weight(const std::string& name, const Palette& palette, int64_t out,
                            int64_t in, mil::Opset opset) {
  const int bits = palette.bits;
  std::vector<std::byte> indices = packed(palette.indices, bits);
  const int64_t entries = int64_t{1} << bits;
  Operation made;
  made.type = "constexpr_lut_to_dense";
  made.outputs = {{name, {.tensor = {DataType::f16, {out, in, 1, 1}}}}};
  made.attributes = {{"name", Value::scalar(name)}};
  if (opset >= mil::Opset::core_ml8) {
    const DataType index = bits == 8 ? DataType::u8 : bits == 6 ? DataType::u6 : DataType::u4;
    made.inputs = {
        {"indices", {Value::tensor({index, {out, in, 1, 1}}, mil::Bytes::own(std::move(indices)))}},
        {"lut", {tensor({DataType::f16, {palette.groups, 1, 1, 1, entries, 1}}, palette.lut)}}};
    return made;
  }
  const auto bytes = static_cast<int64_t>(indices.size());
  const std::array<uint32_t, 4> shape = {static_cast<uint32_t>(out), static_cast<uint32_t>(in), 1,
                                         1};
  made.attributes.emplace(
      "indices", Value::tensor({DataType::u8, {bytes}}, mil::Bytes::own(std::move(indices))));
  made.attributes.emplace("lut", tensor({DataType::f16, {entries}}, palette.lut));
  made.attributes.emplace(
      "shape",
      Value::tensor({DataType::u32, {4}}, bytes_of_values(std::span<const uint32_t>(shape))));
  return made;
}

// int8 keeps 8 bits, but not always a scale by channel: where a channel's largest weight is far
// from the others (MiniLM's down projections have channels of 38 standard deviations) its scale
// leaves these few steps. A table of 256 values is as large and nearer there.
constexpr double kOutliersCost = 1.2;  // of squared errors
constexpr int64_t kTableRows = 32;     // at least, a table, where opsets know groups

std::optional<Palette> table_for_outliers(std::span<const float> values, const Int8Rows& rows,
                                          int64_t out, int64_t in, mil::Opset opset) {
  constexpr int kBits = 8;
  Palette table = palettise(values, out, in, kBits, 1);
  if (squared_error(values, dequantise(rows)) <=
      kOutliersCost * squared_error(values, dequantise(table))) {
    return std::nullopt;
  }
  const int64_t groups = opset >= mil::Opset::core_ml8 ? groups_of(out, kTableRows) : 1;
  if (groups == 1) return table;
  return palettise(values, out, in, kBits, groups);
}

class ConstantsMaker {
 public:
  ConstantsMaker(const WeightSet& weights, Precision precision, mil::Opset opset,
                 const std::function<void(int64_t, int64_t)>& done, int64_t total)
      : weights_(weights), precision_(precision), opset_(opset), done_(done), total_(total) {}

  Result<void> vector(const std::string& name, const NamedTensor& source, float scale = 1) {
    IMPETUS_TRY(const std::vector<float> values, decoded(weights_, source, scale));
    add(constant(
        name, tensor({DataType::f16, {static_cast<int64_t>(values.size())}}, halves_of(values))));
    return {};
  }

  Result<void> linear(const std::string& name, const Linear& source, float scale = 1) {
    IMPETUS_TRY(const std::vector<float> values, decoded(weights_, *source.weight, scale));
    const int64_t out = source.weight->view.shape[0], in = source.weight->view.shape[1];
    const std::string weight = name + "_weight";
    if (precision_ == Precision::fp16) {
      add(constant(weight, tensor({DataType::f16, {out, in, 1, 1}}, halves_of(values))));
    } else if (int bits = palette_bits(precision_)) {
      if (keeps_8_bits(name)) bits = 8;
      add(palettised_weight(weight, palettise(values, out, in, bits, groups(out, bits)), out, in,
                            opset_));
    } else {
      const Int8Rows rows = quantise_int8(values, out, in);
      std::optional<Palette> table;
      if (precision_ == Precision::int8) table = table_for_outliers(values, rows, out, in, opset_);
      add(table ? palettised_weight(weight, *table, out, in, opset_)
                : int8_weight(weight, rows, out, in, opset_));
    }
    return vector(name + "_bias", *source.bias, scale);
  }

  Result<void> norm(const std::string& name, const Norm& source) {
    IMPETUS_CHECK(vector(name + "_gamma", *source.weight));
    return vector(name + "_beta", *source.bias);
  }

  Constants constants;

 private:
  int64_t groups(int64_t out, int bits) const {
    return opset_ >= mil::Opset::core_ml8 ? palette_groups(out, bits) : 1;
  }

  void add(Operation operation) {
    std::string name(operation.name());
    constants.emplace(std::move(name), std::move(operation));
    if (done_) done_(static_cast<int64_t>(constants.size()), total_);
  }

  const WeightSet& weights_;
  Precision precision_;
  mil::Opset opset_;
  const std::function<void(int64_t, int64_t)>& done_;
  int64_t total_;
};

std::string layer_name(int64_t layer, std::string_view part) {
  return fmt::format("layer_{}_{}", layer, part);
}

// One function's block, built in order. Names of constants that several operations share have no
// layer in them.
class FunctionMaker {
 public:
  FunctionMaker(const ModelSpec& spec, const Constants& constants, int64_t tokens,
                const ActivationRanges& ranges)
      : spec_(spec), constants_(constants), tokens_(tokens), ranges_(ranges) {}

  mil::Block make() {
    std::string hidden =
        norm("embedding_norm", kHidden, norm_epsilon(spec_), "norm_epsilon", "embedding_norm");
    for (int64_t i = 0; i < spec_.layers; ++i) hidden = layer(i, hidden);
    block_.outputs = {hidden};
    return std::move(block_);
  }

  static constexpr const char* kHidden = "hidden";
  static constexpr const char* kMask = "mask";
  static constexpr const char* kOutput = "hidden_states";
  static constexpr float kSumScale = 0.125f;

 private:
  TensorType activation(int64_t channels) const {
    return {DataType::f16, {1, channels, 1, tokens_}};
  }

  // A shared constant: written where it is first used.
  std::string shared(const std::string& name, Value value) {
    if (written_.insert(name).second) block_.operations.push_back(constant(name, std::move(value)));
    return name;
  }
  std::string weight(const std::string& name) {
    const auto found = constants_.find(name);
    assert(found != constants_.end());
    if (written_.insert(name).second) block_.operations.push_back(found->second);
    return name;
  }

  void add_many(std::string type, const std::string& name,
                std::map<std::string, Argument, std::less<>> inputs,
                std::vector<mil::NamedType> outputs) {
    Operation made;
    made.type = std::move(type);
    made.inputs = std::move(inputs);
    made.outputs = std::move(outputs);
    made.attributes = {{"name", Value::scalar(name)}};
    block_.operations.push_back(std::move(made));
  }
  std::string add(std::string type, const std::string& name, TensorType result,
                  std::map<std::string, Argument, std::less<>> inputs) {
    add_many(std::move(type), name, std::move(inputs), {{name, {.tensor = std::move(result)}}});
    return name;
  }

  std::string conv(const std::string& name, const std::string& x, int64_t out) {
    const std::array<int32_t, 2> ones = {1, 1};
    const std::array<int32_t, 4> none = {0, 0, 0, 0};
    return add("conv", name, activation(out),
               {{"x", {x}},
                {"weight", {weight(name + "_weight")}},
                {"bias", {weight(name + "_bias")}},
                {"strides", {shared("conv_strides", Value::ints(ones))}},
                {"pad_type", {shared("conv_pad_type", Value::scalar(std::string("valid")))}},
                {"pad", {shared("conv_pad", Value::ints(none))}},
                {"dilations", {shared("conv_dilations", Value::ints(ones))}},
                {"groups", {shared("conv_groups", Value::scalar(int32_t{1}))}}});
  }

  std::string norm(const std::string& name, const std::string& x, float epsilon,
                   const std::string& epsilon_name, const std::string& result) {
    const std::array<int32_t, 1> channels = {1};
    return add("layer_norm", result, activation(spec_.hidden),
               {{"x", {x}},
                {"axes", {shared("norm_axes", Value::ints(channels))}},
                {"gamma", {weight(name + "_gamma")}},
                {"beta", {weight(name + "_beta")}},
                {"epsilon", {shared(epsilon_name, Value::scalar(epsilon, DataType::f16))}}});
  }

  // norm(residual + x), scaled down before: the residual's outliers pass 256, past which squares
  // overflow fp16 (rule D14), and a norm's result does not change with its input's scale.
  std::string norm_of_sum(int64_t index, std::string_view part, const std::string& x,
                          const std::string& residual, const std::string& result = {}) {
    const auto named = [&](const char* end) {
      return fmt::format("layer_{}_{}_{}", index, part, end);
    };
    const TensorType type = activation(spec_.hidden);
    const std::string total = sum(named("sum"), x, residual, type);
    const std::string scaled = add(
        "mul", named("scaled_sum"), type,
        {{"x", {total}}, {"y", {shared("sum_scale", Value::scalar(kSumScale, DataType::f16))}}});
    return norm(named("norm"), scaled, norm_epsilon(spec_, kSumScale), "sum_norm_epsilon",
                result.empty() ? named("norm") : result);
  }

  std::string sum(const std::string& name, const std::string& x, const std::string& y,
                  TensorType type) {
    return add("add", name, std::move(type), {{"x", {x}}, {"y", {y}}});
  }

  std::string activated(const std::string& name, const std::string& x) {
    const TensorType type = activation(spec_.feed_forward);
    const auto gelu = [&](const char* mode) {
      return add("gelu", name, type,
                 {{"x", {x}}, {"mode", {shared("gelu_mode", Value::scalar(std::string(mode)))}}});
    };
    switch (spec_.activation) {
      case Activation::gelu_erf:
        return gelu("EXACT");
      case Activation::gelu_tanh:
        return gelu("TANH_APPROXIMATION");
      case Activation::relu:
        return add("relu", name, type, {{"x", {x}}});
      case Activation::silu:
        return add("silu", name, type, {{"x", {x}}});
    }
    return x;
  }

  // What a convolution reads: `x`, or its 8-bit twin.
  std::string operand(const std::string& x, int64_t channels) {
    if (ranges_.empty()) return x;
    const auto range = ranges_.find(x);
    assert(range != ranges_.end());
    // Not below the smallest normal fp16, where a step of its own would be lost.
    const float step = std::max(range->second / 127, 6.104e-5f);
    const std::string scale =
        shared(x + "_scale", Value::scalar(std::min(step, 65504.0f), DataType::f16));
    const std::string zero = shared("activation_zero_point", zeros({DataType::i8}));
    const std::string type = shared("activation_dtype", Value::scalar(std::string("int8")));
    TensorType small = activation(channels);
    small.dtype = DataType::i8;
    const std::string narrow =
        add("quantize", x + "_quantized", std::move(small),
            {{"input", {x}}, {"scale", {scale}}, {"zero_point", {zero}}, {"output_dtype", {type}}});
    return add("dequantize", x + "_dequantized", activation(channels),
               {{"input", {narrow}}, {"scale", {scale}}, {"zero_point", {zero}}});
  }

  std::vector<std::string> heads(const std::string& name, const std::string& x, int axis,
                                 const TensorType& each) {
    const auto count = static_cast<size_t>(spec_.heads);
    const std::vector<int32_t> sizes(count, static_cast<int32_t>(spec_.head_dim));
    std::vector<std::string> names;
    std::vector<mil::NamedType> outputs;
    for (size_t i = 0; i < count; ++i) {
      names.push_back(fmt::format("{}_{}", name, i));
      outputs.push_back({names.back(), {.tensor = each}});
    }
    add_many("split", name,
             {{"x", {x}},
              {"split_sizes", {shared("head_sizes", Value::ints(sizes))}},
              {"axis", {shared(fmt::format("axis_{}", axis), Value::scalar(int32_t{axis}))}}},
             std::move(outputs));
    return names;
  }

  std::string einsum(const std::string& name, const std::string& x, const std::string& y,
                     TensorType type) {
    return add(
        "einsum", name, std::move(type),
        {{"values", {x, y}},
         {"equation", {shared("head_equation", Value::scalar(std::string("nchw,nwhu->nchu")))}}});
  }

  std::string attention(const std::string& prefix, const std::string& hidden) {
    const std::string x = operand(hidden, spec_.hidden);
    const std::string query = conv(prefix + "_query", x, spec_.hidden);
    const std::string key = conv(prefix + "_key", x, spec_.hidden);
    const std::string value = conv(prefix + "_value", x, spec_.hidden);
    const std::array<int32_t, 4> swapped = {0, 3, 2, 1};
    const std::string transposed =
        add("transpose", prefix + "_key_transposed", {DataType::f16, {1, tokens_, 1, spec_.hidden}},
            {{"x", {key}}, {"perm", {shared("key_permutation", Value::ints(swapped))}}});

    const TensorType by_head = activation(spec_.head_dim);
    const auto queries = heads(prefix + "_query_head", query, 1, by_head);
    const auto keys = heads(prefix + "_key_head", transposed, 3,
                            {DataType::f16, {1, tokens_, 1, spec_.head_dim}});
    const auto values = heads(prefix + "_value_head", value, 1, by_head);
    const TensorType scores_type = activation(tokens_);  // (1, keys, 1, queries)
    Argument mixed;
    for (size_t i = 0; i < queries.size(); ++i) {
      const auto named = [&](const char* part) { return fmt::format("{}_{}_{}", prefix, part, i); };
      const std::string scores = einsum(named("scores"), keys[i], queries[i], scores_type);
      const std::string masked = sum(named("masked_scores"), scores, kMask, scores_type);
      const std::string shares =
          add("softmax", named("probabilities"), scores_type,
              {{"x", {masked}}, {"axis", {shared("axis_1", Value::scalar(int32_t{1}))}}});
      mixed.emplace_back(einsum(named("context"), values[i], shares, by_head));
    }
    if (mixed.size() == 1) return std::get<std::string>(mixed.front());
    return add("concat", prefix + "_context", activation(spec_.hidden),
               {{"values", std::move(mixed)},
                {"axis", {shared("axis_1", Value::scalar(int32_t{1}))}},
                {"interleave", {shared("concat_interleave", Value::scalar(false))}}});
  }

  std::string layer(int64_t index, const std::string& hidden) {
    const auto named = [&](const char* part) { return layer_name(index, part); };
    const std::string context = attention(named("attention"), hidden);
    const std::string output =
        conv(named("attention_output"), operand(context, spec_.hidden), spec_.hidden);
    const std::string attended = norm_of_sum(index, "attention", output, hidden);
    const std::string up =
        conv(named("feed_forward_up"), operand(attended, spec_.hidden), spec_.feed_forward);
    const std::string inner = activated(named("feed_forward_activation"), up);
    const std::string down =
        conv(named("feed_forward_down"), operand(inner, spec_.feed_forward), spec_.hidden);
    const bool last = index + 1 == spec_.layers;
    return norm_of_sum(index, "output", down, attended, last ? kOutput : "");
  }

  const ModelSpec& spec_;
  const Constants& constants_;
  int64_t tokens_;
  const ActivationRanges& ranges_;
  mil::Block block_;
  std::set<std::string> written_;
};

}  // namespace

Result<Constants> encoder_constants(const ModelSpec& spec, const WeightSet& weights,
                                    Precision precision, mil::Opset opset,
                                    const std::function<void(int64_t, int64_t)>& done) {
  IMPETUS_TRY(const EncoderWeights tensors, resolve_encoder(spec, weights));
  ConstantsMaker maker(weights, precision, opset, done, 2 + spec.layers * 16);
  const float query_scale = 1 / std::sqrt(static_cast<float>(spec.head_dim));
  IMPETUS_CHECK(maker.norm("embedding_norm", tensors.embedding_norm));
  for (int64_t i = 0; i < spec.layers; ++i) {
    const EncoderWeights::Layer& layer = tensors.layers[static_cast<size_t>(i)];
    const auto named = [&](const char* part) { return layer_name(i, part); };
    IMPETUS_CHECK(maker.linear(named("attention_query"), layer.q, query_scale));
    IMPETUS_CHECK(maker.linear(named("attention_key"), layer.k));
    IMPETUS_CHECK(maker.linear(named("attention_value"), layer.v));
    IMPETUS_CHECK(maker.linear(named("attention_output"), layer.output));
    IMPETUS_CHECK(maker.norm(named("attention_norm"), layer.attention_norm));
    IMPETUS_CHECK(maker.linear(named("feed_forward_up"), layer.up));
    IMPETUS_CHECK(maker.linear(named("feed_forward_down"), layer.down));
    IMPETUS_CHECK(maker.norm(named("output_norm"), layer.output_norm));
  }
  return std::move(maker.constants);
}

std::vector<std::string> quantised_activations(const ModelSpec& spec) {
  std::vector<std::string> names;
  for (int64_t i = 0; i < spec.layers; ++i) {
    names.push_back(i == 0 ? "embedding_norm" : layer_name(i - 1, "output_norm"));
    names.push_back(layer_name(i, spec.heads == 1 ? "attention_context_0" : "attention_context"));
    names.push_back(layer_name(i, "attention_norm"));
    names.push_back(layer_name(i, "feed_forward_activation"));
  }
  return names;
}

mil::Function encoder_function(const ModelSpec& spec, const Constants& constants, int64_t tokens,
                               mil::Opset opset, const ActivationRanges& ranges) {
  mil::Function made;
  made.opset = std::string(to_string(opset));
  made.inputs = {{FunctionMaker::kHidden, {.tensor = hidden_type(spec, tokens)}},
                 {FunctionMaker::kMask, {.tensor = mask_type(tokens)}}};
  made.blocks.emplace(made.opset, FunctionMaker(spec, constants, tokens, ranges).make());
  return made;
}

mil::TensorType hidden_type(const ModelSpec& spec, int64_t tokens) {
  return {DataType::f16, {1, spec.hidden, 1, tokens}};
}

mil::TensorType mask_type(int64_t tokens) {
  return {DataType::f16, {1, tokens, 1, 1}};
}

float norm_epsilon(const ModelSpec& spec, float scale) {
  return std::max(spec.norm_eps * scale * scale, 1e-7f);
}

}  // namespace impetus::coreml

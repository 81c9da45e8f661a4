#include "coreml/convert.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>

#include "coreml/test_support.h"

namespace impetus::coreml {
namespace {

using testing::converted;
using testing::random_encoder;
using testing::small_spec;

const mil::Block& block_of(const Converted& made, const std::string& function) {
  return *made.model.program.functions.at(function).block();
}

std::map<std::string, int> counted(const mil::Block& block) {
  std::map<std::string, int> counts;
  for (const auto& operation : block.operations) ++counts[operation.type];
  return counts;
}

const mil::Operation* find_operation(const mil::Block& block, std::string_view name) {
  const auto found = std::ranges::find_if(
      block.operations, [&](const mil::Operation& one) { return one.name() == name; });
  return found == block.operations.end() ? nullptr : &*found;
}

TEST(Convert, OneFunctionAShapeWhereTheSystemHasFunctions) {
  const auto model = random_encoder(small_spec(), 1);
  ConvertOptions options;
  options.shapes = {32, 16, 64, 16};  // 64 is past the context of 40
  options.name = "small";
  options.license = "mit";
  const auto made = converted(model.spec, *model.weights, options);
  ASSERT_EQ(made.size(), 1u);
  EXPECT_EQ(made[0].shapes, (std::vector<int64_t>{16, 32}));
  const mil::Model& written = made[0].model;
  EXPECT_EQ(written.specification_version, 9);
  ASSERT_EQ(written.functions.size(), 2u);
  EXPECT_EQ(written.functions[0].name, "encode_16");
  EXPECT_EQ(written.functions[1].name, "encode_32");
  EXPECT_EQ(written.default_function, "encode_16");
  EXPECT_EQ(written.metadata.author, "Impetus");
  EXPECT_EQ(written.metadata.license, "mit");
  EXPECT_EQ(written.metadata.user.at(kShapesKey), "16,32");
  EXPECT_EQ(written.metadata.user.at(kPrecisionKey), "fp16");
  EXPECT_EQ(written.metadata.user.at(kWriterVersionKey), std::to_string(kWriterVersion));
  const auto& function = written.functions[1];
  EXPECT_EQ(function.inputs[0].type.to_string(), "fp16[1, 64, 1, 32]");
  EXPECT_EQ(function.inputs[1].type.to_string(), "fp16[1, 32, 1, 1]");
  EXPECT_EQ(function.outputs[0].name, "hidden_states");

  // The second length costs no second copy of the weights.
  const auto* first =
      find_operation(block_of(made[0], "encode_16"), "layer_0_attention_key_weight");
  const auto* second =
      find_operation(block_of(made[0], "encode_32"), "layer_0_attention_key_weight");
  ASSERT_TRUE(first != nullptr && second != nullptr);
  EXPECT_EQ(first->attributes.at("val").bytes.view.data(),
            second->attributes.at("val").bytes.view.data());
}

TEST(Convert, OneModelAShapeBefore) {
  const auto model = random_encoder(small_spec(), 1);
  for (const int macos : {13, 14}) {
    const auto made = converted(model.spec, *model.weights, {.shapes = {16, 32}, .macos = macos});
    ASSERT_EQ(made.size(), 2u);
    EXPECT_EQ(made[1].shapes, std::vector<int64_t>{32});
    EXPECT_EQ(made[1].model.specification_version, macos - 6);
    EXPECT_EQ(made[1].model.functions[0].name, "main");
    EXPECT_EQ(made[1].model.functions[0].inputs[0].type.to_string(), "fp16[1, 64, 1, 32]");
    EXPECT_EQ(function_name(32, macos), "main");
  }
  EXPECT_EQ(function_name(32, 15), "encode_32");
}

TEST(Convert, TheEnginesForm) {
  const auto model = random_encoder(small_spec(), 2);
  const auto made = converted(model.spec, *model.weights, {.shapes = {16}});
  const mil::Block& block = block_of(made[0], "encode_16");
  const auto counts = counted(block);
  const std::map<std::string, int> wanted = {
      {"conv", 12},   {"split", 6},  {"transpose", 2}, {"einsum", 8},     {"add", 8},
      {"softmax", 4}, {"concat", 2}, {"gelu", 2},      {"layer_norm", 5}, {"mul", 4}};
  for (const auto& [type, count] : wanted) EXPECT_EQ(counts.at(type), count) << type;
  EXPECT_EQ(counts.size(), wanted.size() + 1);  // and const
  // The embeddings' norm comes first, and every activation is (1, channels, 1, tokens) in fp16.
  const auto first = std::ranges::find_if(
      block.operations, [](const mil::Operation& operation) { return operation.type != "const"; });
  EXPECT_EQ(first->name(), "embedding_norm");
  EXPECT_EQ(std::get<std::string>(first->inputs.at("x").front()), "hidden");
  std::set<std::string> names;
  for (const auto& operation : block.operations) {
    for (const auto& output : operation.outputs) {
      EXPECT_TRUE(names.insert(output.name).second) << output.name;
      if (operation.type == "const") continue;
      EXPECT_EQ(output.type.tensor.dtype, mil::DataType::f16) << output.name;
      ASSERT_EQ(output.type.tensor.shape.size(), 4u) << output.name;
      EXPECT_EQ(output.type.tensor.shape[2], 1) << output.name;
    }
  }
  for (const char* name :
       {"layer_0_attention_query_weight", "layer_1_feed_forward_down_bias",
        "layer_1_output_norm_gamma", "layer_0_attention_probabilities_1", "embedding_norm_beta"}) {
    EXPECT_TRUE(names.contains(name)) << name;
  }
  EXPECT_EQ(block.outputs, std::vector<std::string>{"hidden_states"});
  // No norm's epsilon is lost in fp16 (rule D13).
  const auto* epsilon = find_operation(block, "norm_epsilon");
  EXPECT_GE(epsilon->attributes.at("val").as_floats()->front(), 1e-7f);
}

TEST(Convert, TheQuerysScaleIsInItsWeights) {
  const auto model = random_encoder(small_spec(), 3);
  const auto made = converted(model.spec, *model.weights, {.shapes = {16}});
  const auto tensors = resolve_encoder(model.spec, *model.weights);
  const mil::Block& block = block_of(made[0], "encode_16");
  for (const auto& [name, tensor, scale] :
       {std::tuple{"layer_1_attention_query_weight", tensors->layers[1].q.weight,
                   1 / std::sqrt(32.0f)},
        std::tuple{"layer_1_attention_query_bias", tensors->layers[1].q.bias, 1 / std::sqrt(32.0f)},
        std::tuple{"layer_1_attention_key_weight", tensors->layers[1].k.weight, 1.0f}}) {
    const auto got = find_operation(block, name)->attributes.at("val").as_floats();
    std::vector<float> wanted(got->size());
    dequantize(tensor->view.dtype, tensor->view.data.data(), static_cast<int64_t>(wanted.size()),
               wanted.data());
    for (size_t i = 0; i < wanted.size(); ++i) {
      ASSERT_EQ((*got)[i], f16_to_f32(f32_to_f16(wanted[i] * scale))) << name << " " << i;
    }
  }
}

TEST(Convert, ActivationsOfEachKind) {
  for (const auto& [activation, type, mode] :
       {std::tuple{Activation::gelu_erf, "gelu", "EXACT"},
        std::tuple{Activation::gelu_tanh, "gelu", "TANH_APPROXIMATION"},
        std::tuple{Activation::relu, "relu", ""}, std::tuple{Activation::silu, "silu", ""}}) {
    auto spec = small_spec("distilbert");
    spec.activation = activation;
    const auto model = random_encoder(spec, 4);
    const auto made = converted(model.spec, *model.weights, {.shapes = {16}});
    const mil::Block& block = block_of(made[0], "encode_16");
    EXPECT_EQ(counted(block).at(type), 2);
    const auto* constant = find_operation(block, "gelu_mode");
    ASSERT_EQ(constant != nullptr, *mode != '\0');
    if (constant != nullptr) {
      EXPECT_EQ(*constant->attributes.at("val").as_string(), mode);
    }
  }
}

TEST(Convert, WeightsInEachSystemsForm) {
  const auto model = random_encoder(small_spec(), 5);
  const auto weight_of = [&](Precision precision, int macos) {
    const auto made = converted(model.spec, *model.weights,
                                {.precision = precision, .shapes = {16}, .macos = macos});
    return *find_operation(block_of(made[0], function_name(16, macos)),
                           "layer_0_feed_forward_up_weight");
  };
  const auto shape_of = [](const mil::Value& value) { return value.type.to_string(); };
  const auto input_of = [](const mil::Operation& operation, const char* name) {
    return std::get<mil::Value>(operation.inputs.at(name).front());
  };
  for (const int macos : {13, 14}) {
    const auto affine = weight_of(Precision::int8, macos);
    EXPECT_EQ(affine.type, "constexpr_affine_dequantize");
    EXPECT_EQ(shape_of(affine.attributes.at("quantized_data")), "int8[160, 64, 1, 1]");
    EXPECT_EQ(shape_of(affine.attributes.at("scale")), "fp16[160]");
    EXPECT_EQ(shape_of(affine.attributes.at("zero_point")), "int8[160]");
    const auto lut = weight_of(Precision::palettized6, macos);
    EXPECT_EQ(lut.type, "constexpr_lut_to_dense");
    EXPECT_EQ(shape_of(lut.attributes.at("indices")), "uint8[7680]");
    EXPECT_EQ(shape_of(lut.attributes.at("lut")), "fp16[64]");
    EXPECT_EQ(*lut.attributes.at("shape").as_ints(), (std::vector<int64_t>{160, 64, 1, 1}));
  }
  const auto shifted = weight_of(Precision::int8, 15);
  EXPECT_EQ(shifted.type, "constexpr_blockwise_shift_scale");
  EXPECT_EQ(shape_of(input_of(shifted, "data")), "int8[160, 64, 1, 1]");
  EXPECT_EQ(shape_of(input_of(shifted, "scale")), "fp16[160, 1, 1, 1]");
  const auto lut4 = weight_of(Precision::palettized4, 15);
  EXPECT_EQ(shape_of(input_of(lut4, "indices")), "uint4[160, 64, 1, 1]");
  EXPECT_EQ(shape_of(input_of(lut4, "lut")), "fp16[20, 1, 1, 1, 16, 1]");
  const auto lut6 = weight_of(Precision::palettized6, 15);
  EXPECT_EQ(shape_of(input_of(lut6, "lut")), "fp16[20, 1, 1, 1, 64, 1]");
  const auto lut8 = weight_of(Precision::palettized8, 15);
  EXPECT_EQ(shape_of(input_of(lut8, "indices")), "uint8[160, 64, 1, 1]");
  EXPECT_EQ(shape_of(input_of(lut8, "lut")), "fp16[1, 1, 1, 1, 256, 1]");
}

TEST(Convert, SaysWhatItCannotConvert) {
  const auto model = random_encoder(small_spec(), 6);
  const auto refused = [&](const ModelSpec& spec, ConvertOptions options, ErrorCode code,
                           std::string_view part) {
    const auto made = convert_encoder(spec, *model.weights, options);
    ASSERT_FALSE(made.ok());
    EXPECT_EQ(made.error().code, code) << made.error().message;
    EXPECT_NE(made.error().message.find(part), std::string::npos) << made.error().message;
  };
  ModelSpec decoder = model.spec;
  decoder.kind = ModelKind::decoder;
  decoder.family = "llama";
  refused(decoder, {}, ErrorCode::unsupported, "part two");
  refused(model.spec, {.macos = 12}, ErrorCode::invalid_argument, "13, 14 or 15");
  refused(model.spec, {.precision = Precision::w8a8, .macos = 13}, ErrorCode::unsupported,
          "macOS 14");
  refused(model.spec, {.shapes = {64, 128}}, ErrorCode::invalid_argument, "40 positions");
  refused(model.spec, {.shapes = {0}}, ErrorCode::invalid_argument, "0 tokens");
  refused(model.spec, {.shapes = {}}, ErrorCode::invalid_argument, "no shape");
  EXPECT_FALSE(precision_from("int7").ok());
  for (const auto precision : {Precision::fp16, Precision::palettized4, Precision::w8a8}) {
    EXPECT_EQ(*precision_from(to_string(precision)), precision);
  }
}

TEST(Convert, WeightsPastFp16AreRefusedByName) {
  for (const float bad : {1e6f, -7e4f, std::numeric_limits<float>::quiet_NaN(),
                          std::numeric_limits<float>::infinity()}) {
    auto model = random_encoder(small_spec(), 7);
    const auto found =
        std::ranges::find(model.tensors, "encoder.layer.1.output.dense.weight", &NamedTensor::name);
    ASSERT_NE(found, model.tensors.end());
    auto& storage = model.storage[static_cast<size_t>(found - model.tensors.begin())];
    std::memcpy(storage.mutable_bytes().data() + 40, &bad, sizeof bad);
    const auto made = convert_encoder(model.spec, *model.weights, {.shapes = {16}});
    ASSERT_FALSE(made.ok());
    EXPECT_EQ(made.error().code, ErrorCode::unsupported);
    EXPECT_NE(made.error().message.find("encoder.layer.1.output.dense.weight: element 10"),
              std::string::npos)
        << made.error().message;
  }
}

TEST(Convert, TellsItsProgress) {
  const auto model = random_encoder(small_spec(), 8);
  std::vector<int64_t> seen;
  ConvertOptions options;
  options.shapes = {16};
  options.progress = [&](int64_t done, int64_t total) {
    EXPECT_EQ(total, 2 + 2 * 16);
    seen.push_back(done);
  };
  converted(model.spec, *model.weights, options);
  ASSERT_FALSE(seen.empty());
  EXPECT_TRUE(std::ranges::is_sorted(seen));
  EXPECT_EQ(seen.back(), 34);
}

}  // namespace
}  // namespace impetus::coreml

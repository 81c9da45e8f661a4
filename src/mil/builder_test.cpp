#include "mil/builder.h"

#include <gtest/gtest.h>

#include "mil/walk.h"

namespace impetus::mil {
namespace {

using Var = FunctionBuilder::Var;

const TensorType& expect_ok(const FunctionBuilder& b, Var var) {
  EXPECT_FALSE(b.error()) << b.error()->message;
  return b.type(var);
}

Model model_of(FunctionBuilder& builder, Opset opset) {
  auto function = builder.finish();
  EXPECT_TRUE(function.ok()) << (function.ok() ? "" : function.error().message);
  Model model{.specification_version = specification_version_of(opset)};
  if (!function.ok()) return model;
  auto description = describe("main", *function);
  EXPECT_TRUE(description.ok());
  model.functions.push_back(*description);
  model.program.functions.emplace("main", *std::move(function));
  return model;
}

Var weights(FunctionBuilder& b, std::vector<int64_t> shape, std::string_view name) {
  const auto count = static_cast<size_t>(*TensorType{DataType::f16, shape}.elements());
  return b.constant(f16_values(std::vector<float>(count, 0.5f), std::move(shape)), name);
}

TEST(Builder, WritesAnEncoderLayer) {
  for (const Opset opset : {Opset::core_ml6, Opset::core_ml7, Opset::core_ml8}) {
    FunctionBuilder b(opset);
    const int32_t hidden = 24, heads = 3, head = 8, tokens = 10;
    const Var x = b.input("hidden", {DataType::f16, {1, hidden, 1, tokens}});
    const Var mask = b.input("mask", {DataType::f16, {1, tokens, 1, 1}});
    const auto project = [&](Var in, int64_t out, int64_t width, std::string_view name) {
      return b.conv(in, weights(b, {out, width, 1, 1}, fmt::format("{}_weight", name)),
                    weights(b, {out}, fmt::format("{}_bias", name)), name);
    };
    const FunctionBuilder::Ints sizes(static_cast<size_t>(heads), head);
    const auto q = b.split(project(x, hidden, hidden, "query"), sizes, 1);
    const auto k = b.split(b.transpose(project(x, hidden, hidden, "key"), {0, 3, 2, 1}), sizes, 3);
    const auto v = b.split(project(x, hidden, hidden, "value"), sizes, 1);
    FunctionBuilder::Vars contexts;
    for (size_t i = 0; i < static_cast<size_t>(heads); ++i) {
      const Var scores = b.einsum("bchq,bkhc->bkhq", b.mul(q[i], 0.35f), k[i], "scores");
      EXPECT_EQ(expect_ok(b, scores), (TensorType{DataType::f16, {1, tokens, 1, tokens}}));
      const Var p = b.softmax(b.add(scores, mask), 1);
      contexts.push_back(b.einsum("bkhq,bchk->bchq", p, v[i], "context"));
    }
    Var out = b.add(project(b.concat(contexts, 1), hidden, hidden, "attention"), x);
    out =
        b.layer_norm(out, {1}, weights(b, {hidden}, "gamma"), weights(b, {hidden}, "beta"), 1e-5f);
    const Var inner = b.gelu(project(out, 4 * hidden, hidden, "up"));
    EXPECT_EQ(expect_ok(b, inner), (TensorType{DataType::f16, {1, 4 * hidden, 1, tokens}}));
    out = b.add(project(inner, hidden, 4 * hidden, "down"), out);
    b.output(out, "hidden_states");

    const Model model = model_of(b, opset);
    const auto valid = validate(model, Unknown::refuse, true);
    EXPECT_TRUE(valid.ok()) << valid.error().message;
    ASSERT_EQ(model.functions.front().outputs.size(), 1u);
    EXPECT_EQ(model.functions.front().outputs[0].name, "hidden_states");
    EXPECT_EQ(model.functions.front().outputs[0].type,
              (TensorType{DataType::f16, {1, hidden, 1, tokens}}));
  }
}

TEST(Builder, WritesOnlyTheEinsumsThatCoreMLRuns) {
  FunctionBuilder b(Opset::core_ml7);
  const Var q = b.input("q", {DataType::f16, {1, 8, 3, 10}});  // b c h q
  const Var k = b.input("k", {DataType::f16, {1, 12, 3, 8}});  // b k h c
  const Var scores = b.einsum("bchq,bkhc->bkhq", q, k);
  EXPECT_EQ(expect_ok(b, scores), (TensorType{DataType::f16, {1, 12, 3, 10}}));
  b.output(scores, "y");
  const Function function = *b.finish();
  const Operation& written = function.block()->operations.back();
  EXPECT_EQ(std::get<std::string>(written.inputs.at("values")[0]), "k") << "exchanged";
  const Operation& equation = function.block()->operations.front();
  EXPECT_EQ(*equation.attributes.at("val").as_string(), "bkhc,bchq->bkhq");

  for (const std::string_view bad : {"ab,bc->ac", "bchq,bkhc->bqhk", "abc", "ab->c,d", ",->", ""}) {
    FunctionBuilder other(Opset::core_ml7);
    const Var x = other.input("x", {DataType::f16, {1, 8, 3, 8}});
    EXPECT_FALSE(other.einsum(bad, x, x).ok()) << bad;
    EXPECT_TRUE(other.error()) << bad;
  }
}

TEST(Builder, IsDeterministicAndSharesSmallConstants) {
  const auto build = [] {
    FunctionBuilder b(Opset::core_ml7);
    const Var x = b.input("x", {DataType::f32, {2, 4}});
    Var y = b.softmax(x, -1);
    y = b.softmax(y, -1);
    y = b.add(b.mul(y, 2.0f), 2.0f);
    b.output(y, "y");
    return *b.finish();
  };
  const Function first = build(), second = build();
  std::vector<std::string> names, again;
  int constants = 0;
  for (const Operation& operation : first.block()->operations) {
    names.emplace_back(operation.name());
    constants += operation.type == "const" ? 1 : 0;
  }
  for (const Operation& operation : second.block()->operations) {
    again.emplace_back(operation.name());
  }
  EXPECT_EQ(names, again);
  EXPECT_EQ(constants, 2) << "one axis, one number";
  EXPECT_EQ(names.back(), "y");
}

TEST(Builder, FirstErrorSticks) {
  FunctionBuilder b(Opset::core_ml7);
  const Var x = b.input("x", {DataType::f16, {1, 8, 1, 4}});
  const Var bad = b.conv(x, weights(b, {8, 7, 1, 1}, "w"), {}, "projection");
  EXPECT_FALSE(bad.ok());
  const auto parts = b.split(bad, {4, 4}, 1);
  ASSERT_EQ(parts.size(), 2u) << "may be indexed all the same";
  b.output(b.add(parts[0], parts[1]), "y");
  const auto function = b.finish();
  ASSERT_FALSE(function.ok());
  EXPECT_NE(function.error().message.find("operation projection (conv)"), std::string::npos)
      << function.error().message;
  EXPECT_NE(function.error().message.find("fp16[8, 7, 1, 1]"), std::string::npos)
      << function.error().message;
}

TEST(Builder, RefusesWhatTheOpsetLacks) {
  FunctionBuilder five(Opset::core_ml5);
  const Var x = five.input("x", {DataType::f16, {4}});
  EXPECT_FALSE(five.quantize(x, Value::scalar(1.0f, DataType::f16), {}, DataType::i8).ok());
  EXPECT_TRUE(five.error());
  FunctionBuilder seven(Opset::core_ml7);
  EXPECT_FALSE(seven.state("s", {DataType::f16, {4}}).ok());
  FunctionBuilder none(Opset::core_ml7);
  EXPECT_FALSE(none.finish().ok()) << "no output";
  FunctionBuilder twice(Opset::core_ml7);
  twice.input("x", {DataType::f16, {4}});
  EXPECT_FALSE(twice.input("x", {DataType::f16, {4}}).ok());
  FunctionBuilder reserved(Opset::core_ml7);
  EXPECT_FALSE(reserved.input("tensor", {DataType::f16, {4}}).ok());
  FunctionBuilder squeezed(Opset::core_ml7);
  EXPECT_FALSE(squeezed.squeeze(squeezed.input("x", {DataType::f16, {4, 2}}), {1}).ok());
}

TEST(Builder, NamesAreMadeValidAndUnique) {
  FunctionBuilder b(Opset::core_ml7);
  const Var x = b.input("x", {DataType::f16, {4}});
  Var y = b.relu(x, "layer.0/relu");
  y = b.relu(y, "layer.0/relu");
  y = b.relu(y, "true");
  y = b.relu(y, "y");  // makes room for the output
  const Var last = b.relu(y, "last");
  b.output(last, "y");
  b.output(last, "z");  // copied
  b.output(x, "w");
  const Model model = model_of(b, Opset::core_ml7);
  const auto valid = validate(model, Unknown::refuse, true);
  ASSERT_TRUE(valid.ok()) << valid.error().message;
  const auto& operations = model.program.functions.at("main").block()->operations;
  EXPECT_EQ(operations[0].name(), "layer_0_relu");
  EXPECT_EQ(operations[1].name(), "layer_0_relu_0");
  EXPECT_EQ(operations[2].name(), "true_");
  EXPECT_EQ(operations[3].name(), "y_0");
  EXPECT_EQ(operations[4].name(), "y");
  EXPECT_EQ(operations[5].type, "identity");
}

TEST(Builder, WritesEachFormOfCompressedWeights) {
  const std::vector<std::byte> bytes(12);
  const auto raw = [&](DataType type, std::vector<int64_t> shape) {
    const auto size = static_cast<size_t>(*TensorType{type, shape}.bytes());
    return raw_values(type, shape, std::span(bytes).first(size));
  };
  const std::vector<float> floats(16, 0.25f);
  for (const Opset opset : {Opset::core_ml6, Opset::core_ml8}) {
    FunctionBuilder b(opset);
    const Var x = b.input("x", {DataType::f16, {1, 3, 1, 5}});
    const Var affine =
        b.affine_dequantize(raw(DataType::i8, {4, 3, 1, 1}), raw(DataType::i8, {4}),
                            f16_values(std::span(floats).first(4), {4}), 0, "affine");
    EXPECT_EQ(expect_ok(b, affine), (TensorType{DataType::f16, {4, 3, 1, 1}}));
    Var y = b.conv(x, affine);
    const std::vector<uint32_t> shape{4, 4, 1, 1};
    Var table;
    if (opset == Opset::core_ml6) {
      table = b.lut_to_dense(raw(DataType::u8, {8}), f16_values(floats, {16}), shape);
    } else {
      table = b.lut_to_dense_grouped(raw(DataType::u4, {4, 4, 1, 1}),
                                     f16_values(floats, {1, 1, 1, 1, 16, 1}));
      const Var scaled = b.blockwise_shift_scale(
          raw(DataType::i4, {4, 4, 1, 1}), f16_values(std::span(floats).first(4), {4, 1, 1, 1}),
          raw(DataType::i4, {4, 1, 1, 1}));
      y = b.conv(y, scaled);
    }
    EXPECT_EQ(expect_ok(b, table), (TensorType{DataType::f16, {4, 4, 1, 1}}));
    b.output(b.conv(y, table), "y");
    const Model model = model_of(b, opset);
    const auto valid = validate(model, Unknown::refuse, true);
    EXPECT_TRUE(valid.ok()) << valid.error().message;
    for (const Operation& operation : model.program.functions.at("main").block()->operations) {
      if (!operation.type.starts_with("constexpr_")) continue;
      const bool attributes =
          opset == Opset::core_ml6 || operation.type == "constexpr_affine_dequantize";
      EXPECT_EQ(operation.inputs.empty(), attributes) << operation.type;
    }
  }
}

TEST(Builder, WritesStatesAndQuantisation) {
  FunctionBuilder b(Opset::core_ml8);
  const Var x = b.input("x", {DataType::f16, {1, 2, 1, 4}});
  const Var state = b.state("cache", {DataType::f16, {1, 2, 8, 4}});
  Var cache = b.read_state(state);
  cache = b.slice_update(cache, x, {.begin = {0, 0, 3, 0}, .end = {1, 2, 4, 4}});
  EXPECT_EQ(expect_ok(b, cache), (TensorType{DataType::f16, {1, 2, 8, 4}}));
  b.write_state(state, cache);
  const Var eight = b.quantize(x, Value::scalar(0.1f, DataType::f16), {}, DataType::i8);
  EXPECT_EQ(expect_ok(b, eight).dtype, DataType::i8);
  const Var back = b.dequantize(eight, Value::scalar(0.1f, DataType::f16), {});
  EXPECT_EQ(expect_ok(b, back), (TensorType{DataType::f16, {1, 2, 1, 4}}));
  b.output(b.add(back, b.slice(cache, {0, 0, 2, 0}, {0, 0, 3, 0})), "y");
  const Model model = model_of(b, Opset::core_ml8);
  ASSERT_EQ(model.functions.front().states.size(), 1u);
  const auto valid = validate(model, Unknown::refuse, true);
  EXPECT_TRUE(valid.ok()) << valid.error().message;
}

}  // namespace
}  // namespace impetus::mil

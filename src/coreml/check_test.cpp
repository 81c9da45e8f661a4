#include "coreml/check.h"

#include <limits>
#include <random>

#include <gtest/gtest.h>

#include "base/json.h"
#include "coreml/check_test_util.h"
#include "coreml/graph.h"
#include "coreml/report.h"
#include "coreml/work.h"

namespace impetus::coreml {
namespace {

const Chip& chip(std::string_view name = "m4") {
  return *find_chip(name);
}

CheckReport checked(const mil::Model& model, std::string_view name = "m4") {
  auto report = check(model, chip(name));
  EXPECT_TRUE(report.ok()) << report.error().message;
  return std::move(*report);
}

// An encoder's feed-forward: two convolutions and a gelu.
mil::Model feed_forward(int64_t tokens, int64_t hidden, int64_t wide) {
  const TensorType narrow = f16({1, hidden, 1, tokens}), broad = f16({1, wide, 1, tokens});
  return Draft(narrow)
      .convolution("up", narrow, wide)
      .operation("gelu", "act", broad, "up")
      .convolution("down", broad, hidden, "act")
      .operation("add", "sum", narrow, {{"x", {"x"}}, {"y", {"down"}}})
      .model();
}

TEST(Padding, AgreesWithTheBriefsExamples) {
  EXPECT_DOUBLE_EQ(blow_up(f16({1, 128, 1, 1})), 32);
  EXPECT_DOUBLE_EQ(blow_up({DataType::i8, {1, 128, 1, 1}}), 64);
  EXPECT_DOUBLE_EQ(blow_up(f16({1, 384, 1, 32})), 1);
  EXPECT_EQ(padded_bytes(f16({1, 384, 1, 33})), 384 * 128);
  EXPECT_EQ(padded_bytes({DataType::f32, {}}), 64);
  EXPECT_EQ(padded_bytes(f16({1, mil::kUnknown})), 0);
  EXPECT_DOUBLE_EQ(blow_up(f16({0, 3})), 1);
}

TEST(Padding, IsTheFormulaForRandomShapes) {
  std::mt19937 random(7);
  for (int i = 0; i < 500; ++i) {
    TensorType type{i % 3 == 0 ? DataType::f16 : i % 3 == 1 ? DataType::i8 : DataType::f32, {}};
    const int rank = 1 + static_cast<int>(random() % 5);
    for (int d = 0; d < rank; ++d) type.shape.push_back(1 + static_cast<int64_t>(random() % 70));
    int64_t rows = 1;
    for (int d = 0; d + 1 < rank; ++d) rows *= type.shape[static_cast<size_t>(d)];
    const int64_t row = type.shape.back() * mil::bits_of(type.dtype) / 8;
    EXPECT_EQ(padded_bytes(type), rows * ((row + 63) / 64) * 64) << type.to_string();
    EXPECT_GE(padded_bytes(type), bytes_of(type));
  }
}

TEST(Check, AProgramInTheEnginesFormStaysOnIt) {
  const CheckReport report = checked(feed_forward(128, 384, 1536));
  EXPECT_FALSE(report.has_errors());
  ASSERT_EQ(report.functions.size(), 1u);
  const FunctionReport& main = report.functions[0];
  EXPECT_EQ(main.operations, 4);
  EXPECT_EQ(main.engine, 4);
  EXPECT_EQ(main.segments, 1);
  EXPECT_EQ(main.residency, 1);
  EXPECT_EQ(main.flops_residency, 1);
  const int64_t weights = 2 * 384 * 1536;
  EXPECT_EQ(main.flops, 2 * weights * 128 + 1536 * 128 + 384 * 128);
  // Equal bytes of another shape are one blob.
  EXPECT_EQ(main.weight_bytes, weights);
  EXPECT_EQ(report.operations[0].weight_bytes, weights);
}

TEST(Check, SaysWhereEachOperationRunsAndWhy) {
  const TensorType plain = f16({1, 64, 1, 64});
  const CheckReport report = checked(Draft(plain)
                                         .operation("relu", "a", plain)
                                         .operation("cumsum", "b", plain, "a")
                                         .operation("cast", "c", {DataType::f32, plain.shape}, "b")
                                         .operation("exp", "d", {DataType::f32, plain.shape}, "c")
                                         .operation("cast", "e", plain, "d")
                                         .operation("relu", "f", plain, "e")
                                         .model());
  ASSERT_EQ(report.operations.size(), 6u);
  const auto unit = [&](size_t i) { return report.operations[i].unit; };
  EXPECT_EQ(unit(0), Unit::neural_engine);
  EXPECT_TRUE(report.operations[0].reason.empty());
  EXPECT_EQ(unit(1), Unit::cpu);
  EXPECT_EQ(report.operations[1].reason, "D8: cumsum does not run on the engine");
  EXPECT_EQ(unit(2), Unit::neural_engine);
  EXPECT_EQ(unit(3), Unit::gpu);
  EXPECT_TRUE(report.operations[3].reason.starts_with("D1: "));
  const FunctionReport& main = report.functions[0];
  EXPECT_EQ(main.segments, 5);  // engine, CPU, engine, GPU, engine
  EXPECT_EQ(main.cpu + main.gpu, 2);
  EXPECT_NEAR(main.residency, 4.0 / 6, 1e-9);
  EXPECT_EQ(findings_of(report, "B1").size(), 1u);
  EXPECT_GT(main.transfer_bytes, 0);
}

TEST(Check, WhatComesOfConstantsAloneIsFolded) {
  const TensorType plain = f16({1, 64, 1, 64});
  const CheckReport report =
      checked(Draft(plain)
                  .constant("c", filled(plain, 1))
                  .operation("cumsum", "folded", plain, "c")
                  .operation("add", "y", plain, {{"x", {"x"}}, {"y", {"folded"}}})
                  .operation("relu", "z", plain, "y")
                  .operation("relu", "q", plain, "z")
                  .model());
  EXPECT_EQ(report.operations[0].unit, Unit::constant);
  EXPECT_EQ(report.functions[0].operations, 3);
  EXPECT_EQ(report.functions[0].constants, 2);
  EXPECT_TRUE(findings_of(report, "D8").empty());
}

TEST(Check, UnknownOperationsAreAssumedOnTheCpu) {
  const CheckReport report =
      checked(Draft(f16({1, 64, 1, 64})).operation("teleport", "y", f16({1, 64, 1, 64})).model());
  EXPECT_EQ(report.operations[0].unit, Unit::cpu);
  EXPECT_EQ(report.operations[0].reason, "D9: teleport is unknown: assumed CPU");
  EXPECT_FALSE(report.has_errors());
}

TEST(Check, WaiversCoverRulesAndNames) {
  mil::Model model = Draft(f16({1, 64, 1, 64}))
                         .operation("cumsum", "one", f16({1, 64, 1, 64}))
                         .operation("cumsum", "two", f16({1, 64, 1, 64}), "one")
                         .operation("relu", "three", f16({1, 64, 1, 64}), "two")
                         .model();
  EXPECT_TRUE(checked(model).has_errors());
  const auto waive = [&](const char* json) {
    model.metadata.user[kWaiversKey] = json;
    return checked(model);
  };
  const CheckReport all = waive(R"({"D8": "measured"})");
  EXPECT_FALSE(all.has_errors());
  EXPECT_EQ(findings_of(all, "D8").size(), 2u);
  EXPECT_EQ(findings_of(all, "D8")[0].waiver, "measured");
  EXPECT_TRUE(waive(R"({"D8:one": "measured"})").has_errors());
  EXPECT_FALSE(waive(R"({"D8:one": "a", "D8:two": "b"})").has_errors());
  EXPECT_FALSE(waive(R"({"D8:t*": "a", "D8:o*": "b"})").has_errors());
  EXPECT_TRUE(waive(R"({"D9": "another rule"})").has_errors());
  for (const char* broken :
       {"", "[]", "{", R"({"D8": ""})", R"({"D8": 1})", R"({"D8":"a","D8":"b"})"}) {
    const CheckReport report = waive(broken);
    EXPECT_TRUE(report.has_errors()) << broken;
    EXPECT_EQ(findings_of(report, "waivers").size(), 1u) << broken;
  }
}

TEST(Check, PeakIsWhatIsAliveAtOnce) {
  const TensorType plain = f16({1, 64, 1, 64});  // 8192 bytes
  // x and a; a and b; ...: two at a time.
  EXPECT_EQ(checked(Draft(plain)
                        .operation("relu", "a", plain)
                        .operation("relu", "b", plain, "a")
                        .operation("relu", "c", plain, "b")
                        .model())
                .functions[0]
                .activation_peak_bytes,
            2 * 8192);
  // x stays for the end.
  EXPECT_EQ(checked(Draft(plain)
                        .operation("relu", "a", plain)
                        .operation("relu", "b", plain, "a")
                        .operation("add", "c", plain, {{"x", {"x"}}, {"y", {"b"}}})
                        .model())
                .functions[0]
                .activation_peak_bytes,
            3 * 8192);
}

TEST(Check, SharedWeightsCountOnce) {
  const TensorType x = f16({1, 64, 1, 64});
  const Value weight = filled(f16({64, 64, 1, 1}), 0.5f);
  mil::Model model;
  for (const char* name : {"encode_16", "encode_32"}) {
    Draft draft(x);
    draft.constant("w", weight).operation("conv", "y", x, {{"x", {"x"}}, {"weight", {"w"}}});
    model.program.functions[name] = draft.model().program.functions["main"];
  }
  const CheckReport report = checked(model);
  EXPECT_EQ(report.functions.size(), 2u);
  EXPECT_EQ(report.weight_bytes, 2 * 64 * 64);
  EXPECT_EQ(report.memory_bytes, report.weight_bytes + 2 * 8192);
}

// Chips that unpack 8-bit weights read and hold fp16.
TEST(Check, PackedWeightsCountAsTheChipStreamsThem) {
  const TensorType x = f16({1, 512, 1, 32});
  const mil::Model model = Draft(x)
                               .constant("data", filled({DataType::i8, {512, 512, 1, 1}}, 0))
                               .operation("constexpr_affine_dequantize", "w", f16({512, 512, 1, 1}),
                                          {{"quantized_data", {"data"}},
                                           {"scale", {Value::scalar(1.0f, DataType::f16)}}})
                               .operation("conv", "y", x, {{"x", {"x"}}, {"weight", {"w"}}})
                               .operation("relu", "z", x, "y")
                               .operation("relu", "q", x, "z")
                               .model();
  const CheckReport m1 = checked(model, "m1"), m2 = checked(model, "m2");
  EXPECT_EQ(m1.weight_bytes, 512 * 512);
  EXPECT_EQ(m1.memory_bytes - m2.memory_bytes, 512 * 512);
  EXPECT_NEAR(m1.operations[1].seconds / m2.operations[1].seconds, 2, 1e-6);
}

// Weights are no activations: nothing pads them, however they are packed.
TEST(Check, PackedWeightsAreNeverSlowerThanPlainOnes) {
  const TensorType x = f16({1, 768, 1, 128}), y = f16({1, 3072, 1, 128});
  const TensorType weight = f16({3072, 768, 1, 1});
  const mil::Model plain = Draft(x).convolution("y", x, 3072).model();
  const mil::Model packed =
      Draft(x)
          .constant("data", filled({DataType::i8, weight.shape}, 0))
          .operation("constexpr_affine_dequantize", "w", weight, {{"quantized_data", {"data"}}})
          .operation("conv", "y", y, {{"x", {"x"}}, {"weight", {"w"}}})
          .model();
  for (const Chip& one : chips()) {
    EXPECT_LE(checked(packed, one.name).functions[0].seconds,
              checked(plain, one.name).functions[0].seconds)
        << one.name;
  }
}

TEST(Check, MoreWorkIsNeverFaster) {
  std::mt19937 random(11);
  for (const Chip& one : chips()) {
    for (int i = 0; i < 10; ++i) {
      const int64_t tokens = 16 << (random() % 6), hidden = 64 * (1 + random() % 8);
      const auto seconds = [&](int64_t t, int64_t h, int64_t w) {
        return checked(feed_forward(t, h, w), one.name).functions[0].seconds;
      };
      const int64_t wide = 4 * hidden;
      const double base = seconds(tokens, hidden, wide);
      EXPECT_GE(base, one.launch_seconds);
      EXPECT_GE(seconds(tokens * 2, hidden, wide), base);
      EXPECT_GE(seconds(tokens, hidden + 64, wide), base) << hidden;
    }
  }
}

TEST(Check, LeavingTheEngineIsNeverFaster) {
  const TensorType x = f16({1, 384, 1, 128});
  for (const Chip& one : chips()) {
    double last = 0;
    for (int islands = 0; islands < 4; ++islands) {
      Draft draft(x);
      std::string from = "x";
      for (int i = 0; i < 4; ++i) {
        const std::string name = "y" + std::to_string(i);
        draft.convolution(name, x, 384, from);
        from = name + "_act";
        draft.operation(i < islands ? "cumsum" : "relu", from, x, name);
      }
      const double seconds = checked(draft.model(), one.name).functions[0].seconds;
      EXPECT_GT(seconds, last) << one.name << ", " << islands;
      last = seconds;
    }
  }
}

TEST(Check, ThePastWorkingSetRunsSlower) {
  const auto rate = [&](int64_t tokens) {
    const TensorType x = f16({1, 2048, 1, tokens});
    const CheckReport report = checked(Draft(x)
                                           .convolution("a", x, 2048)
                                           .convolution("b", x, 2048, "a")
                                           .convolution("c", x, 2048, "b")
                                           .model());
    return static_cast<double>(report.operations[0].flops) / report.operations[0].seconds;
  };
  EXPECT_NEAR(rate(4096) / rate(1024), kCliffShare, 0.05);
}

TEST(Check, ProgramsThatContradictThemselvesAreErrors) {
  const TensorType x = f16({1, 64, 1, 64});
  const auto message = [](const mil::Model& model) {
    const auto report = check(model, chip());
    return report.ok() ? std::string("no error") : report.error().message;
  };
  EXPECT_EQ(message(Draft(x).operation("relu", "y", x, "nothing").model()),
            "function main: operation y (relu) reads nothing before it is defined");
  EXPECT_EQ(message(Draft(x).operation("relu", "x", x).model()),
            "function main: x is defined twice");
  mil::Model outputless = Draft(x).operation("relu", "y", x).model();
  outputless.program.functions["main"].blocks["CoreML8"].outputs = {"z"};
  EXPECT_EQ(message(outputless), "function main: the output z is made by no operation");
  outputless.program.functions["main"].opset = "CoreML99";
  EXPECT_EQ(message(outputless), "function main has no block for its operation set 'CoreML99'");
  // Blocks in blocks in blocks.
  mil::Block nested;
  for (int i = 0; i < 40; ++i) {
    mil::Operation holder;
    holder.type = "cond";
    holder.outputs = {{"y" + std::to_string(i), {.tensor = x}}};
    holder.blocks.push_back(std::move(nested));
    nested = {};
    nested.operations.push_back(std::move(holder));
  }
  Draft deep(x);
  deep.block() = std::move(nested);
  EXPECT_EQ(message(deep.model()), "function main: blocks are nested deeper than 32");
}

TEST(Check, NestedBlocksRunWhereTheirHolderDoes) {
  const TensorType x = f16({1, 64, 1, 64});
  Draft draft(x);
  draft.operation("cond", "y", x, {{"pred", {"x"}}});
  mil::Operation inner;
  inner.type = "relu";
  inner.inputs["x"] = {std::string("x")};
  inner.outputs = {{"inside", {.tensor = x}}};
  mil::Block block;
  block.operations.push_back(inner);
  block.outputs = {"inside"};
  draft.block().operations.back().blocks = {block, block};  // the same name in both branches
  draft.operation("relu", "z", x, "y");
  const CheckReport report = checked(draft.model());
  ASSERT_EQ(report.operations.size(), 4u);
  EXPECT_EQ(report.operations[1].name, "inside");
  EXPECT_EQ(report.operations[1].unit, Unit::cpu);
  EXPECT_EQ(report.operations[3].unit, Unit::neural_engine);
}

TEST(Check, SurvivesAnythingThatParses) {
  constexpr int64_t huge = std::numeric_limits<int64_t>::max();
  const std::vector<TensorType> shapes = {f16({huge, huge, huge, huge}),
                                          f16({huge}),
                                          f16({-huge, 5}),
                                          f16({0, 0, 0}),
                                          {DataType::string, {huge}},
                                          {DataType::u3, {huge, 2}},
                                          {DataType::f32, {}}};
  const std::vector<std::string> types = {"conv",
                                          "linear",
                                          "matmul",
                                          "einsum",
                                          "softmax",
                                          "layer_norm",
                                          "conv_transpose",
                                          "slice_by_index",
                                          "max_pool",
                                          "square",
                                          "exp",
                                          "add",
                                          "mul",
                                          "pow",
                                          "clip",
                                          "cast",
                                          "scaled_dot_product_attention",
                                          "constexpr_lut_to_dense",
                                          "constexpr_blockwise_shift_scale",
                                          "constexpr_affine_dequantize",
                                          "select",
                                          "greater",
                                          "reduce_mean",
                                          "quantize",
                                          "const",
                                          "cond",
                                          "read_state",
                                          "",
                                          "gather"};
  std::mt19937 random(3);
  for (int round = 0; round < 400; ++round) {
    Draft draft;
    std::vector<std::string> names;
    const auto type = [&] { return shapes[random() % shapes.size()]; };
    for (int i = 0; i < 2; ++i) {
      names.push_back("in" + std::to_string(i));
      draft.input(names.back(), type());
    }
    for (int i = 0; i < 12; ++i) {
      mil::Operation operation;
      operation.type = types[random() % types.size()];
      for (const char* parameter :
           {"x", "y", "weight", "begin", "strides", "kernel_sizes", "scale", "epsilon", "values",
            "equation", "query", "key", "alpha", "beta", "lut", "transpose_x", "begin_mask"}) {
        if (random() % 3 == 0) continue;
        switch (random() % 5) {
          case 0:
            operation.inputs[parameter] = {claimed(type())};
            break;
          case 1:
            operation.inputs[parameter] = {Value::ints(std::vector<int32_t>{-1, 0, 1 << 30})};
            break;
          case 2:
            operation.inputs[parameter] = {Value::scalar(std::string("ab,->->,-c"))};
            break;
          default:
            operation.inputs[parameter] = {names[random() % names.size()],
                                           names[random() % names.size()]};
        }
      }
      if (random() % 8 != 0) {
        names.push_back("t" + std::to_string(i));
        operation.outputs = {{names.back(), {.tensor = type()}}};
      }
      if (random() % 4 == 0) operation.attributes["val"] = claimed(type());
      draft.block().operations.push_back(std::move(operation));
    }
    draft.block().outputs = {names.back()};
    for (const Chip& one : chips()) {
      const auto report = check(draft.model(), one, huge);
      ASSERT_TRUE(report.ok()) << report.error().message;
      for (const FunctionReport& function : report->functions) {
        EXPECT_GE(function.seconds, 0);
        EXPECT_GE(function.flops, 0);
        EXPECT_GE(function.activation_peak_bytes, 0);
      }
      EXPECT_FALSE(json::serialize(to_json(*report)).empty());
    }
  }
}

TEST(Check, TheJsonHasEachFinding) {
  const CheckReport report =
      checked(Draft(f16({1, 64, 1, 1})).operation("cumsum", "y", f16({1, 64, 1, 1})).model());
  const json::object object = to_json(report);
  EXPECT_EQ(object.at("chip").as_string(), "m4");
  EXPECT_EQ(object.at("findings").as_array().size(), report.findings.size());
  EXPECT_EQ(object.at("errors").as_int64(), 1);
  EXPECT_EQ(object.at("operations").as_array().size(), 1u);
  const json::object& operation = object.at("operations").as_array()[0].as_object();
  EXPECT_EQ(operation.at("unit").as_string(), "cpu");
}

}  // namespace
}  // namespace impetus::coreml

// Each rule fires on a minimal bad program and is silent on its repaired twin.
#include "coreml/rules.h"

#include <cmath>
#include <cstring>
#include <fstream>
#include <functional>
#include <limits>
#include <set>
#include <sstream>

#include <gtest/gtest.h>

#include "coreml/check_test_util.h"

namespace impetus::coreml {
namespace {

const TensorType kPlain = f16({1, 64, 1, 64});

struct Pair {
  std::string rule, name;
  std::function<mil::Model()> bad, good;
  std::string chip = "m1";
  int64_t bad_bytes = 0, good_bytes = 0;
  std::vector<mil::TensorRange> bad_ranges = {}, good_ranges = {};
  std::string good_chip = "";  // where the chip is the repair
};

mil::Model unary(const std::string& type, const TensorType& x, const TensorType& result) {
  return Draft(x).operation(type, "y", result).model();
}

// An operation on an input of a shape.
std::function<mil::Model()> shaped(const TensorType& type) {
  return [type] { return unary("relu", type, type); };
}

std::function<mil::Model()> of(const std::string& type, const TensorType& x = kPlain) {
  return [=] { return unary(type, x, x); };
}

mil::Model vocabulary(int64_t outputs) {
  return Draft(f16({1, 64, 1, 64}))
      .constant("w", claimed(f16({outputs, 64, 1, 1})))
      .operation("conv", "y", f16({1, std::min<int64_t>(outputs, 64), 1, 64}),
                 {{"x", {"x"}}, {"weight", {"w"}}})
      .model();
}

mil::Model palettised(int32_t stride) {
  return Draft(kPlain)
      .operation("constexpr_lut_to_dense", "w", f16({64, 64, 1, 1}),
                 {{
                      "indices",
                      {claimed({DataType::u4, {64, 64, 1, 1}})},
                  },
                  {"lut", {claimed(f16({16}))}}})
      .operation("conv", "y", kPlain,
                 {{"x", {"x"}},
                  {"weight", {"w"}},
                  {"strides", {Value::ints(std::vector<int32_t>{stride, stride})}}})
      .model();
}

mil::Model conv(int64_t width, int32_t stride) {
  return Draft(kPlain).convolution("y", kPlain, 64, "x", width, stride).model();
}

mil::Model pool(int32_t kernel, int32_t stride) {
  return Draft(kPlain)
      .operation("max_pool", "y", kPlain,
                 {{"x", {"x"}},
                  {"kernel_sizes", {Value::ints(std::vector<int32_t>{1, kernel})}},
                  {"strides", {Value::ints(std::vector<int32_t>{1, stride})}}})
      .model();
}

mil::Model compared(const std::string& reader) {
  Draft draft(kPlain);
  draft.operation("greater", "bool", {DataType::boolean, kPlain.shape},
                  {{"x", {"x"}}, {"y", {Value::scalar(0.0f, DataType::f16)}}});
  if (reader == "select") {
    draft.operation("select", "y", kPlain, {{"cond", {"bool"}}, {"a", {"x"}}, {"b", {"x"}}});
  } else {
    draft.operation(reader, "y", kPlain, {{"x", {"bool"}}});
  }
  return draft.model();
}

mil::Model slice(std::vector<int32_t> begin, bool masked = false) {
  return Draft(kPlain)
      .operation("slice_by_index", "y", f16({1, 64, 1, 32}),
                 {{"x", {"x"}},
                  {"begin", {Value::ints(begin)}},
                  {"begin_mask", {Value::bools({false, false, false, masked})}}})
      .model();
}

mil::Model payload(int64_t inputs) {
  return Draft(f16({1, inputs, 1, 64}))
      .constant("w", claimed(f16({2048, inputs, 1, 1})))
      .operation("conv", "y", f16({1, 2048, 1, 64}), {{"x", {"x"}}, {"weight", {"w"}}})
      .model();
}

mil::Model added(float number, DataType type = DataType::f16) {
  return Draft(kPlain)
      .constant("mask", Value::scalar(number, type))
      .operation("add", "y", kPlain, {{"x", {"x"}}, {"y", {"mask"}}})
      .model();
}

mil::Model norm(float epsilon) {
  return Draft(kPlain)
      .operation("layer_norm", "y", kPlain,
                 {{"x", {"x"}}, {"epsilon", {Value::scalar(epsilon, DataType::f16)}}})
      .model();
}

mil::Model root(float epsilon) {
  return Draft(kPlain)
      .operation("add", "sum", kPlain,
                 {{"x", {"x"}}, {"y", {Value::scalar(epsilon, DataType::f16)}}})
      .operation("rsqrt", "y", kPlain,
                 {{"x", {"sum"}}, {"epsilon", {Value::scalar(1e-5f, DataType::f16)}}})
      .model();
}

mil::Model variance(bool normalised) {
  Draft draft(kPlain);
  if (normalised) draft.operation("layer_norm", "n", kPlain);
  return draft.operation("square", "s", kPlain, normalised ? "n" : "x")
      .operation("reduce_mean", "y", f16({1, 1, 1, 64}), "s")
      .model();
}

mil::Model exponent(bool subtracted) {
  Draft draft(kPlain);
  if (subtracted) {
    draft.operation("reduce_max", "most", f16({1, 1, 1, 64}))
        .operation("sub", "below", kPlain, {{"x", {"x"}}, {"y", {"most"}}});
  }
  return draft.operation("exp", "y", kPlain, subtracted ? "below" : "x").model();
}

mil::Model softplus(bool clipped) {
  Draft draft(kPlain);
  if (clipped) {
    draft.operation("clip", "c", kPlain,
                    {{"x", {"x"}},
                     {"alpha", {Value::scalar(-11.0f, DataType::f16)}},
                     {"beta", {Value::scalar(11.0f, DataType::f16)}}});
  }
  return draft.operation("softplus", "y", kPlain, clipped ? "c" : "x").model();
}

mil::Model chain(int length) {
  Draft draft(kPlain);
  std::string last = "x";
  for (int i = 0; i < length; ++i) {
    draft.operation("relu", "y" + std::to_string(i), kPlain, last);
    last = "y" + std::to_string(i);
  }
  return draft.model();
}

mil::Model matmul(int64_t inner) {
  return Draft(f16({1, 8, 64, inner}))
      .input("k", f16({1, 8, inner, 64}))
      .operation("matmul", "y", f16({1, 8, 64, 64}), {{"x", {"x"}}, {"y", {"k"}}})
      .model();
}

mil::Model einsum(int64_t inner) {
  return Draft(f16({1, inner, 1, 64}))
      .input("k", f16({1, 64, 1, inner}))
      .operation(
          "einsum", "y", f16({1, 64, 1, 64}),
          {{"values", {"x", "k"}}, {"equation", {Value::scalar(std::string("bchq,bkhc->bkhq"))}}})
      .model();
}

mil::Model island(bool whole) {
  return Draft(kPlain)
      .operation("relu", "a", kPlain)
      .operation(whole ? "sigmoid" : "cumsum", "b", kPlain, "a")
      .operation("relu", "y", kPlain, "b")
      .model();
}

mil::Model features(std::vector<std::vector<int64_t>> shapes,
                    std::vector<std::pair<int64_t, int64_t>> ranges) {
  mil::Model model = chain(3);
  model.functions[0].inputs[0].enumerated = std::move(shapes);
  model.functions[0].inputs[0].ranges = std::move(ranges);
  return model;
}

mil::Model state(int64_t dim) {
  return Draft(kPlain)
      .input("cache", f16({6, 4, 128, dim}), mil::ValueType::Kind::state)
      .operation("read_state", "y", f16({6, 4, 128, dim}), {{"input", {"cache"}}})
      .model();
}

mil::Model blocks(int64_t scales) {
  return Draft(kPlain)
      .operation("constexpr_blockwise_shift_scale", "w", f16({64, 64, 1, 1}),
                 {{"data", {claimed({DataType::i4, {64, 64, 1, 1}})}},
                  {"scale", {claimed(f16({64, scales, 1, 1}))}}})
      .operation("conv", "y", kPlain, {{"x", {"x"}}, {"weight", {"w"}}})
      .model();
}

mil::Model with_constant(Value value) {
  return Draft(kPlain)
      .constant("c", std::move(value))
      .operation("mul", "y", kPlain, {{"x", {"x"}}, {"y", {"c"}}})
      .model();
}

std::vector<Pair> pairs() {
  const float infinity = std::numeric_limits<float>::infinity();
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const TensorType single{DataType::f32, kPlain.shape}, bfloat{DataType::bf16, kPlain.shape};
  const TensorType integer{DataType::i32, kPlain.shape};
  std::vector<Pair> all = {
      {"D1", "fp32", of("relu", single), of("relu")},
      {"D1", "bf16", of("relu", bfloat), of("relu")},
      {"D1", "int32", of("relu", integer), of("relu", {DataType::i16, kPlain.shape})},
      {"D1", "a bool that is reshaped", of("reshape", {DataType::boolean, kPlain.shape}),
       of("reshape")},
      {"D1", "a cast that stays fp32", of("cast", single),
       [=] { return unary("cast", kPlain, kPlain); }},
      {"D2", "rank 5", shaped(f16({2, 2, 2, 2, 32})), shaped(f16({4, 2, 2, 32}))},
      {"D2", "rank 6", shaped(f16({2, 2, 2, 2, 2, 32})), shaped(f16({8, 2, 2, 32}))},
      {"D3", "width", shaped(f16({1, 1, 1, 16385})), shaped(f16({1, 1, 1, 16384}))},
      {"D3", "height", shaped(f16({1, 1, 16385, 32})), shaped(f16({1, 1, 16384, 32}))},
      {"D3", "channels", shaped(f16({1, 65537, 1, 32})), shaped(f16({1, 65536, 1, 32}))},
      {"D3", "contraction", [] { return matmul(16416); }, [] { return matmul(16384); }},
      {"D4", "last axis 1", shaped(f16({1, 128, 1, 1})), shaped(f16({1, 1, 1, 128}))},
      {"D4", "last axis 15", shaped(f16({1, 1, 1, 15})), shaped(f16({1, 1, 1, 16}))},
      {"D5", "stride", [] { return conv(1, 5); }, [] { return conv(1, 6); }},
      {"D5", "palettised stride", [] { return palettised(3); }, [] { return palettised(2); }},
      {"D5", "kernel", [] { return conv(14, 1); }, [] { return conv(13, 1); }},
      {"D6", "kernel", [] { return pool(14, 2); }, [] { return pool(13, 2); }},
      {"D6", "stride", [] { return pool(2, 3); }, [] { return pool(2, 2); }},
      {"D7", "vocabulary", [] { return vocabulary(65537); }, [] { return vocabulary(65536); }},
      {"D8", "cast to int32", [=] { return unary("cast", kPlain, integer); },
       [=] { return unary("cast", kPlain, single); }},
      {"D9", "unknown", of("quantum_entangle"), of("relu")},
      {"D9", "comparison", [] { return compared("cast"); }, [] { return compared("select"); }},
      {"D10", "begin", [] { return slice({0, 0, 0, 32}); }, [] { return slice({0, 32, 0, 0}); }},
      {"D10", "mask", [] { return slice({0, 0, 0, 32}); },
       [] { return slice({0, 0, 0, 32}, true); }},
      {"D11", "1 MiB", [] { return payload(4096); }, [] { return payload(4096 - 128); }},
      {"D11", "2 MiB less 16 KiB", [] { return payload(8192 - 64); },
       [] { return payload(8192 - 65); }},
      {"D12", "-inf", [=] { return added(-infinity); }, [] { return added(-1e4f); }},
      {"D12", "-1e9 in fp32", [] { return added(-1e9f, DataType::f32); },
       [] { return added(-65504.0f, DataType::f32); }},
      {"D12", "in a table", [=] { return with_constant(filled(f16({64, 1, 1}), -infinity)); },
       [=] { return with_constant(filled(f16({64, 1, 1}), -40000)); }},
      {"D13", "norm", [] { return norm(1e-12f); }, [] { return norm(1e-5f); }},
      {"D13", "sum", [] { return root(1e-12f); }, [] { return root(1e-5f); }},
      {"D14", "variance", [] { return variance(false); }, [] { return variance(true); }},
      {"D14", "exp", [] { return exponent(false); }, [] { return exponent(true); }},
      {"D14", "softplus", [] { return softplus(false); }, [] { return softplus(true); }},
      {"D14",
       "measured norm",
       [] { return norm(1e-5f); },
       [] { return norm(1e-5f); },
       "m1",
       0,
       0,
       {{"x", "", 300}},
       {{"x", "", 200}}},
      {"D14",
       "measured result",
       of("relu"),
       of("relu"),
       "m1",
       0,
       0,
       {{"y", "", 7e4f}},
       {{"y", "", 6e4f}}},
      {"D14",
       "measured exp",
       [] { return exponent(true); },
       [] { return exponent(false); },
       "m1",
       0,
       0,
       {{"below", "", 12}},
       {{"x", "", 10}}},
      {"D15", "scalar", [=] { return added(nan); }, [] { return added(1); }},
      {"D15", "table of fp32", [=] { return with_constant(filled({DataType::f32, {64}}, nan)); },
       [=] { return with_constant(filled({DataType::f32, {64}}, infinity)); }},
      {"D15", "scale of weights",
       [=] {
         return Draft(kPlain)
             .operation("constexpr_affine_dequantize", "w", f16({64, 64, 1, 1}),
                        {{"scale", {Value::scalar(nan, DataType::f16)}}})
             .operation("conv", "y", kPlain, {{"x", {"x"}}, {"weight", {"w"}}})
             .model();
       },
       [] { return blocks(1); }},
      {"D16", "size", [] { return chain(3); }, [] { return chain(3); }, "m1", 1'000'000'001,
       1'000'000'000},
      {"D17", "length", [] { return chain(2); }, [] { return chain(3); }},
      {"D18", "matmul", [] { return matmul(48); }, [] { return matmul(64); }},
      {"D18", "einsum", [] { return einsum(48); }, [] { return einsum(64); }},
      {"B1", "island", [] { return island(false); }, [] { return island(true); }},
      {"C1", "open", shaped(f16({1, 64, 1, mil::kUnknown})), shaped(kPlain)},
      {"C1", "enumerated", [] { return features({{1, 64, 1, 64}, {1, 64, 1, 128}}, {}); },
       [] { return features({{1, 64, 1, 64}}, {}); }},
      {"C1", "range", [] { return features({}, {{1, 1}, {64, 64}, {1, 1}, {1, 512}}); },
       [] { return features({}, {{1, 1}, {64, 64}, {1, 1}, {64, 64}}); }},
      {"C2", "attention", of("scaled_dot_product_attention"), of("softmax")},
      {"C3", "state", [] { return state(48); }, [] { return state(64); }},
      {"E1", "blocks", [] { return blocks(2); }, [] { return blocks(1); }},
  };
  // Every type that D8 names.
  for (const char* type : {"gather",        "gather_nd",   "gather_along_axis",
                           "scatter",       "scatter_nd",  "cumsum",
                           "topk",          "argsort",     "reduce_argmax",
                           "reduce_argmin", "reduce_prod", "one_hot",
                           "non_zero",      "shape",       "band_part",
                           "logical_and",   "logical_not", "mod",
                           "cond",          "while_loop",  "lstm",
                           "gru",           "rnn",         "random_uniform",
                           "random_normal", "acos",        "asin",
                           "sinh",          "cosh"}) {
    all.push_back({"D8", type, of(type), of("relu")});
  }
  // What the chip repairs.
  const auto by_chip = [&](const char* rule, const char* name, std::function<mil::Model()> model,
                           const char* bad, const char* good) {
    Pair pair{rule, name, model, model, bad};
    pair.good_chip = good;
    all.push_back(std::move(pair));
  };
  by_chip("D3", "width by chip", shaped(f16({1, 1, 1, 65536})), "m3", "m4");
  by_chip("D5", "kernel by chip", [] { return conv(15, 1); }, "m1", "m5");
  by_chip("D9", "sine by chip", of("sin"), "m2", "m3");
  by_chip("D9", "cosine by chip", of("cos"), "m1", "m5");
  by_chip("D10", "slices by chip", [] { return slice({0, 0, 0, 32}); }, "m2", "m4");
  return all;
}

TEST(Rules, EachFiresOnABadProgramAndIsSilentOnItsRepairedTwin) {
  for (const Pair& pair : pairs()) {
    SCOPED_TRACE(pair.rule + ", " + pair.name);
    const Chip* chip = find_chip(pair.chip);
    const Chip* other = pair.good_chip.empty() ? chip : find_chip(pair.good_chip);
    ASSERT_NE(chip, nullptr);
    ASSERT_NE(other, nullptr);
    const auto bad = check(pair.bad(), *chip, pair.bad_bytes, pair.bad_ranges);
    ASSERT_TRUE(bad.ok()) << bad.error().message;
    const auto fired = findings_of(*bad, pair.rule);
    ASSERT_FALSE(fired.empty());
    for (const Finding& finding : fired) {
      EXPECT_FALSE(finding.message.empty());
      EXPECT_FALSE(finding.mend.empty());
      EXPECT_EQ(finding.waiver, "");
    }
    const auto good = check(pair.good(), *other, pair.good_bytes, pair.good_ranges);
    ASSERT_TRUE(good.ok()) << good.error().message;
    for (const Finding& finding : findings_of(*good, pair.rule)) {
      ADD_FAILURE() << finding.operation << ": " << finding.message;
    }
  }
}

TEST(Rules, EachHasAPair) {
  std::set<std::string> tested;
  for (const Pair& pair : pairs()) tested.insert(pair.rule);
  for (const Rule& rule : rules()) {
    EXPECT_TRUE(tested.contains(std::string(rule.id))) << rule.id << " has no pair of programs";
    tested.erase(std::string(rule.id));
  }
  for (const std::string& rule : tested) ADD_FAILURE() << rule << " is no rule";
}

TEST(Rules, AreDataWithSources) {
  std::set<std::string_view> ids;
  for (const Rule& rule : rules()) {
    EXPECT_TRUE(ids.insert(rule.id).second) << rule.id;
    EXPECT_FALSE(rule.statement.empty()) << rule.id;
    EXPECT_FALSE(rule.source.empty()) << rule.id;
    EXPECT_EQ(find_rule(rule.id), &rule);
    EXPECT_TRUE(rule.operation || rule.function || rule.package) << rule.id;
  }
  for (int number = 1; number <= 18; ++number) {
    EXPECT_NE(find_rule("D" + std::to_string(number)), nullptr) << number;
  }
  EXPECT_EQ(find_rule("D19"), nullptr);
}

// What depends on the chip says so: a rule that is not marked gives the same on all.
TEST(Rules, OnlyThoseMarkedDependOnTheChip) {
  for (const Pair& pair : pairs()) {
    const Rule* rule = find_rule(pair.rule);
    ASSERT_NE(rule, nullptr);
    if (rule->by_chip || pair.rule == "B1") continue;
    const size_t wanted =
        findings_of(*check(pair.bad(), chips().front(), pair.bad_bytes, pair.bad_ranges), pair.rule)
            .size();
    for (const Chip& chip : chips()) {
      EXPECT_EQ(
          findings_of(*check(pair.bad(), chip, pair.bad_bytes, pair.bad_ranges), pair.rule).size(),
          wanted)
          << pair.rule << ", " << pair.name << ", " << chip.name;
    }
  }
}

// Levels that depend on how far a program is over.
TEST(Rules, LevelsGrowWithTheFault) {
  const Chip& chip = chips().front();
  const auto level = [&](const mil::Model& model, const char* rule, int64_t bytes = 0) {
    const auto report = check(model, chip, bytes);
    const auto found = findings_of(*report, rule);
    return found.empty() ? Level::info : found.front().level;
  };
  EXPECT_EQ(level(shaped(f16({2, 2, 2, 2, 32}))(), "D2"), Level::warning);
  EXPECT_EQ(level(shaped(f16({2, 2, 2, 2, 2, 32}))(), "D2"), Level::error);
  EXPECT_EQ(level(chain(3), "D16", 1'500'000'000), Level::warning);
  EXPECT_EQ(level(chain(3), "D16", 2'500'000'000), Level::error);
  EXPECT_EQ(level(of("quantum_entangle")(), "D9"), Level::warning);
  EXPECT_EQ(level(of("sin")(), "D9"), Level::error);
}

std::string document() {
  std::ifstream file(IMPETUS_SOURCE_DIR "/docs/neural-engine.md");
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

TEST(Rules, StandInTheDocumentAsTheyAreHere) {
  const std::string text = document(), table = rules_markdown();
  EXPECT_NE(text.find("\n" + table), std::string::npos)
      << "docs/neural-engine.md has another table of rules; `impetus check --rules` prints this:\n"
      << table;
}

TEST(Chips, StandInTheDocumentAsTheyAreHere) {
  const std::string text = document(), table = chips_markdown();
  EXPECT_NE(text.find("\n" + table), std::string::npos)
      << "docs/neural-engine.md has another table of chips:\n"
      << table;
}

TEST(Chips, AreFoundByMachineAndHaveSources) {
  EXPECT_EQ(find_chip("M4-Max"), find_chip("m4"));
  EXPECT_EQ(find_chip("m6"), nullptr);
  EXPECT_EQ(find_chip(""), nullptr);
  for (const Chip& chip : chips()) {
    EXPECT_GT(chip.fp16_flops, chip.matmul_flops) << chip.name;
    EXPECT_GT(chip.bytes_per_second, 0) << chip.name;
    EXPECT_GT(chip.launch_seconds, 0) << chip.name;
    EXPECT_FALSE(chip.limits.empty() || chip.figures.empty()) << chip.name;
  }
}

}  // namespace
}  // namespace impetus::coreml

// Programs run in the interpreter beside the slow forward pass over the same weights.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>

#include "coreml/emulate.h"
#include "coreml/test_support.h"
#include "mil/interpreter.h"
#include "mil/package.h"
#include "tests/support/reference_forward.h"

namespace impetus::coreml {
namespace {

using testing::converted;
using testing::open_fixture;

std::vector<TokenId> random_tokens(std::mt19937_64& random, int64_t count, int64_t vocab) {
  std::vector<TokenId> tokens(static_cast<size_t>(count));
  for (TokenId& token : tokens) {
    token = static_cast<TokenId>(random() % static_cast<uint64_t>(vocab));
  }
  return tokens;
}

std::vector<float> reference(const ModelSpec& spec, const WeightSet& weights,
                             const std::vector<TokenId>& tokens) {
  const auto tensors = resolve_encoder(spec, weights);
  EXPECT_TRUE(tensors.ok()) << tensors.error().message;
  std::vector<float> values;
  for (const auto& row : impetus::testing::ReferenceForward(spec).encoder(*tensors, tokens, {})) {
    for (const double value : row) values.push_back(static_cast<float>(value));
  }
  return values;
}

struct Outcome {
  double text = 1, token = 1;  // the lowest of several texts
  size_t events = 0;
};

// `texts` empty: random tokens of random lengths.
Outcome compared(const ModelSpec& spec, const WeightSet& weights, const ConvertOptions& options,
                 const std::vector<std::vector<TokenId>>& texts = {}) {
  Outcome outcome;
  const auto embeddings = HostEmbeddings::load(spec, weights);
  EXPECT_TRUE(embeddings.ok()) << embeddings.error().message;
  std::mt19937_64 random(11);
  for (const Converted& one : converted(spec, weights, options)) {
    for (const int64_t length : one.shapes) {
      const auto program =
          mil::Interpreter::load(one.model, function_name(length, options.macos), {});
      EXPECT_TRUE(program.ok()) << program.error().message;
      if (!program.ok()) return {.text = -1, .token = -1};
      std::vector<std::vector<TokenId>> run = texts;
      for (int i = 0; texts.empty() && i < 4; ++i) {
        const int64_t count =
            i == 0 ? length : 1 + static_cast<int64_t>(random() % static_cast<uint64_t>(length));
        run.push_back(random_tokens(random, count, spec.vocab));
      }
      for (const auto& tokens : run) {
        const auto got = emulate(*program, *embeddings, tokens, {});
        EXPECT_TRUE(got.ok()) << got.error().message;
        if (!got.ok()) return {.text = -1, .token = -1};
        const auto alike = likeness(got->hidden, reference(spec, weights, tokens), spec.hidden);
        outcome.text = std::min(outcome.text, alike.text);
        outcome.token = std::min(outcome.token, alike.lowest_token);
        outcome.events += got->events.size();
      }
    }
  }
  return outcome;
}

struct Limit {
  Precision precision;
  double text;
};
constexpr Limit kLimits[] = {{Precision::fp16, 0.9999},
                             {Precision::int8, 0.999},
                             {Precision::palettized8, 0.998},
                             {Precision::palettized6, 0.998}};

void hold_to_limits(const std::string& name, const ModelSpec& spec, const WeightSet& weights,
                    const std::vector<int64_t>& shapes,
                    const std::vector<std::vector<TokenId>>& texts = {}) {
  for (const int macos : {13, 15}) {
    for (const auto& [precision, limit] : kLimits) {
      const Outcome run = compared(
          spec, weights, {.precision = precision, .shapes = shapes, .macos = macos}, texts);
      EXPECT_GE(run.text, limit) << name << " " << to_string(precision) << " macOS " << macos;
      EXPECT_EQ(run.events, 0u) << name << " " << to_string(precision);
      ::testing::Test::RecordProperty(fmt::format("{}_{}_{}", name, to_string(precision), macos),
                                      fmt::format("{}", run.text));
      fmt::print("{:20} {:12} macOS {}: cosine {:.6f}, of a token {:.6f}\n", name,
                 to_string(precision), macos, run.text, run.token);
    }
  }
}

TEST(Emulation, RandomEncodersOfBothFamilies) {
  for (const char* family : {"bert", "distilbert"}) {
    for (const auto activation : {Activation::gelu_erf, Activation::gelu_tanh, Activation::relu}) {
      auto spec = testing::small_spec(family);
      spec.activation = activation;
      const auto model = testing::random_encoder(spec, 12);
      const Outcome run = compared(model.spec, *model.weights, {.shapes = {8, 40}});
      EXPECT_GE(run.token, 0.9999) << family;
      EXPECT_EQ(run.events, 0u);
    }
  }
}

TEST(Emulation, OneHeadAndHeadsOfOddSizes) {
  for (const auto& [hidden, heads] : {std::pair{48, 1}, std::pair{60, 4}, std::pair{36, 12}}) {
    auto spec = testing::small_spec();
    spec.hidden = hidden;
    spec.heads = spec.kv_heads = heads;
    spec.head_dim = hidden / heads;
    spec.feed_forward = 70;
    const auto model = testing::random_encoder(spec, 13);
    EXPECT_GE(compared(model.spec, *model.weights, {.shapes = {16}}).token, 0.9999) << hidden;
    EXPECT_GE(
        compared(model.spec, *model.weights, {.precision = Precision::int8, .shapes = {16}}).text,
        0.999)
        << hidden;
  }
}

// As in trained models: a few of a channel's weights, on inputs that are mostly small, are some
// dozen standard deviations large.
TEST(Emulation, OutliersDoNotTakeTheirChannelsResolution) {
  auto model = testing::random_encoder(testing::small_spec(), 23);
  std::mt19937_64 random(24);
  std::vector<Tensor> changed;
  std::vector<NamedTensor> tensors;
  changed.reserve(2);
  for (NamedTensor tensor : model.weights->tensors()) {
    if (tensor.name.ends_with("output.dense.weight") &&
        tensor.name.find("attention") == std::string::npos) {
      auto copy = convert(tensor.view, DType::f32);
      ASSERT_TRUE(copy.ok());
      const std::span values(reinterpret_cast<float*>(copy->mutable_bytes().data()),
                             static_cast<size_t>(tensor.view.shape.elements()));
      const auto columns = static_cast<size_t>(tensor.view.shape.columns());
      for (size_t row = 0; row * columns < values.size(); ++row) {
        values[row * columns + random() % columns] *= 40;
      }
      changed.push_back(std::move(*copy));
      tensor.view = changed.back().view();
    }
    tensors.push_back(tensor);
  }
  ASSERT_EQ(changed.size(), 2u);
  const auto weights = WeightSet::build({}, std::move(tensors), {}, "with outliers");
  ASSERT_TRUE(weights.ok());
  for (const int macos : {13, 15}) {
    const ConvertOptions options{.precision = Precision::int8, .shapes = {16}, .macos = macos};
    EXPECT_GE(compared(model.spec, *weights, options).text, 0.9995) << macos;
    const auto made = converted(model.spec, *weights, options);
    const auto& block = *made[0].model.program.functions.at(function_name(16, macos)).block();
    std::map<std::string, std::string> types;
    for (const auto& operation : block.operations)
      types[std::string(operation.name())] = operation.type;
    EXPECT_EQ(types.at("layer_0_feed_forward_down_weight"), "constexpr_lut_to_dense");
    EXPECT_NE(types.at("layer_0_feed_forward_up_weight"), "constexpr_lut_to_dense");
  }
}

TEST(Emulation, EveryTypeOfSource) {
  for (const auto& [linear, other] :
       {std::pair{DType::f16, DType::f16}, std::pair{DType::bf16, DType::bf16},
        std::pair{DType::q8_0, DType::f32}, std::pair{DType::q4_0, DType::f16}}) {
    const auto model = testing::random_encoder(testing::small_spec(), 14, linear, other);
    const Outcome run = compared(model.spec, *model.weights, {.shapes = {16}});
    EXPECT_GE(run.token, 0.9999) << to_string(linear);
  }
}

TEST(Emulation, PaddingChangesNothing) {
  const auto model = testing::random_encoder(testing::small_spec(), 15);
  const auto embeddings = HostEmbeddings::load(model.spec, *model.weights);
  const auto made = converted(model.spec, *model.weights, {.shapes = {16, 40}});
  const auto narrow = mil::Interpreter::load(made[0].model, "encode_16", {});
  const auto wide = mil::Interpreter::load(made[0].model, "encode_40", {});
  ASSERT_TRUE(embeddings.ok() && narrow.ok() && wide.ok());
  std::mt19937_64 random(16);
  const auto tokens = random_tokens(random, 11, model.spec.vocab);
  const auto a = emulate(*narrow, *embeddings, tokens, {});
  const auto b = emulate(*wide, *embeddings, tokens, {});
  ASSERT_TRUE(a.ok() && b.ok());
  EXPECT_GE(likeness(a->hidden, b->hidden, model.spec.hidden).lowest_token, 0.99999);
  const auto longer = random_tokens(random, 17, model.spec.vocab);
  EXPECT_EQ(emulate(*narrow, *embeddings, longer, {}).error().code, ErrorCode::invalid_argument);
}

// What was written and read again runs as what was never written.
TEST(Emulation, ThroughAPackage) {
  const auto model = testing::random_encoder(testing::small_spec(), 17);
  const auto embeddings = HostEmbeddings::load(model.spec, *model.weights);
  std::mt19937_64 random(18);
  const auto tokens = random_tokens(random, 12, model.spec.vocab);
  for (const int macos : {13, 15}) {
    for (const auto precision : {Precision::fp16, Precision::int8, Precision::palettized4}) {
      const auto made = converted(model.spec, *model.weights,
                                  {.precision = precision, .shapes = {16}, .macos = macos});
      const auto bytes = mil::serialize(made[0].model);
      ASSERT_TRUE(bytes.ok()) << bytes.error().message;
      const auto read = mil::parse_package(bytes->model, bytes->weights);
      ASSERT_TRUE(read.ok()) << read.error().message;
      const auto function = function_name(16, macos);
      const auto before = mil::Interpreter::load(made[0].model, function, {});
      const auto after = mil::Interpreter::load(read->model, function, {});
      ASSERT_TRUE(before.ok() && after.ok());
      EXPECT_EQ(emulate(*before, *embeddings, tokens, {})->hidden,
                emulate(*after, *embeddings, tokens, {})->hidden);
    }
  }
}

TEST(Emulation, FixturesWithinTheirLimits) {
  for (const char* name : {"tiny_bert", "tiny_distilbert", "tiny_e5"}) {
    IMPETUS_NEED_DATA(impetus::testing::test_data() / "fixtures" /
                      fmt::format("{}.safetensors", name));
    const auto model = open_fixture(name);
    hold_to_limits(name, model.spec, *model.weights, {16});
  }
}

TEST(Emulation, TheOwnEncoderWithinItsLimits) {
  const auto model =
      testing::open_folder(std::filesystem::path(IMPETUS_SOURCE_DIR) / "models/impetus-tiny-embed");
  // "A kitten rests by the window." and others, in its own tokens: what no text ever is (random
  // tokens) says little about it.
  const std::vector<std::vector<TokenId>> texts = {
      {2, 36, 2192, 1133, 87, 307, 137, 1424, 15, 3},
      {2, 1533, 1844, 1563, 6568, 170, 4070, 143, 1965, 448, 137, 594, 3115, 702, 1779, 15, 3},
      {2,    282, 206, 44,  5859, 92, 228, 2049, 372,  44, 258,
       2333, 287, 137, 510, 40,   14, 860, 208,  3503, 31, 3},
      {2,    665, 7160, 87,  226, 36,   3077, 3174, 2100, 155, 137,
       4275, 935, 137,  713, 159, 2995, 495,  256,  15,   3},
      {2,    137, 1101, 156, 137, 3690, 1469, 226, 24,  27, 1705, 302,
       5912, 20,  13,   152, 178, 159,  4474, 170, 482, 15, 3}};
  hold_to_limits("impetus-tiny-embed", model.spec, *model.weights, {32}, texts);
}

TEST(Emulation, EightBitActivationsCalibrated) {
  const auto model = testing::random_encoder(testing::small_spec(), 19);
  std::mt19937_64 random(20);
  ConvertOptions options{.precision = Precision::w8a8, .shapes = {16, 32}};
  EXPECT_EQ(convert_encoder(model.spec, *model.weights, options).error().code,
            ErrorCode::invalid_argument);
  for (int i = 0; i < 6; ++i) {
    options.calibration.push_back(random_tokens(random, 4 + 5 * i, model.spec.vocab));
  }
  for (const int macos : {14, 15}) {
    options.macos = macos;
    EXPECT_GE(compared(model.spec, *model.weights, options).text, 0.99) << macos;
  }
}

}  // namespace
}  // namespace impetus::coreml

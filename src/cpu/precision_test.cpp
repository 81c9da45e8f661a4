// Lower precisions against the same values in full precision, teacher-forced.
//
// The tolerance is derived, not chosen: the slow forward runs twice over the dequantised weights,
// once exactly and once with the roundings that the format implies (activations to bf16 or to
// blocks of int8, keys and values to f16). The largest difference of the two is what the format
// costs on this model and these tokens; a kernel whose sums round elsewhere may flip single
// roundings, so it gets twice that and the f32 tolerance on top.
#include "cpu/test_support.h"
#include "tests/support/grouped_model.h"

namespace impetus::cpu {
namespace {

using testing::Matrix;
using testing::RandomModel;
using testing::RandomModelBuilder;
using testing::ReferenceForward;
using testing::Rounding;

double largest_difference(const Matrix& a, const Matrix& b) {
  double worst = 0;
  for (size_t r = 0; r < a.size(); ++r) {
    for (size_t i = 0; i < a[r].size(); ++i) worst = std::max(worst, std::fabs(a[r][i] - b[r][i]));
  }
  return worst;
}

// Every row within the tolerance, and its largest value at the same place where the exact row's
// margin exceeds twice the tolerance. Returns how many rows had such a margin.
int expect_close(const Matrix& exact, std::span<const float> got, double tolerance,
                 const std::string& what) {
  int decided = 0;
  size_t at = 0;
  for (const auto& row : exact) {
    const auto values = got.subspan(at, row.size());
    at += row.size();
    double worst = 0;
    for (size_t i = 0; i < row.size(); ++i) {
      worst = std::max(worst, std::fabs(row[i] - static_cast<double>(values[i])));
    }
    EXPECT_LE(worst, tolerance) << what;
    auto sorted = row;
    std::sort(sorted.rbegin(), sorted.rend());
    if (sorted[0] - sorted[1] <= 2 * tolerance) continue;
    ++decided;
    EXPECT_EQ(std::max_element(row.begin(), row.end()) - row.begin(),
              std::max_element(values.begin(), values.end()) - values.begin())
        << what;
  }
  return decided;
}

struct Format {
  DType weights;
  WeightPrecision precision;
  Rounding activations;
  DType kv;
  Rounding kv_rounding;
};

const Format kFormats[] = {
    {DType::f32, WeightPrecision::as_is, Rounding::none, DType::f16, Rounding::f16},
    {DType::f16, WeightPrecision::as_is, Rounding::none, DType::f16, Rounding::f16},
    {DType::bf16, WeightPrecision::as_is, Rounding::bf16, DType::f32, Rounding::none},
    {DType::bf16, WeightPrecision::as_is, Rounding::bf16, DType::bf16, Rounding::bf16},
    {DType::q8_0, WeightPrecision::as_is, Rounding::q8, DType::f16, Rounding::f16},
    {DType::q4_0, WeightPrecision::as_is, Rounding::q8, DType::f16, Rounding::f16},
    {DType::f32, WeightPrecision::int8, Rounding::q8, DType::f32, Rounding::none},
    {DType::f16, WeightPrecision::int8, Rounding::q8, DType::f32, Rounding::none},
    {DType::bf16, WeightPrecision::int8, Rounding::q8, DType::f32, Rounding::none},
};

std::string describe(const Format& f, const std::string& isa) {
  return fmt::format("{}{} kv {} {}", to_string(f.weights),
                     f.precision == WeightPrecision::int8 ? " as int8" : "", to_string(f.kv), isa);
}

// The values that run: as they are, or quantised to Q8_0 where int8 is asked for (2-D weights of
// products only; embeddings stay).
RandomModel as_run(const RandomModel& model, WeightPrecision precision) {
  RandomModel twin = model.in_f32();
  if (precision == WeightPrecision::as_is) return twin;
  RandomModel quantised;
  quantised.spec = model.spec;
  for (const NamedTensor& tensor : twin.tensors) {
    const bool product =
        tensor.view.shape.rank() == 2 && tensor.name.find("embed") == std::string::npos;
    auto rounded = product ? *convert(tensor.view, DType::q8_0) : *convert(tensor.view, DType::f32);
    quantised.storage.push_back(std::move(*convert(rounded.view(), DType::f32)));
    quantised.tensors.push_back({tensor.name, quantised.storage.back().view(), 0});
  }
  quantised.build();
  return quantised;
}

TEST(Precision, Decoders) {
  std::mt19937_64 random(515);
  int decided = 0;
  for (const Format& format : kFormats) {
    ModelSpec spec;
    spec.family = "qwen2";
    spec.layers = 2;
    spec.hidden = 64;
    spec.heads = 4;
    spec.kv_heads = 2;
    spec.head_dim = 16;
    spec.feed_forward = 96;
    spec.vocab = 61;
    spec.context = 64;
    spec.qkv_bias = true;
    RandomModelBuilder builder(spec, random(), format.weights);
    const RandomModel model = builder.decoder();
    const RandomModel twin = as_run(model, format.precision);
    const auto tensors = resolve_decoder(spec, *twin.weights);
    ASSERT_TRUE(tensors.ok());
    const auto tokens = random_tokens(random, 48, spec.vocab);
    const Matrix exact = ReferenceForward(spec).decoder(*tensors, tokens);
    const Matrix rounded =
        ReferenceForward(spec, format.activations, format.kv_rounding).decoder(*tensors, tokens);
    const double tolerance = 2 * largest_difference(exact, rounded) + 1e-4;
    LoadOptions options = f32_options();
    options.kv = format.kv;
    options.weights = format.precision;
    for (const auto& isa : instruction_sets()) {
      const auto loaded = load_decoder(spec, *model.weights, isa, 2, options);
      decided += expect_close(exact, all_logits(*loaded.model, tokens), tolerance,
                              describe(format, isa) + fmt::format(", tolerance {:.4f}", tolerance));
    }
  }
  EXPECT_GT(decided, 100) << "the tolerances are too wide to say anything";
}

// Every bits, group and type of scales that MLX writes, embedding and head among them.
TEST(Precision, DecodersInGroups) {
  std::mt19937_64 random(517);
  int decided = 0;
  for (const testing::Grouping& grouping : testing::every_grouping()) {
    ModelSpec spec;
    spec.family = "llama";
    spec.layers = 1;
    spec.hidden = 128;
    spec.heads = 4;
    spec.kv_heads = 2;
    spec.head_dim = 32;
    spec.feed_forward = 128;
    spec.vocab = 61;
    spec.context = 64;
    const RandomModel plain = RandomModelBuilder(spec, random(), DType::f32).decoder();
    const RandomModel model = testing::in_groups(plain, grouping);
    const RandomModel twin = model.in_f32();
    const auto tensors = resolve_decoder(spec, *twin.weights);
    ASSERT_TRUE(tensors.ok());
    const auto tokens = random_tokens(random, 24, spec.vocab);
    const Matrix exact = ReferenceForward(spec).decoder(*tensors, tokens);
    const Matrix rounded = ReferenceForward(spec, Rounding::q8).decoder(*tensors, tokens);
    const double tolerance = 2 * largest_difference(exact, rounded) + 1e-4;
    for (const auto& isa : instruction_sets()) {
      const auto loaded = load_decoder(spec, *model.weights, isa, 2);
      decided += expect_close(exact, all_logits(*loaded.model, tokens), tolerance,
                              grouping.name() + " " + isa);
    }
  }
  EXPECT_GT(decided, 500) << "the tolerances are too wide to say anything";
}

TEST(Precision, Encoders) {
  std::mt19937_64 random(516);
  for (const Format& format : kFormats) {
    ModelSpec spec;
    spec.family = "bert";
    spec.kind = ModelKind::encoder;
    spec.layers = 2;
    spec.hidden = 64;
    spec.heads = spec.kv_heads = 4;
    spec.head_dim = 16;
    spec.feed_forward = 96;
    spec.vocab = 61;
    spec.context = 64;
    spec.token_types = 2;
    spec.norm_eps = 1e-12f;
    spec.activation = Activation::gelu_erf;
    spec.pooling = Pooling::mean;
    spec.normalize = true;
    RandomModelBuilder builder(spec, random(), format.weights);
    const RandomModel model = builder.encoder();
    const RandomModel twin = as_run(model, format.precision);
    const auto tensors = resolve_encoder(spec, *twin.weights);
    ASSERT_TRUE(tensors.ok());
    const auto tokens = random_tokens(random, 48, spec.vocab);
    const ReferenceForward slow(spec);
    const Matrix exact = slow.encoder(*tensors, tokens, {});
    const Matrix rounded = ReferenceForward(spec, format.activations).encoder(*tensors, tokens, {});
    const double tolerance = 2 * largest_difference(exact, rounded) + 1e-4;
    LoadOptions options = f32_options();
    options.weights = format.precision;
    const std::vector<int32_t> offsets = {0, static_cast<int32_t>(tokens.size())};
    for (const auto& isa : instruction_sets()) {
      const auto loaded = load_encoder(spec, *model.weights, isa, 2, options);
      const auto hidden = loaded->encode({tokens, offsets, {}, EncodeOutput::hidden});
      ASSERT_TRUE(hidden.ok());
      expect_close(exact, hidden->values, tolerance, describe(format, isa));
      const auto pooled = loaded->encode({tokens, offsets, {}, EncodeOutput::pooled});
      ASSERT_TRUE(pooled.ok());
      const auto wanted = slow.pool(exact);
      double cosine = 0;
      for (size_t i = 0; i < wanted.size(); ++i)
        cosine += wanted[i] * static_cast<double>(pooled->values[i]);
      EXPECT_GT(cosine, 0.999) << describe(format, isa);
    }
  }
}

// Tables of embeddings in groups too: words, positions and types.
TEST(Precision, EncodersInGroups) {
  std::mt19937_64 random(518);
  for (const testing::Grouping& grouping : testing::every_grouping()) {
    ModelSpec spec;
    spec.family = "bert";
    spec.kind = ModelKind::encoder;
    spec.layers = 1;
    spec.hidden = 128;
    spec.heads = spec.kv_heads = 4;
    spec.head_dim = 32;
    spec.feed_forward = 256;
    spec.vocab = 61;
    spec.context = 64;
    spec.token_types = 2;
    spec.norm_eps = 1e-12f;
    spec.activation = Activation::gelu_erf;
    spec.pooling = Pooling::mean;
    spec.normalize = true;
    const RandomModel plain = RandomModelBuilder(spec, random(), DType::f32).encoder();
    const RandomModel model = testing::in_groups(plain, grouping);
    const RandomModel twin = model.in_f32();
    const auto tensors = resolve_encoder(spec, *twin.weights);
    ASSERT_TRUE(tensors.ok());
    const auto tokens = random_tokens(random, 24, spec.vocab);
    const Matrix exact = ReferenceForward(spec).encoder(*tensors, tokens, {});
    const Matrix rounded = ReferenceForward(spec, Rounding::q8).encoder(*tensors, tokens, {});
    const double tolerance = 2 * largest_difference(exact, rounded) + 1e-4;
    EXPECT_LT(tolerance, 0.2) << "of values of about 1";
    const std::vector<int32_t> offsets = {0, static_cast<int32_t>(tokens.size())};
    for (const auto& isa : instruction_sets()) {
      const auto loaded = load_encoder(spec, *model.weights, isa, 2);
      const auto hidden = loaded->encode({tokens, offsets, {}, EncodeOutput::hidden});
      ASSERT_TRUE(hidden.ok());
      expect_close(exact, hidden->values, tolerance, grouping.name() + " " + isa);
    }
  }
}

}  // namespace
}  // namespace impetus::cpu

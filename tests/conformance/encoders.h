// What every backend owes of encoders.
#pragma once

#include "tests/conformance/subject.h"

namespace impetus::conformance {

TEST_P(Conformance, ATextDoesNotKnowItsBatch) {
  std::mt19937_64 random(99);
  for (const std::string family : {"bert", "distilbert"}) {
    for (const DType type : kWeightTypes) {
      RandomModelBuilder builder(encoder_spec(family), random(), type);
      const RandomModel model = builder.encoder();
      {
        for (const int threads : GetParam().threads) {
          const auto loaded = load_encoder_on(GetParam().make(threads), model.spec, *model.weights);
          const auto lone = load_encoder_on(GetParam().make(1), model.spec, *model.weights);
          std::vector<TokenId> tokens;
          std::vector<int32_t> offsets = {0}, types;
          std::vector<float> pooled, hidden;
          for (int text = 0; text < 7; ++text) {
            const auto ids = random_tokens(random, 1 + random() % 36, 101);
            std::vector<int32_t> kinds(ids.size());
            for (int32_t& kind : kinds)
              kind = family == "bert" ? static_cast<int32_t>(random() % 2) : 0;
            const std::vector<int32_t> ends = {0, static_cast<int32_t>(ids.size())};
            for (const auto output : {EncodeOutput::pooled, EncodeOutput::hidden}) {
              const auto out = lone->encode({ids, ends, kinds, output});
              ASSERT_TRUE(out.ok()) << out.error().message;
              auto& into = output == EncodeOutput::pooled ? pooled : hidden;
              into.insert(into.end(), out->values.begin(), out->values.end());
              EXPECT_EQ(out->ran_on, std::vector{&lone->descriptor()});
            }
            tokens.insert(tokens.end(), ids.begin(), ids.end());
            types.insert(types.end(), kinds.begin(), kinds.end());
            offsets.push_back(static_cast<int32_t>(tokens.size()));
          }
          const auto together = loaded->encode({tokens, offsets, types, EncodeOutput::pooled});
          ASSERT_TRUE(together.ok()) << together.error().message;
          const std::string what = family + " " + std::string(to_string(type));
          expect_same(*loaded.backend, type, DType::f32, pooled, together->values, what);
          const auto rows = loaded->encode({tokens, offsets, types, EncodeOutput::hidden});
          expect_same(*loaded.backend, type, DType::f32, hidden, rows->values, what);
        }
      }
    }
  }
}

TEST_P(Conformance, EncodersOfOddSizes) {
  std::mt19937_64 random(4242);
  const auto pick = [&](std::initializer_list<int64_t> list) {
    return list.begin()[random() % list.size()];
  };
  for (int round = 0; round < 40; ++round) {
    ModelSpec spec = encoder_spec(random() % 2 == 0 ? "bert" : "distilbert");
    spec.layers = pick({1, 2, 3});
    spec.heads = spec.kv_heads = pick({1, 2, 3, 5});
    spec.head_dim = pick({2, 6, 10, 24, 32});
    spec.hidden = spec.heads * spec.head_dim;
    spec.feed_forward = pick({5, 17, 48, 130});
    spec.context = pick({40, 64});
    spec.activation =
        std::array{Activation::gelu_erf, Activation::gelu_tanh, Activation::relu}[random() % 3];
    spec.pooling = random() % 2 == 0 ? Pooling::mean : Pooling::cls;
    spec.normalize = random() % 2 == 0;
    const DType type = random() % 2 == 0 ? DType::f32 : DType::f16;
    RandomModelBuilder builder(spec, random(), type);
    const RandomModel model = builder.encoder();
    const auto tokens =
        random_tokens(random, static_cast<size_t>(pick({1, 2, 16, 17, 40})), spec.vocab);
    std::vector<int32_t> types;
    if (spec.token_types > 0 && random() % 2 == 0) {
      for (size_t i = 0; i < tokens.size(); ++i)
        types.push_back(static_cast<int32_t>(random() % 2));
    }
    const auto tensors = resolve_encoder(spec, *model.weights);
    ASSERT_TRUE(tensors.ok()) << tensors.error().message;
    const ReferenceForward reference(spec);
    const auto wanted = reference.encoder(*tensors, tokens, types);
    const std::vector<int32_t> offsets = {0, static_cast<int32_t>(tokens.size())};
    const double tolerance =
        type == DType::f16 && GetParam().narrow_activations ? 100 * 0x1p-11 : 2e-4;
    const auto loaded = load_encoder_on(GetParam().make(2), spec, *model.weights);
    const auto hidden = loaded->encode({tokens, offsets, types, EncodeOutput::hidden});
    ASSERT_TRUE(hidden.ok());
    EXPECT_LT(distance(wanted, hidden->values), tolerance) << "round " << round;
    const auto pooled = loaded->encode({tokens, offsets, types, EncodeOutput::pooled});
    ASSERT_TRUE(pooled.ok());
    EXPECT_LT(distance({reference.pool(wanted)}, pooled->values), tolerance) << "round " << round;
  }
}

TEST_P(Conformance, BadBatchesOfTextsAreErrors) {
  RandomModelBuilder builder(encoder_spec("bert"), 5, DType::f32);
  const RandomModel model = builder.encoder();
  const auto loaded = load_encoder_on(GetParam().make(2), model.spec, *model.weights);
  EXPECT_GE(loaded->batch_tokens_max(), model.spec.context);
  const auto fails = [&](std::vector<TokenId> tokens, std::vector<int32_t> offsets,
                         std::vector<int32_t> types) {
    return !loaded->encode({tokens, offsets, types, EncodeOutput::pooled}).ok();
  };
  EXPECT_FALSE(fails({1, 2}, {0, 1, 2}, {}));
  EXPECT_FALSE(fails({}, {0}, {}));
  EXPECT_TRUE(fails({1, 2}, {}, {}));
  EXPECT_TRUE(fails({1, 2}, {0, 1}, {}));
  EXPECT_TRUE(fails({1, 2}, {1, 2}, {}));
  EXPECT_TRUE(fails({1, 2}, {0, 0, 2}, {}));
  EXPECT_TRUE(fails({1, 2}, {0, 3, 2}, {}));
  EXPECT_TRUE(fails({1, 101}, {0, 2}, {}));
  EXPECT_TRUE(fails({-1, 2}, {0, 2}, {}));
  EXPECT_TRUE(fails({1, 2}, {0, 2}, {0}));
  EXPECT_TRUE(fails({1, 2}, {0, 2}, {0, 2}));
  EXPECT_TRUE(fails({1, 2}, {0, 2}, {0, -1}));
  EXPECT_TRUE(fails(std::vector<TokenId>(129, 1), {0, 129}, {}));
  EXPECT_TRUE(fails(std::vector<TokenId>(257, 1), {0, 100, 200, 257}, {}));
}

}  // namespace impetus::conformance

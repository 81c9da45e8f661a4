// Encoders to convert, for the tests of this folder.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "base/json.h"
#include "coreml/convert.h"
#include "tests/support/random_model.h"
#include "tests/support/test_data.h"

namespace impetus::coreml::testing {

using impetus::testing::RandomModel;

// Heads of 32 values and widths of 64 bytes and more, as real models have them.
inline ModelSpec small_spec(std::string family = "bert") {
  ModelSpec spec;
  spec.kind = ModelKind::encoder;
  spec.token_types = family == "bert" ? 2 : 0;
  spec.family = std::move(family);
  spec.layers = 2;
  spec.hidden = 64;
  spec.heads = spec.kv_heads = 2;
  spec.head_dim = 32;
  spec.feed_forward = 160;
  spec.vocab = 50;
  spec.context = 40;
  spec.norm_eps = 1e-12f;
  spec.activation = Activation::gelu_erf;
  spec.pooling = Pooling::mean;
  spec.normalize = true;
  spec.sequence_length_max = spec.context;
  return spec;
}

inline RandomModel random_encoder(ModelSpec spec, uint64_t seed, DType linear = DType::f32,
                                  DType other = DType::f32) {
  return impetus::testing::RandomModelBuilder(std::move(spec), seed, linear, other).encoder();
}

struct Opened {
  ModelSpec spec;
  std::unique_ptr<WeightSet> weights;
};

// fixtures/NAME.safetensors with NAME_config.json, of the real inputs.
inline Opened open_fixture(const std::string& name) {
  const auto folder = impetus::testing::test_data() / "fixtures";
  const auto config = read_json_file((folder / (name + "_config.json")).string());
  auto spec = spec_from_config(config->as_object());
  auto weights = open_safetensors(folder / (name + ".safetensors"));
  EXPECT_TRUE(spec.ok() && weights.ok());
  return {std::move(*spec), std::make_unique<WeightSet>(std::move(*weights))};
}

// A Hugging Face folder.
inline Opened open_folder(const std::filesystem::path& folder) {
  const auto config = read_json_file((folder / "config.json").string());
  auto spec = spec_from_config(config->as_object());
  auto weights = open_safetensors_folder(folder);
  EXPECT_TRUE(spec.ok() && weights.ok());
  EXPECT_TRUE(apply_sentence_transformers(folder, *spec).ok());
  return {std::move(*spec), std::make_unique<WeightSet>(std::move(*weights))};
}

inline std::vector<Converted> converted(const ModelSpec& spec, const WeightSet& weights,
                                        const ConvertOptions& options) {
  auto made = convert_encoder(spec, weights, options);
  EXPECT_TRUE(made.ok()) << made.error().message;
  return made.ok() ? std::move(*made) : std::vector<Converted>{};
}

}  // namespace impetus::coreml::testing

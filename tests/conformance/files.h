// Real files against references made elsewhere: the fixtures within 1e-4, the trained models token
// for token.
#pragma once

#include <fstream>
#include <map>

#include "formats/gguf.h"
#include "tests/conformance/subject.h"

namespace impetus::conformance {

struct Case {
  std::string config;   // below fixtures/; empty: from the GGUF
  std::string weights;  // a .safetensors or .gguf, or a folder's index
  std::string reference;
};

struct Opened {
  ModelSpec spec;
  std::unique_ptr<GgufFile> gguf;
  std::unique_ptr<WeightSet> set;
  const WeightSet& weights() const { return gguf ? gguf->weights() : *set; }
};

inline std::filesystem::path fixtures() {
  return testing::test_data() / "fixtures";
}

// The sharded fixture lies among the others, so it gets a folder of its own.
inline std::filesystem::path sharded_folder() {
  const auto folder = std::filesystem::temp_directory_path() / "impetus_sharded_fixture";
  std::filesystem::create_directories(folder);
  const auto link = [&](const char* from, const char* to) {
    std::filesystem::copy_file(fixtures() / from, folder / to,
                               std::filesystem::copy_options::overwrite_existing);
  };
  link("tiny_llama.safetensors.index.json", "model.safetensors.index.json");
  link("tiny_llama-00001-of-00002.safetensors", "tiny_llama-00001-of-00002.safetensors");
  link("tiny_llama-00002-of-00002.safetensors", "tiny_llama-00002-of-00002.safetensors");
  return folder;
}

inline Opened open_case(const Case& c) {
  Opened opened;
  if (c.weights.ends_with(".gguf")) {
    auto file = GgufFile::open(fixtures() / c.weights);
    EXPECT_TRUE(file.ok()) << file.error().message;
    opened.gguf = std::make_unique<GgufFile>(std::move(*file));
    auto spec = spec_from_gguf(*opened.gguf);
    EXPECT_TRUE(spec.ok()) << spec.error().message;
    opened.spec = std::move(*spec);
    return opened;
  }
  auto set = c.weights == "sharded" ? open_safetensors_folder(sharded_folder())
                                    : open_safetensors(fixtures() / c.weights);
  EXPECT_TRUE(set.ok()) << set.error().message;
  opened.set = std::make_unique<WeightSet>(std::move(*set));
  const auto config = read_json_file((fixtures() / c.config).string());
  auto spec = spec_from_config(config->as_object());
  EXPECT_TRUE(spec.ok()) << spec.error().message;
  opened.spec = std::move(*spec);
  return opened;
}

// The fixtures' references are of their f32 values. Types that round activations are tested as such
// in precision_test.cpp; here their weights run in f32. A file of f16 weights differs from the f32
// reference by its own rounding, so it is held against the slow forward over its values.
inline bool has_type(const WeightSet& weights, DType type) {
  return std::any_of(weights.tensors().begin(), weights.tensors().end(),
                     [&](const NamedTensor& tensor) { return tensor.view.dtype == type; });
}

inline RandomModel in_f32(const WeightSet& weights) {
  RandomModel model;
  model.tensors = weights.tensors();
  return model.in_f32();
}

inline const Case kFixtures[] = {
    Case{"tiny_llama_config.json", "tiny_llama.safetensors", "tiny_llama_logits.json"},
    Case{"tiny_llama_config.json", "sharded", "tiny_llama_logits.json"},
    Case{"", "tiny_llama_f32.gguf", "tiny_llama_logits.json"},
    Case{"", "tiny_llama_f16.gguf", "tiny_llama_logits.json"},
    Case{"tiny_smollm2_config.json", "tiny_smollm2.safetensors", "tiny_smollm2_logits.json"},
    Case{"tiny_qwen2_config.json", "tiny_qwen2.safetensors", "tiny_qwen2_logits.json"},
    Case{"tiny_qwen3_config.json", "tiny_qwen3.safetensors", "tiny_qwen3_logits.json"},
    Case{"tiny_bert_config.json", "tiny_bert.safetensors", "tiny_bert_hidden.json"},
    Case{"tiny_distilbert_config.json", "tiny_distilbert.safetensors",
         "tiny_distilbert_hidden.json"}};

inline void expect_fixture(const Subject& subject, const Case& c) {
  const Opened opened = open_case(c);
  RandomModel twin;
  if (has_type(opened.weights(), DType::bf16)) twin = in_f32(opened.weights());
  const WeightSet& weights = twin.weights ? *twin.weights : opened.weights();
  const auto reference = read_json_file((fixtures() / c.reference).string());
  ASSERT_TRUE(reference.ok());
  const auto& sequences = reference->at("sequences").as_array();
  {
    const bool encoder = opened.spec.kind == ModelKind::encoder;
    for (size_t s = 0; s < sequences.size(); ++s) {
      const auto tokens = token_list(sequences[s]);
      std::vector<float> got;
      if (encoder) {
        const auto loaded = load_encoder_on(subject.make(2), opened.spec, weights);
        const auto types = token_list(reference->at("token_types").at(s));
        const std::vector<int32_t> offsets = {0, static_cast<int32_t>(tokens.size())};
        auto out = loaded->encode({tokens, offsets, types, EncodeOutput::hidden});
        ASSERT_TRUE(out.ok()) << out.error().message;
        got = std::move(out->values);
      } else {
        const auto loaded = load_decoder_on(subject.make(2), opened.spec, weights);
        got = all_logits(*loaded.model, tokens);
      }
      const auto& rows = reference->at(encoder ? "hidden" : "logits").at(s).as_array();
      ASSERT_EQ(got.size(), rows.size() * rows[0].as_array().size());
      testing::Matrix wanted;
      if (has_type(weights, DType::f16)) {
        const auto tensors = resolve_decoder(opened.spec, weights);
        wanted = testing::ReferenceForward(opened.spec).decoder(*tensors, tokens);
      }
      size_t i = 0;
      double worst = 0, worst_f32 = 0;
      for (size_t r = 0; r < rows.size(); ++r) {
        for (size_t j = 0; j < rows[r].as_array().size(); ++j, ++i) {
          const double f32 = rows[r].at(j).to_number<double>();
          const double reference = wanted.empty() ? f32 : wanted[r][j];
          worst = std::max(worst, std::fabs(reference - static_cast<double>(got[i])));
          worst_f32 = std::max(worst_f32, std::fabs(f32 - static_cast<double>(got[i])));
        }
      }
      const bool narrow = subject.narrow_activations && has_type(weights, DType::f16);
      EXPECT_LT(worst, narrow ? 1e-2 : 1e-4) << c.weights << ", sequence " << s;
      EXPECT_LT(worst_f32, wanted.empty() ? 1e-4 : 2e-2) << c.weights << ", sequence " << s;
    }
  }
}

TEST_P(Conformance, FixturesWithinTolerance) {
  for (const Case& c : kFixtures) {
    IMPETUS_NEED_DATA(fixtures() / c.reference);
    expect_fixture(GetParam(), c);
  }
}

TEST_P(Conformance, Stories260kGreedy) {
  const auto folder = testing::test_data() / "models/stories-260k";
  IMPETUS_NEED_DATA(folder / "stories260K.gguf");
  auto file = GgufFile::open(folder / "stories260K.gguf");
  ASSERT_TRUE(file.ok()) << file.error().message;
  auto spec = spec_from_gguf(*file);
  ASSERT_TRUE(spec.ok()) << spec.error().message;
  const auto golden = read_json_file((folder / "golden_greedy_numpy.json").string());
  const auto wanted = token_list(golden->at("greedy_ids"));
  {
    for (const int threads : GetParam().threads) {
      const auto loaded = load_decoder_on(GetParam().make(threads), *spec, file->weights());
      EXPECT_EQ(greedy(*loaded.model, {wanted[0]}, wanted.size()), wanted) << threads;
    }
  }
}

TEST_P(Conformance, Tinystories656kGreedy) {
  const auto folder = testing::test_data() / "models/tinystories-656k";
  IMPETUS_NEED_DATA(folder / "model.safetensors");
  auto weights = open_safetensors_folder(folder);
  ASSERT_TRUE(weights.ok()) << weights.error().message;
  const auto config = read_json_file((folder / "config.json").string());
  auto spec = spec_from_config(config->as_object());
  ASSERT_TRUE(spec.ok()) << spec.error().message;
  const auto golden = read_json_file((folder / "golden_greedy_numpy.json").string());
  {
    for (const int threads : GetParam().threads) {
      const auto loaded = load_decoder_on(GetParam().make(threads), *spec, *weights);
      for (const auto& c : golden->at("cases").as_array()) {
        const auto wanted = token_list(c.at("greedy_ids"));
        EXPECT_EQ(greedy(*loaded.model, token_list(c.at("prompt_ids")), wanted.size()), wanted)
            << threads;
      }
    }
  }
}

}  // namespace impetus::conformance

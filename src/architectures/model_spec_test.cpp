#include "architectures/model_spec.h"

#include <cmath>

#include <gtest/gtest.h>

#include "tests/support/test_data.h"
#include "tests/support/tiny_models.h"

namespace impetus {
namespace {

using testing::GgufWriter;
using testing::kTinyBertConfig;
using testing::kTinyDistilbertConfig;
using testing::kTinyLlamaConfig;
using testing::tiny_bert_metadata;
using testing::tiny_decoder_metadata;

// `changes` over `base`: a field of null is taken away.
json::object changed(std::string_view base, std::string_view changes) {
  json::object config = parse_json(base)->get_object();
  const auto parsed = parse_json(changes);
  EXPECT_TRUE(parsed.ok()) << changes;
  for (const auto& [key, value] : parsed->get_object()) {
    if (value.is_null()) {
      config.erase(key);
    } else {
      config[key] = value;
    }
  }
  return config;
}

ModelSpec spec_of(std::string_view base, std::string_view changes = "{}") {
  auto spec = spec_from_config(changed(base, changes));
  EXPECT_TRUE(spec.ok()) << changes << ": " << spec.error().message;
  return spec.ok() ? *spec : ModelSpec{};
}

TEST(SpecFromConfig, Llama) {
  const ModelSpec spec = spec_of(kTinyLlamaConfig);
  EXPECT_EQ(spec.family, "llama");
  EXPECT_EQ(spec.kind, ModelKind::decoder);
  EXPECT_EQ(spec.layers, 2);
  EXPECT_EQ(spec.hidden, 32);
  EXPECT_EQ(spec.heads, 4);
  EXPECT_EQ(spec.kv_heads, 2);
  EXPECT_EQ(spec.head_dim, 8);
  EXPECT_EQ(spec.feed_forward, 64);
  EXPECT_EQ(spec.vocab, 48);
  EXPECT_EQ(spec.context, 64);
  EXPECT_EQ(spec.norm_eps, 1e-5f);
  EXPECT_EQ(spec.rope_pairs, RopePairs::halves);
  EXPECT_FALSE(spec.qkv_bias || spec.output_bias || spec.mlp_bias || spec.qk_norm);
  EXPECT_FALSE(spec.tied_embeddings || spec.tied_if_headless);
  EXPECT_EQ(spec.pooling, Pooling::none);
}

TEST(SpecFromConfig, DefaultsAndSettings) {
  EXPECT_EQ(spec_of(kTinyLlamaConfig, R"({"num_key_value_heads":null})").kv_heads, 4);
  EXPECT_EQ(spec_of(kTinyLlamaConfig, R"({"head_dim":6})").head_dim, 6);
  EXPECT_EQ(spec_of(kTinyLlamaConfig, R"({"rms_norm_eps":null})").norm_eps, 1e-6f);
  EXPECT_EQ(spec_of(kTinyLlamaConfig, R"({"rope_theta":null})").rope_theta, 10000);
  EXPECT_EQ(spec_of(kTinyLlamaConfig, R"({"rope_theta":500000})").rope_theta, 500000);
  EXPECT_TRUE(spec_of(kTinyLlamaConfig, R"({"tie_word_embeddings":true})").tied_embeddings);
  EXPECT_TRUE(spec_of(kTinyLlamaConfig, R"({"tie_word_embeddings":null})").tied_if_headless);
  const ModelSpec biased = spec_of(kTinyLlamaConfig, R"({"attention_bias":true,"mlp_bias":true})");
  EXPECT_TRUE(biased.qkv_bias && biased.output_bias && biased.mlp_bias);

  const ModelSpec qwen2 = spec_of(
      kTinyLlamaConfig,
      R"({"model_type":"qwen2","sliding_window":4096,"use_sliding_window":false,"layer_types":["full_attention"]})");
  EXPECT_TRUE(qwen2.qkv_bias);
  EXPECT_FALSE(qwen2.output_bias);
  const ModelSpec qwen3 = spec_of(kTinyLlamaConfig, R"({"model_type":"qwen3","head_dim":8})");
  EXPECT_TRUE(qwen3.qk_norm);
  EXPECT_FALSE(qwen3.qkv_bias);
  EXPECT_EQ(spec_of(kTinyLlamaConfig, R"({"model_type":"qwen3"})").head_dim, 128)
      << "transformers' default for this architecture";
}

TEST(SpecFromConfig, Encoders) {
  const ModelSpec bert = spec_of(kTinyBertConfig);
  EXPECT_EQ(bert.kind, ModelKind::encoder);
  EXPECT_EQ(bert.head_dim, 8);
  EXPECT_EQ(bert.kv_heads, 4);
  EXPECT_EQ(bert.token_types, 2);
  EXPECT_EQ(bert.norm_eps, 1e-12f);
  EXPECT_EQ(bert.activation, Activation::gelu_erf);
  EXPECT_EQ(bert.pooling, Pooling::mean) << "what an encoder gets that says nothing";
  EXPECT_TRUE(bert.normalize);
  EXPECT_EQ(bert.sequence_length_max, 16);
  EXPECT_EQ(spec_of(kTinyBertConfig, R"({"hidden_act":"gelu_new"})").activation,
            Activation::gelu_tanh);
  EXPECT_EQ(spec_of(kTinyBertConfig, R"({"hidden_act":"relu"})").activation, Activation::relu);
  const ModelSpec distilbert = spec_of(kTinyDistilbertConfig);
  EXPECT_EQ(distilbert.hidden, 32);
  EXPECT_EQ(distilbert.feed_forward, 64);
  EXPECT_EQ(distilbert.layers, 2);
  EXPECT_EQ(distilbert.token_types, 0);
}

// mlx-lm writes what it quantised twice; the tensors themselves are joined in formats/.
TEST(SpecFromConfig, QuantisedByMlx) {
  constexpr std::string_view kFour = R"({"group_size":64,"bits":4,"mode":"affine"})";
  for (const std::string& changes :
       {fmt::format(R"({{"quantization":{0},"quantization_config":{0}}})", kFour),
        fmt::format(R"({{"quantization":{0}}})", kFour),
        fmt::format(R"({{"quantization_config":{0}}})", kFour)}) {
    EXPECT_EQ(spec_of(kTinyLlamaConfig, changes).hidden, 32) << changes;
  }
}

TEST(SpecFromConfig, RopeScaling) {
  const auto scaling = [](std::string_view changes) {
    return spec_of(kTinyLlamaConfig, changes).rope_scaling;
  };
  EXPECT_EQ(scaling(R"({"rope_scaling":{"rope_type":"default"}})").kind, RopeScaling::Kind::none);
  for (const char* key : {"type", "rope_type"}) {
    const auto linear =
        scaling("{\"rope_scaling\":{\"" + std::string(key) + "\":\"linear\",\"factor\":4}}");
    EXPECT_EQ(linear.kind, RopeScaling::Kind::linear);
    EXPECT_EQ(linear.factor, 4);
    const auto llama3 =
        scaling("{\"rope_scaling\":{\"" + std::string(key) +
                "\":\"llama3\",\"factor\":8.0,\"low_freq_factor\":1.0,\"high_freq_factor\":4.0,"
                "\"original_max_position_embeddings\":8192}}");
    EXPECT_EQ(llama3.kind, RopeScaling::Kind::llama3);
    EXPECT_EQ(llama3.original_context, 8192);
  }
  const ModelSpec newer =
      spec_of(kTinyLlamaConfig,
              R"({"rope_theta":null,"rope_parameters":{"rope_theta":1e6,"rope_type":"default"}})");
  EXPECT_EQ(newer.rope_theta, 1e6);
  EXPECT_EQ(newer.rope_scaling.kind, RopeScaling::Kind::none);
  EXPECT_EQ(
      scaling(R"({"rope_parameters":{"rope_theta":10000,"rope_type":"linear","factor":2}})").factor,
      2);
}

// Llama 3.1's reference, as published: by wavelength.
double llama3_frequency(double frequency, double factor, double low, double high, double original) {
  const double wavelength = 2 * M_PI / frequency;
  if (wavelength < original / high) return frequency;
  if (wavelength > original / low) return frequency / factor;
  const double smooth = (original / wavelength - low) / (high - low);
  return (1 - smooth) * frequency / factor + smooth * frequency;
}

TEST(RopeFrequencies, PlainLinearLlama3AndDivisors) {
  ModelSpec spec;
  spec.head_dim = 128;
  spec.rope_theta = 500000;
  const auto plain = spec.rope_frequencies();
  ASSERT_EQ(plain.size(), 64u);
  EXPECT_EQ(plain[0], 1.0f);
  EXPECT_FLOAT_EQ(plain[32], static_cast<float>(1 / std::sqrt(500000.0)));

  spec.rope_scaling = {RopeScaling::Kind::linear, 4};
  EXPECT_FLOAT_EQ(spec.rope_frequencies()[32], plain[32] / 4);

  spec.rope_scaling = {RopeScaling::Kind::llama3, 8, 1, 4, 8192};
  const auto scaled = spec.rope_frequencies();
  int kept = 0, stretched = 0, blended = 0;
  for (size_t i = 0; i < 64; ++i) {
    const double frequency = std::pow(500000.0, -static_cast<double>(i) / 64);
    const double wanted = llama3_frequency(frequency, 8, 1, 4, 8192);
    EXPECT_NEAR(scaled[i], wanted, 1e-6 * wanted) << i;
    if (wanted == frequency) {
      ++kept;
    } else if (wanted == frequency / 8) {
      ++stretched;
    } else {
      ++blended;
    }
  }
  EXPECT_EQ(kept + stretched + blended, 64);
  EXPECT_GT(kept, 20);
  EXPECT_GT(stretched, 20);
  EXPECT_GT(blended, 3);

  spec.rope_scaling = {};
  spec.rope_divisors.assign(64, 1.0f);
  spec.rope_divisors[63] = 8.0f;
  EXPECT_EQ(spec.rope_frequencies()[0], plain[0]);
  EXPECT_FLOAT_EQ(spec.rope_frequencies()[63], plain[63] / 8);
}

struct BadConfig {
  std::string_view base;
  const char* changes;
  std::vector<const char*> wanted;
  ErrorCode code = ErrorCode::corrupt;
};

TEST(SpecFromConfig, EveryBadConfigIsOneClearError) {
  constexpr auto kUnsupported = ErrorCode::unsupported;
  const BadConfig cases[] = {
      {kTinyLlamaConfig, R"({"model_type":null})", {"'model_type' is missing"}},
      {kTinyLlamaConfig, R"({"model_type":3})", {"'model_type' must be a string"}},
      {kTinyLlamaConfig,
       R"({"model_type":"mistral"})",
       {"model_type 'mistral'", "llama, qwen2, qwen3, bert, distilbert"},
       kUnsupported},
      {kTinyLlamaConfig, R"({"hidden_size":null})", {"'hidden_size' is missing"}},
      {kTinyLlamaConfig, R"({"hidden_size":0})", {"'hidden_size' is 0"}},
      {kTinyLlamaConfig, R"({"hidden_size":-32})", {"'hidden_size' is -32"}},
      {kTinyLlamaConfig, R"({"hidden_size":9223372036854775807})", {"'hidden_size' is 9223"}},
      {kTinyLlamaConfig, R"({"hidden_size":1e30})", {"'hidden_size' must be an integer"}},
      {kTinyLlamaConfig, R"({"hidden_size":"32"})", {"'hidden_size' must be an integer"}},
      {kTinyLlamaConfig, R"({"num_hidden_layers":4097})", {"'num_hidden_layers' is 4097"}},
      {kTinyLlamaConfig, R"({"num_attention_heads":0})", {"'num_attention_heads' is 0"}},
      {kTinyLlamaConfig,
       R"({"num_attention_heads":5,"num_key_value_heads":5})",
       {"'head_dim' is missing", "'hidden_size' 32"}},
      {kTinyLlamaConfig,
       R"({"num_key_value_heads":3})",
       {"4 attention heads", "3 key-value heads"}},
      {kTinyLlamaConfig, R"({"num_key_value_heads":0})", {"'num_key_value_heads' is 0"}},
      {kTinyLlamaConfig, R"({"head_dim":7})", {"heads of 7 values", "pairs"}},
      {kTinyLlamaConfig, R"({"head_dim":0})", {"'head_dim' is 0"}},
      {kTinyLlamaConfig, R"({"head_dim":16777216})", {"heads times head size"}},
      {kTinyLlamaConfig, R"({"vocab_size":null})", {"'vocab_size' is missing"}},
      {kTinyLlamaConfig, R"({"vocab_size":4294967296})", {"'vocab_size' is 4294967296"}},
      {kTinyLlamaConfig, R"({"max_position_embeddings":0})", {"'max_position_embeddings' is 0"}},
      {kTinyLlamaConfig, R"({"rms_norm_eps":0})", {"epsilon is 0"}},
      {kTinyLlamaConfig, R"({"rms_norm_eps":-1})", {"epsilon is -1"}},
      {kTinyLlamaConfig, R"({"rms_norm_eps":1e-60})", {"epsilon is 0"}},
      {kTinyLlamaConfig, R"({"rms_norm_eps":1e999})", {"'rms_norm_eps' must be a finite number"}},
      {kTinyLlamaConfig, R"({"rope_theta":0})", {"rope base is 0"}},
      {kTinyLlamaConfig, R"({"rope_theta":-5})", {"rope base is -5"}},
      {kTinyLlamaConfig, R"({"tie_word_embeddings":1})", {"'tie_word_embeddings' must be true"}},
      {kTinyLlamaConfig,
       R"({"hidden_act":"gelu"})",
       {"'hidden_act' is gelu", "llama", "silu"},
       kUnsupported},
      {kTinyLlamaConfig,
       R"({"quantization_config":{"quant_method":"gptq"}})",
       {"'quantization_config'", "gptq"},
       kUnsupported},
      {kTinyLlamaConfig,
       R"({"use_sliding_window":true})",
       {"'use_sliding_window' is on"},
       kUnsupported},
      {kTinyLlamaConfig,
       R"({"layer_types":["full_attention","sliding_attention"]})",
       {"'layer_types'", "sliding_attention"},
       kUnsupported},
      {kTinyLlamaConfig, R"({"layer_types":3})", {"'layer_types' is not an array"}},
      {kTinyLlamaConfig,
       R"({"partial_rotary_factor":0.5})",
       {"'partial_rotary_factor' is 0.5"},
       kUnsupported},
      {kTinyLlamaConfig, R"({"rope_scaling":3})", {"'rope_scaling' is not an object"}},
      {kTinyLlamaConfig,
       R"({"rope_scaling":{"type":"yarn","factor":4}})",
       {"'rope_scaling'", "yarn", "linear, llama3"},
       kUnsupported},
      {kTinyLlamaConfig,
       R"({"rope_scaling":{"type":"dynamic","factor":4}})",
       {"dynamic"},
       kUnsupported},
      {kTinyLlamaConfig,
       R"({"rope_scaling":{"type":"linear","rope_type":"llama3"}})",
       {"contradicts itself"}},
      {kTinyLlamaConfig, R"({"rope_scaling":{"type":"linear"}})", {"'factor' is missing"}},
      {kTinyLlamaConfig, R"({"rope_scaling":{"type":"linear","factor":0}})", {"factor is 0"}},
      {kTinyLlamaConfig,
       R"({"rope_scaling":{"type":"llama3","factor":8,"low_freq_factor":4,"high_freq_factor":4,"original_max_position_embeddings":8192}})",
       {"low_freq_factor 4", "high_freq_factor 4"}},
      {kTinyLlamaConfig,
       R"({"rope_scaling":{"type":"llama3","factor":8,"low_freq_factor":1,"high_freq_factor":4}})",
       {"'original_max_position_embeddings' is missing"}},
      {kTinyLlamaConfig,
       R"({"rope_parameters":{"rope_theta":5}})",
       {"'rope_theta' is 10000", "'rope_parameters' 5"}},
      {kTinyLlamaConfig,
       R"({"rope_parameters":{"full_attention":{}}})",
       {"differ by layer"},
       kUnsupported},
      {kTinyLlamaConfig,
       R"({"rope_parameters":{"rope_type":"default"},"rope_scaling":{"type":"linear","factor":2}})",
       {"contradict"}},
      {kTinyBertConfig, R"({"num_attention_heads":5})", {"hidden size of 32", "5 heads"}},
      {kTinyBertConfig, R"({"num_attention_heads":64})", {"'head size' is 0"}},
      {kTinyBertConfig, R"({"hidden_act":"mish"})", {"'hidden_act' is mish", "gelu"}, kUnsupported},
      {kTinyBertConfig,
       R"({"position_embedding_type":"relative_key"})",
       {"relative_key"},
       kUnsupported},
      {kTinyBertConfig, R"({"is_decoder":true})", {"'is_decoder' is on"}, kUnsupported},
      {kTinyBertConfig, R"({"type_vocab_size":0})", {"'type_vocab_size' is 0"}},
      {kTinyDistilbertConfig, R"({"dim":null})", {"'dim' is missing"}},
  };
  for (const BadConfig& bad : cases) {
    const auto spec = spec_from_config(changed(bad.base, bad.changes));
    ASSERT_FALSE(spec.ok()) << bad.changes;
    EXPECT_EQ(spec.error().code, bad.code) << bad.changes;
    for (const char* part : bad.wanted) {
      EXPECT_NE(spec.error().message.find(part), std::string::npos)
          << bad.changes << ": " << spec.error().message;
    }
  }
}

Result<ModelSpec> spec_of(const GgufWriter& writer) {
  const auto bytes = writer.finish();
  const auto file = GgufFile::parse(bytes, "f.gguf");
  EXPECT_TRUE(file.ok()) << file.error().message;
  return spec_from_gguf(*file);
}

TEST(SpecFromGguf, Decoders) {
  const auto llama = spec_of(tiny_decoder_metadata().f32("llama.rope.freq_base", 500000));
  ASSERT_TRUE(llama.ok()) << llama.error().message;
  EXPECT_EQ(llama->family, "llama");
  EXPECT_EQ(llama->rope_pairs, RopePairs::neighbours);
  EXPECT_EQ(llama->head_dim, 8);
  EXPECT_EQ(llama->kv_heads, 2);
  EXPECT_EQ(llama->vocab, 48);
  EXPECT_EQ(llama->rope_theta, 500000);
  EXPECT_TRUE(llama->tied_embeddings) << "no output.weight";
  EXPECT_FALSE(llama->qkv_bias);
  const auto untied = spec_of(tiny_decoder_metadata().f32_tensor("output.weight", {48, 32}));
  EXPECT_FALSE(untied->tied_embeddings);

  const auto qwen2 = spec_of(tiny_decoder_metadata("qwen2"));
  EXPECT_TRUE(qwen2->qkv_bias);
  EXPECT_EQ(qwen2->rope_pairs, RopePairs::halves);
  const auto qwen3 = spec_of(tiny_decoder_metadata("qwen3")
                                 .u32("qwen3.attention.key_length", 16)
                                 .u32("qwen3.attention.value_length", 16));
  EXPECT_TRUE(qwen3->qk_norm);
  EXPECT_EQ(qwen3->head_dim, 16);
  EXPECT_TRUE(spec_of(tiny_decoder_metadata().f32_tensor("blk.0.attn_q.bias", {32}))->qkv_bias);

  const auto linear = spec_of(tiny_decoder_metadata()
                                  .string("llama.rope.scaling.type", "linear")
                                  .f32("llama.rope.scaling.factor", 4));
  EXPECT_EQ(linear->rope_scaling.kind, RopeScaling::Kind::linear);
  EXPECT_EQ(linear->rope_scaling.factor, 4);
  const auto divisors = spec_of(tiny_decoder_metadata().tensor(
      "rope_freqs.weight", DType::f32, {4}, testing::bytes_of_values<float>({1, 1, 2, 8})));
  EXPECT_EQ(divisors->rope_divisors, (std::vector<float>{1, 1, 2, 8}));

  const auto padded = spec_of(tiny_decoder_metadata().f32_tensor("token_embd.weight", {64, 32}));
  EXPECT_EQ(padded->vocab, 64) << "rows of the embedding, padding and all";
}

TEST(SpecFromGguf, Encoders) {
  const auto plain = spec_of(tiny_bert_metadata().u32("bert.vocab_size", 48));
  ASSERT_TRUE(plain.ok()) << plain.error().message;
  EXPECT_EQ(plain->kind, ModelKind::encoder);
  EXPECT_EQ(plain->pooling, Pooling::mean);
  EXPECT_EQ(plain->token_types, 2);
  EXPECT_EQ(plain->sequence_length_max, 16);
  const auto cls =
      spec_of(tiny_bert_metadata().u32("bert.vocab_size", 48).u32("bert.pooling_type", 2));
  EXPECT_EQ(cls->pooling, Pooling::cls);
}

TEST(SpecFromGguf, EveryBadFileIsOneClearError) {
  const auto llama = [] { return tiny_decoder_metadata(); };
  struct Case {
    GgufWriter writer;
    std::vector<const char*> wanted;
    ErrorCode code = ErrorCode::corrupt;
  };
  constexpr auto kUnsupported = ErrorCode::unsupported;
  const Case cases[] = {
      {GgufWriter(), {"general.architecture is missing"}},
      {GgufWriter().u32("general.architecture", 1), {"general.architecture is an integer"}},
      {GgufWriter().string("general.architecture", "gemma"),
       {"'gemma'", "llama, qwen2"},
       kUnsupported},
      {GgufWriter().string("general.architecture", "distilbert"), {"'distilbert'"}, kUnsupported},
      {GgufWriter().string("general.architecture", "llama"), {"llama.block_count is missing"}},
      {llama().u16("split.count", 3), {"one of 3 parts"}, kUnsupported},
      {llama().u32("llama.expert_count", 8), {"llama.expert_count is 8"}, kUnsupported},
      {llama().u32("llama.attention.sliding_window", 8), {"sliding_window is 8"}, kUnsupported},
      {llama().boolean("llama.attention.causal", false),
       {"attention.causal is false"},
       kUnsupported},
      {llama().string("llama.rope.scaling.type", "yarn"), {"yarn"}, kUnsupported},
      {llama().u32("llama.rope.dimension_count", 4), {"rope.dimension_count is 4"}, kUnsupported},
      {llama().u32("llama.attention.value_length", 4), {"value_length is 4"}, kUnsupported},
      {llama()
           .u32("llama.attention.key_length", 7)
           .u32("llama.attention.value_length", 7)
           .u32("llama.rope.dimension_count", 7),
       {"heads of 7"}},
      {llama().f32("llama.rope.freq_base", -1), {"rope base is -1"}},
      {llama().f32("llama.rope.freq_base", NAN), {"rope base is nan"}},
      {llama().f32("llama.logit_scale", 2), {"llama.logit_scale is 2"}, kUnsupported},
      {llama()
           .strings("tokenizer.ggml.tokens", std::vector<std::string>(65))
           .f32_tensor("token_embd.weight", {64, 32}),
       {"65 tokens", "64 rows"}},
      {llama().tensor("rope_freqs.weight", DType::f32, {4},
                      testing::bytes_of_values<float>({1, 1, 0, 8})),
       {"rope divisor 0"}},
      {llama().f32_tensor("rope_freqs.weight", {5}), {"5 rope divisors"}},
      {llama().f32_tensor("rope_freqs.weight", {2, 2}), {"rope_freqs.weight is f32 [2, 2]"}},
      {llama().typed_tensor("rope_freqs.weight", 12, {256}, testing::Bytes(144)),
       {"Q4_K"},
       kUnsupported},
      {tiny_bert_metadata(), {"bert.vocab_size is missing"}},
      {tiny_bert_metadata().u32("bert.vocab_size", 48).u32("bert.pooling_type", 3),
       {"pooling_type is 3"},
       kUnsupported},
      {tiny_bert_metadata()
           .u32("bert.vocab_size", 48)
           .i64("tokenizer.ggml.token_types", 1)
           .f32_tensor("token_types.weight", {0, 32})
           .u32("bert.pooling_type", 9),
       {"pooling_type is 9"},
       kUnsupported},
  };
  for (const Case& bad : cases) {
    const auto spec = spec_of(bad.writer);
    ASSERT_FALSE(spec.ok()) << bad.wanted[0];
    EXPECT_EQ(spec.error().code, bad.code) << spec.error().message;
    EXPECT_TRUE(spec.error().message.starts_with("f.gguf: ")) << spec.error().message;
    for (const char* part : bad.wanted) {
      EXPECT_NE(spec.error().message.find(part), std::string::npos)
          << part << " in: " << spec.error().message;
    }
  }
}

}  // namespace
}  // namespace impetus

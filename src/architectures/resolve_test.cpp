#include <gtest/gtest.h>

#include "architectures/model_spec.h"
#include "tests/support/test_data.h"
#include "tests/support/tiny_models.h"

namespace impetus {
namespace {

using namespace impetus::testing;

ModelSpec spec_of(std::string_view config, std::string_view type = {}, int64_t head_dim = 0) {
  json::object object = parse_json(config)->get_object();
  if (!type.empty()) object["model_type"] = type;
  if (head_dim > 0) object["head_dim"] = head_dim;
  auto spec = spec_from_config(object);
  EXPECT_TRUE(spec.ok()) << spec.error().message;
  return *spec;
}

// Resolves against a safetensors file of these tensors; empty, or the error's message.
std::string resolved(const ModelSpec& spec, const Bytes& bytes) {
  const auto weights = parse_safetensors(bytes, "f");
  EXPECT_TRUE(weights.ok()) << weights.error().message;
  if (spec.kind == ModelKind::encoder) {
    const auto found = resolve_encoder(spec, *weights);
    return found.ok() ? "" : found.error().message;
  }
  const auto found = resolve_decoder(spec, *weights);
  return found.ok() ? "" : found.error().message;
}

TEST(Resolve, EveryNamingOfEveryArchitecture) {
  EXPECT_EQ(resolved(spec_of(kTinyLlamaConfig), safetensors_of(tiny_decoder_tensors())), "");
  EXPECT_EQ(resolved(spec_of(kTinyLlamaConfig), safetensors_of(tiny_decoder_tensors(""))), "");
  EXPECT_EQ(resolved(spec_of(kTinyLlamaConfig, "qwen2"),
                     safetensors_of(tiny_decoder_tensors("model.", true))),
            "");
  EXPECT_EQ(resolved(spec_of(kTinyLlamaConfig, "qwen3", 8),
                     safetensors_of(tiny_decoder_tensors("model.", false, true))),
            "");
  EXPECT_EQ(resolved(spec_of(kTinyBertConfig), safetensors_of(tiny_bert_tensors())), "");
  EXPECT_EQ(resolved(spec_of(kTinyBertConfig), safetensors_of(tiny_bert_tensors("bert."))), "");
  EXPECT_EQ(resolved(spec_of(kTinyBertConfig),
                     safetensors_of(tiny_bert_tensors("bert.", "gamma", "beta"))),
            "");
  EXPECT_EQ(resolved(spec_of(kTinyDistilbertConfig), safetensors_of(tiny_distilbert_tensors())),
            "");
  EXPECT_EQ(resolved(spec_of(kTinyDistilbertConfig),
                     safetensors_of(tiny_distilbert_tensors("distilbert."))),
            "");
}

TEST(Resolve, EveryNamingOfGguf) {
  struct Case {
    const char* architecture;
    bool bias, norm, head;
  };
  for (const Case& made : {Case{"llama", false, false, true},
                           {"llama", false, false, false},
                           {"llama", true, false, true},
                           {"qwen2", true, false, false},
                           {"qwen3", false, true, true}}) {
    const Bytes bytes = gguf_of(tiny_decoder_metadata(made.architecture),
                                tiny_decoder_gguf_tensors(made.bias, made.norm, made.head));
    const auto file = GgufFile::parse(bytes, "f");
    ASSERT_TRUE(file.ok()) << file.error().message;
    const auto spec = spec_from_gguf(*file);
    ASSERT_TRUE(spec.ok()) << spec.error().message;
    const auto found = resolve_decoder(*spec, file->weights());
    ASSERT_TRUE(found.ok()) << found.error().message;
    EXPECT_EQ(found->layers.size(), 2u);
    EXPECT_EQ(found->head.weight == found->embedding, !made.head);
    EXPECT_EQ(found->layers[1].q.bias != nullptr, made.bias);
    EXPECT_EQ(found->layers[1].q_norm.weight != nullptr, made.norm);
    EXPECT_EQ(found->layers[1].down.weight->name, "blk.1.ffn_down.weight");
  }
  const Bytes bytes = gguf_of(tiny_bert_metadata(), tiny_bert_gguf_tensors());
  const auto file = GgufFile::parse(bytes, "f");
  const auto spec = spec_from_gguf(*file);
  ASSERT_TRUE(spec.ok()) << spec.error().message;
  const auto found = resolve_encoder(*spec, file->weights());
  ASSERT_TRUE(found.ok()) << found.error().message;
  EXPECT_EQ(found->type_embedding->name, "token_types.weight");
}

// Same-shaped tensors could change places unseen: what each one is for, by name.
TEST(Resolve, EachNameHasItsRole) {
  const auto decoder_roles = [](const DecoderWeights::Layer& l) {
    return std::vector<std::string>{l.attention_norm.weight->name,
                                    l.feed_forward_norm.weight->name,
                                    l.q_norm.weight->name,
                                    l.k_norm.weight->name,
                                    l.q.weight->name,
                                    l.k.weight->name,
                                    l.v.weight->name,
                                    l.output.weight->name,
                                    l.gate.weight->name,
                                    l.up.weight->name,
                                    l.down.weight->name};
  };
  using Names = std::vector<std::string>;
  const auto named = [](const std::string& prefix, Names names) {
    for (std::string& name : names) name = prefix + name + ".weight";
    return names;
  };
  const Bytes qwen3 = safetensors_of(tiny_decoder_tensors("model.", false, true));
  const auto weights = parse_safetensors(qwen3, "f");
  const auto decoder = resolve_decoder(spec_of(kTinyLlamaConfig, "qwen3", 8), *weights);
  EXPECT_EQ(decoder_roles(decoder->layers[1]),
            named("model.layers.1.",
                  {"input_layernorm", "post_attention_layernorm", "self_attn.q_norm",
                   "self_attn.k_norm", "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj",
                   "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"}));
  const Bytes qwen3_gguf =
      gguf_of(tiny_decoder_metadata("qwen3"), tiny_decoder_gguf_tensors(false, true));
  const auto file = GgufFile::parse(qwen3_gguf, "f");
  const auto from_gguf = resolve_decoder(*spec_from_gguf(*file), file->weights());
  EXPECT_EQ(decoder_roles(from_gguf->layers[1]),
            named("blk.1.", {"attn_norm", "ffn_norm", "attn_q_norm", "attn_k_norm", "attn_q",
                             "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"}));

  const auto encoder_roles = [](const EncoderWeights& found) {
    const EncoderWeights::Layer& l = found.layers[1];
    return Names{l.q.weight->name,
                 l.k.weight->name,
                 l.v.weight->name,
                 l.output.weight->name,
                 l.up.weight->name,
                 l.down.weight->name,
                 l.attention_norm.weight->name,
                 l.output_norm.weight->name};
  };
  const Bytes bert = safetensors_of(tiny_bert_tensors());
  const auto bert_weights = parse_safetensors(bert, "f");
  EXPECT_EQ(encoder_roles(*resolve_encoder(spec_of(kTinyBertConfig), *bert_weights)),
            named("encoder.layer.1.",
                  {"attention.self.query", "attention.self.key", "attention.self.value",
                   "attention.output.dense", "intermediate.dense", "output.dense",
                   "attention.output.LayerNorm", "output.LayerNorm"}));
  const Bytes distilbert = safetensors_of(tiny_distilbert_tensors());
  const auto distilbert_weights = parse_safetensors(distilbert, "f");
  EXPECT_EQ(encoder_roles(*resolve_encoder(spec_of(kTinyDistilbertConfig), *distilbert_weights)),
            named("transformer.layer.1.",
                  {"attention.q_lin", "attention.k_lin", "attention.v_lin", "attention.out_lin",
                   "ffn.lin1", "ffn.lin2", "sa_layer_norm", "output_layer_norm"}));
  const Bytes bert_gguf = gguf_of(tiny_bert_metadata(), tiny_bert_gguf_tensors());
  const auto bert_file = GgufFile::parse(bert_gguf, "f");
  EXPECT_EQ(encoder_roles(*resolve_encoder(*spec_from_gguf(*bert_file), bert_file->weights())),
            named("blk.1.", {"attn_q", "attn_k", "attn_v", "attn_output", "ffn_up", "ffn_down",
                             "attn_output_norm", "layer_output_norm"}));
}

TEST(Resolve, TheHead) {
  ModelSpec spec = spec_of(kTinyLlamaConfig);
  const Bytes headless = safetensors_of(tiny_decoder_tensors("model.", false, false, false));
  EXPECT_EQ(resolved(spec, headless), "f: tensor lm_head.weight is missing")
      << "the config says that there is one";
  spec.tied_if_headless = true;
  EXPECT_EQ(resolved(spec, headless), "");
  const Bytes whole = safetensors_of(tiny_decoder_tensors());
  const auto weights = parse_safetensors(whole, "f");
  const auto own = resolve_decoder(spec, *weights);
  EXPECT_EQ(own->head.weight->name, "lm_head.weight");
  spec.tied_embeddings = true;
  const auto tied = resolve_decoder(spec, *weights);
  EXPECT_EQ(tied->head.weight, tied->embedding) << "as the config says, whatever else is there";
  EXPECT_EQ(tied->embedding->name, "model.embed_tokens.weight");

  TensorList under_head = tiny_decoder_tensors();
  std::erase_if(under_head,
                [](const auto& entry) { return entry.first == "model.embed_tokens.weight"; });
  const Bytes without = safetensors_of(under_head);
  const auto kept = parse_safetensors(without, "f");
  const auto shared = resolve_decoder(spec, *kept);
  ASSERT_TRUE(shared.ok()) << shared.error().message;
  EXPECT_EQ(shared->embedding->name, "lm_head.weight") << "one name of a shared tensor is kept";
  EXPECT_EQ(shared->head.weight, shared->embedding);
  spec.tied_embeddings = false;
  EXPECT_NE(resolved(spec, safetensors_of(under_head)).find("token embedding is missing"),
            std::string::npos);
}

// Takes each tensor of the list away, bends its shape, and changes its type: each time one error
// that names it.
void expect_every_tensor_matters(const ModelSpec& spec, const TensorList& list) {
  for (size_t changed = 0; changed < list.size(); ++changed) {
    const std::string& name = list[changed].first;
    TensorList fewer = list;
    fewer.erase(fewer.begin() + static_cast<ptrdiff_t>(changed));
    const std::string missing = resolved(spec, safetensors_of(fewer));
    EXPECT_NE(missing.find(name), std::string::npos) << missing;
    EXPECT_NE(missing.find("missing"), std::string::npos) << name << ": " << missing;

    TensorList bent = list;
    bent[changed].second.back() += 1;
    const std::string shape = resolved(spec, safetensors_of(bent));
    EXPECT_TRUE(shape.starts_with("f: tensor " + name + " is [")) << shape;
    bent[changed].second = {list[changed].second};
    bent[changed].second.insert(bent[changed].second.begin(), 1);
    EXPECT_NE(resolved(spec, safetensors_of(bent)).find("the model needs ["), std::string::npos);

    for (const char* type : {"I32", "F8_E4M3"}) {
      SafetensorsWriter writer;
      for (size_t i = 0; i < list.size(); ++i) {
        if (i != changed) {
          writer.f32_tensor(list[i].first, list[i].second);
          continue;
        }
        uint64_t elements = 1;
        for (const uint64_t dim : list[i].second) elements *= dim;
        writer.tensor(name, type, list[i].second, Bytes(elements * (type[0] == 'I' ? 4 : 1)));
      }
      const std::string refused = resolved(spec, writer.finish());
      EXPECT_TRUE(refused.starts_with("f: tensor " + name + " has ")) << type << ": " << refused;
    }
  }
}

TEST(Resolve, EveryTensorMatters) {
  expect_every_tensor_matters(spec_of(kTinyLlamaConfig, "qwen2"),
                              tiny_decoder_tensors("model.", true));
  expect_every_tensor_matters(spec_of(kTinyLlamaConfig, "qwen3", 8),
                              tiny_decoder_tensors("", false, true));
  expect_every_tensor_matters(spec_of(kTinyBertConfig), tiny_bert_tensors("bert."));
  expect_every_tensor_matters(spec_of(kTinyDistilbertConfig), tiny_distilbert_tensors());
}

TEST(Resolve, TypesOfVectorsAndMatrices) {
  const auto with = [](std::string_view changed, DType type) {
    GgufWriter writer = tiny_decoder_metadata();
    for (const auto& [name, shape] : tiny_decoder_gguf_tensors()) {
      if (name != changed) {
        writer.f32_tensor(name, shape);
        continue;
      }
      int64_t elements = 1;
      for (const uint64_t dim : shape) elements *= static_cast<int64_t>(dim);
      writer.tensor(name, type, shape, Bytes(static_cast<size_t>(*bytes_of(type, elements))));
    }
    const Bytes bytes = writer.finish();
    const auto file = GgufFile::parse(bytes, "f");
    const auto found = resolve_decoder(*spec_from_gguf(*file), file->weights());
    return found.ok() ? std::string() : found.error().message;
  };
  for (const DType type : {DType::f32, DType::f16, DType::bf16}) {
    EXPECT_EQ(with("blk.0.attn_norm.weight", type), "") << "the loaders convert";
    EXPECT_EQ(with("blk.0.attn_q.weight", type), "");
  }
  for (const DType type : {DType::q8_0, DType::q4_0}) {
    EXPECT_EQ(with("blk.0.attn_q.weight", type), "");
    EXPECT_EQ(with("token_embd.weight", type), "");
    EXPECT_NE(with("blk.0.attn_norm.weight", type).find("tensor blk.0.attn_norm.weight has type q"),
              std::string::npos);
  }
}

TEST(Resolve, SaysWhatItLookedForWhereNothingFits) {
  const std::string message =
      resolved(spec_of(kTinyBertConfig), safetensors_of(tiny_decoder_tensors()));
  EXPECT_NE(message.find("embeddings.word_embeddings.weight, bert.embeddings"), std::string::npos)
      << message;
  EXPECT_NE(resolved(spec_of(kTinyBertConfig), safetensors_of({})), "");
  ModelSpec hostile = spec_of(kTinyLlamaConfig);
  hostile.layers = INT64_MAX;
  EXPECT_NE(resolved(hostile, safetensors_of(tiny_decoder_tensors())), "");
}

TEST(ResolveFixtures, RealModels) {
  const auto fixtures = test_data() / "fixtures";
  IMPETUS_NEED_DATA(fixtures / "tiny_llama_config.json");
  for (const std::string name :
       {"llama", "qwen2", "qwen3", "bert", "distilbert", "bert_seqcls", "e5"}) {
    const auto config = read_json_file((fixtures / ("tiny_" + name + "_config.json")).string());
    ASSERT_TRUE(config.ok()) << config.error().message;
    const auto spec = spec_from_config(config->get_object());
    ASSERT_TRUE(spec.ok()) << name << ": " << spec.error().message;
    const auto weights = open_safetensors(fixtures / ("tiny_" + name + ".safetensors"));
    ASSERT_TRUE(weights.ok()) << weights.error().message;
    if (spec->kind == ModelKind::decoder) {
      const auto found = resolve_decoder(*spec, *weights);
      EXPECT_TRUE(found.ok()) << found.error().message;
    } else {
      const auto found = resolve_encoder(*spec, *weights);
      EXPECT_TRUE(found.ok()) << found.error().message;
    }
  }
  // Other architectures are refused by name.
  for (const std::string name :
       {"gemma2", "mixtral", "phi3", "modernbert", "roberta", "qwen3_moe"}) {
    const auto config = read_json_file((fixtures / ("tiny_" + name + "_config.json")).string());
    ASSERT_TRUE(config.ok()) << config.error().message;
    const auto spec = spec_from_config(config->get_object());
    ASSERT_FALSE(spec.ok()) << name;
    EXPECT_EQ(spec.error().code, ErrorCode::unsupported) << name;
  }
  for (const char* name : {"fixtures/tiny_llama_f32.gguf", "fixtures/tiny_llama_f16.gguf",
                           "models/stories-260k/stories260K.gguf"}) {
    const auto file = GgufFile::open(test_data() / name);
    ASSERT_TRUE(file.ok()) << file.error().message;
    const auto spec = spec_from_gguf(*file);
    ASSERT_TRUE(spec.ok()) << spec.error().message;
    const auto found = resolve_decoder(*spec, file->weights());
    EXPECT_TRUE(found.ok()) << found.error().message;
    EXPECT_EQ(spec->rope_pairs, RopePairs::neighbours);
  }
  const auto tinystories = test_data() / "models/tinystories-656k";
  const auto config = read_json_file((tinystories / "config.json").string());
  const auto spec = spec_from_config(config->get_object());
  ASSERT_TRUE(spec.ok()) << spec.error().message;
  EXPECT_TRUE(spec->tied_embeddings);
  const auto weights = open_safetensors_folder(tinystories);
  ASSERT_TRUE(weights.ok()) << weights.error().message;
  const auto found = resolve_decoder(*spec, *weights);
  ASSERT_TRUE(found.ok()) << found.error().message;
  EXPECT_EQ(found->head.weight, found->embedding);
}

}  // namespace
}  // namespace impetus

// Tiny models for tests: the names and shapes of every tensor of an architecture, as the published
// checkpoints have them, and the config.json or metadata that goes with them.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "tests/support/gguf_writer.h"
#include "tests/support/safetensors_writer.h"

namespace impetus::testing {

using TensorList = std::vector<std::pair<std::string, std::vector<uint64_t>>>;

inline constexpr std::string_view kTinyLlamaConfig =
    R"({"model_type":"llama","hidden_size":32,"intermediate_size":64,"num_hidden_layers":2,)"
    R"("num_attention_heads":4,"num_key_value_heads":2,"vocab_size":48,)"
    R"("max_position_embeddings":64,"rms_norm_eps":1e-5,"rope_theta":10000.0,)"
    R"("tie_word_embeddings":false,"hidden_act":"silu"})";

// hidden 32, 2 layers, 4 heads of 8 (2 for keys and values), feed-forward 64, vocabulary 48.
inline TensorList tiny_decoder_tensors(std::string_view prefix = "model.", bool qkv_bias = false,
                                       bool qk_norm = false, bool head = true) {
  const std::string base(prefix);
  TensorList list = {{base + "embed_tokens.weight", {48, 32}}, {base + "norm.weight", {32}}};
  if (head) list.push_back({"lm_head.weight", {48, 32}});
  for (int i = 0; i < 2; ++i) {
    const std::string layer = base + "layers." + std::to_string(i) + ".";
    list.push_back({layer + "input_layernorm.weight", {32}});
    list.push_back({layer + "post_attention_layernorm.weight", {32}});
    for (const auto& [name, rows] : {std::pair{"q", 32u}, {"k", 16u}, {"v", 16u}}) {
      const std::string projection = layer + "self_attn." + name + "_proj.";
      list.push_back({projection + "weight", {rows, 32}});
      if (qkv_bias) list.push_back({projection + "bias", {rows}});
    }
    if (qk_norm) {
      list.push_back({layer + "self_attn.q_norm.weight", {8}});
      list.push_back({layer + "self_attn.k_norm.weight", {8}});
    }
    list.push_back({layer + "self_attn.o_proj.weight", {32, 32}});
    list.push_back({layer + "mlp.gate_proj.weight", {64, 32}});
    list.push_back({layer + "mlp.up_proj.weight", {64, 32}});
    list.push_back({layer + "mlp.down_proj.weight", {32, 64}});
  }
  return list;
}

inline constexpr std::string_view kTinyBertConfig =
    R"({"model_type":"bert","hidden_size":32,"intermediate_size":64,"num_hidden_layers":2,)"
    R"("num_attention_heads":4,"vocab_size":48,"max_position_embeddings":16,)"
    R"("type_vocab_size":2,"hidden_act":"gelu","layer_norm_eps":1e-12})";

// `norm_weight` and `norm_bias`: "weight" and "bias", or "gamma" and "beta" as the oldest have it.
inline TensorList tiny_bert_tensors(std::string_view prefix = "",
                                    std::string_view norm_weight = "weight",
                                    std::string_view norm_bias = "bias") {
  const std::string base(prefix);
  TensorList list = {{base + "embeddings.word_embeddings.weight", {48, 32}},
                     {base + "embeddings.position_embeddings.weight", {16, 32}},
                     {base + "embeddings.token_type_embeddings.weight", {2, 32}}};
  const auto norm = [&](const std::string& name) {
    list.push_back({name + "." + std::string(norm_weight), {32}});
    list.push_back({name + "." + std::string(norm_bias), {32}});
  };
  const auto linear = [&](const std::string& name, uint64_t out, uint64_t in) {
    list.push_back({name + ".weight", {out, in}});
    list.push_back({name + ".bias", {out}});
  };
  norm(base + "embeddings.LayerNorm");
  for (int i = 0; i < 2; ++i) {
    const std::string layer = base + "encoder.layer." + std::to_string(i) + ".";
    for (const char* name : {"query", "key", "value"})
      linear(layer + "attention.self." + name, 32, 32);
    linear(layer + "attention.output.dense", 32, 32);
    norm(layer + "attention.output.LayerNorm");
    linear(layer + "intermediate.dense", 64, 32);
    linear(layer + "output.dense", 32, 64);
    norm(layer + "output.LayerNorm");
  }
  return list;
}

inline constexpr std::string_view kTinyDistilbertConfig =
    R"({"model_type":"distilbert","dim":32,"hidden_dim":64,"n_layers":2,"n_heads":4,)"
    R"("vocab_size":48,"max_position_embeddings":16,"activation":"gelu"})";

inline TensorList tiny_distilbert_tensors(std::string_view prefix = "") {
  const std::string base(prefix);
  TensorList list = {{base + "embeddings.word_embeddings.weight", {48, 32}},
                     {base + "embeddings.position_embeddings.weight", {16, 32}},
                     {base + "embeddings.LayerNorm.weight", {32}},
                     {base + "embeddings.LayerNorm.bias", {32}}};
  for (int i = 0; i < 2; ++i) {
    const std::string layer = base + "transformer.layer." + std::to_string(i) + ".";
    for (const char* name : {"q_lin", "k_lin", "v_lin", "out_lin"}) {
      list.push_back({layer + "attention." + name + ".weight", {32, 32}});
      list.push_back({layer + "attention." + name + ".bias", {32}});
    }
    for (const char* name : {"sa_layer_norm", "output_layer_norm"}) {
      list.push_back({layer + name + ".weight", {32}});
      list.push_back({layer + name + ".bias", {32}});
    }
    list.push_back({layer + "ffn.lin1.weight", {64, 32}});
    list.push_back({layer + "ffn.lin1.bias", {64}});
    list.push_back({layer + "ffn.lin2.weight", {32, 64}});
    list.push_back({layer + "ffn.lin2.bias", {32}});
  }
  return list;
}

inline Bytes safetensors_of(const TensorList& list) {
  SafetensorsWriter writer;
  uint32_t seed = 1;
  for (const auto& [name, shape] : list) writer.f32_tensor(name, shape, seed++);
  return writer.finish();
}

// Metadata of the tiny decoder under `architecture`, without tensors.
inline GgufWriter tiny_decoder_metadata(const std::string& architecture = "llama") {
  GgufWriter writer;
  writer.string("general.architecture", architecture)
      .u32(architecture + ".block_count", 2)
      .u32(architecture + ".context_length", 64)
      .u32(architecture + ".embedding_length", 32)
      .u32(architecture + ".feed_forward_length", 64)
      .u32(architecture + ".attention.head_count", 4)
      .u32(architecture + ".attention.head_count_kv", 2)
      .f32(architecture + ".attention.layer_norm_rms_epsilon", 1e-5f)
      .u32(architecture + ".vocab_size", 48);
  return writer;
}

inline TensorList tiny_decoder_gguf_tensors(bool qkv_bias = false, bool qk_norm = false,
                                            bool head = true) {
  TensorList list = {{"token_embd.weight", {48, 32}}, {"output_norm.weight", {32}}};
  if (head) list.push_back({"output.weight", {48, 32}});
  for (int i = 0; i < 2; ++i) {
    const std::string layer = "blk." + std::to_string(i) + ".";
    list.push_back({layer + "attn_norm.weight", {32}});
    list.push_back({layer + "ffn_norm.weight", {32}});
    for (const auto& [name, rows] : {std::pair{"q", 32u}, {"k", 16u}, {"v", 16u}}) {
      list.push_back({layer + "attn_" + name + ".weight", {rows, 32}});
      if (qkv_bias) list.push_back({layer + "attn_" + name + ".bias", {rows}});
    }
    if (qk_norm) {
      list.push_back({layer + "attn_q_norm.weight", {8}});
      list.push_back({layer + "attn_k_norm.weight", {8}});
    }
    list.push_back({layer + "attn_output.weight", {32, 32}});
    list.push_back({layer + "ffn_gate.weight", {64, 32}});
    list.push_back({layer + "ffn_up.weight", {64, 32}});
    list.push_back({layer + "ffn_down.weight", {32, 64}});
  }
  return list;
}

inline GgufWriter tiny_bert_metadata() {
  GgufWriter writer;
  writer.string("general.architecture", "bert")
      .u32("bert.block_count", 2)
      .u32("bert.context_length", 16)
      .u32("bert.embedding_length", 32)
      .u32("bert.feed_forward_length", 64)
      .u32("bert.attention.head_count", 4)
      .f32("bert.attention.layer_norm_epsilon", 1e-12f)
      .boolean("bert.attention.causal", false)
      .u32("tokenizer.ggml.token_type_count", 2);
  return writer;
}

inline TensorList tiny_bert_gguf_tensors() {
  TensorList list = {{"token_embd.weight", {48, 32}},
                     {"position_embd.weight", {16, 32}},
                     {"token_types.weight", {2, 32}},
                     {"token_embd_norm.weight", {32}},
                     {"token_embd_norm.bias", {32}}};
  for (int i = 0; i < 2; ++i) {
    const std::string layer = "blk." + std::to_string(i) + ".";
    for (const char* name : {"attn_q", "attn_k", "attn_v", "attn_output"}) {
      list.push_back({layer + name + ".weight", {32, 32}});
      list.push_back({layer + name + ".bias", {32}});
    }
    for (const char* name : {"attn_output_norm", "layer_output_norm"}) {
      list.push_back({layer + name + ".weight", {32}});
      list.push_back({layer + name + ".bias", {32}});
    }
    list.push_back({layer + "ffn_up.weight", {64, 32}});
    list.push_back({layer + "ffn_up.bias", {64}});
    list.push_back({layer + "ffn_down.weight", {32, 64}});
    list.push_back({layer + "ffn_down.bias", {32}});
  }
  return list;
}

inline Bytes gguf_of(GgufWriter metadata, const TensorList& list) {
  uint32_t seed = 1;
  for (const auto& [name, shape] : list) metadata.f32_tensor(name, shape, seed++);
  return metadata.finish();
}

}  // namespace impetus::testing

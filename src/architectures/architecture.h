// The table behind model_spec.h: one row an architecture. Internal to this folder.
#pragma once

#include <array>
#include <span>
#include <string>
#include <string_view>

#include "architectures/model_spec.h"

namespace impetus {

// What config.json calls things; empty where it has no such field.
struct ConfigKeys {
  std::string_view hidden = "hidden_size";
  std::string_view feed_forward = "intermediate_size";
  std::string_view layers = "num_hidden_layers";
  std::string_view heads = "num_attention_heads";
  std::string_view activation = "hidden_act";
  std::string_view norm_eps = "rms_norm_eps";
  std::string_view token_types = "";
};

// Tensor names without ".weight" and ".bias"; "{}" stands for the layer. Empty: not in this format.
struct DecoderNames {
  std::string_view prefix;  // before every name but the head's
  std::string_view embedding, final_norm, head;
  std::string_view attention_norm, feed_forward_norm, q_norm, k_norm;
  std::string_view q, k, v, output, gate, up, down;
};

struct EncoderNames {
  std::string_view prefix;
  std::string_view token_embedding, position_embedding, type_embedding, embedding_norm;
  std::string_view q, k, v, output, attention_norm, up, down, output_norm;
};

struct Architecture {
  std::string_view name;  // config.json's model_type, and GGUF's general.architecture
  bool in_gguf = false;
  ModelKind kind = ModelKind::decoder;
  ConfigKeys keys = {};

  // decoders
  bool qkv_bias = false;            // always; elsewhere config.json's attention_bias decides
  bool attention_bias_key = false;  // attention_bias: biases on q, k, v and the output
  bool mlp_bias_key = false;
  bool qk_norm = false;
  int64_t head_dim_default = 0;  // 0: hidden / heads
  RopePairs gguf_pairs = RopePairs::halves;

  double norm_eps_default = 0;
  std::string_view activation_default;

  // In the order they are tried: the first whose (token) embedding is in the file.
  std::span<const DecoderNames> decoder_names = {};
  std::span<const EncoderNames> encoder_names = {};
};

// nullptr where this version has no such row.
const Architecture* find_architecture(std::string_view name);
// "llama, qwen2, ...", for messages.
std::string architecture_names(bool gguf_only);

// Checks the fields against each other and their bounds, whatever they were read from.
Result<void> validate(const ModelSpec& spec);

// A dimension as config.json and GGUF give it: the message names `key`.
Result<int64_t> bounded(std::string_view key, int64_t value, int64_t maximum);

inline constexpr int64_t kLayersMax = 4096;
inline constexpr int64_t kHeadsMax = 1 << 16;
inline constexpr int64_t kWidthMax = 1 << 24;  // hidden, feed-forward, heads * head_dim
inline constexpr int64_t kVocabMax = 1 << 28;
inline constexpr int64_t kContextMax = 1 << 30;

}  // namespace impetus

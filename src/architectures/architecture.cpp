// Facts from the public formats: config.json as transformers writes it
// (https://huggingface.co/docs/transformers), tensor names as the published checkpoints have them,
// and GGUF's (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md).
#include "architectures/architecture.h"

#include <algorithm>
#include <cmath>

namespace impetus {
namespace {

constexpr DecoderNames decoder_as_transformers(std::string_view prefix) {
  return {.prefix = prefix,
          .embedding = "embed_tokens",
          .final_norm = "norm",
          .head = "lm_head",
          .attention_norm = "layers.{}.input_layernorm",
          .feed_forward_norm = "layers.{}.post_attention_layernorm",
          .q_norm = "layers.{}.self_attn.q_norm",
          .k_norm = "layers.{}.self_attn.k_norm",
          .q = "layers.{}.self_attn.q_proj",
          .k = "layers.{}.self_attn.k_proj",
          .v = "layers.{}.self_attn.v_proj",
          .output = "layers.{}.self_attn.o_proj",
          .gate = "layers.{}.mlp.gate_proj",
          .up = "layers.{}.mlp.up_proj",
          .down = "layers.{}.mlp.down_proj"};
}

constexpr std::array kDecoderNames = {
    decoder_as_transformers("model."),
    decoder_as_transformers(""),
    DecoderNames{.prefix = "",
                 .embedding = "token_embd",
                 .final_norm = "output_norm",
                 .head = "output",
                 .attention_norm = "blk.{}.attn_norm",
                 .feed_forward_norm = "blk.{}.ffn_norm",
                 .q_norm = "blk.{}.attn_q_norm",
                 .k_norm = "blk.{}.attn_k_norm",
                 .q = "blk.{}.attn_q",
                 .k = "blk.{}.attn_k",
                 .v = "blk.{}.attn_v",
                 .output = "blk.{}.attn_output",
                 .gate = "blk.{}.ffn_gate",
                 .up = "blk.{}.ffn_up",
                 .down = "blk.{}.ffn_down"},
};

constexpr EncoderNames bert_as_transformers(std::string_view prefix) {
  return {.prefix = prefix,
          .token_embedding = "embeddings.word_embeddings",
          .position_embedding = "embeddings.position_embeddings",
          .type_embedding = "embeddings.token_type_embeddings",
          .embedding_norm = "embeddings.LayerNorm",
          .q = "encoder.layer.{}.attention.self.query",
          .k = "encoder.layer.{}.attention.self.key",
          .v = "encoder.layer.{}.attention.self.value",
          .output = "encoder.layer.{}.attention.output.dense",
          .attention_norm = "encoder.layer.{}.attention.output.LayerNorm",
          .up = "encoder.layer.{}.intermediate.dense",
          .down = "encoder.layer.{}.output.dense",
          .output_norm = "encoder.layer.{}.output.LayerNorm"};
}

constexpr std::array kBertNames = {
    bert_as_transformers(""),
    bert_as_transformers("bert."),
    EncoderNames{.prefix = "",
                 .token_embedding = "token_embd",
                 .position_embedding = "position_embd",
                 .type_embedding = "token_types",
                 .embedding_norm = "token_embd_norm",
                 .q = "blk.{}.attn_q",
                 .k = "blk.{}.attn_k",
                 .v = "blk.{}.attn_v",
                 .output = "blk.{}.attn_output",
                 .attention_norm = "blk.{}.attn_output_norm",
                 .up = "blk.{}.ffn_up",
                 .down = "blk.{}.ffn_down",
                 .output_norm = "blk.{}.layer_output_norm"},
};

constexpr EncoderNames distilbert_as_transformers(std::string_view prefix) {
  return {.prefix = prefix,
          .token_embedding = "embeddings.word_embeddings",
          .position_embedding = "embeddings.position_embeddings",
          .type_embedding = "",
          .embedding_norm = "embeddings.LayerNorm",
          .q = "transformer.layer.{}.attention.q_lin",
          .k = "transformer.layer.{}.attention.k_lin",
          .v = "transformer.layer.{}.attention.v_lin",
          .output = "transformer.layer.{}.attention.out_lin",
          .attention_norm = "transformer.layer.{}.sa_layer_norm",
          .up = "transformer.layer.{}.ffn.lin1",
          .down = "transformer.layer.{}.ffn.lin2",
          .output_norm = "transformer.layer.{}.output_layer_norm"};
}

constexpr std::array kDistilbertNames = {distilbert_as_transformers(""),
                                         distilbert_as_transformers("distilbert.")};

constexpr std::array kArchitectures = {
    Architecture{.name = "llama",
                 .in_gguf = true,
                 .attention_bias_key = true,
                 .mlp_bias_key = true,
                 .gguf_pairs = RopePairs::neighbours,
                 .norm_eps_default = 1e-6,
                 .activation_default = "silu",
                 .decoder_names = kDecoderNames},
    Architecture{.name = "qwen2",
                 .in_gguf = true,
                 .qkv_bias = true,
                 .norm_eps_default = 1e-6,
                 .activation_default = "silu",
                 .decoder_names = kDecoderNames},
    Architecture{.name = "qwen3",
                 .in_gguf = true,
                 .attention_bias_key = true,
                 .qk_norm = true,
                 .head_dim_default = 128,
                 .norm_eps_default = 1e-6,
                 .activation_default = "silu",
                 .decoder_names = kDecoderNames},
    Architecture{.name = "bert",
                 .in_gguf = true,
                 .kind = ModelKind::encoder,
                 .keys = {.norm_eps = "layer_norm_eps", .token_types = "type_vocab_size"},
                 .norm_eps_default = 1e-12,
                 .activation_default = "gelu",
                 .encoder_names = kBertNames},
    Architecture{.name = "distilbert",
                 .kind = ModelKind::encoder,
                 .keys = {.hidden = "dim",
                          .feed_forward = "hidden_dim",
                          .layers = "n_layers",
                          .heads = "n_heads",
                          .activation = "activation",
                          .norm_eps = ""},
                 .norm_eps_default = 1e-12,
                 .activation_default = "gelu",
                 .encoder_names = kDistilbertNames},
};

}  // namespace

const Architecture* find_architecture(std::string_view name) {
  const auto row = std::find_if(kArchitectures.begin(), kArchitectures.end(),
                                [&](const Architecture& known) { return known.name == name; });
  return row == kArchitectures.end() ? nullptr : &*row;
}

std::string architecture_names(bool gguf_only) {
  std::string names;
  for (const Architecture& row : kArchitectures) {
    if (gguf_only && !row.in_gguf) continue;
    if (!names.empty()) names += ", ";
    names += row.name;
  }
  return names;
}

Result<int64_t> bounded(std::string_view key, int64_t value, int64_t maximum) {
  if (value < 1 || value > maximum) {
    return error(ErrorCode::corrupt, "'{}' is {}, outside 1 to {}", key, value, maximum);
  }
  return value;
}

namespace {

Result<void> validate_rope(const ModelSpec& spec) {
  if (spec.head_dim % 2 != 0) {
    return error(ErrorCode::corrupt, "heads of {} values cannot be rotated in pairs",
                 spec.head_dim);
  }
  if (!std::isfinite(spec.rope_theta) || spec.rope_theta <= 1) {
    return error(ErrorCode::corrupt, "the rope base is {}, not a finite number above 1",
                 spec.rope_theta);
  }
  const RopeScaling& scaling = spec.rope_scaling;
  if (scaling.kind != RopeScaling::Kind::none &&
      (!std::isfinite(scaling.factor) || scaling.factor < 1 || scaling.factor > 1e6)) {
    return error(ErrorCode::corrupt, "the rope scaling factor is {}, outside 1 to 1e6",
                 scaling.factor);
  }
  if (scaling.kind == RopeScaling::Kind::llama3) {
    const double low = scaling.low_frequency_factor;
    const double high = scaling.high_frequency_factor;
    if (!std::isfinite(low) || !std::isfinite(high) || low <= 0 || high <= low) {
      return error(
          ErrorCode::corrupt,
          "rope scaling: low_freq_factor {} and high_freq_factor {} are not 0 < low < high", low,
          high);
    }
    IMPETUS_CHECK(
        bounded("original_max_position_embeddings", scaling.original_context, kContextMax));
  }
  if (!spec.rope_divisors.empty()) {
    if (spec.rope_divisors.size() != static_cast<size_t>(spec.head_dim / 2)) {
      return error(ErrorCode::corrupt, "{} rope divisors, heads of {} values need {}",
                   spec.rope_divisors.size(), spec.head_dim, spec.head_dim / 2);
    }
    for (const float divisor : spec.rope_divisors) {
      if (!std::isfinite(divisor) || divisor <= 0) {
        return error(ErrorCode::corrupt, "rope divisor {} is not a positive number", divisor);
      }
    }
  }
  return {};
}

}  // namespace

Result<void> validate(const ModelSpec& spec) {
  IMPETUS_CHECK(bounded("layers", spec.layers, kLayersMax));
  IMPETUS_CHECK(bounded("hidden size", spec.hidden, kWidthMax));
  IMPETUS_CHECK(bounded("heads", spec.heads, kHeadsMax));
  IMPETUS_CHECK(bounded("key-value heads", spec.kv_heads, kHeadsMax));
  IMPETUS_CHECK(bounded("head size", spec.head_dim, kWidthMax));
  IMPETUS_CHECK(bounded("feed-forward size", spec.feed_forward, kWidthMax));
  IMPETUS_CHECK(bounded("vocabulary size", spec.vocab, kVocabMax));
  IMPETUS_CHECK(bounded("context", spec.context, kContextMax));
  IMPETUS_CHECK(bounded("heads times head size", spec.heads * spec.head_dim, kWidthMax));
  if (spec.heads % spec.kv_heads != 0) {
    return error(ErrorCode::corrupt, "{} attention heads are not a multiple of {} key-value heads",
                 spec.heads, spec.kv_heads);
  }
  if (!std::isfinite(spec.norm_eps) || spec.norm_eps <= 0 || spec.norm_eps >= 1) {
    return error(ErrorCode::corrupt, "the norm's epsilon is {}, outside 0 to 1", spec.norm_eps);
  }
  if (spec.kind == ModelKind::decoder) return validate_rope(spec);
  if (spec.heads * spec.head_dim != spec.hidden) {
    return error(ErrorCode::corrupt, "a hidden size of {} is not a multiple of {} heads",
                 spec.hidden, spec.heads);
  }
  if (spec.token_types < 0 || spec.token_types > kWidthMax) {
    return error(ErrorCode::corrupt, "{} token types are outside 0 to {}", spec.token_types,
                 kWidthMax);
  }
  return {};
}

}  // namespace impetus

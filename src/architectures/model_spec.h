// What a model is, as data. Adding an architecture of a known family is a row in a table
// (architecture.cpp), not a new forward pass.
//
// Configs are hostile: every dimension is bounded so that products of two fit an int64, and the
// fields are checked against each other (validate). All functions are pure: any thread.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "base/result.h"
#include "formats/gguf.h"
#include "formats/weights.h"

namespace impetus {

enum class ModelKind : uint8_t { decoder, encoder };
enum class Activation : uint8_t { silu, gelu_erf, gelu_tanh, relu };
enum class Pooling : uint8_t { none, mean, cls };

// Which pairs of a head's values rotate together: (i, i + d/2), or (2i, 2i + 1) as GGUF stores
// Llama.
enum class RopePairs : uint8_t { halves, neighbours };

struct RopeScaling {
  enum class Kind : uint8_t { none, linear, llama3 } kind = Kind::none;
  double factor = 1;
  double low_frequency_factor = 1;
  double high_frequency_factor = 4;
  int64_t original_context = 8192;
};

struct ModelSpec {
  std::string family;  // "llama", "qwen2", "qwen3", "bert", "distilbert"
  ModelKind kind = ModelKind::decoder;

  int64_t layers = 0;
  int64_t hidden = 0;
  int64_t heads = 0;
  int64_t kv_heads = 0;  // divides heads; encoders: == heads
  int64_t head_dim = 0;
  int64_t feed_forward = 0;
  int64_t vocab = 0;
  int64_t context = 0;  // positions the model was trained for

  float norm_eps = 1e-5f;
  Activation activation = Activation::silu;
  bool tied_embeddings = false;  // the head is the embedding matrix
  // config.json does not say whether the head is tied: it is where the file has none. (Where it
  // says "not tied", a missing head is an error.)
  bool tied_if_headless = false;

  // decoders
  double rope_theta = 10000;
  RopePairs rope_pairs = RopePairs::halves;
  RopeScaling rope_scaling;
  // GGUF's rope_freqs.weight where the file has one: divisors of the frequencies, head_dim / 2.
  std::vector<float> rope_divisors;
  bool qkv_bias = false;
  bool output_bias = false;
  bool mlp_bias = false;
  bool qk_norm = false;  // RMS norm over each head of q and k, before rope (Qwen 3)

  // encoders
  int64_t token_types = 0;
  Pooling pooling = Pooling::none;
  bool normalize = false;           // L2 after pooling
  int64_t sequence_length_max = 0;  // what sentence-transformers truncates to; == context if unset

  // Inverse frequencies with scaling applied, head_dim / 2 of them: what a position is multiplied
  // by.
  std::vector<float> rope_frequencies() const;
};

// From a Hugging Face config.json, or GGUF metadata. unsupported errors name the architecture or
// the setting (sliding windows that are on, other rope types, other activations); corrupt ones the
// field. Errors of spec_from_config do not know the file: the caller puts its path in front
// (Error::within). An encoder whose file does not say how to pool gets mean pooling and
// normalisation.
Result<ModelSpec> spec_from_config(const json::object& config);
Result<ModelSpec> spec_from_gguf(const GgufFile& file);

// Reads what sentence-transformers saves beside an encoder: modules.json, the Pooling module's
// config.json (mean or cls; others are refused by name), Normalize, and sentence_bert_config.json's
// max_seq_length. A folder without modules.json leaves the spec as it is. With it, normalisation is
// on only where it lists Normalize.
Result<void> apply_sentence_transformers(const std::filesystem::path& folder, ModelSpec& spec);

struct Linear {
  const NamedTensor* weight = nullptr;  // [out, in]
  const NamedTensor* bias = nullptr;    // [out] or null
};
struct Norm {
  const NamedTensor* weight = nullptr;  // [width]
  const NamedTensor* bias = nullptr;    // LayerNorm only
};

struct DecoderWeights {
  const NamedTensor* embedding = nullptr;  // [vocab, hidden]
  struct Layer {
    Norm attention_norm, feed_forward_norm;
    Norm q_norm, k_norm;  // [head_dim], qk_norm only
    Linear q, k, v, output;
    Linear gate, up, down;
  };
  std::vector<Layer> layers;
  Norm final_norm;
  Linear head;  // == embedding when tied
};

struct EncoderWeights {
  const NamedTensor* token_embedding = nullptr;     // [vocab, hidden]
  const NamedTensor* position_embedding = nullptr;  // [context, hidden]
  const NamedTensor* type_embedding = nullptr;      // [token_types, hidden] or null
  Norm embedding_norm;
  struct Layer {
    Linear q, k, v, output;
    Norm attention_norm;
    Linear up, down;
    Norm output_norm;
  };
  std::vector<Layer> layers;
};

// Finds each tensor under the names its format uses and checks its shape and type against the spec.
// One error naming file, tensor, and the shape found and wanted. Views borrow from `weights`.
Result<DecoderWeights> resolve_decoder(const ModelSpec& spec, const WeightSet& weights);
Result<EncoderWeights> resolve_encoder(const ModelSpec& spec, const WeightSet& weights);

}  // namespace impetus

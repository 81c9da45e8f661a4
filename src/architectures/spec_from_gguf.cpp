// Keys: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, and for encoders the names that
// llama.cpp's converter writes.
#include <cmath>

#include "architectures/architecture.h"

namespace impetus {
namespace {

// Metadata under "ARCHITECTURE." with the typed access of GgufFile.
class Keys {
 public:
  Keys(const GgufFile& file, std::string_view architecture)
      : file_(file), prefix_(fmt::format("{}.", architecture)) {}

  std::string full(std::string_view key) const { return prefix_ + std::string(key); }

  Result<std::optional<int64_t>> integer(std::string_view key) const {
    return file_.integer(full(key));
  }
  Result<std::optional<double>> number(std::string_view key) const {
    return file_.number(full(key));
  }
  Result<std::optional<bool>> boolean(std::string_view key) const {
    return file_.boolean(full(key));
  }
  Result<std::optional<std::string_view>> string(std::string_view key) const {
    return file_.string(full(key));
  }

  Result<int64_t> dimension(std::string_view key, int64_t maximum,
                            std::optional<int64_t> fallback = std::nullopt) const {
    IMPETUS_TRY(const auto value, integer(key));
    if (!value && fallback) return *fallback;
    if (!value) return missing(key);
    auto checked = bounded(full(key), *value, maximum);
    if (!checked.ok()) return std::move(checked).error().within(file_.name());
    return checked;
  }

  Error missing(std::string_view key) const {
    return error(ErrorCode::corrupt, "{}: metadata key {} is missing", file_.name(), full(key));
  }

  Error refuse(std::string_view key, std::string_view value, std::string_view instead) const {
    return error(ErrorCode::unsupported, "{}: metadata key {} is {}: {}", file_.name(), full(key),
                 value, instead);
  }

 private:
  const GgufFile& file_;
  std::string prefix_;
};

Result<int64_t> vocabulary_size(const GgufFile& file, const Keys& keys) {
  IMPETUS_TRY(const auto stated, keys.integer("vocab_size"));
  IMPETUS_TRY(const auto* tokens, file.strings("tokenizer.ggml.tokens"));
  const auto token_count = tokens == nullptr ? int64_t{0} : static_cast<int64_t>(tokens->size());
  // The embedding's rows are what can be computed on: they may exceed the tokens (padding), never
  // fall below them.
  const NamedTensor* embedding = file.weights().find("token_embd.weight");
  int64_t size = stated.value_or(token_count);
  if (embedding != nullptr && embedding->view.shape.rank() == 2) size = embedding->view.shape[0];
  if (token_count > size) {
    return error(ErrorCode::corrupt,
                 "{}: {} tokens in the vocabulary, but {} rows in the embedding", file.name(),
                 token_count, size);
  }
  if (size == 0) return keys.missing("vocab_size");
  auto checked = bounded("vocabulary size", size, kVocabMax);
  if (!checked.ok()) return std::move(checked).error().within(file.name());
  return checked;
}

Result<RopeScaling> read_scaling(const Keys& keys) {
  RopeScaling scaling;
  IMPETUS_TRY(const auto type, keys.string("rope.scaling.type"));
  IMPETUS_TRY(const auto factor, keys.number("rope.scaling.factor"));
  IMPETUS_TRY(const auto older, keys.number("rope.scale_linear"));
  const std::string_view name = type.value_or(older && *older != 1 ? "linear" : "none");
  if (name == "none") return scaling;
  if (name != "linear") {
    return keys.refuse("rope.scaling.type", name.substr(0, 100),
                       "this version runs none and linear");
  }
  scaling.kind = RopeScaling::Kind::linear;
  scaling.factor = factor.value_or(older.value_or(1));
  return scaling;
}

// Divisors of the rope frequencies: how GGUF stores Llama 3's scaling.
Result<std::vector<float>> read_divisors(const GgufFile& file) {
  constexpr std::string_view kName = "rope_freqs.weight";
  std::vector<float> divisors;
  if (!file.weights().contains(kName)) return divisors;
  IMPETUS_TRY(const NamedTensor* tensor, file.weights().require(kName));
  const TensorView& view = tensor->view;
  if (view.shape.rank() != 1 || !is_weight(view.dtype) || block_elements(view.dtype) != 1 ||
      view.shape[0] > kWidthMax) {
    return error(ErrorCode::corrupt, "{}: tensor {} is {} {}, not a vector of divisors",
                 file.name(), kName, to_string(view.dtype), view.shape.to_string());
  }
  divisors.resize(static_cast<size_t>(view.shape[0]));
  dequantize(view.dtype, view.data.data(), view.shape[0], divisors.data());
  return divisors;
}

Result<void> read_decoder(const GgufFile& file, const Keys& keys, const Architecture& row,
                          ModelSpec& spec) {
  IMPETUS_TRY(const auto experts, keys.integer("expert_count"));
  if (experts.value_or(0) > 0) {
    return keys.refuse("expert_count", std::to_string(*experts), "this version runs dense models");
  }
  IMPETUS_TRY(const auto window, keys.integer("attention.sliding_window"));
  if (window.value_or(0) > 0) {
    return keys.refuse("attention.sliding_window", std::to_string(*window),
                       "this version runs full attention");
  }
  IMPETUS_TRY(const auto causal, keys.boolean("attention.causal"));
  if (!causal.value_or(true)) {
    return keys.refuse("attention.causal", "false", "this version runs causal decoders");
  }
  for (const std::string_view key :
       {"logit_scale", "residual_scale", "embedding_scale", "attention.scale"}) {
    IMPETUS_TRY(const auto scale, keys.number(key));
    if (scale.value_or(0) != 0)
      return keys.refuse(key, fmt::format("{}", *scale), "it is not run here");
  }
  IMPETUS_TRY(spec.kv_heads, keys.dimension("attention.head_count_kv", kHeadsMax, spec.heads));
  const bool whole = spec.hidden % spec.heads == 0;
  IMPETUS_TRY(spec.head_dim,
              keys.dimension("attention.key_length", kWidthMax,
                             whole ? std::optional(spec.hidden / spec.heads) : std::nullopt));
  IMPETUS_TRY(const int64_t value_dim,
              keys.dimension("attention.value_length", kWidthMax, spec.head_dim));
  if (value_dim != spec.head_dim) {
    return keys.refuse(
        "attention.value_length", std::to_string(value_dim),
        fmt::format("this version runs equal lengths, and the key length is {}", spec.head_dim));
  }
  IMPETUS_TRY(const int64_t rotated,
              keys.dimension("rope.dimension_count", kWidthMax, spec.head_dim));
  if (rotated != spec.head_dim) {
    return keys.refuse(
        "rope.dimension_count", std::to_string(rotated),
        fmt::format("this version rotates whole heads, of {} values", spec.head_dim));
  }
  IMPETUS_TRY(const auto theta, keys.number("rope.freq_base"));
  spec.rope_theta = theta.value_or(10000);
  spec.rope_pairs = row.gguf_pairs;
  IMPETUS_TRY(spec.rope_scaling, read_scaling(keys));
  IMPETUS_TRY(spec.rope_divisors, read_divisors(file));

  // GGUF has no keys for biases and the tied head: the tensors tell.
  const WeightSet& weights = file.weights();
  spec.qkv_bias = row.qkv_bias || weights.contains("blk.0.attn_q.bias");
  spec.output_bias = weights.contains("blk.0.attn_output.bias");
  spec.mlp_bias = weights.contains("blk.0.ffn_down.bias");
  spec.qk_norm = row.qk_norm;
  spec.tied_embeddings = !weights.contains("output.weight");
  spec.activation = Activation::silu;
  return {};
}

Result<void> read_encoder(const GgufFile& file, const Keys& keys, ModelSpec& spec) {
  IMPETUS_TRY(const auto causal, keys.boolean("attention.causal"));
  if (causal.value_or(false)) {
    return keys.refuse("attention.causal", "true",
                       "this version runs encoders that see both sides");
  }
  spec.kv_heads = spec.heads;
  spec.head_dim = spec.hidden / spec.heads;  // validate: hidden == heads * head_dim
  spec.activation = Activation::gelu_erf;
  spec.sequence_length_max = spec.context;
  spec.normalize = true;
  IMPETUS_TRY(const auto types, file.integer("tokenizer.ggml.token_type_count"));
  const NamedTensor* embedding = file.weights().find("token_types.weight");
  if (embedding != nullptr && embedding->view.shape.rank() == 2) {
    spec.token_types = embedding->view.shape[0];
  } else {
    spec.token_types = types.value_or(0);
  }
  IMPETUS_TRY(const auto pooling, keys.integer("pooling_type"));
  switch (pooling.value_or(1)) {
    case 0:
      spec.pooling = Pooling::none;
      return {};
    case 1:
      spec.pooling = Pooling::mean;
      return {};
    case 2:
      spec.pooling = Pooling::cls;
      return {};
    default:
      return keys.refuse("pooling_type", std::to_string(*pooling),
                         "this version runs 0 (none), 1 (mean), 2 (cls)");
  }
}

}  // namespace

Result<ModelSpec> spec_from_gguf(const GgufFile& file) {
  IMPETUS_TRY(const auto name, file.string("general.architecture"));
  if (!name) {
    return error(ErrorCode::corrupt, "{}: metadata key general.architecture is missing",
                 file.name());
  }
  const Architecture* row = find_architecture(*name);
  if (row == nullptr || !row->in_gguf) {
    return error(ErrorCode::unsupported,
                 "{}: general.architecture '{}' is not one this version runs; it runs {}",
                 file.name(), name->substr(0, 100), architecture_names(true));
  }
  IMPETUS_TRY(const auto parts, file.integer("split.count"));
  if (parts.value_or(1) > 1) {
    return error(ErrorCode::unsupported,
                 "{}: it is one of {} parts: merge them into one file first (gguf-split --merge)",
                 file.name(), *parts);
  }
  const Keys keys(file, *name);
  ModelSpec spec;
  spec.family = row->name;
  spec.kind = row->kind;
  IMPETUS_TRY(spec.layers, keys.dimension("block_count", kLayersMax));
  IMPETUS_TRY(spec.hidden, keys.dimension("embedding_length", kWidthMax));
  IMPETUS_TRY(spec.heads, keys.dimension("attention.head_count", kHeadsMax));
  IMPETUS_TRY(spec.feed_forward, keys.dimension("feed_forward_length", kWidthMax));
  IMPETUS_TRY(spec.context, keys.dimension("context_length", kContextMax));
  IMPETUS_TRY(spec.vocab, vocabulary_size(file, keys));
  IMPETUS_TRY(const auto eps,
              keys.number(spec.kind == ModelKind::decoder ? "attention.layer_norm_rms_epsilon"
                                                          : "attention.layer_norm_epsilon"));
  spec.norm_eps = static_cast<float>(eps.value_or(row->norm_eps_default));
  if (spec.kind == ModelKind::decoder) {
    IMPETUS_CHECK(read_decoder(file, keys, *row, spec));
  } else {
    IMPETUS_CHECK(read_encoder(file, keys, spec));
  }
  if (auto valid = validate(spec); !valid.ok()) return std::move(valid).error().within(file.name());
  return spec;
}

}  // namespace impetus

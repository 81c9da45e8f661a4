#include <algorithm>

#include "architectures/architecture.h"

namespace impetus {
namespace {

struct Dim {
  int64_t size;
  std::string_view name;
};

std::string at_layer(std::string_view pattern, int64_t layer) {
  const size_t slot = pattern.find("{}");
  if (slot == std::string_view::npos) return std::string(pattern);
  return fmt::format("{}{}{}", pattern.substr(0, slot), layer, pattern.substr(slot + 2));
}

// Finds tensors under one set of names; every one it hands out has the wanted shape and a type that
// can be decoded.
class Finder {
 public:
  Finder(const WeightSet& weights, std::string_view prefix) : weights_(weights), prefix_(prefix) {}

  Result<const NamedTensor*> matrix(std::string_view pattern, int64_t layer, Dim rows,
                                    Dim columns) const {
    IMPETUS_TRY(const NamedTensor* tensor, require(pattern, layer, ".weight"));
    const TensorView& view = tensor->view;
    if (view.shape != Shape{rows.size, columns.size}) {
      return error(ErrorCode::corrupt, "{}: tensor {} is {}, the model needs [{}, {}] ({}, {})",
                   weights_.path_of(*tensor), tensor->name, view.shape.to_string(), rows.size,
                   columns.size, rows.name, columns.name);
    }
    if (!is_weight(view.dtype)) return not_a_weight(*tensor);
    // A view's bytes were sized as a whole; a row must be whole blocks too.
    if (columns.size % block_elements(view.dtype) != 0) {
      return error(ErrorCode::corrupt,
                   "{}: tensor {}: rows of {} values are no whole number of {} blocks",
                   weights_.path_of(*tensor), tensor->name, columns.size, to_string(view.dtype));
    }
    return tensor;
  }

  Result<Linear> linear(std::string_view pattern, int64_t layer, Dim out, Dim in, bool bias) const {
    Linear found;
    IMPETUS_TRY(found.weight, matrix(pattern, layer, out, in));
    if (bias) {
      IMPETUS_TRY(found.bias, vector(pattern, layer, ".bias", ".bias", out));
    }
    return found;
  }

  Result<Norm> rms_norm(std::string_view pattern, int64_t layer, Dim width) const {
    Norm found;
    IMPETUS_TRY(found.weight, vector(pattern, layer, ".weight", ".weight", width));
    return found;
  }

  // gamma and beta: what the oldest BERT checkpoints, converted from TensorFlow, call them.
  Result<Norm> layer_norm(std::string_view pattern, int64_t layer, Dim width) const {
    Norm found;
    IMPETUS_TRY(found.weight, vector(pattern, layer, ".weight", ".gamma", width));
    IMPETUS_TRY(found.bias, vector(pattern, layer, ".bias", ".beta", width));
    return found;
  }

  bool has(std::string_view pattern) const {
    return weights_.contains(fmt::format("{}{}.weight", prefix_, pattern));
  }

 private:
  Result<const NamedTensor*> require(std::string_view pattern, int64_t layer,
                                     std::string_view suffix) const {
    return weights_.require(prefix_ + at_layer(pattern, layer) + std::string(suffix));
  }

  Result<const NamedTensor*> vector(std::string_view pattern, int64_t layer,
                                    std::string_view suffix, std::string_view older_suffix,
                                    Dim width) const {
    const std::string base = prefix_ + at_layer(pattern, layer);
    const bool older = !weights_.contains(base + std::string(suffix)) &&
                       weights_.contains(base + std::string(older_suffix));
    IMPETUS_TRY(const NamedTensor* tensor, require(pattern, layer, older ? older_suffix : suffix));
    const TensorView& view = tensor->view;
    if (view.shape != Shape{width.size}) {
      return error(ErrorCode::corrupt, "{}: tensor {} is {}, the model needs [{}] ({})",
                   weights_.path_of(*tensor), tensor->name, view.shape.to_string(), width.size,
                   width.name);
    }
    if (!is_weight(view.dtype) || block_elements(view.dtype) != 1) return not_a_weight(*tensor);
    return tensor;
  }

  Error not_a_weight(const NamedTensor& tensor) const {
    return error(ErrorCode::unsupported, "{}: tensor {} has type {}, which cannot be its type here",
                 weights_.path_of(tensor), tensor.name, to_string(tensor.view.dtype));
  }

  const WeightSet& weights_;
  std::string prefix_;
};

Result<const Architecture*> row_of(const ModelSpec& spec) {
  const Architecture* row = find_architecture(spec.family);
  if (row == nullptr) {
    return error(ErrorCode::unsupported, "'{}' is no architecture of this version; it runs {}",
                 spec.family, architecture_names(false));
  }
  return row;
}

std::string weight_name(std::string_view prefix, std::string_view name) {
  return fmt::format("{}{}.weight", prefix, name);
}

// The first set of names whose embedding is in the files.
template <typename Names>
Result<const Names*> choose(std::span<const Names> sets, std::string_view Names::* embedding,
                            const WeightSet& weights) {
  std::string tried;
  for (const Names& names : sets) {
    const std::string name = weight_name(names.prefix, names.*embedding);
    if (weights.contains(name)) return &names;
    if (!tried.empty()) tried += ", ";
    tried += name;
  }
  return error(ErrorCode::corrupt, "{}: the token embedding is missing: none of {} is there",
               weights.source(), tried);
}

// A tied matrix may be stored under the head's name alone: writers of safetensors keep one name of
// a shared tensor. The final norm then tells the prefix. nullptr where this is not so.
const DecoderNames* choose_by_head(const ModelSpec& spec, std::span<const DecoderNames> sets,
                                   const WeightSet& weights) {
  if (!spec.tied_embeddings) return nullptr;
  for (const DecoderNames& names : sets) {
    if (weights.contains(weight_name(names.prefix, names.embedding))) return nullptr;
  }
  for (const DecoderNames& names : sets) {
    if (weights.contains(weight_name("", names.head)) &&
        weights.contains(weight_name(names.prefix, names.final_norm))) {
      return &names;
    }
  }
  return nullptr;
}

}  // namespace

Result<DecoderWeights> resolve_decoder(const ModelSpec& spec, const WeightSet& weights) {
  if (spec.kind != ModelKind::decoder) {
    return error(ErrorCode::invalid_argument, "{} is no decoder", spec.family);
  }
  IMPETUS_CHECK(validate(spec));
  IMPETUS_TRY(const Architecture* row, row_of(spec));
  const DecoderNames* names = choose_by_head(spec, row->decoder_names, weights);
  const bool embedding_is_head = names != nullptr;
  if (!embedding_is_head) {
    IMPETUS_TRY(names, choose(row->decoder_names, &DecoderNames::embedding, weights));
  }
  const Finder find(weights, names->prefix);
  const Finder find_head(weights, "");

  const Dim hidden{spec.hidden, "hidden size"};
  const Dim vocab{spec.vocab, "vocabulary"};
  const Dim queries{spec.heads * spec.head_dim, "heads x head size"};
  const Dim keys{spec.kv_heads * spec.head_dim, "key-value heads x head size"};
  const Dim inner{spec.feed_forward, "feed-forward size"};
  const Dim head_dim{spec.head_dim, "head size"};

  DecoderWeights found;
  if (embedding_is_head) {
    IMPETUS_TRY(found.embedding, find_head.matrix(names->head, 0, vocab, hidden));
  } else {
    IMPETUS_TRY(found.embedding, find.matrix(names->embedding, 0, vocab, hidden));
  }
  for (int64_t i = 0; i < spec.layers; ++i) {
    DecoderWeights::Layer layer;
    IMPETUS_TRY(layer.attention_norm, find.rms_norm(names->attention_norm, i, hidden));
    IMPETUS_TRY(layer.feed_forward_norm, find.rms_norm(names->feed_forward_norm, i, hidden));
    if (spec.qk_norm) {
      IMPETUS_TRY(layer.q_norm, find.rms_norm(names->q_norm, i, head_dim));
      IMPETUS_TRY(layer.k_norm, find.rms_norm(names->k_norm, i, head_dim));
    }
    IMPETUS_TRY(layer.q, find.linear(names->q, i, queries, hidden, spec.qkv_bias));
    IMPETUS_TRY(layer.k, find.linear(names->k, i, keys, hidden, spec.qkv_bias));
    IMPETUS_TRY(layer.v, find.linear(names->v, i, keys, hidden, spec.qkv_bias));
    IMPETUS_TRY(layer.output, find.linear(names->output, i, hidden, queries, spec.output_bias));
    IMPETUS_TRY(layer.gate, find.linear(names->gate, i, inner, hidden, spec.mlp_bias));
    IMPETUS_TRY(layer.up, find.linear(names->up, i, inner, hidden, spec.mlp_bias));
    IMPETUS_TRY(layer.down, find.linear(names->down, i, hidden, inner, spec.mlp_bias));
    found.layers.push_back(layer);
  }
  IMPETUS_TRY(found.final_norm, find.rms_norm(names->final_norm, 0, hidden));
  const bool tied = spec.tied_embeddings || (spec.tied_if_headless && !find_head.has(names->head));
  if (tied) {
    found.head.weight = found.embedding;
  } else {
    IMPETUS_TRY(found.head, find_head.linear(names->head, 0, vocab, hidden, false));
  }
  return found;
}

Result<EncoderWeights> resolve_encoder(const ModelSpec& spec, const WeightSet& weights) {
  if (spec.kind != ModelKind::encoder) {
    return error(ErrorCode::invalid_argument, "{} is no encoder", spec.family);
  }
  IMPETUS_CHECK(validate(spec));
  IMPETUS_TRY(const Architecture* row, row_of(spec));
  IMPETUS_TRY(const EncoderNames* names,
              choose(row->encoder_names, &EncoderNames::token_embedding, weights));
  const Finder find(weights, names->prefix);

  const Dim hidden{spec.hidden, "hidden size"};
  const Dim inner{spec.feed_forward, "feed-forward size"};

  EncoderWeights found;
  IMPETUS_TRY(found.token_embedding,
              find.matrix(names->token_embedding, 0, {spec.vocab, "vocabulary"}, hidden));
  IMPETUS_TRY(found.position_embedding,
              find.matrix(names->position_embedding, 0, {spec.context, "positions"}, hidden));
  if (spec.token_types > 0 && !names->type_embedding.empty()) {
    IMPETUS_TRY(found.type_embedding,
                find.matrix(names->type_embedding, 0, {spec.token_types, "token types"}, hidden));
  }
  IMPETUS_TRY(found.embedding_norm, find.layer_norm(names->embedding_norm, 0, hidden));
  for (int64_t i = 0; i < spec.layers; ++i) {
    EncoderWeights::Layer layer;
    IMPETUS_TRY(layer.q, find.linear(names->q, i, hidden, hidden, true));
    IMPETUS_TRY(layer.k, find.linear(names->k, i, hidden, hidden, true));
    IMPETUS_TRY(layer.v, find.linear(names->v, i, hidden, hidden, true));
    IMPETUS_TRY(layer.output, find.linear(names->output, i, hidden, hidden, true));
    IMPETUS_TRY(layer.attention_norm, find.layer_norm(names->attention_norm, i, hidden));
    IMPETUS_TRY(layer.up, find.linear(names->up, i, inner, hidden, true));
    IMPETUS_TRY(layer.down, find.linear(names->down, i, hidden, inner, true));
    IMPETUS_TRY(layer.output_norm, find.layer_norm(names->output_norm, i, hidden));
    found.layers.push_back(layer);
  }
  return found;
}

}  // namespace impetus

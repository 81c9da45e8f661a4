// Models of random weights, in memory: a spec and the tensors it needs, under the names of
// transformers' checkpoints. Deterministic in the seed.
#pragma once

#include <cmath>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "architectures/model_spec.h"
#include "formats/weights.h"
#include "tensor/tensor.h"

namespace impetus::testing {

struct RandomModel {
  ModelSpec spec;
  std::vector<Tensor> storage;
  std::vector<NamedTensor> tensors;
  std::vector<std::unique_ptr<const GroupQuantised>> groups;  // what grouped views point to
  std::unique_ptr<WeightSet> weights;

  void build() {
    weights = std::make_unique<WeightSet>(*WeightSet::build({}, tensors, {}, "random"));
  }

  // The same values, every tensor in f32.
  RandomModel in_f32() const {
    RandomModel twin;
    twin.spec = spec;
    for (const NamedTensor& tensor : tensors) {
      twin.storage.push_back(*convert(tensor.view, DType::f32));
      twin.tensors.push_back({tensor.name, twin.storage.back().view(), 0});
    }
    twin.build();
    return twin;
  }
};

class RandomModelBuilder {
 public:
  // `linear` is the type of the products' weights, `other` of embeddings, norms and biases.
  RandomModelBuilder(ModelSpec spec, uint64_t seed, DType linear, DType other = DType::f32)
      : random_(seed), linear_(linear), other_(other) {
    model_.spec = std::move(spec);
    model_.storage.reserve(4096);  // views point into it
  }

  // The next matrices alternate between two types (mixed files).
  void mix_with(DType second) { second_ = second; }

  RandomModel decoder() {
    const ModelSpec& s = model_.spec;
    embedding("model.embed_tokens.weight", s.vocab, s.hidden, 1.0f);
    for (int64_t i = 0; i < s.layers; ++i) {
      const std::string p = "model.layers." + std::to_string(i) + ".";
      norm(p + "input_layernorm", s.hidden, false);
      norm(p + "post_attention_layernorm", s.hidden, false);
      if (s.qk_norm) {
        norm(p + "self_attn.q_norm", s.head_dim, false);
        norm(p + "self_attn.k_norm", s.head_dim, false);
      }
      matrix(p + "self_attn.q_proj", s.heads * s.head_dim, s.hidden, s.qkv_bias);
      matrix(p + "self_attn.k_proj", s.kv_heads * s.head_dim, s.hidden, s.qkv_bias);
      matrix(p + "self_attn.v_proj", s.kv_heads * s.head_dim, s.hidden, s.qkv_bias);
      matrix(p + "self_attn.o_proj", s.hidden, s.heads * s.head_dim, s.output_bias);
      matrix(p + "mlp.gate_proj", s.feed_forward, s.hidden, s.mlp_bias);
      matrix(p + "mlp.up_proj", s.feed_forward, s.hidden, s.mlp_bias);
      matrix(p + "mlp.down_proj", s.hidden, s.feed_forward, s.mlp_bias);
    }
    norm("model.norm", s.hidden, false);
    if (!s.tied_embeddings) matrix("lm_head", s.vocab, s.hidden, false);
    model_.build();
    return std::move(model_);
  }

  RandomModel encoder() {
    const ModelSpec& s = model_.spec;
    const bool distil = s.family == "distilbert";
    embedding("embeddings.word_embeddings.weight", s.vocab, s.hidden, 1.0f);
    embedding("embeddings.position_embeddings.weight", s.context, s.hidden, 0.5f);
    if (!distil)
      embedding("embeddings.token_type_embeddings.weight", s.token_types, s.hidden, 0.5f);
    norm("embeddings.LayerNorm", s.hidden, true);
    for (int64_t i = 0; i < s.layers; ++i) {
      const std::string p =
          (distil ? "transformer.layer." : "encoder.layer.") + std::to_string(i) + ".";
      matrix(p + (distil ? "attention.q_lin" : "attention.self.query"), s.hidden, s.hidden, true);
      matrix(p + (distil ? "attention.k_lin" : "attention.self.key"), s.hidden, s.hidden, true);
      matrix(p + (distil ? "attention.v_lin" : "attention.self.value"), s.hidden, s.hidden, true);
      matrix(p + (distil ? "attention.out_lin" : "attention.output.dense"), s.hidden, s.hidden,
             true);
      norm(p + (distil ? "sa_layer_norm" : "attention.output.LayerNorm"), s.hidden, true);
      matrix(p + (distil ? "ffn.lin1" : "intermediate.dense"), s.feed_forward, s.hidden, true);
      matrix(p + (distil ? "ffn.lin2" : "output.dense"), s.hidden, s.feed_forward, true);
      norm(p + (distil ? "output_layer_norm" : "output.LayerNorm"), s.hidden, true);
    }
    model_.build();
    return std::move(model_);
  }

 private:
  void add(const std::string& name, Shape shape, DType type, float mean, float deviation) {
    auto values = *Tensor::zeros(DType::f32, shape);
    auto* out = reinterpret_cast<float*>(values.mutable_bytes().data());
    std::normal_distribution<float> normal(mean, deviation);
    for (int64_t i = 0; i < shape.elements(); ++i) out[i] = normal(random_);
    model_.storage.push_back(type == DType::f32 ? std::move(values)
                                                : *convert(values.view(), type));
    model_.tensors.push_back({name, model_.storage.back().view(), 0});
  }
  void embedding(const std::string& name, int64_t rows, int64_t columns, float deviation) {
    // A quantised model's embedding is quantised as well, as GGUF files have it.
    const bool quantised = block_elements(linear_) > 1;
    add(name, {rows, columns}, quantised ? linear_ : other_, 0, deviation);
  }
  void norm(const std::string& name, int64_t width, bool bias) {
    add(name + ".weight", {width}, other_, 1.0f, 0.1f);
    if (bias) add(name + ".bias", {width}, other_, 0, 0.1f);
  }
  void matrix(const std::string& name, int64_t rows, int64_t columns, bool bias) {
    const DType type = second_ && ++matrices_ % 2 == 0 ? *second_ : linear_;
    add(name + ".weight", {rows, columns}, type, 0, 1.5f / std::sqrt(static_cast<float>(columns)));
    if (bias) add(name + ".bias", {rows}, other_, 0, 0.2f);
  }

  std::mt19937_64 random_;
  DType linear_, other_;
  std::optional<DType> second_;
  int matrices_ = 0;
  RandomModel model_;
};

}  // namespace impetus::testing

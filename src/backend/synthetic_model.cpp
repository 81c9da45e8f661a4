#include "backend/synthetic_model.h"

#include <cmath>
#include <cstring>
#include <map>
#include <string>

namespace impetus {
namespace {

constexpr int64_t kVocab = 256;  // small: the head is no part of what is measured
constexpr int64_t kHeadDim = 64;
constexpr int kGroup = 64;

// Random bits, the same everywhere.
class Bits {
 public:
  uint32_t next() {
    state_ = state_ * 6364136223846793005u + 1442695040888963407u;
    return static_cast<uint32_t>(state_ >> 32);
  }
  float uniform() { return static_cast<float>(next() >> 8) * 0x1p-23f - 1.0f; }  // [-1, 1)

 private:
  uint64_t state_ = 1;
};

class Builder {
 public:
  Builder(ModelSpec spec, DType type, bool apart, int bits)
      : type_(type), apart_(apart), bits_of_code_(bits) {
    model_.spec = std::move(spec);
  }

  void matrix(const std::string& name, int64_t rows, int64_t columns) {
    add(name + ".weight", {rows, columns}, type_, 1.7f / std::sqrt(static_cast<float>(columns)));
  }
  void table(const std::string& name, int64_t rows, int64_t columns) {
    add(name + ".weight", {rows, columns}, DType::f32, 1.0f);
  }
  void vector(const std::string& name, int64_t width, float scale) {
    add(name, {width}, DType::f32, scale);
  }
  Result<SyntheticModel> finish() {
    if (failure_) return *failure_;
    IMPETUS_TRY(WeightSet set, WeightSet::build({}, std::move(tensors_), {}, "synthetic model"));
    model_.weights = std::make_unique<WeightSet>(std::move(set));
    return std::move(model_);
  }

 private:
  // Tensors of one shape, type and scale are one tensor under many names, unless they stand apart.
  void add(std::string name, Shape shape, DType type, float scale) {
    const auto key = std::pair{shape.to_string(), type};
    auto found = made_.find(key);
    if (found == made_.end() || apart_) {
      auto view = type == DType::grouped ? grouped(shape, scale) : filled(type, shape, scale);
      if (!view.ok()) {
        if (!failure_) failure_ = std::move(view).error();
        return;
      }
      found = made_.insert_or_assign(key, *view).first;
    }
    tensors_.push_back({std::move(name), found->second, 0});
  }

  Result<TensorView> filled(DType type, Shape shape, float scale) {
    IMPETUS_TRY(Tensor tensor, Tensor::zeros(type, shape));
    fill(tensor.mutable_bytes(), type, scale);
    model_.storage.push_back(std::move(tensor));
    return model_.storage.back().view();
  }

  // Codes of all values, from -scale to scale.
  Result<TensorView> grouped(Shape shape, float scale) {
    const int64_t rows = shape.rows(), columns = shape.columns();
    if (columns % kGroup != 0) {
      return error(ErrorCode::invalid_argument, "rows of {} are no whole number of groups of {}",
                   columns, kGroup);
    }
    GroupQuantised made;
    made.bits = bits_of_code_;
    made.group = kGroup;
    made.scale_type = DType::bf16;
    const auto constant = [&](float value) -> Result<TensorView> {
      IMPETUS_TRY(Tensor tensor, Tensor::zeros(made.scale_type, {rows, columns / kGroup}));
      const uint16_t bits = f32_to_bf16(value);
      const auto bytes = tensor.mutable_bytes();
      for (size_t at = 0; at < bytes.size(); at += sizeof bits) {
        std::memcpy(bytes.data() + at, &bits, sizeof bits);
      }
      model_.storage.push_back(std::move(tensor));
      return model_.storage.back().view();
    };
    const auto last = static_cast<float>((1 << made.bits) - 1);
    IMPETUS_TRY(const TensorView codes, filled(DType::u8, {rows, made.row_bytes(columns)}, scale));
    IMPETUS_TRY(const TensorView scales, constant(2 * scale / last));
    IMPETUS_TRY(const TensorView biases, constant(-scale));
    made.scales = scales.data;
    made.biases = biases.data;
    model_.groups.push_back(std::make_unique<const GroupQuantised>(made));
    return TensorView{DType::grouped, shape, codes.data, model_.groups.back().get()};
  }

  // A stretch of random elements, repeated: what they are does not change the speed.
  void fill(std::span<std::byte> bytes, DType type, float scale) {
    std::vector<std::byte> stretch(static_cast<size_t>(*bytes_of(type, 61 * kQuantBlock)));
    const auto put = [&](size_t at, const auto& value) {
      std::memcpy(stretch.data() + at, &value, sizeof(value));
    };
    const auto step = static_cast<size_t>(block_bytes(type));
    for (size_t at = 0; at < stretch.size(); at += step) {
      switch (type) {
        case DType::f16:
          put(at, f32_to_f16(scale * bits_.uniform()));
          break;
        case DType::bf16:
          put(at, f32_to_bf16(scale * bits_.uniform()));
          break;
        case DType::q8_0:
        case DType::q4_0: {
          put(at, f32_to_f16(scale / (type == DType::q8_0 ? 127.0f : 8.0f)));
          for (size_t i = 2; i < step; ++i) put(at + i, static_cast<uint8_t>(bits_.next()));
          break;
        }
        case DType::u8:
          put(at, static_cast<uint8_t>(bits_.next()));
          break;
        default:
          put(at, scale * bits_.uniform());
      }
    }
    for (size_t at = 0; at < bytes.size(); at += stretch.size()) {
      std::memcpy(bytes.data() + at, stretch.data(), std::min(stretch.size(), bytes.size() - at));
    }
  }

  DType type_;
  bool apart_;
  int bits_of_code_;
  Bits bits_;
  SyntheticModel model_;
  std::map<std::pair<std::string, DType>, TensorView> made_;
  std::vector<NamedTensor> tensors_;
  std::optional<Error> failure_;
};

}  // namespace

ModelSpec synthetic_decoder_spec(int64_t layers, int64_t hidden, int64_t context) {
  ModelSpec spec;
  spec.family = "llama";
  spec.kind = ModelKind::decoder;
  spec.layers = layers;
  spec.hidden = hidden;
  spec.head_dim = kHeadDim;
  spec.heads = hidden / kHeadDim;
  spec.kv_heads = spec.heads % 4 == 0 ? spec.heads / 4 : spec.heads;
  spec.feed_forward = hidden * 11 / 4;
  spec.vocab = kVocab;
  spec.context = context;
  return spec;
}

ModelSpec synthetic_encoder_spec(int64_t layers, int64_t hidden, int64_t context) {
  ModelSpec spec;
  spec.family = "bert";
  spec.kind = ModelKind::encoder;
  spec.layers = layers;
  spec.hidden = hidden;
  spec.head_dim = kHeadDim;
  spec.heads = spec.kv_heads = hidden / kHeadDim;
  spec.feed_forward = hidden * 4;
  spec.vocab = kVocab;
  spec.context = context;
  return spec;
}

Result<SyntheticModel> synthetic_model(ModelSpec spec, DType type, bool apart, int bits) {
  const bool decoder = spec.kind == ModelKind::decoder;
  if (!decoder) {
    spec.norm_eps = 1e-12f;
    spec.activation = Activation::gelu_erf;
    spec.token_types = 2;
    spec.pooling = Pooling::mean;
    spec.sequence_length_max = spec.context;
  }
  Builder builder(spec, type, apart, bits);
  const int64_t queries = spec.heads * spec.head_dim, keys = spec.kv_heads * spec.head_dim;
  if (decoder) {
    builder.table("model.embed_tokens", spec.vocab, spec.hidden);
    for (int64_t i = 0; i < spec.layers; ++i) {
      const std::string p = fmt::format("model.layers.{}.", i);
      builder.vector(p + "input_layernorm.weight", spec.hidden, 1);
      builder.vector(p + "post_attention_layernorm.weight", spec.hidden, 1);
      builder.matrix(p + "self_attn.q_proj", queries, spec.hidden);
      builder.matrix(p + "self_attn.k_proj", keys, spec.hidden);
      builder.matrix(p + "self_attn.v_proj", keys, spec.hidden);
      builder.matrix(p + "self_attn.o_proj", spec.hidden, queries);
      builder.matrix(p + "mlp.gate_proj", spec.feed_forward, spec.hidden);
      builder.matrix(p + "mlp.up_proj", spec.feed_forward, spec.hidden);
      builder.matrix(p + "mlp.down_proj", spec.hidden, spec.feed_forward);
    }
    builder.vector("model.norm.weight", spec.hidden, 1);
    builder.matrix("lm_head", spec.vocab, spec.hidden);
    return builder.finish();
  }
  const auto biased = [&](const std::string& name, int64_t rows, int64_t columns) {
    builder.matrix(name, rows, columns);
    builder.vector(name + ".bias", rows, 0.1f);
  };
  const auto norm = [&](const std::string& name) {
    builder.vector(name + ".weight", spec.hidden, 1);
    builder.vector(name + ".bias", spec.hidden, 0.1f);
  };
  builder.table("embeddings.word_embeddings", spec.vocab, spec.hidden);
  builder.table("embeddings.position_embeddings", spec.context, spec.hidden);
  builder.table("embeddings.token_type_embeddings", spec.token_types, spec.hidden);
  norm("embeddings.LayerNorm");
  for (int64_t i = 0; i < spec.layers; ++i) {
    const std::string p = fmt::format("encoder.layer.{}.", i);
    biased(p + "attention.self.query", queries, spec.hidden);
    biased(p + "attention.self.key", keys, spec.hidden);
    biased(p + "attention.self.value", keys, spec.hidden);
    biased(p + "attention.output.dense", spec.hidden, queries);
    norm(p + "attention.output.LayerNorm");
    biased(p + "intermediate.dense", spec.feed_forward, spec.hidden);
    biased(p + "output.dense", spec.hidden, spec.feed_forward);
    norm(p + "output.LayerNorm");
  }
  return builder.finish();
}

}  // namespace impetus

#include "planner/model_cost.h"

#include <algorithm>
#include <array>
#include <map>

#include "backend/kv_handoff.h"

namespace impetus {
namespace {

ModelCost shape_of(std::string id, const ModelSpec& spec) {
  ModelCost cost;
  cost.id = std::move(id);
  cost.kind = spec.kind;
  cost.layers = spec.layers;
  cost.hidden = spec.hidden;
  cost.heads = spec.heads;
  cost.kv_heads = spec.kv_heads;
  cost.head_dim = spec.head_dim;
  cost.vocab = spec.vocab;
  cost.context = spec.context;
  return cost;
}

// The type that a matrix is planned as. MLX's groups are GGUF's of about as many bits (4 bits in
// groups of 64 take 4.5, as Q4_0's do); a CPU packs fewer bits to 4 and more to 8.
DType planned_type(const TensorView& view) {
  if (view.grouped == nullptr) return view.dtype;
  return view.grouped->bits <= 4 ? DType::q4_0 : DType::q8_0;
}

WeightGroup planned(const TensorView& view) {
  return {planned_type(view), view.shape.elements(),
          view.grouped == nullptr ? 0 : view.grouped->bits};
}

// Gathers matrices by type.
class Groups {
 public:
  void add(const Linear& linear) {
    if (linear.weight == nullptr) return;
    const TensorView& view = linear.weight->view;
    const WeightGroup as = planned(view);
    parameters_[{as.type, as.bits}] += as.parameters;
    names_[type_name(view)] += as.parameters;
    if (view.grouped != nullptr) widened_ += std::max<int64_t>(0, as.bytes() - view.bytes());
  }
  // By how much planned matrices are larger than the file's.
  int64_t widened() const { return widened_; }
  // Of most of the parameters.
  std::string name() const {
    const auto most =
        std::ranges::max_element(names_, {}, [](const auto& entry) { return entry.second; });
    return most == names_.end() ? "none" : most->first;
  }
  std::vector<WeightGroup> list() const {
    std::vector<WeightGroup> all;
    for (const auto& [kind, count] : parameters_) all.push_back({kind.first, count, kind.second});
    std::ranges::sort(all,
                      [](const auto& a, const auto& b) { return a.parameters > b.parameters; });
    return all;
  }

 private:
  std::map<std::pair<DType, int>, int64_t> parameters_;  // by type and bits
  std::map<std::string, int64_t> names_;
  int64_t widened_ = 0;
};

struct KnownShape {
  const char* name;
  ModelSpec spec;
};

ModelSpec shape(ModelKind kind, int64_t layers, int64_t hidden, int64_t heads, int64_t kv_heads,
                int64_t feed_forward, int64_t vocab, int64_t context, int64_t head_dim = 0) {
  ModelSpec spec;
  spec.kind = kind;
  spec.family = kind == ModelKind::decoder ? "llama" : "bert";
  spec.layers = layers;
  spec.hidden = hidden;
  spec.heads = heads;
  spec.kv_heads = kv_heads;
  spec.head_dim = head_dim > 0 ? head_dim : hidden / heads;
  spec.feed_forward = feed_forward;
  spec.vocab = vocab;
  spec.context = context;
  return spec;
}

}  // namespace

int64_t ModelCost::kv_token_bytes(DType kv) const {
  return kv_bytes({layers, kv_heads, head_dim}, 1, kv);
}

int64_t ModelCost::weight_bytes() const {
  int64_t bytes = head.bytes();
  for (const WeightGroup& group : layer_weights) bytes += group.bytes();
  return bytes;
}

ModelCost ModelCost::in(DType type) const {
  ModelCost other = *this;
  const auto quantised = [](const WeightGroup& group) { return block_elements(group.type) > 1; };
  other.layer_weights.clear();
  for (WeightGroup group : layer_weights) {
    if (!quantised(group)) group.type = type;
    const auto same = std::ranges::find_if(other.layer_weights, [&](const WeightGroup& one) {
      return one.type == group.type && one.bits == group.bits;
    });
    if (same == other.layer_weights.end()) {
      other.layer_weights.push_back(group);
    } else {
      same->parameters += group.parameters;
    }
  }
  if (!quantised(head)) other.head.type = type;
  if (!layer_weights.empty() && !quantised(layer_weights.front())) {
    other.precision = std::string(to_string(type));
  }
  other.file_bytes = file_bytes - weight_bytes() + other.weight_bytes();
  return other;
}

Result<ModelCost> model_cost(std::string id, const ModelSpec& spec, const WeightSet& weights) {
  ModelCost cost = shape_of(std::move(id), spec);
  Groups groups;
  if (spec.kind == ModelKind::decoder) {
    IMPETUS_TRY(const DecoderWeights tensors, resolve_decoder(spec, weights));
    for (const auto& layer : tensors.layers) {
      for (const Linear& l :
           {layer.q, layer.k, layer.v, layer.output, layer.gate, layer.up, layer.down}) {
        groups.add(l);
      }
    }
    cost.head = planned(tensors.head.weight->view);
  } else {
    IMPETUS_TRY(const EncoderWeights tensors, resolve_encoder(spec, weights));
    for (const auto& layer : tensors.layers) {
      for (const Linear& l : {layer.q, layer.k, layer.v, layer.output, layer.up, layer.down}) {
        groups.add(l);
      }
    }
  }
  cost.layer_weights = groups.list();
  cost.precision = groups.name();
  cost.file_bytes = weights.bytes() + groups.widened();
  return cost;
}

ModelCost model_cost(std::string id, const ModelSpec& spec, DType type) {
  ModelCost cost = shape_of(std::move(id), spec);
  const bool decoder = spec.kind == ModelKind::decoder;
  const int64_t queries = spec.heads * spec.head_dim, keys = spec.kv_heads * spec.head_dim;
  const int64_t layer =
      spec.hidden * (2 * queries + 2 * keys) + (decoder ? 3 : 2) * spec.hidden * spec.feed_forward;
  cost.layer_weights = {{type, layer * spec.layers}};
  if (decoder) cost.head = {type, spec.vocab * spec.hidden};
  cost.precision = std::string(to_string(type));
  const WeightGroup embedding{type, spec.vocab * spec.hidden};
  cost.file_bytes = cost.weight_bytes() + (decoder && spec.tied_embeddings ? 0 : embedding.bytes());
  return cost;
}

const ModelSpec* known_shape(std::string_view name) {
  constexpr auto kDecoder = ModelKind::decoder;
  constexpr auto kEncoder = ModelKind::encoder;
  // From the models' own config.json.
  static const std::array kShapes = {
      KnownShape{"llama-2-7b", shape(kDecoder, 32, 4096, 32, 32, 11008, 32000, 4096)},
      KnownShape{"llama-2-13b", shape(kDecoder, 40, 5120, 40, 40, 13824, 32000, 4096)},
      KnownShape{"llama-2-70b", shape(kDecoder, 80, 8192, 64, 8, 28672, 32000, 4096)},
      KnownShape{"llama-3.1-8b", shape(kDecoder, 32, 4096, 32, 8, 14336, 128256, 131072)},
      KnownShape{"llama-3.1-70b", shape(kDecoder, 80, 8192, 64, 8, 28672, 128256, 131072)},
      KnownShape{"llama-3.2-1b", shape(kDecoder, 16, 2048, 32, 8, 8192, 128256, 131072)},
      KnownShape{"llama-3.2-3b", shape(kDecoder, 28, 3072, 24, 8, 8192, 128256, 131072)},
      KnownShape{"mistral-7b", shape(kDecoder, 32, 4096, 32, 8, 14336, 32000, 32768)},
      KnownShape{"qwen2.5-0.5b", shape(kDecoder, 24, 896, 14, 2, 4864, 151936, 32768)},
      KnownShape{"qwen2.5-1.5b", shape(kDecoder, 28, 1536, 12, 2, 8960, 151936, 32768)},
      KnownShape{"qwen2.5-7b", shape(kDecoder, 28, 3584, 28, 4, 18944, 152064, 32768)},
      KnownShape{"qwen3-1.7b", shape(kDecoder, 28, 2048, 16, 8, 6144, 151936, 40960, 128)},
      KnownShape{"qwen3-4b", shape(kDecoder, 36, 2560, 32, 8, 9728, 151936, 40960, 128)},
      KnownShape{"qwen3-8b", shape(kDecoder, 36, 4096, 32, 8, 12288, 151936, 40960, 128)},
      KnownShape{"qwen3-14b", shape(kDecoder, 40, 5120, 40, 8, 17408, 151936, 40960, 128)},
      KnownShape{"tinyllama-1.1b", shape(kDecoder, 22, 2048, 32, 4, 5632, 32000, 2048)},
      KnownShape{"minilm-l6", shape(kEncoder, 6, 384, 12, 12, 1536, 30522, 512)},
      KnownShape{"distilbert", shape(kEncoder, 6, 768, 12, 12, 3072, 30522, 512)},
      KnownShape{"bert-base", shape(kEncoder, 12, 768, 12, 12, 3072, 30522, 512)},
  };
  const auto found = std::ranges::find_if(kShapes, [&](const auto& s) { return s.name == name; });
  return found == kShapes.end() ? nullptr : &found->spec;
}

}  // namespace impetus

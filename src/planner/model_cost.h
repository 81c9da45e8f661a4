// What a model asks of a processor: sizes and counts, no tensors. Pure data.
#pragma once

#include <string>
#include <vector>

#include "architectures/model_spec.h"
#include "tensor/dtype.h"

namespace impetus {

// Weights of one type that every row is multiplied with. MLX's groups are planned as Q4_0 up to 4
// bits and as Q8_0 above, to whose layouts and speeds theirs are near; by times of layers in groups
// where a profile has them.
struct WeightGroup {
  DType type = DType::f32;
  int64_t parameters = 0;
  int bits = 0;  // of a code, where they are in MLX's groups

  int64_t bytes() const { return parameters / block_elements(type) * block_bytes(type); }
};

struct ModelCost {
  std::string id;
  ModelKind kind = ModelKind::decoder;
  std::string precision;  // of most weights, as the file has them
  int64_t layers = 0, hidden = 0, heads = 0, kv_heads = 0, head_dim = 0, vocab = 0;
  int64_t context = 0;
  std::vector<WeightGroup> layer_weights;  // of all layers together
  WeightGroup head;                        // decoders: of rows with logits only
  // All tensors; layers in MLX's groups as the type they are planned as, where that is larger.
  int64_t file_bytes = 0;

  int64_t kv_token_bytes(DType kv) const;  // keys and values of one position, all layers
  // Read for each step: layer weights and head.
  int64_t weight_bytes() const;
  // The same model with its matrices in another type; quantised ones stay, as backends leave them.
  ModelCost in(DType type) const;
};

// Of a model's files; resolves their tensors. Errors as resolve_decoder, resolve_encoder.
Result<ModelCost> model_cost(std::string id, const ModelSpec& spec, const WeightSet& weights);
// Of a shape alone, all matrices in one type.
ModelCost model_cost(std::string id, const ModelSpec& spec, DType type);

// Shapes that published speeds are told of ("llama-2-7b", "llama-3.1-8b", "bert-base", ...); null
// where unknown.
const ModelSpec* known_shape(std::string_view name);

}  // namespace impetus

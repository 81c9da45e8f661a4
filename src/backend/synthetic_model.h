// Models of random weights, made in memory at once: what backends are measured with, so that a
// speed belongs to the processor and not to somebody's file. Deterministic. All layers share the
// bytes of their matrices until a backend packs them, unless they are to stand apart.
#pragma once

#include <memory>
#include <vector>

#include "architectures/model_spec.h"
#include "formats/weights.h"
#include "tensor/tensor.h"

namespace impetus {

struct SyntheticModel {
  ModelSpec spec;
  std::vector<Tensor> storage;
  std::vector<std::unique_ptr<const GroupQuantised>> groups;  // borrow from storage
  std::unique_ptr<WeightSet> weights;                         // borrows from both
};

// Weights for a spec (family "llama" or "bert"; qwen's shapes run as Llamas), matrices of one type.
// The head is a matrix of its own, whether the spec ties it or not. `apart`: each tensor has bytes
// of its own, as a real model's have; it takes the memory of one. `grouped`: codes of `bits` bits
// in groups of 64, scales and biases in bf16, as MLX models are published; invalid_argument where a
// row is no whole number of groups.
Result<SyntheticModel> synthetic_model(ModelSpec spec, DType type, bool apart = false,
                                       int bits = 4);

// Specs to measure with. hidden is a multiple of 64; heads are of 64. A Llama's four query heads
// share a key head where hidden allows, and its feed_forward is 2.75 x hidden; a BERT's is 4 x.
ModelSpec synthetic_decoder_spec(int64_t layers, int64_t hidden, int64_t context);
ModelSpec synthetic_encoder_spec(int64_t layers, int64_t hidden, int64_t context);

}  // namespace impetus

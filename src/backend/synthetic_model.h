// Models of random weights, made in memory at once: what backends are measured with, so that a
// speed belongs to the processor and not to somebody's file. Deterministic. All layers share the
// bytes of their matrices until a backend packs them.
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
  std::unique_ptr<WeightSet> weights;  // borrows from storage
};

// A Llama of `layers` layers whose matrices are of one type. hidden is a multiple of 64; four query
// heads of 64 share a key head where hidden allows; feed_forward is 2.75 x hidden.
Result<SyntheticModel> synthetic_decoder(int64_t layers, int64_t hidden, DType type,
                                         int64_t context);
// A BERT of heads of 64; feed_forward is 4 x hidden.
Result<SyntheticModel> synthetic_encoder(int64_t layers, int64_t hidden, DType type,
                                         int64_t context);

}  // namespace impetus

// What an encoder's program leaves to the host: the sum of token, position and type embeddings.
// Immutable after load: any thread.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "architectures/model_spec.h"
#include "base/result.h"
#include "base/token_id.h"
#include "formats/weights.h"

namespace impetus::coreml {

class HostEmbeddings {
 public:
  static Result<HostEmbeddings> load(const ModelSpec& spec, const WeightSet& weights);

  // [hidden, padded] f32, as the program's "hidden" wants it; zeros past the tokens.
  // invalid_argument for ids and positions that the model does not have.
  Result<std::vector<float>> lookup(std::span<const TokenId> tokens,
                                    std::span<const int32_t> token_types, int64_t padded) const;
  int64_t bytes() const;

 private:
  int64_t hidden_ = 0, vocab_ = 0, context_ = 0;
  std::vector<float> tokens_, positions_, types_;  // [vocab, hidden], [context, hidden], ...
};

}  // namespace impetus::coreml

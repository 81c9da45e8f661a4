// What an encoder's program leaves to the host: the sum of token, position and type embeddings.
// The tables stay where the model's files are mapped, in the files' own types; rows are decoded as
// they are looked up. So nothing is copied, and the system may drop pages that no text uses.
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
  // Borrows from `weights`, which must outlive it.
  static Result<HostEmbeddings> load(const ModelSpec& spec, const WeightSet& weights);

  // [hidden, padded] f32, as the program's "hidden" wants it; zeros past the tokens.
  // invalid_argument for ids and positions that the model does not have.
  Result<std::vector<float>> lookup(std::span<const TokenId> tokens,
                                    std::span<const int32_t> token_types, int64_t padded) const;

 private:
  int64_t hidden_ = 0;
  TensorView tokens_, positions_, types_;  // [vocab, hidden], [context, hidden], [types, hidden]
};

}  // namespace impetus::coreml

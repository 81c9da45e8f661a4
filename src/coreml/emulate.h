// One text through an encoder's program in the interpreter: how a program just written is held
// against the model it came from, and how ranges are measured (w8a8, rule D14).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/result.h"
#include "base/token_id.h"
#include "coreml/host_embeddings.h"
#include "mil/interpreter.h"

namespace impetus::coreml {

struct Emulated {
  std::vector<float> hidden;  // [tokens, hidden], without the padding
  std::vector<mil::NumericEvent> events;
  std::vector<mil::TensorRange> ranges;
};

// `encoder`: a function as convert.h describes. invalid_argument for more tokens than it has.
Result<Emulated> emulate(const mil::Interpreter& encoder, const HostEmbeddings& embeddings,
                         std::span<const TokenId> tokens, std::span<const int32_t> token_types);

// The largest magnitude of each tensor over `texts`, those longer than the function cut.
Result<std::vector<mil::TensorRange>> ranges_over(const mil::Interpreter& encoder,
                                                  const HostEmbeddings& embeddings,
                                                  std::span<const std::vector<TokenId>> texts);

// Of two lists of rows of `width` values, row by row: the lowest, and of their means (what mean
// pooling gives).
struct Likeness {
  double lowest_token = 1, text = 1;
};
Likeness likeness(std::span<const float> a, std::span<const float> b, int64_t width);

}  // namespace impetus::coreml

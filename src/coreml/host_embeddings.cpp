#include "coreml/host_embeddings.h"

#include <algorithm>

namespace impetus::coreml {
namespace {

std::vector<float> floats_of(const NamedTensor& tensor) {
  const int64_t columns = tensor.view.shape.columns();
  std::vector<float> values(static_cast<size_t>(tensor.view.shape.elements()));
  for (int64_t r = 0; r < tensor.view.shape.rows(); ++r) {
    dequantize_row(tensor.view, r, values.data() + r * columns);
  }
  return values;
}

}  // namespace

Result<HostEmbeddings> HostEmbeddings::load(const ModelSpec& spec, const WeightSet& weights) {
  IMPETUS_TRY(const EncoderWeights tensors, resolve_encoder(spec, weights));
  HostEmbeddings host;
  host.hidden_ = spec.hidden;
  host.vocab_ = spec.vocab;
  host.context_ = spec.context;
  host.tokens_ = floats_of(*tensors.token_embedding);
  host.positions_ = floats_of(*tensors.position_embedding);
  if (tensors.type_embedding != nullptr) host.types_ = floats_of(*tensors.type_embedding);
  return host;
}

Result<std::vector<float>> HostEmbeddings::lookup(std::span<const TokenId> tokens,
                                                  std::span<const int32_t> token_types,
                                                  int64_t padded) const {
  constexpr auto kBad = ErrorCode::invalid_argument;
  const auto count = static_cast<int64_t>(tokens.size());
  if (count > padded || count > context_) {
    return error(kBad, "{} tokens, where {} fit and the model has {} positions", count, padded,
                 context_);
  }
  if (!token_types.empty() && token_types.size() != tokens.size()) {
    return error(kBad, "{} token types for {} tokens", token_types.size(), count);
  }
  const int64_t types = std::max<int64_t>(1, static_cast<int64_t>(types_.size()) / hidden_);
  std::vector<float> values(static_cast<size_t>(hidden_ * padded));
  for (int64_t s = 0; s < count; ++s) {
    const auto i = static_cast<size_t>(s);
    const int64_t type = token_types.empty() ? 0 : token_types[i];
    if (tokens[i] < 0 || tokens[i] >= vocab_) {
      return error(kBad, "token {} is outside the vocabulary of {}", tokens[i], vocab_);
    }
    if (type < 0 || type >= types) {
      return error(kBad, "token type {}: the model has {}", type, types);
    }
    const float* token = tokens_.data() + tokens[i] * hidden_;
    const float* position = positions_.data() + s * hidden_;
    const float* kind = types_.empty() ? nullptr : types_.data() + type * hidden_;
    for (int64_t h = 0; h < hidden_; ++h) {
      // In the order in which the other processors add them.
      const float sum = kind != nullptr ? token[h] + kind[h] : token[h];
      values[static_cast<size_t>(h * padded + s)] = sum + position[h];
    }
  }
  return values;
}

int64_t HostEmbeddings::bytes() const {
  return static_cast<int64_t>((tokens_.size() + positions_.size() + types_.size()) * sizeof(float));
}

}  // namespace impetus::coreml

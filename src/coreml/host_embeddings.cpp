#include "coreml/host_embeddings.h"

#include <algorithm>
#include <functional>

namespace impetus::coreml {

Result<HostEmbeddings> HostEmbeddings::load(const ModelSpec& spec, const WeightSet& weights) {
  IMPETUS_TRY(const EncoderWeights tensors, resolve_encoder(spec, weights));
  HostEmbeddings host;
  host.hidden_ = spec.hidden;
  host.tokens_ = tensors.token_embedding->view;
  host.positions_ = tensors.position_embedding->view;
  if (tensors.type_embedding != nullptr) host.types_ = tensors.type_embedding->view;
  return host;
}

Result<std::vector<float>> HostEmbeddings::lookup(std::span<const TokenId> tokens,
                                                  std::span<const int32_t> token_types,
                                                  int64_t padded) const {
  constexpr auto kBad = ErrorCode::invalid_argument;
  const auto count = static_cast<int64_t>(tokens.size());
  const int64_t vocab = tokens_.shape.rows(), context = positions_.shape.rows();
  if (count > padded || count > context) {
    return error(kBad, "{} tokens, where {} fit and the model has {} positions", count, padded,
                 context);
  }
  if (!token_types.empty() && token_types.size() != tokens.size()) {
    return error(kBad, "{} token types for {} tokens", token_types.size(), count);
  }
  const bool typed = types_.shape.rank() > 0;
  const int64_t types = typed ? types_.shape.rows() : 1;
  std::vector<float> values(static_cast<size_t>(hidden_ * padded));
  std::vector<float> sum(static_cast<size_t>(hidden_)), row(sum.size());
  const auto decode = [&](const TensorView& table, int64_t i, std::vector<float>& into) {
    dequantize_row(table, i, into.data());
  };
  for (int64_t s = 0; s < count; ++s) {
    const auto i = static_cast<size_t>(s);
    const int64_t type = token_types.empty() ? 0 : token_types[i];
    if (tokens[i] < 0 || tokens[i] >= vocab) {
      return error(kBad, "token {} is outside the vocabulary of {}", tokens[i], vocab);
    }
    if (type < 0 || type >= types) {
      return error(kBad, "token type {}: the model has {}", type, types);
    }
    // In the order in which the other processors add them.
    decode(tokens_, tokens[i], sum);
    if (typed) {
      decode(types_, type, row);
      std::ranges::transform(sum, row, sum.begin(), std::plus());
    }
    decode(positions_, s, row);
    for (size_t h = 0; h < sum.size(); ++h) {
      values[h * static_cast<size_t>(padded) + i] = sum[h] + row[h];
    }
  }
  return values;
}

}  // namespace impetus::coreml

// The one encoder forward (BERT, DistilBERT, MiniLM): post-norm, learned positions, full attention.
// Written over coarse operations as decoder_forward.h is; instantiated once a processor.
#pragma once

#include <concepts>
#include <cstdint>

#include "architectures/model_spec.h"

namespace impetus {

// Over the tokens of a ragged batch of texts:
//   embed()               residual = norm(token + position (+ type))
//   attention_inputs(l)   q, k, v
//   attention(l)          each token over all tokens of its text
//   attention_output(l)   residual = norm(residual + W_o attention + bias)
//   feed_forward(l)       residual = norm(residual + W_down act(W_up residual + bias) + bias)
//   pool()                one vector a text, or every token's, as asked
template <typename Ops>
concept EncoderOps = requires(Ops& ops, int64_t layer) {
  ops.embed();
  ops.attention_inputs(layer);
  ops.attention(layer);
  ops.attention_output(layer);
  ops.feed_forward(layer);
  ops.pool();
};

template <EncoderOps Ops>
void encoder_forward(const ModelSpec& spec, Ops& ops) {
  ops.embed();
  for (int64_t layer = 0; layer < spec.layers; ++layer) {
    ops.attention_inputs(layer);
    ops.attention(layer);
    ops.attention_output(layer);
    ops.feed_forward(layer);
  }
  ops.pool();
}

}  // namespace impetus

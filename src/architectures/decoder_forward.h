// The one decoder forward (Llama, Qwen 2, Qwen 3): pre-norm, rotary, grouped-query, gated
// feed-forward.
//
// Written over coarse operations, so that each processor may fuse what lies inside one: a CPU joins
// norm and quantisation, a GPU norm, product, rotation and the write of keys and values in one
// kernel. The residual stream, and everything between two operations, is the processor's own.
// Instantiated explicitly, once a processor, in one of its source files.
#pragma once

#include <concepts>
#include <cstdint>

#include "architectures/model_spec.h"

namespace impetus {

// Over the tokens of a step, all sequences together:
//   embed()               residual = embedding rows
//   attention_inputs(l)   norm; q, k, v (+ bias); q and k norms; rotation; keys and values to the
//   KV blocks narrow()              from here on only the rows whose logits are wanted (there may
//   be none) attention(l)          each row over its sequence's keys up to itself
//   attention_output(l)   residual += W_o attention (+ bias)
//   feed_forward(l)       residual += W_down (act(W_gate x) * W_up x), x = norm(residual)
//   head()                final norm, logits, and what each row wants of them
template <typename Ops>
concept DecoderOps = requires(Ops& ops, int64_t layer) {
  ops.embed();
  ops.attention_inputs(layer);
  ops.narrow();
  ops.attention(layer);
  ops.attention_output(layer);
  ops.feed_forward(layer);
  ops.head();
};

template <DecoderOps Ops>
void decoder_forward(const ModelSpec& spec, Ops& ops) {
  ops.embed();
  for (int64_t layer = 0; layer < spec.layers; ++layer) {
    ops.attention_inputs(layer);
    // Past its keys and values the last layer matters only to rows whose logits are wanted.
    if (layer + 1 == spec.layers) ops.narrow();
    ops.attention(layer);
    ops.attention_output(layer);
    ops.feed_forward(layer);
  }
  ops.head();
}

}  // namespace impetus

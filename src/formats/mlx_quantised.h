// Layers quantised by MLX: in a safetensors folder, three tensors and a word in config.json make
// one weight. As mlx-lm writes them (https://github.com/ml-explore/mlx-lm):
//   X.weight  U32 [out, in * bits / 32]    codes (tensor/grouped.h)
//   X.scales  F32, F16 or BF16 [out, in / group]; mxfp4: U8
//   X.biases  as the scales; mxfp4: absent
//   config.json  "quantization": {"group_size", "bits", "mode": "affine" by default,
//                 X: {the same} for layers of their own, X: false for plain ones}
#pragma once

#include "base/json.h"
#include "base/result.h"
#include "formats/weights.h"

namespace impetus {

// What config.json says of quantisation in MLX's way; nullptr where it says nothing, or speaks of
// another method. mlx-lm writes it under "quantization" and again under "quantization_config".
const json::object* mlx_quantisation(const json::object& config);

// `config` is the folder's config.json. The X.weight of each layer that has X.scales becomes one
// grouped tensor [out, in]; its scales and biases are no longer tensors of their own. A set without
// such layers comes back as it is. corrupt where tensors contradict each other or the config,
// unsupported for other modes, bits or groups: one error naming file, layer and reason.
Result<WeightSet> join_quantised(WeightSet set, const json::object& config);

}  // namespace impetus

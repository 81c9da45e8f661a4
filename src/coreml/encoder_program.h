// The parts of convert_encoder(): an encoder's tensors as constant operations, made once, and the
// function of one length over them. Internal to this folder.
//
// The form is ml-ane-transformers' (https://github.com/apple/ml-ane-transformers, as Apple runs
// DistilBERT on the engine): every linear layer a 1x1 convolution over (1, channels, 1, tokens),
// attention by head as two einsums whose scores stand as (1, keys, 1, queries), so that no
// activation is reshaped and only the keys are transposed. 1 / sqrt(head size) is folded into the
// query's weights before they are rounded: one rounding and one operation less.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "architectures/model_spec.h"
#include "base/result.h"
#include "coreml/convert.h"
#include "formats/weights.h"
#include "mil/program.h"

namespace impetus::coreml {

// By name ("layer_0_attention_query_weight"): a const or a constexpr_* each. Values share bytes.
using Constants = std::map<std::string, mil::Operation, std::less<>>;

// unsupported where a weight is not finite or past fp16, naming its tensor. `done` counts tensors.
Result<Constants> encoder_constants(const ModelSpec& spec, const WeightSet& weights,
                                    Precision precision, mil::Opset opset,
                                    const std::function<void(int64_t done, int64_t total)>& done);

// Largest magnitude of a tensor, by name: what quantize is given there. Empty: no quantize.
using ActivationRanges = std::map<std::string, float, std::less<>>;

// Which tensors a w8a8 program quantises: the inputs of its convolutions.
std::vector<std::string> quantised_activations(const ModelSpec& spec);

// Without its description. REQUIRES a range for each of quantised_activations() or none at all.
mil::Function encoder_function(const ModelSpec& spec, const Constants& constants, int64_t tokens,
                               mil::Opset opset, const ActivationRanges& ranges);

// Of every function of convert_encoder, in its order.
mil::TensorType hidden_type(const ModelSpec& spec, int64_t tokens);
mil::TensorType mask_type(int64_t tokens);

// The epsilon of a norm whose input is scaled: the model's, or the smallest that fp16 keeps apart
// from zero with a margin (rule D13). Next to the variances of real hidden states it is nothing.
float norm_epsilon(const ModelSpec& spec, float scale = 1);

}  // namespace impetus::coreml

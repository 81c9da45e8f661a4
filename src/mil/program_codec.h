// mil::Model <-> the bytes of model.mlmodel (protobuf, Model.proto of coremltools). Protobuf itself
// stays behind this header.
//
// Kept: all that Model holds. Not kept: doc strings, features' descriptions, defaults of optional
// inputs, names of a classifier's predicted features, training inputs.
#pragma once

#include <cstddef>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "mil/program.h"
#include "mil/weight_blob.h"

namespace impetus::mil {

// The weight file that a program calls "@model_path/weights/weight.bin" or the like. Asked once a
// constant; what it returns outlives the decoding.
using FindWeights = std::function<Result<const BlobFile*>(std::string_view name)>;

Result<Model> decode_model(std::span<const std::byte> bytes, const FindWeights& find_weights);

struct EncodedModel {
  std::vector<std::byte> model;
  BlobLayout weights;  // borrows from the Model
};

// The same model gives the same bytes. Constants of ten elements or more, of const and constexpr_*
// operations, go to the weights, where that specification version knows their type there.
// invalid_argument for what the format cannot carry or the reader would refuse.
Result<EncodedModel> encode_model(const Model& model);

inline constexpr std::string_view kWeightFileName = "@model_path/weights/weight.bin";

}  // namespace impetus::mil

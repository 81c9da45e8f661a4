// A model of the project's own loader into Core ML programs in the form that the Neural Engine
// wants: activations (1, channels, 1, tokens) in fp16, every linear layer a 1x1 convolution, one
// function a fixed number of tokens.
//
// An encoder's function takes
//   "hidden"  fp16 [1, hidden, 1, S]  sum of token, position and type embeddings (the host's work)
//   "mask"    fp16 [1, S, 1, 1]       0 for a token, kMaskValue for padding; added to the scores of
//                                     each key
// and gives
//   "hidden_states" fp16 [1, hidden, 1, S]
// The embeddings' norm is the program's first operation; pooling and normalisation are the host's,
// in fp32. Pure: any thread. The same model and options give the same programs.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "architectures/model_spec.h"
#include "base/result.h"
#include "base/token_id.h"
#include "formats/weights.h"
#include "mil/program.h"

namespace impetus::coreml {

inline constexpr float kMaskValue = -1e4f;
// Changes whenever the same model and options would give another program.
inline constexpr int kWriterVersion = 3;

// Of the linear layers' weights; norms and biases stay fp16. int8 is a scale by output channel, or
// a table of 256 values where outliers would take the channels' resolution. palettized6 and
// palettized4 keep 8 bits where fewer cost most: the attention's value and output, and the
// feed-forward's down projection.
enum class Precision : uint8_t { fp16, int8, palettized8, palettized6, palettized4, w8a8 };
std::string_view to_string(Precision precision);
Result<Precision> precision_from(std::string_view name);

struct ConvertOptions {
  Precision precision = Precision::fp16;
  std::vector<int64_t> shapes{16,  32,  64,
                              128, 256, 512};  // tokens; those past the context are left out
  int macos = 15;
  // w8a8: texts to measure the activations' ranges on. REQUIRED there.
  std::vector<std::vector<TokenId>> calibration = {};
  // Of the metadata; the license as the model's own card gives it. Empty: not said.
  std::string name = {}, license = {};
  // Told now and then how many of its tensors are converted.
  std::function<void(int64_t done, int64_t total)> progress = {};
};

struct Converted {
  std::vector<int64_t> shapes;  // ascending; the function of each is function_name(shape, ...)
  mil::Model model;
};

// Keys of Metadata::user, all strings: facts of the model (a JSON object), precision, shapes
// ("16,32"), kWriterVersion.
inline constexpr const char* kModelKey = "org.impetus.model";
inline constexpr const char* kPrecisionKey = "org.impetus.precision";
inline constexpr const char* kShapesKey = "org.impetus.shapes";
inline constexpr const char* kWriterVersionKey = "org.impetus.writer_version";

// unsupported for decoders, for weights that fp16 cannot hold and for what `macos` cannot run;
// invalid_argument for options. What is returned has passed validate() of mil/operations.h with
// every parameter, and check() of check.h: no error, and a waiver with its reason (kWaiversKey) for
// each warning.
//
// One model with a function a shape ("encode_128") where `macos` knows functions (15), else one
// model a shape with the function "main".
Result<std::vector<Converted>> convert_encoder(const ModelSpec& spec, const WeightSet& weights,
                                               const ConvertOptions& options);

std::string function_name(int64_t tokens, int macos);

}  // namespace impetus::coreml

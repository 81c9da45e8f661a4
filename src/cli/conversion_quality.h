// A program just converted, held against the model it came from: hidden states of some texts in the
// interpreter beside the CPU encoder's in f32.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "architectures/model_spec.h"
#include "base/json.h"
#include "base/result.h"
#include "base/token_id.h"
#include "coreml/convert.h"
#include "formats/weights.h"
#include "mil/interpreter.h"
#include "text/tokenizer.h"

namespace impetus::cli {

struct ConversionQuality {
  std::string function;
  int64_t texts = 0, tokens = 0;
  double text_cosine = 1, token_cosine = 1;  // the lowest, of mean vectors and of hidden states
  // Largest magnitude of a norm's input: past 256 its square overflows fp16 (rule D14).
  float norm_input_max = 0;
  std::string norm_input_tensor;
  std::vector<std::string> events;  // "layer_0_scores_1 (einsum): 3 values overflow, first -7e4"
};

// Texts longer than the function are cut. `done` counts texts.
Result<ConversionQuality> measure_conversion(const ModelSpec& spec, const WeightSet& weights,
                                             const mil::Model& program, const std::string& function,
                                             const std::vector<std::vector<TokenId>>& texts,
                                             int threads,
                                             const std::function<void(int64_t done)>& done);

json::object to_json(const ConversionQuality& quality);

// Largest magnitudes of a program's tensors over some texts, computed in f32: what fp16 would have
// to hold.
struct ValueRanges {
  std::vector<mil::TensorRange> ranges = {};
  mil::TensorRange norm_input = {};  // the largest of a norm's input
  int64_t texts = 0;
  std::string why_not = {};  // where none could be measured
};
Result<ValueRanges> measure_ranges(const ModelSpec& spec, const WeightSet& weights,
                                   const mil::Model& program, const std::string& function,
                                   const std::vector<std::vector<TokenId>>& texts);

// Which program, and at which of its lengths, texts are tried on: the shortest that holds most.
struct Trial {
  const coreml::Converted* program = nullptr;
  int64_t tokens = 0;
};
// REQUIRES: at least one. Borrows.
Trial trial_of(const std::vector<coreml::Converted>& converted);

// The lines of a file that are not empty (invalid_argument: there are none); without a name a dozen
// built-in sentences of several kinds and lengths.
Result<std::vector<std::string>> sample_texts(const std::string& file_name);
std::vector<std::vector<TokenId>> encoded(const Tokenizer& tokenizer,
                                          const std::vector<std::string>& texts);

}  // namespace impetus::cli

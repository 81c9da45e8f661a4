// What /set changes in a chat.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "runtime/types.h"

namespace impetus::cli {

struct ChatParameters {
  static constexpr int64_t kTokensMax = 1024;

  SamplingOptions sampling;
  std::optional<int64_t> tokens_max;  // of an answer
  std::vector<std::string> stop;

  int64_t tokens_max_or_default() const { return tokens_max.value_or(kTokensMax); }
};

// "temperature 0.7" sets, "temperature default" leaves it to the model again, "" changes nothing.
// Lines that say what now holds: of the one, or of all. invalid_argument that names what there is.
Result<std::string> set_parameter(ChatParameters& parameters, const std::string& argument);

}  // namespace impetus::cli

// `impetus run` without a prompt: a conversation at the terminal.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "runtime/runtime.h"

namespace impetus::cli {

struct ChatOptions {
  std::string system;
  SamplingOptions sampling;
  std::optional<int64_t> tokens_max;  // unset: kChatTokensMax
  std::vector<std::string> stop;
};

// Returns where the person leaves. REQUIRES: `model` is loaded; standard input is a terminal.
Result<void> chat(Runtime& runtime, const ModelInfo& model, ChatOptions options);

}  // namespace impetus::cli

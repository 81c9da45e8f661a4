// OpenAI's request bodies to native values. Pure. Unknown keys are ignored; what is asked for and not
// done is refused by `param`; nothing is approximated in silence.
// Source: https://platform.openai.com/docs/api-reference and the clients' own behaviour.
#pragma once

#include <string>
#include <vector>

#include "base/json.h"
#include "base/result.h"
#include "runtime/types.h"

namespace impetus::api {

struct StreamOptions {
  bool stream = false;
  bool include_usage = false;
};

struct ChatCall {
  GenerateRequest generate;
  StreamOptions stream;
};
Result<ChatCall> parse_chat(const json::value& body);

struct CompletionCall {
  std::vector<GenerateRequest> generate;  // one a prompt; choices are numbered prompt * n + choice
  StreamOptions stream;
};
Result<CompletionCall> parse_completion(const json::value& body);

struct EmbeddingCall {
  EmbedRequest embed;
  bool base64 = false;
  bool legacy = false;  // Ollama's {"model", "prompt"}, answered by {"embedding"}
};
struct EmbeddingRules {
  bool accept_token_ids = false;
  bool accept_legacy = false;
};
Result<EmbeddingCall> parse_embedding(const json::value& body, EmbeddingRules rules);

struct TokenizeCall {
  std::string model;
  std::string text;
  bool add_special = false;
  bool parse_special = true;
};
Result<TokenizeCall> parse_tokenize(const json::value& body);

struct DetokenizeCall {
  std::string model;
  std::vector<TokenId> tokens;
};
Result<DetokenizeCall> parse_detokenize(const json::value& body);

}  // namespace impetus::api

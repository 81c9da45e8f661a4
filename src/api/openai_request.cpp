#include "api/openai_request.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>

namespace impetus::api {
namespace {

constexpr int64_t kChoicesMax = 16;
constexpr size_t kStopsMax = 16;
constexpr size_t kStopBytesMax = 1024;
constexpr size_t kBiasesMax = 1024;
constexpr int64_t kSequencesMax = 256;  // prompts times choices of one request
constexpr size_t kInputsMax = 2048;     // as OpenAI's limit for embeddings

template <typename... Args>
Error refuse(std::string_view param, fmt::format_string<Args...> format, Args&&... args) {
  Error failure = error(ErrorCode::invalid_argument, format, std::forward<Args>(args)...);
  failure.param = std::string(param);
  return failure;
}

Error unsupported(std::string_view param, std::string_view what) {
  Error failure = error(ErrorCode::unsupported, "'{}': {}", param, what);
  failure.param = std::string(param);
  return failure;
}

const json::value* present(const json::object& body, std::string_view key) {
  const json::value* value = body.if_contains(key);
  return value == nullptr || value->is_null() ? nullptr : value;
}

Result<const json::object*> as_object(const json::value& body) {
  if (!body.is_object()) {
    return error(ErrorCode::invalid_argument, "the request body must be a JSON object");
  }
  return &body.get_object();
}

Result<std::optional<float>> ranged(const json::object& body, std::string_view key, double low,
                                    double high) {
  IMPETUS_TRY(const auto value, number_field(body, key));
  if (!value) return std::optional<float>{};
  if (*value < low || *value > high) {
    return refuse(key, "'{}' must be between {} and {}, not {}", key, low, high, *value);
  }
  return std::optional<float>{static_cast<float>(*value)};
}

Result<TokenId> token_id(const json::value& value, std::string_view param) {
  boost::system::error_code code;
  const int64_t id = value.is_number() ? value.to_number<int64_t>(code) : -1;
  if (code || id < 0 || id > std::numeric_limits<TokenId>::max()) {
    return refuse(param, "'{}' holds something that is no token id", param);
  }
  return static_cast<TokenId>(id);
}

Result<std::vector<TokenId>> token_ids(const json::array& array, std::string_view param) {
  std::vector<TokenId> ids;
  ids.reserve(array.size());
  for (const json::value& value : array) {
    IMPETUS_TRY(const TokenId id, token_id(value, param));
    ids.push_back(id);
  }
  return ids;
}

Result<std::vector<std::string>> parse_stop(const json::object& body) {
  std::vector<std::string> stops;
  const json::value* value = present(body, "stop");
  if (value == nullptr) return stops;
  const auto add = [&](const json::value& stop) -> Result<void> {
    if (!stop.is_string()) return refuse("stop", "'stop' must be a string or an array of strings");
    if (stop.get_string().empty()) return refuse("stop", "'stop' must not hold an empty string");
    if (stop.get_string().size() > kStopBytesMax) {
      return refuse("stop", "'stop' holds a string of {} bytes, more than {}",
                    stop.get_string().size(), kStopBytesMax);
    }
    stops.emplace_back(stop.get_string());
    return {};
  };
  if (!value->is_array()) {
    IMPETUS_CHECK(add(*value));
    return stops;
  }
  if (value->get_array().size() > kStopsMax) {
    return refuse("stop", "'stop' holds {} strings, more than {}", value->get_array().size(),
                  kStopsMax);
  }
  for (const json::value& stop : value->get_array()) IMPETUS_CHECK(add(stop));
  return stops;
}

Result<std::vector<std::pair<TokenId, float>>> parse_logit_bias(const json::object& body) {
  std::vector<std::pair<TokenId, float>> biases;
  const json::value* value = present(body, "logit_bias");
  if (value == nullptr) return biases;
  if (!value->is_object()) {
    return refuse("logit_bias", "'logit_bias' must be an object of token ids and biases");
  }
  if (value->get_object().size() > kBiasesMax) {
    return refuse("logit_bias", "'logit_bias' has {} entries, more than {}",
                  value->get_object().size(), kBiasesMax);
  }
  for (const auto& entry : value->get_object()) {
    const std::string_view key = entry.key();
    TokenId id = -1;
    const auto [end, code] = std::from_chars(key.data(), key.data() + key.size(), id);
    if (code != std::errc{} || end != key.data() + key.size() || id < 0) {
      return refuse("logit_bias", "'logit_bias': '{}' is no token id", key);
    }
    boost::system::error_code failed;
    const double bias = entry.value().is_number() ? entry.value().to_number<double>(failed) : NAN;
    if (failed || !(bias >= -100 && bias <= 100)) {
      return refuse("logit_bias", "'logit_bias': the bias of token {} must be between -100 and 100",
                    id);
    }
    biases.emplace_back(id, static_cast<float>(bias));
  }
  return biases;
}

// The fields that chat and completions share.
Result<void> parse_common(const json::object& body, GenerateRequest& request,
                          StreamOptions& stream) {
  IMPETUS_TRY(const auto model, string_field(body, "model"));
  request.model = model.value_or("");

  SamplingOptions& sampling = request.sampling;
  IMPETUS_TRY(sampling.temperature, ranged(body, "temperature", 0, 2));
  IMPETUS_TRY(sampling.top_p, ranged(body, "top_p", 0, 1));
  IMPETUS_TRY(sampling.min_p, ranged(body, "min_p", 0, 1));
  IMPETUS_TRY(sampling.repetition_penalty, ranged(body, "repetition_penalty", 0.01, 100));
  IMPETUS_TRY(const auto presence, ranged(body, "presence_penalty", -2, 2));
  IMPETUS_TRY(const auto frequency, ranged(body, "frequency_penalty", -2, 2));
  sampling.presence_penalty = presence.value_or(0);
  sampling.frequency_penalty = frequency.value_or(0);
  IMPETUS_TRY(const auto top_k, int_field(body, "top_k"));
  if (top_k && *top_k < -1) return refuse("top_k", "'top_k' must be -1 or 0 (off), or positive");
  if (top_k) sampling.top_k = static_cast<int32_t>(std::clamp<int64_t>(*top_k, 0, 1 << 30));
  IMPETUS_TRY(const auto seed, int_field(body, "seed"));
  if (seed) sampling.seed = static_cast<uint64_t>(*seed);
  IMPETUS_TRY(sampling.logit_bias, parse_logit_bias(body));

  IMPETUS_TRY(request.stop, parse_stop(body));
  IMPETUS_TRY(const auto n, int_field(body, "n"));
  if (n && (*n < 1 || *n > kChoicesMax)) {
    return refuse("n", "'n' must be between 1 and {}, not {}", kChoicesMax, *n);
  }
  request.n = static_cast<int32_t>(n.value_or(1));

  for (const char* key : {"max_tokens", "max_completion_tokens"}) {  // the newer name wins
    IMPETUS_TRY(const auto limit, int_field(body, key));
    if (limit && *limit < 1) return refuse(key, "'{}' must be at least 1, not {}", key, *limit);
    if (limit) request.tokens_max = *limit;
  }

  IMPETUS_TRY(const auto ignore_eos, bool_field(body, "ignore_eos"));
  request.ignore_eos = ignore_eos.value_or(false);

  IMPETUS_TRY(const auto streaming, bool_field(body, "stream"));
  stream.stream = streaming.value_or(false);
  if (const json::value* options = present(body, "stream_options")) {
    if (!options->is_object())
      return refuse("stream_options", "'stream_options' must be an object");
    IMPETUS_TRY(const auto usage, bool_field(options->get_object(), "include_usage"));
    stream.include_usage = usage.value_or(false);
  }
  return {};
}

// A message's content as one string: null, "", a string, or an array of text parts.
Result<json::string> message_text(const json::value* content, size_t index) {
  json::string text;
  if (content == nullptr || content->is_null()) return text;
  if (content->is_string()) return content->get_string();
  if (!content->is_array()) {
    return refuse("messages", "messages[{}].content must be a string or an array of parts", index);
  }
  for (const json::value& part : content->get_array()) {
    const json::object* object = part.if_object();
    const json::value* type = object ? object->if_contains("type") : nullptr;
    if (type == nullptr || !type->is_string()) {
      return refuse("messages", "messages[{}].content: each part needs a 'type'", index);
    }
    if (type->get_string() != "text") {
      return unsupported("messages",
                         fmt::format("messages[{}].content has a part of type '{}'; this "
                                     "server reads text",
                                     index, std::string_view(type->get_string())));
    }
    const json::value* piece = object->if_contains("text");
    if (piece == nullptr || !piece->is_string()) {
      return refuse("messages", "messages[{}].content: a text part needs a 'text' string", index);
    }
    text += piece->get_string();
  }
  return text;
}

Result<json::array> parse_messages(const json::object& body) {
  const json::value* value = present(body, "messages");
  if (value == nullptr || !value->is_array() || value->get_array().empty()) {
    return refuse("messages", "'messages' must be an array of at least one message");
  }
  json::array messages;
  for (size_t i = 0; i < value->get_array().size(); ++i) {
    const json::object* message = value->get_array()[i].if_object();
    if (message == nullptr) return refuse("messages", "messages[{}] must be an object", i);
    const json::value* role = message->if_contains("role");
    if (role == nullptr || !role->is_string()) {
      return refuse("messages", "messages[{}] needs a 'role'", i);
    }
    json::string name = role->get_string();
    if (name == "developer") name = "system";  // OpenAI's newer name for it
    if (name == "tool" || name == "function" || present(*message, "tool_calls")) {
      return unsupported("messages",
                         fmt::format("messages[{}] belongs to a tool call; this version "
                                     "does not call tools",
                                     i));
    }
    if (name != "system" && name != "user" && name != "assistant") {
      return refuse("messages",
                    "messages[{}].role is '{}'; it must be system, developer, user or assistant", i,
                    std::string_view(name));
    }
    if (message->if_contains("content") == nullptr && name != "assistant") {
      return refuse("messages", "messages[{}] needs a 'content'", i);
    }
    json::object turn;
    for (const auto& entry : *message) turn[entry.key()] = entry.value();
    turn["role"] = std::move(name);
    IMPETUS_TRY(turn["content"], message_text(message->if_contains("content"), i));
    messages.push_back(std::move(turn));
  }
  return messages;
}

Result<void> refuse_unsupported_chat(const json::object& body) {
  for (const char* key : {"tools", "functions"}) {
    const json::value* value = present(body, key);
    if (value && !(value->is_array() && value->get_array().empty())) {
      return unsupported(key, "this version does not call tools; leave the field out");
    }
  }
  for (const char* key : {"tool_choice", "function_call"}) {
    const json::value* value = present(body, key);
    if (value &&
        !(value->is_string() && (value->get_string() == "none" || value->get_string() == "auto"))) {
      return unsupported(key, "this version does not call tools; leave the field out");
    }
  }
  if (const json::value* format = present(body, "response_format")) {
    const json::object* object = format->if_object();
    const json::value* type = object ? object->if_contains("type") : nullptr;
    if (type == nullptr || !type->is_string()) {
      return refuse("response_format", "'response_format' must be an object with a 'type'");
    }
    if (type->get_string() != "text") {
      return unsupported("response_format",
                         fmt::format("'{}' is not done by this version; it answers in plain text",
                                     std::string_view(type->get_string())));
    }
  }
  if (const json::value* modalities = present(body, "modalities")) {
    const json::array* array = modalities->if_array();
    if (array == nullptr || array->size() != 1 || array->front() != "text") {
      return unsupported("modalities", "this server answers in text");
    }
  }
  if (present(body, "audio")) return unsupported("audio", "this server answers in text");
  return {};
}

}  // namespace

Result<ChatCall> parse_chat(const json::value& value) {
  IMPETUS_TRY(const json::object* body, as_object(value));
  ChatCall call;
  IMPETUS_CHECK(parse_common(*body, call.generate, call.stream));
  IMPETUS_CHECK(refuse_unsupported_chat(*body));

  IMPETUS_TRY(const auto logprobs, bool_field(*body, "logprobs"));
  IMPETUS_TRY(const auto top, int_field(*body, "top_logprobs"));
  if (top && (*top < 0 || *top > 20)) {
    return refuse("top_logprobs", "'top_logprobs' must be between 0 and 20, not {}", *top);
  }
  if (top && *top > 0 && !logprobs.value_or(false)) {
    return refuse("top_logprobs", "'top_logprobs' needs 'logprobs': true");
  }
  if (logprobs.value_or(false)) {
    call.generate.sampling.top_logprobs = static_cast<int32_t>(top.value_or(0));
  }

  ChatPrompt prompt;
  IMPETUS_TRY(prompt.messages, parse_messages(*body));
  if (const json::value* extra = present(*body, "chat_template_kwargs")) {
    if (!extra->is_object()) {
      return refuse("chat_template_kwargs", "'chat_template_kwargs' must be an object");
    }
    for (const auto& entry : extra->get_object()) {
      prompt.template_extra[entry.key()] = entry.value();
    }
  }
  IMPETUS_TRY(const auto generation_prompt, bool_field(*body, "add_generation_prompt"));
  prompt.add_generation_prompt = generation_prompt.value_or(true);
  call.generate.prompt = std::move(prompt);
  return call;
}

Result<CompletionCall> parse_completion(const json::value& value) {
  IMPETUS_TRY(const json::object* body, as_object(value));
  CompletionCall call;
  GenerateRequest common;
  IMPETUS_CHECK(parse_common(*body, common, call.stream));
  if (!common.tokens_max) common.tokens_max = 16;  // this endpoint's documented default

  const json::value* suffix = present(*body, "suffix");
  if (suffix && !(suffix->is_string() && suffix->get_string().empty())) {
    return unsupported("suffix", "this version does not fill in the middle");
  }
  IMPETUS_TRY(const auto best_of, int_field(*body, "best_of"));
  if (best_of && *best_of != common.n) {
    return unsupported("best_of",
                       "this version returns every answer it makes; ask for 'n' of them");
  }
  IMPETUS_TRY(const auto echo, bool_field(*body, "echo"));
  common.echo = echo.value_or(false);
  if (const json::value* logprobs = present(*body, "logprobs"); logprobs && !logprobs->is_bool()) {
    IMPETUS_TRY(const auto count, int_field(*body, "logprobs"));
    if (*count < 0 || *count > 20) {
      return refuse("logprobs", "'logprobs' must be between 0 and 20, not {}", *count);
    }
    if (common.echo) {
      return unsupported("logprobs", "log probabilities of an echoed prompt are not computed");
    }
    common.sampling.top_logprobs = static_cast<int32_t>(*count);
  } else if (logprobs && logprobs->get_bool()) {
    common.sampling.top_logprobs = 0;
  }

  const json::value* prompt = present(*body, "prompt");
  if (prompt == nullptr)
    return refuse("prompt", "'prompt' must be a string, tokens, or an array of them");
  const auto add = [&](Prompt one) {
    call.generate.push_back(common);
    call.generate.back().prompt = std::move(one);
  };
  const auto text = [](const json::value& string) {
    return TextPrompt{std::string(string.get_string()), /*parse_special=*/true};
  };
  if (prompt->is_string()) {
    add(text(*prompt));
  } else if (const json::array* array = prompt->if_array(); array && !array->empty()) {
    if (static_cast<int64_t>(array->size()) * common.n > kSequencesMax &&
        !array->front().is_number()) {
      return refuse("prompt", "'prompt' holds {} prompts of {} choices each, more than {} in all",
                    array->size(), common.n, kSequencesMax);
    }
    if (array->front().is_number()) {
      IMPETUS_TRY(auto ids, token_ids(*array, "prompt"));
      add(std::move(ids));
    } else {
      for (const json::value& one : *array) {
        if (one.is_string()) {
          add(text(one));
        } else if (one.is_array()) {
          IMPETUS_TRY(auto ids, token_ids(one.get_array(), "prompt"));
          add(std::move(ids));
        } else {
          return refuse("prompt", "'prompt' must be a string, tokens, or an array of them");
        }
      }
    }
  } else {
    return refuse("prompt", "'prompt' must be a string, tokens, or an array of them");
  }
  return call;
}

Result<EmbeddingCall> parse_embedding(const json::value& value, EmbeddingRules rules) {
  IMPETUS_TRY(const json::object* body, as_object(value));
  EmbeddingCall call;
  IMPETUS_TRY(const auto model, string_field(*body, "model"));
  call.embed.model = model.value_or("");
  IMPETUS_TRY(const auto format, string_field(*body, "encoding_format"));
  if (format && *format != "float" && *format != "base64") {
    return refuse("encoding_format", "'encoding_format' must be float or base64, not '{}'",
                  *format);
  }
  call.base64 = format == "base64";
  IMPETUS_TRY(call.embed.dimensions, int_field(*body, "dimensions"));
  if (call.embed.dimensions && *call.embed.dimensions < 1) {
    return refuse("dimensions", "'dimensions' must be at least 1");
  }
  IMPETUS_TRY(const auto truncate, bool_field(*body, "truncate"));
  call.embed.truncate = truncate.value_or(false);
  IMPETUS_TRY(call.embed.normalize, bool_field(*body, "normalize"));

  const json::value* input = present(*body, "input");
  if (input == nullptr && rules.accept_legacy && present(*body, "prompt")) {
    input = present(*body, "prompt");
    call.legacy = true;
    if (!input->is_string()) return refuse("prompt", "'prompt' must be a string");
  }
  const auto bad = [] {
    return refuse("input", "'input' must be a string or a non-empty array of strings");
  };
  if (input == nullptr) return bad();
  if (input->is_string()) {
    call.embed.input = std::vector<std::string>{std::string(input->get_string())};
    return call;
  }
  const json::array* array = input->if_array();
  if (array == nullptr || array->empty()) return bad();
  if (array->size() > kInputsMax && !array->front().is_number()) {
    return refuse("input", "'input' holds {} texts, more than {}", array->size(), kInputsMax);
  }

  if (array->front().is_string()) {
    std::vector<std::string> texts;
    for (const json::value& text : *array) {
      if (!text.is_string()) return bad();
      texts.emplace_back(text.get_string());
    }
    call.embed.input = std::move(texts);
    return call;
  }
  if (!array->front().is_number() && !array->front().is_array()) return bad();
  if (!rules.accept_token_ids) {
    // LangChain sends OpenAI's own token ids by default: another vocabulary's, so the vectors would
    // be those of another text.
    return refuse(
        "input",
        "'input' holds token ids; they would be read in this model's vocabulary, not OpenAI's. "
        "With LangChain set check_embedding_ctx_length=False, or start the server with "
        "--accept-token-ids if the ids are this model's");
  }
  std::vector<std::vector<TokenId>> texts;
  if (array->front().is_number()) {
    IMPETUS_TRY(auto ids, token_ids(*array, "input"));
    texts.push_back(std::move(ids));
  } else {
    for (const json::value& text : *array) {
      if (!text.is_array()) return bad();
      IMPETUS_TRY(auto ids, token_ids(text.get_array(), "input"));
      texts.push_back(std::move(ids));
    }
  }
  call.embed.input = std::move(texts);
  return call;
}

Result<TokenizeCall> parse_tokenize(const json::value& value) {
  IMPETUS_TRY(const json::object* body, as_object(value));
  TokenizeCall call;
  IMPETUS_TRY(const auto model, string_field(*body, "model"));
  call.model = model.value_or("");
  std::optional<std::string> text;
  for (const char* key : {"text", "content", "prompt"}) {
    if (text) break;
    IMPETUS_TRY(text, string_field(*body, key));
  }
  if (!text) return refuse("text", "'text' must be the string to tokenize");
  call.text = std::move(*text);
  for (const char* key : {"add_special", "add_special_tokens"}) {
    IMPETUS_TRY(const auto special, bool_field(*body, key));
    if (special) call.add_special = *special;
  }
  IMPETUS_TRY(const auto parse, bool_field(*body, "parse_special"));
  call.parse_special = parse.value_or(true);
  return call;
}

Result<DetokenizeCall> parse_detokenize(const json::value& value) {
  IMPETUS_TRY(const json::object* body, as_object(value));
  DetokenizeCall call;
  IMPETUS_TRY(const auto model, string_field(*body, "model"));
  call.model = model.value_or("");
  const json::value* tokens = present(*body, "tokens");
  if (tokens == nullptr || !tokens->is_array()) {
    return refuse("tokens", "'tokens' must be an array of token ids");
  }
  IMPETUS_TRY(call.tokens, token_ids(tokens->get_array(), "tokens"));
  return call;
}

}  // namespace impetus::api

#include "api/openai_response.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "base/utf8.h"

namespace impetus::api {
namespace {

static_assert(std::endian::native == std::endian::little, "base64 vectors are little-endian");

constexpr const char* kFingerprint = "impetus-0.1.0";
// Negative infinity has no JSON; OpenAI reports impossible tokens by this figure.
constexpr double kImpossible = -9999;

const char* finish_reason(AnswerEnd end) {
  return end == AnswerEnd::length ? "length" : end == AnswerEnd::cancelled ? "cancelled" : "stop";
}

double wire_logprob(float logprob) {
  return std::isfinite(logprob) ? logprob : kImpossible;
}

json::object token_object(const TokenText& token) {
  json::array bytes;
  for (const char byte : token.bytes) bytes.push_back(static_cast<uint8_t>(byte));
  return {{"token", repair_utf8(token.bytes)},
          {"logprob", wire_logprob(token.logprob)},
          {"bytes", std::move(bytes)}};
}

// Clients slice text by characters, not bytes.
size_t characters(std::string_view text) {
  return static_cast<size_t>(std::count_if(text.begin(), text.end(), [](char c) {
    return (static_cast<unsigned char>(c) & 0xc0) != 0x80;
  }));
}

json::object chat_logprobs(const std::vector<TokenDetail>& tokens) {
  json::array content;
  for (const TokenDetail& detail : tokens) {
    json::object entry = token_object(detail.token);
    json::array top;
    for (const TokenText& other : detail.top) top.push_back(token_object(other));
    entry["top_logprobs"] = std::move(top);
    content.push_back(std::move(entry));
  }
  return {{"content", std::move(content)}, {"refusal", nullptr}};
}

json::object completion_logprobs(const std::vector<TokenDetail>& tokens, size_t offset) {
  json::array texts, logprobs, tops, offsets;
  for (const TokenDetail& detail : tokens) {
    texts.push_back(json::value(repair_utf8(detail.token.bytes)));
    logprobs.push_back(wire_logprob(detail.token.logprob));
    json::object top;
    for (const TokenText& other : detail.top) {
      top[repair_utf8(other.bytes)] = wire_logprob(other.logprob);
    }
    tops.push_back(std::move(top));
    offsets.push_back(offset);
    offset += characters(detail.token.bytes);
  }
  return {{"tokens", std::move(texts)},
          {"token_logprobs", std::move(logprobs)},
          {"top_logprobs", std::move(tops)},
          {"text_offset", std::move(offsets)}};
}

json::value logprobs_value(const AnswerHead& head, const std::vector<TokenDetail>& tokens,
                           size_t offset) {
  if (!head.logprobs) return nullptr;
  return head.kind == AnswerKind::chat ? chat_logprobs(tokens)
                                       : completion_logprobs(tokens, offset);
}

json::object usage_object(const Usage& usage) {
  return {{"prompt_tokens", usage.prompt_tokens},
          {"completion_tokens", usage.completion_tokens},
          {"total_tokens", usage.prompt_tokens + usage.completion_tokens},
          {"prompt_tokens_details", json::object{{"cached_tokens", usage.cached_tokens}}}};
}

json::array name_list(const std::vector<std::string>& names) {
  return json::array(names.begin(), names.end());
}

json::value reason_of(const std::string& text) {
  return text.empty() ? json::value(nullptr) : json::value(json::string(text));
}

// Who ran an answer: all of them in one line, and by what they did.
json::object own_object(const Timings& timings, const Devices& devices) {
  return {{"device", devices.text()},
          {"devices", json::object{{"prefill", name_list(devices.prefill)},
                                   {"decode", name_list(devices.decode)}}},
          {"fallback_reason", reason_of(devices.fallback_reason)},
          {"timings", json::object{{"queue_ms", timings.queue_seconds * 1e3},
                                   {"first_token_ms", timings.prefill_seconds * 1e3},
                                   {"decode_ms", timings.decode_seconds * 1e3},
                                   {"handoff_ms", timings.handoff_seconds * 1e3}}}};
}

json::object base_object(const AnswerHead& head, const char* object) {
  return {{"id", head.id},
          {"object", object},
          {"created", head.created},
          {"model", head.model},
          {"system_fingerprint", kFingerprint}};
}

}  // namespace

std::string answer_body(const AnswerHead& head, const std::vector<ChoiceText>& choices,
                        const Usage& usage, const Timings& timings, const Devices& devices) {
  const bool chat = head.kind == AnswerKind::chat;
  json::object body = base_object(head, chat ? "chat.completion" : "text_completion");
  json::array list;
  for (size_t i = 0; i < choices.size(); ++i) {
    const ChoiceText& choice = choices[i];
    json::object entry{{"index", i}};
    if (chat) {
      entry["message"] =
          json::object{{"role", "assistant"}, {"content", choice.text}, {"refusal", nullptr}};
    } else {
      entry["text"] = choice.text;
    }
    entry["logprobs"] = logprobs_value(head, choice.tokens, 0);
    entry["finish_reason"] = finish_reason(choice.end);
    list.push_back(std::move(entry));
  }
  body["choices"] = std::move(list);
  body["usage"] = usage_object(usage);
  body["impetus"] = own_object(timings, devices);
  return json::serialize(body);
}

json::object AnswerStream::chunk(json::array choices) const {
  json::object body = base_object(
      head_, head_.kind == AnswerKind::chat ? "chat.completion.chunk" : "text_completion");
  body["choices"] = std::move(choices);
  if (head_.include_usage) body["usage"] = nullptr;
  return body;
}

std::string AnswerStream::role(int32_t choice) const {
  return json::serialize(chunk({json::object{
      {"index", choice},
      {"delta", json::object{{"role", "assistant"}, {"content", ""}, {"refusal", nullptr}}},
      {"logprobs", nullptr},
      {"finish_reason", nullptr}}}));
}

std::string AnswerStream::delta(const AnswerDelta& delta) {
  const auto choice = static_cast<size_t>(delta.choice);
  if (text_offset_.size() <= choice) text_offset_.resize(choice + 1);
  json::object entry{{"index", delta.choice}};
  if (head_.kind == AnswerKind::chat) {
    entry["delta"] = json::object{{"content", delta.text}};
  } else {
    entry["text"] = delta.text;
  }
  entry["logprobs"] = logprobs_value(head_, delta.tokens, text_offset_[choice]);
  entry["finish_reason"] = nullptr;
  text_offset_[choice] += characters(delta.text);
  return json::serialize(chunk({std::move(entry)}));
}

json::object AnswerStream::end_chunk(int32_t choice, AnswerEnd end) const {
  json::object entry{{"index", choice}};
  if (head_.kind == AnswerKind::chat) {
    entry["delta"] = json::object{};
  } else {
    entry["text"] = "";
  }
  entry["logprobs"] = nullptr;
  entry["finish_reason"] = finish_reason(end);
  return chunk({std::move(entry)});
}

std::string AnswerStream::choice_end(int32_t choice, AnswerEnd end) const {
  return json::serialize(end_chunk(choice, end));
}

std::string AnswerStream::last_choice_end(int32_t choice, AnswerEnd end, const Timings& timings,
                                          const Devices& devices) const {
  json::object body = end_chunk(choice, end);
  body["impetus"] = own_object(timings, devices);
  return json::serialize(body);
}

std::string AnswerStream::usage(const Usage& usage, const Timings& timings,
                                const Devices& devices) const {
  json::object body = chunk({});
  body["usage"] = usage_object(usage);
  body["impetus"] = own_object(timings, devices);
  return json::serialize(body);
}

std::string embedding_body(const std::string& model, const EmbedAnswer& answer, bool base64) {
  json::array data;
  for (size_t i = 0; i < answer.vectors.size(); ++i) {
    const auto& vector = answer.vectors[i];
    json::value embedding;
    if (base64) {
      embedding = json::string(base64_encode(vector.data(), vector.size() * sizeof(float)));
    } else {
      json::array values;
      values.reserve(vector.size());
      for (const float value : vector) values.push_back(value);
      embedding = std::move(values);
    }
    data.push_back(
        json::object{{"object", "embedding"}, {"index", i}, {"embedding", std::move(embedding)}});
  }
  return json::serialize(json::object{
      {"object", "list"},
      {"data", std::move(data)},
      {"model", model},
      {"usage", json::object{{"prompt_tokens", answer.prompt_tokens},
                             {"total_tokens", answer.prompt_tokens}}},
      {"impetus",
       json::object{{"device", answer.devices.text()},
                    {"devices", json::object{{"embeddings", name_list(answer.devices.embeddings)}}},
                    {"fallback_reason", reason_of(answer.devices.fallback_reason)}}}});
}

std::string legacy_embedding_body(const EmbedAnswer& answer) {
  json::array values;
  for (const float value : answer.vectors.front()) values.push_back(value);
  return json::serialize(json::object{{"embedding", std::move(values)}});
}

json::object model_object(const ModelInfo& info) {
  json::object devices;
  if (info.kind == "decoder") {
    devices = {{"prefill", name_list(info.devices.prefill)},
               {"decode", name_list(info.devices.decode)}};
  } else {
    devices = {{"embeddings", name_list(info.devices.embeddings)}};
  }
  return {{"id", info.id},
          {"object", "model"},
          {"created", info.created},
          {"owned_by", "impetus"},
          {"impetus", json::object{{"kind", info.kind},
                                   {"family", info.family},
                                   {"tokenizer", info.tokenizer},
                                   {"parameters", info.parameters},
                                   {"weight_bytes", info.weight_bytes},
                                   {"context", info.context},
                                   {"dimension", info.dimension},
                                   {"device", info.devices.text()},
                                   {"devices", std::move(devices)},
                                   {"fallback_reason", reason_of(info.fallback_reason)},
                                   {"precision", info.precision},
                                   {"kv", info.kv},
                                   {"chat_template", info.has_chat_template}}}};
}

std::string model_list_body(const std::vector<ModelInfo>& models) {
  json::array data;
  for (const ModelInfo& info : models) data.push_back(model_object(info));
  return json::serialize(json::object{{"object", "list"}, {"data", std::move(data)}});
}

std::string base64_encode(const void* data, size_t size) {
  static constexpr char kAlphabet[] =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  const auto* bytes = static_cast<const uint8_t*>(data);
  std::string text;
  text.reserve((size + 2) / 3 * 4);
  for (size_t i = 0; i < size; i += 3) {
    const size_t left = std::min<size_t>(3, size - i);
    uint32_t group = bytes[i] << 16;
    if (left > 1) group |= bytes[i + 1] << 8;
    if (left > 2) group |= bytes[i + 2];
    for (size_t j = 0; j < 4; ++j) {
      text += j <= left ? kAlphabet[group >> (18 - 6 * j) & 63] : '=';
    }
  }
  return text;
}

}  // namespace impetus::api

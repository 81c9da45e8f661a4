// Native answers to OpenAI's bodies and stream chunks. Pure; one object a request, not
// thread-shared.
#pragma once

#include <string>
#include <vector>

#include "base/json.h"
#include "runtime/types.h"

namespace impetus::api {

enum class AnswerKind : uint8_t { chat, completion };

struct AnswerHead {
  AnswerKind kind = AnswerKind::chat;
  std::string id;  // "chatcmpl-...", "cmpl-..."
  int64_t created = 0;
  std::string model;
  bool include_usage = false;  // of streams: every chunk has "usage", the last one filled
  bool logprobs = false;
};

// What one choice has come to.
struct ChoiceText {
  std::string text;
  std::vector<TokenDetail> tokens;
  AnswerEnd end = AnswerEnd::stop;
};

// A whole answer, not streamed.
std::string answer_body(const AnswerHead& head, const std::vector<ChoiceText>& choices,
                        const Usage& usage, const Timings& timings, const Devices& devices);

// A streamed answer, chunk by chunk: the JSON of each "data:" line. Chat: first the role of each
// choice, then text, then each choice's finish_reason; last the usage where asked for, with no
// choices. What ran it stands in the last chunk, be that the usage's or the last choice's end.
class AnswerStream {
 public:
  explicit AnswerStream(AnswerHead head) : head_(std::move(head)) {}
  std::string role(int32_t choice) const;  // chat only
  std::string delta(const AnswerDelta& delta);
  std::string choice_end(int32_t choice, AnswerEnd end) const;
  std::string last_choice_end(int32_t choice, AnswerEnd end, const Timings& timings,
                              const Devices& devices) const;
  std::string usage(const Usage& usage, const Timings& timings, const Devices& devices) const;
  const AnswerHead& head() const { return head_; }

 private:
  json::object chunk(json::array choices) const;
  json::object end_chunk(int32_t choice, AnswerEnd end) const;

  AnswerHead head_;
  std::vector<size_t> text_offset_;  // of each choice so far, for completions' logprobs
};

std::string embedding_body(const std::string& model, const EmbedAnswer& answer, bool base64);
std::string legacy_embedding_body(const EmbedAnswer& answer);  // {"embedding": [...]}

json::object model_object(const ModelInfo& info);
std::string model_list_body(const std::vector<ModelInfo>& models);

std::string base64_encode(const void* data, size_t size);

}  // namespace impetus::api

// Joins the answers of one HTTP request (one generation, or one a prompt) into its response: a body
// at the end, or a server-sent event a piece.
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "api/openai_response.h"
#include "runtime/runtime.h"
#include "server/http.h"
#include "server/metrics.h"

namespace impetus {

class AnswerJoin : public std::enable_shared_from_this<AnswerJoin> {
 public:
  // `prompts` generations of `n` choices each. `metrics` outlives every request.
  AnswerJoin(api::AnswerHead head, bool stream, int32_t prompts, int32_t n, std::string device,
             std::shared_ptr<Outbox> outbox, Metrics& metrics);

  // The sink of one prompt's generation.
  std::shared_ptr<AnswerSink> sink(int32_t prompt);
  // All prompts are queued: a stream begins. Text may have come before and waits until then.
  void begin();
  // Ends the response with this error, wherever it stands.
  void fail(const Error& error);

 private:
  class Part;
  void delta(int32_t prompt, AnswerDelta delta);
  void choice_end(int32_t prompt, int32_t choice, AnswerEnd end);
  void done(const Usage& usage, const Timings& timings, const std::string& device);
  void event(const std::string& json);

  const bool stream_;
  const int32_t n_;
  const std::string device_;
  const std::shared_ptr<Outbox> outbox_;
  Metrics& metrics_;

  std::mutex mutex_;  // the handler's thread and the device's meet here
  api::AnswerStream events_;
  std::vector<api::ChoiceText> choices_;
  Usage usage_;
  Timings timings_;
  int32_t unfinished_;
  bool begun_ = false;
  bool closed_ = false;  // the response is complete
  std::string early_;    // events from before begin()
  bool early_end_ = false;
};

}  // namespace impetus

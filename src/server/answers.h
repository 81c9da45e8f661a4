// Joins the answers of one HTTP request (one generation, or one a prompt) into its response: a body
// at the end, or a server-sent event a piece.
#pragma once

#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "api/openai_response.h"
#include "runtime/runtime.h"
#include "server/http.h"
#include "server/metrics.h"

namespace impetus {

class AnswerJoin : public std::enable_shared_from_this<AnswerJoin> {
 public:
  // `prompts` generations of `n` choices each. `metrics` outlives every request.
  AnswerJoin(api::AnswerHead head, bool stream, int32_t prompts, int32_t n,
             std::shared_ptr<Outbox> outbox, Metrics& metrics);

  // The sink of one prompt's generation.
  std::shared_ptr<AnswerSink> sink(int32_t prompt);
  // All prompts are queued: a stream may begin. Its head waits for the first token, to say who ran
  // the prompt, or until the connection finds it overdue; text may have come before this call.
  void begin();
  // Ends the response with this error, wherever it stands.
  void fail(const Error& error);

 private:
  class Part;
  void started(const Devices& devices);
  void delta(int32_t prompt, AnswerDelta delta);
  void choice_end(int32_t prompt, int32_t choice, AnswerEnd end);
  void done(const Usage& usage, const Timings& timings, const Devices& devices);
  // REQUIRE: mutex held.
  void open();  // sends a stream's head, unless it went or may not go yet
  void event(const std::string& json);
  void send_held_end();

  const bool stream_;
  const int32_t n_;
  const std::shared_ptr<Outbox> outbox_;
  Metrics& metrics_;

  std::mutex mutex_;  // the handler's thread and the device's meet here
  api::AnswerStream events_;
  std::vector<api::ChoiceText> choices_;
  Usage usage_;
  Timings timings_;
  Devices devices_;
  int32_t unfinished_;
  bool queued_ = false;   // begin() was called
  bool started_ = false;  // a first token came
  bool begun_ = false;    // the stream's head went out
  bool closed_ = false;   // the response is complete
  std::string early_;     // events from before the head
  bool early_end_ = false;
  // The last choice's end that came: what ran the answer is added where no usage follows.
  std::optional<std::pair<int32_t, AnswerEnd>> held_end_;
};

}  // namespace impetus

// One generate request while it runs: n choices, each a sequence in the engine, joined into one
// answer. Token events arrive on the device's thread; text leaves it as it becomes certain.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "engine/runner.h"
#include "runtime/types.h"
#include "text/detokenizer.h"

namespace impetus {

class Generation : public std::enable_shared_from_this<Generation> {
 public:
  struct Setup {
    std::vector<TokenId> prompt;
    std::vector<std::string> stop;
    int32_t n = 1;
    int32_t top_logprobs = -1;
    std::string echo;            // text to send in front of each choice
    bool continues_text = true;  // the answer goes on where the prompt's text ends
    // Asked at the end: why the model is not where it was to be.
    std::function<std::string()> fallback_reason = {};
  };
  // `tokenizer` and `lane` outlive the generation (the caller keeps the model alive).
  Generation(Setup setup, const Tokenizer& tokenizer, GenerationLane& lane,
             std::shared_ptr<AnswerSink> sink);
  ~Generation();

  // Queues all choices, or none: the first refusal cancels the rest and is returned.
  Result<void> start(const SequenceRequest& prototype);
  // From any thread; the sink still gets its end.
  void cancel();

 private:
  class Choice;
  friend class Choice;
  void choice_prefilled(const Choice& choice, int64_t cached_tokens, const RanOn& ran_on);
  void choice_finished(Choice& choice, FinishReason reason, const Error& error,
                       const TokenUsage& usage);

  Setup setup_;
  const Tokenizer& tokenizer_;
  GenerationLane& lane_;
  std::shared_ptr<AnswerSink> sink_;
  std::chrono::steady_clock::time_point started_ = std::chrono::steady_clock::now();

  std::mutex mutex_;  // guards these: start() and the device's thread meet here
  std::vector<SequenceId> sequences_;
  int32_t unfinished_ = 0;
  bool cancelled_ = false;
  bool refused_ = false;  // start() reported the error itself
  bool failed_ = false;
  Error error_;

  // Of the device's thread alone.
  Usage usage_;
  Timings timings_;
  Devices devices_;
  bool started_answer_ = false;
  bool first_token_seen_ = false;
};

}  // namespace impetus

#include "server/answers.h"

#include <algorithm>

#include "api/error.h"

namespace impetus {

class AnswerJoin::Part final : public AnswerSink {
 public:
  Part(std::shared_ptr<AnswerJoin> join, int32_t prompt)
      : join_(std::move(join)), prompt_(prompt) {}
  void on_delta(AnswerDelta delta) override { join_->delta(prompt_, std::move(delta)); }
  void on_choice_end(int32_t choice, AnswerEnd end) override {
    join_->choice_end(prompt_, choice, end);
  }
  void on_done(const Usage& usage, const Timings& timings, const std::string& device) override {
    join_->done(usage, timings, device);
  }
  void on_error(Error error) override { join_->fail(error); }

 private:
  std::shared_ptr<AnswerJoin> join_;
  int32_t prompt_;
};

AnswerJoin::AnswerJoin(api::AnswerHead head, bool stream, int32_t prompts, int32_t n,
                       std::string device, std::shared_ptr<Outbox> outbox, Metrics& metrics)
    : stream_(stream),
      n_(n),
      device_(std::move(device)),
      outbox_(std::move(outbox)),
      metrics_(metrics),
      events_(std::move(head)),
      choices_(static_cast<size_t>(prompts) * static_cast<size_t>(n)),
      unfinished_(prompts) {}

std::shared_ptr<AnswerSink> AnswerJoin::sink(int32_t prompt) {
  return std::make_shared<Part>(shared_from_this(), prompt);
}

void AnswerJoin::event(const std::string& json) {
  std::string line = "data: " + json + "\n\n";
  if (begun_) {
    outbox_->write(std::move(line));
  } else {
    early_ += line;
  }
}

void AnswerJoin::begin() {
  const std::lock_guard lock(mutex_);
  if (!stream_ || closed_) return;
  HttpResponse head;
  head.content_type = "text/event-stream";
  head.headers = {{"Cache-Control", "no-cache"}, {"x-impetus-device", device_}};
  if (events_.head().kind == api::AnswerKind::chat) {
    for (size_t i = 0; i < choices_.size(); ++i) {
      head.body += "data: " + events_.role(static_cast<int32_t>(i)) + "\n\n";
    }
  }
  head.body += std::exchange(early_, {});
  begun_ = true;
  outbox_->begin(std::move(head));
  if (early_end_) {
    closed_ = true;
    outbox_->end();
  }
}

void AnswerJoin::delta(int32_t prompt, AnswerDelta delta) {
  const std::lock_guard lock(mutex_);
  if (closed_) return;
  delta.choice += prompt * n_;
  if (stream_) {
    event(events_.delta(delta));
    return;
  }
  auto& choice = choices_[static_cast<size_t>(delta.choice)];
  choice.text += delta.text;
  std::move(delta.tokens.begin(), delta.tokens.end(), std::back_inserter(choice.tokens));
}

void AnswerJoin::choice_end(int32_t prompt, int32_t choice, AnswerEnd end) {
  const std::lock_guard lock(mutex_);
  if (closed_) return;
  choice += prompt * n_;
  choices_[static_cast<size_t>(choice)].end = end;
  if (stream_) event(events_.choice_end(choice, end));
}

void AnswerJoin::done(const Usage& usage, const Timings& timings, const std::string& device) {
  metrics_.answer_ended(events_.head().model, device, usage, timings);
  const std::lock_guard lock(mutex_);
  usage_.prompt_tokens += usage.prompt_tokens;
  usage_.cached_tokens += usage.cached_tokens;
  usage_.completion_tokens += usage.completion_tokens;
  timings_.queue_seconds = std::max(timings_.queue_seconds, timings.queue_seconds);
  timings_.prefill_seconds = std::max(timings_.prefill_seconds, timings.prefill_seconds);
  timings_.decode_seconds = std::max(timings_.decode_seconds, timings.decode_seconds);
  if (--unfinished_ > 0 || closed_) return;
  if (!stream_) {
    closed_ = true;  // nobody changes the parts any more
    outbox_->respond_with([self = shared_from_this(), device] {
      HttpResponse response;
      response.body = api::answer_body(self->events_.head(), self->choices_, self->usage_,
                                       self->timings_, device);
      response.headers = {{"x-impetus-device", device}};
      return response;
    });
    return;
  }
  if (events_.head().include_usage) event(events_.usage(usage_, timings_, device));
  const std::string last = "data: [DONE]\n\n";
  if (begun_) {
    closed_ = true;
    outbox_->write(last);
    outbox_->end();
  } else {
    early_ += last;
    early_end_ = true;
  }
}

void AnswerJoin::fail(const Error& error) {
  const std::lock_guard lock(mutex_);
  if (closed_) return;
  closed_ = true;
  if (begun_) {  // too late for a status: the error is the stream's last event
    outbox_->write("data: " + api::error_body(error) + "\n\n");
    outbox_->end();
    return;
  }
  outbox_->respond(error_response(error));
}

}  // namespace impetus

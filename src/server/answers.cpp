#include "server/answers.h"

#include <algorithm>

#include "api/error.h"

namespace impetus {

class AnswerJoin::Part final : public AnswerSink {
 public:
  Part(std::shared_ptr<AnswerJoin> join, int32_t prompt)
      : join_(std::move(join)), prompt_(prompt) {}
  void on_started(const Devices& devices) override { join_->started(devices); }
  void on_delta(AnswerDelta delta) override { join_->delta(prompt_, std::move(delta)); }
  void on_choice_end(int32_t choice, AnswerEnd end) override {
    join_->choice_end(prompt_, choice, end);
  }
  void on_done(const Usage& usage, const Timings& timings, const Devices& devices) override {
    join_->done(usage, timings, devices);
  }
  void on_error(Error error) override { join_->fail(error); }

 private:
  std::shared_ptr<AnswerJoin> join_;
  int32_t prompt_;
};

AnswerJoin::AnswerJoin(api::AnswerHead head, bool stream, int32_t prompts, int32_t n,
                       std::shared_ptr<Outbox> outbox, Metrics& metrics)
    : stream_(stream),
      n_(n),
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
  if (stream_) {
    // The outbox may not own this, which owns it.
    outbox_->on_overdue([weak = weak_from_this()] {
      if (const auto self = weak.lock()) {
        const std::lock_guard lock(self->mutex_);
        self->open();
      }
    });
  }
  const std::lock_guard lock(mutex_);
  queued_ = true;
  if (started_ || early_end_) open();
}

void AnswerJoin::started(const Devices& devices) {
  const std::lock_guard lock(mutex_);
  devices_.add(devices);
  started_ = true;
  open();
}

void AnswerJoin::open() {
  if (!stream_ || !queued_ || begun_ || closed_) return;
  HttpResponse head;
  head.content_type = "text/event-stream";
  head.headers = {{"Cache-Control", "no-cache"}};
  if (auto known = devices_.text(); !known.empty()) {
    head.headers.emplace_back("x-impetus-device", std::move(known));
  }
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
    send_held_end();
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
  if (!stream_) return;
  send_held_end();
  held_end_.emplace(choice, end);
  if (events_.head().include_usage) send_held_end();
}

void AnswerJoin::send_held_end() {
  if (!held_end_) return;
  event(events_.choice_end(held_end_->first, held_end_->second));
  held_end_.reset();
}

void AnswerJoin::done(const Usage& usage, const Timings& timings, const Devices& devices) {
  metrics_.answer_ended(events_.head().model, devices, usage, timings);
  const std::lock_guard lock(mutex_);
  usage_.prompt_tokens += usage.prompt_tokens;
  usage_.cached_tokens += usage.cached_tokens;
  usage_.completion_tokens += usage.completion_tokens;
  timings_.queue_seconds = std::max(timings_.queue_seconds, timings.queue_seconds);
  timings_.prefill_seconds = std::max(timings_.prefill_seconds, timings.prefill_seconds);
  timings_.decode_seconds = std::max(timings_.decode_seconds, timings.decode_seconds);
  timings_.handoff_seconds += timings.handoff_seconds;
  devices_.add(devices);
  if (--unfinished_ > 0 || closed_) return;
  if (!stream_) {
    closed_ = true;  // nobody changes the parts any more
    outbox_->respond_with([self = shared_from_this()] {
      HttpResponse response;
      response.body = api::answer_body(self->events_.head(), self->choices_, self->usage_,
                                       self->timings_, self->devices_);
      if (auto ran = self->devices_.text(); !ran.empty()) {
        response.headers = {{"x-impetus-device", std::move(ran)}};
      }
      return response;
    });
    return;
  }
  if (events_.head().include_usage) {
    event(events_.usage(usage_, timings_, devices_));
  } else if (held_end_) {
    event(events_.last_choice_end(held_end_->first, held_end_->second, timings_, devices_));
    held_end_.reset();
  }
  const std::string last = "data: [DONE]\n\n";
  if (begun_) {
    closed_ = true;
    outbox_->write(last);
    outbox_->end();
  } else {
    early_ += last;
    early_end_ = true;
    open();
  }
}

void AnswerJoin::fail(const Error& error) {
  const std::lock_guard lock(mutex_);
  if (closed_) return;
  closed_ = true;
  if (begun_) {  // too late for a status: the error is the stream's last event
    send_held_end();
    outbox_->write("data: " + api::error_body(error) + "\n\n");
    outbox_->end();
    return;
  }
  outbox_->respond(error_response(error));
}

}  // namespace impetus

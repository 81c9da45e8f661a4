#include "runtime/generation.h"

#include "base/timing.h"

namespace impetus {
namespace {

Devices names_of(const RanOn& ran_on) {
  Devices devices;
  for (const BackendDescriptor* one : ran_on.prefill) devices.prefill.push_back(one->backend);
  for (const BackendDescriptor* one : ran_on.decode) devices.decode.push_back(one->backend);
  return devices;
}

}  // namespace

// One sequence: tokens to text, stop strings, log probabilities.
class Generation::Choice final : public TokenSink {
 public:
  Choice(std::shared_ptr<Generation> owner, int32_t index)
      : owner_(std::move(owner)),
        index_(index),
        detokenizer_(owner_->tokenizer_, owner_->setup_.continues_text),
        stops_(owner_->setup_.stop) {}

  void on_prefilled(int64_t cached_tokens, const RanOn& ran_on) override {
    owner_->choice_prefilled(*this, cached_tokens, ran_on);
  }

  bool on_token(const SampledToken& token) override {
    if (!owner_->first_token_seen_) {
      owner_->first_token_seen_ = true;
      owner_->timings_.prefill_seconds = seconds_since(owner_->started_);
    }
    if (owner_->setup_.top_logprobs >= 0) details_.push_back(detail(token));
    auto output = stops_.push(detokenizer_.push(token.id));
    send(std::move(output.text));
    stopped_ = output.stopped;
    return !stopped_;
  }

  void on_finished(FinishReason reason, const Error& error, const TokenUsage& usage) override {
    if (!stopped_ && reason != FinishReason::error) {
      auto tail = stops_.push(detokenizer_.finish());
      auto held = tail.stopped ? StopMatcher::Output{} : stops_.finish();
      if (tail.stopped) reason = FinishReason::stop;
      send(tail.text + held.text);
    }
    owner_->choice_finished(*this, reason, error, usage);
  }

  int32_t index() const { return index_; }

 private:
  TokenText text_of(TokenId id, float logprob) const {
    return {id, owner_->tokenizer_.token_bytes(id, /*render_special=*/true), logprob};
  }

  TokenDetail detail(const SampledToken& token) const {
    TokenDetail result{text_of(token.id, token.logprob), {}};
    for (const TokenLogprob& top : token.top) result.top.push_back(text_of(top.id, top.logprob));
    return result;
  }

  // Details wait for text unless the stream would otherwise stand still without it.
  void send(std::string text) {
    if (!echoed_) {
      echoed_ = true;
      text.insert(0, owner_->setup_.echo);
    }
    if (text.empty() && details_.empty()) return;
    owner_->sink_->on_delta({index_, std::move(text), std::exchange(details_, {})});
  }

  std::shared_ptr<Generation> owner_;
  int32_t index_;
  StreamingDetokenizer detokenizer_;
  StopMatcher stops_;
  std::vector<TokenDetail> details_;
  bool stopped_ = false;
  bool echoed_ = false;
};

Generation::Generation(Setup setup, const Tokenizer& tokenizer, GenerationLane& lane,
                       std::shared_ptr<AnswerSink> sink)
    : setup_(std::move(setup)), tokenizer_(tokenizer), lane_(lane), sink_(std::move(sink)) {
  usage_.prompt_tokens = static_cast<int64_t>(setup_.prompt.size());
  unfinished_ = setup_.n;
}

Generation::~Generation() = default;

Result<void> Generation::start(const SequenceRequest& prototype) {
  for (int32_t i = 0; i < setup_.n; ++i) {
    SequenceRequest request = prototype;
    request.prompt = setup_.prompt;
    // Odd steps of the golden ratio: each choice has a seed of its own, the first the request's.
    request.sampling.seed += static_cast<uint64_t>(i) * 0x9e3779b97f4a7c15u;
    auto submitted =
        lane_.submit(std::move(request), std::make_shared<Choice>(shared_from_this(), i));
    if (!submitted.ok()) {
      {
        const std::lock_guard lock(mutex_);
        refused_ = true;
        unfinished_ -= setup_.n - i;
      }
      cancel();
      return std::move(submitted).error();
    }
    bool cancelled;
    {
      const std::lock_guard lock(mutex_);
      sequences_.push_back(*submitted);
      cancelled = cancelled_;
    }
    if (cancelled) lane_.cancel(*submitted);
  }
  return {};
}

void Generation::cancel() {
  std::vector<SequenceId> sequences;
  {
    const std::lock_guard lock(mutex_);
    cancelled_ = true;
    sequences = sequences_;
  }
  for (const SequenceId id : sequences) lane_.cancel(id);
}

void Generation::choice_prefilled(const Choice& choice, int64_t cached_tokens,
                                  const RanOn& ran_on) {
  if (choice.index() == 0) {
    usage_.cached_tokens = cached_tokens;
    timings_.queue_seconds = seconds_since(started_);
  }
  if (std::exchange(started_answer_, true)) return;
  {
    const std::lock_guard lock(mutex_);
    if (refused_) return;
  }
  sink_->on_started(names_of(ran_on));
}

void Generation::choice_finished(Choice& choice, FinishReason reason, const Error& error,
                                 const TokenUsage& usage) {
  bool first_failure = false, failed, refused, last;
  devices_.add(names_of(usage.ran_on));
  timings_.handoff_seconds += usage.ran_on.handoff_seconds;
  {
    const std::lock_guard lock(mutex_);  // start() may still be queueing the other choices
    last = --unfinished_ == 0;
    usage_.completion_tokens += usage.answer_tokens;
    if (reason == FinishReason::error && !failed_) {
      first_failure = failed_ = true;
      error_ = error;
    }
    failed = failed_;
    refused = refused_;
  }
  // Nothing is called under the lock: the lane and the sink have locks of their own.
  if (refused) return;
  if (first_failure) cancel();
  if (!failed) {
    sink_->on_choice_end(choice.index(), reason == FinishReason::length      ? AnswerEnd::length
                                         : reason == FinishReason::cancelled ? AnswerEnd::cancelled
                                                                             : AnswerEnd::stop);
  }
  if (!last) return;
  if (failed) {
    sink_->on_error(error_);
    return;
  }
  timings_.decode_seconds = seconds_since(started_) - timings_.prefill_seconds;
  if (setup_.fallback_reason) devices_.fallback_reason = setup_.fallback_reason();
  sink_->on_done(usage_, timings_, devices_);
}

}  // namespace impetus

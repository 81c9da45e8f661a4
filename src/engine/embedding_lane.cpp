#include <algorithm>
#include <cassert>
#include <condition_variable>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <utility>

#include "base/keep_forever.h"
#include "base/log.h"
#include "engine/runner.h"

namespace impetus {
namespace {

constexpr int64_t budget_tokens_first = 64;  // before anything was measured
constexpr int64_t budget_tokens_min = 16;
constexpr size_t window_texts = 256;  // the oldest, from which a batch is chosen
// After a batch was too large for the memory there is, so many must go well before they grow.
constexpr int good_batches_to_grow = 32;

}  // namespace

struct EmbeddingLane::State final : LaneWork {
  struct Job {
    uint64_t id = 0;
    Request request;
    Done done;
    Answer answer;
    size_t missing = 0;
    bool failed_before = false;  // a batch with a text of it
    std::optional<Error> failure;
  };
  struct Text {
    std::shared_ptr<Job> job;
    size_t index;
    std::span<const TokenId> tokens() const { return job->request.texts[index]; }
  };

  State(std::shared_ptr<Encoder> encoder_, int64_t waiting_texts_max_, DeviceLoop& loop_,
        double share_, LaneGuard guard_)
      : waiting_texts_max(waiting_texts_max_),
        guard(std::move(guard_)),
        share(share_),
        encoder(std::move(encoder_)),
        text_tokens_max(encoder->text_tokens_max()),
        loop(&loop_) {}

  bool has_work() override {
    const std::lock_guard lock(mutex);
    if (dropping || !ended.empty()) return true;
    if (dead) return !jobs.empty();
    return !held && !waiting.empty();
  }
  void run_slice() override;
  void given_up(double seconds) override;
  void close() override;

  std::vector<Text> take_batch();           // REQUIRES: mutex held
  void put_back(std::vector<Text>& batch);  // REQUIRES: mutex held
  bool drop_encoder();                      // false: given up
  void end_what_was_told_to();              // REQUIRES: mutex held
  void keep_descriptors();                  // REQUIRES: mutex held
  static Result<Encoded> encode(Encoder& encoder, const LaneGuard& guard,
                                const DeviceLoop::Place& at, const std::vector<Text>& batch);
  void settle(std::vector<Text> batch, Result<Encoded> output, const Encoder& ran);
  void adapt(int64_t tokens, double seconds, int64_t most);
  void end_job(uint64_t id, std::optional<Error> failure);  // REQUIRES: mutex held
  void call_ended();
  DeviceLoop::Place here() {
    const std::lock_guard lock(mutex);
    return place;
  }

  const int64_t waiting_texts_max;
  const LaneGuard guard;
  const double share;
  std::mutex moving;  // taken before `mutex`: rehome and close take turns

  std::mutex mutex;                  // never held while the encoder or a callback runs
  std::shared_ptr<Encoder> encoder;  // null: evicted
  int64_t text_tokens_max;           // of the encoder, or of the one before
  DeviceLoop* loop;                  // used in run_slice alone, when it is certainly there
  DeviceLoop::Place place;
  double busy_before = 0;    // at the places before
  std::deque<Text> waiting;  // by arrival
  std::vector<Text> in_flight;
  std::map<uint64_t, std::shared_ptr<Job>> jobs;
  std::vector<std::shared_ptr<Job>> ended;    // to be told
  std::deque<BackendDescriptor> descriptors;  // of encoders that are gone
  std::condition_variable dropped;
  uint64_t next_id = 1;
  bool held = false;      // no batches: another processor is sought
  bool dropping = false;  // the encoder is to be destroyed by the loop's thread
  std::optional<Error> oldest_ends, dead;
  bool closed = false;
  Counts totals;
  size_t texts_now = window_texts;  // most in a batch; less where memory is short
  int good_batches = 0;             // since that changed
  int failures = 0;                 // of batches, since the last good one

  int64_t budget_tokens = budget_tokens_first;  // the loop's thread alone
};

void EmbeddingLane::State::run_slice() {
  call_ended();
  std::vector<Text> batch;
  std::shared_ptr<Encoder> now;
  DeviceLoop::Place at;
  DeviceLoop* clock;
  bool drop;
  {
    const std::lock_guard lock(mutex);
    at = place;
    clock = loop;
    drop = dropping;
    end_what_was_told_to();
    if (!held && !drop) {
      now = encoder;
      batch = take_batch();
      in_flight = batch;
    }
  }
  if (drop && !drop_encoder()) return;
  if (!batch.empty()) {
    const double from = clock->now();
    auto output = guarded([&] { return encode(*now, guard, at, batch); });
    if (!at.end_step()) return;
    const double seconds = clock->now() - from;
    int64_t tokens = 0;
    for (const Text& text : batch) tokens += static_cast<int64_t>(text.tokens().size());
    if (output.ok()) adapt(tokens, seconds, now->batch_tokens_max());
    settle(std::move(batch), std::move(output), *now);
  }
  call_ended();
}

bool EmbeddingLane::State::drop_encoder() {
  std::shared_ptr<Encoder> gone;
  DeviceLoop::Place at;
  {
    const std::lock_guard lock(mutex);
    if (encoder) keep_descriptors();
    gone = std::move(encoder);
    at = place;
  }
  at.begin_step(guard.limit(0));  // a broken device may hang here as well
  gone.reset();
  if (!at.end_step()) return false;
  const std::lock_guard lock(mutex);
  dropping = false;
  dropped.notify_all();
  return true;
}

void EmbeddingLane::State::keep_descriptors() {
  std::map<const BackendDescriptor*, const BackendDescriptor*> copies;
  for (const BackendDescriptor& one : descriptors) copies.emplace(&one, &one);
  const auto keep = [&](Job& job) {
    for (const BackendDescriptor*& one : job.answer.ran_on) {
      auto found = copies.find(one);
      if (found == copies.end()) {
        found = copies.emplace(one, &descriptors.emplace_back(*one)).first;
      }
      one = found->second;
    }
  };
  for (auto& [id, job] : jobs) keep(*job);
  for (auto& job : ended) keep(*job);
}

void EmbeddingLane::State::end_what_was_told_to() {
  while (dead && !jobs.empty()) end_job(jobs.begin()->first, *dead);
  if (oldest_ends) {
    if (!waiting.empty()) end_job(waiting.front().job->id, *oldest_ends);
    oldest_ends.reset();
  }
}

void EmbeddingLane::State::put_back(std::vector<Text>& batch) {
  std::erase_if(batch, [this](const Text& text) { return !jobs.contains(text.job->id); });
  // By arrival again: the batch was sorted by length.
  std::ranges::sort(batch, [](const Text& a, const Text& b) {
    return std::pair(a.job->id, a.index) < std::pair(b.job->id, b.index);
  });
  waiting.insert(waiting.begin(), std::make_move_iterator(batch.begin()),
                 std::make_move_iterator(batch.end()));
  batch.clear();
}

void EmbeddingLane::State::given_up(double seconds) {
  DeviceFailure failure;
  {
    const std::lock_guard lock(mutex);
    failure =
        hanging(encoder ? encoder->descriptor().backend : "a processor that is lost", seconds);
    put_back(in_flight);
    keep_forever(std::exchange(encoder, nullptr));
    held = true;
    dropping = false;
    dropped.notify_all();
  }
  log::warn("{}", failure.error.message);
  const auto asked = guard.ask(failure);
  if (asked.ok()) return;
  const std::lock_guard lock(mutex);
  dead = asked.error();
}

std::vector<EmbeddingLane::State::Text> EmbeddingLane::State::take_batch() {
  std::vector<Text> batch, passed;
  int64_t tokens = 0;
  const int64_t budget = std::min(budget_tokens, encoder->batch_tokens_max());
  for (size_t seen = 0; !waiting.empty() && seen < window_texts; ++seen) {
    Text text = std::move(waiting.front());
    waiting.pop_front();
    const auto size = static_cast<int64_t>(text.tokens().size());
    // The oldest always goes, whatever its length; the others where they fit beside it.
    const bool fits =
        batch.empty() ||
        (tokens + size <= budget && text.job->request.output == batch.front().job->request.output);
    if (fits) tokens += size;
    (fits ? batch : passed).push_back(std::move(text));
    if (tokens >= budget || batch.size() >= texts_now) break;
  }
  waiting.insert(waiting.begin(), std::make_move_iterator(passed.begin()),
                 std::make_move_iterator(passed.end()));
  std::ranges::sort(batch, std::greater{}, [](const Text& text) { return text.tokens().size(); });
  return batch;
}

Result<Encoded> EmbeddingLane::State::encode(Encoder& encoder, const LaneGuard& guard,
                                             const DeviceLoop::Place& at,
                                             const std::vector<Text>& batch) {
  std::vector<TokenId> tokens;
  std::vector<int32_t> offsets{0};
  bool typed = false;
  for (const Text& text : batch) {
    tokens.insert(tokens.end(), text.tokens().begin(), text.tokens().end());
    offsets.push_back(static_cast<int32_t>(tokens.size()));
    typed |= !text.job->request.token_types.empty();
  }
  std::vector<int32_t> token_types;
  if (typed) {
    token_types.resize(tokens.size());
    for (size_t i = 0; i < batch.size(); ++i) {
      const auto& all = batch[i].job->request.token_types;
      if (!all.empty()) std::ranges::copy(all[batch[i].index], token_types.begin() + offsets[i]);
    }
  }
  const EncodeOutput kind = batch.front().job->request.output;
  const EncoderBatch ragged{
      .tokens = tokens, .offsets = offsets, .token_types = token_types, .output = kind};
  at.begin_step(guard.limit(encoder.expected_seconds(ragged)));
  auto output = encoder.encode(ragged);
  if (!output.ok()) return output;
  const size_t rows = kind == EncodeOutput::pooled ? batch.size() : tokens.size();
  const size_t count = output->values.size();
  if (count == 0 || count % rows != 0) {
    return error(ErrorCode::internal, "the encoder answered {} values for {} rows", count, rows);
  }
  if (output->ran_on.size() != batch.size()) {
    return error(ErrorCode::internal, "the encoder says of {} texts who ran them, of {}",
                 output->ran_on.size(), batch.size());
  }
  return output;
}

void EmbeddingLane::State::settle(std::vector<Text> batch, Result<Encoded> output,
                                  const Encoder& ran) {
  std::unique_lock lock(mutex);
  in_flight.clear();
  if (!output.ok()) {
    const ErrorCode code = output.error().code;
    const bool known = code == ErrorCode::unavailable || code == ErrorCode::insufficient_memory;
    const DeviceFailure failure = device_failure(ran.descriptor().backend, output.error());
    const auto retry = [&](const Error& error) {
      std::vector<std::shared_ptr<Job>> met;
      for (const Text& text : batch) {
        if (std::ranges::find(met, text.job) == met.end()) met.push_back(text.job);
      }
      for (const auto& job : met) {
        if (std::exchange(job->failed_before, true)) end_job(job->id, error);
      }
      put_back(batch);
    };
    if (failure.kind == DeviceFailure::Kind::memory && batch.size() > 1) {
      log::warn("{}; batches are made smaller", failure.error.message);
      texts_now = batch.size() / 2;
      good_batches = 0;
      return put_back(batch);
    }
    // One that says itself that it is gone is not asked again.
    if (code != ErrorCode::unavailable && ++failures < LaneGuard::failures_max) {
      log::warn("{}", failure.error.message);
      return known ? put_back(batch) : retry(failure.error);
    }
    lock.unlock();
    const auto asked = guard.ask(failure);
    lock.lock();
    failures = 0;
    if (asked.ok()) {
      held = true;
      dropping = dropping || failure.kind == DeviceFailure::Kind::lost;
      return put_back(batch);
    }
    if (!known) return retry(asked.error());
    for (const Text& text : batch) end_job(text.job->id, asked.error());
    return;
  }
  failures = 0;
  if (texts_now < window_texts && ++good_batches >= good_batches_to_grow) {
    texts_now = std::min(2 * texts_now, window_texts);
    good_batches = 0;
  }
  const bool pooled = batch.front().job->request.output == EncodeOutput::pooled;
  size_t rows = 0;
  for (const Text& text : batch) rows += pooled ? 1 : text.tokens().size();
  const size_t width = output->values.size() / rows;
  const float* from = output->values.data();
  for (size_t i = 0; i < batch.size(); ++i) {
    const Text& text = batch[i];
    const BackendDescriptor* who = output->ran_on[i];
    const size_t count = width * (pooled ? 1 : text.tokens().size());
    const float* to = from + count;
    Job& job = *text.job;
    job.failed_before = false;
    ++totals.texts;
    totals.tokens += static_cast<int64_t>(text.tokens().size());
    if (jobs.contains(job.id)) {  // else it was cancelled meanwhile
      job.answer.vectors[text.index].assign(from, to);
      auto& ran_on = job.answer.ran_on;
      const auto same = [&](const BackendDescriptor* one) {
        return one == who || one->backend == who->backend;
      };
      if (who && std::ranges::none_of(ran_on, same)) ran_on.push_back(who);
      if (--job.missing == 0) end_job(job.id, std::nullopt);
    }
    from = to;
  }
}

void EmbeddingLane::State::adapt(int64_t tokens, double seconds, int64_t most) {
  const double ideal =
      seconds > 0 ? static_cast<double>(tokens) / seconds * slice_seconds : 2.0 * budget_tokens;
  if (seconds > slice_seconds) {
    // By half at most: the machine may have been busy with something else.
    const double less = std::max(ideal, 0.5 * budget_tokens);
    budget_tokens = std::min(budget_tokens, static_cast<int64_t>(less));
  } else if (2 * tokens >= budget_tokens) {
    const double more = std::min(ideal, 2.0 * budget_tokens);
    budget_tokens = std::max(budget_tokens, static_cast<int64_t>(more));
  }
  budget_tokens = std::clamp(budget_tokens, budget_tokens_min, std::max(budget_tokens_min, most));
}

void EmbeddingLane::State::end_job(uint64_t id, std::optional<Error> failure) {
  const auto found = jobs.find(id);
  if (found == jobs.end()) return;
  if (found->second->missing > 0) {
    std::erase_if(waiting, [&](const Text& text) { return text.job == found->second; });
  }
  found->second->failure = std::move(failure);
  ended.push_back(std::move(found->second));
  jobs.erase(found);
}

void EmbeddingLane::State::call_ended() {
  std::vector<std::shared_ptr<Job>> now;
  {
    const std::lock_guard lock(mutex);
    now.swap(ended);
  }
  for (const auto& job : now) {
    // Goes with its call: the thread of a step that hangs may keep the job itself for ever.
    const Done done = std::move(job->done);
    try {
      if (job->failure) {
        done(std::move(*job->failure));
      } else {
        done(std::move(job->answer));
      }
    } catch (const std::exception& failure) {  // no memory: this request's end, not the device's
      log::error("an embedding's consumer failed: {}", failure.what());
    }
  }
}

void EmbeddingLane::State::close() {
  {
    const std::lock_guard lock(mutex);
    closed = true;
    while (!jobs.empty()) {
      end_job(jobs.begin()->first, error(ErrorCode::unavailable, "the model is being unloaded"));
    }
  }
  call_ended();
  std::shared_ptr<Encoder> gone;
  const std::lock_guard lock(mutex);
  // Not with this object, which the thread of a step that hangs may keep.
  gone = std::move(encoder);
  dropping = false;
  dropped.notify_all();
}

EmbeddingLane::EmbeddingLane(DeviceLoop& loop, std::shared_ptr<Encoder> encoder,
                             int64_t waiting_texts_max, double share, LaneGuard guard)
    : state_(std::make_shared<State>(std::move(encoder), waiting_texts_max, loop, share,
                                     std::move(guard))) {
  const std::lock_guard lock(state_->mutex);
  state_->place = loop.attach(state_, share);
}

EmbeddingLane::~EmbeddingLane() {
  close();
}

void EmbeddingLane::close() {
  const DeviceLoop::Place place = state_->here();
  // There rehome may be waiting for this very slice; it finds the lane leaving.
  if (place.on_loop_thread()) return place.detach();
  const std::lock_guard lock(state_->moving);
  state_->here().detach();
}

void EmbeddingLane::evict(bool hangs) {
  State& state = *state_;
  std::unique_lock lock(state.mutex);
  state.held = true;
  if (!state.encoder) return;
  if (hangs) {
    keep_forever(std::exchange(state.encoder, nullptr));
    return;
  }
  state.dropping = true;
  state.place.wake();
  state.dropped.wait(lock, [&] { return !state.dropping; });
}

Result<std::shared_ptr<Encoder>> EmbeddingLane::rehome(DeviceLoop& loop,
                                                       std::shared_ptr<Encoder> encoder) {
  State& state = *state_;
  const std::lock_guard moving(state.moving);
  DeviceLoop::Place before;
  {
    const std::lock_guard lock(state.mutex);
    state.held = true;
    before = state.place;
    state.busy_before += before.busy_seconds();
  }
  if (!before.leave()) return error(ErrorCode::unavailable, "the model is being unloaded");
  const std::lock_guard lock(state.mutex);
  if (state.encoder) state.keep_descriptors();
  state.text_tokens_max = encoder->text_tokens_max();
  std::vector<uint64_t> too_long;
  for (const State::Text& text : state.waiting) {
    if (static_cast<int64_t>(text.tokens().size()) > state.text_tokens_max) {
      too_long.push_back(text.job->id);
    }
  }
  for (const uint64_t id : too_long) {
    state.end_job(id, error(ErrorCode::context_length,
                            "the texts were moved to another processor, which takes at most {} "
                            "tokens of each",
                            state.text_tokens_max));
  }
  state.totals.moved += static_cast<int64_t>(state.waiting.size());
  auto gone = std::exchange(state.encoder, std::move(encoder));
  state.texts_now = window_texts;
  state.failures = 0;
  state.held = state.dropping = false;
  state.loop = &loop;
  state.place = loop.attach(state_, state.share);
  return gone;
}

bool EmbeddingLane::waits() const {
  const std::lock_guard lock(state_->mutex);
  return state_->held && !state_->dead && !state_->closed;
}

void EmbeddingLane::resume(const Error& error) {
  const std::lock_guard lock(state_->mutex);
  state_->oldest_ends = error;
  state_->held = false;
  state_->place.wake();
}

void EmbeddingLane::fail(const Error& error) {
  const std::lock_guard lock(state_->mutex);
  state_->held = true;
  state_->dead = error;
  state_->place.wake();
}

std::shared_ptr<Encoder> EmbeddingLane::encoder() const {
  const std::lock_guard lock(state_->mutex);
  return state_->encoder;
}

int64_t EmbeddingLane::text_tokens_max() const {
  const std::lock_guard lock(state_->mutex);
  return state_->text_tokens_max;
}

Result<uint64_t> EmbeddingLane::submit(Request request, Done done) {
  State& state = *state_;
  const auto texts = static_cast<int64_t>(request.texts.size());
  const int64_t longest = text_tokens_max();
  if (texts == 0) return error(ErrorCode::invalid_argument, "there is no text to embed");
  if (texts > state.waiting_texts_max) {
    return error(ErrorCode::invalid_argument, "{} texts in one request; at most {} are taken",
                 texts, state.waiting_texts_max);
  }
  if (!request.token_types.empty() && request.token_types.size() != request.texts.size()) {
    return error(ErrorCode::invalid_argument, "{} lists of token types for {} texts",
                 request.token_types.size(), texts);
  }
  for (size_t i = 0; i < request.texts.size(); ++i) {
    const auto tokens = static_cast<int64_t>(request.texts[i].size());
    if (tokens == 0) return error(ErrorCode::invalid_argument, "text {} has no tokens", i);
    if (tokens > longest) {
      return error(ErrorCode::context_length, "text {} has {} tokens; at most {} fit", i, tokens,
                   longest);
    }
    if (!request.token_types.empty() && request.token_types[i].size() != request.texts[i].size()) {
      return error(ErrorCode::invalid_argument, "text {} has {} tokens, but {} token types", i,
                   tokens, request.token_types[i].size());
    }
  }
  auto job = std::make_shared<State::Job>();
  job->answer.vectors.resize(texts);
  job->missing = texts;
  job->request = std::move(request);
  job->done = std::move(done);
  uint64_t id;
  {
    const std::lock_guard lock(state.mutex);
    if (state.closed) return error(ErrorCode::unavailable, "the model is being unloaded");
    if (state.dead) return *state.dead;
    if (static_cast<int64_t>(state.waiting.size()) + texts > state.waiting_texts_max) {
      return error(ErrorCode::overloaded, "{} texts wait already, of at most {}; try again later",
                   state.waiting.size(), state.waiting_texts_max);
    }
    id = job->id = state.next_id++;
    for (size_t i = 0; i < static_cast<size_t>(texts); ++i) state.waiting.push_back({job, i});
    state.jobs.emplace(id, std::move(job));
  }
  state.here().wake();
  return id;
}

void EmbeddingLane::cancel(uint64_t id) {
  {
    const std::lock_guard lock(state_->mutex);
    state_->end_job(id, error(ErrorCode::cancelled, "cancelled"));
  }
  state_->here().wake();
}

EmbeddingLane::Counts EmbeddingLane::counts() const {
  const std::lock_guard lock(state_->mutex);
  Counts counts = state_->totals;
  counts.waiting_texts = static_cast<int64_t>(state_->waiting.size());
  return counts;
}

double EmbeddingLane::busy_seconds() const {
  const std::lock_guard lock(state_->mutex);
  return state_->busy_before + state_->place.busy_seconds();
}

}  // namespace impetus

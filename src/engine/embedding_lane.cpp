#include <algorithm>
#include <cassert>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <utility>

#include "base/log.h"
#include "engine/runner.h"

namespace impetus {
namespace {

constexpr int64_t budget_tokens_first = 64;  // before anything was measured
constexpr int64_t budget_tokens_min = 16;
constexpr size_t window_texts = 256;  // the oldest, from which a batch is chosen

}  // namespace

struct EmbeddingLane::State final : LaneWork {
  struct Job {
    uint64_t id = 0;
    Request request;
    Done done;
    Answer answer;
    size_t missing = 0;
    std::optional<Error> failure;
  };
  struct Text {
    std::shared_ptr<Job> job;
    size_t index;
    std::span<const TokenId> tokens() const { return job->request.texts[index]; }
  };

  State(std::unique_ptr<Encoder> encoder_, int64_t waiting_texts_max_, DeviceLoop& loop_)
      : encoder(std::move(encoder_)), waiting_texts_max(waiting_texts_max_), loop(loop_) {}

  bool has_work() override {
    const std::lock_guard lock(mutex);
    return !waiting.empty() || !ended.empty();
  }
  void run_slice() override;
  void close() override;

  std::vector<Text> take_batch();  // REQUIRES: mutex held
  Result<Encoded> encode(const std::vector<Text>& batch);
  void settle(const std::vector<Text>& batch, Result<Encoded> output);
  void adapt(int64_t tokens, double seconds);
  void end_job(uint64_t id, std::optional<Error> failure);  // REQUIRES: mutex held
  void call_ended();

  const std::unique_ptr<Encoder> encoder;
  const int64_t waiting_texts_max;
  DeviceLoop& loop;  // used in run_slice alone, when it is certainly there
  DeviceLoop::Place place;

  std::mutex mutex;          // never held while the encoder or a callback runs
  std::deque<Text> waiting;  // by arrival
  std::map<uint64_t, std::shared_ptr<Job>> jobs;
  std::vector<std::shared_ptr<Job>> ended;  // to be told
  uint64_t next_id = 1;
  bool closed = false;
  Counts totals;

  int64_t budget_tokens = budget_tokens_first;  // the loop's thread alone
};

void EmbeddingLane::State::run_slice() {
  call_ended();
  std::vector<Text> batch;
  {
    const std::lock_guard lock(mutex);
    batch = take_batch();
  }
  if (batch.empty()) return;
  const double from = loop.now();
  auto output = encode(batch);
  const double seconds = loop.now() - from;
  int64_t tokens = 0;
  for (const Text& text : batch) tokens += static_cast<int64_t>(text.tokens().size());
  adapt(tokens, seconds);
  settle(batch, std::move(output));
  call_ended();
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
    if (tokens >= budget) break;
  }
  waiting.insert(waiting.begin(), std::make_move_iterator(passed.begin()),
                 std::make_move_iterator(passed.end()));
  std::ranges::sort(batch, std::greater{}, [](const Text& text) { return text.tokens().size(); });
  return batch;
}

Result<Encoded> EmbeddingLane::State::encode(const std::vector<Text>& batch) {
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
  auto output = encoder->encode(
      {.tokens = tokens, .offsets = offsets, .token_types = token_types, .output = kind});
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

void EmbeddingLane::State::settle(const std::vector<Text>& batch, Result<Encoded> output) {
  const std::lock_guard lock(mutex);
  if (!output.ok()) {
    for (const Text& text : batch) end_job(text.job->id, output.error());
    return;
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
    ++totals.texts;
    totals.tokens += static_cast<int64_t>(text.tokens().size());
    if (jobs.contains(job.id)) {  // else it was cancelled meanwhile
      job.answer.vectors[text.index].assign(from, to);
      auto& ran_on = job.answer.ran_on;
      if (who && std::ranges::find(ran_on, who) == ran_on.end()) ran_on.push_back(who);
      if (--job.missing == 0) end_job(job.id, std::nullopt);
    }
    from = to;
  }
}

void EmbeddingLane::State::adapt(int64_t tokens, double seconds) {
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
  budget_tokens = std::clamp(budget_tokens, budget_tokens_min,
                             std::max(budget_tokens_min, encoder->batch_tokens_max()));
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
    try {
      if (job->failure) {
        job->done(std::move(*job->failure));
      } else {
        job->done(std::move(job->answer));
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
}

EmbeddingLane::EmbeddingLane(DeviceLoop& loop, std::unique_ptr<Encoder> encoder,
                             int64_t waiting_texts_max, double share)
    : state_(std::make_shared<State>(std::move(encoder), waiting_texts_max, loop)) {
  state_->place = loop.attach(state_, share);
}

EmbeddingLane::~EmbeddingLane() {
  close();
}

void EmbeddingLane::close() {
  state_->place.detach();
}

Result<uint64_t> EmbeddingLane::submit(Request request, Done done) {
  State& state = *state_;
  const auto texts = static_cast<int64_t>(request.texts.size());
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
    if (tokens > state.encoder->text_tokens_max()) {
      return error(ErrorCode::context_length, "text {} has {} tokens; at most {} fit", i, tokens,
                   state.encoder->text_tokens_max());
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
    if (static_cast<int64_t>(state.waiting.size()) + texts > state.waiting_texts_max) {
      return error(ErrorCode::overloaded, "{} texts wait already, of at most {}; try again later",
                   state.waiting.size(), state.waiting_texts_max);
    }
    id = job->id = state.next_id++;
    for (size_t i = 0; i < static_cast<size_t>(texts); ++i) state.waiting.push_back({job, i});
    state.jobs.emplace(id, std::move(job));
  }
  state.place.wake();
  return id;
}

void EmbeddingLane::cancel(uint64_t id) {
  {
    const std::lock_guard lock(state_->mutex);
    state_->end_job(id, error(ErrorCode::cancelled, "cancelled"));
  }
  state_->place.wake();
}

EmbeddingLane::Counts EmbeddingLane::counts() const {
  const std::lock_guard lock(state_->mutex);
  Counts counts = state_->totals;
  counts.waiting_texts = static_cast<int64_t>(state_->waiting.size());
  return counts;
}

const Encoder& EmbeddingLane::encoder() const {
  return *state_->encoder;
}
double EmbeddingLane::busy_seconds() const {
  return state_->place.busy_seconds();
}

}  // namespace impetus

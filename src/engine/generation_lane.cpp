#include <algorithm>
#include <cassert>
#include <condition_variable>
#include <deque>
#include <map>
#include <mutex>
#include <unordered_map>
#include <utility>

#include "base/keep_forever.h"
#include "base/log.h"
#include "engine/runner.h"

namespace impetus {
namespace {

// A run_exclusive in progress. Owns what its steps refer to: its caller may be gone before a step
// that hangs is.
struct ExclusiveJob {
  explicit ExclusiveJob(std::span<const SequenceStep> steps) : batch(steps.begin(), steps.end()) {
    for (SequenceStep& step : batch) {
      step.tokens = own(step.tokens);
      step.context.prompt = own(step.context.prompt);
      step.context.answer = own(step.context.answer);
      if (step.sampling) step.sampling = &sampling.emplace_back(*step.sampling);
    }
  }
  std::span<const TokenId> own(std::span<const TokenId> list) {
    return tokens.emplace_back(list.begin(), list.end());
  }

  std::vector<SequenceStep> batch;
  std::deque<std::vector<TokenId>> tokens;
  std::deque<SamplingParams> sampling;
  std::vector<SequenceResult> results;  // of the steps begun
  std::vector<BlockId> blocks;          // lent for the present step
  int64_t computed = 0;                 // tokens of the present step
  std::optional<Error> failure;
  bool done = false;
};

}  // namespace

struct GenerationLane::State final : LaneWork {
  State(std::shared_ptr<Executor> executor_, const SchedulerLimits& limits, double share_,
        LaneGuard guard_)
      : guard(std::move(guard_)),
        share(share_),
        executor(std::move(executor_)),
        step_tokens_max(limits.step_tokens_max),
        scheduler(limits, executor->kv().blocks(), executor->kv().block_tokens()) {}

  bool has_work() override {
    const std::lock_guard lock(mutex);
    if (dropping || scheduler.has_events()) return true;
    if (dead) return scheduler.has_work() || !jobs.empty();
    return !held && (scheduler.has_work() || !jobs.empty());
  }
  void run_slice() override;
  void given_up(double seconds) override;
  void close() override;

  bool drop_executor();         // false: given up
  void end_what_was_told_to();  // REQUIRES: mutex held
  std::vector<SequenceEvent> settle(const Executor& ran, std::span<const SequenceStep> steps,
                                    Result<std::vector<SequenceResult>> results);
  void deliver(std::vector<SequenceEvent> events);
  void run_job_chunk(const std::shared_ptr<Executor>& now);
  void end_job(ExclusiveJob& job, std::optional<Error> failure);  // REQUIRES: mutex held
  DeviceLoop::Place here() {
    const std::lock_guard lock(mutex);
    return place;
  }

  struct Consumer {
    std::shared_ptr<TokenSink> sink;
    TokenUsage usage;
    bool enough = false;
  };

  const LaneGuard guard;
  const double share;
  std::mutex moving;  // taken before `mutex`: rehome and close take turns

  std::mutex mutex;  // never held while the executor or a sink runs
  DeviceLoop::Place place;
  double busy_before = 0;              // at the places before
  std::shared_ptr<Executor> executor;  // null: evicted
  int64_t step_tokens_max;
  Scheduler scheduler;
  std::unordered_map<SequenceId, Consumer>
      consumers;  // only the loop's thread erases or changes one
  std::deque<std::shared_ptr<ExclusiveJob>> jobs;
  std::condition_variable job_done;
  std::condition_variable dropped;
  std::shared_ptr<ExclusiveJob> job_in_flight;
  bool step_in_flight = false;
  bool job_is_next = false;
  bool held = false;      // no steps: another processor is sought
  bool dropping = false;  // the executor is to be destroyed by the loop's thread
  std::optional<Error> oldest_ends, dead;
  bool closed = false;
  std::map<std::string, int> failures;  // of a backend's steps, since its last token
};

void GenerationLane::State::run_slice() {
  std::shared_ptr<Executor> now;
  DeviceLoop::Place at;
  std::span<const SequenceStep> steps;
  std::vector<SequenceEvent> events;
  bool run_job = false, drop;
  {
    const std::lock_guard lock(mutex);
    at = place;
    drop = dropping;
    end_what_was_told_to();
    if (!held && !drop) {
      now = executor;
      run_job = !jobs.empty() && job_is_next;
      if (!run_job) {
        steps = scheduler.plan_step();
        run_job = steps.empty() && !jobs.empty();
      }
      job_is_next = !run_job;  // jobs and steps take turns
      step_in_flight = !steps.empty();
    }
    if (steps.empty()) events = scheduler.take_events();
  }
  if (drop && !drop_executor()) return;
  if (!steps.empty()) {
    auto results = guarded([&] {
      at.begin_step(guard.limit(now->expected_seconds(steps)));
      return now->execute(steps);
    });
    if (!at.end_step()) return;
    events = settle(*now, steps, std::move(results));
  }
  deliver(std::move(events));
  if (run_job) run_job_chunk(now);
}

bool GenerationLane::State::drop_executor() {
  std::shared_ptr<Executor> gone;
  DeviceLoop::Place at;
  {
    const std::lock_guard lock(mutex);
    if (executor) scheduler.keep_descriptors();
    gone = std::move(executor);
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

void GenerationLane::State::end_what_was_told_to() {
  if (dead) {
    scheduler.end_all(*dead);
    while (!jobs.empty()) end_job(*jobs.front(), *dead);
  }
  if (oldest_ends) {
    scheduler.end_oldest(*oldest_ends);
    oldest_ends.reset();
  }
}

std::vector<SequenceEvent> GenerationLane::State::settle(
    const Executor& ran, std::span<const SequenceStep> steps,
    Result<std::vector<SequenceResult>> results) {
  // A pair tells the failure of one side by its rows.
  const SequenceResult* row = nullptr;
  if (results.ok()) {
    const auto of_device = [](const SequenceResult& one) {
      return !one.token.ok() && (one.token.error().code == ErrorCode::unavailable ||
                                 one.token.error().code == ErrorCode::insufficient_memory);
    };
    const auto found = std::ranges::find_if(*results, of_device);
    if (found != results->end()) row = &*found;
  }
  std::unique_lock lock(mutex);
  step_in_flight = false;
  if (results.ok() && !row) {
    // Prompts that are computed again prove little, and one side of a pair nothing for the other.
    for (size_t i = 0; i < steps.size() && !failures.empty() && i < results->size(); ++i) {
      const SequenceResult& one = (*results)[i];
      if (one.ran_on && steps[i].output == StepOutput::sample) failures.erase(one.ran_on->backend);
    }
    return scheduler.finish_step(*results);
  }
  const std::string& backend = (row && row->ran_on ? *row->ran_on : ran.at_work()).backend;
  const Error& error = row ? row->token.error() : results.error();
  const bool known =
      row || error.code == ErrorCode::unavailable || error.code == ErrorCode::insufficient_memory;
  const DeviceFailure failure = device_failure(backend, error);
  const auto again = [&] {
    return row ? scheduler.finish_step(*results, true) : scheduler.return_step();
  };
  if (failure.kind == DeviceFailure::Kind::memory && scheduler.shrink()) {
    log::warn("{}; steps are made smaller", failure.error.message);
    return again();
  }
  // One that says itself that it is gone is not asked again.
  if (error.code != ErrorCode::unavailable && ++failures[backend] < LaneGuard::failures_max) {
    log::warn("{}", failure.error.message);
    return known ? again() : scheduler.retry_step(failure.error);
  }
  lock.unlock();
  const auto asked = guard.ask(failure);
  lock.lock();
  failures.clear();
  if (asked.ok()) {
    held = true;
    dropping = dropping || failure.kind == DeviceFailure::Kind::lost;
    return again();
  }
  const bool memory = failure.kind == DeviceFailure::Kind::memory;
  if (!known || (memory && !row)) return scheduler.retry_step(asked.error());  // it may pass
  return row ? scheduler.finish_step(*results) : scheduler.fail_step(asked.error());
}

void GenerationLane::State::given_up(double seconds) {
  DeviceFailure failure;
  {
    const std::lock_guard lock(mutex);
    failure = hanging(executor ? executor->at_work().backend : "a processor that is lost", seconds);
    if (std::exchange(step_in_flight, false)) keep_forever(scheduler.abandon_step());
    if (const auto job = std::exchange(job_in_flight, nullptr)) {
      keep_forever(job);
      end_job(*job, failure.error);
    }
    keep_forever(std::exchange(executor, nullptr));
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

void GenerationLane::State::deliver(std::vector<SequenceEvent> events) {
  while (!events.empty()) {
    std::vector<Consumer*> targets(events.size());
    {
      const std::lock_guard lock(mutex);
      for (size_t i = 0; i < events.size(); ++i) targets[i] = &consumers.at(events[i].id);
    }
    std::vector<SequenceId> enough, finished;
    for (size_t i = 0; i < events.size(); ++i) {
      SequenceEvent& event = events[i];
      Consumer& consumer = *targets[i];
      try {
        switch (event.kind) {
          case SequenceEvent::Kind::prefilled:
            consumer.usage.cached_tokens = event.cached_tokens;
            consumer.sink->on_prefilled(event.cached_tokens, event.ran_on);
            break;
          case SequenceEvent::Kind::token:
            ++consumer.usage.answer_tokens;
            if (!consumer.sink->on_token(event.token)) {
              consumer.enough = true;
              enough.push_back(event.id);
            }
            break;
          case SequenceEvent::Kind::finished: {
            consumer.usage.ran_on = std::move(event.ran_on);
            const bool met = consumer.enough && event.reason == FinishReason::length;
            consumer.sink->on_finished(met ? FinishReason::stop : event.reason, event.error,
                                       consumer.usage);
            break;
          }
        }
      } catch (const std::exception& failure) {  // no memory: this sequence's end, not the device's
        log::error("a sequence's consumer failed: {}", failure.what());
        if (event.kind != SequenceEvent::Kind::finished) enough.push_back(event.id);
      }
      if (event.kind == SequenceEvent::Kind::finished) finished.push_back(event.id);
    }
    // Sinks may cancel or submit from their destructors: they go after the lock.
    std::vector<decltype(consumers)::node_type> gone;
    const std::lock_guard lock(mutex);
    for (const SequenceId id : finished) gone.push_back(consumers.extract(id));
    for (const SequenceId id : enough) scheduler.stop(id);
    events = scheduler.take_events();
  }
}

void GenerationLane::State::run_job_chunk(const std::shared_ptr<Executor>& now) {
  std::shared_ptr<ExclusiveJob> job;
  std::optional<Error> failure;
  DeviceLoop::Place at;
  int64_t most;
  {
    const std::lock_guard lock(mutex);
    if (held || jobs.empty()) return;  // since this slice's step
    job = jobs.front();
    at = place;
    most = step_tokens_max;
    if (job->blocks.empty()) {
      const SequenceStep& step = job->batch[job->results.size()];
      auto lent = scheduler.borrow_blocks(static_cast<int64_t>(step.tokens.size()));
      if (!lent.ok()) return end_job(*job, lent.error());
      job->blocks = std::move(*lent);
      job->computed = 0;
      job->results.emplace_back();
    }
    job_in_flight = job;
  }
  const SequenceStep& whole = job->batch[job->results.size() - 1];
  SequenceResult& result = job->results.back();
  const auto size = static_cast<int64_t>(whole.tokens.size());
  const int64_t count = std::min(most, size - job->computed);
  const int32_t block_tokens = std::as_const(*now).kv().block_tokens();
  SequenceStep chunk = whole;
  chunk.tokens = whole.tokens.subspan(job->computed, count);
  chunk.position = job->computed;
  chunk.blocks = std::span<const BlockId>(job->blocks)
                     .first((job->computed + count + block_tokens - 1) / block_tokens);
  const bool last = job->computed + count == size;
  if (!last && whole.output != StepOutput::logits_all) chunk.output = StepOutput::none;

  const auto shared = std::make_shared<SequenceStep>(chunk);
  auto answer = guarded([&] {
    at.begin_step(guard.limit(now->expected_seconds({shared.get(), 1})));
    return now->execute({shared.get(), 1});
  });
  if (!at.end_step()) return;
  if (!answer.ok()) {
    failure = answer.error();
  } else if (answer->size() != 1) {
    failure = error(ErrorCode::internal, "the executor answered {} sequences of 1", answer->size());
  } else {
    SequenceResult& part = answer->front();
    result.token = std::move(part.token);
    result.ran_on = part.ran_on;
    result.handoff_seconds += part.handoff_seconds;
    if (result.logits.empty()) {
      result.logits = std::move(part.logits);
    } else {
      result.logits.insert(result.logits.end(), part.logits.begin(), part.logits.end());
    }
    job->computed += count;
  }

  const std::lock_guard lock(mutex);
  job_in_flight = nullptr;
  if (!failure && !last) return;
  scheduler.return_blocks(job->blocks);
  job->blocks.clear();
  if (failure || job->results.size() == job->batch.size()) end_job(*job, std::move(failure));
}

void GenerationLane::State::end_job(ExclusiveJob& job, std::optional<Error> failure) {
  scheduler.return_blocks(job.blocks);
  std::erase_if(jobs, [&](const auto& one) { return one.get() == &job; });
  job.failure = std::move(failure);
  job.done = true;
  job_done.notify_all();
}

void GenerationLane::State::close() {
  std::vector<SequenceEvent> events;
  {
    const std::lock_guard lock(mutex);
    closed = true;
    for (const auto& [id, consumer] : consumers) scheduler.cancel(id);
    events = scheduler.take_events();
    while (!jobs.empty()) {
      end_job(*jobs.front(), error(ErrorCode::unavailable, "the model is being unloaded"));
    }
  }
  deliver(std::move(events));
  std::shared_ptr<Executor> gone;
  const std::lock_guard lock(mutex);
  // Not with this object, which the thread of a step that hangs may keep.
  gone = std::move(executor);
  dropping = false;
  dropped.notify_all();
}

GenerationLane::GenerationLane(DeviceLoop& loop, std::shared_ptr<Executor> executor,
                               SchedulerLimits limits, double share, LaneGuard guard) {
  limits.step_tokens_max = std::min(limits.step_tokens_max, executor->step_tokens_max());
  state_ = std::make_shared<State>(std::move(executor), limits, share, std::move(guard));
  const std::lock_guard lock(state_->mutex);
  state_->place = loop.attach(state_, share);
}

GenerationLane::~GenerationLane() {
  close();
}

void GenerationLane::close() {
  const DeviceLoop::Place place = state_->here();
  // There rehome may be waiting for this very slice; it finds the lane leaving.
  if (place.on_loop_thread()) return place.detach();
  const std::lock_guard lock(state_->moving);
  state_->here().detach();
}

void GenerationLane::evict(bool hangs) {
  State& state = *state_;
  std::unique_lock lock(state.mutex);
  state.held = true;
  if (!state.executor) return;
  if (hangs) {
    keep_forever(std::exchange(state.executor, nullptr));
    return;
  }
  state.dropping = true;
  state.place.wake();
  state.dropped.wait(lock, [&] { return !state.dropping; });
}

Result<std::shared_ptr<Executor>> GenerationLane::rehome(DeviceLoop& loop,
                                                         std::shared_ptr<Executor> executor,
                                                         SchedulerLimits limits) {
  State& state = *state_;
  const Error closed = error(ErrorCode::unavailable, "the model is being unloaded");
  const std::lock_guard moving(state.moving);
  DeviceLoop::Place before;
  {
    const std::lock_guard lock(state.mutex);
    state.held = true;
    before = state.place;
    state.busy_before += before.busy_seconds();
  }
  if (!before.leave()) return closed;
  limits.step_tokens_max = std::min(limits.step_tokens_max, executor->step_tokens_max());
  const KvStorage& kv = std::as_const(*executor).kv();
  const std::lock_guard lock(state.mutex);
  if (state.executor) state.scheduler.keep_descriptors();
  state.scheduler.restart(limits, kv.blocks(), kv.block_tokens());
  for (const auto& job : state.jobs) {
    if (job->blocks.empty()) continue;
    job->blocks.clear();  // of the pool before
    job->computed = 0;
    job->results.pop_back();
  }
  auto gone = std::exchange(state.executor, std::move(executor));
  state.step_tokens_max = limits.step_tokens_max;
  state.failures.clear();
  state.held = state.dropping = false;
  state.place = loop.attach(state_, state.share);
  return gone;
}

bool GenerationLane::waits() const {
  const std::lock_guard lock(state_->mutex);
  return state_->held && !state_->dead && !state_->closed;
}

void GenerationLane::resume(const Error& error) {
  const std::lock_guard lock(state_->mutex);
  state_->oldest_ends = error;
  state_->held = false;
  state_->place.wake();
}

void GenerationLane::fail(const Error& error) {
  const std::lock_guard lock(state_->mutex);
  state_->held = true;
  state_->dead = error;
  state_->place.wake();
}

Result<SequenceId> GenerationLane::submit(SequenceRequest request,
                                          std::shared_ptr<TokenSink> sink) {
  const auto prompt_tokens = static_cast<int64_t>(request.prompt.size());
  SequenceId id;
  {
    const std::lock_guard lock(state_->mutex);
    if (state_->closed) return error(ErrorCode::unavailable, "the model is being unloaded");
    if (state_->dead) return *state_->dead;
    IMPETUS_TRY(id, state_->scheduler.submit(std::move(request)));
    state_->consumers.emplace(
        id, State::Consumer{.sink = std::move(sink), .usage = {.prompt_tokens = prompt_tokens}});
  }
  state_->here().wake();
  return id;
}

void GenerationLane::cancel(SequenceId id) {
  {
    const std::lock_guard lock(state_->mutex);
    state_->scheduler.cancel(id);
  }
  state_->here().wake();
}

Scheduler::Counts GenerationLane::counts() const {
  const std::lock_guard lock(state_->mutex);
  return state_->scheduler.counts();
}

int64_t GenerationLane::capacity() const {
  const std::lock_guard lock(state_->mutex);
  return state_->scheduler.capacity();
}
double GenerationLane::busy_seconds() const {
  const std::lock_guard lock(state_->mutex);
  return state_->busy_before + state_->place.busy_seconds();
}

Result<std::vector<SequenceResult>> GenerationLane::run_exclusive(
    std::span<const SequenceStep> batch) {
  if (state_->here().on_loop_thread()) {
    return error(ErrorCode::internal, "run_exclusive was called on the device's own thread");
  }
  for (const SequenceStep& step : batch) {
    if (step.tokens.empty() || step.position != 0 || !step.blocks.empty()) {
      return error(ErrorCode::invalid_argument,
                   "a step run by hand needs tokens, position 0 and no blocks of its own");
    }
    if (step.output == StepOutput::sample && !step.sampling) {
      return error(ErrorCode::invalid_argument, "a step that samples needs sampling parameters");
    }
  }
  if (batch.empty()) return std::vector<SequenceResult>{};
  const auto job = std::make_shared<ExclusiveJob>(batch);
  {
    const std::lock_guard lock(state_->mutex);
    if (state_->closed) return error(ErrorCode::unavailable, "the model is being unloaded");
    if (state_->dead) return *state_->dead;
    state_->jobs.push_back(job);
  }
  state_->here().wake();
  std::unique_lock lock(state_->mutex);
  state_->job_done.wait(lock, [&] { return job->done; });
  if (job->failure) return std::move(*job->failure);
  return std::move(job->results);
}

}  // namespace impetus

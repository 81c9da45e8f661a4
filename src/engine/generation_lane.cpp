#include <algorithm>
#include <cassert>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <unordered_map>
#include <utility>

#include "base/log.h"
#include "engine/runner.h"

namespace impetus {
namespace {

// A run_exclusive in progress; lives on its caller's stack until `done`.
struct ExclusiveJob {
  explicit ExclusiveJob(std::span<const SequenceStep> steps) : batch(steps) {}

  std::span<const SequenceStep> batch;
  std::vector<SequenceResult> results;  // of the steps begun
  std::vector<BlockId> blocks;          // lent for the present step
  int64_t computed = 0;                 // tokens of the present step
  std::optional<Error> failure;
  bool done = false;
};

}  // namespace

struct GenerationLane::State final : LaneWork {
  State(std::unique_ptr<Executor> executor_, const SchedulerLimits& limits)
      : executor(std::move(executor_)),
        step_tokens_max(limits.step_tokens_max),
        scheduler(limits, executor->kv().blocks(), executor->kv().block_tokens()) {}

  bool has_work() override {
    const std::lock_guard lock(mutex);
    return scheduler.has_work() || !jobs.empty();
  }
  void run_slice() override;
  void close() override;

  void deliver(std::vector<SequenceEvent> events);
  void run_job_chunk();
  void end_job(ExclusiveJob& job, std::optional<Error> failure);  // REQUIRES: mutex held

  struct Consumer {
    std::shared_ptr<TokenSink> sink;
    TokenUsage usage;
    bool enough = false;
  };

  const std::unique_ptr<Executor> executor;
  const int64_t step_tokens_max;
  DeviceLoop::Place place;

  std::mutex mutex;  // never held while the executor or a sink runs
  Scheduler scheduler;
  std::unordered_map<SequenceId, Consumer>
      consumers;  // only the loop's thread erases or changes one
  std::deque<ExclusiveJob*> jobs;
  std::condition_variable job_done;
  bool job_is_next = false;
  bool closed = false;
};

void GenerationLane::State::run_slice() {
  std::span<const SequenceStep> steps;
  std::vector<SequenceEvent> events;
  bool run_job;
  {
    const std::lock_guard lock(mutex);
    run_job = !jobs.empty() && job_is_next;
    if (!run_job) {
      steps = scheduler.plan_step();
      run_job = steps.empty() && !jobs.empty();
    }
    if (steps.empty()) events = scheduler.take_events();
    job_is_next = !run_job;  // jobs and steps take turns
  }
  if (!steps.empty()) {
    auto results = executor->execute(steps);
    const std::lock_guard lock(mutex);
    events = results.ok() ? scheduler.finish_step(*results) : scheduler.fail_step(results.error());
  }
  deliver(std::move(events));
  if (run_job) run_job_chunk();
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

void GenerationLane::State::run_job_chunk() {
  ExclusiveJob* job;
  std::optional<Error> failure;
  {
    const std::lock_guard lock(mutex);
    job = jobs.front();
    if (job->blocks.empty()) {
      const SequenceStep& step = job->batch[job->results.size()];
      auto lent = scheduler.borrow_blocks(static_cast<int64_t>(step.tokens.size()));
      if (!lent.ok()) return end_job(*job, lent.error());
      job->blocks = std::move(*lent);
      job->computed = 0;
      job->results.emplace_back();
    }
  }
  const SequenceStep& whole = job->batch[job->results.size() - 1];
  SequenceResult& result = job->results.back();
  const auto size = static_cast<int64_t>(whole.tokens.size());
  const int64_t count = std::min(step_tokens_max, size - job->computed);
  const int32_t block_tokens = executor->kv().block_tokens();
  SequenceStep chunk = whole;
  chunk.tokens = whole.tokens.subspan(job->computed, count);
  chunk.position = job->computed;
  chunk.blocks = std::span<const BlockId>(job->blocks)
                     .first((job->computed + count + block_tokens - 1) / block_tokens);
  const bool last = job->computed + count == size;
  if (!last && whole.output != StepOutput::logits_all) chunk.output = StepOutput::none;

  auto answer = executor->execute({&chunk, 1});
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
  if (!failure && !last) return;
  scheduler.return_blocks(job->blocks);
  job->blocks.clear();
  if (failure || job->results.size() == job->batch.size()) end_job(*job, std::move(failure));
}

void GenerationLane::State::end_job(ExclusiveJob& job, std::optional<Error> failure) {
  scheduler.return_blocks(job.blocks);
  std::erase(jobs, &job);
  job.failure = std::move(failure);
  job.done = true;  // its caller may destroy it once the lock is free
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
}

GenerationLane::GenerationLane(DeviceLoop& loop, std::unique_ptr<Executor> executor,
                               SchedulerLimits limits, double share) {
  limits.step_tokens_max = std::min(limits.step_tokens_max, executor->step_tokens_max());
  state_ = std::make_shared<State>(std::move(executor), limits);
  state_->place = loop.attach(state_, share);
}

GenerationLane::~GenerationLane() {
  close();
}

void GenerationLane::close() {
  state_->place.detach();
}

Result<SequenceId> GenerationLane::submit(SequenceRequest request,
                                          std::shared_ptr<TokenSink> sink) {
  const auto prompt_tokens = static_cast<int64_t>(request.prompt.size());
  SequenceId id;
  {
    const std::lock_guard lock(state_->mutex);
    if (state_->closed) return error(ErrorCode::unavailable, "the model is being unloaded");
    IMPETUS_TRY(id, state_->scheduler.submit(std::move(request)));
    state_->consumers.emplace(
        id, State::Consumer{.sink = std::move(sink), .usage = {.prompt_tokens = prompt_tokens}});
  }
  state_->place.wake();
  return id;
}

void GenerationLane::cancel(SequenceId id) {
  {
    const std::lock_guard lock(state_->mutex);
    state_->scheduler.cancel(id);
  }
  state_->place.wake();
}

Scheduler::Counts GenerationLane::counts() const {
  const std::lock_guard lock(state_->mutex);
  return state_->scheduler.counts();
}

const Executor& GenerationLane::executor() const {
  return *state_->executor;
}
int64_t GenerationLane::capacity() const {
  return state_->scheduler.capacity();
}
double GenerationLane::busy_seconds() const {
  return state_->place.busy_seconds();
}

Result<std::vector<SequenceResult>> GenerationLane::run_exclusive(
    std::span<const SequenceStep> batch) {
  if (state_->place.on_loop_thread()) {
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
  ExclusiveJob job(batch);
  {
    const std::lock_guard lock(state_->mutex);
    if (state_->closed) return error(ErrorCode::unavailable, "the model is being unloaded");
    state_->jobs.push_back(&job);
  }
  state_->place.wake();
  std::unique_lock lock(state_->mutex);
  state_->job_done.wait(lock, [&] { return job.done; });
  if (job.failure) return std::move(*job.failure);
  return std::move(job.results);
}

}  // namespace impetus

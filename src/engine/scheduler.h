// The scheduler as a pure state machine: requests and step results in, steps and events out. It has
// no clock, no thread, no device and no text; the same calls give the same answers.
//
// Continuous batching with chunked prefill: every running sequence that decodes gets its token in
// each step, and what the step's budget leaves goes to prompts, oldest first. KV is paged; whole
// blocks of a finished or running prompt are found again by the chain of their tokens (prefix
// cache). When blocks run out the youngest running sequence goes back to the queue and is computed
// again later: nothing is lost, and its tokens come out the same.
//
// No starvation: the queue is in order of arrival and its head is never overtaken, so every running
// sequence is older than every waiting one; the oldest is never preempted for another and gets at
// least a token in each step. A head whose next prompt block a running sequence is computing at
// this moment waits for it rather than compute it twice (equal prompts, n > 1, shared system
// prompts).
//
// A step that fails need not cost anybody an answer: what was computed before stands or is computed
// again from the tokens, here or on another executor, and nothing that was told is told twice.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "backend/executor.h"
#include "base/result.h"
#include "engine/block_pool.h"

namespace impetus {

using SequenceId = uint64_t;

enum class FinishReason : uint8_t { stop, length, cancelled, error };

struct SequenceRequest {
  std::vector<TokenId> prompt;  // not empty
  SamplingParams sampling;
  int64_t tokens_max = 0;            // of the answer, >= 1
  std::vector<TokenId> stop_tokens;  // end the answer, not part of it
  std::shared_ptr<LogitMask> mask;   // may be null
};

struct SchedulerLimits {
  int64_t step_tokens_max = 512;  // tokens of one step, prompts and decoding together
  int64_t running_max = 64;       // sequences with KV; at most step_tokens_max of them are used
  int64_t waiting_max = 256;      // beyond: overloaded
  int64_t context = 0;            // most positions of one sequence; 0: what the KV pool holds
};

// Which processors computed a sequence, as they said themselves with each result: each once, in the
// order of their first step. What the prefix cache found was computed for another and is not here.
struct RanOn {
  std::vector<const BackendDescriptor*> prefill, decode;  // valid as long as the executor
  double handoff_seconds = 0;                             // spent on moving its KV between them

  void add(StepPhase phase, const SequenceResult& result);
};

struct SequenceEvent {
  enum class Kind : uint8_t { prefilled, token, finished } kind = Kind::token;
  SequenceId id = 0;
  SampledToken token;                        // Kind::token
  FinishReason reason = FinishReason::stop;  // Kind::finished
  Error error;                               // reason == error
  int64_t cached_tokens = 0;  // Kind::prefilled: prompt tokens found in the prefix cache
  RanOn ran_on;               // Kind::prefilled, Kind::finished: so far
};

// Order of one sequence's events: prefilled (before the first token; at most once), tokens,
// finished (exactly once, last). A stop token is not an event.
class Scheduler {
 public:
  // REQUIRES: block_tokens > 0.
  Scheduler(const SchedulerLimits& limits, int32_t blocks, int32_t block_tokens);
  ~Scheduler();
  Scheduler(const Scheduler&) = delete;
  Scheduler& operator=(const Scheduler&) = delete;

  // overloaded where the queue is full; context_length where prompt + 1 exceeds the context or
  // the whole pool; invalid_argument for an empty prompt. Allowed while a step is in flight.
  Result<SequenceId> submit(SequenceRequest request);
  void cancel(SequenceId id);  // unknown ids are ignored; the event comes with the next step
  // The consumer wants no more (a stop string was met): ends as `stop` before the next step.
  void stop(SequenceId id);

  // Sequences waiting or running, or events not yet taken.
  bool has_work() const;
  // The next step; empty where nothing can run. Spans live until finish_step or fail_step, and no
  // other step may be planned before.
  std::span<const SequenceStep> plan_step();
  // `again`: rows that failed for want of memory or of their device go back to the queue.
  std::vector<SequenceEvent> finish_step(std::span<SequenceResult> results, bool again = false);
  // The executor failed the whole step: every sequence in it ends with this error.
  std::vector<SequenceEvent> fail_step(const Error& error);
  // It failed, and nobody ends: all that run go back to the queue.
  std::vector<SequenceEvent> return_step();
  // The same, but those in it that failed before and had no token since end with this error: they
  // may be why.
  std::vector<SequenceEvent> retry_step(const Error& error);
  // The step in flight is too large for its executor. False where it is one token of one sequence;
  // else those that follow have half as many of each, and more again as they go well.
  bool shrink();
  // The step in flight never returns: what it may still read is in the result, to be kept as long
  // as it could run. Its sequences go back to the queue as copies.
  [[nodiscard]] std::shared_ptr<const void> abandon_step();
  // Events of cancels and stops while no step was in flight.
  std::vector<SequenceEvent> take_events();
  bool has_events() const { return !events_.empty(); }

  // The executor is about to go: what its results named it by is kept here. No step in flight.
  void keep_descriptors();
  // Another executor goes on, with KV of its own. What no longer fits it ends as context_length;
  // blocks that were borrowed are forgotten. No step in flight.
  void restart(const SchedulerLimits& limits, int32_t blocks, int32_t block_tokens);
  void end_all(const Error& error);     // no step in flight
  void end_oldest(const Error& error);  // the one that would run first; no step in flight

  // Blocks for work beside the sequences (a run of the executor by hand); preempts the youngest
  // where none are free. context_length where the pool is too small. REQUIRES: no step in flight.
  Result<std::vector<BlockId>> borrow_blocks(int64_t positions);
  void return_blocks(std::span<const BlockId> blocks);

  // Most tokens of one sequence, prompt and answer.
  int64_t capacity() const { return capacity_; }

  struct Counts {
    int64_t waiting = 0, running = 0, preemptions = 0;
    int64_t moved = 0;  // sequences that another executor took over, each time
    int64_t blocks_total = 0, blocks_used = 0, blocks_cached = 0;  // cached: free but findable
    int64_t prompt_tokens = 0, cached_tokens = 0, generated_tokens = 0;  // since the start
  };
  Counts counts() const;

 private:
  friend struct SchedulerTestPeer;  // the simulation looks inside, and plants bugs

  struct Sequence {
    SequenceId id = 0;
    SequenceRequest request;
    std::vector<TokenId> tokens;  // prompt, then answer
    int64_t computed = 0;         // of tokens, those whose KV stands in blocks
    std::vector<BlockId> blocks;
    int64_t published = 0;                     // leading blocks that are findable
    BlockPool::Chain chain = BlockPool::root;  // of the last published block
    int64_t cached = -1;                       // prompt tokens found at the first admission
    bool prefilled = false;                    // the event was sent
    bool ended = false;
    bool failed_before = false;          // a step, since its last token
    std::optional<FinishReason> ending;  // cancelled or stopped while a step was in flight
    RanOn ran_on;

    int64_t prompt_size() const { return static_cast<int64_t>(request.prompt.size()); }
    int64_t size() const { return static_cast<int64_t>(tokens.size()); }
    bool decodes() const { return size() - computed == 1; }
    StepPhase phase() const {
      return computed < prompt_size() ? StepPhase::prefill : StepPhase::decode;
    }
    // What can be computed in one step: a step is of one phase, so it ends where the prompt does.
    int64_t missing() const {
      return (phase() == StepPhase::prefill ? prompt_size() : size()) - computed;
    }
  };
  struct Planned {
    Sequence* sequence;
    int64_t count;
  };

  std::span<const TokenId> block_tokens(const Sequence& sequence, int64_t block) const;
  void plan(Sequence& sequence, int64_t count);
  bool plan_decoding(int64_t& budget);  // false: somebody was preempted
  void plan_prompts(int64_t& budget);
  void admit_waiting(int64_t& budget);
  bool admit(Sequence& sequence, const std::vector<uint64_t>& being_computed);
  // The hash of the block that the sequence computes next, where its tokens are known.
  std::optional<uint64_t> block_being_computed(const Sequence& sequence) const;
  void preempt_youngest();
  void send_back_youngest();
  void send_back_all();
  void grow();
  void publish_full_blocks(Sequence& sequence);
  void take_token(Sequence& sequence, SampledToken token);
  void end_early(SequenceId id, FinishReason reason);
  void end(Sequence& sequence, FinishReason reason, Error error = {});
  SequenceEvent& add_event(SequenceEvent::Kind kind, const Sequence& sequence);
  void release_blocks(Sequence& sequence);
  std::vector<SequenceEvent> close_step();

  SchedulerLimits limits_;
  int64_t step_tokens_now_ = 0, running_now_ = 0;  // at most limits_'; less after shrink()
  int64_t good_steps_ = 0;                         // since either changed
  BlockPool pool_;
  int64_t capacity_;
  SequenceId next_id_ = 1;
  std::map<SequenceId, std::unique_ptr<Sequence>> waiting_;  // by arrival
  std::vector<std::unique_ptr<Sequence>> running_;           // by arrival, all before waiting_
  bool in_flight_ = false;
  std::vector<Planned> planned_;
  std::vector<SequenceStep> steps_;  // parallel to planned_
  std::vector<SequenceEvent> events_;
  std::deque<BackendDescriptor> descriptors_;  // of executors that are gone
  int64_t preemptions_ = 0, moved_ = 0;
  int64_t prompt_tokens_ = 0, cached_tokens_ = 0, generated_tokens_ = 0;
};

}  // namespace impetus

// The scheduler as a pure state machine: requests and step results in, steps and events out. It has
// no clock, no thread, no device and no text; the same calls give the same answers.
//
// Continuous batching with chunked prefill: every running sequence that decodes gets its token in
// each step, and what the step's budget leaves goes to prompts, oldest first. KV is paged; whole blocks
// of a finished or running prompt are found again by the chain of their tokens (prefix cache).
// When blocks run out the youngest running sequence goes back to the queue and is computed again
// later: nothing is lost, and its tokens come out the same.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <unordered_map>
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
  int64_t tokens_max = 0;               // of the answer, >= 1
  std::vector<TokenId> stop_tokens;     // end the answer, not part of it
  std::shared_ptr<LogitMask> mask;      // may be null
};

struct SchedulerLimits {
  int64_t step_tokens_max = 512;  // tokens of one step, prompts and decoding together
  int64_t running_max = 64;       // sequences with KV
  int64_t waiting_max = 256;      // beyond: overloaded
  int64_t context = 0;            // most positions of one sequence
};

struct SequenceEvent {
  enum class Kind : uint8_t { prefilled, token, finished } kind;
  SequenceId id = 0;
  SampledToken token;              // Kind::token
  FinishReason reason = FinishReason::stop;  // Kind::finished
  Error error;                     // reason == error
  int64_t cached_tokens = 0;       // Kind::prefilled: prompt tokens found in the prefix cache
};

class Scheduler {
 public:
  Scheduler(const SchedulerLimits& limits, int32_t blocks, int32_t block_tokens);

  // overloaded where the queue is full; context_length where prompt + 1 exceeds the context or
  // the whole pool; invalid_argument for an empty prompt.
  Result<SequenceId> submit(SequenceRequest request);
  void cancel(SequenceId id);  // unknown ids are ignored; the event comes with the next step
  // The consumer wants no more (a stop string was met): ends as `stop` before the next step.
  void stop(SequenceId id);

  bool has_work() const;
  // The next step; empty where nothing can run. Spans live until finish_step or fail_step, and no
  // other step may be planned before.
  std::span<const SequenceStep> plan_step();
  std::vector<SequenceEvent> finish_step(std::span<SequenceResult> results);
  // The executor failed the whole step: every sequence in it ends with this error.
  std::vector<SequenceEvent> fail_step(const Error& error);
  // Events of cancels and stops while no step was in flight.
  std::vector<SequenceEvent> take_events();

  struct Counts {
    int64_t waiting = 0, running = 0, preemptions = 0;
    int64_t blocks_total = 0, blocks_used = 0, blocks_cached = 0;  // cached: free but findable
    int64_t prompt_tokens = 0, cached_tokens = 0, generated_tokens = 0;  // since the start
  };
  Counts counts() const;

 private:
  struct Sequence;
  // (members are the implementation's to define)
};

}  // namespace impetus

// Threads around the pure parts: one loop a device, lanes of work on it, shares between them.
//
// A device runs one thing at a time. Each lane (a decoder's scheduler, an encoder's queue) cuts its
// work into slices of bounded length; the loop always runs the lane that has had the least weighted
// time, so embeddings cannot stall chat, nor chat embeddings, on one core either.
//
// Callbacks (TokenSink, EmbeddingLane::Done) come on the device's thread with no lock held: they
// must be quick, and may submit to and cancel on any lane, but neither destroy a loop nor call
// run_exclusive. A lane's destructor waits for the slice that runs, ends what is left as cancelled
// (callbacks included), and after it returns nothing of the lane is called again. Only where a
// callback itself destroys a lane, which better be avoided, do its last callbacks follow the
// destructor, right after the present slice. A loop destroyed before its lanes ends them the same
// way; they then refuse work as unavailable.
//
// A lane outlives its processor: guard.h says what it does about one that fails. evict, rehome,
// resume and fail are for whoever its guard asks, one at a time, and not on a loop's thread.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "backend/executor.h"
#include "engine/device_loop.h"
#include "engine/guard.h"
#include "engine/scheduler.h"

namespace impetus {

struct TokenUsage {
  int64_t prompt_tokens = 0;
  int64_t cached_tokens = 0;
  int64_t answer_tokens = 0;
  RanOn ran_on = {};
};

// Receives one sequence's events.
class TokenSink {
 public:
  virtual ~TokenSink() = default;
  virtual void on_prefilled(int64_t cached_tokens, const RanOn& ran_on) = 0;
  // False: enough (a stop string was met). No token follows, and the sequence ends as `stop`.
  virtual bool on_token(const SampledToken& token) = 0;
  // Exactly once, last. `error` is meaningful where reason == error.
  virtual void on_finished(FinishReason reason, const Error& error, const TokenUsage& usage) = 0;
};

// Chat and completion on one loaded decoder. All methods are thread-safe.
class GenerationLane {
 public:
  // limits.step_tokens_max is lowered to what the executor takes. REQUIRES: share > 0.
  GenerationLane(DeviceLoop& loop, std::shared_ptr<Executor> executor, SchedulerLimits limits,
                 double share, LaneGuard guard = {});
  ~GenerationLane();  // close()
  GenerationLane(const GenerationLane&) = delete;
  GenerationLane& operator=(const GenerationLane&) = delete;

  // Errors as Scheduler::submit, where the sink is not called; unavailable once the loop is gone.
  Result<SequenceId> submit(SequenceRequest request, std::shared_ptr<TokenSink> sink);
  void cancel(SequenceId id);
  // Ends its sequences as cancelled; afterwards submit is unavailable. Again is harmless.
  void close();
  Scheduler::Counts counts() const;
  int64_t capacity() const;     // most tokens of one sequence, prompt and answer
  double busy_seconds() const;  // of the device, since the start
  // Runs the executor directly, between steps, on the device's thread (logits, bench); blocks the
  // caller. The steps run one after another, each from position 0 in chunks of step_tokens_max with
  // blocks lent by the lane. REQUIRES (else invalid_argument): tokens, position 0, no blocks of the
  // caller's.
  Result<std::vector<SequenceResult>> run_exclusive(std::span<const SequenceStep> batch);

  // No step from now on, and the executor goes: destroyed on its loop's thread, waited for; or
  // `hangs`: kept for ever.
  void evict(bool hangs);
  // Everything that waits or ran goes on here; tokens that were told stay, KV is computed again.
  // What drove it before, to be destroyed on its own loop; unavailable where the lane was closed.
  Result<std::shared_ptr<Executor>> rehome(DeviceLoop& loop, std::shared_ptr<Executor> executor,
                                           SchedulerLimits limits);
  bool waits() const;  // for rehome, resume or fail
  // There is no other after all: the oldest ends with this error, and the lane goes on as it is.
  void resume(const Error& error);
  // Nor can it go on: everything ends with this error, and what is submitted is refused with it.
  void fail(const Error& error);

 private:
  struct State;
  std::shared_ptr<State> state_;
};

// Embeddings on one loaded encoder. All methods are thread-safe.
class EmbeddingLane {
 public:
  // A slice aims at this much of the device's time; its token budget follows what is measured.
  static constexpr double slice_seconds = 0.020;

  // REQUIRES: waiting_texts_max >= 1, share > 0.
  EmbeddingLane(DeviceLoop& loop, std::shared_ptr<Encoder> encoder, int64_t waiting_texts_max,
                double share, LaneGuard guard = {});
  ~EmbeddingLane();  // close()
  EmbeddingLane(const EmbeddingLane&) = delete;
  EmbeddingLane& operator=(const EmbeddingLane&) = delete;

  struct Request {
    std::vector<std::vector<TokenId>> texts;        // not empty, each neither
    std::vector<std::vector<int32_t>> token_types;  // empty, or one list a text
    EncodeOutput output = EncodeOutput::pooled;
  };
  struct Answer {
    std::vector<std::vector<float>> vectors;       // one a text: [hidden], or [tokens, hidden]
    std::vector<const BackendDescriptor*> ran_on;  // each encoder that said it ran a part, once
  };
  // Called once on the device's thread.
  using Done = std::function<void(Result<Answer>)>;
  // overloaded where the queue is full; invalid_argument for a malformed request or one that no
  // queue of this length can take; context_length for a text longer than the encoder's batch;
  // unavailable once the loop is gone. `done` is not called then. Texts of many requests share a
  // batch, sorted by length; an error of the encoder: see guard.h.
  Result<uint64_t> submit(Request request, Done done);
  void cancel(uint64_t id);
  void close();  // ends its requests as unavailable, and those to come; again is harmless

  struct Counts {
    int64_t waiting_texts = 0;
    int64_t texts = 0, tokens = 0, moved = 0;  // since the start
  };
  Counts counts() const;
  int64_t text_tokens_max() const;
  double busy_seconds() const;  // of the device, since the start

  // As GenerationLane's. Texts that are too long for the new encoder end as context_length. Two
  // lanes may have one encoder where one loop drives both.
  void evict(bool hangs);
  Result<std::shared_ptr<Encoder>> rehome(DeviceLoop& loop, std::shared_ptr<Encoder> encoder);
  bool waits() const;
  void resume(const Error& error);
  void fail(const Error& error);
  std::shared_ptr<Encoder> encoder() const;  // null while there is none

 private:
  struct State;
  std::shared_ptr<State> state_;
};

}  // namespace impetus

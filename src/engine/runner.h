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
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "backend/executor.h"
#include "engine/device_loop.h"
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
  GenerationLane(DeviceLoop& loop, std::unique_ptr<Executor> executor, SchedulerLimits limits,
                 double share);
  ~GenerationLane();  // close()
  GenerationLane(const GenerationLane&) = delete;
  GenerationLane& operator=(const GenerationLane&) = delete;

  // Errors as Scheduler::submit, where the sink is not called; unavailable once the loop is gone.
  Result<SequenceId> submit(SequenceRequest request, std::shared_ptr<TokenSink> sink);
  void cancel(SequenceId id);
  // Ends its sequences as cancelled; afterwards submit is unavailable. Again is harmless.
  void close();
  Scheduler::Counts counts() const;
  const Executor& executor() const;
  int64_t capacity() const;     // most tokens of one sequence, prompt and answer
  double busy_seconds() const;  // of the device, since the start
  // Runs the executor directly, between steps, on the device's thread (logits, bench); blocks the
  // caller. The steps run one after another, each from position 0 in chunks of step_tokens_max with
  // blocks lent by the lane. REQUIRES (else invalid_argument): tokens, position 0, no blocks of the
  // caller's.
  Result<std::vector<SequenceResult>> run_exclusive(std::span<const SequenceStep> batch);

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
  EmbeddingLane(DeviceLoop& loop, std::unique_ptr<Encoder> encoder, int64_t waiting_texts_max,
                double share);
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
  // batch, sorted by length; an encoder's error fails the requests whose texts were in that batch.
  Result<uint64_t> submit(Request request, Done done);
  void cancel(uint64_t id);
  void close();  // ends its requests as unavailable, and those to come; again is harmless

  struct Counts {
    int64_t waiting_texts = 0;
    int64_t texts = 0, tokens = 0;  // since the start
  };
  Counts counts() const;
  const Encoder& encoder() const;
  double busy_seconds() const;  // of the device, since the start

 private:
  struct State;
  std::shared_ptr<State> state_;
};

}  // namespace impetus

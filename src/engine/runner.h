// Threads around the pure parts: one loop a device, lanes of work on it, shares between them.
//
// A device runs one thing at a time. Each lane (a decoder's scheduler, an encoder's queue) cuts its
// work into slices of bounded length; the loop always runs the lane that has had the least weighted time,
// so embeddings cannot stall chat, nor chat embeddings, on one core either.
#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "backend/executor.h"
#include "engine/fair_share.h"
#include "engine/scheduler.h"

namespace impetus {

struct TokenUsage {
  int64_t prompt_tokens = 0;
  int64_t cached_tokens = 0;
  int64_t answer_tokens = 0;
};

// Receives one sequence's events on the device's thread: must be quick and must not call back into
// the runner except through the returned verdict.
class TokenSink {
 public:
  virtual ~TokenSink() = default;
  virtual void on_prefilled(int64_t cached_tokens) = 0;
  // False: enough (a stop string was met).
  virtual bool on_token(const SampledToken& token) = 0;
  // Exactly once, last. `error` is meaningful where reason == error. The device that ran it is named.
  virtual void on_finished(FinishReason reason, const Error& error, const TokenUsage& usage) = 0;
};

class DeviceLoop;

// Chat and completion on one loaded decoder. All methods are thread-safe.
class GenerationLane {
 public:
  GenerationLane(DeviceLoop& loop, std::unique_ptr<Executor> executor, SchedulerLimits limits,
                 double share);
  ~GenerationLane();  // ends its sequences as cancelled

  Result<SequenceId> submit(SequenceRequest request, std::shared_ptr<TokenSink> sink);
  void cancel(SequenceId id);
  Scheduler::Counts counts() const;
  const Executor& executor() const;
  // Runs the executor directly, between steps, on the device's thread (logits, bench); blocks the caller.
  Result<std::vector<SequenceResult>> run_exclusive(std::span<const SequenceStep> batch);

 private:
  struct State;
  std::shared_ptr<State> state_;
};

// Embeddings on one loaded encoder. All methods are thread-safe.
class EmbeddingLane {
 public:
  EmbeddingLane(DeviceLoop& loop, std::unique_ptr<Encoder> encoder, int64_t waiting_texts_max,
                double share);
  ~EmbeddingLane();

  struct Request {
    std::vector<std::vector<TokenId>> texts;
    std::vector<std::vector<int32_t>> token_types;  // empty, or one list a text
    EncodeOutput output = EncodeOutput::pooled;
  };
  // Called once on the device's thread: one vector a text ([hidden], or [tokens, hidden]).
  using Done = std::function<void(Result<std::vector<std::vector<float>>>)>;
  // overloaded where the queue is full. Texts of many requests share a batch, sorted by length.
  Result<uint64_t> submit(Request request, Done done);
  void cancel(uint64_t id);

  struct Counts {
    int64_t waiting_texts = 0;
    int64_t texts = 0, tokens = 0;  // since the start
  };
  Counts counts() const;
  const Encoder& encoder() const;

 private:
  struct State;
  std::shared_ptr<State> state_;
};

}  // namespace impetus

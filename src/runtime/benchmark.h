// Measures a loaded model: what `bench`, `plan --verify` and POST /api/models/benchmark report.
//
// A benchmark is run step by step, so that it can stand in a device's loop beside other work: each
// step is timed by itself, and what runs between two steps does not count. Nor does a short round
// at the beginning: kernels are compiled, pages come, clocks rise.
#pragma once

#include <memory>
#include <optional>

#include "runtime/model.h"

namespace impetus {

struct BenchmarkOptions {
  int64_t prompt = 512;   // tokens; for encoders the tokens of a text, at most the model's
  int64_t generate = 64;  // tokens after the prompt
  int repeat = 3;
  double seconds = 0;     // more rounds, 50 at most, until they have taken as long
  float temperature = 0;  // that tokens are drawn at; 0: the likeliest
};

struct Spread {
  double median = 0, least = 0, most = 0;
};

struct BenchmarkResult {
  // Decoders; absent where no such tokens were asked for.
  std::optional<Spread> prefill_tokens_per_second;
  std::optional<Spread> decode_tokens_per_second;
  double prefill_gigaops_per_second = 0;
  double decode_gigabytes_per_second = 0;
  // Encoders: a full batch, and one text alone.
  std::optional<Spread> tokens_per_second;
  std::optional<Spread> latency_ms;
  double gigaops_per_second = 0;
  int64_t tokens_per_text = 0, texts_per_batch = 0;
  Devices devices;  // who ran it, by their own word
};

class Benchmark {
 public:
  // Borrows the model, whose executor or encoder it drives, from block 0 on. context_length where
  // prompt and answer exceed the model's context.
  static Result<Benchmark> create(Model& model, const BenchmarkOptions& options);
  ~Benchmark();
  Benchmark(Benchmark&&) noexcept;

  bool done() const;
  int rounds_done() const;
  // Runs and times one step of the executor. REQUIRES: not done().
  Result<void> step();
  BenchmarkResult result() const;

 private:
  struct State;
  explicit Benchmark(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

// All of it at once. Nothing else may run on the model's backend meanwhile.
Result<BenchmarkResult> benchmark(Model& model, const BenchmarkOptions& options);

}  // namespace impetus

// Measures a loaded model: what `bench`, `plan --verify` and POST /api/models/benchmark report.
// The model's executor or encoder is driven directly: nothing else may run on it meanwhile.
#pragma once

#include <functional>
#include <optional>

#include "runtime/model.h"

namespace impetus {

struct BenchmarkOptions {
  int64_t prompt = 512;   // tokens; for encoders the tokens of a text, at most the model's
  int64_t generate = 64;  // tokens after the prompt
  int repeat = 3;
  std::function<void(int done)> progress;  // after each round
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
};

// context_length where prompt and answer exceed the model's context.
Result<BenchmarkResult> benchmark(Model& model, const BenchmarkOptions& options);

}  // namespace impetus

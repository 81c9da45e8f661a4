// The steps that are timed while a backend is measured (measure.h).
#pragma once

#include <functional>

#include "backend/executor.h"

namespace impetus {

// Tokens of one sequence in a step of many rows: little attention.
inline constexpr int64_t kBlock = 16;

// What is timed: `step`, `stretch` times in one go, and untimed after each of these `between`.
// Borrows its executor or encoder; one at a time of an executor, whose blocks it uses from 0 on.
struct Run {
  std::function<Result<void>()> step, between;
  int stretch = 1;
};

// Runs `sequences` sequences of `length` tokens each from position `past` on.
Result<void> run_step(Executor& executor, int64_t sequences, int64_t length, int64_t past,
                      StepOutput output);

// `rows` sequences, a token each, one step after another.
Run decode_run(Executor& executor, int64_t rows, bool enqueues);
// rows / 16 sequences of 16.
Run chunk_run(Executor& executor, int64_t rows, StepOutput output);
// `rows` tokens of one sequence, from position `past` on.
Run at_run(Executor& executor, int64_t rows, int64_t past);
// A prompt of `rows` tokens, with the token after it.
Run prompt_run(Executor& executor, int64_t rows);
Run encode_run(Encoder& encoder, int64_t texts, int64_t length);

}  // namespace impetus

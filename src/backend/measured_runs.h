// The steps that are timed while a backend is measured (measure.h).
#pragma once

#include <functional>

#include "backend/executor.h"
#include "backend/profile.h"

namespace impetus {

// Tokens of one sequence in a step of many rows: little attention.
inline constexpr int64_t kBlock = 16;
// Positions before those of a decode step that is enqueued, as behind a short prompt, and such
// positions.
inline constexpr int64_t kDecodePast = 64, kDecodePositions = 64;
static_assert(kLayerDecodeKeys == kDecodePast + kDecodePositions / 2);

// What is timed: `step`, `stretch` times in one go.
// Borrows its executor or encoder; one at a time of an executor, whose blocks it uses from 0 on.
struct Run {
  std::function<Result<void>()> step;
  int stretch = 1;
};

// Runs `sequences` sequences of `length` tokens each from position `past` on.
Result<void> run_step(Executor& executor, int64_t sequences, int64_t length, int64_t past,
                      StepOutput output);

// `rows` sequences, a token each, one step after another. With few positions, or, where steps are
// enqueued, with kDecodePositions from position `past` on, and these again. REQUIRES blocks for
// them; with fewer it begins earlier.
Run decode_run(Executor& executor, int64_t rows, bool enqueues, int64_t past = kDecodePast);
// rows / 16 sequences of 16.
Run chunk_run(Executor& executor, int64_t rows, StepOutput output);
// `rows` tokens of one sequence, from position `past` on.
Run at_run(Executor& executor, int64_t rows, int64_t past);
// A prompt of `rows` tokens, with the token after it.
Run prompt_run(Executor& executor, int64_t rows);
Run encode_run(Encoder& encoder, int64_t texts, int64_t length);

}  // namespace impetus

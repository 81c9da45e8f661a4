// From logits to a token: the reference sampler, which every device must equal.
//
// Definition. With l the logits after bias, penalties and mask, and
//   w(i) = exp((l(i) - max l) / temperature):
// top-k keeps the k largest l; top-p keeps, of those in falling order of l, the shortest beginning
// whose sum of w reaches top_p times the sum of all that top-k kept; min-p keeps w(i) >= min_p; the
// draw walks what is left in the order of ids until the running sum of w exceeds uniform * sum of
// w. Order of the stages: logit bias, repetition / presence / frequency penalties, (mask),
// temperature, top-k, top-p, min-p, draw.
//
// Sums are in double. Of what top-k or top-p kept: one after the other. Of all ids: as many
// processors can at once, each run of 256 ids in 32 lanes (id i in lane i % 32, one after the
// other), whose sums are added by halves (lane j and j + 16, then j + 8, 4, 2, 1), and the runs'
// sums one after the other; what min-p drops counts 0. A draw from all ids finds its run by the
// runs' sums and goes on from there id by id; where rounding keeps it from its target, it takes the
// last id that weighs anything, of that run or of all.
//
// Randomness is counter-based: the draw for a token depends only on (seed, position of the token
// drawn), never on batch, thread or time. Equal logits and parameters give the equal token on every
// machine: ties go to the smaller id.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "base/token_id.h"

namespace impetus {

struct SamplingParams {
  float temperature = 1.0f;  // 0: greedy
  int32_t top_k = 0;         // 0: all
  float top_p = 1.0f;
  float min_p = 0.0f;
  float repetition_penalty = 1.0f;  // over prompt and answer: l > 0 ? l / p : l * p
  float presence_penalty = 0.0f;    // over the answer, as OpenAI defines both
  float frequency_penalty = 0.0f;
  std::vector<std::pair<TokenId, float>> logit_bias;
  uint64_t seed = 0;
  int32_t top_logprobs = -1;  // -1: no log probabilities; n: the token's and the n likeliest
};

struct TokenLogprob {
  TokenId id = 0;
  float logprob = 0;
};

struct SampledToken {
  TokenId id = 0;
  float logprob = 0;  // under softmax of the raw logits (temperature 1), as OpenAI reports
  std::vector<TokenLogprob> top;  // likeliest first; only where asked for
};

// Forbids tokens (grammars, tool calls). Called on the device's host thread, once a sampled row.
class LogitMask {
 public:
  virtual ~LogitMask() = default;
  virtual void apply(std::span<float> logits) = 0;  // sets forbidden ones to -infinity
};

struct SamplingContext {
  std::span<const TokenId> prompt;
  std::span<const TokenId> answer;
  int64_t position = 0;  // of the token to be drawn, in the whole sequence
  LogitMask* mask = nullptr;
};

// Thread-safe. `logits` is scratch: it is changed. `scratch` is reused across calls to avoid
// allocating. REQUIRES: logits not empty and without NaN (the executor checks and reports NaN as an
// error).
struct SamplerScratch {
  std::vector<std::pair<float, TokenId>> candidates;
  std::vector<std::pair<double, TokenId>> weights;
  std::vector<double> values, runs;
  std::vector<int32_t> counts;  // all zero between calls
};
SampledToken sample(std::span<float> logits, const SamplingParams& params,
                    const SamplingContext& context, SamplerScratch& scratch);

// One block of Philox4x32-10: four random words from a counter and a key.
std::array<uint32_t, 4> philox4x32(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key);

inline constexpr int kSumRun = 256, kSumLanes = 32;  // of sums over all ids

// exp(x) for x <= 0, the same bits on every machine, which the C library does not promise; relative
// error below 1e-15, 0 below -700.
double portable_exp(double x);

// Uniform in [0, 1) with 53 bits from (seed, counter): Philox4x32-10 (Salmon et al., SC 2011).
double uniform(uint64_t seed, uint64_t counter);

}  // namespace impetus

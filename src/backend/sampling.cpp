#include "backend/sampling.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

namespace impetus {
namespace {

using Candidate = std::pair<float, TokenId>;
using Weighted = std::pair<double, TokenId>;

// Reduction by multiples of ln 2 and a Taylor polynomial, in operations that IEEE 754 fixes.
// Without branches, so that loops over it are vectorised.
inline double exp_of(double x) {
  constexpr double kLog2E = 1.4426950408889634;
  constexpr double kLn2High = 6.93147180369123816490e-01;  // 32 significant bits
  constexpr double kLn2Low = 1.90821492927058770002e-10;
  constexpr double kShift = 6755399441055744.0;  // 1.5 * 2^52: adding it rounds to an integer
  const double n = (x * kLog2E + kShift) - kShift;
  const double r = (x - n * kLn2High) - n * kLn2Low;  // |r| <= 0.35
  double p = 1.0 / 6227020800.0;
  constexpr double kInverseFactorials[] = {1.0 / 479001600,
                                           1.0 / 39916800,
                                           1.0 / 3628800,
                                           1.0 / 362880,
                                           1.0 / 40320,
                                           1.0 / 5040,
                                           1.0 / 720,
                                           1.0 / 120,
                                           1.0 / 24,
                                           1.0 / 6,
                                           0.5,
                                           1.0,
                                           1.0};
  for (const double c : kInverseFactorials) p = p * r + c;
  // n stands in the lowest bits of the shifted sum, in two's complement.
  const uint64_t power = std::bit_cast<uint64_t>(x * kLog2E + kShift) + 1023;
  const double result = p * std::bit_cast<double>(power << 52);
  return x > -700 ? result : 0;
}

// Falling logit; of equal ones the smaller id first.
bool likelier(const Candidate& a, const Candidate& b) {
  return a.first > b.first || (a.first == b.first && a.second < b.second);
}

TokenId argmax(std::span<const float> logits) {
  // Eight maxima side by side, so that the compiler may keep them in vectors.
  constexpr size_t kLanes = 8;
  float lanes[kLanes];
  std::fill(lanes, lanes + kLanes, logits[0]);
  size_t i = 0;
  for (; i + kLanes <= logits.size(); i += kLanes) {
    for (size_t j = 0; j < kLanes; ++j)
      lanes[j] = lanes[j] < logits[i + j] ? logits[i + j] : lanes[j];
  }
  float best = *std::max_element(lanes, lanes + kLanes);
  for (; i < logits.size(); ++i) best = std::max(best, logits[i]);
  return static_cast<TokenId>(std::find(logits.begin(), logits.end(), best) - logits.begin());
}

// The k likeliest in no particular order. One pass: a candidate must beat the k-th best seen so
// far.
void likeliest(std::span<const float> logits, size_t k, std::vector<Candidate>& out) {
  out.clear();
  const size_t full = std::max<size_t>(2 * k, 256);
  float floor = -std::numeric_limits<float>::infinity();
  bool have_k = false;
  const auto shrink = [&] {
    std::nth_element(out.begin(), out.begin() + static_cast<std::ptrdiff_t>(k - 1), out.end(),
                     likelier);
    out.resize(k);
    floor = out.back().first;
    have_k = true;
  };
  for (size_t i = 0; i < logits.size(); ++i) {
    // An equal logit with a later id ranks behind the k that are there.
    if (have_k && !(logits[i] > floor)) continue;
    out.emplace_back(logits[i], static_cast<TokenId>(i));
    if (out.size() == full) shrink();
  }
  if (out.size() > k) shrink();
}

void apply_bias(std::span<float> logits, const SamplingParams& params) {
  for (const auto& [id, bias] : params.logit_bias) {
    if (id >= 0 && static_cast<size_t>(id) < logits.size()) logits[static_cast<size_t>(id)] += bias;
  }
}

void apply_penalties(std::span<float> logits, const SamplingParams& params,
                     const SamplingContext& context, std::vector<int32_t>& counts) {
  const bool repetition = params.repetition_penalty != 1.0f;
  const bool frequency = params.presence_penalty != 0.0f || params.frequency_penalty != 0.0f;
  if (!repetition && !frequency) return;
  counts.resize(std::max(counts.size(), logits.size()), 0);
  const auto known = [&](TokenId id) { return id >= 0 && static_cast<size_t>(id) < logits.size(); };

  if (repetition) {
    const auto once = [&](TokenId id) {
      if (!known(id) || counts[static_cast<size_t>(id)]++ != 0) return;
      float& logit = logits[static_cast<size_t>(id)];
      logit = logit > 0 ? logit / params.repetition_penalty : logit * params.repetition_penalty;
    };
    for (const TokenId id : context.prompt) once(id);
    for (const TokenId id : context.answer) once(id);
    for (const auto& list : {context.prompt, context.answer}) {
      for (const TokenId id : list) {
        if (known(id)) counts[static_cast<size_t>(id)] = 0;
      }
    }
  }
  if (frequency) {
    for (const TokenId id : context.answer) {
      if (known(id)) ++counts[static_cast<size_t>(id)];
    }
    for (const TokenId id : context.answer) {
      if (!known(id) || counts[static_cast<size_t>(id)] == 0) continue;
      const auto times = static_cast<float>(counts[static_cast<size_t>(id)]);
      logits[static_cast<size_t>(id)] -= params.presence_penalty + times * params.frequency_penalty;
      counts[static_cast<size_t>(id)] = 0;
    }
  }
}

// Puts `kept`, a weight and an id each, in falling order and drops what comes after their sum has
// reached `wanted`; false where it does not.
bool keep_top_p(std::vector<Weighted>& kept, double wanted, std::span<const float> logits) {
  std::sort(kept.begin(), kept.end(), [&](const Weighted& a, const Weighted& b) {
    return likelier({logits[static_cast<size_t>(a.second)], a.second},
                    {logits[static_cast<size_t>(b.second)], b.second});
  });
  double sum = 0;
  for (size_t i = 0; i < kept.size(); ++i) {
    sum += kept[i].first;
    if (sum >= wanted) {
      kept.resize(i + 1);
      return true;
    }
  }
  return false;
}

// The token drawn from weights in the order of ids.
TokenId draw(std::span<const Weighted> weights, double random) {
  double all = 0;
  for (const auto& [weight, id] : weights) all += weight;
  const double target = random * all;
  double sum = 0;
  TokenId last = weights.front().second;
  for (const auto& [weight, id] : weights) {
    sum += weight;
    if (sum > target) return id;
    if (weight > 0) last = id;
  }
  return last;
}

// Run `index` of what every id weighs.
std::span<const double> run_of(std::span<const double> weights, size_t index) {
  const size_t first = index * kSumRun;
  return weights.subspan(first, std::min<size_t>(kSumRun, weights.size() - first));
}

double sum_of_run(std::span<const double> run) {
  std::array<double, kSumLanes> lanes{};
  size_t i = 0;
  for (; i + kSumLanes <= run.size(); i += kSumLanes) {
    for (size_t j = 0; j < kSumLanes; ++j) lanes[j] += run[i + j];
  }
  for (size_t j = 0; i + j < run.size(); ++j) lanes[j] += run[i + j];
  for (size_t half = kSumLanes / 2; half > 0; half /= 2) {
    for (size_t j = 0; j < half; ++j) lanes[j] += lanes[j + half];
  }
  return lanes[0];
}

// The sums of all runs, and of these.
double sum_runs(std::span<const double> weights, std::vector<double>& runs) {
  runs.resize((weights.size() + kSumRun - 1) / kSumRun);
  double all = 0;
  for (size_t r = 0; r < runs.size(); ++r) {
    runs[r] = sum_of_run(run_of(weights, r));
    all += runs[r];
  }
  return all;
}

// draw() over every id.
TokenId draw_any(std::span<const double> weights, std::span<const double> runs, double target) {
  const auto last_of = [&](size_t r) {
    const auto run = run_of(weights, r);
    size_t last = run.size() - 1;
    while (last > 0 && !(run[last] > 0)) --last;
    return static_cast<TokenId>(r * kSumRun + last);
  };
  double sum = 0;
  size_t last = 0;
  for (size_t r = 0; r < runs.size(); ++r) {
    if (runs[r] > 0) last = r;
    if (!(sum + runs[r] > target)) {
      sum += runs[r];
      continue;
    }
    const auto run = run_of(weights, r);
    for (size_t i = 0; i < run.size(); ++i) {
      sum += run[i];
      if (sum > target) return static_cast<TokenId>(r * kSumRun + i);
    }
    return last_of(r);
  }
  return last_of(last);
}

TokenId choose(std::span<float> logits, const SamplingParams& params,
               const SamplingContext& context, SamplerScratch& scratch) {
  const TokenId best = argmax(logits);
  const float peak = logits[static_cast<size_t>(best)];
  if (params.temperature <= 0 || !std::isfinite(peak) || params.top_k == 1) return best;

  const double inverse = 1.0 / static_cast<double>(params.temperature);
  const auto weight = [peak = static_cast<double>(peak), inverse](float logit) {
    return exp_of((static_cast<double>(logit) - peak) * inverse);
  };
  const double random = uniform(params.seed, static_cast<uint64_t>(context.position));
  auto& kept = scratch.weights;
  kept.clear();
  // The likeliest token weighs 1, so a min_p above 1 still leaves it.
  const double least = std::min(1.0, static_cast<double>(params.min_p));
  const auto top_p = static_cast<double>(params.top_p);
  double all = 0;
  if (params.top_k > 0 && static_cast<size_t>(params.top_k) < logits.size()) {
    likeliest(logits, static_cast<size_t>(params.top_k), scratch.candidates);
    std::sort(scratch.candidates.begin(), scratch.candidates.end(),
              [](const Candidate& a, const Candidate& b) { return a.second < b.second; });
    for (const auto& [logit, id] : scratch.candidates) {
      kept.emplace_back(weight(logit), id);
      all += kept.back().first;
    }
    if (params.top_p < 1.0f) keep_top_p(kept, top_p * all, logits);
  } else {
    auto& values = scratch.values;
    values.resize(logits.size());
    for (size_t i = 0; i < logits.size(); ++i) values[i] = weight(logits[i]);
    const bool any = params.top_p >= 1.0f;
    if (any && params.min_p > 0) {
      for (double& value : values) value = value >= least ? value : 0;
    }
    all = sum_runs(values, scratch.runs);
    if (any) return draw_any(values, scratch.runs, random * all);
    // Most of the sum lies with few tokens: only those above a falling threshold are sorted.
    for (const double threshold : {1e-2, 1e-4, 1e-7, 0.0}) {
      kept.clear();
      for (size_t i = 0; i < values.size(); ++i) {
        if (values[i] >= threshold) kept.emplace_back(values[i], static_cast<TokenId>(i));
      }
      if (keep_top_p(kept, top_p * all, logits)) break;
    }
  }
  if (params.top_p < 1.0f) {
    std::sort(kept.begin(), kept.end(),
              [](const Weighted& a, const Weighted& b) { return a.second < b.second; });
  }
  if (params.min_p > 0) {
    std::erase_if(kept, [&](const Weighted& w) { return w.first < least; });
  }
  return draw(kept, random);
}

}  // namespace

double portable_exp(double x) {
  return exp_of(x);
}

SampledToken sample(std::span<float> logits, const SamplingParams& params,
                    const SamplingContext& context, SamplerScratch& scratch) {
  SampledToken token;
  const bool logprobs = params.top_logprobs >= 0;
  double log_sum = 0;
  std::vector<float> raw;
  if (logprobs) {
    const auto peak = static_cast<double>(logits[static_cast<size_t>(argmax(logits))]);
    scratch.values.resize(logits.size());
    for (size_t i = 0; i < logits.size(); ++i) {
      scratch.values[i] = exp_of(static_cast<double>(logits[i]) - peak);
    }
    double sum = 0;
    for (const double value : scratch.values) sum += value;
    log_sum = peak + std::log(sum);
    const size_t n = std::min(logits.size(), static_cast<size_t>(params.top_logprobs));
    if (n > 0) {
      likeliest(logits, n, scratch.candidates);
      std::sort(scratch.candidates.begin(), scratch.candidates.end(), likelier);
      for (const auto& [logit, id] : scratch.candidates) {
        token.top.push_back({id, static_cast<float>(static_cast<double>(logit) - log_sum)});
      }
    }
  }
  const bool changes = !params.logit_bias.empty() || params.repetition_penalty != 1.0f ||
                       params.presence_penalty != 0.0f || params.frequency_penalty != 0.0f ||
                       context.mask != nullptr;
  if (logprobs && changes) raw.assign(logits.begin(), logits.end());
  apply_bias(logits, params);
  apply_penalties(logits, params, context, scratch.counts);
  if (context.mask != nullptr) context.mask->apply(logits);
  token.id = choose(logits, params, context, scratch);
  if (logprobs) {
    const auto chosen = static_cast<size_t>(token.id);
    const float logit = raw.empty() ? logits[chosen] : raw[chosen];
    token.logprob = static_cast<float>(static_cast<double>(logit) - log_sum);
  }
  return token;
}

std::array<uint32_t, 4> philox4x32(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = uint64_t{0xD2511F53} * counter[0];
    const uint64_t b = uint64_t{0xCD9E8D57} * counter[2];
    counter = {static_cast<uint32_t>(b >> 32) ^ counter[1] ^ key[0], static_cast<uint32_t>(b),
               static_cast<uint32_t>(a >> 32) ^ counter[3] ^ key[1], static_cast<uint32_t>(a)};
    key[0] += 0x9E3779B9;
    key[1] += 0xBB67AE85;
  }
  return counter;
}

double uniform(uint64_t seed, uint64_t counter) {
  const auto words =
      philox4x32({static_cast<uint32_t>(counter), static_cast<uint32_t>(counter >> 32), 0, 0},
                 {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)});
  const uint64_t bits = (uint64_t{words[1]} << 32 | words[0]) >> 11;
  return static_cast<double>(bits) * 0x1.0p-53;
}

}  // namespace impetus

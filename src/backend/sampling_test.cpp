#include "backend/sampling.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>
#include <set>

namespace impetus {
namespace {

// The definition in sampling.h, word by word, with full sorts.
TokenId plain_sample(std::vector<float> logits, const SamplingParams& params,
                     const SamplingContext& context) {
  for (const auto& [id, bias] : params.logit_bias) logits[static_cast<size_t>(id)] += bias;
  std::set<TokenId> seen(context.prompt.begin(), context.prompt.end());
  seen.insert(context.answer.begin(), context.answer.end());
  if (params.repetition_penalty != 1.0f) {
    for (const TokenId id : seen) {
      float& l = logits[static_cast<size_t>(id)];
      l = l > 0 ? l / params.repetition_penalty : l * params.repetition_penalty;
    }
  }
  for (size_t id = 0; id < logits.size(); ++id) {
    const auto times =
        std::count(context.answer.begin(), context.answer.end(), static_cast<TokenId>(id));
    if (times > 0) {
      logits[id] -= params.presence_penalty + static_cast<float>(times) * params.frequency_penalty;
    }
  }
  if (context.mask != nullptr) context.mask->apply(logits);

  std::vector<TokenId> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(), [&](TokenId a, TokenId b) {
    const float x = logits[static_cast<size_t>(a)], y = logits[static_cast<size_t>(b)];
    return x > y || (x == y && a < b);
  });
  if (params.temperature == 0) return order[0];
  const double peak = logits[static_cast<size_t>(order[0])];
  const auto weight = [&](TokenId id) {
    return portable_exp((static_cast<double>(logits[static_cast<size_t>(id)]) - peak) *
                        (1.0 / static_cast<double>(params.temperature)));
  };
  if (params.top_k > 0 && static_cast<size_t>(params.top_k) < order.size()) {
    order.resize(static_cast<size_t>(params.top_k));
  }
  const auto sum_by_id = [&](std::vector<TokenId> ids) {
    std::sort(ids.begin(), ids.end());
    double sum = 0;
    for (const TokenId id : ids) sum += weight(id);
    return sum;
  };
  // Over all ids: by runs of 256 in 32 lanes, added by halves; those not in `order` weigh 0.
  const auto weight_in = [&](const std::vector<TokenId>& ids) {
    std::vector<double> all(logits.size(), 0.0);
    for (const TokenId id : ids) all[static_cast<size_t>(id)] = weight(id);
    return all;
  };
  const auto run_sum = [](const std::vector<double>& all, size_t run) {
    std::vector<double> lanes(32, 0.0);
    for (size_t i = run * 256; i < std::min(all.size(), run * 256 + 256); ++i) {
      lanes[i % 32] += all[i];
    }
    for (size_t half = 16; half > 0; half /= 2) {
      for (size_t j = 0; j < half; ++j) lanes[j] += lanes[j + half];
    }
    return lanes[0];
  };
  const size_t runs = (logits.size() + 255) / 256;
  const auto sum_by_runs = [&](const std::vector<double>& all) {
    double sum = 0;
    for (size_t r = 0; r < runs; ++r) sum += run_sum(all, r);
    return sum;
  };
  const bool some = order.size() < logits.size() || params.top_p < 1;
  if (params.top_p < 1) {
    const double wanted =
        static_cast<double>(params.top_p) *
        (order.size() < logits.size() ? sum_by_id(order) : sum_by_runs(weight_in(order)));
    double sum = 0;
    for (size_t i = 0; i < order.size(); ++i) {
      sum += weight(order[i]);
      if (sum >= wanted) {
        order.resize(i + 1);
        break;
      }
    }
  }
  std::erase_if(order, [&](TokenId id) { return weight(id) < static_cast<double>(params.min_p); });
  const double random = uniform(params.seed, static_cast<uint64_t>(context.position));
  std::sort(order.begin(), order.end());
  if (!some) {
    const auto all = weight_in(order);
    const double target = random * sum_by_runs(all);
    double sum = 0;
    size_t run = 0;
    while (run < runs && !(sum + run_sum(all, run) > target)) sum += run_sum(all, run++);
    const bool found = run < runs;
    if (!found) run = static_cast<size_t>(order.back()) / 256;
    TokenId last = 0;
    for (size_t i = run * 256; i < std::min(all.size(), run * 256 + 256); ++i) {
      sum += all[i];
      if (found && sum > target) return static_cast<TokenId>(i);
      if (all[i] > 0) last = static_cast<TokenId>(i);
    }
    return last;
  }
  const double target = random * sum_by_id(order);
  double sum = 0;
  for (const TokenId id : order) {
    sum += weight(id);
    if (sum > target) return id;
  }
  return order.back();
}

TEST(Philox, KnownAnswers) {
  // Random123's kat_vectors for philox4x32, 10 rounds.
  using Words = std::array<uint32_t, 4>;
  EXPECT_EQ(philox4x32({0, 0, 0, 0}, {0, 0}),
            (Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(philox4x32({0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, {0xffffffff, 0xffffffff}),
            (Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(Philox, UniformIsUniform) {
  double sum = 0;
  for (uint64_t i = 0; i < 10000; ++i) {
    const double u = uniform(7, i);
    ASSERT_GE(u, 0);
    ASSERT_LT(u, 1);
    sum += u;
  }
  EXPECT_NEAR(sum / 10000, 0.5, 0.015);
  EXPECT_NE(uniform(1, 2), uniform(2, 1));
}

TEST(PortableExp, AgreesWithTheLibrary) {
  EXPECT_EQ(portable_exp(0), 1.0);
  for (double x = -699.9; x < 0; x += 0.0137) {
    EXPECT_NEAR(portable_exp(x) / std::exp(x), 1.0, 1e-14) << x;
  }
  EXPECT_EQ(portable_exp(-701), 0.0);
  EXPECT_EQ(portable_exp(-std::numeric_limits<double>::infinity()), 0.0);
}

struct ForbidOdd : LogitMask {
  void apply(std::span<float> logits) override {
    for (size_t i = 1; i < logits.size(); i += 2) {
      logits[i] = -std::numeric_limits<float>::infinity();
    }
  }
};

TEST(Sample, EqualsThePlainDefinition) {
  std::mt19937 random(1234);
  SamplerScratch scratch;
  ForbidOdd mask;
  const auto pick = [&](auto list) { return list[random() % list.size()]; };
  for (int round = 0; round < 4000; ++round) {
    const size_t vocab = pick(std::vector<size_t>{1, 2, 7, 100, 1000, 5000});
    std::normal_distribution<float> normal(0, pick(std::vector<float>{0.1f, 1.0f, 4.0f, 12.0f}));
    std::vector<float> logits(vocab);
    const bool ties = random() % 3 == 0;  // many equal logits
    for (float& l : logits) l = ties ? std::round(normal(random)) : normal(random);
    SamplingParams params;
    params.temperature = pick(std::vector<float>{0.0f, 0.2f, 1.0f, 1.7f});
    params.top_k = pick(std::vector<int32_t>{0, 0, 1, 2, 40, 300, 4999});
    params.top_p = pick(std::vector<float>{1.0f, 0.95f, 0.5f, 0.999f, 0.01f});
    params.min_p = pick(std::vector<float>{0.0f, 0.0f, 0.05f, 0.3f});
    params.repetition_penalty = pick(std::vector<float>{1.0f, 1.3f});
    params.presence_penalty = pick(std::vector<float>{0.0f, 0.5f});
    params.frequency_penalty = pick(std::vector<float>{0.0f, -0.25f});
    params.seed = random();
    if (random() % 4 == 0) params.logit_bias = {{static_cast<TokenId>(random() % vocab), 3.0f}};
    std::vector<TokenId> prompt(random() % 20), answer(random() % 20);
    for (TokenId& id : prompt) id = static_cast<TokenId>(random() % vocab);
    for (TokenId& id : answer) id = static_cast<TokenId>(random() % vocab);
    SamplingContext context{prompt, answer, static_cast<int64_t>(random() % 1000), nullptr};
    if (random() % 5 == 0) context.mask = &mask;
    const TokenId wanted = plain_sample(logits, params, context);
    ASSERT_EQ(sample(logits, params, context, scratch).id, wanted) << "round " << round;
    ASSERT_TRUE(
        std::all_of(scratch.counts.begin(), scratch.counts.end(), [](int c) { return c == 0; }));
  }
}

TEST(Sample, DrawsFollowTheProbabilities) {
  const std::vector<float> logits = {std::log(0.5f), std::log(0.3f), std::log(0.2f)};
  SamplerScratch scratch;
  SamplingParams params;
  params.seed = 99;
  int counts[3] = {};
  for (int64_t position = 0; position < 20000; ++position) {
    auto copy = logits;
    ++counts[sample(copy, params, {{}, {}, position, nullptr}, scratch).id];
  }
  EXPECT_NEAR(counts[0] / 20000.0, 0.5, 0.015);
  EXPECT_NEAR(counts[1] / 20000.0, 0.3, 0.015);
  EXPECT_NEAR(counts[2] / 20000.0, 0.2, 0.015);
}

TEST(Sample, TiesGoToTheSmallerId) {
  SamplerScratch scratch;
  SamplingParams params;
  params.temperature = 0;
  std::vector<float> logits(1000, 0.0f);
  logits[37] = logits[500] = logits[999] = 2.0f;
  EXPECT_EQ(sample(logits, params, {}, scratch).id, 37);
}

TEST(Sample, LogprobsAreOfTheRawLogits) {
  SamplerScratch scratch;
  SamplingParams params;
  params.temperature = 0;
  params.top_logprobs = 2;
  params.logit_bias = {{2, 100.0f}};
  std::vector<float> logits = {1.0f, 2.0f, 0.0f};
  const double sum = std::exp(1.0) + std::exp(2.0) + 1.0;
  const SampledToken token = sample(logits, params, {}, scratch);
  EXPECT_EQ(token.id, 2);
  EXPECT_NEAR(token.logprob, std::log(1.0 / sum), 1e-6);
  ASSERT_EQ(token.top.size(), 2u);
  EXPECT_EQ(token.top[0].id, 1);
  EXPECT_NEAR(token.top[0].logprob, std::log(std::exp(2.0) / sum), 1e-6);
  EXPECT_EQ(token.top[1].id, 0);
}

TEST(Sample, IdsOutsideTheVocabularyAreIgnored) {
  SamplerScratch scratch;
  SamplingParams params;
  params.temperature = 0;
  params.repetition_penalty = 2.0f;
  params.frequency_penalty = 1.0f;
  params.logit_bias = {{-1, 9.0f}, {3, 9.0f}};
  const std::vector<TokenId> history = {-5, 3, 1000000};
  std::vector<float> logits = {0.0f, 1.0f, 0.0f};
  EXPECT_EQ(sample(logits, params, {history, history, 0, nullptr}, scratch).id, 1);
}

TEST(Sample, AllForbiddenStillAnswers) {
  SamplerScratch scratch;
  SamplingParams params;
  std::vector<float> logits(5, -std::numeric_limits<float>::infinity());
  EXPECT_EQ(sample(logits, params, {}, scratch).id, 0);
}

}  // namespace
}  // namespace impetus

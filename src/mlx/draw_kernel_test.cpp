// Tokens drawn on the device, run on the host: against the reference sampler on seeded random
// logits, and in whole models.
#include "mlx/row_kernels.h"

#ifdef __linux__  // contexts that run by turns
#include "mlx/decoder.h"
#include "mlx/rows_on_host.h"
#include "mlx/test_support.h"
#include "tests/conformance/subject.h"

namespace impetus::mlx_backend {
namespace {

using conformance::decoder_spec;
using on_host::HostRows;

template <typename T, size_t N>
T pick(std::mt19937_64& random, const T (&list)[N]) {
  return list[random() % N];
}

SamplingParams random_params(std::mt19937_64& random) {
  SamplingParams params;
  params.temperature = pick(random, {0.0f, 1e-30f, 0.2f, 0.8f, 1.0f, 1.7f, 40.0f});
  params.top_k = pick(random, {0, 0, 1, 2, 40, 300, 2048});
  params.top_p = pick(random, {1.0f, 1.0f, 0.95f, 0.5f, 0.999f, 0.01f});
  params.min_p = pick(random, {0.0f, 0.0f, 0.05f, 0.3f, 2.0f});
  params.seed = random();
  return params;
}

std::vector<float> random_logits(std::mt19937_64& random, int vocab) {
  std::normal_distribution<float> normal(0, pick(random, {0.01f, 1.0f, 4.0f, 12.0f, 1e4f}));
  std::vector<float> logits(static_cast<size_t>(vocab));
  const bool ties = random() % 3 == 0;  // many equal logits, zeros of both signs
  for (float& l : logits) l = ties ? std::round(normal(random)) : normal(random);
  return logits;
}

// How many of the likeliest there is room for: as deep as fit, in whole steps of e.
int64_t candidates_of(const std::vector<float>& logits, const SamplingParams& params) {
  const float most = std::ranges::max(logits);
  std::array<int64_t, 32> depths{};
  for (const float l : logits) {
    const double depth = static_cast<double>(most - l) / static_cast<double>(params.temperature);
    ++depths[static_cast<size_t>(std::min(depth, 31.0))];
  }
  int64_t fit = 0;
  for (const int64_t ids : depths) {
    if (fit + ids > Draw::kMost) break;
    fit += ids;
  }
  return fit;
}

// How many of the likeliest top-k or top-p keep.
int64_t wanted_of(std::vector<float> logits, const SamplingParams& params) {
  if (params.top_k > 0) return params.top_k;
  std::ranges::sort(logits, std::greater());
  const auto weight = [&](float l) {
    return std::exp(static_cast<double>(l - logits[0]) / static_cast<double>(params.temperature));
  };
  double all = 0, sum = 0;
  for (const float l : logits) all += weight(l);
  int64_t kept = 0;
  while (kept < std::ssize(logits) && sum < static_cast<double>(params.top_p) * all) {
    sum += weight(logits[static_cast<size_t>(kept++)]);
  }
  return kept;
}

std::unique_ptr<RowKernels> kernels_on_host() {
  return HostRows::make({4, 2, 16, false, false, mx::float32, mx::float32}, decoder_spec("llama"));
}

int32_t likeliest_of(const std::vector<float>& logits) {
  return static_cast<int32_t>(std::ranges::max_element(logits) - logits.begin());
}

// Rows of equal length, and the id that each takes for its likeliest.
struct Rows {
  std::vector<std::vector<float>> logits;
  std::vector<SamplingParams> params;
  std::vector<int32_t> likeliest;
};
// What one call makes of them: what the host reads, and what the next step goes on from.
struct Drawn {
  std::vector<int32_t> tokens, next;
};
Drawn drawn(RowKernels& kernels, const Rows& rows, int64_t position) {
  const auto count = static_cast<int>(rows.logits.size());
  const auto vocab = static_cast<int>(rows.logits[0].size());
  std::vector<float> all;
  std::vector<int32_t> words;
  for (size_t r = 0; r < rows.logits.size(); ++r) {
    SequenceStep step;
    step.output = StepOutput::sample;
    step.sampling = &rows.params[r];
    step.context.position = position;
    const auto row = draw_of(step, vocab)->words();
    words.insert(words.end(), row.begin(), row.end());
    all.insert(all.end(), rows.logits[r].begin(), rows.logits[r].end());
  }
  HostPages pages(true, true);
  const mx::array out = *pages.slot({count});
  mx::array next = kernels.draw(mx::array(all.begin(), {count, vocab}, mx::float32),
                                pages.put(rows.likeliest, {count}),
                                pages.put(words, {count, Draw::kWords}), out);
  next.eval();
  return {{out.data<int32_t>(), out.data<int32_t>() + count},
          {next.data<int32_t>(), next.data<int32_t>() + count}};
}

TEST(DrawKernel, AsTheReferenceSampler) {
  std::mt19937_64 random(51);
  const Turn turn(true);
  // One for all calls: what a draw leaves in its memory is what the next one finds there.
  const auto kernels = kernels_on_host();
  SamplerScratch scratch;
  int by_host = 0, by_device = 0;
  for (int round = 0; round < 120; ++round) {
    const int vocab = pick(random, {1, 2, 31, 256, 257, 1000, 2048, 2049, 5000, 33000});
    Rows rows;
    for (size_t count = 1 + random() % 4; count > 0; --count) {
      rows.logits.push_back(random_logits(random, vocab));
      rows.params.push_back(random_params(random));
      rows.likeliest.push_back(likeliest_of(rows.logits.back()));
    }
    const Drawn made = drawn(*kernels, rows, round);
    for (size_t r = 0; r < rows.logits.size(); ++r) {
      auto& logits = rows.logits[r];
      const SamplingParams& how = rows.params[r];
      if (made.tokens[r] == kNotDrawn) {
        ++by_host;
        EXPECT_GE(wanted_of(logits, how), candidates_of(logits, how));
        EXPECT_EQ(made.next[r], rows.likeliest[r]);
        continue;
      }
      ++by_device;
      const SampledToken wanted = sample(logits, how, {{}, {}, round, nullptr}, scratch);
      ASSERT_EQ(made.tokens[r], wanted.id) << "round " << round << " row " << r << " of " << vocab;
      EXPECT_EQ(made.next[r], wanted.id);
    }
  }
  EXPECT_GT(by_device, 200);
  EXPECT_GT(by_host, 5);
}

// To the bit: a sum in another order seldom draws another token.
TEST(DrawKernel, AddsRunsInTheOrderOfTheReference) {
  std::mt19937_64 random(54);
  for (const int vocab : {1, 255, 256, 700, 5000}) {
    for (const double least : {0.0, 0.1}) {
      const auto logits = random_logits(random, vocab);
      const auto best = static_cast<int>(std::ranges::max_element(logits) - logits.begin());
      const Draw how{.inverse = 0.7, .random = 0.5, .least = least};
      const auto words = how.words();
      std::vector<unsigned> counts(kDrawCounts);
      std::vector<double> sums(static_cast<size_t>(draw_runs(vocab)));
      int out = 0, next = 0;
      on_host::launch({static_cast<unsigned>(draw_blocks(vocab)), 1, 1}, kDrawThreads, [&] {
        impetus::draw(logits.data(), &best, words.data(), vocab, counts.data(), sums.data(), &out,
                      &next);
      });
      for (size_t r = 0; r < sums.size(); ++r) {
        double lanes[32] = {};
        for (size_t i = r * 256; i < std::min(logits.size(), r * 256 + 256); ++i) {
          const double x = static_cast<double>(logits[i]) -
                           static_cast<double>(logits[static_cast<size_t>(best)]);
          const double weight = portable_exp(x * how.inverse);
          lanes[i % 32] += weight >= least ? weight : 0;
        }
        for (size_t half = 16; half > 0; half /= 2) {
          for (size_t j = 0; j < half; ++j) lanes[j] += lanes[j + half];
        }
        ASSERT_EQ(sums[r], lanes[0]) << "run " << r << " of " << vocab;
      }
      EXPECT_EQ(counts, std::vector<unsigned>(kDrawCounts));
    }
  }
}

// Falling weights, the n-th likeliest's n^-1.5: what top-k and top-p keep of these fits.
TEST(DrawKernel, LeavesNothingOfFallingWeightsToTheHost) {
  std::mt19937_64 random(52);
  const Turn turn(true);
  const auto kernels = kernels_on_host();
  SamplerScratch scratch;
  constexpr int kVocab = 32000;
  std::vector<float> logits(kVocab);
  for (int i = 0; i < kVocab; ++i) {
    logits[static_cast<size_t>(i)] = -1.5f * std::log(1.0f + static_cast<float>(i));
  }
  std::ranges::shuffle(logits, random);
  for (const auto& [temperature, top_k, top_p] :
       {std::tuple{1.0f, 0, 1.0f}, {0.8f, 40, 0.9f}, {0.6f, 0, 0.9f}, {1.0f, 0, 0.95f}}) {
    SamplingParams params;
    params.temperature = temperature;
    params.top_k = top_k;
    params.top_p = top_p;
    const Drawn made = drawn(*kernels, {{logits}, {params}, {likeliest_of(logits)}}, 0);
    auto copy = logits;
    EXPECT_EQ(made.tokens[0], sample(copy, params, {{}, {}, 0, nullptr}, scratch).id);
  }
}

// Answers of `params`, a sequence each, and how they came about.
struct Answers {
  std::vector<std::vector<TokenId>> tokens;
  DecoderCounters counters;
};

Answers answers_of(const conformance::RandomModel& model, const MlxOptions& options, DType kv,
                   const std::vector<SamplingParams>& params, size_t total) {
  const auto loaded = conformance::load_decoder_on(std::move(*make_mlx_backend(options)),
                                                   model.spec, *model.weights, {.kv = kv});
  Answers made;
  std::vector<std::vector<BlockId>> blocks;
  for (size_t s = 0; s < params.size(); ++s) {
    made.tokens.push_back({static_cast<TokenId>(5 + s), 6, 7});
    blocks.push_back(conformance::blocks_from(static_cast<BlockId>(s * 8), 100));
  }
  for (size_t done = 0; made.tokens[0].size() < total;) {
    std::vector<SequenceStep> batch;
    for (size_t s = 0; s < params.size(); ++s) {
      const auto& mine = made.tokens[s];
      batch.push_back({std::span(mine).subspan(done),
                       static_cast<int64_t>(done),
                       blocks[s],
                       StepOutput::sample,
                       &params[s],
                       {std::span(mine).first(3), std::span(mine).subspan(3),
                        static_cast<int64_t>(mine.size()), nullptr},
                       done == 0 ? StepPhase::prefill : StepPhase::decode});
    }
    auto results = loaded.model->execute(batch);
    EXPECT_TRUE(results.ok()) << results.error().message;
    if (!results.ok()) break;
    done = made.tokens[0].size();
    for (size_t s = 0; s < params.size(); ++s) {
      made.tokens[s].push_back((*results)[s].token->id);
    }
  }
  made.counters = counters_of(*loaded.model);
  return made;
}

MlxOptions by_the_host(MlxOptions options) {
  options.row_kernels = [](auto&&...) { return nullptr; };
  options.run_ahead = MlxOptions::RunAhead::off;
  return options;
}

TEST(DrawKernel, StepsGoOnFromDrawnTokens) {
  SamplingParams warm, likeliest, nucleus, penalty;
  warm.seed = 7;
  likeliest.temperature = 0;
  nucleus.top_p = 0.9f;
  nucleus.top_k = 20;
  nucleus.seed = 8;
  penalty.repetition_penalty = 1.2f;
  struct Case {
    std::vector<SamplingParams> params;
    bool foreseen;  // whether every step goes on before the host knows its tokens
    int64_t drawn;  // of the 40 answers' tokens of each sequence
  };
  const Case cases[] = {
      {{warm}, true, 40}, {{nucleus, likeliest, warm}, true, 80}, {{warm, penalty}, false, 40}};
  for (const char* family : {"llama", "qwen3"}) {
    const auto model = testing::RandomModelBuilder(decoder_spec(family), 3, DType::f32).decoder();
    for (const Case& one : cases) {
      MlxOptions options = with_host_kernels();
      const Answers made = answers_of(model, options, DType::f32, one.params, 43);
      const Answers wanted = answers_of(model, by_the_host(options), DType::f32, one.params, 43);
      EXPECT_EQ(made.tokens, wanted.tokens);
      EXPECT_EQ(made.counters.drawn, one.drawn);
      EXPECT_EQ(wanted.counters.drawn, 0);
      EXPECT_GE(made.counters.ahead_used, 38);
      EXPECT_EQ(made.counters.ahead_dropped, 0);
    }
  }
}

TEST(DrawKernel, StepsInOneLaunchDrawToo) {
  auto spec = decoder_spec("llama");
  spec.head_dim = 16;
  const auto model = testing::RandomModelBuilder(spec, 3, DType::f16).decoder();
  SamplingParams warm;
  warm.seed = 3;
  const MlxOptions options = with_host_kernels();
  const Answers made = answers_of(model, options, DType::f16, {warm, warm}, 12);
  MlxOptions other = options;
  other.run_ahead = MlxOptions::RunAhead::off;
  const Answers wanted = answers_of(model, other, DType::f16, {warm, warm}, 12);
  EXPECT_EQ(made.tokens, wanted.tokens);
  EXPECT_GE(made.counters.whole_steps, 8);
  EXPECT_EQ(made.counters.drawn, 18);
  EXPECT_GE(made.counters.ahead_used, 7);
}

// So many likely tokens that the host must draw: the step that ran ahead went on from another
// token.
TEST(DrawKernel, WhatTheHostDrawsIsGoneOnFrom) {
  auto spec = decoder_spec("llama");
  spec.vocab = 3000;
  const auto model = testing::RandomModelBuilder(spec, 4, DType::f32).decoder();
  SamplingParams flat;
  flat.temperature = 50.0f;
  flat.top_p = 0.95f;
  flat.seed = 5;
  const MlxOptions options = with_host_kernels();
  const Answers made = answers_of(model, options, DType::f32, {flat}, 20);
  EXPECT_EQ(made.tokens, answers_of(model, by_the_host(options), DType::f32, {flat}, 20).tokens);
  EXPECT_EQ(made.counters.drawn, 0);
  EXPECT_GE(made.counters.ahead_dropped, 1);
}

// What is not finite, beside rows that are, and an id that is not the likeliest: an answer of no
// sense, and nobody else's memory.
TEST(DrawKernel, RowsThatAreNotFiniteDisturbNobody) {
  std::mt19937_64 random(53);
  const Turn turn(true);
  const auto kernels = kernels_on_host();
  SamplerScratch scratch;
  constexpr int kVocab = 5000;
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  for (int round = 0; round < 12; ++round) {
    Rows rows;
    for (int r = 0; r < 6; ++r) {
      rows.logits.push_back(random_logits(random, kVocab));
      rows.params.push_back(random_params(random));
      rows.likeliest.push_back(r % 2 == 0 ? 0 : likeliest_of(rows.logits.back()));
      // Every other row is wrong, the last of these in its likeliest id alone.
      auto& logits = rows.logits.back();
      if (r == 0) std::ranges::fill(logits, std::numeric_limits<float>::quiet_NaN());
      if (r == 2) logits[static_cast<size_t>(random() % kVocab)] = kInfinity;
    }
    const Drawn made = drawn(*kernels, rows, 0);
    for (size_t r = 0; r < rows.logits.size(); ++r) {
      const int32_t token = made.tokens[r], next = made.next[r];
      EXPECT_TRUE(token == kNotDrawn || (token >= 0 && token < kVocab)) << token;
      EXPECT_TRUE(next >= 0 && next < kVocab) << next;
      if (r % 2 == 0 || token == kNotDrawn) continue;
      EXPECT_EQ(token, sample(rows.logits[r], rows.params[r], {{}, {}, 0, nullptr}, scratch).id);
    }
  }
}

TEST(DrawKernel, IsLeftWhereItIsWrong) {
  const auto model = testing::RandomModelBuilder(decoder_spec("llama"), 3, DType::f32).decoder();
  SamplingParams warm;
  warm.seed = 7;
  MlxOptions options = with_host_kernels();
  options.row_kernels = host_rows(9);
  const Answers made = answers_of(model, options, DType::f32, {warm}, 20);
  EXPECT_EQ(made.tokens, answers_of(model, by_the_host(options), DType::f32, {warm}, 20).tokens);
  EXPECT_EQ(made.counters.drawn, 0);
}

}  // namespace
}  // namespace impetus::mlx_backend
#endif

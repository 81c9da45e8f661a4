// What every backend owes of decoders: independence of a row, errors instead of crashes, agreement
// with the slow forward over specs of odd sizes.
#pragma once

#include <limits>
#include <thread>

#include "backend/kv_handoff.h"
#include "tests/conformance/subject.h"

namespace impetus::conformance {

// Runs several sequences to their ends in random chunks, random company and shuffled blocks;
// returns each one's logits of all positions.
inline std::vector<std::vector<float>> run_mixed(Executor& executor,
                                                 const std::vector<std::vector<TokenId>>& sequences,
                                                 std::mt19937_64& random) {
  std::vector<BlockId> free(static_cast<size_t>(executor.kv().blocks()));
  for (size_t i = 0; i < free.size(); ++i) free[i] = static_cast<BlockId>(i);
  std::shuffle(free.begin(), free.end(), random);
  std::vector<std::vector<BlockId>> blocks(sequences.size());
  std::vector<size_t> done(sequences.size(), 0);
  std::vector<std::vector<float>> logits(sequences.size());
  while (true) {
    std::vector<SequenceStep> batch;
    std::vector<size_t> who;
    auto room = static_cast<size_t>(executor.step_tokens_max());
    for (size_t s = 0; s < sequences.size(); ++s) {
      const size_t left = sequences[s].size() - done[s];
      if (left == 0 || room == 0 || random() % 4 == 0) continue;
      const size_t longest = random() % 2 == 0 ? 1 : std::min(left, room);
      const size_t count = 1 + random() % longest;
      while (blocks[s].size() * 16 < done[s] + count) {
        blocks[s].push_back(free.back());
        free.pop_back();
      }
      batch.push_back({std::span(sequences[s]).subspan(done[s], count),
                       static_cast<int64_t>(done[s]),
                       blocks[s],
                       StepOutput::logits_all,
                       nullptr,
                       {}});
      who.push_back(s);
      room -= count;
    }
    if (batch.empty()) {
      bool all = true;
      for (size_t s = 0; s < sequences.size(); ++s) all = all && done[s] == sequences[s].size();
      if (all) return logits;
      continue;
    }
    std::vector<size_t> order(batch.size());
    for (size_t i = 0; i < order.size(); ++i) order[i] = i;
    std::shuffle(order.begin(), order.end(), random);
    std::vector<SequenceStep> shuffled;
    for (const size_t i : order) shuffled.push_back(batch[i]);
    auto results = executor.execute(shuffled);
    EXPECT_TRUE(results.ok()) << results.error().message;
    if (!results.ok()) return logits;
    for (size_t i = 0; i < order.size(); ++i) {
      const size_t s = who[order[i]];
      logits[s].insert(logits[s].end(), (*results)[i].logits.begin(), (*results)[i].logits.end());
      done[s] += shuffled[i].tokens.size();
    }
  }
}

TEST_P(Conformance, ARowDoesNotKnowItsCompany) {
  std::mt19937_64 random(20240607);
  for (const std::string family : {"llama", "qwen2", "qwen3"}) {
    for (const DType type : kWeightTypes) {
      RandomModelBuilder builder(decoder_spec(family), random(), type);
      // Files mix types: then q, k and v, or gate and up, lie in separate matrices.
      if (type == DType::q4_0) builder.mix_with(DType::q8_0);
      if (type == DType::f16) builder.mix_with(DType::f32);
      const RandomModel model = builder.decoder();
      LoadOptions options = f32_options();
      options.kv = std::array{DType::f32, DType::f16, DType::bf16}[random() % 3];
      options.step_tokens_max = 100;
      std::vector<std::vector<TokenId>> sequences;
      for (int s = 0; s < 5; ++s) {
        sequences.push_back(random_tokens(random, 1 + random() % 60, model.spec.vocab));
      }
      std::vector<std::vector<float>> alone;
      const auto single = load_decoder_on(GetParam().make(1), model.spec, *model.weights, options);
      for (const auto& tokens : sequences) alone.push_back(all_logits(*single.model, tokens));
      for (const int threads : GetParam().threads) {
        const auto loaded =
            load_decoder_on(GetParam().make(threads), model.spec, *model.weights, options);
        for (int round = 0; round < 2; ++round) {
          const auto mixed = run_mixed(*loaded.model, sequences, random);
          for (size_t s = 0; s < sequences.size(); ++s) {
            expect_same(*loaded.backend, type, options.kv, alone[s], mixed[s],
                        fmt::format("{} {} kv {} threads {} sequence {}", family, to_string(type),
                                    to_string(options.kv), threads, s));
          }
        }
      }
    }
  }
}

TEST_P(Conformance, SampledTokensToo) {
  std::mt19937_64 random(7);
  RandomModelBuilder builder(decoder_spec("llama"), 1, DType::q4_0);
  const RandomModel model = builder.decoder();
  const auto tokens = random_tokens(random, 40, model.spec.vocab);
  SamplingParams params;
  params.seed = 11;
  params.top_p = 0.9f;
  const auto run = [&](int threads, int company) {
    const auto loaded = load_decoder_on(GetParam().make(threads), model.spec, *model.weights);
    std::vector<std::vector<BlockId>> blocks;
    std::vector<SequenceStep> batch;
    for (int i = 0; i <= company; ++i) blocks.push_back(blocks_from(i * 4, 40));
    for (int i = 0; i <= company; ++i) {
      batch.push_back({tokens,
                       0,
                       blocks[static_cast<size_t>(i)],
                       StepOutput::sample,
                       &params,
                       {tokens, {}, 40, nullptr}});
    }
    auto results = loaded.model->execute(batch);
    if (!results.ok()) throw std::runtime_error(results.error().message);
    for (const auto& result : *results) EXPECT_EQ(result.token->id, (*results)[0].token->id);
    return (*results)[0].token->id;
  };
  const TokenId wanted = run(1, 0);
  for (const int threads : GetParam().threads) {
    for (const int company : {0, 1, 3}) EXPECT_EQ(run(threads, company), wanted);
  }
}

// Equal seed and logits give the reference sampler's token, whoever draws it.
TEST_P(Conformance, SamplesAsTheReferenceDoes) {
  std::mt19937_64 random(77);
  RandomModelBuilder builder(decoder_spec("qwen3"), 3, DType::f32);
  const RandomModel model = builder.decoder();
  const auto loaded = load_decoder_on(GetParam().make(1), model.spec, *model.weights);
  SamplerScratch scratch;
  for (int round = 0; round < 60; ++round) {
    const auto tokens = random_tokens(random, 1 + random() % 30, model.spec.vocab);
    SamplingParams params;
    params.seed = random();
    params.temperature = std::array{0.0f, 0.7f, 1.5f}[random() % 3];
    params.top_k = std::array{0, 1, 5, 40}[random() % 4];
    params.top_p = std::array{1.0f, 0.8f, 0.3f}[random() % 3];
    params.min_p = std::array{0.0f, 0.05f}[random() % 2];
    if (random() % 3 == 0) params.repetition_penalty = 1.3f;
    if (random() % 3 == 0) params.presence_penalty = 0.5f;
    if (random() % 3 == 0) params.frequency_penalty = 0.2f;
    if (random() % 3 == 0) params.logit_bias = {{static_cast<TokenId>(random() % 101), 5.0f}};
    if (random() % 2 == 0) params.top_logprobs = static_cast<int32_t>(random() % 4);
    const auto blocks = blocks_from(0, 40);
    const auto half = tokens.size() / 2;
    const SamplingContext context{std::span(tokens).first(half), std::span(tokens).subspan(half),
                                  static_cast<int64_t>(tokens.size()), nullptr};
    SequenceStep step{tokens, 0, blocks, StepOutput::logits_last, nullptr, {}};
    auto logits = loaded.model->execute({&step, 1});
    ASSERT_TRUE(logits.ok());
    step = {tokens, 0, blocks, StepOutput::sample, &params, context};
    const auto drawn = loaded.model->execute({&step, 1});
    ASSERT_TRUE(drawn.ok());
    const SampledToken wanted = sample((*logits)[0].logits, params, context, scratch);
    const SampledToken& got = *(*drawn)[0].token;
    EXPECT_EQ(got.id, wanted.id) << round;
    EXPECT_EQ(got.logprob, wanted.logprob) << round;
    ASSERT_EQ(got.top.size(), wanted.top.size());
    for (size_t i = 0; i < got.top.size(); ++i) EXPECT_EQ(got.top[i].id, wanted.top[i].id);
  }
}

TEST_P(Conformance, LastRowsOfMixedOutputs) {
  std::mt19937_64 random(8);
  RandomModelBuilder builder(decoder_spec("qwen2"), 2, DType::f32);
  const RandomModel model = builder.decoder();
  const auto a = random_tokens(random, 33, 101), b = random_tokens(random, 20, 101);
  const auto loaded = load_decoder_on(GetParam().make(2), model.spec, *model.weights);
  const auto all_a = all_logits(*loaded.model, a), all_b = all_logits(*loaded.model, b);
  const auto blocks_a = blocks_from(10, 33), blocks_b = blocks_from(20, 20),
             blocks_c = blocks_from(30, 20);
  const std::vector<SequenceStep> batch = {{b, 0, blocks_c, StepOutput::none, nullptr, {}},
                                           {a, 0, blocks_a, StepOutput::logits_last, nullptr, {}},
                                           {b, 0, blocks_b, StepOutput::logits_all, nullptr, {}}};
  const auto results = loaded.model->execute(batch);
  ASSERT_TRUE(results.ok());
  EXPECT_TRUE((*results)[0].logits.empty());
  const std::span last_a(all_a.end() - 101, all_a.end());
  expect_same(*loaded.backend, DType::f32, DType::f32, last_a, (*results)[1].logits, "last");
  expect_same(*loaded.backend, DType::f32, DType::f32, all_b, (*results)[2].logits, "all");
}

TEST_P(Conformance, DecodersOfOddSizes) {
  std::mt19937_64 random(31337);
  const auto pick = [&](std::initializer_list<int64_t> list) {
    return list.begin()[random() % list.size()];
  };
  for (int round = 0; round < 60; ++round) {
    ModelSpec spec;
    spec.family = std::array{"llama", "qwen2", "qwen3"}[random() % 3];
    spec.layers = pick({1, 2, 3});
    spec.hidden = pick({7, 24, 33, 50, 64});
    spec.kv_heads = pick({1, 2, 3});
    spec.heads = spec.kv_heads * pick({1, 2, 5});
    spec.head_dim = pick({2, 6, 10, 16, 24, 64});
    spec.feed_forward = pick({5, 17, 48, 130});
    spec.vocab = pick({3, 29, 64, 130});
    spec.context = 256;
    spec.tied_embeddings = random() % 2 == 0;
    spec.rope_theta = static_cast<double>(pick({100, 10000, 500000}));
    spec.rope_pairs = random() % 2 == 0 ? RopePairs::halves : RopePairs::neighbours;
    if (random() % 3 == 0) spec.rope_scaling = {RopeScaling::Kind::llama3, 8, 1, 4, 32};
    if (random() % 5 == 0) spec.rope_scaling = {RopeScaling::Kind::linear, 4, 1, 4, 32};
    if (random() % 4 == 0) {
      for (int64_t i = 0; i < spec.head_dim / 2; ++i) {
        spec.rope_divisors.push_back(1.0f + static_cast<float>(random() % 8));
      }
    }
    spec.qkv_bias = random() % 2 == 0;
    spec.output_bias = random() % 3 == 0;
    spec.mlp_bias = random() % 3 == 0;
    spec.qk_norm = random() % 2 == 0;
    const DType type = random() % 2 == 0 ? DType::f32 : DType::f16;
    // A tied head in bf16 would round its activations.
    const bool small = random() % 2 == 0 && !spec.tied_embeddings;
    RandomModelBuilder builder(spec, random(), type, small ? DType::bf16 : DType::f32);
    if (random() % 3 == 0) builder.mix_with(DType::f32);
    const RandomModel model = builder.decoder();
    const auto tokens =
        random_tokens(random, static_cast<size_t>(pick({1, 2, 15, 16, 17, 40})), spec.vocab);
    const auto tensors = resolve_decoder(spec, *model.weights);
    ASSERT_TRUE(tensors.ok()) << tensors.error().message;
    const auto wanted = ReferenceForward(spec).decoder(*tensors, tokens);
    double largest = 1;
    for (const auto& row : wanted) {
      for (const double value : row) largest = std::max(largest, std::fabs(value));
    }
    const auto loaded = load_decoder_on(GetParam().make(2), spec, *model.weights);
    // f32 activations everywhere, or f16 where the weights are and the backend takes them as they
    // are.
    const double tolerance =
        type == DType::f16 && GetParam().narrow_activations ? 200 * 0x1p-11 : 1e-4;
    EXPECT_LT(distance(wanted, all_logits(*loaded.model, tokens)), tolerance * largest)
        << "round " << round;
  }
}

// A small model, a few tokens and a block.
class Refusals : public Conformance {
 protected:
  void SetUp() override {
    RandomModelBuilder builder(decoder_spec("llama"), 5, DType::f32);
    model_ = builder.decoder();
    load();
  }
  void load() {
    loaded_.model.reset();  // before its ledger
    LoadOptions options = f32_options();
    options.step_tokens_max = 8;
    loaded_ = load_decoder_on(GetParam().make(2), model_.spec, *model_.weights, options);
  }
  ErrorCode code_of(const SequenceStep& step) {
    auto results = loaded_.model->execute({&step, 1});
    EXPECT_FALSE(results.ok());
    return results.ok() ? ErrorCode::internal : results.error().code;
  }
  RandomModel model_;
  Loaded<Executor> loaded_;
  const std::vector<TokenId> tokens_ = {1, 2, 3};
  const std::vector<BlockId> blocks_ = {0};
};

GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(Refusals);

TEST_P(Refusals, BadStepsAreErrors) {
  constexpr auto kBad = ErrorCode::invalid_argument;
  const SequenceStep good{tokens_, 0, blocks_, StepOutput::logits_last, nullptr, {}};
  ASSERT_TRUE(loaded_.model->execute({&good, 1}).ok());
  ASSERT_TRUE(loaded_.model->execute({}).ok());
  SequenceStep bad = good;
  for (const TokenId id : {-1, 101, std::numeric_limits<TokenId>::max()}) {
    const std::vector<TokenId> wrong = {1, id};
    bad.tokens = wrong;
    EXPECT_EQ(code_of(bad), kBad) << id;
  }
  bad = good;
  bad.tokens = {};
  EXPECT_EQ(code_of(bad), kBad);
  bad = good;
  bad.blocks = {};
  EXPECT_EQ(code_of(bad), kBad);
  bad = good;
  bad.position = 14;  // ends in the second block
  EXPECT_EQ(code_of(bad), kBad);
  bad.position = -1;
  EXPECT_EQ(code_of(bad), kBad);
  for (const BlockId block : {-1, 128, std::numeric_limits<BlockId>::max()}) {
    const std::vector<BlockId> wrong = {block};
    bad = good;
    bad.blocks = wrong;
    EXPECT_EQ(code_of(bad), kBad) << block;
  }
  bad = good;
  const std::vector<TokenId> many(9, 1);
  bad.tokens = many;
  EXPECT_EQ(code_of(bad), kBad);
  bad = good;
  bad.output = StepOutput::sample;
  EXPECT_EQ(code_of(bad), kBad);
  bad = good;
  const auto all = blocks_from(0, 528);
  bad.blocks = all;
  bad.position = 510;  // context 512
  EXPECT_EQ(code_of(bad), ErrorCode::context_length);
  bad.position = std::numeric_limits<int64_t>::max();
  EXPECT_EQ(code_of(bad), ErrorCode::context_length);
}

TEST_P(Refusals, NotANumberIsOneRowsError) {
  // Token 7's embedding is not finite: sequences without it stand.
  auto values = model_.storage[0].mutable_bytes();
  const float nan = std::numeric_limits<float>::quiet_NaN();
  std::memcpy(values.data() + 7 * 64 * sizeof(float), &nan, sizeof(nan));
  load();  // a GPU has its own copy
  SamplingParams params;
  const std::vector<TokenId> bad = {1, 7};
  const std::vector<BlockId> other = {1};
  const std::vector<SequenceStep> batch = {
      {tokens_, 0, blocks_, StepOutput::sample, &params, {tokens_, {}, 3, nullptr}},
      {bad, 0, other, StepOutput::sample, &params, {bad, {}, 2, nullptr}}};
  const auto results = loaded_.model->execute(batch);
  ASSERT_TRUE(results.ok()) << results.error().message;
  EXPECT_TRUE((*results)[0].token.ok());
  ASSERT_FALSE((*results)[1].token.ok());
  EXPECT_EQ((*results)[1].token.error().code, ErrorCode::internal);
  EXPECT_NE((*results)[1].token.error().message.find("llama"), std::string::npos);
  EXPECT_NE((*results)[1].token.error().message.find("position 1"), std::string::npos);
}

TEST_P(Refusals, MasksRunOnTheCallingThread) {
  struct OnlyFive : LogitMask {
    void apply(std::span<float> logits) override {
      same = same && std::this_thread::get_id() == home;
      for (size_t i = 0; i < logits.size(); ++i) {
        if (i != 5) logits[i] = -std::numeric_limits<float>::infinity();
      }
    }
    std::thread::id home = std::this_thread::get_id();
    bool same = true;
  } mask;
  SamplingParams params;
  std::vector<std::vector<BlockId>> blocks;
  for (BlockId b = 0; b < 8; ++b) blocks.push_back({b});
  const std::vector<TokenId> one = {1};
  std::vector<SequenceStep> batch;
  for (const auto& list : blocks) {
    batch.push_back({one, 0, list, StepOutput::sample, &params, {one, {}, 1, &mask}});
  }
  const auto results = loaded_.model->execute(batch);
  ASSERT_TRUE(results.ok());
  for (const auto& result : *results) EXPECT_EQ(result.token->id, 5);
  EXPECT_TRUE(mask.same);
}

TEST_P(Conformance, MemoryIsReservedAndGivenBack) {
  RandomModelBuilder builder(decoder_spec("llama"), 5, DType::f32);
  const RandomModel model = builder.decoder();
  const auto backend = GetParam().make(1);
  MemoryLedger host(int64_t{1} << 30);
  const MemoryLedger& ledger = backend->memory() != nullptr ? *backend->memory() : host;
  {
    auto loaded = backend->load_decoder(model.spec, *model.weights, f32_options(), host);
    ASSERT_TRUE(loaded.ok());
    int64_t kv = 0;
    for (const auto& entry : ledger.entries()) {
      if (entry.purpose.find("KV cache") != std::string::npos) kv = entry.bytes;
    }
    EXPECT_EQ(kv, (*loaded)->kv().blocks() * (*loaded)->kv().block_bytes());
    EXPECT_EQ((*loaded)->kv().block_bytes(), 2 * 2 * 2 * 16 * 16 * 4);
    EXPECT_EQ((*loaded)->kv().blocks(), 128);
  }
  EXPECT_EQ(ledger.used_bytes(), 0);
  if (&ledger != &host) return;  // as large as the device
  for (const int64_t capacity : {1000, 200000, 700000}) {
    MemoryLedger small(capacity);
    const auto refused = backend->load_decoder(model.spec, *model.weights, f32_options(), small);
    ASSERT_FALSE(refused.ok()) << capacity;
    EXPECT_EQ(refused.error().code, ErrorCode::insufficient_memory);
    EXPECT_EQ(small.used_bytes(), 0);
  }
}

TEST_P(Conformance, WrongOptionsAreErrors) {
  ModelSpec spec = decoder_spec("llama");
  spec.hidden = 40;  // no whole block of 32
  RandomModelBuilder builder(spec, 5, DType::f32);
  const RandomModel model = builder.decoder();
  const auto backend = GetParam().make(1);
  MemoryLedger ledger(int64_t{1} << 30);
  const auto load = [&](auto change) {
    LoadOptions options = f32_options();
    change(options);
    return backend->load_decoder(model.spec, *model.weights, options, ledger);
  };
  EXPECT_TRUE(load([](LoadOptions&) {}).ok());
  const auto int8 = load([](LoadOptions& o) { o.weights = WeightPrecision::int8; });
  ASSERT_FALSE(int8.ok());
  EXPECT_EQ(int8.error().code, ErrorCode::unsupported);
  EXPECT_NE(int8.error().message.find("q_proj"), std::string::npos);
  EXPECT_FALSE(load([](LoadOptions& o) { o.kv = DType::q8_0; }).ok());
  EXPECT_FALSE(load([](LoadOptions& o) { o.kv_tokens = 0; }).ok());
  EXPECT_FALSE(
      load([](LoadOptions& o) { o.kv_tokens = std::numeric_limits<int64_t>::max(); }).ok());
  EXPECT_FALSE(load([](LoadOptions& o) { o.step_tokens_max = 0; }).ok());
}

// Prefill here, decode there, and the other way round; then on with what came back. In f32 the
// tokens are those of one backend alone.
TEST_P(Conformance, KvGoesToAnotherBackendAndBack) {
  if (!GetParam().partner) return;  // a suite of one
  std::mt19937_64 random(515);
  for (const std::string family : {"llama", "qwen3"}) {
    RandomModelBuilder builder(decoder_spec(family), random(), DType::f32);
    const RandomModel model = builder.decoder();
    const auto here = load_decoder_on(GetParam().make(1), model.spec, *model.weights);
    const auto there = load_decoder_on(GetParam().partner(), model.spec, *model.weights);
    ASSERT_EQ(here->kv().block_tokens(), there->kv().block_tokens());
    const auto prompt = random_tokens(random, 37, model.spec.vocab);
    const auto wanted = greedy(*there.model, prompt, 37 + 40, 3);
    const auto blocks = blocks_from(60, 37 + 40);
    SamplingParams params;
    params.temperature = 0;
    std::vector<TokenId> tokens = prompt;
    std::vector<std::byte> scratch;
    const auto step_on = [&](Executor& executor, size_t position) {
      const SequenceStep step{std::span(tokens).subspan(position),
                              static_cast<int64_t>(position),
                              blocks,
                              StepOutput::sample,
                              &params,
                              {tokens, {}, static_cast<int64_t>(tokens.size()), nullptr}};
      auto results = executor.execute({&step, 1});
      ASSERT_TRUE(results.ok()) << results.error().message;
      tokens.push_back((*results)[0].token->id);
    };
    const auto hand = [&](const Executor& from, Executor& to, int64_t begin, int64_t end) {
      for (int64_t p = begin; p < end;) {
        const auto within = static_cast<int32_t>(p % 16);
        const auto until = static_cast<int32_t>(std::min<int64_t>(16, within + end - p));
        const auto moved = hand_over(from.kv(), to.kv(), blocks[static_cast<size_t>(p / 16)],
                                     within, until, scratch);
        ASSERT_TRUE(moved.ok()) << moved.error().message;
        p += until - within;
      }
    };
    Executor* at = here.model.get();
    Executor* other = there.model.get();
    step_on(*at, 0);
    int64_t known = 0;  // positions that `other` has
    for (int round = 0; round < 4; ++round) {
      const auto end = static_cast<int64_t>(tokens.size()) - 1;
      hand(*at, *other, known, end);
      known = end;
      std::swap(at, other);
      for (int i = 0; i < 9; ++i) step_on(*at, tokens.size() - 1);
    }
    EXPECT_EQ(tokens,
              std::vector<TokenId>(wanted.begin(),
                                   wanted.begin() + static_cast<std::ptrdiff_t>(tokens.size())))
        << family;
  }
}

TEST_P(Conformance, KvComesOutAsItWentIn) {
  std::mt19937_64 random(3);
  ModelSpec spec = decoder_spec("llama");
  spec.head_dim = 32;  // whole blocks of q8_0
  RandomModelBuilder builder(spec, 5, DType::f32);
  const RandomModel model = builder.decoder();
  const std::vector<DType> types = GetParam().make(1)->descriptor().kv;
  for (const DType type : types) {
    LoadOptions options = f32_options();
    options.kv = type;
    const auto loaded = load_decoder_on(GetParam().make(1), model.spec, *model.weights, options);
    KvStorage& kv = loaded->kv();
    std::vector<float> values(static_cast<size_t>(kv.shape().elements()) * 16);
    std::normal_distribution<float> normal(0, 3);
    for (float& value : values) value = normal(random);
    for (const DType from : {DType::f32, DType::f16, DType::bf16, DType::q8_0}) {
      std::vector<std::byte> in(static_cast<size_t>(kv_bytes(kv.shape(), 16, from)));
      convert_kv(DType::f32, std::as_bytes(std::span(values)), from, in);
      ASSERT_TRUE(kv.import_block(7, 0, 16, from, in).ok());
      std::vector<std::byte> wanted(static_cast<size_t>(kv_bytes(kv.shape(), 16, type))),
          got(wanted.size());
      convert_kv(from, in, type, wanted);
      ASSERT_TRUE(kv.export_block(7, 0, 16, got).ok());
      EXPECT_EQ(got, wanted) << to_string(from) << " to " << to_string(type);
      // One position written anew leaves the others alone.
      const auto one = static_cast<size_t>(kv_bytes(kv.shape(), 1, type));
      const std::vector<std::byte> zeros(one);
      std::vector<std::byte> before(one), after(one);
      ASSERT_TRUE(kv.export_block(7, 8, 9, before).ok());
      ASSERT_TRUE(kv.import_block(7, 9, 10, type, zeros).ok());
      ASSERT_TRUE(kv.export_block(7, 8, 9, after).ok());
      EXPECT_EQ(before, after);
      ASSERT_TRUE(kv.export_block(7, 9, 10, after).ok());
      EXPECT_EQ(after, zeros);
    }
    std::vector<std::byte> bytes(static_cast<size_t>(kv_bytes(kv.shape(), 2, type)));
    EXPECT_FALSE(kv.export_block(-1, 0, 2, bytes).ok());
    EXPECT_FALSE(kv.export_block(kv.blocks(), 0, 2, bytes).ok());
    EXPECT_FALSE(kv.export_block(0, 15, 17, bytes).ok());
    EXPECT_FALSE(kv.export_block(0, 2, 2, bytes).ok());
    EXPECT_FALSE(kv.export_block(0, 0, 3, bytes).ok());
    EXPECT_FALSE(kv.import_block(0, 0, 2, DType::q4_0, bytes).ok());
    EXPECT_FALSE(kv.import_block(0, 0, 2, DType::i32, bytes).ok());
  }
}

}  // namespace impetus::conformance

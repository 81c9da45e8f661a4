// The rules of backend/executor.h on the CPU: independence of a row, errors instead of crashes, and
// agreement with the slow forward over specs of odd sizes.
#include <limits>

#include "cpu/test_support.h"

namespace impetus::cpu {
namespace {

using testing::RandomModel;
using testing::RandomModelBuilder;
using testing::ReferenceForward;

ModelSpec decoder_spec(const std::string& family) {
  ModelSpec spec;
  spec.family = family;
  spec.layers = 2;
  spec.hidden = 64;
  spec.heads = 4;
  spec.kv_heads = 2;
  spec.head_dim = 16;
  spec.feed_forward = 96;
  spec.vocab = 101;
  spec.context = 512;
  spec.qkv_bias = family == "qwen2";
  spec.qk_norm = family == "qwen3";
  if (family == "llama") spec.rope_pairs = RopePairs::neighbours;
  return spec;
}

ModelSpec encoder_spec(const std::string& family) {
  ModelSpec spec;
  spec.family = family;
  spec.kind = ModelKind::encoder;
  spec.layers = 2;
  spec.hidden = 64;
  spec.heads = spec.kv_heads = 4;
  spec.head_dim = 16;
  spec.feed_forward = 160;
  spec.vocab = 101;
  spec.context = 128;
  spec.norm_eps = 1e-12f;
  spec.activation = Activation::gelu_erf;
  spec.token_types = family == "bert" ? 2 : 0;
  spec.pooling = Pooling::mean;
  spec.normalize = true;
  return spec;
}

constexpr DType kWeightTypes[] = {DType::f32, DType::f16, DType::bf16, DType::q8_0, DType::q4_0};

// Runs several sequences to their ends in random chunks, random company and shuffled blocks;
// returns each one's logits of all positions.
std::vector<std::vector<float>> run_mixed(Executor& executor,
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

TEST(Independence, ARowDoesNotKnowItsCompany) {
  std::mt19937_64 random(20240607);
  for (const std::string family : {"llama", "qwen2", "qwen3"}) {
    for (const DType type : kWeightTypes) {
      RandomModelBuilder builder(decoder_spec(family), random(), type);
      // Files mix types: then q, k and v, or gate and up, lie in separate matrices.
      if (type == DType::q4_0) builder.mix_with(DType::q8_0);
      if (type == DType::f16) builder.mix_with(DType::f32);
      const RandomModel model = builder.decoder();
      for (const auto& isa : instruction_sets()) {
        LoadOptions options = f32_options();
        options.kv = std::array{DType::f32, DType::f16, DType::bf16}[random() % 3];
        options.step_tokens_max = 100;
        std::vector<std::vector<TokenId>> sequences;
        for (int s = 0; s < 5; ++s) {
          sequences.push_back(random_tokens(random, 1 + random() % 60, model.spec.vocab));
        }
        std::vector<std::vector<float>> alone;
        const auto single = load_decoder(model.spec, *model.weights, isa, 1, options);
        for (const auto& tokens : sequences) alone.push_back(all_logits(*single.model, tokens));
        for (const int threads : {1, 2, 3}) {
          const auto loaded = load_decoder(model.spec, *model.weights, isa, threads, options);
          for (int round = 0; round < 2; ++round) {
            ASSERT_EQ(run_mixed(*loaded.model, sequences, random), alone)
                << family << " " << to_string(type) << " " << isa << " " << threads;
          }
        }
      }
    }
  }
}

TEST(Independence, SampledTokensToo) {
  std::mt19937_64 random(7);
  RandomModelBuilder builder(decoder_spec("llama"), 1, DType::q4_0);
  const RandomModel model = builder.decoder();
  const auto tokens = random_tokens(random, 40, model.spec.vocab);
  SamplingParams params;
  params.seed = 11;
  params.top_p = 0.9f;
  const auto run = [&](int threads, int company) {
    const auto loaded = load_decoder(model.spec, *model.weights, "", threads);
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
    EXPECT_TRUE(results.ok());
    for (const auto& result : *results) EXPECT_EQ(result.token->id, (*results)[0].token->id);
    return (*results)[0].token->id;
  };
  const TokenId wanted = run(1, 0);
  for (const int threads : {1, 2, 4}) {
    for (const int company : {0, 1, 3}) EXPECT_EQ(run(threads, company), wanted);
  }
}

TEST(Independence, LastRowsOfMixedOutputs) {
  std::mt19937_64 random(8);
  RandomModelBuilder builder(decoder_spec("qwen2"), 2, DType::f32);
  const RandomModel model = builder.decoder();
  const auto a = random_tokens(random, 33, 101), b = random_tokens(random, 20, 101);
  const auto loaded = load_decoder(model.spec, *model.weights, "", 2);
  const auto all_a = all_logits(*loaded.model, a), all_b = all_logits(*loaded.model, b);
  const auto blocks_a = blocks_from(10, 33), blocks_b = blocks_from(20, 20),
             blocks_c = blocks_from(30, 20);
  const std::vector<SequenceStep> batch = {{b, 0, blocks_c, StepOutput::none, nullptr, {}},
                                           {a, 0, blocks_a, StepOutput::logits_last, nullptr, {}},
                                           {b, 0, blocks_b, StepOutput::logits_all, nullptr, {}}};
  const auto results = loaded.model->execute(batch);
  ASSERT_TRUE(results.ok());
  EXPECT_TRUE((*results)[0].logits.empty());
  EXPECT_EQ((*results)[1].logits, std::vector<float>(all_a.end() - 101, all_a.end()));
  EXPECT_EQ((*results)[2].logits, all_b);
}

TEST(Independence, ATextDoesNotKnowItsBatch) {
  std::mt19937_64 random(99);
  for (const std::string family : {"bert", "distilbert"}) {
    for (const DType type : kWeightTypes) {
      RandomModelBuilder builder(encoder_spec(family), random(), type);
      const RandomModel model = builder.encoder();
      for (const auto& isa : instruction_sets()) {
        for (const int threads : {1, 3}) {
          const auto loaded = load_encoder(model.spec, *model.weights, isa, threads);
          const auto lone = load_encoder(model.spec, *model.weights, isa, 1);
          std::vector<TokenId> tokens;
          std::vector<int32_t> offsets = {0}, types;
          std::vector<float> pooled, hidden;
          for (int text = 0; text < 7; ++text) {
            const auto ids = random_tokens(random, 1 + random() % 36, 101);
            std::vector<int32_t> kinds(ids.size());
            for (int32_t& kind : kinds)
              kind = family == "bert" ? static_cast<int32_t>(random() % 2) : 0;
            const std::vector<int32_t> ends = {0, static_cast<int32_t>(ids.size())};
            for (const auto output : {EncodeOutput::pooled, EncodeOutput::hidden}) {
              const auto out = lone->encode({ids, ends, kinds, output});
              ASSERT_TRUE(out.ok()) << out.error().message;
              auto& into = output == EncodeOutput::pooled ? pooled : hidden;
              into.insert(into.end(), out->values.begin(), out->values.end());
              EXPECT_EQ(out->ran_on, std::vector{&lone->descriptor()});
            }
            tokens.insert(tokens.end(), ids.begin(), ids.end());
            types.insert(types.end(), kinds.begin(), kinds.end());
            offsets.push_back(static_cast<int32_t>(tokens.size()));
          }
          const auto together = loaded->encode({tokens, offsets, types, EncodeOutput::pooled});
          ASSERT_TRUE(together.ok()) << together.error().message;
          EXPECT_EQ(together->values, pooled) << family << " " << to_string(type) << " " << isa;
          EXPECT_EQ(loaded->encode({tokens, offsets, types, EncodeOutput::hidden})->values, hidden);
        }
      }
    }
  }
}

// Largest difference of two sets of rows.
double distance(const testing::Matrix& wanted, std::span<const float> got) {
  double worst = 0;
  size_t i = 0;
  for (const auto& row : wanted) {
    for (const double value : row) {
      const double d = std::fabs(value - static_cast<double>(got[i++]));
      worst = std::isnan(d) ? INFINITY : std::max(worst, d);
    }
  }
  EXPECT_EQ(i, got.size());
  return worst;
}

TEST(SlowForward, DecodersOfOddSizes) {
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
    for (const auto& isa : instruction_sets()) {
      const auto loaded = load_decoder(spec, *model.weights, isa, 2);
      EXPECT_LT(distance(wanted, all_logits(*loaded.model, tokens)), 1e-4 * largest)
          << "round " << round << " " << isa;
    }
  }
}

TEST(SlowForward, EncodersOfOddSizes) {
  std::mt19937_64 random(4242);
  const auto pick = [&](std::initializer_list<int64_t> list) {
    return list.begin()[random() % list.size()];
  };
  for (int round = 0; round < 40; ++round) {
    ModelSpec spec = encoder_spec(random() % 2 == 0 ? "bert" : "distilbert");
    spec.layers = pick({1, 2, 3});
    spec.heads = spec.kv_heads = pick({1, 2, 3, 5});
    spec.head_dim = pick({2, 6, 10, 24, 32});
    spec.hidden = spec.heads * spec.head_dim;
    spec.feed_forward = pick({5, 17, 48, 130});
    spec.context = pick({40, 64});
    spec.activation =
        std::array{Activation::gelu_erf, Activation::gelu_tanh, Activation::relu}[random() % 3];
    spec.pooling = random() % 2 == 0 ? Pooling::mean : Pooling::cls;
    spec.normalize = random() % 2 == 0;
    RandomModelBuilder builder(spec, random(), random() % 2 == 0 ? DType::f32 : DType::f16);
    const RandomModel model = builder.encoder();
    const auto tokens =
        random_tokens(random, static_cast<size_t>(pick({1, 2, 16, 17, 40})), spec.vocab);
    std::vector<int32_t> types;
    if (spec.token_types > 0 && random() % 2 == 0) {
      for (size_t i = 0; i < tokens.size(); ++i)
        types.push_back(static_cast<int32_t>(random() % 2));
    }
    const auto tensors = resolve_encoder(spec, *model.weights);
    ASSERT_TRUE(tensors.ok()) << tensors.error().message;
    const ReferenceForward reference(spec);
    const auto wanted = reference.encoder(*tensors, tokens, types);
    const std::vector<int32_t> offsets = {0, static_cast<int32_t>(tokens.size())};
    for (const auto& isa : instruction_sets()) {
      const auto loaded = load_encoder(spec, *model.weights, isa, 2);
      const auto hidden = loaded->encode({tokens, offsets, types, EncodeOutput::hidden});
      ASSERT_TRUE(hidden.ok());
      EXPECT_LT(distance(wanted, hidden->values), 2e-4) << "round " << round << " " << isa;
      const auto pooled = loaded->encode({tokens, offsets, types, EncodeOutput::pooled});
      ASSERT_TRUE(pooled.ok());
      EXPECT_LT(distance({reference.pool(wanted)}, pooled->values), 2e-4)
          << "round " << round << " " << isa;
    }
  }
}

class Refusals : public ::testing::Test {
 protected:
  void SetUp() override {
    RandomModelBuilder builder(decoder_spec("llama"), 5, DType::f32);
    model_ = builder.decoder();
    LoadOptions options = f32_options();
    options.step_tokens_max = 8;
    loaded_ = load_decoder(model_.spec, *model_.weights, "", 2, options);
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

TEST_F(Refusals, BadStepsAreErrors) {
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

TEST_F(Refusals, NotANumberIsOneRowsError) {
  // Token 7's embedding is not finite: sequences without it stand.
  auto values = model_.storage[0].mutable_bytes();
  const float nan = std::numeric_limits<float>::quiet_NaN();
  std::memcpy(values.data() + 7 * 64 * sizeof(float), &nan, sizeof(nan));
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

TEST_F(Refusals, MasksRunOnTheCallingThread) {
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

TEST(Memory, IsReservedAndGivenBack) {
  RandomModelBuilder builder(decoder_spec("llama"), 5, DType::f32);
  const RandomModel model = builder.decoder();
  const auto backend = backend_of("", 1);
  MemoryLedger ledger(int64_t{1} << 30);
  {
    auto loaded = backend->load_decoder(model.spec, *model.weights, f32_options(), ledger);
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
  for (const int64_t capacity : {1000, 200000, 700000}) {
    MemoryLedger small(capacity);
    const auto refused = backend->load_decoder(model.spec, *model.weights, f32_options(), small);
    ASSERT_FALSE(refused.ok()) << capacity;
    EXPECT_EQ(refused.error().code, ErrorCode::insufficient_memory);
    EXPECT_EQ(small.used_bytes(), 0);
  }
}

TEST(Options, WrongOnesAreErrors) {
  ModelSpec spec = decoder_spec("llama");
  spec.hidden = 40;  // no whole block of 32
  RandomModelBuilder builder(spec, 5, DType::f32);
  const RandomModel model = builder.decoder();
  const auto backend = backend_of("", 1);
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

TEST(EncoderRefusals, BadBatchesAreErrors) {
  RandomModelBuilder builder(encoder_spec("bert"), 5, DType::f32);
  const RandomModel model = builder.encoder();
  const auto loaded = load_encoder(model.spec, *model.weights, "", 2);
  EXPECT_GE(loaded->batch_tokens_max(), model.spec.context);
  const auto fails = [&](std::vector<TokenId> tokens, std::vector<int32_t> offsets,
                         std::vector<int32_t> types) {
    return !loaded->encode({tokens, offsets, types, EncodeOutput::pooled}).ok();
  };
  EXPECT_FALSE(fails({1, 2}, {0, 1, 2}, {}));
  EXPECT_FALSE(fails({}, {0}, {}));
  EXPECT_TRUE(fails({1, 2}, {}, {}));
  EXPECT_TRUE(fails({1, 2}, {0, 1}, {}));
  EXPECT_TRUE(fails({1, 2}, {1, 2}, {}));
  EXPECT_TRUE(fails({1, 2}, {0, 0, 2}, {}));
  EXPECT_TRUE(fails({1, 2}, {0, 3, 2}, {}));
  EXPECT_TRUE(fails({1, 101}, {0, 2}, {}));
  EXPECT_TRUE(fails({-1, 2}, {0, 2}, {}));
  EXPECT_TRUE(fails({1, 2}, {0, 2}, {0}));
  EXPECT_TRUE(fails({1, 2}, {0, 2}, {0, 2}));
  EXPECT_TRUE(fails({1, 2}, {0, 2}, {0, -1}));
  EXPECT_TRUE(fails(std::vector<TokenId>(129, 1), {0, 129}, {}));
  EXPECT_TRUE(fails(std::vector<TokenId>(257, 1), {0, 100, 200, 257}, {}));
}

}  // namespace
}  // namespace impetus::cpu

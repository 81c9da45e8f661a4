// Keys and values in q8_0: what is kept, how attention reads it, and whole models with it.
#include "mlx/kv_pool.h"

#include <cmath>

#include "backend/kv_handoff.h"
#include "mlx/decoder.h"
#include "mlx/test_support.h"
#include "tests/conformance/subject.h"

namespace impetus::mlx_backend {
namespace {

using conformance::blocks_from;
using conformance::decoder_spec;
using conformance::load_decoder_on;
using conformance::random_tokens;
using testing::RandomModel;
using testing::RandomModelBuilder;
using RunAhead = MlxOptions::RunAhead;

ModelSpec wide_spec(const std::string& family) {
  ModelSpec spec = decoder_spec(family);
  spec.head_dim = 64;
  return spec;
}

std::unique_ptr<KvPool> pool_of(const ModelSpec& spec, bool direct, MemoryLedger& ledger,
                                mx::Dtype activations = mx::float32) {
  auto pool = KvPool::create(spec, DType::q8_0, activations, 20 * 16, true, direct, ledger);
  EXPECT_TRUE(pool.ok()) << pool.error().message;
  return std::move(*pool);
}

// A normal value, at scales from 1e-6 to 1e4 by head: [heads, n, width].
mx::array values_of(std::mt19937_64& random, const ModelSpec& spec, int n) {
  std::normal_distribution<float> normal(0, 1);
  std::vector<float> values;
  for (int64_t h = 0; h < spec.kv_heads; ++h) {
    const double scale = std::pow(10.0, static_cast<double>(random() % 11) - 6);
    for (int64_t i = 0; i < n * spec.head_dim; ++i) {
      values.push_back(static_cast<float>(scale) * normal(random));
    }
  }
  return mx::array(values.begin(), mx::Shape{dim(spec.kv_heads), n, dim(spec.head_dim)});
}

// Each block of 32 within half a quantum of what was written, its scale in f16.
void expect_kept(const mx::array& read, const mx::array& written) {
  ASSERT_EQ(read.shape(), written.shape());
  const std::vector<float> made = floats(read), wanted = floats(written);
  for (size_t first = 0; first < wanted.size(); first += 32) {
    float peak = 0;
    for (size_t i = first; i < first + 32; ++i) peak = std::max(peak, std::abs(wanted[i]));
    // Scales in f16: of subnormal ones the last bit is 6e-8.
    const double quantum = peak / 127, off = 0.502 * quantum + 127 * (quantum / 2048 + 3e-8);
    for (size_t i = first; i < first + 32; ++i) {
      ASSERT_LE(std::abs(static_cast<double>(made[i]) - wanted[i]), off) << i << " " << peak;
    }
  }
}

TEST(MlxQuantisedKv, IsReadAsItWasWritten) {
  const Turn turn(true);
  const ModelSpec spec = wide_spec("llama");
  std::mt19937_64 random(5);
  for (const bool direct : {true, false}) {
    MemoryLedger ledger(int64_t{1} << 30);
    const auto pool = pool_of(spec, direct, ledger);
    EXPECT_EQ(pool->type(), mx::float32);
    // 34 bytes of 32 values.
    EXPECT_EQ(pool->block_bytes(), 16 * spec.layers * 2 * spec.kv_heads * spec.head_dim / 32 * 34);
    EXPECT_EQ(ledger.used_bytes(), 20 * pool->block_bytes());
    const std::vector<SlotRun> runs = {{3, 9}, {32, 48}, {80, 81}};
    const mx::array keys = values_of(random, spec, 23), values = values_of(random, spec, 23);
    pool->write_runs(1, runs, keys, values);
    const std::vector<int32_t> slots = {100, 17, 16, 319};
    const auto some = [&](const mx::array& rows) {  // [n, kv_heads, 1, head_dim]
      return mx::expand_dims(mx::transpose(rows, {1, 0, 2}), 2);
    };
    const mx::array at(slots.begin(), mx::Shape{4}, mx::int32);
    const mx::array more = values_of(random, spec, 4), others = values_of(random, spec, 4);
    pool->write_rows(1, at, some(more), some(others));
    mx::eval(pool->arrays());
    pool->settle();
    EXPECT_EQ(pool->copies(), 0);
    const auto part = [&](const mx::array& of, int begin, int end) {
      return mx::slice(of, {0, begin, 0}, {of.shape(0), end, of.shape(2)});
    };
    expect_kept(pool->key_rows(1).run({32, 48}), part(keys, 6, 22));
    expect_kept(pool->value_rows(1).run({3, 9}), part(values, 0, 6));
    expect_kept(pool->key_rows(1).at(at), more);
    expect_kept(pool->value_rows(1).at(at), others);
    // A block of 16 as it leaves: each head's rows in Q8_0.
    std::vector<std::byte> out(static_cast<size_t>(pool->block_bytes()));
    ASSERT_TRUE(pool->export_block(2, 0, 16, out).ok());
    std::vector<float> left(out.size() / 34 * 32);
    dequantize(DType::q8_0, out.data(), static_cast<int64_t>(left.size()), left.data());
    const int64_t layer = 2 * spec.kv_heads * 16 * spec.head_dim;
    const mx::array all(left.begin() + layer,
                        mx::Shape{2, dim(spec.kv_heads), 16, dim(spec.head_dim)});
    expect_kept(mx::squeeze(mx::slice(all, {0, 0, 0, 0}, {1, all.shape(1), 16, all.shape(3)}), 0),
                part(keys, 6, 22));
    expect_kept(mx::squeeze(mx::slice(all, {1, 0, 0, 0}, {2, all.shape(1), 16, all.shape(3)}), 0),
                part(values, 6, 22));
  }
}

// What attention reads in 16 bits is what is kept, rounded once.
TEST(MlxQuantisedKv, IsRoundedOnceForActivations) {
  const Turn turn(true);
  const ModelSpec spec = wide_spec("llama");
  std::mt19937_64 random(8);
  const mx::array values = values_of(random, spec, 16);
  std::vector<std::vector<float>> read;
  for (const mx::Dtype type : {mx::float32, mx::float16, mx::bfloat16}) {
    MemoryLedger ledger(int64_t{1} << 30);
    const auto pool = pool_of(spec, true, ledger, type);
    EXPECT_EQ(pool->type(), type);
    pool->write_runs(0, std::vector<SlotRun>{{16, 32}}, values, values);
    const mx::array made = pool->key_rows(0).run({16, 32});
    EXPECT_EQ(made.dtype(), type);
    read.push_back(floats(made));
  }
  for (size_t i = 0; i < read[0].size(); ++i) {
    ASSERT_EQ(read[1][i], f16_to_f32(f32_to_f16(read[0][i]))) << i;
    ASSERT_EQ(read[2][i], bf16_to_f32(f32_to_bf16(read[0][i]))) << i;
  }
}

// Logits of prompts in chunks, of several sequences side by side and of single ones.
std::vector<float> logits_of(const RandomModel& model, DType kv, const MlxOptions& options) {
  LoadOptions load;
  load.kv = kv;
  load.kv_tokens = 64 * 16;
  load.step_tokens_max = 24;
  const auto loaded =
      load_decoder_on(std::move(*make_mlx_backend(options)), model.spec, *model.weights, load);
  if (!loaded.model) return {};
  EXPECT_EQ(loaded->kv().dtype(), kv);
  std::mt19937_64 random(9);
  std::vector<float> logits;
  std::vector<std::vector<TokenId>> prompts;
  std::vector<std::vector<BlockId>> blocks;
  for (const size_t length : {50, 7, 33}) {
    prompts.push_back(random_tokens(random, length, model.spec.vocab));
    blocks.push_back(blocks_from(static_cast<int>(blocks.size()) * 8, 128));
    std::shuffle(blocks.back().begin(), blocks.back().end(), random);
  }
  const auto step = [&](const std::vector<SequenceStep>& batch) {
    const auto results = loaded->execute(batch);
    ASSERT_TRUE(results.ok()) << results.error().message;
    for (const SequenceResult& result : *results) {
      logits.insert(logits.end(), result.logits.begin(), result.logits.end());
    }
  };
  for (size_t s = 0; s < prompts.size(); ++s) {
    for (size_t p = 0; p < prompts[s].size(); p += 20) {
      const auto some =
          std::span(prompts[s]).subspan(p, std::min<size_t>(20, prompts[s].size() - p));
      step({{some, static_cast<int64_t>(p), blocks[s], StepOutput::logits_last, nullptr, {}}});
    }
  }
  for (int64_t i = 0; i < 6; ++i) {
    const auto tokens = random_tokens(random, prompts.size(), model.spec.vocab);
    std::vector<SequenceStep> batch;
    for (size_t s = 0; s < (i < 4 ? prompts.size() : 1); ++s) {
      batch.push_back({std::span(tokens).subspan(s, 1),
                       static_cast<int64_t>(prompts[s].size()) + i,
                       blocks[s],
                       StepOutput::logits_last,
                       nullptr,
                       {}});
    }
    step(batch);
  }
  EXPECT_EQ(counters_of(*loaded.model).kv_copies, 0);
  return logits;
}

// Within 3 % of the logits' size, but not the same.
void expect_near(const std::vector<float>& made, const std::vector<float>& wanted) {
  ASSERT_EQ(made.size(), wanted.size());
  ASSERT_FALSE(wanted.empty());
  double off = 0, all = 0;
  for (size_t i = 0; i < made.size(); ++i) {
    off += std::pow(static_cast<double>(made[i]) - wanted[i], 2);
    all += std::pow(static_cast<double>(wanted[i]), 2);
  }
  EXPECT_LE(std::sqrt(off / all), 0.03);
  EXPECT_GT(off, 0);
}

TEST(MlxQuantisedKv, ModelsRunWithIt) {
  for (const char* family : {"llama", "qwen2", "qwen3"}) {
    SCOPED_TRACE(family);
    const auto model = RandomModelBuilder(wide_spec(family), 3, DType::f32).decoder();
    for (const MlxOptions& options :
         {MlxOptions{.cpu = true}, MlxOptions{.run_ahead = RunAhead::on, .as_gpu = true}}) {
      expect_near(logits_of(model, DType::q8_0, options), logits_of(model, DType::f32, options));
    }
  }
}

// What is not finite stays so within its block, and is an error where a token is wanted.
TEST(MlxQuantisedKv, WhatIsNotFiniteStaysSo) {
  const ModelSpec spec = wide_spec("llama");
  const auto model = RandomModelBuilder(spec, 3, DType::f32).decoder();
  LoadOptions load;
  load.kv = DType::q8_0;
  load.kv_tokens = 64;
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  for (const float bad : {std::nanf(""), kInfinity, -kInfinity}) {
    {
      const Turn turn(true);
      MemoryLedger ledger(int64_t{1} << 30);
      const auto pool = pool_of(spec, true, ledger);
      const auto n = static_cast<size_t>(spec.kv_heads * spec.head_dim);
      std::vector<float> values(n, 1);
      values[40] = bad;
      const mx::array all(values.begin(), mx::Shape{dim(spec.kv_heads), 1, dim(spec.head_dim)});
      pool->write_runs(0, std::vector<SlotRun>{{5, 6}}, all, all);
      pool->write_rows(1, mx::array({7}), mx::expand_dims(mx::transpose(all, {1, 0, 2}), 2),
                       mx::expand_dims(mx::transpose(all, {1, 0, 2}), 2));
      for (const mx::array& read :
           {pool->key_rows(0).run({5, 6}), pool->value_rows(0).run({5, 6}),
            pool->key_rows(1).at(mx::array({7})), pool->value_rows(1).run({7, 8})}) {
        const std::vector<float> made = floats(read);
        for (size_t i = 0; i < n; ++i) {
          if (i / 32 == 40 / 32) {
            EXPECT_FALSE(std::isfinite(made[i])) << i;
          } else {
            EXPECT_NEAR(made[i], 1, 1e-3) << i;
          }
        }
      }
    }
    const auto loaded = load_decoder_on(std::move(*make_mlx_backend({.cpu = true})), model.spec,
                                        *model.weights, load);
    KvStorage& kv = loaded->kv();
    std::vector<float> values(static_cast<size_t>(kv.shape().elements()), 1);
    values.back() = bad;  // of the last layer's last value
    ASSERT_TRUE(kv.import_block(0, 0, 1, DType::f32, std::as_bytes(std::span(values))).ok());
    const TokenId token = 5;
    const BlockId block = 0;
    SamplingParams greedy;
    greedy.temperature = 0;
    const SequenceStep step{{&token, 1}, 1, {&block, 1}, StepOutput::sample, &greedy, {}};
    const auto results = loaded->execute({&step, 1});
    ASSERT_TRUE(results.ok()) << results.error().message;
    EXPECT_FALSE((*results)[0].token.ok());
  }
}

// A step that fails leaves codes and scales of the steps before.
TEST(MlxQuantisedKv, StandsWhereAStepFails) {
  const auto model = RandomModelBuilder(wide_spec("llama"), 3, DType::f32).decoder();
  for (const bool as_gpu : {false, true}) {
    std::string fails_at;
    const auto loaded =
        load_decoder_on(std::move(*make_mlx_backend({.as_gpu = as_gpu,
                                                     .fault =
                                                         [&](std::string_view at) {
                                                           if (at == fails_at)
                                                             throw std::runtime_error("planted");
                                                         }})),
                        model.spec, *model.weights, [] {
                          LoadOptions load;
                          load.kv = DType::q8_0;
                          load.kv_tokens = 64;
                          return load;
                        }());
    const bool paced = as_gpu || loaded.backend->descriptor().enqueues;
    std::mt19937_64 random(2);
    const auto tokens = random_tokens(random, 20, model.spec.vocab);
    const std::vector<BlockId> blocks = {2, 0};
    const auto run = [&](size_t first, size_t count) {
      const SequenceStep step{std::span(tokens).subspan(first, count),
                              static_cast<int64_t>(first),
                              blocks,
                              StepOutput::logits_last,
                              nullptr,
                              {}};
      return loaded->execute({&step, 1});
    };
    ASSERT_TRUE(run(0, 12).ok());
    std::vector<std::byte> before(
        static_cast<size_t>(kv_bytes(loaded->kv().shape(), 12, DType::q8_0))),
        after(before.size());
    ASSERT_TRUE(loaded->kv().export_block(2, 0, 12, before).ok());
    const auto wanted = run(12, 8);
    ASSERT_TRUE(wanted.ok());
    for (const char* at : {"step", "layer"}) {
      fails_at = at;
      const auto failed = run(12, 8);
      // A GPU's steps are paced.
      EXPECT_EQ(failed.ok(), fails_at == "layer" && !paced) << at;
      fails_at.clear();
      ASSERT_TRUE(loaded->kv().export_block(2, 0, 12, after).ok());
      EXPECT_EQ(after, before);
      const auto again = run(12, 8);
      ASSERT_TRUE(again.ok());
      EXPECT_EQ((*again)[0].logits, (*wanted)[0].logits);
    }
  }
}

// One long sequence and short ones: padded to the longest they are more positions than a small pool
// has, and are attended to one by one there.
TEST(MlxQuantisedKv, GathersNoMoreThanThePoolHas) {
  if (Wall::get().has_gpu()) return;  // what stands is looked at on MLX's CPU
  const auto model = RandomModelBuilder(wide_spec("llama"), 3, DType::f32).decoder();
  std::mt19937_64 random(6);
  const auto prompt = random_tokens(random, 110, model.spec.vocab);
  constexpr size_t kSequences = 9;
  const auto run = [&](int64_t blocks) {
    LoadOptions load;
    load.kv = DType::q8_0;
    load.kv_tokens = blocks * 16;
    load.step_tokens_max = 128;
    const auto loaded = load_decoder_on(std::move(*make_mlx_backend({.as_gpu = true})), model.spec,
                                        *model.weights, load);
    std::vector<std::vector<BlockId>> of = {{0, 1, 2, 3, 4, 5, 6}};
    while (of.size() < kSequences) of.push_back({static_cast<BlockId>(of.size() + 6)});
    std::vector<SequenceStep> batch;
    for (size_t s = 0; s < of.size(); ++s) {
      const size_t length = s == 0 ? prompt.size() : 1;
      batch.push_back({std::span(prompt).first(length), 0, of[s], StepOutput::none, nullptr, {}});
    }
    EXPECT_TRUE(loaded->execute(batch).ok());
    const TokenId token = 9;
    for (size_t s = 0; s < of.size(); ++s) {
      batch[s].position = static_cast<int64_t>(batch[s].tokens.size());
      batch[s].tokens = {&token, 1};
      batch[s].output = StepOutput::logits_last;
    }
    mx::reset_peak_memory();
    const size_t before = mx::get_active_memory();
    const auto results = loaded->execute(batch);
    const auto stood = static_cast<double>(mx::get_peak_memory() - before);
    std::vector<float> logits;
    EXPECT_TRUE(results.ok());
    for (const auto& result : *results) {
      logits.insert(logits.end(), result.logits.begin(), result.logits.end());
    }
    return std::pair(logits, stood);
  };
  const auto [few, small] = run(15);
  const auto [many, large] = run(64);
  EXPECT_LT(small, large / 2);
  ASSERT_EQ(few.size(), many.size());
  for (size_t i = 0; i < few.size(); ++i) ASSERT_NEAR(few[i], many[i], 1e-4) << i;
}

TEST(MlxQuantisedKv, TakesHeadsOfWholeBlocks) {
  ModelSpec spec = decoder_spec("llama");
  spec.head_dim = 48;
  MemoryLedger ledger(int64_t{1} << 30);
  const auto pool = KvPool::create(spec, DType::q8_0, mx::float32, 64, true, true, ledger);
  ASSERT_FALSE(pool.ok());
  EXPECT_EQ(pool.error().code, ErrorCode::unsupported);
  EXPECT_NE(pool.error().message.find("heads of 48"), std::string::npos) << pool.error().message;
}

#if defined(__linux__) && !defined(IMPETUS_SANITIZED)
// Kernels of our own do not know it: MLX's operations run, and a warning says so.
TEST(MlxQuantisedKv, RunsWithoutKernelsOfOurOwn) {
  if (Wall::get().has_gpu()) return;  // kernels on the host
  const auto model = RandomModelBuilder(wide_spec("qwen3"), 3, DType::f16).decoder();
  const MlxOptions plain{.run_ahead = RunAhead::on, .as_gpu = true};
  const auto wanted = logits_of(model, DType::q8_0, plain);
  const Logged logged;
  const auto made = logits_of(model, DType::q8_0, with_host_kernels());
  EXPECT_EQ(logged.count("not the kernels of our own"), 1) << logged.text();
  ASSERT_EQ(made.size(), wanted.size());
  for (size_t i = 0; i < made.size(); ++i) ASSERT_NEAR(made[i], wanted[i], 0.05) << i;
}
#endif

}  // namespace
}  // namespace impetus::mlx_backend

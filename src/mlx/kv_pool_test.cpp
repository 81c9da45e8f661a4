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

std::unique_ptr<KvPool> pool_of(const ModelSpec& spec, bool direct, MemoryLedger& ledger) {
  auto pool = KvPool::create(spec, DType::q8_0, mx::float32, 20 * 16, true, direct, ledger);
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

// What is not finite stays so, and is an error where a token is wanted.
TEST(MlxQuantisedKv, WhatIsNotFiniteStaysSo) {
  const auto model = RandomModelBuilder(wide_spec("llama"), 3, DType::f32).decoder();
  LoadOptions load;
  load.kv = DType::q8_0;
  load.kv_tokens = 64;
  for (const float bad : {std::nanf(""), std::numeric_limits<float>::infinity()}) {
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

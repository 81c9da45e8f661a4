// What is MLX's own: KV written in place, steps run ahead, failures that stay inside.
#include "mlx/decoder.h"

#include <chrono>
#include <cmath>
#include <limits>
#include <new>
#include <stdexcept>

#include "mlx/kernel_check.h"
#include "mlx/step_plan.h"
#include "mlx/wall.h"
#include "tests/conformance/subject.h"

namespace impetus::mlx_backend {
namespace {

using conformance::blocks_from;
using conformance::decoder_spec;
using conformance::encoder_spec;
using conformance::f32_options;
using conformance::greedy;
using conformance::load_decoder_on;
using conformance::load_encoder_on;
using conformance::random_tokens;
using testing::RandomModel;
using testing::RandomModelBuilder;
using RunAhead = MlxOptions::RunAhead;

std::unique_ptr<Backend> backend(MlxOptions options) {
  return std::move(*make_mlx_backend(options));
}

RandomModel small_model(uint64_t seed = 4) {
  return RandomModelBuilder(decoder_spec("llama"), seed, DType::f32).decoder();
}

}  // namespace

std::vector<std::vector<TokenId>> side_by_side(Executor& executor,
                                               std::vector<std::vector<TokenId>> sequences,
                                               const std::vector<std::vector<BlockId>>& blocks,
                                               int steps) {
  SamplingParams params;
  params.temperature = 0;
  std::vector<size_t> done(sequences.size(), 0);
  for (int i = 0; i < steps; ++i) {
    std::vector<SequenceStep> batch;
    for (size_t s = 0; s < sequences.size(); ++s) {
      batch.push_back({std::span(sequences[s]).subspan(done[s]),
                       static_cast<int64_t>(done[s]),
                       blocks[s],
                       StepOutput::sample,
                       &params,
                       {sequences[s], {}, static_cast<int64_t>(sequences[s].size()), nullptr}});
    }
    auto results = executor.execute(batch);
    EXPECT_TRUE(results.ok()) << results.error().message;
    if (!results.ok()) return sequences;
    for (size_t s = 0; s < sequences.size(); ++s) {
      done[s] = sequences[s].size();
      sequences[s].push_back((*results)[s].token->id);
    }
  }
  return sequences;
}

namespace {

TEST(MlxKv, IsWrittenInPlace) {
  const RandomModel model = small_model();
  for (const bool as_gpu : {false, true}) {
    for (const RunAhead ahead : {RunAhead::off, RunAhead::on}) {
      const auto loaded = load_decoder_on(backend({.run_ahead = ahead, .as_gpu = as_gpu}),
                                          model.spec, *model.weights);
      greedy(*loaded.model, {1, 2, 3}, 60);
      std::mt19937_64 random(1);
      std::vector<std::vector<TokenId>> sequences;
      for (int s = 0; s < 3; ++s)
        sequences.push_back(random_tokens(random, 5 + static_cast<size_t>(s), 101));
      side_by_side(*loaded.model, sequences, {{20, 21, 22}, {40, 31, 35}, {50, 49, 48}}, 30);
      std::vector<std::byte> bytes(static_cast<size_t>(loaded->kv().block_bytes()));
      ASSERT_TRUE(loaded->kv().export_block(20, 0, 16, bytes).ok());
      ASSERT_TRUE(loaded->kv().import_block(3, 0, 16, DType::f32, bytes).ok());
      greedy(*loaded.model, {9, 8}, 40, 60);
      EXPECT_EQ(counters_of(*loaded.model).kv_copies, 0) << as_gpu;
    }
  }
}

TEST(MlxKv, AStepTakesNoLongerInALargePool) {
  const RandomModel model = small_model();
  const auto seconds_of = [&](int64_t positions) {
    LoadOptions options = f32_options();
    options.kv_tokens = positions;
    const auto loaded =
        load_decoder_on(backend({.cpu = true}), model.spec, *model.weights, options);
    greedy(*loaded.model, {1}, 20);
    double best = 1e9;
    for (int i = 0; i < 20; ++i) {
      const auto start = std::chrono::steady_clock::now();
      greedy(*loaded.model, {1}, 10);
      best = std::min(
          best, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
    }
    return best;
  };
  // 1 MB and 1 GB of keys and values: copying the latter once would take a hundred times the step.
  const double small = seconds_of(1024), large = seconds_of(int64_t{1} << 20);
  EXPECT_LT(large, 5 * small + 0.005) << small << " s and " << large << " s";
}

TEST(MlxRunAhead, IsUsedAndChangesNoToken) {
  const RandomModel model = small_model(9);
  std::mt19937_64 random(3);
  std::vector<std::vector<TokenId>> sequences;
  std::vector<std::vector<BlockId>> blocks;
  for (int s = 0; s < 4; ++s) {
    sequences.push_back(random_tokens(random, 3 + random() % 20, 101));
    blocks.push_back(blocks_from(s * 8, 64));
  }
  const auto plain =
      load_decoder_on(backend({.run_ahead = RunAhead::off}), model.spec, *model.weights);
  const auto ahead =
      load_decoder_on(backend({.run_ahead = RunAhead::on}), model.spec, *model.weights);
  EXPECT_EQ(side_by_side(*ahead.model, sequences, blocks, 30),
            side_by_side(*plain.model, sequences, blocks, 30));
  // All but the prompts' step and the first of decoding.
  EXPECT_EQ(counters_of(*ahead.model).ahead_used, 28);
  EXPECT_EQ(counters_of(*ahead.model).ahead_dropped, 0);
  EXPECT_EQ(counters_of(*plain.model).ahead_used, 0);
}

TEST(MlxRunAhead, IsDroppedWhereTheNextStepIsAnother) {
  const RandomModel model = small_model(21);
  const auto ahead =
      load_decoder_on(backend({.run_ahead = RunAhead::on}), model.spec, *model.weights);
  const auto plain =
      load_decoder_on(backend({.run_ahead = RunAhead::off}), model.spec, *model.weights);
  SamplingParams params;
  params.temperature = 0;
  const std::vector<BlockId> blocks = {2, 3}, others = {2, 5};
  const auto run = [&](Executor& executor) {
    std::vector<std::vector<float>> logits;
    const auto step = [&](TokenId token, int64_t position, std::span<const BlockId> where,
                          StepOutput output) {
      const std::vector<TokenId> tokens = {token};
      const SequenceStep one{tokens, position, where,
                             output, &params,  {tokens, {}, position + 1, nullptr}};
      auto results = executor.execute({&one, 1});
      EXPECT_TRUE(results.ok());
      logits.push_back((*results)[0].logits);
      return output == StepOutput::sample ? (*results)[0].token->id : 0;
    };
    for (int64_t p = 0; p < 17; ++p)
      step(static_cast<TokenId>(p + 1), p, blocks, StepOutput::sample);
    const TokenId next = step(40, 17, blocks, StepOutput::sample);
    step((next + 1) % 101, 18, blocks, StepOutput::logits_last);  // another token
    const TokenId again = step(41, 18, blocks, StepOutput::sample);
    step(again, 17, blocks, StepOutput::logits_last);  // another position
    const TokenId last = step(42, 18, blocks, StepOutput::sample);
    step(last, 19, others, StepOutput::logits_all);  // another block, and all logits
    return logits;
  };
  // What block 5 held before is undefined, but the same for both: nothing was written there.
  std::vector<std::byte> zeros(static_cast<size_t>(ahead->kv().block_bytes()));
  for (Executor* one : {ahead.model.get(), plain.model.get()}) {
    ASSERT_TRUE(one->kv().import_block(5, 0, 16, DType::f32, zeros).ok());
  }
  EXPECT_EQ(run(*ahead.model), run(*plain.model));
  EXPECT_EQ(counters_of(*ahead.model).ahead_used, 0);
  EXPECT_GE(counters_of(*ahead.model).ahead_dropped, 19);
}

// A sequence ends and its blocks go to another while a step of it runs ahead: what that writes
// is gone before anybody reads there, and a prefix that others share is never written.
TEST(MlxRunAhead, WritesWhereNobodyReads) {
  const RandomModel model = small_model(12);
  std::mt19937_64 random(8);
  const auto loaded =
      load_decoder_on(backend({.run_ahead = RunAhead::on}), model.spec, *model.weights);
  const auto plain =
      load_decoder_on(backend({.run_ahead = RunAhead::off}), model.spec, *model.weights);
  const auto prompt =
      random_tokens(random, 16, 101);  // one whole block, as a prefix cache shares them
  SamplingParams params;
  params.temperature = 0;
  for (int round = 0; round < 12; ++round) {
    // A: the shared block 5, then its own. It stops in the middle, with a step ahead of it.
    auto first = prompt;
    first.push_back(static_cast<TokenId>(random() % 101));
    std::vector<BlockId> blocks = {5, 6, 7};
    for (Executor* executor : {loaded.model.get(), plain.model.get()}) {
      auto tokens = first;
      size_t position = 0;
      for (int i = 0; i < 1 + round; ++i) {
        const SequenceStep step{std::span(tokens).subspan(position),
                                static_cast<int64_t>(position),
                                blocks,
                                StepOutput::sample,
                                &params,
                                {tokens, {}, static_cast<int64_t>(tokens.size()), nullptr}};
        position = tokens.size();
        auto results = executor->execute({&step, 1});
        ASSERT_TRUE(results.ok());
        tokens.push_back((*results)[0].token->id);
      }
    }
    // B: the same prefix, found in block 5, and A's block 6 for its own positions.
    auto other = prompt;
    for (int i = 0; i < 3; ++i) other.push_back(static_cast<TokenId>(random() % 101));
    const std::vector<BlockId> taken = {5, 6};
    std::vector<float> logits[2];
    int which = 0;
    for (Executor* executor : {loaded.model.get(), plain.model.get()}) {
      const SequenceStep step{std::span(other).subspan(16), 16,      taken,
                              StepOutput::logits_all,       nullptr, {}};
      auto results = executor->execute({&step, 1});
      ASSERT_TRUE(results.ok());
      logits[which++] = (*results)[0].logits;
    }
    EXPECT_EQ(logits[0], logits[1]) << round;
  }
  EXPECT_GT(counters_of(*loaded.model).ahead_dropped, 5);
}

TEST(MlxWall, FailuresAreErrorsAndTheModelLivesOn) {
  std::string where;
  std::function<void()> fail;
  const auto options = [&](RunAhead ahead) {
    return MlxOptions{.run_ahead = ahead, .fault = [&](std::string_view at) {
                        if (fail && at == where) fail();
                      }};
  };
  struct Case {
    std::function<void()> fail;
    ErrorCode code;
    const char* says;
  };
  const Case cases[] = {
      {[] { throw std::runtime_error("[matmul] shapes"); }, ErrorCode::internal, "[matmul] shapes"},
      {[] { throw std::bad_alloc(); }, ErrorCode::insufficient_memory, "out of memory"},
      {[] { throw std::runtime_error("[malloc] Unable to allocate 99 bytes."); },
       ErrorCode::insufficient_memory, "99 bytes"},
      {[] { throw std::runtime_error("cudaStreamSynchronize failed: unspecified launch failure"); },
       ErrorCode::unavailable, "launch failure"},
      {[] { throw 7; }, ErrorCode::internal, "without saying why"},
      // From within MLX itself, on its own thread: a matrix that turns out to have no inverse.
      {[] {
         mx::array inverse = mx::linalg::inv(mx::zeros({4, 4}), mx::Device::cpu);
         inverse.eval();
       },
       ErrorCode::internal, "nverse"},
  };
  const RandomModel model = small_model(2);
  const RandomModel texts = RandomModelBuilder(encoder_spec("bert"), 5, DType::f32).encoder();
  const auto wanted = [&] {
    const auto plain = load_decoder_on(backend({}), model.spec, *model.weights);
    return greedy(*plain.model, {5, 6, 7}, 40);
  }();
  const std::vector<TokenId> words = {1, 2, 3};
  const std::vector<int32_t> ends = {0, 3};
  for (const Case& one : cases) {
    // While loading: refused, and nothing stays reserved.
    where = "load";
    fail = one.fail;
    MemoryLedger ledger(1 << 30);
    const auto made = backend(options(RunAhead::off));
    const auto refused = made->load_decoder(model.spec, *model.weights, f32_options(), ledger);
    ASSERT_FALSE(refused.ok());
    EXPECT_EQ(refused.error().code, one.code);
    EXPECT_NE(refused.error().message.find(one.says), std::string::npos) << refused.error().message;
    EXPECT_EQ(ledger.used_bytes(), 0);
    fail = nullptr;

    // While stepping: that step fails; what stood in the cache before stands, and the next goes on.
    for (const RunAhead ahead : {RunAhead::off, RunAhead::on}) {
      auto loaded = load_decoder_on(backend(options(ahead)), model.spec, *model.weights);
      auto tokens = greedy(*loaded.model, {5, 6, 7}, 20);
      std::vector<std::byte> before(static_cast<size_t>(loaded->kv().block_bytes())),
          after = before;
      ASSERT_TRUE(loaded->kv().export_block(3, 0, 16, before).ok());
      where = "step";
      fail = one.fail;
      SamplingParams params;
      params.temperature = 0;
      const auto blocks = blocks_from(3, 40);
      const SequenceStep step{std::span(tokens).last(1), 19,      blocks,
                              StepOutput::sample,        &params, {tokens, {}, 20, nullptr}};
      const auto failed = loaded.model->execute({&step, 1});
      ASSERT_FALSE(failed.ok());
      EXPECT_EQ(failed.error().code, one.code);
      EXPECT_NE(failed.error().message.find(one.says), std::string::npos);
      fail = nullptr;
      ASSERT_TRUE(loaded->kv().export_block(3, 0, 16, after).ok());
      EXPECT_EQ(before, after);
      while (tokens.size() < 40) {
        const SequenceStep next{std::span(tokens).last(1),
                                static_cast<int64_t>(tokens.size()) - 1,
                                blocks,
                                StepOutput::sample,
                                &params,
                                {tokens, {}, static_cast<int64_t>(tokens.size()), nullptr}};
        auto results = loaded.model->execute({&next, 1});
        ASSERT_TRUE(results.ok()) << results.error().message;
        tokens.push_back((*results)[0].token->id);
      }
      EXPECT_EQ(tokens, wanted);
    }

    auto encoder = load_encoder_on(backend(options(RunAhead::off)), texts.spec, *texts.weights);
    const EncoderBatch batch{words, ends, {}, EncodeOutput::pooled};
    const auto before = encoder->encode(batch);
    ASSERT_TRUE(before.ok());
    where = "encode";
    fail = one.fail;
    const auto failed = encoder->encode(batch);
    ASSERT_FALSE(failed.ok());
    EXPECT_EQ(failed.error().code, one.code);
    fail = nullptr;
    EXPECT_EQ(encoder->encode(batch)->values, before->values);
  }
}

TEST(MlxBackend, DescriptorContract) {
  const auto made = backend({.cpu = true});
  const BackendDescriptor& d = made->descriptor();
  EXPECT_EQ(d.device, "mlx");
  EXPECT_EQ(d.backend, "mlx-cpu");
  EXPECT_NE(d.name.find("MLX " + mlx_version()), std::string::npos);
  EXPECT_FALSE(d.batch_invariant);
  EXPECT_FALSE(d.emulated);
  for (const DType type : d.weights) EXPECT_TRUE(is_weight(type));
}

// A GPU with memory of its own: what it has no room for is an error, and the host's stays free.
TEST(MlxBackend, MemoryOfItsOwnHoldsItsModels) {
  EXPECT_EQ(backend({.cpu = true})->memory(), nullptr);
  const RandomModel model = small_model(6);
  MemoryLedger host(1000);
  LoadOptions options;
  options.kv_tokens = 128;
  const auto roomy = backend({.memory_bytes = int64_t{1} << 30});
  ASSERT_NE(roomy->memory(), nullptr);
  {
    const auto loaded = roomy->load_decoder(model.spec, *model.weights, options, host);
    ASSERT_TRUE(loaded.ok()) << loaded.error().message;
    EXPECT_GT(roomy->memory()->used_bytes(), model.weights->bytes());
    EXPECT_EQ(host.used_bytes(), 0);
  }
  EXPECT_EQ(roomy->memory()->used_bytes(), 0);
  {
    const RandomModel texts =
        testing::RandomModelBuilder(conformance::encoder_spec("bert"), 3, DType::f32).encoder();
    const auto loaded = roomy->load_encoder(texts.spec, *texts.weights, options, host);
    ASSERT_TRUE(loaded.ok()) << loaded.error().message;
    EXPECT_GT(roomy->memory()->used_bytes(), texts.weights->bytes());
    EXPECT_EQ(host.used_bytes(), 0);
  }
  EXPECT_EQ(Wall::models_share(int64_t{24} << 30), (int64_t{45} << 29));    // 24 less 1.5
  EXPECT_EQ(Wall::models_share(int64_t{128} << 30), (int64_t{247} << 29));  // less 4.5
  EXPECT_EQ(Wall::models_share(int64_t{1} << 30), 1);
  const auto tight = backend({.memory_bytes = 1000});
  const auto refused = tight->load_decoder(model.spec, *model.weights, options, host);
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, ErrorCode::insufficient_memory);
}

TEST(MlxBackend, IsSteppedByAnotherThreadThanLoadedIt) {
  const RandomModel model = small_model(6);
  const auto loaded = load_decoder_on(backend({}), model.spec, *model.weights);
  const auto here = greedy(*loaded.model, {4}, 30);
  std::vector<TokenId> there;
  std::thread([&] { there = greedy(*loaded.model, {4}, 30, 60); }).join();
  EXPECT_EQ(here, there);
}

TEST(MlxChecks, NaNIsTheWorstError) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  EXPECT_EQ(worse(1, 2), 2);
  EXPECT_EQ(worse(2, 1), 2);
  EXPECT_TRUE(std::isnan(worse(nan, 1)));
  EXPECT_TRUE(std::isnan(worse(1, nan)));
}

TEST(MlxPlan, RunsOfSlots) {
  const std::vector<BlockId> blocks = {4, 5, 2, 9};
  const auto text = [&](int64_t begin, int64_t end) {
    std::string out;
    for (const SlotRun& run : runs_of(blocks, begin, end, 16)) {
      out += fmt::format("[{},{})", run.begin, run.end);
    }
    return out;
  };
  EXPECT_EQ(text(0, 32), "[64,96)");
  EXPECT_EQ(text(3, 20), "[67,84)");
  EXPECT_EQ(text(0, 60), "[64,96)[32,48)[144,156)");
  EXPECT_EQ(text(40, 41), "[40,41)");
  EXPECT_EQ(text(47, 49), "[47,48)[144,145)");
}

}  // namespace
}  // namespace impetus::mlx_backend

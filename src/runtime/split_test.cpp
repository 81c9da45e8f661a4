// Prefill on one CPU executor, decoding on another: bit-equal to one alone where both have the same
// kernels, and the goldens' tokens where they have not.
#include <gtest/gtest.h>

#include <cmath>
#include <future>
#include <random>

#include "base/json.h"
#include "cpu/cpu_backend.h"
#include "engine/runner.h"
#include "engine/split_executor.h"
#include "formats/gguf.h"
#include "formats/weights.h"
#include "tests/support/random_model.h"
#include "tests/support/test_data.h"

namespace impetus {
namespace {

// One or two CPU executors of a model, and what they stand on.
struct Loaded {
  std::vector<std::unique_ptr<Backend>> backends;
  std::unique_ptr<MemoryLedger> ledger = std::make_unique<MemoryLedger>(int64_t{8} << 30);
  std::unique_ptr<Executor> executor;
};

std::vector<std::string> tables() {
  std::vector<std::string> names;
  for (const char* isa : {"reference", "avx2", "avx512"}) {
    if (make_cpu_backend({.threads = 1, .isa = isa}).ok()) names.emplace_back(isa);
  }
  return names;
}

std::unique_ptr<Executor> load(Loaded& into, const ModelSpec& spec, const WeightSet& weights,
                               const std::string& isa, DType kv, int64_t kv_tokens) {
  LoadOptions options;
  options.kv = kv;
  options.kv_tokens = kv_tokens;
  options.step_tokens_max = 64;
  into.backends.push_back(std::move(*make_cpu_backend({.threads = 2, .isa = isa})));
  auto executor = into.backends.back()->load_decoder(spec, weights, options, *into.ledger);
  EXPECT_TRUE(executor.ok()) << executor.error().message;
  return std::move(*executor);
}

Loaded alone(const ModelSpec& spec, const WeightSet& weights, const std::string& isa, DType kv,
             int64_t kv_tokens = 1024) {
  Loaded loaded;
  loaded.executor = load(loaded, spec, weights, isa, kv, kv_tokens);
  return loaded;
}

Loaded split(const ModelSpec& spec, const WeightSet& weights, const std::string& prefill,
             const std::string& decode, DType prefill_kv, DType decode_kv,
             int64_t kv_tokens = 1024) {
  Loaded loaded;
  auto first = load(loaded, spec, weights, prefill, prefill_kv, kv_tokens);
  auto second = load(loaded, spec, weights, decode, decode_kv, kv_tokens);
  auto pair = SplitExecutor::create(std::move(first), std::move(second));
  EXPECT_TRUE(pair.ok());
  loaded.executor = std::move(*pair);
  return loaded;
}

// Logits of every position after the prompt's last but one: the prompt in chunks, then the given
// tokens one at a time.
std::vector<float> forced(Executor& executor, std::span<const TokenId> tokens, size_t prompt) {
  std::vector<BlockId> blocks;
  for (size_t p = 0; p < tokens.size(); p += 16) {
    blocks.push_back(static_cast<BlockId>((p / 16 * 7 + 3) % 61));
  }
  std::vector<float> logits;
  for (size_t at = 0; at < tokens.size();) {
    SequenceStep step;
    const size_t count = at < prompt ? std::min<size_t>(prompt - at, 23) : 1;
    step.tokens = tokens.subspan(at, count);
    step.position = static_cast<int64_t>(at);
    step.blocks = blocks;
    step.phase = at < prompt ? StepPhase::prefill : StepPhase::decode;
    at += count;
    step.output = at < prompt ? StepOutput::none : StepOutput::logits_last;
    auto results = executor.execute({&step, 1});
    EXPECT_TRUE(results.ok()) << results.error().message;
    if (!results.ok()) return {};
    const auto& row = (*results)[0].logits;
    logits.insert(logits.end(), row.begin(), row.end());
  }
  return logits;
}

// One sequence's tokens, through a lane as the server drives it.
struct Sink final : TokenSink {
  std::promise<void> ended;
  std::vector<TokenId> tokens;
  void on_prefilled(int64_t, const RanOn&) override {}
  bool on_token(const SampledToken& token) override {
    tokens.push_back(token.id);
    return true;
  }
  void on_finished(FinishReason reason, const Error& error, const TokenUsage& usage) override {
    EXPECT_EQ(reason, FinishReason::length) << error.message;
    EXPECT_EQ(usage.ran_on.prefill.size(), 1u);
    EXPECT_EQ(usage.ran_on.decode.size(), 1u);
    ended.set_value();
  }
};

std::shared_ptr<Sink> submit(GenerationLane& lane, const std::vector<TokenId>& prompt,
                             int64_t tokens_max, float temperature, uint64_t seed) {
  auto sink = std::make_shared<Sink>();
  SequenceRequest request;
  request.prompt = prompt;
  request.sampling.temperature = temperature;
  request.sampling.seed = seed;
  request.tokens_max = tokens_max;
  EXPECT_TRUE(lane.submit(std::move(request), sink).ok());
  return sink;
}

// Greedy ids, the prompt's included.
std::vector<TokenId> greedy(Loaded loaded, const std::vector<TokenId>& prompt, size_t total) {
  DeviceLoop loop;
  GenerationLane lane(loop, std::move(loaded.executor), {}, 1);
  const auto sink = submit(lane, prompt, static_cast<int64_t>(total - prompt.size()), 0, 0);
  sink->ended.get_future().wait();
  std::vector<TokenId> all = prompt;
  all.insert(all.end(), sink->tokens.begin(), sink->tokens.end());
  return all;
}

testing::RandomModel random_model(DType weights) {
  ModelSpec spec;
  spec.family = "llama";
  spec.layers = 2;
  spec.hidden = 64;
  spec.heads = 4;
  spec.kv_heads = 2;
  spec.head_dim = 16;
  spec.feed_forward = 96;
  spec.vocab = 101;
  spec.context = 512;
  return testing::RandomModelBuilder(spec, 11, weights).decoder();
}

TEST(Split, EqualKernelsAreOneExecutorBitForBit) {
  std::mt19937_64 random(3);
  for (const DType weights : {DType::f32, DType::q4_0}) {
    const auto model = random_model(weights);
    std::vector<TokenId> tokens(120);
    for (TokenId& token : tokens) token = static_cast<TokenId>(random() % 101);
    for (const auto& isa : tables()) {
      for (const DType kv : {DType::f32, DType::f16, DType::bf16}) {
        const auto one = alone(model.spec, *model.weights, isa, kv);
        const auto two = split(model.spec, *model.weights, isa, isa, kv, kv);
        const auto wanted = forced(*one.executor, tokens, 75);
        ASSERT_EQ(wanted.size(), 46u * 101);
        EXPECT_EQ(forced(*two.executor, tokens, 75), wanted) << isa << " " << to_string(kv);
      }
    }
  }
}

// Two turns of several conversations at once, in a cache too small for them: the second turns find
// blocks that the decoding side computed, and some sequences are sent back and computed again.
std::vector<std::vector<TokenId>> conversations(Loaded loaded, int64_t* preemptions,
                                                int64_t* cached) {
  DeviceLoop loop;
  GenerationLane lane(loop, std::move(loaded.executor), {.step_tokens_max = 40}, 1);
  std::vector<std::vector<TokenId>> prompts, answers;
  for (int i = 0; i < 8; ++i) {
    std::vector<TokenId> prompt(35 + static_cast<size_t>(i));
    for (size_t p = 0; p < prompt.size(); ++p) {
      prompt[p] = static_cast<TokenId>(p < 20 ? p : (p * 7 + static_cast<size_t>(i) * 13) % 101);
    }
    prompts.push_back(std::move(prompt));
  }
  for (int turn = 0; turn < 2; ++turn) {
    std::vector<std::shared_ptr<Sink>> sinks;
    for (size_t i = 0; i < prompts.size(); ++i) sinks.push_back(submit(lane, prompts[i], 40, 1, i));
    for (size_t i = 0; i < prompts.size(); ++i) {
      sinks[i]->ended.get_future().wait();
      answers.push_back(sinks[i]->tokens);
      prompts[i].insert(prompts[i].end(), sinks[i]->tokens.begin(), sinks[i]->tokens.end());
      prompts[i].insert(prompts[i].end(), {1, 2, 3});
    }
  }
  *preemptions = lane.counts().preemptions;
  *cached = lane.counts().cached_tokens;
  return answers;
}

TEST(Split, EqualKernelsAnswerAsOneUnderPressure) {
  const auto model = random_model(DType::f32);
  for (const DType kv : {DType::f32, DType::f16}) {
    int64_t preemptions = 0, cached = 0;
    const auto wanted = conversations(alone(model.spec, *model.weights, tables().back(), kv, 4096),
                                      &preemptions, &cached);
    EXPECT_EQ(preemptions, 0);
    const auto got = conversations(
        split(model.spec, *model.weights, tables().back(), tables().back(), kv, kv, 448),
        &preemptions, &cached);
    EXPECT_EQ(got, wanted);
    EXPECT_GT(preemptions, 0);
    EXPECT_GT(cached, 0);
  }
}

TEST(Split, UnlikeKernelsAndTypesStayWithinTheirRounding) {
  std::mt19937_64 random(4);
  const auto model = random_model(DType::f32);
  std::vector<TokenId> tokens(100);
  for (TokenId& token : tokens) token = static_cast<TokenId>(random() % 101);
  const auto wanted =
      forced(*alone(model.spec, *model.weights, "reference", DType::f32).executor, tokens, 60);
  for (const auto& prefill : tables()) {
    for (const auto& decode : tables()) {
      for (const auto& [from, to, tolerance] :
           {std::tuple{DType::f32, DType::f32, 1e-3}, std::tuple{DType::f16, DType::f16, 3e-2},
            std::tuple{DType::f32, DType::f16, 3e-2}, std::tuple{DType::f16, DType::f32, 3e-2}}) {
        const auto pair = split(model.spec, *model.weights, prefill, decode, from, to);
        const auto got = forced(*pair.executor, tokens, 60);
        ASSERT_EQ(got.size(), wanted.size());
        double worst = 0;
        for (size_t i = 0; i < got.size(); ++i) {
          worst = std::max(worst, std::fabs(static_cast<double>(got[i] - wanted[i])));
        }
        EXPECT_LT(worst, tolerance)
            << prefill << " to " << decode << ", " << to_string(from) << " to " << to_string(to);
      }
    }
  }
}

std::vector<TokenId> token_list(const json::value& value) {
  std::vector<TokenId> ids;
  for (const auto& id : value.as_array()) ids.push_back(id.to_number<TokenId>());
  return ids;
}

TEST(Split, Stories260kGreedyOnAnyTwoTables) {
  const auto folder = testing::test_data() / "models/stories-260k";
  IMPETUS_NEED_DATA(folder / "stories260K.gguf");
  const auto file = GgufFile::open(folder / "stories260K.gguf");
  ASSERT_TRUE(file.ok()) << file.error().message;
  const auto spec = spec_from_gguf(*file);
  const auto golden = read_json_file((folder / "golden_greedy_numpy.json").string());
  const auto wanted = token_list(golden->at("greedy_ids"));
  for (const auto& prefill : tables()) {
    for (const auto& decode : tables()) {
      for (const size_t prompt : {1, 40}) {
        auto pair = split(*spec, file->weights(), prefill, decode, DType::f32, DType::f32);
        const std::vector<TokenId> begin(wanted.begin(),
                                         wanted.begin() + static_cast<ptrdiff_t>(prompt));
        EXPECT_EQ(greedy(std::move(pair), begin, wanted.size()), wanted)
            << prefill << " " << decode;
      }
    }
  }
}

TEST(Split, Tinystories656kGreedyOnAnyTwoTables) {
  const auto folder = testing::test_data() / "models/tinystories-656k";
  IMPETUS_NEED_DATA(folder / "model.safetensors");
  const auto weights = open_safetensors_folder(folder);
  ASSERT_TRUE(weights.ok()) << weights.error().message;
  const auto config = read_json_file((folder / "config.json").string());
  const auto spec = spec_from_config(config->as_object());
  const auto golden = read_json_file((folder / "golden_greedy_numpy.json").string());
  for (const auto& prefill : tables()) {
    for (const auto& decode : tables()) {
      for (const auto& c : golden->at("cases").as_array()) {
        const auto wanted = token_list(c.at("greedy_ids"));
        auto pair = split(*spec, *weights, prefill, decode, DType::f32, DType::f32);
        EXPECT_EQ(greedy(std::move(pair), token_list(c.at("prompt_ids")), wanted.size()), wanted)
            << prefill << " " << decode;
      }
    }
  }
}

TEST(Split, BothCachesStandInTheLedger) {
  const auto model = random_model(DType::f32);
  const auto one = alone(model.spec, *model.weights, "reference", DType::f16);
  const auto two =
      split(model.spec, *model.weights, "reference", "reference", DType::f16, DType::f16);
  EXPECT_EQ(two.ledger->used_bytes(), 2 * one.ledger->used_bytes());
}

}  // namespace
}  // namespace impetus

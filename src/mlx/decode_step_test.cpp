// The kernel of whole decode steps, run on the host, its blocks by turns: in whole models against
// the kernels of a step's parts and against MLX's operations.
#include "mlx/decode_step.h"

#ifdef __linux__  // contexts that run by turns
#include <set>

#include "mlx/cuda_on_host.h"
#include "mlx/decoder.h"
#include "mlx/kernel_check.h"
#include "mlx/mlx_decoder.h"
#include "mlx/test_support.h"
#include "tests/conformance/subject.h"
#include "tests/support/grouped_model.h"

namespace impetus::mlx_backend {
namespace {

using conformance::decoder_spec;
using on_host::Bf16;
using on_host::data;
using on_host::empty;

// The shapes and types that are compiled here.
class HostStep final : public StepKernel {
 public:
  explicit HostStep(const StepForm& form) : form_(form) {}

  static std::unique_ptr<StepKernel> make(const StepForm& form) {
    auto step = std::make_unique<HostStep>(form);
    return step->with([](auto) {}) ? std::move(step) : nullptr;
  }

  // Ways to go wrong: to throw, to make the first so many logits 0, to run without
  // the last so many blocks.
  bool throws = false;
  int forgets = 0, missing = 0;
  int at_once = 3;

  // Few, so that tests are short; some have more.
  int blocks() override { return at_once; }

  mx::array addresses(const std::vector<std::variant<mx::array, int64_t>>& of) override {
    std::vector<int64_t> made;
    for (const auto& one : of) {
      if (const auto* number = std::get_if<int64_t>(&one)) {
        made.push_back(*number);
        continue;
      }
      mx::array array = std::get<mx::array>(one);
      array.eval();
      EXPECT_TRUE(array.flags().row_contiguous);
      made.push_back(reinterpret_cast<int64_t>(data<char>(array)));
    }
    return mx::array(made.begin(), mx::Shape{static_cast<int>(made.size())}, mx::int64);
  }

  StepOutputs run(const StepInputs& inputs, int rows, int memory, int blocks) override {
    if (throws) throw std::runtime_error("no compiler");
    std::vector<mx::array> all = {inputs.table, inputs.pools,   inputs.tokens,
                                  inputs.plan,  inputs.scratch, inputs.after};
    mx::eval(all);
    StepOutputs made;
    made.logits = empty({rows, form_.vocab}, mx::float32);
    std::vector<int*> best;
    for (int i = 0; i < kStepRowsMax / 2; ++i) {
      made.best.push_back(empty({2}, mx::int32));
      best.push_back(data<int>(made.best.back()));
      best.back()[0] = best.back()[1] = kGaveUp;  // what nobody writes nobody reads
    }
    made.next = empty({kStepRowsMax}, mx::int32);
    with([&](auto model) {
      using Model = decltype(model);
      // As few warps as the kernel can be made of.
      constexpr int kWarps = 4;
      using Ring = impetus::WeightRing<kWarps, Model::kCodes>;
      const int columns =
          std::max({form_.hidden, form_.feed_forward, form_.shape.heads * form_.shape.head_dim});
      const int fixed = impetus::step_shared_bytes<Model, kStepWarps>(rows, form_.hidden, columns);
      EXPECT_EQ(fixed, step_shared_bytes(form_, rows));
      EXPECT_GE(memory, fixed + Ring::kHeadBytes + step_stage_bytes(form_));
      // As little room for weights as there may be, and more.
      const int stages = 1 + runs_++ % 3;
      const int bytes = impetus::step_shared_bytes<Model, kWarps>(rows, form_.hidden, columns) +
                        Ring::kHeadBytes + stages * kWarps * Ring::kPartBytes;
      on_host::launch_at_once(
          static_cast<unsigned>(blocks), static_cast<unsigned>(missing),
          (kWarps + impetus::kProducerWarps) * 32, static_cast<size_t>(bytes), [&](char* memory) {
            impetus::decode_step<Model, kWarps>(
                reinterpret_cast<const long long*>(data<int64_t>(inputs.table)),
                reinterpret_cast<const long long*>(data<int64_t>(inputs.pools)),
                data<int>(inputs.tokens), data<int>(inputs.plan), inputs.plan.shape(1), rows,
                data<char>(inputs.scratch), memory, bytes, data<float>(made.logits), best.data(),
                data<int>(made.next));
          });
    });
    for (int i = 0; i < forgets; ++i) data<float>(made.logits)[i] = 0;
    return made;
  }

 private:
  template <typename T, bool BF16, bool NEIGHBOURS, bool NORM, typename Body>
  bool body_with(Body&& body) {
    if (form_.shape.neighbours != NEIGHBOURS || form_.shape.qk_norm != NORM) return false;
    body(impetus::StepModel<T, BF16, T, 2, 16, KvPool::kBlockTokens, NEIGHBOURS, NORM, 16000, 4032,
                            4064, 8032, 8064>());
    return true;
  }
  template <typename Body>
  bool with(Body&& body) {
    const DecodeShape& shape = form_.shape;
    if (shape.heads != 2 * shape.kv_heads || shape.head_dim != 16) return false;
    if (shape.activations != shape.kv) return false;
    // Those of the conformance suite: Llama, Qwen 2, Qwen 3.
    if (shape.activations == mx::bfloat16) {
      return body_with<Bf16, true, true, false>(body) || body_with<Bf16, true, false, true>(body);
    }
    return body_with<_Float16, false, true, false>(body) ||
           body_with<_Float16, false, false, false>(body) ||
           body_with<_Float16, false, false, true>(body);
  }

  StepForm form_;
  int runs_ = 0;
};
static_assert(kStepProducerWarps == impetus::kProducerWarps);

}  // namespace

decltype(MlxOptions::decode_step) host_step() {
  return HostStep::make;
}

namespace {

using conformance::load_decoder_on;

// Sequences of unlike lengths, forced through decode steps of one row each: all logits.
struct Outcome {
  std::vector<float> logits;
  std::vector<TokenId> likeliest;
  DecoderCounters counters;
};

Outcome outcome_of(const testing::RandomModel& model, DType kv, const MlxOptions& options,
                   int64_t sequences, int64_t steps, int64_t longest = 0) {
  LoadOptions load;
  load.kv = kv;
  load.kv_tokens = 8192;
  load.step_tokens_max = std::max<int64_t>(8, sequences);
  const auto loaded =
      load_decoder_on(std::move(*make_mlx_backend(options)), model.spec, *model.weights, load);
  Outcome run;
  if (!loaded.model) return run;
  std::mt19937_64 random(7);
  SamplingParams greedy;
  greedy.temperature = 0;
  std::vector<std::vector<BlockId>> blocks(static_cast<size_t>(sequences));
  std::vector<TokenId> tokens(blocks.size());
  std::vector<int64_t> positions(blocks.size());
  BlockId block = 0;
  for (size_t s = 0; s < blocks.size(); ++s) {
    positions[s] = s == 0 && longest > 0 ? longest : static_cast<int64_t>((s + 1) * 37 % 185);
    for (int64_t p = 0; p < positions[s] + steps; p += 16) blocks[s].push_back(block++);
    std::shuffle(blocks[s].begin(), blocks[s].end(), random);
    const auto prompt =
        conformance::random_tokens(random, static_cast<size_t>(positions[s]), model.spec.vocab);
    for (int64_t p = 0; p < positions[s]; p += load.step_tokens_max) {
      const SequenceStep step{
          std::span(prompt).subspan(
              static_cast<size_t>(p),
              static_cast<size_t>(std::min(load.step_tokens_max, positions[s] - p))),
          p,
          blocks[s],
          StepOutput::none,
          nullptr,
          {}};
      EXPECT_TRUE(loaded->execute({&step, 1}).ok());
    }
  }
  for (int64_t i = 0; i < steps; ++i) {
    const bool sampled = i % 2 != 0;
    std::vector<SequenceStep> batch;
    for (size_t s = 0; s < blocks.size(); ++s) {
      if (!sampled) tokens[s] = conformance::random_tokens(random, 1, model.spec.vocab)[0];
      batch.push_back({{&tokens[s], 1},
                       positions[s]++,
                       blocks[s],
                       sampled ? StepOutput::sample : StepOutput::logits_last,
                       &greedy,
                       {}});
    }
    const auto results = loaded->execute(batch);
    EXPECT_TRUE(results.ok()) << results.error().message;
    if (!results.ok()) return run;
    for (size_t s = 0; s < blocks.size(); ++s) {
      const SequenceResult& result = (*results)[s];
      run.logits.insert(run.logits.end(), result.logits.begin(), result.logits.end());
      if (!sampled) continue;
      EXPECT_TRUE(result.token.ok());
      if (result.token.ok()) run.likeliest.push_back(result.token->id);
    }
  }
  run.counters = counters_of(*loaded.model);
  return run;
}

testing::RandomModel model_of(const std::string& family, uint64_t seed, int bits, int group,
                              DType type) {
  ModelSpec spec = decoder_spec(family);
  spec.hidden = bits == 0 ? 96 : 128;
  spec.feed_forward = bits == 0 ? 160 : 384;
  spec.vocab = 131;
  spec.tied_embeddings = seed % 2 == 0;
  // Files of dense matrices may have wider embeddings.
  const DType other = bits == 0 && !spec.tied_embeddings ? DType::f32 : type;
  testing::RandomModel model = testing::RandomModelBuilder(spec, seed, type, other).decoder();
  if (bits == 0) return model;
  return testing::in_groups(model, {GroupQuantised::Mode::affine, bits, group, type});
}

void expect_alike(const Outcome& made, const Outcome& wanted, DType type) {
  ASSERT_EQ(made.logits.size(), wanted.logits.size());
  double worst = 0, largest = 0;
  for (size_t i = 0; i < made.logits.size(); ++i) {
    const double off = std::abs(static_cast<double>(made.logits[i]) - wanted.logits[i]);
    worst = worse(worst, off);
    largest = std::max(largest, std::abs(static_cast<double>(wanted.logits[i])));
  }
  // Each step of a sum is rounded elsewhere.
  EXPECT_LE(worst, 64 * conformance::rounding_of(type) * largest);
}

MlxOptions without_whole_steps() {
  MlxOptions options = with_host_kernels();
  options.decode_step = nullptr;
  return options;
}

TEST(StepKernel, IsTheKernelsOfItsParts) {
  struct Case {
    const char* family;
    int bits, group;
    DType type;
    int64_t sequences;
  };
  uint64_t seed = 40;
  for (const Case& one : {Case{"llama", 4, 32, DType::f16, 1},
                          {"llama", 4, 64, DType::bf16, 8},
                          {"qwen2", 8, 64, DType::f16, 3},
                          {"qwen3", 8, 32, DType::bf16, 5},
                          {"llama", 0, 0, DType::f16, 7},
                          {"qwen3", 0, 0, DType::bf16, 2},
                          {"qwen2", 0, 0, DType::f16, 6},
                          {"qwen3", 4, 64, DType::f16, 4},
                          {"llama", 8, 64, DType::bf16, 8}}) {
    SCOPED_TRACE(::testing::Message() << one.family << " " << one.bits << " " << one.sequences);
    const auto model = model_of(one.family, ++seed, one.bits, one.group, one.type);
    constexpr int64_t kSteps = 6;
    const Outcome wanted =
        outcome_of(model, one.type, without_whole_steps(), one.sequences, kSteps);
    const Outcome made = outcome_of(model, one.type, with_host_kernels(), one.sequences, kSteps);
    EXPECT_EQ(wanted.counters.whole_steps, 0);
    EXPECT_GE(made.counters.whole_steps, kSteps);
    EXPECT_EQ(made.counters.kv_copies, 0);
    expect_alike(made, wanted, one.type);
  }
}

// More sequences than one launch takes: launches one behind another, the last of fewer rows, and
// steps that were begun ahead of the ones before.
TEST(StepKernel, SeveralLaunchesAreOneStep) {
  for (const int64_t sequences : {11, 17}) {
    const auto model = model_of("llama", static_cast<uint64_t>(sequences), 4, 64, DType::f16);
    constexpr int64_t kSteps = 3;
    MlxOptions options = with_host_kernels();
    options.step_launches = 2;
    const Outcome wanted = outcome_of(model, DType::f16, without_whole_steps(), sequences, kSteps);
    const Outcome made = outcome_of(model, DType::f16, options, sequences, kSteps);
    EXPECT_GE(made.counters.whole_steps, sequences <= 16 ? kSteps : 0);
    if (sequences > 16) EXPECT_LT(made.counters.whole_steps, kSteps);
    expect_alike(made, wanted, DType::f16);
  }
}

// What the host reckons is what the kernel lays out, for forms that no test here runs, too.
template <typename U, int GROUP, int DIM>
void expect_layout(mx::Dtype kv) {
  using Model =
      impetus::StepModel<Bf16, true, U, GROUP, DIM, KvPool::kBlockTokens, false, true, 16000, 4064>;
  StepForm form;
  form.shape = {.heads = 4 * GROUP,
                .kv_heads = 4,
                .head_dim = DIM,
                .qk_norm = true,
                .activations = mx::bfloat16,
                .kv = kv};
  for (const auto& [hidden, feed_forward] : {std::pair(64, 96), {2048, 5632}, {4096, 14336}}) {
    form.hidden = hidden;
    form.feed_forward = feed_forward;
    const int columns = std::max({hidden, feed_forward, form.shape.heads * DIM});
    for (int rows = 1; rows <= kStepRowsMax; ++rows) {
      EXPECT_EQ((impetus::step_shared_bytes<Model, kStepWarps>(rows, hidden, columns)),
                step_shared_bytes(form, rows))
          << GROUP << " " << DIM << " " << hidden << " " << rows;
    }
  }
}

TEST(StepKernel, TakesTheSharedMemoryThatWasReckoned) {
  expect_layout<Bf16, 1, 256>(mx::bfloat16);
  expect_layout<Bf16, 4, 128>(mx::bfloat16);
  expect_layout<Bf16, 7, 64>(mx::bfloat16);
  expect_layout<float, 7, 80>(mx::float32);
  expect_layout<float, 16, 128>(mx::float32);
  StepForm dense, codes;
  dense.formats = {16000};
  codes.formats = {16000, 8032};
  EXPECT_EQ((kStepWarps * impetus::WeightRing<4, false>::kPartBytes), step_stage_bytes(dense));
  EXPECT_EQ((kStepWarps * impetus::WeightRing<4, true>::kPartBytes), step_stage_bytes(codes));
}

// How many sequences' steps are one launch, on cards whose blocks have so many KB.
TEST(StepKernel, TakesAsManySequencesAsFit) {
  struct Model {
    const char* name;
    int hidden, feed_forward, heads, kv_heads, head_dim;
    std::array<int, 3> dense, codes;  // rows at 99, 163, 227 KB
  };
  for (const Model& one : {Model{"Llama-3.2-1B", 2048, 8192, 32, 8, 64, {2, 6, 8}, {2, 6, 8}},
                           {"Llama-3.1-8B", 4096, 14336, 32, 8, 128, {1, 3, 5}, {1, 3, 5}},
                           {"Qwen2.5-7B", 3584, 18944, 28, 4, 128, {1, 2, 4}, {0, 2, 4}},
                           {"Llama-3.1-70B", 8192, 28672, 64, 8, 128, {0, 1, 2}, {0, 1, 2}}}) {
    StepForm form;
    form.shape = {.heads = one.heads, .kv_heads = one.kv_heads, .head_dim = one.head_dim};
    form.hidden = one.hidden;
    form.feed_forward = one.feed_forward;
    for (const bool codes : {false, true}) {
      form.formats = {codes ? 4064 : 16000};
      std::array<int, 3> made = {};
      for (size_t i = 0; i < made.size(); ++i) {
        const int most = std::array{99 << 10, 163 << 10, 227 << 10}[i];
        made[i] = step_rows_max(form, most);
        for (int rows = 1; rows <= made[i]; ++rows) {
          const int memory = *step_memory(form, rows, most);
          EXPECT_LE(memory, most);
          EXPECT_GE(memory, step_shared_bytes(form, rows) + step_stage_bytes(form));
          EXPECT_GE(*step_memory(form, made[i], most), memory);
        }
        EXPECT_FALSE(step_memory(form, made[i] + 1, most).has_value() && made[i] < kStepRowsMax);
      }
      EXPECT_EQ(made, codes ? one.codes : one.dense) << one.name << " " << codes;
    }
  }
}

// More blocks than parts of attention: positions in shares, some of them empty for short rows.
TEST(StepKernel, CutsPositionsIntoShares) {
  for (const int64_t sequences : {1, 3}) {
    const auto model = model_of("qwen3", 60, 4, 64, DType::f16);
    MlxOptions options = with_host_kernels();
    options.decode_step = [](const StepForm& form) {
      auto step = std::make_unique<HostStep>(form);
      step->at_once = 19;
      return step;
    };
    const Outcome wanted = outcome_of(model, DType::f16, without_whole_steps(), sequences, 3, 160);
    const Outcome made = outcome_of(model, DType::f16, options, sequences, 3, 160);
    EXPECT_GE(made.counters.whole_steps, 3);
    expect_alike(made, wanted, DType::f16);
  }
}

// A model's answers, run ahead and not: the same kernel, the same tokens.
TEST(StepKernel, RunsAhead) {
  const auto model = model_of("llama", 3, 4, 64, DType::f16);
  const auto run = [&](MlxOptions::RunAhead ahead) {
    MlxOptions options = with_host_kernels();
    options.run_ahead = ahead;
    LoadOptions load;
    load.kv = DType::f16;
    load.kv_tokens = 1024;
    const auto loaded =
        load_decoder_on(std::move(*make_mlx_backend(options)), model.spec, *model.weights, load);
    auto tokens = conformance::greedy(*loaded.model, {5, 6, 7}, 60);
    return std::pair(tokens, counters_of(*loaded.model));
  };
  const auto [ahead, used] = run(MlxOptions::RunAhead::on);
  const auto [wanted, none] = run(MlxOptions::RunAhead::off);
  EXPECT_EQ(ahead, wanted);
  EXPECT_GE(used.whole_steps, 56);
  EXPECT_GE(used.ahead_used, 50);
  EXPECT_EQ(none.ahead_used, 0);
}

// What a kernel that goes wrong would answer is never given.
TEST(StepKernel, IsLeftWhereItIsWrong) {
  const auto model = model_of("llama", 5, 4, 32, DType::f16);
  const Outcome wanted = outcome_of(model, DType::f16, without_whole_steps(), 2, 4);
  const auto with = [&](const std::function<void(HostStep&)>& spoil) {
    MlxOptions options = with_host_kernels();
    options.decode_step = [spoil](const StepForm& form) {
      auto step = std::make_unique<HostStep>(form);
      spoil(*step);
      return step;
    };
    return outcome_of(model, DType::f16, options, 2, 4);
  };
  EXPECT_GT(with([](HostStep&) {}).counters.whole_steps, 0);
  for (const auto& spoil :
       {+[](HostStep& step) { step.throws = true; }, +[](HostStep& step) { step.forgets = 1; },
        +[](HostStep& step) { step.missing = 1; }}) {
    const Outcome run = with(spoil);
    EXPECT_EQ(run.counters.whole_steps, 0);
    EXPECT_EQ(run.logits, wanted.logits);
  }
}

// Blocks that wait for one that does not come give up; the step is an error, and later ones run.
TEST(StepKernel, GivesUpWithoutAllItsBlocks) {
  const auto model = model_of("llama", 6, 4, 32, DType::f16);
  HostStep* kernel = nullptr;
  MlxOptions options = with_host_kernels();
  options.decode_step = [&](const StepForm& form) {
    auto step = std::make_unique<HostStep>(form);
    kernel = step.get();
    return step;
  };
  LoadOptions load;
  load.kv = DType::f16;
  load.kv_tokens = 1024;
  const auto loaded =
      load_decoder_on(std::move(*make_mlx_backend(options)), model.spec, *model.weights, load);
  ASSERT_NE(kernel, nullptr);
  const TokenId token = 7;
  const BlockId block = 0;
  SamplingParams greedy;
  greedy.temperature = 0;
  const SequenceStep step{{&token, 1}, 0, {&block, 1}, StepOutput::sample, &greedy, {}};
  const auto before = loaded->execute({&step, 1});
  ASSERT_TRUE(before.ok()) << before.error().message;
  // The step that has run ahead is another.
  kernel->missing = 1;
  const auto failed = loaded->execute({&step, 1});
  ASSERT_FALSE(failed.ok());
  EXPECT_NE(failed.error().message.find("in vain"), std::string::npos) << failed.error().message;
  const auto after = loaded->execute({&step, 1});
  ASSERT_TRUE(after.ok()) << after.error().message;
  EXPECT_EQ((*after)[0].token->id, (*before)[0].token->id);
}

// Answers at once, and wrongly.
class AnyStep final : public StepKernel {
 public:
  AnyStep(const StepForm& form, int likeliest, std::set<int>& rows)
      : vocab_(form.vocab), likeliest_(likeliest), rows_(rows) {}
  int blocks() override { return 1; }
  mx::array addresses(const std::vector<std::variant<mx::array, int64_t>>& of) override {
    return mx::zeros({static_cast<int>(of.size())}, mx::int64);
  }
  StepOutputs run(const StepInputs&, int rows, int, int) override {
    rows_.insert(rows);
    StepOutputs made;
    made.logits = mx::zeros({rows, vocab_}, mx::float32);
    made.best.assign(kStepRowsMax / 2, mx::full({2}, likeliest_, mx::int32));
    made.next = mx::zeros({kStepRowsMax}, mx::int32);
    return made;
  }

 private:
  int vocab_, likeliest_;
  std::set<int>& rows_;
};

// Both kernels, of one row and of more, where a step and the pool have room for more.
TEST(StepCheck, HoldsBothKernelsToTheOthers) {
  const auto model = model_of("llama", 5, 4, 32, DType::f16);
  struct Case {
    int64_t kv_tokens, step_tokens_max, logits;  // of a step
    std::set<int> rows;
  };
  for (const Case& one : {Case{8192, 8, 0, {1, 5}},
                          {8192, 8, 2, {1, 2}},
                          {16, 8, 0, {1}},
                          {48, 8, 0, {1, 3}},
                          {8192, 4, 0, {1, 4}},
                          {8192, 1, 0, {1}}}) {
    for (const bool gives_up : {false, true}) {
      if (gives_up && one.step_tokens_max > 1) continue;  // one case of it
      std::set<int> rows;
      MlxOptions options = with_host_kernels();
      options.prefill_kernel = nullptr;  // checks of others take long on the host
      options.row_kernels = nullptr;
      options.elements_max = static_cast<int>(one.logits * model.spec.vocab);
      options.decode_step = [&](const StepForm& form) {
        return std::make_unique<AnyStep>(form, gives_up ? kGaveUp : 0, rows);
      };
      LoadOptions load;
      load.kv = DType::f16;
      load.kv_tokens = one.kv_tokens;
      load.step_tokens_max = one.step_tokens_max;
      const Logged logged;
      const auto loaded =
          load_decoder_on(std::move(*make_mlx_backend(options)), model.spec, *model.weights, load);
      EXPECT_EQ(rows, gives_up ? std::set<int>{1} : one.rows);
      EXPECT_EQ(logged.count("decode steps in one launch"), 1) << logged.text();
      EXPECT_EQ(logged.count("waited in vain"), gives_up ? 1 : 0);
      EXPECT_EQ(logged.count(" off "), gives_up ? 0 : 1);
      EXPECT_EQ(counters_of(*loaded.model).whole_steps, 0);
    }
  }
}

}  // namespace
}  // namespace impetus::mlx_backend
#endif

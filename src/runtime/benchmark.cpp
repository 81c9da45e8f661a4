#include "runtime/benchmark.h"

#include <algorithm>
#include <chrono>
#include <numeric>
#include <random>
#include <utility>

#include "base/timing.h"
#include "planner/model_cost.h"

namespace impetus {
namespace {

using Clock = std::chrono::steady_clock;

std::optional<Spread> spread(const std::vector<double>& values) {
  if (values.empty()) return std::nullopt;
  const auto [least, most] = std::ranges::minmax(values);
  return Spread{median(values), least, most};
}

std::vector<TokenId> random_tokens(int64_t count, int64_t vocab) {
  std::mt19937_64 random(7);
  std::vector<TokenId> tokens(static_cast<size_t>(count));
  for (TokenId& token : tokens) {
    token = static_cast<TokenId>(random() % static_cast<uint64_t>(vocab));
  }
  return tokens;
}

// Weights that every token is multiplied with: all but the looked-up embeddings, unless they are
// the head as well.
struct Work {
  double matrix_parameters = 0;  // in every position's multiplications
  double head_parameters = 0;    // in the last position's only, while prefilling
  double bytes = 0;              // read for one decoded token
};

Work work_of(const Model& model) {
  Work work;
  const auto cost = model_cost(model.info.id, model.spec, *model.weights);
  if (!cost.ok()) return work;  // it was loaded, so it resolves
  for (const WeightGroup& group : cost->layer_weights) {
    work.matrix_parameters += static_cast<double>(group.parameters);
  }
  work.head_parameters = static_cast<double>(cost->head.parameters);
  work.bytes = static_cast<double>(cost->weight_bytes());
  return work;
}

}  // namespace

struct Benchmark::State {
  State(Model& model_, const BenchmarkOptions& options_) : model(model_), options(options_) {}

  Result<void> decoder_step();
  Result<void> encoder_step();
  // Tokens after the prompt, in this round.
  int64_t generated() const {
    constexpr int64_t kWarmUp = 8;
    return warming ? std::min(options.generate, kWarmUp) : options.generate;
  }
  void end_round() {
    if (warming) {
      warming = false;
      first.clear();
      second.clear();
    } else {
      ++rounds;
      in_rounds += took;
    }
    took = 0;
    at = 0;
    seconds = 0;
  }

  Model& model;
  BenchmarkOptions options;
  std::vector<TokenId> tokens;
  std::vector<BlockId> blocks;   // decoders
  std::vector<int32_t> offsets;  // encoders
  SamplingParams sampling;

  bool warming = true;
  int rounds = 0;
  double took = 0, in_rounds = 0;  // seconds of this round, of those that count
  int64_t at = 0;      // positions of this round that have run; encoders: of its two batches
  double seconds = 0;  // of the present phase
  TokenId next = 0;
  std::vector<double> first, second;  // prefill and decode, or batch and single text
  Devices devices;
};

Result<void> Benchmark::State::decoder_step() {
  Executor& executor = *model.executor;
  const bool prefill = at < options.prompt;
  const int64_t count =
      prefill ? std::min(executor.step_tokens_max(), options.prompt - at) : int64_t{1};
  SequenceStep step;
  step.tokens = prefill ? std::span<const TokenId>(tokens).subspan(static_cast<size_t>(at),
                                                                   static_cast<size_t>(count))
                        : std::span<const TokenId>(&next, 1);
  step.position = at;
  step.blocks = blocks;
  step.sampling = &sampling;
  step.phase = prefill ? StepPhase::prefill : StepPhase::decode;
  step.output = at + count >= options.prompt ? StepOutput::sample : StepOutput::none;
  step.context.position = at + count;
  const auto start = Clock::now();
  IMPETUS_TRY(auto results, executor.execute({&step, 1}));
  const double step_seconds = seconds_since(start);
  seconds += step_seconds;
  took += step_seconds;
  SequenceResult& result = results.front();
  if (result.ran_on != nullptr) {
    Devices ran;
    (prefill ? ran.prefill : ran.decode).push_back(result.ran_on->backend);
    devices.add(ran);
  }
  if (step.output == StepOutput::sample) {
    IMPETUS_TRY(const SampledToken token, std::move(result.token));
    next = token.id;
  }
  at += count;
  if (at == options.prompt && prefill) {
    first.push_back(static_cast<double>(options.prompt) / seconds);
    seconds = 0;
  }
  if (at == options.prompt + generated()) {
    // The step that an executor has begun is no part of the next prompt: it is waited for.
    if (options.generate > 0 && executor.descriptor().enqueues) {
      step.tokens = {&next, 1};
      step.position = at - 1;
      step.output = StepOutput::none;
      IMPETUS_CHECK(executor.execute({&step, 1}));
    }
    if (options.generate > 0) second.push_back(static_cast<double>(generated()) / seconds);
    end_round();
  }
  return {};
}

Result<void> Benchmark::State::encoder_step() {
  const auto length = static_cast<size_t>(offsets[1]);
  const bool whole = at == 0;
  EncoderBatch batch;
  batch.tokens =
      whole ? std::span<const TokenId>(tokens) : std::span<const TokenId>(tokens).first(length);
  batch.offsets =
      whole ? std::span<const int32_t>(offsets) : std::span<const int32_t>(offsets).first(2);
  const auto start = Clock::now();
  IMPETUS_TRY(const Encoded encoded, model.encoder->encode(batch));
  const double text_seconds = seconds_since(start);
  took += text_seconds;
  for (const BackendDescriptor* one : encoded.ran_on) devices.add({.embeddings = {one->backend}});
  if (whole) {
    first.push_back(static_cast<double>(tokens.size()) / text_seconds);
    at = 1;
  } else {
    second.push_back(text_seconds * 1e3);
    end_round();
  }
  return {};
}

Benchmark::Benchmark(std::unique_ptr<State> state) : state_(std::move(state)) {}
Benchmark::~Benchmark() = default;
Benchmark::Benchmark(Benchmark&&) noexcept = default;

Result<Benchmark> Benchmark::create(Model& model, const BenchmarkOptions& options) {
  auto state = std::make_unique<State>(model, options);
  state->sampling.temperature = options.temperature;
  if (model.executor) {
    const int64_t positions = options.prompt + options.generate;
    if (options.prompt < 1 || positions > model.context) {
      return error(ErrorCode::context_length, "{} + {} tokens; '{}' has a context of {}",
                   options.prompt, options.generate, model.info.id, model.context);
    }
    const int32_t block = model.executor->kv().block_tokens();
    state->blocks.resize(static_cast<size_t>((positions + block - 1) / block));
    std::iota(state->blocks.begin(), state->blocks.end(), 0);
    state->tokens = random_tokens(options.prompt, model.spec.vocab);
  } else {
    const int64_t length = std::clamp<int64_t>(options.prompt, 1, model.context);
    const int64_t texts = std::max<int64_t>(1, model.encoder->batch_tokens_max() / length);
    state->tokens = random_tokens(texts * length, model.spec.vocab);
    for (int64_t i = 0; i <= texts; ++i) {
      state->offsets.push_back(static_cast<int32_t>(i * length));
    }
  }
  return Benchmark(std::move(state));
}

bool Benchmark::done() const {
  constexpr int kRoundsMax = 50;
  const BenchmarkOptions& options = state_->options;
  return state_->rounds >= options.repeat &&
         (state_->in_rounds >= options.seconds || state_->rounds >= kRoundsMax);
}
int Benchmark::rounds_done() const {
  return state_->rounds;
}
Result<void> Benchmark::step() {
  return state_->model.executor ? state_->decoder_step() : state_->encoder_step();
}

BenchmarkResult Benchmark::result() const {
  const State& state = *state_;
  const Model& model = state.model;
  const Work work = work_of(model);
  BenchmarkResult result;
  result.devices = state.devices;
  if (model.executor) {
    result.prefill_tokens_per_second = spread(state.first);
    result.decode_tokens_per_second = spread(state.second);
    if (result.prefill_tokens_per_second) {
      const double per_token =
          2.0 * work.matrix_parameters +
          2.0 * work.head_parameters / static_cast<double>(state.options.prompt);
      result.prefill_gigaops_per_second =
          result.prefill_tokens_per_second->median * per_token / 1e9;
    }
    if (result.decode_tokens_per_second) {
      // Keys and values of the positions so far, at the middle of the run.
      const KvStorage& kv = std::as_const(*model.executor).kv();
      const double kv_bytes =
          static_cast<double>(kv.block_bytes()) / kv.block_tokens() *
          static_cast<double>(state.options.prompt + state.options.generate / 2);
      result.decode_gigabytes_per_second =
          result.decode_tokens_per_second->median * (work.bytes + kv_bytes) / 1e9;
    }
    return result;
  }
  result.tokens_per_text = state.offsets[1];
  result.texts_per_batch = static_cast<int64_t>(state.offsets.size()) - 1;
  result.tokens_per_second = spread(state.first);
  result.latency_ms = spread(state.second);
  if (!result.tokens_per_second) return result;
  // Two attention products over the text's length come to the matrices.
  const double per_token =
      2.0 * work.matrix_parameters +
      4.0 * static_cast<double>(model.spec.layers * model.spec.hidden * result.tokens_per_text);
  result.gigaops_per_second = result.tokens_per_second->median * per_token / 1e9;
  return result;
}

Result<BenchmarkResult> benchmark(Model& model, const BenchmarkOptions& options) {
  IMPETUS_TRY(Benchmark run, Benchmark::create(model, options));
  while (!run.done()) IMPETUS_CHECK(run.step());
  return run.result();
}

}  // namespace impetus

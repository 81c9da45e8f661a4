#include "runtime/benchmark.h"

#include <algorithm>
#include <chrono>
#include <numeric>
#include <random>

namespace impetus {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

std::optional<Spread> spread(std::vector<double> values) {
  if (values.empty()) return std::nullopt;
  std::ranges::sort(values);
  const size_t n = values.size();
  const double median = n % 2 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
  return Spread{median, values.front(), values.back()};
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
  int64_t matrix_parameters = 0;  // in every position's multiplications
  int64_t head_parameters = 0;    // in the last position's only, while prefilling
  int64_t bytes = 0;              // read for one decoded token
};

Work work_of(const Model& model) {
  Work work;
  const auto count = [&](const NamedTensor* tensor) {
    if (tensor == nullptr || tensor->view.shape.rank() < 2) return;
    work.matrix_parameters += tensor->view.shape.elements();
    work.bytes += static_cast<int64_t>(tensor->view.data.size());
  };
  if (model.encoder) {
    if (const auto weights = resolve_encoder(model.spec, *model.weights); weights.ok()) {
      for (const auto& layer : weights->layers) {
        for (const Linear& l : {layer.q, layer.k, layer.v, layer.output, layer.up, layer.down}) {
          count(l.weight);
        }
      }
    }
    return work;
  }
  if (const auto weights = resolve_decoder(model.spec, *model.weights); weights.ok()) {
    for (const auto& layer : weights->layers) {
      for (const Linear& l :
           {layer.q, layer.k, layer.v, layer.output, layer.gate, layer.up, layer.down}) {
        count(l.weight);
      }
    }
    work.head_parameters = weights->head.weight->view.shape.elements();
    work.bytes += static_cast<int64_t>(weights->head.weight->view.data.size());
  }
  return work;
}

// A sequence that runs on the executor by itself, from block 0 on.
class Run {
 public:
  Run(Executor& executor, int64_t positions) : executor_(executor) {
    const int32_t block = executor.kv().block_tokens();
    blocks_.resize(static_cast<size_t>((positions + block - 1) / block));
    std::iota(blocks_.begin(), blocks_.end(), 0);
    greedy_.temperature = 0;
  }

  // The token after these, which stand at `position`; none where `sample` is not asked for.
  Result<TokenId> step(std::span<const TokenId> tokens, int64_t position, bool sample) {
    SequenceStep step;
    step.tokens = tokens;
    step.position = position;
    step.blocks = blocks_;
    step.sampling = &greedy_;
    step.output = sample ? StepOutput::sample : StepOutput::none;
    step.context.position = position + static_cast<int64_t>(tokens.size());
    IMPETUS_TRY(auto results, executor_.execute({&step, 1}));
    if (!sample) return TokenId{0};
    IMPETUS_TRY(const SampledToken token, std::move(results.front().token));
    return token.id;
  }

  Result<TokenId> prefill(std::span<const TokenId> prompt) {
    const auto size = static_cast<int64_t>(prompt.size());
    TokenId next = 0;
    for (int64_t at = 0; at < size;) {
      const int64_t count = std::min(executor_.step_tokens_max(), size - at);
      IMPETUS_TRY(next, step(prompt.subspan(static_cast<size_t>(at), static_cast<size_t>(count)),
                             at, at + count == size));
      at += count;
    }
    return next;
  }

 private:
  Executor& executor_;
  std::vector<BlockId> blocks_;
  SamplingParams greedy_;
};

Result<BenchmarkResult> benchmark_decoder(Model& model, const BenchmarkOptions& options) {
  Executor& executor = *model.executor;
  if (options.prompt + options.generate > model.context) {
    return error(ErrorCode::context_length, "{} + {} tokens; '{}' has a context of {}",
                 options.prompt, options.generate, model.info.id, model.context);
  }
  Run run(executor, options.prompt + options.generate);
  const auto prompt = random_tokens(options.prompt, model.spec.vocab);
  std::vector<double> prefill, decode;
  for (int round = 0; round < options.repeat; ++round) {
    auto start = Clock::now();
    IMPETUS_TRY(TokenId next, run.prefill(prompt));
    if (options.prompt > 0) {
      prefill.push_back(static_cast<double>(options.prompt) / seconds_since(start));
    }
    start = Clock::now();
    for (int64_t i = 0; i < options.generate; ++i) {
      IMPETUS_TRY(next, run.step({&next, 1}, options.prompt + i, true));
    }
    if (options.generate > 0) {
      decode.push_back(static_cast<double>(options.generate) / seconds_since(start));
    }
    if (options.progress) options.progress(round + 1);
  }

  const Work work = work_of(model);
  BenchmarkResult result;
  result.prefill_tokens_per_second = spread(std::move(prefill));
  result.decode_tokens_per_second = spread(std::move(decode));
  if (result.prefill_tokens_per_second) {
    const double per_token =
        2.0 * static_cast<double>(work.matrix_parameters) +
        2.0 * static_cast<double>(work.head_parameters) / static_cast<double>(options.prompt);
    result.prefill_gigaops_per_second = result.prefill_tokens_per_second->median * per_token / 1e9;
  }
  if (result.decode_tokens_per_second) {
    // Keys and values of the positions so far, at the middle of the run.
    const KvStorage& kv = executor.kv();
    const double kv_bytes = static_cast<double>(kv.block_bytes()) / kv.block_tokens() *
                            static_cast<double>(options.prompt + options.generate / 2);
    result.decode_gigabytes_per_second = result.decode_tokens_per_second->median *
                                         (static_cast<double>(work.bytes) + kv_bytes) / 1e9;
  }
  return result;
}

Result<BenchmarkResult> benchmark_encoder(Model& model, const BenchmarkOptions& options) {
  Encoder& encoder = *model.encoder;
  const int64_t length = std::clamp<int64_t>(options.prompt, 1, model.context);
  const int64_t texts = std::max<int64_t>(1, encoder.batch_tokens_max() / length);
  const auto tokens = random_tokens(texts * length, model.spec.vocab);
  std::vector<int32_t> offsets;
  for (int64_t i = 0; i <= texts; ++i) offsets.push_back(static_cast<int32_t>(i * length));
  std::vector<double> rate, latency;
  for (int round = 0; round < options.repeat; ++round) {
    auto start = Clock::now();
    IMPETUS_TRY([[maybe_unused]] const auto batch, encoder.encode({tokens, offsets, {}}));
    rate.push_back(static_cast<double>(texts * length) / seconds_since(start));
    start = Clock::now();
    IMPETUS_TRY([[maybe_unused]] const auto single,
                encoder.encode({std::span(tokens).first(static_cast<size_t>(length)),
                                std::span(offsets).first(2),
                                {}}));
    latency.push_back(seconds_since(start) * 1e3);
    if (options.progress) options.progress(round + 1);
  }
  const Work work = work_of(model);
  BenchmarkResult result;
  result.tokens_per_text = length;
  result.texts_per_batch = texts;
  result.tokens_per_second = spread(std::move(rate));
  result.latency_ms = spread(std::move(latency));
  // Two attention products over the text's length come to the matrices.
  const double per_token =
      2.0 * static_cast<double>(work.matrix_parameters) +
      4.0 * static_cast<double>(model.spec.layers * model.spec.hidden * length);
  result.gigaops_per_second = result.tokens_per_second->median * per_token / 1e9;
  return result;
}

}  // namespace

Result<BenchmarkResult> benchmark(Model& model, const BenchmarkOptions& options) {
  return model.executor ? benchmark_decoder(model, options) : benchmark_encoder(model, options);
}

}  // namespace impetus

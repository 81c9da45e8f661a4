#include <algorithm>
#include <chrono>
#include <numeric>
#include <random>

#include <CLI/CLI.hpp>

#include "cli/commands.h"
#include "cpu/cpu_backend.h"
#include "hardware/memory.h"
#include "runtime/model.h"

namespace impetus::cli {
namespace {

struct Options {
  std::string model;
  ModelOptions load;
  int64_t prompt = 512, generate = 64;
  int repeat = 3;
  bool json = false;
};

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

struct Samples {
  std::vector<double> values;

  double median() const {
    auto sorted = values;
    std::sort(sorted.begin(), sorted.end());
    const size_t n = sorted.size();
    return n % 2 ? sorted[n / 2] : (sorted[n / 2 - 1] + sorted[n / 2]) / 2;
  }
  double least() const { return *std::min_element(values.begin(), values.end()); }
  double most() const { return *std::max_element(values.begin(), values.end()); }
};

void add(json::object& report, const std::string& name, const Samples& samples) {
  report[name] = samples.median();
  report[name + "_min"] = samples.least();
  report[name + "_max"] = samples.most();
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

Result<json::object> bench_decoder(Model& model, const Options& options, Progress& progress) {
  Executor& executor = *model.executor;
  const KvStorage& kv = executor.kv();
  const int64_t positions = options.prompt + options.generate;
  std::vector<BlockId> blocks(
      static_cast<size_t>((positions + kv.block_tokens() - 1) / kv.block_tokens()));
  std::iota(blocks.begin(), blocks.end(), 0);
  const auto prompt = random_tokens(options.prompt, model.spec.vocab);
  SamplingParams greedy;
  greedy.temperature = 0;

  Samples prefill, decode;
  for (int round = 0; round < options.repeat; ++round) {
    TokenId next = 0;
    auto start = Clock::now();
    for (int64_t at = 0; at < options.prompt;) {
      const int64_t count = std::min(executor.step_tokens_max(), options.prompt - at);
      SequenceStep step;
      step.tokens = std::span(prompt).subspan(static_cast<size_t>(at), static_cast<size_t>(count));
      step.position = at;
      step.blocks = blocks;
      step.sampling = &greedy;
      step.output = at + count == options.prompt ? StepOutput::sample : StepOutput::none;
      step.context.position = at + count;
      IMPETUS_TRY(auto results, executor.execute({&step, 1}));
      if (step.output == StepOutput::sample) {
        IMPETUS_TRY(const SampledToken token, std::move(results.front().token));
        next = token.id;
      }
      at += count;
    }
    if (options.prompt > 0) {
      prefill.values.push_back(static_cast<double>(options.prompt) / seconds_since(start));
    }
    start = Clock::now();
    for (int64_t i = 0; i < options.generate; ++i) {
      SequenceStep step;
      step.tokens = {&next, 1};
      step.position = options.prompt + i;
      step.blocks = blocks;
      step.sampling = &greedy;
      step.output = StepOutput::sample;
      step.context.position = step.position + 1;
      IMPETUS_TRY(auto results, executor.execute({&step, 1}));
      IMPETUS_TRY(const SampledToken token, std::move(results.front().token));
      next = token.id;
    }
    if (options.generate > 0) {
      decode.values.push_back(static_cast<double>(options.generate) / seconds_since(start));
    }
    progress.step(round + 1);
  }

  const Work work = work_of(model);
  json::object report;
  if (!prefill.values.empty()) {
    add(report, "prefill_tokens_per_second", prefill);
    const double per_token =
        2.0 * static_cast<double>(work.matrix_parameters) +
        2.0 * static_cast<double>(work.head_parameters) / static_cast<double>(options.prompt);
    report["prefill_gigaops_per_second"] = prefill.median() * per_token / 1e9;
  }
  if (!decode.values.empty()) {
    add(report, "decode_tokens_per_second", decode);
    // Keys and values of the positions so far, at the middle of the run.
    const double kv_bytes = static_cast<double>(kv.block_bytes()) / kv.block_tokens() *
                            static_cast<double>(options.prompt + options.generate / 2);
    report["decode_gigabytes_per_second"] =
        decode.median() * (static_cast<double>(work.bytes) + kv_bytes) / 1e9;
  }
  return report;
}

Result<json::object> bench_encoder(Model& model, const Options& options, Progress& progress) {
  Encoder& encoder = *model.encoder;
  const int64_t length = std::min(options.prompt, model.context);
  const int64_t texts = std::max<int64_t>(1, encoder.batch_tokens_max() / length);
  const auto tokens = random_tokens(texts * length, model.spec.vocab);
  std::vector<int32_t> offsets;
  for (int64_t i = 0; i <= texts; ++i) offsets.push_back(static_cast<int32_t>(i * length));
  Samples rate, latency;
  for (int round = 0; round < options.repeat; ++round) {
    auto start = Clock::now();
    IMPETUS_TRY([[maybe_unused]] const auto batch, encoder.encode({tokens, offsets, {}}));
    rate.values.push_back(static_cast<double>(texts * length) / seconds_since(start));
    start = Clock::now();
    IMPETUS_TRY([[maybe_unused]] const auto single,
                encoder.encode({std::span(tokens).first(static_cast<size_t>(length)),
                                std::span(offsets).first(2),
                                {}}));
    latency.values.push_back(seconds_since(start) * 1e3);
    progress.step(round + 1);
  }
  const Work work = work_of(model);
  json::object report{{"tokens_per_text", length}, {"texts_per_batch", texts}};
  add(report, "tokens_per_second", rate);
  add(report, "latency_ms", latency);
  // Two attention products over the text's length come to the matrices.
  const double per_token =
      2.0 * static_cast<double>(work.matrix_parameters) +
      4.0 * static_cast<double>(model.spec.layers * model.spec.hidden * length);
  report["gigaops_per_second"] = rate.median() * per_token / 1e9;
  return report;
}

Result<void> bench(const Options& options) {
  IMPETUS_TRY(const ModelLocation location, locate(options.model));
  IMPETUS_TRY(const auto backends, options.load.backends());
  Backend& cpu = *backends.front();
  MemoryLedger ledger(usable_memory_bytes());
  IMPETUS_TRY(Model model, load_model(location, cpu, options.load.load(),
                                      options.prompt + options.generate + 1, ledger));
  if (model.executor && options.prompt + options.generate > model.context) {
    return error(ErrorCode::context_length, "{} + {} tokens; '{}' has a context of {}",
                 options.prompt, options.generate, location.id, model.context);
  }
  json::object report{{"model", location.id},
                      {"device", cpu.descriptor().name},
                      {"backend", cpu.descriptor().backend},
                      {"threads", cpu.descriptor().threads},
                      {"precision", model.info.precision},
                      {"prompt", options.prompt},
                      {"generate", model.executor ? options.generate : 0},
                      {"repeat", options.repeat}};
  {
    Progress progress("measuring " + location.id, options.repeat);
    IMPETUS_TRY(json::object measured, model.executor ? bench_decoder(model, options, progress)
                                                      : bench_encoder(model, options, progress));
    for (auto& entry : measured) report[entry.key()] = entry.value();
  }
  const CpuPeaks peaks = measure_cpu_peaks(cpu, 1.0);
  report["peak"] = json::object{{"read_gigabytes_per_second", peaks.read_gigabytes_per_second},
                                {"int8_gigaops_per_second", peaks.int8_gigaops_per_second},
                                {"bf16_gigaflops_per_second", peaks.bf16_gigaflops_per_second},
                                {"f32_gigaflops_per_second", peaks.f32_gigaflops_per_second}};
  if (options.json) {
    print_json(report);
    return {};
  }
  fmt::print("{} ({}) on {}\n", location.id, model.info.precision, cpu.descriptor().name);
  const auto line = [&](const char* label, const char* key, const char* unit) {
    if (!report.contains(key)) return;
    const std::string name = key;
    fmt::print("  {:<10} {:>10.1f} {} (from {:.1f} to {:.1f})\n", label, report[key].as_double(),
               unit, report[name + "_min"].as_double(), report[name + "_max"].as_double());
  };
  const auto share = [&](const char* key, const char* unit, double peak) {
    if (!report.contains(key)) return;
    fmt::print("  {:<10} {:>10.1f} {} ({:.0f} % of {:.1f} measured)\n", "", report[key].as_double(),
               unit, peak > 0 ? 100 * report[key].as_double() / peak : 0, peak);
  };
  const bool quantized = options.load.weights == "int8" || model.info.precision.starts_with('q');
  const double matrix_peak = quantized                        ? peaks.int8_gigaops_per_second
                             : model.info.precision == "bf16" ? peaks.bf16_gigaflops_per_second
                                                              : peaks.f32_gigaflops_per_second;
  line("prefill", "prefill_tokens_per_second", "tokens/s");
  share("prefill_gigaops_per_second", "GOP/s", matrix_peak);
  line("decode", "decode_tokens_per_second", "tokens/s");
  share("decode_gigabytes_per_second", "GB/s", peaks.read_gigabytes_per_second);
  line("encode", "tokens_per_second", "tokens/s");
  share("gigaops_per_second", "GOP/s", matrix_peak);
  line("latency", "latency_ms", "ms a text");
  return {};
}

}  // namespace

void add_bench(Commands& commands) {
  auto options = std::make_shared<Options>();
  auto* app = commands.add("bench", "Measure a model beside this machine's limits",
                           "impetus bench impetus-tiny-chat --prompt 512 --generate 64",
                           [options] { return bench(*options); });
  app->add_option("model", options->model, "A path or name")->required();
  app->add_option("--prompt", options->prompt, "Prompt tokens; for encoders the tokens of a text")
      ->check(CLI::Range(1, 1 << 24))
      ->capture_default_str();
  app->add_option("--generate", options->generate, "Tokens to generate")
      ->check(CLI::Range(0, 1 << 24))
      ->capture_default_str();
  app->add_option("--repeat", options->repeat, "Rounds; the median is reported")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  app->add_flag("--json", options->json, "As JSON");
  options->load.add_to(*app, true);
}

}  // namespace impetus::cli

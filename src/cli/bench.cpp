#include <CLI/CLI.hpp>

#include "cli/commands.h"
#include "cpu/cpu_backend.h"
#include "runtime/benchmark.h"

namespace impetus::cli {
namespace {

struct Options {
  std::string model;
  ModelOptions load;
  int64_t prompt = 512, generate = 64;
  int repeat = 3;
  bool json = false;
};

void add(json::object& report, const std::string& name, const std::optional<Spread>& spread) {
  if (!spread) return;
  report[name] = spread->median;
  report[name + "_min"] = spread->least;
  report[name + "_max"] = spread->most;
}

json::object report_of(const BenchmarkResult& result) {
  json::object report;
  add(report, "prefill_tokens_per_second", result.prefill_tokens_per_second);
  if (result.prefill_tokens_per_second) {
    report["prefill_gigaops_per_second"] = result.prefill_gigaops_per_second;
  }
  add(report, "decode_tokens_per_second", result.decode_tokens_per_second);
  if (result.decode_tokens_per_second) {
    report["decode_gigabytes_per_second"] = result.decode_gigabytes_per_second;
  }
  if (result.tokens_per_second) {
    report["tokens_per_text"] = result.tokens_per_text;
    report["texts_per_batch"] = result.texts_per_batch;
    add(report, "tokens_per_second", result.tokens_per_second);
    add(report, "latency_ms", result.latency_ms);
    report["gigaops_per_second"] = result.gigaops_per_second;
  }
  return report;
}

Result<void> bench(const Options& options) {
  IMPETUS_TRY(const ModelLocation location, locate(options.model));
  IMPETUS_TRY(const auto backends, options.load.backends());
  Backend& cpu = *backends.front();
  MemoryLedger ledger(usable_memory_bytes());
  IMPETUS_TRY(Model model, load_model(location, cpu, options.load.load(),
                                      options.prompt + options.generate + 1, ledger));
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
    IMPETUS_TRY(const BenchmarkResult result,
                benchmark(model, {.prompt = options.prompt,
                                  .generate = options.generate,
                                  .repeat = options.repeat,
                                  .progress = [&](int done) { progress.step(done); }}));
    for (auto& entry : report_of(result)) report[entry.key()] = entry.value();
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

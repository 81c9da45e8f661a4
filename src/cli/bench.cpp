#include <CLI/CLI.hpp>

#include "api/benchmark.h"
#include "base/log.h"
#include "cli/commands.h"
#include "cli/processors.h"
#include "cpu/cpu_backend.h"
#include "hardware/inventory.h"
#include "hardware/memory.h"
#include "runtime/benchmark_records.h"
#include "runtime/profiles.h"

namespace impetus::cli {
namespace {

struct Options {
  std::string model;
  ModelOptions load;
  int64_t prompt = 512, generate = 64;
  int repeat = 3;
  float temperature = 0;
  std::vector<std::string> devices;
  bool json = false;
};

std::string at_temperature(const Options& options) {
  return options.temperature > 0 ? fmt::format(", temperature {}", options.temperature) : "";
}

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

// Keeps what was measured of likeliest tokens, as everything in the history is; a history that
// cannot be written costs the answer nothing.
void keep(const Options& options, const std::vector<BenchmarkRecord>& records) {
  if (options.temperature > 0) return;
  const auto kept = [&]() -> Result<void> {
    IMPETUS_TRY(const auto history, open_history());
    return history->add(records);
  }();
  if (!kept.ok()) log::warn("the history is not written: {}", kept.error().message);
}

struct Measured {
  const Backend* backend = nullptr;
  std::string precision;
  bool decodes = false;
  BenchmarkResult result;
  std::vector<BenchmarkRecord> records;
};

Result<Measured> measure(const Options& options, const ModelLocation& location, Backend& backend,
                         const Processor& processor) {
  MemoryLedger ledger(usable_memory_bytes());
  const LoadOptions load = options.load.load();
  IMPETUS_TRY(Model model, load_model(location, Ladders::only(backend), Fallback::forbid, load,
                                      options.prompt + options.generate + 1, ledger));
  const BenchmarkOptions benchmark{options.prompt, options.generate, options.repeat, 0,
                                   options.temperature};
  IMPETUS_TRY(Benchmark run, Benchmark::create(model, benchmark));
  Progress progress("measuring " + location.id, options.repeat);
  while (!run.done()) {
    IMPETUS_CHECK(run.step());
    progress.step(run.rounds_done());
  }
  Measured measured;
  measured.backend = &backend;
  measured.precision = model.info.precision;
  measured.decodes = model.executor != nullptr;
  measured.result = run.result();
  measured.records = benchmark_records(model, backend.descriptor(), processor.profile, load,
                                       benchmark, measured.result);
  return measured;
}

// Every processor in one table, with the plan's prediction beside each.
Result<void> side_by_side(const Options& options, const ModelLocation& location) {
  IMPETUS_TRY(const Processors found,
              find_processors(options.devices, options.load.threads, options.load.coreml()));
  const PlanMachine machine =
      plan_machine(probe_inventory(), found.backends, ProfileStore(), usable_memory_bytes());
  BenchmarkAnswer answer;
  answer.model = location.id;
  std::vector<BenchmarkRecord>& records = answer.results;
  if (!options.json) {
    fmt::print("{}: prompt {}, answer {}, {} rounds{}\n", location.id, options.prompt,
               options.generate, options.repeat, at_temperature(options));
    fmt::print("  {:<14} {:<11} {:>7} {:>12} {:>19} {:>12} {:>7}\n", "processor", "phase",
               "threads", "tokens/s", "from - to", "planned", "error");
  }
  for (size_t b = 0; b < found.backends.size(); ++b) {
    auto measured = measure(options, location, *found.backends[b], machine.processors[b]);
    const std::string& name = found.backends[b]->descriptor().backend;
    if (!measured.ok()) {
      answer.refused.push_back({name, measured.error().message});
      if (!options.json) fmt::print("  {:<14} {}\n", name, measured.error().message);
      continue;
    }
    for (const BenchmarkRecord& one : measured->records) {
      records.push_back(one);
      if (options.json) continue;
      fmt::print("  {:<14} {:<11} {:>7} {:>12.1f} {:>19}{}\n", one.backend, one.phase, one.threads,
                 one.measured, fmt::format("{:.1f} - {:.1f}", one.least, one.most),
                 one.predicted > 0 ? fmt::format(" {:>12.1f} {:>+6.0f}%", one.predicted,
                                                 (one.predicted / one.measured - 1) * 100)
                                   : "  not planned");
    }
  }
  for (size_t p = found.backends.size(); p < machine.processors.size(); ++p) {  // undriven
    const Processor& one = machine.processors[p];
    answer.refused.push_back({one.device, one.unavailable});
    if (!options.json) fmt::print("  {:<14} {}\n", one.device, one.unavailable);
  }
  if (records.empty()) {
    return error(ErrorCode::unsupported, "no processor could run {}", location.id);
  }
  keep(options, records);
  if (options.json) {
    json::object report = api::benchmark_object(answer);
    report["temperature"] = options.temperature;
    print_json(report);
    return {};
  }
  const bool estimated = std::ranges::any_of(records, [](const BenchmarkRecord& one) {
    return one.predicted > 0 && !one.profile_measured;
  });
  if (std::ranges::none_of(records, [](const auto& one) { return one.predicted > 0; })) return {};
  fmt::print("  median error of the plan: {:.0f} %{}\n", median_prediction_error(records) * 100,
             estimated ? "; some of it is estimated: run `impetus hardware --measure`" : "");
  return {};
}

Result<void> bench(const Options& options) {
  IMPETUS_TRY(const ModelLocation location, locate(options.model));
  if (!options.devices.empty()) return side_by_side(options, location);
  IMPETUS_TRY(const auto backends, options.load.backends());
  Backend& cpu = *backends.front();
  const PlanMachine machine =
      plan_machine(probe_inventory(), backends, ProfileStore(), usable_memory_bytes());
  IMPETUS_TRY(const Measured measured, measure(options, location, cpu, machine.processors.front()));
  keep(options, measured.records);
  json::object report{{"model", location.id},
                      {"device", cpu.descriptor().name},
                      {"backend", cpu.descriptor().backend},
                      {"threads", cpu.descriptor().threads},
                      {"precision", measured.precision},
                      {"prompt", options.prompt},
                      {"generate", measured.decodes ? options.generate : 0},
                      {"repeat", options.repeat},
                      {"temperature", options.temperature}};
  for (auto& entry : report_of(measured.result)) report[entry.key()] = entry.value();
  const CpuPeaks peaks = measure_cpu_peaks(cpu, 1.0);
  report["peak"] = json::object{{"read_gigabytes_per_second", peaks.read_gigabytes_per_second},
                                {"int8_gigaops_per_second", peaks.int8_gigaops_per_second},
                                {"bf16_gigaflops_per_second", peaks.bf16_gigaflops_per_second},
                                {"f32_gigaflops_per_second", peaks.f32_gigaflops_per_second}};
  if (options.json) {
    print_json(report);
    return {};
  }
  fmt::print("{} ({}) on {}{}\n", location.id, measured.precision, cpu.descriptor().name,
             at_temperature(options));
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
  const bool quantized = options.load.weights == "int8" || measured.precision.starts_with('q') ||
                         measured.precision.find("bit") != std::string::npos ||
                         measured.precision == "mxfp4";
  const double matrix_peak = quantized                      ? peaks.int8_gigaops_per_second
                             : measured.precision == "bf16" ? peaks.bf16_gigaflops_per_second
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
  app->add_option(
         "--temperature", options->temperature,
         "That tokens are drawn at; 0: the likeliest. What is drawn is not kept in the history")
      ->check(CLI::Range(0.0f, 100.0f))
      ->capture_default_str();
  app->add_option("--device", options->devices,
                  "These processors in one table beside the plan; all: every one there is")
      ->delimiter(',')
      ->type_name("LIST|all");
  app->add_flag("--json", options->json, "As JSON");
  options->load.add_to(*app, true);
}

}  // namespace impetus::cli

#include <algorithm>
#include <array>
#include <fstream>

#include <CLI/CLI.hpp>

#include "backend/synthetic_model.h"
#include "cli/commands.h"
#include "cli/processors.h"
#include "hardware/known_machines.h"
#include "hardware/memory.h"
#include "planner/paper.h"
#include "planner/plan.h"
#include "planner/predict.h"
#include "planner/published.h"
#include "runtime/benchmark_records.h"
#include "runtime/profiles.h"

namespace impetus::cli {
namespace {

struct Options {
  std::vector<std::string> models;
  ModelOptions load;
  std::string hardware, macos = "26.2";
  std::vector<std::string> devices;
  int64_t prompt = 512, answer = 128;
  bool explain = false, verify = false, grid = false, published = false, json = false;
};

std::optional<DType> weight_type(std::string_view name) {
  for (const DType type : {DType::f32, DType::f16, DType::bf16, DType::q8_0, DType::q4_0}) {
    if (to_string(type) == name) return type;
  }
  return std::nullopt;
}

// SHAPE:TYPE, for a model that there are no files of.
std::optional<std::pair<const ModelSpec*, DType>> shape_and_type(std::string_view name) {
  const size_t colon = name.rfind(':');
  if (colon == name.npos) return std::nullopt;
  const ModelSpec* spec = known_shape(name.substr(0, colon));
  const auto type = weight_type(name.substr(colon + 1));
  if (spec == nullptr || !type) return std::nullopt;
  return std::pair(spec, *type);
}

Result<ModelCost> cost_of(const std::string& name) {
  if (const auto shape = shape_and_type(name)) {
    return model_cost(name, *shape->first, shape->second);
  }
  auto location = locate(name);
  if (!location.ok()) {
    Error failure = std::move(location).error();
    failure.message +=
        "; or a shape with a type, to plan on paper: llama-3.1-8b:q4_0, minilm-l6:f16, ...";
    return failure;
  }
  IMPETUS_TRY(const ModelFiles files, open_model_files(*location));
  return model_cost(location->id, files.spec, *files.weights);
}

// What `impetus hardware --json` wrote on another machine.
Result<PlanMachine> machine_from_file(const std::string& path) {
  IMPETUS_TRY(const json::value value, read_json_file(path));
  const json::object* object = value.if_object();
  const json::value* profiles = object ? object->if_contains("profiles") : nullptr;
  const json::value* memory = object ? object->if_contains("memory") : nullptr;
  if (profiles == nullptr || !profiles->is_array() || memory == nullptr || !memory->is_object()) {
    return error(ErrorCode::invalid_argument,
                 "{}: no 'profiles' and 'memory' in it; `impetus hardware --measure --json` writes "
                 "such a file",
                 path);
  }
  PlanMachine machine;
  machine.name = path;
  IMPETUS_TRY(const auto usable, int_field(memory->get_object(), "usable_bytes"));
  machine.host_memory_bytes = std::max<int64_t>(0, usable.value_or(0));
  for (const json::value& entry : profiles->get_array()) {
    auto profile = profile_from_json(entry);
    if (!profile.ok()) return std::move(profile).error().within(path);
    Processor& one = machine.processors.emplace_back();
    one.device = profile->device;
    one.name = profile->backend;
    one.profile = std::move(*profile);
    one.memory_bytes = machine.host_memory_bytes;
    one.shares_host_memory = true;
  }
  return machine;
}

Result<PaperOptions> paper_options(const Options& options) {
  PaperOptions paper;
  char rest = 0;
  const int fields =
      std::sscanf(options.macos.c_str(), "%d.%d%c", &paper.macos_major, &paper.macos_minor, &rest);
  if (fields == 1) paper.macos_minor = 0;
  if (fields < 1 || fields > 2) {
    return error(ErrorCode::invalid_argument, "--macos '{}' is no version such as 26.2",
                 options.macos);
  }
  return paper;
}

Result<PlanMachine> machine_on_paper(const Options& options) {
  if (const KnownMachine* known = find_known_machine(options.hardware)) {
    IMPETUS_TRY(const PaperOptions paper, paper_options(options));
    return paper_machine(*known, paper);
  }
  std::error_code code;
  if (std::filesystem::is_regular_file(options.hardware, code)) {
    return machine_from_file(options.hardware);
  }
  std::vector<std::string_view> names;
  for (const KnownMachine& known : known_machines()) names.push_back(known.id);
  return error(ErrorCode::not_found,
               "no machine '{}' is known, and there is no such file; known: {}", options.hardware,
               fmt::join(names, ", "));
}

std::string seconds_text(double seconds) {
  if (seconds < 1e-3) return fmt::format("{:.0f} us", seconds * 1e6);
  if (seconds < 1) return fmt::format("{:.1f} ms", seconds * 1e3);
  return fmt::format("{:.2f} s", seconds);
}

std::string rate_text(double rate) {
  return rate >= 100 ? fmt::format("{:.0f} tokens/s", rate) : fmt::format("{:.1f} tokens/s", rate);
}

std::string place_text(const std::string& device, const std::string& backend) {
  return backend.starts_with(device) ? backend : fmt::format("{} ({})", device, backend);
}

void print_model(const ModelPlan& model, const ModelCost& cost, bool explain) {
  fmt::print("\n{}  {}, {}, {:.1f} MB\n", model.model,
             model.kind == ModelKind::decoder ? "decoder" : "encoder", cost.precision,
             static_cast<double>(cost.file_bytes) / 1e6);
  if (!model.possible) {
    fmt::print("  cannot run: {}\n", model.reason);
  }
  for (const PhasePlan& one : model.placements) {
    fmt::print("  {:<10} {:<14} {}{:<12} {}\n", to_string(one.phase),
               place_text(one.device, one.backend), one.precision,
               one.threads > 1 ? fmt::format(", {} threads", one.threads) : "",
               one.phase == Phase::embeddings ? seconds_text(one.predicted.seconds) + " a text"
                                              : rate_text(one.predicted.tokens_per_second));
    fmt::print("             {}\n", one.reason);
    if (!explain) continue;
    for (const auto& bucket : one.buckets) {
      fmt::print("             up to {:>3} tokens: {:<14} {}\n", bucket.length,
                 place_text(bucket.device, bucket.backend), seconds_text(bucket.predicted.seconds));
    }
  }
  if (model.kind == ModelKind::decoder && model.possible) {
    fmt::print("  prompts in chunks of {}, room for {} positions, {} sequences at once\n",
               model.chunk_tokens, model.kv_tokens, model.batch_max);
  }
  if (!explain) return;
  fmt::print("  candidates\n");
  for (const Candidate& one : model.candidates) {
    const std::string phase = one.phase == Phase::embeddings ? fmt::format("embed {}", one.length)
                                                             : std::string(to_string(one.phase));
    fmt::print("  {} {:<10} {:<14} {:<5} {:<11} {:>14} {:>9.0f} MB  {}\n", one.chosen ? '*' : ' ',
               phase, place_text(one.device, one.backend), one.precision,
               one.device == "cpu"
                   ? fmt::format("{} thread{}", one.threads, one.threads == 1 ? "" : "s")
                   : "",
               one.possible || one.predicted.tokens_per_second > 0
                   ? rate_text(one.predicted.tokens_per_second)
                   : "",
               static_cast<double>(one.predicted.memory_bytes) / 1e6, one.reason);
  }
}

// A model to run: from its files, or of random weights where only a shape is named.
Result<Model> model_to_run(const std::string& name, Backend& backend, const LoadOptions& load,
                           int64_t kv_tokens, MemoryLedger& ledger) {
  const auto shape = shape_and_type(name);
  if (!shape) {
    IMPETUS_TRY(const ModelLocation location, locate(name));
    return load_model(location, Ladders::only(backend), Fallback::forbid, load, kv_tokens, ledger);
  }
  ModelSpec spec = *shape->first;
  spec.context = std::min<int64_t>(spec.context, 4096);
  IMPETUS_TRY(SyntheticModel made, synthetic_model(spec, shape->second));
  auto kept = std::make_shared<SyntheticModel>(std::move(made));
  Model model;
  model.info.id = name;
  model.info.precision = std::string(to_string(shape->second));
  model.spec = kept->spec;
  model.context = spec.context;
  model.weights = std::shared_ptr<const WeightSet>(kept, kept->weights.get());
  LoadOptions options = load;
  options.kv_tokens = kv_tokens;
  if (spec.kind == ModelKind::decoder) {
    IMPETUS_TRY(model.executor, backend.load_decoder(model.spec, *model.weights, options, ledger));
  } else {
    IMPETUS_TRY(model.encoder, backend.load_encoder(model.spec, *model.weights, options, ledger));
  }
  return model;
}

// Runs what the plan speaks of on each backend, and sets it beside the prediction.
Result<std::vector<BenchmarkRecord>> verify(const Options& options, const PlanMachine& machine,
                                            std::span<const std::unique_ptr<Backend>> backends) {
  std::vector<BenchmarkRecord> records;
  const int64_t generate = std::min<int64_t>(options.answer, 64);
  LoadOptions load = options.load.load();
  load.threads = {options.load.threads, options.load.threads};
  Progress progress("measuring", static_cast<int64_t>(options.models.size() * backends.size()));
  int64_t done = 0;
  for (const std::string& name : options.models) {
    for (size_t b = 0; b < backends.size(); ++b) {
      const BackendDescriptor& descriptor = backends[b]->descriptor();
      MemoryLedger ledger(machine.host_memory_bytes);
      auto model = model_to_run(name, *backends[b], load, options.prompt + generate + 1, ledger);
      progress.step(++done);
      if (!model.ok()) {
        fmt::print(stderr, "{} on {}: {}\n", name, descriptor.backend, model.error().message);
        continue;
      }
      BenchmarkOptions run;
      run.prompt =
          model->executor ? std::min(options.prompt, model->context - generate) : options.prompt;
      run.generate = generate;
      run.repeat = 5;
      IMPETUS_TRY(const BenchmarkResult result, benchmark(*model, run));
      for (BenchmarkRecord& record : benchmark_records(
               *model, descriptor, machine.processors[b].profile, load, run, result)) {
        records.push_back(std::move(record));
      }
    }
  }
  return records;
}

// How much longer what the planner chooses takes than the best there is, over prompts and answers
// of several lengths, backends and thread counts: all of it measured.
constexpr std::array<int64_t, 3> kPrompts = {16, 128, 512};
constexpr std::array<int64_t, 3> kAnswers = {1, 32, 256};

struct GridPoint {
  int64_t prompt = 0, answer = 0;
  double chosen = 0, best = 0;  // seconds, measured
  std::string choice, best_choice;
};

Result<std::vector<GridPoint>> walk_grid(const Options& options, const std::string& name,
                                         const PlanMachine& machine,
                                         std::span<const std::unique_ptr<Backend>> backends) {
  constexpr int64_t kDecoded = 24;
  struct Way {
    std::string name;
    std::array<double, kPrompts.size()> prefill, decode, planned_prefill, planned_decode;
  };
  std::vector<Way> ways;
  for (size_t b = 0; b < backends.size(); ++b) {
    const DeviceProfile& profile = machine.processors[b].profile;
    for (const int threads : thread_counts(profile)) {
      MemoryLedger ledger(machine.host_memory_bytes);
      LoadOptions load = options.load.load();
      load.threads = {threads, threads};
      IMPETUS_TRY(Model model, model_to_run(name, *backends[b], load, 1024, ledger));
      if (!model.executor) return std::vector<GridPoint>{};
      IMPETUS_TRY(ModelCost cost, model_cost(name, model.spec, *model.weights));
      if (options.load.weights == "int8") cost = cost.in(DType::q8_0);
      const Predictor predictor(profile, cost, threads);
      Way& way = ways.emplace_back();
      way.name = fmt::format("{}, {} thread{}", profile.backend, threads, threads == 1 ? "" : "s");
      for (size_t p = 0; p < kPrompts.size(); ++p) {
        IMPETUS_TRY(const BenchmarkResult result, benchmark(model, {kPrompts[p], kDecoded, 3}));
        const auto prompt = static_cast<double>(kPrompts[p]);
        way.prefill[p] = prompt / result.prefill_tokens_per_second->median;
        way.decode[p] = 1 / result.decode_tokens_per_second->median;
        way.planned_prefill[p] = predictor.prefill(kPrompts[p], 0, 512, load.kv).seconds;
        way.planned_decode[p] = predictor.decode(1, kPrompts[p] + kDecoded / 2, load.kv).seconds;
      }
    }
  }
  std::vector<GridPoint> grid;
  for (size_t p = 0; p < kPrompts.size(); ++p) {
    for (const int64_t answer : kAnswers) {
      GridPoint& point = grid.emplace_back();
      point.prompt = kPrompts[p];
      point.answer = answer;
      double planned_least = 1e300;
      point.best = 1e300;
      // Threads are chosen for each phase; the backend for both.
      for (const Way& one : ways) {
        for (const Way& other : ways) {
          const auto backend = [](const Way& way) {
            return way.name.substr(0, way.name.find(','));
          };
          if (backend(one) != backend(other)) continue;
          const auto tokens = static_cast<double>(answer);
          const double measured = one.prefill[p] + tokens * other.decode[p];
          const double planned = one.planned_prefill[p] + tokens * other.planned_decode[p];
          if (planned < planned_least) {
            planned_least = planned;
            point.chosen = measured;
            point.choice = one.name + " / " + other.name;
          }
          if (measured < point.best) {
            point.best = measured;
            point.best_choice = one.name + " / " + other.name;
          }
        }
      }
    }
  }
  return grid;
}

Result<void> print_grid(const Options& options, const PlanMachine& machine,
                        std::span<const std::unique_ptr<Backend>> backends) {
  json::array rows;
  std::vector<double> losses;
  for (const std::string& name : options.models) {
    IMPETUS_TRY(const auto grid, walk_grid(options, name, machine, backends));
    for (const GridPoint& point : grid) {
      losses.push_back(point.chosen / point.best - 1);
      rows.push_back(json::object{{"model", name},
                                  {"prompt", point.prompt},
                                  {"answer", point.answer},
                                  {"chosen", point.choice},
                                  {"chosen_seconds", point.chosen},
                                  {"best", point.best_choice},
                                  {"best_seconds", point.best}});
      if (options.json) continue;
      fmt::print("  {:<24} prompt {:>4}, answer {:>4}: {:<40} {:>9} {}\n", name, point.prompt,
                 point.answer, point.choice, seconds_text(point.chosen),
                 losses.back() > 0
                     ? fmt::format("{:+.1f} % on {}", losses.back() * 100, point.best_choice)
                     : "the best");
    }
  }
  std::ranges::sort(losses);
  const double median = losses.empty() ? 0 : losses[losses.size() / 2];
  const double most = losses.empty() ? 0 : losses.back();
  if (options.json) {
    print_json(json::object{{"grid", std::move(rows)}, {"median_loss", median}, {"most", most}});
  } else {
    fmt::print(
        "  the choices lose {:.1f} % against the best measured in the middle, {:.1f} % at most\n",
        median * 100, most * 100);
  }
  return {};
}

// How near plans on paper come to what others published.
Result<void> print_published(const Options& options) {
  const auto checks = check_published();
  json::array rows;
  if (!options.json) {
    fmt::print("{:<22} {:<5} {:<14} {:<9} {:<10} {:>11} {:>11} {:>6}  {}\n", "machine", "on",
               "model", "weights", "phase", "published", "planned", "error", "by");
  }
  for (const PublishedCheck& check : checks) {
    const PublishedRate& rate = *check.published;
    const std::string phase =
        rate.batch > 1 ? fmt::format("{} x{}", rate.phase, rate.batch) : rate.phase;
    if (options.json) {
      rows.push_back(json::object{{"machine", rate.machine},
                                  {"device", rate.device},
                                  {"model", rate.model},
                                  {"weights", rate.weights},
                                  {"phase", rate.phase},
                                  {"batch", rate.batch},
                                  {"published_tokens_per_second", rate.tokens_per_second},
                                  {"planned_tokens_per_second", check.predicted},
                                  {"error", check.error()},
                                  {"program", rate.program},
                                  {"source", rate.source}});
      continue;
    }
    fmt::print("{:<22} {:<5} {:<14} {:<9} {:<10} {:>11.1f} {:>11.1f} {:>+5.0f}%  {}\n",
               rate.machine, rate.device, rate.model, rate.weights, phase, rate.tokens_per_second,
               check.predicted, check.error() * 100, rate.program);
  }
  if (options.json) {
    print_json(
        json::object{{"published", std::move(rows)}, {"median_error", median_error(checks)}});
  } else {
    fmt::print("{} published speeds, median error {:.0f} %\n", checks.size(),
               median_error(checks) * 100);
  }
  return {};
}

Result<void> run_plan(const Options& options) {
  if (options.published) return print_published(options);
  if (options.models.empty()) {
    return error(ErrorCode::invalid_argument, "plan what? Name a model, or SHAPE:TYPE");
  }
  std::vector<ModelCost> models;
  for (const std::string& name : options.models) {
    IMPETUS_TRY(ModelCost cost, cost_of(name));
    models.push_back(std::move(cost));
  }
  Policy policy;
  policy.prompt_tokens = options.prompt;
  policy.answer_tokens = options.answer;
  policy.kv = options.load.load().kv;
  policy.threads = options.load.threads;
  if (!options.hardware.empty()) policy.devices = options.devices;
  if (options.load.weights == "int8") policy.weights = DType::q8_0;
  if (options.load.kv_tokens > 0) policy.kv_tokens = options.load.kv_tokens;

  if ((options.verify || options.grid) && !options.hardware.empty()) {
    return error(ErrorCode::invalid_argument,
                 "--verify and --grid measure this machine; leave --hardware out");
  }
  std::vector<std::unique_ptr<Backend>> backends;
  PlanMachine machine;
  bool estimated = false;
  if (options.hardware.empty()) {
    IMPETUS_TRY(Processors found, find_processors(options.devices, options.load.threads));
    backends = std::move(found.backends);
    const Inventory inventory = probe_inventory();
    machine = plan_machine(inventory, backends, ProfileStore(), usable_memory_bytes());
    estimated = std::ranges::any_of(machine.processors, [](const Processor& one) {
      return one.unavailable.empty() && !one.profile.measured;
    });
  } else {
    IMPETUS_TRY(machine, machine_on_paper(options));
  }
  if (options.grid) return print_grid(options, machine, backends);
  const Plan plan = make_plan(machine, models, policy);
  json::object report = to_json(plan);
  std::vector<BenchmarkRecord> checks;
  if (options.verify) {
    IMPETUS_TRY(checks, verify(options, machine, backends));
  }
  if (options.json) {
    report["measured"] = options.hardware.empty() && !estimated;
    if (options.verify) {
      json::array verified;
      for (const BenchmarkRecord& check : checks) verified.push_back(to_json(check));
      report["verified"] = std::move(verified);
      report["median_prediction_error"] = median_prediction_error(checks);
    }
    print_json(report);
    return {};
  }
  fmt::print(
      "{}{}\n", plan.hardware,
      options.hardware.empty()
          ? (estimated ? ": estimates; `impetus hardware --measure` replaces them" : ": measured")
          : ": on paper");
  for (const Processor& one : machine.processors) {
    if (options.explain || !one.unavailable.empty()) {
      fmt::print("  {:<6} {}{}\n", one.device, one.name,
                 one.unavailable.empty() ? "" : ": " + one.unavailable);
    }
  }
  for (size_t i = 0; i < models.size(); ++i)
    print_model(plan.models[i], models[i], options.explain);
  if (options.verify) {
    fmt::print("\n  {:<24} {:<11} {:<14} {:>12} {:>12} {:>8}\n", "model", "phase", "backend",
               "planned", "measured", "error");
    for (const BenchmarkRecord& check : checks) {
      fmt::print("  {:<24} {:<11} {:<14} {:>12.1f} {:>12.1f} {:>+7.0f}%\n", check.model,
                 check.phase, check.backend, check.predicted, check.measured,
                 (check.predicted / check.measured - 1) * 100);
    }
    fmt::print("  median error {:.0f} %, in tokens a second\n",
               median_prediction_error(checks) * 100);
  }
  return {};
}

}  // namespace

void add_plan(Commands& commands) {
  auto options = std::make_shared<Options>();
  auto* app =
      commands.add("plan", "Show which processor would do what, how fast, and why",
                   "impetus plan impetus-tiny-chat impetus-tiny-embed --explain\n  impetus plan "
                   "llama-3.1-8b:q4_0 --hardware m4-max",
                   [options] { return run_plan(*options); });
  app->add_option("models", options->models,
                  "Paths or names; or SHAPE:TYPE, to plan on paper (llama-3.1-8b:q4_0)")
      ->type_name("MODEL");
  app->add_option(
         "--hardware", options->hardware,
         "Another machine: a known one (m1 ... m5-max, h200, ...), or a file that `impetus "
         "hardware --measure --json` wrote")
      ->type_name("NAME|FILE");
  app->add_option("--macos", options->macos, "The macOS of a Mac on paper")->capture_default_str();
  app->add_option("--device", options->devices,
                  "Only these devices or backends (here: as in `serve`)")
      ->delimiter(',');
  app->add_option("--prompt", options->prompt, "Tokens of the prompt that is planned for")
      ->check(CLI::Range(1, 1 << 24))
      ->capture_default_str();
  app->add_option("--answer", options->answer, "Tokens of the answer that is planned for")
      ->check(CLI::Range(1, 1 << 24))
      ->capture_default_str();
  app->add_flag("--explain", options->explain, "Every candidate, with the reason it won or lost");
  app->add_flag("--verify", options->verify, "Measure what was predicted, here and now");
  app->add_flag(
      "--grid", options->grid,
      "Measure every backend and thread count over prompts and answers of several lengths, "
      "and say what the plan's choices lose");
  app->add_flag("--published", options->published,
                "Plans on paper beside the speeds that others published");
  app->add_flag("--json", options->json, "As JSON");
  options->load.add_to(*app, true);
}

}  // namespace impetus::cli

#include <algorithm>
#include <fstream>

#include <CLI/CLI.hpp>

#include "cli/plan.h"
#include "cli/processors.h"
#include "hardware/known_machines.h"
#include "hardware/memory.h"
#include "planner/paper.h"
#include "planner/plan.h"
#include "runtime/profiles.h"

namespace impetus::cli {
namespace {

std::optional<DType> weight_type(std::string_view name) {
  for (const DType type : {DType::f32, DType::f16, DType::bf16, DType::q8_0, DType::q4_0}) {
    if (to_string(type) == name) return type;
  }
  return std::nullopt;
}

}  // namespace

std::optional<std::pair<const ModelSpec*, DType>> shape_and_type(std::string_view name) {
  const size_t colon = name.rfind(':');
  if (colon == name.npos) return std::nullopt;
  const ModelSpec* spec = known_shape(name.substr(0, colon));
  const auto type = weight_type(name.substr(colon + 1));
  if (spec == nullptr || !type) return std::nullopt;
  return std::pair(spec, *type);
}

std::string seconds_text(double seconds) {
  if (seconds < 1e-3) return fmt::format("{:.0f} us", seconds * 1e6);
  if (seconds < 1) return fmt::format("{:.1f} ms", seconds * 1e3);
  return fmt::format("{:.2f} s", seconds);
}

namespace {

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

// What models may take of a GPU's own memory in such a report; 0 where it does not say. MLX on CUDA
// drives the first.
int64_t memory_of(const json::object& report, const DeviceProfile& profile) {
  const json::value* gpus = report.if_contains("gpus");
  if (gpus == nullptr || !gpus->is_array()) return 0;
  for (const json::value& entry : gpus->get_array()) {
    const json::object* gpu = entry.if_object();
    if (gpu == nullptr) continue;
    const auto id = string_field(*gpu, "id");
    const auto bytes = int_field(*gpu, "memory_bytes");
    const bool drives =
        profile.backend == "mlx-cuda" || (id.ok() && *id == std::string_view(profile.device));
    if (drives && bytes.ok() && *bytes) return std::max<int64_t>(0, **bytes / 10 * 9);
  }
  return 0;
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
  IMPETUS_TRY(const auto unified, bool_field(memory->get_object(), "unified"));
  machine.host_memory_bytes = std::max<int64_t>(0, usable.value_or(0));
  for (const json::value& entry : profiles->get_array()) {
    auto profile = profile_from_json(entry);
    if (!profile.ok()) return std::move(profile).error().within(path);
    Processor& one = machine.processors.emplace_back();
    one.device = profile->device;
    one.name = profile->backend;
    one.profile = std::move(*profile);
    one.kv = kv_types_of(one.profile.backend);
    one.shares_host_memory =
        one.device == "cpu" || one.profile.backend == "mlx-cpu" || unified.value_or(false);
    one.memory_bytes =
        one.shares_host_memory ? machine.host_memory_bytes : memory_of(*object, one.profile);
    one.runs_decoders = one.profile.backend != "coreml";
  }
  return machine;
}

Result<PaperOptions> paper_options(const PlanOptions& options) {
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

Result<PlanMachine> machine_on_paper(const PlanOptions& options) {
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

std::string rate_text(double rate) {
  return rate >= 100 ? fmt::format("{:.0f} tokens/s", rate) : fmt::format("{:.1f} tokens/s", rate);
}

std::string place_text(const std::string& device, const std::string& backend) {
  return backend.starts_with(device) ? backend : fmt::format("{} ({})", device, backend);
}

// How the pace of a phase's processor changed while it was measured; nothing where by no more than
// a tenth, or nobody knows.
std::optional<Scatter> scatter_of(const PlanMachine& machine, const std::string& backend,
                                  std::string_view phase) {
  const auto on = std::ranges::find(machine.processors, backend,
                                    [](const Processor& one) { return one.profile.backend; });
  if (on == machine.processors.end()) return std::nullopt;
  const Scatter scatter = on->profile.scatter_of(phase == "decode"    ? ShapeClass::decode
                                                 : phase == "prefill" ? ShapeClass::prefill
                                                                      : ShapeClass::encoder);
  if (scatter.least >= 0.9 && scatter.most <= 1.1) return std::nullopt;
  return scatter;
}

void print_model(const ModelPlan& model, const ModelCost& cost, const PlanMachine& machine,
                 bool explain) {
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
    if (const auto scatter = scatter_of(machine, one.backend, to_string(one.phase))) {
      fmt::print("             in other moments such steps took {:.2f} to {:.2f} times as long\n",
                 scatter->least, scatter->most);
    }
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

Result<void> run_plan(const PlanOptions& options) {
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
    IMPETUS_TRY(Processors found,
                find_processors(options.devices, options.load.threads, options.load.coreml()));
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
    IMPETUS_TRY(checks, verify_plan(options, models, machine, policy, backends));
  }
  if (options.json) {
    report["measured"] = options.hardware.empty() && !estimated;
    if (options.verify) {
      json::array verified;
      for (const BenchmarkRecord& check : checks) {
        json::object row = to_json(check);
        if (const auto scatter = scatter_of(machine, check.backend, check.phase)) {
          row["predicted_tokens_per_second_min"] = check.predicted / scatter->most;
          row["predicted_tokens_per_second_max"] = check.predicted / scatter->least;
        }
        verified.push_back(std::move(row));
      }
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
    print_model(plan.models[i], models[i], machine, options.explain);
  if (options.verify) {
    size_t width = 24;
    for (const BenchmarkRecord& check : checks) width = std::max(width, check.model.size());
    fmt::print("\n  {:<{}} {:<10} {:<14} {:>10} {:>10} {:>21} {:>7}\n", "model", width, "phase",
               "backend", "planned", "measured", "least to most", "error");
    for (const BenchmarkRecord& check : checks) {
      const auto scatter = scatter_of(machine, check.backend, check.phase);
      fmt::print(
          "  {:<{}} {:<10} {:<14} {:>10.1f} {:>10.1f} {:>21} {:>+6.0f}%{}\n", check.model, width,
          check.phase, check.backend, check.predicted, check.measured,
          fmt::format("{:.1f} to {:.1f}", check.least, check.most),
          (check.predicted / check.measured - 1) * 100,
          scatter ? fmt::format("  plan {:.0f} to {:.0f} by the moment",
                                check.predicted / scatter->most, check.predicted / scatter->least)
                  : "");
    }
    fmt::print("  median error {:.0f} %; tokens a second, medians of three rounds\n",
               median_prediction_error(checks) * 100);
  }
  return {};
}

}  // namespace

void add_plan(Commands& commands) {
  auto options = std::make_shared<PlanOptions>();
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
  app->add_flag("--verify", options->verify,
                "Measure what was predicted, here and now, in three rounds");
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

#include <algorithm>
#include <filesystem>
#include <map>
#include <set>

#include <unistd.h>

#include <CLI/CLI.hpp>

#include "backend/synthetic_model.h"
#include "cli/commands.h"
#include "cli/conversion_quality.h"
#include "cli/plan.h"
#include "coreml/apple_model.h"
#include "coreml/check.h"
#include "coreml/convert.h"
#include "coreml/report.h"
#include "coreml/rules.h"
#include "mil/operations.h"
#include "mil/package.h"
#include "runtime/model.h"
#include "terminal/text_writer.h"

namespace impetus::cli {
namespace {

using coreml::CheckReport;
using coreml::Chip;
using coreml::Finding;
using coreml::FunctionReport;
using coreml::Level;
using coreml::PlacedOperation;
using coreml::Unit;

struct Options {
  std::string model, chip = "all", precision = "fp16", texts;
  std::vector<int64_t> shapes = coreml::ConvertOptions{}.shapes;
  int macos = coreml::ConvertOptions{}.macos;
  bool json = false, operations = false, rules = false, on_device = false;
};

// A model with its reports, one a chip.
struct Checked {
  std::string name;
  std::vector<CheckReport> reports;
  ValueRanges values;
};

Result<std::vector<const Chip*>> chosen_chips(const std::string& name) {
  std::vector<const Chip*> chosen;
  for (const Chip& chip : coreml::chips()) {
    if (name == "all") chosen.push_back(&chip);
  }
  if (name == "all") return chosen;
  if (const Chip* chip = coreml::find_chip(name)) return std::vector{chip};
  return error(ErrorCode::invalid_argument, "--chip {}: known are m1, m2, m3, m4, m5 and all",
               name);
}

bool is_package(const std::string& path) {
  std::error_code code;
  const std::filesystem::path at(path);
  return at.extension() == ".mlmodel" || at.extension() == ".mlpackage" ||
         std::filesystem::exists(at / "Manifest.json", code);
}

Result<Checked> check_model(std::string name, const mil::Model& model, int64_t bytes,
                            const std::vector<const Chip*>& chips, ValueRanges values) {
  Checked checked{std::move(name), {}, std::move(values)};
  const auto valid = mil::validate(model, mil::Unknown::trust);
  for (const Chip* chip : chips) {
    IMPETUS_TRY(CheckReport report, coreml::check(model, *chip, bytes, checked.values.ranges));
    if (!valid.ok()) {
      Finding& finding = report.findings.emplace_back();
      finding.rule = "program";
      finding.level = Level::error;
      finding.message = valid.error().message;
      finding.mend = "convert it anew: Core ML may refuse it, and the rest of this report may err";
    }
    checked.reports.push_back(std::move(report));
  }
  return checked;
}

// An encoder's programs as `convert` would write them, and how large its values become.
struct Programs {
  std::vector<coreml::Converted> converted;
  ValueRanges values;
};

// Of a model's files.
Result<Programs> programs_of_files(const Options& options, coreml::ConvertOptions wanted) {
  IMPETUS_TRY(const ModelLocation location, locate(options.model));
  IMPETUS_TRY(const ModelFiles files, open_model_files(location));
  Programs programs;
  std::vector<std::vector<TokenId>> samples;
  if (files.spec.kind == ModelKind::encoder) {  // the converter says what else there is to say
    IMPETUS_TRY(const auto texts, sample_texts(options.texts));
    if (const auto text = load_model_text(location); text.ok()) {
      samples = encoded(*text->tokenizer, texts);
    } else {
      programs.values.why_not = text.error().message;
    }
    if (wanted.precision == coreml::Precision::w8a8) wanted.calibration = samples;
  }
  IMPETUS_TRY(programs.converted, coreml::convert_encoder(files.spec, *files.weights, wanted));
  if (samples.empty()) return programs;
  const Trial trial = trial_of(programs.converted);
  IMPETUS_TRY(programs.values,
              measure_ranges(files.spec, *files.weights, trial.program->model,
                             coreml::function_name(trial.tokens, options.macos), samples));
  return programs;
}

// Of a model's files, or of a shape with random weights.
Result<Programs> programs_of(const Options& options) {
  coreml::ConvertOptions wanted;
  IMPETUS_TRY(wanted.precision, coreml::precision_from(options.precision));
  wanted.shapes = options.shapes;
  wanted.macos = options.macos;
  const auto shape = shape_and_type(options.model);
  if (!shape) return programs_of_files(options, std::move(wanted));
  if (shape->first->kind != ModelKind::encoder) {
    return error(ErrorCode::unsupported, "{}: only encoders are converted", options.model);
  }
  IMPETUS_TRY(const SyntheticModel model, synthetic_model(*shape->first, shape->second, true));
  Programs programs;
  IMPETUS_TRY(programs.converted, coreml::convert_encoder(model.spec, *model.weights, wanted));
  programs.values.why_not = "random weights";
  return programs;
}

Result<std::vector<Checked>> check_all(const Options& options) {
  IMPETUS_TRY(const auto chips, chosen_chips(options.chip));
  std::vector<Checked> all;
  const bool package = is_package(options.model);
  if (!options.texts.empty() && (package || shape_and_type(options.model))) {
    return error(ErrorCode::invalid_argument,
                 "--texts: values are measured on a model's files; {} has no tokenizer",
                 options.model);
  }
  if (package) {
    IMPETUS_TRY(const mil::Package package, mil::open_package(options.model));
    IMPETUS_TRY(Checked one, check_model(options.model, package.model,
                                         package.model_bytes + package.weight_bytes, chips,
                                         {.why_not = "a package has no tokenizer"}));
    all.push_back(std::move(one));
    return all;
  }
  IMPETUS_TRY(const Programs programs, programs_of(options));
  for (const coreml::Converted& program : programs.converted) {
    IMPETUS_TRY(const mil::PackageBytes written, mil::serialize(program.model));
    std::string name = fmt::format("{} as {}", options.model, options.precision);
    if (programs.converted.size() > 1) name += fmt::format(", {} tokens", program.shapes.front());
    const auto bytes = static_cast<int64_t>(written.model.size() + written.weights.size());
    IMPETUS_TRY(Checked one,
                check_model(std::move(name), program.model, bytes, chips, programs.values));
    all.push_back(std::move(one));
  }
  return all;
}

// Colours only where a terminal shows them and nobody forbids it (https://no-color.org).
class Paint {
 public:
  Paint() {
    const char* forbidden = std::getenv("NO_COLOR");
    const char* terminal = std::getenv("TERM");
    on_ = ::isatty(STDOUT_FILENO) == 1 && (forbidden == nullptr || *forbidden == '\0') &&
          (terminal == nullptr || std::string_view(terminal) != "dumb");
  }
  std::string level(Level level, std::string text) const {
    if (!on_) return text;
    const char* colour = level == Level::error ? "31;1" : level == Level::warning ? "33;1" : "36";
    return fmt::format("\033[{}m{}\033[0m", colour, text);
  }
  std::string strong(std::string text) const {
    return on_ ? fmt::format("\033[1m{}\033[0m", text) : text;
  }

 private:
  bool on_ = false;
};

std::string bytes_text(int64_t bytes) {
  const auto size = static_cast<double>(bytes);
  if (size < 1e4) return fmt::format("{} B", bytes);
  if (size < 1e6) return fmt::format("{:.1f} kB", size / 1e3);
  if (size < 1e9) return fmt::format("{:.1f} MB", size / 1e6);
  return fmt::format("{:.2f} GB", size / 1e9);
}

std::string time_text(double seconds) {
  if (seconds < 1e-3) return fmt::format("{:.0f} us", seconds * 1e6);
  if (seconds < 1) return fmt::format("{:.2f} ms", seconds * 1e3);
  return fmt::format("{:.2f} s", seconds);
}

// 99.9, not 100, where something is missing.
std::string share_text(double share) {
  if (share > 0.999 && share < 1) share = 0.999;
  return fmt::format("{:.4g} %", share * 100);
}

void print_functions(const Checked& checked) {
  fmt::print("  {:<14} {:<4} {:>10} {:>6} {:>4} {:>4} {:>8} {:>7} {:>10} {:>10} {:>10} {:>10}\n",
             "function", "chip", "operations", "engine", "gpu", "cpu", "constant", "pieces",
             "residency", "of flops", "predicted", "memory");
  const size_t functions = checked.reports.front().functions.size();
  int64_t peak = 0;  // the package's memory counts the largest function's
  for (const FunctionReport& one : checked.reports.front().functions) {
    peak = std::max(peak, one.activation_peak_bytes);
  }
  for (size_t i = 0; i < functions; ++i) {
    for (const CheckReport& report : checked.reports) {
      const FunctionReport& one = report.functions[i];
      const bool first = &report == &checked.reports.front();
      fmt::print(
          "  {:<14} {:<4} {:>10} {:>6} {:>4} {:>4} {:>8} {:>7} {:>10} {:>10} {:>10} {:>10}\n",
          first ? one.name : "", report.chip, one.operations, one.engine, one.gpu, one.cpu,
          one.constants, one.segments, share_text(one.residency), share_text(one.flops_residency),
          time_text(one.seconds),
          bytes_text(report.memory_bytes - peak + one.activation_peak_bytes));
    }
  }
  const CheckReport& any = checked.reports.front();
  for (const FunctionReport& one : any.functions) {
    fmt::print("  {}: {:.3g} GFLOP, weights {}, activations at most {} at once", one.name,
               static_cast<double>(one.flops) / 1e9, bytes_text(one.weight_bytes),
               bytes_text(one.activation_peak_bytes));
    if (one.padded_bytes > one.activation_bytes && one.activation_bytes > 0) {
      fmt::print(", padded to {:.2f} times their size",
                 static_cast<double>(one.padded_bytes) / static_cast<double>(one.activation_bytes));
    }
    fmt::print("\n");
  }
}

// What does not differ between places: the text up to its first figure or colon.
std::string gist(const std::string& text) {
  return text.substr(0, text.find_first_of("0123456789:"));
}

// Findings of a rule that have one mend.
struct Group {
  const Finding* first = nullptr;
  int64_t count = 0;
  std::set<std::string> chips;
  std::map<std::string, int64_t> types;
};

// "gather, cast": the most frequent first.
std::string types_text(const Group& group) {
  std::vector<std::pair<int64_t, std::string>> types;
  for (const auto& [type, count] : group.types) types.emplace_back(-count, type);
  std::ranges::sort(types);
  std::string text;
  constexpr size_t kShown = 5;
  for (size_t i = 0; i < std::min(types.size(), kShown); ++i) {
    text += fmt::format("{}{} {}", i == 0 ? "" : ", ", -types[i].first, types[i].second);
  }
  return types.size() > kShown ? text + ", ..." : text;
}

void print_group(const Group& group, size_t chips) {
  const Finding& one = *group.first;
  std::string where = one.function;
  const std::string& name = one.operation.empty() ? one.tensor : one.operation;
  if (!name.empty()) where += (where.empty() ? "" : "/") + name;
  if (!one.type.empty()) where += fmt::format(" ({})", one.type);
  if (group.count > 1) {
    const std::string types = types_text(group);
    fmt::print("  {} times{}, first\n", group.count, types.empty() ? "" : ": " + types);
  }
  fmt::print("  {}{}{}\n", where, where.empty() ? "" : ": ", one.message);
  if (group.chips.size() < chips) fmt::print("    on {} only\n", fmt::join(group.chips, ", "));
  if (one.waiver.empty()) fmt::print("    mend: {}\n", one.mend);
}

size_t rank_of(const std::string& rule) {
  const auto all = coreml::rules();
  return static_cast<size_t>(std::ranges::find(all, rule, &coreml::Rule::id) - all.begin());
}

void print_findings(const Checked& checked, const Paint& paint) {
  // By waived or not, level, rule in the table's order, what to do about it.
  std::map<std::tuple<bool, Level, size_t, std::string, std::string>, Group> groups;
  std::set<std::tuple<std::string, std::string, std::string, std::string>> places;
  for (const CheckReport& report : checked.reports) {
    for (const Finding& one : report.findings) {
      const size_t at = rank_of(one.rule);
      Group& group = groups[{!one.waiver.empty(), one.level, at, one.waiver, gist(one.mend)}];
      if (group.first == nullptr) group.first = &one;
      group.chips.insert(report.chip);
      // The same place on several chips is one.
      if (!places.emplace(one.rule, one.function, one.operation, one.tensor + gist(one.message))
               .second) {
        continue;
      }
      ++group.count;
      if (!one.type.empty()) ++group.types[one.type];
    }
  }
  std::string title;
  for (const auto& [key, group] : groups) {
    const Finding& one = *group.first;
    const std::string heading = fmt::format("{} {}{}", to_string(one.level), one.rule,
                                            one.waiver.empty() ? "" : ", waived");
    if (heading != title) {
      const coreml::Rule* known = coreml::find_rule(one.rule);
      fmt::print("\n{}  {}\n", paint.level(one.level, heading),
                 known != nullptr ? known->statement : std::string_view());
      title = heading;
    }
    print_group(group, checked.reports.size());
    // The reason is the package's word, and a package may be anybody's.
    if (!one.waiver.empty()) fmt::print("    waived: {}\n", harmless(one.waiver));
  }
}

// Operations of a function that differ by figures in their names alone.
struct Kind {
  std::string name;  // figures as '*'
  const PlacedOperation* first = nullptr;
  int64_t count = 0, flops = 0, weight_bytes = 0;
  double seconds = 0;
};

std::string without_figures(std::string_view name) {
  std::string text;
  for (const char letter : name) {
    const bool figure = letter >= '0' && letter <= '9';
    if (!figure) text += letter;
    if (figure && !text.ends_with('*')) text += '*';
  }
  return text;
}

std::vector<Kind> kinds_of(const CheckReport& report, const std::string& function) {
  std::vector<Kind> kinds;
  std::map<std::tuple<std::string, std::string, std::string, Unit, std::string>, size_t> known;
  for (const PlacedOperation& one : report.operations) {
    if (one.function != function || one.unit == Unit::constant) continue;
    std::string name = without_figures(one.name);
    const auto [entry, added] = known.try_emplace(
        {name, one.type, one.output_type, one.unit, gist(one.reason)}, kinds.size());
    if (added) kinds.push_back({.name = std::move(name), .first = &one});
    Kind& kind = kinds[entry->second];
    ++kind.count;
    kind.flops += one.flops;
    kind.weight_bytes += one.weight_bytes;
    kind.seconds += one.seconds;
  }
  for (Kind& kind : kinds) {
    if (kind.count == 1) kind.name = kind.first->name;
  }
  return kinds;
}

void print_operations(const Checked& checked) {
  for (const CheckReport& report : checked.reports) {
    for (const FunctionReport& function : report.functions) {
      const std::vector<Kind> kinds = kinds_of(report, function.name);
      size_t names = 4, types = 4, results = 6;
      for (const Kind& kind : kinds) {
        names = std::max(names, kind.name.size());
        types = std::max(types, kind.first->type.size());
        results = std::max(results, kind.first->output_type.size());
      }
      fmt::print("\n{} on {}, alike ones in one row\n", function.name, report.chip);
      fmt::print("  {:<{}} {:<{}} {:<{}} {:>5} {:<14} {:>8} {:>9} {:>9}  {}\n", "name", names,
                 "type", types, "result", results, "times", "unit", "MFLOP", "weights", "predicted",
                 "reason");
      for (const Kind& kind : kinds) {
        const PlacedOperation& one = *kind.first;
        fmt::print("  {:<{}} {:<{}} {:<{}} {:>5} {:<14} {:>8.1f} {:>9} {:>9}  {}\n", kind.name,
                   names, one.type, types, one.output_type, results, kind.count,
                   to_string(one.unit), static_cast<double>(kind.flops) / 1e6,
                   bytes_text(kind.weight_bytes), time_text(kind.seconds), one.reason);
      }
    }
  }
}

void print_values(const ValueRanges& values) {
  if (values.ranges.empty()) {
    fmt::print("ranges of values (D14) assumed from the program's structure: {}\n\n",
               values.why_not);
    return;
  }
  fmt::print(
      "ranges of values (D14) measured over {} texts in f32: norms see at most {:.1f} ({})\n\n",
      values.texts, values.norm_input.max_abs, values.norm_input.tensor);
}

json::object to_json(const ValueRanges& values) {
  if (values.ranges.empty()) return {{"measured", false}, {"reason", values.why_not}};
  return {{"measured", true},
          {"texts", values.texts},
          {"norm_input_max", values.norm_input.max_abs},
          {"norm_input_tensor", values.norm_input.tensor}};
}

void print_report(const Checked& checked, const Options& options, const Paint& paint) {
  const CheckReport& any = checked.reports.front();
  fmt::print("{}: {} function{}, {}weights {}\n", paint.strong(checked.name), any.functions.size(),
             any.functions.size() == 1 ? "" : "s",
             any.package_bytes > 0 ? bytes_text(any.package_bytes) + ", " : "",
             bytes_text(any.weight_bytes));
  fmt::print(
      "predicted without a Neural Engine: see docs/neural-engine.md for what no Mac has "
      "confirmed\n");
  print_values(checked.values);
  print_functions(checked);
  print_findings(checked, paint);
  if (options.operations) print_operations(checked);
  int64_t errors = 0;
  for (const CheckReport& report : checked.reports) errors += report.has_errors() ? 1 : 0;
  fmt::print("\n{}\n", errors == 0                   ? "no errors"
                       : checked.reports.size() == 1 ? "errors: see above"
                                                     : fmt::format("errors on {} of {} chips",
                                                                   errors, checked.reports.size()));
}

// What this machine's Core ML plans, beside which the rules are predictions.
Result<void> ask_device(const Options& options) {
  IMPETUS_TRY(
      const auto report,
      coreml::on_device_report(options.model, "", coreml::ComputeUnits::cpu_and_neural_engine));
  if (options.json) {
    json::array operations;
    for (const auto& one : report.operations) {
      operations.push_back(json::object{{"function", one.function},
                                        {"type", one.type},
                                        {"output", one.output},
                                        {"device", one.device},
                                        {"cost", one.cost},
                                        {"on_engine", one.on_engine}});
    }
    print_json(json::object{{"system", report.system},
                            {"devices", json::array(report.devices.begin(), report.devices.end())},
                            {"operations", std::move(operations)}});
    return {};
  }
  fmt::print("{}\n", report.system);
  for (const std::string& device : report.devices) fmt::print("  {}\n", device);
  for (const auto& one : report.operations) {
    if (one.device.empty()) continue;
    fmt::print("  {:<16} {:<28} {:<32} {}{}\n", one.function, one.type, one.output, one.device,
               one.device != "ane" && one.on_engine ? " (the engine could)" : "");
  }
  return {};
}

Result<void> run_check(const Options& options, Commands& commands) {
  if (options.rules) {
    fmt::print("{}\n{}", coreml::rules_markdown(), coreml::chips_markdown());
    return {};
  }
  if (options.model.empty()) {
    return error(ErrorCode::invalid_argument, "check what? Name a .mlpackage or a model");
  }
  if (options.on_device) return ask_device(options);
  auto checked = check_all(options);
  if (!checked.ok()) {
    commands.status = 2;
    fmt::print(stderr, "impetus: {}\n", checked.error().message);
    return {};
  }
  for (const Checked& one : *checked) {
    for (const CheckReport& report : one.reports) {
      if (report.has_errors()) commands.status = 1;
    }
  }
  if (options.json) {
    json::array models;
    for (const Checked& one : *checked) {
      json::array chips;
      for (const CheckReport& report : one.reports) {
        json::object object = coreml::to_json(report);
        if (!options.operations) object.erase("operations");
        chips.push_back(std::move(object));
      }
      models.push_back(json::object{
          {"model", one.name}, {"ranges", to_json(one.values)}, {"chips", std::move(chips)}});
    }
    print_json(json::object{{"models", std::move(models)}});
    return {};
  }
  const Paint paint;
  for (const Checked& one : *checked) print_report(one, options, paint);
  return {};
}

}  // namespace

void add_check(Commands& commands) {
  auto options = std::make_shared<Options>();
  auto* app = commands.add(
      "check", "Say what Apple's Neural Engine would make of a Core ML package, without one",
      "impetus check model.mlpackage --chip m4\n  impetus check impetus-tiny-embed --ops",
      [options, &commands] { return run_check(*options, commands); });
  app->add_option("model", options->model,
                  "A .mlpackage or .mlmodel; or an encoder, which is converted in memory: a path, "
                  "a name, or SHAPE:TYPE with random weights (minilm-l6:f16)")
      ->type_name("PACKAGE|MODEL");
  app->add_option("--precision", options->precision, "Of a model that is converted")
      ->check(CLI::IsMember({"fp16", "int8", "palettized8", "palettized6", "palettized4", "w8a8"}))
      ->capture_default_str();
  app->add_option("--shapes", options->shapes, "Its lengths in tokens")
      ->delimiter(',')
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app->add_option("--macos", options->macos, "The oldest system that is to run it")
      ->check(CLI::IsMember({13, 14, 15}))
      ->capture_default_str();
  app->add_option("--texts", options->texts,
                  "Texts, one a line, to measure a model's ranges of values on (default: a dozen "
                  "built in)");
  app->add_option("--chip", options->chip, "m1, m2, m3, m4, m5 (m4-max: the family's) or all")
      ->capture_default_str();
  app->add_flag("--ops", options->operations,
                "Every operation: where it runs and why (with --json each by itself)");
  app->add_flag("--json", options->json, "As JSON (operations with --ops)");
  app->add_flag("--rules", options->rules, "The rules and chips that are checked, as tables");
  app->add_flag("--on-device", options->on_device,
                "Ask this Mac's Core ML where each operation runs");
}

}  // namespace impetus::cli

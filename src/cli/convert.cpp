#include <algorithm>
#include <chrono>
#include <sstream>

#include <CLI/CLI.hpp>

#include "base/mapped_file.h"
#include "cli/commands.h"
#include "cli/conversion_quality.h"
#include "coreml/convert.h"
#include "mil/package.h"
#include "runtime/model.h"

namespace impetus::cli {
namespace {

namespace fs = std::filesystem;

// Below this the vectors are another model's.
constexpr double kGate = 0.99;

struct Options {
  std::string model, to = "coreml", out, precision = "fp16", calibration, compare;
  std::vector<int64_t> shapes = coreml::ConvertOptions{}.shapes;
  int macos = coreml::ConvertOptions{}.macos;
  int threads = 0;
  bool force = false, json = false;
};

// "license: mit" in the front matter of a Hugging Face model card; "general.license" of a GGUF.
std::string license_of(const ModelLocation& location, const ModelFiles& files) {
  if (files.gguf) {
    if (const auto said = files.gguf->string("general.license"); said.ok() && *said) {
      return std::string(**said);
    }
    return {};
  }
  const auto card = read_file(location.path / "README.md", size_t{1} << 20);
  if (!card.ok() || !card->starts_with("---")) return {};
  std::istringstream lines(*card);
  std::string line;
  std::getline(lines, line);
  while (std::getline(lines, line) && !line.starts_with("---")) {
    constexpr std::string_view kKey = "license:";
    if (!line.starts_with(kKey)) continue;
    const auto first = line.find_first_not_of(" \"'", kKey.size());
    const auto last = line.find_last_not_of(" \"'\r");
    if (first != std::string::npos && last >= first) return line.substr(first, last - first + 1);
  }
  return {};
}

// X.mlpackage; X-16.mlpackage where each length is a package of its own.
fs::path package_path(const fs::path& out, const coreml::Converted& one, bool alone) {
  if (alone) return out;
  fs::path path = out;
  path.replace_filename(fmt::format("{}-{}.mlpackage", out.stem().string(), one.shapes.front()));
  return path;
}

int64_t folder_bytes(const fs::path& folder) {
  int64_t bytes = 0;
  std::error_code failure;
  for (const auto& entry : fs::recursive_directory_iterator(folder, failure)) {
    if (entry.is_regular_file(failure)) bytes += static_cast<int64_t>(entry.file_size(failure));
  }
  return bytes;
}

Result<void> check_quality(const ConversionQuality& quality, const Options& options) {
  const bool good = quality.text_cosine >= kGate && quality.events.empty();
  if (good || options.force) return {};
  if (!quality.events.empty()) {
    return error(ErrorCode::unsupported,
                 "nothing was written: in fp16 {}; --force writes it all the same",
                 quality.events.front());
  }
  return error(ErrorCode::unsupported,
               "nothing was written: at {} the vectors are no longer the model's, their lowest "
               "cosine is {:.4f}, below {}; take more bits, or --force",
               options.precision, quality.text_cosine, kGate);
}

void print_report(const json::object& report, const ConversionQuality& quality,
                  const Options& options) {
  for (const auto& value : report.at("packages").as_array()) {
    const json::object& package = value.as_object();
    std::vector<std::string_view> functions;
    for (const auto& name : package.at("functions").as_array())
      functions.push_back(name.as_string());
    fmt::print("{}  {:.1f} MB  functions {}\n", std::string_view(package.at("path").as_string()),
               static_cast<double>(package.at("bytes").as_int64()) / 1e6,
               fmt::join(functions, ", "));
  }
  if (report.at("packages").as_array().size() > 1) {
    fmt::print("macOS {} knows no functions: a package a length.\n", options.macos);
  }
  fmt::print(
      "{} beside f32, {} texts: cosine {:.6f} at least ({:.6f} of a token); norms see at most "
      "{:.1f}\n",
      options.precision, quality.texts, quality.text_cosine, quality.token_cosine,
      quality.norm_input_max);
  for (const std::string& event : quality.events) fmt::print("  in fp16: {}\n", event);
  fmt::print("Look at it with: impetus check {}\n",
             std::string_view(report.at("packages").at(0).at("path").as_string()));
}

Result<void> convert(const Options& options) {
  const auto started = std::chrono::steady_clock::now();
  const fs::path out(options.out);
  if (out.extension() != ".mlpackage") {
    return error(ErrorCode::invalid_argument, "--out '{}' must end in .mlpackage", options.out);
  }
  coreml::ConvertOptions wanted;
  IMPETUS_TRY(wanted.precision, coreml::precision_from(options.precision));
  if (!options.calibration.empty() && wanted.precision != coreml::Precision::w8a8) {
    return error(ErrorCode::invalid_argument, "--calibration is for --precision w8a8, not {}",
                 options.precision);
  }
  wanted.shapes = options.shapes;
  wanted.macos = options.macos;
  IMPETUS_TRY(const ModelLocation location, locate(options.model));
  IMPETUS_TRY(const ModelFiles files, open_model_files(location));
  wanted.name = location.id;
  wanted.license = license_of(location, files);
  std::vector<std::vector<TokenId>> samples;
  if (files.spec.kind == ModelKind::encoder) {  // the converter says what else there is to say
    IMPETUS_TRY(const ModelText text, load_model_text(location));
    IMPETUS_TRY(const auto compared, sample_texts(options.compare));
    samples = encoded(*text.tokenizer, compared);
    if (wanted.precision == coreml::Precision::w8a8) {
      IMPETUS_TRY(const auto calibration, sample_texts(options.calibration));
      wanted.calibration = encoded(*text.tokenizer, calibration);
    }
  }
  std::optional<Progress> progress;
  wanted.progress = [&](int64_t done, int64_t total) {
    if (!progress) progress.emplace("converting", total);
    progress->step(done);
  };
  IMPETUS_TRY(const auto converted, coreml::convert_encoder(files.spec, *files.weights, wanted));

  const Trial trial = trial_of(converted);
  progress.emplace("comparing", static_cast<int64_t>(samples.size()));
  IMPETUS_TRY(const ConversionQuality quality,
              measure_conversion(files.spec, *files.weights, trial.program->model,
                                 coreml::function_name(trial.tokens, options.macos), samples,
                                 options.threads, [&](int64_t done) { progress->step(done); }));
  progress.reset();
  IMPETUS_CHECK(check_quality(quality, options));

  json::array packages;
  for (const auto& one : converted) {
    const fs::path path = package_path(out, one, converted.size() == 1);
    IMPETUS_CHECK(mil::write_package(path, one.model));
    json::array functions;
    for (const auto& function : one.model.functions) functions.emplace_back(function.name);
    packages.push_back(json::object{{"path", path.string()},
                                    {"functions", std::move(functions)},
                                    {"shapes", json::array(one.shapes.begin(), one.shapes.end())},
                                    {"bytes", folder_bytes(path)}});
  }
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - started;
  const json::object report{{"model", location.id},        {"precision", options.precision},
                            {"macos", options.macos},      {"packages", std::move(packages)},
                            {"quality", to_json(quality)}, {"gate", kGate},
                            {"seconds", took.count()}};
  if (options.json) {
    print_json(report);
  } else {
    print_report(report, quality, options);
  }
  return {};
}

}  // namespace

void add_convert(Commands& commands) {
  auto options = std::make_shared<Options>();
  auto* app = commands.add("convert", "Write an encoder as Core ML packages for the Neural Engine",
                           "impetus convert impetus-tiny-embed --out tiny-embed.mlpackage "
                           "--precision int8",
                           [options] { return convert(*options); });
  app->add_option("model", options->model, "A path or name")->required();
  app->add_option("--to", options->to, "The format")
      ->check(CLI::IsMember({"coreml"}))
      ->capture_default_str();
  app->add_option("--out", options->out, "Where to: a path that ends in .mlpackage")->required();
  app->add_option("--precision", options->precision, "Of the weights; w8a8 of the activations too")
      ->check(CLI::IsMember({"fp16", "int8", "palettized8", "palettized6", "palettized4", "w8a8"}))
      ->capture_default_str();
  app->add_option("--shapes", options->shapes,
                  "Lengths in tokens; a text takes the next longer one")
      ->delimiter(',')
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app->add_option("--macos", options->macos,
                  "The oldest system that is to run it; before 15 each length is its own package")
      ->check(CLI::IsMember({13, 14, 15}))
      ->capture_default_str();
  app->add_option("--calibration", options->calibration,
                  "With w8a8: texts, one a line, that show how large activations are");
  app->add_option("--compare", options->compare,
                  "Texts, one a line, to hold the program against the model on (default: a dozen "
                  "built in)");
  app->add_option("--threads", options->threads, "Threads of the comparison (default: all)")
      ->check(CLI::Range(0, 1024));
  app->add_flag("--force", options->force, "Write it however far it is from the model");
  app->add_flag("--json", options->json, "What was written, as JSON");
}

}  // namespace impetus::cli

#include <charconv>
#include <cstdio>

#include <unistd.h>

#include <CLI/CLI.hpp>

#include "base/json.h"
#include "cli/commands.h"
#include "cli/processors.h"
#include "cpu/cpu_backend.h"

namespace impetus::cli {

CLI::App* Commands::add(const std::string& name, const std::string& description,
                        const std::string& example, Run run) {
  CLI::App* command = app.add_subcommand(name, description);
  command->footer("Example:\n  " + example);
  command->callback([this, run = std::move(run)] { chosen = run; });
  return command;
}

void ModelOptions::add_to(CLI::App& app, bool decoders) {
  app.add_option("--threads", threads, "Threads (default: the physical cores this process may use)")
      ->envname("IMPETUS_THREADS")
      ->check(CLI::Range(0, 1024));
  app.add_option("--weights", weights,
                 "as-is, or int8: 8-bit weights with 8-bit activations (quantised ones stay)")
      ->envname("IMPETUS_WEIGHTS")
      ->check(CLI::IsMember({"as-is", "int8"}))
      ->capture_default_str();
  app.add_option("--coreml-precision", coreml_precision,
                 "Of weights on coreml and coreml-emulated: fp16, int8, palettized8, palettized6, "
                 "palettized4")
      ->envname("IMPETUS_COREML_PRECISION")
      ->check(CLI::IsMember({"fp16", "int8", "palettized8", "palettized6", "palettized4"}))
      ->capture_default_str();
  app.add_option("--coreml-shapes", coreml_shapes,
                 "Lengths in tokens that programs are made for there; a text runs on the shortest "
                 "that holds it (default: 16,32,64,128,256,512)")
      ->envname("IMPETUS_COREML_SHAPES")
      ->delimiter(',')
      ->check(CLI::Range(1, 16384));
  if (!decoders) return;
  app.add_option("--kv", kv,
                 "Type of the KV cache; q8_0 takes about half of f16's memory, on mlx alone, for "
                 "heads of a multiple of 32, and on CUDA without the faster kernels")
      ->envname("IMPETUS_KV")
      ->check(CLI::IsMember({"f16", "bf16", "f32", "q8_0"}))
      ->capture_default_str();
  app.add_option("--kv-tokens", kv_tokens,
                 "Positions the KV cache holds over all requests (default: planned from memory)")
      ->envname("IMPETUS_KV_TOKENS")
      ->check(CLI::NonNegativeNumber);
}

void ModelOptions::add_placement_to(CLI::App& app) {
  app.add_option(
         "--device", devices,
         "Processors in the order to try them: cpu, cpu-avx512, cpu-avx2, cpu-reference, mlx, and "
         "for "
         "embeddings coreml-emulated (a Neural Engine imitated); "
         "by phase: prefill=NAME,decode=NAME,embeddings=NAME; all: as planned (default: the best)")
      ->envname("IMPETUS_DEVICE")
      ->delimiter(',')
      ->type_name("LIST");
  app.add_option("--fallback", fallback,
                 "Where a processor is absent or refuses the model: forbid fails, warn takes the "
                 "next and logs why, allow takes the next")
      ->envname("IMPETUS_FALLBACK")
      ->check(CLI::IsMember({"forbid", "warn", "allow"}))
      ->capture_default_str();
}

LoadOptions ModelOptions::load() const {
  LoadOptions options;
  options.weights = weights == "int8" ? WeightPrecision::int8 : WeightPrecision::as_is;
  options.kv = kv == "f32"    ? DType::f32
               : kv == "bf16" ? DType::bf16
               : kv == "q8_0" ? DType::q8_0
                              : DType::f16;
  return options;
}

RuntimeOptions ModelOptions::runtime() const {
  RuntimeOptions options;
  options.load = load();
  if (kv_tokens > 0) options.kv_tokens = kv_tokens;
  options.model_folders = default_model_folders();
  options.fallback = fallback == "forbid"  ? Fallback::forbid
                     : fallback == "allow" ? Fallback::allow
                                           : Fallback::warn;
  return options;
}

coreml::CoremlOptions ModelOptions::coreml() const {
  coreml::CoremlOptions options;
  if (auto precision = coreml::precision_from(coreml_precision); precision.ok()) {
    options.precision = *precision;
  }
  if (!coreml_shapes.empty()) options.shapes = coreml_shapes;
  return options;
}

Result<std::vector<std::unique_ptr<Backend>>> ModelOptions::backends() const {
  IMPETUS_TRY(auto cpu, make_cpu_backend({.threads = threads, .isa = {}}));
  std::vector<std::unique_ptr<Backend>> all;
  all.push_back(std::move(cpu));
  return all;
}

Result<std::unique_ptr<Runtime>> ModelOptions::make_runtime(RuntimeOptions options) const {
  IMPETUS_TRY(Processors processors, find_processors(devices, threads, coreml()));
  options.placement = std::move(processors.placement);
  return Runtime::create(std::move(options), std::move(processors.backends));
}

Result<ModelLocation> locate(const std::string& model) {
  return locate_model(model, default_model_folders());
}

Result<std::vector<TokenId>> parse_ids(const std::string& text) {
  std::vector<TokenId> ids;
  const char* at = text.data();
  const char* const end = at + text.size();
  while (at < end) {
    TokenId id = 0;
    const auto [next, code] = std::from_chars(at, end, id);
    if (code != std::errc{} || id < 0 || (next < end && *next != ',')) {
      return error(ErrorCode::invalid_argument,
                   "'{}' is no list of token ids such as 1,2,3 (at character {})", text,
                   at - text.data() + 1);
    }
    ids.push_back(id);
    at = next < end ? next + 1 : next;
  }
  if (ids.empty()) return error(ErrorCode::invalid_argument, "no token ids given");
  return ids;
}

void print_json(const json::value& value) {
  const std::string text = json::serialize(value);
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fputc('\n', stdout);
}

Progress::Progress(std::string what, int64_t total)
    : what_(std::move(what)), total_(total), visible_(::isatty(STDERR_FILENO) == 1) {
  step(0);
}

void Progress::step(int64_t done) {
  if (!visible_) return;
  constexpr int kWidth = 30;
  const auto filled = static_cast<size_t>(total_ > 0 ? done * kWidth / total_ : 0);
  fmt::print(stderr, "\r\033[K{} [{}{}] {}/{}", what_, std::string(filled, '#'),
             std::string(kWidth - filled, '.'), done, total_);
  std::fflush(stderr);
}

Progress::~Progress() {
  if (visible_) fmt::print(stderr, "\r\033[K");
}

}  // namespace impetus::cli

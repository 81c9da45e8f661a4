// The subcommands. Each adds itself to the application and runs when chosen; standard output is the
// answer alone, everything else goes to standard error. Exit: 0 done, 1 failed, 2 wrong usage
// (check: 1 errors found, 2 cannot read).
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <CLI/App.hpp>

#include "backend/executor.h"
#include "coreml/coreml_backend.h"
#include "runtime/catalogue.h"
#include "runtime/runtime.h"

namespace impetus::cli {

// What a subcommand's body returns; the message goes to standard error.
using Run = std::function<Result<void>()>;

// Adds a subcommand; `run` is kept in `chosen` when the user names it.
struct Commands {
  CLI::App& app;
  Run chosen;
  int status = 0;  // what main returns where `chosen` went well
  CLI::App* add(const std::string& name, const std::string& description, const std::string& example,
                Run run);
};

void add_serve(Commands& commands);
void add_run(Commands& commands);
void add_embed(Commands& commands);
void add_search(Commands& commands);
void add_bench(Commands& commands);
void add_plan(Commands& commands);
void add_inspect(Commands& commands);
void add_hardware(Commands& commands);
void add_check(Commands& commands);
void add_run_package(Commands& commands);
void add_convert(Commands& commands);
void add_tokenize(Commands& commands);
void add_detokenize(Commands& commands);
void add_template(Commands& commands);
void add_logits(Commands& commands);

// Options that several subcommands share.
struct ModelOptions {
  int threads = 0;
  std::string kv = "f16";
  std::string weights = "as-is";
  int64_t kv_tokens = 0;  // 0: planned
  std::vector<std::string> devices;
  std::string fallback = "warn";
  std::string coreml_precision = "fp16";
  std::vector<int64_t> coreml_shapes;  // empty: as `convert` has them

  void add_to(CLI::App& app, bool decoders);
  void add_placement_to(CLI::App& app);
  LoadOptions load() const;
  RuntimeOptions runtime() const;
  coreml::CoremlOptions coreml() const;
  // The best processor alone.
  Result<std::vector<std::unique_ptr<Backend>>> backends() const;
  // A runtime on the processors that --device names.
  Result<std::unique_ptr<Runtime>> make_runtime(RuntimeOptions options) const;
};

Result<ModelLocation> locate(const std::string& model);
Result<std::vector<TokenId>> parse_ids(const std::string& text);
void print_json(const json::value& value);

// A line on standard error that redraws itself, where a terminal looks on; silent otherwise.
class Progress {
 public:
  Progress(std::string what, int64_t total);
  ~Progress();
  void step(int64_t done);

 private:
  std::string what_;
  int64_t total_;
  bool visible_;
};

}  // namespace impetus::cli

#include <csignal>
#include <cstdio>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include "base/log.h"
#include "cli/commands.h"
#include "cli/config.h"

int main(int argc, char** argv) {
  using namespace impetus;
  std::signal(SIGPIPE, SIG_IGN);  // a reader that goes away is an error value, not an end

  CLI::App app("Impetus serves language and embedding models on the processors of this machine.",
               "impetus");
  app.set_version_flag("--version", "impetus 0.1.0");
  app.require_subcommand(1);
  app.fallthrough(false);
  cli::Commands commands{app, {}, 0};
  std::string level = "info";
  app.add_option("--log-level", level, "trace, debug, info, warn, error or off")
      ->envname("IMPETUS_LOG_LEVEL")
      ->check(CLI::IsMember({"trace", "debug", "info", "warn", "error", "off"}));
  cli::add_serve(commands);
  cli::add_run(commands);
  cli::add_embed(commands);
  cli::add_search(commands);
  cli::add_bench(commands);
  cli::add_plan(commands);
  cli::add_inspect(commands);
  cli::add_hardware(commands);
  cli::add_check(commands);
  cli::add_run_package(commands);
  cli::add_convert(commands);
  cli::add_tokenize(commands);
  cli::add_detokenize(commands);
  cli::add_template(commands);
  cli::add_logits(commands);

  std::vector<std::string> arguments(argv + 1, argv + argc);
  if (auto merged = cli::merge_config_file(arguments); !merged.ok()) {
    fmt::print(stderr, "impetus: {}\n", merged.error().message);
    return 2;
  }
  try {
    std::reverse(arguments.begin(), arguments.end());  // as CLI11 wants them
    app.parse(arguments);
  } catch (const CLI::ParseError& failure) {
    return app.exit(failure) == 0 ? 0 : 2;
  }
  log::start(level);
  const auto result = [&]() -> Result<void> {
    try {
      return commands.chosen();
    } catch (const std::exception& failure) {  // no memory, or a disk that fails
      return error(ErrorCode::internal, "{}", failure.what());
    }
  }();
  if (!result.ok()) {
    fmt::print(stderr, "impetus: {}\n", result.error().message);
    return 1;
  }
  return commands.status;
}

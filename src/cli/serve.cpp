#include <chrono>

#include <fmt/ranges.h>
#include <CLI/CLI.hpp>

#include "base/log.h"
#include "cli/commands.h"
#include "server/security.h"
#include "server/server.h"

namespace impetus::cli {
namespace {

struct Options {
  std::vector<std::string> models;
  ModelOptions model;
  ServerOptions server;
  int64_t running_max = 64;
  int64_t waiting_max = 256;
  double step_seconds = RuntimeOptions{}.step_seconds;
};

// One line to paste, for the first model of either kind.
std::string curl_example(const std::string& url, const std::vector<ModelInfo>& models,
                         const std::string& key) {
  const std::string auth = key.empty() ? "" : fmt::format(" -H 'Authorization: Bearer {}'", key);
  for (const ModelInfo& info : models) {
    if (info.kind != "decoder") continue;
    if (info.has_chat_template) {
      return fmt::format(
          "curl -N{} {}/v1/chat/completions -H 'Content-Type: application/json' -d "
          "'{{\"model\": \"{}\", \"stream\": true, \"messages\": [{{\"role\": \"user\", "
          "\"content\": "
          "\"Tell me a story about a fox.\"}}]}}'",
          auth, url, info.id);
    }
    return fmt::format(
        "curl{} {}/v1/completions -H 'Content-Type: application/json' -d '{{\"model\": \"{}\", "
        "\"max_tokens\": 64, \"prompt\": \"Once upon a time\"}}'",
        auth, url, info.id);
  }
  if (models.empty()) return fmt::format("curl{} {}/health", auth, url);
  return fmt::format(
      "curl{} {}/v1/embeddings -H 'Content-Type: application/json' -d '{{\"model\": \"{}\", "
      "\"input\": "
      "\"Hello\"}}'",
      auth, url, models.front().id);
}

// "cpu-avx2", or "cpu-avx512 (prefill) and cpu-avx2 (decode)".
std::string place_text(const Devices& devices) {
  if (devices.prefill == devices.decode || !devices.embeddings.empty()) return devices.text();
  return fmt::format("{} (prefill) and {} (decode)", fmt::join(devices.prefill, ", "),
                     fmt::join(devices.decode, ", "));
}

Result<void> serve(Options options) {
  const auto started = std::chrono::steady_clock::now();
  const bool beyond_loopback = !is_loopback_host(options.server.host);
  bool generated = false;
  if (beyond_loopback && options.server.api_key.empty()) {
    options.server.api_key = generate_api_key();
    generated = true;
  }

  RuntimeOptions settings = options.model.runtime();
  settings.running_max = options.running_max;
  settings.waiting_max = options.waiting_max;
  settings.step_seconds = options.step_seconds;
  IMPETUS_TRY(const auto runtime, options.model.make_runtime(std::move(settings)));
  if (options.models.empty()) {
    for (const ModelLocation& location : runtime->available()) {
      if (location.id == "impetus-tiny-chat" || location.id == "impetus-tiny-embed") {
        options.models.push_back(location.path.parent_path().filename() == location.id
                                     ? location.path.parent_path().string()
                                     : location.path.string());
      }
    }
  }
  for (const std::string& model : options.models) {
    IMPETUS_TRY([[maybe_unused]] const ModelInfo info, runtime->load(model));
  }
  IMPETUS_TRY(const auto server, Server::listen(*runtime, options.server));

  const auto models = runtime->models();
  const std::string url = server->url();
  fmt::print("Impetus 0.1.0 on {}\n", fmt::join(runtime->processors(), "; "));
  for (const ModelInfo& info : models) {
    fmt::print("  {:<24} {:<9} {:>7.1f}M parameters, {}, {} tokens of context, on {}\n", info.id,
               info.kind == "decoder" ? "chat" : "embedding",
               static_cast<double>(info.parameters) / 1e6, info.precision, info.context,
               place_text(info.devices));
    if (!info.fallback_reason.empty()) fmt::print("  {:<24} {}\n", "", info.fallback_reason);
  }
  if (models.empty()) fmt::print("  no models: name some by --model, or set IMPETUS_MODELS_DIR\n");
  if (generated) fmt::print("API key (made for this run): {}\n", options.server.api_key);
  fmt::print("Listening at {} (ready in {:.2f} s). Try:\n  {}\n", url,
             std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count(),
             curl_example(url, models, options.server.api_key));
  std::fflush(stdout);
  server->run();
  return {};
}

}  // namespace

void add_serve(Commands& commands) {
  auto options = std::make_shared<Options>();
  CLI::App* app = commands.add(
      "serve", "Serve models over HTTP (OpenAI's API)",
      "impetus serve --model impetus-tiny-chat --port 8080\nOptions can also stand in the "
      "environment (IMPETUS_PORT=8080) or in a TOML file (--config FILE, IMPETUS_CONFIG or "
      "~/.impetus/config.toml: port = 8080).",
      [options] { return serve(*options); });
  auto& server = options->server;
  app->add_option("--model", options->models,
                  "A path or name; several at once (default: the models that come with Impetus)")
      ->envname("IMPETUS_MODEL")
      ->delimiter(',')
      ->type_name("PATH|NAME");
  app->add_option("--host", server.host, "Address to listen on")
      ->envname("IMPETUS_HOST")
      ->capture_default_str();
  app->add_option("--port", server.port, "Port; 0 takes a free one")
      ->envname("IMPETUS_PORT")
      ->capture_default_str();
  app->add_option("--api-key", server.api_key,
                  "Key that clients must send; beyond loopback one is made where none is given")
      ->envname("IMPETUS_API_KEY");
  options->model.add_to(*app, true);
  options->model.add_placement_to(*app);
  app->add_option("--max-running", options->running_max, "Sequences generated at once")
      ->envname("IMPETUS_MAX_RUNNING")
      ->check(CLI::Range(1, 4096))
      ->capture_default_str();
  app->add_option("--max-waiting", options->waiting_max, "Sequences queued before 429")
      ->envname("IMPETUS_MAX_WAITING")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  app->add_option(
         "--step-timeout", options->step_seconds,
         "Seconds after which a step that does not end has lost its processor, or 20 times "
         "what was expected of it where that is longer; 0: never")
      ->envname("IMPETUS_STEP_TIMEOUT")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  app->add_option("--body-limit", server.body_bytes_max, "Largest request body in bytes")
      ->envname("IMPETUS_BODY_LIMIT")
      ->check(CLI::Range(1024, 1 << 30))
      ->capture_default_str();
  app->add_option("--allowed-host", server.allowed_hosts, "Further names this server goes by")
      ->envname("IMPETUS_ALLOWED_HOST")
      ->delimiter(',');
  app->add_option("--cors-origin", server.cors_origins,
                  "Further origins whose pages may call, or * for all")
      ->envname("IMPETUS_CORS_ORIGIN")
      ->delimiter(',');
  app->add_flag("--accept-token-ids", server.accept_token_ids,
                "Take token arrays in embedding requests as this model's own ids")
      ->envname("IMPETUS_ACCEPT_TOKEN_IDS");
}

}  // namespace impetus::cli

#include <condition_variable>
#include <cstdio>
#include <iostream>
#include <iterator>
#include <mutex>

#include <CLI/CLI.hpp>

#include "cli/commands.h"

namespace impetus::cli {
namespace {

struct Options {
  std::string model, prompt, system;
  bool prompt_given = false;
  ModelOptions load;
  int64_t tokens_max = 256;
  SamplingOptions sampling;
  float temperature = 1, top_p = 1;
  int32_t top_k = 0;
  uint64_t seed = 0;
  bool raw = false, json = false;
  std::vector<std::string> stop;
};

// Writes text as it comes, or gathers it for --json.
class Printer final : public AnswerSink {
 public:
  explicit Printer(bool print) : print_(print) {}

  void on_started(const Devices&) override {}
  void on_delta(AnswerDelta delta) override {
    if (print_) {
      std::fwrite(delta.text.data(), 1, delta.text.size(), stdout);
      std::fflush(stdout);
    }
    text_ += delta.text;
  }
  void on_choice_end(int32_t, AnswerEnd end) override { end_ = end; }
  void on_done(const Usage& usage, const Timings& timings, const Devices& devices) override {
    usage_ = usage;
    timings_ = timings;
    devices_ = devices;
    finish();
  }
  void on_error(Error error) override {
    error_ = std::move(error);
    finish();
  }

  Result<void> wait() {
    std::unique_lock lock(mutex_);
    done_.wait(lock, [&] { return finished_; });
    if (error_) return *error_;
    return {};
  }
  json::object report(const std::string& model) const {
    const double decoded = static_cast<double>(usage_.completion_tokens - 1);
    return {{"model", model},
            {"text", text_},
            {"finish_reason", end_ == AnswerEnd::length ? "length" : "stop"},
            {"prompt_tokens", usage_.prompt_tokens},
            {"completion_tokens", usage_.completion_tokens},
            {"first_token_ms", timings_.prefill_seconds * 1e3},
            {"tokens_per_second",
             timings_.decode_seconds > 0 ? decoded / timings_.decode_seconds : 0.0},
            {"handoff_ms", timings_.handoff_seconds * 1e3},
            {"device", devices_.text()}};
  }

 private:
  void finish() {
    const std::lock_guard lock(mutex_);
    finished_ = true;
    done_.notify_all();
  }

  const bool print_;
  std::string text_;
  AnswerEnd end_ = AnswerEnd::stop;
  Usage usage_;
  Timings timings_;
  Devices devices_;
  std::mutex mutex_;
  std::condition_variable done_;
  bool finished_ = false;
  std::optional<Error> error_;
};

Result<void> run(Options options) {
  if (!options.prompt_given) {
    options.prompt.assign(std::istreambuf_iterator<char>(std::cin), {});
    if (options.prompt.ends_with('\n')) options.prompt.pop_back();
  }
  IMPETUS_TRY(const auto runtime, options.load.make_runtime(options.load.runtime()));
  IMPETUS_TRY(const ModelInfo info, runtime->load(options.model));

  GenerateRequest request;
  request.model = info.id;
  if (options.raw) {
    request.prompt = TextPrompt{options.prompt, /*parse_special=*/true};
    request.echo = true;
  } else {
    ChatPrompt chat;
    if (!options.system.empty()) {
      chat.messages.push_back(json::object{{"role", "system"}, {"content", options.system}});
    }
    chat.messages.push_back(json::object{{"role", "user"}, {"content", options.prompt}});
    request.prompt = std::move(chat);
  }
  request.sampling = options.sampling;
  request.tokens_max = options.tokens_max;
  request.stop = options.stop;
  auto printer = std::make_shared<Printer>(!options.json);
  IMPETUS_TRY(const RequestHandle handle, runtime->generate(std::move(request), printer));
  IMPETUS_CHECK(printer->wait());
  if (options.json) {
    print_json(printer->report(info.id));
  } else {
    std::fputc('\n', stdout);
  }
  return {};
}

}  // namespace

void add_run(Commands& commands) {
  auto options = std::make_shared<Options>();
  auto* app = commands.add(
      "run", "Generate text once, on standard output",
      "impetus run impetus-tiny-chat --prompt 'Tell me a story.' --max-tokens 100", Run{});
  app->add_option("model", options->model, "A path or name")->required();
  auto* prompt = app->add_option("--prompt", options->prompt,
                                 "What to say (default: standard input to its end)");
  app->add_option("--system", options->system, "A system message before it");
  app->add_option("--max-tokens", options->tokens_max, "Most tokens of the answer")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 30))
      ->capture_default_str();
  auto* temperature =
      app->add_option("--temperature", options->temperature, "0: the likeliest token")
          ->check(CLI::Range(0.0, 10.0));
  auto* top_p = app->add_option("--top-p", options->top_p)->check(CLI::Range(0.0, 1.0));
  auto* top_k = app->add_option("--top-k", options->top_k)->check(CLI::NonNegativeNumber);
  auto* seed = app->add_option("--seed", options->seed, "The same seed gives the same answer");
  app->add_option("--stop", options->stop, "A string that ends the answer");
  app->add_flag("--raw", options->raw, "No chat template; print the prompt and what follows it");
  app->add_flag("--json", options->json, "One JSON object with text, usage and timings");
  options->load.add_to(*app, true);
  options->load.add_placement_to(*app);
  app->callback([&commands, options, prompt, temperature, top_p, top_k, seed] {
    options->prompt_given = prompt->count() > 0;
    if (temperature->count()) options->sampling.temperature = options->temperature;
    if (top_p->count()) options->sampling.top_p = options->top_p;
    if (top_k->count()) options->sampling.top_k = options->top_k;
    if (seed->count()) options->sampling.seed = options->seed;
    commands.chosen = [options] { return run(*options); };
  });
}

}  // namespace impetus::cli

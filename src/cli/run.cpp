#include <condition_variable>
#include <cstdio>
#include <iostream>
#include <iterator>
#include <mutex>

#include <unistd.h>

#include <CLI/CLI.hpp>

#include "cli/chat.h"
#include "cli/commands.h"
#include "terminal/terminal.h"
#include "terminal/text_writer.h"

namespace impetus::cli {
namespace {

struct Options {
  std::string model = "impetus-tiny-chat", prompt, system;
  bool prompt_given = false;
  ModelOptions load;
  int64_t tokens_max = 256;
  bool tokens_max_given = false;
  SamplingOptions sampling;
  float temperature = 1, top_p = 1;
  int32_t top_k = 0;
  uint64_t seed = 0;
  bool raw = false, json = false;
  std::vector<std::string> stop;
};

// Writes text as it comes, or gathers it for --json. To a pipe it goes byte for byte.
class Printer final : public AnswerSink {
 public:
  explicit Printer(bool print) : print_(print) {
    if (print && ::isatty(STDOUT_FILENO) == 1) {
      terminal_.emplace([](std::string_view text) { write(text); },
                        [] { return terminal_columns(STDOUT_FILENO); });
    }
  }

  void on_started(const Devices&) override {}
  void on_delta(AnswerDelta delta) override {
    if (terminal_) {
      terminal_->push(delta.text);
    } else if (print_) {
      write(delta.text);
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
  static void write(std::string_view text) {
    std::fwrite(text.data(), 1, text.size(), stdout);
    std::fflush(stdout);
  }
  void finish() {
    if (terminal_) terminal_->finish();
    const std::lock_guard lock(mutex_);
    finished_ = true;
    done_.notify_all();
  }

  const bool print_;
  std::optional<TextWriter> terminal_;
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

Result<void> talk(const Options& options) {
  IMPETUS_TRY(const auto runtime, options.load.make_runtime(options.load.runtime()));
  IMPETUS_TRY(const ModelInfo info, runtime->load(options.model));
  ChatOptions chat_options;
  chat_options.system = options.system;
  chat_options.sampling = options.sampling;
  if (options.tokens_max_given) chat_options.tokens_max = options.tokens_max;
  chat_options.stop = options.stop;
  return chat(*runtime, info, std::move(chat_options));
}

Result<void> run(Options options) {
  if (!options.prompt_given) {
    if (::isatty(STDIN_FILENO) == 1) {
      if (::isatty(STDOUT_FILENO) == 1 && !options.raw && !options.json) return talk(options);
      fmt::print(stderr, "Type the prompt, then Ctrl-D:\n");
    }
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
      "run", "Chat at the terminal; with a prompt, or one from a pipe, answer once",
      "impetus run\n  impetus run impetus-tiny-chat --prompt 'Tell me a story.' --max-tokens 100",
      Run{});
  app->add_option("model", options->model, "A path or name")->capture_default_str();
  auto* prompt = app->add_option("--prompt", options->prompt,
                                 "What to say (default: standard input to its end; where that is "
                                 "a terminal, a chat)");
  app->add_option("--system", options->system, "A system message before it");
  auto* tokens_max = app->add_option("--max-tokens", options->tokens_max,
                                     "Most tokens of an answer (default: 256, in a chat 1024)")
                         ->check(CLI::Range(int64_t{1}, int64_t{1} << 30));
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
  app->callback([&commands, options, prompt, tokens_max, temperature, top_p, top_k, seed] {
    options->prompt_given = prompt->count() > 0;
    options->tokens_max_given = tokens_max->count() > 0;
    if (temperature->count()) options->sampling.temperature = options->temperature;
    if (top_p->count()) options->sampling.top_p = options->top_p;
    if (top_k->count()) options->sampling.top_k = options->top_k;
    if (seed->count()) options->sampling.seed = options->seed;
    commands.chosen = [options] { return run(*options); };
  });
}

}  // namespace impetus::cli

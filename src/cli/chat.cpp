#include "cli/chat.h"

#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <mutex>

#include <unistd.h>

#include "base/replace_file.h"
#include "cli/chat_parameters.h"
#include "runtime/profiles.h"
#include "terminal/conversation.h"
#include "terminal/line_editor.h"
#include "terminal/message.h"
#include "terminal/text_writer.h"

namespace impetus::cli {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kHelp = R"(  /help                this list
  /clear               forget what was said
  /system TEXT         what the model shall be; /system alone shows it, /system - takes it away
  /set NAME VALUE      such as /set temperature 0.7; /set alone shows all
  /save FILE           keep the conversation as JSON; /load FILE goes on with it
  /bye                 leave; so does Ctrl-D

  """ begins and ends a message of several lines; so does a backslash at a line's end, or
  Alt-Enter. Up and down: earlier messages; Ctrl-R searches them. Ctrl-C stops an answer.
)";

// One answer on its way: the device's thread puts text in, the terminal's thread takes it out.
class Answer final : public AnswerSink {
 public:
  void on_started(const Devices&) override {}
  void on_delta(AnswerDelta delta) override {
    const std::lock_guard lock(mutex_);
    fresh_ += delta.text;
    changed_.notify_one();
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

  // Text that came since the last call, after waiting for some, for the end, or for a moment (a
  // signal has no other way in). `finished`: nothing follows, and the fields below may be read.
  std::string take(bool& finished) {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, std::chrono::milliseconds(30),
                      [&] { return finished_ || !fresh_.empty(); });
    finished = finished_;
    return std::exchange(fresh_, {});
  }

  AnswerEnd end() const { return end_; }
  const Usage& usage() const { return usage_; }
  const Timings& timings() const { return timings_; }
  const Devices& devices() const { return devices_; }
  const std::optional<Error>& error() const { return error_; }

 private:
  void finish() {
    const std::lock_guard lock(mutex_);
    finished_ = true;
    changed_.notify_one();
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::string fresh_;
  bool finished_ = false;
  AnswerEnd end_ = AnswerEnd::stop;
  Usage usage_;
  Timings timings_;
  Devices devices_;
  std::optional<Error> error_;
};

fs::path path_of(const std::string& argument) {
  const char* home = std::getenv("HOME");
  if (argument.starts_with("~/") && home) return fs::path(home) / argument.substr(2);
  return argument;
}

class Chat {
 public:
  Chat(Runtime& runtime, const ModelInfo& model, ChatOptions options)
      : runtime_(runtime),
        model_(model),
        parameters_{std::move(options.sampling), options.tokens_max, std::move(options.stop)} {
    talk_.system = std::move(options.system);
  }

  Result<void> run() {
    const fs::path state = state_folder();
    const auto editor =
        LineEditor::open(state.empty() ? fs::path() : state / "chat_history", signals_);
    MessageReader reader;
    bool hinted = false;  // the last thing that happened was a Ctrl-C
    for (std::string line; !left_;) {
      const auto got = editor->read(reader.open() ? "... " : ">>> ", line);
      if (got == LineEditor::Got::end) {
        if (!reader.open()) break;
        reader.reset();  // Ctrl-D amidst a message takes back the message
        continue;
      }
      if (got == LineEditor::Got::interrupted) {
        if (hinted && line.empty() && !reader.open()) break;
        reader.reset();
        hinted = say_how_to_leave();
        continue;
      }
      hinted = false;
      const auto message = reader.push(line);
      if (!message || trimmed(*message).empty()) continue;
      editor->remember(*message);
      if (const auto command = parse_command(*message)) {
        obey(*command);
      } else {
        hinted = answer(*message);
      }
    }
    return {};
  }

 private:
  bool say_how_to_leave() {
    note("Ctrl-C again, Ctrl-D or /bye leaves.");
    return true;
  }
  void note(std::string_view text) { fmt::print("{}\n", style_.dimmed(harmless(text))); }
  void complain(std::string_view text) { note(fmt::format("error: {}", text)); }

  // Everything but the message itself is there already: what a person typed is not lost.
  void obey(const ChatCommand& command) {
    const auto& [name, argument] = command;
    if (name == "help" || name == "?") {
      fmt::print("{}", kHelp);
    } else if (name == "bye" || name == "quit" || name == "exit") {
      left_ = true;
    } else if (name == "clear") {
      talk_.clear();
      note("Forgotten.");
    } else if (name == "system") {
      if (!argument.empty()) talk_.system = argument == "-" ? "" : argument;
      note(talk_.system.empty() ? "There is no system message."
                                : fmt::format("The system message: {}", talk_.system));
    } else if (name == "set") {
      const auto said = set_parameter(parameters_, argument);
      if (!said.ok()) return complain(said.error().message);
      fmt::print("{}", style_.dimmed(*said));
    } else if (name == "save" || name == "load") {
      const auto done = argument.empty() ? error(ErrorCode::invalid_argument,
                                                 "/{0} needs a file: /{0} talk.json", name)
                        : name == "save" ? save(path_of(argument))
                                         : load(path_of(argument));
      if (!done.ok()) return complain(done.error().message);
      note(fmt::format("{} exchanges {} {}", talk_.exchanges(),
                       name == "save" ? "saved to" : "loaded from", argument));
    } else {
      complain(fmt::format("there is no command /{}; /help lists them", name));
    }
  }

  Result<void> load(const fs::path& path) {
    IMPETUS_TRY(const json::value saved, read_json_file(path.string()));
    auto restored = talk_.restore(saved);
    if (!restored.ok()) return std::move(restored).error().within(path.string());
    return {};
  }

  Result<void> save(const fs::path& path) const {
    std::error_code code;
    if (fs::exists(path, code)) {
      const auto there = read_json_file(path.string());
      if (!there.ok() || !Conversation().restore(*there).ok()) {
        return error(ErrorCode::invalid_argument,
                     "{} is there already and is no conversation; name another file",
                     path.string());
      }
    }
    return replace_file(path, json::serialize(json::object{{"messages", talk_.messages()}}) + '\n');
  }

  // What a prompt may take, so that an answer has room behind it.
  int64_t prompt_tokens_max() const {
    return model_.context - std::min(parameters_.tokens_max_or_default(), model_.context / 4);
  }

  Result<int64_t> tokens_of(const json::array& messages) const {
    IMPETUS_TRY(const std::string text,
                runtime_.render_template(model_.id, {.messages = messages, .template_extra = {}}));
    IMPETUS_TRY(const auto ids, runtime_.tokenize(model_.id, text, {.parse_special = true}));
    return static_cast<int64_t>(ids.size());
  }

  // Queues the open question with as much before it as the context holds, and says what is let go.
  Result<RequestHandle> submit(const std::shared_ptr<Answer>& sink) {
    IMPETUS_TRY(int64_t dropped,
                talk_.make_room([this](const json::array& m) { return tokens_of(m); },
                                prompt_tokens_max()));
    for (;;) {
      GenerateRequest request;
      request.model = model_.id;
      request.prompt = ChatPrompt{.messages = talk_.messages(), .template_extra = {}};
      request.sampling = parameters_.sampling;
      request.tokens_max = parameters_.tokens_max_or_default();
      request.stop = parameters_.stop;
      auto handle = runtime_.generate(std::move(request), sink);
      const bool too_long = !handle.ok() && handle.error().code == ErrorCode::context_length;
      if (too_long && talk_.drop_oldest()) {
        ++dropped;
        continue;
      }
      if (dropped > 0) {
        note(fmt::format(
            "The context of {} tokens is full: the oldest {} forgotten.", model_.context,
            dropped == 1 ? std::string("exchange is") : fmt::format("{} exchanges are", dropped)));
      }
      if (too_long) {
        return error(ErrorCode::context_length,
                     "the message is too long for the model's context of {} tokens{}; shorten it",
                     model_.context, talk_.system.empty() ? "" : " (with the system message)");
      }
      return handle;
    }
  }

  // True where Ctrl-C stopped it.
  bool answer(const std::string& question) {
    talk_.ask(question);
    auto sink = std::make_shared<Answer>();
    auto handle = submit(sink);
    if (!handle.ok()) {
      talk_.unask();
      complain(handle.error().message);
      return false;
    }
    const QuietInput quiet;
    TextWriter writer(
        [](std::string_view text) {
          std::fwrite(text.data(), 1, text.size(), stdout);
          std::fflush(stdout);
        },
        [] { return terminal_columns(STDOUT_FILENO); });
    std::string text;
    bool stopped = false;
    for (bool finished = false; !finished;) {
      const std::string fresh = sink->take(finished);
      text += fresh;
      if (!stopped) writer.push(fresh);
      if (signals_.take_interrupt() && !std::exchange(stopped, true)) handle->cancel();
    }
    writer.finish();
    std::fputs("\n", stdout);
    if (sink->error()) {
      talk_.unask();
      complain(sink->error()->message);
      return stopped;
    }
    talk_.answered(std::move(text));
    report(*sink, stopped);
    std::fflush(stdout);
    signals_.take_interrupt();  // a second press that came too late to be meant for the prompt
    return stopped && say_how_to_leave();
  }

  void report(const Answer& answer, bool stopped) {
    const Usage& usage = answer.usage();
    std::string line =
        fmt::format("{} token{}", usage.completion_tokens, usage.completion_tokens == 1 ? "" : "s");
    // The first token belongs to the prompt's time.
    if (usage.completion_tokens > 1 && answer.timings().decode_seconds > 0) {
      line += fmt::format(
          ", {:.{}f} tokens/s",
          static_cast<double>(usage.completion_tokens - 1) / answer.timings().decode_seconds,
          usage.completion_tokens < answer.timings().decode_seconds * 10 ? 1 : 0);
    }
    if (const std::string device = answer.devices().text(); !device.empty()) line += ", " + device;
    if (stopped) {
      line += ", stopped";
    } else if (answer.end() == AnswerEnd::length) {
      line += usage.prompt_tokens + usage.completion_tokens >= model_.context
                  ? fmt::format(", cut: the context of {} tokens is full", model_.context)
                  : ", cut: /set max-tokens raises the limit";
    }
    fmt::print("{}\n\n", style_.dimmed(line));
  }

  Runtime& runtime_;
  const ModelInfo& model_;
  ChatParameters parameters_;
  Conversation talk_;
  Signals signals_;
  const Style style_{styles_wanted(STDOUT_FILENO)};
  bool left_ = false;
};

}  // namespace

Result<void> chat(Runtime& runtime, const ModelInfo& model, ChatOptions options) {
  if (!model.has_chat_template) {
    return error(ErrorCode::unsupported,
                 "'{0}' has no chat template: it continues texts and holds no conversation. Try "
                 "impetus run {0} --raw --prompt TEXT",
                 model.id);
  }
  const Style style{styles_wanted(STDOUT_FILENO)};
  const std::string about = fmt::format(
      "{}: {:.1f} million parameters, context {}, {}\n/help lists the commands, Ctrl-D "
      "leaves.",
      harmless(model.id), static_cast<double>(model.parameters) / 1e6, model.context,
      model.devices.text());
  fmt::print("{}\n\n", style.dimmed(about));
  return Chat(runtime, model, std::move(options)).run();
}

}  // namespace impetus::cli

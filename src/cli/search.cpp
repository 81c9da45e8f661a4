#include <chrono>
#include <cstdio>
#include <future>

#include <unistd.h>

#include <CLI/CLI.hpp>

#include "base/timing.h"
#include "cli/commands.h"
#include "runtime/profiles.h"
#include "search/searcher.h"
#include "terminal/line_editor.h"
#include "terminal/message.h"
#include "terminal/terminal.h"
#include "terminal/text_writer.h"

namespace impetus::cli {
namespace {

namespace fs = std::filesystem;

// Long enough to say something, short enough to say one thing.
constexpr int64_t kTokensWanted = 160;

struct Options {
  std::string root, question;
  std::string model = "impetus-tiny-embed";
  int64_t top = 5;
  ModelOptions load;
  bool json = false;
};

// The encoder as a search sees it, and who ran it.
class Encoding {
 public:
  Encoding(Runtime& runtime, ModelInfo info) : runtime_(runtime), info_(std::move(info)) {}

  Result<SearchEncoder> encoder() {
    IMPETUS_TRY(const auto around, runtime_.tokenize(info_.id, "", {.add_special = true}));
    const int64_t tokens_max = info_.context - static_cast<int64_t>(around.size());
    if (tokens_max < 1) {
      return error(ErrorCode::unsupported, "'{}' takes {} tokens, too few for a passage", info_.id,
                   info_.context);
    }
    SearchEncoder encoder;
    encoder.key = fmt::format("{} {} {} {} {}", info_.id, info_.parameters, info_.weight_bytes,
                              info_.created, info_.precision);
    encoder.limits = {.tokens_max = tokens_max,
                      .tokens_wanted = std::min(tokens_max, kTokensWanted)};
    encoder.count = [this](std::string_view text) {
      const auto ids = runtime_.tokenize(info_.id, text, {});
      return ids.ok() ? static_cast<int64_t>(ids->size()) : int64_t{0};
    };
    encoder.embed = [this](std::vector<std::string> texts) { return embed(std::move(texts)); };
    return encoder;
  }

  // Of the last texts; by the processors' own word.
  std::string device() const { return devices_.text(); }

 private:
  using Answer = Result<SearchEncoder::Vectors>;

  std::future<Answer> embed(std::vector<std::string> texts) {
    auto promise = std::make_shared<std::promise<Answer>>();
    auto future = promise->get_future();
    EmbedRequest request;
    request.model = info_.id;
    request.input = std::move(texts);
    request.normalize = true;
    auto handle = runtime_.embed(std::move(request), [this, promise](Result<EmbedAnswer> answer) {
      if (!answer.ok()) return promise->set_value(std::move(answer).error());
      devices_.add(answer->devices);  // on the device's one thread, before the promise is kept
      promise->set_value(std::move(answer->vectors));
    });
    if (handle.ok()) {
      handle->detach();
    } else {
      promise->set_value(std::move(handle).error());
    }
    return future;
  }

  Runtime& runtime_;
  const ModelInfo info_;
  Devices devices_;
};

// <state>/search/<model>-<precision>.index
fs::path index_file(const ModelInfo& info) {
  const fs::path state = state_folder();
  if (state.empty()) return {};
  std::string name = info.id + "-" + info.precision;
  for (char& c : name) {
    const bool plain = std::isalnum(static_cast<unsigned char>(c)) || c == '-' || c == '.';
    if (!plain) c = '_';
  }
  return state / "search" / (name + ".index");
}

std::string counted(int64_t count, std::string_view what) {
  return fmt::format("{} {}{}", count, what, count == 1 ? "" : "s");
}

// What was searched, what was not, and why: on standard error.
void say_report(const SearchReport& report, double seconds) {
  const Style style{styles_wanted(STDERR_FILENO)};
  std::string line =
      fmt::format("{}, {}", counted(report.files, "file"), counted(report.passages, "passage"));
  if (report.passages_embedded > 0) {
    line += fmt::format("; embedded {} ({:.1f} MB) in {:.1f} s", report.passages_embedded,
                        static_cast<double>(report.bytes_embedded) / 1e6, seconds);
  }
  if (report.hidden > 0) line += fmt::format("; {} hidden", report.hidden);
  if (report.binary > 0) line += fmt::format("; {} binary", report.binary);
  fmt::print(stderr, "{}\n", style.dimmed(line));
  const auto list = [&](std::string_view what, const std::vector<std::string>& names) {
    constexpr size_t kShown = 10;
    for (size_t i = 0; i < std::min(names.size(), kShown); ++i) {
      fmt::print(stderr, "{}\n", style.dimmed(fmt::format("{}: {}", what, harmless(names[i]))));
    }
    if (names.size() > kShown) {
      fmt::print(stderr, "{}\n",
                 style.dimmed(fmt::format("{}: {} more", what, names.size() - kShown)));
    }
  };
  list("not UTF-8, passed over", report.not_utf8);
  list("larger than 64 MiB, passed over", report.too_large);
  list("cannot be read", report.unreadable);
  list("warning", report.warnings);
}

void print_hits(const std::vector<SearchHit>& hits) {
  const Style style{styles_wanted(STDOUT_FILENO)};
  const bool terminal = ::isatty(STDOUT_FILENO) == 1;
  TextWriter writer([](std::string_view text) { std::fwrite(text.data(), 1, text.size(), stdout); },
                    [&] { return terminal ? terminal_columns(STDOUT_FILENO) : 0; }, 3);
  // A passage's own lines end where its author's page ended.
  const auto flow = [&](std::string_view text) {
    std::string line(text);
    std::ranges::replace_if(line, [](char c) { return c == '\n' || c == '\r' || c == '\t'; }, ' ');
    const auto doubled =
        std::ranges::unique(line, [](char a, char b) { return a == ' ' && b == ' '; });
    line.erase(doubled.begin(), doubled.end());
    writer.push(line);
  };
  for (const SearchHit& hit : hits) {
    fmt::print("{}{}:{}{} {}\n", style.bold(), harmless(hit.file.string()), hit.line, style.plain(),
               style.dimmed(fmt::format("{:.3f}", hit.score)));
    const std::string_view text = hit.text;
    flow(text.substr(0, hit.best.begin));
    writer.mark(style.bold());
    flow(text.substr(hit.best.begin, hit.best.size()));
    writer.mark(style.plain());
    flow(text.substr(hit.best.end));
    writer.finish();
    fmt::print("\n\n");
  }
  std::fflush(stdout);
}

json::object to_json(const SearchHit& hit) {
  json::object object{
      {"file", hit.file.string()}, {"line", hit.line}, {"score", hit.score}, {"text", hit.text}};
  if (hit.best.size() > 0) {
    object["best"] = json::object{{"line", hit.best_line},
                                  {"text", hit.text.substr(hit.best.begin, hit.best.size())}};
  }
  return object;
}

json::object to_json(const SearchReport& report) {
  const auto names = [](const std::vector<std::string>& all) {
    return json::array(all.begin(), all.end());
  };
  return {{"files", report.files},
          {"passages", report.passages},
          {"passages_embedded", report.passages_embedded},
          {"bytes_embedded", report.bytes_embedded},
          {"hidden", report.hidden},
          {"binary", report.binary},
          {"not_utf8", names(report.not_utf8)},
          {"too_large", names(report.too_large)},
          {"unreadable", names(report.unreadable)},
          {"warnings", names(report.warnings)}};
}

class Search {
 public:
  Search(const Options& options, Searcher& searcher, const Encoding& encoding)
      : options_(options), searcher_(searcher), encoding_(encoding) {}

  Result<SearchReport> update(bool say) {
    const auto from = std::chrono::steady_clock::now();
    SearchReport report;
    {
      std::optional<Progress> progress;  // only where there is something to wait for
      IMPETUS_TRY(report, searcher_.update(options_.root, [&](int64_t done, int64_t total) {
        if (!progress) progress.emplace("Embedding, KB", total / 1000);
        progress->step(std::min(done, total) / 1000);
      }));
    }
    if (say) say_report(report, seconds_since(from));
    if (report.passages == 0) {
      return error(ErrorCode::not_found, "{} holds no text to search", options_.root);
    }
    return report;
  }

  Result<void> once() {
    IMPETUS_TRY(const SearchReport report, update(!options_.json));
    IMPETUS_TRY(const auto hits, searcher_.ask(options_.question, options_.top));
    if (!options_.json) {
      print_hits(hits);
      return {};
    }
    json::array results;
    for (const SearchHit& hit : hits) results.push_back(to_json(hit));
    print_json(json::object{{"question", options_.question},
                            {"model", options_.model},
                            {"device", encoding_.device()},
                            {"results", std::move(results)},
                            {"searched", to_json(report)}});
    return {};
  }

  // Question after question.
  Result<void> repeatedly() {
    IMPETUS_TRY(const SearchReport first, update(true));
    Signals signals;
    const fs::path state = state_folder();
    const auto editor =
        LineEditor::open(state.empty() ? fs::path() : state / "search_history", signals);
    for (std::string line;;) {
      const auto got = editor->read("? ", line);
      if (got == LineEditor::Got::end || (got == LineEditor::Got::interrupted && line.empty())) {
        return {};
      }
      const std::string question(trimmed(line));
      if (got == LineEditor::Got::interrupted || question.empty()) continue;
      editor->remember(question);
      const QuietInput quiet;  // what is typed meanwhile is the next question's
      IMPETUS_TRY(const SearchReport now, update(false));  // files may have changed
      if (now.passages_embedded > 0) say_report(now, 0);
      const auto hits = searcher_.ask(question, options_.top);
      if (hits.ok()) {
        print_hits(*hits);
      } else {  // such as a question that is too long
        fmt::print(stderr, "error: {}\n", hits.error().message);
      }
    }
  }

 private:
  const Options& options_;
  Searcher& searcher_;
  const Encoding& encoding_;
};

Result<void> search(const Options& options) {
  const bool asks = options.question.empty();
  if (asks && options.json) {
    return error(ErrorCode::invalid_argument, "--json needs a question: search {} \"QUESTION\"",
                 options.root);
  }
  if (asks && ::isatty(STDIN_FILENO) != 1) {
    return error(ErrorCode::invalid_argument,
                 "which question? search {} \"QUESTION\"; on a terminal it asks for them",
                 options.root);
  }
  std::error_code code;
  if (!fs::exists(options.root, code)) {
    return error(ErrorCode::not_found, "there is no file or folder {}", options.root);
  }
  IMPETUS_TRY(const auto runtime, options.load.make_runtime(options.load.runtime()));
  IMPETUS_TRY(const ModelInfo info, runtime->load(options.model));
  if (info.kind != "encoder") {
    return error(ErrorCode::invalid_argument,
                 "'{}' generates text; a search needs an embedding model", info.id);
  }
  Encoding encoding(*runtime, info);
  IMPETUS_TRY(auto encoder, encoding.encoder());
  SearchOptions kept;
  kept.index_file = index_file(info);
  Searcher searcher(std::move(encoder), std::move(kept));
  Search run(options, searcher, encoding);
  return asks ? run.repeatedly() : run.once();
}

}  // namespace

void add_search(Commands& commands) {
  auto options = std::make_shared<Options>();
  auto* app =
      commands.add("search", "Find the passages of text files that are nearest to a question",
                   "impetus search ~/notes \"where do the geese sleep\" --top 3",
                   [options] { return search(*options); });
  app->add_option("path", options->root, "A file, or a folder with all below it")->required();
  app->add_option("question", options->question, "None, on a terminal: it asks for them");
  app->add_option("--model", options->model, "An embedding model: a path or name")
      ->capture_default_str();
  app->add_option("--top", options->top, "How many passages")
      ->check(CLI::Range(int64_t{1}, int64_t{1000}))
      ->capture_default_str();
  app->add_flag("--json", options->json, "One JSON object with results and counts");
  options->load.weights = "int8";  // twice as fast; the same passages
  options->load.add_to(*app, false);
  options->load.add_placement_to(*app);
}

}  // namespace impetus::cli

#include <future>

#include <CLI/CLI.hpp>

#include "cli/commands.h"

namespace impetus::cli {
namespace {

struct Options {
  std::string model;
  std::vector<std::string> texts;
  ModelOptions load;
  bool truncate = false, json = false;
};

Result<void> embed(const Options& options) {
  IMPETUS_TRY(const auto runtime, options.load.make_runtime(options.load.runtime()));
  IMPETUS_TRY(const ModelInfo info, runtime->load(options.model));
  EmbedRequest request;
  request.model = info.id;
  request.input = options.texts;
  request.truncate = options.truncate;
  std::promise<Result<EmbedAnswer>> promise;
  auto answer = promise.get_future();
  IMPETUS_TRY(const RequestHandle handle,
              runtime->embed(std::move(request), [&](Result<EmbedAnswer> result) {
                promise.set_value(std::move(result));
              }));
  IMPETUS_TRY(const EmbedAnswer result, answer.get());
  if (options.json) {
    json::array embeddings;
    for (const auto& vector : result.vectors) {
      embeddings.push_back(json::array(vector.begin(), vector.end()));
    }
    print_json(json::object{{"embeddings", std::move(embeddings)},
                            {"model", info.id},
                            {"prompt_tokens", result.prompt_tokens},
                            {"device", result.devices.text()}});
    return {};
  }
  for (const auto& vector : result.vectors) {
    for (size_t i = 0; i < vector.size(); ++i) fmt::print("{}{}", i ? " " : "", vector[i]);
    fmt::print("\n");
  }
  return {};
}

}  // namespace

void add_embed(Commands& commands) {
  auto options = std::make_shared<Options>();
  auto* app = commands.add("embed", "Embed texts: one vector each",
                           "impetus embed impetus-tiny-embed 'a cat' 'a kitten' --json",
                           [options] { return embed(*options); });
  app->add_option("model", options->model, "A path or name")->required();
  app->add_option("text", options->texts, "Texts")->required();
  app->add_flag("--truncate", options->truncate, "Cut texts that are too long instead of refusing");
  app->add_flag("--json", options->json,
                "{\"embeddings\": [[...]]} instead of a line of numbers each");
  options->load.add_to(*app, false);
  options->load.add_placement_to(*app);
}

}  // namespace impetus::cli

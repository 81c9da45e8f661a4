#include <numeric>

#include <CLI/CLI.hpp>

#include "cli/commands.h"
#include "cli/processors.h"
#include "hardware/memory.h"
#include "runtime/model.h"

namespace impetus::cli {
namespace {

struct Options {
  std::string model, ids, token_types;
  ModelOptions load;
  bool json = false;
};

Result<std::vector<std::vector<float>>> rows_of(Model& model, const std::vector<TokenId>& ids,
                                                const std::vector<int32_t>& types) {
  std::vector<float> values;
  if (model.encoder) {
    const std::vector<int32_t> offsets{0, static_cast<int32_t>(ids.size())};
    IMPETUS_TRY(auto encoded, model.encoder->encode({ids, offsets, types, EncodeOutput::hidden}));
    values = std::move(encoded.values);
  } else {
    const KvStorage& kv = model.executor->kv();
    std::vector<BlockId> blocks((ids.size() + static_cast<size_t>(kv.block_tokens()) - 1) /
                                static_cast<size_t>(kv.block_tokens()));
    std::iota(blocks.begin(), blocks.end(), 0);
    const auto chunk = static_cast<size_t>(model.executor->step_tokens_max());
    for (size_t at = 0; at < ids.size(); at += chunk) {
      SequenceStep step;
      step.tokens = std::span(ids).subspan(at, std::min(chunk, ids.size() - at));
      step.position = static_cast<int64_t>(at);
      step.blocks = blocks;
      step.output = StepOutput::logits_all;
      IMPETUS_TRY(const auto results, model.executor->execute({&step, 1}));
      values.insert(values.end(), results.front().logits.begin(), results.front().logits.end());
    }
  }
  const size_t width = values.size() / ids.size();
  std::vector<std::vector<float>> rows;
  for (size_t i = 0; i < ids.size(); ++i) {
    rows.emplace_back(values.begin() + static_cast<ptrdiff_t>(i * width),
                      values.begin() + static_cast<ptrdiff_t>((i + 1) * width));
  }
  return rows;
}

Result<void> logits(const Options& options) {
  IMPETUS_TRY(const auto ids, parse_ids(options.ids));
  IMPETUS_TRY(const ModelLocation location, locate(options.model));
  IMPETUS_TRY(const Processors found,
              find_processors(options.load.devices, options.load.threads, options.load.coreml()));
  // The one that was named comes after those that take what it does not.
  Backend& backend =
      options.load.devices.empty() ? *found.backends.front() : *found.backends.back();
  MemoryLedger ledger(usable_memory_bytes());
  IMPETUS_TRY(Model model,
              load_model(location, Ladders::only(backend), Fallback::forbid, options.load.load(),
                         static_cast<int64_t>(ids.size()), ledger));
  if (static_cast<int64_t>(ids.size()) > model.spec.context) {
    return error(ErrorCode::context_length, "{} ids; the model has {} positions", ids.size(),
                 model.spec.context);
  }
  std::vector<int32_t> types;
  if (!options.token_types.empty()) {
    if (!model.encoder) {
      return error(ErrorCode::invalid_argument, "--token-types is for encoders");
    }
    IMPETUS_TRY(types, parse_ids(options.token_types));
    if (types.size() != ids.size()) {
      return error(ErrorCode::invalid_argument, "{} token types for {} ids", types.size(),
                   ids.size());
    }
  }
  IMPETUS_TRY(const auto rows, rows_of(model, ids, types));
  if (options.json) {
    json::array all;
    for (const auto& row : rows) all.push_back(json::array(row.begin(), row.end()));
    print_json(json::object{{"logits", std::move(all)}});
    return {};
  }
  for (const auto& row : rows) {
    for (size_t i = 0; i < row.size(); ++i) fmt::print("{}{}", i ? " " : "", row[i]);
    fmt::print("\n");
  }
  return {};
}

}  // namespace

void add_logits(Commands& commands) {
  auto options = std::make_shared<Options>();
  auto* app = commands.add("logits", "A model's raw output: logits, or an encoder's hidden states",
                           "impetus logits impetus-tiny-chat --ids 1,2,3 --kv f32 --json",
                           [options] { return logits(*options); });
  app->add_option("model", options->model, "A path or name")->required();
  app->add_option("--ids", options->ids, "Such as 1,2,3")->required();
  app->add_option("--token-types", options->token_types, "One a token (encoders)");
  app->add_flag("--json", options->json, "{\"logits\": [[...]]}, one row a position");
  options->load.add_to(*app, true);
  app->add_option("--device", options->load.devices, "The processor to run it on (default: cpu)")
      ->type_name("NAME")
      ->expected(1);
}

}  // namespace impetus::cli

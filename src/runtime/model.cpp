#include "runtime/model.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <set>

#include "base/json.h"
#include "base/log.h"
#include "engine/guard.h"
#include "formats/mlx_quantised.h"
#include "runtime/climb.h"

namespace impetus {
namespace {

namespace fs = std::filesystem;

std::optional<json::object> optional_json(const fs::path& path) {
  std::error_code code;
  if (!fs::exists(path, code)) return std::nullopt;
  auto parsed = read_json_file(path.string());
  if (!parsed.ok()) {
    log::warn("{} (ignored)", parsed.error().message);
    return std::nullopt;
  }
  if (!parsed->is_object()) return std::nullopt;
  return std::move(*parsed).get_object();
}

// chat_template: a string, or a list of {name, template} of which "default" is meant.
std::optional<std::string> template_source(const json::object& config) {
  const json::value* value = config.if_contains("chat_template");
  if (value == nullptr) return std::nullopt;
  if (value->is_string()) return std::string(value->get_string());
  if (!value->is_array()) return std::nullopt;
  for (const json::value& entry : value->get_array()) {
    const json::object* object = entry.if_object();
    if (object == nullptr) continue;
    const json::value* name = object->if_contains("name");
    const json::value* source = object->if_contains("template");
    if (name && name->is_string() && name->get_string() == "default" && source &&
        source->is_string()) {
      return std::string(source->get_string());
    }
  }
  return std::nullopt;
}

void set_template(ModelText& text, std::string source) {
  auto parsed = ChatTemplate::parse(std::move(source));
  if (parsed.ok()) {
    text.chat_template = std::move(*parsed);
  } else {
    text.template_error = std::move(parsed).error();
  }
}

std::optional<float> as_float(const json::object& object, std::string_view key, float low,
                              float high) {
  auto value = number_field(object, key);
  if (!value.ok() || !*value || **value < low || **value > high) return std::nullopt;
  return static_cast<float>(**value);
}

SamplingDefaults sampling_defaults(const json::object& config) {
  SamplingDefaults defaults;
  if (auto sample = bool_field(config, "do_sample"); sample.ok() && *sample == false) {
    defaults.temperature = 0.0f;
  }
  if (auto value = as_float(config, "temperature", 0, 10); value && !defaults.temperature) {
    defaults.temperature = value;
  }
  defaults.top_p = as_float(config, "top_p", 0, 1);
  defaults.min_p = as_float(config, "min_p", 0, 1);
  defaults.repetition_penalty = as_float(config, "repetition_penalty", 0.01f, 100);
  if (auto value = int_field(config, "top_k"); value.ok() && *value && **value >= 0) {
    defaults.top_k = static_cast<int32_t>(std::min<int64_t>(**value, 1 << 30));
  }
  return defaults;
}

Result<ModelText> finish_text(ModelText text) {
  const auto& special = text.tokenizer->special();
  if (special.bos) text.bos_text = std::string(text.tokenizer->piece(*special.bos));
  if (special.eos) text.eos_text = std::string(text.tokenizer->piece(*special.eos));
  if (text.tokenizer->kind() != "wordpiece") {
    for (TokenId id = 0; id < text.tokenizer->vocab_size(); ++id) {
      text.token_bytes_max = std::max({text.token_bytes_max, text.tokenizer->piece(id).size(),
                                       text.tokenizer->token_bytes(id, true).size()});
    }
  }
  return text;
}

Result<ModelText> gguf_text(const GgufFile& file) {
  ModelText text;
  IMPETUS_TRY(text.tokenizer, load_tokenizer(file));
  IMPETUS_TRY(const auto source, file.string("tokenizer.chat_template"));
  if (source) set_template(text, std::string(*source));
  return finish_text(std::move(text));
}

Result<ModelText> folder_text(const fs::path& folder) {
  ModelText text;
  IMPETUS_TRY(text.tokenizer, load_tokenizer(folder));
  std::error_code code;
  if (fs::exists(folder / "chat_template.jinja", code)) {
    IMPETUS_TRY(std::string source, read_file(folder / "chat_template.jinja", 1 << 20));
    set_template(text, std::move(source));
  } else if (const auto config = optional_json(folder / "tokenizer_config.json")) {
    if (auto source = template_source(*config)) set_template(text, std::move(*source));
  }
  if (const auto config = optional_json(folder / "generation_config.json")) {
    text.defaults = sampling_defaults(*config);
  }
  return finish_text(std::move(text));
}

// The type that most weight bytes have.
std::string dominant_type(const WeightSet& weights) {
  std::map<std::string, int64_t> bytes;
  for (const auto& tensor : weights.tensors()) bytes[type_name(tensor.view)] += tensor.view.bytes();
  const auto most = std::max_element(bytes.begin(), bytes.end(),
                                     [](auto& a, auto& b) { return a.second < b.second; });
  return most == bytes.end() ? "none" : most->first;
}

int64_t file_time(const fs::path& path) {
  std::error_code code;
  const auto time = fs::last_write_time(path, code);
  if (code) return 0;
  const auto system = std::chrono::file_clock::to_sys(time);
  return std::chrono::duration_cast<std::chrono::seconds>(system.time_since_epoch()).count();
}

// One small step of either phase, or a text, so that the first request does not pay for cold pages
// and tables.
Result<void> warm_up(Model& model) {
  const std::vector<TokenId> tokens(std::min<int64_t>(4, model.context), 0);
  if (model.encoder) {
    const std::vector<int32_t> offsets{0, static_cast<int32_t>(tokens.size())};
    IMPETUS_TRY([[maybe_unused]] const auto vectors, model.encoder->encode({tokens, offsets, {}}));
    return {};
  }
  const std::vector<BlockId> blocks{0};
  const size_t prompt = tokens.size() > 1 ? tokens.size() - 1 : 1;
  SequenceStep step;
  step.tokens = std::span(tokens).first(prompt);
  step.blocks = blocks;
  step.output = StepOutput::logits_last;
  IMPETUS_TRY([[maybe_unused]] const auto first, model.executor->execute({&step, 1}));
  if (prompt == tokens.size()) return {};
  step.tokens = std::span(tokens).subspan(prompt);
  step.position = static_cast<int64_t>(prompt);
  step.phase = StepPhase::decode;
  IMPETUS_TRY([[maybe_unused]] const auto second, model.executor->execute({&step, 1}));
  return {};
}

// Many templates insist on alternating roles; clients send several turns of one role in a row.
json::array merge_turns(const json::array& messages) {
  json::array merged;
  for (const json::value& message : messages) {
    json::object* last = merged.empty() ? nullptr : merged.back().if_object();
    const json::object* next = message.if_object();
    const auto text_of = [](const json::object* turn, const char* key) -> const json::string* {
      const json::value* value = turn ? turn->if_contains(key) : nullptr;
      return value ? value->if_string() : nullptr;
    };
    const json::string* content = text_of(next, "content");
    if (last && content && text_of(last, "content") && text_of(last, "role") &&
        text_of(next, "role") && *text_of(last, "role") == *text_of(next, "role")) {
      json::string& joined = (*last)["content"].get_string();
      joined += "\n\n";
      joined += *content;
    } else {
      merged.push_back(message);
    }
  }
  return merged;
}

}  // namespace

Result<ModelText> load_model_text(const ModelLocation& location) {
  if (location.format == ModelLocation::Format::gguf) {
    IMPETUS_TRY(const GgufFile file, GgufFile::open(location.path));
    return gguf_text(file);
  }
  return folder_text(location.path);
}

Result<ModelFiles> open_model_files(const ModelLocation& location) {
  ModelFiles files;
  if (location.format == ModelLocation::Format::gguf) {
    IMPETUS_TRY(GgufFile opened, GgufFile::open(location.path));
    auto file = std::make_shared<const GgufFile>(std::move(opened));
    IMPETUS_TRY(files.spec, spec_from_gguf(*file));
    files.weights = std::shared_ptr<const WeightSet>(file, &file->weights());
    files.gguf = std::move(file);
    return files;
  }
  const fs::path config_path = location.path / "config.json";
  IMPETUS_TRY(const json::value config, read_json_file(config_path.string()));
  if (!config.is_object()) {
    return error(ErrorCode::corrupt, "{}: not a JSON object", config_path.string());
  }
  auto spec = spec_from_config(config.get_object());
  if (!spec.ok()) return std::move(spec).error().within(config_path.string());
  files.spec = std::move(*spec);
  if (files.spec.kind == ModelKind::encoder) {
    IMPETUS_CHECK(apply_sentence_transformers(location.path, files.spec));
  }
  IMPETUS_TRY(WeightSet opened, open_safetensors_folder(location.path));
  IMPETUS_TRY(WeightSet weights, join_quantised(std::move(opened), config.get_object()));
  files.weights = std::make_shared<const WeightSet>(std::move(weights));
  return files;
}

Result<Model> load_model(const ModelLocation& location, const Ladders& ladders, Fallback fallback,
                         const LoadOptions& options, std::optional<int64_t> kv_tokens,
                         MemoryLedger& ledger) {
  IMPETUS_TRY(ModelFiles files, open_model_files(location));
  return load_model(location, std::move(files), ladders, fallback, options, kv_tokens, ledger);
}

Result<Model> load_model(const ModelLocation& location, ModelFiles files, const Ladders& ladders,
                         Fallback fallback, const LoadOptions& options,
                         std::optional<int64_t> kv_tokens, MemoryLedger& ledger) {
  Model model;
  model.location = location;
  model.spec = std::move(files.spec);
  model.weights = std::move(files.weights);
  model.gguf = std::move(files.gguf);
  int64_t parameters = 0;
  for (const auto& tensor : model.weights->tensors()) parameters += tensor.view.shape.elements();

  Placed placed;
  if (model.spec.kind == ModelKind::decoder) {
    IMPETUS_TRY(placed, place_decoder(location.id, model.spec, *model.weights, ladders, fallback,
                                      options, kv_tokens, ledger));
    model.executor = std::move(placed.executor);
    const KvStorage& kv = model.executor->kv();
    model.context = std::min<int64_t>(model.spec.context, int64_t{kv.blocks()} * kv.block_tokens());
    model.info.kv = std::string(to_string(kv.dtype()));
  } else {
    model.normalize = model.spec.normalize;
    ModelSpec pooling_only = model.spec;
    pooling_only.normalize = false;
    IMPETUS_TRY(placed, place_encoder(location.id, pooling_only, *model.weights, ladders, fallback,
                                      options, ledger));
    model.encoder = std::move(placed.encoder);
    model.longer = std::move(placed.longer);
    model.limit_reason = std::move(placed.limit_reason);
    const Encoder& last = model.longer.empty() ? *model.encoder : *model.longer.back().encoder;
    model.context = std::min(model.spec.sequence_length_max > 0
                                 ? std::min(model.spec.sequence_length_max, model.spec.context)
                                 : model.spec.context,
                             last.text_tokens_max());
  }
  model.home = placed.home;

  ModelInfo& info = model.info;
  info.id = location.id;
  info.path = location.path.string();
  info.kind = model.executor ? "decoder" : "encoder";
  info.family = model.spec.family;
  info.parameters = parameters;
  info.weight_bytes = model.weights->bytes();
  info.context = model.context;
  info.dimension = model.spec.hidden;
  info.devices = std::move(placed.devices);
  info.fallback_reason = std::move(placed.fallback_reason);
  info.precision =
      options.weights == WeightPrecision::int8 ? "int8" : dominant_type(*model.weights);
  if (model.encoder && !model.encoder->precision().empty()) {
    info.precision = model.encoder->precision();
  }
  info.created = file_time(location.path);
  auto warm = ladders.run(*model.home, [&] { return guarded([&] { return warm_up(model); }); });
  if (!warm.ok()) return std::move(warm).error().within(location.id);
  return model;
}

Result<std::string> render_prompt(const ModelText& text, const ChatPrompt& prompt) {
  if (!text.chat_template) {
    Error failure =
        text.template_error
            ? error(ErrorCode::unsupported, "the model's chat template cannot be used: {}",
                    text.template_error->message)
            : error(ErrorCode::unsupported,
                    "the model has no chat template; send its raw prompt to /v1/completions, or "
                    "use `impetus run --raw`");
    failure.param = "messages";
    return failure;
  }
  TemplateInput input;
  input.messages = prompt.messages;
  input.add_generation_prompt = prompt.add_generation_prompt;
  input.bos_token = text.bos_text;
  input.eos_token = text.eos_text;
  input.extra = prompt.template_extra;
  auto rendered = text.chat_template->render(input);
  if (!rendered.ok()) {
    input.messages = merge_turns(prompt.messages);
    if (input.messages.size() < prompt.messages.size()) {
      if (auto merged = text.chat_template->render(input); merged.ok()) return merged;
    }
  }
  if (!rendered.ok()) {
    Error failure = std::move(rendered).error().within("chat template");
    failure.param = "messages";
    return failure;
  }
  return rendered;
}

Result<std::vector<TokenId>> prompt_tokens(const ModelText& text, const Prompt& prompt,
                                           int64_t tokens_max) {
  const Tokenizer& tokenizer = *text.tokenizer;
  const auto check_size = [&](size_t bytes) -> Result<void> {
    if (text.token_bytes_max == 0 ||
        bytes <= static_cast<size_t>(tokens_max) * text.token_bytes_max) {
      return {};
    }
    return error(ErrorCode::context_length,
                 "the prompt has {} bytes, and no token stands for more than {}: it cannot fit a "
                 "context of {} tokens",
                 bytes, text.token_bytes_max, tokens_max);
  };
  if (const auto* chat = std::get_if<ChatPrompt>(&prompt)) {
    IMPETUS_TRY(const std::string rendered, render_prompt(text, *chat));
    IMPETUS_CHECK(check_size(rendered.size()));
    auto ids = tokenizer.encode(rendered, {.add_special = false, .parse_special = true});
    const auto& special = tokenizer.special();
    if (special.add_bos && special.bos && (ids.empty() || ids.front() != *special.bos)) {
      ids.insert(ids.begin(), *special.bos);
    }
    return ids;
  }
  if (const auto* plain = std::get_if<TextPrompt>(&prompt)) {
    IMPETUS_CHECK(check_size(plain->text.size()));
    return tokenizer.encode(plain->text,
                            {.add_special = true, .parse_special = plain->parse_special});
  }
  return std::get<std::vector<TokenId>>(prompt);
}

}  // namespace impetus

#include <CLI/CLI.hpp>

#include "cli/commands.h"
#include "runtime/model.h"

namespace impetus::cli {
namespace {

struct TextOptions {
  std::string model, text, file;
  std::string ids, messages, template_file;
  bool special = false, no_generation_prompt = false, json = false;
  bool text_given = false;
};

Result<ModelText> text_of(const std::string& model) {
  IMPETUS_TRY(const ModelLocation location, locate(model));
  return load_model_text(location);
}

Result<void> tokenize(const TextOptions& options) {
  if (options.text_given == !options.file.empty()) {
    return error(ErrorCode::invalid_argument, "give the text by --text or by --file");
  }
  IMPETUS_TRY(const ModelText model, text_of(options.model));
  std::string text = options.text;
  if (!options.file.empty()) {
    IMPETUS_TRY(text, read_file(options.file));
  }
  const auto ids = model.tokenizer->encode(text, {options.special, options.special});
  if (options.json) {
    print_json(json::object{{"ids", json::array(ids.begin(), ids.end())}});
    return {};
  }
  for (const TokenId id : ids) {
    fmt::print("{:>8}  {}\n", id,
               json::serialize(json::value(model.tokenizer->token_bytes(id, true))));
  }
  return {};
}

Result<void> detokenize(const TextOptions& options) {
  IMPETUS_TRY(const auto ids, parse_ids(options.ids));
  IMPETUS_TRY(const ModelText model, text_of(options.model));
  for (const TokenId id : ids) {
    if (id >= model.tokenizer->vocab_size()) {
      return error(ErrorCode::invalid_argument, "token id {} is outside the vocabulary [0, {})", id,
                   model.tokenizer->vocab_size());
    }
  }
  const std::string text = model.tokenizer->decode(ids, options.special);
  if (options.json) {
    print_json(json::object{{"text", text}});
  } else {
    fmt::print("{}\n", text);
  }
  return {};
}

Result<void> render(const TextOptions& options) {
  ModelText model;
  if (!options.template_file.empty()) {
    IMPETUS_TRY(std::string source, read_file(options.template_file, 1 << 20));
    auto parsed = ChatTemplate::parse(std::move(source));
    if (!parsed.ok()) return std::move(parsed).error().within(options.template_file);
    model.chat_template = std::move(*parsed);
    model.bos_text = "<s>";
    model.eos_text = "</s>";
  } else if (!options.model.empty()) {
    IMPETUS_TRY(model, text_of(options.model));
  } else {
    return error(ErrorCode::invalid_argument, "name a model, or a template by --template");
  }
  IMPETUS_TRY(const json::value value, read_json_file(options.messages));
  // Either the messages alone, or an object that holds them beside the template's other inputs.
  ChatPrompt prompt;
  const json::value* messages = &value;
  if (const json::object* object = value.if_object()) {
    messages = object->if_contains("messages");
    for (const auto& entry : *object) {
      if (entry.key() == "messages") continue;
      if (entry.key() == "add_generation_prompt" && entry.value().is_bool()) {
        prompt.add_generation_prompt = entry.value().get_bool();
      } else if (entry.key() == "bos_token" && entry.value().is_string()) {
        model.bos_text = std::string(entry.value().get_string());
      } else if (entry.key() == "eos_token" && entry.value().is_string()) {
        model.eos_text = std::string(entry.value().get_string());
      } else {
        prompt.template_extra[entry.key()] = entry.value();
      }
    }
  }
  if (messages == nullptr || !messages->is_array()) {
    return error(ErrorCode::invalid_argument,
                 "{}: neither an array of messages nor an object with \"messages\"",
                 options.messages);
  }
  prompt.messages = messages->get_array();
  if (options.no_generation_prompt) prompt.add_generation_prompt = false;
  IMPETUS_TRY(const std::string text, render_prompt(model, prompt));
  if (options.json) {
    print_json(json::object{{"prompt", text}});
  } else {
    std::fwrite(text.data(), 1, text.size(), stdout);
  }
  return {};
}

}  // namespace

void add_tokenize(Commands& commands) {
  auto options = std::make_shared<TextOptions>();
  auto* app = commands.add("tokenize", "Text to token ids",
                           "impetus tokenize impetus-tiny-chat --text 'Hello there' --json", Run{});
  app->add_option("model", options->model, "A path or name; a vocabulary-only GGUF will do")
      ->required();
  auto* text = app->add_option("--text", options->text, "The text");
  app->add_option("--file", options->file, "A file that holds it");
  app->add_flag("--special", options->special,
                "Add the model's special tokens, and read those in the text");
  app->add_flag("--json", options->json, "{\"ids\": [...]}");
  app->callback([&commands, options, text] {
    options->text_given = text->count() > 0;
    commands.chosen = [options] { return tokenize(*options); };
  });
}

void add_detokenize(Commands& commands) {
  auto options = std::make_shared<TextOptions>();
  auto* app = commands.add("detokenize", "Token ids to text",
                           "impetus detokenize impetus-tiny-chat --ids 1,2,3",
                           [options] { return detokenize(*options); });
  app->add_option("model", options->model, "A path or name; a vocabulary-only GGUF will do")
      ->required();
  app->add_option("--ids", options->ids, "Such as 1,2,3")->required();
  app->add_flag("--special", options->special, "Show control tokens too");
  app->add_flag("--json", options->json, "{\"text\": ...}");
}

void add_template(Commands& commands) {
  auto options = std::make_shared<TextOptions>();
  auto* app = commands.add("template", "Render a conversation by a model's chat template",
                           "impetus template impetus-tiny-chat --messages messages.json",
                           [options] { return render(*options); });
  app->add_option("model", options->model, "A path or name");
  app->add_option("--template", options->template_file,
                  "A Jinja file instead of a model's template");
  app->add_option("--messages", options->messages,
                  "JSON: an array of messages, or an object with \"messages\" and other variables")
      ->required();
  app->add_flag("--no-generation-prompt", options->no_generation_prompt,
                "Do not open the assistant's turn");
  app->add_flag("--json", options->json, "{\"prompt\": ...}");
}

}  // namespace impetus::cli

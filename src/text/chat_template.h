// Chat templates: the Jinja that models carry in tokenizer_config.json, chat_template.jinja or
// GGUF's tokenizer.chat_template, rendered as Hugging Face's apply_chat_template does (trim_blocks,
// lstrip_blocks, raise_exception, strftime_now, tojson, namespace, loop controls). Immutable after
// parse: any thread may render. Rendering is bounded (steps, output bytes, depth).
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "base/json.h"
#include "base/result.h"

namespace impetus {

struct TemplateInput {
  json::array messages;  // objects with role, content and whatever else the client sent
  bool add_generation_prompt = true;
  std::string bos_token;
  std::string eos_token;
  json::object extra;  // chat_template_kwargs, tools, documents: further top-level variables
};

class ChatTemplate {
 public:
  // Error with line and column where the syntax is broken or outside what is supported.
  static Result<ChatTemplate> parse(std::string source);

  // Errors: the template's own raise_exception (invalid_argument, its message), a type error or an
  // unknown filter/function (invalid_argument with line), a limit (invalid_argument).
  Result<std::string> render(const TemplateInput& input) const;

  const std::string& source() const;

 private:
  struct Program;
  std::shared_ptr<const Program> program_;
};

}  // namespace impetus

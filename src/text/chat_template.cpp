#include "text/chat_template.h"

#include <exception>
#include <utility>
#include <vector>

#include "text/jinja/interpreter.h"
#include "text/jinja/parser.h"
#include "text/jinja/python_text.h"

namespace impetus {

struct ChatTemplate::Program {
  std::string source;
  jinja::Body body;
};

namespace {

Error from(const jinja::TemplateError& failure) {
  // A message may quote what the template or the client wrote, of any length.
  const std::string message = jinja::shortened(failure.message, 1000);
  if (failure.raised_by_template) return Error{ErrorCode::invalid_argument, message};
  if (failure.line == 0) return error(ErrorCode::invalid_argument, "chat template: {}", message);
  return error(ErrorCode::invalid_argument, "chat template, line {}, column {}: {}", failure.line,
               failure.column, message);
}

}  // namespace

Result<ChatTemplate> ChatTemplate::parse(std::string source) {
  try {
    auto program = std::make_shared<Program>();
    program->body = jinja::parse_template(source);
    program->source = std::move(source);
    ChatTemplate result;
    result.program_ = std::move(program);
    return result;
  } catch (const jinja::TemplateError& failure) {
    return from(failure);
  } catch (const std::exception& failure) {  // bad_alloc
    return error(ErrorCode::insufficient_memory, "chat template: {}", failure.what());
  }
}

Result<std::string> ChatTemplate::render(const TemplateInput& input) const {
  using jinja::Value;
  try {
    std::vector<std::pair<std::string, Value>> variables;
    std::vector<Value> messages;
    messages.reserve(input.messages.size());
    for (const json::value& message : input.messages) messages.push_back(jinja::from_json(message));
    variables.emplace_back("messages", Value::list(std::move(messages)));
    variables.emplace_back("add_generation_prompt", Value::boolean(input.add_generation_prompt));
    variables.emplace_back("bos_token", Value::string(input.bos_token));
    variables.emplace_back("eos_token", Value::string(input.eos_token));
    // Hugging Face passes these always, as none where the caller has none.
    for (const char* name : {"tools", "documents"}) {
      if (!input.extra.contains(name)) variables.emplace_back(name, Value::none());
    }
    for (const auto& [name, value] : input.extra) {
      variables.emplace_back(std::string(name), jinja::from_json(value));
    }
    jinja::Interpreter interpreter;
    return interpreter.render(program_->body, std::move(variables));
  } catch (const jinja::TemplateError& failure) {
    return from(failure);
  } catch (const std::exception& failure) {
    return error(ErrorCode::insufficient_memory, "chat template: {}", failure.what());
  }
}

const std::string& ChatTemplate::source() const {
  return program_->source;
}

}  // namespace impetus

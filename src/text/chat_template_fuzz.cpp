// Any bytes as a template, rendered over a small conversation: a prompt or a clean error.
#include <cstddef>
#include <cstdint>
#include <string>

#include "text/chat_template.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace impetus;
  if (size > 4096) return 0;
  auto parsed = ChatTemplate::parse(std::string(reinterpret_cast<const char*>(data), size));
  if (!parsed.ok()) return 0;
  static const TemplateInput input = [] {
    TemplateInput result;
    result.messages = parse_json(R"([{"role":"system","content":"Be brief."},
        {"role":"user","content":"caf\u00e9 \ud83d\ude00"},
        {"role":"assistant","content":null,"tool_calls":[{"id":"call00001","type":"function",
         "function":{"name":"f","arguments":{"x":1.5,"y":[true,null]}}}]},
        {"role":"tool","content":"7","tool_call_id":"call00001"}])")
                          ->as_array();
    result.bos_token = "<s>";
    result.eos_token = "</s>";
    return result;
  }();
  auto rendered = parsed->render(input);
  if (!rendered.ok() && rendered.error().message.empty() &&
      rendered.error().code != ErrorCode::invalid_argument) {
    __builtin_trap();
  }
  return 0;
}

// Renderings beside jinja2's own (tests/golden/make_chat_templates.py) and the reference cases of
// the test data; errors; limits.
#include "text/chat_template.h"

#include <ctime>
#include <fstream>
#include <iterator>
#include <map>
#include <string>

#include <gtest/gtest.h>

#include "tests/support/test_data.h"

namespace impetus {
namespace {

json::value read_golden(const std::string& name) {
  auto read = read_json_file(std::string(IMPETUS_SOURCE_DIR) + "/tests/golden/" + name);
  EXPECT_TRUE(read.ok()) << (read.ok() ? "" : read.error().message);
  return read.ok() ? std::move(*read) : json::value(json::object());
}

std::string text_of(const json::value& value) {
  return std::string(value.as_string());
}

Result<std::string> render(std::string source, const TemplateInput& input = {}) {
  IMPETUS_TRY(const ChatTemplate parsed, ChatTemplate::parse(std::move(source)));
  return parsed.render(input);
}

std::string message_of(const std::string& source, const TemplateInput& input = {}) {
  const auto result = render(source, input);
  if (result.ok()) return "rendered: " + result->substr(0, 100);
  EXPECT_EQ(result.error().code, ErrorCode::invalid_argument);
  return result.error().message;
}

// `expected` has "expected" (the text), "raises" (the template's own message) or "error".
void expect_like(const Result<std::string>& got, const json::object& expected,
                 const std::string& what) {
  if (const auto* text = expected.if_contains("expected")) {
    ASSERT_TRUE(got.ok()) << what << "\n" << got.error().message;
    EXPECT_EQ(*got, text_of(*text)) << what;
    return;
  }
  ASSERT_FALSE(got.ok()) << what << "\nrendered: " << *got;
  EXPECT_EQ(got.error().code, ErrorCode::invalid_argument) << what;
  if (const auto* raised = expected.if_contains("raises")) {
    EXPECT_EQ(got.error().message, text_of(*raised)) << what;
  } else {
    EXPECT_TRUE(got.error().message.starts_with("chat template")) << what << "\n"
                                                                  << got.error().message;
  }
}

TEST(JinjaSnippets, RenderAsJinja2) {
  const json::value golden = read_golden("jinja_snippets.json");
  TemplateInput input;
  for (const auto& [name, value] : golden.at("variables").as_object()) input.extra[name] = value;
  input.extra.erase("messages");
  input.messages = golden.at("variables").at("messages").as_array();
  size_t count = 0;
  for (const json::value& item : golden.at("cases").as_array()) {
    const std::string source = text_of(item.at("source"));
    expect_like(render(source, input), item.as_object(), source);
    ++count;
  }
  EXPECT_GE(count, 240u);
}

TEST(ChatTemplates, PublishedOnesRenderAsJinja2) {
  const auto folder = testing::test_data() / "chat-templates";
  IMPETUS_NEED_DATA(folder);
  const json::value golden = read_golden("chat_templates.json");
  std::map<std::string, ChatTemplate> templates;
  size_t count = 0;
  for (const json::value& item : golden.at("cases").as_array()) {
    const std::string file = text_of(item.at("template"));
    if (!templates.contains(file)) {
      std::ifstream stream(folder / file, std::ios::binary);
      auto parsed = ChatTemplate::parse(std::string(std::istreambuf_iterator<char>(stream), {}));
      ASSERT_TRUE(parsed.ok()) << file << ": " << parsed.error().message;
      templates.emplace(file, std::move(*parsed));
    }
    const std::string conversation = text_of(item.at("conversation"));
    for (const json::value& number : item.at("variants").as_array()) {
      TemplateInput input;
      input.messages = golden.at("conversations").at(conversation).as_array();
      input.bos_token = "<s>";
      input.eos_token = "</s>";
      input.extra["date_string"] = golden.at("common").at("date_string");
      for (const auto& [name, value] : golden.at("variants").at(number.as_int64()).as_object()) {
        if (name == "add_generation_prompt") {
          input.add_generation_prompt = value.as_bool();
        } else {
          input.extra[name] = value;
        }
      }
      const std::string what =
          file + ", " + conversation + ", variant " + std::to_string(number.as_int64());
      expect_like(templates.at(file).render(input), item.as_object(), what);
      ++count;
    }
  }
  EXPECT_EQ(templates.size(), 17u);
  EXPECT_GE(count, 800u);
}

TEST(ChatTemplates, ReferenceCasesRenderExactly) {
  const auto file = testing::test_data() / "chat-templates/rendered_cases.json";
  IMPETUS_NEED_DATA(file);
  auto cases = read_json_file(file.string());
  ASSERT_TRUE(cases.ok());
  // The reference implementation's special tokens, by template.
  const std::map<std::string, std::pair<std::string, std::string>> tokens = {
      {"llama3", {"<|begin_of_text|>", "<|eot_id|>"}},
      {"gemma", {"<bos>", "<eos>"}},
      {"phi3", {"<s>", "<|endoftext|>"}}};
  size_t count = 0;
  for (const auto& [name, group] : cases->as_object()) {
    auto parsed = ChatTemplate::parse(text_of(group.at("template")));
    ASSERT_TRUE(parsed.ok()) << name << ": " << parsed.error().message;
    for (const json::value& item : group.at("cases").as_array()) {
      TemplateInput input;
      input.messages = item.at("messages").as_array();
      input.add_generation_prompt = item.at("add_generation_prompt").as_bool();
      const auto found = tokens.find(std::string(name));
      input.bos_token = found == tokens.end() ? "<s>" : found->second.first;
      input.eos_token = found == tokens.end() ? "</s>" : found->second.second;
      if (const auto* effort = item.as_object().if_contains("reasoning_effort")) {
        input.extra["enable_thinking"] = text_of(*effort) != "off";
      }
      const auto got = parsed->render(input);
      const std::string what = std::string(name) + " case " + json::serialize(item.at("messages"));
      if (item.as_object().contains("raises")) {
        ASSERT_FALSE(got.ok()) << what;
        EXPECT_EQ(got.error().message, text_of(item.at("error"))) << what;
      } else {
        ASSERT_TRUE(got.ok()) << what << ": " << got.error().message;
        EXPECT_EQ(*got, text_of(item.at("expected"))) << what;
      }
      ++count;
    }
  }
  EXPECT_GE(count, 40u);
}

TEST(ChatTemplate, KeepsItsSourceAndMayBeCopied) {
  auto parsed = ChatTemplate::parse("{{ bos_token }}\n");
  ASSERT_TRUE(parsed.ok());
  const ChatTemplate copy = *parsed;
  EXPECT_EQ(copy.source(), "{{ bos_token }}\n");
  TemplateInput input;
  input.bos_token = "<s>";
  EXPECT_EQ(*copy.render(input), "<s>");
}

TEST(ChatTemplate, DefaultsWhatHuggingFacePasses) {
  EXPECT_EQ(*render("{{ tools is none }}{{ documents is none }}{{ add_generation_prompt }}"),
            "TrueTrueTrue");
  TemplateInput input;
  input.extra["tools"] = json::array{1};
  EXPECT_EQ(*render("{{ tools }}", input), "[1]");
}

TEST(ChatTemplate, StrftimeNowIsNow) {
  std::time_t now = std::time(nullptr);
  std::tm local{};
  localtime_r(&now, &local);
  EXPECT_EQ(*render("{{ strftime_now('%Y') }}"), std::to_string(local.tm_year + 1900));
}

TEST(ChatTemplate, ErrorsNameTheirPlace) {
  EXPECT_EQ(message_of("ok\n  {{ 1 + 'x' }}"),
            "chat template, line 2, column 8: unsupported operand type(s) for +: 'int' and 'str'");
  EXPECT_EQ(message_of("a\n{% if x %}"),
            "chat template, line 2, column 1: 'if' is never closed: 'endif' is missing");
  EXPECT_EQ(message_of("{{ nope.x }}"), "chat template, line 1, column 8: 'nope' is undefined");
  EXPECT_EQ(message_of("{{ 'a'|shout }}"),
            "chat template, line 1, column 7: no filter is named 'shout'");
  EXPECT_EQ(message_of("{% include 'x' %}"),
            "chat template, line 1, column 1: the statement 'include' is not supported in chat "
            "templates");
  EXPECT_EQ(message_of("\xff"), "chat template: the template is not valid UTF-8");
  EXPECT_EQ(message_of("{{ raise_exception('no') }}"), "no");
}

TEST(ChatTemplate, HostileTemplatesEndCleanly) {
  const auto contains = [](const std::string& source, const std::string& part) {
    const std::string message = message_of(source);
    EXPECT_NE(message.find(part), std::string::npos) << source.substr(0, 80) << "\n" << message;
  };
  const auto repeat = [](const std::string& text, size_t count) {
    std::string out;
    for (size_t i = 0; i < count; ++i) out += text;
    return out;
  };
  const std::string loop3 =
      "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}{{ c }}"
      "{% endfor %}{% endfor %}{% endfor %}";
  contains(
      "{% for a in range(99999) %}{% for b in range(99999) %}{% set x = b %}{% endfor %}{% endfor "
      "%}",
      "too");
  contains(loop3, "too");
  contains("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "nested too deeply");
  contains(
      "{% macro f(x) %}{{ caller() }}{% call f(x) %}y{% endcall %}{% endmacro %}{% call f(1) %}z{% "
      "endcall %}",
      "nested too deeply");
  contains("{{ 'x' * 9999999999 }}", "too much data");
  contains("{{ [0] * 99999999 }}", "too much data");
  contains("{{ 'x' * 9223372036854775807 * 9223372036854775807 }}", "too much data");
  contains(
      "{% set ns = namespace(s='xxxxxxxx') %}{% for i in range(60) %}{% set ns.s = ns.s + ns.s "
      "%}{% endfor %}",
      "too");
  contains(
      "{% set ns = namespace(s=[1]) %}{% for i in range(99) %}{% set ns.s = [ns.s, ns.s] %}{% "
      "endfor %}{{ ns.s }}",
      "nests deeper");
  contains(
      "{% set ns = namespace(s=[1]) %}{% for i in range(90) %}{% set ns.s = [ns.s, ns.s] %}{% "
      "endfor %}{{ ns.s }}",
      "too");
  contains(
      "{% set ns = namespace(a=[1], b=[1]) %}{% for i in range(90) %}{% set ns.a = [ns.a, ns.a] %}"
      "{% set ns.b = [ns.b, ns.b] %}{% endfor %}{{ ns.a == ns.b }}",
      "runs too long");
  contains(
      "{% set ns = namespace(s=[1]) %}{% for i in range(9999) %}{% set ns.s = [ns.s] %}{% endfor "
      "%}",
      "nests deeper");
  contains(
      "{% set ns = namespace(s={}) %}{% for i in range(9999) %}{% set ns.s = {'k': ns.s} %}{% "
      "endfor %}",
      "nests deeper");
  contains("{% set ns = namespace() %}{% set ns.self = ns %}{{ ns }}", "nested too deeply");
  contains("{{ " + repeat("(", 5000) + "1" + repeat(")", 5000) + " }}", "nested too deeply");
  contains("{{ 1" + repeat(" + 1", 5000) + " }}", "nested too deeply");
  contains("{{ " + repeat("not ", 5000) + "1 }}", "nested too deeply");
  contains("{{ " + repeat("-", 5000) + "1 }}", "nested too deeply");
  contains("{{ x" + repeat(".y", 5000) + " }}", "nested too deeply");
  contains("{{ x" + repeat("|trim", 5000) + " }}", "nested too deeply");
  contains(repeat("{% if 1 %}", 5000), "nested too deeply");
  contains("{% set " + repeat("(", 5000) + "a" + repeat(")", 5000) + " = 1 %}",
           "nested too deeply");
  contains("{{ 1" + repeat(" if 1 else 1", 5000) + " }}", "nested too deeply");
  contains("{{ '%999999999d' % 1 }}", "too large");
  contains("{{ '{:999999999}'.format(1) }}", "too large");
  contains("{{ 'x'.ljust(999999999) }}", "at most");
  contains("{{ 'x'|indent(999999999) }}", "at most");
  contains("{{ 9223372036854775807 + 1 }}", "64 bits");
  contains("{{ 99 ** 99 }}", "64 bits");
  contains("{{ (-9223372036854775807 - 1) // -1 }}", "64 bits");
  contains("{{ 99999999999999999999 }}", "64 bits");
  contains("{{ '%s' }}" + std::string(2 << 20, ' '), "bytes, more than");
  contains("{{ '\\ud800' }}", "no Unicode character");
  // Single steps that are long inside, and results made within a filter.
  const std::string big = "{% set s = 'x' * 1000000 %}";
  const std::string many = "{% for i in range(99999) %}";
  for (const char* work : {"{% set t = s|length %}", "{% set t = s[5] %}", "{% set t = s[2:3] %}",
                           "{% set t = s in {} %}", "{% set t = {}.get(s) %}",
                           "{% set t = s|int %}", "{% set t = 'y' in s %}", "{% set t = s|upper %}",
                           "{% set t = s.startswith('y', 3) %}", "{% set t = s == s ~ '' %}"}) {
    contains(big + many + work + "{% endfor %}", "too");
  }
  contains(big + "{{ ([s] * 9999)|map('upper')|list|length }}", "too");
  contains(big + "{{ ([s] * 9999)|map('trim')|list|length }}", "too");
  contains(big + "{{ ([s] * 9999)|map('e')|list|length }}", "too");
  EXPECT_EQ(message_of(big + "{{ ([s] * 9999)|map(attribute=s)|list|length }}"), "rendered: 9999");
  EXPECT_LT(message_of(big + "{{ raise_exception(s) }}").size(), 1100u);
  EXPECT_LT(message_of(big + "{{ {}[s].x }}").size(), 200u);
  contains("{% set g = range(99999)|map('string') %}" + many + "{% set x = g|first %}{% endfor %}",
           "too");
  {
    TemplateInput input;
    for (int i = 0; i < 2000; ++i) input.extra["v" + std::to_string(i)] = i;
    EXPECT_EQ(message_of("x", input), "chat template: 2006 template variables, more than 1000");
  }
  contains("{{ 'aaaaaaaa'.rfind('x' * 100000) if ('a' * 100000000).rfind('a' * 50000000 ~ 'b') }}",
           "too");
}

TEST(ChatTemplate, CyclesAndLongChainsAreFreed) {
  // A leak or a recursive destructor would show under the sanitizers.
  EXPECT_TRUE(
      render(
          "{% set ns = namespace() %}{% set ns.self = [ns] %}{% macro m() %}{{ m }}{% endmacro %}"
          "{% set ns.m = m %}{% for i in [1] %}{% set ns.l = loop %}{% endfor %}")
          .ok());
  EXPECT_TRUE(render("{% set ns = namespace(p=1) %}{% for i in range(50000) %}{% set ns.p = "
                     "namespace(p=ns.p) %}"
                     "{% endfor %}")
                  .ok());
  EXPECT_TRUE(render("{% set ns = namespace(p=1) %}{% for i in range(50000) %}{% set old = ns.p %}"
                     "{% macro m() %}{{ old }}{% endmacro %}{% set ns.p = m %}{% endfor %}")
                  .ok());
}

TEST(ChatTemplate, InvalidUtf8InMessagesPassesThrough) {
  TemplateInput input;
  input.bos_token = "a\xff\xc3";
  EXPECT_EQ(*render("{{ bos_token[::-1] }}{{ bos_token|length }}{{ bos_token.strip() }}", input),
            "\xc3\xff"
            "a3a\xff\xc3");
}

}  // namespace
}  // namespace impetus

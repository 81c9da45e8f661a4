// Template source to tokens, with Jinja's whitespace control already applied as under trim_blocks
// and lstrip_blocks. Source of the rules: the Jinja 3.1 template designer documentation
// ("Whitespace Control") and measured behaviour (tests/golden/jinja_snippets.json).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace impetus::jinja {

enum class TokenKind : uint8_t {
  data,  // text between tags
  print_begin,
  print_end,
  block_begin,
  block_end,
  name,
  string,  // text: with escapes resolved
  integer,
  floating,
  symbol,  // an operator or bracket: text
  end,
};

struct Token {
  TokenKind kind = TokenKind::end;
  std::string text;
  uint32_t line = 1;
  uint32_t column = 1;
};

// Fails with TemplateError (line and column set). The last token is `end`.
std::vector<Token> tokenize(std::string_view source);

// Newlines become "\n" and one at the very end is dropped, as jinja2 does before anything else.
std::string normalize_source(std::string_view source);

}  // namespace impetus::jinja

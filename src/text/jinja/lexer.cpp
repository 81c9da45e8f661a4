#include "text/jinja/lexer.h"

#include <algorithm>
#include <array>

#include "text/jinja/budget.h"
#include "text/jinja/python_text.h"

namespace impetus::jinja {
namespace {

constexpr size_t npos = std::string_view::npos;

bool is_digit(char c) {
  return c >= '0' && c <= '9';
}
bool is_name_byte(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || is_digit(c) ||
         static_cast<unsigned char>(c) >= 0x80;
}

class Lexer {
 public:
  explicit Lexer(std::string_view source) : source_(source) {}

  std::vector<Token> run() {
    while (position_ < source_.size()) text_until_tag();
    start_token();
    push(TokenKind::end, {});
    return std::move(tokens_);
  }

 private:
  char peek(size_t ahead = 0) const {
    return position_ + ahead < source_.size() ? source_[position_ + ahead] : '\0';
  }
  bool at(std::string_view text) const { return source_.substr(position_, text.size()) == text; }

  void start_token() {
    for (; counted_ < position_; ++counted_) {
      if (source_[counted_] == '\n') {
        ++line_;
        column_ = 1;
      } else if ((static_cast<unsigned char>(source_[counted_]) & 0xC0) != 0x80) {
        ++column_;  // code points, not bytes
      }
    }
    token_line_ = line_;
    token_column_ = column_;
  }

  void push(TokenKind kind, std::string text) {
    tokens_.push_back({kind, std::move(text), token_line_, token_column_});
  }

  [[noreturn]] void fail_here(std::string message) {
    start_token();
    TemplateError failure;
    failure.message = std::move(message);
    failure.line = token_line_;
    failure.column = token_column_;
    throw failure;
  }

  size_t skip_space(size_t from) const {
    return source_.size() - strip_left(source_.substr(from)).size();
  }

  // `sign` is the one that follows the tag's opening; data before a tag loses blanks by it.
  void push_data(std::string_view data, char sign, bool is_print) {
    if (sign == '-') {
      data = strip_right(data);
    } else if (sign != '+' && !is_print) {
      const size_t last_newline = data.rfind('\n');
      const size_t line = last_newline == npos ? 0 : last_newline + 1;
      if ((line > 0 || line_starting_) && strip_left(data.substr(line)).empty()) {
        data = data.substr(0, line);
      }
    }
    if (!data.empty()) push(TokenKind::data, std::string(data));
  }

  // Consumes the end of a tag whose closing delimiter is at position_: blanks and newlines after
  // it.
  void close(char sign, size_t size, bool trims_newline) {
    const size_t start = position_;
    position_ += size;
    if (sign == '-') {
      position_ = skip_space(position_);
    } else if (sign != '+' && trims_newline && peek() == '\n') {
      ++position_;
    }
    line_starting_ = position_ > start && source_[position_ - 1] == '\n';
  }

  void text_until_tag() {
    size_t tag = position_;
    for (;; ++tag) {
      tag = source_.find('{', tag);
      if (tag == npos || tag + 1 >= source_.size()) {
        tag = npos;
        break;
      }
      const char next = source_[tag + 1];
      if (next == '{' || next == '%' || next == '#') break;
    }
    start_token();
    if (tag == npos) {
      push(TokenKind::data, std::string(source_.substr(position_)));
      position_ = source_.size();
      return;
    }
    const std::string_view data = source_.substr(position_, tag - position_);
    const char type = source_[tag + 1];
    const char after = tag + 2 < source_.size() ? source_[tag + 2] : '\0';
    const char sign = after == '-' || after == '+' ? after : '\0';
    push_data(data, sign, type == '{');
    position_ = tag;
    start_token();
    position_ += sign != '\0' ? 3 : 2;
    line_starting_ = false;
    if (type == '#') {
      comment();
    } else if (type == '{') {
      push(TokenKind::print_begin, "{{");
      inside("}}", TokenKind::print_end);
    } else if (!raw()) {
      push(TokenKind::block_begin, "{%");
      inside("%}", TokenKind::block_end);
    }
  }

  void comment() {
    const size_t content = position_;
    const size_t end = source_.find("#}", position_);
    if (end == npos) fail_here("a comment is not closed by '#}'");
    const char before = end > content ? source_[end - 1] : '\0';
    position_ = end;
    close(before, 2, true);
  }

  // After "{%": a raw block is taken whole.
  bool raw() {
    size_t i = skip_space(position_);
    if (source_.substr(i, 3) != "raw") return false;
    i = skip_space(i + 3);
    const bool minus = source_.substr(i, 3) == "-%}";
    if (!minus && source_.substr(i, 2) != "%}") return false;
    position_ = i;
    close(minus ? '-' : '\0', minus ? 3 : 2, false);
    for (size_t tag = position_; (tag = source_.find("{%", tag)) != npos; ++tag) {
      size_t j = tag + 2;
      const char sign =
          j < source_.size() && (source_[j] == '-' || source_[j] == '+') ? source_[j] : '\0';
      j = skip_space(sign != '\0' ? j + 1 : j);
      if (source_.substr(j, 6) != "endraw") continue;
      j = skip_space(j + 6);
      const char end_sign =
          j < source_.size() && (source_[j] == '-' || source_[j] == '+') ? source_[j] : '\0';
      if (source_.substr(end_sign != '\0' ? j + 1 : j, 2) != "%}") continue;
      start_token();
      push_data(source_.substr(position_, tag - position_), sign, false);
      position_ = j;
      close(end_sign, end_sign != '\0' ? 3 : 2, true);
      return true;
    }
    fail_here("a raw block is not closed by '{% endraw %}'");
  }

  void inside(std::string_view closing, TokenKind end_kind) {
    std::string brackets;
    const bool is_block = end_kind == TokenKind::block_end;
    for (;;) {
      position_ = skip_space(position_);
      start_token();
      if (position_ >= source_.size()) {
        fail_here(fmt::format("the template ends inside a tag: '{}' is missing", closing));
      }
      if (brackets.empty()) {
        const char sign = peek();
        const bool has_sign = sign == '-' || (sign == '+' && is_block);
        if (source_.substr(position_ + (has_sign ? 1 : 0), 2) == closing) {
          push(end_kind, std::string(closing));
          close(has_sign ? sign : '\0', has_sign ? 3 : 2, is_block);
          return;
        }
      }
      const char c = peek();
      if (is_digit(c)) {
        number();
      } else if (is_name_byte(c)) {
        name();
      } else if (c == '\'' || c == '"') {
        string(c);
      } else {
        symbol(brackets);
      }
    }
  }

  void digits(std::string& out) {
    while (is_digit(peek()) ||
           (peek() == '_' && is_digit(peek(1)) && !out.empty() && is_digit(out.back()))) {
      if (peek() != '_') out += peek();
      ++position_;
    }
  }

  void number() {
    std::string text;
    if (peek() == '0' && (peek(1) == 'x' || peek(1) == 'X' || peek(1) == 'o' || peek(1) == 'O' ||
                          peek(1) == 'b' || peek(1) == 'B')) {
      fail_here("numbers are supported in decimal only");
    }
    digits(text);
    bool floating = false;
    const bool after_dot =
        !tokens_.empty() && tokens_.back().kind == TokenKind::symbol && tokens_.back().text == ".";
    if (!after_dot) {
      if (peek() == '.' && is_digit(peek(1))) {
        floating = true;
        text += '.';
        ++position_;
        digits(text);
      }
      const size_t sign = peek(1) == '+' || peek(1) == '-' ? 1 : 0;
      if ((peek() == 'e' || peek() == 'E') && is_digit(peek(1 + sign))) {
        floating = true;
        text += 'e';
        ++position_;
        if (sign != 0) {
          text += peek();
          ++position_;
        }
        digits(text);
      }
    }
    if (!floating && text.size() > 1 && text[0] == '0' && text.find_first_not_of('0') != npos) {
      fail_here(fmt::format("a number must not begin with 0: {}", text));
    }
    push(floating ? TokenKind::floating : TokenKind::integer, std::move(text));
  }

  void name() {
    const size_t start = position_;
    while (position_ < source_.size() && is_name_byte(source_[position_])) ++position_;
    push(TokenKind::name, std::string(source_.substr(start, position_ - start)));
  }

  int32_t hex(size_t count) {
    int32_t value = 0;
    for (size_t i = 0; i < count; ++i) {
      const char c = peek();
      int digit = 0;
      if (is_digit(c)) {
        digit = c - '0';
      } else if (c >= 'a' && c <= 'f') {
        digit = c - 'a' + 10;
      } else if (c >= 'A' && c <= 'F') {
        digit = c - 'A' + 10;
      } else {
        fail_here(fmt::format("a string escape needs {} hexadecimal digits", count));
      }
      if (value > 0x10FFFF) fail_here("a string escape is beyond Unicode");
      value = value * 16 + digit;
      ++position_;
    }
    if (value > 0x10FFFF || (value >= 0xD800 && value <= 0xDFFF)) {
      fail_here("a string escape names no Unicode character");
    }
    return value;
  }

  void string(char quote) {
    std::string text;
    for (++position_;;) {
      if (position_ >= source_.size()) {
        position_ = source_.size();
        fail_here(fmt::format("the template ends inside a string: {} is missing", quote));
      }
      const char c = source_[position_++];
      if (c == quote) break;
      if (c == '\\') {
        escape(text);
      } else {
        text += c;
      }
    }
    push(TokenKind::string, std::move(text));
  }

  void escape(std::string& text) {
    const char c = peek();
    if (position_ < source_.size()) ++position_;
    switch (c) {
      case 'n':
        text += '\n';
        return;
      case 't':
        text += '\t';
        return;
      case 'r':
        text += '\r';
        return;
      case 'a':
        text += '\a';
        return;
      case 'b':
        text += '\b';
        return;
      case 'f':
        text += '\f';
        return;
      case 'v':
        text += '\v';
        return;
      case '\\':
      case '\'':
      case '"':
        text += c;
        return;
      case '\n':
        return;
      case 'x':
        append_point(text, hex(2));
        return;
      case 'u':
        append_point(text, hex(4));
        return;
      case 'U':
        append_point(text, hex(8));
        return;
      case 'N':
        fail_here("the string escape \\N{...} is not supported: use \\u");
      default:
        break;
    }
    if (c >= '0' && c <= '7') {
      int32_t value = c - '0';
      for (int i = 0; i < 2 && peek() >= '0' && peek() <= '7'; ++i, ++position_) {
        value = value * 8 + (peek() - '0');
      }
      append_point(text, value);
      return;
    }
    text += '\\';  // an unknown escape stays as it is written
    if (position_ <= source_.size() && c != '\0') text += c;
  }

  void symbol(std::string& brackets) {
    static constexpr std::array<std::string_view, 27> symbols = {
        "//", "**", "==", "!=", ">=", "<=", "+", "-", "*", "/", "%", "~", "[", "]",
        "(",  ")",  "{",  "}",  ">",  "<",  "=", ".", ":", "|", ",", ";", "!"};
    for (const std::string_view symbol : symbols) {
      if (!at(symbol) || symbol == "!") continue;
      if (symbol == "(" || symbol == "[" || symbol == "{") {
        brackets += symbol[0] == '(' ? ')' : symbol[0] == '[' ? ']' : '}';
      } else if (symbol == ")" || symbol == "]" || symbol == "}") {
        if (brackets.empty() || brackets.back() != symbol[0]) {
          fail_here(brackets.empty()
                        ? fmt::format("unexpected '{}'", symbol)
                        : fmt::format("unexpected '{}', expected '{}'", symbol, brackets.back()));
        }
        brackets.pop_back();
      }
      push(TokenKind::symbol, std::string(symbol));
      position_ += symbol.size();
      return;
    }
    size_t bytes = 0;
    point_at(source_, position_, bytes);
    fail_here(fmt::format("unexpected character '{}'", source_.substr(position_, bytes)));
  }

  std::string_view source_;
  size_t position_ = 0;
  bool line_starting_ = true;  // the tag before ended with a newline
  std::vector<Token> tokens_;
  size_t counted_ = 0;
  uint32_t line_ = 1, column_ = 1, token_line_ = 1, token_column_ = 1;
};

}  // namespace

std::string normalize_source(std::string_view source) {
  std::string out;
  out.reserve(source.size());
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] != '\r') {
      out += source[i];
    } else if (i + 1 >= source.size() || source[i + 1] != '\n') {
      out += '\n';
    }
  }
  if (!out.empty() && out.back() == '\n') out.pop_back();
  return out;
}

std::vector<Token> tokenize(std::string_view source) {
  return Lexer(source).run();
}

}  // namespace impetus::jinja

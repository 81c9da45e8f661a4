#include "text/word_splitter.h"

#include "text/unicode.h"

namespace impetus {
namespace {

using namespace std::string_view_literals;

constexpr auto gpt2_regex =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)"sv;
constexpr auto llama3_regex =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)"sv;
constexpr auto qwen2_regex =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)"sv;
constexpr auto qwen3_5_regex =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)"sv;

constexpr uint8_t letter = unicode::letter, number = unicode::number, space = unicode::space,
                  mark = unicode::mark;

// A character and its classes; classes 0xFF-free "end" is bytes == 0.
struct Unit {
  uint32_t code = 0;
  uint32_t bytes = 0;
  uint8_t bits = 0;
};

class Reader {
 public:
  explicit Reader(std::string_view text)
      : begin_(text.data()), end_(begin_ + text.size()), classes_(unicode::ClassTable::get()) {}

  Unit at(const char* p) const {
    if (p >= end_) return {};
    const auto [code, bytes] = unicode::decode(p);
    return {code, bytes, classes_(code)};
  }
  // Past the run of characters that have one of `any`, at most `limit` of them.
  const char* run(const char* p, uint8_t any, int limit = -1) const {
    for (; limit != 0; --limit) {
      const Unit unit = at(p);
      if (unit.bytes == 0 || (unit.bits & any) == 0) break;
      p += unit.bytes;
    }
    return p;
  }
  // Past the run of characters that have none of `none`.
  const char* run_without(const char* p, uint8_t none) const {
    while (true) {
      const Unit unit = at(p);
      if (unit.bytes == 0 || (unit.bits & none) != 0) return p;
      p += unit.bytes;
    }
  }
  const char* begin() const { return begin_; }
  const char* end() const { return end_; }

 private:
  const char* begin_;
  const char* end_;
  const unicode::ClassTable& classes_;
};

// 's 't 're 've 'm 'll 'd; 0 where there is none. Case-blind, U+017F is an s as Unicode's folding
// says.
size_t contraction(std::string_view text, bool any_case) {
  if (text.size() < 2 || text[0] != '\'') return 0;
  const auto low = [&](size_t i) -> char {
    if (i >= text.size()) return 0;
    const char c = text[i];
    return any_case && c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c;
  };
  switch (low(1)) {
    case 's':
    case 't':
    case 'm':
    case 'd':
      return 2;
    case 'r':
    case 'v':
      return low(2) == 'e' ? 3 : 0;
    case 'l':
      return low(2) == 'l' ? 3 : 0;
    default:
      return any_case && text.substr(1).starts_with("\xC5\xBF") ? 3 : 0;
  }
}

// \s+(?!\S)|\s+ : all but the last character, unless the text ends here or there is only one.
size_t blanks(const Reader& reader, const char* run_end) {
  const char* const p = reader.begin();
  if (run_end == reader.end()) return static_cast<size_t>(run_end - p);
  const auto last = unicode::decode_before(run_end).bytes;
  const auto all = static_cast<size_t>(run_end - p);
  return all > last ? all - last : all;
}

size_t next_gpt2(std::string_view text) {
  if (const size_t n = contraction(text, false)) return n;
  const Reader reader(text);
  const char* p = reader.begin();
  Unit unit = reader.at(p);
  const char* start = p;
  if (*p == ' ') {
    const Unit after = reader.at(p + 1);
    if (after.bytes > 0 && (after.bits & space) == 0) {
      unit = after;
      start = p + 1;
    }
  }
  const auto length = [&](const char* end) { return static_cast<size_t>(end - p); };
  if (unit.bits & letter) return length(reader.run(start, letter));
  if (unit.bits & number) return length(reader.run(start, number));
  if ((unit.bits & space) == 0) return length(reader.run_without(start, space | letter | number));
  return blanks(reader, reader.run(p, space));
}

size_t next_cl100k(std::string_view text, int digits, uint8_t in_word) {
  if (const size_t n = contraction(text, true)) return n;
  const Reader reader(text);
  const char* p = reader.begin();
  const Unit unit = reader.at(p);
  const auto length = [&](const char* end) { return static_cast<size_t>(end - p); };
  if (unit.bits & in_word) return length(reader.run(p, in_word));
  if (unit.bits & number) return length(reader.run(p, number, digits));
  const bool newline = unit.code == '\r' || unit.code == '\n';
  const Unit after = newline ? Unit{} : reader.at(p + unit.bytes);
  if (after.bits & in_word) return length(reader.run(p + unit.bytes, in_word));

  const uint8_t not_symbol = space | number | in_word | letter;
  const bool led = *p == ' ' && after.bytes > 0 && (after.bits & not_symbol) == 0;
  if (led || (unit.bits & space) == 0) {
    const char* end = reader.run_without(led ? p + 1 : p, not_symbol);
    while (end < reader.end() && (*end == '\r' || *end == '\n')) ++end;
    return length(end);
  }
  const char* const end = reader.run(p, space);
  for (const char* q = end; q > p; --q) {
    if (q[-1] == '\n' || q[-1] == '\r') return length(q);
  }
  return blanks(reader, end);
}

}  // namespace

std::string_view regex_of(WordPattern pattern) {
  switch (pattern) {
    case WordPattern::gpt2:
      return gpt2_regex;
    case WordPattern::llama3:
      return llama3_regex;
    case WordPattern::qwen2:
      return qwen2_regex;
    case WordPattern::qwen3_5:
      return qwen3_5_regex;
  }
  return gpt2_regex;
}

std::optional<WordPattern> known_pattern(std::string_view regex) {
  for (const auto pattern :
       {WordPattern::gpt2, WordPattern::llama3, WordPattern::qwen2, WordPattern::qwen3_5}) {
    if (regex == regex_of(pattern)) return pattern;
  }
  return std::nullopt;
}

size_t next_word(WordPattern pattern, std::string_view text) {
  switch (pattern) {
    case WordPattern::gpt2:
      return next_gpt2(text);
    case WordPattern::llama3:
      return next_cl100k(text, 3, letter);
    case WordPattern::qwen2:
      return next_cl100k(text, 1, letter);
    case WordPattern::qwen3_5:
      return next_cl100k(text, 1, letter | mark);
  }
  return text.size();
}

}  // namespace impetus

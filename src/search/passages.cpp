#include "search/passages.h"

#include <algorithm>
#include <array>
#include <cassert>
#include <cctype>

#include "text/unicode.h"

namespace impetus {
namespace {

// A sentence longer than this that has line ends is rather a list, code or a table.
constexpr size_t kSentenceBytesMax = 400;
constexpr std::string_view kByteOrderMark = "\xef\xbb\xbf";

bool is_blank(char c) {
  return c == ' ' || (c >= '\t' && c <= '\r');
}

TextRange trim(std::string_view text, TextRange range) {
  while (range.begin < range.end && is_blank(text[range.begin])) ++range.begin;
  while (range.begin < range.end && is_blank(text[range.end - 1])) --range.end;
  return range;
}

std::vector<TextRange> paragraphs(std::string_view text) {
  std::vector<TextRange> all;
  const auto add = [&](size_t begin, size_t end) {
    const TextRange range = trim(text, {begin, end});
    if (range.size() > 0) all.push_back(range);
  };
  size_t begin = text.starts_with(kByteOrderMark) ? kByteOrderMark.size() : 0;
  for (size_t at = begin; at < text.size();) {
    const size_t end = std::min(text.find('\n', at), text.size());
    if (trim(text, {at, end}).size() == 0) {
      add(begin, at);
      begin = end;
    }
    at = end + 1;
  }
  add(begin, text.size());
  return all;
}

// The word before a full stop is one that a sentence goes on after.
bool abbreviates(std::string_view text, size_t stop) {
  size_t begin = stop;
  while (begin > 0 &&
         (std::isalpha(static_cast<unsigned char>(text[begin - 1])) || text[begin - 1] == '.')) {
    --begin;
  }
  const std::string_view word = text.substr(begin, stop - begin);
  if (word.size() == 1 && word[0] >= 'A' && word[0] <= 'Z' && word[0] != 'I') return true;
  constexpr std::array<std::string_view, 16> known = {"Mr",  "Mrs",    "Ms",  "Dr",  "St",  "Prof",
                                                      "Jr",  "vs",     "No",  "e.g", "i.e", "cf",
                                                      "Fig", "approx", "Vol", "pp"};
  return std::ranges::find(known, word) != known.end();
}

// Past what closes a sentence (quotes, brackets) at `at`.
size_t past_closers(std::string_view text, size_t at) {
  constexpr std::array<std::string_view, 10> closers = {
      "\"", "'", ")", "]", "\u201d", "\u2019", "\u00bb", "\u300d", "\u300f", "\uff09"};
  for (bool found = true; found && at < text.size();) {
    found = false;
    for (const std::string_view closer : closers) {
      if (!text.substr(at).starts_with(closer)) continue;
      at += closer.size();
      found = true;
      break;
    }
  }
  return at;
}

// Where a sentence that has its mark at `at` ends; 0 where that mark ends none.
size_t sentence_end(std::string_view text, size_t at) {
  for (const std::string_view mark : {"\u3002", "\uff01", "\uff1f"}) {
    if (text.substr(at).starts_with(mark)) return past_closers(text, at + mark.size());
  }
  const char c = text[at];
  const std::string_view ellipsis = "\u2026";
  const bool dots = text.substr(at).starts_with(ellipsis);
  if (c != '.' && c != '!' && c != '?' && !dots) return 0;
  const size_t end = past_closers(text, at + (dots ? ellipsis.size() : 1));
  if (end < text.size() && !is_blank(text[end])) return 0;
  if (c == '.' && abbreviates(text, at)) return 0;
  size_t next = end;
  while (next < text.size() && is_blank(text[next])) ++next;
  // "Stop!" said the fox.
  if (next < text.size() && text[next] >= 'a' && text[next] <= 'z') return 0;
  return end;
}

void add_lines(std::string_view text, TextRange range, std::vector<TextRange>& out) {
  for (size_t at = range.begin; at < range.end;) {
    const size_t end = std::min(text.find('\n', at), range.end);
    const TextRange line = trim(text, {at, end});
    if (line.size() > 0) out.push_back(line);
    at = end + 1;
  }
}

std::vector<TextRange> sentences_of(std::string_view text, TextRange whole) {
  std::vector<TextRange> all;
  const std::string_view part = text.substr(0, whole.end);
  size_t begin = whole.begin;
  const auto add = [&](size_t end) {
    const TextRange range = trim(text, {begin, end});
    begin = end;
    if (range.size() > kSentenceBytesMax) {
      add_lines(text, range, all);
    } else if (range.size() > 0) {
      all.push_back(range);
    }
  };
  for (size_t at = whole.begin; at < whole.end;) {
    const size_t end = sentence_end(part, at);
    if (end == 0) {
      ++at;
    } else {
      add(end);
      at = end;
    }
  }
  add(whole.end);
  return all;
}

class Splitter {
 public:
  Splitter(std::string_view text, const CountTokens& count, const PassageLimits& limits)
      : text_(text), count_(count), limits_(limits) {}

  std::vector<Passage> split() {
    for (const TextRange& paragraph : paragraphs(text_)) {
      const int64_t tokens = tokens_of(paragraph);
      if (tokens > limits_.tokens_max) {
        // The part before is whole; the long one's last part may be joined by what follows.
        flush();
        pack(units_of(paragraph));
      } else {
        // A heading belongs to what follows.
        const bool heading = text_[paragraph.begin] == '#';
        if (pieces_ > 0 && (heading || !fits(paragraph, tokens))) flush();
        take(paragraph, tokens);
      }
    }
    flush();
    return std::move(passages_);
  }

 private:
  // Tokens, or too many where there are too many bytes: then nobody has to count.
  int64_t tokens_of(TextRange range) const {
    if (range.size() > limits_.bytes_max) return limits_.tokens_max + 1;
    return count_(text_.substr(range.begin, range.size()));
  }

  bool fits(TextRange more, int64_t tokens) const {
    return tokens_ + tokens <= limits_.tokens_wanted &&
           more.end - current_.begin <= limits_.bytes_max;
  }
  void take(TextRange range, int64_t tokens) {
    current_ = pieces_ == 0 ? range : TextRange{current_.begin, range.end};
    tokens_ += tokens;
    ++pieces_;
  }

  void flush() {
    if (pieces_ == 0) return;
    const TextRange range = current_;
    // Counts need not add up where two pieces meet.
    const bool sure = pieces_ == 1 || tokens_ + 2 * pieces_ <= limits_.tokens_max;
    const bool whole = sure || tokens_of(range) <= limits_.tokens_max;
    tokens_ = pieces_ = 0;
    if (whole) return add(range);
    for (const TextRange& part : halves(range)) add(part);
  }

  void add(TextRange range) {
    line_ += static_cast<uint32_t>(
        range.begin >= counted_
            ? std::count(text_.begin() + static_cast<std::ptrdiff_t>(counted_),
                         text_.begin() + static_cast<std::ptrdiff_t>(range.begin), '\n')
            : -std::count(text_.begin() + static_cast<std::ptrdiff_t>(range.begin),
                          text_.begin() + static_cast<std::ptrdiff_t>(counted_), '\n'));
    counted_ = range.begin;
    passages_.push_back(
        {static_cast<uint32_t>(range.begin), static_cast<uint32_t>(range.size()), line_});
  }

  struct Unit {
    TextRange range;
    int64_t tokens;
    bool overlaps;  // begins within the one before
  };

  // What a paragraph that is too long is put together from, each within the limit.
  std::vector<Unit> units_of(TextRange paragraph) const {
    std::vector<Unit> units;
    for (const TextRange& sentence : sentences_of(text_, paragraph)) {
      const int64_t tokens = tokens_of(sentence);
      if (tokens <= limits_.tokens_max) {
        units.push_back({sentence, tokens, false});
        continue;
      }
      bool first = true;
      for (const TextRange& part : halves(sentence)) {
        units.push_back({part, tokens_of(part), !std::exchange(first, false)});
      }
    }
    return units;
  }

  void pack(const std::vector<Unit>& units) {
    const Unit* before = nullptr;
    for (const Unit& unit : units) {
      if (pieces_ > 0 && (unit.overlaps || !fits(unit.range, unit.tokens))) {
        const bool repeats = pieces_ > 1 && !unit.overlaps && !before->overlaps &&
                             before->tokens * 4 <= limits_.tokens_wanted;
        flush();
        if (repeats && before->tokens + unit.tokens <= limits_.tokens_wanted &&
            unit.range.end - before->range.begin <= limits_.bytes_max) {
          take(before->range, before->tokens);
        }
      }
      take(unit.range, unit.tokens);
      before = &unit;
    }
  }

  // A range cut in the middle, between words where it has any, until each part fits; each but the
  // first begins some words earlier than the one before ends.
  std::vector<TextRange> halves(TextRange range) const {
    std::vector<TextRange> parts;
    halve(range, parts);
    for (size_t i = parts.size(); i-- > 1;) {
      const size_t reach = parts[i - 1].size() / 8;
      const size_t from = parts[i].begin - std::min(parts[i].begin - parts[i - 1].begin, reach);
      for (size_t at = from; at < parts[i].begin; ++at) {
        if (!is_blank(text_[at])) continue;
        const TextRange longer = trim(text_, {at, parts[i].end});
        if (tokens_of(longer) <= limits_.tokens_max) parts[i] = longer;
        break;
      }
    }
    return parts;
  }

  void halve(TextRange range, std::vector<TextRange>& parts) const {
    range = trim(text_, range);
    if (range.size() == 0) return;
    const size_t cut = middle(range);
    if (tokens_of(range) <= limits_.tokens_max || cut == range.begin || cut == range.end) {
      parts.push_back(range);
      return;
    }
    halve({range.begin, cut}, parts);
    halve({cut, range.end}, parts);
  }

  // The white space nearest to the middle within the inner half, else a border of code points.
  size_t middle(TextRange range) const {
    const size_t centre = range.begin + range.size() / 2;
    for (size_t off = 0; off <= range.size() / 4; ++off) {
      if (is_blank(text_[centre - off])) return centre - off;
      if (centre + off < range.end && is_blank(text_[centre + off])) return centre + off;
    }
    size_t cut = centre;
    while (cut > range.begin && (static_cast<uint8_t>(text_[cut]) & 0xC0) == 0x80) --cut;
    if (cut > range.begin) return cut;
    for (cut = centre + 1; cut < range.end && (static_cast<uint8_t>(text_[cut]) & 0xC0) == 0x80;) {
      ++cut;
    }
    return cut;
  }

  const std::string_view text_;
  const CountTokens& count_;
  const PassageLimits limits_;
  std::vector<Passage> passages_;
  TextRange current_;
  int64_t tokens_ = 0, pieces_ = 0;  // of current_
  size_t counted_ = 0;               // line_ is that of this byte
  uint32_t line_ = 1;
};

}  // namespace

std::vector<Passage> split_passages(std::string_view text, const CountTokens& count,
                                    const PassageLimits& limits) {
  assert(text.size() < UINT32_MAX && unicode::valid_prefix(text) == text.size());
  assert(limits.tokens_max > 0 && limits.tokens_wanted <= limits.tokens_max);
  return Splitter(text, count, limits).split();
}

std::vector<TextRange> sentences(std::string_view text) {
  return sentences_of(text, {0, text.size()});
}

}  // namespace impetus

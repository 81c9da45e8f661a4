#include "text/pre_tokenizer.h"

#include "text/byte_level.h"
#include "text/unicode.h"

namespace impetus {
namespace {

using unicode::ClassTable;

struct Part {
  size_t begin, end;
  bool match;
};

// Joins neighbours as the behaviour says and hands on what is kept and not empty.
template <typename Emit>
void settle(std::vector<Part>& parts, SplitBehavior behavior, Emit&& emit) {
  std::vector<Part> joined;
  switch (behavior) {
    case SplitBehavior::isolated:
      break;
    case SplitBehavior::removed:
      std::erase_if(parts, [](const Part& part) { return part.match; });
      break;
    case SplitBehavior::contiguous:
      for (const Part& part : parts) {
        if (!joined.empty() && joined.back().match == part.match) {
          joined.back().end = part.end;
        } else {
          joined.push_back(part);
        }
      }
      parts.swap(joined);
      break;
    case SplitBehavior::merged_with_previous: {
      bool before = false;
      for (const Part& part : parts) {
        if (part.match && !before && !joined.empty()) {
          joined.back().end = part.end;
        } else {
          joined.push_back(part);
        }
        before = part.match;
      }
      parts.swap(joined);
      break;
    }
    case SplitBehavior::merged_with_next: {
      bool after = false;
      for (size_t i = parts.size(); i-- > 0;) {
        if (parts[i].match && !after && !joined.empty()) {
          joined.back().begin = parts[i].begin;
        } else {
          joined.push_back(parts[i]);
        }
        after = parts[i].match;
      }
      parts.assign(joined.rbegin(), joined.rend());
      break;
    }
  }
  for (const Part& part : parts) {
    if (part.begin < part.end) emit(part.begin, part.end);
  }
}

// Matches and the gaps between them, covering the text.
class Cutter {
 public:
  explicit Cutter(bool invert) : invert_(invert) {}
  void match(size_t begin, size_t end) {
    if (begin > done_) parts.push_back({done_, begin, invert_});
    parts.push_back({begin, end, !invert_});
    done_ = end;
  }
  void finish(size_t size) {
    if (done_ < size) parts.push_back({done_, size, invert_});
  }
  std::vector<Part> parts;

 private:
  bool invert_;
  size_t done_ = 0;
};

bool is_ascii_punctuation(uint32_t code) {
  return (code >= 33 && code <= 47) || (code >= 58 && code <= 64) || (code >= 91 && code <= 96) ||
         (code >= 123 && code <= 126);
}

template <typename Emit>
struct Apply {
  std::string_view text;
  bool at_start;
  bool spelled;
  Emit emit;  // (string_view, spelled)

  void part(size_t begin, size_t end) const { emit(text.substr(begin, end - begin), spelled); }

  void operator()(const PreTokenizer::Words& step) const {
    for (size_t at = 0; at < text.size();) {
      const size_t n = next_word(step.pattern, text.substr(at));
      part(at, at + n);
      at += n;
    }
  }
  void operator()(const PreTokenizer::Split& step) const {
    Cutter cutter(step.invert);
    if (step.regex) {
      step.regex->each(text, [&](size_t begin, size_t end) { cutter.match(begin, end); });
    } else {
      for (size_t at = text.find(step.literal); at != std::string_view::npos;
           at = text.find(step.literal, at + step.literal.size())) {
        cutter.match(at, at + step.literal.size());
      }
    }
    cutter.finish(text.size());
    settle(cutter.parts, step.behavior, [&](size_t b, size_t e) { part(b, e); });
  }
  void operator()(const PreTokenizer::Characters& step) const {
    const ClassTable& classes = ClassTable::get();
    Cutter cutter(false);
    for (size_t at = 0; at < text.size();) {
      const auto [code, bytes] = unicode::decode(text.data() + at);
      if ((classes(code) & step.classes) ||
          (step.ascii_punctuation && is_ascii_punctuation(code))) {
        cutter.match(at, at + bytes);
      }
      at += bytes;
    }
    cutter.finish(text.size());
    settle(cutter.parts, step.behavior, [&](size_t b, size_t e) { part(b, e); });
  }
  void operator()(const PreTokenizer::WordRuns&) const {
    const ClassTable& classes = ClassTable::get();
    size_t begin = 0;
    int kind = 0;  // 0 space, 1 word, 2 neither
    for (size_t at = 0; at < text.size();) {
      const auto [code, bytes] = unicode::decode(text.data() + at);
      const uint8_t bits = classes(code);
      const int here = bits & unicode::word ? 1 : bits & unicode::space ? 0 : 2;
      if (here != kind) {
        if (kind != 0) part(begin, at);
        begin = at;
        kind = here;
      }
      at += bytes;
    }
    if (kind != 0 && begin < text.size()) part(begin, text.size());
  }
  void operator()(const PreTokenizer::Bert&) const {
    const ClassTable& classes = ClassTable::get();
    size_t begin = 0;
    for (size_t at = 0; at < text.size();) {
      const auto [code, bytes] = unicode::decode(text.data() + at);
      const uint8_t bits = classes(code);
      const bool space = (bits & unicode::space) != 0;
      if (space || (bits & unicode::punctuation) || is_ascii_punctuation(code)) {
        if (begin < at) part(begin, at);
        if (!space) part(at, at + bytes);
        begin = at + bytes;
      }
      at += bytes;
    }
    if (begin < text.size()) part(begin, text.size());
  }
  void operator()(const PreTokenizer::ByteLevel& step) const {
    std::string prefixed;
    std::string_view input = text;
    if (step.add_prefix_space && !text.starts_with(' ')) {
      prefixed.reserve(text.size() + 1);
      prefixed.append(" ").append(text);
      input = prefixed;
    }
    if (!step.use_regex) return emit(input, false);
    while (!input.empty()) {
      const size_t n = next_word(WordPattern::gpt2, input);
      emit(input.substr(0, n), false);
      input.remove_prefix(n);
    }
  }
  void operator()(const PreTokenizer::Metaspace& step) const {
    using Prepend = PreTokenizer::Metaspace::Prepend;
    std::string replaced;
    replaced.reserve(text.size() + text.size() / 2 + 8);
    const bool marked = text.starts_with(step.replacement) || text.starts_with(' ');
    if (!marked &&
        (step.prepend == Prepend::always || (step.prepend == Prepend::first && at_start))) {
      replaced = step.replacement;
    }
    for (const char c : text) {
      if (c == ' ') {
        replaced.append(step.replacement);
      } else {
        replaced.push_back(c);
      }
    }
    if (!step.split) return emit(replaced, spelled);
    const std::string_view all = replaced;
    Cutter cutter(false);
    for (size_t at = all.find(step.replacement); at != std::string_view::npos;
         at = all.find(step.replacement, at + step.replacement.size())) {
      cutter.match(at, at + step.replacement.size());
    }
    cutter.finish(all.size());
    settle(cutter.parts, SplitBehavior::merged_with_next,
           [&](size_t b, size_t e) { emit(all.substr(b, e - b), spelled); });
  }
};

}  // namespace

void PreTokenizer::split(std::string_view text, bool at_start, Sink& sink) const {
  if (!text.empty()) run(0, text, at_start, false, sink);
}

void PreTokenizer::run(size_t step, std::string_view text, bool at_start, bool spelled,
                       Sink& sink) const {
  if (step == steps.size()) {
    if (!spelled) return sink.word(text);
    std::string bytes;
    if (byte_level::unspell(text, bytes)) sink.word(bytes);
    return;
  }
  const bool byte_level = std::holds_alternative<ByteLevel>(steps[step]);
  const bool last = step + 1 == steps.size();
  const char* const origin = text.data();
  const auto emit = [&](std::string_view part, bool part_spelled) {
    // Spelling is only worth its time where a later step looks at it.
    if (last) {
      if (!part_spelled) return sink.word(part);
      return run(step + 1, part, false, part_spelled, sink);
    }
    const bool first = at_start && part.data() == origin;
    if (byte_level) return run(step + 1, byte_level::spell(part), first, true, sink);
    run(step + 1, part, first, part_spelled, sink);
  };
  std::visit(Apply<decltype(emit)>{text, at_start, spelled, emit}, steps[step]);
}

}  // namespace impetus

#include "text/normalizer.h"

namespace impetus {
namespace {

using unicode::ClassTable;

template <typename Visit>
void each_code(std::string_view text, Visit&& visit) {
  const char* const end = text.data() + text.size();
  for (const char* p = text.data(); p < end;) {
    const auto [code, bytes] = unicode::decode(p);
    visit(code, std::string_view(p, bytes));
    p += bytes;
  }
}

std::string lowered(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  each_code(text, [&](uint32_t code, std::string_view) { unicode::append_lower(out, code); });
  return out;
}

std::string without(std::string_view text, uint8_t dropped) {
  const ClassTable& classes = ClassTable::get();
  std::string out;
  out.reserve(text.size());
  each_code(text, [&](uint32_t code, std::string_view bytes) {
    if ((classes(code) & dropped) == 0) out.append(bytes);
  });
  return out;
}

// The CJK ideograph blocks as Hugging Face's BertNormalizer has them: extension E begins there at
// U+2B920, 256 code points after the block does.
bool is_cjk(uint32_t code) {
  return (code >= 0x4E00 && code <= 0x9FFF) || (code >= 0x3400 && code <= 0x4DBF) ||
         (code >= 0x20000 && code <= 0x2A6DF) || (code >= 0x2A700 && code <= 0x2B73F) ||
         (code >= 0x2B740 && code <= 0x2B81F) || (code >= 0x2B920 && code <= 0x2CEAF) ||
         (code >= 0xF900 && code <= 0xFAFF) || (code >= 0x2F800 && code <= 0x2FA1F);
}

std::string bert_ascii(std::string_view text, const Normalizer::Bert& bert) {
  std::string out;
  out.reserve(text.size());
  for (char c : text) {
    if (bert.clean_text) {
      if (c == '\t' || c == '\n' || c == '\r') c = ' ';
      if (static_cast<uint8_t>(c) < 0x20 || c == 0x7F) continue;
    }
    if (bert.lowercase && c >= 'A' && c <= 'Z') c = static_cast<char>(c + 32);
    out.push_back(c);
  }
  return out;
}

std::string bert_cleaned(std::string_view text, const Normalizer::Bert& bert) {
  const ClassTable& classes = ClassTable::get();
  std::string out;
  out.reserve(text.size() + 16);
  each_code(text, [&](uint32_t code, std::string_view bytes) {
    const bool blank = code == '\t' || code == '\n' || code == '\r';
    if (bert.clean_text) {
      if (code == 0 || code == 0xFFFD || (!blank && (classes(code) & unicode::other))) return;
      if (classes(code) & unicode::space) {
        out.push_back(' ');
        return;
      }
    }
    const bool apart = bert.spaces_around_cjk && is_cjk(code);
    if (apart) out.push_back(' ');
    out.append(bytes);
    if (apart) out.push_back(' ');
  });
  return out;
}

struct Apply {
  std::string_view text;
  bool at_start;
  std::string& out;  // written where the answer is true

  bool operator()(const Normalizer::UnicodeForm& step) const {
    if (unicode::is_ascii(text)) return false;
    if (step.form == unicode::Form::nfc && unicode::is_surely_nfc(text)) return false;
    out = unicode::normalize(text, step.form);
    return true;
  }
  bool operator()(const Normalizer::Lowercase&) const {
    out = lowered(text);
    return true;
  }
  bool operator()(const Normalizer::StripAccents&) const {
    if (unicode::is_ascii(text)) return false;
    out = without(text, unicode::mark);
    return true;
  }
  bool operator()(const Normalizer::Bert& step) const {
    if (unicode::is_ascii(text)) {
      out = bert_ascii(text, step);
      return true;
    }
    out = bert_cleaned(text, step);
    if (step.strip_accents) {
      out = without(unicode::normalize(out, unicode::Form::nfd), unicode::nonspacing);
    }
    if (step.lowercase) out = lowered(out);
    return true;
  }
  bool operator()(const Normalizer::Prepend& step) const {
    if (text.empty() || (step.only_at_start && !at_start)) return false;
    std::string result;
    result.reserve(text.size() + step.text.size());
    result.append(step.text).append(text);
    out = std::move(result);
    return true;
  }
  bool operator()(const Normalizer::Replace& step) const {
    std::string result;
    size_t done = 0;
    if (step.regex) {
      step.regex->each(text, [&](size_t begin, size_t end) {
        result.append(text.substr(done, begin - done)).append(step.content);
        done = end;
      });
    } else {
      for (size_t at = text.find(step.literal); at != std::string_view::npos;
           at = text.find(step.literal, done)) {
        result.append(text.substr(done, at - done)).append(step.content);
        done = at + step.literal.size();
      }
    }
    if (done == 0 && result.empty()) return false;
    result.append(text.substr(done));
    out = std::move(result);
    return true;
  }
  bool operator()(const Normalizer::Strip& step) const {
    std::string_view rest = text;
    while (step.left && !rest.empty()) {
      const auto [code, bytes] = unicode::decode(rest.data());
      if (!unicode::is(code, unicode::space)) break;
      rest.remove_prefix(bytes);
    }
    while (step.right && !rest.empty()) {
      const auto [code, bytes] = unicode::decode_before(rest.data() + rest.size());
      if (!unicode::is(code, unicode::space)) break;
      rest.remove_suffix(bytes);
    }
    out = std::string(rest);
    return true;
  }
  bool operator()(const Normalizer::CollapseSpaces&) const {
    std::string result;
    result.reserve(text.size());
    for (const char c : text) {
      if (c == ' ' && (result.empty() || result.back() == ' ')) continue;
      result.push_back(c);
    }
    if (!result.empty() && result.back() == ' ') result.pop_back();
    out = std::move(result);
    return true;
  }
};

}  // namespace

std::string_view Normalizer::apply(std::string_view text, bool at_start,
                                   std::string& buffer) const {
  std::string other;
  for (const Step& step : steps) {
    // The input may lie in `buffer`: a step writes to the other string, then they trade places.
    if (std::visit(Apply{text, at_start, other}, step)) {
      buffer.swap(other);
      text = buffer;
    }
  }
  return text;
}

}  // namespace impetus

#include "terminal/text_writer.h"

#include <algorithm>

#include "base/utf8.h"
#include "text/unicode.h"

namespace impetus {
namespace {

constexpr uint32_t kReplacement = 0xFFFD;
constexpr uint32_t kJoiner = 0x200D;
constexpr std::string_view kFence = "```";
constexpr int kTab = 8;

bool turns_direction(uint32_t code) {
  return (code >= 0x202A && code <= 0x202E) || (code >= 0x2066 && code <= 0x2069);
}

bool is_skin_tone(uint32_t code) {
  return code >= 0x1F3FB && code <= 0x1F3FF;
}

// Marks of Chinese and Japanese that begin no line.
bool closes(uint32_t code) {
  constexpr std::u32string_view closing =
      U"\u3001\u3002\uff0c\uff0e\uff01\uff1f\uff1a\uff1b\uff09"
      U"\u300d\u300f\u3011\u300b\u3009\u30fc";
  return closing.find(static_cast<char32_t>(code)) != closing.npos;
}

}  // namespace

void append_harmless(std::string& out, uint32_t code) {
  if (code < 0x20) code += 0x2400;
  if (code == 0x7F) code = 0x2421;
  if ((code >= 0x80 && code < 0xA0) || turns_direction(code)) code = kReplacement;
  unicode::append(out, code);
}

std::string harmless(std::string_view text) {
  const std::string valid = repair_utf8(text);
  std::string out;
  out.reserve(valid.size());
  for (size_t at = 0; at < valid.size();) {
    const auto [code, bytes] = unicode::decode(valid.data() + at);
    append_harmless(out, code);
    at += bytes;
  }
  return out;
}

void TextWriter::push(std::string_view text) {
  unfinished_ += text;
  const size_t whole = complete_utf8_prefix(unfinished_);
  const std::string valid = repair_utf8(std::string_view(unfinished_).substr(0, whole));
  unfinished_.erase(0, whole);
  for (size_t at = 0; at < valid.size();) {
    const auto [code, bytes] = unicode::decode(valid.data() + at);
    push_code(code);
    at += bytes;
  }
  if (!pending_out_.empty()) out_(pending_out_);
  pending_out_.clear();
}

void TextWriter::mark(std::string_view sequence) {
  word_ += sequence;
}

void TextWriter::finish() {
  unfinished_ = repair_utf8(unfinished_);
  push("");
  flush_word();
  if (!pending_out_.empty()) out_(pending_out_);
  pending_out_.clear();
  spaces_ = column_ = 0;
  last_code_ = 0;
  line_start_.clear();
  verbatim_ = false;
}

int TextWriter::usable() const {
  const int width = width_ ? width_() : 0;
  // The last column stays free: what terminals do once it is filled differs, and so do their
  // opinions on the width of emoji.
  return width > 0 ? std::max(width - 1, indent_ + 2) : 0;
}

void TextWriter::emit(std::string_view text, int columns) {
  if (column_ == 0 && indent_ > 0) {
    pending_out_.append(static_cast<size_t>(indent_), ' ');
    column_ = indent_;
  }
  pending_out_ += text;
  column_ += columns;
}

void TextWriter::end_line() {
  pending_out_ += '\n';
  column_ = spaces_ = 0;
}

void TextWriter::flush_word() {
  if (word_.empty()) return;
  const int width = usable();
  if (width > 0 && !verbatim_ && column_ > indent_ && column_ + spaces_ + word_columns_ > width) {
    end_line();
  }
  if (spaces_ > 0) emit(std::string(static_cast<size_t>(spaces_), ' '), spaces_);
  spaces_ = 0;
  emit(word_, word_columns_);
  word_.clear();
  word_columns_ = 0;
}

void TextWriter::add_to_word(uint32_t code) {
  const int columns = std::max(0, unicode::columns(code));
  // Between wide characters a line may break; not before what belongs to the one in front.
  const bool wide = columns == 2 || (columns > 0 && unicode::columns(last_code_) == 2);
  const bool attached = last_code_ == kJoiner || is_skin_tone(code) || closes(code);
  const int width = usable();
  if (columns > 0 && !attached && word_columns_ > 0 &&
      (wide || (width > 0 && indent_ + word_columns_ + columns > width))) {
    flush_word();
  }
  append_harmless(word_, code);
  word_columns_ += code < 0x20 || code == 0x7F || columns > 0 ? std::max(columns, 1) : 0;
}

void TextWriter::push_code(uint32_t code) {
  const uint32_t before = last_code_;
  if (code == '\r') return void(last_code_ = code);
  if (before == '\r' && code != '\n') add_to_word('\r');  // alone it would overwrite the line
  if (code == '\n' || code == 0x2028 || code == 0x2029) {
    flush_word();
    end_line();
    const size_t text = std::min(line_start_.find_first_not_of(' '), line_start_.size());
    if (line_start_.compare(text, kFence.size(), kFence) == 0) verbatim_ = !verbatim_;
    line_start_.clear();
  } else if (code == ' ' || code == '\t') {
    flush_word();
    spaces_ += code == ' ' ? 1 : kTab - (column_ - std::min(column_, indent_) + spaces_) % kTab;
    if (line_start_.size() < 16) line_start_ += ' ';
  } else {
    if (line_start_.size() < 16) unicode::append(line_start_, code);
    add_to_word(code);
    if (verbatim_) flush_word();
  }
  last_code_ = code;
}

}  // namespace impetus

#include "text/detokenizer.h"

#include <algorithm>
#include <utility>

namespace impetus {
namespace {

constexpr std::string_view replacement = "\xEF\xBF\xBD";  // U+FFFD

struct Part {
  size_t bytes = 0;  // length of the valid sequence, or of the maximal part of none
  bool valid = false;
  bool unfinished = false;  // a valid beginning, cut off by the end of the text
};

// The sequence at the start of `text` (not empty), by Unicode 15, table 3-7.
Part first_sequence(std::string_view text) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned lead = byte(0);
  if (lead < 0x80) return {1, true, false};
  if (lead < 0xC2 || lead > 0xF4) return {1, false, false};
  const size_t size = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  unsigned low = 0x80,
           high = 0xBF;  // of the second byte: no overlong forms, surrogates, or beyond 10FFFF
  if (lead == 0xE0) low = 0xA0;
  if (lead == 0xED) high = 0x9F;
  if (lead == 0xF0) low = 0x90;
  if (lead == 0xF4) high = 0x8F;
  for (size_t i = 1; i < size; ++i) {
    if (i >= text.size()) return {i, false, true};
    if (byte(i) < low || byte(i) > high) return {i, false, false};
    low = 0x80;
    high = 0xBF;
  }
  return {size, true, false};
}

// Moves what is certain from the front of `pending` to the result.
std::string take_certain(std::string& pending) {
  std::string out;
  std::string_view rest = pending;
  while (!rest.empty()) {
    const Part part = first_sequence(rest);
    if (part.unfinished) break;
    out += part.valid ? rest.substr(0, part.bytes) : replacement;
    rest.remove_prefix(part.bytes);
  }
  pending.erase(0, pending.size() - rest.size());
  return out;
}

}  // namespace

std::string repair_utf8(std::string_view text) {
  std::string pending(text);
  std::string out = take_certain(pending);
  if (!pending.empty()) out += replacement;
  return out;
}

StreamingDetokenizer::StreamingDetokenizer(const Tokenizer& tokenizer, bool continues_text,
                                           bool render_special)
    : tokenizer_(tokenizer), render_special_(render_special), at_start_(!continues_text) {}

std::string StreamingDetokenizer::push(TokenId id) {
  const std::string bytes = tokenizer_.token_bytes(id, render_special_);
  if (bytes.empty()) return {};
  std::string_view added = bytes;
  if (at_start_ && added.front() == ' ' &&
      tokenizer_.decode(std::span(&id, 1), render_special_) == added.substr(1)) {
    added.remove_prefix(1);
  }
  at_start_ = false;
  pending_ += added;
  return take_certain(pending_);
}

std::string StreamingDetokenizer::finish() {
  return std::exchange(pending_, {}).empty() ? std::string() : std::string(replacement);
}

StopMatcher::StopMatcher(std::vector<std::string> stops) : stops_(std::move(stops)) {
  std::erase(stops_, "");
  std::sort(stops_.begin(), stops_.end(), [](const std::string& a, const std::string& b) {
    return a.size() != b.size() ? a.size() > b.size() : a < b;
  });
}

StopMatcher::Output StopMatcher::push(std::string_view text) {
  if (stopped_) return {"", true, matched_};
  const size_t before = held_.size();
  held_ += text;
  const std::string_view all = held_;
  for (size_t end = before + 1; end <= all.size(); ++end) {
    for (const std::string& stop : stops_) {
      if (!all.substr(0, end).ends_with(stop)) continue;
      stopped_ = true;
      matched_ = stop;
      Output output{held_.substr(0, end - stop.size()), true, stop};
      held_.clear();
      return output;
    }
  }
  size_t keep = 0;
  for (const std::string& stop : stops_) {
    for (size_t size = std::min(stop.size() - 1, all.size()); size > keep; --size) {
      if (all.ends_with(std::string_view(stop).substr(0, size))) keep = size;
    }
  }
  Output output{held_.substr(0, held_.size() - keep)};
  held_.erase(0, held_.size() - keep);
  return output;
}

StopMatcher::Output StopMatcher::finish() {
  return {std::exchange(held_, {}), stopped_, matched_};
}

}  // namespace impetus

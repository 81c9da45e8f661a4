#include "text/detokenizer.h"

#include <algorithm>
#include <utility>

namespace impetus {
namespace {

// Moves what is certain from the front of `pending` to the result.
std::string take_certain(std::string& pending) {
  const size_t certain = complete_utf8_prefix(pending);
  std::string out = repair_utf8(std::string_view(pending).substr(0, certain));
  pending.erase(0, certain);
  return out;
}

}  // namespace

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
  return repair_utf8(std::exchange(pending_, {}));
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

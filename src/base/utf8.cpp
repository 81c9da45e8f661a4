#include "base/utf8.h"

#include <algorithm>
#include <cstdint>

namespace impetus {
namespace {

struct Part {
  size_t size;    // bytes of a whole sequence, or of a maximal invalid part
  bool valid;
  bool unfinished;  // invalid only because the text ends
};

// The part that begins at `bytes[0]`. REQUIRES: not empty.
Part next_part(std::string_view bytes) {
  const auto at = [&](size_t i) { return static_cast<uint8_t>(bytes[i]); };
  const uint8_t lead = at(0);
  if (lead < 0x80) return {1, true, false};
  size_t size = lead >= 0xc2 && lead <= 0xdf ? 2 : lead >= 0xe0 && lead <= 0xef ? 3
                : lead >= 0xf0 && lead <= 0xf4 ? 4 : 0;
  if (size == 0) return {1, false, false};
  // The second byte's range keeps out long forms, surrogates and what lies past U+10FFFF.
  const uint8_t low = lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80;
  const uint8_t high = lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf;
  for (size_t i = 1; i < size; ++i) {
    if (i >= bytes.size()) return {i, false, true};
    if (at(i) < (i == 1 ? low : 0x80) || at(i) > (i == 1 ? high : 0xbf)) return {i, false, false};
  }
  return {size, true, false};
}

}  // namespace

std::string repair_utf8(std::string_view bytes) {
  std::string text;
  text.reserve(bytes.size());
  while (!bytes.empty()) {
    const Part part = next_part(bytes);
    text += part.valid ? bytes.substr(0, part.size) : std::string_view("\xef\xbf\xbd");
    bytes.remove_prefix(part.size);
  }
  return text;
}

size_t complete_utf8_prefix(std::string_view bytes) {
  // An unfinished sequence has at most three bytes and begins at the last lead: a lead that another
  // one follows is finished, whole or not.
  for (size_t back = 1; back <= std::min<size_t>(3, bytes.size()); ++back) {
    const std::string_view tail = bytes.substr(bytes.size() - back);
    const auto lead = static_cast<uint8_t>(tail[0]);
    if (lead < 0xc0) continue;
    return next_part(tail).unfinished ? bytes.size() - back : bytes.size();
  }
  return bytes.size();
}

}  // namespace impetus

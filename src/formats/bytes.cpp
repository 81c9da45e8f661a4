#include "formats/bytes.h"

#include <algorithm>

namespace impetus {
namespace {

// Length of the well-formed sequence at the start of `text`, 0 if there is none.
size_t sequence_length(std::string_view text) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char lead = byte(0);
  if (lead < 0x80) return 1;
  if (lead < 0xc2 || lead > 0xf4) return 0;
  const size_t length = lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
  if (text.size() < length) return 0;
  unsigned char low = 0x80;
  unsigned char high = 0xbf;
  if (lead == 0xe0) low = 0xa0;
  if (lead == 0xed) high = 0x9f;
  if (lead == 0xf0) low = 0x90;
  if (lead == 0xf4) high = 0x8f;
  if (byte(1) < low || byte(1) > high) return 0;
  for (size_t i = 2; i < length; ++i) {
    if (byte(i) < 0x80 || byte(i) > 0xbf) return 0;
  }
  return length;
}

}  // namespace

bool is_utf8(std::string_view text) {
  while (!text.empty()) {
    const size_t length = sequence_length(text);
    if (length == 0) return false;
    text.remove_prefix(length);
  }
  return true;
}

std::string printable(std::string_view name) {
  constexpr size_t kBytesMax = 120;
  std::string out;
  while (!name.empty()) {
    const size_t length = sequence_length(name);
    if (out.size() + std::max<size_t>(length, 1) > kBytesMax) return out + "...";
    const auto lead = static_cast<unsigned char>(name.front());
    const bool plain = length > 1 || (length == 1 && lead >= 0x20 && lead != 0x7f);
    if (plain) {
      out.append(name.substr(0, length));
    } else {
      out.push_back('?');
    }
    name.remove_prefix(std::max<size_t>(length, 1));
  }
  return out;
}

}  // namespace impetus

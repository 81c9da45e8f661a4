#include "text/byte_level.h"

#include <array>

#include "text/unicode.h"

namespace impetus::byte_level {
namespace {

struct Tables {
  std::array<uint16_t, 256> code{};
  std::array<int16_t, 324> byte{};

  constexpr Tables() {
    byte.fill(-1);
    uint16_t next = 256;
    for (int b = 0; b < 256; ++b) {
      const bool prints = (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
      code[static_cast<size_t>(b)] = prints ? static_cast<uint16_t>(b) : next++;
      byte[code[static_cast<size_t>(b)]] = static_cast<int16_t>(b);
    }
  }
};

constexpr Tables tables;

}  // namespace

uint32_t code_of(uint8_t byte) {
  return tables.code[byte];
}

int byte_of(uint32_t code) {
  return code < tables.byte.size() ? tables.byte[code] : -1;
}

std::string spell(std::string_view bytes) {
  std::string text;
  text.reserve(bytes.size() * 2);
  for (const char c : bytes) unicode::append(text, code_of(static_cast<uint8_t>(c)));
  return text;
}

bool unspell(std::string_view text, std::string& bytes) {
  bytes.clear();
  if (unicode::valid_prefix(text) != text.size()) return false;
  for (const char* p = text.data(); p < text.data() + text.size();) {
    const auto [code, n] = unicode::decode(p);
    const int byte = byte_of(code);
    if (byte < 0) return false;
    bytes.push_back(static_cast<char>(byte));
    p += n;
  }
  return true;
}

}  // namespace impetus::byte_level

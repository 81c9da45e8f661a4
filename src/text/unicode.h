// UTF-8 and the Unicode properties that tokenisers ask for. Stateless; any thread.
//
// Categories come from utf8proc; "space" is the White_Space property, as \s means it in the regular
// expressions of published tokenisers.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace impetus::unicode {

// One code point of text that is known to be valid UTF-8.
struct Decoded {
  uint32_t code;
  uint32_t bytes;
};

inline Decoded decode(const char* p) {
  const auto a = static_cast<uint8_t>(p[0]);
  const auto at = [p](int i) { return static_cast<uint32_t>(static_cast<uint8_t>(p[i]) & 0x3F); };
  if (a < 0x80) return {a, 1};
  if (a < 0xE0) return {(a & 0x1Fu) << 6 | at(1), 2};
  if (a < 0xF0) return {(a & 0x0Fu) << 12 | at(1) << 6 | at(2), 3};
  return {(a & 0x07u) << 18 | at(1) << 12 | at(2) << 6 | at(3), 4};
}

// The code point that ends at `end` (valid UTF-8, not at the beginning of the text).
inline Decoded decode_before(const char* end) {
  const char* p = end - 1;
  while ((static_cast<uint8_t>(*p) & 0xC0) == 0x80) --p;
  return decode(p);
}

// Bytes of the longest valid prefix: text.size() where all of it is valid (no surrogates, no
// overlong forms, nothing past U+10FFFF).
size_t valid_prefix(std::string_view text);

void append(std::string& out, uint32_t code);

// Each byte that belongs to no valid sequence becomes U+FFFD.
std::string repaired(std::string_view text);

enum Class : uint8_t {
  letter = 1,        // L*
  number = 2,        // N*
  space = 4,         // White_Space
  mark = 8,          // M*
  punctuation = 16,  // P*
  word = 32,         // \w: Alphabetic, M*, Nd, Pc, join controls
  nonspacing = 64,   // Mn
  other = 128,       // C*: control, format, surrogate, private use (not: unassigned)
};

// Bits of Class of every code point, in two stages: blocks of 256, equal blocks shared.
class ClassTable {
 public:
  static const ClassTable& get();  // built at first use, about 1 ms

  uint8_t operator()(uint32_t code) const {
    return code > code_max ? 0 : blocks_[block_of_[code >> 8]][code & 0xFF];
  }

 private:
  static constexpr uint32_t code_max = 0x10FFFF;
  ClassTable();
  std::array<uint16_t, (code_max + 1) / 256> block_of_{};
  std::vector<std::array<uint8_t, 256>> blocks_;
};

inline bool is(uint32_t code, uint8_t any_of) {
  return (ClassTable::get()(code) & any_of) != 0;
}

// Full lower case of one code point without context, as Unicode's SpecialCasing says.
void append_lower(std::string& out, uint32_t code);

enum class Form : uint8_t { nfc, nfd, nfkc, nfkd };
// `text` is valid UTF-8. Linear up to sorting runs of combining marks.
std::string normalize(std::string_view text, Form form);
// Cheap and never wrong where it says yes; a no means "normalise to find out".
bool is_surely_nfc(std::string_view text);

bool is_ascii(std::string_view text);

// Columns that a code point takes on a terminal: 0 (combining marks, joiners, controls), 1 or 2.
int columns(uint32_t code);

}  // namespace impetus::unicode

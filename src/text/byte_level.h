// GPT-2's reversible spelling of bytes as printable characters: bytes that print in Latin-1 stand
// for themselves, the other 68 become U+0100 and following, in order.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace impetus::byte_level {

uint32_t code_of(uint8_t byte);

// -1 where the code point spells no byte.
int byte_of(uint32_t code);

std::string spell(std::string_view bytes);

// false (and `bytes` unspecified) where a character spells no byte or the text is not valid UTF-8.
bool unspell(std::string_view text, std::string& bytes);

}  // namespace impetus::byte_level

// UTF-8 as Unicode defines it: shortest forms only, no surrogates, at most U+10FFFF.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace impetus {

// Replaces each maximal invalid part by U+FFFD (Unicode 15, section 3.9, "best practice").
std::string repair_utf8(std::string_view bytes);

// Length of the longest prefix that holds no unfinished sequence at its end: bytes after it could still
// become valid with what follows. Invalid parts count as finished.
size_t complete_utf8_prefix(std::string_view bytes);

}  // namespace impetus

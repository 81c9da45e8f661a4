// Which build this is: the identity that the linker gave the running binary, so that what was
// measured by one build is never taken for another's.
#pragma once

#include <string>

namespace impetus {

// Hexadecimal; empty where the linker wrote none.
std::string build_id();

}  // namespace impetus

#pragma once

#include <cstdint>

namespace impetus {

// An index into a model's vocabulary. Negative values are never valid.
using TokenId = int32_t;

}  // namespace impetus

// Bounds that reader, writer, judge and interpreter have in common: what one of them takes, none of
// the others refuses for its size.
#pragma once

#include <cstddef>
#include <cstdint>

namespace impetus::mil {

inline constexpr size_t kRankMax = 16;
inline constexpr int64_t kDimensionMax = int64_t{1} << 40;
inline constexpr int kBlockDepthMax = 16;  // blocks in blocks; a function's own is the first
inline constexpr int kValueDepthMax = 16;  // lists in tuples in ..., of types and of values

}  // namespace impetus::mil

// What a file's content is known by: 128 bits, so that no two files of one person ever share one by
// chance. No secret, and no defence against somebody who wants two to be equal.
#pragma once

#include <cstdint>
#include <string_view>

namespace impetus {

struct ContentHash {
  uint64_t high = 0, low = 0;
  bool operator==(const ContentHash&) const = default;
};

ContentHash content_hash(std::string_view bytes);

struct ContentHashes {  // for unordered containers
  size_t operator()(const ContentHash& hash) const { return static_cast<size_t>(hash.low); }
};

}  // namespace impetus

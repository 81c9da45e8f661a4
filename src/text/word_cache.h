// Ids of the words this thread has met lately: text repeats its words, and a hit costs one
// comparison. Direct-mapped and fixed in size, so hostile text can only make it miss. One per
// thread, shared by all tokenizers (entries carry their owner).
#pragma once

#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "base/token_id.h"
#include "text/flat_map.h"

namespace impetus {

class WordCache {
 public:
  static constexpr size_t bytes_max = 22;
  static constexpr size_t ids_max = 9;

  static WordCache& of_this_thread() {
    thread_local WordCache cache;
    return cache;
  }

  // A number no other tokenizer of this process has.
  static uint32_t new_owner();

  struct Entry {
    uint32_t owner = 0;
    TokenId ids[ids_max];
    uint8_t bytes = 0;
    uint8_t count = 0;
    char text[bytes_max];
  };
  static_assert(sizeof(Entry) == 64);

  // The entry where this word belongs; `hit` tells whether it is there. word.size() <= bytes_max.
  Entry& place(std::string_view word, uint32_t owner, bool& hit) {
    Entry& entry = entries_[hash_bytes(word) >> (64 - bits)];
    hit = entry.owner == owner && entry.bytes == word.size() &&
          std::memcmp(entry.text, word.data(), word.size()) == 0;
    return entry;
  }

  static void fill(Entry& entry, std::string_view word, uint32_t owner,
                   std::span<const TokenId> ids) {
    if (ids.size() > ids_max) return;
    entry.owner = owner;
    entry.bytes = static_cast<uint8_t>(word.size());
    entry.count = static_cast<uint8_t>(ids.size());
    std::memcpy(entry.text, word.data(), word.size());
    std::memcpy(entry.ids, ids.data(), ids.size() * sizeof(TokenId));
  }

 private:
  static constexpr int bits = 13;  // 512 KiB
  std::vector<Entry> entries_ = std::vector<Entry>(size_t{1} << bits);
};

}  // namespace impetus

// Pieces and their ids, and the longest-match trie. Built once, then read by any thread.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"
#include "base/token_id.h"
#include "text/flat_map.h"

namespace impetus {

// No real vocabulary comes near; bounds what a hostile id can make us allocate.
inline constexpr int64_t vocabulary_size_max = int64_t{1} << 22;

// Byte strings one after another in one allocation.
class StringTable {
 public:
  void reserve(size_t entries, size_t bytes) {
    ends_.reserve(entries);
    bytes_.reserve(bytes);
  }
  void push(std::string_view text) {
    bytes_.append(text);
    ends_.push_back(bytes_.size());
  }
  std::string_view operator[](size_t i) const {
    const size_t begin = i == 0 ? 0 : ends_[i - 1];
    return std::string_view(bytes_).substr(begin, ends_[i] - begin);
  }
  size_t size() const { return ends_.size(); }

 private:
  std::string bytes_;
  std::vector<size_t> ends_;
};

class Vocabulary {
 public:
  // `pieces[id]`; a hole is an entry without data (nullptr view). Error where a piece occurs twice.
  static Result<Vocabulary> build(const std::vector<std::string_view>& pieces);

  int32_t size() const { return static_cast<int32_t>(pieces_.size()); }
  bool contains(TokenId id) const { return id >= 0 && id < size(); }
  std::string_view piece(TokenId id) const { return pieces_[static_cast<size_t>(id)]; }
  // -1 where absent.
  TokenId find(std::string_view piece) const;

 private:
  struct Slot {
    uint32_t hash = 0;
    TokenId id = -1;
  };
  StringTable pieces_;
  std::vector<Slot> slots_;
};

// Puts (piece, id) pairs in order of id. Errors name the piece: negative or oversized ids, an id
// used twice. Ids that nobody uses become holes.
Result<std::vector<std::string_view>> by_id(
    const std::vector<std::pair<std::string_view, int64_t>>& entries);

// Bytes -> value, answering "the longest entry that starts here".
class ByteTrie {
 public:
  void insert(std::string_view key, int32_t value);
  struct Match {
    size_t bytes = 0;
    int32_t value = -1;  // -1: nothing starts here
  };
  Match longest(std::string_view text) const;
  bool may_start(char first) const { return starts_[static_cast<uint8_t>(first)]; }
  bool empty() const { return values_.size() <= 1; }

 private:
  FlatMap<uint32_t> edges_;  // node << 8 | byte -> node
  std::vector<int32_t> values_{-1};
  std::vector<bool> starts_ = std::vector<bool>(256, false);
};

}  // namespace impetus

#include "text/wordpiece.h"

#include <algorithm>
#include <span>

#include "text/word_cache.h"

namespace impetus {

WordPiece::WordPiece(TokenId unknown, size_t characters_max)
    : unknown_(unknown), characters_max_(characters_max), owner_(WordCache::new_owner()) {}

void WordPiece::encode_word(std::string_view word, std::vector<TokenId>& out) const {
  if (word.size() > WordCache::bytes_max) return encode_uncached(word, out);
  bool hit = false;
  WordCache::Entry& entry = WordCache::of_this_thread().place(word, owner_, hit);
  if (hit) {
    out.insert(out.end(), entry.ids, entry.ids + entry.count);
    return;
  }
  const size_t before = out.size();
  encode_uncached(word, out);
  WordCache::fill(entry, word, owner_, std::span(out).subspan(before));
}

void WordPiece::encode_uncached(std::string_view word, std::vector<TokenId>& out) const {
  const auto characters = static_cast<size_t>(std::count_if(
      word.begin(), word.end(), [](char c) { return (static_cast<uint8_t>(c) & 0xC0) != 0x80; }));
  const size_t before = out.size();
  bool covered = characters <= characters_max_;
  for (std::string_view rest = word; covered && !rest.empty();) {
    const ByteTrie& trie = rest.size() == word.size() ? starts_ : continuations_;
    const auto match = trie.longest(rest);
    covered = match.value >= 0;
    if (covered) out.push_back(match.value);
    rest.remove_prefix(match.bytes);
  }
  if (!covered) {
    out.resize(before);
    out.push_back(unknown_);
  }
}

}  // namespace impetus

#include "text/added_tokens.h"

#include "text/unicode.h"

namespace impetus {
namespace {

constexpr size_t content_bytes_max = 1024;

// Added tokens are looked for in raw bytes: beside a border the text may be invalid UTF-8.
uint8_t classes_before(std::string_view text) {
  for (size_t n = 1; n <= 4 && n <= text.size(); ++n) {
    const auto tail = text.substr(text.size() - n);
    if (unicode::valid_prefix(tail) == n)
      return unicode::ClassTable::get()(unicode::decode(tail.data()).code);
  }
  return 0;
}

// Bytes and classes of the first character; 0 bytes where there is none.
std::pair<size_t, uint8_t> first_of(std::string_view text) {
  for (size_t n = 1; n <= 4 && n <= text.size(); ++n) {
    if (unicode::valid_prefix(text.substr(0, n)) == n) {
      return {n, unicode::ClassTable::get()(unicode::decode(text.data()).code)};
    }
  }
  return {0, 0};
}

}  // namespace

Result<void> AddedTokens::add(const AddedToken& token, std::string_view pattern) {
  if (pattern.empty()) return {};
  if (pattern.size() > content_bytes_max) {
    return error(ErrorCode::corrupt, "added token {} has {} bytes, more than the {} allowed",
                 token.id, pattern.size(), content_bytes_max);
  }
  // Every border of a match must be a border of characters.
  if (unicode::valid_prefix(pattern) != pattern.size()) {
    return error(ErrorCode::corrupt, "added token {} is not valid UTF-8", token.id);
  }
  const auto index = static_cast<int32_t>(tokens_.size());
  tokens_.push_back(token);
  const auto absent = [&](const ByteTrie& trie) {
    return trie.longest(pattern).bytes != pattern.size();
  };
  if (absent(all_)) all_.insert(pattern, index);
  if (!token.special && absent(plain_)) plain_.insert(pattern, index);
  return {};
}

bool AddedTokens::find(const ByteTrie& trie, std::string_view text, size_t from, size_t done,
                       Hit& hit) const {
  for (size_t at = from; at < text.size(); ++at) {
    if (!trie.may_start(text[at])) continue;
    const auto match = trie.longest(text.substr(at));
    if (match.value < 0) continue;
    const AddedToken& token = tokens_[static_cast<size_t>(match.value)];
    size_t begin = at, end = at + match.bytes;
    hit.match_end = end;
    if (token.single_word && ((classes_before(text.substr(0, begin)) & unicode::word) ||
                              (first_of(text.substr(end)).second & unicode::word))) {
      at = end - 1;
      continue;
    }
    if (token.lstrip) {
      while (begin > done && (classes_before(text.substr(done, begin - done)) & unicode::space)) {
        do --begin;
        while (begin > done && (static_cast<uint8_t>(text[begin]) & 0xC0) == 0x80);
      }
    }
    if (token.rstrip) {
      while (true) {
        const auto [bytes, bits] = first_of(text.substr(end));
        if (bytes == 0 || (bits & unicode::space) == 0) break;
        end += bytes;
      }
    }
    hit.begin = begin;
    hit.end = end;
    hit.id = token.id;
    return true;
  }
  return false;
}

}  // namespace impetus

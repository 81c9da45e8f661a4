// WordPiece: the longest piece that starts a word, then the longest that continues it, and so on; a
// word that cannot be covered is unknown as a whole. Immutable after building; any thread.
#pragma once

#include <cstdint>
#include <string_view>

#include "text/model.h"
#include "text/vocabulary.h"

namespace impetus {

class WordPiece final : public TokenModel {
 public:
  WordPiece(TokenId unknown, size_t characters_max);
  void add_start(std::string_view text, TokenId id) { starts_.insert(text, id); }
  void add_continuation(std::string_view text, TokenId id) { continuations_.insert(text, id); }

  void encode_word(std::string_view word, std::vector<TokenId>& out) const override;

 private:
  void encode_uncached(std::string_view word, std::vector<TokenId>& out) const;

  ByteTrie starts_, continuations_;
  TokenId unknown_;
  size_t characters_max_;
  uint32_t owner_;
};

}  // namespace impetus

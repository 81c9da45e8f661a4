// Byte-pair encoding over bytes (GPT-2 and its heirs) or characters (SentencePiece and its heirs).
//
// One engine for both: a table from a pair of adjacent symbols to (rank, merged symbol); the lowest
// rank is merged first, the leftmost among equals. SentencePiece's rule, "the adjacent pair whose
// concatenation has the highest score", is the same with equal ranks for equal scores.
// Words up to `small_word` symbols are merged in place, longer ones with a heap: n log n, whatever
// the text is.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"
#include "text/flat_map.h"
#include "text/model.h"
#include "text/vocabulary.h"

namespace impetus {

class Bpe final : public TokenModel {
 public:
  struct Options {
    bool byte_level = false;       // symbols are bytes, else characters
    bool byte_fallback = false;    // unknown characters become <0xNN> tokens
    bool ignore_merges = false;    // a word that is a piece is that piece
    bool fuse_unknown = false;     // neighbouring unknown characters give one unknown token
    TokenId unknown = -1;          // -1: unknown characters vanish, as in the reference
    bool split_at_spaces = false;  // see sentencepiece()
  };

  // `pieces[id]`: raw bytes of each token where byte_level (nullptr views for tokens that no text
  // can reach), else its text. `merges` in order of rank, as ids of their parts and of their
  // result.
  struct Merge {
    TokenId left, right, merged;
  };
  static Result<Bpe> from_merges(const std::vector<std::string_view>& pieces,
                                 std::span<const Merge> merges, Options options);

  // `mergeable[id]`: whether merging may produce this piece (not control, unknown, byte tokens).
  // Spaces must have become U+2581 in the words it will get.
  static Result<Bpe> sentencepiece(const std::vector<std::string_view>& pieces,
                                   std::span<const double> scores,
                                   const std::vector<bool>& mergeable, Options options);

  void encode_word(std::string_view word, std::vector<TokenId>& out) const override;

  // Bytes that have no token of their own where byte_level: such bytes vanish.
  int missing_bytes() const;

 private:
  struct Pair {
    uint32_t rank;
    TokenId merged;
  };
  struct Symbol {
    TokenId id;      // pseudo ids from pseudo_begin_ on: characters that are no token
    uint32_t begin;  // byte offset in the word
  };

  void index_pieces(const std::vector<std::string_view>& pieces);
  bool splits_at_spaces(const std::vector<std::string_view>& pieces) const;
  void encode_uncached(std::string_view word, std::vector<TokenId>& out) const;
  void encode_cached(std::string_view word, std::vector<TokenId>& out) const;
  size_t symbols_of(std::string_view word, Symbol* symbols) const;
  size_t merge_small(Symbol* symbols, size_t count) const;
  size_t merge_large(std::vector<Symbol>& symbols) const;
  void emit(std::string_view word, const Symbol* symbols, size_t count,
            std::vector<TokenId>& out) const;
  size_t fallback(std::string_view character, uint32_t begin, Symbol* symbols) const;
  const Pair* pair(TokenId left, TokenId right) const {
    if ((left | right) < 0) return nullptr;
    return pairs_.find(static_cast<uint64_t>(left) << 32 | static_cast<uint32_t>(right));
  }

  Options options_;
  uint32_t owner_ = 0;
  std::array<TokenId, 256> byte_ids_{};
  FlatMap<TokenId> characters_;  // code point -> id or pseudo id
  FlatMap<Pair> pairs_;
  Vocabulary words_;  // only with ignore_merges
  TokenId pseudo_begin_ = 0;
};

}  // namespace impetus

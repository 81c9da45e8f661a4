// The one Tokenizer: parts put together by the loaders (tokenizer_json, tokenizer_gguf,
// sentencepiece_model, tokenizer_folder). Internal to text/.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "text/added_tokens.h"
#include "text/bpe.h"
#include "text/normalizer.h"
#include "text/pre_tokenizer.h"
#include "text/token_decoder.h"
#include "text/tokenizer.h"
#include "text/vocabulary.h"

namespace impetus {

inline constexpr std::string_view kind_byte_level = "byte-level-bpe";
inline constexpr std::string_view kind_sentencepiece = "sentencepiece-bpe";
inline constexpr std::string_view kind_wordpiece = "wordpiece";

struct TokenizerParts {
  std::string_view kind = kind_byte_level;
  Vocabulary vocabulary;  // with added tokens
  std::vector<AddedToken> added;
  std::vector<bool> control;  // by id
  std::vector<bool> literal;  // by id: the piece is the text (added tokens)
  Normalizer normalizer;
  PreTokenizer pre_tokenizer;
  std::unique_ptr<TokenModel> model;
  bool byte_level = false;  // words are bytes: invalid UTF-8 needs no repair
  TokenDecoder decoder;
  std::vector<TokenId> prefix, suffix;  // what add_special puts around a text
  Tokenizer::Special special;
};

// Checks ids against the vocabulary, fills what follows from the rest (end_of_generation by
// well-known names, add_bos) and makes the tokenizer.
Result<std::unique_ptr<Tokenizer>> assemble(TokenizerParts parts);

// Merges as they stand in files: "left right", ranks in order. `vocabulary` resolves the pieces.
Result<std::vector<Bpe::Merge>> resolve_merges(
    const Vocabulary& vocabulary,
    const std::vector<std::pair<std::string_view, std::string_view>>& merges);

// The raw bytes behind byte-level pieces, one view an id into `storage`; nullptr views for pieces
// that spell no bytes. `skip`: ids that text cannot reach.
std::vector<std::string_view> spelled_bytes(const Vocabulary& vocabulary, StringTable& storage);

// The loaders. Messages do not name the file: the caller does.
Result<TokenizerParts> parse_tokenizer_json(const json::value& document);
Result<TokenizerParts> parse_sentencepiece_model(std::string_view bytes);
Result<TokenizerParts> parse_vocab_txt(std::string_view text, bool lowercase);
Result<TokenizerParts> parse_vocab_and_merges(const json::value& vocab, std::string_view merges,
                                              std::string_view model_family,
                                              const std::vector<AddedToken>& added);

}  // namespace impetus

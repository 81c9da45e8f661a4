// From pieces back to bytes: how one token reads after others, and what the first one loses.
// Immutable after building; any thread.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace impetus {

struct TokenDecoder {
  enum class Style : uint8_t {
    byte_level,  // pieces spell bytes as GPT-2 does
    pieces,      // text, with a mark for spaces and perhaps <0xNN> for bytes
    wordpiece,   // joined by spaces but where a piece continues a word
    spaced,      // no decoder: pieces joined by spaces
  };
  Style style = Style::byte_level;

  // pieces
  std::vector<std::pair<std::string, std::string>> replacements;  // in this order, each non-empty
  bool byte_fallback = false;
  std::string strip;  // taken off the front of the whole text, at most strip_max times
  int strip_max = 0;
  std::string first_without;  // removed from the first piece altogether (Metaspace)

  // wordpiece
  std::string continuation = "##";
  bool starts_marked = false;  // GGUF: starts of words carry U+2581, continuations nothing
  bool cleanup = true;         // no space before punctuation and English contractions

  // What `piece` adds after others. `literal`: a token whose piece is its text as it stands.
  std::string after_others(std::string_view piece, bool literal) const;
  // What it gives as the first of a text.
  std::string first(std::string_view piece, bool literal) const;
  // Once the whole text is there.
  void finish(std::string& text) const;
};

// The byte that <0xNN> stands for, else -1.
int byte_of_piece(std::string_view piece);

}  // namespace impetus

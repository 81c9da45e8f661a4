#include "text/token_decoder.h"

#include <array>
#include <charconv>

#include "text/byte_level.h"

namespace impetus {
namespace {

void replace_all(std::string& text, std::string_view what, std::string_view with) {
  for (size_t at = text.find(what); at != std::string::npos;
       at = text.find(what, at + with.size())) {
    text.replace(at, what.size(), with);
  }
}

// The replacements of Hugging Face's WordPiece clean-up, in its order.
void clean_up(std::string& text) {
  static constexpr std::array<std::pair<std::string_view, std::string_view>, 11> rules{{
      {" .", "."},
      {" ?", "?"},
      {" !", "!"},
      {" ,", ","},
      {" ' ", "'"},
      {" n't", "n't"},
      {" 'm", "'m"},
      {" do not", " don't"},
      {" 's", "'s"},
      {" 've", "'ve"},
      {" 're", "'re"},
  }};
  for (const auto& [what, with] : rules) replace_all(text, what, with);
}

constexpr std::string_view space_mark = "\xE2\x96\x81";

}  // namespace

int byte_of_piece(std::string_view piece) {
  if (piece.size() != 6 || !piece.starts_with("<0x") || piece[5] != '>') return -1;
  unsigned value = 0;
  const auto [end, failure] = std::from_chars(piece.data() + 3, piece.data() + 5, value, 16);
  return failure == std::errc{} && end == piece.data() + 5 ? static_cast<int>(value) : -1;
}

std::string TokenDecoder::after_others(std::string_view piece, bool literal) const {
  std::string text;
  switch (style) {
    case Style::byte_level:
      if (literal || !byte_level::unspell(piece, text)) text = piece;
      return text;
    case Style::pieces:
      if (!literal && byte_fallback) {
        if (const int byte = byte_of_piece(piece); byte >= 0)
          return std::string(1, static_cast<char>(byte));
      }
      text = piece;
      for (const auto& [what, with] : replacements) replace_all(text, what, with);
      return text;
    case Style::wordpiece: {
      bool starts = true;
      if (!literal && starts_marked) {
        starts = piece.starts_with(space_mark);
        if (starts) piece.remove_prefix(space_mark.size());
      } else if (!literal && !continuation.empty() && piece.starts_with(continuation)) {
        starts = false;
        piece.remove_prefix(continuation.size());
      }
      if (starts) text = " ";
      text.append(piece);
      if (cleanup) clean_up(text);
      return text;
    }
    case Style::spaced:
      return text.append(" ").append(piece);
  }
  return text;
}

std::string TokenDecoder::first(std::string_view piece, bool literal) const {
  std::string text;
  switch (style) {
    case Style::byte_level:
      return after_others(piece, literal);
    case Style::pieces:
      if (!first_without.empty() && !literal) {
        text = piece;
        replace_all(text, first_without, "");
        return after_others(text, literal);
      }
      return after_others(piece, literal);
    case Style::wordpiece:
      if (!literal && starts_marked && piece.starts_with(space_mark)) {
        piece.remove_prefix(space_mark.size());
      } else if (!literal && !starts_marked && !continuation.empty() &&
                 piece.starts_with(continuation)) {
        piece.remove_prefix(continuation.size());
      }
      text = piece;
      if (cleanup) clean_up(text);
      return text;
    case Style::spaced:
      return std::string(piece);
  }
  return text;
}

void TokenDecoder::finish(std::string& text) const {
  for (int i = 0; i < strip_max && !strip.empty() && text.starts_with(strip); ++i) {
    text.erase(0, strip.size());
  }
}

}  // namespace impetus

// What happens to text before it is cut into words: Unicode forms, BERT's cleaning, replacements.
// Immutable after building; any thread. Text is valid UTF-8.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "text/regex.h"
#include "text/unicode.h"

namespace impetus {

struct Normalizer {
  struct UnicodeForm {
    unicode::Form form;
  };
  struct Lowercase {};
  struct StripAccents {};  // drops every mark
  struct Bert {            // as BERT's reference tokenizer: these four in this order
    bool clean_text = true;
    bool spaces_around_cjk = true;
    bool strip_accents = true;
    bool lowercase = true;
  };
  struct Prepend {
    std::string text;
    bool only_at_start = false;  // of the whole input, not of each stretch between added tokens
  };
  struct Replace {
    std::string literal;
    std::optional<Regex> regex;  // instead of the literal
    std::string content;
  };
  struct Strip {
    bool left = true, right = true;
  };
  struct CollapseSpaces {};  // SentencePiece's remove_extra_whitespaces

  using Step = std::variant<UnicodeForm, Lowercase, StripAccents, Bert, Prepend, Replace, Strip,
                            CollapseSpaces>;
  std::vector<Step> steps;

  // The normalised text: `text` itself where nothing changes, else a view of `buffer`.
  std::string_view apply(std::string_view text, bool at_start, std::string& buffer) const;
};

}  // namespace impetus

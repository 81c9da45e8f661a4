// Cuts text into the words that the model encodes one by one. Immutable after building; any thread.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "text/regex.h"
#include "text/word_splitter.h"

namespace impetus {

// What becomes of the matches of a splitting pattern, in the words of tokenizer.json.
enum class SplitBehavior : uint8_t {
  removed,
  isolated,
  merged_with_previous,
  merged_with_next,
  contiguous,
};

struct PreTokenizer {
  struct Words {  // a known pattern, its matches isolated
    WordPattern pattern;
  };
  struct Split {
    std::string literal;
    std::optional<Regex> regex;  // instead of the literal
    SplitBehavior behavior = SplitBehavior::isolated;
    bool invert = false;
  };
  struct Characters {  // splits at single characters of the given unicode::Class bits
    uint8_t classes = 0;
    bool ascii_punctuation = false;  // and at ASCII's 32 punctuation characters
    SplitBehavior behavior = SplitBehavior::isolated;
  };
  struct WordRuns {};  // \w+|[^\w\s]+, the rest removed
  struct Bert {};      // at spaces (removed), then at punctuation (isolated)
  struct ByteLevel {   // steps after this one see GPT-2's spelling of bytes
    bool add_prefix_space = false;
    bool use_regex = true;
  };
  struct Metaspace {
    enum class Prepend : uint8_t { always, first, never };
    std::string replacement;
    Prepend prepend = Prepend::always;
    bool split = true;
  };
  using Step = std::variant<Words, Split, Characters, WordRuns, Bert, ByteLevel, Metaspace>;
  std::vector<Step> steps;

  class Sink {
   public:
    virtual ~Sink() = default;
    virtual void word(std::string_view word) = 0;
  };
  // `text`: valid UTF-8. `at_start`: it begins the whole input. Words are not empty; with a
  // ByteLevel step they are raw bytes, not their spelling.
  void split(std::string_view text, bool at_start, Sink& sink) const;

 private:
  void run(size_t step, std::string_view text, bool at_start, bool spelled, Sink& sink) const;
};

}  // namespace impetus

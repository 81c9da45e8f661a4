// Texts cut into passages that an encoder takes whole. Pure; any thread.
#pragma once

#include <cstdint>
#include <functional>
#include <string_view>
#include <vector>

namespace impetus {

struct Passage {
  uint32_t offset = 0, bytes = 0;  // in the text; never amidst a UTF-8 sequence
  uint32_t line = 1;               // at which it begins, from 1

  bool operator==(const Passage&) const = default;
};

// Tokens that a text has for the encoder, those that it puts around every text left out.
using CountTokens = std::function<int64_t(std::string_view text)>;

struct PassageLimits {
  int64_t tokens_max = 0;     // no passage has more
  int64_t tokens_wanted = 0;  // short paragraphs are put together up to this; at most tokens_max
  uint32_t bytes_max = 4096;  // no passage has more, whatever its tokens say
};

// Passages in the order of `text`, which is valid UTF-8 of less than 4 GiB. They begin and end at
// paragraphs, where one is too long at sentences, then at lines, then between words, and only where
// a word is longer than a passage within it. Parts of what was too long overlap by a sentence or
// some words. Everything but white space lies in at least one passage. A passage of a single code
// point may exceed tokens_max, for nothing can be cut from it.
std::vector<Passage> split_passages(std::string_view text, const CountTokens& count,
                                    const PassageLimits& limits);

// Half-open ranges of bytes; white space around them is in none.
struct TextRange {
  size_t begin = 0, end = 0;

  size_t size() const { return end - begin; }
  bool operator==(const TextRange&) const = default;
};
// Sentences, by punctuation and what follows it ("Mr. Fox" is one); what has none (code, lists) by
// lines. A guess, and good enough to show.
std::vector<TextRange> sentences(std::string_view text);

}  // namespace impetus

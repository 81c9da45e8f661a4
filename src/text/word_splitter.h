// Hand-written matchers for the pre-tokenisation patterns that most models use, several times as
// fast as a regular expression engine and held equal to it by test. Stateless; any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

namespace impetus {

enum class WordPattern : uint8_t {
  gpt2,
  llama3,   // cl100k's: case-blind contractions, up to three digits, newlines kept apart
  qwen2,    // the same with single digits
  qwen3_5,  // the same with marks inside words
};

// The regular expression that the matcher stands for, in the files' syntax.
std::string_view regex_of(WordPattern pattern);
std::optional<WordPattern> known_pattern(std::string_view regex);

// Bytes of the first piece of `text`, which is valid UTF-8 and not empty; at least 1. Successive
// calls on what is left give the same pieces as the expression's successive matches.
size_t next_word(WordPattern pattern, std::string_view text);

}  // namespace impetus

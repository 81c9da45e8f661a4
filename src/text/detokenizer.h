// Tokens to text while they arrive. One object a stream; not thread-shared.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "text/tokenizer.h"

namespace impetus {

// Valid UTF-8: each maximal part that can begin no valid sequence becomes one U+FFFD (Unicode 15,
// section 3.9, "U+FFFD Substitution of Maximal Subparts").
std::string repair_utf8(std::string_view text);

// Emits only whole UTF-8 sequences: bytes of an unfinished one wait for the next token. Bytes that
// can never become valid come out as U+FFFD, as repair_utf8() does.
//
// The law of the first space. Some schemes write a space before a text's first word (SentencePiece)
// or before every word (WordPiece); decode() of a whole text drops it, while token_bytes() has it.
// So:
//  - continues_text = true (an answer after a prompt): every token's bytes as they are. The pieces,
//  put
//    together, are repair_utf8(token_bytes(t1) + token_bytes(t2) + ...).
//  - continues_text = false (a text of its own): the first token that has any bytes loses its
//  leading
//    space where decode() of that token alone drops it, and the pieces, put together, are
//    repair_utf8(decode(t1, t2, ...)).
// Control tokens have no bytes unless `render_special`, so a BOS in front changes nothing.
class StreamingDetokenizer {
 public:
  // `tokenizer` outlives this.
  explicit StreamingDetokenizer(const Tokenizer& tokenizer, bool continues_text = true,
                                bool render_special = false);

  std::string push(TokenId id);  // text that is now certain; may be empty
  std::string finish();          // what is left, repaired

 private:
  const Tokenizer& tokenizer_;
  bool render_special_;
  bool at_start_;        // of a text of its own: the next bytes are its first
  std::string pending_;  // the valid beginning of an unfinished sequence: at most 3 bytes
};

// Finds stop strings across token borders: holds back text that may begin one.
//
// The text ends at the first byte at which any stop string is complete; where several end at that
// byte, the longest counts. What was sent plus held never depends on how the text was cut into
// pieces.
class StopMatcher {
 public:
  // Stop strings are valid UTF-8, and so is all text pushed; then so is every piece that comes out.
  // Empty stop strings match nothing.
  explicit StopMatcher(std::vector<std::string> stops);

  struct Output {
    std::string text;      // safe to send; ends before the stop string
    bool stopped = false;  // a stop string was met; nothing follows
    std::string matched = {};
  };
  Output push(std::string_view text);  // after a stop: no text, stopped again
  Output finish();                     // the held-back tail

 private:
  std::vector<std::string> stops_;  // longest first
  std::string held_;                // the longest end of the text that begins a stop string
  std::string matched_;
  bool stopped_ = false;
};

}  // namespace impetus

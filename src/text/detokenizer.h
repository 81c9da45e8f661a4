// Tokens to text while they arrive. One object a stream; not thread-shared.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "text/tokenizer.h"

namespace impetus {

// Emits only whole UTF-8 sequences: bytes of an unfinished one wait for the next token. Bytes that can
// never become valid come out as U+FFFD, each maximal invalid part once (Unicode's recommendation),
// so the concatenation of all pieces is valid UTF-8 and equals decode() of all tokens so repaired.
class StreamingDetokenizer {
 public:
  // `tokenizer` outlives this. `after` are tokens that came before (a prompt): they decide whether a
  // leading space is dropped, and are not emitted.
  explicit StreamingDetokenizer(const Tokenizer& tokenizer, bool continues_text = true,
                                bool render_special = false);

  std::string push(TokenId id);  // text that is now certain; may be empty
  std::string finish();          // what is left, repaired

 private:
  const Tokenizer& tokenizer_;
  bool continues_text_;
  bool render_special_;
  bool first_ = true;
  std::string pending_;
};

// Finds stop strings across token borders: holds back text that may begin one.
class StopMatcher {
 public:
  explicit StopMatcher(std::vector<std::string> stops);

  struct Output {
    std::string text;      // safe to send
    bool stopped = false;  // a stop string was met; nothing follows
    std::string matched = {};
  };
  Output push(std::string_view text);
  Output finish();  // the held-back tail

 private:
  std::vector<std::string> stops_;
  std::string held_;
  bool stopped_ = false;
};

}  // namespace impetus

// Tokens that are found in the text before anything else happens to it: control tokens and whatever
// was added to a vocabulary after its training. Leftmost first, the longest at one place.
// Immutable after building; any thread.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "base/token_id.h"
#include "text/vocabulary.h"

namespace impetus {

struct AddedToken {
  TokenId id = -1;
  std::string content;
  bool special = false;      // found only where special tokens are parsed
  bool single_word = false;  // not inside a longer word
  bool lstrip = false;       // takes the white space before it along
  bool rstrip = false;
  bool normalized = false;  // found in normalised text (its content is normalised too)
};

class AddedTokens {
 public:
  // Tokens with the same text: the first wins. Errors name the token.
  Result<void> add(const AddedToken& token, std::string_view pattern);
  bool empty() const { return tokens_.empty(); }

  // Calls on_text(string_view) and on_token(TokenId) in order, covering the text.
  template <typename OnText, typename OnToken>
  void split(std::string_view text, bool parse_special, OnText&& on_text,
             OnToken&& on_token) const {
    const ByteTrie& trie = parse_special ? all_ : plain_;
    size_t done = 0;
    if (!trie.empty()) {
      Hit hit;
      for (size_t from = 0; find(trie, text, from, done, hit);) {
        if (hit.begin > done) on_text(text.substr(done, hit.begin - done));
        on_token(hit.id);
        done = hit.end;
        from = std::max(hit.match_end, done);
      }
    }
    if (done < text.size()) on_text(text.substr(done));
  }

 private:
  struct Hit {
    size_t begin = 0, end = 0, match_end = 0;
    TokenId id = -1;
  };
  bool find(const ByteTrie& trie, std::string_view text, size_t from, size_t done, Hit& hit) const;

  std::vector<AddedToken> tokens_;
  ByteTrie plain_, all_;
};

}  // namespace impetus

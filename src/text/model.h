// What turns one word (a piece of text that the pre-tokenizer has cut) into ids. Immutable after
// building: any thread may encode.
#pragma once

#include <string_view>
#include <vector>

#include "base/token_id.h"

namespace impetus {

class TokenModel {
 public:
  virtual ~TokenModel() = default;
  // Appends the ids of `word`. Byte-level models take any bytes, the others valid UTF-8.
  virtual void encode_word(std::string_view word, std::vector<TokenId>& out) const = 0;
};

}  // namespace impetus

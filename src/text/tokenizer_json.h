// The parts of a tokenizer.json (https://huggingface.co/docs/tokenizers): each function reads one
// section. What it does not know it refuses by its type's name. Internal to text/.
#pragma once

#include "text/text_tokenizer.h"

namespace impetus::tokenizer_json {

// Sections may be absent or null; `value` is then nullptr.
Result<Normalizer> read_normalizer(const json::value* value);
struct PreTokenizerSection {
  PreTokenizer steps;
  bool byte_level = false;
};
Result<PreTokenizerSection> read_pre_tokenizer(const json::value* value);
Result<TokenDecoder> read_decoder(const json::value* value);
struct Surround {
  std::vector<TokenId> prefix, suffix;
};
Result<Surround> read_post_processor(const json::value* value, const Vocabulary& vocabulary);
Result<std::vector<AddedToken>> read_added_tokens(const json::value* value);

// nullptr where absent or null.
const json::value* section(const json::object& object, std::string_view key);
Result<const json::object*> as_object(const json::value& value, std::string_view what);
Result<std::string> type_of(const json::object& object, std::string_view what);
Result<bool> flag(const json::object& object, std::string_view key, bool fallback);
Result<std::string> text_of(const json::object& object, std::string_view key);  // required

}  // namespace impetus::tokenizer_json

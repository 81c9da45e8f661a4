// Any bytes as tokenizer.json, SentencePiece model, vocab.txt or GGUF: a clean error or a tokenizer
// that survives a text. The first byte picks the format. Seeds: tests/fuzz/tokenizer_json.
#include <cstdint>
#include <cstdlib>
#include <span>
#include <string_view>

#include "base/json.h"
#include "text/text_tokenizer.h"

using namespace impetus;

namespace {

void exercise(Result<TokenizerParts> parts) {
  if (!parts.ok()) return;
  auto tokenizer = assemble(std::move(*parts));
  if (!tokenizer.ok()) return;
  const std::string_view text =
      "Hello \xE2\x96\x81 w\xC3\xB6rld 123\n\n<s></s> \xFF\xE4\xBD\xA0 ab";
  for (const bool special : {false, true}) {
    const auto ids = (*tokenizer)->encode(text, {.add_special = special, .parse_special = special});
    for (const TokenId id : ids) {
      if (id < 0 || id >= (*tokenizer)->vocab_size()) std::abort();
      (*tokenizer)->token_bytes(id, special);
    }
    (*tokenizer)->decode(ids, special);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string_view bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  switch (data[0] % 4) {
    case 1:
      exercise(parse_sentencepiece_model(bytes));
      break;
    case 2:
      exercise(parse_vocab_txt(bytes, true));
      break;
    case 3: {
      const auto file = GgufFile::parse(std::as_bytes(std::span(bytes)), "fuzz");
      if (file.ok()) {
        const auto tokenizer = load_tokenizer(*file);
        if (tokenizer.ok()) (*tokenizer)->decode((*tokenizer)->encode("Hello \xFFworld 12"));
      }
      break;
    }
    default: {
      const auto document = parse_json(bytes);
      if (document.ok()) exercise(parse_tokenizer_json(*document));
    }
  }
  return 0;
}

// Tokenisers: text <-> token ids, exactly as the model was trained.
//
// Byte-level BPE (GPT-2, Llama 3, Qwen 2/3), SentencePiece BPE with byte fallback (Llama 2) and
// WordPiece (BERT), from tokenizer.json, vocab files beside a Hugging Face config, or GGUF metadata.
// What a file asks for and this build does not do (Unigram, unknown pre-tokenisers) is refused by
// name at load. Immutable after load: any number of threads may encode and decode at once.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "base/token_id.h"
#include "formats/gguf.h"

namespace impetus {

struct EncodeOptions {
  bool add_special = false;    // what the model puts around a text: BOS, [CLS] ... [SEP]
  bool parse_special = false;  // text such as "<|eot_id|>" becomes its control token
};

class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  // Any bytes; invalid UTF-8 is encoded as the scheme's own replacement rule says, never refused.
  virtual std::vector<TokenId> encode(std::string_view text, EncodeOptions options = {}) const = 0;

  // The exact bytes that one token adds after others (a leading space included where the scheme
  // has one). Control tokens give "" unless `render_special`. Out-of-range ids give "".
  virtual std::string token_bytes(TokenId id, bool render_special = false) const = 0;

  // The whole text; drops what the scheme adds in front (SentencePiece's leading space, WordPiece's
  // joining), skips control tokens unless `render_special`.
  virtual std::string decode(std::span<const TokenId> ids, bool render_special = false) const = 0;

  virtual int32_t vocab_size() const = 0;
  virtual std::string_view kind() const = 0;  // "byte-level-bpe", "sentencepiece-bpe", "wordpiece"
  virtual std::optional<TokenId> find(std::string_view piece) const = 0;  // raw vocabulary entry
  virtual std::string_view piece(TokenId id) const = 0;
  virtual bool is_control(TokenId id) const = 0;

  struct Special {
    std::optional<TokenId> bos, eos, unk, pad, cls, sep, mask;
    std::vector<TokenId> end_of_generation;  // eos, <|eot_id|>, <|im_end|>, <|endoftext|>, ...
    bool add_bos = false;  // add_special puts BOS in front (so a template that has it must not)
  };
  const Special& special() const { return special_; }

 protected:
  Special special_;
};

// A Hugging Face folder (tokenizer.json; tokenizer_config.json, special_tokens_map.json,
// generation_config.json where present; else vocab.json + merges.txt, or vocab.txt for BERT).
Result<std::unique_ptr<Tokenizer>> load_tokenizer(const std::filesystem::path& folder);
// The `tokenizer.ggml.*` metadata of a GGUF file (vocabulary-only files included).
Result<std::unique_ptr<Tokenizer>> load_tokenizer(const GgufFile& file);

}  // namespace impetus

// One model, from files to something that runs: its text side (tokeniser, template, defaults),
// which needs no processor, and its weights on a backend, which need no tokeniser.
//
// Each loader gives a whole thing or one error. The parts are immutable after that, except the
// executor or encoder, which one thread at a time may drive.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "backend/executor.h"
#include "formats/gguf.h"
#include "runtime/catalogue.h"
#include "runtime/placement.h"
#include "runtime/types.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace impetus {

// What generation_config.json recommends; unset where it says nothing.
struct SamplingDefaults {
  std::optional<float> temperature, top_p, min_p, repetition_penalty;
  std::optional<int32_t> top_k;
};

// The part that needs no weights and no processor.
struct ModelText {
  std::unique_ptr<Tokenizer> tokenizer;
  std::optional<ChatTemplate> chat_template;  // absent: the model has none
  std::optional<Error> template_error;        // it has one that this build cannot parse
  std::string bos_text, eos_text;
  SamplingDefaults defaults;
  // Bytes of text that one token can stand for at most; 0 where there is no such bound (WordPiece).
  size_t token_bytes_max = 0;
};

struct Model {
  ModelLocation location;
  ModelInfo info;
  ModelSpec spec;
  std::shared_ptr<const WeightSet> weights;  // keeps the mapped files; the backend borrows from it
  std::shared_ptr<const GgufFile> gguf;      // owner of `weights` where the model is a GGUF file
  std::unique_ptr<Executor> executor;        // decoders
  std::unique_ptr<Encoder> encoder;   // encoders; pools, never normalises: that is per request
  const Backend* home = nullptr;      // whose device's loop is to drive executor or encoder
  std::vector<LongerEncoder> longer;  // for texts that are too long for `encoder`
  std::string limit_reason;           // why none of them takes as long texts as the model would
  bool normalize = false;             // what the model itself asks for
  int64_t context = 0;                // positions one sequence may have here
};

// Vocabulary-only GGUF files are enough.
Result<ModelText> load_model_text(const ModelLocation& location);

// Opens the weights and says what they are, without a processor.
struct ModelFiles {
  std::shared_ptr<const WeightSet> weights;
  std::shared_ptr<const GgufFile> gguf;
  ModelSpec spec;
};
Result<ModelFiles> open_model_files(const ModelLocation& location);

// Onto the first processors of `ladders` that take it, as climb.h says. `kv_tokens`: see there.
Result<Model> load_model(const ModelLocation& location, ModelFiles files, const Ladders& ladders,
                         Fallback fallback, const LoadOptions& options,
                         std::optional<int64_t> kv_tokens, MemoryLedger& ledger);
Result<Model> load_model(const ModelLocation& location, const Ladders& ladders, Fallback fallback,
                         const LoadOptions& options, std::optional<int64_t> kv_tokens,
                         MemoryLedger& ledger);

// Prompt to token ids: template and special tokens. context_length, before any work is spent on it,
// for a text that cannot fit `tokens_max` whatever its tokens are.
Result<std::vector<TokenId>> prompt_tokens(const ModelText& text, const Prompt& prompt,
                                           int64_t tokens_max);
Result<std::string> render_prompt(const ModelText& text, const ChatPrompt& prompt);

}  // namespace impetus

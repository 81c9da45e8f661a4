// What the runtime is asked and what it answers, free of any wire format.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "backend/sampling.h"
#include "base/json.h"
#include "base/result.h"

namespace impetus {

// A conversation: role, content and whatever else the template may read.
struct ChatPrompt {
  json::array messages;
  json::object template_extra;
  bool add_generation_prompt = true;
};
// Text as it stands; special tokens are added as the model wants (BOS), text of control tokens is
// parsed only where asked.
struct TextPrompt {
  std::string text;
  bool parse_special = false;
};
using Prompt = std::variant<ChatPrompt, TextPrompt, std::vector<TokenId>>;

// Sampling fields left unset fall to the model's generation_config.json, then to the defaults.
struct SamplingOptions {
  std::optional<float> temperature, top_p, min_p, repetition_penalty;
  std::optional<int32_t> top_k;
  float presence_penalty = 0, frequency_penalty = 0;
  std::vector<std::pair<TokenId, float>> logit_bias;
  std::optional<uint64_t> seed;  // unset: a fresh one
  int32_t top_logprobs = -1;
};

struct GenerateRequest {
  std::string model;
  Prompt prompt;
  SamplingOptions sampling;
  std::optional<int64_t> tokens_max;  // unset: what the context leaves
  std::vector<std::string> stop;
  int32_t n = 1;
  bool ignore_eos = false;  // the model's end-of-answer tokens end nothing (measuring)
  bool echo = false;        // the prompt's text in front of the answer (completions)
};

enum class AnswerEnd : uint8_t { stop, length, cancelled };

struct TokenText {
  TokenId id = 0;
  std::string bytes;  // exact, may be a part of a UTF-8 sequence
  float logprob = 0;
};
struct TokenDetail {
  TokenText token;
  std::vector<TokenText> top;
};

// Text that became certain, and the tokens it was made of (log probabilities where asked for).
struct AnswerDelta {
  int32_t choice = 0;
  std::string text;
  std::vector<TokenDetail> tokens;
};

struct Usage {
  int64_t prompt_tokens = 0;
  int64_t cached_tokens = 0;
  int64_t completion_tokens = 0;
};

struct Timings {
  double queue_seconds = 0;    // submit to the first step
  double prefill_seconds = 0;  // submit to first token
  double decode_seconds = 0;   // first token to last
  double handoff_seconds = 0;  // moving KV between processors, all choices together
};

// The processors that computed an answer, as they said themselves while they did; by what they did,
// each once, in the order in which they began.
struct Devices {
  std::vector<std::string> prefill = {}, decode = {}, embeddings = {};
  // Of an answer: the model's (ModelInfo), as it ended.
  std::string fallback_reason = {};

  void add(const Devices& others);
  std::vector<std::string> all() const;
  std::string text() const;  // "cpu-avx512, cpu-avx2"; empty where nobody ran
};

// Receives one request's answer. Calls come one at a time from the device's thread; they must be
// quick.
class AnswerSink {
 public:
  virtual ~AnswerSink() = default;
  // At most once, before the first text: who ran the prompt.
  virtual void on_started(const Devices& devices) = 0;
  virtual void on_delta(AnswerDelta delta) = 0;
  virtual void on_choice_end(int32_t choice, AnswerEnd end) = 0;
  // Exactly one of the two ends every request.
  virtual void on_done(const Usage& usage, const Timings& timings, const Devices& devices) = 0;
  virtual void on_error(Error error) = 0;
};

struct EmbedRequest {
  std::string model;
  std::variant<std::vector<std::string>, std::vector<std::vector<TokenId>>> input;
  bool truncate = false;              // false: an input that is too long is an error
  std::optional<bool> normalize;      // unset: as the model was made
  std::optional<int64_t> dimensions;  // refused by models not trained for it
};

struct EmbedAnswer {
  std::vector<std::vector<float>> vectors;
  int64_t prompt_tokens = 0;
  Devices devices;
};

struct ModelInfo {
  std::string id;  // the folder's or file's name
  std::string path;
  std::string kind;  // "decoder", "encoder"
  std::string family;
  std::string tokenizer;
  int64_t parameters = 0;
  int64_t weight_bytes = 0;
  int64_t context = 0;    // served: what the KV cache and the model allow
  int64_t dimension = 0;  // hidden size
  Devices devices;        // the backends that hold it; what ran an answer, the answer says
  // Where one of them is not the first that was wanted: which was, and why it is not. Else empty.
  std::string fallback_reason;
  std::string precision;  // of the weights as run
  std::string kv;
  int64_t created = 0;  // file time, seconds since 1970
  bool has_chat_template = false;
};

// A processor that failed while it ran, and is not used any more.
struct LostProcessor {
  std::string backend;
  std::string why;
  bool hangs = false;  // a step of it never ended: its thread and its memory stay given up
  int64_t since = 0;   // seconds since 1970
};

struct LaneMetrics {
  std::string model;
  int64_t waiting = 0, running = 0, preemptions = 0;
  int64_t kv_blocks_total = 0, kv_blocks_used = 0, kv_blocks_cached = 0;
  int64_t prompt_tokens = 0, cached_tokens = 0, generated_tokens = 0;
  int64_t embedded_texts = 0, embedded_tokens = 0;
  int64_t moved = 0;  // sequences or texts that another processor took over
};

}  // namespace impetus

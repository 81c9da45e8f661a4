// Any text for one tokenizer of each kind: ids in range, byte-level text comes back byte for byte,
// and the hand-written word splitters equal their regular expressions.
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "text/regex.h"
#include "text/text_tokenizer.h"
#include "text/word_splitter.h"

using namespace impetus;

namespace {

std::unique_ptr<Tokenizer> make(std::string_view json) {
  const auto document = parse_json(json);
  if (!document.ok()) std::abort();
  auto parts = parse_tokenizer_json(*document);
  if (!parts.ok()) std::abort();
  auto tokenizer = assemble(std::move(*parts));
  if (!tokenizer.ok()) std::abort();
  return std::move(*tokenizer);
}

// Every byte spelled, and a few merges.
std::string byte_level_json() {
  json::object vocab;
  for (int b = 0; b < 256; ++b) {
    const bool prints = (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
    static int next = 256;
    std::string piece;
    unicode::append(piece, static_cast<uint32_t>(prints ? b : next++));
    vocab[piece] = b;
  }
  int64_t id = 256;
  json::array merges;
  static constexpr const char* pairs[][2] = {{"a", "a"},  {"aa", "a"},  {"t", "h"},
                                             {"th", "e"}, {"Ġ", "the"}, {"Ġ", "Ġ"}};
  for (const auto& [left, right] : pairs) {
    vocab[std::string(left) + right] = id++;
    merges.push_back(json::array{left, right});
  }
  json::object root{
      {"model", json::object{{"type", "BPE"}, {"vocab", vocab}, {"merges", merges}}},
      {"pre_tokenizer", json::object{{"type", "ByteLevel"}, {"add_prefix_space", false}}},
      {"decoder", json::object{{"type", "ByteLevel"}}},
      {"added_tokens",
       json::array{json::object{{"id", id}, {"content", "<|e|>"}, {"special", true}}}}};
  return json::serialize(root);
}

constexpr std::string_view sentencepiece_json =
    R"({"model": {"type": "BPE", "byte_fallback": true, "fuse_unk": true,
  "unk_token": "<unk>", "vocab": {"<unk>": 0, "▁": 1, "a": 2, "b": 3, "▁a": 4, "ab": 5, "▁▁": 6, "a▁": 7, "<0x41>": 8},
  "merges": ["▁ a", "a b", "▁ ▁", "a ▁"]},
  "normalizer": {"type": "Sequence", "normalizers": [{"type": "NFKC"}, {"type": "Prepend", "prepend": "▁"},
  {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
  "decoder": {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
  {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
  "added_tokens": [{"id": 0, "content": "<unk>", "special": true, "lstrip": true, "rstrip": true},
  {"id": 9, "content": "ba", "single_word": true, "normalized": true}]})";

constexpr std::string_view wordpiece_json = R"({"model": {"type": "WordPiece", "unk_token": "[UNK]",
  "vocab": {"[UNK]": 0, "a": 1, "##a": 2, "the": 3, ".": 4, "##b": 5}},
  "normalizer": {"type": "BertNormalizer"}, "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
  {"type": "BertPreTokenizer"}, {"type": "Digits"}, {"type": "Split", "pattern": {"Regex": "\\s+$|[aeiou]"}, "behavior": "MergedWithNext"},
  {"type": "Whitespace"}]}, "decoder": {"type": "WordPiece"}})";

void check_splitter(WordPattern pattern, const Regex& regex, std::string_view text) {
  size_t at = 0;
  bool equal = true;
  regex.each(text, [&](size_t begin, size_t end) {
    equal = equal && begin == at && at < text.size();
    if (equal) at += next_word(pattern, text.substr(at));
    equal = equal && at == end;
  });
  if (!equal || at != text.size()) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const auto byte_level = make(byte_level_json());
  static const auto sentencepiece = make(sentencepiece_json);
  static const auto wordpiece = make(wordpiece_json);
  static const auto unassigned = Regex::compile(R"(\p{Cn})");
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  for (const auto* tokenizer : {byte_level.get(), sentencepiece.get(), wordpiece.get()}) {
    for (const bool special : {false, true}) {
      const auto ids = tokenizer->encode(text, {.add_special = special, .parse_special = special});
      for (const TokenId id : ids) {
        if (id < 0 || id >= tokenizer->vocab_size()) std::abort();
      }
      const auto decoded = tokenizer->decode(ids, true);
      if (tokenizer == byte_level.get() && decoded != text) std::abort();
    }
  }
  if (unicode::valid_prefix(text) != text.size()) return 0;
  bool newer = false;  // than PCRE2's Unicode: the two sides may differ
  unassigned->each(text, [&](size_t, size_t) { newer = true; });
  if (newer) return 0;
  static const WordPattern patterns[] = {WordPattern::gpt2, WordPattern::llama3, WordPattern::qwen2,
                                         WordPattern::qwen3_5};
  static const auto regexes = [] {
    std::vector<Regex> compiled;
    for (const auto pattern : patterns) compiled.push_back(*Regex::compile(regex_of(pattern)));
    return compiled;
  }();
  for (size_t i = 0; i < std::size(patterns); ++i) check_splitter(patterns[i], regexes[i], text);
  return 0;
}

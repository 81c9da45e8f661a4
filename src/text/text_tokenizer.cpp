#include "text/text_tokenizer.h"

#include <algorithm>
#include <array>

#include "text/byte_level.h"
#include "text/unicode.h"

namespace impetus {
namespace {

// Control tokens by which published models end their turn, whatever their configuration says.
constexpr std::array<std::string_view, 16> turn_ends{
    "</s>",
    "<eos>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "<EOT>",
    "<|EOT|>",
    "<|end_of_turn|>",
    "<|eot|>",
    "<|return|>",
    "<\xEF\xBD\x9C"
    "end\xE2\x96\x81of\xE2\x96\x81sentence\xEF\xBD\x9C>",
    "<|endofanswer|>",
};

class TextTokenizer final : public Tokenizer {
 public:
  TextTokenizer(TokenizerParts parts, AddedTokens raw, AddedTokens normalized)
      : parts_(std::move(parts)), raw_(std::move(raw)), normalized_(std::move(normalized)) {
    special_ = parts_.special;
    for (TokenId id = 0; id < vocab_size(); ++id) {
      texts_.push(parts_.decoder.after_others(piece(id), parts_.literal[static_cast<size_t>(id)]));
    }
  }

  std::vector<TokenId> encode(std::string_view text, EncodeOptions options) const override {
    std::vector<TokenId> ids;
    ids.reserve(text.size() / 4 + 8);
    if (options.add_special) ids = parts_.prefix;
    std::string repaired;
    if (!parts_.byte_level && unicode::valid_prefix(text) != text.size()) {
      repaired = unicode::repaired(text);
      text = repaired;
    }
    const char* const origin = text.data();
    raw_.split(
        text, options.parse_special,
        [&](std::string_view part) {
          encode_part(part, part.data() == origin, options.parse_special, ids);
        },
        [&](TokenId id) { ids.push_back(id); });
    if (options.add_special) ids.insert(ids.end(), parts_.suffix.begin(), parts_.suffix.end());
    return ids;
  }

  std::string token_bytes(TokenId id, bool render_special) const override {
    if (!visible(id, render_special)) return {};
    return std::string(texts_[static_cast<size_t>(id)]);
  }

  std::string decode(std::span<const TokenId> ids, bool render_special) const override {
    std::string text;
    bool first = true;
    for (const TokenId id : ids) {
      if (!visible(id, render_special)) continue;
      if (first) {
        text = parts_.decoder.first(piece(id), parts_.literal[static_cast<size_t>(id)]);
      } else {
        text.append(texts_[static_cast<size_t>(id)]);
      }
      first = false;
    }
    parts_.decoder.finish(text);
    return text;
  }

  int32_t vocab_size() const override { return parts_.vocabulary.size(); }
  std::string_view kind() const override { return parts_.kind; }
  std::optional<TokenId> find(std::string_view piece) const override {
    const TokenId id = parts_.vocabulary.find(piece);
    return id >= 0 ? std::optional(id) : std::nullopt;
  }
  std::string_view piece(TokenId id) const override {
    return parts_.vocabulary.contains(id) ? parts_.vocabulary.piece(id) : std::string_view{};
  }
  bool is_control(TokenId id) const override {
    return parts_.vocabulary.contains(id) && parts_.control[static_cast<size_t>(id)];
  }

 private:
  bool visible(TokenId id, bool render_special) const {
    return parts_.vocabulary.contains(id) &&
           (render_special || !parts_.control[static_cast<size_t>(id)]);
  }

  struct WordSink final : PreTokenizer::Sink {
    WordSink(const TokenModel& used, std::vector<TokenId>& ids) : model(used), out(ids) {}
    void word(std::string_view word) override { model.encode_word(word, out); }
    const TokenModel& model;
    std::vector<TokenId>& out;
  };

  // A stretch between added tokens. Only byte-level text can still have invalid bytes: each run of
  // them is a word of its own.
  void encode_part(std::string_view part, bool at_start, bool parse_special,
                   std::vector<TokenId>& ids) const {
    while (!part.empty()) {
      const size_t good = unicode::valid_prefix(part);
      if (good > 0) encode_valid(part.substr(0, good), at_start, parse_special, ids);
      at_start = false;
      part.remove_prefix(good);
      size_t bad = 0;
      while (bad < part.size() && unicode::valid_prefix(part.substr(bad, 4)) == 0) ++bad;
      if (bad > 0) parts_.model->encode_word(part.substr(0, bad), ids);
      part.remove_prefix(bad);
    }
  }

  void encode_valid(std::string_view part, bool at_start, bool parse_special,
                    std::vector<TokenId>& ids) const {
    std::string buffer;
    const std::string_view text = parts_.normalizer.apply(part, at_start, buffer);
    WordSink sink(*parts_.model, ids);
    if (normalized_.empty()) return parts_.pre_tokenizer.split(text, at_start, sink);
    const char* const origin = text.data();
    normalized_.split(
        text, parse_special,
        [&](std::string_view rest) {
          parts_.pre_tokenizer.split(rest, at_start && rest.data() == origin, sink);
        },
        [&](TokenId id) { ids.push_back(id); });
  }

  TokenizerParts parts_;
  AddedTokens raw_, normalized_;
  StringTable texts_;  // by id: token_bytes
};

Result<void> check_id(std::string_view name, std::optional<TokenId> id, int32_t size) {
  if (id && (*id < 0 || *id >= size)) {
    return error(ErrorCode::corrupt, "the {} token's id {} is outside the vocabulary of {}", name,
                 *id, size);
  }
  return {};
}

}  // namespace

Result<std::unique_ptr<Tokenizer>> assemble(TokenizerParts parts) {
  const auto size = parts.vocabulary.size();
  parts.control.resize(static_cast<size_t>(size));
  parts.literal.resize(static_cast<size_t>(size));
  auto& special = parts.special;
  for (const auto& [name, id] :
       {std::pair{"bos", special.bos}, std::pair{"eos", special.eos}, std::pair{"unk", special.unk},
        std::pair{"pad", special.pad}, std::pair{"cls", special.cls}, std::pair{"sep", special.sep},
        std::pair{"mask", special.mask}}) {
    IMPETUS_CHECK(check_id(name, id, size));
  }
  for (const TokenId id : special.end_of_generation) {
    IMPETUS_CHECK(check_id("end-of-generation", id, size));
  }
  for (const auto* around : {&parts.prefix, &parts.suffix}) {
    for (const TokenId id : *around) IMPETUS_CHECK(check_id("post-processor's", id, size));
  }

  auto& ends = special.end_of_generation;
  if (parts.kind != kind_wordpiece) {
    if (special.eos) ends.push_back(*special.eos);
    for (const auto text : turn_ends) {
      const TokenId id = parts.vocabulary.find(text);
      if (id >= 0 && parts.control[static_cast<size_t>(id)]) ends.push_back(id);
    }
  }
  std::sort(ends.begin(), ends.end());
  ends.erase(std::unique(ends.begin(), ends.end()), ends.end());
  special.add_bos = special.bos && !parts.prefix.empty() && parts.prefix.front() == *special.bos;

  AddedTokens raw, normalized;
  for (const AddedToken& token : parts.added) {
    std::string buffer;
    if (!token.normalized) {
      IMPETUS_CHECK(raw.add(token, token.content));
    } else if (parts.normalizer.steps.empty()) {
      IMPETUS_CHECK(normalized.add(token, token.content));
    } else {
      IMPETUS_CHECK(normalized.add(token, parts.normalizer.apply(token.content, true, buffer)));
    }
  }
  return std::unique_ptr<Tokenizer>(
      std::make_unique<TextTokenizer>(std::move(parts), std::move(raw), std::move(normalized)));
}

Result<std::vector<Bpe::Merge>> resolve_merges(
    const Vocabulary& vocabulary,
    const std::vector<std::pair<std::string_view, std::string_view>>& merges) {
  std::vector<Bpe::Merge> resolved;
  resolved.reserve(merges.size());
  std::string joined;
  for (size_t i = 0; i < merges.size(); ++i) {
    const auto [left, right] = merges[i];
    joined.assign(left).append(right);
    const Bpe::Merge merge{vocabulary.find(left), vocabulary.find(right), vocabulary.find(joined)};
    if (merge.left < 0 || merge.right < 0 || merge.merged < 0) {
      const std::string_view unknown = merge.left < 0 ? left : merge.right < 0 ? right : joined;
      return error(ErrorCode::corrupt,
                   "merge {} (\"{} {}\") names \"{}\", which is not in the vocabulary", i, left,
                   right, unknown);
    }
    resolved.push_back(merge);
  }
  return resolved;
}

std::vector<std::string_view> spelled_bytes(const Vocabulary& vocabulary, StringTable& storage) {
  std::string bytes;
  std::vector<bool> spells(static_cast<size_t>(vocabulary.size()));
  for (TokenId id = 0; id < vocabulary.size(); ++id) {
    const auto piece = vocabulary.piece(id);
    spells[static_cast<size_t>(id)] = !piece.empty() && byte_level::unspell(piece, bytes);
    storage.push(spells[static_cast<size_t>(id)] ? std::string_view(bytes) : std::string_view{});
  }
  std::vector<std::string_view> pieces(static_cast<size_t>(vocabulary.size()));
  for (size_t id = 0; id < pieces.size(); ++id) {
    if (spells[id]) pieces[id] = storage[id];
  }
  return pieces;
}

}  // namespace impetus

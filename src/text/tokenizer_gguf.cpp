// Tokenizers from GGUF metadata (the keys tokenizer.ggml.*, as documented in ggml's docs/gguf.md).
#include <array>

#include "base/log.h"
#include "text/text_tokenizer.h"
#include "text/wordpiece.h"

namespace impetus {
namespace {

enum TokenType : int64_t {
  normal = 1,
  unknown = 2,
  control = 3,
  user_defined = 4,
  unused = 5,
  byte = 6
};

constexpr std::string_view space_mark = "\xE2\x96\x81";

using P = PreTokenizer;

Result<P::Step> isolated(std::string_view pattern) {
  P::Split split;
  IMPETUS_TRY(split.regex, Regex::compile(pattern));
  return P::Step(std::move(split));
}

struct Family {
  PreTokenizer words;
  bool ignore_merges = false;
  bool add_bos = false;  // where the file does not say
};

// What `tokenizer.ggml.pre` names: the pre_tokenizer of the model's own tokenizer.json.
Result<Family> family_of(std::string_view name) {
  Family family;
  auto& steps = family.words.steps;
  const auto add = [&](WordPattern pattern) { steps.push_back(P::Words{pattern}); };
  if (name == "gpt-2" || name == "mpt" || name == "phi-2" || name == "olmo" || name == "jais") {
    add(WordPattern::gpt2);
  } else if (name == "llama-bpe" || name == "llama3" || name == "llama-v3" || name == "smaug-bpe") {
    add(WordPattern::llama3);
    family.ignore_merges = name != "smaug-bpe";
    family.add_bos = true;
  } else if (name == "qwen2" || name == "deepseek-r1-qwen") {
    add(WordPattern::qwen2);
  } else if (name == "qwen35") {
    add(WordPattern::qwen3_5);
  } else if (name == "starcoder" || name == "refact" || name == "command-r" || name == "smollm" ||
             name == "codeshell" || name == "exaone") {
    steps.push_back(P::Characters{unicode::number, false, SplitBehavior::isolated});
    add(WordPattern::gpt2);
  } else if (name == "falcon") {
    IMPETUS_TRY(auto punctuation, isolated(R"([\p{P}\$\+<=>\^~\|`]+)"));
    IMPETUS_TRY(auto triples, isolated("[0-9][0-9][0-9]"));
    steps.push_back(std::move(punctuation));
    add(WordPattern::gpt2);
    steps.push_back(std::move(triples));
  } else if (name == "deepseek-coder") {
    for (const auto* pattern : {R"([\r\n])", R"(\s?\p{L}+)", R"(\s?\p{P}+)",
                                "[\u4E00-\u9FA5\u0800-\u4E00\uAC00-\uD7FF]+", R"(\p{N})"}) {
      IMPETUS_TRY(auto step, isolated(pattern));
      steps.push_back(std::move(step));
    }
  } else if (name == "default") {
    IMPETUS_TRY(auto punctuation, isolated(R"([\p{P}\$\+<=>\^~\|]+)"));
    IMPETUS_TRY(auto digits, isolated(R"(\p{N}+)"));
    IMPETUS_TRY(auto triples, isolated("[0-9][0-9][0-9]"));
    steps.push_back(std::move(punctuation));
    add(WordPattern::gpt2);
    steps.push_back(std::move(digits));
    steps.push_back(std::move(triples));
  } else {
    return error(ErrorCode::unsupported, "tokenizer.ggml.pre \"{}\" is not supported", name);
  }
  return family;
}

struct Source {
  const GgufFile& file;
  std::vector<int64_t> types;

  TokenType type(size_t id) const { return static_cast<TokenType>(types[id]); }
  // nullopt where absent or -1 (written as 2^32 - 1).
  Result<std::optional<TokenId>> id(std::string_view key, int32_t size) const {
    IMPETUS_TRY(const auto value, file.integer(key));
    if (!value || *value == -1 || *value == 0xFFFFFFFF) return std::optional<TokenId>{};
    if (*value < 0 || *value >= size) {
      return error(ErrorCode::corrupt, "{} is {}, outside the vocabulary of {}", key, *value, size);
    }
    return std::optional(static_cast<TokenId>(*value));
  }
  Result<bool> boolean(std::string_view key, bool fallback) const {
    IMPETUS_TRY(const auto value, file.boolean(key));
    return value.value_or(fallback);
  }
};

Result<void> read_vocabulary(Source& source, TokenizerParts& parts) {
  IMPETUS_TRY(const auto* tokens, source.file.strings("tokenizer.ggml.tokens"));
  if (tokens == nullptr) return error(ErrorCode::corrupt, "tokenizer.ggml.tokens is missing");
  std::vector<std::string_view> pieces;
  pieces.reserve(tokens->size());
  for (const auto token : *tokens) pieces.push_back(token.empty() ? std::string_view() : token);
  auto vocabulary = Vocabulary::build(pieces);
  if (!vocabulary.ok()) return std::move(vocabulary).error().within("tokenizer.ggml.tokens");
  parts.vocabulary = std::move(*vocabulary);

  IMPETUS_TRY(const auto* types, source.file.integers("tokenizer.ggml.token_type"));
  if (types != nullptr && types->size() != tokens->size()) {
    return error(ErrorCode::corrupt, "tokenizer.ggml.token_type has {} entries for {} tokens",
                 types->size(), tokens->size());
  }
  source.types = types != nullptr ? *types : std::vector<int64_t>(tokens->size(), normal);
  parts.control.resize(tokens->size());
  parts.literal.resize(tokens->size());
  for (size_t id = 0; id < tokens->size(); ++id) {
    if (source.types[id] < 0 || source.types[id] > byte) {
      return error(ErrorCode::corrupt, "tokenizer.ggml.token_type[{}] is {}", id, source.types[id]);
    }
    const TokenType type = source.type(id);
    parts.control[id] = type == control || type == unknown;
    parts.literal[id] = parts.control[id] || type == user_defined;
    if (!parts.literal[id] || pieces[id].empty()) continue;
    AddedToken token;
    token.id = static_cast<TokenId>(id);
    token.content = pieces[id];
    token.special = parts.control[id];
    parts.added.push_back(std::move(token));
  }
  return {};
}

Result<void> read_byte_level(const Source& source, TokenizerParts& parts) {
  IMPETUS_TRY(const auto named, source.file.string("tokenizer.ggml.pre"));
  if (!named) {
    log::warn("{}: tokenizer.ggml.pre is missing: \"default\" is taken", source.file.name());
  }
  IMPETUS_TRY(auto family, family_of(named.value_or("default")));
  parts.kind = kind_byte_level;
  parts.byte_level = true;
  parts.pre_tokenizer = std::move(family.words);
  parts.decoder.style = TokenDecoder::Style::byte_level;

  IMPETUS_TRY(const auto* lines, source.file.strings("tokenizer.ggml.merges"));
  if (lines == nullptr) return error(ErrorCode::corrupt, "tokenizer.ggml.merges is missing");
  std::vector<std::pair<std::string_view, std::string_view>> merges;
  merges.reserve(lines->size());
  for (size_t i = 0; i < lines->size(); ++i) {
    // A piece may begin with a space of its own in old files: the separator is never the first
    // byte.
    const std::string_view line = (*lines)[i];
    const size_t space = line.find(' ', 1);
    if (space == std::string_view::npos || space + 1 == line.size()) {
      return error(ErrorCode::corrupt, "tokenizer.ggml.merges[{}]: \"{}\" is not two pieces", i,
                   line);
    }
    merges.emplace_back(line.substr(0, space), line.substr(space + 1));
  }
  auto resolved = resolve_merges(parts.vocabulary, merges);
  if (!resolved.ok()) return std::move(resolved).error().within("tokenizer.ggml.merges");
  StringTable storage;
  auto pieces = spelled_bytes(parts.vocabulary, storage);
  // Padding and the like: no text reaches them. (User-defined ones can stand for single bytes.)
  for (size_t id = 0; id < pieces.size(); ++id) {
    if (parts.control[id]) pieces[id] = {};
  }
  Bpe::Options options;
  options.byte_level = true;
  options.ignore_merges = family.ignore_merges;
  IMPETUS_TRY(Bpe bpe, Bpe::from_merges(pieces, *resolved, options));
  parts.model = std::make_unique<Bpe>(std::move(bpe));
  IMPETUS_TRY(const bool add_bos, source.boolean("tokenizer.ggml.add_bos_token", family.add_bos));
  if (add_bos && parts.special.bos) parts.prefix = {*parts.special.bos};
  return {};
}

Result<void> read_sentencepiece(const Source& source, TokenizerParts& parts) {
  parts.kind = kind_sentencepiece;
  IMPETUS_TRY(const bool collapse,
              source.boolean("tokenizer.ggml.remove_extra_whitespaces", false));
  if (collapse) {
    return error(ErrorCode::unsupported,
                 "tokenizer.ggml.remove_extra_whitespaces is not supported");
  }
  IMPETUS_TRY(const auto* scores, source.file.numbers("tokenizer.ggml.scores"));
  const auto size = static_cast<size_t>(parts.vocabulary.size());
  if (scores == nullptr || scores->size() != size) {
    return error(ErrorCode::corrupt, "tokenizer.ggml.scores has {} entries for {} tokens",
                 scores == nullptr ? 0 : scores->size(), size);
  }
  IMPETUS_TRY(const bool space_first, source.boolean("tokenizer.ggml.add_space_prefix", true));
  if (space_first) parts.normalizer.steps.push_back(Normalizer::Prepend{std::string(space_mark)});
  parts.normalizer.steps.push_back(Normalizer::Replace{" ", std::nullopt, std::string(space_mark)});
  auto& decoder = parts.decoder;
  decoder.style = TokenDecoder::Style::pieces;
  decoder.replacements = {{std::string(space_mark), " "}};
  decoder.byte_fallback = true;
  if (space_first) {
    decoder.strip = " ";
    decoder.strip_max = 1;
  }
  std::vector<std::string_view> pieces(size);
  std::vector<bool> mergeable(size);
  for (size_t id = 0; id < size; ++id) {
    const TokenType type = source.type(id);
    mergeable[id] = type != control && type != unknown && type != byte &&
                    !parts.vocabulary.piece(static_cast<TokenId>(id)).empty();
    if (mergeable[id] || type == byte)
      pieces[id] = parts.vocabulary.piece(static_cast<TokenId>(id));
    if (type == unknown && !parts.special.unk) parts.special.unk = static_cast<TokenId>(id);
  }
  Bpe::Options options;
  options.byte_fallback = true;
  options.fuse_unknown = true;
  options.unknown = parts.special.unk.value_or(-1);
  IMPETUS_TRY(Bpe bpe, Bpe::sentencepiece(pieces, *scores, mergeable, options));
  parts.model = std::make_unique<Bpe>(std::move(bpe));
  IMPETUS_TRY(const bool add_bos, source.boolean("tokenizer.ggml.add_bos_token", true));
  if (add_bos && parts.special.bos) parts.prefix = {*parts.special.bos};
  return {};
}

Result<void> read_wordpiece(const Source& source, TokenizerParts& parts) {
  parts.kind = kind_wordpiece;
  auto& special = parts.special;
  const auto by_name = [&](std::optional<TokenId>& slot, std::string_view name) {
    const TokenId id = parts.vocabulary.find(name);
    if (!slot && id >= 0) slot = id;
  };
  if (!special.cls) special.cls = special.bos;
  if (!special.sep) special.sep = special.eos;
  by_name(special.unk, "[UNK]");
  by_name(special.cls, "[CLS]");
  by_name(special.sep, "[SEP]");
  if (!special.unk) return error(ErrorCode::corrupt, "tokenizer.ggml.unknown_token_id is missing");

  Normalizer::Bert bert;
  IMPETUS_TRY(bert.lowercase, source.boolean("tokenizer.ggml.normalizer.lowercase", true));
  IMPETUS_TRY(bert.strip_accents,
              source.boolean("tokenizer.ggml.normalizer.strip_accents", bert.lowercase));
  parts.normalizer.steps.push_back(bert);
  parts.pre_tokenizer.steps.push_back(P::Bert{});
  parts.decoder.style = TokenDecoder::Style::wordpiece;
  parts.decoder.starts_marked = true;
  auto model = std::make_unique<WordPiece>(*special.unk, 100);
  for (TokenId id = 0; id < parts.vocabulary.size(); ++id) {
    const auto piece = parts.vocabulary.piece(id);
    if (parts.literal[static_cast<size_t>(id)] || piece.empty()) continue;
    if (piece.starts_with(space_mark)) {
      model->add_start(piece.substr(space_mark.size()), id);
    } else {
      model->add_continuation(piece, id);
    }
  }
  parts.model = std::move(model);
  IMPETUS_TRY(const bool add_cls, source.boolean("tokenizer.ggml.add_bos_token", true));
  IMPETUS_TRY(const bool add_sep, source.boolean("tokenizer.ggml.add_eos_token", true));
  if (add_cls && special.cls) parts.prefix = {*special.cls};
  if (add_sep && special.sep) parts.suffix = {*special.sep};
  return {};
}

Result<TokenizerParts> parse(const GgufFile& file) {
  Source source{file, {}};
  IMPETUS_TRY(const auto model, file.string("tokenizer.ggml.model"));
  if (!model)
    return error(ErrorCode::not_found,
                 "tokenizer.ggml.model is missing: the file has no tokenizer");
  if (*model != "gpt2" && *model != "llama" && *model != "bert") {
    return error(ErrorCode::unsupported,
                 "tokenizer.ggml.model \"{}\" is not supported (gpt2, llama and bert are)", *model);
  }
  TokenizerParts parts;
  IMPETUS_CHECK(read_vocabulary(source, parts));
  const int32_t size = parts.vocabulary.size();
  auto& special = parts.special;
  const std::array<std::pair<const char*, std::optional<TokenId>*>, 8> ids{{
      {"tokenizer.ggml.bos_token_id", &special.bos},
      {"tokenizer.ggml.eos_token_id", &special.eos},
      {"tokenizer.ggml.unknown_token_id", &special.unk},
      {"tokenizer.ggml.padding_token_id", &special.pad},
      {"tokenizer.ggml.cls_token_id", &special.cls},
      {"tokenizer.ggml.mask_token_id", &special.mask},
      {"tokenizer.ggml.separator_token_id", &special.sep},
      {"tokenizer.ggml.seperator_token_id", &special.sep},  // the spelling that files have
  }};
  for (const auto& [key, slot] : ids) {
    IMPETUS_TRY(const auto id, source.id(key, size));
    if (id) *slot = id;
  }
  for (const auto* key : {"tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"}) {
    IMPETUS_TRY(const auto id, source.id(key, size));
    if (id) special.end_of_generation.push_back(*id);
  }
  if (*model == "gpt2") {
    IMPETUS_CHECK(read_byte_level(source, parts));
  } else if (*model == "llama") {
    IMPETUS_CHECK(read_sentencepiece(source, parts));
  } else {
    IMPETUS_CHECK(read_wordpiece(source, parts));
  }
  if (parts.kind != kind_wordpiece) {
    IMPETUS_TRY(const bool add_eos, source.boolean("tokenizer.ggml.add_eos_token", false));
    if (add_eos && special.eos) parts.suffix = {*special.eos};
  }
  return parts;
}

}  // namespace

Result<std::unique_ptr<Tokenizer>> load_tokenizer(const GgufFile& file) {
  auto parts = parse(file);
  if (!parts.ok()) return std::move(parts).error().within(file.name());
  auto tokenizer = assemble(std::move(*parts));
  if (!tokenizer.ok()) return std::move(tokenizer).error().within(file.name());
  return tokenizer;
}

}  // namespace impetus

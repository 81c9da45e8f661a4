// Which file of a Hugging Face folder makes the tokenizer, and what its companions say of special
// tokens.
#include <array>

#include "base/log.h"
#include "base/mapped_file.h"
#include "text/text_tokenizer.h"
#include "text/tokenizer_json.h"
#include "text/wordpiece.h"

namespace impetus {
namespace {

namespace fs = std::filesystem;
using tokenizer_json::section;

struct Companions {
  json::object tokenizer_config, special_tokens_map, generation_config, config;
};

Result<json::object> read_optional(const fs::path& path) {
  std::error_code ignored;
  if (!fs::exists(path, ignored)) return json::object{};
  IMPETUS_TRY(auto value, read_json_file(path.string()));
  if (!value.is_object()) return error(ErrorCode::corrupt, "{}: must be an object", path.string());
  return std::move(value.get_object());
}

Result<Companions> read_companions(const fs::path& folder) {
  Companions files;
  IMPETUS_TRY(files.tokenizer_config, read_optional(folder / "tokenizer_config.json"));
  IMPETUS_TRY(files.special_tokens_map, read_optional(folder / "special_tokens_map.json"));
  IMPETUS_TRY(files.generation_config, read_optional(folder / "generation_config.json"));
  IMPETUS_TRY(files.config, read_optional(folder / "config.json"));
  return files;
}

// A special token is written as its text, or as an object with "content".
std::optional<std::string> token_text(const json::object& object, std::string_view key) {
  const json::value* value = section(object, key);
  if (value != nullptr && value->is_object()) value = section(value->get_object(), "content");
  if (value == nullptr || !value->is_string()) return std::nullopt;
  return std::string(value->get_string());
}

// One id or a list of them; -1 and null mean none.
Result<std::vector<TokenId>> token_ids(const json::object& object, std::string_view key,
                                       int32_t size) {
  std::vector<TokenId> ids;
  const json::value* value = section(object, key);
  if (value == nullptr) return ids;
  const auto take = [&](const json::value& id, const std::string& place) -> Result<void> {
    if (id.is_int64() && id.get_int64() == -1) return {};
    if (!id.is_int64() || id.get_int64() < 0 || id.get_int64() >= size) {
      return error(ErrorCode::corrupt, "{} is {}, which is no id of this vocabulary of {}", place,
                   json::serialize(id), size);
    }
    ids.push_back(static_cast<TokenId>(id.get_int64()));
    return {};
  };
  if (!value->is_array()) {
    IMPETUS_CHECK(take(*value, std::string(key)));
    return ids;
  }
  for (size_t i = 0; i < value->get_array().size(); ++i) {
    IMPETUS_CHECK(take(value->get_array()[i], fmt::format("{}[{}]", key, i)));
  }
  return ids;
}

Result<void> read_special_ids(const Companions& files, TokenizerParts& parts) {
  auto& special = parts.special;
  const std::array<std::pair<const char*, std::optional<TokenId>*>, 7> names{{
      {"bos_token", &special.bos},
      {"eos_token", &special.eos},
      {"unk_token", &special.unk},
      {"pad_token", &special.pad},
      {"cls_token", &special.cls},
      {"sep_token", &special.sep},
      {"mask_token", &special.mask},
  }};
  for (const auto& [key, slot] : names) {
    auto text = token_text(files.tokenizer_config, key);
    if (!text) text = token_text(files.special_tokens_map, key);
    if (!text) continue;
    const TokenId id = parts.vocabulary.find(*text);
    if (id < 0) {
      log::warn("tokenizer: {} \"{}\" is not in the vocabulary", key, *text);
      continue;
    }
    *slot = id;
  }
  // The model's own lists of ends; its configuration only where generation has no file.
  const int32_t size = parts.vocabulary.size();
  const bool generation = !files.generation_config.empty();
  const auto& source = generation ? files.generation_config : files.config;
  const char* const name = generation ? "generation_config.json" : "config.json";
  const auto take = [&](const char* key, std::optional<TokenId>& slot, bool ends) -> Result<void> {
    auto ids = token_ids(source, key, size);
    if (!ids.ok()) return std::move(ids).error().within(name);
    if (!slot && !ids->empty()) slot = ids->front();
    if (ends)
      special.end_of_generation.insert(special.end_of_generation.end(), ids->begin(), ids->end());
    return {};
  };
  if (parts.kind == kind_wordpiece) return {};
  IMPETUS_CHECK(take("bos_token_id", special.bos, false));
  IMPETUS_CHECK(take("eos_token_id", special.eos, true));
  return {};
}

// transformers lets add_bos_token and add_eos_token have the last word over the post-processor.
Result<void> read_surround(const Companions& files, TokenizerParts& parts) {
  const auto apply = [&](const char* key, std::optional<TokenId> id,
                         std::vector<TokenId>& side) -> Result<void> {
    auto wanted = bool_field(files.tokenizer_config, key);
    if (!wanted.ok()) return std::move(wanted).error().within("tokenizer_config.json");
    if (!*wanted || !id) return {};
    const bool there =
        !side.empty() && (&side == &parts.prefix ? side.front() : side.back()) == *id;
    if (**wanted && !there) {
      side.insert(&side == &parts.prefix ? side.begin() : side.end(), *id);
    } else if (!**wanted && there) {
      side.erase(&side == &parts.prefix ? side.begin() : side.end() - 1);
    }
    return {};
  };
  if (parts.kind == kind_wordpiece) return {};
  IMPETUS_CHECK(apply("add_bos_token", parts.special.bos, parts.prefix));
  IMPETUS_CHECK(apply("add_eos_token", parts.special.eos, parts.suffix));
  return {};
}

// Added tokens of folders without a tokenizer.json: {"151643": {"content": ...}}.
Result<std::vector<AddedToken>> read_added_decoder(const json::object& config) {
  const json::value* value = section(config, "added_tokens_decoder");
  if (value == nullptr || !value->is_object()) return std::vector<AddedToken>{};
  json::array list;
  for (const auto& [id, token] : value->get_object()) {
    json::object entry = token.is_object() ? token.get_object() : json::object{};
    const std::string_view digits(id.data(), id.size());
    int64_t number = digits.empty() || digits.size() > 9 ? -1 : 0;
    for (const char c : digits)
      number = c >= '0' && c <= '9' && number >= 0 ? number * 10 + (c - '0') : -1;
    entry["id"] = number;
    list.push_back(std::move(entry));
  }
  const json::value entries(std::move(list));
  auto tokens = tokenizer_json::read_added_tokens(&entries);
  if (!tokens.ok())
    return std::move(tokens).error().within("tokenizer_config.json: added_tokens_decoder");
  return tokens;
}

// Vocabulary files that cannot hold tokens beside their own: every added token must be one of
// theirs.
Result<TokenizerParts> with_no_others(Result<TokenizerParts> parts, const Companions& files) {
  if (!parts.ok()) return parts;
  IMPETUS_TRY(const auto added, read_added_decoder(files.tokenizer_config));
  for (const AddedToken& token : added) {
    if (parts->vocabulary.contains(token.id) && parts->vocabulary.piece(token.id) == token.content)
      continue;
    return error(ErrorCode::unsupported,
                 "tokenizer_config.json adds token {} \"{}\", which is not in the vocabulary: such "
                 "a model needs its "
                 "tokenizer.json",
                 token.id, token.content);
  }
  return parts;
}

// The tokenizer family of a folder that has only vocabulary files.
std::string family_of(const Companions& files) {
  for (const auto& [object, key] : {std::pair{&files.tokenizer_config, "tokenizer_class"},
                                    std::pair{&files.config, "model_type"}}) {
    if (const json::value* value = section(*object, key); value && value->is_string()) {
      return std::string(value->get_string());
    }
  }
  return {};
}

Result<TokenizerParts> read_parts(const fs::path& folder, const Companions& files, fs::path& used) {
  std::error_code ignored;
  const auto has = [&](const char* name) {
    used = folder / name;
    return fs::is_regular_file(used, ignored);
  };
  if (has("tokenizer.json")) {
    IMPETUS_TRY(const auto text, read_file(used));
    auto document = parse_json(text);
    if (!document.ok()) {
      Error failure = std::move(document).error();
      failure.code = ErrorCode::corrupt;
      return failure;
    }
    return parse_tokenizer_json(*document);
  }
  if (has("merges.txt") && has("vocab.json")) {
    IMPETUS_TRY(const auto vocab_text, read_file(used));
    auto vocab = parse_json(vocab_text);
    if (!vocab.ok()) return std::move(vocab).error();
    IMPETUS_TRY(const auto merges, read_file(folder / "merges.txt"));
    IMPETUS_TRY(const auto added, read_added_decoder(files.tokenizer_config));
    return parse_vocab_and_merges(*vocab, merges, family_of(files), added);
  }
  if (has("tokenizer.model")) {
    IMPETUS_TRY(const auto bytes, read_file(used));
    return with_no_others(parse_sentencepiece_model(bytes), files);
  }
  if (has("vocab.txt")) {
    IMPETUS_TRY(const auto text, read_file(used));
    IMPETUS_TRY(const auto lowercase, bool_field(files.tokenizer_config, "do_lower_case"));
    return with_no_others(parse_vocab_txt(text, lowercase.value_or(true)), files);
  }
  used = folder;
  return error(ErrorCode::not_found,
               "no tokenizer here: tokenizer.json, vocab.json with merges.txt, tokenizer.model and "
               "vocab.txt are all absent");
}

}  // namespace

Result<TokenizerParts> parse_vocab_txt(std::string_view text, bool lowercase) {
  TokenizerParts parts;
  std::vector<std::string_view> pieces;
  while (!text.empty()) {
    const size_t end = std::min(text.find('\n'), text.size());
    std::string_view line = text.substr(0, end);
    if (line.ends_with('\r')) line.remove_suffix(1);
    pieces.push_back(line.empty() ? std::string_view() : line);
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  IMPETUS_TRY(parts.vocabulary, Vocabulary::build(pieces));
  parts.kind = kind_wordpiece;
  parts.control.resize(pieces.size());
  parts.literal.resize(pieces.size());
  auto& special = parts.special;
  for (const auto& [name, slot] :
       {std::pair{"[UNK]", &special.unk}, std::pair{"[CLS]", &special.cls},
        std::pair{"[SEP]", &special.sep}, std::pair{"[PAD]", &special.pad},
        std::pair{"[MASK]", &special.mask}}) {
    const TokenId id = parts.vocabulary.find(name);
    if (id < 0) {
      if (slot == &special.pad || slot == &special.mask) continue;
      return error(ErrorCode::corrupt, "\"{}\" is not in the vocabulary", name);
    }
    *slot = id;
    parts.control[static_cast<size_t>(id)] = true;
    parts.literal[static_cast<size_t>(id)] = true;
    AddedToken token;
    token.id = id;
    token.content = name;
    token.special = true;
    parts.added.push_back(std::move(token));
  }
  Normalizer::Bert bert;
  bert.lowercase = bert.strip_accents = lowercase;
  parts.normalizer.steps.push_back(bert);
  parts.pre_tokenizer.steps.push_back(PreTokenizer::Bert{});
  parts.decoder.style = TokenDecoder::Style::wordpiece;
  auto model = std::make_unique<WordPiece>(*special.unk, 100);
  for (TokenId id = 0; id < parts.vocabulary.size(); ++id) {
    const auto piece = parts.vocabulary.piece(id);
    model->add_start(piece, id);
    if (piece.starts_with("##")) model->add_continuation(piece.substr(2), id);
  }
  parts.model = std::move(model);
  parts.prefix = {*special.cls};
  parts.suffix = {*special.sep};
  return parts;
}

Result<TokenizerParts> parse_vocab_and_merges(const json::value& vocab, std::string_view merges,
                                              std::string_view family,
                                              const std::vector<AddedToken>& added) {
  WordPattern pattern = WordPattern::gpt2;
  if (family.starts_with("Qwen2Tokenizer") || family == "qwen2" || family == "qwen3") {
    pattern = WordPattern::qwen2;
  } else if (!family.starts_with("GPT2Tokenizer") && family != "gpt2") {
    return error(ErrorCode::unsupported,
                 "vocab.json and merges.txt of the tokenizer \"{}\" are not supported without a "
                 "tokenizer.json (GPT2Tokenizer's and Qwen2Tokenizer's are)",
                 family);
  }
  // The same model as the family's own tokenizer.json.
  json::array pairs;
  while (!merges.empty()) {
    const size_t end = std::min(merges.find('\n'), merges.size());
    std::string_view line = merges.substr(0, end);
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (!line.empty() && !(pairs.empty() && line.starts_with("#version"))) pairs.emplace_back(line);
    merges.remove_prefix(std::min(end + 1, merges.size()));
  }
  json::object byte_level{{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}};
  json::object split{{"type", "Split"},
                     {"pattern", json::object{{"Regex", regex_of(pattern)}}},
                     {"behavior", "Isolated"}};
  json::array added_json;
  std::vector<AddedToken> tokens = added;
  if (tokens.empty() && vocab.is_object()) {
    if (const json::value* id = section(vocab.get_object(), "<|endoftext|>");
        id && id->is_int64()) {
      AddedToken end;
      end.id = static_cast<TokenId>(std::clamp<int64_t>(id->get_int64(), 0, vocabulary_size_max));
      end.content = "<|endoftext|>";
      end.special = true;
      tokens.push_back(std::move(end));
    }
  }
  for (const AddedToken& token : tokens) {
    added_json.push_back(json::object{{"id", token.id},
                                      {"content", token.content},
                                      {"special", token.special},
                                      {"single_word", token.single_word},
                                      {"lstrip", token.lstrip},
                                      {"rstrip", token.rstrip},
                                      {"normalized", token.normalized}});
  }
  json::object document{
      {"added_tokens", std::move(added_json)},
      {"pre_tokenizer", json::object{{"type", "Sequence"},
                                     {"pretokenizers", json::array{std::move(split), byte_level}}}},
      {"decoder", byte_level},
      {"model", json::object{{"type", "BPE"}, {"vocab", vocab}, {"merges", std::move(pairs)}}}};
  if (pattern == WordPattern::qwen2) document["normalizer"] = json::object{{"type", "NFC"}};
  return parse_tokenizer_json(json::value(std::move(document)));
}

Result<std::unique_ptr<Tokenizer>> load_tokenizer(const fs::path& folder) {
  IMPETUS_TRY(const Companions files, read_companions(folder));
  fs::path used;
  auto parts = read_parts(folder, files, used);
  if (!parts.ok()) return std::move(parts).error().within(used.string());
  auto named = read_special_ids(files, *parts);
  if (named.ok()) named = read_surround(files, *parts);
  if (!named.ok()) return std::move(named).error().within(folder.string());
  auto tokenizer = assemble(std::move(*parts));
  if (!tokenizer.ok()) return std::move(tokenizer).error().within(used.string());
  return tokenizer;
}

}  // namespace impetus

#include "text/tokenizer_json.h"

#include "base/log.h"
#include "text/wordpiece.h"

namespace impetus {
namespace tokenizer_json {

const json::value* section(const json::object& object, std::string_view key) {
  const json::value* value = object.if_contains(key);
  return value == nullptr || value->is_null() ? nullptr : value;
}

Result<const json::object*> as_object(const json::value& value, std::string_view what) {
  if (!value.is_object()) return error(ErrorCode::corrupt, "{} must be an object", what);
  return &value.get_object();
}

Result<std::string> type_of(const json::object& object, std::string_view what) {
  const json::value* type = section(object, "type");
  if (type == nullptr || !type->is_string()) {
    return error(ErrorCode::corrupt, "{} has no \"type\"", what);
  }
  return std::string(type->get_string());
}

Result<bool> flag(const json::object& object, std::string_view key, bool fallback) {
  IMPETUS_TRY(const auto value, bool_field(object, key));
  return value.value_or(fallback);
}

Result<std::string> text_of(const json::object& object, std::string_view key) {
  IMPETUS_TRY(auto value, string_field(object, key));
  if (!value) return error(ErrorCode::corrupt, "\"{}\" is missing", key);
  return std::move(*value);
}

Result<std::vector<AddedToken>> read_added_tokens(const json::value* value) {
  std::vector<AddedToken> tokens;
  if (value == nullptr) return tokens;
  if (!value->is_array()) return error(ErrorCode::corrupt, "added_tokens must be an array");
  for (size_t i = 0; i < value->get_array().size(); ++i) {
    const auto read = [&]() -> Result<AddedToken> {
      IMPETUS_TRY(const auto* object, as_object(value->get_array()[i], "the entry"));
      AddedToken token;
      IMPETUS_TRY(const auto id, int_field(*object, "id"));
      if (!id || *id < 0 || *id >= vocabulary_size_max) {
        return error(ErrorCode::corrupt, "its id is missing or outside 0 to {}",
                     vocabulary_size_max - 1);
      }
      token.id = static_cast<TokenId>(*id);
      IMPETUS_TRY(token.content, text_of(*object, "content"));
      IMPETUS_TRY(token.special, flag(*object, "special", false));
      IMPETUS_TRY(token.single_word, flag(*object, "single_word", false));
      IMPETUS_TRY(token.lstrip, flag(*object, "lstrip", false));
      IMPETUS_TRY(token.rstrip, flag(*object, "rstrip", false));
      IMPETUS_TRY(token.normalized, flag(*object, "normalized", !token.special));
      return token;
    };
    auto token = read();
    if (!token.ok()) return std::move(token).error().within(fmt::format("added_tokens[{}]", i));
    tokens.push_back(std::move(*token));
  }
  return tokens;
}

}  // namespace tokenizer_json

namespace {

using namespace tokenizer_json;
using Entries = std::vector<std::pair<std::string_view, int64_t>>;

Result<Entries> read_vocab(const json::value* value) {
  if (value == nullptr || !value->is_object()) {
    return error(ErrorCode::corrupt, "model.vocab must be an object");
  }
  Entries entries;
  entries.reserve(value->get_object().size());
  for (const auto& [piece, id] : value->get_object()) {
    const std::string_view name(piece.data(), piece.size());
    if (!id.is_int64()) {
      return error(ErrorCode::corrupt, "model.vocab: the id of \"{}\" is not an integer that fits",
                   name);
    }
    entries.emplace_back(name, id.get_int64());
  }
  return entries;
}

// Merges are written "left right" or ["left", "right"].
Result<std::vector<std::pair<std::string_view, std::string_view>>> read_merges(
    const json::value* value) {
  std::vector<std::pair<std::string_view, std::string_view>> merges;
  if (value == nullptr || !value->is_array()) {
    return error(ErrorCode::corrupt, "model.merges must be an array");
  }
  const auto& array = value->get_array();
  merges.reserve(array.size());
  for (size_t i = 0; i < array.size(); ++i) {
    if (array[i].is_string()) {
      const std::string_view text(array[i].get_string());
      const size_t space = text.find(' ');
      if (space == std::string_view::npos || text.find(' ', space + 1) != std::string_view::npos) {
        return error(ErrorCode::corrupt, "model.merges[{}]: \"{}\" is not two pieces", i, text);
      }
      merges.emplace_back(text.substr(0, space), text.substr(space + 1));
    } else if (array[i].is_array() && array[i].get_array().size() == 2 &&
               array[i].get_array()[0].is_string() && array[i].get_array()[1].is_string()) {
      merges.emplace_back(std::string_view(array[i].get_array()[0].get_string()),
                          std::string_view(array[i].get_array()[1].get_string()));
    } else {
      return error(ErrorCode::corrupt, "model.merges[{}] is not two pieces", i);
    }
  }
  return merges;
}

// The model's own pieces by id; nullptr views for ids that only added tokens have.
std::vector<std::string_view> model_pieces(const Vocabulary& vocabulary, const Entries& entries) {
  std::vector<std::string_view> pieces(static_cast<size_t>(vocabulary.size()));
  for (const auto& [piece, id] : entries) {
    pieces[static_cast<size_t>(id)] = vocabulary.piece(static_cast<TokenId>(id));
  }
  return pieces;
}

Result<TokenId> unknown_token(const json::object& model, const Vocabulary& vocabulary) {
  IMPETUS_TRY(const auto text, string_field(model, "unk_token"));
  if (!text) return TokenId{-1};
  const TokenId id = vocabulary.find(*text);
  if (id < 0)
    return error(ErrorCode::corrupt, "model.unk_token \"{}\" is not in the vocabulary", *text);
  return id;
}

Result<void> read_bpe(const json::object& model, const Entries& entries, TokenizerParts& parts) {
  IMPETUS_TRY(const auto dropout, number_field(model, "dropout"));
  if (dropout && *dropout != 0.0) {
    return error(ErrorCode::unsupported, "model.dropout {} is not supported", *dropout);
  }
  for (const auto* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    IMPETUS_TRY(const auto text, string_field(model, key));
    if (text && !text->empty()) {
      return error(ErrorCode::unsupported, "model.{} \"{}\" is not supported", key, *text);
    }
  }
  Bpe::Options options;
  options.byte_level = parts.byte_level;
  IMPETUS_TRY(options.byte_fallback, flag(model, "byte_fallback", false));
  IMPETUS_TRY(options.fuse_unknown, flag(model, "fuse_unk", false));
  IMPETUS_TRY(options.ignore_merges, flag(model, "ignore_merges", false));
  IMPETUS_TRY(options.unknown, unknown_token(model, parts.vocabulary));
  if (options.unknown >= 0) parts.special.unk = options.unknown;
  parts.kind = parts.byte_level ? kind_byte_level : kind_sentencepiece;

  IMPETUS_TRY(const auto merges, read_merges(section(model, "merges")));
  auto resolved = resolve_merges(parts.vocabulary, merges);
  if (!resolved.ok()) return std::move(resolved).error().within("model.merges");
  StringTable storage;
  auto pieces = model_pieces(parts.vocabulary, entries);
  if (parts.byte_level) {
    const auto bytes = spelled_bytes(parts.vocabulary, storage);
    for (size_t id = 0; id < pieces.size(); ++id) {
      if (pieces[id].data() != nullptr) pieces[id] = bytes[id];
    }
  }
  IMPETUS_TRY(Bpe bpe, Bpe::from_merges(pieces, *resolved, options));
  if (parts.byte_level && bpe.missing_bytes() > 13) {  // 13 bytes never occur in UTF-8
    log::warn("tokenizer: {} bytes have no token and vanish from the text", bpe.missing_bytes());
  }
  parts.model = std::make_unique<Bpe>(std::move(bpe));
  return {};
}

Result<void> read_wordpiece(const json::object& model, const Entries& entries,
                            TokenizerParts& parts) {
  if (parts.byte_level) {
    return error(ErrorCode::unsupported,
                 "a ByteLevel pre_tokenizer before WordPiece is not supported");
  }
  IMPETUS_TRY(const auto prefix, string_field(model, "continuing_subword_prefix"));
  const std::string continuation = prefix.value_or("##");
  IMPETUS_TRY(const auto limit, int_field(model, "max_input_chars_per_word"));
  if (limit && *limit < 0) {
    return error(ErrorCode::corrupt, "model.max_input_chars_per_word is {}", *limit);
  }
  IMPETUS_TRY(const TokenId unknown, unknown_token(model, parts.vocabulary));
  if (unknown < 0) return error(ErrorCode::corrupt, "model.unk_token is missing");
  parts.special.unk = unknown;
  parts.kind = kind_wordpiece;
  auto pieces = std::make_unique<WordPiece>(unknown, static_cast<size_t>(limit.value_or(100)));
  for (const auto& [piece, id] : entries) {
    // A piece with the prefix can also start a word that begins with it, as the reference has it.
    pieces->add_start(piece, static_cast<TokenId>(id));
    if (piece.starts_with(continuation)) {
      pieces->add_continuation(piece.substr(continuation.size()), static_cast<TokenId>(id));
    }
  }
  parts.model = std::move(pieces);
  return {};
}

}  // namespace

Result<TokenizerParts> parse_tokenizer_json(const json::value& document) {
  IMPETUS_TRY(const auto* root, as_object(document, "the document"));
  const json::value* model_value = section(*root, "model");
  if (model_value == nullptr) return error(ErrorCode::corrupt, "\"model\" is missing");
  IMPETUS_TRY(const auto* model, as_object(*model_value, "model"));
  std::string type = "BPE";  // early files have no type, and only BPE has merges
  if (section(*model, "type") != nullptr || section(*model, "merges") == nullptr) {
    IMPETUS_TRY(type, type_of(*model, "model"));
  }
  if (type != "BPE" && type != "WordPiece") {
    return error(ErrorCode::unsupported,
                 "model type \"{}\" is not supported (BPE and WordPiece are)", type);
  }

  TokenizerParts parts;
  IMPETUS_TRY(parts.added, read_added_tokens(section(*root, "added_tokens")));
  IMPETUS_TRY(const Entries entries, read_vocab(section(*model, "vocab")));
  Entries all = entries;
  for (const AddedToken& token : parts.added) all.emplace_back(token.content, token.id);
  auto pieces = by_id(all);
  if (!pieces.ok()) return std::move(pieces).error().within("model.vocab");
  auto vocabulary = Vocabulary::build(*pieces);
  if (!vocabulary.ok()) return std::move(vocabulary).error().within("model.vocab");
  parts.vocabulary = std::move(*vocabulary);
  const auto size = static_cast<size_t>(parts.vocabulary.size());
  parts.control.resize(size);
  parts.literal.resize(size);
  for (const AddedToken& token : parts.added) {
    parts.control[static_cast<size_t>(token.id)] = token.special;
    parts.literal[static_cast<size_t>(token.id)] = true;
  }

  IMPETUS_TRY(parts.normalizer, read_normalizer(section(*root, "normalizer")));
  IMPETUS_TRY(auto words, read_pre_tokenizer(section(*root, "pre_tokenizer")));
  parts.pre_tokenizer = std::move(words.steps);
  parts.byte_level = words.byte_level;
  IMPETUS_TRY(parts.decoder, read_decoder(section(*root, "decoder")));
  IMPETUS_TRY(auto around, read_post_processor(section(*root, "post_processor"), parts.vocabulary));
  parts.prefix = std::move(around.prefix);
  parts.suffix = std::move(around.suffix);
  if (type == "BPE") {
    IMPETUS_CHECK(read_bpe(*model, entries, parts));
  } else {
    IMPETUS_CHECK(read_wordpiece(*model, entries, parts));
  }
  return parts;
}

}  // namespace impetus

// SentencePiece's tokenizer.model: a protobuf ModelProto (sentencepiece_model.proto, field numbers
// are facts of the format): pieces (1), trainer_spec (2), normalizer_spec (3). BPE models without a
// compiled character map, as Llama 2's.
#include <bit>
#include <cstring>
#include <optional>

#include "text/text_tokenizer.h"

namespace impetus {
namespace {

constexpr std::string_view space_mark = "\xE2\x96\x81";

struct Field {
  uint64_t number = 0;
  uint64_t value = 0;      // varint, or the bits of a fixed 32 or 64
  std::string_view bytes;  // length-delimited
  uint32_t wire = 0;
};

// Reads one message's fields in order; every length is checked against what is left.
class Wire {
 public:
  explicit Wire(std::string_view bytes) : rest_(bytes) {}

  bool at_end() const { return rest_.empty(); }
  std::optional<Field> next() {
    Field field;
    const auto key = varint();
    if (!key) return std::nullopt;
    field.number = *key >> 3;
    field.wire = static_cast<uint32_t>(*key & 7);
    if (field.wire == 0) {
      const auto value = varint();
      if (!value) return std::nullopt;
      field.value = *value;
    } else if (field.wire == 1 || field.wire == 5) {
      const size_t n = field.wire == 1 ? 8 : 4;
      if (rest_.size() < n) return std::nullopt;
      for (size_t i = 0; i < n; ++i)
        field.value |= uint64_t{static_cast<uint8_t>(rest_[i])} << (8 * i);
      rest_.remove_prefix(n);
    } else if (field.wire == 2) {
      const auto size = varint();
      if (!size || *size > rest_.size()) return std::nullopt;
      field.bytes = rest_.substr(0, static_cast<size_t>(*size));
      rest_.remove_prefix(static_cast<size_t>(*size));
    } else {
      return std::nullopt;
    }
    return field;
  }

 private:
  std::optional<uint64_t> varint() {
    uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      if (rest_.empty()) return std::nullopt;
      const auto byte = static_cast<uint8_t>(rest_.front());
      rest_.remove_prefix(1);
      value |= uint64_t{byte & 0x7Fu} << shift;
      if ((byte & 0x80) == 0) return value;
    }
    return std::nullopt;
  }
  std::string_view rest_;
};

enum PieceType : uint64_t {
  normal = 1,
  unknown = 2,
  control = 3,
  user_defined = 4,
  unused = 5,
  byte = 6
};

struct Model {
  std::vector<std::string_view> pieces;
  std::vector<double> scores;
  std::vector<uint64_t> types;
  uint64_t model_type = 1;  // unigram, the format's default
  bool byte_fallback = false, suffix_space = false;
  bool dummy_prefix = true, collapse = true, escape = true;
  std::string_view character_map;
  int64_t bos = 1, eos = 2, pad = -1;
};

Error broken(std::string_view where) {
  return error(ErrorCode::corrupt, "not a SentencePiece model: {} is cut short or malformed",
               where);
}

Result<void> read_piece(std::string_view bytes, Model& model) {
  std::string_view text = "";
  double score = 0;
  uint64_t type = normal;
  for (Wire wire(bytes); !wire.at_end();) {
    const auto field = wire.next();
    if (!field) return broken(fmt::format("piece {}", model.pieces.size()));
    if (field->number == 1) text = field->bytes;
    if (field->number == 2) score = std::bit_cast<float>(static_cast<uint32_t>(field->value));
    if (field->number == 3) type = field->value;
  }
  if (type < normal || type > byte || !(score == score)) {
    return error(ErrorCode::corrupt, "piece {} has type {} and score {}", model.pieces.size(), type,
                 score);
  }
  model.pieces.push_back(text.empty() ? std::string_view() : text);
  model.scores.push_back(score);
  model.types.push_back(type);
  return {};
}

Result<Model> read(std::string_view bytes) {
  Model model;
  for (Wire wire(bytes); !wire.at_end();) {
    const auto field = wire.next();
    if (!field) return broken("the file");
    if (field->number == 1 && field->wire == 2) {
      if (static_cast<int64_t>(model.pieces.size()) >= vocabulary_size_max) {
        return error(ErrorCode::corrupt, "more than {} pieces", vocabulary_size_max);
      }
      IMPETUS_CHECK(read_piece(field->bytes, model));
    } else if (field->number == 2 && field->wire == 2) {
      for (Wire spec(field->bytes); !spec.at_end();) {
        const auto entry = spec.next();
        if (!entry) return broken("trainer_spec");
        const auto id = static_cast<int64_t>(static_cast<int32_t>(entry->value));
        switch (entry->number) {
          case 3:
            model.model_type = entry->value;
            break;
          case 24:
            model.suffix_space = entry->value != 0;
            break;
          case 35:
            model.byte_fallback = entry->value != 0;
            break;
          case 41:
            model.bos = id;
            break;
          case 42:
            model.eos = id;
            break;
          case 43:
            model.pad = id;
            break;
          default:
            break;
        }
      }
    } else if (field->number == 3 && field->wire == 2) {
      for (Wire spec(field->bytes); !spec.at_end();) {
        const auto entry = spec.next();
        if (!entry) return broken("normalizer_spec");
        switch (entry->number) {
          case 2:
            model.character_map = entry->bytes;
            break;
          case 3:
            model.dummy_prefix = entry->value != 0;
            break;
          case 4:
            model.collapse = entry->value != 0;
            break;
          case 5:
            model.escape = entry->value != 0;
            break;
          default:
            break;
        }
      }
    }
  }
  return model;
}

Result<void> check(const Model& model) {
  constexpr std::string_view names[] = {"", "unigram", "bpe", "word", "char"};
  if (model.model_type != 2) {
    return error(ErrorCode::unsupported,
                 "SentencePiece model type \"{}\" is not supported (bpe is)",
                 model.model_type < 5 ? names[model.model_type] : "unknown");
  }
  if (!model.character_map.empty()) {
    return error(ErrorCode::unsupported,
                 "SentencePiece with a compiled character map (Precompiled) is not supported");
  }
  if (model.suffix_space || !model.escape) {
    return error(ErrorCode::unsupported,
                 "SentencePiece with treat_whitespace_as_suffix or without escape_whitespaces is "
                 "not supported");
  }
  for (size_t id = 0; id < model.types.size(); ++id) {
    if (model.types[id] == unused) {
      return error(ErrorCode::unsupported,
                   "piece {} \"{}\" is of type unused, which is not supported", id,
                   model.pieces[id]);
    }
    if (model.types[id] == user_defined && model.collapse) {
      return error(ErrorCode::unsupported,
                   "remove_extra_whitespaces together with user-defined pieces is not supported");
    }
  }
  return {};
}

}  // namespace

Result<TokenizerParts> parse_sentencepiece_model(std::string_view bytes) {
  IMPETUS_TRY(const Model model, read(bytes));
  IMPETUS_CHECK(check(model));
  TokenizerParts parts;
  IMPETUS_TRY(parts.vocabulary, Vocabulary::build(model.pieces));
  parts.kind = kind_sentencepiece;
  const size_t size = model.pieces.size();
  parts.control.resize(size);
  parts.literal.resize(size);
  std::vector<bool> mergeable(size);
  std::vector<std::string_view> pieces(size);
  for (size_t id = 0; id < size; ++id) {
    const uint64_t type = model.types[id];
    parts.control[id] = type == control || type == unknown;
    parts.literal[id] = parts.control[id] || type == user_defined;
    mergeable[id] = (type == normal || type == user_defined) && !model.pieces[id].empty();
    if (mergeable[id] || type == byte) pieces[id] = model.pieces[id];
    if (type == unknown) parts.special.unk = static_cast<TokenId>(id);
    if (!parts.literal[id] || model.pieces[id].empty()) continue;
    AddedToken token;
    token.id = static_cast<TokenId>(id);
    token.content = model.pieces[id];
    token.special = parts.control[id];
    parts.added.push_back(std::move(token));
  }
  // The ids that the trainer was given need not exist: pieces say which do.
  const auto present = [&](int64_t id) -> std::optional<TokenId> {
    if (id < 0 || id >= static_cast<int64_t>(size) || !parts.control[static_cast<size_t>(id)])
      return std::nullopt;
    return static_cast<TokenId>(id);
  };
  parts.special.bos = present(model.bos);
  parts.special.eos = present(model.eos);
  parts.special.pad = present(model.pad);
  if (parts.special.bos) parts.prefix = {*parts.special.bos};

  using N = Normalizer;
  if (model.collapse) parts.normalizer.steps.push_back(N::CollapseSpaces{});
  if (model.dummy_prefix)
    parts.normalizer.steps.push_back(N::Prepend{std::string(space_mark), true});
  parts.normalizer.steps.push_back(N::Replace{" ", std::nullopt, std::string(space_mark)});
  auto& decoder = parts.decoder;
  decoder.style = TokenDecoder::Style::pieces;
  decoder.replacements = {{std::string(space_mark), " "}};
  decoder.byte_fallback = true;
  if (model.dummy_prefix) {
    decoder.strip = " ";
    decoder.strip_max = 1;
  }
  Bpe::Options options;
  options.byte_fallback = model.byte_fallback;
  options.fuse_unknown = true;
  options.unknown = parts.special.unk.value_or(-1);
  IMPETUS_TRY(Bpe bpe, Bpe::sentencepiece(pieces, model.scores, mergeable, options));
  parts.model = std::make_unique<Bpe>(std::move(bpe));
  return parts;
}

}  // namespace impetus

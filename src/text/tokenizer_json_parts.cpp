// Normalizer, pre-tokenizer, decoder and post-processor sections of tokenizer.json.
#include <array>

#include "text/tokenizer_json.h"

namespace impetus::tokenizer_json {
namespace {

constexpr int depth_max = 8;  // Sequences in Sequences

Error unsupported(std::string_view section_name, std::string_view type) {
  return error(ErrorCode::unsupported, "{} \"{}\" is not supported", section_name, type);
}

Result<const json::array*> list_of(const json::object& object, std::string_view key) {
  const json::value* value = section(object, key);
  if (value == nullptr || !value->is_array())
    return error(ErrorCode::corrupt, "\"{}\" must be an array", key);
  return &value->get_array();
}

struct Pattern {
  std::string literal;
  std::optional<Regex> regex;
};

Result<Pattern> read_pattern(const json::object& object) {
  const json::value* value = section(object, "pattern");
  if (value == nullptr) return error(ErrorCode::corrupt, "\"pattern\" is missing");
  IMPETUS_TRY(const auto* pattern, as_object(*value, "pattern"));
  IMPETUS_TRY(const auto literal, string_field(*pattern, "String"));
  IMPETUS_TRY(const auto expression, string_field(*pattern, "Regex"));
  Pattern result;
  if (literal && !literal->empty()) {
    result.literal = *literal;
  } else if (expression) {
    IMPETUS_TRY(result.regex, Regex::compile(*expression));
  } else {
    return error(ErrorCode::corrupt,
                 "\"pattern\" has neither a String that is not empty nor a Regex");
  }
  return result;
}

Result<void> add_normalizer(const json::value& value, Normalizer& out, int depth) {
  IMPETUS_TRY(const auto* object, as_object(value, "normalizer"));
  IMPETUS_TRY(const std::string type, type_of(*object, "normalizer"));
  using N = Normalizer;
  if (type == "Sequence" && depth < depth_max) {
    IMPETUS_TRY(const auto* list, list_of(*object, "normalizers"));
    for (const auto& entry : *list) IMPETUS_CHECK(add_normalizer(entry, out, depth + 1));
  } else if (type == "NFC") {
    out.steps.push_back(N::UnicodeForm{unicode::Form::nfc});
  } else if (type == "NFD") {
    out.steps.push_back(N::UnicodeForm{unicode::Form::nfd});
  } else if (type == "NFKC") {
    out.steps.push_back(N::UnicodeForm{unicode::Form::nfkc});
  } else if (type == "NFKD") {
    out.steps.push_back(N::UnicodeForm{unicode::Form::nfkd});
  } else if (type == "Lowercase") {
    out.steps.push_back(N::Lowercase{});
  } else if (type == "StripAccents") {
    out.steps.push_back(N::StripAccents{});
  } else if (type == "BertNormalizer") {
    N::Bert bert;
    IMPETUS_TRY(bert.clean_text, flag(*object, "clean_text", true));
    IMPETUS_TRY(bert.spaces_around_cjk, flag(*object, "handle_chinese_chars", true));
    IMPETUS_TRY(bert.lowercase, flag(*object, "lowercase", true));
    IMPETUS_TRY(bert.strip_accents, flag(*object, "strip_accents", bert.lowercase));
    out.steps.push_back(bert);
  } else if (type == "Prepend") {
    IMPETUS_TRY(auto text, text_of(*object, "prepend"));
    out.steps.push_back(N::Prepend{std::move(text)});
  } else if (type == "Replace") {
    IMPETUS_TRY(auto pattern, read_pattern(*object));
    IMPETUS_TRY(auto content, text_of(*object, "content"));
    out.steps.push_back(
        N::Replace{std::move(pattern.literal), std::move(pattern.regex), std::move(content)});
  } else if (type == "Strip") {
    N::Strip strip;
    IMPETUS_TRY(strip.left, flag(*object, "strip_left", true));
    IMPETUS_TRY(strip.right, flag(*object, "strip_right", true));
    out.steps.push_back(strip);
  } else {
    return unsupported("normalizer", type);
  }
  return {};
}

Result<SplitBehavior> read_behavior(const json::object& object, SplitBehavior fallback) {
  IMPETUS_TRY(const auto name, string_field(object, "behavior"));
  if (!name) return fallback;
  constexpr std::array<std::pair<std::string_view, SplitBehavior>, 5> names{{
      {"Removed", SplitBehavior::removed},
      {"Isolated", SplitBehavior::isolated},
      {"MergedWithPrevious", SplitBehavior::merged_with_previous},
      {"MergedWithNext", SplitBehavior::merged_with_next},
      {"Contiguous", SplitBehavior::contiguous},
  }};
  for (const auto& [known, behavior] : names) {
    if (*name == known) return behavior;
  }
  return unsupported("splitting behavior", *name);
}

Result<PreTokenizer::Step> read_split(const json::object& object) {
  PreTokenizer::Split split;
  IMPETUS_TRY(auto pattern, read_pattern(object));
  IMPETUS_TRY(split.behavior, read_behavior(object, SplitBehavior::isolated));
  IMPETUS_TRY(split.invert, flag(object, "invert", false));
  // The known patterns cover every text, so isolated matches and removed gaps are the same thing.
  if (pattern.regex) {
    const auto known = known_pattern(pattern.regex->pattern());
    if (known && (split.behavior == SplitBehavior::isolated ||
                  (split.behavior == SplitBehavior::removed && split.invert))) {
      return PreTokenizer::Step(PreTokenizer::Words{*known});
    }
  }
  split.literal = std::move(pattern.literal);
  split.regex = std::move(pattern.regex);
  return PreTokenizer::Step(std::move(split));
}

Result<PreTokenizer::Step> read_metaspace(const json::object& object) {
  using Prepend = PreTokenizer::Metaspace::Prepend;
  PreTokenizer::Metaspace step;
  IMPETUS_TRY(const auto replacement, string_field(object, "replacement"));
  step.replacement = replacement.value_or("\xE2\x96\x81");
  if (step.replacement.empty())
    return error(ErrorCode::corrupt, "Metaspace: \"replacement\" is empty");
  IMPETUS_TRY(const auto scheme, string_field(object, "prepend_scheme"));
  IMPETUS_TRY(const auto legacy, bool_field(object, "add_prefix_space"));
  if (scheme) {
    if (*scheme != "always" && *scheme != "first" && *scheme != "never") {
      return unsupported("Metaspace prepend_scheme", *scheme);
    }
    step.prepend = *scheme == "always"  ? Prepend::always
                   : *scheme == "first" ? Prepend::first
                                        : Prepend::never;
  } else if (legacy) {
    step.prepend = *legacy ? Prepend::always : Prepend::never;
  }
  IMPETUS_TRY(step.split, flag(object, "split", true));
  return PreTokenizer::Step(std::move(step));
}

Result<void> add_pre_tokenizer(const json::value& value, PreTokenizerSection& out, int depth) {
  IMPETUS_TRY(const auto* object, as_object(value, "pre_tokenizer"));
  IMPETUS_TRY(const std::string type, type_of(*object, "pre_tokenizer"));
  auto& steps = out.steps.steps;
  using P = PreTokenizer;
  if (type == "Sequence" && depth < depth_max) {
    IMPETUS_TRY(const auto* list, list_of(*object, "pretokenizers"));
    for (const auto& entry : *list) IMPETUS_CHECK(add_pre_tokenizer(entry, out, depth + 1));
    return {};
  }
  if (steps.size() >= 16)
    return error(ErrorCode::unsupported, "more than 16 pre_tokenizer steps are not supported");
  if (type == "ByteLevel") {
    if (out.byte_level)
      return error(ErrorCode::unsupported, "two ByteLevel pre_tokenizers are not supported");
    P::ByteLevel step;
    IMPETUS_TRY(step.add_prefix_space, flag(*object, "add_prefix_space", true));
    IMPETUS_TRY(step.use_regex, flag(*object, "use_regex", true));
    steps.push_back(step);
    out.byte_level = true;
  } else if (type == "Split") {
    IMPETUS_TRY(auto step, read_split(*object));
    steps.push_back(std::move(step));
  } else if (type == "Digits") {
    IMPETUS_TRY(const bool individual, flag(*object, "individual_digits", false));
    steps.push_back(P::Characters{
        unicode::number, false, individual ? SplitBehavior::isolated : SplitBehavior::contiguous});
  } else if (type == "Punctuation") {
    P::Characters step{unicode::punctuation, true, SplitBehavior::isolated};
    IMPETUS_TRY(step.behavior, read_behavior(*object, SplitBehavior::isolated));
    steps.push_back(step);
  } else if (type == "WhitespaceSplit") {
    steps.push_back(P::Characters{unicode::space, false, SplitBehavior::removed});
  } else if (type == "Whitespace") {
    steps.push_back(P::WordRuns{});
  } else if (type == "BertPreTokenizer") {
    steps.push_back(P::Bert{});
  } else if (type == "Metaspace") {
    if (out.byte_level)
      return error(ErrorCode::unsupported, "Metaspace after ByteLevel is not supported");
    IMPETUS_TRY(auto step, read_metaspace(*object));
    steps.push_back(std::move(step));
  } else {
    return unsupported("pre_tokenizer", type);
  }
  return {};
}

struct DecoderSteps {
  std::vector<const json::object*> list;
};

Result<void> flatten(const json::value& value, DecoderSteps& out, int depth) {
  IMPETUS_TRY(const auto* object, as_object(value, "decoder"));
  IMPETUS_TRY(const std::string type, type_of(*object, "decoder"));
  if (type == "Sequence" && depth < depth_max) {
    IMPETUS_TRY(const auto* list, list_of(*object, "decoders"));
    for (const auto& entry : *list) IMPETUS_CHECK(flatten(entry, out, depth + 1));
    return {};
  }
  out.list.push_back(object);
  return {};
}

Result<void> add_decoder(const json::object& object, const std::string& type, bool fused,
                         TokenDecoder& out) {
  using Style = TokenDecoder::Style;
  if (type == "Replace") {
    const json::value* value = section(object, "pattern");
    if (value == nullptr)
      return error(ErrorCode::corrupt, "decoder Replace: \"pattern\" is missing");
    IMPETUS_TRY(const auto* pattern, as_object(*value, "decoder Replace: pattern"));
    if (section(*pattern, "Regex")) return unsupported("decoder", "Replace with a Regex");
    IMPETUS_TRY(auto what, text_of(*pattern, "String"));
    IMPETUS_TRY(auto with, text_of(object, "content"));
    if (what.empty()) return error(ErrorCode::corrupt, "decoder Replace: the pattern is empty");
    if (out.byte_fallback || fused)
      return unsupported("decoder", "Replace after ByteFallback or Fuse");
    out.replacements.emplace_back(std::move(what), std::move(with));
  } else if (type == "Metaspace") {
    IMPETUS_TRY(const auto step, read_metaspace(object));
    const auto& metaspace = std::get<PreTokenizer::Metaspace>(step);
    out.replacements.emplace_back(metaspace.replacement, " ");
    if (metaspace.prepend != PreTokenizer::Metaspace::Prepend::never)
      out.first_without = metaspace.replacement;
  } else if (type == "ByteFallback") {
    out.byte_fallback = true;
  } else if (type == "Strip") {
    IMPETUS_TRY(const auto content, text_of(object, "content"));
    IMPETUS_TRY(const auto start, int_field(object, "start"));
    IMPETUS_TRY(const auto stop, int_field(object, "stop"));
    if (!fused) return unsupported("decoder", "Strip before Fuse");
    if (stop.value_or(0) != 0) return unsupported("decoder", "Strip with a stop");
    if (!out.strip.empty()) return unsupported("decoder", "Strip twice");
    out.strip = content;
    out.strip_max = static_cast<int>(std::clamp<int64_t>(start.value_or(0), 0, 1 << 20));
  } else {
    return unsupported("decoder", type);
  }
  out.style = Style::pieces;
  return {};
}

// "$A", or {"Sequence": {"id": "A"}}, {"SpecialToken": {"id": "[CLS]"}}.
Result<Surround> read_template(const json::object& object, const Vocabulary& vocabulary) {
  Surround around;
  IMPETUS_TRY(const auto* single, list_of(object, "single"));
  const json::value* specials = section(object, "special_tokens");
  bool met_text = false;
  for (const auto& entry : *single) {
    IMPETUS_TRY(const auto* piece, as_object(entry, "TemplateProcessing: single"));
    if (section(*piece, "Sequence")) {
      if (met_text) return unsupported("post_processor", "TemplateProcessing with the text twice");
      met_text = true;
      continue;
    }
    const json::value* special = section(*piece, "SpecialToken");
    if (special == nullptr)
      return error(ErrorCode::corrupt, "TemplateProcessing: single has an unknown entry");
    IMPETUS_TRY(const auto* named, as_object(*special, "TemplateProcessing: SpecialToken"));
    IMPETUS_TRY(const auto name, text_of(*named, "id"));
    auto& side = met_text ? around.suffix : around.prefix;
    const json::value* known =
        specials && specials->is_object() ? section(specials->get_object(), name) : nullptr;
    if (known == nullptr || !known->is_object()) {
      return error(ErrorCode::corrupt, "TemplateProcessing: special_tokens lacks \"{}\"", name);
    }
    IMPETUS_TRY(const auto* ids, list_of(known->get_object(), "ids"));
    for (const auto& id : *ids) {
      if (!id.is_int64() || id.get_int64() < 0 || id.get_int64() >= vocabulary.size()) {
        return error(ErrorCode::corrupt,
                     "TemplateProcessing: an id of \"{}\" is outside the vocabulary", name);
      }
      side.push_back(static_cast<TokenId>(id.get_int64()));
    }
  }
  if (!met_text) return error(ErrorCode::corrupt, "TemplateProcessing: single lacks the text");
  return around;
}

// ["[SEP]", 102]
Result<TokenId> read_pair(const json::object& object, std::string_view key,
                          const Vocabulary& vocabulary) {
  const json::value* value = section(object, key);
  if (value == nullptr || !value->is_array() || value->get_array().size() != 2 ||
      !value->get_array()[1].is_int64()) {
    return error(ErrorCode::corrupt, "post_processor: \"{}\" must be [text, id]", key);
  }
  const int64_t id = value->get_array()[1].get_int64();
  if (id < 0 || id >= vocabulary.size()) {
    return error(ErrorCode::corrupt, "post_processor: \"{}\" has the id {}, outside the vocabulary",
                 key, id);
  }
  return static_cast<TokenId>(id);
}

Result<void> add_post_processor(const json::value& value, const Vocabulary& vocabulary,
                                Surround& out, bool& done, int depth) {
  IMPETUS_TRY(const auto* object, as_object(value, "post_processor"));
  IMPETUS_TRY(const std::string type, type_of(*object, "post_processor"));
  if (type == "ByteLevel") return {};  // moves offsets only
  if (type == "Sequence" && depth < depth_max) {
    IMPETUS_TRY(const auto* list, list_of(*object, "processors"));
    for (const auto& entry : *list) {
      IMPETUS_CHECK(add_post_processor(entry, vocabulary, out, done, depth + 1));
    }
    return {};
  }
  if (done) return unsupported("post_processor", "a second one that adds tokens");
  done = true;
  if (type == "TemplateProcessing") {
    IMPETUS_TRY(out, read_template(*object, vocabulary));
  } else if (type == "BertProcessing" || type == "RobertaProcessing") {
    IMPETUS_TRY(const TokenId sep, read_pair(*object, "sep", vocabulary));
    IMPETUS_TRY(const TokenId cls, read_pair(*object, "cls", vocabulary));
    out = {{cls}, {sep}};
  } else {
    return unsupported("post_processor", type);
  }
  return {};
}

}  // namespace

Result<Normalizer> read_normalizer(const json::value* value) {
  Normalizer normalizer;
  if (value != nullptr) IMPETUS_CHECK(add_normalizer(*value, normalizer, 0));
  return normalizer;
}

Result<PreTokenizerSection> read_pre_tokenizer(const json::value* value) {
  PreTokenizerSection section_read;
  if (value != nullptr) IMPETUS_CHECK(add_pre_tokenizer(*value, section_read, 0));
  // Words are bytes at the end anyway: a last ByteLevel need not spell them.
  auto& steps = section_read.steps.steps;
  if (!steps.empty()) {
    if (const auto* last = std::get_if<PreTokenizer::ByteLevel>(&steps.back());
        last && !last->add_prefix_space) {
      const bool use_regex = last->use_regex;
      steps.pop_back();
      if (use_regex) steps.push_back(PreTokenizer::Words{WordPattern::gpt2});
    }
  }
  return section_read;
}

Result<TokenDecoder> read_decoder(const json::value* value) {
  TokenDecoder decoder;
  decoder.style = TokenDecoder::Style::spaced;
  if (value == nullptr) return decoder;
  DecoderSteps steps;
  IMPETUS_CHECK(flatten(*value, steps, 0));
  if (steps.list.empty()) return unsupported("decoder", "an empty Sequence");
  bool fused = false;
  for (const auto* object : steps.list) {
    IMPETUS_TRY(const std::string type, type_of(*object, "decoder"));
    if (type == "ByteLevel" || type == "WordPiece") {
      if (steps.list.size() != 1) return unsupported("decoder", type + " in a Sequence");
      decoder.style =
          type == "ByteLevel" ? TokenDecoder::Style::byte_level : TokenDecoder::Style::wordpiece;
      IMPETUS_TRY(const auto prefix, string_field(*object, "prefix"));
      decoder.continuation = prefix.value_or("##");
      IMPETUS_TRY(decoder.cleanup, flag(*object, "cleanup", true));
    } else if (type == "Fuse") {
      fused = true;
      decoder.style = TokenDecoder::Style::pieces;
    } else {
      IMPETUS_CHECK(add_decoder(*object, type, fused, decoder));
    }
  }
  return decoder;
}

Result<Surround> read_post_processor(const json::value* value, const Vocabulary& vocabulary) {
  Surround around;
  bool done = false;
  if (value != nullptr) IMPETUS_CHECK(add_post_processor(*value, vocabulary, around, done, 0));
  return around;
}

}  // namespace impetus::tokenizer_json

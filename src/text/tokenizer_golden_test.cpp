// Ids against the reference implementations' own, for every vocabulary in the test data.
#include "text/tokenizer_test_util.h"

namespace impetus {
namespace {

using namespace testing;

std::vector<std::string> parts_of(std::string_view text, std::string_view separator) {
  std::vector<std::string> parts;
  for (size_t at = 0; at <= text.size();) {
    const size_t end = std::min(text.find(separator, at), text.size());
    parts.emplace_back(text.substr(at, end - at));
    at = end + separator.size();
  }
  return parts;
}

// llama.cpp's pairs: texts between separator lines, ids one line a text.
void expect_pairs(const Tokenizer& tokenizer, const fs::path& inputs, const fs::path& outputs) {
  const auto texts = parts_of(read_text(inputs), "\n__ggml_vocab_test__\n");
  const auto lines = parts_of(read_text(outputs), "\n");
  ASSERT_GT(texts.size(), 30u) << inputs;
  ASSERT_GE(lines.size(), texts.size());
  for (size_t i = 0; i < texts.size(); ++i) {
    std::vector<TokenId> expected;
    std::istringstream numbers(lines[i]);
    for (TokenId id; numbers >> id;) expected.push_back(id);
    EXPECT_EQ(tokenizer.encode(texts[i]), expected)
        << inputs << " case " << i << ": \"" << texts[i] << '"';
  }
}

class GgufPairs : public ::testing::TestWithParam<const char*> {};

TEST_P(GgufPairs, IdsAreExact) {
  IMPETUS_NEED_DATA(tokenizer_data() / "gguf-vocab.tar.xz");
  const auto base = (gguf_vocabularies() / "ggml-vocab-").string() + GetParam() + ".gguf";
  const auto file = GgufFile::open(base);
  ASSERT_TRUE(file.ok()) << file.error().message;
  const auto tokenizer = must(load_tokenizer(*file));
  ASSERT_TRUE(tokenizer);
  expect_pairs(*tokenizer, base + ".inp", base + ".out");
}

INSTANTIATE_TEST_SUITE_P(Vocabularies, GgufPairs,
                         ::testing::Values("llama-spm", "gpt-2", "bert-bge", "falcon", "mpt",
                                           "refact", "deepseek-coder"),
                         [](const auto& test) {
                           std::string name = test.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

TEST(TokenizerGolden, GgufPairsOfLlamaBpe) {
  IMPETUS_NEED_DATA(tokenizer_data() / "llama3");
  const auto tokenizer = must(llama3_gguf().load());
  ASSERT_TRUE(tokenizer);
  const auto base = (gguf_vocabularies() / "ggml-vocab-llama-bpe.gguf").string();
  expect_pairs(*tokenizer, base + ".inp", base + ".out");
  EXPECT_EQ(tokenizer->encode("Hi", {.add_special = true}).front(), 128000);
  EXPECT_TRUE(tokenizer->special().add_bos);
  EXPECT_EQ(tokenizer->special().end_of_generation, (std::vector<TokenId>{128001, 128009}));
  EXPECT_EQ(tokenizer->encode("<|eot_id|>", {.parse_special = true}), std::vector<TokenId>{128009});
  EXPECT_GT(tokenizer->encode("<|eot_id|>").size(), 1u);
}

TEST(TokenizerGolden, GgufPairsOfQwen2) {
  IMPETUS_NEED_DATA(tokenizer_data() / "qwen2.5");
  const auto base = (gguf_vocabularies() / "ggml-vocab-qwen2.gguf").string();
  const auto folder = load_qwen2();
  ASSERT_TRUE(folder);
  expect_pairs(*folder, base + ".inp", base + ".out");

  const auto data = tokenizer_data() / "qwen2.5";
  const auto source = read_vocab_and_merges(data / "vocab.json", data / "merges.txt");
  GgufBytes gguf;
  gguf.text("tokenizer.ggml.model", "gpt2");
  gguf.text("tokenizer.ggml.pre", "qwen2");
  gguf.texts("tokenizer.ggml.tokens", source.pieces);
  gguf.texts("tokenizer.ggml.merges", source.merges);
  const auto tokenizer = must(gguf.load());
  ASSERT_TRUE(tokenizer);
  expect_pairs(*tokenizer, base + ".inp", base + ".out");
}

TEST(TokenizerGolden, BaichuanLoadsAndComesBack) {
  IMPETUS_NEED_DATA(tokenizer_data() / "gguf-vocab.tar.xz");
  const auto file = GgufFile::open(gguf_vocabularies() / "ggml-vocab-baichuan.gguf");
  ASSERT_TRUE(file.ok());
  const auto tokenizer = must(load_tokenizer(*file));
  ASSERT_TRUE(tokenizer);
  const std::string text = "Hello, 你好 world 123\n\t\xF0\x9F\x98\x80";
  EXPECT_EQ(tokenizer->decode(tokenizer->encode(text)), text);
}

void expect_multilingual(const Tokenizer& tokenizer, const char* name, bool decodes_exactly) {
  const auto folder = tokenizer_data() / "multilingual";
  const auto inputs = read_json_file((folder / "inputs.json").string());
  const auto golden =
      read_json_file((folder / (std::string(name) + "_multilingual.json")).string());
  ASSERT_TRUE(inputs.ok() && golden.ok());
  const auto& entries = golden->at("entries").as_array();
  ASSERT_EQ(entries.size(), inputs->as_array().size());
  ASSERT_EQ(entries.size(), 83u);
  for (size_t i = 0; i < entries.size(); ++i) {
    const auto& input = inputs->as_array()[i].as_object();
    ASSERT_EQ(input.at("id"), entries[i].at("id"));
    const std::string text(input.at("text").as_string());
    const auto expected = json::value_to<std::vector<TokenId>>(entries[i].at("input_ids"));
    const auto ids = tokenizer.encode(text, {.add_special = true, .parse_special = true});
    EXPECT_EQ(ids, expected) << name << " case " << i << ": " << text;
    if (!decodes_exactly) continue;
    EXPECT_EQ(tokenizer.decode(expected), entries[i].at("decoded_skip_special").as_string()) << i;
    EXPECT_EQ(tokenizer.decode(expected, true), entries[i].at("decoded_with_special").as_string())
        << i;
  }
}

TEST(TokenizerGolden, MultilingualGpt2) {
  IMPETUS_NEED_DATA(tokenizer_data() / "gpt2");
  const auto tokenizer = load_gpt2();
  ASSERT_TRUE(tokenizer);
  expect_multilingual(*tokenizer, "gpt2", true);
}

TEST(TokenizerGolden, MultilingualQwen2) {
  IMPETUS_NEED_DATA(tokenizer_data() / "qwen2.5");
  const auto tokenizer = load_qwen2();
  ASSERT_TRUE(tokenizer);
  expect_multilingual(*tokenizer, "qwen2_5", true);
}

TEST(TokenizerGolden, MultilingualLlama2) {
  IMPETUS_NEED_DATA(tokenizer_data() / "llama2");
  const auto tokenizer = load_llama2();
  ASSERT_TRUE(tokenizer);
  expect_multilingual(*tokenizer, "tinyllama", true);
}

TEST(TokenizerGolden, MultilingualBert) {
  IMPETUS_NEED_DATA(tokenizer_data() / "bert-uncased");
  const auto tokenizer = load_bert();
  ASSERT_TRUE(tokenizer);
  expect_multilingual(*tokenizer, "bge_small", true);
}

TEST(TokenizerGolden, TinyCases) {
  IMPETUS_NEED_DATA(tokenizer_data() / "tiny_tokenizer_cases.json");
  const auto document = read_json_file((tokenizer_data() / "tiny_tokenizer_cases.json").string());
  ASSERT_TRUE(document.ok()) << document.error().message;
  int kinds = 0;
  for (const auto& [kind, value] : document->as_object()) {
    const std::string name(value.at("tokenizer").as_string());
    const TemporaryFolder folder;
    folder.copy(tokenizer_data() / name,
                name.ends_with(".model") ? "tokenizer.model" : "tokenizer.json");
    const auto loaded = load_tokenizer(folder.path());
    if (kind == "unigram" || kind == "spm_model" || kind == "spm_bytefallback") {
      ASSERT_FALSE(loaded.ok()) << kind;
      EXPECT_EQ(loaded.error().code, ErrorCode::unsupported);
      EXPECT_TRUE(loaded.error().message.find("nigram") != std::string::npos)
          << loaded.error().message;
      continue;
    }
    ASSERT_TRUE(loaded.ok()) << kind << ": " << loaded.error().message;
    ++kinds;
    for (const auto& entry : value.at("cases").as_array()) {
      const std::string text(entry.at("text").as_string());
      const auto expected = json::value_to<std::vector<TokenId>>(entry.at("ids"));
      EXPECT_EQ((*loaded)->encode(text, {.parse_special = true}), expected) << kind << ": " << text;
      EXPECT_EQ((*loaded)->decode(expected), entry.at("decoded").as_string())
          << kind << ": " << text;
    }
  }
  EXPECT_EQ(kinds, 15);
}

// tests/golden/make_tokenizer_cases.py made them with Hugging Face tokenizers 0.23.3.
TEST(TokenizerGolden, EveryShapeOfTokenizerJson) {
  const auto document =
      read_json_file(std::string(IMPETUS_SOURCE_DIR) + "/tests/golden/tokenizer_cases.json");
  ASSERT_TRUE(document.ok()) << document.error().message;
  ASSERT_GE(document->as_array().size(), 25u);
  for (const auto& entry : document->as_array()) {
    const std::string name(entry.at("name").as_string());
    const TemporaryFolder folder;
    folder.write("tokenizer.json", json::serialize(entry.at("tokenizer")));
    const auto tokenizer = must(load_tokenizer(folder.path()));
    ASSERT_TRUE(tokenizer) << name;
    for (const auto& example : entry.at("examples").as_array()) {
      const std::string text(example.at("text").as_string());
      const auto expected = json::value_to<std::vector<TokenId>>(example.at("ids"));
      EXPECT_EQ(tokenizer->encode(text, {.add_special = true, .parse_special = true}), expected)
          << name << ": " << text;
      EXPECT_EQ(tokenizer->decode(expected), example.at("decoded").as_string())
          << name << ": " << text;
    }
  }
}

TEST(TokenizerGolden, TinyStories) {
  const auto folder = test_data() / "models" / "tinystories-656k";
  IMPETUS_NEED_DATA(folder);
  const auto tokenizer = must(load_tokenizer(folder));
  ASSERT_TRUE(tokenizer);
  EXPECT_EQ(tokenizer->special().bos, 1);
  EXPECT_TRUE(tokenizer->special().add_bos);
  EXPECT_EQ(tokenizer->special().end_of_generation, std::vector<TokenId>{2});
  const std::string text = "Once upon a time, there was a little girl.";
  EXPECT_EQ(tokenizer->decode(tokenizer->encode(text, {.add_special = true})), text);
}

}  // namespace
}  // namespace impetus

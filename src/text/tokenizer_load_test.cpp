// What files may say, and how the loaders refuse what they must.
#include "text/tokenizer_test_util.h"

namespace impetus {
namespace {

using namespace testing;

// A small byte-level model; sections replace its own.
std::string tokenizer_json(const std::string& model = "", const std::string& sections = "") {
  const std::string usual =
      R"({"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2, "Ġ": 3, "<e>": 4}, "merges": ["a b"], "unk_token": null})";
  return R"({"model": )" + (model.empty() ? usual : model) +
         (sections.empty() ? "" : ", " + sections) + "}";
}

constexpr const char* byte_level =
    R"("pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false}, "decoder": {"type": "ByteLevel"})";

Result<std::unique_ptr<Tokenizer>> load(
    const std::string& json, const std::vector<std::pair<std::string, std::string>>& others = {}) {
  const TemporaryFolder folder;
  folder.write("tokenizer.json", json);
  for (const auto& [name, text] : others) folder.write(name, text);
  return load_tokenizer(folder.path());
}

TEST(TokenizerLoad, RefusesBrokenFilesNamingFileAndEntry) {
  const struct {
    std::string json;
    const char* says;
  } cases[] = {
      {"", "JSON"},
      {"[]", "must be an object"},
      {"{}", "\"model\" is missing"},
      {R"({"model": {"type": "Unigram", "vocab": []}})", "\"Unigram\" is not supported"},
      {tokenizer_json(R"({"type": "BPE", "vocab": {}, "merges": []})"), "empty"},
      {tokenizer_json(R"({"type": "BPE", "vocab": {"a": -1}, "merges": []})"),
       "\"a\" has the id -1"},
      {tokenizer_json(R"({"type": "BPE", "vocab": {"a": 99999999999}, "merges": []})"),
       "99999999999"},
      {tokenizer_json(R"({"type": "BPE", "vocab": {"a": 18446744073709551615}, "merges": []})"),
       "\"a\""},
      {tokenizer_json(R"({"type": "BPE", "vocab": {"a": "x"}, "merges": []})"), "\"a\""},
      {tokenizer_json(R"({"type": "BPE", "vocab": {"a": 0, "b": 0}, "merges": []})"),
       "both have the id 0"},
      {tokenizer_json(R"({"type": "BPE", "vocab": {"a": 0}, "merges": ["a z"]})"), "names \"z\""},
      {tokenizer_json(R"({"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": ["a b"]})"),
       "names \"ab\""},
      {tokenizer_json(R"({"type": "BPE", "vocab": {"a": 0}, "merges": ["a"]})"), "merges[0]"},
      {tokenizer_json(R"({"type": "BPE", "vocab": {"a": 0}, "merges": [["a", 1]]})"), "merges[0]"},
      {tokenizer_json(R"({"type": "BPE", "vocab": {"a": 0}})"), "merges"},
      {tokenizer_json(R"({"type": "BPE", "vocab": {"a": 0}, "merges": [], "dropout": 0.1})"),
       "dropout"},
      {tokenizer_json(
           R"({"type": "BPE", "vocab": {"a": 0}, "merges": [], "end_of_word_suffix": "</w>"})"),
       "end_of_word_suffix"},
      {tokenizer_json(R"({"type": "BPE", "vocab": {"a": 0}, "merges": [], "unk_token": "<unk>"})"),
       "<unk>"},
      {tokenizer_json("", R"("normalizer": {"type": "Precompiled", "precompiled_charsmap": ""})"),
       "\"Precompiled\""},
      {tokenizer_json("", R"("normalizer": {"type": "Nmt"})"), "\"Nmt\""},
      {tokenizer_json("", R"("normalizer": {"type": "Sequence", "normalizers": [{"type": "X"}]})"),
       "\"X\""},
      {tokenizer_json("", R"("pre_tokenizer": {"type": "UnicodeScripts"})"), "\"UnicodeScripts\""},
      {tokenizer_json(
           "",
           R"("pre_tokenizer": {"type": "Split", "pattern": {"Regex": "(a+)+"}, "behavior": "Isolated"})"),
       "(a+)+"},
      {tokenizer_json(
           "",
           R"("pre_tokenizer": {"type": "Split", "pattern": {"String": "a"}, "behavior": "Odd"})"),
       "\"Odd\""},
      {tokenizer_json("", R"("decoder": {"type": "CTC"})"), "\"CTC\""},
      {tokenizer_json("", R"("decoder": {"type": "Replace", "content": " "})"), "pattern"},
      {tokenizer_json("", R"("post_processor": {"type": "Odd"})"), "\"Odd\""},
      {tokenizer_json(
           "",
           R"("post_processor": {"type": "BertProcessing", "sep": ["x", 900], "cls": ["y", 1]})"),
       "900"},
      {tokenizer_json("", R"("added_tokens": [{"id": -4, "content": "x"}])"), "added_tokens[0]"},
      {tokenizer_json("", R"("added_tokens": [{"id": 1, "content": "x"}])"), "both have the id 1"},
      {tokenizer_json("", R"("added_tokens": [{"id": 9, "content": "a"}])"), "occurs twice"},
  };
  for (const auto& test : cases) {
    const auto tokenizer = load(test.json);
    ASSERT_FALSE(tokenizer.ok()) << test.json;
    EXPECT_NE(tokenizer.error().message.find(test.says), std::string::npos)
        << tokenizer.error().message << "\nfor " << test.json;
    EXPECT_NE(tokenizer.error().message.find("tokenizer.json"), std::string::npos)
        << tokenizer.error().message;
  }
}

TEST(TokenizerLoad, AnEmptyFolderIsNotFound) {
  const TemporaryFolder folder;
  const auto tokenizer = load_tokenizer(folder.path());
  ASSERT_FALSE(tokenizer.ok());
  EXPECT_EQ(tokenizer.error().code, ErrorCode::not_found);
}

TEST(TokenizerLoad, HolesInTheVocabularyAreNoTokens) {
  const auto tokenizer = must(load(
      tokenizer_json(R"({"type": "BPE", "vocab": {"a": 5, "b": 0}, "merges": []})", byte_level)));
  ASSERT_TRUE(tokenizer);
  EXPECT_EQ(tokenizer->vocab_size(), 6);
  EXPECT_EQ(tokenizer->piece(3), "");
  EXPECT_EQ(tokenizer->token_bytes(3), "");
  EXPECT_FALSE(tokenizer->find("").has_value());
  EXPECT_EQ(tokenizer->encode("ab"), (std::vector<TokenId>{5, 0}));
}

TEST(TokenizerLoad, SpecialTokensFromCompanions) {
  const std::string model =
      R"({"type": "BPE", "vocab": {"a": 0, "b": 1, "<s>": 2, "</s>": 3, "<|im_end|>": 4, "<|eot_id|>": 5}, "merges": []})";
  const std::string added =
      std::string(byte_level) +
      R"(, "added_tokens": [{"id": 2, "content": "<s>", "special": true}, {"id": 3, "content": "</s>", "special": true},
          {"id": 4, "content": "<|im_end|>", "special": true}])";
  const auto tokenizer = must(load(
      tokenizer_json(model, added),
      {{"tokenizer_config.json", R"({"add_bos_token": true, "eos_token": {"content": "</s>"}})"},
       {"special_tokens_map.json", R"({"bos_token": "<s>"})"},
       {"generation_config.json", R"({"eos_token_id": [3, 1]})"}}));
  ASSERT_TRUE(tokenizer);
  const auto& special = tokenizer->special();
  EXPECT_EQ(special.bos, 2);
  EXPECT_EQ(special.eos, 3);
  EXPECT_TRUE(special.add_bos);
  // <|eot_id|> is no control token here, so it ends nothing.
  EXPECT_EQ(special.end_of_generation, (std::vector<TokenId>{1, 3, 4}));
  EXPECT_EQ(tokenizer->encode("a", {.add_special = true}), (std::vector<TokenId>{2, 0}));
  EXPECT_EQ(tokenizer->decode(std::vector<TokenId>{2, 0, 3}), "a");
  EXPECT_EQ(tokenizer->decode(std::vector<TokenId>{2, 0, 3}, true), "<s>a</s>");

  const auto wrong = load(tokenizer_json(model, added),
                          {{"generation_config.json", R"({"eos_token_id": [3, 77]})"}});
  ASSERT_FALSE(wrong.ok());
  EXPECT_NE(wrong.error().message.find("generation_config.json: eos_token_id[1] is 77"),
            std::string::npos)
      << wrong.error().message;
}

TEST(TokenizerLoad, AddedTokensTakeTheirSurroundings) {
  const std::string model =
      R"({"type": "BPE", "vocab": {"a": 0, "b": 1, "Ġ": 2, "Ċ": 3}, "merges": []})";
  const std::string added =
      std::string(byte_level) +
      R"(, "added_tokens": [{"id": 4, "content": "<l>", "lstrip": true, "special": true},
          {"id": 5, "content": "<r>", "rstrip": true, "special": true},
          {"id": 6, "content": "bb", "single_word": true, "special": false},
          {"id": 7, "content": "aaa", "special": false}, {"id": 8, "content": "aa", "special": false}])";
  const auto tokenizer = must(load(tokenizer_json(model, added)));
  ASSERT_TRUE(tokenizer);
  const auto ids = [&](std::string_view text) {
    return tokenizer->encode(text, {.parse_special = true});
  };
  using Ids = std::vector<TokenId>;
  EXPECT_EQ(ids("a \n<l> b"), (Ids{0, 4, 2, 1}));
  EXPECT_EQ(ids("a <r> \nb"), (Ids{0, 2, 5, 1}));
  EXPECT_EQ(ids(" <r> <l>"), (Ids{2, 5, 4}));
  EXPECT_EQ(ids("abb bb"), (Ids{0, 1, 1, 2, 6}));
  EXPECT_EQ(ids("aaaaa"), (Ids{7, 8}));         // leftmost, then longest
  EXPECT_EQ(tokenizer->encode("aaa"), Ids{7});  // not special: found always
}

TEST(TokenizerLoad, GgufRefusals) {
  const auto base = [] {
    GgufBytes gguf;
    gguf.text("tokenizer.ggml.model", "gpt2");
    gguf.text("tokenizer.ggml.pre", "gpt-2");
    return gguf;
  };
  const auto says = [](const GgufBytes& gguf, std::string_view what) {
    const auto tokenizer = gguf.load();
    ASSERT_FALSE(tokenizer.ok()) << what;
    EXPECT_NE(tokenizer.error().message.find(what), std::string::npos) << tokenizer.error().message;
    EXPECT_NE(tokenizer.error().message.find("made.gguf"), std::string::npos)
        << tokenizer.error().message;
  };
  says(GgufBytes(), "tokenizer.ggml.model is missing");
  says(base(), "tokenizer.ggml.tokens is missing");
  GgufBytes unknown;
  unknown.text("tokenizer.ggml.model", "t5");
  says(unknown, "\"t5\"");
  auto gguf = base();
  gguf.texts("tokenizer.ggml.tokens", {"a", "b"});
  says(gguf, "merges is missing");
  gguf.texts("tokenizer.ggml.merges", {"a b"});
  says(gguf, "names \"ab\"");
  gguf = base();
  gguf.texts("tokenizer.ggml.tokens", {"a", "a"});
  says(gguf, "occurs twice");
  gguf = base();
  gguf.texts("tokenizer.ggml.tokens", {"a", "b"});
  gguf.integers("tokenizer.ggml.token_type", {1});
  says(gguf, "1 entries for 2 tokens");
  gguf = base();
  gguf.texts("tokenizer.ggml.tokens", {"a", "b"});
  gguf.integers("tokenizer.ggml.token_type", {1, 9});
  says(gguf, "token_type[1] is 9");
  gguf = base();
  gguf.texts("tokenizer.ggml.tokens", {"a", "b"});
  gguf.texts("tokenizer.ggml.merges", {});
  gguf.integer("tokenizer.ggml.eos_token_id", 7);
  says(gguf, "eos_token_id is 7");
  GgufBytes pre;
  pre.text("tokenizer.ggml.model", "gpt2");
  pre.text("tokenizer.ggml.pre", "tekken");
  pre.texts("tokenizer.ggml.tokens", {"a", "b"});
  pre.texts("tokenizer.ggml.merges", {});
  says(pre, "\"tekken\" is not supported");
  GgufBytes spm;
  spm.text("tokenizer.ggml.model", "llama");
  spm.texts("tokenizer.ggml.tokens", {"a", "b"});
  says(spm, "scores has 0 entries");
}

TEST(TokenizerLoad, UserDefinedGgufTokensAreFoundControlOnesOnRequest) {
  GgufBytes gguf;
  gguf.text("tokenizer.ggml.model", "llama");
  gguf.texts("tokenizer.ggml.tokens", {"<unk>", "<s>", "</s>", "\xE2\x96\x81", "a",
                                       "\xE2\x96\x81"
                                       "a",
                                       "<tool>", "aa"});
  gguf.numbers("tokenizer.ggml.scores", {0, 0, 0, -5, -5, -1, 0, -2});
  gguf.integers("tokenizer.ggml.token_type", {2, 3, 3, 1, 1, 1, 4, 1});
  gguf.integer("tokenizer.ggml.bos_token_id", 1);
  gguf.integer("tokenizer.ggml.eos_token_id", 2);
  const auto tokenizer = must(gguf.load());
  ASSERT_TRUE(tokenizer);
  using Ids = std::vector<TokenId>;
  EXPECT_EQ(tokenizer->encode("aa"), (Ids{5, 4}));  // the higher score first
  EXPECT_EQ(tokenizer->encode("aaa"), (Ids{5, 7}));
  EXPECT_EQ(tokenizer->encode("a<tool>a"), (Ids{5, 6, 5}));
  EXPECT_EQ(tokenizer->encode("</s>"), (Ids{3, 0}));  // unknown characters, fused
  EXPECT_EQ(tokenizer->encode("</s>", {.add_special = true, .parse_special = true}), (Ids{1, 2}));
  EXPECT_EQ(tokenizer->decode(Ids{1, 5, 4, 6, 2}), "aa<tool>");
}

}  // namespace
}  // namespace impetus

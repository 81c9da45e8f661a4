#include <gtest/gtest.h>

#include "architectures/model_spec.h"
#include "tests/support/tiny_models.h"

namespace impetus {
namespace {

using testing::TempFolder;

constexpr std::string_view kModules =
    R"([{"idx":0,"name":"0","path":"","type":"sentence_transformers.models.Transformer"},
        {"idx":1,"name":"1","path":"1_Pooling","type":"sentence_transformers.models.Pooling"},
        {"idx":2,"name":"2","path":"2_Normalize","type":"sentence_transformers.models.Normalize"}])";
constexpr std::string_view kTwoModules =
    R"([{"path":"","type":"sentence_transformers.models.Transformer"},
        {"path":"1_Pooling","type":"sentence_transformers.models.Pooling"}])";
constexpr std::string_view kMean =
    R"({"word_embedding_dimension":32,"pooling_mode_cls_token":false,
        "pooling_mode_mean_tokens":true,"pooling_mode_max_tokens":false})";

class SentenceTransformers : public ::testing::Test {
 protected:
  void SetUp() override {
    spec_ = *spec_from_config(parse_json(testing::kTinyBertConfig)->get_object());
    folder_.write("modules.json", kModules);
    folder_.write("1_Pooling/config.json", kMean);
  }
  void pooling(const char* text) { folder_.write("1_Pooling/config.json", text); }
  std::string apply() {
    const auto applied = apply_sentence_transformers(folder_.path(), spec_);
    return applied.ok() ? "" : applied.error().message;
  }
  void expect_refused(const std::vector<std::string>& parts) {
    const ModelSpec before = spec_;
    const std::string message = apply();
    EXPECT_TRUE(message.starts_with(folder_.path().string())) << message;
    for (const std::string& part : parts) {
      EXPECT_NE(message.find(part), std::string::npos) << part << " in: " << message;
    }
    EXPECT_EQ(spec_.pooling, before.pooling) << "half a folder leaves the spec alone";
    EXPECT_EQ(spec_.sequence_length_max, before.sequence_length_max);
  }

  TempFolder folder_;
  ModelSpec spec_;
};

TEST_F(SentenceTransformers, MeanClsNormalizeAndLength) {
  EXPECT_EQ(apply(), "");
  EXPECT_EQ(spec_.pooling, Pooling::mean);
  EXPECT_TRUE(spec_.normalize);
  EXPECT_EQ(spec_.sequence_length_max, 16);

  folder_.write("modules.json", kTwoModules);
  folder_.write("sentence_bert_config.json", R"({"max_seq_length":8,"do_lower_case":false})");
  pooling(R"({"pooling_mode_cls_token":true,"pooling_mode_mean_tokens":false})");
  EXPECT_EQ(apply(), "");
  EXPECT_EQ(spec_.pooling, Pooling::cls);
  EXPECT_FALSE(spec_.normalize);
  EXPECT_EQ(spec_.sequence_length_max, 8);

  folder_.write("sentence_bert_config.json", R"({"max_seq_length":512})");
  EXPECT_EQ(apply(), "");
  EXPECT_EQ(spec_.sequence_length_max, 16) << "never past the positions there are";
  folder_.write("sentence_bert_config.json", R"({"max_seq_length":null})");
  pooling(R"({"pooling_mode":"mean"})");
  EXPECT_EQ(apply(), "");
  EXPECT_EQ(spec_.pooling, Pooling::mean);
}

TEST_F(SentenceTransformers, WithoutModulesTheSpecStays) {
  std::filesystem::remove(folder_.path() / "modules.json");
  EXPECT_EQ(apply(), "");
  EXPECT_EQ(spec_.pooling, Pooling::mean);
  EXPECT_TRUE(spec_.normalize);
}

TEST_F(SentenceTransformers, RefusesByName) {
  pooling(R"({"pooling_mode_max_tokens":true})");
  expect_refused({"1_Pooling/config.json", "max_tokens", "mean and cls"});
  pooling(R"({"pooling_mode_mean_tokens":true,"pooling_mode_cls_token":true})");
  expect_refused({"mean_tokens", "cls_token", "together"});
  pooling(R"({"pooling_mode_mean_tokens":false})");
  expect_refused({"no pooling mode is on"});
  pooling(R"({"pooling_mode_mean_tokens":3})");
  expect_refused({"'pooling_mode_mean_tokens' must be true or false"});
  pooling(R"({"word_embedding_dimension":31,"pooling_mode_mean_tokens":true})");
  expect_refused({"'word_embedding_dimension' is 31", "32"});
  pooling("[]");
  expect_refused({"1_Pooling/config.json", "not an object"});
  pooling("{");
  expect_refused({"1_Pooling/config.json", "JSON"});
  std::filesystem::remove(folder_.path() / "1_Pooling/config.json");
  expect_refused({"1_Pooling/config.json", "cannot open"});
  SetUp();

  folder_.write("sentence_bert_config.json", R"({"max_seq_length":0})");
  expect_refused({"sentence_bert_config.json", "'max_seq_length' is 0"});
  folder_.write("sentence_bert_config.json", R"({"max_seq_length":"x"})");
  expect_refused({"'max_seq_length' must be an integer"});
  folder_.write("sentence_bert_config.json", R"({"do_lower_case":true})");
  expect_refused({"'do_lower_case'"});
  std::filesystem::remove(folder_.path() / "sentence_bert_config.json");

  const auto modules = [&](const char* text) { folder_.write("modules.json", text); };
  modules("{}");
  expect_refused({"modules.json", "not an array"});
  modules("[]");
  expect_refused({"0 modules"});
  modules("[3]");
  expect_refused({"module 0 is not an object"});
  modules(R"([{"path":""}])");
  expect_refused({"module 0 has no 'type'"});
  modules(R"([{"type":"a.Transformer"}])");
  expect_refused({"1 modules"});
  modules(R"([{"type":"a.Transformer"},{"type":"a.Pooling"},{"type":"a.Dense"}])");
  expect_refused({"module 2 is Dense"});
  modules(R"([{"type":"a.WordEmbeddings"}])");
  expect_refused({"module 0 is WordEmbeddings"});
  modules(R"([{"type":"a.Transformer","path":"0_Transformer"},{"type":"a.Pooling"}])");
  expect_refused({"0_Transformer"});
  for (const char* path : {"../x", "/x", "a/../../b"}) {
    modules(
        (R"([{"type":"a.Transformer"},{"type":"a.Pooling","path":")" + std::string(path) + "\"}]")
            .c_str());
    expect_refused({"module 1", "outside the folder"});
  }

  SetUp();
  spec_ = *spec_from_config(parse_json(testing::kTinyLlamaConfig)->get_object());
  expect_refused({"embeddings from a decoder (llama)"});
}

}  // namespace
}  // namespace impetus

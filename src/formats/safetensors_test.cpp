#include <algorithm>

#include <gtest/gtest.h>

#include "formats/weights.h"
#include "tests/support/safetensors_writer.h"
#include "tests/support/test_data.h"
#include "tests/support/weights_check.h"

namespace impetus {
namespace {

using testing::Bytes;
using testing::bytes_of_text;
using testing::contradiction;
using testing::safetensors_bytes;
using testing::SafetensorsWriter;
using testing::TempFolder;

Bytes small_file() {
  return SafetensorsWriter()
      .metadata("format", "pt")
      .f32_tensor("a", {2, 3})
      .tensor("half", "F16", {4}, Bytes(8))
      .tensor("brain", "BF16", {2, 2}, Bytes(8))
      .tensor("ids", "I64", {1, 4}, Bytes(32))
      .tensor("empty", "F32", {0, 7}, {})
      .tensor("scalar", "F32", {}, Bytes(4))
      .finish();
}

TEST(Safetensors, ReadsTensors) {
  const Bytes bytes = small_file();
  const auto weights = parse_safetensors(bytes, "a.safetensors");
  ASSERT_TRUE(weights.ok()) << weights.error().message;
  EXPECT_EQ(contradiction(*weights, bytes), "");
  EXPECT_EQ(weights->tensors().size(), 6u);
  const NamedTensor* a = weights->find("a");
  ASSERT_NE(a, nullptr);
  EXPECT_EQ(a->view.dtype, DType::f32);
  EXPECT_EQ(a->view.shape, (Shape{2, 3}));
  EXPECT_EQ(testing::bytes_of_values(testing::random_floats(6, 1)),
            Bytes(a->view.data.begin(), a->view.data.end()));
  EXPECT_EQ(weights->find("half")->view.dtype, DType::f16);
  EXPECT_EQ(weights->find("brain")->view.dtype, DType::bf16);
  EXPECT_EQ(weights->find("ids")->view.dtype, DType::i64);
  EXPECT_EQ(weights->find("empty")->view.data.size(), 0u);
  EXPECT_EQ(weights->find("scalar")->view.shape.rank(), 0);
  EXPECT_EQ(weights->path_of(*a), "a.safetensors");
  EXPECT_EQ(weights->bytes(), 24 + 8 + 8 + 32 + 4);
  EXPECT_EQ(weights->require("b").error().message, "a.safetensors: tensor b is missing");
}

TEST(Safetensors, OtherDtypesAreAnErrorOnlyWhenRequired) {
  const auto weights = parse_safetensors(SafetensorsWriter()
                                             .tensor("a", "F32", {1}, Bytes(4))
                                             .tensor("eight", "F8_E4M3", {3}, Bytes(3))
                                             .tensor("new", "F2_NEW", {3}, Bytes(5))
                                             .tensor("deep", "F32", {1, 1, 1, 1, 1}, Bytes(4))
                                             .finish(),
                                         "f");
  ASSERT_TRUE(weights.ok()) << weights.error().message;
  EXPECT_EQ(weights->tensors().size(), 1u);
  EXPECT_EQ(weights->find("eight"), nullptr);
  EXPECT_TRUE(weights->contains("eight"));
  EXPECT_FALSE(weights->contains("nine"));
  const auto eight = weights->require("eight");
  EXPECT_EQ(eight.error().code, ErrorCode::unsupported);
  EXPECT_EQ(eight.error().message,
            "f: tensor eight has dtype F8_E4M3, which this version does not run; it runs F32, F16, "
            "BF16");
  EXPECT_NE(weights->require("new").error().message.find("F2_NEW"), std::string::npos);
  EXPECT_NE(weights->require("deep").error().message.find("5 dimensions"), std::string::npos);
}

struct BadFile {
  const char* label;
  Bytes bytes;
  std::vector<const char*> wanted;  // each part of the message; the file's name always
};

std::vector<BadFile> bad_files() {
  const auto header = [](const char* text, size_t data = 4) {
    return safetensors_bytes(text, Bytes(data));
  };
  const auto claims = [](uint64_t size) {
    Bytes bytes;
    testing::append_value(bytes, size);
    testing::append(bytes, "{}");
    return bytes;
  };
  const auto one = [&](const std::string& entry, size_t data = 4) {
    return safetensors_bytes("{\"w\":" + entry + "}", Bytes(data));
  };
  return {
      {"empty", {}, {"0 bytes are too few"}},
      {"seven bytes", Bytes(7), {"7 bytes are too few"}},
      {"header past the end", claims(3), {"truncated", "claims 3 bytes, 2 follow"}},
      {"header of 2^64 - 1", claims(~uint64_t{0}), {"header claims 18446744073709551615"}},
      {"header past the limit", claims(100'000'001), {"more than the 100000000"}},
      {"no header", claims(0), {"does not begin with '{'"}},
      {"an array", header("[]"), {"does not begin with '{'"}},
      {"broken JSON", header("{\"w\":"), {"header: JSON"}},
      {"name twice",
       header(R"({"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},)"
              R"("w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})"),
       {"header", "'w' occurs twice"}},
      {"field twice",
       one(R"({"dtype":"F32","dtype":"F16","shape":[1],"data_offsets":[0,4]})"),
       {"'dtype' occurs twice"}},
      {"entry no object", one("3"), {"tensor w", "not an object"}},
      {"no dtype", one(R"({"shape":[1],"data_offsets":[0,4]})"), {"tensor w", "'dtype'"}},
      {"no shape", one(R"({"dtype":"F32","data_offsets":[0,4]})"), {"tensor w", "'shape'"}},
      {"no offsets", one(R"({"dtype":"F32","shape":[1]})"), {"tensor w", "'data_offsets'"}},
      {"three offsets",
       one(R"({"dtype":"F32","shape":[1],"data_offsets":[0,4,8]})"),
       {"tensor w", "3 numbers"}},
      {"negative dimension",
       one(R"({"dtype":"F32","shape":[-1],"data_offsets":[0,4]})"),
       {"tensor w", "'shape' holds -1"}},
      {"fraction",
       one(R"({"dtype":"F32","shape":[1.5],"data_offsets":[0,4]})"),
       {"tensor w", "'shape' holds 1.5E0"}},
      {"huge dimension",
       one(R"({"dtype":"F32","shape":[18446744073709551615],"data_offsets":[0,4]})"),
       {"tensor w", "'shape' holds 18446744073709551615"}},
      {"product overflows",
       one(R"({"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,4]})"),
       {"tensor w", "overflows"}},
      {"bits overflow",
       one(R"({"dtype":"F32","shape":[4611686018427387904],"data_offsets":[0,4]})"),
       {"tensor w", "overflows"}},
      {"overflow behind a zero",
       one(R"({"dtype":"F32","shape":[0,4294967296,4294967296],"data_offsets":[0,0]})", 0),
       {"tensor w", "overflows"}},
      {"end before begin",
       one(R"({"dtype":"F32","shape":[1],"data_offsets":[4,0]})"),
       {"tensor w", "[4, 0] leave the 4 bytes"}},
      {"end past the file",
       one(R"({"dtype":"F32","shape":[2],"data_offsets":[0,8]})"),
       {"tensor w", "[0, 8] leave the 4 bytes"}},
      {"span too small",
       one(R"({"dtype":"F32","shape":[2],"data_offsets":[0,4]})"),
       {"tensor w", "span 4 bytes, its shape needs 8"}},
      {"span too large",
       one(R"({"dtype":"F16","shape":[1],"data_offsets":[0,4]})"),
       {"tensor w", "span 4 bytes, its shape needs 2"}},
      {"unusable dtype, wrong span",
       one(R"({"dtype":"F64","shape":[1],"data_offsets":[0,4]})"),
       {"tensor w", "needs 8"}},
      {"half a byte",
       one(R"({"dtype":"F4","shape":[3],"data_offsets":[0,4]})"),
       {"tensor w", "whole number of bytes"}},
      {"overlap",
       header(R"({"v":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
              R"("w":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})",
              8),
       {"tensor w", "overlaps that of v"}},
      {"hole",
       header(R"({"v":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},)"
              R"("w":{"dtype":"F32","shape":[1],"data_offsets":[8,12]}})",
              12),
       {"tensor w", "bytes 4 to 8"}},
      {"bytes at the end",
       one(R"({"dtype":"F32","shape":[1],"data_offsets":[0,4]})", 9),
       {"last 5 of 9 bytes"}},
      {"metadata no object", header(R"({"__metadata__":3})", 0), {"__metadata__"}},
      {"metadata no strings", header(R"({"__metadata__":{"a":3}})", 0), {"__metadata__", "'a'"}},
      {"control bytes in a name",
       safetensors_bytes("{\"a\\u001b[31m\":3}", {}),
       {"tensor a?[31m", "not an object"}},
  };
}

TEST(Safetensors, EveryMalformedFileIsOneClearError) {
  for (const BadFile& bad : bad_files()) {
    const auto weights = parse_safetensors(bad.bytes, "bad.safetensors");
    ASSERT_FALSE(weights.ok()) << bad.label;
    EXPECT_EQ(weights.error().code, ErrorCode::corrupt) << bad.label;
    const std::string& message = weights.error().message;
    EXPECT_TRUE(message.starts_with("bad.safetensors: ")) << message;
    for (const char* part : bad.wanted) {
      EXPECT_NE(message.find(part), std::string::npos) << bad.label << ": " << message;
    }
  }
}

class Folder : public ::testing::Test {
 protected:
  std::string index(const std::string& map) { return "{\"weight_map\":{" + map + "}}"; }
  std::string refused() {
    const auto weights = open_safetensors_folder(folder_.path());
    return weights.ok() ? "opened" : weights.error().message;
  }
  void expect_refused(const std::vector<std::string>& parts) {
    const std::string message = refused();
    for (const std::string& part : parts) {
      EXPECT_NE(message.find(part), std::string::npos) << part << " in: " << message;
    }
  }

  const std::string index_name_ = "model.safetensors.index.json";
  TempFolder folder_;
};

TEST_F(Folder, OneFileOrShards) {
  folder_.write("1.safetensors", SafetensorsWriter().f32_tensor("a", {2}).finish());
  folder_.write("sub/2.safetensors", SafetensorsWriter().f32_tensor("b", {2}).finish());
  folder_.write(index_name_, index(R"("a":"1.safetensors","b":"sub/2.safetensors")"));
  const auto shards = open_safetensors_folder(folder_.path());
  ASSERT_TRUE(shards.ok()) << shards.error().message;
  EXPECT_EQ(shards->files().size(), 2u);
  EXPECT_TRUE(shards->path_of(**shards->require("b")).ends_with("sub/2.safetensors"));
  EXPECT_NE(
      shards->require("c").error().message.find("1.safetensors and 1 more: tensor c is missing"),
      std::string::npos);
  shards->release(**shards->require("a"));

  folder_.write("model.safetensors", SafetensorsWriter().f32_tensor("c", {2}).finish());
  const auto single = open_safetensors_folder(folder_.path());
  ASSERT_TRUE(single.ok()) << single.error().message;
  EXPECT_NE(single->find("c"), nullptr);
}

TEST_F(Folder, NamesWhatIsWrongWithShards) {
  expect_refused({folder_.path(), "neither model.safetensors nor"});
  folder_.write("pytorch_model.bin", "x");
  expect_refused({"pytorch_model.bin"});

  folder_.write("1.safetensors", SafetensorsWriter().f32_tensor("a", {2}).finish());
  folder_.write("2.safetensors", SafetensorsWriter().f32_tensor("a", {2}).finish());
  folder_.write("3.safetensors", SafetensorsWriter().f32_tensor("b", {2}).finish());
  const auto with = [&](const std::string& text) { folder_.write(index_name_, text); };

  with("{");
  expect_refused({index_name_, "JSON"});
  with("[]");
  expect_refused({index_name_, "'weight_map' is not an object"});
  with(index(""));
  expect_refused({index_name_, "'weight_map' is empty"});
  with(index("\"a\":3"));
  expect_refused({index_name_, "tensor a", "not a string"});
  with(index(R"("a":"1.safetensors","a":"3.safetensors")"));
  expect_refused({index_name_, "'a' occurs twice"});
  with(index(R"("a":"4.safetensors")"));
  expect_refused({index_name_, "shard", "4.safetensors", "cannot open"});
  with(index(R"("a":"1.safetensors","c":"3.safetensors")"));
  expect_refused({"3.safetensors", "tensor c is missing"});
  with(index(R"("a":"3.safetensors","b":"1.safetensors")"));
  expect_refused({"3.safetensors", "tensor a is missing"});
  with(index(R"("a":"1.safetensors","b":"2.safetensors")"));
  expect_refused({"2.safetensors", "tensor a is in", "1.safetensors too"});
  for (const char* outside :
       {"../1.safetensors", "/etc/passwd", "x/../../1.safetensors", "", "a\\u0000b"}) {
    with(index("\"a\":\"" + std::string(outside) + "\""));
    expect_refused({index_name_, "tensor a", "outside the folder"});
  }
  folder_.write("3.safetensors", "short");
  with(index(R"("a":"1.safetensors","b":"3.safetensors")"));
  expect_refused({"3.safetensors", "5 bytes are too few"});
}

TEST(SafetensorsFixtures, ShardedEqualsWhole) {
  const auto fixtures = testing::test_data() / "fixtures";
  IMPETUS_NEED_DATA(fixtures / "tiny_llama.safetensors.index.json");
  const TempFolder folder;
  const auto link = [&](const std::string& from, const std::string& to) {
    std::filesystem::create_symlink(std::filesystem::absolute(fixtures / from), folder.path() / to);
  };
  link("tiny_llama.safetensors.index.json", "model.safetensors.index.json");
  for (const char* shard :
       {"tiny_llama-00001-of-00002.safetensors", "tiny_llama-00002-of-00002.safetensors"}) {
    link(shard, shard);
  }
  const auto shards = open_safetensors_folder(folder.path());
  const auto whole = open_safetensors(fixtures / "tiny_llama.safetensors");
  ASSERT_TRUE(shards.ok()) << shards.error().message;
  ASSERT_TRUE(whole.ok()) << whole.error().message;
  ASSERT_EQ(shards->tensors().size(), whole->tensors().size());
  for (const NamedTensor& tensor : whole->tensors()) {
    const NamedTensor* other = shards->find(tensor.name);
    ASSERT_NE(other, nullptr) << tensor.name;
    EXPECT_EQ(other->view.shape, tensor.view.shape);
    EXPECT_TRUE(std::ranges::equal(other->view.data, tensor.view.data)) << tensor.name;
  }
}

TEST(SafetensorsFixtures, EveryOneOpens) {
  const auto fixtures = testing::test_data() / "fixtures";
  IMPETUS_NEED_DATA(fixtures);
  int seen = 0;
  for (const auto& entry : std::filesystem::directory_iterator(fixtures)) {
    if (entry.path().extension() != ".safetensors") continue;
    const auto weights = open_safetensors(entry.path());
    ASSERT_TRUE(weights.ok()) << weights.error().message;
    EXPECT_EQ(contradiction(*weights, weights->files()[0].bytes()), "");
    ++seen;
  }
  EXPECT_GT(seen, 10);
}

}  // namespace
}  // namespace impetus

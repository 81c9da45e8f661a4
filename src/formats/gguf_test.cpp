#include "formats/gguf.h"

#include <algorithm>

#include <gtest/gtest.h>

#include "tests/support/gguf_writer.h"
#include "tests/support/test_data.h"
#include "tests/support/weights_check.h"

namespace impetus {
namespace {

using testing::Bytes;
using testing::contradiction;
using testing::GgufWriter;

TEST(Gguf, ReadsEveryValueType) {
  const Bytes bytes = GgufWriter()
                          .u8("u8", 255)
                          .i8("i8", -128)
                          .u16("u16", 65535)
                          .i16("i16", -32768)
                          .u32("u32", 4294967295u)
                          .i32("i32", -5)
                          .u64("u64", uint64_t{1} << 62)
                          .i64("i64", INT64_MIN)
                          .f32("f32", 0.5f)
                          .f64("f64", 1e300)
                          .boolean("yes", true)
                          .string("text", "na\xc3\xafve")
                          .strings("strings", {"a", "", "\xff"})
                          .i32s("i32s", {1, -2})
                          .u8s("u8s", {0, 255})
                          .f32s("f32s", {0.25f})
                          .booleans("booleans", {1, 0})
                          .i32s("none", {})
                          .finish();
  const auto file = GgufFile::parse(bytes, "f.gguf");
  ASSERT_TRUE(file.ok()) << file.error().message;
  EXPECT_EQ(file->metadata().size(), 18u);
  EXPECT_EQ(*file->integer("u8"), 255);
  EXPECT_EQ(*file->integer("i8"), -128);
  EXPECT_EQ(*file->integer("u16"), 65535);
  EXPECT_EQ(*file->integer("i16"), -32768);
  EXPECT_EQ(*file->integer("u32"), 4294967295);
  EXPECT_EQ(*file->integer("i32"), -5);
  EXPECT_EQ(*file->integer("u64"), int64_t{1} << 62);
  EXPECT_EQ(*file->integer("i64"), INT64_MIN);
  EXPECT_EQ(*file->number("f32"), 0.5);
  EXPECT_EQ(*file->number("f64"), 1e300);
  EXPECT_EQ(*file->number("i32"), -5.0) << "an integer is a number";
  EXPECT_EQ(*file->boolean("yes"), true);
  EXPECT_EQ(*file->string("text"), "na\xc3\xafve");
  EXPECT_EQ(**file->strings("strings"), (std::vector<std::string_view>{"a", "", "\xff"}));
  EXPECT_EQ(**file->integers("i32s"), (std::vector<int64_t>{1, -2}));
  EXPECT_EQ(**file->integers("u8s"), (std::vector<int64_t>{0, 255}));
  EXPECT_EQ(**file->numbers("f32s"), (std::vector<double>{0.25}));
  EXPECT_TRUE((*file->integers("none"))->empty());
  EXPECT_TRUE(file->weights().tensors().empty()) << "a vocabulary-only file has none";

  EXPECT_EQ(*file->integer("absent"), std::nullopt);
  EXPECT_EQ(*file->strings("absent"), nullptr);
  EXPECT_EQ(file->integer("text").error().message,
            "f.gguf: metadata key text is a string, not an integer");
  EXPECT_EQ(file->numbers("i32s").error().message,
            "f.gguf: metadata key i32s is an array of integers, not an array of numbers");
  EXPECT_FALSE(file->string("strings").ok());
  EXPECT_FALSE(file->boolean("u8").ok());
}

TEST(Gguf, ReadsTensorsOfEveryRunnableType) {
  for (const uint32_t version : {2u, 3u}) {
    const Bytes bytes = GgufWriter(version)
                            .u32("general.alignment", 64)
                            .align(64)
                            .f32_tensor("a", {2, 3})
                            .tensor("h", DType::f16, {5}, Bytes(10))
                            .tensor("b", DType::bf16, {5}, Bytes(10))
                            .tensor("q8", DType::q8_0, {2, 32}, Bytes(68))
                            .tensor("q4", DType::q4_0, {3, 64}, Bytes(108))
                            .tensor("i", DType::i32, {1}, Bytes(4))
                            .finish();
    const auto file = GgufFile::parse(bytes, "f.gguf");
    ASSERT_TRUE(file.ok()) << file.error().message;
    EXPECT_EQ(contradiction(file->weights(), bytes), "");
    EXPECT_EQ(file->weights().find("a")->view.shape, (Shape{2, 3})) << "reversed to row-major";
    const auto data = file->weights().find("a")->view.data;
    EXPECT_EQ(testing::bytes_of_values(testing::random_floats(6, 1)),
              Bytes(data.begin(), data.end()));
    EXPECT_EQ(file->weights().find("q4")->view.dtype, DType::q4_0);
    EXPECT_EQ(file->weights().find("q4")->view.row(2).size(), 36u);
  }
}

TEST(Gguf, OtherTypesAreNamedWhenRequired) {
  const auto file =
      GgufFile::parse(GgufWriter()
                          .f32_tensor("a", {2})
                          .typed_tensor("blk.0.ffn_down.weight", 12, {2, 256}, Bytes(288))
                          .finish(),
                      "f.gguf");
  ASSERT_TRUE(file.ok()) << file.error().message;
  EXPECT_EQ(file->weights().tensors().size(), 1u);
  ASSERT_EQ(file->weights().unusable().size(), 1u);
  EXPECT_EQ(file->weights().unusable()[0].type, "Q4_K");
  const auto required = file->weights().require("blk.0.ffn_down.weight");
  EXPECT_EQ(required.error().code, ErrorCode::unsupported);
  EXPECT_EQ(
      required.error().message,
      "f.gguf: tensor blk.0.ffn_down.weight has type Q4_K, which this version does not run; it "
      "runs F32, F16, BF16, Q8_0, Q4_0");
}

struct BadFile {
  const char* label;
  Bytes bytes;
  std::vector<const char*> wanted;  // each part of the message; the file's name always
  ErrorCode code = ErrorCode::corrupt;
};

Bytes value(std::initializer_list<uint64_t> words, std::initializer_list<uint32_t> type = {}) {
  Bytes bytes;
  for (const uint32_t word : type) testing::append_value(bytes, word);
  for (const uint64_t word : words) testing::append_value(bytes, word);
  return bytes;
}

std::vector<BadFile> bad_files() {
  const auto text = [](const char* bytes) { return testing::bytes_of_text(bytes); };
  const auto cut = [](Bytes bytes, size_t by) {
    bytes.resize(bytes.size() - by);
    return bytes;
  };
  const auto tensor = [](uint32_t type, std::vector<uint64_t> shape, size_t data,
                         std::optional<uint64_t> offset = std::nullopt) {
    return GgufWriter().typed_tensor("w", type, std::move(shape), Bytes(data), offset).finish();
  };
  constexpr auto kUnsupported = ErrorCode::unsupported;
  return {
      {"empty", {}, {"not a GGUF file"}},
      {"another format", text("PK\x03\x04 and more of it"), {"begins with 'PK?\?'"}},
      {"no version", text("GGUF"), {"truncated", "the version"}},
      {"version 1", GgufWriter(1).finish(), {"GGUF version 1", "2 and 3"}, kUnsupported},
      {"version 4", GgufWriter(4).finish(), {"GGUF version 4"}, kUnsupported},
      {"big-endian", GgufWriter(0x03000000).finish(), {"big-endian"}, kUnsupported},
      {"no counts", cut(GgufWriter().finish(), 9), {"truncated", "tensor count"}},
      {"entries past the file",
       GgufWriter().claim_entries(1).finish(),
       {"truncated: 1 metadata entries"}},
      {"2^64 - 1 entries",
       GgufWriter().claim_entries(~uint64_t{0}).finish(),
       {"truncated: 18446744073709551615 metadata entries"}},
      {"2^60 tensors",
       GgufWriter().claim_tensors(uint64_t{1} << 60).finish(),
       {"truncated: 1152921504606846976 tensors"}},
      {"more tensors than infos",
       GgufWriter().claim_tensors(2).f32_tensor("w", {64}).finish(),
       {"tensor"}},
      {"key longer than the file",
       [&] {
         Bytes bytes = GgufWriter().u64("key", 1).finish();
         const uint64_t length = ~uint64_t{0};
         std::memcpy(bytes.data() + 24, &length, 8);
         return bytes;
       }(),
       {"a metadata key claims 18446744073709551615 bytes"}},
      {"key too long",
       GgufWriter().u8(std::string(65536, 'k'), 1).finish(),
       {"65536 bytes, more than"}},
      {"key no UTF-8", GgufWriter().u8("k\xff", 1).finish(), {"metadata key 'k?'", "UTF-8"}},
      {"key twice", GgufWriter().u8("k", 1).u8("k", 2).finish(), {"metadata key k occurs twice"}},
      {"unknown type",
       GgufWriter().raw("k", 13, value({0})).finish(),
       {"metadata key k", "type 13"}},
      {"value cut", cut(GgufWriter().u64("k", 1).finish(), 1), {"metadata key k", "truncated"}},
      {"boolean of 2",
       GgufWriter().raw("k", 7, Bytes(1, std::byte{2})).finish(),
       {"metadata key k", "2 is neither 0 nor 1"}},
      {"u64 past int64",
       GgufWriter().u64("k", uint64_t{1} << 63).finish(),
       {"metadata key k", "9223372036854775808"},
       kUnsupported},
      {"string past the file",
       GgufWriter().raw("k", 8, value({9})).finish(),
       {"metadata key k", "claims 9 bytes, 0 follow"}},
      {"nested arrays",
       GgufWriter().raw("k", 9, value({1, 0}, {9})).finish(),
       {"metadata key k", "array of arrays"},
       kUnsupported},
      {"array of unknown",
       GgufWriter().raw("k", 9, value({1, 0}, {77})).finish(),
       {"metadata key k", "element type 77"}},
      {"array past the file",
       GgufWriter().raw("k", 9, value({3, 0}, {4})).finish(),
       {"metadata key k", "3 array elements"}},
      {"array of 2^62",
       GgufWriter().raw("k", 9, value({uint64_t{1} << 62, 0}, {10})).finish(),
       {"metadata key k", "4611686018427387904 array elements"}},
      {"string in an array past the file",
       GgufWriter().raw("k", 9, value({1, 100}, {8})).finish(),
       {"metadata key k", "element 0", "claims 100 bytes"}},
      {"boolean in an array",
       GgufWriter().booleans("k", {1, 7}).finish(),
       {"metadata key k", "element 1", "7 is neither"}},
      {"alignment 0",
       GgufWriter().u32("general.alignment", 0).finish(),
       {"general.alignment is 0"}},
      {"alignment 12",
       GgufWriter().u32("general.alignment", 12).finish(),
       {"general.alignment is 12"}},
      {"alignment 2^31",
       GgufWriter().u32("general.alignment", 1u << 31).finish(),
       {"general.alignment is 2147483648"}},
      {"alignment of text",
       GgufWriter().string("general.alignment", "32").finish(),
       {"general.alignment is no integer"}},
      {"name no UTF-8",
       GgufWriter().f32_tensor("w\xc0\xaf", {1}).finish(),
       {"tensor name", "UTF-8"}},
      {"name too long",
       GgufWriter().f32_tensor(std::string(1025, 'w'), {1}).finish(),
       {"1025 bytes, more than 1024"}},
      {"name twice",
       GgufWriter().f32_tensor("w", {1}).f32_tensor("w", {1}).finish(),
       {"tensor w occurs twice"}},
      {"five dimensions", tensor(0, {1, 1, 1, 1, 1}, 4), {"tensor w", "5 dimensions"}},
      {"dimension past int64", tensor(0, {uint64_t{1} << 63}, 4), {"tensor w", "overflows"}},
      {"product overflows",
       tensor(0, {uint64_t{1} << 40, uint64_t{1} << 40}, 4),
       {"tensor w", "overflows"}},
      {"bytes overflow", tensor(0, {uint64_t{1} << 62}, 4), {"tensor w", "overflows"}},
      {"overflow behind a zero",
       tensor(0, {0, uint64_t{1} << 40, uint64_t{1} << 40}, 4),
       {"tensor w", "overflows"}},
      {"unknown type", tensor(200, {1}, 4), {"tensor w", "unknown type number 200"}, kUnsupported},
      {"removed type", tensor(4, {1}, 4), {"tensor w", "unknown type number 4"}, kUnsupported},
      {"no whole block", tensor(8, {2, 48}, 136), {"tensor w", "rows of 48", "Q8_0 blocks of 32"}},
      {"rows of half blocks", tensor(2, {2, 16}, 18), {"tensor w", "rows of 16"}},
      {"offset unaligned", tensor(0, {1}, 64, 4), {"tensor w", "offset 4", "alignment 32"}},
      {"offset past the data", tensor(0, {1}, 4, 64), {"tensor w", "4 bytes at offset 64"}},
      {"offset near 2^64", tensor(0, {16}, 64, ~uint64_t{31}), {"tensor w", "leave the 64 bytes"}},
      {"data cut", cut(tensor(0, {16}, 64), 1), {"tensor w", "leave the 63 bytes"}},
      {"unusable, cut", cut(tensor(12, {256}, 144), 1), {"tensor w", "leave the 143 bytes"}},
      {"no data at all", cut(tensor(0, {0}, 0), 1), {"truncated", "padding"}},
      {"overlap",
       GgufWriter().f32_tensor("v", {16}).typed_tensor("w", 0, {8}, Bytes(32), 32).finish(),
       {"tensor w", "overlaps that of v"}},
      {"same place",
       GgufWriter().f32_tensor("v", {16}).typed_tensor("w", 12, {256}, Bytes(144), 0).finish(),
       {"overlaps"}},
  };
}

TEST(Gguf, EveryMalformedFileIsOneClearError) {
  for (const BadFile& bad : bad_files()) {
    const auto file = GgufFile::parse(bad.bytes, "bad.gguf");
    ASSERT_FALSE(file.ok()) << bad.label;
    EXPECT_EQ(file.error().code, bad.code) << bad.label;
    const std::string& message = file.error().message;
    EXPECT_TRUE(message.starts_with("bad.gguf: ")) << message;
    for (const char* part : bad.wanted) {
      EXPECT_NE(message.find(part), std::string::npos) << bad.label << ": " << message;
    }
  }
}

TEST(Gguf, OpensFiles) {
  const testing::TempFolder folder;
  const auto path = folder.write("m.gguf", GgufWriter().f32_tensor("w", {8}).finish());
  auto opened = GgufFile::open(path);
  ASSERT_TRUE(opened.ok()) << opened.error().message;
  const GgufFile file = std::move(*opened);
  EXPECT_EQ(file.name(), path.string());
  EXPECT_EQ(contradiction(file.weights(), file.weights().files()[0].bytes()), "");
  EXPECT_EQ(file.weights().require("x").error().message, path.string() + ": tensor x is missing");
  EXPECT_EQ(GgufFile::open(folder.path() / "none.gguf").error().code, ErrorCode::not_found);
}

TEST(GgufFixtures, RealFilesOpen) {
  const auto data = testing::test_data();
  IMPETUS_NEED_DATA(data / "fixtures/tiny_kquant.gguf");
  for (const char* name : {"fixtures/tiny_llama_f32.gguf", "fixtures/tiny_llama_f16.gguf",
                           "fixtures/tiny_kquant.gguf", "models/stories-260k/stories260K.gguf"}) {
    const auto file = GgufFile::open(data / name);
    ASSERT_TRUE(file.ok()) << file.error().message;
    EXPECT_EQ(contradiction(file->weights(), file->weights().files()[0].bytes()), "");
  }
  const auto stories = GgufFile::open(data / "models/stories-260k/stories260K.gguf");
  EXPECT_EQ(stories->weights().tensors().size(), 48u);
  EXPECT_EQ((*stories->strings("tokenizer.ggml.tokens"))->size(), 512u);
  const auto kquant = GgufFile::open(data / "fixtures/tiny_kquant.gguf");
  EXPECT_EQ(kquant->weights().unusable().size(), 4u);
}

}  // namespace
}  // namespace impetus

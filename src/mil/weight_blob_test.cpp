#include "mil/weight_blob.h"

#include <algorithm>
#include <cstring>

#include <gtest/gtest.h>

namespace impetus::mil {
namespace {

using Data = std::vector<std::byte>;

Data data_of(size_t count, int first = 1) {
  Data data(count);
  for (size_t i = 0; i < count; ++i) data[i] = static_cast<std::byte>(first + static_cast<int>(i));
  return data;
}

Data written(const BlobLayout& layout) {
  Data file;
  const auto done = layout.write([&](std::span<const std::byte> piece) -> Result<void> {
    file.insert(file.end(), piece.begin(), piece.end());
    return {};
  });
  EXPECT_TRUE(done.ok());
  return file;
}

template <typename T>
T at(const Data& file, size_t offset) {
  T value;
  std::memcpy(&value, file.data() + offset, sizeof(T));
  return value;
}
template <typename T>
void put(Data& file, size_t offset, T value) {
  std::memcpy(file.data() + offset, &value, sizeof(T));
}

TEST(WeightBlob, LayoutIsTheFormats) {
  const Data first = data_of(6), second = data_of(70);
  BlobLayout layout;
  EXPECT_TRUE(layout.empty());
  EXPECT_EQ(layout.file_bytes(), 0u);
  EXPECT_EQ(layout.add({DataType::f16, {3}}, first), 64u);
  EXPECT_EQ(layout.add({DataType::i8, {7, 10}}, second), 192u);
  const Data file = written(layout);
  ASSERT_EQ(file.size(), 256u + 70);
  EXPECT_EQ(layout.file_bytes(), file.size());
  EXPECT_EQ(at<uint32_t>(file, 0), 2u);
  EXPECT_EQ(at<uint32_t>(file, 4), 2u);
  EXPECT_EQ(at<uint32_t>(file, 64), 0xDEADBEEFu);
  EXPECT_EQ(at<uint32_t>(file, 68), 1u);
  EXPECT_EQ(at<uint64_t>(file, 72), 6u);
  EXPECT_EQ(at<uint64_t>(file, 80), 128u);
  EXPECT_EQ(at<uint64_t>(file, 88), 0u);
  EXPECT_EQ(at<uint32_t>(file, 196), 4u);
  EXPECT_EQ(at<uint64_t>(file, 208), 256u);
  EXPECT_EQ(Data(file.begin() + 256, file.end()), second);
}

TEST(WeightBlob, EqualOnesStandOnce) {
  const Data data = data_of(4), same = data_of(4), other = data_of(4, 9);
  BlobLayout layout;
  const uint64_t first = layout.add({DataType::f16, {2}}, data);
  EXPECT_EQ(layout.add({DataType::f16, {1, 2}}, same), first);
  EXPECT_NE(layout.add({DataType::i16, {2}}, same), first);  // another type
  EXPECT_NE(layout.add({DataType::f16, {2}}, other), first);
  EXPECT_EQ(layout.blobs().size(), 3u);
  // As many bytes, another number of elements.
  EXPECT_NE(layout.add({DataType::u1, {32}}, data), layout.add({DataType::u1, {31}}, data));
}

TEST(WeightBlob, ReadsEveryTypeBack) {
  int codes = 0;
  for (int type = 0; type <= static_cast<int>(DataType::u64); ++type) {
    const auto dtype = static_cast<DataType>(type);
    if (!has_blob_code(dtype)) continue;
    ++codes;
    for (int64_t elements = 1; elements <= 17; ++elements) {
      const TensorType tensor{dtype, {elements}};
      const Data data = data_of(static_cast<size_t>(*tensor.bytes()));
      BlobLayout layout;
      const uint64_t place = layout.add(tensor, data);
      const Data file = written(layout);
      const int bits = bits_of(dtype);
      const auto unused = static_cast<uint64_t>((8 - elements * bits % 8) % 8);
      EXPECT_EQ(at<uint64_t>(file, 88), unused) << tensor.to_string();
      const auto blobs = BlobFile::open(file);
      ASSERT_TRUE(blobs.ok());
      const auto read = blobs->tensor(place, tensor);
      ASSERT_TRUE(read.ok()) << read.error().message;
      EXPECT_TRUE(std::ranges::equal(read->view, data));
      if (bits < 8) {  // as many bytes may be another number of elements
        const TensorType longer{dtype, {elements + 1}};
        EXPECT_FALSE(blobs->tensor(place, longer).ok()) << longer.to_string();
      }
    }
  }
  EXPECT_EQ(codes, 17);
}

TEST(WeightBlob, SinkErrorEndsTheWriting) {
  const Data data = data_of(4);
  BlobLayout layout;
  layout.add({DataType::f16, {2}}, data);
  int pieces = 0;
  const auto done = layout.write([&](std::span<const std::byte>) -> Result<void> {
    if (++pieces == 3) return error(ErrorCode::io, "full");
    return {};
  });
  EXPECT_FALSE(done.ok());
  EXPECT_EQ(pieces, 3);
}

class HostileBlob : public ::testing::Test {
 protected:
  HostileBlob() {
    BlobLayout layout;
    layout.add({DataType::f16, {3}}, data_);
    layout.add({DataType::u4, {5}}, sub_byte_);
    file_ = written(layout);
  }
  void expect_refused(uint64_t offset, const TensorType& type, const std::string& says) {
    const auto blobs = BlobFile::open(file_);
    ASSERT_TRUE(blobs.ok()) << blobs.error().message;
    const auto read = blobs->tensor(offset, type);
    ASSERT_FALSE(read.ok()) << says;
    EXPECT_EQ(read.error().code, ErrorCode::corrupt);
    EXPECT_NE(read.error().message.find(says), std::string::npos) << read.error().message;
  }

  const Data data_ = data_of(6), sub_byte_ = data_of(3);
  Data file_;
  const TensorType type_{DataType::f16, {3}}, small_{DataType::u4, {5}};
};

TEST_F(HostileBlob, Header) {
  for (size_t size = 0; size < 64; ++size) {
    EXPECT_FALSE(BlobFile::open(std::span(file_).first(size)).ok());
  }
  put<uint32_t>(file_, 4, 1);
  EXPECT_EQ(BlobFile::open(file_).error().code, ErrorCode::unsupported);
  put<uint32_t>(file_, 4, 2);
  put<uint32_t>(file_, 0, 0xFFFFFFFF);
  EXPECT_EQ(BlobFile::open(file_).error().code, ErrorCode::corrupt);
}

TEST_F(HostileBlob, Offsets) {
  expect_refused(0, type_, "no place for a blob");
  expect_refused(65, type_, "no place for a blob");
  expect_refused(128, type_, "starts with");
  expect_refused(1024, type_, "past the end");
  expect_refused(file_.size() / 64 * 64, type_, "past the end");
  expect_refused(uint64_t{0} - 64, type_, "past the end");
}

TEST_F(HostileBlob, Metadata) {
  expect_refused(64, {DataType::i16, {3}}, "holds fp16");
  expect_refused(64, {DataType::f16, {4}}, "6 bytes, where");
  expect_refused(64, {DataType::f16, {int64_t{1} << 62, 8}}, "no blob can be");
  expect_refused(64, {DataType::f16, {-1}}, "no blob can be");
  expect_refused(64, {DataType::boolean, {6}}, "no blob can be");
  const Data sound = file_;
  const auto lies = [&](size_t offset, uint64_t value, const std::string& says) {
    file_ = sound;
    put<uint64_t>(file_, offset, value);
    expect_refused(64, type_, says);
  };
  lies(72, uint64_t{0} - 1, "end past the file");
  lies(72, 8, "8 bytes, where");
  lies(80, 0, "overlap");
  lies(80, 64, "overlap");
  lies(80, 130, "overlap");
  lies(80, uint64_t{0} - 64, "end past the file");
  lies(80, sound.size() / 64 * 64 + 64, "end past the file");
  file_ = sound;
  put<uint32_t>(file_, 64, 0xDEADBEE0);
  expect_refused(64, type_, "starts with");
  put<uint32_t>(file_, 64, 0xDEADBEEF);
  put<uint32_t>(file_, 68, 99);
  expect_refused(64, type_, "unknown type 99");
}

TEST_F(HostileBlob, UnusedBits) {
  expect_refused(192, {DataType::u4, {6}}, "unused bits");
  put<uint64_t>(file_, 192 + 24, 0);
  expect_refused(192, small_, "unused bits");
  // Whole-byte types: writers before iOS 18 left the field as it was.
  put<uint64_t>(file_, 64 + 24, 0xABCD);
  EXPECT_TRUE(BlobFile::open(file_)->tensor(64, type_).ok());
}

}  // namespace
}  // namespace impetus::mil

#include "base/mapped_file.h"

#include <sys/stat.h>

#include <gtest/gtest.h>

#include "tests/support/bytes.h"

namespace impetus {
namespace {

using testing::TempFolder;

TEST(MappedFile, MapsAndMoves) {
  const TempFolder folder;
  const auto path = folder.write("a", "hello");
  auto opened = MappedFile::open(path);
  ASSERT_TRUE(opened.ok());
  MappedFile moved = std::move(*opened);
  EXPECT_EQ(moved.path(), path);
  ASSERT_EQ(moved.bytes().size(), 5u);
  EXPECT_EQ(moved.bytes()[4], std::byte{'o'});
  MappedFile other;
  other = std::move(moved);
  EXPECT_EQ(other.bytes().size(), 5u);
}

TEST(MappedFile, ReleasedPagesComeBackFromTheFile) {
  const TempFolder folder;
  const auto opened = MappedFile::open(folder.write("a", std::string(1 << 20, 'x')));
  ASSERT_TRUE(opened.ok());
  opened->release(opened->bytes());
  opened->release(opened->bytes().subspan(100, 10));
  const std::byte outside{};
  opened->release({&outside, 1});
  for (const std::byte byte : opened->bytes()) ASSERT_EQ(byte, std::byte{'x'});
}

TEST(MappedFile, RefusesWhatIsNoFile) {
  const TempFolder folder;
  const auto absent = MappedFile::open(folder.path() / "absent");
  EXPECT_EQ(absent.error().code, ErrorCode::not_found);
  EXPECT_NE(absent.error().message.find("absent: cannot open"), std::string::npos);
  EXPECT_EQ(MappedFile::open(folder.path()).error().code, ErrorCode::invalid_argument);
  const auto fifo = folder.path() / "fifo";
  ASSERT_EQ(::mkfifo(fifo.c_str(), 0600), 0);
  EXPECT_FALSE(MappedFile::open(fifo).ok()) << "and does not wait for a writer";
  const auto empty = MappedFile::open(folder.write("empty", ""));
  ASSERT_TRUE(empty.ok());
  EXPECT_TRUE(empty->bytes().empty());
}

TEST(ReadFile, IsBounded) {
  const TempFolder folder;
  const auto path = folder.write("a", "hello");
  EXPECT_EQ(*read_file(path), "hello");
  EXPECT_EQ(*read_file(path, 5), "hello");
  EXPECT_EQ(read_file(path, 4).error().code, ErrorCode::invalid_argument);
  EXPECT_EQ(read_file(folder.path() / "absent").error().code, ErrorCode::not_found);
}

}  // namespace
}  // namespace impetus

#include "search/files.h"

#include <fstream>

#include <sys/stat.h>
#include <unistd.h>

#include <gtest/gtest.h>

namespace impetus {
namespace {

namespace fs = std::filesystem;

class FilesTest : public ::testing::Test {
 protected:
  void SetUp() override { fs::create_directories(folder_); }
  void TearDown() override { fs::remove_all(folder_); }

  fs::path write(const std::string& name, const std::string& bytes) const {
    fs::create_directories((folder_ / name).parent_path());
    std::ofstream(folder_ / name, std::ios::binary) << bytes;
    return folder_ / name;
  }
  TextFile::Kind kind_of(const std::string& bytes) const {
    return read_text_file(write("one", bytes))->kind;
  }
  fs::path folder_ = fs::temp_directory_path() / ("impetus_files_" + std::to_string(::getpid()));
};

TEST_F(FilesTest, WalksAFolderAndSaysWhatItPassedOver) {
  write("b/two.txt", "2");
  write("a.txt", "1");
  write(".hidden", "x");
  write(".git/config", "x");
  write(".git/more", "x");
  fs::create_symlink(folder_, folder_ / "b" / "loop");
  fs::create_symlink(folder_ / "a.txt", folder_ / "b" / "link.txt");
  fs::create_symlink(folder_ / "nowhere", folder_ / "b" / "dangling");
  ASSERT_EQ(::mkfifo((folder_ / "pipe").c_str(), 0600), 0);
  const auto found = find_files(folder_);
  ASSERT_TRUE(found.ok());
  EXPECT_EQ(found->files, (std::vector<fs::path>{folder_ / "a.txt", folder_ / "b" / "link.txt",
                                                 folder_ / "b" / "two.txt"}));
  EXPECT_EQ(found->hidden, 2);
  EXPECT_TRUE(found->unreadable.empty());
}

TEST_F(FilesTest, AFileThatIsNamedIsTaken) {
  const fs::path file = write(".notes", "x");
  EXPECT_EQ(find_files(file)->files, std::vector<fs::path>{file});
  EXPECT_EQ(find_files(folder_ / "absent").error().code, ErrorCode::not_found);
}

TEST_F(FilesTest, TellsTextFromTheRest) {
  EXPECT_EQ(kind_of("hello \xc3\xa9\n"), TextFile::Kind::text);
  EXPECT_EQ(kind_of(""), TextFile::Kind::text);
  EXPECT_EQ(kind_of(std::string("a\0b", 3)), TextFile::Kind::binary);
  EXPECT_EQ(kind_of("caf\xe9 in Latin-1"), TextFile::Kind::not_utf8);
  EXPECT_EQ(kind_of("cut \xe7\x8b"), TextFile::Kind::not_utf8);
  const fs::path large = write("large", "text");
  fs::resize_file(large, kTextFileBytesMax + 1);
  EXPECT_EQ(read_text_file(large)->kind, TextFile::Kind::binary);  // its end is zeros
  write("large", std::string(kTextFileBytesMax + 1, 'x'));
  EXPECT_EQ(read_text_file(large)->kind, TextFile::Kind::too_large);
  EXPECT_EQ(read_text_file(folder_ / "absent").error().code, ErrorCode::io);
}

}  // namespace
}  // namespace impetus

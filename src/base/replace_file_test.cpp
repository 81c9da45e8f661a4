#include "base/replace_file.h"

#include <fstream>

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/mapped_file.h"

namespace impetus {
namespace {

namespace fs = std::filesystem;

class ReplaceFileTest : public testing::Test {
 protected:
  fs::path folder_ = fs::temp_directory_path() / fmt::format("impetus-replace-file-{}", ::getpid());
  ~ReplaceFileTest() override {
    std::error_code code;
    fs::remove_all(folder_, code);
  }
  std::vector<std::string> names() const {
    std::vector<std::string> found;
    for (const auto& entry : fs::directory_iterator(folder_)) {
      found.push_back(entry.path().filename().string());
    }
    return found;
  }
};

TEST_F(ReplaceFileTest, IsThereWholeAndAlone) {
  const fs::path file = folder_ / "deep" / "file";
  for (const std::string& text : {std::string("first"), std::string(3 << 20, 'x'), std::string()}) {
    ASSERT_TRUE(replace_file(file, text).ok());
    EXPECT_EQ(*read_file(file), text);
  }
  EXPECT_EQ(std::distance(fs::directory_iterator(folder_ / "deep"), fs::directory_iterator()), 1);
}

TEST_F(ReplaceFileTest, OfThisUserAloneWhereAsked) {
  ASSERT_TRUE(replace_file(folder_ / "file", "secret", Readable::by_user).ok());
  struct stat found{};
  ASSERT_EQ(::stat((folder_ / "file").c_str(), &found), 0);
  EXPECT_EQ(found.st_mode & 0777, 0600u);
}

TEST_F(ReplaceFileTest, WhatCannotBeReplacedStands) {
  fs::create_directories(folder_ / "folder" / "full");
  const auto onto_folder = replace_file(folder_ / "folder", "x");
  ASSERT_FALSE(onto_folder.ok());
  EXPECT_EQ(onto_folder.error().code, ErrorCode::io);
  EXPECT_NE(onto_folder.error().message.find("folder cannot be written"), std::string::npos);
  EXPECT_EQ(names(), std::vector<std::string>{"folder"}) << "what was written beside is gone";
  std::ofstream(folder_ / "plain") << "kept";
  const auto below_file = replace_file(folder_ / "plain" / "file", "x");
  ASSERT_FALSE(below_file.ok());
  EXPECT_EQ(below_file.error().code, ErrorCode::io);
  EXPECT_EQ(*read_file(folder_ / "plain"), "kept");
}

}  // namespace
}  // namespace impetus

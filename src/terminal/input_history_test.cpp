#include "terminal/input_history.h"

#include <fstream>

#include <sys/stat.h>
#include <unistd.h>

#include <gtest/gtest.h>

namespace impetus {
namespace {

namespace fs = std::filesystem;

class InputHistoryTest : public ::testing::Test {
 protected:
  void TearDown() override { fs::remove_all(folder_); }
  fs::path folder_ =
      fs::temp_directory_path() / ("impetus_input_history_" + std::to_string(::getpid()));
  fs::path file_ = folder_ / "state" / "history";
};

TEST_F(InputHistoryTest, ComesBackAsItWasTyped) {
  const std::vector<std::string> typed = {"one", "two\nlines", "a \\n and a \\",
                                          "狐狸 👩‍🚀"};
  {
    InputHistory history(file_);
    EXPECT_TRUE(history.entries().empty());
    for (const auto& entry : typed) EXPECT_TRUE(*history.add(entry));
    EXPECT_FALSE(*history.add(typed.back()));
    EXPECT_FALSE(*history.add(""));
    EXPECT_FALSE(*history.add(std::string(InputHistory::kEntryBytesMax + 1, 'x')));
  }
  EXPECT_EQ(InputHistory(file_).entries(), typed);
  struct stat status = {};
  ASSERT_EQ(::stat(file_.c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0600u);
}

TEST_F(InputHistoryTest, TwoProgramsAddToOneFile) {
  InputHistory one(file_), other(file_);
  ASSERT_TRUE(one.add("from one").ok());
  ASSERT_TRUE(other.add("from the other").ok());
  EXPECT_EQ(InputHistory(file_).entries(),
            (std::vector<std::string>{"from one", "from the other"}));
}

TEST_F(InputHistoryTest, StaysBounded) {
  fs::create_directories(file_.parent_path());
  {
    std::ofstream out(file_);
    for (size_t i = 0; i <= 2 * InputHistory::kEntriesMax; ++i) out << "entry " << i << '\n';
  }
  EXPECT_EQ(InputHistory(file_).entries().size(), InputHistory::kEntriesMax);
  EXPECT_EQ(InputHistory(file_).entries().back(), "entry 2000");
  std::ifstream in(file_);
  size_t lines = 0;
  for (std::string line; std::getline(in, line);) ++lines;
  EXPECT_EQ(lines, InputHistory::kEntriesMax);
}

TEST_F(InputHistoryTest, ADamagedFileCostsOnlyItsDamage) {
  fs::create_directories(file_.parent_path());
  std::ofstream(file_) << "good\n\xff\xfe\n\nagain";
  EXPECT_EQ(InputHistory(file_).entries(), (std::vector<std::string>{"good", "again"}));
}

TEST_F(InputHistoryTest, SaysWhyItCannotBeWritten) {
  fs::create_directories(file_);  // a folder in its place
  InputHistory history(file_);
  const auto added = history.add("one");
  ASSERT_FALSE(added.ok());
  EXPECT_NE(added.error().message.find("history cannot be written"), std::string::npos);
  EXPECT_EQ(history.entries().size(), 1u);
}

}  // namespace
}  // namespace impetus

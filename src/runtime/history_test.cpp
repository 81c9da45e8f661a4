#include "runtime/history.h"

#include <fstream>
#include <thread>

#include <gtest/gtest.h>
#include <unistd.h>

namespace impetus {
namespace {

class HistoryTest : public ::testing::Test {
 protected:
  HistoryTest()
      : folder_(std::filesystem::temp_directory_path() /
                fmt::format("impetus-history-{}", ::getpid())) {
    std::filesystem::remove_all(folder_);
  }
  ~HistoryTest() override { std::filesystem::remove_all(folder_); }
  std::filesystem::path path() const { return folder_ / "state" / "history.db"; }

  std::filesystem::path folder_;
};

BenchmarkRecord record(std::string model, double measured) {
  BenchmarkRecord r;
  r.time = 1'800'000'000;
  r.model = std::move(model);
  r.precision = "q8_0";
  r.phase = "decode";
  r.device = "cpu";
  r.backend = "cpu-avx2";
  r.threads = 2;
  r.measured = measured;
  r.predicted = 12.5;
  return r;
}

TEST_F(HistoryTest, KeepsWhatItWasGivenNewestFirst) {
  {
    auto history = History::open(path());
    ASSERT_TRUE(history.ok()) << history.error().message;
    ASSERT_TRUE((*history)->add({record("a", 1), record("b'; DROP TABLE benchmark; --", 2)}).ok());
    ASSERT_TRUE((*history)->add({record("a", 3)}).ok());
  }
  auto history = History::open(path());  // another process, later
  ASSERT_TRUE(history.ok());
  auto all = (*history)->list({}, 10);
  ASSERT_TRUE(all.ok()) << all.error().message;
  ASSERT_EQ(all->size(), 3u);
  EXPECT_EQ((*all)[0].measured, 3);
  EXPECT_EQ((*all)[1].model, "b'; DROP TABLE benchmark; --");
  EXPECT_EQ((*all)[2].predicted, 12.5);
  EXPECT_EQ((*history)->list({"a"}, 10)->size(), 2u);
  EXPECT_EQ((*history)->list({"a"}, 1)->size(), 1u);
  EXPECT_EQ((*history)->list({"nobody"}, 10)->size(), 0u);
}

TEST_F(HistoryTest, ManyWritersLoseNothing) {
  ASSERT_TRUE(History::open(path()).ok());
  std::vector<std::thread> writers;
  for (int w = 0; w < 4; ++w) {
    writers.emplace_back([&] {
      auto own = History::open(path());
      ASSERT_TRUE(own.ok()) << own.error().message;
      for (int i = 0; i < 10; ++i) EXPECT_TRUE((*own)->add({record("m", i), record("m", i)}).ok());
    });
  }
  for (auto& writer : writers) writer.join();
  EXPECT_EQ((*History::open(path()))->list({}, 1000)->size(), 80u);
}

TEST_F(HistoryTest, RefusesWhatIsNoHistory) {
  std::filesystem::create_directories(path().parent_path());
  std::ofstream(path()) << std::string(5000, 'x');
  const auto history = History::open(path());
  ASSERT_FALSE(history.ok());
  EXPECT_NE(history.error().message.find("history.db"), std::string::npos);
  EXPECT_EQ(std::filesystem::file_size(path()), 5000u) << "and leaves it as it is";
}

TEST_F(HistoryTest, AFolderThatCannotBeMadeIsAnError) {
  std::filesystem::create_directories(folder_);
  std::ofstream(folder_ / "state") << "a file where a folder should be";
  EXPECT_FALSE(History::open(path()).ok());
}

}  // namespace
}  // namespace impetus

#include "search/index.h"

#include <fstream>
#include <random>
#include <sstream>

#include <sys/stat.h>
#include <unistd.h>

#include <gtest/gtest.h>

namespace impetus {
namespace {

namespace fs = std::filesystem;

class PassageIndexTest : public ::testing::Test {
 protected:
  void TearDown() override { fs::remove_all(folder_); }

  static PassageIndex filled() {
    PassageIndex index("model one");
    index.put(sha256("a"), {{{0, 5, 1}, {6, 3, 2}}, {1, 2, 3, 4}, 10});
    index.put(sha256("b"), {{{0, 9, 1}}, {5, 6}, 30});
    index.put(sha256("empty"), {{}, {}, 20});
    return index;
  }
  std::string bytes() const {
    std::ifstream in(file_, std::ios::binary);
    std::ostringstream all;
    all << in.rdbuf();
    return all.str();
  }
  void write(const std::string& bytes) const { std::ofstream(file_, std::ios::binary) << bytes; }

  fs::path folder_ = fs::temp_directory_path() / ("impetus_index_" + std::to_string(::getpid()));
  fs::path file_ = folder_ / "search" / "one.index";
};

TEST_F(PassageIndexTest, ComesBackAsItWasSaved) {
  EXPECT_EQ(*filled().save(file_, 1 << 20), 0);
  PassageIndex index("model one");
  ASSERT_TRUE(index.load(file_).ok());
  ASSERT_EQ(index.size(), 3u);
  const IndexEntry* entry = index.find(sha256("a"));
  ASSERT_NE(entry, nullptr);
  EXPECT_EQ(entry->passages, (std::vector<Passage>{{0, 5, 1}, {6, 3, 2}}));
  EXPECT_EQ(entry->vectors, (std::vector<uint16_t>{1, 2, 3, 4}));
  EXPECT_EQ(entry->used, 10);
  EXPECT_EQ(index.find(sha256("c")), nullptr);
  struct stat status = {};
  ASSERT_EQ(::stat(file_.c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0600u);
  // No file but the index is left.
  EXPECT_EQ(std::distance(fs::directory_iterator(file_.parent_path()), fs::directory_iterator()),
            1);
}

TEST_F(PassageIndexTest, AnAbsentFileIsAnEmptyIndex) {
  PassageIndex index("model one");
  EXPECT_TRUE(index.load(file_).ok());
  EXPECT_EQ(index.size(), 0u);
}

TEST_F(PassageIndexTest, LeavesOutWhatWasUsedLongestAgo) {
  ASSERT_EQ(*filled().save(file_, 1 << 20), 0);
  const auto all = static_cast<int64_t>(bytes().size());
  EXPECT_EQ(*filled().save(file_, all), 0);
  EXPECT_EQ(*filled().save(file_, all - 1), 1);
  EXPECT_LE(static_cast<int64_t>(bytes().size()), all - 1);
  PassageIndex index("model one");
  ASSERT_TRUE(index.load(file_).ok());
  EXPECT_EQ(index.find(sha256("a")), nullptr);
  EXPECT_NE(index.find(sha256("b")), nullptr);
  index = filled();
  index.touch(sha256("a"), 40);
  EXPECT_EQ(*index.save(file_, all - 1), 1);
  ASSERT_TRUE(index.load(file_).ok());
  EXPECT_NE(index.find(sha256("a")), nullptr);
}

TEST_F(PassageIndexTest, EveryDamageIsNoticed) {
  ASSERT_TRUE(filled().save(file_, 1 << 20).ok());
  const std::string good = bytes();
  PassageIndex index("model one");
  for (size_t size = 0; size < good.size(); ++size) {
    write(good.substr(0, size));
    ASSERT_EQ(index.load(file_).error().code, ErrorCode::corrupt) << "cut at " << size;
    ASSERT_EQ(index.size(), 0u);
  }
  for (size_t at = 0; at < good.size(); ++at) {
    std::string bad = good;
    bad[at] = static_cast<char>(bad[at] ^ 0x10);
    write(bad);
    ASSERT_FALSE(index.load(file_).ok()) << "byte " << at;
    ASSERT_EQ(index.size(), 0u);
  }
  write(good + "x");
  EXPECT_FALSE(index.load(file_).ok());
  write(good);
  EXPECT_TRUE(index.load(file_).ok());
}

// With a hash that is right, so that the counts themselves are what is refused.
TEST_F(PassageIndexTest, ImpossibleCountsAreRefused) {
  ASSERT_TRUE(filled().save(file_, 1 << 20).ok());
  const std::string good = bytes();
  std::mt19937_64 random(5);
  PassageIndex index("model one");
  for (int round = 0; round < 1500; ++round) {
    std::string bad = good.substr(0, good.size() - sizeof(ContentHash));
    const size_t at = random() % (bad.size() - 8);
    const uint64_t value = round % 2 ? random() : random() % 300;
    std::memcpy(bad.data() + at, &value, 8);
    const ContentHash hash = sha256(bad);
    bad.append(reinterpret_cast<const char*>(&hash), sizeof hash);
    write(bad);
    if (!index.load(file_).ok()) ASSERT_EQ(index.size(), 0u);
  }
}

TEST_F(PassageIndexTest, AnotherModelsVectorsAreNotRead) {
  ASSERT_TRUE(filled().save(file_, 1 << 20).ok());
  PassageIndex other("model two");
  const auto loaded = other.load(file_);
  ASSERT_FALSE(loaded.ok());
  EXPECT_NE(loaded.error().message.find("another model"), std::string::npos);
}

TEST_F(PassageIndexTest, SaysWhyItCannotBeWritten) {
  fs::create_directories(folder_);
  std::ofstream(folder_ / "search") << "a file where the folder should be";
  const auto saved = filled().save(file_, 1 << 20);
  ASSERT_FALSE(saved.ok());
  EXPECT_EQ(saved.error().code, ErrorCode::io);
}

}  // namespace
}  // namespace impetus

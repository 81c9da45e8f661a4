#include "coreml/cache.h"

#include <atomic>
#include <fstream>
#include <thread>

#include <sys/wait.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include "base/mapped_file.h"
#include "base/sha256.h"

namespace impetus::coreml {
namespace {

namespace fs = std::filesystem;

class Cache : public ::testing::Test {
 protected:
  Cache() {
    std::string name = (fs::temp_directory_path() / "impetus-cache-XXXXXX").string();
    folder_ = ::mkdtemp(name.data());
  }
  ~Cache() override {
    fs::permissions(folder_, fs::perms::owner_all);
    fs::remove_all(folder_);
  }

  PackageCache open(int64_t bytes_max = PackageCache::kBytesMax) {
    auto cache = PackageCache::open(folder_, bytes_max);
    EXPECT_TRUE(cache.ok()) << cache.error().message;
    return std::move(*cache);
  }
  static void write(const fs::path& path, const std::string& text) {
    fs::create_directories(path.parent_path());
    std::ofstream(path, std::ios::binary) << text;
  }
  static std::string read(const fs::path& path) { return *read_file(path); }
  // Writes a package of two files and counts.
  auto maker(std::string text = "weights") {
    return [this, text](const fs::path& folder) -> Result<void> {
      ++made_;
      write(folder / "model.mlpackage/Manifest.json", "{}");
      write(folder / "model.mlpackage/Data/weight.bin", text);
      return {};
    };
  }

  fs::path folder_;
  std::atomic<int> made_ = 0;
  const std::string key_ = sha256_hex("a");
};

TEST_F(Cache, MakesOnceAndFindsAgain) {
  fs::path content;
  {
    auto cache = open();
    const auto entry = cache.get(key_, maker());
    ASSERT_TRUE(entry.ok()) << entry.error().message;
    EXPECT_TRUE(entry->made);
    content = entry->content;
    EXPECT_EQ(read(content / "model.mlpackage/Data/weight.bin"), "weights");
    // What a loader compiles beside it is no damage.
    write(entry->compiled / "x/model.mlmodelc", "compiled");
  }
  auto cache = open();
  const auto entry = cache.get(key_, maker());
  ASSERT_TRUE(entry.ok()) << entry.error().message;
  EXPECT_FALSE(entry->made);
  EXPECT_EQ(entry->content, content);  // Apple's own cache knows it by its path
  EXPECT_EQ(read(entry->compiled / "x/model.mlmodelc"), "compiled");
  EXPECT_EQ(made_, 1);
  EXPECT_TRUE(cache.get(sha256_hex("b"), maker())->made);
  EXPECT_FALSE(cache.get("../x", maker()).ok());
  EXPECT_FALSE(cache.get("", maker()).ok());
}

TEST_F(Cache, NoticesEachDamage) {
  const auto damage = [&](const char* what, auto harm) {
    {
      auto cache = open();
      const auto entry = cache.get(key_, maker());
      ASSERT_TRUE(entry.ok()) << what;
      harm(entry->content);
    }
    made_ = 0;
    auto cache = open();
    const auto entry = cache.get(key_, maker());
    ASSERT_TRUE(entry.ok()) << what << ": " << entry.error().message;
    EXPECT_TRUE(entry->made) << what;
    EXPECT_EQ(made_, 1) << what;
    EXPECT_EQ(read(entry->content / "model.mlpackage/Data/weight.bin"), "weights") << what;
    EXPECT_FALSE(open().get(key_, maker())->made) << what;
  };
  const std::string weights = "model.mlpackage/Data/weight.bin";
  damage("a changed byte", [&](const fs::path& at) { write(at / weights, "weighta"); });
  damage("cut short", [&](const fs::path& at) { fs::resize_file(at / weights, 3); });
  damage("a file gone", [&](const fs::path& at) { fs::remove(at / weights); });
  damage("a file too many", [&](const fs::path& at) { write(at / "more", ""); });
  damage("a link", [&](const fs::path& at) {
    fs::rename(at / weights, at.parent_path() / "elsewhere");
    fs::create_symlink(at.parent_path() / "elsewhere", at / weights);
  });
  damage("no content", [&](const fs::path& at) { fs::remove_all(at); });
  for (const char* text :
       {"", "{", "[]", R"({"files": 1})", R"({"files": {"a": 1}})", R"({"files": {}})"}) {
    damage(text, [&](const fs::path& at) { write(at.parent_path() / "digests.json", text); });
  }
  damage("no digests", [&](const fs::path& at) { fs::remove(at.parent_path() / "digests.json"); });
}

TEST_F(Cache, WhatFailsLeavesNothing) {
  auto cache = open();
  const auto failed = cache.get(key_, [&](const fs::path& folder) -> Result<void> {
    write(folder / "half", "x");
    return error(ErrorCode::unsupported, "no such activation");
  });
  ASSERT_FALSE(failed.ok());
  EXPECT_EQ(failed.error().code, ErrorCode::unsupported);
  EXPECT_FALSE(fs::exists(folder_ / key_));
  EXPECT_TRUE(fs::is_empty(folder_ / "staging"));
  // Nor does a process that died.
  write(folder_ / "staging" / key_ / "content/left", "x");
  const auto entry = cache.get(key_, maker());
  ASSERT_TRUE(entry.ok());
  EXPECT_FALSE(fs::exists(entry->content / "left"));
}

TEST_F(Cache, TheLongestUnusedGoFirstAndNoneInUse) {
  const std::string kib(1000, 'x');
  std::vector<std::string> keys;
  for (int i = 0; i < 4; ++i) keys.push_back(sha256_hex(std::to_string(i)));
  auto cache = open(5000);
  const auto there = [&](int i) { return fs::exists(folder_ / keys[i]); };
  auto held = cache.get(keys[0], maker(kib));
  ASSERT_TRUE(held.ok());
  for (int i = 1; i < 3; ++i) ASSERT_TRUE(cache.get(keys[i], maker(kib)).ok());
  const auto age = [&](int i, int hours) {
    const auto path = folder_ / keys[i] / "digests.json";
    fs::last_write_time(path, fs::file_time_type::clock::now() - std::chrono::hours(hours));
  };
  age(0, 9), age(1, 5), age(2, 7);
  EXPECT_TRUE(there(0) && there(1) && there(2));
  ASSERT_TRUE(cache.get(keys[1], maker(kib)).ok());  // used again
  EXPECT_EQ(made_, 3);
  cache = open(3500);
  ASSERT_TRUE(cache.get(keys[3], maker(kib)).ok());
  EXPECT_TRUE(there(0));  // in use
  EXPECT_FALSE(there(2));
  EXPECT_TRUE(there(3));  // just made
  EXPECT_LE(cache.bytes(), 3500 + 1500);
  held = error(ErrorCode::cancelled, "let go");
  age(0, 9);
  cache = open(2000);
  cache.trim();
  EXPECT_FALSE(there(0));
  EXPECT_TRUE(cache.get(keys[0], maker(kib))->made);
}

TEST_F(Cache, ThreadsMakeItOnce) {
  std::vector<std::thread> threads;
  std::atomic<int> good = 0;
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back([&] {
      auto cache = open();
      const auto entry = cache.get(key_, [&](const fs::path& folder) {
        std::this_thread::sleep_for(std::chrono::milliseconds(30));
        return maker()(folder);
      });
      good += entry.ok() && read(entry->content / "model.mlpackage/Data/weight.bin") == "weights";
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(good, 8);
  EXPECT_EQ(made_, 1);
}

TEST_F(Cache, ProcessesMakeItOnceWhileOneDies) {
  constexpr int kProcesses = 6;
  const fs::path log = folder_ / "log";
  std::vector<pid_t> children;
  for (int p = 0; p < kProcesses; ++p) {
    const pid_t child = ::fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      auto cache = PackageCache::open(folder_);
      const auto entry = cache->get(key_, [&](const fs::path& folder) -> Result<void> {
        std::ofstream(log, std::ios::app) << "m";
        write(folder / "weight.bin", std::string(1 << 16, 'w'));
        ::usleep(20000);
        // The first to come dies over it.
        if (fs::file_size(log) == 1) ::_exit(9);
        return {};
      });
      ::_exit(entry.ok() && fs::file_size(entry->content / "weight.bin") == 1 << 16 ? 0 : 1);
    }
    children.push_back(child);
  }
  int died = 0, good = 0;
  for (const pid_t child : children) {
    int status = 0;
    ::waitpid(child, &status, 0);
    died += WIFEXITED(status) && WEXITSTATUS(status) == 9;
    good += WIFEXITED(status) && WEXITSTATUS(status) == 0;
  }
  EXPECT_EQ(died, 1);
  EXPECT_EQ(good, kProcesses - 1);
  EXPECT_EQ(fs::file_size(log), 2u);
}

TEST_F(Cache, MakersAndRemoversAtOnce) {
  std::vector<std::thread> threads;
  std::atomic<int> bad = 0;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (int round = 0; round < 25; ++round) {
        auto cache = open(2500);
        const int which = (round * 7 + t * 3) % 5;
        const std::string text = std::string(900, static_cast<char>('a' + which));
        const auto entry = cache.get(sha256_hex(std::to_string(which)), maker(text));
        // As long as it is held, it is whole.
        bad += !entry.ok() || read(entry->content / "model.mlpackage/Data/weight.bin") != text;
      }
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(bad, 0);
}

TEST_F(Cache, AFolderThatCannotBeWrittenIsSaid) {
  write(folder_ / "file", "x");
  const auto cache = PackageCache::open(folder_ / "file/below");
  ASSERT_FALSE(cache.ok());
  EXPECT_EQ(cache.error().code, ErrorCode::io);
  EXPECT_NE(cache.error().message.find("file/below"), std::string::npos);
}

}  // namespace
}  // namespace impetus::coreml

#include "backend/memory_ledger.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>
#include <thread>

namespace impetus {
namespace {

TEST(MemoryLedger, GivesAndTakes) {
  MemoryLedger ledger(100);
  {
    auto a = ledger.reserve(60, "a");
    ASSERT_TRUE(a.ok());
    auto b = ledger.reserve(41, "b");
    ASSERT_FALSE(b.ok());
    EXPECT_EQ(b.error().code, ErrorCode::insufficient_memory);
    EXPECT_NE(b.error().message.find("held by a"), std::string::npos);
    auto c = ledger.reserve(40, "c");
    ASSERT_TRUE(c.ok());
    EXPECT_EQ(ledger.used_bytes(), 100);
    EXPECT_EQ(ledger.entries().size(), 2u);
  }
  EXPECT_EQ(ledger.used_bytes(), 0);
  EXPECT_FALSE(ledger.reserve(-1, "negative").ok());
  EXPECT_FALSE(ledger.reserve(INT64_MAX, "huge").ok());
}

TEST(MemoryLedger, MovesGiveBackOnce) {
  MemoryLedger ledger(100);
  Reservation a = std::move(*ledger.reserve(10, "a"));
  Reservation b = std::move(*ledger.reserve(20, "b"));
  a = std::move(b);
  EXPECT_EQ(ledger.used_bytes(), 20);
  EXPECT_EQ(b.bytes(), 0);
  Reservation c(std::move(a));
  EXPECT_EQ(a.bytes(), 0);
  EXPECT_EQ(ledger.used_bytes(), 20);
  c = Reservation();
  EXPECT_EQ(ledger.used_bytes(), 0);
}

TEST(MemoryLedger, ManyThreads) {
  MemoryLedger ledger(1000);
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 2000; ++i) {
        auto r = ledger.reserve(i % 300, "t");
        if (r.ok()) EXPECT_LE(ledger.used_bytes(), 1000);
      }
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(ledger.used_bytes(), 0);
}

class UsableMemory : public ::testing::Test {
 protected:
  void SetUp() override {
    root_ =
        std::filesystem::temp_directory_path() / ("impetus_memory_" + std::to_string(::getpid()));
    std::filesystem::remove_all(root_);
    write("proc/meminfo",
          "MemTotal:       16777216 kB\nMemFree: 1 kB\nMemAvailable:   16000000 kB\n");
  }
  void TearDown() override { std::filesystem::remove_all(root_); }
  void write(const std::string& path, const std::string& text) {
    std::filesystem::create_directories((root_ / path).parent_path());
    std::ofstream(root_ / path) << text;
  }
  std::filesystem::path root_;
};

constexpr int64_t kGiB = int64_t{1} << 30;

TEST_F(UsableMemory, TheMachine) {
  EXPECT_EQ(usable_memory_bytes_below(root_), 15 * kGiB);
}

TEST_F(UsableMemory, NoMoreThanIsAvailable) {
  write("proc/meminfo", "MemTotal: 16777216 kB\nMemAvailable: 1024 kB\n");
  EXPECT_EQ(usable_memory_bytes_below(root_), 1024 * 1024);
}

TEST_F(UsableMemory, CgroupV2LimitOfAParent) {
  write("proc/self/cgroup", "0::/a/b\n");
  write("sys/fs/cgroup/a/b/memory.max", "max\n");
  write("sys/fs/cgroup/a/memory.max", std::to_string(4 * kGiB) + "\n");
  EXPECT_EQ(usable_memory_bytes_below(root_), 4 * kGiB - 256 * (1 << 20));
}

TEST_F(UsableMemory, CgroupV1) {
  write("proc/self/cgroup", "5:cpu,cpuacct:/x\n4:memory:/docker/1\n");
  write("sys/fs/cgroup/memory/memory.limit_in_bytes", std::to_string(8 * kGiB) + "\n");
  EXPECT_EQ(usable_memory_bytes_below(root_), 8 * kGiB - kGiB / 2);
}

TEST(UsableMemoryHere, IsPlausible) {
  EXPECT_GT(usable_memory_bytes(), 16 << 20);
}

}  // namespace
}  // namespace impetus

#include "backend/memory_ledger.h"

#include <gtest/gtest.h>

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

}  // namespace
}  // namespace impetus

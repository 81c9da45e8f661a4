#include "coreml/buckets.h"

#include <random>

#include <gtest/gtest.h>

namespace impetus::coreml {
namespace {

TEST(Buckets, TheSmallestThatHoldsIt) {
  const Buckets buckets({16, 32, 128});
  EXPECT_EQ(buckets.fit(1), 0u);
  EXPECT_EQ(buckets.fit(16), 0u);
  EXPECT_EQ(buckets.fit(17), 1u);
  EXPECT_EQ(buckets.fit(128), 2u);
  EXPECT_FALSE(buckets.fit(129));
  EXPECT_EQ(buckets.largest(), 128);
}

TEST(Buckets, OneTurnATextGroupedByProgram) {
  const Buckets buckets({4, 8, 16});
  std::mt19937_64 random(3);
  for (int round = 0; round < 100; ++round) {
    std::vector<int32_t> offsets{0};
    const auto texts = random() % 12;
    for (size_t t = 0; t < texts; ++t) {
      offsets.push_back(offsets.back() + 1 + static_cast<int32_t>(random() % 16));
    }
    const auto turns = buckets.order(offsets);
    ASSERT_TRUE(turns);
    ASSERT_EQ(turns->size(), texts);
    std::vector<bool> seen(texts);
    for (size_t i = 0; i < texts; ++i) {
      const auto [text, bucket] = (*turns)[i];
      EXPECT_FALSE(seen[text]);
      seen[text] = true;
      EXPECT_EQ(buckets.fit(offsets[text + 1] - offsets[text]), bucket);
      if (i == 0) continue;
      EXPECT_LE((*turns)[i - 1].bucket, bucket);  // programs change as rarely as they can
      if ((*turns)[i - 1].bucket == bucket) EXPECT_LT((*turns)[i - 1].text, text);
    }
  }
  EXPECT_FALSE(buckets.order(std::vector<int32_t>{0, 3, 20}));
}

}  // namespace
}  // namespace impetus::coreml

// Rounds of a benchmark as one record.
#include "runtime/benchmark_records.h"

#include <gtest/gtest.h>

namespace impetus {
namespace {

BenchmarkRecord record(std::string phase, double measured, double least, double most) {
  BenchmarkRecord one;
  one.model = "m";
  one.phase = std::move(phase);
  one.measured = measured;
  one.least = least;
  one.most = most;
  one.predicted = 100;
  return one;
}

TEST(BenchmarkRecords, RoundsAreTheMedianOfTheirMediansAndTheirSpread) {
  const auto records = over_rounds({
      {record("prefill", 300, 200, 400), record("decode", 50, 45, 70)},
      {record("prefill", 100, 10, 900), record("decode", 80, 79, 81)},
      {record("prefill", 200, 150, 210), record("decode", 60, 59, 61)},
  });
  ASSERT_EQ(records.size(), 2u);
  EXPECT_EQ(records[0].phase, "prefill");
  EXPECT_EQ(records[0].measured, 200);
  EXPECT_EQ(records[0].least, 100);
  EXPECT_EQ(records[0].most, 300);
  EXPECT_EQ(records[1].measured, 60);
  EXPECT_EQ(records[1].least, 50);
  EXPECT_EQ(records[1].most, 80);
  EXPECT_EQ(records[1].predicted, 100);
  EXPECT_EQ(records[1].model, "m");
}

TEST(BenchmarkRecords, OneRoundOrNone) {
  EXPECT_TRUE(over_rounds({}).empty());
  const auto records = over_rounds({{record("embeddings", 7, 6, 8)}});
  ASSERT_EQ(records.size(), 1u);
  EXPECT_EQ(records[0].measured, 7);
  EXPECT_EQ(records[0].least, 7);
  EXPECT_EQ(records[0].most, 7);
}

}  // namespace
}  // namespace impetus

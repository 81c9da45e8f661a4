#include "engine/fair_share.h"

#include <array>

#include <gtest/gtest.h>

namespace impetus {
namespace {

using Lanes = std::vector<FairShare::Lane>;

TEST(FairShare, DividesTimeByShareWhateverTheSlices) {
  FairShare shares;
  shares.add(1, 3);
  shares.add(2, 1);
  std::array<double, 3> served{};
  for (int i = 0; i < 4000; ++i) {
    const auto lane = *shares.pick(Lanes{1, 2});
    const double slice = lane == 1 ? 0.005 : 0.020;
    shares.charge(lane, slice);
    served[lane] += slice;
  }
  EXPECT_NEAR(served[1] / served[2], 3, 0.05);
  EXPECT_DOUBLE_EQ(shares.seconds(1), served[1]);
}

TEST(FairShare, IdlingSavesNothingUp) {
  FairShare shares;
  shares.add(1, 1);
  shares.add(2, 1);
  for (int i = 0; i < 1000; ++i) shares.charge(*shares.pick(Lanes{1}), 0.01);
  // Lane 2 comes after ten seconds: it is next, but does not get ten seconds in a row.
  EXPECT_EQ(shares.pick(Lanes{1, 2}), 2u);
  int second = 0;
  for (int i = 0; i < 100; ++i) {
    const auto lane = *shares.pick(Lanes{1, 2});
    shares.charge(lane, 0.01);
    second += lane == 2;
  }
  EXPECT_NEAR(second, 50, 1);
}

TEST(FairShare, AShortPauseDoesNotForgiveADebt) {
  FairShare shares;
  shares.add(1, 1);
  shares.add(2, 1);
  ASSERT_EQ(shares.pick(Lanes{1, 2}), 1u);
  shares.charge(1, 1.0);
  ASSERT_EQ(shares.pick(Lanes{2}), 2u);
  shares.charge(2, 0.1);
  for (int i = 0; i < 8; ++i) {
    ASSERT_EQ(shares.pick(Lanes{1, 2}), 2u);
    shares.charge(2, 0.1);
  }
}

TEST(FairShare, NobodyReadyIsNobody) {
  FairShare shares;
  shares.add(1, 1);
  EXPECT_EQ(shares.pick({}), std::nullopt);
  shares.remove(1);
  shares.charge(1, 5);  // it went while it ran
  EXPECT_EQ(shares.seconds(1), 0);
}

}  // namespace
}  // namespace impetus

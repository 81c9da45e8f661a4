// Monotone times of layers: against worked examples, the definition on random ones, and what must
// not change.
#include "backend/isotonic.h"

#include <cmath>
#include <random>

#include <gtest/gtest.h>

namespace impetus {
namespace {

LayerTime layer(int64_t rows, int64_t parameters, double seconds, DType type = DType::f16,
                int bits = 0) {
  return {ShapeClass::decode, type, rows, parameters, seconds, bits};
}

TEST(Isotonic, PoolsNeighboursThatFall) {
  std::vector<LayerTime> times = {layer(1, 1, 4e-5), layer(1, 4, 9e-5), layer(1, 16, 4e-5),
                                  layer(1, 64, 16e-5)};
  make_monotone(times);
  EXPECT_DOUBLE_EQ(times[0].seconds, 4e-5);
  EXPECT_NEAR(times[1].seconds, 6e-5, 1e-12);  // their geometric mean
  EXPECT_DOUBLE_EQ(times[1].seconds, times[2].seconds);
  EXPECT_DOUBLE_EQ(times[3].seconds, 16e-5);
  // A pool that has come to lie below the one before it joins that.
  times = {layer(1, 1, 8e-5), layer(1, 4, 9e-5), layer(1, 16, 1e-5)};
  make_monotone(times);
  for (const LayerTime& time : times) EXPECT_NEAR(time.seconds, std::cbrt(72) * 1e-5, 1e-12);
}

TEST(Isotonic, RowsAsWellAndInAnyOrder) {
  std::vector<LayerTime> times = {layer(16, 4, 4e-5), layer(1, 1, 3e-5), layer(1, 4, 9e-5),
                                  layer(16, 1, 3.5e-5)};
  make_monotone(times);
  EXPECT_EQ(times[0].rows, 16);
  EXPECT_EQ(times[3].parameters, 1);
  EXPECT_NEAR(times[0].seconds, 6e-5, 1e-12);
  EXPECT_NEAR(times[2].seconds, 6e-5, 1e-12);
  EXPECT_DOUBLE_EQ(times[1].seconds, 3e-5);
  EXPECT_DOUBLE_EQ(times[3].seconds, 3.5e-5);
}

TEST(Isotonic, KindsDoNotMix) {
  std::vector<LayerTime> times = {layer(1, 1, 9e-5, DType::f16), layer(1, 2, 5e-5, DType::q4_0),
                                  layer(1, 3, 4e-5, DType::grouped, 4),
                                  layer(1, 4, 3e-5, DType::grouped, 8)};
  times.push_back({ShapeClass::prefill, DType::f16, 16, 8, 1e-5});
  const auto before = times;
  make_monotone(times);
  for (size_t i = 0; i < times.size(); ++i) EXPECT_EQ(times[i].seconds, before[i].seconds);
}

TEST(Isotonic, RandomTimesComeOutMonotoneAndWithinTheirs) {
  std::mt19937 random(11);
  for (int trial = 0; trial < 200; ++trial) {
    std::vector<LayerTime> times;
    double least = 1, most = 0;
    for (const int64_t rows : {1, 4, 16, 64}) {
      for (const int64_t size : {3, 11, 45, 180}) {
        if (random() % 8 == 0) continue;  // not every time is there
        const double noise = 1 + 0.7 * static_cast<double>(random() % 1000) / 1000;
        times.push_back(layer(rows, size, 1e-6 * static_cast<double>(rows + size) * noise));
        least = std::min(least, times.back().seconds);
        most = std::max(most, times.back().seconds);
      }
    }
    std::shuffle(times.begin(), times.end(), random);
    make_monotone(times);
    for (const LayerTime& one : times) {
      EXPECT_GE(one.seconds, least * (1 - 1e-12));
      EXPECT_LE(one.seconds, most * (1 + 1e-12));
      for (const LayerTime& other : times) {
        if (one.rows <= other.rows && one.parameters <= other.parameters) {
          EXPECT_LE(one.seconds, other.seconds);
        }
      }
    }
    // Once is enough.
    const auto once = times;
    make_monotone(times);
    for (size_t i = 0; i < times.size(); ++i) EXPECT_EQ(times[i].seconds, once[i].seconds);
  }
}

}  // namespace
}  // namespace impetus

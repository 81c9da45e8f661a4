#include "mlx/host_pages.h"

#include <numeric>
#include <vector>

#include <gtest/gtest.h>

#include "mlx/test_support.h"

namespace impetus::mlx_backend {
namespace {

std::vector<int32_t> from(int32_t first, int64_t count) {
  std::vector<int32_t> made(static_cast<size_t>(count));
  std::iota(made.begin(), made.end(), first);
  return made;
}

// As an operation reads it.
std::vector<int32_t> read(const mx::array& array) {
  mx::array made = mx::add(mx::reshape(array, {-1}), mx::array(0));
  made.eval();
  return {made.data<int32_t>(), made.data<int32_t>() + made.size()};
}

TEST(HostPages, NumbersStandForAsManyStepsAsAreUnderWay) {
  const Turn turn(true);
  HostPages host(false, true);
  struct Put {
    mx::array array;
    std::vector<int32_t> values;
  };
  std::vector<std::vector<Put>> steps;
  for (int32_t step = 0; step < 3 * HostPages::kSteps; ++step) {
    host.begin();
    auto& put = steps.emplace_back();
    for (const mx::Shape& shape : {mx::Shape{1}, {7}, {3, 5}, {2, 1, 1000}}) {
      const auto values = from(1000 * step, std::accumulate(shape.begin(), shape.end(), int64_t{1},
                                                            std::multiplies<>()));
      put.push_back({host.put(values, shape), values});
      EXPECT_EQ(put.back().array.shape(), shape);
    }
    for (int32_t old = std::max(0, step - HostPages::kSteps + 1); old <= step; ++old) {
      for (const Put& one : steps[static_cast<size_t>(old)]) {
        ASSERT_EQ(read(one.array), one.values) << step << " of " << old;
      }
    }
  }
  // In the same memory again.
  const size_t last = steps.size() - 1;
  EXPECT_EQ(steps[last][0].array.data<int32_t>(),
            steps[last - HostPages::kSteps][0].array.data<int32_t>());
  EXPECT_NE(steps[last][0].array.data<int32_t>(), steps[last - 1][0].array.data<int32_t>());
}

TEST(HostPages, RowsOfAMatrix) {
  const Turn turn(true);
  HostPages host(false, true);
  host.begin();
  const mx::array put = host.put(from(0, 12), {3, 4});
  EXPECT_EQ(read(mx::slice(put, {1, 1}, {3, 3})), (std::vector<int32_t>{5, 6, 9, 10}));
  EXPECT_EQ(read(mx::transpose(host.put(from(0, 4), {2, 2}))), (std::vector<int32_t>{0, 2, 1, 3}));
}

TEST(HostPages, WhatDoesNotFitIsAnArrayOfItsOwn) {
  const Turn turn(true);
  constexpr int64_t kPart = HostPages::kBytes / HostPages::kSteps / 4;  // values
  HostPages host(false, true);
  host.begin();
  const auto small = from(1, 100);
  const mx::array first = host.put(small, {100});
  const auto large = from(7, kPart);
  EXPECT_EQ(read(host.put(large, {static_cast<int>(kPart)})), large);
  EXPECT_FALSE(host.slot({static_cast<int>(kPart)}).has_value());
  // To the last value, and into nobody else's.
  const auto rest = from(3, kPart - 112);
  const mx::array fitting = host.put(rest, {static_cast<int>(rest.size())});
  EXPECT_EQ(fitting.data<int32_t>(), first.data<int32_t>() + 112);
  EXPECT_FALSE(host.slot({1}).has_value());
  host.begin();
  host.slot({static_cast<int>(kPart)})->data<int32_t>()[0] = -1;
  EXPECT_EQ(read(first), small);
  EXPECT_EQ(read(fitting), rest);
  EXPECT_FALSE(HostPages().slot({1}).has_value()) << "no pages, no room in them";
  EXPECT_EQ(read(HostPages().put(small, {100})), small);
}

TEST(HostPages, WhatIsWrittenThereIsRead) {
  const Turn turn(true);
  HostPages host(false, true);
  host.begin();
  mx::array slot = *host.slot({2, 3});
  std::iota(slot.data<int32_t>(), slot.data<int32_t>() + 6, 40);
  EXPECT_EQ(read(slot), from(40, 6));
  // Room grows, and serves what is smaller.
  mx::array room = host.room({2, 3});
  EXPECT_EQ(room.dtype(), mx::float32);
  const mx::array wide = host.room({1000, 1000});
  EXPECT_EQ(host.room({5}).data<float>(), wide.data<float>());
  EXPECT_EQ(read(slot), from(40, 6));
  // Who still holds what was put keeps it.
  const mx::array put = host.put(from(0, 9), {9});
  host.clear();
  for (int step = 0; step < 2 * HostPages::kSteps; ++step) {
    host.begin();
    host.put(from(500, 60000), {60000});
  }
  EXPECT_EQ(read(put), from(0, 9));
}

}  // namespace
}  // namespace impetus::mlx_backend

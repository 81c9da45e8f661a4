#include "backend/isotonic.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <tuple>

namespace impetus {
namespace {

// In logarithms, since what disturbs a time multiplies it.
struct Point {
  int64_t rows, parameters;
  double log_seconds;
  LayerTime* time;
};
using Line = std::vector<Point*>;

// Pools the neighbours that fall; whether any did.
bool pool(const Line& line) {
  constexpr double kAlike = 1e-9;
  struct Block {
    double sum;
    size_t count;
    double mean() const { return sum / static_cast<double>(count); }
  };
  std::vector<Block> blocks;
  for (const Point* point : line) {
    blocks.push_back({point->log_seconds, 1});
    while (blocks.size() > 1 && blocks[blocks.size() - 2].mean() > blocks.back().mean() + kAlike) {
      const Block last = blocks.back();
      blocks.pop_back();
      blocks.back().sum += last.sum;
      blocks.back().count += last.count;
    }
  }
  if (blocks.size() == line.size()) return false;
  size_t at = 0;
  for (const Block& block : blocks) {
    for (size_t i = 0; i < block.count; ++i) line[at++]->log_seconds = block.mean();
  }
  return true;
}

// The lines of equal `fixed`, along `rising`.
std::vector<Line> lines(std::vector<Point>& points, int64_t Point::* fixed,
                        int64_t Point::* rising) {
  std::map<int64_t, Line> by_fixed;
  for (Point& point : points) by_fixed[point.*fixed].push_back(&point);
  std::vector<Line> all;
  for (auto& [value, line] : by_fixed) {
    std::ranges::sort(line, {}, [&](const Point* point) { return point->*rising; });
    all.push_back(std::move(line));
  }
  return all;
}

void make_monotone(std::vector<Point>& points) {
  constexpr int kPasses = 1000;
  const auto along_widths = lines(points, &Point::rows, &Point::parameters);
  const auto along_rows = lines(points, &Point::parameters, &Point::rows);
  bool changed = true;
  for (int pass = 0; changed && pass < kPasses; ++pass) {
    changed = false;
    for (const auto* direction : {&along_widths, &along_rows}) {
      for (const Line& line : *direction) changed = pool(line) || changed;
    }
  }
  for (const Point& point : points) {
    // Untouched ones keep their bits.
    if (point.log_seconds == std::log(point.time->seconds)) continue;
    point.time->seconds = std::exp(point.log_seconds);
  }
  // What the passes left, to the last bit.
  std::ranges::sort(points, {}, [](const Point& p) { return std::tuple(p.rows, p.parameters); });
  for (size_t i = 0; i < points.size(); ++i) {
    for (size_t j = 0; j < i; ++j) {
      if (points[j].parameters > points[i].parameters) continue;
      points[i].time->seconds = std::max(points[i].time->seconds, points[j].time->seconds);
    }
  }
}

}  // namespace

void make_monotone(std::vector<LayerTime>& times) {
  std::map<std::tuple<ShapeClass, DType, int>, std::vector<Point>> kinds;
  for (LayerTime& time : times) {
    kinds[{time.shape, time.weights, time.bits}].push_back(
        {time.rows, time.parameters, std::log(time.seconds), &time});
  }
  for (auto& [kind, points] : kinds) make_monotone(points);
}

}  // namespace impetus

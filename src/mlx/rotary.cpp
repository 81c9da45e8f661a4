#include "mlx/rotary.h"

#include <cmath>

namespace impetus::mlx_backend {

Rotary::Rotary(const ModelSpec& spec, bool fused)
    : width_(spec.head_dim),
      neighbours_(spec.rope_pairs == RopePairs::neighbours),
      fused_(fused),
      frequencies_(spec.rope_frequencies()) {
  if (!fused_) return;
  std::vector<float> periods;
  for (const float frequency : frequencies_) periods.push_back(1.0f / frequency);
  periods_ = mx::array(periods.begin(), mx::Shape{dim(width_ / 2)}, mx::float32);
}

void Rotary::clear() {
  offsets_.reset();
  cosine_.reset();
  sine_.reset();
}

void Rotary::begin(const StepPlan& plan) {
  const int64_t rows = plan.rows(), half = width_ / 2;
  if (fused_) {
    offsets_ = plan.single() ? mx::array(plan.positions.front(), mx::int32)
                             : mx::array(plan.positions.begin(), mx::Shape{dim(rows)}, mx::int32);
    return;
  }
  std::vector<float> cosine(static_cast<size_t>(rows * half)), sine(cosine.size());
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t i = 0; i < half; ++i) {
      const double angle = static_cast<double>(plan.positions[static_cast<size_t>(r)]) *
                           static_cast<double>(frequencies_[static_cast<size_t>(i)]);
      cosine[static_cast<size_t>(r * half + i)] = static_cast<float>(std::cos(angle));
      sine[static_cast<size_t>(r * half + i)] = static_cast<float>(std::sin(angle));
    }
  }
  const mx::Shape shape =
      plan.single() ? mx::Shape{1, 1, dim(rows), dim(half)} : mx::Shape{dim(rows), 1, 1, dim(half)};
  cosine_ = mx::array(cosine.begin(), shape, mx::float32);
  sine_ = mx::array(sine.begin(), shape, mx::float32);
}

mx::array Rotary::apply(const mx::array& x) const {
  if (fused_) {
    return mx::fast::rope(x, static_cast<int>(width_), neighbours_, std::nullopt, 1.0f, *offsets_,
                          periods_);
  }
  const mx::array wide = mx::astype(x, mx::float32);
  const auto part = [&](const mx::array& from, int begin, int end, int stride) {
    mx::Shape start(from.ndim(), 0), stop = from.shape(), strides(from.ndim(), 1);
    start.back() = begin;
    stop.back() = end;
    strides.back() = stride;
    return mx::slice(from, start, stop, strides);
  };
  const auto half = dim(width_ / 2), all = dim(width_);
  const mx::array a = neighbours_ ? part(wide, 0, all, 2) : part(wide, 0, half, 1);
  const mx::array b = neighbours_ ? part(wide, 1, all, 2) : part(wide, half, all, 1);
  const mx::array first = mx::subtract(mx::multiply(a, *cosine_), mx::multiply(b, *sine_));
  const mx::array second = mx::add(mx::multiply(a, *sine_), mx::multiply(b, *cosine_));
  const mx::array turned = neighbours_ ? mx::reshape(mx::stack({first, second}, -1), x.shape())
                                       : mx::concatenate({first, second}, -1);
  return mx::astype(turned, x.dtype());
}

}  // namespace impetus::mlx_backend

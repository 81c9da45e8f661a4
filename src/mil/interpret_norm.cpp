// softmax, layer_norm, instance_norm, batch_norm, l2_norm: inside in f32, rounded once behind.
#include <algorithm>
#include <cmath>

#include "mil/interpret.h"

namespace impetus::mil {
namespace {

// Rows to be normalised, brought together where they are scattered, and put back.
class Rows {
 public:
  // Rows over `axes` (sorted) of x; from() and to() are [rows, count].
  static Result<Rows> open(Call& call, const Array& x, const Dims& axes, Array& out) {
    Rows rows;
    rows.out_ = &out;
    for (size_t i = 0; i < x.shape.size(); ++i) {
      if (std::ranges::binary_search(axes, static_cast<int64_t>(i))) {
        rows.count_ *= x.shape[i];
      } else {
        rows.order_.push_back(static_cast<int64_t>(i));
        rows.rows_ *= x.shape[i];
      }
    }
    rows.order_.insert(rows.order_.end(), axes.begin(), axes.end());
    if (std::ranges::is_sorted(rows.order_)) {
      rows.from_ = x.floats();
      rows.to_ = out.floats();
      return rows;
    }
    IMPETUS_TRY(rows.buffer_, call.scratch(x.elements()));
    permute(call.crew(), x.floats(), x.shape, rows.order_, rows.buffer_->floats.data());
    rows.from_ = rows.to_ = rows.buffer_->floats.data();
    return rows;
  }

  template <typename Body>  // body(row, from, to)
  void each(Call& call, Body body) {
    if (count_ == 0) return;  // rows without elements may be very many
    call.crew().ranges(rows_, std::max<int64_t>(1, 4096 / (count_ + 1)),
                       [&](int64_t begin, int64_t end) {
                         for (int64_t r = begin; r < end; ++r) {
                           body(r, from_ + r * count_, to_ + r * count_);
                         }
                       });
    if (buffer_ == nullptr) return;
    Dims shape, back(order_.size());
    for (size_t i = 0; i < order_.size(); ++i) {
      shape.push_back(out_->shape[static_cast<size_t>(order_[i])]);
      back[static_cast<size_t>(order_[i])] = static_cast<int64_t>(i);
    }
    permute(call.crew(), to_, shape, back, out_->floats());
  }

  int64_t rows() const { return rows_; }
  int64_t count() const { return count_; }

 private:
  Array* out_ = nullptr;
  const float* from_ = nullptr;
  float* to_ = nullptr;
  std::shared_ptr<Buffer> buffer_;
  Dims order_;
  int64_t rows_ = 1, count_ = 1;
};

float add(float sum, float term, bool half) {
  sum += term;
  return half ? rounded_f16(sum) : sum;
}

Result<Array*> like(Call& call, const Array& x) {
  IMPETUS_TRY(Array * out, call.output(x.shape));
  if (!out->floating()) {
    return error(ErrorCode::corrupt, "the result is declared {}", to_string(out->dtype));
  }
  return out;
}

// An operand that scales or shifts: null, or floats of exactly this shape.
Result<const float*> factor(Call& call, std::string_view parameter, const Dims& shape) {
  const Array* array = call.find(parameter);
  if (array == nullptr) return static_cast<const float*>(nullptr);
  if (!array->floating() || array->shape != shape) {
    return error(ErrorCode::corrupt, "{} is {}, not of shape {}", parameter, array->to_string(),
                 text_of(shape));
  }
  return array->floats();
}

Result<void> softmax(Call& call) {
  IMPETUS_TRY(const Array* x, call.floating("x"));
  if (x->rank() == 0) return error(ErrorCode::corrupt, "x has no axis");
  IMPETUS_TRY(const int64_t axis, call.axis("axis", x->rank(), -1));
  IMPETUS_TRY(Array * out, like(call, *x));
  IMPETUS_TRY(Rows rows, Rows::open(call, *x, {axis}, *out));
  const bool half = call.half_sums();
  const int64_t count = rows.count();
  rows.each(call, [=](int64_t, const float* from, float* to) {
    float top = -HUGE_VALF;
    for (int64_t i = 0; i < count; ++i) top = from[i] > top ? from[i] : top;
    float sum = 0;
    for (int64_t i = 0; i < count; ++i) {
      to[i] = std::exp(from[i] - top);
      sum = add(sum, to[i], half);
    }
    for (int64_t i = 0; i < count; ++i) to[i] /= sum;
  });
  return {};
}

// (x - mean) / sqrt(variance + epsilon), mean and variance over each row.
struct Moments {
  float mean, scale;
};
Moments moments_of(Call& call, const float* row, int64_t count, float epsilon, bool half) {
  float sum = 0;
  for (int64_t i = 0; i < count; ++i) sum = add(sum, row[i], half);
  float mean = sum / static_cast<float>(count);
  if (half) mean = rounded_f16(mean);
  float squares = 0;
  for (int64_t i = 0; i < count; ++i) {
    float off = row[i] - mean;
    if (half) off = rounded_f16(off);
    squares = add(squares, off * off, half);
  }
  if (half && std::isinf(squares)) call.overflowed();
  return {mean, 1.0f / std::sqrt(squares / static_cast<float>(count) + epsilon)};
}

Result<void> layer_norm(Call& call) {
  IMPETUS_TRY(const Array* x, call.floating("x"));
  IMPETUS_TRY(const Dims axes, call.axes("axes", x->rank()));
  IMPETUS_TRY(const float epsilon, call.number("epsilon", 1e-5f));
  Dims inner;
  for (const int64_t axis : axes) inner.push_back(x->shape[static_cast<size_t>(axis)]);
  IMPETUS_TRY(const float* gamma, factor(call, "gamma", inner));
  IMPETUS_TRY(const float* beta, factor(call, "beta", inner));
  IMPETUS_TRY(Array * out, like(call, *x));
  IMPETUS_TRY(Rows rows, Rows::open(call, *x, axes, *out));
  const bool half = call.half_sums();
  const int64_t count = rows.count();
  rows.each(call, [=, &call](int64_t, const float* from, float* to) {
    const Moments m = moments_of(call, from, count, epsilon, half);
    for (int64_t i = 0; i < count; ++i) {
      float value = (from[i] - m.mean) * m.scale;
      if (gamma != nullptr) value *= gamma[i];
      if (beta != nullptr) value += beta[i];
      to[i] = value;
    }
  });
  return {};
}

Result<void> instance_norm(Call& call) {
  IMPETUS_TRY(const Array* x, call.floating("x"));
  if (x->rank() < 3) return error(ErrorCode::corrupt, "x {} has no spatial axis", x->to_string());
  IMPETUS_TRY(const float epsilon, call.number("epsilon", 1e-5f));
  const int64_t channels = x->shape[1];
  IMPETUS_TRY(const float* gamma, factor(call, "gamma", {channels}));
  IMPETUS_TRY(const float* beta, factor(call, "beta", {channels}));
  Dims axes;
  for (int64_t i = 2; i < x->rank(); ++i) axes.push_back(i);
  IMPETUS_TRY(Array * out, like(call, *x));
  IMPETUS_TRY(Rows rows, Rows::open(call, *x, axes, *out));
  const bool half = call.half_sums();
  const int64_t count = rows.count();
  rows.each(call, [=, &call](int64_t row, const float* from, float* to) {
    const Moments m = moments_of(call, from, count, epsilon, half);
    const int64_t channel = row % channels;
    for (int64_t i = 0; i < count; ++i) {
      float value = (from[i] - m.mean) * m.scale;
      if (gamma != nullptr) value *= gamma[channel];
      if (beta != nullptr) value += beta[channel];
      to[i] = value;
    }
  });
  return {};
}

Result<void> batch_norm(Call& call) {
  IMPETUS_TRY(const Array* x, call.floating("x"));
  if (x->rank() < 2) return error(ErrorCode::corrupt, "x {} has no channels", x->to_string());
  IMPETUS_TRY(const float epsilon, call.number("epsilon", 1e-5f));
  const int64_t channels = x->shape[1];
  IMPETUS_TRY(const float* mean, factor(call, "mean", {channels}));
  IMPETUS_TRY(const float* variance, factor(call, "variance", {channels}));
  IMPETUS_TRY(const float* gamma, factor(call, "gamma", {channels}));
  IMPETUS_TRY(const float* beta, factor(call, "beta", {channels}));
  if (mean == nullptr || variance == nullptr) {
    return error(ErrorCode::corrupt, "mean or variance is missing");
  }
  IMPETUS_TRY(Array * out, like(call, *x));
  if (x->elements() == 0) return {};
  const int64_t inner = strides_of(x->shape)[1];
  call.crew().ranges(x->elements() / inner, std::max<int64_t>(1, 8192 / inner),
                     [&](int64_t begin, int64_t end) {
                       for (int64_t r = begin; r < end; ++r) {
                         const int64_t channel = r % channels;
                         const float scale = 1.0f / std::sqrt(variance[channel] + epsilon);
                         for (int64_t i = r * inner; i < (r + 1) * inner; ++i) {
                           float value = (x->floats()[i] - mean[channel]) * scale;
                           if (gamma != nullptr) value *= gamma[channel];
                           if (beta != nullptr) value += beta[channel];
                           out->floats()[i] = value;
                         }
                       }
                     });
  return {};
}

// Over the last three axes together.
Result<void> l2_norm(Call& call) {
  IMPETUS_TRY(const Array* x, call.floating("x"));
  if (x->rank() < 3) return error(ErrorCode::corrupt, "x {} has a rank below 3", x->to_string());
  IMPETUS_TRY(const float epsilon, call.number("epsilon", 1e-6f));
  IMPETUS_TRY(Array * out, like(call, *x));
  const int64_t rank = x->rank();
  IMPETUS_TRY(Rows rows, Rows::open(call, *x, {rank - 3, rank - 2, rank - 1}, *out));
  const bool half = call.half_sums();
  const int64_t count = rows.count();
  rows.each(call, [=, &call](int64_t, const float* from, float* to) {
    float squares = 0;
    for (int64_t i = 0; i < count; ++i) squares = add(squares, from[i] * from[i], half);
    if (half && std::isinf(squares)) call.overflowed();
    const float length = std::sqrt(squares + epsilon);
    for (int64_t i = 0; i < count; ++i) to[i] = from[i] / length;
  });
  return {};
}

constexpr Kernel kKernels[] = {
    {"softmax", softmax},       {"layer_norm", layer_norm}, {"instance_norm", instance_norm},
    {"batch_norm", batch_norm}, {"l2_norm", l2_norm},
};

}  // namespace

std::span<const Kernel> norm_kernels() {
  return kKernels;
}

}  // namespace impetus::mil

// Reductions: sums, extremes, norms over axes, arg max and min, running sums.
#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <numeric>

#include "mil/interpret.h"

namespace impetus::mil {
namespace {

enum class Reduction : uint8_t {
  mean,
  sum,
  max,
  min,
  prod,
  l1,
  l2,
  sum_square,
  log_sum,
  log_sum_exp
};

// One row to one number; T is float, or double for integers.
template <typename T>
T reduced(Reduction kind, const T* row, int64_t count, bool half) {
  const auto round = [half](T v) {
    return half ? static_cast<T>(rounded_f16(static_cast<float>(v))) : v;
  };
  const auto total = [&](auto term) {
    T sum = 0;
    for (int64_t i = 0; i < count; ++i) sum = round(sum + term(row[i]));
    return sum;
  };
  const auto extreme = [&](auto better, T otherwise) {
    T best = otherwise;
    for (int64_t i = 0; i < count; ++i) {
      if (row[i] != row[i]) return row[i];
      if (i == 0 || better(row[i], best)) best = row[i];
    }
    return best;
  };
  switch (kind) {
    case Reduction::mean:
      return total([](T v) { return v; }) / static_cast<T>(count);
    case Reduction::sum:
      return total([](T v) { return v; });
    case Reduction::max:
      return extreme(std::greater<T>(), -std::numeric_limits<T>::infinity());
    case Reduction::min:
      return extreme(std::less<T>(), std::numeric_limits<T>::infinity());
    case Reduction::prod: {
      T product = 1;
      for (int64_t i = 0; i < count; ++i) product = round(product * row[i]);
      return product;
    }
    case Reduction::l1:
      return total([](T v) { return std::fabs(v); });
    case Reduction::l2:
      return std::sqrt(total([](T v) { return v * v; }));
    case Reduction::sum_square:
      return total([](T v) { return v * v; });
    case Reduction::log_sum:
      return std::log(total([](T v) { return v; }));
    case Reduction::log_sum_exp: {
      const T top = extreme(std::greater<T>(), -std::numeric_limits<T>::infinity());
      if (std::isinf(top) || top != top) return top;
      return top + std::log(total([top](T v) { return std::exp(v - top); }));
    }
  }
  return 0;
}

// The order of dimensions that brings `axes` to the end, and the shape without them.
struct Split {
  Dims order, kept_shape, out_shape;
  int64_t rows = 1, count = 1;
  bool in_place = true;  // the axes are at the end already
};

Split split_of(const Dims& shape, const Dims& axes, bool keep) {
  Split split;
  for (size_t i = 0; i < shape.size(); ++i) {
    const bool is_reduced = std::ranges::binary_search(axes, static_cast<int64_t>(i));
    if (is_reduced) {
      split.count *= shape[i];
      if (keep) split.out_shape.push_back(1);
      continue;
    }
    split.order.push_back(static_cast<int64_t>(i));
    split.rows *= shape[i];
    split.out_shape.push_back(shape[i]);
  }
  split.order.insert(split.order.end(), axes.begin(), axes.end());
  split.in_place = std::ranges::is_sorted(split.order);
  return split;
}

Result<void> reduce(Call& call, Reduction kind) {
  IMPETUS_TRY(const Array* x, call.operand("x"));
  IMPETUS_TRY(const Dims axes, call.axes("axes", x->rank()));
  IMPETUS_TRY(const bool keep, call.flag("keep_dims", false));
  const Split split = split_of(x->shape, axes, keep);
  IMPETUS_CHECK(call.charge(x->elements()));
  IMPETUS_TRY(Array * out, call.output(split.out_shape));
  if (out->floating() != x->floating()) {
    return error(ErrorCode::corrupt, "the result is declared {}", to_string(out->dtype));
  }
  if (split.count == 0 && split.rows > 0 && (kind == Reduction::max || kind == Reduction::min)) {
    return error(ErrorCode::corrupt, "an extreme of no elements of {}", x->to_string());
  }
  if (!x->floating()) {
    std::vector<int32_t> moved(static_cast<size_t>(x->elements()));
    permute(call.crew(), x->ints(), x->shape, split.order, moved.data());
    std::vector<double> row(static_cast<size_t>(split.count));
    for (int64_t r = 0; r < split.rows; ++r) {
      std::copy_n(moved.data() + r * split.count, split.count, row.data());
      const double value = reduced(kind, row.data(), split.count, false);
      out->ints()[r] = value != value ? 0
                                      : static_cast<int32_t>(static_cast<uint32_t>(
                                            static_cast<int64_t>(std::clamp(value, -9e18, 9e18))));
    }
    return {};
  }
  const float* from = x->floats();
  std::shared_ptr<Buffer> moved;
  if (!split.in_place) {
    IMPETUS_TRY(moved, call.scratch(x->elements()));
    permute(call.crew(), from, x->shape, split.order, moved->floats.data());
    from = moved->floats.data();
  }
  const bool half = call.half_sums();
  call.crew().ranges(
      split.rows, std::max<int64_t>(1, 8192 / (split.count + 1)), [&](int64_t begin, int64_t end) {
        for (int64_t r = begin; r < end; ++r) {
          out->floats()[r] = reduced(kind, from + r * split.count, split.count, half);
        }
      });
  return {};
}

template <Reduction kKind>
Result<void> reduce_as(Call& call) {
  return reduce(call, kKind);
}

// The first of equal ones.
template <typename T>
int64_t best_of(const T* from, int64_t count, int64_t step, bool largest) {
  int64_t best = 0;
  for (int64_t i = 1; i < count; ++i) {
    const T value = from[i * step], so_far = from[best * step];
    if (largest ? value > so_far : value < so_far) best = i;
  }
  return best;
}

Result<void> reduce_arg(Call& call, bool largest) {
  IMPETUS_TRY(const Array* x, call.operand("x"));
  IMPETUS_TRY(const int64_t axis, call.axis("axis", x->rank(), -1));
  IMPETUS_TRY(const bool keep, call.flag("keep_dims", false));
  const Split split = split_of(x->shape, {axis}, keep);
  IMPETUS_CHECK(call.charge(x->elements()));
  IMPETUS_TRY(Array * out, call.output(split.out_shape));
  if (out->floating() || (split.count == 0 && split.rows > 0)) {
    return error(ErrorCode::corrupt, "{} along axis {} has no place as {}", x->to_string(), axis,
                 to_string(out->dtype));
  }
  const int64_t inner = strides_of(x->shape)[static_cast<size_t>(axis)];
  for (int64_t i = 0; i < out->elements(); ++i) {
    const int64_t at = i / inner * inner * split.count + i % inner;
    out->ints()[i] =
        static_cast<int32_t>(x->floating() ? best_of(x->floats() + at, split.count, inner, largest)
                                           : best_of(x->ints() + at, split.count, inner, largest));
  }
  return {};
}
Result<void> reduce_argmax(Call& call) {
  return reduce_arg(call, true);
}
Result<void> reduce_argmin(Call& call) {
  return reduce_arg(call, false);
}

// Places in the order of their values, the earlier of equal ones first; what is no number last.
template <typename T>
void sort_places(const T* from, int64_t count, int64_t step, bool ascending, int32_t* to) {
  std::vector<int32_t> places(static_cast<size_t>(count));
  std::iota(places.begin(), places.end(), 0);
  std::ranges::stable_sort(places, [&](int32_t a, int32_t b) {
    const T x = from[a * step], y = from[b * step];
    if (x != x || y != y) return x == x;
    return ascending ? x < y : x > y;
  });
  for (int64_t i = 0; i < count; ++i) to[i * step] = places[static_cast<size_t>(i)];
}

Result<void> argsort(Call& call) {
  IMPETUS_TRY(const Array* x, call.operand("x"));
  IMPETUS_TRY(const int64_t axis, call.axis("axis", x->rank(), -1));
  IMPETUS_TRY(const bool ascending, call.flag("ascending", false));
  IMPETUS_TRY(Array * out, call.output(x->shape));
  if (out->floating()) {
    return error(ErrorCode::corrupt, "the result is declared {}", to_string(out->dtype));
  }
  if (x->elements() == 0) return {};
  const int64_t inner = strides_of(x->shape)[static_cast<size_t>(axis)];
  const int64_t count = x->shape[static_cast<size_t>(axis)];
  // About the comparisons of a sort.
  IMPETUS_CHECK(call.charge(x->elements() * std::bit_width(static_cast<uint64_t>(count))));
  for (int64_t i = 0; i < x->elements() / count; ++i) {
    const int64_t at = i / inner * inner * count + i % inner;
    if (x->floating()) {
      sort_places(x->floats() + at, count, inner, ascending, out->ints() + at);
    } else {
      sort_places(x->ints() + at, count, inner, ascending, out->ints() + at);
    }
  }
  return {};
}

Result<void> cumsum(Call& call) {
  IMPETUS_TRY(const Array* x, call.operand("x"));
  IMPETUS_TRY(const int64_t axis, call.axis("axis", x->rank(), 0));
  IMPETUS_TRY(const bool exclusive, call.flag("exclusive", false));
  IMPETUS_TRY(const bool reverse, call.flag("reverse", false));
  IMPETUS_TRY(Array * out, call.output(x->shape));
  if (out->floating() != x->floating()) {
    return error(ErrorCode::corrupt, "the result is declared {}", to_string(out->dtype));
  }
  if (x->elements() == 0) return {};
  const int64_t inner = strides_of(x->shape)[static_cast<size_t>(axis)];
  const int64_t count = x->shape[static_cast<size_t>(axis)];
  const bool half = call.half_sums();
  for (int64_t i = 0; i < x->elements() / count; ++i) {
    const int64_t at = i / inner * inner * count + i % inner;
    float sum = 0;
    uint32_t whole = 0;
    for (int64_t j = 0; j < count; ++j) {
      const int64_t place = at + (reverse ? count - 1 - j : j) * inner;
      if (x->floating()) {
        const float before = sum;
        sum += x->floats()[place];
        if (half) sum = rounded_f16(sum);
        out->floats()[place] = exclusive ? before : sum;
      } else {
        const uint32_t before = whole;
        whole += static_cast<uint32_t>(x->ints()[place]);
        out->ints()[place] = static_cast<int32_t>(exclusive ? before : whole);
      }
    }
  }
  return {};
}

constexpr Kernel kKernels[] = {
    {"reduce_mean", reduce_as<Reduction::mean>},
    {"reduce_sum", reduce_as<Reduction::sum>},
    {"reduce_max", reduce_as<Reduction::max>},
    {"reduce_min", reduce_as<Reduction::min>},
    {"reduce_prod", reduce_as<Reduction::prod>},
    {"reduce_l1_norm", reduce_as<Reduction::l1>},
    {"reduce_l2_norm", reduce_as<Reduction::l2>},
    {"reduce_sum_square", reduce_as<Reduction::sum_square>},
    {"reduce_log_sum", reduce_as<Reduction::log_sum>},
    {"reduce_log_sum_exp", reduce_as<Reduction::log_sum_exp>},
    {"reduce_argmax", reduce_argmax},
    {"reduce_argmin", reduce_argmin},
    {"argsort", argsort},
    {"cumsum", cumsum},
};

}  // namespace

std::span<const Kernel> reduce_kernels() {
  return kKernels;
}

}  // namespace impetus::mil

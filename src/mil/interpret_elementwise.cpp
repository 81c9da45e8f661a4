// Operations on single elements: arithmetic, comparisons, activations, casts, quantisation.
#include <algorithm>
#include <cmath>
#include <limits>

#include "mil/interpret.h"

namespace impetus::mil {
namespace {

constexpr int64_t kGrain = 8192;  // elements that are worth a task

// ---- one operand ----

Error not_numbers(const Array& x) {
  return error(ErrorCode::corrupt, "does not take {}", x.to_string());
}

template <typename F>
void each(Call& call, const float* x, float* out, int64_t count, F f) {
  call.crew().ranges(count, kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) out[i] = f(x[i]);
  });
}

template <typename F>
Result<void> unary(Call& call, F f) {
  IMPETUS_TRY(const Array* x, call.floating("x"));
  IMPETUS_TRY(Array * out, call.output(x->shape));
  if (!out->floating()) return not_numbers(*out);
  each(call, x->floats(), out->floats(), x->elements(), f);
  return {};
}

// Of integers too; g works on them in int64.
template <typename F, typename G>
Result<void> unary(Call& call, F f, G g) {
  IMPETUS_TRY(const Array* x, call.operand("x"));
  if (x->floating()) return unary(call, f);
  IMPETUS_TRY(Array * out, call.output(x->shape));
  if (out->floating()) return not_numbers(*out);
  for (int64_t i = 0; i < x->elements(); ++i) {
    out->ints()[i] = static_cast<int32_t>(g(static_cast<int64_t>(x->ints()[i])));
  }
  return {};
}

float sigmoid_of(float x) {
  return 1.0f / (1.0f + std::exp(-x));
}
// A maximum that keeps NaN, as numpy's does.
float larger(float x, float y) {
  return x > y || x != x ? x : y;
}
float smaller(float x, float y) {
  return x < y || x != x ? x : y;
}

Result<void> relu(Call& call) {
  return unary(call, [](float x) { return x < 0 ? 0.0f : x; });
}
Result<void> relu6(Call& call) {
  return unary(call, [](float x) { return x < 0 ? 0.0f : x > 6 ? 6.0f : x; });
}
Result<void> leaky_relu(Call& call) {
  IMPETUS_TRY(const float alpha, call.number("alpha", 0.01f));
  return unary(call, [alpha](float x) { return x < 0 ? x * alpha : x; });
}
Result<void> elu(Call& call) {
  IMPETUS_TRY(const float alpha, call.number("alpha", 1.0f));
  return unary(call, [alpha](float x) { return x < 0 ? alpha * std::expm1(x) : x; });
}
Result<void> gelu(Call& call) {
  IMPETUS_TRY(const std::string mode, call.text("mode", "EXACT"));
  if (mode == "EXACT") {
    return unary(call,
                 [](float x) { return 0.5f * x * (1.0f + std::erf(x * 0.70710678118654752f)); });
  }
  if (mode == "TANH_APPROXIMATION") {
    return unary(call, [](float x) {
      return 0.5f * x * (1.0f + std::tanh(0.79788456080286536f * (x + 0.044715f * x * x * x)));
    });
  }
  if (mode == "SIGMOID_APPROXIMATION") {
    return unary(call, [](float x) { return x * sigmoid_of(1.702f * x); });
  }
  return error(ErrorCode::corrupt, "mode \"{}\" is unknown", mode);
}
Result<void> silu(Call& call) {
  return unary(call, [](float x) { return x * sigmoid_of(x); });
}
Result<void> sigmoid(Call& call) {
  return unary(call, sigmoid_of);
}
Result<void> sigmoid_hard(Call& call) {
  IMPETUS_TRY(const float alpha, call.number("alpha"));
  IMPETUS_TRY(const float beta, call.number("beta"));
  return unary(call, [=](float x) { return smaller(larger(alpha * x + beta, 0.0f), 1.0f); });
}
// Of large x as well, where exp(x) has left fp32.
float softplus_of(float x) {
  return std::log1p(std::exp(-std::fabs(x))) + larger(x, 0.0f);
}
Result<void> softplus(Call& call) {
  return unary(call, softplus_of);
}
Result<void> softsign(Call& call) {
  return unary(call, [](float x) { return x / (1.0f + std::fabs(x)); });
}
Result<void> tanh(Call& call) {
  return unary(call, [](float x) { return std::tanh(x); });
}
Result<void> erf(Call& call) {
  return unary(call, [](float x) { return std::erf(x); });
}
Result<void> exp(Call& call) {
  return unary(call, [](float x) { return std::exp(x); });
}
Result<void> exp2(Call& call) {
  return unary(
      call, [](float x) { return std::exp2(x); },
      [](int64_t x) { return x < 0    ? 0
                             : x > 31 ? 0
                                      : int64_t{1} << x; });
}
// The small constants that are added before log, rsqrt and inverse are coremltools' defaults, in
// x's own type.
Result<float> epsilon_of(Call& call, float otherwise) {
  IMPETUS_TRY(const Array* x, call.floating("x"));
  return call.number("epsilon", x->dtype == DataType::f16 ? rounded_f16(otherwise) : otherwise);
}
Result<void> log(Call& call) {
  IMPETUS_TRY(const float epsilon, epsilon_of(call, 1e-45f));
  return unary(call, [epsilon](float x) { return std::log(x + epsilon); });
}
Result<void> sqrt(Call& call) {
  return unary(call, [](float x) { return std::sqrt(x); });
}
Result<void> rsqrt(Call& call) {
  IMPETUS_TRY(const float epsilon, epsilon_of(call, 1e-12f));
  return unary(call, [epsilon](float x) { return 1.0f / std::sqrt(x + epsilon); });
}
Result<void> inverse(Call& call) {
  IMPETUS_TRY(const float epsilon, epsilon_of(call, 1e-4f));
  return unary(call, [epsilon](float x) { return 1.0f / (x + epsilon); });
}
Result<void> square(Call& call) {
  return unary(call, [](float x) { return x * x; }, [](int64_t x) { return x * x; });
}
Result<void> abs(Call& call) {
  return unary(
      call, [](float x) { return std::fabs(x); }, [](int64_t x) { return x < 0 ? -x : x; });
}
Result<void> sign(Call& call) {
  return unary(
      call, [](float x) { return x > 0    ? 1.0f
                                 : x < 0  ? -1.0f
                                 : x == 0 ? 0.0f
                                          : x; },
      [](int64_t x) { return (x > 0) - (x < 0); });
}
Result<void> ceil(Call& call) {
  return unary(call, [](float x) { return std::ceil(x); });
}
Result<void> floor(Call& call) {
  return unary(call, [](float x) { return std::floor(x); });
}
Result<void> round(Call& call) {  // to nearest even, as numpy's
  return unary(call, [](float x) { return std::nearbyint(x); });
}
Result<void> sin(Call& call) {
  return unary(call, [](float x) { return std::sin(x); });
}
Result<void> cos(Call& call) {
  return unary(call, [](float x) { return std::cos(x); });
}
Result<void> tan(Call& call) {
  return unary(call, [](float x) { return std::tan(x); });
}
Result<void> asin(Call& call) {
  return unary(call, [](float x) { return std::asin(x); });
}
Result<void> acos(Call& call) {
  return unary(call, [](float x) { return std::acos(x); });
}
Result<void> atan(Call& call) {
  return unary(call, [](float x) { return std::atan(x); });
}
Result<void> sinh(Call& call) {
  return unary(call, [](float x) { return std::sinh(x); });
}
Result<void> cosh(Call& call) {
  return unary(call, [](float x) { return std::cosh(x); });
}
Result<void> atanh(Call& call) {
  return unary(call, [](float x) { return std::atanh(x); });
}
Result<void> clip(Call& call) {
  IMPETUS_TRY(const float alpha, call.number("alpha"));
  IMPETUS_TRY(const float beta, call.number("beta"));
  return unary(call, [=](float x) { return smaller(larger(x, alpha), beta); });
}
Result<void> threshold(Call& call) {
  IMPETUS_TRY(const Array* bound, call.operand("alpha"));
  if (!bound->floating()) {  // of integers: fp32 does not hold them all
    IMPETUS_TRY(const int64_t alpha, call.integer("alpha"));
    IMPETUS_TRY(const Array* x, call.operand("x"));
    if (x->floating()) return not_numbers(*x);
    return unary(
        call, [](float x) { return x; }, [alpha](int64_t x) { return std::max(x, alpha); });
  }
  IMPETUS_TRY(const float alpha, call.number("alpha"));
  return unary(call, [alpha](float x) { return larger(x, alpha); });
}
Result<void> clamped_relu(Call& call) {
  IMPETUS_TRY(const float alpha, call.number("alpha"));
  IMPETUS_TRY(const float beta, call.number("beta"));
  return unary(call, [=](float x) { return smaller(x < 0 ? alpha * x : x, beta); });
}
Result<void> thresholded_relu(Call& call) {
  IMPETUS_TRY(const float alpha, call.number("alpha"));
  return unary(call, [alpha](float x) { return x < alpha ? 0.0f : x; });
}
Result<void> linear_activation(Call& call) {
  IMPETUS_TRY(const float alpha, call.number("alpha"));
  IMPETUS_TRY(const float beta, call.number("beta"));
  return unary(call, [=](float x) { return alpha * x + beta; });
}
Result<void> scaled_tanh(Call& call) {
  IMPETUS_TRY(const float alpha, call.number("alpha"));
  IMPETUS_TRY(const float beta, call.number("beta"));
  return unary(call, [=](float x) { return alpha * std::tanh(beta * x); });
}
// Numbers of a channel each, the second dimension.
Result<const float*> by_channel(Call& call, std::string_view parameter, const Array& x) {
  IMPETUS_TRY(const Array* vector, call.floating(parameter));
  if (x.rank() < 2 || vector->rank() != 1 || vector->shape[0] != x.shape[1]) {
    return error(ErrorCode::corrupt, "{} {} does not fit the channels of {}", parameter,
                 vector->to_string(), x.to_string());
  }
  return vector->floats();
}

// f of an element and its channel.
template <typename F>
Result<void> each_channel(Call& call, const Array& x, F f) {
  IMPETUS_TRY(Array * out, call.output(x.shape));
  if (!out->floating()) return not_numbers(*out);
  const int64_t inner = strides_of(x.shape)[1];
  for (int64_t i = 0; i < x.elements(); ++i) {
    out->floats()[i] = f(x.floats()[i], i / inner % x.shape[1]);
  }
  return {};
}

Result<void> prelu(Call& call) {
  IMPETUS_TRY(const Array* x, call.floating("x"));
  IMPETUS_TRY(const float* alpha, by_channel(call, "alpha", *x));
  return each_channel(call, *x, [alpha](float value, int64_t channel) {
    return value > 0 ? value : value * alpha[channel];
  });
}
Result<void> softplus_parametric(Call& call) {
  IMPETUS_TRY(const Array* x, call.floating("x"));
  IMPETUS_TRY(const float* alpha, by_channel(call, "alpha", *x));
  IMPETUS_TRY(const float* beta, by_channel(call, "beta", *x));
  return each_channel(call, *x, [=](float value, int64_t channel) {
    return alpha[channel] * softplus_of(beta[channel] * value);
  });
}

Result<void> logical_not(Call& call) {
  IMPETUS_TRY(const Array* x, call.operand("x"));
  if (x->floating()) return not_numbers(*x);
  IMPETUS_TRY(Array * out, call.output(x->shape));
  if (out->floating()) return not_numbers(*out);
  for (int64_t i = 0; i < x->elements(); ++i) out->ints()[i] = x->ints()[i] == 0;
  return {};
}

// ---- two operands ----

// body(out offset, left offset, right offset, count, left step, right step) over runs of the
// broadcast shape.
template <typename Body>
void runs_of(Call& call, const Dims& shape, const Dims& left, const Dims& right, Body body) {
  // Neighbouring dimensions that both operands walk through alike become one.
  Dims sizes, x_steps, y_steps;
  const Dims x_all = broadcast_strides(left, shape), y_all = broadcast_strides(right, shape);
  for (size_t i = 0; i < shape.size(); ++i) {
    if (shape[i] == 1) continue;
    if (!sizes.empty() && x_steps.back() == x_all[i] * shape[i] &&
        y_steps.back() == y_all[i] * shape[i]) {
      sizes.back() *= shape[i];
      x_steps.back() = x_all[i];
      y_steps.back() = y_all[i];
    } else {
      sizes.push_back(shape[i]);
      x_steps.push_back(x_all[i]);
      y_steps.push_back(y_all[i]);
    }
  }
  if (sizes.empty()) sizes = {1}, x_steps = {0}, y_steps = {0};
  const int64_t total = elements_of(shape).value_or(0);
  if (total == 0) return;
  const int64_t count = sizes.back(), x_step = x_steps.back(), y_step = y_steps.back();
  if (sizes.size() == 1) {
    call.crew().ranges(count, kGrain, [&](int64_t begin, int64_t end) {
      body(begin, begin * x_step, begin * y_step, end - begin, x_step, y_step);
    });
    return;
  }
  const std::vector<Dims> strides{x_steps, y_steps};
  call.crew().ranges(total / count, std::max<int64_t>(1, kGrain / count),
                     [&](int64_t begin, int64_t end) {
                       int64_t out = begin * count;
                       rows_of(sizes, strides, begin, end, [&](std::span<const int64_t> at) {
                         body(out, at[0], at[1], count, x_step, y_step);
                         out += count;
                       });
                     });
}

template <typename X, typename Y, typename F>
void pairs(Call& call, const Dims& shape, const Array& left, const Array& right, const X* x,
           const X* y, Y* out, F f) {
  runs_of(
      call, shape, left.shape, right.shape,
      [=](int64_t at, int64_t x_at, int64_t y_at, int64_t count, int64_t x_step, int64_t y_step) {
        Y* to = out + at;
        const X* a = x + x_at;
        const X* b = y + y_at;
        if (x_step == 1 && y_step == 1) {
          for (int64_t i = 0; i < count; ++i) to[i] = static_cast<Y>(f(a[i], b[i]));
        } else if (x_step == 1 && y_step == 0) {
          const X one = b[0];
          for (int64_t i = 0; i < count; ++i) to[i] = static_cast<Y>(f(a[i], one));
        } else if (x_step == 0 && y_step == 1) {
          const X one = a[0];
          for (int64_t i = 0; i < count; ++i) to[i] = static_cast<Y>(f(one, b[i]));
        } else {
          for (int64_t i = 0; i < count; ++i) {
            to[i] = static_cast<Y>(f(a[i * x_step], b[i * y_step]));
          }
        }
      });
}

struct Pair {
  const Array* x;
  const Array* y;
  Dims shape;
};
Result<Pair> pair_of(Call& call) {
  IMPETUS_TRY(const Array* x, call.operand("x"));
  IMPETUS_TRY(const Array* y, call.operand("y"));
  if (x->floating() != y->floating()) {
    return error(ErrorCode::corrupt, "x {} and y {} are of different kinds", x->to_string(),
                 y->to_string());
  }
  IMPETUS_TRY(Dims shape, broadcast(x->shape, y->shape));
  return Pair{x, y, std::move(shape)};
}

// f on floats, g on integers as int64.
template <typename F, typename G>
Result<void> binary(Call& call, F f, G g) {
  IMPETUS_TRY(const Pair pair, pair_of(call));
  IMPETUS_TRY(Array * out, call.output(pair.shape));
  if (out->floating() != pair.x->floating()) return not_numbers(*pair.x);
  if (out->floating()) {
    pairs(call, pair.shape, *pair.x, *pair.y, pair.x->floats(), pair.y->floats(), out->floats(), f);
  } else {
    pairs(
        call, pair.shape, *pair.x, *pair.y, pair.x->ints(), pair.y->ints(), out->ints(),
        [g](int32_t x, int32_t y) { return g(static_cast<int64_t>(x), static_cast<int64_t>(y)); });
  }
  return {};
}

template <typename F>
Result<void> compare(Call& call, F f) {
  IMPETUS_TRY(const Pair pair, pair_of(call));
  IMPETUS_TRY(Array * out, call.output(pair.shape));
  if (out->floating()) return not_numbers(*out);
  if (pair.x->floating()) {
    pairs(call, pair.shape, *pair.x, *pair.y, pair.x->floats(), pair.y->floats(), out->ints(), f);
  } else {
    pairs(call, pair.shape, *pair.x, *pair.y, pair.x->ints(), pair.y->ints(), out->ints(), f);
  }
  return {};
}

template <typename F>
Result<void> logical(Call& call, F f) {
  IMPETUS_TRY(const Pair pair, pair_of(call));
  if (pair.x->floating()) return not_numbers(*pair.x);
  return compare(call, f);
}

// Integers: towards minus infinity; 0 where the divisor is 0, as numpy has it.
int64_t floored(int64_t x, int64_t y) {
  if (y == 0) return 0;
  const int64_t quotient = x / y;
  return quotient - (x % y != 0 && (x < 0) != (y < 0));
}
// The remainder has the divisor's sign, as Python's %.
float modulo(float x, float y) {
  const float rest = std::fmod(x, y);
  return rest != 0 && (rest < 0) != (y < 0) ? rest + y : rest;
}
int64_t power(int64_t x, int64_t y) {
  if (y < 0) return x == 1 ? 1 : x == -1 ? (y % 2 == 0 ? 1 : -1) : 0;
  uint64_t result = 1, base = static_cast<uint64_t>(x);
  for (; y > 0; y >>= 1, base *= base) {
    if ((y & 1) != 0) result *= base;
  }
  return static_cast<int64_t>(result);
}

Result<void> add(Call& call) {
  return binary(
      call, [](float x, float y) { return x + y; }, [](int64_t x, int64_t y) { return x + y; });
}
Result<void> sub(Call& call) {
  return binary(
      call, [](float x, float y) { return x - y; }, [](int64_t x, int64_t y) { return x - y; });
}
Result<void> mul(Call& call) {
  return binary(
      call, [](float x, float y) { return x * y; }, [](int64_t x, int64_t y) { return x * y; });
}
Result<void> real_div(Call& call) {
  return binary(
      call, [](float x, float y) { return x / y; },
      [](int64_t x, int64_t y) { return y == 0 ? 0 : x / y; });
}
Result<void> floor_div(Call& call) {
  return binary(call, [](float x, float y) { return std::floor(x / y); }, floored);
}
Result<void> mod(Call& call) {
  return binary(call, modulo,
                [](int64_t x, int64_t y) { return y == 0 ? 0 : x - floored(x, y) * y; });
}
Result<void> pow(Call& call) {
  return binary(call, [](float x, float y) { return std::pow(x, y); }, power);
}
Result<void> maximum(Call& call) {
  return binary(
      call, [](float x, float y) { return larger(x, y); },
      [](int64_t x, int64_t y) { return std::max(x, y); });
}
Result<void> minimum(Call& call) {
  return binary(
      call, [](float x, float y) { return smaller(x, y); },
      [](int64_t x, int64_t y) { return std::min(x, y); });
}
Result<void> equal(Call& call) {
  return compare(call, [](auto x, auto y) { return x == y; });
}
Result<void> not_equal(Call& call) {
  return compare(call, [](auto x, auto y) { return x != y; });
}
Result<void> less(Call& call) {
  return compare(call, [](auto x, auto y) { return x < y; });
}
Result<void> less_equal(Call& call) {
  return compare(call, [](auto x, auto y) { return x <= y; });
}
Result<void> greater(Call& call) {
  return compare(call, [](auto x, auto y) { return x > y; });
}
Result<void> greater_equal(Call& call) {
  return compare(call, [](auto x, auto y) { return x >= y; });
}
Result<void> logical_and(Call& call) {
  return logical(call, [](auto x, auto y) { return x != 0 && y != 0; });
}
Result<void> logical_or(Call& call) {
  return logical(call, [](auto x, auto y) { return x != 0 || y != 0; });
}
Result<void> logical_xor(Call& call) {
  return logical(call, [](auto x, auto y) { return (x != 0) != (y != 0); });
}

// ---- three operands, and changes of type ----

template <typename T>
void choose(const Array& condition, const T* a, const T* b, const Dims& shape,
            std::span<const Dims> strides, T* out) {
  if (elements_of(shape).value_or(0) == 0) return;
  const int64_t count = shape.empty() ? 1 : shape.back();
  const auto step = [&](size_t i) { return shape.empty() ? 0 : strides[i].back(); };
  const int64_t rows = elements_of(shape).value_or(0) / count;
  rows_of(shape, strides, 0, rows, [&](std::span<const int64_t> at) {
    for (int64_t i = 0; i < count; ++i) {
      *out++ = condition.ints()[at[0] + i * step(0)] != 0 ? a[at[1] + i * step(1)]
                                                          : b[at[2] + i * step(2)];
    }
  });
}

Result<void> select(Call& call) {
  IMPETUS_TRY(const Array* condition, call.operand("cond"));
  IMPETUS_TRY(const Array* a, call.operand("a"));
  IMPETUS_TRY(const Array* b, call.operand("b"));
  if (condition->floating() || a->floating() != b->floating()) {
    return error(ErrorCode::corrupt, "cond {}, a {} and b {} do not fit", condition->to_string(),
                 a->to_string(), b->to_string());
  }
  IMPETUS_TRY(Dims shape, broadcast(a->shape, b->shape));
  IMPETUS_TRY(shape, broadcast(shape, condition->shape));
  IMPETUS_TRY(Array * out, call.output(shape));
  if (out->floating() != a->floating()) return not_numbers(*a);
  const std::vector<Dims> strides{broadcast_strides(condition->shape, shape),
                                  broadcast_strides(a->shape, shape),
                                  broadcast_strides(b->shape, shape)};
  if (out->floating()) {
    choose(*condition, a->floats(), b->floats(), shape, strides, out->floats());
  } else {
    choose(*condition, a->ints(), b->ints(), shape, strides, out->ints());
  }
  return {};
}

// Towards zero; what does not fit becomes the nearest that does, NaN becomes 0.
int32_t integer_of(float x) {
  if (!(x > -2147483648.0f)) return x != x ? 0 : std::numeric_limits<int32_t>::min();
  if (x >= 2147483648.0f) return std::numeric_limits<int32_t>::max();
  return static_cast<int32_t>(x);
}

Result<void> cast(Call& call) {
  IMPETUS_TRY(const Array* x, call.operand("x"));
  IMPETUS_TRY(Array * out, call.output(x->shape));
  const int64_t count = x->elements();
  if (x->floating() && out->floating()) {
    std::copy_n(x->floats(), count, out->floats());
  } else if (out->floating()) {
    for (int64_t i = 0; i < count; ++i) out->floats()[i] = static_cast<float>(x->ints()[i]);
  } else if (out->dtype == DataType::boolean) {
    for (int64_t i = 0; i < count; ++i) {
      out->ints()[i] = x->floating() ? x->floats()[i] != 0 : x->ints()[i] != 0;
    }
  } else {
    for (int64_t i = 0; i < count; ++i) {
      out->ints()[i] = x->floating() ? integer_of(x->floats()[i]) : x->ints()[i];
    }
  }
  return {};
}

// Scale and zero point of quantize and dequantize: one, or one for each place along `axis`.
struct Affine {
  const float* scale = nullptr;
  std::vector<float> zero;
  int64_t count = 1, inner = 1;  // elements that share one place along the axis
  int64_t place(int64_t i) const { return i / inner % count; }
};

Result<Affine> affine_of(Call& call, const Array& x) {
  IMPETUS_TRY(const Array* scale, call.floating("scale"));
  const Array* zero = call.find("zero_point");
  Affine affine;
  affine.scale = scale->floats();
  affine.count = scale->elements();
  if (scale->rank() > 1 || affine.count < 1) {
    return error(ErrorCode::corrupt, "scale {} is neither one number nor a row of them",
                 scale->to_string());
  }
  if (scale->rank() == 1) {
    IMPETUS_TRY(const int64_t axis, call.axis("axis", x.rank()));
    if (x.shape[static_cast<size_t>(axis)] != affine.count) {
      return error(ErrorCode::corrupt, "scale {} does not fit axis {} of {}", scale->to_string(),
                   axis, x.to_string());
    }
    affine.inner = strides_of(x.shape)[static_cast<size_t>(axis)];
  }
  affine.zero.assign(static_cast<size_t>(affine.count), 0.0f);
  if (zero != nullptr) {
    if (zero->dtype == DataType::string || zero->shape != scale->shape) {
      return error(ErrorCode::corrupt, "zero_point {} is not shaped like scale {}",
                   zero->to_string(), scale->to_string());
    }
    for (int64_t i = 0; i < affine.count; ++i) {
      affine.zero[static_cast<size_t>(i)] =
          zero->floating() ? zero->floats()[i] : static_cast<float>(zero->ints()[i]);
    }
  }
  return affine;
}

Result<void> quantize(Call& call) {
  IMPETUS_TRY(const Array* x, call.floating("input"));
  IMPETUS_TRY(const Affine affine, affine_of(call, *x));
  IMPETUS_TRY(Array * out, call.output(x->shape));
  const bool is_signed = out->dtype == DataType::i8;
  if (!is_signed && out->dtype != DataType::u8) {
    return error(ErrorCode::corrupt, "the result is declared {}", to_string(out->dtype));
  }
  const float low = is_signed ? -128.0f : 0.0f, high = is_signed ? 127.0f : 255.0f;
  for (int64_t i = 0; i < x->elements(); ++i) {
    const auto place = affine.place(i);
    const float value = std::nearbyint(x->floats()[i] / affine.scale[place]) +
                        affine.zero[static_cast<size_t>(place)];
    out->ints()[i] = integer_of(value < low ? low : value > high ? high : value);
  }
  return {};
}

Result<void> dequantize(Call& call) {
  IMPETUS_TRY(const Array* x, call.operand("input"));
  if (x->floating()) return not_numbers(*x);
  IMPETUS_TRY(const Affine affine, affine_of(call, *x));
  IMPETUS_TRY(Array * out, call.output(x->shape));
  if (!out->floating()) return not_numbers(*out);
  for (int64_t i = 0; i < x->elements(); ++i) {
    const auto place = affine.place(i);
    out->floats()[i] = affine.scale[place] *
                       (static_cast<float>(x->ints()[i]) - affine.zero[static_cast<size_t>(place)]);
  }
  return {};
}

constexpr Kernel kKernels[] = {
    {"add", add},
    {"sub", sub},
    {"mul", mul},
    {"real_div", real_div},
    {"floor_div", floor_div},
    {"mod", mod},
    {"pow", pow},
    {"maximum", maximum},
    {"minimum", minimum},
    {"equal", equal},
    {"not_equal", not_equal},
    {"less", less},
    {"less_equal", less_equal},
    {"greater", greater},
    {"greater_equal", greater_equal},
    {"logical_and", logical_and},
    {"logical_or", logical_or},
    {"logical_xor", logical_xor},
    {"logical_not", logical_not},
    {"relu", relu},
    {"relu6", relu6},
    {"leaky_relu", leaky_relu},
    {"elu", elu},
    {"gelu", gelu},
    {"silu", silu},
    {"sigmoid", sigmoid},
    {"sigmoid_hard", sigmoid_hard},
    {"softplus", softplus},
    {"softsign", softsign},
    {"tanh", tanh},
    {"erf", erf},
    {"exp", exp},
    {"exp2", exp2},
    {"log", log},
    {"sqrt", sqrt},
    {"rsqrt", rsqrt},
    {"inverse", inverse},
    {"square", square},
    {"abs", abs},
    {"sign", sign},
    {"ceil", ceil},
    {"floor", floor},
    {"round", round},
    {"sin", sin},
    {"cos", cos},
    {"tan", tan},
    {"asin", asin},
    {"acos", acos},
    {"atan", atan},
    {"sinh", sinh},
    {"cosh", cosh},
    {"atanh", atanh},
    {"clip", clip},
    {"threshold", threshold},
    {"clamped_relu", clamped_relu},
    {"thresholded_relu", thresholded_relu},
    {"linear_activation", linear_activation},
    {"scaled_tanh", scaled_tanh},
    {"prelu", prelu},
    {"softplus_parametric", softplus_parametric},
    {"select", select},
    {"cast", cast},
    {"quantize", quantize},
    {"dequantize", dequantize},
};

}  // namespace

std::span<const Kernel> elementwise_kernels() {
  return kKernels;
}

}  // namespace impetus::mil

#include <gtest/gtest.h>

#include "mil/interpreter_test_support.h"

namespace impetus::mil {
namespace {

using testing::Dims;
using testing::Numbers;
using testing::OneOperation;
using testing::Random;

double nearest_f16(double value) {
  return f16_to_f32(f32_to_f16(static_cast<float>(value)));
}

// What an operation may be off by: half a step of fp16, or a few of f32.
void expect_near(const std::vector<double>& got, const std::vector<double>& wanted, DataType type,
                 const std::string& what) {
  ASSERT_EQ(got.size(), wanted.size()) << what;
  for (size_t i = 0; i < got.size(); ++i) {
    const double slack = type == DataType::f16 ? std::max(std::fabs(wanted[i]) * 0x1p-10, 0x1p-23)
                                               : std::max(std::fabs(wanted[i]) * 4e-6, 1e-6);
    ASSERT_NEAR(got[i], wanted[i], slack) << what << " at " << i;
  }
}

struct Unary {
  std::string type;
  std::function<double(double)> f;
  double low = -4, high = 4;
  std::map<std::string, double> parameters = {};
  std::string mode = {};
};

double sigmoid(double x) {
  return 1 / (1 + std::exp(-x));
}

std::vector<Unary> unary_operations() {
  return {
      {"relu", [](double x) { return std::max(x, 0.0); }},
      {"relu6", [](double x) { return std::min(std::max(x, 0.0), 6.0); }, -4, 9},
      {"leaky_relu", [](double x) { return x < 0 ? 0.25 * x : x; }, -4, 4, {{"alpha", 0.25}}},
      {"elu",
       [](double x) { return x < 0 ? 0.5 * (std::exp(x) - 1) : x; },
       -4,
       4,
       {{"alpha", 0.5}}},
      {"gelu",
       [](double x) { return 0.5 * x * (1 + std::erf(x / std::sqrt(2.0))); },
       -4,
       4,
       {},
       "EXACT"},
      {"gelu",
       [](double x) {
         return 0.5 * x *
                (1 + std::tanh(std::sqrt(2 / std::acos(-1.0)) * (x + 0.044715 * x * x * x)));
       },
       -4,
       4,
       {},
       "TANH_APPROXIMATION"},
      {"gelu", [](double x) { return x * sigmoid(1.702 * x); }, -4, 4, {}, "SIGMOID_APPROXIMATION"},
      {"silu", [](double x) { return x * sigmoid(x); }},
      {"sigmoid", sigmoid},
      {"sigmoid_hard",
       [](double x) { return std::min(std::max(0.25 * x + 0.5, 0.0), 1.0); },
       -4,
       4,
       {{"alpha", 0.25}, {"beta", 0.5}}},
      {"softplus", [](double x) { return std::log(1 + std::exp(x)); }},
      {"softsign", [](double x) { return x / (1 + std::fabs(x)); }},
      {"tanh", [](double x) { return std::tanh(x); }},
      {"erf", [](double x) { return std::erf(x); }},
      {"exp", [](double x) { return std::exp(x); }},
      {"exp2", [](double x) { return std::exp2(x); }},
      {"log", [](double x) { return std::log(x + 0.125); }, 0.1, 9, {{"epsilon", 0.125}}},
      {"sqrt", [](double x) { return std::sqrt(x); }, 0, 9},
      {"rsqrt", [](double x) { return 1 / std::sqrt(x + 0.25); }, 0, 9, {{"epsilon", 0.25}}},
      {"inverse", [](double x) { return 1 / (x + 0.5); }, 0, 9, {{"epsilon", 0.5}}},
      {"square", [](double x) { return x * x; }},
      {"abs", [](double x) { return std::fabs(x); }},
      {"sign", [](double x) { return (x > 0) - (x < 0); }},
      {"ceil", [](double x) { return std::ceil(x); }},
      {"floor", [](double x) { return std::floor(x); }},
      {"round", [](double x) { return std::nearbyint(x); }},
      {"sin", [](double x) { return std::sin(x); }},
      {"cos", [](double x) { return std::cos(x); }},
      {"tan", [](double x) { return std::tan(x); }, -1.2, 1.2},
      {"asin", [](double x) { return std::asin(x); }, -0.99, 0.99},
      {"acos", [](double x) { return std::acos(x); }, -0.99, 0.99},
      {"atan", [](double x) { return std::atan(x); }},
      {"sinh", [](double x) { return std::sinh(x); }},
      {"cosh", [](double x) { return std::cosh(x); }},
      {"atanh", [](double x) { return std::atanh(x); }, -0.9, 0.9},
      {"clip",
       [](double x) { return std::min(std::max(x, -1.5), 2.0); },
       -4,
       4,
       {{"alpha", -1.5}, {"beta", 2.0}}},
      {"threshold", [](double x) { return std::max(x, 0.75); }, -4, 4, {{"alpha", 0.75}}},
      {"clamped_relu",
       [](double x) { return std::min(x < 0 ? 0.5 * x : x, 2.0); },
       -4,
       4,
       {{"alpha", 0.5}, {"beta", 2.0}}},
      {"thresholded_relu", [](double x) { return x < 1.5 ? 0 : x; }, -4, 4, {{"alpha", 1.5}}},
      {"linear_activation",
       [](double x) { return 0.5 * x - 2; },
       -4,
       4,
       {{"alpha", 0.5}, {"beta", -2.0}}},
      {"scaled_tanh",
       [](double x) { return 1.5 * std::tanh(0.25 * x); },
       -4,
       4,
       {{"alpha", 1.5}, {"beta", 0.25}}},
  };
}

TEST(InterpreterElementwise, AlphaOfAChannel) {
  OneOperation operation{"prelu",
                         {{"x", {{DataType::f16, {1, 2, 1, 2}, {-1, 2, -3, 4}}}}},
                         {},
                         {{DataType::f16, {1, 2, 1, 2}}}};
  operation.constants["alpha"] = testing::constant(DataType::f16, {2}, {0.5, 0.25});
  EXPECT_EQ(operation.values(), (std::vector<double>{-0.5, 2, -0.75, 4}));
  operation.type = "softplus_parametric";
  operation.constants["beta"] = testing::constant(DataType::f16, {2}, {2, -1});
  std::vector<double> wanted;
  for (const double x : {-1.0, 2.0}) wanted.push_back(0.5 * std::log(1 + std::exp(2 * x)));
  for (const double x : {-3.0, 4.0}) wanted.push_back(0.25 * std::log(1 + std::exp(-x)));
  expect_near(operation.values(), wanted, DataType::f16, operation.type);
}

// fp32 does not hold 2^24 + 1.
TEST(InterpreterElementwise, IntegersStayExact) {
  constexpr int32_t kOdd = 16777217;
  const Numbers x{DataType::i32, {3}, {kOdd - 1, kOdd + 1, -5}};
  OneOperation threshold{"threshold", {{"x", {x}}}, {}, {{DataType::i32, {3}}}};
  threshold.constants["alpha"] = Value::scalar(kOdd);
  EXPECT_EQ(threshold.values(), (std::vector<double>{kOdd, kOdd + 1, kOdd}));
  OneOperation hot{
      "one_hot", {{"indices", {{DataType::i32, {2}, {1, 7}}}}}, {}, {{DataType::i32, {2, 2}}}};
  hot.constants = {{"one_hot_vector_size", Value::scalar(int32_t{2})},
                   {"axis", Value::scalar(int32_t{-1})},
                   {"on_value", Value::scalar(kOdd)},
                   {"off_value", Value::scalar(-kOdd)}};
  EXPECT_EQ(hot.values(), (std::vector<double>{-kOdd, kOdd, -kOdd, -kOdd}));
}

TEST(InterpreterElementwise, FunctionsOfOneOperand) {
  Random random(1);
  for (const Unary& unary : unary_operations()) {
    for (const DataType type : {DataType::f32, DataType::f16}) {
      for (int round = 0; round < 3; ++round) {
        const Dims shape = random.shape(random.whole(1, 4), 11);
        const Numbers x = random.numbers(type, shape, unary.low, unary.high);
        OneOperation operation{unary.type, {{"x", {x}}}, {}, {{type, shape}}};
        for (const auto& [name, value] : unary.parameters) {
          operation.constants[name] = Value::scalar(static_cast<float>(value), type);
        }
        if (!unary.mode.empty()) operation.constants["mode"] = Value::scalar(unary.mode);
        std::vector<double> wanted;
        for (const double v : x.values) wanted.push_back(unary.f(v));
        expect_near(operation.values(), wanted, type, unary.type + unary.mode);
      }
    }
  }
}

TEST(InterpreterElementwise, DefaultsOfOmittedParameters) {
  const Numbers zero{DataType::f32, {1}, {0}};
  EXPECT_NEAR((OneOperation{"inverse", {{"x", {zero}}}, {}, {{DataType::f32, {1}}}}.values()[0]),
              1e4, 1);
  EXPECT_NEAR((OneOperation{"rsqrt", {{"x", {zero}}}, {}, {{DataType::f32, {1}}}}.values()[0]), 1e6,
              100);
  const Numbers one{DataType::f32, {1}, {1}};
  EXPECT_NEAR((OneOperation{"gelu", {{"x", {one}}}, {}, {{DataType::f32, {1}}}}.values()[0]),
              0.841345, 1e-5);
}

// Shapes that broadcast to `to`, numpy's way.
Dims some_part_of(Random& random, const Dims& to) {
  Dims shape = to;
  for (int64_t& dimension : shape) {
    if (random.whole(0, 2) == 0) dimension = 1;
  }
  shape.erase(shape.begin(), shape.begin() + random.whole(0, static_cast<int64_t>(shape.size())));
  return shape;
}

// The flat place in `shape` of place i of `to`.
size_t place_in(const Dims& shape, const Dims& to, int64_t i) {
  int64_t place = 0, stride = 1;
  for (size_t d = 0; d < to.size(); ++d) {
    const int64_t index = i % to[to.size() - 1 - d];
    i /= to[to.size() - 1 - d];
    if (d >= shape.size()) continue;
    const int64_t length = shape[shape.size() - 1 - d];
    place += (length == 1 ? 0 : index) * stride;
    stride *= length;
  }
  return static_cast<size_t>(place);
}

struct Binary {
  std::string type;
  std::function<double(double, double)> f;
  double low = -3, high = 3;
  bool gives_bool = false;
};

std::vector<Binary> binary_operations() {
  return {
      {"add", [](double x, double y) { return x + y; }},
      {"sub", [](double x, double y) { return x - y; }},
      {"mul", [](double x, double y) { return x * y; }},
      {"real_div", [](double x, double y) { return x / y; }, 1, 3},
      {"floor_div", [](double x, double y) { return std::floor(x / y); }, 1, 9},
      {"mod", [](double x, double y) { return x - y * std::floor(x / y); }, 1, 9},
      {"pow", [](double x, double y) { return std::pow(x, y); }, 0.5, 2},
      {"maximum", [](double x, double y) { return std::max(x, y); }},
      {"minimum", [](double x, double y) { return std::min(x, y); }},
      {"equal", [](double x, double y) { return x == y; }, -3, 3, true},
      {"not_equal", [](double x, double y) { return x != y; }, -3, 3, true},
      {"less", [](double x, double y) { return x < y; }, -3, 3, true},
      {"less_equal", [](double x, double y) { return x <= y; }, -3, 3, true},
      {"greater", [](double x, double y) { return x > y; }, -3, 3, true},
      {"greater_equal", [](double x, double y) { return x >= y; }, -3, 3, true},
  };
}

TEST(InterpreterElementwise, FunctionsOfTwoOperandsBroadcast) {
  Random random(2);
  for (const Binary& binary : binary_operations()) {
    for (const DataType type : {DataType::f32, DataType::f16, DataType::i32}) {
      if (type == DataType::i32 && binary.type == "real_div") continue;
      for (int round = 0; round < 5; ++round) {
        const Dims all = random.shape(random.whole(1, 4), 7);
        Dims left = all, right = all;
        (round % 2 == 0 ? left : right) = some_part_of(random, all);
        const bool whole = type == DataType::i32;
        const Numbers x =
            random.numbers(type, left, whole ? std::ceil(binary.low) : binary.low, binary.high);
        const Numbers y =
            random.numbers(type, right, whole ? std::ceil(binary.low) : binary.low, binary.high);
        const DataType result = binary.gives_bool ? DataType::boolean : type;
        const OneOperation operation{binary.type, {{"x", {x}}, {"y", {y}}}, {}, {{result, all}}};
        std::vector<double> wanted;
        for (int64_t i = 0; i < testing::count_of(all); ++i) {
          wanted.push_back(
              binary.f(x.values[place_in(left, all, i)], y.values[place_in(right, all, i)]));
        }
        expect_near(operation.values(), wanted, type, binary.type);
      }
    }
  }
}

// Literals: Python's // and % on the same numbers.
TEST(InterpreterElementwise, DivisionRoundsDownAndTheRemainderHasTheDivisorsSign) {
  const Dims shape{6};
  const Numbers x{DataType::i32, shape, {7, -7, 7, -7, 6, 5}},
      y{DataType::i32, shape, {2, 2, -2, -2, 3, 0}};
  EXPECT_EQ(
      (OneOperation{"floor_div", {{"x", {x}}, {"y", {y}}}, {}, {{DataType::i32, shape}}}.values()),
      (std::vector<double>{3, -4, -4, 3, 2, 0}));
  EXPECT_EQ((OneOperation{"mod", {{"x", {x}}, {"y", {y}}}, {}, {{DataType::i32, shape}}}.values()),
            (std::vector<double>{1, 1, -1, -1, 0, 0}));
  const Numbers a{DataType::f32, {4}, {5.5, -5.5, 5.5, -5.5}},
      b{DataType::f32, {4}, {2, 2, -2, -2}};
  EXPECT_EQ((OneOperation{"mod", {{"x", {a}}, {"y", {b}}}, {}, {{DataType::f32, {4}}}}.values()),
            (std::vector<double>{1.5, 0.5, -0.5, -1.5}));
  const Numbers least{DataType::i32, {1}, {-2147483648.0}}, minus{DataType::i32, {1}, {-1}};
  EXPECT_EQ((OneOperation{"real_div", {{"x", {least}}, {"y", {minus}}}, {}, {{DataType::i32, {1}}}}
                 .values()[0]),
            -2147483648.0);
}

TEST(InterpreterElementwise, LogicAndSelect) {
  Random random(3);
  const Dims shape{3, 5};
  const Numbers x = random.numbers(DataType::boolean, shape, 0, 1),
                y = random.numbers(DataType::boolean, shape, 0, 1);
  const auto of = [&](const std::string& type) {
    return OneOperation{type, {{"x", {x}}, {"y", {y}}}, {}, {{DataType::boolean, shape}}}.values();
  };
  const auto conjunction = of("logical_and"), disjunction = of("logical_or"),
             exclusive = of("logical_xor");
  const auto negation =
      OneOperation{"logical_not", {{"x", {x}}}, {}, {{DataType::boolean, shape}}}.values();
  const Numbers a = random.numbers(DataType::f16, {5}), b = random.numbers(DataType::f16, {3, 1});
  const auto chosen =
      OneOperation{"select", {{"cond", {x}}, {"a", {a}}, {"b", {b}}}, {}, {{DataType::f16, shape}}}
          .values();
  for (size_t i = 0; i < 15; ++i) {
    const bool p = x.values[i] != 0, q = y.values[i] != 0;
    EXPECT_EQ(conjunction[i], p && q);
    EXPECT_EQ(disjunction[i], p || q);
    EXPECT_EQ(exclusive[i], p != q);
    EXPECT_EQ(negation[i], !p);
    EXPECT_EQ(chosen[i], p ? a.values[i % 5] : b.values[i / 5]);
  }
}

TEST(InterpreterElementwise, CastsTruncateSaturateAndWrap) {
  const Numbers x{DataType::f32, {7}, {1.9, -1.9, 0, 3e9, -3e9, std::nan(""), 0.25}};
  const auto to = [&](const Numbers& from, DataType type) {
    OneOperation operation{"cast", {{"x", {from}}}, {}, {{type, from.shape}}};
    operation.constants["dtype"] = Value::scalar(std::string(to_string(type)));
    return operation.values();
  };
  EXPECT_EQ(to(x, DataType::i32), (std::vector<double>{1, -1, 0, 2147483647, -2147483648.0, 0, 0}));
  EXPECT_EQ(to(x, DataType::boolean), (std::vector<double>{1, 1, 0, 1, 1, 1, 1}));
  EXPECT_EQ(to({DataType::i32, {3}, {300, -129, 255}}, DataType::i8),
            (std::vector<double>{44, 127, -1}));
  EXPECT_EQ(to({DataType::i32, {2}, {-1, 70000}}, DataType::u16),
            (std::vector<double>{65535, 4464}));
  EXPECT_EQ(to({DataType::f32, {2}, {0.1, 2049}}, DataType::f16),
            (std::vector<double>{nearest_f16(0.1), 2048}));
}

// Literals: coremltools' value inference of quantize and dequantize (iOS17/quantization_ops.py).
TEST(InterpreterElementwise, QuantisesToEvenAndClips) {
  const Numbers x{DataType::f32, {2, 3}, {1, 1.25, -0.75, 100, -100, 0.3}};
  OneOperation operation{"quantize", {{"input", {x}}}, {}, {{DataType::i8, {2, 3}}}};
  operation.constants["scale"] = testing::constant(DataType::f32, {2}, {0.5, 0.25});
  operation.constants["zero_point"] = testing::constant(DataType::i8, {2}, {3, -5});
  operation.constants["axis"] = Value::scalar(int32_t{0});
  operation.constants["output_dtype"] = Value::scalar(std::string("int8"));
  EXPECT_EQ(operation.values(), (std::vector<double>{5, 5, 1, 127, -128, -4}));
  OneOperation back{"dequantize",
                    {{"input", {{DataType::i8, {2, 3}, {5, 5, 1, 127, -128, -4}}}}},
                    {},
                    {{DataType::f32, {2, 3}}}};
  back.constants["scale"] = operation.constants["scale"];
  back.constants["zero_point"] = operation.constants["zero_point"];
  back.constants["axis"] = operation.constants["axis"];
  EXPECT_EQ(back.values(), (std::vector<double>{1, 1, -1, 33, -30.75, 0.25}));
}

}  // namespace
}  // namespace impetus::mil

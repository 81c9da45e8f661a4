#include <algorithm>
#include <limits>
#include <numeric>

#include <gtest/gtest.h>

#include "mil/interpreter_test_support.h"

namespace impetus::mil {
namespace {

using testing::count_of;
using testing::Dims;
using testing::Numbers;
using testing::OneOperation;
using testing::Random;

void expect_near(const std::vector<double>& got, const std::vector<double>& wanted, DataType type,
                 double slack, const std::string& what) {
  ASSERT_EQ(got.size(), wanted.size()) << what;
  for (size_t i = 0; i < got.size(); ++i) {
    const double half = type == DataType::f16 ? std::fabs(wanted[i]) * 0x1p-10 + 0x1p-22 : 0;
    ASSERT_NEAR(got[i], wanted[i], half + slack * (1 + std::fabs(wanted[i])))
        << what << " at " << i;
  }
}

// x's elements by their place outside `axes`: the groups that one result is made of, each in
// row-major order, and each element's group.
struct Groups {
  Dims kept, shape_keeping;
  std::vector<std::vector<size_t>> members;
};
Groups groups_of(const Dims& shape, const Dims& axes) {
  Groups groups;
  const auto is_reduced = [&](size_t d) {
    return std::ranges::find(axes, static_cast<int64_t>(d)) != axes.end();
  };
  for (size_t d = 0; d < shape.size(); ++d) {
    groups.shape_keeping.push_back(is_reduced(d) ? 1 : shape[d]);
    if (!is_reduced(d)) groups.kept.push_back(shape[d]);
  }
  groups.members.resize(static_cast<size_t>(count_of(groups.kept)));
  for (int64_t i = 0; i < count_of(shape); ++i) {
    int64_t rest = i, place = 0, stride = 1;
    for (size_t d = shape.size(); d-- > 0;) {
      if (!is_reduced(d)) {
        place += rest % shape[d] * stride;
        stride *= shape[d];
      }
      rest /= shape[d];
    }
    groups.members[static_cast<size_t>(place)].push_back(static_cast<size_t>(i));
  }
  return groups;
}

Dims some_axes(Random& random, size_t rank) {
  Dims axes;
  for (size_t d = 0; d < rank; ++d) {
    if (random.whole(0, 1) == 1) axes.push_back(static_cast<int64_t>(d));
  }
  if (axes.empty()) axes.push_back(random.whole(0, static_cast<int64_t>(rank) - 1));
  return axes;
}

using Values = std::vector<double>;
double sum_of(const Values& v) {
  return std::accumulate(v.begin(), v.end(), 0.0);
}

TEST(InterpreterReduce, EachReductionOverAnyAxes) {
  const std::vector<std::pair<std::string, std::function<double(const Values&)>>> reductions{
      {"reduce_mean", [](const Values& v) { return sum_of(v) / static_cast<double>(v.size()); }},
      {"reduce_sum", sum_of},
      {"reduce_max", [](const Values& v) { return *std::ranges::max_element(v); }},
      {"reduce_min", [](const Values& v) { return *std::ranges::min_element(v); }},
      {"reduce_prod",
       [](const Values& v) {
         return std::accumulate(v.begin(), v.end(), 1.0, std::multiplies<>());
       }},
      {"reduce_l1_norm",
       [](const Values& v) {
         double sum = 0;
         for (const double x : v) sum += std::fabs(x);
         return sum;
       }},
      {"reduce_l2_norm",
       [](const Values& v) {
         return std::sqrt(std::inner_product(v.begin(), v.end(), v.begin(), 0.0));
       }},
      {"reduce_sum_square",
       [](const Values& v) { return std::inner_product(v.begin(), v.end(), v.begin(), 0.0); }},
      {"reduce_log_sum_exp",
       [](const Values& v) {
         double sum = 0;
         for (const double x : v) sum += std::exp(x);
         return std::log(sum);
       }},
  };
  Random random(1);
  for (const auto& [type, f] : reductions) {
    for (int round = 0; round < 12; ++round) {
      const DataType dtype = round % 2 == 0 ? DataType::f16 : DataType::f32;
      const Dims shape = random.shape(random.whole(1, 4), 5);
      const bool all = round % 6 == 5, keep = random.whole(0, 1) == 1;
      Dims axes = some_axes(random, shape.size());
      if (all) {
        axes.resize(shape.size());
        std::iota(axes.begin(), axes.end(), 0);
      }
      const Numbers x = random.numbers(dtype, shape, -1.2, 1.2);
      const Groups groups = groups_of(shape, axes);
      OneOperation operation{
          type, {{"x", {x}}}, {}, {{dtype, keep ? groups.shape_keeping : groups.kept}}};
      operation.constants["keep_dims"] = Value::scalar(keep);
      if (!all) {
        Dims written = axes;  // the last one from behind
        written.back() -= static_cast<int64_t>(shape.size());
        operation.constants["axes"] = testing::ints(written);
      }
      Values wanted;
      for (const auto& members : groups.members) {
        Values values;
        for (const size_t i : members) values.push_back(x.values[i]);
        wanted.push_back(f(values));
      }
      expect_near(operation.values(), wanted, dtype, 1e-4, type);
    }
  }
}

TEST(InterpreterReduce, IntegersAndPlacesOfExtremes) {
  const Numbers x{DataType::i32, {2, 3}, {7, -2, 7, 4, 4, -9}};
  const auto of = [&](const std::string& type, const std::string& parameter, const Value& axis,
                      const Dims& shape) {
    OneOperation operation{type, {{"x", {x}}}, {}, {{DataType::i32, shape}}};
    operation.constants[parameter] = axis;
    operation.constants["keep_dims"] = Value::scalar(false);
    return operation.values();
  };
  const Value last = Value::scalar(int32_t{-1}), first = Value::scalar(int32_t{0});
  EXPECT_EQ(of("reduce_sum", "axes", testing::ints({1}), {2}), (Values{12, -1}));
  EXPECT_EQ(of("reduce_mean", "axes", testing::ints({1}), {2}), (Values{4, 0}));  // towards zero
  EXPECT_EQ(of("reduce_max", "axes", testing::ints({0}), {3}), (Values{7, 4, 7}));
  EXPECT_EQ(of("reduce_argmax", "axis", last, {2}), (Values{0, 0}));  // the first of equal ones
  EXPECT_EQ(of("reduce_argmax", "axis", first, {3}), (Values{0, 1, 0}));
  EXPECT_EQ(of("reduce_argmin", "axis", last, {2}), (Values{1, 2}));
}

TEST(InterpreterReduce, LogSumExpOfLargeValuesStaysFinite) {
  OneOperation operation{"reduce_log_sum_exp",
                         {{"x", {{DataType::f16, {2}, {1000, 1000}}}}},
                         {},
                         {{DataType::f16, {}}}};
  EXPECT_NEAR(operation.values()[0], 1000.693, 0.5);
}

TEST(InterpreterReduce, LogOfASum) {
  OneOperation operation{"reduce_log_sum",
                         {{"x", {{DataType::f32, {2, 2}, {1, 2, 0.5, 0.25}}}}},
                         {{"axes", testing::ints({1})}},
                         {{DataType::f32, {2}}}};
  expect_near(operation.values(), {std::log(3.0), std::log(0.75)}, DataType::f32, 1e-6, "log_sum");
}

// numpy's argsort, equal ones in their order; descending where nothing is said.
TEST(InterpreterReduce, PlacesInTheOrderOfTheirValues) {
  const double nan = std::nan("");
  OneOperation operation{
      "argsort", {{"x", {{DataType::f16, {2, 4}, {3, -1, 3, 7, nan, 2, -5, 2}}}}}, {}, {}};
  operation.results = {{DataType::i32, {2, 4}}};
  EXPECT_EQ(operation.values(), (Values{3, 0, 2, 1, 1, 3, 2, 0}));
  operation.constants["ascending"] = Value::scalar(true);
  EXPECT_EQ(operation.values(), (Values{1, 0, 2, 3, 2, 1, 3, 0}));
  OneOperation columns{
      "argsort", {{"x", {{DataType::i32, {3, 2}, {2, 9, 16777217, 8, 16777216, 9}}}}}, {}, {}};
  columns.constants["axis"] = Value::scalar(int32_t{0});
  columns.results = {{DataType::i32, {3, 2}}};
  EXPECT_EQ(columns.values(), (Values{1, 0, 2, 2, 0, 1}));
}

TEST(InterpreterReduce, CumulativeSums) {
  const Numbers x{DataType::f32, {4}, {1, 2, 3, 4}};
  const auto of = [&](bool exclusive, bool reverse) {
    OneOperation operation{"cumsum", {{"x", {x}}}, {}, {{DataType::f32, {4}}}};
    operation.constants = {{"axis", Value::scalar(int32_t{0})},
                           {"exclusive", Value::scalar(exclusive)},
                           {"reverse", Value::scalar(reverse)}};
    return operation.values();
  };
  EXPECT_EQ(of(false, false), (Values{1, 3, 6, 10}));
  EXPECT_EQ(of(true, false), (Values{0, 1, 3, 6}));
  EXPECT_EQ(of(false, true), (Values{10, 9, 7, 4}));
  EXPECT_EQ(of(true, true), (Values{9, 7, 4, 0}));
  OneOperation columns{"cumsum",
                       {{"x", {{DataType::i32, {2, 3}, {1, 2, 3, 4, 5, 6}}}}},
                       {},
                       {{DataType::i32, {2, 3}}}};
  columns.constants["axis"] = Value::scalar(int32_t{0});
  EXPECT_EQ(columns.values(), (Values{1, 2, 3, 5, 7, 9}));
}

TEST(InterpreterNorm, Softmax) {
  Random random(2);
  for (int round = 0; round < 16; ++round) {
    const DataType type = round % 2 == 0 ? DataType::f16 : DataType::f32;
    const Dims shape = random.shape(random.whole(1, 4), 9);
    const int64_t axis = random.whole(0, static_cast<int64_t>(shape.size()) - 1);
    const Numbers x = random.numbers(type, shape, -40, 40);
    OneOperation operation{"softmax", {{"x", {x}}}, {}, {{type, shape}}};
    operation.constants["axis"] = Value::scalar(static_cast<int32_t>(axis));
    Values wanted(x.values.size());
    for (const auto& members : groups_of(shape, {axis}).members) {
      double sum = 0;
      for (const size_t i : members) sum += std::exp(x.values[i]);
      for (const size_t i : members) wanted[i] = std::exp(x.values[i]) / sum;
    }
    expect_near(operation.values(), wanted, type, 1e-6, "softmax");
  }
}

TEST(InterpreterNorm, LayerNormOverAnyAxes) {
  Random random(3);
  for (int round = 0; round < 24; ++round) {
    const DataType type = round % 2 == 0 ? DataType::f16 : DataType::f32;
    const Dims shape = random.shape(random.whole(1, 4), 9);
    const Dims axes = some_axes(random, shape.size());
    Dims inner;
    for (const int64_t axis : axes) inner.push_back(shape[static_cast<size_t>(axis)]);
    const Numbers x = random.numbers(type, shape, -3, 3), gamma = random.numbers(type, inner),
                  beta = random.numbers(type, inner);
    OneOperation operation{"layer_norm", {{"x", {x}}}, {}, {{type, shape}}};
    operation.constants = {{"axes", testing::ints(axes)}, {"epsilon", Value::scalar(0.01f, type)}};
    const bool scaled = round % 3 != 0;
    if (scaled) {
      operation.constants["gamma"] = testing::constant(type, inner, gamma.values);
      operation.constants["beta"] = testing::constant(type, inner, beta.values);
    }
    const double epsilon = type == DataType::f16 ? f16_to_f32(f32_to_f16(0.01f)) : 0.01f;
    Values wanted(x.values.size());
    for (const auto& members : groups_of(shape, axes).members) {
      double mean = 0, variance = 0;
      for (const size_t i : members) mean += x.values[i] / static_cast<double>(members.size());
      for (const size_t i : members)
        variance +=
            (x.values[i] - mean) * (x.values[i] - mean) / static_cast<double>(members.size());
      for (size_t j = 0; j < members.size(); ++j) {
        const double value = (x.values[members[j]] - mean) / std::sqrt(variance + epsilon);
        wanted[members[j]] = scaled ? value * gamma.values[j] + beta.values[j] : value;
      }
    }
    expect_near(operation.values(), wanted, type, 2e-5, "layer_norm");
  }
}

TEST(InterpreterNorm, InstanceBatchAndL2Norms) {
  Random random(4);
  for (int round = 0; round < 12; ++round) {
    const DataType type = round % 2 == 0 ? DataType::f16 : DataType::f32;
    const int64_t n = random.whole(1, 3), c = random.whole(1, 5), h = random.whole(1, 6),
                  w = random.whole(2, 7);
    const Dims shape{n, c, h, w};
    const Numbers x = random.numbers(type, shape), gamma = random.numbers(type, {c}),
                  beta = random.numbers(type, {c});
    const Numbers mean = random.numbers(type, {c}), variance = random.numbers(type, {c}, 0.5, 2);
    const double epsilon = type == DataType::f16 ? f16_to_f32(f32_to_f16(0.01f)) : 0.01f;
    std::map<std::string, Value, std::less<>> common{{"epsilon", Value::scalar(0.01f, type)}};
    auto scaled = common;
    scaled["gamma"] = testing::constant(type, {c}, gamma.values);
    scaled["beta"] = testing::constant(type, {c}, beta.values);
    auto batched = scaled;
    batched["mean"] = testing::constant(type, {c}, mean.values);
    batched["variance"] = testing::constant(type, {c}, variance.values);
    Values instance(x.values.size()), batch(x.values.size()), length(x.values.size());
    const auto by_channel = groups_of(shape, {2, 3});
    for (size_t g = 0; g < by_channel.members.size(); ++g) {
      const auto& members = by_channel.members[g];
      const size_t channel = g % static_cast<size_t>(c);
      double m = 0, v = 0;
      for (const size_t i : members) m += x.values[i] / static_cast<double>(members.size());
      for (const size_t i : members)
        v += (x.values[i] - m) * (x.values[i] - m) / static_cast<double>(members.size());
      for (const size_t i : members) {
        instance[i] = (x.values[i] - m) / std::sqrt(v + epsilon) * gamma.values[channel] +
                      beta.values[channel];
        batch[i] = (x.values[i] - mean.values[channel]) /
                       std::sqrt(variance.values[channel] + epsilon) * gamma.values[channel] +
                   beta.values[channel];
      }
    }
    for (const auto& members : groups_of(shape, {1, 2, 3}).members) {
      double sum = epsilon;
      for (const size_t i : members) sum += x.values[i] * x.values[i];
      for (const size_t i : members) length[i] = x.values[i] / std::sqrt(sum);
    }
    expect_near(OneOperation{"instance_norm", {{"x", {x}}}, scaled, {{type, shape}}}.values(),
                instance, type, 2e-5, "instance_norm");
    expect_near(OneOperation{"batch_norm", {{"x", {x}}}, batched, {{type, shape}}}.values(), batch,
                type, 2e-5, "batch_norm");
    expect_near(OneOperation{"l2_norm", {{"x", {x}}}, common, {{type, shape}}}.values(), length,
                type, 2e-5, "l2_norm");
  }
}

// Rule 14 of the Neural Engine's constraints: squares of more than 256 pass fp16's end.
TEST(InterpreterNorm, VarianceInFp16LosesWhatItsSquaresOverflow) {
  OneOperation operation{"layer_norm",
                         {{"x", {{DataType::f16, {1, 4}, {400, -400, 400, -400}}}}},
                         {},
                         {{DataType::f16, {1, 4}}}};
  operation.constants = {{"axes", testing::ints({-1})},
                         {"epsilon", Value::scalar(1e-5f, DataType::f16)}};
  EXPECT_EQ(operation.values(), (Values{1, -1, 1, -1}));
  EXPECT_EQ(operation.values({.accumulation = Accumulation::f16}), (Values{0, 0, 0, 0}));
  const auto run = operation.run({.accumulation = Accumulation::f16});
  ASSERT_TRUE(run.ok());
  ASSERT_EQ(run->events.size(), 1u);
  EXPECT_EQ(run->events[0].kind, NumericEvent::Kind::overflow);
  EXPECT_EQ(run->events[0].type, "layer_norm");
}

}  // namespace
}  // namespace impetus::mil

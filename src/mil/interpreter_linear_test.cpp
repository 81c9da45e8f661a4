#include <gtest/gtest.h>

#include "mil/interpreter_test_support.h"

namespace impetus::mil {
namespace {

using testing::count_of;
using testing::Dims;
using testing::Numbers;
using testing::OneOperation;
using testing::Random;

// `terms` sums of products of about 1: f32 sums, then one rounding to the type.
void expect_near(const std::vector<double>& got, const std::vector<double>& wanted, DataType type,
                 int64_t terms, const std::string& what) {
  ASSERT_EQ(got.size(), wanted.size()) << what;
  for (size_t i = 0; i < got.size(); ++i) {
    const double slack = (type == DataType::f16 ? std::fabs(wanted[i]) * 0x1p-10 + 0x1p-22 : 0) +
                         static_cast<double>(terms + 4) * 1e-6;
    ASSERT_NEAR(got[i], wanted[i], slack) << what << " at " << i;
  }
}

// Row-major access.
struct View {
  const Numbers& numbers;
  double at(const Dims& index) const {
    int64_t place = 0;
    for (size_t d = 0; d < index.size(); ++d) place = place * numbers.shape[d] + index[d];
    return numbers.values[static_cast<size_t>(place)];
  }
};

// Calls f with each index of shape, in row-major order.
template <typename F>
void each_index(const Dims& shape, F f) {
  const int64_t count = count_of(shape);
  for (int64_t i = 0; i < count; ++i) {
    Dims index(shape.size());
    int64_t rest = i;
    for (size_t d = shape.size(); d-- > 0;) {
      index[d] = rest % shape[d];
      rest /= shape[d];
    }
    f(index);
  }
}

TEST(InterpreterLinear, LinearLayers) {
  Random random(1);
  for (int round = 0; round < 30; ++round) {
    const DataType type = round % 2 == 0 ? DataType::f16 : DataType::f32;
    const int64_t k = random.whole(1, 70), n = random.whole(1, 70);
    Dims shape = random.shape(random.whole(0, 2), 9);
    const int64_t rows = count_of(shape);
    shape.push_back(k);
    const Numbers x = random.numbers(type, shape), w = random.numbers(type, {n, k}),
                  b = random.numbers(type, {n});
    Dims result = shape;
    result.back() = n;
    OneOperation operation{"linear", {{"x", {x}}}, {}, {{type, result}}};
    operation.constants["weight"] = testing::constant(type, w.shape, w.values);
    const bool biased = round % 3 != 0;
    if (biased) operation.constants["bias"] = testing::constant(type, b.shape, b.values);
    std::vector<double> wanted;
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t j = 0; j < n; ++j) {
        double sum = biased ? b.values[static_cast<size_t>(j)] : 0;
        for (int64_t i = 0; i < k; ++i) {
          sum +=
              x.values[static_cast<size_t>(r * k + i)] * w.values[static_cast<size_t>(j * k + i)];
        }
        wanted.push_back(sum);
      }
    }
    expect_near(operation.values({.threads = round % 4}), wanted, type, 4 * k, "linear");
  }
}

Dims leading(const Dims& shape) {
  return Dims(shape.begin(), shape.end() - 2);
}

TEST(InterpreterLinear, MatrixProductsOfAllRanks) {
  Random random(2);
  for (int round = 0; round < 60; ++round) {
    const DataType type = round % 3 == 0 ? DataType::f32 : DataType::f16;
    const int64_t m = random.whole(1, 37), k = random.whole(1, 37), n = random.whole(1, 40);
    const bool x_vector = round % 10 == 8, y_vector = round % 10 == 9;
    const bool tx = !x_vector && random.whole(0, 1) == 1, ty = !y_vector && random.whole(0, 1) == 1;
    const Dims batch = random.shape(random.whole(0, 2), 3);
    Dims x_shape = batch, y_shape = batch;
    if (random.whole(0, 1) == 1) {
      for (int64_t& d : x_shape) d = 1;
    } else if (random.whole(0, 1) == 1) {
      y_shape.clear();
    }
    if (x_vector) {
      x_shape = {k};
    } else {
      x_shape.insert(x_shape.end(), {tx ? k : m, tx ? m : k});
    }
    if (y_vector) {
      y_shape = {k};
    } else {
      y_shape.insert(y_shape.end(), {ty ? n : k, ty ? k : n});
    }
    const Numbers x = random.numbers(type, x_shape), y = random.numbers(type, y_shape);
    const Dims full =
        x_vector || y_vector ? (x_vector ? leading(y_shape) : leading(x_shape)) : batch;
    Dims result = full;
    if (!x_vector) result.push_back(m);
    if (!y_vector) result.push_back(n);
    OneOperation operation{"matmul", {{"x", {x}}, {"y", {y}}}, {}, {{type, result}}};
    operation.constants["transpose_x"] = Value::scalar(tx);
    operation.constants["transpose_y"] = Value::scalar(ty);
    const auto index_in = [](const Dims& shape, const Dims& batch_index, int64_t row,
                             int64_t column) {
      Dims index;
      const size_t rank = shape.size() - 2;
      for (size_t d = 0; d < rank; ++d) {
        const int64_t at = batch_index[batch_index.size() - rank + d];
        index.push_back(shape[d] == 1 ? 0 : at);
      }
      index.push_back(row);
      index.push_back(column);
      return index;
    };
    std::vector<double> wanted;
    each_index(full, [&](const Dims& at) {
      for (int64_t i = 0; i < (x_vector ? 1 : m); ++i) {
        for (int64_t j = 0; j < (y_vector ? 1 : n); ++j) {
          double sum = 0;
          for (int64_t l = 0; l < k; ++l) {
            const double a = x_vector ? x.values[static_cast<size_t>(l)]
                                      : View{x}.at(index_in(x_shape, at, tx ? l : i, tx ? i : l));
            const double b = y_vector ? y.values[static_cast<size_t>(l)]
                                      : View{y}.at(index_in(y_shape, at, ty ? j : l, ty ? l : j));
            sum += a * b;
          }
          wanted.push_back(sum);
        }
      }
    });
    expect_near(operation.values(), wanted, type, 4 * k, "matmul");
  }
}

TEST(InterpreterLinear, Einsum) {
  Random random(3);
  // Sizes by letter.
  for (const std::string equation :
       {"nchw,nwhu->nchu", "bchq,bkhc->bkhq", "bkhq,bchk->bchq", "chw,whr->chr", "ab,bc->ac",
        "ab,bc->ca", "abc,abd->bdc", "a,b->ab", "ab,ab->", "ab,ab->b", "ijk,kl->lij", "ab,c->b"}) {
    for (const DataType type : {DataType::f16, DataType::f32}) {
      std::map<char, int64_t> sizes;
      for (const char letter : equation) sizes[letter] = random.whole(1, 7);
      const size_t comma = equation.find(','), arrow = equation.find("->");
      const std::string left = equation.substr(0, comma),
                        right = equation.substr(comma + 1, arrow - comma - 1),
                        out = equation.substr(arrow + 2);
      const auto shape_of = [&](const std::string& letters) {
        Dims shape;
        for (const char letter : letters) shape.push_back(sizes[letter]);
        return shape;
      };
      const Numbers x = random.numbers(type, shape_of(left)),
                    y = random.numbers(type, shape_of(right));
      OneOperation operation{"einsum", {{"values", {x, y}}}, {}, {{type, shape_of(out)}}};
      operation.constants["equation"] = Value::scalar(equation);
      const auto run = operation.run();
      std::string summed;
      for (const auto& [letter, size] : sizes) {
        if (std::isalpha(letter) && out.find(letter) == std::string::npos) summed += letter;
      }
      std::vector<double> wanted;
      each_index(shape_of(out), [&](const Dims& kept) {
        double sum = 0;
        each_index(shape_of(summed), [&](const Dims& gone) {
          std::map<char, int64_t> at;
          for (size_t i = 0; i < out.size(); ++i) at[out[i]] = kept[i];
          for (size_t i = 0; i < summed.size(); ++i) at[summed[i]] = gone[i];
          Dims a, b;
          for (const char letter : left) a.push_back(at[letter]);
          for (const char letter : right) b.push_back(at[letter]);
          sum += View{x}.at(a) * View{y}.at(b);
        });
        wanted.push_back(sum);
      });
      ASSERT_TRUE(run.ok()) << equation << ": " << run.error().message;
      expect_near(testing::numbers_of(run->outputs.begin()->second), wanted, type, 200, equation);
    }
  }
}

struct Spatial {
  int64_t in, kernel, stride, dilation, before, after;
  int64_t out() const { return (in + before + after - (kernel - 1) * dilation - 1) / stride + 1; }
};

Spatial some_spatial(Random& random, const std::string& pad) {
  Spatial s{random.whole(5, 12), random.whole(1, 3), random.whole(1, 3), random.whole(1, 2), 0, 0};
  const int64_t extent = (s.kernel - 1) * s.dilation + 1;
  if (pad == "custom") {
    s.before = random.whole(0, 2);
    s.after = random.whole(0, 2);
  } else if (pad != "valid") {
    const int64_t total =
        std::max<int64_t>(0, ((s.in + s.stride - 1) / s.stride - 1) * s.stride + extent - s.in);
    s.before = pad == "same" ? total / 2 : total - total / 2;
    s.after = total - s.before;
  }
  return s;
}

TEST(InterpreterLinear, Convolutions) {
  Random random(4);
  for (int round = 0; round < 60; ++round) {
    const DataType type = round % 2 == 0 ? DataType::f16 : DataType::f32;
    const std::string pads[] = {"valid", "same", "same_lower", "custom"};
    const std::string pad = pads[round % 4];
    const int64_t dimensions = random.whole(1, 3), batch = random.whole(1, 2);
    const int64_t groups = random.whole(1, 3);
    const int64_t inputs = groups * random.whole(1, 5), outputs = groups * random.whole(1, 5);
    std::vector<Spatial> spatial;
    Dims x_shape{batch, inputs}, w_shape{outputs, inputs / groups}, result{batch, outputs}, kernel,
        strides, dilations, padding;
    for (int64_t d = 0; d < dimensions; ++d) {
      spatial.push_back(some_spatial(random, pad));
      const Spatial& s = spatial.back();
      x_shape.push_back(s.in);
      w_shape.push_back(s.kernel);
      kernel.push_back(s.kernel);
      result.push_back(s.out());
      strides.push_back(s.stride);
      dilations.push_back(s.dilation);
      padding.push_back(pad == "custom" ? s.before : 0);
      padding.push_back(pad == "custom" ? s.after : 0);
    }
    const Numbers x = random.numbers(type, x_shape), w = random.numbers(type, w_shape),
                  b = random.numbers(type, {outputs});
    OneOperation operation{"conv", {{"x", {x}}}, {}, {{type, result}}};
    operation.constants = {{"weight", testing::constant(type, w_shape, w.values)},
                           {"bias", testing::constant(type, {outputs}, b.values)},
                           {"strides", testing::ints(strides)},
                           {"pad_type", Value::scalar(pad)},
                           {"pad", testing::ints(padding)},
                           {"dilations", testing::ints(dilations)},
                           {"groups", Value::scalar(static_cast<int32_t>(groups))}};
    std::vector<double> wanted;
    each_index(result, [&](const Dims& at) {
      double sum = b.values[static_cast<size_t>(at[1])];
      const int64_t group = at[1] / (outputs / groups);
      for (int64_t c = 0; c < inputs / groups; ++c) {
        each_index(kernel, [&](const Dims& place) {
          Dims from{at[0], group * (inputs / groups) + c}, weight{at[1], c};
          for (size_t d = 0; d < place.size(); ++d) {
            const Spatial& s = spatial[d];
            from.push_back(at[d + 2] * s.stride - s.before + place[d] * s.dilation);
            weight.push_back(place[d]);
            if (from.back() < 0 || from.back() >= s.in) return;
          }
          sum += View{x}.at(from) * View{w}.at(weight);
        });
      }
      wanted.push_back(sum);
    });
    expect_near(operation.values(), wanted, type, 500, "conv " + pad);
  }
}

TEST(InterpreterLinear, Pools) {
  Random random(5);
  for (int round = 0; round < 72; ++round) {
    const DataType type = round % 2 == 0 ? DataType::f16 : DataType::f32;
    const std::string pads[] = {"valid", "same", "custom"};
    const std::string pad = pads[round % 3];
    const std::string kinds[] = {"avg_pool", "max_pool", "l2_pool"};
    const std::string kind = kinds[round / 6 % 3];
    const bool average = kind == "avg_pool", exclude = random.whole(0, 1) == 1;
    std::vector<Spatial> spatial;
    Dims x_shape{2, 3}, result{2, 3}, kernel, strides, padding;
    for (int64_t d = 0; d < random.whole(1, 2); ++d) {
      Spatial s = some_spatial(random, "valid");
      s.dilation = 1;
      s.kernel = random.whole(2, 3);
      if (pad == "custom") s.before = random.whole(0, 1), s.after = random.whole(0, 1);
      if (pad == "same") {
        const int64_t total = std::max<int64_t>(
            0, ((s.in + s.stride - 1) / s.stride - 1) * s.stride + s.kernel - s.in);
        s.before = total / 2;
        s.after = total - s.before;
      }
      spatial.push_back(s);
      x_shape.push_back(s.in);
      kernel.push_back(s.kernel);
      strides.push_back(s.stride);
      result.push_back(s.out());
      padding.push_back(pad == "custom" ? s.before : 0);
      padding.push_back(pad == "custom" ? s.after : 0);
    }
    const Numbers x = random.numbers(type, x_shape);
    OneOperation operation{kind, {{"x", {x}}}, {}, {{type, result}}};
    operation.constants = {{"kernel_sizes", testing::ints(kernel)},
                           {"strides", testing::ints(strides)},
                           {"pad_type", Value::scalar(pad)},
                           {"pad", testing::ints(padding)},
                           {"ceil_mode", Value::scalar(false)}};
    if (average) operation.constants["exclude_padding_from_average"] = Value::scalar(exclude);
    std::vector<double> wanted;
    each_index(result, [&](const Dims& at) {
      double sum = 0, squares = 0, top = -1e9;
      int64_t inside = 0;
      each_index(kernel, [&](const Dims& place) {
        Dims from{at[0], at[1]};
        for (size_t d = 0; d < place.size(); ++d) {
          from.push_back(at[d + 2] * spatial[d].stride - spatial[d].before + place[d]);
          if (from.back() < 0 || from.back() >= spatial[d].in) return;
        }
        ++inside;
        sum += View{x}.at(from);
        squares += View{x}.at(from) * View{x}.at(from);
        top = std::max(top, View{x}.at(from));
      });
      wanted.push_back(kind == "max_pool"  ? top
                       : kind == "l2_pool" ? std::sqrt(squares)
                                           : sum / static_cast<double>(exclude ? inside
                                                                               : count_of(kernel)));
    });
    expect_near(operation.values(), wanted, type, 20, operation.type + pad);
  }
}

// As PyTorch's MaxPool1d(3, 2, padding=1, ceil_mode=True) on the same row.
TEST(InterpreterLinear, CeilModeCountsTheLastWindow) {
  OneOperation operation{"max_pool",
                         {{"x", {{DataType::f32, {1, 1, 6}, {1, 5, 2, 4, 3, 6}}}}},
                         {},
                         {{DataType::f32, {1, 1, 4}}}};
  operation.constants = {{"kernel_sizes", testing::ints({3})},
                         {"strides", testing::ints({2})},
                         {"pad_type", Value::scalar(std::string("custom"))},
                         {"pad", testing::ints({1, 1})},
                         {"ceil_mode", Value::scalar(true)}};
  EXPECT_EQ(operation.values(), (std::vector<double>{5, 5, 6, 6}));
}

TEST(InterpreterLinear, Attention) {
  Random random(6);
  for (int round = 0; round < 12; ++round) {
    const DataType type = round % 2 == 0 ? DataType::f16 : DataType::f32;
    const int64_t b = random.whole(1, 3), h = random.whole(1, 3), l = random.whole(1, 9),
                  s = random.whole(1, 40), e = random.whole(1, 20), ev = random.whole(1, 20);
    const Numbers q = random.numbers(type, {b, h, l, e}), k = random.numbers(type, {b, h, s, e}),
                  v = random.numbers(type, {b, h, s, ev});
    const int kind = round % 3;  // no mask, floats, bools
    Numbers mask = random.numbers(kind == 1 ? type : DataType::boolean, {l, s}, kind == 1 ? -2 : 0,
                                  kind == 1 ? 2 : 1);
    for (int64_t i = 0; i < l; ++i)
      mask.values[static_cast<size_t>(i * s)] = 1;  // none is masked wholly
    OneOperation operation{"scaled_dot_product_attention",
                           {{"query", {q}}, {"key", {k}}, {"value", {v}}},
                           {},
                           {{type, {b, h, l, ev}}}};
    if (kind != 0) operation.tensors.push_back({"attn_mask", {mask}});
    std::vector<double> wanted;
    each_index({b, h, l}, [&](const Dims& at) {
      std::vector<double> weights;
      double sum = 0;
      for (int64_t j = 0; j < s; ++j) {
        double score = 0;
        for (int64_t i = 0; i < e; ++i)
          score += View{q}.at({at[0], at[1], at[2], i}) * View{k}.at({at[0], at[1], j, i});
        score /= std::sqrt(static_cast<double>(e));
        const double m = mask.values[static_cast<size_t>(at[2] * s + j)];
        if (kind == 1) score += m;
        weights.push_back(kind == 2 && m == 0 ? 0 : std::exp(score));
        sum += weights.back();
      }
      for (int64_t i = 0; i < ev; ++i) {
        double value = 0;
        for (int64_t j = 0; j < s; ++j)
          value += weights[static_cast<size_t>(j)] / sum * View{v}.at({at[0], at[1], j, i});
        wanted.push_back(value);
      }
    });
    expect_near(operation.values(), wanted, type, 100, "attention");
  }
}

// 2048 and 4096 ones: fp16 cannot count past 2048, whose neighbours are two apart.
TEST(InterpreterLinear, SumsInFp16StopWhereFp16Does) {
  const int64_t k = 4096;
  const Numbers ones{DataType::f16, {1, k}, std::vector<double>(static_cast<size_t>(k), 1)};
  OneOperation operation{"linear", {{"x", {ones}}}, {}, {{DataType::f16, {1, 3}}}};
  operation.constants["weight"] =
      testing::constant(DataType::f16, {3, k}, std::vector<double>(static_cast<size_t>(3 * k), 1));
  EXPECT_EQ(operation.values(), (std::vector<double>(3, 4096)));
  EXPECT_EQ(operation.values({.accumulation = Accumulation::f16}), (std::vector<double>(3, 2048)));
  EXPECT_EQ(operation.values({.accumulation = Accumulation::f16, .round_f16 = false}),
            (std::vector<double>(3, 4096)));
}

// The definition, one partial sum after the other.
TEST(InterpreterLinear, SumsInFp16RoundEachPartialSum) {
  Random random(7);
  const auto half = [](float v) { return f16_to_f32(f32_to_f16(v)); };
  for (int round = 0; round < 10; ++round) {
    const int64_t m = random.whole(1, 70), k = random.whole(1, 90), n = random.whole(1, 70);
    const Numbers x = random.numbers(DataType::f16, {m, k}),
                  y = random.numbers(DataType::f16, {k, n});
    const OneOperation operation{"matmul", {{"x", {x}}, {"y", {y}}}, {}, {{DataType::f16, {m, n}}}};
    const auto got =
        operation.values({.accumulation = Accumulation::f16, .threads = round % 3 + 1});
    for (int64_t i = 0; i < m; ++i) {
      for (int64_t j = 0; j < n; ++j) {
        float sum = 0;
        for (int64_t l = 0; l < k; ++l) {
          sum = half(sum + static_cast<float>(x.values[static_cast<size_t>(i * k + l)]) *
                               static_cast<float>(y.values[static_cast<size_t>(l * n + j)]));
        }
        ASSERT_EQ(got[static_cast<size_t>(i * n + j)], sum);
      }
    }
  }
}

TEST(InterpreterLinear, ThreadsDoNotChangeABit) {
  Random random(8);
  const Numbers x = random.numbers(DataType::f32, {3, 129, 67}),
                y = random.numbers(DataType::f32, {3, 67, 131});
  const OneOperation operation{
      "matmul", {{"x", {x}}, {"y", {y}}}, {}, {{DataType::f32, {3, 129, 131}}}};
  const auto one = operation.values();
  for (const int threads : {2, 3, 8}) EXPECT_EQ(operation.values({.threads = threads}), one);
  // In order of k, products and sums rounded apart.
  float sum = 0;
  for (size_t k = 0; k < 67; ++k)
    sum += static_cast<float>(x.values[k]) * static_cast<float>(y.values[k * 131]);
  EXPECT_EQ(one[0], sum);
}

}  // namespace
}  // namespace impetus::mil

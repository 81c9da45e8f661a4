#include <numeric>

#include <gtest/gtest.h>

#include "mil/interpreter_test_support.h"

namespace impetus::mil {
namespace {

using testing::count_of;
using testing::Dims;
using testing::ints;
using testing::Numbers;
using testing::OneOperation;
using testing::Random;

using Values = std::vector<double>;

Numbers counting(const Dims& shape, DataType type = DataType::f16) {
  Numbers numbers{type, shape, Values(static_cast<size_t>(count_of(shape)))};
  std::iota(numbers.values.begin(), numbers.values.end(), 0);
  return numbers;
}
Value flags(const std::vector<int>& values) {
  return testing::constant(DataType::boolean, {static_cast<int64_t>(values.size())},
                           Values(values.begin(), values.end()));
}
Value one(int32_t value) {
  return Value::scalar(value);
}

using Constants = std::map<std::string, Value, std::less<>>;
Values of(const std::string& type, const Numbers& x, const Constants& constants,
          const Dims& result) {
  return OneOperation{type, {{"x", {x}}}, constants, {{x.dtype, result}}}.values();
}

TEST(InterpreterShape, ViewsKeepTheValues) {
  for (const DataType type : {DataType::f16, DataType::f32, DataType::i32, DataType::boolean}) {
    Numbers x = counting({1, 2, 3, 1}, type);
    if (type == DataType::boolean) x.values = {0, 1, 1, 0, 0, 1};
    EXPECT_EQ(of("identity", x, {}, {1, 2, 3, 1}), x.values);
    EXPECT_EQ(of("reshape", x, {{"shape", ints({3, -1})}}, {3, 2}), x.values);
    EXPECT_EQ(of("expand_dims", x, {{"axes", ints({0, -1})}}, {1, 1, 2, 3, 1, 1}), x.values);
    EXPECT_EQ(of("squeeze", x, {{"axes", ints({0})}}, {2, 3, 1}), x.values);
    EXPECT_EQ(of("squeeze", x, {}, {2, 3}), x.values);
    EXPECT_EQ(of("flatten2d", x, {{"axis", one(2)}}, {2, 3}), x.values);
  }
}

TEST(InterpreterShape, ZerosInAShapeStandForDimensions) {
  const Numbers x = counting({2, 50});
  EXPECT_EQ(of("reshape", x, {{"shape", ints({1, 0, -1, 0})}}, {1, 1, 2, 50}), x.values);  // iOS 17
  OneOperation before{"reshape",
                      {{"x", {x}}},
                      {{"shape", ints({0, -1})}},
                      {{DataType::f16, {2, 50}}},
                      Opset::core_ml6};
  EXPECT_EQ(before.values(), x.values);
}

TEST(InterpreterShape, Transposes) {
  Random random(1);
  for (int round = 0; round < 40; ++round) {
    const Dims shape = random.shape(random.whole(1, 5), 6);
    Dims order(shape.size()), result;
    std::iota(order.begin(), order.end(), 0);
    std::shuffle(order.begin(), order.end(), random.engine());
    for (const int64_t axis : order) result.push_back(shape[static_cast<size_t>(axis)]);
    const Numbers x = counting(shape, round % 2 == 0 ? DataType::f32 : DataType::i32);
    Values wanted;
    for (int64_t i = 0; i < count_of(result); ++i) {
      Dims index(shape.size());
      int64_t rest = i, place = 0;
      for (size_t d = order.size(); d-- > 0;) {
        index[static_cast<size_t>(order[d])] = rest % result[d];
        rest /= result[d];
      }
      for (size_t d = 0; d < shape.size(); ++d) place = place * shape[d] + index[d];
      wanted.push_back(static_cast<double>(place));
    }
    EXPECT_EQ(of("transpose", x, {{"perm", ints(order)}}, result), wanted);
  }
}

TEST(InterpreterShape, JoinsAndParts) {
  const Numbers a{DataType::f16, {3, 2}, {1, 2, 3, 4, 5, 6}},
      b{DataType::f16, {3, 2}, {7, 8, 9, 10, 11, 12}};
  const auto join = [&](const std::string& type, const Constants& constants, const Dims& result) {
    return OneOperation{type, {{"values", {a, b}}}, constants, {{DataType::f16, result}}}.values();
  };
  EXPECT_EQ(join("concat", {{"axis", one(0)}, {"interleave", Value::scalar(false)}}, {6, 2}),
            (Values{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}));
  EXPECT_EQ(join("concat", {{"axis", one(0)}, {"interleave", Value::scalar(true)}}, {6, 2}),
            (Values{1, 2, 7, 8, 3, 4, 9, 10, 5, 6, 11, 12}));
  EXPECT_EQ(join("concat", {{"axis", one(-1)}, {"interleave", Value::scalar(false)}}, {3, 4}),
            (Values{1, 2, 7, 8, 3, 4, 9, 10, 5, 6, 11, 12}));
  EXPECT_EQ(join("stack", {{"axis", one(1)}}, {3, 2, 2}),
            (Values{1, 2, 7, 8, 3, 4, 9, 10, 5, 6, 11, 12}));
  OneOperation split{"split",
                     {{"x", {counting({2, 5})}}},
                     {{"split_sizes", ints({1, 3, 1})}, {"axis", one(-1)}},
                     {{DataType::f16, {2, 1}}, {DataType::f16, {2, 3}}, {DataType::f16, {2, 1}}}};
  EXPECT_EQ(split.values({}, 0), (Values{0, 5}));
  EXPECT_EQ(split.values({}, 1), (Values{1, 2, 3, 6, 7, 8}));
  EXPECT_EQ(split.values({}, 2), (Values{4, 9}));
  OneOperation even{"split",
                    {{"x", {counting({2, 4})}}},
                    {{"num_splits", one(2)}, {"axis", one(1)}},
                    {{DataType::f16, {2, 2}}, {DataType::f16, {2, 2}}}};
  EXPECT_EQ(even.values({}, 1), (Values{2, 3, 6, 7}));
}

// Literals: numpy with the slices of coremltools' solve_slice_by_index_slice, on arange(24) as
// (2, 3, 4).
TEST(InterpreterShape, Slices) {
  const Numbers x = counting({2, 3, 4});
  const auto slice = [&](Dims begin, Dims end, Dims stride, std::vector<int> begins,
                         std::vector<int> ends, std::vector<int> squeezes, const Dims& result) {
    return of("slice_by_index", x,
              {{"begin", ints(begin)},
               {"end", ints(end)},
               {"stride", ints(stride)},
               {"begin_mask", flags(begins)},
               {"end_mask", flags(ends)},
               {"squeeze_mask", flags(squeezes)}},
              result);
  };
  EXPECT_EQ(slice({0, -1, 3}, {2, -4, 0}, {1, -1, -2}, {0, 0, 0}, {0, 1, 0}, {0, 0, 0}, {2, 3, 2}),
            (Values{11, 9, 7, 5, 3, 1, 23, 21, 19, 17, 15, 13}));
  EXPECT_EQ(slice({1, 0, 1}, {0, 0, -1}, {1, 2, 1}, {0, 1, 0}, {0, 1, 0}, {1, 0, 0}, {2, 2}),
            (Values{13, 14, 21, 22}));
  EXPECT_EQ(slice({-1, 2, 0}, {0, 0, 0}, {1, -1, 3}, {0, 0, 1}, {1, 1, 1}, {0, 0, 0}, {1, 3, 2}),
            (Values{20, 23, 16, 19, 12, 15}));
  EXPECT_EQ(
      of("slice_by_size", x, {{"begin", ints({1, 1, 2})}, {"size", ints({1, 2, -1})}}, {1, 2, 2}),
      (Values{18, 19, 22, 23}));
}

TEST(InterpreterShape, SliceUpdate) {
  OneOperation operation{
      "slice_update",
      {{"x", {counting({2, 4})}}, {"update", {{DataType::f16, {2, 2}, {-1, -2, -3, -4}}}}},
      {},
      {{DataType::f16, {2, 4}}}};
  operation.constants = {{"begin", ints({0, 0})},     {"end", ints({0, 4})},
                         {"stride", ints({1, 2})},    {"begin_mask", flags({0, 0})},
                         {"end_mask", flags({1, 0})}, {"squeeze_mask", flags({0, 0})}};
  EXPECT_EQ(operation.values(), (Values{-1, 1, -2, 3, -3, 5, -4, 7}));
}

TEST(InterpreterShape, PadTileBand) {
  const Numbers x{DataType::f16, {1, 3}, {1, 2, 3}};
  const auto pad = [&](const std::string& mode) {
    return of("pad", x,
              {{"pad", ints({0, 1, 2, 1})},
               {"mode", Value::scalar(mode)},
               {"constant_val", Value::scalar(9.0f, DataType::f16)}},
              {2, 6});
  };
  EXPECT_EQ(pad("constant"), (Values{9, 9, 1, 2, 3, 9, 9, 9, 9, 9, 9, 9}));
  EXPECT_EQ(of("pad", x,
               {{"pad", ints({2, 1})},
                {"mode", Value::scalar(std::string("reflect"))},
                {"constant_val", Value::scalar(0.0f, DataType::f16)}},
               {1, 6}),
            (Values{3, 2, 1, 2, 3, 2}));
  EXPECT_EQ(pad("replicate"), (Values{1, 1, 1, 2, 3, 3, 1, 1, 1, 2, 3, 3}));
  EXPECT_EQ(of("tile", {DataType::f16, {2, 2}, {1, 2, 3, 4}}, {{"reps", ints({2, 2})}}, {4, 4}),
            (Values{1, 2, 1, 2, 3, 4, 3, 4, 1, 2, 1, 2, 3, 4, 3, 4}));
  const Numbers m{DataType::f16, {3, 3}, {1, 2, 3, 4, 5, 6, 7, 8, 9}};
  EXPECT_EQ(of("band_part", m, {{"lower", one(0)}, {"upper", one(-1)}}, {3, 3}),
            (Values{1, 2, 3, 0, 5, 6, 0, 0, 9}));
  EXPECT_EQ(of("band_part", m, {{"lower", one(1)}, {"upper", one(0)}}, {3, 3}),
            (Values{1, 0, 0, 4, 5, 0, 0, 8, 9}));
}

TEST(InterpreterShape, Gathers) {
  const Numbers x = counting({2, 3, 2});
  const auto gather = [&](const std::string& type, const Numbers& indices,
                          const Constants& constants, const Dims& result) {
    return OneOperation{
        type, {{"x", {x}}, {"indices", {indices}}}, constants, {{DataType::f16, result}}}
        .values();
  };
  EXPECT_EQ(gather("gather", {DataType::i32, {2}, {2, 0}},
                   {{"axis", one(1)}, {"batch_dims", one(0)}}, {2, 2, 2}),
            (Values{4, 5, 0, 1, 10, 11, 6, 7}));
  EXPECT_EQ(gather("gather", {DataType::i32, {2, 1}, {2, 0}},
                   {{"axis", one(1)}, {"batch_dims", one(1)}}, {2, 1, 2}),
            (Values{4, 5, 6, 7}));
  EXPECT_EQ(gather("gather_along_axis", {DataType::i32, {2, 1, 2}, {1, 0, 2, 2}},
                   {{"axis", one(1)}}, {2, 1, 2}),
            (Values{2, 1, 10, 11}));
  EXPECT_EQ(
      gather("gather_nd", {DataType::i32, {2, 2}, {1, 2, 0, 1}}, {{"batch_dims", one(0)}}, {2, 2}),
      (Values{10, 11, 2, 3}));
  EXPECT_EQ(gather("gather_nd", {DataType::i32, {2, 1}, {2, 0}}, {{"batch_dims", one(1)}}, {2, 2}),
            (Values{4, 5, 6, 7}));
  OneOperation outside{"gather",
                       {{"x", {x}}, {"indices", {{DataType::i32, {1}, {3}}}}},
                       {{"axis", one(1)}},
                       {{DataType::f16, {2, 1, 2}}}};
  const auto failed = outside.run();
  ASSERT_FALSE(failed.ok());
  EXPECT_EQ(failed.error().message, "operation out0 (gather): index 3 is outside a dimension of 3");
}

TEST(InterpreterShape, ValuesFromNothing) {
  OneOperation hot{
      "one_hot", {{"indices", {{DataType::i32, {2}, {2, 0}}}}}, {}, {{DataType::f16, {2, 3}}}};
  hot.constants = {{"one_hot_vector_size", one(3)},
                   {"axis", one(-1)},
                   {"on_value", Value::scalar(5.0f, DataType::f16)},
                   {"off_value", Value::scalar(-1.0f, DataType::f16)}};
  EXPECT_EQ(hot.values(), (Values{-1, -1, 5, 5, -1, -1}));
  OneOperation fill{"fill",
                    {},
                    {{"shape", ints({2, 2})}, {"value", Value::scalar(0.5f, DataType::f16)}},
                    {{DataType::f16, {2, 2}}}};
  EXPECT_EQ(fill.values(), (Values{0.5, 0.5, 0.5, 0.5}));
  OneOperation range{"range_1d",
                     {},
                     {{"start", one(5)}, {"end", one(-2)}, {"step", one(-3)}},
                     {{DataType::i32, {3}}}};
  EXPECT_EQ(range.values(), (Values{5, 2, -1}));
  EXPECT_EQ(
      (OneOperation{"shape", {{"x", {counting({2, 3, 2})}}}, {}, {{DataType::i32, {3}}}}.values()),
      (Values{2, 3, 2}));
}

// ---- packed weights: the result is an output made of constants alone ----

Values unpacked(const std::string& type, const Constants& constants, const TensorType& result,
                bool attributes) {
  testing::ProgramBuilder b(attributes ? Opset::core_ml6 : Opset::core_ml8);
  b.input("unused", DataType::f16, {1});
  std::map<std::string, Argument, std::less<>> inputs;
  if (!attributes) {
    for (const auto& [name, value] : constants) inputs[name] = {b.constant("c_" + name, value)};
  }
  b.op(type, inputs, {{"w", testing::tensor_type(result.dtype, result.shape)}},
       attributes ? constants : Constants{});
  const std::string zero = b.constant("zero", Value::scalar(0.0f, result.dtype));
  b.op("add", {{"x", {"w"}}, {"y", {zero}}},
       {{"out", testing::tensor_type(result.dtype, result.shape)}});
  b.output("out", result.dtype, result.shape);
  auto interpreter = Interpreter::load(b.model(), "", {});
  if (!interpreter.ok()) throw std::runtime_error(interpreter.error().message);
  auto run = interpreter->run({{"unused", {{DataType::f16, {1}}, {0.0f}, {}}}});
  if (!run.ok()) throw std::runtime_error(run.error().message);
  return testing::numbers_of(run->outputs.at("out"));
}

using testing::constant;

TEST(InterpreterConstexpr, AttributeForms) {
  EXPECT_EQ(unpacked("constexpr_affine_dequantize",
                     {{"quantized_data", constant(DataType::i8, {2, 3}, {-128, 0, 127, 1, 2, 3})},
                      {"zero_point", constant(DataType::i8, {2}, {-8, 1})},
                      {"scale", constant(DataType::f16, {2}, {0.5, 2})},
                      {"axis", one(0)}},
                     {DataType::f16, {2, 3}}, true),
            (Values{-60, 4, 67.5, 0, 2, 4}));
  // Two bits an index, least significant first, the last byte not full.
  EXPECT_EQ(unpacked("constexpr_lut_to_dense",
                     {{"indices", constant(DataType::u8, {2}, {0b01101100, 0b11})},
                      {"lut", constant(DataType::f16, {4}, {10, 11, 12, 13})},
                      {"shape", constant(DataType::u32, {2}, {1, 5})}},
                     {DataType::f16, {1, 5}}, true),
            (Values{10, 13, 12, 11, 13}));
  EXPECT_EQ(unpacked("constexpr_sparse_to_dense",
                     {{"nonzero_data", constant(DataType::f16, {2}, {3, 4})},
                      {"mask", constant(DataType::u8, {1}, {0b01100})},
                      {"shape", constant(DataType::u32, {1}, {5})}},
                     {DataType::f16, {5}}, true),
            (Values{0, 0, 3, 4, 0}));
  EXPECT_EQ(unpacked("constexpr_cast",
                     {{"source_val", constant(DataType::f16, {2}, {0.5, -3})},
                      {"output_dtype", Value::scalar(std::string("fp32"))}},
                     {DataType::f32, {2}}, true),
            (Values{0.5, -3}));
}

// Literals: coremltools' lut_to_dense (optimize/_utils.py) on the same tables.
TEST(InterpreterConstexpr, TablesByGroupAndOfVectors) {
  EXPECT_EQ(
      unpacked("constexpr_lut_to_dense",
               {{"indices", constant(DataType::u2, {6, 2}, {2, 3, 3, 0, 1, 0, 3, 0, 2, 1, 0, 3})},
                {"lut", constant(DataType::f16, {2, 1, 4, 1}, {1, 5, 9, 13, 2, 10, 18, 26})}},
               {DataType::f16, {6, 2}}, false),
      (Values{9, 13, 13, 1, 5, 1, 26, 2, 18, 10, 2, 26}));
  const Constants vectors{{"indices", constant(DataType::u1, {2, 2, 2}, {0, 0, 1, 0, 1, 1, 0, 0})},
                          {"lut", constant(DataType::f16, {1, 1, 1, 2, 3}, {0, 1, 2, 3, 4, 5})}};
  const auto along = [&](int32_t axis, const Dims& shape) {
    Constants all = vectors;
    all["vector_axis"] = one(axis);
    return unpacked("constexpr_lut_to_dense", all, {DataType::f16, shape}, false);
  };
  EXPECT_EQ(along(0, {6, 2, 2}),
            (Values{0, 0, 3, 0, 1, 1, 4, 1, 2, 2, 5, 2, 3, 3, 0, 0, 4, 4, 1, 1, 5, 5, 2, 2}));
  EXPECT_EQ(along(1, {2, 6, 2}),
            (Values{0, 0, 1, 1, 2, 2, 3, 0, 4, 1, 5, 2, 3, 3, 4, 4, 5, 5, 0, 0, 1, 1, 2, 2}));
  EXPECT_EQ(along(2, {2, 2, 6}),
            (Values{0, 1, 2, 0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4, 5, 3, 4, 5, 0, 1, 2, 0, 1, 2}));
}

TEST(InterpreterConstexpr, BlocksAndMasks) {
  EXPECT_EQ(unpacked("constexpr_blockwise_shift_scale",
                     {{"data", constant(DataType::i4, {2, 4}, {-8, 7, 1, 2, 3, -1, 0, 5})},
                      {"scale", constant(DataType::f16, {2, 2}, {0.5, 2, 1, 4})},
                      {"offset", constant(DataType::i4, {2, 2}, {1, -1, 0, 2})}},
                     {DataType::f16, {2, 4}}, false),
            (Values{-4.5, 3, 4, 6, 3, -1, -8, 12}));
  EXPECT_EQ(unpacked("constexpr_blockwise_shift_scale",
                     {{"data", constant(DataType::u4, {1, 3}, {0, 15, 8})},
                      {"scale", constant(DataType::f32, {1, 1}, {0.25})}},
                     {DataType::f32, {1, 3}}, false),
            (Values{0, 3.75, 2}));
  EXPECT_EQ(unpacked("constexpr_sparse_to_dense",
                     {{"nonzero_data", constant(DataType::f16, {2}, {3, 4})},
                      {"mask", constant(DataType::u1, {2, 2}, {0, 1, 1, 0})}},
                     {DataType::f16, {2, 2}}, false),
            (Values{0, 3, 4, 0}));
}

}  // namespace
}  // namespace impetus::mil

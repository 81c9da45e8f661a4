// The table's rules against literal cases: shapes as coremltools' definitions (ops/defs) give them,
// and one wrong twin for each thing that a rule refuses.
#include "mil/operations.h"

#include <limits>

#include <gtest/gtest.h>

#include "mil/operations_test_support.h"

namespace impetus::mil {
namespace {

using namespace testing;
using enum Opset;

TEST(Operations, Elementwise) {
  expect_all({
      {"relu", core_ml5, {{"x", "fp16[1, 2]"}}, "fp16[1, 2]"},
      {"relu", core_ml8, {{"x", "int32[1, 2]"}}, "x is int32[1, 2]; it may be fp16, fp32"},
      {"abs", core_ml5, {{"x", "int32[?]"}}, "int32[?]"},
      {"relu", core_ml5, {}, "required parameter x is missing"},
      {"relu", core_ml5, {{"x", "fp16[1]"}, {"y", "fp16[1]"}}, "has no parameter y"},
      {"relu", core_ml5, {{"x", Many{"fp16[1]", "fp16[1]"}}}, "bound to 2 values"},
      {"relu", core_ml5, {{"x", "state fp16[1]"}}, "where a tensor is wanted"},
      {"gelu", core_ml5, {{"x", "fp16[3]"}}, "fp16[3]"},
      {"gelu", core_ml5, {{"x", "fp16[3]"}, {"mode", text("FAST")}}, "mode \"FAST\""},
      {"gelu", core_ml5, {{"x", "fp16[3]"}, {"mode", "string[]"}}, "mode must be a constant"},
      {"elu",
       core_ml5,
       {{"x", "fp16[3]"}, {"alpha", Value::scalar(1.0f)}},
       "must have one element type"},
      {"elu", core_ml7, {{"x", "fp16[3]"}, {"alpha", Value::scalar(1.0f)}}, "fp16[3]"},
      {"clip", core_ml5, {{"x", "fp16[3]"}, {"alpha", half(2)}, {"beta", half(1)}}, "fp16[3]"},
      {"clip",
       core_ml7,
       {{"x", "fp16[3]"}, {"alpha", half(2)}, {"beta", half(1)}},
       "alpha 2 must be below beta 1"},
      {"cast", core_ml5, {{"x", "int32[2]"}, {"dtype", text("fp16")}}, "fp16[2]"},
      {"cast", core_ml5, {{"x", "int32[2]"}, {"dtype", text("int8")}}, "dtype \"int8\""},
      {"cast", core_ml7, {{"x", "int32[2]"}, {"dtype", text("int8")}}, "int8[2]"},
      {"cast", core_ml7, {{"x", "int32[2]"}, {"dtype", text("int64")}}, "dtype \"int64\""},
      {"cast", core_ml7, {{"x", "int32[2]"}, {"dtype", text("half")}}, "no element type"},
      {"cast", core_ml5, {{"x", "int8[2]"}, {"dtype", text("fp16")}}, "x is int8[2]"},
      {"add", core_ml5, {{"x", "fp16[1, 3, 1]"}, {"y", "fp16[2, 1, ?]"}}, "fp16[2, 3, ?]"},
      {"add", core_ml5, {{"x", "fp16[?, 4]"}, {"y", "fp16[5, 1]"}}, "fp16[5, 4]"},
      {"add", core_ml5, {{"x", "fp16[?]"}, {"y", "fp16[?]"}}, "fp16[?]"},
      {"add", core_ml5, {{"x", "fp16[?]"}, {"y", "fp16[0]"}}, "fp16[?]"},  // of 1 or of 0
      {"add", core_ml5, {{"x", "fp16[]"}, {"y", "fp16[2, 2]"}}, "fp16[2, 2]"},
      {"add",
       core_ml5,
       {{"x", "fp16[2]"}, {"y", "fp32[2]"}},
       "x is fp16[2] and y is fp32[2]: they must have one element type"},
      {"add", core_ml5, {{"x", "fp16[2, 3]"}, {"y", "fp16[2]"}}, "do not broadcast: 3 against 2"},
      {"less", core_ml5, {{"x", "int32[2, 1]"}, {"y", "int32[3]"}}, "bool[2, 3]"},
      {"logical_and", core_ml5, {{"x", "bool[2, 1]"}, {"y", "bool[3]"}}, "bool[2, 3]"},
      {"logical_and", core_ml5, {{"x", "fp16[2]"}, {"y", "fp16[2]"}}, "it may be bool"},
      {"logical_not", core_ml5, {{"x", "bool[2]"}}, "bool[2]"},
      {"select",
       core_ml5,
       {{"cond", "bool[1, 4]"}, {"a", "fp16[]"}, {"b", "fp16[3, 1]"}},
       "fp16[3, 4]"},
      {"select",
       core_ml5,
       {{"cond", "bool[4]"}, {"a", "fp16[]"}, {"b", "int32[3, 1]"}},
       "must have one element type"},
  });
}

TEST(Operations, Products) {
  const auto conv = [](std::string_view x, std::string_view weight, std::vector<Bound> more) {
    std::vector<Bound> all{{"x", x}, {"weight", weight}};
    all.insert(all.end(), more.begin(), more.end());
    return all;
  };
  expect_all({
      {"conv", core_ml5, conv("fp16[1, 8, 1, 10]", "fp16[16, 8, 1, 1]", {}), "fp16[1, 16, 1, 10]"},
      {"conv", core_ml5, conv("fp16[?, 8, ?, 10]", "fp16[16, 8, 1, 1]", {}), "fp16[?, 16, ?, 10]"},
      // floor((31 + 1 + 1 - 3) / 2) + 1
      {"conv", core_ml5,
       conv("fp16[2, 4, 31, 32]", "fp16[8, 2, 3, 3]",
            {{"strides", ints({2, 2})},
             {"pad_type", text("custom")},
             {"pad", ints({1, 1, 1, 1})},
             {"groups", integer(2)}}),
       "fp16[2, 8, 16, 16]"},
      {"conv", core_ml5,
       conv("fp16[1, 4, 9]", "fp16[8, 4, 3]", {{"pad_type", text("same")}, {"strides", ints({2})}}),
       "fp16[1, 8, 5]"},
      {"conv", core_ml5, conv("fp16[1, 4, 9]", "fp16[8, 4, 3]", {{"pad_type", text("same_lower")}}),
       "needs CoreML6"},
      {"conv", core_ml6, conv("fp16[1, 4, 9]", "fp16[8, 4, 3]", {{"pad_type", text("same_lower")}}),
       "fp16[1, 8, 9]"},
      {"conv", core_ml6, conv("fp16[1, 4, 9]", "fp16[8, 4, 3]", {{"pad_type", text("odd")}}),
       "pad_type \"odd\""},
      {"conv",
       core_ml5,
       {{"x", "fp16[1, 4, 9]"}, {"weight", zeros("fp16[8, 4, 3]")}, {"dilations", ints({3})}},
       "fp16[1, 8, 3]"},
      {"conv", core_ml5, conv("fp16[1, 4, 9]", "fp16[8, 4, 3]", {{"dilations", ints({3})}}),
       "dilations must be 1"},
      {"conv", core_ml5, conv("fp16[1, 4, 2]", "fp16[8, 4, 3]", {}), "does not fit into length 2"},
      {"conv", core_ml5, conv("fp16[1, 4, 9]", "fp16[8, 3, 3]", {}), "wants 3 a group"},
      {"conv", core_ml5, conv("fp16[1, 4, 9]", "fp16[8, 4, 3]", {{"groups", integer(0)}}),
       "groups is 0"},
      {"conv", core_ml5, conv("fp16[1, 4, 9]", "fp16[9, 2, 3]", {{"groups", integer(2)}}),
       "not a multiple of groups 2"},
      {"conv", core_ml5, conv("fp16[1, 4, 9]", "fp16[8, 4, 3]", {{"strides", ints({0})}}),
       "strides holds 0"},
      {"conv", core_ml5, conv("fp16[1, 4, 9]", "fp16[8, 4, 3]", {{"strides", ints({1, 1})}}),
       "strides [1, 1] has 2 elements and wants 1"},
      {"conv", core_ml5, conv("fp16[1, 4, 9]", "fp16[8, 4, 3, 3]", {}), "ranks must be equal"},
      {"conv", core_ml5, conv("fp16[4, 9]", "fp16[8, 4]", {}), "its rank must be 3 to 5"},
      {"conv", core_ml5, conv("fp16[1, 4, 9]", "fp16[8, 4, 3]", {{"bias", zeros("fp16[7]")}}),
       "bias is fp16[7]"},
      {"conv", core_ml5, conv("fp16[1, 4, 9]", "fp32[8, 4, 3]", {}), "must have one element type"},
      {"conv", core_ml7, conv("fp16[1, 4, 9]", "fp32[8, 4, 3]", {}), "fp16[1, 8, 7]"},
      {"linear",
       core_ml5,
       {{"x", "fp16[?, 3, 4]"}, {"weight", zeros("fp16[5, 4]")}},
       "fp16[?, 3, 5]"},
      {"linear",
       core_ml5,
       {{"x", "fp16[3, 4]"}, {"weight", "fp16[5, 4]"}},
       "weight must be a constant"},
      {"linear",
       core_ml5,
       {{"x", "fp16[3, 3]"}, {"weight", zeros("fp16[5, 4]")}},
       "wants a last dimension of 4"},
      {"linear",
       core_ml5,
       {{"x", "fp16[3, 4]"}, {"weight", zeros("fp16[5, 4]")}, {"bias", zeros("fp16[4]")}},
       "has 5 outputs"},
      {"matmul", core_ml5, {{"x", "fp16[2, 1, 3, 4]"}, {"y", "fp16[5, 4, 6]"}}, "fp16[2, 5, 3, 6]"},
      {"matmul",
       core_ml5,
       {{"x", "fp16[4, 3]"},
        {"y", "fp16[6, 4]"},
        {"transpose_x", Value::scalar(true)},
        {"transpose_y", Value::scalar(true)}},
       "fp16[3, 6]"},
      {"matmul", core_ml5, {{"x", "fp16[4]"}, {"y", "fp16[2, 4, 3]"}}, "fp16[2, 3]"},
      {"matmul", core_ml5, {{"x", "fp16[2, 4]"}, {"y", "fp16[4]"}}, "fp16[2]"},
      {"matmul", core_ml5, {{"x", "fp16[4]"}, {"y", "fp16[4]"}}, "fp16[]"},
      {"matmul", core_ml5, {{"x", "fp16[3, 4]"}, {"y", "fp16[5, 6]"}}, "do not multiply"},
      {"matmul",
       core_ml5,
       {{"x", "fp16[4]"}, {"y", "fp16[4, 6]"}, {"transpose_x", Value::scalar(true)}},
       "cannot be transposed"},
      {"matmul", core_ml5, {{"x", "fp16[]"}, {"y", "fp16[4, 6]"}}, "a scalar has no product"},
      {"matmul", core_ml7, {{"x", "fp16[3, 4]"}, {"y", zeros("fp32[4, 6]")}}, "fp16[3, 6]"},
      {"matmul",
       core_ml7,
       {{"x", "fp16[3, 4]"}, {"y", "fp32[4, 6]"}},
       "must have one element type"},
      {"einsum",
       core_ml5,
       {{"values", Many{"fp16[1, 8, 1, 10]", "fp16[1, 10, 3, 5]"}},
        {"equation", text("nchw,nwhu->nchu")}},
       "fp16[1, 8, 3, 5]"},
      {"einsum",
       core_ml5,
       {{"values", Many{"fp16[2, 3]", "fp16[3, ?]"}}, {"equation", text("ab,bc->ca")}},
       "fp16[?, 2]"},
      {"einsum",
       core_ml5,
       {{"values", Many{"fp16[2, 3]", "fp16[4, 5]"}}, {"equation", text("ab,bc->ca")}},
       "b is 3 long"},
      {"einsum",
       core_ml5,
       {{"values", Many{"fp16[2, 3]", "fp16[3, 5]"}}, {"equation", text("ab,bc->ad")}},
       "makes d of nothing"},
      {"einsum",
       core_ml5,
       {{"values", Many{"fp16[2, 2]", "fp16[3, 5]"}}, {"equation", text("aa,bc->ab")}},
       "names a twice"},
      {"einsum",
       core_ml5,
       {{"values", Many{"fp16[2, 2]", "fp16[3, 5]"}}, {"equation", text("ab,b2->a2")}},
       "holds more than letters"},
      {"einsum",
       core_ml5,
       {{"values", Many{"fp16[2, 2]", "fp16[3, 5]"}}, {"equation", text("->,")}},
       "is not of the form"},
      {"einsum",
       core_ml5,
       {{"values", Many{"fp16[2, 2]"}}, {"equation", text("ab,bc->ac")}},
       "takes two"},
      {"einsum",
       core_ml5,
       {{"values", Many{"fp16[2]", "fp16[2, 2]"}}, {"equation", text("ab,bc->ac")}},
       "gives the first value 2 dimensions"},
      {"scaled_dot_product_attention",
       core_ml8,
       {{"query", "fp16[1, 4, 7, 8]"},
        {"key", "fp16[1, 4, 9, 8]"},
        {"value", "fp16[1, 4, 9, 6]"},
        {"attn_mask", "bool[7, 9]"}},
       "fp16[1, 4, 7, 6]"},
      {"scaled_dot_product_attention",
       core_ml8,
       {{"query", "fp16[1, 4, 7, 8]"}, {"key", "fp16[1, 4, 9, 8]"}, {"value", "fp16[1, 4, 8, 8]"}},
       "differ in length"},
      {"scaled_dot_product_attention",
       core_ml8,
       {{"query", "fp16[1, 4, 7, 8]"}, {"key", "fp16[2, 4, 9, 8]"}, {"value", "fp16[1, 4, 9, 8]"}},
       "differ in their batch"},
  });
  EXPECT_EQ(find_operation("scaled_dot_product_attention", core_ml7), nullptr);
}

TEST(Operations, Pools) {
  const auto pool = [](std::string_view x, std::vector<Bound> more) {
    std::vector<Bound> all{{"x", x}, {"pad_type", text("valid")}};
    for (Bound& one : more) {
      if (one.parameter == "pad_type") all.pop_back();
    }
    all.insert(all.end(), more.begin(), more.end());
    return all;
  };
  expect_all({
      {"max_pool", core_ml5,
       pool("fp16[1, 2, 9, 9]", {{"kernel_sizes", ints({3, 2})}, {"strides", ints({2, 3})}}),
       "fp16[1, 2, 4, 3]"},
      {"avg_pool", core_ml5,
       pool("fp16[1, 2, 9]",
            {{"kernel_sizes", ints({3})}, {"pad_type", text("same")}, {"strides", ints({2})}}),
       "fp16[1, 2, 5]"},
      // ceil((16 + 2 - 2) / 2) + 1 = 9; its last window starts at 16 < 16 + 1.
      {"avg_pool", core_ml5,
       pool("fp16[1, 2, 16]", {{"kernel_sizes", ints({2})},
                               {"strides", ints({2})},
                               {"pad_type", text("custom")},
                               {"pad", ints({1, 1})},
                               {"ceil_mode", Value::scalar(true)}}),
       "fp16[1, 2, 9]"},
      // Of the 4 that ceil gives, the last would start at 6 >= 5 + 1.
      {"avg_pool", core_ml5,
       pool("fp16[1, 2, 5]", {{"kernel_sizes", ints({2})},
                              {"strides", ints({2})},
                              {"pad_type", text("custom")},
                              {"pad", ints({1, 1})},
                              {"ceil_mode", Value::scalar(true)}}),
       "fp16[1, 2, 3]"},
      {"max_pool", core_ml5,
       pool("fp16[1, 2, 5]", {{"kernel_sizes", ints({2})},
                              {"pad_type", text("custom")},
                              {"pad", ints({0, 1})},
                              {"ceil_mode", Value::scalar(true)}}),
       "must be symmetric"},
      {"max_pool", core_ml5, pool("fp16[1, 2, 9]", {{"kernel_sizes", ints({10})}}), "does not fit"},
      {"max_pool", core_ml5, pool("fp16[1, 2, 9]", {{"kernel_sizes", ints({0})}}),
       "kernel_sizes holds 0"},
      {"max_pool", core_ml5, pool("fp16[2, 9]", {{"kernel_sizes", ints({1})}}), "rank must be"},
      {"max_pool",
       core_ml5,
       {{"x", "fp16[1, 2, 9]"}, {"kernel_sizes", ints({3})}},
       "required parameter pad_type"},
  });
}

TEST(Operations, AlongAxes) {
  expect_all({
      {"reduce_mean", core_ml5, {{"x", "fp16[2, 3, 4]"}, {"axes", ints({-1, 0})}}, "fp16[3]"},
      {"reduce_sum",
       core_ml5,
       {{"x", "fp16[2, 3, ?]"}, {"axes", ints({2})}, {"keep_dims", Value::scalar(true)}},
       "fp16[2, 3, 1]"},
      {"reduce_max", core_ml5, {{"x", "int32[2, 3]"}}, "int32[]"},
      {"reduce_max",
       core_ml5,
       {{"x", "fp16[2, 3]"}, {"axes", ints({2})}},
       "axes 2 is outside of rank 2"},
      {"reduce_max", core_ml5, {{"x", "fp16[2, 3]"}, {"axes", ints({1, -1})}}, "dimension twice"},
      {"reduce_max", core_ml5, {{"x", "fp16[2, 3]"}, {"axes", "int32[1]"}}, "must be a constant"},
      {"reduce_argmax", core_ml5, {{"x", "fp16[2, 3]"}, {"axis", integer(0)}}, "int32[3]"},
      {"reduce_argmax",
       core_ml7,
       {{"x", "fp16[2, 3]"}, {"output_dtype", text("uint16")}},
       "uint16[2]"},
      {"reduce_argmax",
       core_ml7,
       {{"x", "fp16[2, 3]"}, {"output_dtype", text("int8")}},
       "neither int32 nor uint16"},
      {"reduce_argmax",
       core_ml5,
       {{"x", "fp16[2, 3]"}, {"output_dtype", text("uint16")}},
       "has no parameter output_dtype"},
      {"softmax", core_ml5, {{"x", "fp16[2, 3]"}, {"axis", integer(-2)}}, "fp16[2, 3]"},
      {"softmax", core_ml5, {{"x", "fp16[2, 3]"}, {"axis", integer(-3)}}, "axis -3 is outside"},
      {"softmax", core_ml5, {{"x", "fp16[2, 3]"}, {"axis", ints({0, 1})}}, "one integer is wanted"},
      {"layer_norm",
       core_ml5,
       {{"x", "fp16[2, 3, 4]"},
        {"axes", ints({-1, 1})},
        {"gamma", zeros("fp16[3, 4]")},
        {"epsilon", half(1e-5f)}},
       "fp16[2, 3, 4]"},
      {"layer_norm",
       core_ml5,
       {{"x", "fp16[2, 3, 4]"}, {"axes", ints({1})}, {"beta", zeros("fp16[4]")}},
       "its shape must be [3]"},
      {"layer_norm",
       core_ml5,
       {{"x", "fp16[2]"}, {"axes", ints({0})}, {"epsilon", zeros("fp16[2]")}},
       "where one number is wanted"},
      {"batch_norm",
       core_ml5,
       {{"x", "fp16[2, 3, 4]"}, {"mean", zeros("fp16[3]")}, {"variance", zeros("fp16[3]")}},
       "fp16[2, 3, 4]"},
      {"batch_norm",
       core_ml5,
       {{"x", "fp16[2, 3, 4]"}, {"mean", zeros("fp16[3]")}, {"variance", zeros("fp16[4]")}},
       "variance is fp16[4]"},
      {"instance_norm", core_ml5, {{"x", "fp16[2, 3]"}}, "its rank must be 3 to 4"},
      {"l2_norm", core_ml5, {{"x", "fp16[2, 3]"}}, "its rank must be 3"},
      {"cumsum", core_ml5, {{"x", "fp16[2, 3]"}, {"axis", integer(1)}}, "fp16[2, 3]"},
      {"cumsum", core_ml5, {{"x", "fp16[2, 3]"}, {"axis", integer(2)}}, "axis 2 is outside"},
      {"argsort", core_ml5, {{"x", "fp16[2, 3]"}}, "int32[2, 3]"},
  });
}

// What no honest program holds must end in an Error, whatever rule it meets and whatever it hides
// in: lengths at the edge of int64, absurd constants, lists where one is wanted, nothing at all.
TEST(Operations, HostileOperandsGiveErrorsInEveryRule) {
  constexpr int64_t kHuge = std::numeric_limits<int64_t>::max();
  const std::vector<std::vector<int64_t>> shapes{
      {},           {0},
      {kHuge},      {kHuge, kHuge},
      {-7},         {int64_t{1} << 40, int64_t{1} << 40, 2},
      {0, 0, 0, 0}, std::vector<int64_t>(100, 1),
      {-1, -1, -1}, {1, 2, 3, 4, 5, 6}};
  std::vector<Value> values{ints({}),
                            ints({-1}),
                            ints({0, 0, 0}),
                            ints({2147483647, -2147483647 - 1, 1}),
                            Value::scalar(std::numeric_limits<float>::quiet_NaN()),
                            Value::scalar(std::string("x")),
                            Value::scalar(true),
                            Value{.type = {.kind = ValueType::Kind::list}},
                            Value{.type = {.tensor = {DataType::i32, {kHuge}}}},
                            Value{.type = {.tensor = {DataType::string, {3}}}},
                            Value{.type = {.tensor = {DataType::u1, {64}}}}};
  const int64_t huge_ints[]{kHuge, std::numeric_limits<int64_t>::min()};
  values.push_back(raw_values(DataType::i64, {2}, std::as_bytes(std::span(huge_ints))));
  int rules = 0;
  uint32_t seed = 1;
  const auto next = [&seed](size_t below) {
    seed = seed * 1664525u + 1013904223u;
    return static_cast<size_t>(seed >> 8) % below;
  };
  for (const Opset opset : {core_ml5, core_ml6, core_ml7, core_ml8, core_ml9}) {
    for (const std::string_view type : {"relu",
                                        "gelu",
                                        "prelu",
                                        "softplus_parametric",
                                        "clip",
                                        "cast",
                                        "add",
                                        "less",
                                        "select",
                                        "conv",
                                        "linear",
                                        "matmul",
                                        "einsum",
                                        "avg_pool",
                                        "max_pool",
                                        "scaled_dot_product_attention",
                                        "reduce_sum",
                                        "reduce_argmax",
                                        "softmax",
                                        "layer_norm",
                                        "instance_norm",
                                        "batch_norm",
                                        "l2_norm",
                                        "cumsum",
                                        "argsort",
                                        "reshape",
                                        "transpose",
                                        "expand_dims",
                                        "squeeze",
                                        "concat",
                                        "split",
                                        "stack",
                                        "pad",
                                        "tile",
                                        "flatten2d",
                                        "identity",
                                        "shape",
                                        "slice_by_index",
                                        "slice_by_size",
                                        "slice_update",
                                        "read_state",
                                        "write_state",
                                        "gather",
                                        "gather_along_axis",
                                        "gather_nd",
                                        "fill",
                                        "fill_like",
                                        "range_1d",
                                        "one_hot",
                                        "band_part",
                                        "const",
                                        "constexpr_affine_dequantize",
                                        "constexpr_lut_to_dense",
                                        "constexpr_sparse_to_dense",
                                        "constexpr_cast",
                                        "constexpr_blockwise_shift_scale",
                                        "quantize",
                                        "dequantize"}) {
      const OperationSpec* spec = find_operation(type, opset);
      if (spec == nullptr) continue;
      ++rules;
      for (int round = 0; round < 200; ++round) {
        Operands operands;
        for (const ParameterSpec& parameter : spec->parameters) {
          for (size_t count = next(4) == 0 ? next(3) : 1; count > 0; --count) {
            Operand operand{
                .type = {.tensor = {static_cast<DataType>(next(22)), shapes[next(shapes.size())]}}};
            if (next(6) == 0) operand.type.kind = static_cast<ValueType::Kind>(next(5));
            if (next(2) == 0) {
              operand.constant = &values[next(values.size())];
              if (next(2) == 0) operand.type = operand.constant->type;
              operand.fixed = true;
            }
            operands.add(parameter.name, operand);
          }
        }
        (void)spec->infer(operands);  // the bare rule too
        const auto types = infer_types(*spec, operands);
        if (!types.ok()) {
          EXPECT_EQ(types.error().code, ErrorCode::corrupt);
          EXPECT_FALSE(types.error().message.empty());
        }
      }
    }
  }
  EXPECT_GT(rules, 250);
}

TEST(Operations, TheVersionInForceIsTheOpsets) {
  EXPECT_EQ(find_operation("relu", core_ml5)->first, core_ml5);
  EXPECT_EQ(find_operation("reshape", core_ml6)->first, core_ml5);
  EXPECT_EQ(find_operation("reshape", core_ml9)->first, core_ml7);
  EXPECT_EQ(find_operation("constexpr_lut_to_dense", core_ml5), nullptr);
  EXPECT_TRUE(find_operation("constexpr_lut_to_dense", core_ml7)->attributes);
  EXPECT_FALSE(find_operation("constexpr_lut_to_dense", core_ml8)->attributes);
  EXPECT_EQ(find_operation("no_such_thing", core_ml9), nullptr);
  EXPECT_EQ(find_operation("lstm", core_ml5)->infer, nullptr);
  const auto types = infer_types(*find_operation("lstm", core_ml5), Operands());
  EXPECT_EQ(types.error().code, ErrorCode::unsupported);
}

TEST(Operations, EveryParameterMeansThoseWithADefaultToo) {
  const OperationSpec& conv = *find_operation("conv", core_ml7);
  const Value weight = zeros("fp16[8, 4, 3]");
  Operands operands;
  operands.add("x", {.type = parsed("fp16[1, 4, 9]")});
  operands.add("weight", {.type = weight.type, .constant = &weight, .fixed = true});
  EXPECT_TRUE(infer_types(conv, operands).ok());
  const auto strict = infer_types(conv, operands, true);
  ASSERT_FALSE(strict.ok());
  EXPECT_NE(strict.error().message.find("parameter strides is missing"), std::string::npos);
  const Value one = ints({1}), none = ints({0, 0}), valid = text("valid"), groups = integer(1);
  for (const auto& [name, value] :
       std::initializer_list<std::pair<const char*, const Value*>>{{"strides", &one},
                                                                   {"dilations", &one},
                                                                   {"pad", &none},
                                                                   {"pad_type", &valid},
                                                                   {"groups", &groups}}) {
    operands.add(name, {.type = value->type, .constant = value, .fixed = true});
  }
  EXPECT_TRUE(infer_types(conv, operands, true).ok()) << "a bias may be none";
}

TEST(Names, IdentifiersAndSanitised) {
  for (const std::string_view good : {"a", "_", "A_9", "x@0", "main"}) {
    EXPECT_TRUE(is_identifier(good)) << good;
    EXPECT_EQ(sanitised(good), good);
  }
  for (const std::string_view bad :
       {"", "9a", "@a", "a.b", "a b", "true", "tensor", "state", "fp16", "na\xc3\xafve"}) {
    EXPECT_FALSE(is_identifier(bad)) << bad;
    EXPECT_TRUE(is_identifier(sanitised(bad))) << bad << " -> " << sanitised(bad);
  }
  EXPECT_EQ(sanitised("encoder.layer.0/output"), "encoder_layer_0_output");
}

}  // namespace
}  // namespace impetus::mil

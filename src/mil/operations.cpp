#include "mil/operations.h"

#include <algorithm>
#include <array>

#include "mil/infer.h"

namespace impetus::mil {
namespace {

constexpr TypeSet set(auto... types) {
  return ((TypeSet{1} << static_cast<unsigned>(types)) | ...);
}

using enum DataType;
constexpr TypeSet kFloat = set(f16, f32);
constexpr TypeSet kNumber = set(f16, f32, i32);
constexpr TypeSet kPlain = set(f16, f32, i32, boolean);
// From CoreML7 on many operations move small integers as well.
constexpr TypeSet kPlain7 = kPlain | set(i8, u8, i16, u16);
constexpr TypeSet kNumber7 = kNumber | set(i8, u8, i16, u16);
constexpr TypeSet kIndex6 = set(i32, i16, u16);
constexpr TypeSet kIndex7 = kIndex6 | set(i8, u8);
constexpr TypeSet kExtent7 = set(i8, i16, i32);  // of begins, ends and shapes
constexpr TypeSet kInt = set(i32);
constexpr TypeSet kBool = set(boolean);
constexpr TypeSet kText = set(string);
constexpr TypeSet kByte = set(i8, u8);
constexpr TypeSet kPalette = set(i8, u8, f16, f32);
constexpr TypeSet kBlockwise = set(i4, u4, i8, u8, f16, f32);
constexpr TypeSet kSmallUnsigned = set(u1, u2, u3, u4, u6, u8);

// A value that may be computed while the program runs; `fixed`: one that may not.
constexpr ParameterSpec value(std::string_view name, TypeSet types, char same = 0) {
  return {.name = name, .types = types, .same = same};
}
constexpr ParameterSpec fixed(std::string_view name, TypeSet types, char same = 0) {
  return {.name = name, .constant = true, .types = types, .same = same};
}
// A constant for which coremltools' Python has a default.
constexpr ParameterSpec preset(std::string_view name, TypeSet types, char same = 0) {
  return {.name = name, .optional = true, .constant = true, .types = types, .same = same};
}
// One that may be none at all.
constexpr ParameterSpec perhaps(std::string_view name, TypeSet types, char same = 0,
                                bool constant = true) {
  return {.name = name,
          .optional = true,
          .constant = constant,
          .omittable = true,
          .types = types,
          .same = same};
}
constexpr ParameterSpec list(std::string_view name, TypeSet types = 0, char same = 0) {
  return {.name = name, .many = true, .types = types, .same = same};
}

constexpr std::array kFloatX{value("x", kFloat, 'T')};
constexpr std::array kNumberX{value("x", kNumber, 'T')};
constexpr std::array kBoolX{value("x", kBool)};
constexpr std::array kPlainX{value("x", kPlain)};
constexpr std::array kAnyX{value("x", 0)};
constexpr std::array kXY{value("x", kNumber, 'T'), value("y", kNumber, 'T')};
constexpr std::array kLogicalXY{value("x", kBool), value("y", kBool)};
constexpr std::array kAlpha5{value("x", kFloat, 'T'), fixed("alpha", kFloat, 'T')};
constexpr std::array kAlpha7{value("x", kFloat), fixed("alpha", kFloat)};
constexpr std::array kAlphaBeta5{value("x", kFloat, 'T'), fixed("alpha", kFloat, 'T'),
                                 fixed("beta", kFloat, 'T')};
constexpr std::array kAlphaBeta7{value("x", kFloat), fixed("alpha", kFloat, 'U'),
                                 fixed("beta", kFloat, 'U')};
constexpr std::array kThreshold{value("x", kNumber, 'T'), fixed("alpha", kNumber, 'T')};
constexpr std::array kEpsilon5{value("x", kFloat, 'T'), preset("epsilon", kFloat, 'T')};
constexpr std::array kEpsilon7{value("x", kFloat), preset("epsilon", kFloat)};
constexpr std::array kGelu{value("x", kFloat), preset("mode", kText)};
constexpr std::array kCast5{value("x", kPlain), fixed("dtype", kText)};
constexpr std::array kCast7{value("x", kPlain7), fixed("dtype", kText)};
constexpr std::array kSelect{value("cond", kBool), value("a", kPlain, 'T'),
                             value("b", kPlain, 'T')};

constexpr std::array kConv5{value("x", kFloat, 'T'),      value("weight", kFloat, 'T'),
                            perhaps("bias", kFloat, 'T'), preset("strides", kInt),
                            preset("pad_type", kText),    preset("pad", kInt),
                            preset("dilations", kInt),    preset("groups", kInt)};
constexpr std::array kConv7{
    value("x", kFloat),        value("weight", kFloat, 'U'), perhaps("bias", kFloat, 'U', false),
    preset("strides", kInt),   preset("pad_type", kText),    preset("pad", kInt),
    preset("dilations", kInt), preset("groups", kInt)};
constexpr std::array kLinear5{value("x", kNumber, 'T'), fixed("weight", kNumber, 'T'),
                              preset("bias", kNumber, 'T')};
constexpr std::array kLinear7{value("x", kNumber), fixed("weight", kNumber, 'U'),
                              preset("bias", kNumber, 'U')};
constexpr std::array kMatmul5{value("x", kNumber, 'T'), value("y", kNumber, 'T'),
                              preset("transpose_x", kBool), preset("transpose_y", kBool)};
constexpr std::array kMatmul7{value("x", kNumber), value("y", kNumber),
                              preset("transpose_x", kBool), preset("transpose_y", kBool)};
constexpr std::array kEinsum{list("values", kNumber, 'T'), fixed("equation", kText)};
constexpr std::array kMaxPool{value("x", kFloat),      fixed("kernel_sizes", kInt),
                              preset("strides", kInt), fixed("pad_type", kText),
                              preset("pad", kInt),     preset("ceil_mode", kBool)};
constexpr std::array kAvgPool{value("x", kFloat),
                              fixed("kernel_sizes", kInt),
                              preset("strides", kInt),
                              fixed("pad_type", kText),
                              preset("pad", kInt),
                              preset("ceil_mode", kBool),
                              preset("exclude_padding_from_average", kBool)};
constexpr std::array kAttention{value("query", kFloat, 'T'), value("key", kFloat, 'T'),
                                value("value", kFloat, 'T'),
                                perhaps("attn_mask", kFloat | kBool, 0, false)};

constexpr std::array kReduce{value("x", kNumber), preset("axes", kInt), preset("keep_dims", kBool)};
constexpr std::array kReduceArg5{value("x", kNumber), preset("axis", kInt),
                                 preset("keep_dims", kBool)};
constexpr std::array kReduceArg7{value("x", kNumber), preset("axis", kInt),
                                 preset("keep_dims", kBool), preset("output_dtype", kText)};
constexpr std::array kSoftmax{value("x", kFloat), preset("axis", kInt)};
constexpr std::array kLayerNorm5{value("x", kFloat, 'T'), preset("axes", kInt),
                                 perhaps("gamma", kFloat, 'T'), perhaps("beta", kFloat, 'T'),
                                 preset("epsilon", kFloat, 'T')};
constexpr std::array kLayerNorm7{value("x", kFloat), preset("axes", kInt),
                                 perhaps("gamma", kFloat, 'U'), perhaps("beta", kFloat, 'U'),
                                 preset("epsilon", kFloat, 'U')};
constexpr std::array kInstanceNorm5{value("x", kFloat, 'T'), perhaps("gamma", kFloat, 'T'),
                                    perhaps("beta", kFloat, 'T'), preset("epsilon", kFloat, 'T')};
constexpr std::array kInstanceNorm7{value("x", kFloat), perhaps("gamma", kFloat, 'U'),
                                    perhaps("beta", kFloat, 'U'), preset("epsilon", kFloat, 'U')};
constexpr std::array kBatchNorm5{value("x", kFloat, 'T'),        fixed("mean", kFloat, 'T'),
                                 fixed("variance", kFloat, 'T'), perhaps("gamma", kFloat, 'T'),
                                 perhaps("beta", kFloat, 'T'),   preset("epsilon", kFloat, 'T')};
constexpr std::array kBatchNorm7{value("x", kFloat),
                                 fixed("mean", kFloat, 'U'),
                                 fixed("variance", kFloat, 'U'),
                                 perhaps("gamma", kFloat, 'U'),
                                 perhaps("beta", kFloat, 'U'),
                                 preset("epsilon", kFloat, 'U')};
constexpr std::array kCumsum{value("x", kNumber), preset("axis", kInt), preset("exclusive", kBool),
                             preset("reverse", kBool)};
constexpr std::array kArgsort{value("x", kNumber), preset("axis", kInt),
                              preset("ascending", kBool)};

constexpr std::array kReshape5{value("x", kPlain), value("shape", kInt)};
constexpr std::array kReshape7{value("x", kPlain7), value("shape", kExtent7)};
constexpr std::array kTranspose5{value("x", kPlain), fixed("perm", kInt)};
constexpr std::array kTranspose7{value("x", kPlain7), fixed("perm", kInt)};
constexpr std::array kExpand5{value("x", kPlain), fixed("axes", kInt)};
constexpr std::array kExpand7{value("x", kPlain7), fixed("axes", kInt)};
constexpr std::array kSqueeze5{value("x", kPlain), preset("axes", kInt)};
constexpr std::array kSqueeze7{value("x", kPlain7), preset("axes", kInt)};
constexpr std::array kConcat{list("values", kPlain7, 'T'), fixed("axis", kInt),
                             preset("interleave", kBool)};
constexpr std::array kSplit{value("x", kPlain), perhaps("num_splits", kInt),
                            perhaps("split_sizes", kInt), fixed("axis", kInt)};
constexpr std::array kStack{list("values", kPlain7, 'T'), fixed("axis", kInt)};
constexpr std::array kPad{value("x", kFloat, 'T'), value("pad", kInt), preset("mode", kText),
                          preset("constant_val", kFloat, 'T')};
constexpr std::array kTile{value("x", kPlain), value("reps", kInt)};
constexpr std::array kFlatten{value("x", kPlain), preset("axis", kInt)};

constexpr std::array kSliceIndex5{value("x", kPlain),           value("begin", kInt),
                                  value("end", kInt),           preset("stride", kInt),
                                  preset("begin_mask", kBool),  preset("end_mask", kBool),
                                  preset("squeeze_mask", kBool)};
constexpr std::array kSliceIndex7{value("x", kPlain7),          value("begin", kExtent7, 'U'),
                                  value("end", kExtent7, 'U'),  preset("stride", kExtent7, 'U'),
                                  preset("begin_mask", kBool),  preset("end_mask", kBool),
                                  preset("squeeze_mask", kBool)};
constexpr std::array kSliceSize5{value("x", kPlain), value("begin", kInt), value("size", kInt)};
constexpr std::array kSliceSize7{value("x", kPlain7), value("begin", kExtent7, 'U'),
                                 value("size", kExtent7, 'U')};
constexpr std::array kSliceUpdate{value("x", kPlain7, 'T'),        value("update", kPlain7, 'T'),
                                  value("begin", kExtent7, 'U'),   value("end", kExtent7, 'U'),
                                  preset("stride", kExtent7, 'U'), preset("begin_mask", kBool),
                                  preset("end_mask", kBool),       preset("squeeze_mask", kBool)};
constexpr std::array kReadState{value("input", 0)};
constexpr std::array kWriteState{value("input", 0), value("data", kPlain7)};

constexpr std::array kGather5{value("x", kNumber), value("indices", kInt), preset("axis", kInt)};
constexpr std::array kGather6{value("x", kNumber), value("indices", kIndex6), preset("axis", kInt),
                              preset("batch_dims", kInt)};
constexpr std::array kGather7{value("x", kNumber7), value("indices", kIndex7), preset("axis", kInt),
                              preset("batch_dims", kInt), preset("validate_indices", kBool)};
constexpr std::array kGatherAlong6{value("x", kNumber), value("indices", kIndex6),
                                   preset("axis", kInt)};
constexpr std::array kGatherAlong7{value("x", kNumber7), value("indices", kIndex7),
                                   preset("axis", kInt), preset("validate_indices", kBool)};
constexpr std::array kGatherNd5{value("x", kNumber), value("indices", kInt)};
constexpr std::array kGatherNd6{value("x", kNumber), value("indices", kIndex6),
                                preset("batch_dims", kInt)};
constexpr std::array kGatherNd7{value("x", kNumber7), value("indices", kIndex7),
                                preset("batch_dims", kInt), preset("validate_indices", kBool)};
constexpr std::array kFill{value("shape", kInt), preset("value", kPlain)};
constexpr std::array kFillLike{value("ref_tensor", kPlain), preset("value", kPlain)};
constexpr std::array kRange{value("end", kNumber, 'T'), value("start", kNumber, 'T'),
                            value("step", kNumber, 'T')};
constexpr std::array kOneHot{value("indices", kInt), value("one_hot_vector_size", kInt),
                             preset("axis", kInt), preset("on_value", kPlain, 'T'),
                             preset("off_value", kPlain, 'T')};
constexpr std::array kBand{value("x", kPlain), preset("lower", kInt), preset("upper", kInt)};

constexpr std::array kConst{fixed("val", 0)};
constexpr std::array kAffine{fixed("quantized_data", kByte), fixed("zero_point", kByte | set(f32)),
                             fixed("scale", kFloat), fixed("axis", kInt)};
constexpr std::array kLut6{fixed("indices", set(u8)), fixed("lut", kPalette),
                           fixed("shape", set(u32))};
constexpr std::array kLut8{fixed("indices", kSmallUnsigned), fixed("lut", kPalette),
                           perhaps("vector_axis", kInt)};
constexpr std::array kSparse6{fixed("nonzero_data", kPalette), fixed("mask", set(u8)),
                              fixed("shape", set(u32))};
constexpr std::array kSparse8{fixed("nonzero_data", kBlockwise), fixed("mask", set(u1))};
constexpr std::array kConstexprCast{fixed("source_val", set(f16)), fixed("output_dtype", kText)};
constexpr std::array kBlockwiseScale{fixed("data", kBlockwise), fixed("scale", kFloat),
                                     perhaps("offset", kBlockwise)};
constexpr std::array kQuantize{value("input", kFloat, 'S'), perhaps("zero_point", kByte),
                               fixed("scale", kFloat, 'S'), perhaps("axis", kInt),
                               fixed("output_dtype", kText)};
constexpr std::array kDequantize{value("input", kByte, 'S'), perhaps("zero_point", kByte, 'S'),
                                 fixed("scale", kFloat), perhaps("axis", kInt)};

using enum Opset;
using Rule = Result<std::vector<ValueType>> (*)(const Operands&);

constexpr OperationSpec row(std::string_view type, std::span<const ParameterSpec> parameters,
                            Rule rule, Opset first = core_ml5) {
  return {.type = type, .first = first, .parameters = parameters, .infer = rule};
}
// CoreML6's constexpr_*.
constexpr OperationSpec folded(std::string_view type, std::span<const ParameterSpec> parameters,
                               Rule rule) {
  return {
      .type = type, .first = core_ml6, .parameters = parameters, .infer = rule, .attributes = true};
}
constexpr OperationSpec named(std::string_view type, Opset first = core_ml5) {
  return {.type = type, .first = first, .parameters = {}};
}

// Of rows with one type the last that an opset has is in force in it: older ones stand first.
constexpr auto kTable = std::to_array<OperationSpec>({
    {.type = "const", .parameters = kConst, .infer = infer::constant, .attributes = true},

    // Of one tensor.
    row("relu", kFloatX, infer::same_as_x),
    row("relu6", kFloatX, infer::same_as_x),
    row("sigmoid", kFloatX, infer::same_as_x),
    row("silu", kFloatX, infer::same_as_x),
    row("softplus", kFloatX, infer::same_as_x),
    row("softsign", kFloatX, infer::same_as_x),
    row("tanh", kFloatX, infer::same_as_x),
    row("erf", kFloatX, infer::same_as_x),
    row("exp", kFloatX, infer::same_as_x),
    row("exp2", kNumberX, infer::same_as_x),
    row("sqrt", kFloatX, infer::same_as_x),
    row("square", kNumberX, infer::same_as_x),
    row("abs", kNumberX, infer::same_as_x),
    row("sign", kNumberX, infer::same_as_x),
    row("ceil", kFloatX, infer::same_as_x),
    row("floor", kFloatX, infer::same_as_x),
    row("round", kFloatX, infer::same_as_x),
    row("sin", kFloatX, infer::same_as_x),
    row("cos", kFloatX, infer::same_as_x),
    row("tan", kFloatX, infer::same_as_x),
    row("asin", kFloatX, infer::same_as_x),
    row("acos", kFloatX, infer::same_as_x),
    row("atan", kFloatX, infer::same_as_x),
    row("sinh", kFloatX, infer::same_as_x),
    row("cosh", kFloatX, infer::same_as_x),
    row("atanh", kFloatX, infer::same_as_x),
    row("logical_not", kBoolX, infer::same_as_x),
    row("gelu", kGelu, infer::gelu),
    row("elu", kAlpha5, infer::same_as_x),
    row("elu", kAlpha7, infer::same_as_x, core_ml7),
    row("leaky_relu", kAlpha5, infer::same_as_x),
    row("leaky_relu", kAlpha7, infer::same_as_x, core_ml7),
    row("thresholded_relu", kAlpha5, infer::same_as_x),
    row("thresholded_relu", kAlpha7, infer::same_as_x, core_ml7),
    row("prelu", kAlpha5, infer::prelu),
    row("prelu", kAlpha7, infer::prelu, core_ml7),
    row("sigmoid_hard", kAlphaBeta5, infer::same_as_x),
    row("sigmoid_hard", kAlphaBeta7, infer::same_as_x, core_ml7),
    row("clamped_relu", kAlphaBeta5, infer::same_as_x),
    row("clamped_relu", kAlphaBeta7, infer::same_as_x, core_ml7),
    row("linear_activation", kAlphaBeta5, infer::same_as_x),
    row("linear_activation", kAlphaBeta7, infer::same_as_x, core_ml7),
    row("scaled_tanh", kAlphaBeta5, infer::same_as_x),
    row("scaled_tanh", kAlphaBeta7, infer::same_as_x, core_ml7),
    row("softplus_parametric", kAlphaBeta5, infer::softplus_parametric),
    row("softplus_parametric", kAlphaBeta7, infer::softplus_parametric, core_ml7),
    row("clip", kAlphaBeta5, infer::same_as_x),
    row("clip", kAlphaBeta5, infer::clip7, core_ml7),
    row("threshold", kThreshold, infer::same_as_x),
    row("log", kEpsilon5, infer::same_as_x),
    row("log", kEpsilon7, infer::same_as_x, core_ml7),
    row("rsqrt", kEpsilon5, infer::same_as_x),
    row("rsqrt", kEpsilon7, infer::same_as_x, core_ml7),
    row("inverse", kEpsilon5, infer::same_as_x),
    row("inverse", kEpsilon7, infer::same_as_x, core_ml7),
    row("cast", kCast5, infer::cast5),
    row("cast", kCast7, infer::cast7, core_ml7),
    row("identity", kAnyX, infer::identity),

    // Of two or three, broadcast.
    row("add", kXY, infer::arithmetic),
    row("sub", kXY, infer::arithmetic),
    row("mul", kXY, infer::arithmetic),
    row("real_div", kXY, infer::arithmetic),
    row("floor_div", kXY, infer::arithmetic),
    row("mod", kXY, infer::arithmetic),
    row("pow", kXY, infer::arithmetic),
    row("maximum", kXY, infer::arithmetic),
    row("minimum", kXY, infer::arithmetic),
    row("equal", kXY, infer::comparison),
    row("not_equal", kXY, infer::comparison),
    row("less", kXY, infer::comparison),
    row("less_equal", kXY, infer::comparison),
    row("greater", kXY, infer::comparison),
    row("greater_equal", kXY, infer::comparison),
    row("logical_and", kLogicalXY, infer::comparison),
    row("logical_or", kLogicalXY, infer::comparison),
    row("logical_xor", kLogicalXY, infer::comparison),
    row("select", kSelect, infer::select),

    // Products, windows.
    row("conv", kConv5, infer::conv5),
    row("conv", kConv5, infer::conv6, core_ml6),
    row("conv", kConv7, infer::conv6, core_ml7),
    row("linear", kLinear5, infer::linear),
    row("linear", kLinear7, infer::linear, core_ml7),
    row("matmul", kMatmul5, infer::matmul5),
    row("matmul", kMatmul7, infer::matmul7, core_ml7),
    row("einsum", kEinsum, infer::einsum),
    row("avg_pool", kAvgPool, infer::pool5),
    row("avg_pool", kAvgPool, infer::pool6, core_ml6),
    row("max_pool", kMaxPool, infer::pool5),
    row("max_pool", kMaxPool, infer::pool6, core_ml6),
    row("l2_pool", kMaxPool, infer::pool5),
    row("l2_pool", kMaxPool, infer::pool6, core_ml6),
    row("scaled_dot_product_attention", kAttention, infer::attention, core_ml8),

    // Along axes.
    row("reduce_mean", kReduce, infer::reduce),
    row("reduce_sum", kReduce, infer::reduce),
    row("reduce_max", kReduce, infer::reduce),
    row("reduce_min", kReduce, infer::reduce),
    row("reduce_prod", kReduce, infer::reduce),
    row("reduce_l1_norm", kReduce, infer::reduce),
    row("reduce_l2_norm", kReduce, infer::reduce),
    row("reduce_sum_square", kReduce, infer::reduce),
    row("reduce_log_sum", kReduce, infer::reduce),
    row("reduce_log_sum_exp", kReduce, infer::reduce),
    row("reduce_argmax", kReduceArg5, infer::reduce_arg),
    row("reduce_argmax", kReduceArg7, infer::reduce_arg, core_ml7),
    row("reduce_argmin", kReduceArg5, infer::reduce_arg),
    row("reduce_argmin", kReduceArg7, infer::reduce_arg, core_ml7),
    row("softmax", kSoftmax, infer::softmax),
    row("layer_norm", kLayerNorm5, infer::layer_norm),
    row("layer_norm", kLayerNorm7, infer::layer_norm, core_ml7),
    row("instance_norm", kInstanceNorm5, infer::instance_norm),
    row("instance_norm", kInstanceNorm7, infer::instance_norm, core_ml7),
    row("batch_norm", kBatchNorm5, infer::batch_norm),
    row("batch_norm", kBatchNorm7, infer::batch_norm, core_ml7),
    row("l2_norm", kEpsilon5, infer::l2_norm),
    row("l2_norm", kEpsilon7, infer::l2_norm, core_ml7),
    row("cumsum", kCumsum, infer::cumsum),
    row("argsort", kArgsort, infer::argsort),

    // Shapes.
    row("reshape", kReshape5, infer::reshape5),
    row("reshape", kReshape7, infer::reshape7, core_ml7),
    row("transpose", kTranspose5, infer::transpose),
    row("transpose", kTranspose7, infer::transpose, core_ml7),
    row("expand_dims", kExpand5, infer::expand_dims),
    row("expand_dims", kExpand7, infer::expand_dims, core_ml7),
    row("squeeze", kSqueeze5, infer::squeeze),
    row("squeeze", kSqueeze7, infer::squeeze, core_ml7),
    row("concat", kConcat, infer::concat),
    row("split", kSplit, infer::split),
    row("stack", kStack, infer::stack),
    row("pad", kPad, infer::pad),
    row("tile", kTile, infer::tile),
    row("flatten2d", kFlatten, infer::flatten2d),
    row("shape", kPlainX, infer::shape),
    row("slice_by_index", kSliceIndex5, infer::slice_by_index),
    row("slice_by_index", kSliceIndex7, infer::slice_by_index, core_ml7),
    row("slice_by_size", kSliceSize5, infer::slice_by_size),
    row("slice_by_size", kSliceSize7, infer::slice_by_size, core_ml7),
    row("slice_update", kSliceUpdate, infer::slice_update, core_ml8),
    row("read_state", kReadState, infer::read_state, core_ml8),
    row("write_state", kWriteState, infer::write_state, core_ml8),

    // Indices, and values out of nothing.
    row("gather", kGather5, infer::gather),
    row("gather", kGather6, infer::gather, core_ml6),
    row("gather", kGather7, infer::gather, core_ml7),
    row("gather_along_axis", kGather5, infer::gather_along_axis),
    row("gather_along_axis", kGatherAlong6, infer::gather_along_axis, core_ml6),
    row("gather_along_axis", kGatherAlong7, infer::gather_along_axis, core_ml7),
    row("gather_nd", kGatherNd5, infer::gather_nd),
    row("gather_nd", kGatherNd6, infer::gather_nd, core_ml6),
    row("gather_nd", kGatherNd7, infer::gather_nd, core_ml7),
    row("fill", kFill, infer::fill),
    row("fill_like", kFillLike, infer::fill_like, core_ml6),
    row("range_1d", kRange, infer::range_1d),
    row("one_hot", kOneHot, infer::one_hot),
    row("band_part", kBand, infer::band_part),

    // Compressed weights, quantised activations.
    folded("constexpr_affine_dequantize", kAffine, infer::affine_dequantize),
    folded("constexpr_lut_to_dense", kLut6, infer::lut_to_dense6),
    row("constexpr_lut_to_dense", kLut8, infer::lut_to_dense8, core_ml8),
    folded("constexpr_sparse_to_dense", kSparse6, infer::sparse_to_dense6),
    row("constexpr_sparse_to_dense", kSparse8, infer::sparse_to_dense8, core_ml8),
    folded("constexpr_cast", kConstexprCast, infer::constexpr_cast),
    row("constexpr_cast", kConstexprCast, infer::constexpr_cast, core_ml8),
    row("constexpr_blockwise_shift_scale", kBlockwiseScale, infer::blockwise_shift_scale, core_ml8),
    row("quantize", kQuantize, infer::quantize, core_ml7),
    row("dequantize", kDequantize, infer::dequantize, core_ml7),

    // By name only.
    named("cond"),
    named("while_loop"),
    named("lstm"),
    named("gru"),
    named("rnn"),
    named("random_bernoulli"),
    named("random_categorical"),
    named("random_normal"),
    named("random_uniform"),
    named("topk"),
    named("non_zero"),
    named("non_maximum_suppression"),
    named("scatter"),
    named("scatter_along_axis"),
    named("scatter_nd"),
    named("conv_transpose"),
    named("conv_quantized"),
    named("local_response_norm"),
    named("make_list"),
    named("list_length"),
    named("list_read"),
    named("list_write"),
    named("list_gather"),
    named("list_scatter"),
    named("classify"),
    named("reverse"),
    named("reverse_sequence"),
    named("sliding_windows"),
    named("depth_to_space"),
    named("space_to_depth"),
    named("space_to_batch"),
    named("batch_to_space"),
    named("pixel_shuffle"),
    named("pixel_unshuffle", core_ml6),
    named("reshape_like", core_ml6),
    named("upsample_nearest_neighbor"),
    named("upsample_bilinear"),
    named("resize_nearest_neighbor"),
    named("resize_bilinear"),
    named("resize", core_ml7),
    named("crop"),
    named("crop_resize"),
    named("affine"),
    named("resample"),
    named("constexpr_lut_to_sparse", core_ml8),
    named("constexpr_sparse_blockwise_shift_scale", core_ml8),
});

}  // namespace

std::span<const OperationSpec> operation_table() {
  return kTable;
}

const OperationSpec* find_operation(std::string_view type, Opset opset) {
  const OperationSpec* found = nullptr;
  for (const OperationSpec& spec : kTable) {
    if (spec.type == type && spec.first <= opset) found = &spec;
  }
  return found;
}

}  // namespace impetus::mil

// Which operations the engine takes, by type. Sources: the brief's D8 and D9; for what those do not
// name, ANEForge docs/op-catalog.md (https://github.com/sbryngelson/ANEForge).
#include <algorithm>
#include <array>

#include "coreml/rules.h"

namespace impetus::coreml {
namespace {

constexpr std::array<std::string_view, 83> kEngine = {
    // brief D9
    "conv", "linear", "matmul", "einsum", "layer_norm", "instance_norm", "batch_norm", "l2_norm",
    "softmax", "gelu", "silu", "sigmoid", "tanh", "erf", "exp", "rsqrt", "reduce_mean",
    "reduce_sum", "reduce_max", "reduce_l2_norm", "concat", "split", "reshape", "transpose", "pad",
    "select",
    // brief C
    "add", "sub", "mul", "real_div", "expand_dims", "squeeze", "slice_by_index", "slice_update",
    "read_state", "write_state", "coreml_update_state", "scaled_dot_product_attention", "quantize",
    "dequantize",
    // op-catalog
    "abs", "avg_pool", "cast", "ceil", "clamped_relu", "clip", "conv_transpose", "depth_to_space",
    "elu", "exp2", "fill", "fill_like", "flatten2d", "floor", "floor_div", "identity", "inverse",
    "leaky_relu", "linear_activation", "log", "max_pool", "maximum", "minimum", "pixel_shuffle",
    "pixel_unshuffle", "pow", "prelu", "reduce_l1_norm", "reduce_log_sum_exp", "reduce_min",
    "reduce_sum_square", "relu", "relu6", "round", "sigmoid_hard", "sign", "slice_by_size",
    "softplus", "softsign", "space_to_depth", "sqrt", "square", "stack"};
constexpr std::array<std::string_view, 7> kEngineToo = {
    "threshold", "thresholded_relu", "tile", "scaled_tanh", "l2_pool", "atan", "reverse"};

constexpr std::array<std::string_view, 6> kComparisons = {
    "equal", "not_equal", "less", "less_equal", "greater", "greater_equal"};

struct Elsewhere {
  std::string_view type;  // as a beginning where it ends in '*'
  std::string_view mend;
};
constexpr std::string_view kOnHost = "compute it on the host and pass the result in";
constexpr std::string_view kUnroll = "unroll it into convolutions and activations of fixed shapes";
constexpr std::array kElsewhere = {
    Elsewhere{"gather*", "look rows up on the host and pass them in; for fixed indices use slices"},
    Elsewhere{"scatter*", "use slice_update, concat or a select with a constant mask"},
    Elsewhere{"cumsum", "multiply with a constant triangular matrix, or do it on the host"},
    Elsewhere{"topk", "give the scores out and choose on the host"},
    Elsewhere{"argsort", "give the scores out and sort on the host"},
    Elsewhere{"reduce_argmax", "give the scores out and choose on the host"},
    Elsewhere{"reduce_argmin", "give the scores out and choose on the host"},
    Elsewhere{"reduce_prod", "sum logarithms, or multiply slices"},
    Elsewhere{"one_hot", kOnHost},
    Elsewhere{"non_zero", kOnHost},
    Elsewhere{"shape", "fix the shapes: then it is a constant"},
    Elsewhere{"band_part", "add a constant mask"},
    Elsewhere{"logical_*", "compute masks in fp16: mul for and, maximum for or, 1 - x for not"},
    Elsewhere{"mod", "compute x - y * floor(x / y)"},
    Elsewhere{"cond", "write one function a branch, or compute both and select"},
    Elsewhere{"while_loop", "unroll it, or loop on the host"},
    Elsewhere{"lstm", kUnroll},
    Elsewhere{"gru", kUnroll},
    Elsewhere{"rnn", kUnroll},
    Elsewhere{"random*", "draw on the host and pass the numbers in"},
    Elsewhere{"acos", kOnHost},
    Elsewhere{"asin", kOnHost},
    Elsewhere{"acosh", kOnHost},
    Elsewhere{"asinh", kOnHost},
    Elsewhere{"atanh", kOnHost},
    Elsewhere{"sinh", "compute (exp(x) - exp(-x)) / 2"},
    Elsewhere{"cosh", "compute (exp(x) + exp(-x)) / 2"},
    Elsewhere{"tan", "compute sin / cos (M3 and later), or on the host"},
    Elsewhere{"list_*", "use tensors of fixed shapes"},
    Elsewhere{"make_list", "use tensors of fixed shapes"},
    Elsewhere{"tensor_array*", "use tensors of fixed shapes"},
    Elsewhere{"range_1d", "make it a constant"},
    Elsewhere{"reverse_sequence", kOnHost},
    Elsewhere{"sliding_windows", "use slices and concat"},
};

template <typename Table>
bool has(const Table& table, std::string_view type) {
  return std::ranges::find(table, type) != table.end();
}

}  // namespace

TypeVerdict verdict_on(std::string_view type) {
  using Kind = TypeVerdict::Kind;
  if (has(kEngine, type) || has(kEngineToo, type)) return {Kind::engine, {}};
  if (has(kComparisons, type)) return {Kind::comparison, {}};
  if (type == "sin" || type == "cos") return {Kind::sine, {}};
  for (const Elsewhere& row : kElsewhere) {
    const bool prefix = row.type.ends_with('*');
    if (prefix ? type.starts_with(row.type.substr(0, row.type.size() - 1)) : type == row.type) {
      return {Kind::elsewhere, row.mend};
    }
  }
  return {};
}

}  // namespace impetus::coreml

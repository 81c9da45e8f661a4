// Writes one function of a program, an operation a call. Every parameter is written out, names are
// made valid and unique, results' types come from the table's rules (operations.h): what finish()
// gives passes validate(..., every_parameter).
//
// Errors stick: the first contradiction (shapes, types, an operation that the opset lacks) is kept,
// later calls do nothing and give Vars that are not ok(), and finish() returns the error, naming
// the operation. So a graph is written without a check a line.
//
// Constants are written as coremltools writes them: `const` operations that others name, equal
// small ones once; those of CoreML6's constexpr_* as attributes, of CoreML8's on the spot.
// The same calls give the same function. One thread at a time.
//
// Names: the last argument of each method; empty: the operation's type. Unless said otherwise a
// result has x's element type. Shapes are written [N, C, H, W]; rank r.
#pragma once

#include <cstdint>
#include <deque>
#include <initializer_list>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "base/result.h"
#include "mil/operations.h"
#include "mil/program.h"

namespace impetus::mil {

// Constants out of numbers. REQUIRES as many as the shape has elements.
Value f16_values(std::span<const float> values, std::vector<int64_t> shape);  // rounded
Value f32_values(std::span<const float> values, std::vector<int64_t> shape);
// Any element type, in the layout of Bytes; copied.
Value raw_values(DataType dtype, std::vector<int64_t> shape, std::span<const std::byte> bytes);

// What a function's inputs, states and outputs are, for a model's description. Where an input's
// shape is open, its default and what it ranges over are for the caller to fill in; an output's is
// left empty.
Result<FunctionDescription> describe(std::string name, const Function& function);

class FunctionBuilder {
 public:
  // A value of the function. Belongs to the builder that gave it.
  class Var {
   public:
    bool ok() const { return id_ >= 0; }

   private:
    friend class FunctionBuilder;
    int id_ = -1;
  };
  using Vars = std::vector<Var>;
  using Ints = std::vector<int32_t>;
  // What a parameter is bound to: Values become constants.
  using Input = std::variant<Var, Vars, Value>;
  using Inputs = std::vector<std::pair<std::string, Input>>;

  explicit FunctionBuilder(Opset opset) : opset_(opset) {}

  Opset opset() const { return opset_; }
  const std::optional<Error>& error() const { return error_; }
  // Of a tensor or state; a scalar fp32 where `var` is not ok.
  const TensorType& type(Var var) const;

  Var input(std::string_view name, TensorType type);  // the function's, as Core ML names it
  Var state(std::string_view name, TensorType type);  // CoreML8
  // `name` is what Core ML calls it. An input is copied first.
  void output(Var var, std::string_view name);

  Var constant(Value value, std::string_view name = {});  // kept apart, whatever equals it
  Var number(float value, DataType type);                 // a scalar fp16 or fp32

  // Any operation of the table with one result; with several; with none.
  Var op(std::string_view type, Inputs inputs, std::string_view name = {});
  Vars ops(std::string_view type, Inputs inputs, std::string_view name = {});

  // --- Products.
  struct Window {
    Ints strides = {}, dilations = {};  // empty: ones
    std::string pad_type = "valid";     // custom: `pad`
    Ints pad = {};                      // before and after each spatial dimension; empty: zeros
    int32_t groups = 1;
  };
  // x [N, C, spatial ...], weight [O, C / groups, kernel ...], bias [O] -> [N, O, ...].
  Var conv(Var x, Var weight, std::optional<Var> bias, const Window& window,
           std::string_view name = {});
  // With a kernel of ones, stride 1: a linear layer in the Neural Engine's form.
  Var conv(Var x, Var weight, std::optional<Var> bias = {}, std::string_view name = {}) {
    return conv(x, weight, bias, Window(), name);
  }
  // x [..., I], weight [O, I], bias [O] (none: zeros) -> [..., O].
  Var linear(Var x, Var weight, std::optional<Var> bias = {}, std::string_view name = {});
  // x [..., n, k], y [..., k, m] -> [..., n, m]; transposed: their last two dimensions swapped.
  Var matmul(Var x, Var y, bool transpose_x = false, bool transpose_y = false,
             std::string_view name = {});
  // The two forms that coremltools and Core ML know, up to letters and the operands' order (they
  // are exchanged where that makes one of them): "nchw,nwhu->nchu" and "chw,whr->chr".
  Var einsum(std::string_view equation, Var x, Var y, std::string_view name = {});

  // --- Of one tensor, its shape kept.
  Var relu(Var x, std::string_view name = {}) { return op("relu", {{"x", x}}, name); }
  Var silu(Var x, std::string_view name = {}) { return op("silu", {{"x", x}}, name); }
  Var tanh(Var x, std::string_view name = {}) { return op("tanh", {{"x", x}}, name); }
  Var sigmoid(Var x, std::string_view name = {}) { return op("sigmoid", {{"x", x}}, name); }
  Var exp(Var x, std::string_view name = {}) { return op("exp", {{"x", x}}, name); }
  Var identity(Var x, std::string_view name = {}) { return op("identity", {{"x", x}}, name); }
  // mode: EXACT, TANH_APPROXIMATION, SIGMOID_APPROXIMATION.
  Var gelu(Var x, std::string_view mode = "EXACT", std::string_view name = {});
  Var rsqrt(Var x, float epsilon, std::string_view name = {});  // 1 / sqrt(x + epsilon)
  Var clip(Var x, float low, float high, std::string_view name = {});
  Var cast(Var x, DataType type, std::string_view name = {});
  Var softmax(Var x, int32_t axis, std::string_view name = {});
  // gamma and beta: the lengths of `axes`, in the dimensions' order. Biased variance.
  Var layer_norm(Var x, Ints axes, std::optional<Var> gamma, std::optional<Var> beta, float epsilon,
                 std::string_view name = {});

  // --- Of two, broadcast, of one element type.
  Var add(Var x, Var y, std::string_view name = {}) { return binary("add", x, y, name); }
  Var sub(Var x, Var y, std::string_view name = {}) { return binary("sub", x, y, name); }
  Var mul(Var x, Var y, std::string_view name = {}) { return binary("mul", x, y, name); }
  Var real_div(Var x, Var y, std::string_view name = {}) { return binary("real_div", x, y, name); }
  Var maximum(Var x, Var y, std::string_view name = {}) { return binary("maximum", x, y, name); }
  Var minimum(Var x, Var y, std::string_view name = {}) { return binary("minimum", x, y, name); }
  Var add(Var x, float y, std::string_view name = {});
  Var mul(Var x, float y, std::string_view name = {});

  // --- Along axes. `kind`: "mean", "sum", "max", "min", "l2_norm", ... of reduce_*.
  Var reduce(std::string_view kind, Var x, Ints axes, bool keep_dims = true,
             std::string_view name = {});

  // --- Shapes.
  Var reshape(Var x, Ints shape, std::string_view name = {});  // -1: what is left
  Var transpose(Var x, Ints perm, std::string_view name = {});
  Var expand_dims(Var x, Ints axes, std::string_view name = {});
  Var squeeze(Var x, Ints axes, std::string_view name = {});  // each must be 1 long
  Var concat(Vars values, int32_t axis, std::string_view name = {});
  Vars split(Var x, Ints sizes, int32_t axis, std::string_view name = {});
  // x[begin:end] in each dimension, steps of one; an `end` of 0 is the dimension's end.
  Var slice(Var x, Ints begin, Ints end, std::string_view name = {});
  struct Slice {
    Ints begin, end, stride = {};                                         // r each; no stride: ones
    std::vector<bool> begin_mask = {}, end_mask = {}, squeeze_mask = {};  // r each, or empty
  };
  Var slice_by_index(Var x, const Slice& slice, std::string_view name = {});

  // --- Compressed weights: known before the program runs, of the scale's or table's element type.
  // CoreML6: data int8 or uint8; scale and zero_point a scalar or a vector along `axis`.
  Var affine_dequantize(Value data, Value zero_point, Value scale, int32_t axis,
                        std::string_view name = {});
  // CoreML6 and 7: one table of 2, 4, 16, 64 or 256 for the whole tensor; indices a uint8 vector of
  // packed bits.
  Var lut_to_dense(Value indices, Value lut, std::span<const uint32_t> shape,
                   std::string_view name = {});
  // CoreML8: indices uint1 ... uint8 of the weight's shape, lut [groups a dimension ..., 2^n, 1].
  Var lut_to_dense_grouped(Value indices, Value lut, std::optional<int32_t> vector_axis = {},
                           std::string_view name = {});
  // CoreML8: scale [blocks a dimension ...], offset of scale's shape and data's type.
  Var blockwise_shift_scale(Value data, Value scale, std::optional<Value> offset = {},
                            std::string_view name = {});
  // CoreML6 and 7: mask a uint8 vector of bits. CoreML8: `shape` is the mask's own, uint1.
  Var sparse_to_dense(Value nonzero, Value mask, std::span<const uint32_t> shape,
                      std::string_view name = {});
  Var constexpr_cast(Value source, std::string_view name = {});  // fp16 to fp32

  // --- CoreML7: activations in 8 bits. Scale fp16 or fp32, zero_point of the 8-bit type; scalars
  // without an axis, or vectors along one.
  Var quantize(Var x, Value scale, std::optional<Value> zero_point, DataType type,
               std::optional<int32_t> axis = {}, std::string_view name = {});
  Var dequantize(Var x, Value scale, std::optional<Value> zero_point,
                 std::optional<int32_t> axis = {}, std::string_view name = {});

  // --- CoreML8: state.
  Var read_state(Var state, std::string_view name = {});
  void write_state(Var state, Var data, std::string_view name = {});
  // x with the slice replaced by `update`, whose shape is the slice's.
  Var slice_update(Var x, Var update, const Slice& slice, std::string_view name = {});

  // REQUIRES to be called last. An error too where nothing is an output.
  Result<Function> finish();

 private:
  struct Slot {
    std::string name;
    ValueType type;
    std::unique_ptr<const Value> constant = nullptr;
    bool fixed = false, input = false, output = false;
  };
  struct Node {
    std::string type, name;
    Inputs inputs;
    std::vector<int> results;
    bool attributes = false;
  };

  Var fail(std::string_view type, std::string_view name, Error error);
  std::string unique(std::string_view wanted);
  int slot(std::string name, ValueType type);
  Var small(Value value, std::string_view owner, std::string_view parameter);
  Operand operand(Var var) const;
  Result<std::vector<int>> write(std::string_view type, Inputs inputs, std::string_view name);
  Result<void> resolve(const OperationSpec& spec, std::string_view name, Inputs& inputs,
                       Operands& operands);
  Operation written(Node& node);
  Var binary(std::string_view type, Var x, Var y, std::string_view name) {
    return op(type, {{"x", x}, {"y", y}}, name);
  }
  Inputs slice_inputs(Var x, const Slice& slice) const;

  Opset opset_;
  std::optional<Error> error_;
  std::deque<Slot> slots_;
  std::vector<Node> nodes_;
  std::vector<int> inputs_, outputs_;
  std::set<std::string, std::less<>> names_;
  std::map<std::string, int, std::less<>> name_counts_;
  std::map<std::string, Var, std::less<>> small_;  // by type and content
};

}  // namespace impetus::mil

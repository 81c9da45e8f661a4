// What the type rules share. Internal to mil/: operations.h is the way in.
//
// Rules see hostile operands: whatever they read comes through Reader, which bounds ranks,
// dimensions and constants, so that their arithmetic on int64 cannot overflow where they only add;
// products are checked.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "mil/limits.h"
#include "mil/operations.h"

namespace impetus::mil::infer {

using Types = Result<std::vector<ValueType>>;
using Shape = std::vector<int64_t>;
using Ints = std::vector<int64_t>;

inline constexpr int64_t kConstantMax = 65536;  // elements of a constant that a rule reads

template <typename... Args>
Error wrong(fmt::format_string<Args...> format, Args&&... args) {
  return error(ErrorCode::corrupt, format, std::forward<Args>(args)...);
}

class Reader {
 public:
  explicit Reader(const Operands& operands) : operands_(operands) {}

  bool has(std::string_view parameter) const { return !operands_.all(parameter).empty(); }
  // The one binding; an error where there is none or several.
  Result<const Operand*> operand(std::string_view parameter) const;
  // Of the one binding, which must be a tensor whose rank and dimensions are within bounds.
  Result<TensorType> tensor(std::string_view parameter) const;
  // Null where it is not bound.
  Result<std::optional<TensorType>> tensor_if(std::string_view parameter) const;
  // Of a list of bindings, at least one.
  Result<std::vector<TensorType>> tensors(std::string_view parameter) const;

  // Constants. nullopt: not bound, or its value is not known before the program runs.
  Result<std::optional<Ints>> ints_if_known(std::string_view parameter) const;
  // As above, but an error where it is bound and not known.
  Result<std::optional<Ints>> ints(std::string_view parameter) const;
  Result<int64_t> integer(std::string_view parameter, std::optional<int64_t> absent = {}) const;
  Result<bool> flag(std::string_view parameter, bool absent) const;
  Result<std::string> text(std::string_view parameter, std::string_view absent = {}) const;
  Result<std::vector<bool>> flags(std::string_view parameter, size_t count) const;

 private:
  const Operands& operands_;
};

Types one(DataType dtype, Shape shape);
std::string show(std::span<const int64_t> shape);  // "[1, ?, 64]"

inline bool known(int64_t dim) {
  return dim >= 0;
}
// Whether two lengths can be one.
inline bool agree(int64_t a, int64_t b) {
  return a == b || !known(a) || !known(b);
}
bool agree(std::span<const int64_t> a, std::span<const int64_t> b);

// nullopt where a length is unknown; an error where the product leaves int64.
Result<std::optional<int64_t>> product(std::span<const int64_t> dims);

Result<Shape> broadcast(std::span<const int64_t> a, std::string_view a_name,
                        std::span<const int64_t> b, std::string_view b_name);

// `axis` in [-rank, rank) as [0, rank).
Result<size_t> axis_of(int64_t axis, size_t rank, std::string_view parameter = "axis");
// The same for several, each of which may stand only once; ascending.
Result<std::vector<size_t>> axes_of(std::span<const int64_t> axes, size_t rank,
                                    std::string_view parameter = "axes");

Result<DataType> type_named(std::string_view name);  // "fp16", "int32", ...

// The rules, by family.
Types same_as_x(const Operands&);

// infer_elementwise.cpp
Types gelu(const Operands&);
Types prelu(const Operands&);
Types softplus_parametric(const Operands&);
Types clip7(const Operands&);
Types cast5(const Operands&);
Types cast7(const Operands&);
Types arithmetic(const Operands&);
Types comparison(const Operands&);
Types select(const Operands&);

// infer_linear.cpp
Types conv5(const Operands&);
Types conv6(const Operands&);
Types linear(const Operands&);
Types matmul5(const Operands&);
Types matmul7(const Operands&);
Types einsum(const Operands&);
Types pool5(const Operands&);
Types pool6(const Operands&);
Types attention(const Operands&);

// infer_reduce.cpp
Types reduce(const Operands&);
Types reduce_arg(const Operands&);
Types softmax(const Operands&);
Types layer_norm(const Operands&);
Types instance_norm(const Operands&);
Types batch_norm(const Operands&);
Types l2_norm(const Operands&);
Types cumsum(const Operands&);
Types argsort(const Operands&);

// infer_shape.cpp
Types reshape5(const Operands&);
Types reshape7(const Operands&);
Types transpose(const Operands&);
Types expand_dims(const Operands&);
Types squeeze(const Operands&);
Types concat(const Operands&);
Types split(const Operands&);
Types stack(const Operands&);
Types pad(const Operands&);
Types tile(const Operands&);
Types flatten2d(const Operands&);
Types identity(const Operands&);
Types shape(const Operands&);

// infer_slice.cpp
Types slice_by_index(const Operands&);
Types slice_by_size(const Operands&);
Types slice_update(const Operands&);
Types read_state(const Operands&);
Types write_state(const Operands&);

// infer_index.cpp
Types gather(const Operands&);
Types gather_along_axis(const Operands&);
Types gather_nd(const Operands&);
Types fill(const Operands&);
Types fill_like(const Operands&);
Types range_1d(const Operands&);
Types one_hot(const Operands&);
Types band_part(const Operands&);

// infer_constexpr.cpp
Types constant(const Operands&);
Types affine_dequantize(const Operands&);
Types lut_to_dense6(const Operands&);
Types lut_to_dense8(const Operands&);
Types sparse_to_dense6(const Operands&);
Types sparse_to_dense8(const Operands&);
Types constexpr_cast(const Operands&);
Types blockwise_shift_scale(const Operands&);
Types quantize(const Operands&);
Types dequantize(const Operands&);

}  // namespace impetus::mil::infer

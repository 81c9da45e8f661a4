// Type rules of slices and states.
// Source: coremltools ops/defs iOS15/tensor_transformation, iOS18/{states,tensor_transformation}
// and _utils (solve_slice_by_index_shape).
#include <algorithm>

#include "mil/infer.h"

namespace impetus::mil::infer {
namespace {

// One dimension of a slice; begin and end are unknown where the program computes them.
struct Extent {
  std::optional<int64_t> begin, end;
  int64_t stride = 1;
  bool from_start = false, to_end = false;  // the masks
};

int64_t steps_over(int64_t distance, int64_t stride) {
  const int64_t step = std::abs(stride);
  return distance <= 0 ? 0 : distance / step + (distance % step != 0 ? 1 : 0);
}

// The slice's length in a dimension of `length`; kUnknown where it depends on what is unknown.
Result<int64_t> sliced(const Extent& extent, int64_t length) {
  const auto& [begin, end, stride, from_start, to_end] = extent;
  if (from_start && to_end) {
    if (known(length)) return steps_over(length, stride);
    return kUnknown;
  }
  // Lengths that hold whatever the dimension is.
  if (!from_start && !to_end && begin && end) {
    std::optional<int64_t> fixed;
    if (*begin >= 0 && *end >= 0 && stride > 0) {
      if (*end < *begin) return wrong("begin {} lies past end {}", *begin, *end);
      fixed = steps_over(*end - *begin, stride);
    } else if (*begin < 0 && *end < 0 && stride < 0) {
      if (*begin < *end) return wrong("begin {} lies before end {}, backwards", *begin, *end);
      fixed = steps_over(*begin - *end, stride);
    }
    if (fixed && *fixed <= 1) return *fixed;
  }
  if (!from_start && to_end && begin &&
      ((*begin == 0 && stride < 0) || (*begin == -1 && stride > 0))) {
    return 1;
  }
  if (!known(length)) return kUnknown;
  if (length == 1) return 1;  // as coremltools has it
  if ((!begin && !from_start) || (!end && !to_end)) return kUnknown;

  const auto from_end = [length](int64_t at) {
    return at < 0 ? std::max<int64_t>(0, at + length) : at;
  };
  int64_t first = from_start ? 0 : from_end(*begin), last = to_end ? 0 : from_end(*end);
  if (stride > 0) {
    last = to_end ? length : std::min(last, length);
    return steps_over(last - first, stride);
  }
  first = from_start ? length - 1 : std::min(first, length - 1);
  last = to_end ? -1 : last;
  return steps_over(first - last, stride);
}

// The shape of x[begin:end:stride].
Result<Shape> slice_shape(const Reader& read) {
  IMPETUS_TRY(const TensorType x, read.tensor("x"));
  const size_t rank = x.shape.size();
  for (const std::string_view name : {"begin", "end"}) {
    IMPETUS_TRY(const TensorType type, read.tensor(name));
    if (type.shape.size() != 1 || !agree(type.shape[0], static_cast<int64_t>(rank))) {
      return wrong("{} is {}, x {} has rank {}", name, type.to_string(), x.to_string(), rank);
    }
  }
  IMPETUS_TRY(const auto begin, read.ints_if_known("begin"));
  IMPETUS_TRY(const auto end, read.ints_if_known("end"));
  IMPETUS_TRY(const auto stride, read.ints("stride"));
  IMPETUS_TRY(const auto from_start, read.flags("begin_mask", rank));
  IMPETUS_TRY(const auto to_end, read.flags("end_mask", rank));
  IMPETUS_TRY(const auto squeezed, read.flags("squeeze_mask", rank));
  if ((begin && begin->size() != rank) || (end && end->size() != rank) ||
      (stride && stride->size() != rank)) {
    return wrong("begin, end and stride need {} elements each for x {}", rank, x.to_string());
  }
  if (stride && std::ranges::find(*stride, 0) != stride->end()) return wrong("stride holds 0");
  Shape shape;
  for (size_t i = 0; i < rank; ++i) {
    if (squeezed[i]) {
      if (x.shape[i] == 0) return wrong("x {} has nothing in dimension {}", x.to_string(), i);
      continue;
    }
    const auto at = [i](const std::optional<Ints>& values) {
      return values ? std::optional((*values)[i]) : std::nullopt;
    };
    const Extent extent{.begin = at(begin),
                        .end = at(end),
                        .stride = at(stride).value_or(1),
                        .from_start = from_start[i],
                        .to_end = to_end[i]};
    auto length = sliced(extent, x.shape[i]);
    if (!length.ok()) return std::move(length).error().within(fmt::format("dimension {}", i));
    shape.push_back(*length);
  }
  return shape;
}

}  // namespace

Types slice_by_index(const Operands& operands) {
  const Reader read(operands);
  IMPETUS_TRY(const TensorType x, read.tensor("x"));
  IMPETUS_TRY(Shape shape, slice_shape(read));
  return one(x.dtype, std::move(shape));
}

Types slice_by_size(const Operands& operands) {
  const Reader read(operands);
  IMPETUS_TRY(const TensorType x, read.tensor("x"));
  const size_t rank = x.shape.size();
  for (const std::string_view name : {"begin", "size"}) {
    IMPETUS_TRY(const TensorType type, read.tensor(name));
    if (type.shape.size() != 1 || !agree(type.shape[0], static_cast<int64_t>(rank))) {
      return wrong("{} is {}, x {} has rank {}", name, type.to_string(), x.to_string(), rank);
    }
  }
  IMPETUS_TRY(const auto begin, read.ints_if_known("begin"));
  IMPETUS_TRY(const auto size, read.ints_if_known("size"));
  if ((begin && begin->size() != rank) || (size && size->size() != rank)) {
    return wrong("begin and size need {} elements each for x {}", rank, x.to_string());
  }
  Shape shape(rank, kUnknown);
  for (size_t i = 0; i < rank; ++i) {
    const int64_t length = x.shape[i];
    if (size && (*size)[i] < -1) return wrong("size {} holds {}", show(*size), (*size)[i]);
    if (size && (*size)[i] >= 0) {
      shape[i] = (*size)[i];
      if (known(length) && shape[i] > length) {
        return wrong("size {} is more than x {} has in dimension {}", shape[i], x.to_string(), i);
      }
    }
    if (!begin) continue;
    const int64_t first = (*begin)[i];
    if (first < 0 || (known(length) && first + std::max<int64_t>(shape[i], 0) > length)) {
      return wrong("begin {} and size {} leave x {} in dimension {}", first,
                   size ? (*size)[i] : kUnknown, x.to_string(), i);
    }
    if (size && (*size)[i] == -1 && known(length)) shape[i] = length - first;
  }
  return one(x.dtype, std::move(shape));
}

Types slice_update(const Operands& operands) {
  const Reader read(operands);
  IMPETUS_TRY(TensorType x, read.tensor("x"));
  IMPETUS_TRY(const TensorType update, read.tensor("update"));
  IMPETUS_TRY(const Shape shape, slice_shape(read));
  if (update.shape.empty()) return wrong("update is a scalar");
  if (update.dtype != x.dtype || !agree(update.shape, shape)) {
    return wrong("update is {}; the slice of x {} is {}", update.to_string(), x.to_string(),
                 TensorType{x.dtype, shape}.to_string());
  }
  return one(x.dtype, std::move(x.shape));
}

Types read_state(const Operands& operands) {
  IMPETUS_TRY(const Operand* const input, Reader(operands).operand("input"));
  if (input->type.kind != ValueType::Kind::state) {
    return wrong("input is {} where a state is wanted", input->type.to_string());
  }
  return one(input->type.tensor.dtype, input->type.tensor.shape);
}

Types write_state(const Operands& operands) {
  const Reader read(operands);
  IMPETUS_TRY(const Operand* const input, read.operand("input"));
  IMPETUS_TRY(const TensorType data, read.tensor("data"));
  if (input->type.kind != ValueType::Kind::state) {
    return wrong("input is {} where a state is wanted", input->type.to_string());
  }
  const TensorType& held = input->type.tensor;
  if (held.dtype != data.dtype || !agree(held.shape, data.shape)) {
    return wrong("data is {} and input holds {}", data.to_string(), held.to_string());
  }
  return std::vector<ValueType>();
}

}  // namespace impetus::mil::infer

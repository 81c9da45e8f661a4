// Type rules of operations that move elements without computing.
// Source: coremltools ops/defs iOS15/{tensor_transformation,tensor_operation},
// iOS17/tensor_transformation.
#include <algorithm>

#include <fmt/ranges.h>

#include "mil/infer.h"

namespace impetus::mil::infer {
namespace {

inline constexpr int64_t kSplitsMax = 65536;

// `shape` with its zeros (keep x's length) replaced. CoreML7 aligns them from the last dimension.
Result<Shape> with_kept(const Shape& x, Shape shape, bool from_last) {
  const bool any = std::ranges::find(shape, 0) != shape.end();
  if (any && !from_last && x.size() != shape.size()) {
    return wrong("shape {} keeps lengths of x {} (0), so both must have one rank", show(shape),
                 show(x));
  }
  for (size_t i = 0; i < shape.size(); ++i) {
    if (shape[i] != 0) continue;
    if (!from_last) {
      shape[i] = x[i];
      continue;
    }
    const size_t from_end = shape.size() - i;
    shape[i] = from_end <= x.size() ? x[x.size() - from_end] : 1;
  }
  return shape;
}

Types reshape(const Operands& operands, bool from_last) {
  const Reader read(operands);
  IMPETUS_TRY(const TensorType x, read.tensor("x"));
  IMPETUS_TRY(const TensorType shape_type, read.tensor("shape"));
  IMPETUS_TRY(const auto wanted, read.ints_if_known("shape"));
  if (shape_type.shape.size() != 1) {
    return wrong("shape is {} where a vector is wanted", shape_type.to_string());
  }
  if (!wanted) {
    const int64_t rank = shape_type.shape[0];
    if (!known(rank) || rank > static_cast<int64_t>(kRankMax)) {
      return wrong("shape is {}: the result's rank is unknown", shape_type.to_string());
    }
    return one(x.dtype, Shape(static_cast<size_t>(rank), kUnknown));
  }
  const auto negatives = std::ranges::count_if(*wanted, [](int64_t dim) { return dim < 0; });
  if (negatives > 1 || (negatives == 1 && std::ranges::find(*wanted, -1) == wanted->end())) {
    return wrong("shape {} may hold one -1 and nothing else below 0",
                 fmt::format("[{}]", fmt::join(*wanted, ", ")));
  }
  const auto inferred = std::ranges::find(*wanted, -1) - wanted->begin();
  IMPETUS_TRY(Shape shape, with_kept(x.shape, *wanted, from_last));
  IMPETUS_TRY(const auto elements, product(x.shape));
  if (negatives == 1) {
    const auto at = static_cast<size_t>(inferred);
    shape[at] = 1;
    IMPETUS_TRY(const auto others, product(shape));
    shape[at] = kUnknown;
    if (elements && others) {
      if (*others == 0 || *elements % *others != 0) {
        return wrong("x {} with {} elements does not divide into shape {}", x.to_string(),
                     *elements, show(*wanted));
      }
      shape[at] = *elements / *others;
    }
    return one(x.dtype, std::move(shape));
  }
  IMPETUS_TRY(const auto count, product(shape));
  if (elements && count && *elements != *count) {
    return wrong("x {} has {} elements, shape {} has {}", x.to_string(), *elements, show(*wanted),
                 *count);
  }
  return one(x.dtype, std::move(shape));
}

Result<void> check_one_type(const std::vector<TensorType>& values) {
  for (const TensorType& value : values) {
    if (value.dtype != values.front().dtype) {
      return wrong("values hold {} and {}: they must have one element type",
                   values.front().to_string(), value.to_string());
    }
    if (value.shape.size() != values.front().shape.size()) {
      return wrong("values hold {} and {}: they must have one rank", values.front().to_string(),
                   value.to_string());
    }
  }
  return {};
}

// Each unknown length of `shape` that another of the same tensors knows.
void narrow(Shape& shape, const Shape& other, std::optional<size_t> except = {}) {
  for (size_t i = 0; i < shape.size(); ++i) {
    if (i != except && !known(shape[i])) shape[i] = other[i];
  }
}

}  // namespace

Types reshape5(const Operands& operands) {
  return reshape(operands, false);
}
Types reshape7(const Operands& operands) {
  return reshape(operands, true);
}

Types transpose(const Operands& operands) {
  const Reader read(operands);
  IMPETUS_TRY(const TensorType x, read.tensor("x"));
  IMPETUS_TRY(const auto perm, read.ints("perm"));
  if (!perm || perm->size() != x.shape.size()) {
    return wrong("perm has {} elements, x {} has rank {}", perm ? perm->size() : 0, x.to_string(),
                 x.shape.size());
  }
  IMPETUS_CHECK(axes_of(*perm, x.shape.size(), "perm"));
  Shape shape;
  for (const int64_t axis : *perm) {
    IMPETUS_TRY(const size_t at, axis_of(axis, x.shape.size(), "perm"));
    shape.push_back(x.shape[at]);
  }
  return one(x.dtype, std::move(shape));
}

Types expand_dims(const Operands& operands) {
  const Reader read(operands);
  IMPETUS_TRY(TensorType x, read.tensor("x"));
  IMPETUS_TRY(const auto axes, read.ints("axes"));
  if (!axes) return wrong("required parameter axes is missing");
  if (x.shape.size() + axes->size() > kRankMax) {
    return wrong("axes {} make x {} deeper than {}", show(*axes), x.to_string(), kRankMax);
  }
  IMPETUS_TRY(const auto at, axes_of(*axes, x.shape.size() + axes->size()));
  for (const size_t axis : at) x.shape.insert(x.shape.begin() + static_cast<ptrdiff_t>(axis), 1);
  return one(x.dtype, std::move(x.shape));
}

// As coremltools has it, an axis that is not 1 long stays.
Types squeeze(const Operands& operands) {
  const Reader read(operands);
  IMPETUS_TRY(const TensorType x, read.tensor("x"));
  IMPETUS_TRY(const auto axes, read.ints("axes"));
  std::vector<size_t> at;
  if (axes) {
    IMPETUS_TRY(at, axes_of(*axes, x.shape.size()));
  }
  Shape shape;
  for (size_t i = 0; i < x.shape.size(); ++i) {
    const bool named = !axes || std::ranges::binary_search(at, i);
    if (!named || x.shape[i] != 1) shape.push_back(x.shape[i]);
  }
  return one(x.dtype, std::move(shape));
}

Types concat(const Operands& operands) {
  const Reader read(operands);
  IMPETUS_TRY(const auto values, read.tensors("values"));
  IMPETUS_TRY(const int64_t wanted, read.integer("axis"));
  IMPETUS_TRY(const bool interleave, read.flag("interleave", false));
  IMPETUS_CHECK(check_one_type(values));
  Shape shape = values.front().shape;
  if (shape.empty()) return one(values.front().dtype, {static_cast<int64_t>(values.size())});
  IMPETUS_TRY(const size_t axis, axis_of(wanted, shape.size()));
  int64_t length = 0;
  for (const TensorType& value : values) {
    for (size_t i = 0; i < shape.size(); ++i) {
      if ((i != axis || interleave) && !agree(shape[i], value.shape[i])) {
        return wrong("values {} and {} differ in dimension {}, and are joined along {}",
                     values.front().to_string(), value.to_string(), i, axis);
      }
    }
    narrow(shape, value.shape, axis);
    if (!known(length) || !known(value.shape[axis])) {
      length = kUnknown;
    } else if (__builtin_add_overflow(length, value.shape[axis], &length)) {
      return wrong("values are too long together");
    }
  }
  shape[axis] = length;
  return one(values.front().dtype, std::move(shape));
}

Types split(const Operands& operands) {
  const Reader read(operands);
  IMPETUS_TRY(const TensorType x, read.tensor("x"));
  IMPETUS_TRY(const int64_t wanted, read.integer("axis"));
  IMPETUS_TRY(const size_t axis, axis_of(wanted, x.shape.size()));
  const int64_t length = x.shape[axis];
  Ints sizes;
  IMPETUS_TRY(const auto given, read.ints("split_sizes"));
  if (given) {
    sizes = *given;
  } else {
    if (!read.has("num_splits")) return wrong("neither num_splits nor split_sizes is there");
    IMPETUS_TRY(const int64_t count, read.integer("num_splits"));
    if (count < 1 || count > kSplitsMax || (known(length) && length % count != 0)) {
      return wrong("x {} does not split into num_splits {} along {}", x.to_string(), count, axis);
    }
    sizes.assign(static_cast<size_t>(count), known(length) ? length / count : kUnknown);
  }
  if (given) {
    IMPETUS_TRY(const int64_t count,
                read.integer("num_splits", static_cast<int64_t>(sizes.size())));
    if (sizes.empty() || count != static_cast<int64_t>(sizes.size())) {
      return wrong("num_splits is {} and split_sizes has {} elements", count, sizes.size());
    }
    int64_t sum = 0;  // at most kConstantMax lengths within bounds
    for (const int64_t size : sizes) {
      if (size < 0) return wrong("split_sizes holds {}", size);
      sum += size;
    }
    if (!agree(sum, length)) {
      return wrong("split_sizes sum to {}, x {} is {} long in dimension {}", sum, x.to_string(),
                   length, axis);
    }
  }
  std::vector<ValueType> types;
  for (const int64_t size : sizes) {
    types.push_back({.tensor = x});
    types.back().tensor.shape[axis] = size;
  }
  return types;
}

Types stack(const Operands& operands) {
  const Reader read(operands);
  IMPETUS_TRY(const auto values, read.tensors("values"));
  IMPETUS_TRY(const int64_t wanted, read.integer("axis"));
  IMPETUS_CHECK(check_one_type(values));
  Shape shape = values.front().shape;
  for (const TensorType& value : values) {
    if (!agree(shape, value.shape)) {
      return wrong("values hold {} and {}: they must have one shape", values.front().to_string(),
                   value.to_string());
    }
    narrow(shape, value.shape);
  }
  IMPETUS_TRY(const size_t axis, axis_of(wanted, shape.size() + 1));
  shape.insert(shape.begin() + static_cast<ptrdiff_t>(axis), static_cast<int64_t>(values.size()));
  return one(values.front().dtype, std::move(shape));
}

Types pad(const Operands& operands) {
  const Reader read(operands);
  IMPETUS_TRY(TensorType x, read.tensor("x"));
  IMPETUS_TRY(const TensorType pad_type, read.tensor("pad"));
  IMPETUS_TRY(const auto pad, read.ints_if_known("pad"));
  IMPETUS_TRY(const std::string mode, read.text("mode", "constant"));
  if (mode != "constant" && mode != "reflect" && mode != "replicate") {
    return wrong("mode \"{}\" is none of constant, reflect, replicate", mode);
  }
  const size_t rank = x.shape.size();
  if (!pad) {
    if (pad_type.shape.size() != 1 || !agree(pad_type.shape[0], static_cast<int64_t>(2 * rank))) {
      return wrong("pad is {}; computed while the program runs it needs {} elements",
                   pad_type.to_string(), 2 * rank);
    }
    return one(x.dtype, Shape(rank, kUnknown));
  }
  if (pad_type.shape.size() != 1 || pad->size() % 2 != 0 || pad->size() > 2 * rank) {
    return wrong("pad is {}; x {} takes up to {} pairs", pad_type.to_string(), x.to_string(), rank);
  }
  const size_t first = rank - pad->size() / 2;
  for (size_t i = first; i < rank; ++i) {
    const int64_t before = (*pad)[2 * (i - first)], after = (*pad)[2 * (i - first) + 1];
    if (before < 0 || after < 0) return wrong("pad {} holds a number below 0", show(*pad));
    if (!known(x.shape[i])) continue;
    if (mode == "reflect" && (before >= x.shape[i] || after >= x.shape[i]) && before + after > 0) {
      return wrong("pad {} reflects more than x {} has in dimension {}", show(*pad), x.to_string(),
                   i);
    }
    x.shape[i] += before + after;
  }
  return one(x.dtype, std::move(x.shape));
}

Types tile(const Operands& operands) {
  const Reader read(operands);
  IMPETUS_TRY(TensorType x, read.tensor("x"));
  IMPETUS_CHECK(read.tensor("reps"));
  IMPETUS_TRY(const auto reps, read.ints_if_known("reps"));
  if (!reps) return one(x.dtype, Shape(x.shape.size(), kUnknown));
  if (reps->empty() || reps->size() != x.shape.size()) {
    return wrong("reps has {} elements, x {} has rank {}", reps->size(), x.to_string(),
                 x.shape.size());
  }
  for (size_t i = 0; i < reps->size(); ++i) {
    if ((*reps)[i] < 1) return wrong("reps {} holds a number below 1", show(*reps));
    if (known(x.shape[i]) && __builtin_mul_overflow(x.shape[i], (*reps)[i], &x.shape[i])) {
      return wrong("reps {} make x {} too long", show(*reps), show(x.shape));
    }
  }
  return one(x.dtype, std::move(x.shape));
}

Types flatten2d(const Operands& operands) {
  const Reader read(operands);
  IMPETUS_TRY(const TensorType x, read.tensor("x"));
  IMPETUS_TRY(const int64_t wanted, read.integer("axis", 1));
  const auto rank = static_cast<int64_t>(x.shape.size());
  if (wanted < -rank || wanted > rank) return wrong("axis {} is outside of rank {}", wanted, rank);
  const auto axis = static_cast<size_t>(wanted < 0 ? wanted + rank : wanted);
  IMPETUS_TRY(const auto rows, product(std::span(x.shape).first(axis)));
  IMPETUS_TRY(const auto columns, product(std::span(x.shape).subspan(axis)));
  return one(x.dtype, {rows.value_or(kUnknown), columns.value_or(kUnknown)});
}

Types identity(const Operands& operands) {
  IMPETUS_TRY(const Operand* const x, Reader(operands).operand("x"));
  return std::vector{x->type};
}

Types shape(const Operands& operands) {
  IMPETUS_TRY(const TensorType x, Reader(operands).tensor("x"));
  return one(DataType::i32, {static_cast<int64_t>(x.shape.size())});
}

}  // namespace impetus::mil::infer

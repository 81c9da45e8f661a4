// gather, gather_along_axis, gather_nd, one_hot. Negative indices count from the end; what is
// outside is an error even where the program asks for no validation, which leaves it undefined.
#include <algorithm>

#include "mil/interpret.h"

namespace impetus::mil {
namespace {

Result<const Array*> indices_of(Call& call) {
  IMPETUS_TRY(const Array* indices, call.operand("indices"));
  if (indices->floating()) {
    return error(ErrorCode::corrupt, "indices are {}, not integers", indices->to_string());
  }
  return indices;
}

Error outside(int32_t index, int64_t length) {
  return error(ErrorCode::invalid_argument, "index {} is outside a dimension of {}", index, length);
}

// The place that an index names; -1 where there is none.
int64_t place_of(int32_t index, int64_t length) {
  const int64_t place = index < 0 ? index + length : index;
  return place >= 0 && place < length ? place : -1;
}

int64_t product_of(const Dims& shape, size_t begin, size_t end) {
  return elements_of(Dims(shape.begin() + static_cast<ptrdiff_t>(begin),
                          shape.begin() + static_cast<ptrdiff_t>(end)))
      .value_or(0);
}

Result<void> gather(Call& call) {
  IMPETUS_TRY(const Array* x, call.operand("x"));
  IMPETUS_TRY(const Array* indices, indices_of(call));
  IMPETUS_TRY(const int64_t along, call.axis("axis", x->rank(), 0));
  IMPETUS_TRY(const int64_t batch, call.integer("batch_dims", 0));
  const auto axis = static_cast<size_t>(along);
  if (batch < 0 || batch > along || batch > indices->rank()) {
    return error(ErrorCode::corrupt, "batch_dims {} with axis {} of {} and indices {}", batch,
                 along, x->to_string(), indices->to_string());
  }
  const auto batches = static_cast<size_t>(batch);
  for (size_t i = 0; i < batches; ++i) {
    if (x->shape[i] != indices->shape[i]) {
      return error(ErrorCode::corrupt, "x {} and indices {} differ in batch dimension {}",
                   x->to_string(), indices->to_string(), i);
    }
  }
  Dims shape(x->shape.begin(), x->shape.begin() + along);
  shape.insert(shape.end(), indices->shape.begin() + batch, indices->shape.end());
  shape.insert(shape.end(), x->shape.begin() + along + 1, x->shape.end());
  IMPETUS_TRY(Array * out, output_like(call, *x, std::move(shape)));
  if (out->elements() == 0) return {};
  const int64_t outer = product_of(x->shape, 0, batches);
  const int64_t middle = product_of(x->shape, batches, axis);
  const int64_t length = x->shape[axis];
  const int64_t inner = product_of(x->shape, axis + 1, x->shape.size());
  const int64_t count = product_of(indices->shape, batches, indices->shape.size());
  for (int64_t i = 0; i < indices->elements(); ++i) {
    if (place_of(indices->ints()[i], length) < 0) return outside(indices->ints()[i], length);
  }
  with_values(*x, *out, [&](const auto* from, auto* to) {
    for (int64_t o = 0; o < outer; ++o) {
      for (int64_t m = 0; m < middle; ++m) {
        for (int64_t i = 0; i < count; ++i) {
          const int64_t place = place_of(indices->ints()[o * count + i], length);
          std::copy_n(from + ((o * middle + m) * length + place) * inner, inner, to);
          to += inner;
        }
      }
    }
  });
  return {};
}

Result<void> gather_along_axis(Call& call) {
  IMPETUS_TRY(const Array* x, call.operand("x"));
  IMPETUS_TRY(const Array* indices, indices_of(call));
  IMPETUS_TRY(const int64_t along, call.axis("axis", x->rank(), 0));
  const auto axis = static_cast<size_t>(along);
  bool fits = x->rank() == indices->rank();
  for (size_t i = 0; fits && i < x->shape.size(); ++i) {
    fits = i == axis || x->shape[i] == indices->shape[i];
  }
  if (!fits) {
    return error(ErrorCode::corrupt, "x {} and indices {} differ beside axis {}", x->to_string(),
                 indices->to_string(), along);
  }
  IMPETUS_TRY(Array * out, output_like(call, *x, indices->shape));
  if (out->elements() == 0) return {};
  const int64_t inner = product_of(x->shape, axis + 1, x->shape.size());
  const int64_t length = x->shape[axis], count = indices->shape[axis];
  for (int64_t i = 0; i < indices->elements(); ++i) {
    if (place_of(indices->ints()[i], length) < 0) return outside(indices->ints()[i], length);
  }
  with_values(*x, *out, [&](const auto* from, auto* to) {
    for (int64_t i = 0; i < out->elements(); ++i) {
      const int64_t place = place_of(indices->ints()[i], length);
      to[i] = from[(i / inner / count * length + place) * inner + i % inner];
    }
  });
  return {};
}

Result<void> gather_nd(Call& call) {
  IMPETUS_TRY(const Array* x, call.operand("x"));
  IMPETUS_TRY(const Array* indices, indices_of(call));
  IMPETUS_TRY(const int64_t batch, call.integer("batch_dims", 0));
  const int64_t depth = indices->rank() > 0 ? indices->shape.back() : 0;
  if (indices->rank() == 0 || batch < 0 || batch >= indices->rank() || depth > x->rank() - batch) {
    return error(ErrorCode::corrupt, "batch_dims {} and indices {} do not suit {}", batch,
                 indices->to_string(), x->to_string());
  }
  const auto batches = static_cast<size_t>(batch);
  for (size_t i = 0; i < batches; ++i) {
    if (x->shape[i] != indices->shape[i]) {
      return error(ErrorCode::corrupt, "x {} and indices {} differ in batch dimension {}",
                   x->to_string(), indices->to_string(), i);
    }
  }
  Dims shape(indices->shape.begin(), indices->shape.end() - 1);
  shape.insert(shape.end(), x->shape.begin() + batch + depth, x->shape.end());
  IMPETUS_TRY(Array * out, output_like(call, *x, std::move(shape)));
  if (out->elements() == 0) return {};
  const Dims strides = strides_of(x->shape);
  const int64_t outer = product_of(x->shape, 0, batches);
  const int64_t own = product_of(x->shape, batches, x->shape.size());
  const int64_t count = product_of(indices->shape, batches, indices->shape.size() - 1);
  const int64_t inner = product_of(x->shape, batches + static_cast<size_t>(depth), x->shape.size());
  for (int64_t i = 0; i < indices->elements(); ++i) {
    const int64_t length = x->shape[batches + static_cast<size_t>(i % depth)];
    if (place_of(indices->ints()[i], length) < 0) return outside(indices->ints()[i], length);
  }
  with_values(*x, *out, [&](const auto* from, auto* to) {
    for (int64_t i = 0; i < outer * count; ++i) {
      int64_t offset = i / count * own;
      for (int64_t d = 0; d < depth; ++d) {
        const size_t dimension = batches + static_cast<size_t>(d);
        offset +=
            place_of(indices->ints()[i * depth + d], x->shape[dimension]) * strides[dimension];
      }
      std::copy_n(from + offset, inner, to);
      to += inner;
    }
  });
  return {};
}

Result<void> one_hot(Call& call) {
  IMPETUS_TRY(const Array* indices, indices_of(call));
  IMPETUS_TRY(const int64_t size, call.integer("one_hot_vector_size"));
  IMPETUS_TRY(const int64_t axis, call.axis("axis", indices->rank() + 1, -1));
  if (size < 0) return error(ErrorCode::corrupt, "one_hot_vector_size is {}", size);
  Dims shape = indices->shape;
  shape.insert(shape.begin() + axis, size);
  IMPETUS_TRY(Array * out, call.output(shape));
  if (out->elements() == 0) return {};
  const int64_t inner = product_of(shape, static_cast<size_t>(axis) + 1, shape.size());
  const auto write = [&](auto* to, auto on, auto off) {
    for (int64_t i = 0; i < out->elements(); ++i) {
      const int64_t index = indices->ints()[i / inner / size * inner + i % inner];
      to[i] = (index < 0 ? index + size : index) == i / inner % size ? on : off;
    }
  };
  if (out->floating()) {
    IMPETUS_TRY(const float on, call.number("on_value", 1.0f));
    IMPETUS_TRY(const float off, call.number("off_value", 0.0f));
    write(out->floats(), on, off);
  } else {
    IMPETUS_TRY(const int64_t on, call.integer("on_value", 1));
    IMPETUS_TRY(const int64_t off, call.integer("off_value", 0));
    write(out->ints(), static_cast<int32_t>(on), static_cast<int32_t>(off));
  }
  return {};
}

constexpr Kernel kKernels[] = {
    {"gather", gather, true},
    {"gather_along_axis", gather_along_axis, true},
    {"gather_nd", gather_nd, true},
    {"one_hot", one_hot},
};

}  // namespace

std::span<const Kernel> gather_kernels() {
  return kKernels;
}

}  // namespace impetus::mil

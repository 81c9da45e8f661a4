// Operations that move values, or make them: reshape to pad, fill, states.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "mil/interpret.h"

namespace impetus::mil {
namespace {

// A result that is gathered from x by strides: offset, and a stride for each of its dimensions.
Result<void> strided(Call& call, const Array& x, Dims shape, Dims sizes, int64_t offset,
                     const Dims& steps) {
  IMPETUS_TRY(Array * out, output_like(call, x, std::move(shape)));
  if (out->elements() == 0) return {};
  const int64_t count = sizes.empty() ? 1 : sizes.back();
  const int64_t step = steps.empty() ? 0 : steps.back();
  const std::vector<Dims> strides{steps};
  with_values(x, *out, [&](const auto* from, auto* to) {
    rows_of(sizes, strides, 0, out->elements() / count, [&](std::span<const int64_t> at) {
      const auto* in = from + offset + at[0];
      for (int64_t i = 0; i < count; ++i) *to++ = in[i * step];
    });
  });
  return {};
}

Result<void> identity(Call& call) {
  IMPETUS_TRY(const Array* x, call.operand("x"));
  return call.share(*x, x->shape);
}

Result<void> reshape(Call& call) {
  IMPETUS_TRY(const Array* x, call.operand("x"));
  IMPETUS_TRY(Dims shape, call.integers("shape"));
  // From iOS 17 a 0 stands for the dimension of x that is as far from the end; before, for the one
  // at the same place, ranks being equal.
  const bool from_end = call.opset() >= Opset::core_ml7;
  if (!from_end && shape.size() != x->shape.size() && std::ranges::count(shape, 0) > 0 &&
      x->elements() > 0) {
    return error(ErrorCode::corrupt, "shape {} has a 0 and another rank than {}", text_of(shape),
                 x->to_string());
  }
  for (size_t i = 0; i < shape.size(); ++i) {
    if (shape[i] != 0 || x->elements() == 0) continue;
    const size_t back = shape.size() - i;
    shape[i] =
        from_end ? (back <= x->shape.size() ? x->shape[x->shape.size() - back] : 1) : x->shape[i];
  }
  const auto open = std::ranges::find(shape, -1);
  if (open != shape.end()) {
    *open = 1;
    const auto rest = elements_of(shape);
    if (!rest || *rest == 0 || x->elements() % *rest != 0) {
      *open = -1;
      return error(ErrorCode::corrupt, "{} cannot become {}", x->to_string(), text_of(shape));
    }
    *open = x->elements() / *rest;
  }
  return call.share(*x, std::move(shape));
}

Result<void> transpose(Call& call) {
  IMPETUS_TRY(const Array* x, call.operand("x"));
  IMPETUS_TRY(const Dims perm, call.integers("perm"));
  Dims order, shape;
  for (const int64_t axis : perm) {
    const int64_t place = axis < 0 ? axis + x->rank() : axis;
    if (place < 0 || place >= x->rank() || std::ranges::find(order, place) != order.end()) {
      return error(ErrorCode::corrupt, "perm {} is no order of {}", text_of(perm), x->to_string());
    }
    order.push_back(place);
    shape.push_back(x->shape[static_cast<size_t>(place)]);
  }
  if (order.size() != x->shape.size()) {
    return error(ErrorCode::corrupt, "perm {} is no order of {}", text_of(perm), x->to_string());
  }
  IMPETUS_TRY(Array * out, output_like(call, *x, shape));
  with_values(*x, *out,
              [&](const auto* from, auto* to) { permute(call.crew(), from, x->shape, order, to); });
  return {};
}

Result<void> expand_dims(Call& call) {
  IMPETUS_TRY(const Array* x, call.operand("x"));
  IMPETUS_TRY(const Dims given, call.integers("axes"));
  IMPETUS_TRY(const Dims axes, call.axes("axes", x->rank() + static_cast<int64_t>(given.size())));
  Dims shape = x->shape;
  for (const int64_t axis : axes) shape.insert(shape.begin() + axis, 1);
  return call.share(*x, std::move(shape));
}

// Dimensions that are not 1 stay, as in PyTorch.
Result<void> squeeze(Call& call) {
  IMPETUS_TRY(const Array* x, call.operand("x"));
  IMPETUS_TRY(const Dims axes, call.axes("axes", x->rank()));
  Dims shape;
  for (size_t i = 0; i < x->shape.size(); ++i) {
    if (x->shape[i] == 1 && std::ranges::binary_search(axes, static_cast<int64_t>(i))) continue;
    shape.push_back(x->shape[i]);
  }
  return call.share(*x, std::move(shape));
}

Result<void> flatten2d(Call& call) {
  IMPETUS_TRY(const Array* x, call.operand("x"));
  IMPETUS_TRY(const int64_t given, call.integer("axis", 1));
  const int64_t axis = given < 0 ? given + x->rank() : given;
  if (axis < 0 || axis > x->rank()) {
    return error(ErrorCode::corrupt, "axis {} is outside {}", given, x->to_string());
  }
  const auto before = elements_of(Dims(x->shape.begin(), x->shape.begin() + axis));
  const auto after = elements_of(Dims(x->shape.begin() + axis, x->shape.end()));
  if (!before || !after) return error(ErrorCode::corrupt, "{} is too large", x->to_string());
  return call.share(*x, {*before, *after});
}

Result<void> shape_of(Call& call) {
  IMPETUS_TRY(const Array* x, call.operand("x"));
  IMPETUS_TRY(Array * out, call.output({x->rank()}));
  if (out->floating()) return error(ErrorCode::corrupt, "the result is declared of floats");
  for (size_t i = 0; i < x->shape.size(); ++i) {
    if (!std::in_range<int32_t>(x->shape[i])) {
      return error(ErrorCode::unsupported, "{} has a dimension past int32", x->to_string());
    }
    out->ints()[i] = static_cast<int32_t>(x->shape[i]);
  }
  return {};
}

Result<void> concat(Call& call) {
  const auto values = call.all("values");
  IMPETUS_TRY(const bool interleave, call.flag("interleave", false));
  if (values.empty()) return error(ErrorCode::corrupt, "no values");
  const Array& first = *values.front();
  // Scalars join to a row.
  const int64_t rank = std::max<int64_t>(first.rank(), 1);
  IMPETUS_TRY(const int64_t axis, call.axis("axis", rank));
  const auto place = static_cast<size_t>(axis);
  Dims shape = first.rank() == 0 ? Dims{1} : first.shape;
  int64_t joined = 0;
  for (const Array* value : values) {
    Dims other = value->rank() == 0 ? Dims{1} : value->shape;
    if (value->dtype != first.dtype || value->rank() != first.rank()) {
      return error(ErrorCode::corrupt, "{} and {} do not join", first.to_string(),
                   value->to_string());
    }
    joined += other[place];
    if (!interleave) other[place] = shape[place];
    if (other != shape) {
      return error(ErrorCode::corrupt, "{} and {} do not join along axis {}", first.to_string(),
                   value->to_string(), axis);
    }
  }
  const Dims one = shape;
  shape[place] = joined;
  IMPETUS_TRY(Array * out, output_like(call, first, shape));
  if (out->elements() == 0) return {};
  const int64_t outer = elements_of(Dims(shape.begin(), shape.begin() + axis)).value_or(0);
  const int64_t inner = elements_of(Dims(shape.begin() + axis + 1, shape.end())).value_or(0);
  int64_t before = 0;
  for (size_t v = 0; v < values.size(); ++v) {
    const Array& value = *values[v];
    const int64_t own = value.rank() == 0 ? 1 : value.shape[place];
    with_values(value, *out, [&](const auto* from, auto* to) {
      for (int64_t o = 0; o < outer; ++o) {
        if (!interleave) {
          std::copy_n(from + o * own * inner, own * inner, to + (o * joined + before) * inner);
          continue;
        }
        for (int64_t i = 0; i < own; ++i) {
          const int64_t at = i * static_cast<int64_t>(values.size()) + static_cast<int64_t>(v);
          std::copy_n(from + (o * own + i) * inner, inner, to + (o * joined + at) * inner);
        }
      }
    });
    before += own;
  }
  return {};
}

Result<void> stack(Call& call) {
  const auto values = call.all("values");
  if (values.empty()) return error(ErrorCode::corrupt, "no values");
  const Array& first = *values.front();
  IMPETUS_TRY(const int64_t axis, call.axis("axis", first.rank() + 1));
  for (const Array* value : values) {
    if (value->dtype != first.dtype || value->shape != first.shape) {
      return error(ErrorCode::corrupt, "{} and {} do not stack", first.to_string(),
                   value->to_string());
    }
  }
  const auto count = static_cast<int64_t>(values.size());
  Dims shape = first.shape;
  shape.insert(shape.begin() + axis, count);
  IMPETUS_TRY(Array * out, output_like(call, first, shape));
  const int64_t outer = elements_of(Dims(shape.begin(), shape.begin() + axis)).value_or(0);
  const int64_t inner = elements_of(Dims(shape.begin() + axis + 1, shape.end())).value_or(0);
  for (int64_t v = 0; v < count && out->elements() > 0; ++v) {
    with_values(*values[static_cast<size_t>(v)], *out, [&](const auto* from, auto* to) {
      for (int64_t o = 0; o < outer; ++o) {
        std::copy_n(from + o * inner, inner, to + (o * count + v) * inner);
      }
    });
  }
  return {};
}

Result<void> split(Call& call) {
  IMPETUS_TRY(const Array* x, call.operand("x"));
  IMPETUS_TRY(const int64_t axis, call.axis("axis", x->rank()));
  IMPETUS_TRY(const auto given, call.integers_if("split_sizes"));
  const int64_t length = x->shape[static_cast<size_t>(axis)];
  Dims sizes;
  if (given) {
    sizes = *given;
  } else {
    IMPETUS_TRY(const int64_t count, call.integer("num_splits"));
    if (count < 1 || std::cmp_greater(count, call.outputs()) || length % count != 0) {
      return error(ErrorCode::corrupt, "{} has no {} equal parts along axis {} for {} results",
                   x->to_string(), count, axis, call.outputs());
    }
    sizes.assign(static_cast<size_t>(count), length / count);
  }
  int64_t total = 0;
  for (const int64_t size : sizes) {
    if (size < 0 || size > length - total) total = length + 1;
    total += total > length ? 0 : size;
  }
  if (total != length || sizes.size() != call.outputs()) {
    return error(ErrorCode::corrupt, "{} has no parts {} along axis {} for {} results",
                 x->to_string(), text_of(sizes), axis, call.outputs());
  }
  const Array source = *x;  // slots may move while results are made
  const int64_t outer =
      elements_of(Dims(source.shape.begin(), source.shape.begin() + axis)).value_or(0);
  const int64_t inner =
      elements_of(Dims(source.shape.begin() + axis + 1, source.shape.end())).value_or(0);
  int64_t before = 0;
  for (size_t i = 0; i < sizes.size(); ++i) {
    Dims shape = source.shape;
    shape[static_cast<size_t>(axis)] = sizes[i];
    IMPETUS_TRY(Array * out, output_like(call, source, shape, i));
    with_values(source, *out, [&](const auto* from, auto* to) {
      for (int64_t o = 0; o < outer && out->elements() > 0; ++o) {
        std::copy_n(from + (o * length + before) * inner, sizes[i] * inner,
                    to + o * sizes[i] * inner);
      }
    });
    before += sizes[i];
  }
  return {};
}

// ---- slices ----

struct Slice {
  Dims begin, stride, count;
  std::vector<bool> squeezed;
};

// numpy's x[begin:end:stride], with masks that leave an end open or take one place.
Result<Slice> slice_of(Call& call, const Array& x) {
  const size_t rank = x.shape.size();
  IMPETUS_TRY(Dims begin, call.integers("begin"));
  IMPETUS_TRY(Dims end, call.integers("end"));
  IMPETUS_TRY(const auto stride, call.integers_if("stride"));
  IMPETUS_TRY(const auto begin_mask, call.integers_if("begin_mask"));
  IMPETUS_TRY(const auto end_mask, call.integers_if("end_mask"));
  IMPETUS_TRY(const auto squeeze_mask, call.integers_if("squeeze_mask"));
  for (const auto* given : {&stride, &begin_mask, &end_mask, &squeeze_mask}) {
    if (*given && (*given)->size() != rank) {
      return error(ErrorCode::corrupt, "a stride or mask has {} elements for a rank of {}",
                   (*given)->size(), rank);
    }
  }
  if (begin.size() != rank || end.size() != rank) {
    return error(ErrorCode::corrupt, "begin and end have {} and {} elements for a rank of {}",
                 begin.size(), end.size(), rank);
  }
  Slice slice;
  for (size_t i = 0; i < rank; ++i) {
    const int64_t length = x.shape[i], step = stride ? (*stride)[i] : 1;
    const bool squeezed = squeeze_mask && (*squeeze_mask)[i] != 0;
    slice.squeezed.push_back(squeezed);
    if (squeezed) {
      const bool masked = begin_mask && (*begin_mask)[i] != 0;
      const int64_t at = masked ? 0 : begin[i] < 0 ? begin[i] + length : begin[i];
      if (at < 0 || at >= length) {
        return error(ErrorCode::corrupt, "place {} is outside dimension {} of {}", begin[i], i,
                     x.to_string());
      }
      slice.begin.push_back(at);
      slice.stride.push_back(1);
      slice.count.push_back(1);
      continue;
    }
    if (step == 0) return error(ErrorCode::corrupt, "a stride is 0");
    const int64_t low = step > 0 ? 0 : -1, high = step > 0 ? length : length - 1;
    const auto clamped = [&](int64_t at) {
      return std::clamp(at < 0 ? at + length : at, low, high);
    };
    const int64_t from =
        begin_mask && (*begin_mask)[i] != 0 ? (step > 0 ? low : high) : clamped(begin[i]);
    const int64_t to = end_mask && (*end_mask)[i] != 0 ? (step > 0 ? high : low) : clamped(end[i]);
    const int64_t span = step > 0 ? to - from : from - to, size = step > 0 ? step : -step;
    slice.begin.push_back(from);
    slice.stride.push_back(step);
    slice.count.push_back(span > 0 ? (span + size - 1) / size : 0);
  }
  return slice;
}

Result<void> slice_by_index(Call& call) {
  IMPETUS_TRY(const Array* x, call.operand("x"));
  IMPETUS_TRY(const Slice slice, slice_of(call, *x));
  Dims steps = strides_of(x->shape), shape;
  int64_t offset = 0;
  for (size_t i = 0; i < steps.size(); ++i) {
    if (slice.count[i] > 0) offset += slice.begin[i] * steps[i];
    steps[i] = slice.count[i] > 1 ? steps[i] * slice.stride[i] : 0;
    if (!slice.squeezed[i]) shape.push_back(slice.count[i]);
  }
  return strided(call, *x, std::move(shape), slice.count, offset, steps);
}

Result<void> slice_by_size(Call& call) {
  IMPETUS_TRY(const Array* x, call.operand("x"));
  IMPETUS_TRY(const Dims begin, call.integers("begin"));
  IMPETUS_TRY(const Dims size, call.integers("size"));
  if (begin.size() != x->shape.size() || size.size() != x->shape.size()) {
    return error(ErrorCode::corrupt, "begin and size do not fit {}", x->to_string());
  }
  const Dims steps = strides_of(x->shape);
  Dims shape;
  int64_t offset = 0;
  for (size_t i = 0; i < begin.size(); ++i) {
    const int64_t length = x->shape[i];
    const int64_t from = begin[i] < 0 ? begin[i] + length : begin[i];
    const int64_t count = size[i] == -1 ? length - from : size[i];
    if (from < 0 || from > length || count < 0 || count > length - from) {
      return error(ErrorCode::corrupt, "begin {} and size {} are outside dimension {} of {}",
                   begin[i], size[i], i, x->to_string());
    }
    shape.push_back(count);
    if (count > 0) offset += from * steps[i];
  }
  return strided(call, *x, shape, shape, offset, steps);
}

Result<void> slice_update(Call& call) {
  IMPETUS_TRY(const Array* x, call.operand("x"));
  IMPETUS_TRY(const Array* update, call.operand("update"));
  IMPETUS_TRY(const Slice slice, slice_of(call, *x));
  Dims shape;
  for (size_t i = 0; i < slice.count.size(); ++i) {
    if (!slice.squeezed[i]) shape.push_back(slice.count[i]);
  }
  if (update->dtype != x->dtype || update->shape != shape) {
    return error(ErrorCode::corrupt, "update {} does not fit the slice {} of {}",
                 update->to_string(), text_of(shape), x->to_string());
  }
  IMPETUS_TRY(Array * out, output_like(call, *x, x->shape));
  with_values(*x, *out, [&](const auto* from, auto* to) { std::copy_n(from, x->elements(), to); });
  if (update->elements() == 0) return {};
  Dims steps = strides_of(x->shape);
  int64_t offset = 0;
  for (size_t i = 0; i < steps.size(); ++i) {
    offset += slice.begin[i] * steps[i];
    steps[i] = slice.count[i] > 1 ? steps[i] * slice.stride[i] : 0;
  }
  const int64_t count = slice.count.empty() ? 1 : slice.count.back();
  const int64_t step = steps.empty() ? 0 : steps.back();
  const std::vector<Dims> strides{steps};
  with_values(*update, *out, [&](const auto* from, auto* to) {
    rows_of(slice.count, strides, 0, update->elements() / count, [&](std::span<const int64_t> at) {
      for (int64_t i = 0; i < count; ++i) to[offset + at[0] + i * step] = *from++;
    });
  });
  return {};
}

// ---- pad, tile, band ----

Result<void> pad(Call& call) {
  IMPETUS_TRY(const Array* x, call.operand("x"));
  IMPETUS_TRY(const Dims given, call.integers("pad"));
  IMPETUS_TRY(const std::string mode, call.text("mode", "constant"));
  IMPETUS_TRY(const float filler, call.number("constant_val", 0.0f));
  const bool constant = mode == "constant", reflect = mode == "reflect";
  if (!constant && !reflect && mode != "replicate") {
    return error(ErrorCode::corrupt, "mode \"{}\" is unknown", mode);
  }
  if (!x->floating() && !(filler > -2147483649.0f && filler < 2147483648.0f)) {
    return error(ErrorCode::corrupt, "constant_val {} does not fill {}", filler, x->to_string());
  }
  const size_t rank = x->shape.size();
  if (given.size() % 2 != 0 || given.size() / 2 > rank) {
    return error(ErrorCode::corrupt, "pad has {} elements for {}", given.size(), x->to_string());
  }
  Dims shape = x->shape, before(rank, 0);
  for (size_t i = 0; i < given.size() / 2; ++i) {
    const size_t place = rank - given.size() / 2 + i;
    const int64_t front = given[2 * i], back = given[2 * i + 1], length = x->shape[place];
    const int64_t most = constant     ? int64_t{1} << 31
                         : reflect    ? length - 1
                         : length > 0 ? int64_t{1} << 31
                                      : 0;
    if (front < 0 || back < 0 || ((front > 0 || back > 0) && std::max(front, back) > most)) {
      return error(ErrorCode::corrupt, "pad {} and {} do not suit dimension {} of {}, mode {}",
                   front, back, place, x->to_string(), mode);
    }
    before[place] = front;
    shape[place] = length + front + back;
  }
  IMPETUS_TRY(Array * out, output_like(call, *x, shape));
  if (out->elements() == 0) return {};
  // For each dimension, where each place of the result comes from; -1: the filler.
  std::vector<Dims> sources(rank);
  for (size_t d = 0; d < rank; ++d) {
    const int64_t length = x->shape[d];
    for (int64_t i = 0; i < shape[d]; ++i) {
      int64_t at = i - before[d];
      if (at < 0 || at >= length) {
        if (constant) {
          at = -1;
        } else if (reflect) {
          at = at < 0 ? -at : 2 * (length - 1) - at;
        } else {
          at = std::clamp<int64_t>(at, 0, length - 1);
        }
      }
      sources[d].push_back(at);
    }
  }
  const Dims strides = strides_of(x->shape);
  const int64_t count = rank == 0 ? 1 : shape.back();
  with_values(*x, *out, [&](const auto* from, auto* to) {
    using T = std::remove_reference_t<decltype(*to)>;
    const T fill = static_cast<T>(filler);
    Dims index(rank, 0);
    for (int64_t row = 0; row < out->elements() / count; ++row) {
      int64_t offset = 0, rest = row;
      bool outside = false;
      for (size_t d = rank > 0 ? rank - 1 : 0; d-- > 0;) {
        const int64_t at = sources[d][static_cast<size_t>(rest % shape[d])];
        rest /= shape[d];
        outside = outside || at < 0;
        offset += at * strides[d];
      }
      for (int64_t i = 0; i < count; ++i) {
        const int64_t at = rank == 0 ? 0 : sources.back()[static_cast<size_t>(i)];
        *to++ = outside || at < 0 ? fill : from[offset + at];
      }
    }
  });
  return {};
}

Result<void> tile(Call& call) {
  IMPETUS_TRY(const Array* x, call.operand("x"));
  IMPETUS_TRY(const Dims reps, call.integers("reps"));
  if (reps.size() != x->shape.size()) {
    return error(ErrorCode::corrupt, "reps {} do not fit {}", text_of(reps), x->to_string());
  }
  // Each dimension becomes two, the repetition in front with a stride of 0.
  const Dims own = strides_of(x->shape);
  Dims shape, sizes, steps;
  for (size_t i = 0; i < reps.size(); ++i) {
    int64_t length = 0;
    if (reps[i] < 0 || __builtin_mul_overflow(reps[i], x->shape[i], &length)) {
      return error(ErrorCode::corrupt, "reps {} do not suit {}", text_of(reps), x->to_string());
    }
    shape.push_back(length);
    sizes.push_back(reps[i]);
    steps.push_back(0);
    sizes.push_back(x->shape[i]);
    steps.push_back(own[i]);
  }
  return strided(call, *x, std::move(shape), std::move(sizes), 0, steps);
}

Result<void> band_part(Call& call) {
  IMPETUS_TRY(const Array* x, call.operand("x"));
  IMPETUS_TRY(const int64_t lower, call.integer("lower", -1));
  IMPETUS_TRY(const int64_t upper, call.integer("upper", -1));
  if (x->rank() < 2) return error(ErrorCode::corrupt, "{} is no matrix", x->to_string());
  IMPETUS_TRY(Array * out, output_like(call, *x, x->shape));
  const int64_t columns = x->shape.back(), rows = x->shape[x->shape.size() - 2];
  with_values(*x, *out, [&](const auto* from, auto* to) {
    for (int64_t i = 0; i < x->elements(); ++i) {
      const int64_t n = i % columns, m = i / columns % rows;
      const bool kept = (lower < 0 || m - n <= lower) && (upper < 0 || n - m <= upper);
      to[i] = kept ? from[i] : 0;
    }
  });
  return {};
}

// ---- values from nothing ----

Result<void> filled(Call& call, Dims shape) {
  const Array* value = call.find("value");
  if (value != nullptr && (value->dtype == DataType::string || value->elements() != 1)) {
    return error(ErrorCode::corrupt, "value {} is not one number", value->to_string());
  }
  IMPETUS_TRY(Array * out, call.output(std::move(shape)));
  if (value == nullptr) return {};  // zeros
  if (value->floating() != out->floating()) {
    return error(ErrorCode::corrupt, "value {} does not fill {}", value->to_string(),
                 out->to_string());
  }
  with_values(*value, *out,
              [&](const auto* from, auto* to) { std::fill_n(to, out->elements(), from[0]); });
  return {};
}

Result<void> fill(Call& call) {
  IMPETUS_TRY(Dims shape, call.integers("shape"));
  return filled(call, std::move(shape));
}

Result<void> fill_like(Call& call) {
  IMPETUS_TRY(const Array* reference, call.operand("ref_tensor"));
  return filled(call, reference->shape);
}

Result<void> range_1d(Call& call) {
  IMPETUS_TRY(const Array* start, call.operand("start"));
  IMPETUS_TRY(const Array* end, call.operand("end"));
  IMPETUS_TRY(const Array* step, call.operand("step"));
  for (const Array* one : {start, end, step}) {
    if (one->elements() != 1 || one->floating() != start->floating()) {
      return error(ErrorCode::corrupt, "start, end and step are one number each, of one kind");
    }
  }
  const auto number = [](const Array& x) {
    return x.floating() ? static_cast<double>(x.floats()[0]) : static_cast<double>(x.ints()[0]);
  };
  const double from = number(*start), by = number(*step);
  const double count = std::ceil((number(*end) - from) / by);
  if (by == 0 || !(count < 1e15)) {
    return error(ErrorCode::corrupt, "a range from {} to {} by {}", from, number(*end), by);
  }
  IMPETUS_TRY(Array * out, call.output({count > 0 ? static_cast<int64_t>(count) : 0}));
  if (out->floating() != start->floating()) {
    return error(ErrorCode::corrupt, "the result is declared {}", to_string(out->dtype));
  }
  for (int64_t i = 0; i < out->elements(); ++i) {
    const double value = from + static_cast<double>(i) * by;
    if (out->floating()) {
      out->floats()[i] = static_cast<float>(value);
    } else {
      out->ints()[i] = static_cast<int32_t>(value);  // between start and end
    }
  }
  return {};
}

// ---- states ----

Result<int> state_of(Call& call, std::string_view parameter) {
  for (const BoundParameter& bound : call.step().parameters) {
    if (bound.name == parameter && bound.slots.size() == 1) return bound.slots.front();
  }
  return error(ErrorCode::corrupt, "parameter {} is missing", parameter);
}

Result<void> read_state(Call& call) {
  IMPETUS_TRY(const Array* state, call.operand("input"));
  return call.share(*state, state->shape);
}

Result<void> write_state(Call& call) {
  IMPETUS_TRY(const int slot, state_of(call, "input"));
  IMPETUS_TRY(const Array* value, call.operand("data"));
  Array& kept = call.machine().slots[static_cast<size_t>(slot)];
  if (kept.dtype != value->dtype || kept.shape != value->shape) {
    return error(ErrorCode::corrupt, "{} is written to a state {}", value->to_string(),
                 kept.to_string());
  }
  kept.buffer = value->buffer;
  return {};
}

constexpr Kernel kKernels[] = {
    {"identity", identity, true},
    {"reshape", reshape, true},
    {"transpose", transpose, true},
    {"expand_dims", expand_dims, true},
    {"squeeze", squeeze, true},
    {"flatten2d", flatten2d, true},
    {"shape", shape_of, true},
    {"concat", concat, true},
    {"stack", stack, true},
    {"split", split, true},
    {"slice_by_index", slice_by_index, true},
    {"slice_by_size", slice_by_size, true},
    {"slice_update", slice_update, true},
    {"pad", pad},
    {"tile", tile, true},
    {"band_part", band_part, true},
    {"fill", fill},
    {"fill_like", fill_like},
    {"range_1d", range_1d},
    {"read_state", read_state, true},
    {"write_state", write_state, true},
};

}  // namespace

std::span<const Kernel> shape_kernels() {
  return kKernels;
}

}  // namespace impetus::mil

// constexpr_*: weights that are stored packed, unpacked once at load. Core ML 6 has them with flat
// bytes and a shape, Core ML 8 with typed tensors (coremltools' iOS16/constexpr_ops.py and
// iOS18/compression.py).
#include <algorithm>
#include <bit>

#include "mil/interpret.h"

namespace impetus::mil {
namespace {

float number_at(const Array& x, int64_t i) {
  return x.floating() ? x.floats()[i] : static_cast<float>(x.ints()[i]);
}

// scale * (quantized_data - zero_point), both one number or one for each place along the axis.
Result<void> affine_dequantize(Call& call) {
  IMPETUS_TRY(const Array* data, call.operand("quantized_data"));
  IMPETUS_TRY(const Array* scale, call.floating("scale"));
  IMPETUS_TRY(const Array* zero, call.operand("zero_point"));
  IMPETUS_TRY(const int64_t axis, call.axis("axis", data->rank()));
  const int64_t length = data->shape[static_cast<size_t>(axis)];
  for (const Array* one : {scale, zero}) {
    if (one->rank() > 1 || (one->rank() == 1 && one->shape[0] != length)) {
      return error(ErrorCode::corrupt, "{} is neither one number nor {} of them", one->to_string(),
                   length);
    }
  }
  if (data->floating()) {
    return error(ErrorCode::corrupt, "quantized_data is {}", data->to_string());
  }
  IMPETUS_TRY(Array * out, output_like(call, *scale, data->shape));
  const int64_t inner = strides_of(data->shape)[static_cast<size_t>(axis)];
  for (int64_t i = 0; i < data->elements(); ++i) {
    const int64_t place = i / inner % length;
    out->floats()[i] =
        scale->floats()[scale->rank() == 0 ? 0 : place] *
        (static_cast<float>(data->ints()[i]) - number_at(*zero, zero->rank() == 0 ? 0 : place));
  }
  return {};
}

// Index i of a flat row of bytes: `bits` each, least significant first.
uint32_t packed_at(const int32_t* bytes, int64_t i, int bits) {
  uint32_t value = 0;
  for (int bit = 0; bit < bits; ++bit) {
    const int64_t at = i * bits + bit;
    value |= ((static_cast<uint32_t>(bytes[at / 8]) >> (at % 8)) & 1u) << bit;
  }
  return value;
}

Result<void> flat_lut_to_dense(Call& call) {
  IMPETUS_TRY(const Array* indices, call.operand("indices"));
  IMPETUS_TRY(const Array* lut, call.operand("lut"));
  IMPETUS_TRY(const Dims shape, call.integers("shape"));
  const int64_t entries = lut->elements();
  const auto count = elements_of(shape);
  if (indices->dtype != DataType::u8 || indices->rank() != 1 || lut->rank() != 1 || entries < 2 ||
      entries > 256 || !std::has_single_bit(static_cast<uint64_t>(entries)) || !count ||
      *count > INT64_MAX / 16) {
    return error(ErrorCode::corrupt, "indices {}, lut {} and shape {} do not fit",
                 indices->to_string(), lut->to_string(), text_of(shape));
  }
  const int bits = std::countr_zero(static_cast<uint64_t>(entries));
  if (indices->elements() != (*count * bits + 7) / 8) {
    return error(ErrorCode::corrupt, "{} bytes of indices do not hold {} of {} bits",
                 indices->elements(), *count, bits);
  }
  IMPETUS_TRY(Array * out, output_like(call, *lut, shape));
  with_values(*lut, *out, [&](const auto* from, auto* to) {
    for (int64_t i = 0; i < *count; ++i) to[i] = from[packed_at(indices->ints(), i, bits)];
  });
  return {};
}

// How often each entry along a dimension repeats; 0 where it does not divide.
Result<Dims> blocks_of(const Array& data, const Array& by, size_t rank) {
  Dims blocks;
  for (size_t i = 0; i < rank; ++i) {
    if (by.shape[i] <= 0 || data.shape[i] % by.shape[i] != 0) {
      return error(ErrorCode::corrupt, "{} is not divided evenly by {}", data.to_string(),
                   by.to_string());
    }
    blocks.push_back(std::max<int64_t>(1, data.shape[i] / by.shape[i]));
  }
  return blocks;
}

// Calls f(i, block) for each element i of shape, block being the flat place of its block.
template <typename F>
void each_in_blocks(const Dims& shape, const Dims& blocks, const Dims& block_strides, F f) {
  const int64_t total = elements_of(shape).value_or(0);
  Dims index(shape.size(), 0);
  for (int64_t i = 0; i < total; ++i) {
    int64_t block = 0;
    for (size_t d = 0; d < shape.size(); ++d) block += index[d] / blocks[d] * block_strides[d];
    f(i, block);
    for (size_t d = shape.size(); d-- > 0;) {
      if (++index[d] < shape[d]) break;
      index[d] = 0;
    }
  }
}

// indices [...], lut [groups..., entries, vector]: each index takes a number, or a vector that is
// laid along vector_axis.
Result<void> lut_to_dense(Call& call) {
  if (call.find("shape") != nullptr) return flat_lut_to_dense(call);
  IMPETUS_TRY(const Array* indices, call.operand("indices"));
  IMPETUS_TRY(const Array* lut, call.operand("lut"));
  const size_t rank = indices->shape.size();
  if (indices->floating() || rank < 1 || lut->shape.size() != rank + 2) {
    return error(ErrorCode::corrupt, "indices {} and lut {} do not fit", indices->to_string(),
                 lut->to_string());
  }
  IMPETUS_TRY(const Dims blocks, blocks_of(*indices, *lut, rank));
  const int64_t entries = lut->shape[rank], vector = lut->shape[rank + 1];
  int64_t axis = 0;
  if (vector != 1) {
    IMPETUS_TRY(axis, call.axis("vector_axis", indices->rank()));
  }
  Dims shape = indices->shape;
  if (vector < 1 || __builtin_mul_overflow(shape[static_cast<size_t>(axis)], vector,
                                           &shape[static_cast<size_t>(axis)])) {
    return error(ErrorCode::corrupt, "lut {} has no values", lut->to_string());
  }
  for (int64_t i = 0; i < indices->elements(); ++i) {
    if (indices->ints()[i] < 0 || indices->ints()[i] >= entries) {
      return error(ErrorCode::corrupt, "index {} is outside a table of {}", indices->ints()[i],
                   entries);
    }
  }
  IMPETUS_TRY(Array * out, output_like(call, *lut, shape));
  if (out->elements() == 0) return {};
  const Dims strides = strides_of(lut->shape);
  const int64_t inner = strides_of(indices->shape)[static_cast<size_t>(axis)];
  const Dims group_strides(strides.begin(), strides.begin() + static_cast<ptrdiff_t>(rank));
  with_values(*lut, *out, [&](const auto* from, auto* to) {
    each_in_blocks(indices->shape, blocks, group_strides, [&](int64_t i, int64_t group) {
      const auto* entry = from + group + indices->ints()[i] * vector;
      for (int64_t v = 0; v < vector; ++v)
        to[(i / inner * vector + v) * inner + i % inner] = entry[v];
    });
  });
  return {};
}

// scale * (data - offset), one scale and offset for each block.
Result<void> blockwise_shift_scale(Call& call) {
  IMPETUS_TRY(const Array* data, call.operand("data"));
  IMPETUS_TRY(const Array* scale, call.floating("scale"));
  const Array* offset = call.find("offset");
  if (data->rank() != scale->rank() || data->rank() < 1) {
    return error(ErrorCode::corrupt, "data {} and scale {} do not fit", data->to_string(),
                 scale->to_string());
  }
  if (offset != nullptr && (offset->dtype == DataType::string || offset->shape != scale->shape)) {
    return error(ErrorCode::corrupt, "offset {} is not shaped like scale {}", offset->to_string(),
                 scale->to_string());
  }
  IMPETUS_TRY(const Dims blocks, blocks_of(*data, *scale, data->shape.size()));
  IMPETUS_TRY(Array * out, output_like(call, *scale, data->shape));
  each_in_blocks(data->shape, blocks, strides_of(scale->shape), [&](int64_t i, int64_t block) {
    const float shift = offset != nullptr ? number_at(*offset, block) : 0.0f;
    out->floats()[i] = scale->floats()[block] * (number_at(*data, i) - shift);
  });
  return {};
}

// The mask's set bits take nonzero_data in order; a mask of bytes has eight of them each.
Result<void> sparse_to_dense(Call& call) {
  IMPETUS_TRY(const Array* values, call.operand("nonzero_data"));
  IMPETUS_TRY(const Array* mask, call.operand("mask"));
  const bool flat = call.find("shape") != nullptr;
  Dims shape = mask->shape;
  if (flat) {
    IMPETUS_TRY(shape, call.integers("shape"));
  }
  const auto count = elements_of(shape);
  if (mask->floating() || values->rank() != 1 || !count ||
      (flat && (mask->rank() != 1 || mask->elements() != (*count + 7) / 8))) {
    return error(ErrorCode::corrupt, "nonzero_data {}, mask {} and shape {} do not fit",
                 values->to_string(), mask->to_string(), text_of(shape));
  }
  const auto is_set = [&](int64_t i) {
    return flat ? packed_at(mask->ints(), i, 1) != 0 : mask->ints()[i] != 0;
  };
  int64_t set = 0;
  for (int64_t i = 0; i < *count; ++i) set += is_set(i);
  if (set != values->elements()) {
    return error(ErrorCode::corrupt, "the mask has {} places for {} values", set,
                 values->elements());
  }
  IMPETUS_TRY(Array * out, output_like(call, *values, shape));
  with_values(*values, *out, [&](const auto* from, auto* to) {
    for (int64_t i = 0; i < *count; ++i) {
      if (is_set(i)) to[i] = *from++;
    }
  });
  return {};
}

Result<void> constexpr_cast(Call& call) {
  IMPETUS_TRY(const Array* source, call.floating("source_val"));
  IMPETUS_TRY(Array * out, call.output(source->shape));
  if (!out->floating()) {
    return error(ErrorCode::corrupt, "the result is declared {}", to_string(out->dtype));
  }
  std::copy_n(source->floats(), source->elements(), out->floats());
  return {};
}

constexpr Kernel kKernels[] = {
    {"constexpr_affine_dequantize", affine_dequantize},
    {"constexpr_lut_to_dense", lut_to_dense},
    {"constexpr_blockwise_shift_scale", blockwise_shift_scale},
    {"constexpr_sparse_to_dense", sparse_to_dense},
    {"constexpr_cast", constexpr_cast},
};

}  // namespace

std::span<const Kernel> constexpr_kernels() {
  return kKernels;
}

}  // namespace impetus::mil

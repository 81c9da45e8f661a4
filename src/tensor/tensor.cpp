#include "tensor/tensor.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <new>

#include <fmt/ranges.h>

namespace impetus {

Shape::Shape(std::initializer_list<int64_t> dims) : rank_(static_cast<int>(dims.size())) {
  assert(dims.size() <= kRankMax);
  std::copy(dims.begin(), dims.end(), dims_.begin());
}

Result<Shape> Shape::checked(std::span<const int64_t> dims) {
  if (dims.size() > kRankMax) {
    return error(ErrorCode::unsupported, "{} dimensions, more than {}", dims.size(), kRankMax);
  }
  Shape shape;
  shape.rank_ = static_cast<int>(dims.size());
  int64_t elements = 1;
  for (size_t i = 0; i < dims.size(); ++i) {
    if (dims[i] < 0) return error(ErrorCode::corrupt, "dimension {} is negative", i);
    if (__builtin_mul_overflow(elements, std::max<int64_t>(dims[i], 1), &elements)) {
      return error(ErrorCode::corrupt, "shape [{}] overflows", fmt::join(dims, ", "));
    }
    shape.dims_[i] = dims[i];
  }
  return shape;
}

int64_t Shape::elements() const {
  int64_t product = 1;
  for (int i = 0; i < rank_; ++i) product *= (*this)[i];
  return product;
}

int64_t Shape::columns() const {
  return rank_ == 0 ? 1 : (*this)[rank_ - 1];
}

int64_t Shape::rows() const {
  int64_t product = 1;
  for (int i = 0; i + 1 < rank_; ++i) product *= (*this)[i];
  return product;
}

std::string Shape::to_string() const {
  return fmt::format("[{}]", fmt::join(dims_.begin(), dims_.begin() + rank_, ", "));
}

std::span<const std::byte> TensorView::row(int64_t i) const {
  const auto stride = static_cast<size_t>(grouped != nullptr ? grouped->row_bytes(shape.columns())
                                                             : *bytes_of(dtype, shape.columns()));
  return data.subspan(static_cast<size_t>(i) * stride, stride);
}

int64_t TensorView::bytes() const {
  size_t sum = data.size();
  if (grouped != nullptr) sum += grouped->scales.size() + grouped->biases.size();
  return static_cast<int64_t>(sum);
}

std::string type_name(const TensorView& view) {
  return view.grouped != nullptr ? view.grouped->to_string() : std::string(to_string(view.dtype));
}

Result<Tensor> Tensor::zeros(DType dtype, Shape shape) {
  const auto bytes = bytes_of(dtype, shape.elements());
  if (!bytes || shape.columns() % block_elements(dtype) != 0) {
    return error(ErrorCode::invalid_argument, "shape {} is no whole number of {} blocks",
                 shape.to_string(), to_string(dtype));
  }
  Tensor tensor;
  tensor.dtype_ = dtype;
  tensor.shape_ = shape;
  tensor.size_ = static_cast<size_t>(*bytes);
  try {
    tensor.storage_.resize(tensor.size_ + 64);
  } catch (const std::bad_alloc&) {
    return error(ErrorCode::insufficient_memory, "cannot allocate {} bytes for a tensor {}", *bytes,
                 shape.to_string());
  }
  return tensor;
}

std::byte* Tensor::bytes() const {
  const auto address = reinterpret_cast<uintptr_t>(storage_.data());
  return reinterpret_cast<std::byte*>((address + 63) / 64 * 64);
}

namespace {

template <typename T>
T load(const std::byte* bytes, int64_t index) {
  T value;
  std::memcpy(&value, bytes + index * static_cast<int64_t>(sizeof(T)), sizeof(T));
  return value;
}

constexpr float kF16Max = 65504;

// Whether `target` can hold the row: what the conversions below would turn into infinities or
// nonsense without a word.
bool fits(DType target, std::span<const float> row) {
  switch (target) {
    case DType::f16:
      return std::none_of(row.begin(), row.end(), [](float value) {
        return std::isfinite(value) && (f32_to_f16(value) & 0x7fffu) == 0x7c00u;
      });
    case DType::bf16:
      return std::none_of(row.begin(), row.end(), [](float value) {
        return std::isfinite(value) && (f32_to_bf16(value) & 0x7fffu) == 0x7f80u;
      });
    case DType::q8_0:
    case DType::q4_0: {
      // The scale is stored in f16.
      const float limit = kF16Max * (target == DType::q8_0 ? 127.0f : 8.0f);
      return std::all_of(row.begin(), row.end(),
                         [&](float value) { return std::fabs(value) <= limit; });
    }
    default:
      return true;
  }
}

}  // namespace

void dequantize(DType type, const std::byte* bytes, int64_t elements, float* out) {
  switch (type) {
    case DType::f32:
      std::memcpy(out, bytes, static_cast<size_t>(elements) * sizeof(float));
      return;
    case DType::f16:
      for (int64_t i = 0; i < elements; ++i) out[i] = f16_to_f32(load<uint16_t>(bytes, i));
      return;
    case DType::bf16:
      for (int64_t i = 0; i < elements; ++i) out[i] = bf16_to_f32(load<uint16_t>(bytes, i));
      return;
    case DType::q8_0:
      for (int64_t b = 0; b < elements / kQuantBlock; ++b) {
        const auto block = load<BlockQ8_0>(bytes, b);
        const float d = f16_to_f32(block.d);
        for (int i = 0; i < 32; ++i) out[b * 32 + i] = d * static_cast<float>(block.q[i]);
      }
      return;
    case DType::q4_0:
      for (int64_t b = 0; b < elements / kQuantBlock; ++b) {
        const auto block = load<BlockQ4_0>(bytes, b);
        const float d = f16_to_f32(block.d);
        for (int i = 0; i < 16; ++i) {
          out[b * 32 + i] = d * static_cast<float>((block.q[i] & 15) - 8);
          out[b * 32 + 16 + i] = d * static_cast<float>((block.q[i] >> 4) - 8);
        }
      }
      return;
    default:
      assert(false && "not a weight type");
  }
}

void dequantize_row(const TensorView& view, int64_t i, float* out) {
  const int64_t columns = view.shape.columns();
  const std::byte* bytes = view.row(i).data();
  if (view.dtype != DType::grouped) {
    dequantize(view.dtype, bytes, columns, out);
    return;
  }
  const GroupQuantised& grouped = *view.grouped;
  std::array<uint8_t, kQuantBlock> codes;
  int64_t index = i * (columns / grouped.group);
  for (int64_t at = 0; at < columns; at += grouped.group, ++index) {
    const auto [scale, bias] = group_scale(grouped, index);
    for (int64_t first = at; first < at + grouped.group; first += kQuantBlock) {
      unpack_codes(grouped.bits, bytes + grouped.row_bytes(first), kQuantBlock, codes.data());
      for (size_t j = 0; j < codes.size(); ++j) {
        const float code = grouped.mode == GroupQuantised::Mode::mxfp4
                               ? kE2m1[codes[j]]
                               : static_cast<float>(codes[j]);
        out[first + static_cast<int64_t>(j)] = scale * code + bias;
      }
    }
  }
}

void quantize_q8_0(const float* values, int64_t elements, BlockQ8_0* out) {
  for (int64_t b = 0; b < elements / kQuantBlock; ++b, values += kQuantBlock) {
    float peak = 0;
    for (int i = 0; i < 32; ++i) peak = std::max(peak, std::fabs(values[i]));
    const float d = peak / 127.0f;
    const float inverse = d != 0 ? 1.0f / d : 0.0f;
    out[b].d = f32_to_f16(d);
    for (int i = 0; i < 32; ++i) out[b].q[i] = static_cast<int8_t>(std::round(values[i] * inverse));
  }
}

void quantize_q4_0(const float* values, int64_t elements, BlockQ4_0* out) {
  for (int64_t b = 0; b < elements / kQuantBlock; ++b, values += kQuantBlock) {
    float extreme = 0;
    for (int i = 0; i < 32; ++i) {
      if (std::fabs(values[i]) > std::fabs(extreme)) extreme = values[i];
    }
    const float d = extreme / -8.0f;
    const float inverse = d != 0 ? 1.0f / d : 0.0f;
    out[b].d = f32_to_f16(d);
    const auto nibble = [&](float value) {
      return static_cast<uint8_t>(std::min(15, static_cast<int>(value * inverse + 8.5f)));
    };
    for (int i = 0; i < 16; ++i) {
      out[b].q[i] = static_cast<uint8_t>(nibble(values[i]) | nibble(values[i + 16]) << 4);
    }
  }
}

Result<Tensor> convert(const TensorView& source, DType target) {
  if (!is_weight(source.dtype) || !is_weight(target) || target == DType::grouped) {
    return error(ErrorCode::unsupported, "cannot convert {} to {}", to_string(source.dtype),
                 to_string(target));
  }
  IMPETUS_TRY(Tensor result, Tensor::zeros(target, source.shape));
  if (source.shape.elements() == 0) return result;
  if (source.dtype == target) {
    std::memcpy(result.mutable_bytes().data(), source.data.data(), result.mutable_bytes().size());
    return result;
  }
  const int64_t columns = source.shape.columns();
  const auto stride = static_cast<size_t>(*bytes_of(target, columns));
  std::vector<float> row(static_cast<size_t>(columns));
  for (int64_t r = 0; r < source.shape.rows(); ++r) {
    dequantize_row(source, r, row.data());
    if (!fits(target, row)) {
      return error(ErrorCode::unsupported, "row {} holds a value that {} cannot", r,
                   to_string(target));
    }
    std::byte* out = result.mutable_bytes().data() + static_cast<size_t>(r) * stride;
    switch (target) {
      case DType::f32:
        std::memcpy(out, row.data(), stride);
        break;
      case DType::f16:
      case DType::bf16:
        for (size_t i = 0; i < row.size(); ++i) {
          const uint16_t bits = target == DType::f16 ? f32_to_f16(row[i]) : f32_to_bf16(row[i]);
          std::memcpy(out + 2 * i, &bits, 2);
        }
        break;
      case DType::q8_0:
        quantize_q8_0(row.data(), columns, reinterpret_cast<BlockQ8_0*>(out));
        break;
      case DType::q4_0:
        quantize_q4_0(row.data(), columns, reinterpret_cast<BlockQ4_0*>(out));
        break;
      default:
        break;
    }
  }
  return result;
}

}  // namespace impetus

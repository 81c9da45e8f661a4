#include "mlx/weights.h"

#include <algorithm>
#include <cstring>

namespace impetus::mlx_backend {
namespace {

bool quantised(DType type) {
  return type == DType::q8_0 || type == DType::q4_0;
}

int bits_of(DType type) {
  return type == DType::q8_0 ? 8 : 4;
}

mx::Shape shape_of(const Shape& shape) {
  mx::Shape out;
  for (int i = 0; i < shape.rank(); ++i) out.push_back(dim(shape[i]));
  return out;
}

void no_deleter(void*) {}

// Eight bytes of a block's codes to MLX's little-endian words, element j in bits [j * bits, ...).
void pack_q8_0(const std::byte* block, uint32_t* words, float* scale) {
  uint16_t d;
  std::memcpy(&d, block, sizeof d);
  *scale = f16_to_f32(d);
  for (int w = 0; w < 8; ++w) {
    uint32_t word = 0;
    for (int j = 0; j < 4; ++j) {
      const auto code = static_cast<uint8_t>(block[2 + w * 4 + j]);
      word |= static_cast<uint32_t>(code ^ 0x80u) << (8 * j);  // q + 128
    }
    words[w] = word;
  }
}

void pack_q4_0(const std::byte* block, uint32_t* words, float* scale) {
  uint16_t d;
  std::memcpy(&d, block, sizeof d);
  *scale = f16_to_f32(d);
  for (int w = 0; w < 4; ++w) {
    uint32_t word = 0;
    for (int j = 0; j < 8; ++j) {
      const int element = w * 8 + j;
      const auto byte = static_cast<uint32_t>(block[2 + element % 16]);
      word |= (element < 16 ? byte & 15u : byte >> 4) << (4 * j);
    }
    words[w] = word;
  }
}

}  // namespace

mx::array Matrix::apply(const mx::array& x) const {
  const auto type = x.dtype();
  if (bits != 0) {
    mx::array y = mx::quantized_matmul(x, weight, *scales, biases, true, group, bits, mode);
    if (bias) y = mx::add(y, x.ndim() == 2 ? over_rows(*bias, x.shape(0)) : *bias);
    return mx::astype(y, type);
  }
  const mx::array in_out = transposed ? *transposed : mx::transpose(weight);
  if (!bias) return mx::matmul(x, in_out);
  return mx::addmm(x.ndim() == 2 ? over_rows(*bias, x.shape(0)) : *bias, x, in_out);
}

mx::array Matrix::apply_dequantised(const mx::array& x) const {
  Matrix dense;
  dense.weight =
      mx::dequantize(weight, *scales, biases, group, bits, mode, std::nullopt, x.dtype());
  dense.bias = bias;
  return dense.apply(x);
}

int64_t Matrix::dequantised_bytes(mx::Dtype type) const {
  return int64_t{weight.shape(0)} * scales->shape(1) * group * static_cast<int64_t>(type.size());
}

void Matrix::transpose() {
  if (bits != 0) return;
  transposed = mx::transpose(weight);
  transposed->eval();
}

mx::array over_rows(const mx::array& bias, int rows) {
  mx::array view(mx::Shape{rows, bias.shape(0)}, bias.dtype(), nullptr, {});
  auto flags = bias.flags();
  if (rows > 1) flags.row_contiguous = flags.col_contiguous = false;
  view.copy_shared_buffer(bias, {0, bias.strides(0)}, flags, bias.data_size());
  view.set_status(mx::array::Status::available);
  return view;
}

mx::array Matrix::rows(const mx::array& ids, mx::Dtype type) const {
  if (bits == 0) return mx::astype(mx::take(weight, ids, 0), type);
  std::optional<mx::array> some;
  if (biases) some = mx::take(*biases, ids, 0);
  return mx::astype(
      mx::dequantize(mx::take(weight, ids, 0), mx::take(*scales, ids, 0), some, group, bits, mode),
      type);
}

std::optional<Matrix> joined(const std::vector<Matrix>& parts) {
  const auto type_of = [](const std::optional<mx::array>& array) {
    return array ? std::optional(array->dtype()) : std::nullopt;
  };
  const Matrix& first = parts.front();
  for (const Matrix& part : parts) {
    if (part.bits != first.bits || part.group != first.group || part.mode != first.mode ||
        part.weight.dtype() != first.weight.dtype() ||
        type_of(part.scales) != type_of(first.scales) ||
        type_of(part.biases) != type_of(first.biases) ||
        type_of(part.bias) != type_of(first.bias)) {
      return std::nullopt;
    }
  }
  const auto join = [&](auto&& of) {
    std::vector<mx::array> arrays;
    for (const Matrix& part : parts) arrays.push_back(of(part));
    mx::array whole = mx::concatenate(arrays, 0);
    whole.eval();
    return whole;
  };
  Matrix made = first;
  made.weight = join([](const Matrix& part) { return part.weight; });
  if (first.scales) made.scales = join([](const Matrix& part) { return *part.scales; });
  if (first.biases) made.biases = join([](const Matrix& part) { return *part.biases; });
  if (first.bias) made.bias = join([](const Matrix& part) { return *part.bias; });
  if (first.transposed) made.transpose();
  return made;
}

std::vector<mx::array> products(
    const std::vector<Matrix>& matrices, const mx::array& x, std::span<const int64_t> widths,
    const std::function<mx::array(const Matrix&, const mx::array&)>& multiply) {
  std::vector<mx::array> made;
  for (const Matrix& matrix : matrices) made.push_back(multiply(matrix, x));
  if (made.size() == widths.size()) return made;
  const mx::array all = std::move(made.front());
  made.clear();
  int64_t at = 0;
  for (const int64_t width : widths) {
    made.push_back(mx::slice(all, {0, dim(at)}, {all.shape(0), dim(at + width)}));
    at += width;
  }
  return made;
}

Result<mx::Dtype> activation_type(const std::vector<const NamedTensor*>& matrices,
                                  const NamedTensor& other, bool gpu) {
  std::optional<mx::Dtype> widest;
  for (const NamedTensor* tensor : matrices) {
    DType source = tensor->view.dtype;
    if (source == DType::grouped) source = tensor->view.grouped->scale_type;
    // The scales of mxfp4 are exponents: they multiply in any type.
    if (quantised(source) || source == DType::u8) continue;
    IMPETUS_TRY(const mx::Dtype type, mlx_type(source));
    widest = widest ? mx::promote_types(*widest, type) : type;
  }
  if (widest) return *widest;
  const bool mxfp4 = std::ranges::any_of(
      matrices, [](const NamedTensor* t) { return t->view.dtype == DType::grouped; });
  if (mxfp4) return mlx_type(other.view.dtype);
  return gpu ? mx::float16 : mx::float32;
}

std::optional<mx::array> borrow_on_cpu(const std::byte* data, const mx::Shape& shape,
                                       mx::Dtype type) {
  // MLX's public constructor copies on the CPU. Its allocator's buffers begin some bytes before
  // their data; a buffer that it does not own is only ever asked for its data. Where that should
  // change, the check below fails and the caller copies.
  if (reinterpret_cast<uintptr_t>(data) % type.size() != 0) return std::nullopt;
  mx::allocator::Buffer probe = mx::allocator::allocator().malloc(16);
  const auto before =
      static_cast<const std::byte*>(probe.raw_ptr()) - static_cast<const std::byte*>(probe.ptr());
  mx::allocator::allocator().free(probe);
  auto* start = const_cast<std::byte*>(data) - before;
  mx::array array(mx::allocator::Data(mx::allocator::Buffer(start), [](mx::allocator::Buffer) {}),
                  shape, type);
  if (array.data<std::byte>() != data || array.data_shared_ptr()->is_owned()) return std::nullopt;
  return array;
}

mx::array view_of_pages(const mx::array& pages, int64_t offset, const mx::Shape& shape,
                        mx::Dtype type) {
  int64_t bytes = type.size();
  for (const auto extent : shape) bytes *= extent;
  // In two steps, since an index within a file need not fit 32 bits.
  const int64_t first = offset / kPageBytes;
  const int64_t last = (offset + bytes - 1) / kPageBytes + 1;
  const int64_t within = offset - first * kPageBytes;
  const mx::array rows = mx::slice(pages, {dim(first), 0}, {dim(last), dim(kPageBytes)});
  const mx::array flat = mx::reshape(rows, {-1});
  const mx::array part = mx::slice(flat, {dim(within)}, {dim(within + bytes)});
  return mx::reshape(mx::view(part, type), shape);
}

mx::array settle(mx::array host, bool cpu) {
  if (cpu || !Wall::get().has_gpu() || mx::metal::is_available()) return host;
  // An operation that changes nothing, since MLX's own copy would share the buffer.
  const auto type = host.dtype();
  const bool whole = type == mx::uint32 || type == mx::uint8;
  mx::array device =
      whole ? mx::bitwise_or(host, mx::array(0, type)) : mx::multiply(host, mx::array(1.0f, type));
  device.eval();
  host = mx::array(0.0f);
  drop_staging(cpu);
  return device;
}

void drop_staging(bool cpu) {
  if (cpu || !Wall::get().has_gpu() || mx::metal::is_available()) return;
  // MLX holds what an operation read until its worker has heard of the end.
  mx::synchronize(Wall::get().stream(cpu));
  mx::clear_cache();
}

Matrix repack(const TensorView& view, mx::Dtype scales) {
  const int64_t rows = view.shape.rows(), columns = view.shape.columns();
  const int64_t blocks = columns / kQuantBlock;
  const int bits = bits_of(view.dtype);
  const int64_t words = columns * bits / 32, words_a_block = bits;
  const auto size = static_cast<size_t>(rows * words) * sizeof(uint32_t);
  mx::array packed(mx::allocator::malloc(size), mx::Shape{dim(rows), dim(words)}, mx::uint32);
  std::vector<float> scale(static_cast<size_t>(rows * blocks));
  auto* out = packed.data<uint32_t>();
  const auto step = static_cast<size_t>(block_bytes(view.dtype));
  const auto pack = view.dtype == DType::q8_0 ? pack_q8_0 : pack_q4_0;
  for (int64_t i = 0; i < rows * blocks; ++i) {
    pack(view.data.data() + static_cast<size_t>(i) * step, out + i * words_a_block,
         &scale[static_cast<size_t>(i)]);
  }
  // The bias is -128 or -8 times a scale that f16 holds: in f16 a power of two more, exactly,
  // unless past its largest, which activation_type's f16 could not multiply either.
  std::vector<float> bias(scale.size());
  const float zero = view.dtype == DType::q8_0 ? -128.0f : -8.0f;
  std::ranges::transform(scale, bias.begin(), [zero](float d) { return zero * d; });
  const mx::Shape groups{dim(rows), dim(blocks)};
  Matrix matrix;
  matrix.weight = std::move(packed);
  matrix.scales = mx::astype(mx::array(scale.begin(), groups, mx::float32), scales);
  matrix.biases = mx::astype(mx::array(bias.begin(), groups, mx::float32), scales);
  matrix.bits = bits;
  matrix.group = static_cast<int>(kQuantBlock);
  return matrix;
}

DType WeightLoader::target(const NamedTensor& tensor, bool table) const {
  const DType type = tensor.view.dtype;
  if (quantised(type) || type == DType::grouped || table) return type;
  if (precision_ == WeightPrecision::int8) return DType::q8_0;
  // A narrower matrix among wider ones is widened once, not in every step.
  if (activations_ == mx::float32) return DType::f32;
  return type;
}

Result<int64_t> WeightLoader::bytes(const NamedTensor& tensor) const {
  const DType type = target(tensor, false);
  const int64_t elements = tensor.view.shape.elements();
  if (type == DType::grouped) return tensor.view.bytes();
  if (quantised(type)) {
    if (tensor.view.shape.columns() % kQuantBlock != 0) {
      return error(ErrorCode::unsupported,
                   "{}: tensor '{}': rows of {} are no whole number of blocks of {}, so it cannot "
                   "be int8",
                   weights_.path_of(tensor), tensor.name, tensor.view.shape.columns(), kQuantBlock);
    }
    return elements * bits_of(type) / 8 + elements / kQuantBlock * 2 * activations_.size();
  }
  return elements * block_bytes(type);
}

mx::array WeightLoader::stored(std::span<const std::byte> data, size_t file, const mx::Shape& shape,
                               mx::Dtype type) {
  const bool aligned = reinterpret_cast<uintptr_t>(data.data()) % type.size() == 0;
  if (!Wall::get().has_gpu()) {
    if (auto borrowed = borrow_on_cpu(data.data(), shape, type)) {
      borrowed_ += static_cast<int64_t>(data.size());
      return std::move(*borrowed);
    }
  } else if (mx::metal::is_available() && aligned && file < weights_.files().size()) {
    // Metal borrows whole pages: the file as one array, its tensors as views.
    const auto bytes = weights_.files()[file].bytes();
    if (files_.size() <= file) files_.resize(file + 1);
    auto& whole = files_[file];
    if (!whole) {
      const auto pages = (static_cast<int64_t>(bytes.size()) + kPageBytes - 1) / kPageBytes;
      whole = mx::array(const_cast<std::byte*>(bytes.data()),
                        mx::Shape{dim(pages), dim(kPageBytes)}, mx::uint8, no_deleter);
    }
    if (whole->data<std::byte>() == bytes.data()) {
      borrowed_ += static_cast<int64_t>(data.size());
      mx::array array = view_of_pages(*whole, data.data() - bytes.data(), shape, type);
      array.eval();
      return array;
    }
  }
  // An aligned copy: the bytes of a file may stand anywhere.
  mx::array host(mx::allocator::malloc(data.size()), shape, type);
  std::memcpy(host.data<std::byte>(), data.data(), data.size());
  mx::array array = settle(std::move(host), cpu_);
  weights_.release(data);
  return array;
}

// MLX's own quantisation, as it stands in the file.
Matrix WeightLoader::grouped(const NamedTensor& tensor) {
  const TensorView& view = tensor.view;
  const GroupQuantised& source = *view.grouped;
  const int64_t rows = view.shape.rows(), columns = view.shape.columns();
  const mx::Shape groups{dim(rows), dim(columns / source.group)};
  Matrix matrix;
  matrix.bits = source.bits;
  matrix.group = source.group;
  matrix.weight =
      stored(view.data, tensor.file, {dim(rows), dim(columns / 32 * source.bits)}, mx::uint32);
  if (source.mode == GroupQuantised::Mode::mxfp4) {
    matrix.mode = "mxfp4";
    matrix.scales = stored(source.scales, tensor.file, groups, mx::uint8);
    return matrix;
  }
  const auto values = [&](std::span<const std::byte> data) {
    mx::array array = stored(data, tensor.file, groups, *mlx_type(source.scale_type));
    if (array.dtype() == activations_) return array;
    array = mx::astype(array, activations_);  // wider than the file's: exact
    array.eval();
    return array;
  };
  matrix.scales = values(source.scales);
  matrix.biases = values(source.biases);
  return matrix;
}

Result<Matrix> WeightLoader::load(const NamedTensor& tensor, bool table) {
  const DType type = target(tensor, table);
  if (type == DType::grouped) return grouped(tensor);
  Matrix matrix;
  if (quantised(type)) {
    Tensor converted;
    TensorView view = tensor.view;
    if (view.dtype != type) {
      auto made = convert(view, type);
      if (!made.ok()) return std::move(made).error().within(tensor.name);
      converted = std::move(*made);
      view = converted.view();
    }
    matrix = repack(view, activations_);
    matrix.weight = settle(std::move(matrix.weight), cpu_);
    mx::eval({*matrix.scales, *matrix.biases});
    drop_staging(cpu_);
    weights_.release(tensor);
    return matrix;
  }
  IMPETUS_TRY(const mx::Dtype stands, mlx_type(tensor.view.dtype));
  matrix.weight = stored(tensor.view.data, tensor.file, shape_of(tensor.view.shape), stands);
  IMPETUS_TRY(const mx::Dtype wanted, mlx_type(type));
  if (matrix.weight.dtype() != wanted) {
    matrix.weight = mx::astype(matrix.weight, wanted);
    matrix.weight.eval();
  }
  return matrix;
}

Result<Matrix> WeightLoader::matrix(const Linear& linear) {
  IMPETUS_TRY(Matrix matrix, load(*linear.weight, false));
  if (linear.bias != nullptr) matrix.bias = vector(*linear.bias);
  matrix.transpose();
  return matrix;
}

Result<Matrix> WeightLoader::table(const NamedTensor& tensor) {
  return load(tensor, true);
}

mx::array WeightLoader::vector(const NamedTensor& tensor) const {
  const TensorView& view = tensor.view;
  std::vector<float> values(static_cast<size_t>(view.shape.elements()));
  dequantize(view.dtype, view.data.data(), view.shape.elements(), values.data());
  mx::array array = mx::astype(
      mx::array(values.begin(), mx::Shape{dim(view.shape.elements())}, mx::float32), activations_);
  array.eval();
  return array;
}

}  // namespace impetus::mlx_backend

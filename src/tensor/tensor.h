// Shapes, views and owned tensors. Row-major: the last dimension is contiguous. A weight of a
// linear layer is [out, in], so a quantised row is a whole number of blocks.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "tensor/dtype.h"
#include "tensor/grouped.h"

namespace impetus {

// At most four dimensions, each >= 0; rank 0 is a scalar.
class Shape {
 public:
  static constexpr int kRankMax = 4;

  Shape() = default;
  Shape(std::initializer_list<int64_t> dims);
  // Refuses more than four dimensions, negative ones, and products past int64.
  static Result<Shape> checked(std::span<const int64_t> dims);

  int rank() const { return rank_; }
  int64_t operator[](int i) const { return dims_[static_cast<size_t>(i)]; }
  int64_t elements() const;
  // Product of all but the last dimension, and the last one: the matrix a kernel sees.
  int64_t rows() const;
  int64_t columns() const;
  bool operator==(const Shape&) const = default;
  std::string to_string() const;  // "[out, in]"

 private:
  std::array<int64_t, kRankMax> dims_{};
  int rank_ = 0;
};

// A borrowed tensor: whoever handed it out keeps the bytes alive. `data` may be unaligned.
struct TensorView {
  DType dtype = DType::f32;
  Shape shape;
  std::span<const std::byte> data;
  const GroupQuantised* grouped = nullptr;  // REQUIRED for DType::grouped, `data` then holds codes

  // Bytes of row `i` of the matrix [rows, columns]; of its codes where it is grouped.
  std::span<const std::byte> row(int64_t i) const;
  // All bytes that the tensor needs: scales and biases of a grouped one too.
  int64_t bytes() const;
};

// The type as people read it: "bf16", "4-bit, groups of 64".
std::string type_name(const TensorView& view);

// An owned tensor, 64-byte aligned. Moves only: its bytes' place in the storage depends on the
// storage's address, and a copy is to be asked for by name (convert to the same type).
class Tensor {
 public:
  Tensor() = default;
  Tensor(Tensor&&) = default;
  Tensor& operator=(Tensor&&) = default;
  // A row of a quantised tensor must be whole blocks.
  static Result<Tensor> zeros(DType dtype, Shape shape);

  TensorView view() const { return {dtype_, shape_, {bytes(), size_}}; }
  std::span<std::byte> mutable_bytes() { return {bytes(), size_}; }

 private:
  std::byte* bytes() const;

  DType dtype_ = DType::f32;
  Shape shape_;
  std::vector<std::byte> storage_;
  size_t size_ = 0;
};

// Decodes `elements` elements, exactly, to f32. REQUIRES: is_weight(type) and not `grouped`,
// `bytes` holds them.
void dequantize(DType type, const std::byte* bytes, int64_t elements, float* out);

// Decodes row `i` of a matrix of any weight type to f32: exactly, but for `grouped` (grouped.h).
void dequantize_row(const TensorView& view, int64_t i, float* out);

// Quantises f32 rows; `columns` must be whole blocks. Q8_0: d = max|x| / 127, q = round(x / d).
// Q4_0: d = (value of largest magnitude) / -8, q = min(15, trunc(x / d + 8.5)). As ggml's
// reference.
void quantize_q8_0(const float* values, int64_t elements, BlockQ8_0* out);
void quantize_q4_0(const float* values, int64_t elements, BlockQ4_0* out);

// Converts any weight type to any but `grouped`, of the same shape (an explicit copy). What the
// target cannot hold is an error naming the row: a finite value past f16, anything that is not
// finite in a quantised type.
Result<Tensor> convert(const TensorView& source, DType target);

}  // namespace impetus

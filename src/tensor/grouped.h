// Weights quantised in groups along a row, as MLX stores them: codes, scales and biases apart
// (https://ml-explore.github.io/mlx/build/html/python/_autosummary/mlx.core.quantize.html).
//
// A row of n weights is one little-endian stream of n codes of `bits` bits, the lowest bits first:
// code i occupies bits [i * bits, (i + 1) * bits). Each `group` of them shares a scale (and a
// bias):
//   affine  w = scale * code + bias; bits 2, 3, 4, 5, 6, 8; group 32, 64, 128; scale and bias in
//           f32, f16 or bf16. Decoded here in f32, product and sum each rounded; MLX rounds both to
//           the scales' type where it dequantises, and not at all where it multiplies.
//   mxfp4   w = 2^(scale - 127) * e2m1(code); bits 4, group 32; scale a u8, 255 is NaN (OCP MX
//   v1.0)
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "tensor/dtype.h"

namespace impetus {

struct GroupQuantised {
  enum class Mode : uint8_t { affine, mxfp4 };
  Mode mode = Mode::affine;
  int bits = 4;
  int group = 64;
  DType scale_type = DType::f16;      // mxfp4: u8
  std::span<const std::byte> scales;  // [rows, columns / group]
  std::span<const std::byte> biases;  // the same; mxfp4: empty

  // Codes of one row. REQUIRES: columns is a multiple of 32.
  int64_t row_bytes(int64_t columns) const { return columns / 8 * bits; }
  std::string to_string() const;  // "4-bit, groups of 64", "mxfp4"
};

// The sixteen values of E2M1.
inline constexpr std::array<float, 16> kE2m1 = {0.0f,  0.5f,  1.0f,  1.5f,  2.0f,  3.0f,
                                                4.0f,  6.0f,  -0.0f, -0.5f, -1.0f, -1.5f,
                                                -2.0f, -3.0f, -4.0f, -6.0f};

// Codes [0, count) of a row's stream, one a byte. REQUIRES: count is a multiple of 32.
void unpack_codes(int bits, const std::byte* row, int64_t count, uint8_t* out);

// Scale and bias of group `index` (counted over all rows), exactly; a mxfp4 group has bias 0.
struct GroupScale {
  float scale = 0, bias = 0;
};
GroupScale group_scale(const GroupQuantised& grouped, int64_t index);

}  // namespace impetus

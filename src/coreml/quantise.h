// Matrices of weights in fewer bits, in the two forms that Core ML decodes:
//   int8 by output channel   w = scale[row] * q           (symmetric; scales in fp16)
//   palettes                 w = lut[group of row][index]  (fp16 entries; a group is some rows)
// Sources: constexpr_affine_dequantize, constexpr_blockwise_shift_scale, constexpr_lut_to_dense in
// coremltools/converters/mil/mil/ops/defs.
//
// Pure, any thread; the same values give the same bytes on every machine (no libm, fixed order of
// sums). Values must be finite and within fp16: convert_encoder checks that before it calls.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace impetus::coreml {

struct Int8Rows {
  std::vector<int8_t> values;    // [rows, columns], -127 .. 127
  std::vector<uint16_t> scales;  // [rows] fp16 bits, > 0
};

// Each row's scale is the smallest fp16 that keeps its largest magnitude within 127: the error of a
// weight is at most scale / 2. A row of zeros has scale 1.
Int8Rows quantise_int8(std::span<const float> weights, int64_t rows, int64_t columns);

struct Palette {
  int bits = 8;                  // of an index: 1 .. 8
  int64_t groups = 1;            // of rows / groups rows each
  std::vector<uint16_t> lut;     // [groups, 1 << bits] fp16 bits, ascending within a group
  std::vector<uint8_t> indices;  // [rows, columns], one a byte
};

// One-dimensional k-means over the fp16 values of each group: seeds where a density of quantisers
// is best placed (f^(1/3) for a density f: Panter and Dite 1951; here f^(3/8), which square roots
// reach), then Lloyd's iteration over the sorted, counted values. Groups with no more distinct
// values than entries are exact. REQUIRES rows % groups == 0.
Palette palettise(std::span<const float> weights, int64_t rows, int64_t columns, int bits,
                  int64_t groups);

// The values that a device decodes, rounded to fp16 as its weights are.
std::vector<float> dequantise(const Int8Rows& rows);
std::vector<float> dequantise(const Palette& palette);

// Sum over (a - b)^2, in double. REQUIRES as many values in both.
double squared_error(std::span<const float> a, std::span<const float> b);

// Indices of `bits` each, packed from the least significant bit of the first byte.
std::vector<std::byte> packed(std::span<const uint8_t> indices, int bits);

// How many groups of at least `rows_min` rows, all alike, `rows` can be cut into; 1 where it
// cannot.
int64_t groups_of(int64_t rows, int64_t rows_min);

}  // namespace impetus::coreml

// Element types, including block-quantised ones, and the exact meaning of their bytes.
//
// Formats: ggml's Q8_0 and Q4_0 as GGUF stores them (32 weights a block, one f16 scale):
//   Q8_0: f16 d; int8 q[32];      w[i] = d * q[i]
//   Q4_0: f16 d; uint8 q[16];     w[i] = d * ((q[i] & 15) - 8), w[i+16] = d * ((q[i] >> 4) - 8)
// (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md). All are little-endian.
// `grouped` is MLX's quantisation, whose codes and scales lie apart: grouped.h.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

namespace impetus {

enum class DType : uint8_t { f32, f16, bf16, q8_0, q4_0, grouped, i64, i32, i8, u32, u8 };

std::string_view to_string(DType type);

// Elements in one block: 1 for plain types, 32 for the quantised ones (a group is one or more).
int64_t block_elements(DType type);
// Bytes of one block. REQUIRES: not `grouped`, whose size the view's GroupQuantised tells.
int64_t block_bytes(DType type);
// Bytes of `elements` consecutive elements; nullopt if that is no whole number of blocks or
// overflows, and for `grouped`.
std::optional<int64_t> bytes_of(DType type, int64_t elements);
// Whether elements can be decoded to f32 weights.
bool is_weight(DType type);

inline constexpr int64_t kQuantBlock = 32;

struct BlockQ8_0 {
  uint16_t d;  // f16
  int8_t q[32];
};
static_assert(sizeof(BlockQ8_0) == 34);

struct BlockQ4_0 {
  uint16_t d;  // f16
  uint8_t q[16];
};
static_assert(sizeof(BlockQ4_0) == 18);

// IEEE half <-> float, exact one way, round-to-nearest-even the other; NaN stays NaN.
float f16_to_f32(uint16_t bits);
uint16_t f32_to_f16(float value);
// bfloat16: the upper half of a float; rounding to nearest even, NaN stays NaN.
float bf16_to_f32(uint16_t bits);
uint16_t f32_to_bf16(float value);

}  // namespace impetus

#include "tensor/grouped.h"

#include <bit>
#include <cstring>
#include <limits>

#include <fmt/format.h>

namespace impetus {
namespace {

float scale_at(DType type, std::span<const std::byte> values, int64_t index) {
  const std::byte* at = values.data() + index * block_bytes(type);
  if (type == DType::f32) {
    float value;
    std::memcpy(&value, at, sizeof value);
    return value;
  }
  uint16_t bits;
  std::memcpy(&bits, at, sizeof bits);
  return type == DType::f16 ? f16_to_f32(bits) : bf16_to_f32(bits);
}

// 2^(exponent - 127); 0 is 2^-127, which f32 holds as a subnormal.
float e8m0(uint8_t exponent) {
  if (exponent == 255) return std::numeric_limits<float>::quiet_NaN();
  return exponent == 0 ? 0x1p-127f : std::bit_cast<float>(static_cast<uint32_t>(exponent) << 23);
}

}  // namespace

std::string GroupQuantised::to_string() const {
  if (mode == Mode::mxfp4) return "mxfp4";
  return fmt::format("{}-bit, groups of {}", bits, group);
}

void unpack_codes(int bits, const std::byte* row, int64_t count, uint8_t* out) {
  const auto mask = static_cast<uint8_t>((1u << bits) - 1);
  // Eight codes are `bits` whole bytes.
  for (int64_t i = 0; i < count; i += 8, row += bits) {
    uint64_t word = 0;
    std::memcpy(&word, row, static_cast<size_t>(bits));
    for (int j = 0; j < 8; ++j) out[i + j] = static_cast<uint8_t>(word >> (j * bits)) & mask;
  }
}

GroupScale group_scale(const GroupQuantised& grouped, int64_t index) {
  if (grouped.mode == GroupQuantised::Mode::mxfp4) {
    return {e8m0(static_cast<uint8_t>(grouped.scales[static_cast<size_t>(index)])), 0};
  }
  return {scale_at(grouped.scale_type, grouped.scales, index),
          scale_at(grouped.scale_type, grouped.biases, index)};
}

}  // namespace impetus

#include "backend/kv_handoff.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <cstring>

namespace impetus {
namespace {

// As quantize_q8_0, but that a block which is not finite stays so: its scale is NaN.
void quantise_kv(const float* values, int64_t elements, std::byte* out) {
  for (int64_t first = 0; first < elements; first += kQuantBlock, out += sizeof(BlockQ8_0)) {
    BlockQ8_0 block = {0x7e00, {}};
    if (std::all_of(values + first, values + first + kQuantBlock,
                    [](float value) { return std::isfinite(value); })) {
      quantize_q8_0(values + first, kQuantBlock, &block);
    }
    std::memcpy(out, &block, sizeof(block));
  }
}

}  // namespace

int64_t kv_bytes(const KvShape& shape, int64_t positions, DType type) {
  return shape.elements() * positions / block_elements(type) * block_bytes(type);
}

Result<void> check_kv_type(DType type, int64_t head_dim) {
  if (type != DType::f32 && type != DType::f16 && type != DType::bf16 && type != DType::q8_0) {
    return error(ErrorCode::unsupported, "KV in {}: it is kept in f32, f16, bf16 or q8_0",
                 to_string(type));
  }
  if (head_dim % block_elements(type) != 0) {
    return error(ErrorCode::unsupported,
                 "KV in {}: heads of {} are no multiple of its blocks of {}; f16 takes any",
                 to_string(type), head_dim, block_elements(type));
  }
  return {};
}

Result<void> check_handoff(const KvStorage& kv, BlockId block, int32_t begin, int32_t end,
                           DType type, size_t bytes) {
  IMPETUS_CHECK(check_kv_type(type, kv.shape().head_dim));
  if (block < 0 || block >= kv.blocks() || begin < 0 || begin >= end || end > kv.block_tokens()) {
    return error(ErrorCode::invalid_argument,
                 "positions [{}, {}) of KV block {}: there are {} blocks of {} positions", begin,
                 end, block, kv.blocks(), kv.block_tokens());
  }
  const int64_t needed = kv_bytes(kv.shape(), end - begin, type);
  if (static_cast<int64_t>(bytes) != needed) {
    return error(ErrorCode::invalid_argument, "{} bytes for {} positions of KV, which are {}",
                 bytes, end - begin, needed);
  }
  return {};
}

void convert_kv(DType from, std::span<const std::byte> in, DType to, std::span<std::byte> out) {
  if (from == to) {
    std::memcpy(out.data(), in.data(), in.size());
    return;
  }
  const auto bytes = [](DType type, size_t elements) {
    return static_cast<size_t>(bytes_of(type, static_cast<int64_t>(elements)).value());
  };
  const size_t count = in.size() / static_cast<size_t>(block_bytes(from)) *
                       static_cast<size_t>(block_elements(from));
  assert(bytes(to, count) == out.size());
  // In pieces: from a type to f32 is exact, so the only rounding is the last one.
  constexpr size_t kPiece = 256;
  static_assert(kPiece % kQuantBlock == 0);
  float values[kPiece];
  for (size_t first = 0; first < count; first += kPiece) {
    const size_t n = std::min(kPiece, count - first);
    dequantize(from, in.data() + bytes(from, first), static_cast<int64_t>(n), values);
    std::byte* to_bytes = out.data() + bytes(to, first);
    if (to == DType::f32) {
      std::memcpy(to_bytes, values, bytes(to, n));
      continue;
    }
    if (to == DType::q8_0) {
      quantise_kv(values, static_cast<int64_t>(n), to_bytes);
      continue;
    }
    for (size_t i = 0; i < n; ++i) {
      const uint16_t bits = to == DType::f16 ? f32_to_f16(values[i]) : f32_to_bf16(values[i]);
      std::memcpy(to_bytes + i * sizeof(bits), &bits, sizeof(bits));
    }
  }
}

Result<void> hand_over(const KvStorage& from, KvStorage& to, BlockId id, int32_t begin, int32_t end,
                       std::vector<std::byte>& scratch) {
  scratch.resize(static_cast<size_t>(kv_bytes(from.shape(), end - begin, from.dtype())));
  IMPETUS_CHECK(from.export_block(id, begin, end, scratch));
  return to.import_block(id, begin, end, from.dtype(), scratch);
}

}  // namespace impetus

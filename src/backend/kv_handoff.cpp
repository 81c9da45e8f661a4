#include "backend/kv_handoff.h"

#include <cassert>
#include <cstring>

namespace impetus {

int64_t kv_bytes(const KvShape& shape, int64_t positions, DType type) {
  return shape.elements() * positions * block_bytes(type);
}

Result<void> check_handoff(const KvStorage& kv, BlockId block, int32_t begin, int32_t end,
                           DType type, size_t bytes) {
  if (type != DType::f32 && type != DType::f16 && type != DType::bf16) {
    return error(ErrorCode::unsupported, "KV in {}: it is handed over in f32, f16 or bf16",
                 to_string(type));
  }
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
  const auto width = static_cast<size_t>(block_bytes(to));
  const size_t count = in.size() / static_cast<size_t>(block_bytes(from));
  assert(count * width == out.size());
  // In pieces: from a type to f32 is exact, so the only rounding is the last one.
  constexpr size_t kPiece = 256;
  float values[kPiece];
  for (size_t first = 0; first < count; first += kPiece) {
    const size_t n = std::min(kPiece, count - first);
    dequantize(from, in.data() + first * static_cast<size_t>(block_bytes(from)),
               static_cast<int64_t>(n), values);
    std::byte* to_bytes = out.data() + first * width;
    if (to == DType::f32) {
      std::memcpy(to_bytes, values, n * width);
      continue;
    }
    for (size_t i = 0; i < n; ++i) {
      const uint16_t bits = to == DType::f16 ? f32_to_f16(values[i]) : f32_to_bf16(values[i]);
      std::memcpy(to_bytes + i * width, &bits, width);
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

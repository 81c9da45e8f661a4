#include "cpu/kv_storage.h"

#include <limits>

namespace impetus::cpu {

Result<std::unique_ptr<CpuKvStorage>> CpuKvStorage::create(const ModelSpec& spec, DType dtype,
                                                           int64_t tokens, MemoryLedger& ledger) {
  std::unique_ptr<CpuKvStorage> kv(new CpuKvStorage);
  switch (dtype) {
    case DType::f32:
      kv->kernel_type_ = KvType::f32;
      break;
    case DType::f16:
      kv->kernel_type_ = KvType::f16;
      break;
    case DType::bf16:
      kv->kernel_type_ = KvType::bf16;
      break;
    default:
      return error(ErrorCode::unsupported, "KV cache in {}: the CPU keeps f32, f16 or bf16",
                   to_string(dtype));
  }
  if (tokens < 1) {
    return error(ErrorCode::invalid_argument, "a KV cache of {} positions: at least 1 is needed",
                 tokens);
  }
  kv->dtype_ = dtype;
  kv->heads_ = spec.kv_heads;
  kv->tile_bytes_ = kBlockTokens * spec.head_dim * ::impetus::block_bytes(dtype);
  int64_t total = 0;
  const int64_t blocks = (tokens - 1) / kBlockTokens + 1;
  if (blocks > std::numeric_limits<int32_t>::max() ||
      __builtin_mul_overflow(spec.layers * 2 * spec.kv_heads, kv->tile_bytes_, &kv->block_bytes_) ||
      __builtin_mul_overflow(blocks, kv->block_bytes_, &total)) {
    return error(ErrorCode::insufficient_memory,
                 "a KV cache of {} positions is more than any memory", tokens);
  }
  kv->blocks_ = static_cast<int32_t>(blocks);
  const auto purpose = fmt::format("{}: KV cache of {} positions in {}", spec.family,
                                   blocks * kBlockTokens, to_string(dtype));
  IMPETUS_TRY(kv->reservation_, ledger.reserve(total, purpose));
  // No large pages: a short conversation would touch far more than it uses.
  IMPETUS_TRY(kv->memory_, Memory::map(total, purpose, false));
  return kv;
}

}  // namespace impetus::cpu

#include "cpu/kv_storage.h"

#include <cstring>
#include <limits>

#include "backend/kv_handoff.h"

namespace impetus::cpu {
namespace {

// One head's tiles of a block hold position `slot` of element i at keys[i * 16 + slot] and
// values[slot * head_dim + i]. Calls `move(element, index in the neutral layout)` for all of
// [begin, end), in the neutral layout's order.
template <typename Element, typename Move>
void walk(const CpuKvStorage& kv, BlockId block, int32_t begin, int32_t end, Move&& move) {
  const KvShape shape = kv.shape();
  const int64_t width = shape.head_dim;
  int64_t at = 0;
  for (int64_t layer = 0; layer < shape.layers; ++layer) {
    for (int64_t head = 0; head < shape.kv_heads; ++head) {
      auto* tile = reinterpret_cast<Element*>(kv.keys(block, layer, head));
      for (int64_t slot = begin; slot < end; ++slot) {
        for (int64_t i = 0; i < width; ++i, ++at) {
          move(tile[i * CpuKvStorage::kBlockTokens + slot], at);
        }
      }
    }
    for (int64_t head = 0; head < shape.kv_heads; ++head) {
      auto* tile = reinterpret_cast<Element*>(kv.values(block, layer, head));
      for (int64_t slot = begin; slot < end; ++slot) {
        for (int64_t i = 0; i < width; ++i, ++at) move(tile[slot * width + i], at);
      }
    }
  }
}

template <typename Element>
void export_as(const CpuKvStorage& kv, BlockId block, int32_t begin, int32_t end,
               std::span<std::byte> out) {
  walk<Element>(kv, block, begin, end, [&](const Element& element, int64_t at) {
    std::memcpy(out.data() + at * static_cast<int64_t>(sizeof element), &element, sizeof element);
  });
}

template <typename Element>
void import_as(const CpuKvStorage& kv, BlockId block, int32_t begin, int32_t end,
               std::span<const std::byte> in) {
  walk<Element>(kv, block, begin, end, [&](Element& element, int64_t at) {
    std::memcpy(&element, in.data() + at * static_cast<int64_t>(sizeof element), sizeof element);
  });
}

}  // namespace

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
      return error(ErrorCode::unsupported,
                   "KV cache in {}: the CPU keeps f32, f16 or bf16 (q8_0: mlx alone)",
                   to_string(dtype));
  }
  if (tokens < 1) {
    return error(ErrorCode::invalid_argument, "a KV cache of {} positions: at least 1 is needed",
                 tokens);
  }
  kv->dtype_ = dtype;
  kv->shape_ = {spec.layers, spec.kv_heads, spec.head_dim};
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

Result<void> CpuKvStorage::export_block(BlockId block, int32_t begin, int32_t end,
                                        std::span<std::byte> out) const {
  IMPETUS_CHECK(check_handoff(*this, block, begin, end, dtype_, out.size()));
  if (dtype_ == DType::f32) {
    export_as<uint32_t>(*this, block, begin, end, out);
  } else {
    export_as<uint16_t>(*this, block, begin, end, out);
  }
  return {};
}

Result<void> CpuKvStorage::import_block(BlockId block, int32_t begin, int32_t end, DType type,
                                        std::span<const std::byte> in) {
  IMPETUS_CHECK(check_handoff(*this, block, begin, end, type, in.size()));
  std::vector<std::byte> rounded;
  if (type != dtype_) {
    rounded.resize(static_cast<size_t>(kv_bytes(shape_, end - begin, dtype_)));
    convert_kv(type, in, dtype_, rounded);
    in = rounded;
  }
  if (dtype_ == DType::f32) {
    import_as<uint32_t>(*this, block, begin, end, in);
  } else {
    import_as<uint16_t>(*this, block, begin, end, in);
  }
  return {};
}

}  // namespace impetus::cpu

// Keys and values of all layers in blocks of kBlockTokens positions: one region a model, reserved
// in the ledger, mapped at once and touched lazily.
//
// A block is contiguous: [layers][2: keys, values][kv_heads] tiles, each tile as kernels.h lays out
// one block of one head (keys [block_tokens / 16][head_dim][16], values [block_tokens][head_dim]).
#pragma once

#include <memory>

#include "backend/executor.h"
#include "cpu/kernels/kernels.h"
#include "cpu/memory.h"

namespace impetus::cpu {

class CpuKvStorage : public KvStorage {
 public:
  static constexpr int32_t kBlockTokens = 16;

  // unsupported for a dtype that is none of f32, f16, bf16.
  static Result<std::unique_ptr<CpuKvStorage>> create(const ModelSpec& spec, DType dtype,
                                                      int64_t tokens, MemoryLedger& ledger);

  int32_t blocks() const override { return blocks_; }
  int32_t block_tokens() const override { return kBlockTokens; }
  int64_t block_bytes() const override { return block_bytes_; }
  DType dtype() const override { return dtype_; }
  KvShape shape() const override { return shape_; }
  Result<void> export_block(BlockId block, int32_t begin, int32_t end,
                            std::span<std::byte> out) const override;
  Result<void> import_block(BlockId block, int32_t begin, int32_t end, DType type,
                            std::span<const std::byte> in) override;

  KvType kernel_type() const { return kernel_type_; }
  std::byte* keys(BlockId block, int64_t layer, int64_t head) const {
    return memory_.data() + block * block_bytes_ +
           (layer * 2 * shape_.kv_heads + head) * tile_bytes_;
  }
  std::byte* values(BlockId block, int64_t layer, int64_t head) const {
    return keys(block, layer, head) + shape_.kv_heads * tile_bytes_;
  }

 private:
  CpuKvStorage() = default;

  DType dtype_ = DType::f16;
  KvType kernel_type_ = KvType::f16;
  KvShape shape_;
  int32_t blocks_ = 0;
  int64_t tile_bytes_ = 0;
  int64_t block_bytes_ = 0;
  Reservation reservation_;
  Memory memory_;
};

}  // namespace impetus::cpu

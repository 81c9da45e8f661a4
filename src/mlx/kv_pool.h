// Keys and values of all layers as MLX keeps them: two arrays a layer, [kv_heads, slots, head_dim],
// with position p of a block in slot block * kBlockTokens + p % kBlockTokens. Includes MLX: only
// the sources of this folder include this.
//
// Written in place: MLX lets an operation take over its input's buffer where nobody else holds it.
// So a pool's array is held once, here, and a step begins only when the one before has come to its
// end. A write that had to copy the pool is counted (`copies`), and shows in no step of a test.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "mlx/step_plan.h"
#include "mlx/wall.h"

namespace impetus::mlx_backend {

class KvPool final : public KvStorage {
 public:
  static constexpr int32_t kBlockTokens = 16;

  // `direct`: KV is handed over through host pointers, else by operations on the device.
  static Result<std::unique_ptr<KvPool>> create(const ModelSpec& spec, DType dtype, int64_t tokens,
                                                bool cpu, bool direct, MemoryLedger& ledger);

  int32_t blocks() const override { return blocks_; }
  int32_t block_tokens() const override { return kBlockTokens; }
  int64_t block_bytes() const override { return block_bytes_; }
  DType dtype() const override { return dtype_; }
  KvShape shape() const override { return shape_; }
  Result<void> export_block(BlockId block, int32_t begin, int32_t end,
                            std::span<std::byte> out) const override;
  Result<void> import_block(BlockId block, int32_t begin, int32_t end, DType type,
                            std::span<const std::byte> in) override;

  mx::Dtype type() const { return type_; }
  const mx::array& keys(int64_t layer) const { return arrays_[static_cast<size_t>(layer) * 2]; }
  const mx::array& values(int64_t layer) const {
    return arrays_[static_cast<size_t>(layer) * 2 + 1];
  }
  // [kv_heads, n, head_dim] into runs of n slots together.
  void write_runs(int64_t layer, std::span<const SlotRun> runs, const mx::array& keys,
                  const mx::array& values);
  // [n, kv_heads, 1, head_dim], row i into slot `slots[i]` (i32 [n], each once).
  void write_rows(int64_t layer, const mx::array& slots, const mx::array& keys,
                  const mx::array& values);

  // All arrays, to be evaluated with a step's results.
  const std::vector<mx::array>& arrays() const { return arrays_; }
  // After a step that came to its end.
  void settle();
  // After one that failed: back to what was evaluated last; what the step wrote is undefined.
  void recover();
  int64_t copies() const { return copies_; }

  // What must come to its end before anyone but a step touches the pool (work run ahead).
  void set_barrier(std::function<void()> barrier) { barrier_ = std::move(barrier); }

 private:
  KvPool() = default;
  std::byte* host(size_t array) const;

  DType dtype_ = DType::f16;
  mx::Dtype type_ = mx::float16;
  KvShape shape_;
  int32_t blocks_ = 0;
  int64_t block_bytes_ = 0;
  bool cpu_ = false, direct_ = true;
  Reservation reservation_;
  LimitShare limit_;
  std::vector<mx::array> arrays_;  // [layers * 2]
  std::vector<const void*> buffers_;
  int64_t copies_ = 0;
  std::function<void()> barrier_;
};

}  // namespace impetus::mlx_backend

// Keys and values of all layers as MLX keeps them: two arrays a layer, [kv_heads, slots, head_dim],
// with position p of a block in slot block * kBlockTokens + p % kBlockTokens. Includes MLX: only
// the sources of this folder include this.
//
// In q8_0 an array has codes (i8), and another one the scales of 32 of them (f16), as tensor.h
// says; attention reads both as values of the activations' type.
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

// Keys or values of a layer as MLX's attention reads them: [kv_heads, n, head_dim].
class KvRows {
 public:
  // `scales`: null for what is not quantised.
  KvRows(const mx::array& pool, const mx::array* scales, mx::Dtype type)
      : pool_(pool), scales_(scales), type_(type) {}
  // Slots of a run: a view, unless quantised.
  mx::array run(const SlotRun& run) const;
  // Slots [n], i32.
  mx::array at(const mx::array& slots) const;
  int kv_heads() const { return pool_.shape(0); }

 private:
  mx::array values(const mx::array& codes, const mx::array& scales) const;

  const mx::array& pool_;
  const mx::array* scales_;
  mx::Dtype type_;
};

class KvPool final : public KvStorage {
 public:
  static constexpr int32_t kBlockTokens = 16;

  // `direct`: KV is handed over through host pointers, else by operations on the device.
  // `activations`: what attention reads where `dtype` is quantised.
  static Result<std::unique_ptr<KvPool>> create(const ModelSpec& spec, DType dtype,
                                                mx::Dtype activations, int64_t tokens, bool cpu,
                                                bool direct, MemoryLedger& ledger);

  int32_t blocks() const override { return blocks_; }
  int32_t block_tokens() const override { return kBlockTokens; }
  int64_t block_bytes() const override { return block_bytes_; }
  DType dtype() const override { return dtype_; }
  KvShape shape() const override { return shape_; }
  Result<void> export_block(BlockId block, int32_t begin, int32_t end,
                            std::span<std::byte> out) const override;
  Result<void> import_block(BlockId block, int32_t begin, int32_t end, DType type,
                            std::span<const std::byte> in) override;

  // What attention reads: of the arrays, unless they are quantised.
  mx::Dtype type() const { return type_; }
  bool quantised() const { return dtype_ == DType::q8_0; }
  // As they stand: for kernels of our own.
  const mx::array& keys(int64_t layer) const { return arrays_[index(layer, 0)]; }
  const mx::array& values(int64_t layer) const { return arrays_[index(layer, 1)]; }
  KvRows key_rows(int64_t layer) const { return rows(index(layer, 0)); }
  KvRows value_rows(int64_t layer) const { return rows(index(layer, 1)); }
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
  static size_t index(int64_t layer, int which) { return static_cast<size_t>(layer * 2 + which); }
  // Where the scales of an array of codes are.
  size_t scales_of(size_t array) const { return array + static_cast<size_t>(shape_.layers) * 2; }
  KvRows rows(size_t array) const {
    return {arrays_[array], quantised() ? &arrays_[scales_of(array)] : nullptr, type_};
  }
  template <typename Write>
  void write(int64_t layer, const mx::array& keys, const mx::array& values, const Write& write);
  template <typename Move>
  void walk(BlockId block, int32_t begin, int32_t end, const Move& move) const;
  static void to_blocks(std::span<const std::byte> parts, std::span<std::byte> out);
  static void from_blocks(std::span<const std::byte> in, std::span<std::byte> parts);
  std::byte* host(size_t array) const;

  DType dtype_ = DType::f16;
  mx::Dtype type_ = mx::float16;
  KvShape shape_;
  int32_t blocks_ = 0;
  int64_t block_bytes_ = 0;
  bool cpu_ = false, direct_ = true;
  Reservation reservation_;
  LimitShare limit_;
  std::vector<mx::array> arrays_;  // [layers * 2], then as many of scales where quantised
  std::vector<const void*> buffers_;
  int64_t copies_ = 0;
  std::function<void()> barrier_;
};

}  // namespace impetus::mlx_backend

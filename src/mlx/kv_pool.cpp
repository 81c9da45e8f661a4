#include "mlx/kv_pool.h"

#include <cstring>
#include <limits>

#include "backend/kv_handoff.h"

namespace impetus::mlx_backend {

Result<std::unique_ptr<KvPool>> KvPool::create(const ModelSpec& spec, DType dtype, int64_t tokens,
                                               bool cpu, bool direct, MemoryLedger& ledger) {
  std::unique_ptr<KvPool> pool(new KvPool);
  const auto type = mlx_type(dtype);
  if (!type.ok()) {
    return error(ErrorCode::unsupported, "KV cache in {}: MLX keeps f32, f16 or bf16",
                 to_string(dtype));
  }
  if (tokens < 1) {
    return error(ErrorCode::invalid_argument, "a KV cache of {} positions: at least 1 is needed",
                 tokens);
  }
  pool->dtype_ = dtype;
  pool->type_ = *type;
  pool->shape_ = {spec.layers, spec.kv_heads, spec.head_dim};
  pool->cpu_ = cpu;
  pool->direct_ = direct;
  const int64_t blocks = (tokens - 1) / kBlockTokens + 1;
  pool->block_bytes_ = kv_bytes(pool->shape_, kBlockTokens, dtype);
  int64_t total = 0;
  // Slots are 32-bit indices of MLX's.
  if (blocks > std::numeric_limits<int32_t>::max() / kBlockTokens ||
      __builtin_mul_overflow(blocks, pool->block_bytes_, &total)) {
    return error(ErrorCode::insufficient_memory,
                 "a KV cache of {} positions is more than any memory", tokens);
  }
  pool->blocks_ = static_cast<int32_t>(blocks);
  IMPETUS_TRY(pool->reservation_,
              ledger.reserve(total, fmt::format("{}: KV cache of {} positions in {}", spec.family,
                                                blocks * kBlockTokens, to_string(dtype))));
  pool->limit_ = LimitShare(total);
  const mx::Shape shape{dim(spec.kv_heads), dim(blocks * kBlockTokens), dim(spec.head_dim)};
  const auto bytes = static_cast<size_t>(total / (spec.layers * 2));
  for (int64_t i = 0; i < spec.layers * 2; ++i) {
    if (cpu || !Wall::get().has_gpu()) {
      // Not filled: the system gives the pages as they are written, and none is read before.
      auto data = mx::allocator::malloc(bytes);
      if (data.buffer().ptr() == nullptr) {
        return error(ErrorCode::insufficient_memory, "the system has no {} bytes for a KV cache",
                     total);
      }
      pool->arrays_.emplace_back(std::move(data), shape, pool->type_);
    } else {
      pool->arrays_.push_back(mx::zeros(shape, pool->type_));
      pool->arrays_.back().eval();
    }
    pool->buffers_.push_back(pool->arrays_.back().buffer().ptr());
  }
  return pool;
}

void KvPool::write_runs(int64_t layer, std::span<const SlotRun> runs, const mx::array& keys,
                        const mx::array& values) {
  const auto heads = dim(shape_.kv_heads), width = dim(shape_.head_dim);
  int64_t at = 0;
  for (const SlotRun& run : runs) {
    const int64_t count = run.end - run.begin;
    const auto write = [&](mx::array& pool, const mx::array& from) {
      mx::array part = runs.size() == 1
                           ? from
                           : mx::slice(from, {0, dim(at), 0}, {heads, dim(at + count), width});
      pool = mx::slice_update(pool, part, {0, dim(run.begin), 0}, {heads, dim(run.end), width});
    };
    write(arrays_[static_cast<size_t>(layer) * 2], keys);
    write(arrays_[static_cast<size_t>(layer) * 2 + 1], values);
    at += count;
  }
}

void KvPool::write_rows(int64_t layer, const mx::array& slots, const mx::array& keys,
                        const mx::array& values) {
  for (const auto& [index, from] : {std::pair{0, &keys}, {1, &values}}) {
    mx::array& pool = arrays_[static_cast<size_t>(layer * 2 + index)];
    pool = mx::scatter(pool, slots, *from, 1);
  }
}

void KvPool::settle() {
  for (size_t i = 0; i < arrays_.size(); ++i) {
    const void* buffer = arrays_[i].buffer().ptr();
    if (buffer == buffers_[i]) continue;
    buffers_[i] = buffer;
    ++copies_;
  }
}

void KvPool::recover() {
  for (mx::array& array : arrays_) {
    // What was not evaluated still holds what it was to be made of: its first input is the pool.
    while (array.status() == mx::array::Status::unscheduled && !array.inputs().empty()) {
      mx::array before = array.inputs().front();
      array = std::move(before);
    }
  }
}

std::byte* KvPool::host(size_t array) const {
  return const_cast<mx::array&>(arrays_[array]).data<std::byte>();
}

Result<void> KvPool::export_block(BlockId block, int32_t begin, int32_t end,
                                  std::span<std::byte> out) const {
  IMPETUS_CHECK(check_handoff(*this, block, begin, end, dtype_, out.size()));
  return entered("KV export", cpu_, [&]() -> Result<void> {
    if (barrier_) barrier_();
    const int64_t first = int64_t{block} * kBlockTokens + begin;
    const int64_t slots = int64_t{blocks_} * kBlockTokens;
    const int64_t row = shape_.head_dim * static_cast<int64_t>(type_.size());
    const auto bytes = static_cast<size_t>((end - begin) * row);
    if (direct_) {
      std::byte* to = out.data();
      for (size_t i = 0; i < arrays_.size(); ++i) {
        for (int64_t head = 0; head < shape_.kv_heads; ++head, to += bytes) {
          std::memcpy(to, host(i) + (head * slots + first) * row, bytes);
        }
      }
      return {};
    }
    std::vector<mx::array> parts;
    for (const mx::array& array : arrays_) {
      parts.push_back(
          mx::slice(array, {0, dim(first), 0},
                    {dim(shape_.kv_heads), dim(first + end - begin), dim(shape_.head_dim)}));
    }
    mx::array all = mx::contiguous(mx::concatenate(parts, 0));
    all.eval();
    std::memcpy(out.data(), all.data<std::byte>(), out.size());
    // The slices are gone before the next step writes, or it would copy the pool.
    parts.clear();
    mx::synchronize(Wall::get().stream(cpu_));
    return {};
  });
}

Result<void> KvPool::import_block(BlockId block, int32_t begin, int32_t end, DType type,
                                  std::span<const std::byte> in) {
  IMPETUS_CHECK(check_handoff(*this, block, begin, end, type, in.size()));
  return entered("KV import", cpu_, [&]() -> Result<void> {
    if (barrier_) barrier_();
    std::vector<std::byte> rounded;
    if (type != dtype_) {
      rounded.resize(static_cast<size_t>(kv_bytes(shape_, end - begin, dtype_)));
      convert_kv(type, in, dtype_, rounded);
      in = rounded;
    }
    const int64_t first = int64_t{block} * kBlockTokens + begin;
    const int64_t slots = int64_t{blocks_} * kBlockTokens;
    const int64_t row = shape_.head_dim * static_cast<int64_t>(type_.size());
    const auto bytes = static_cast<size_t>((end - begin) * row);
    const std::byte* from = in.data();
    if (direct_) {
      for (size_t i = 0; i < arrays_.size(); ++i) {
        for (int64_t head = 0; head < shape_.kv_heads; ++head, from += bytes) {
          std::memcpy(host(i) + (head * slots + first) * row, from, bytes);
        }
      }
      return {};
    }
    const mx::Shape shape{dim(shape_.kv_heads), end - begin, dim(shape_.head_dim)};
    const auto part = bytes * static_cast<size_t>(shape_.kv_heads);
    try {
      for (mx::array& array : arrays_) {
        mx::array values(mx::allocator::malloc(part), shape, type_);
        std::memcpy(values.data<std::byte>(), from, part);
        from += part;
        array = mx::slice_update(
            array, values, {0, dim(first), 0},
            {dim(shape_.kv_heads), dim(first + end - begin), dim(shape_.head_dim)});
      }
      mx::eval(arrays_);
      mx::synchronize(Wall::get().stream(cpu_));
    } catch (...) {
      recover();
      throw;
    }
    settle();
    return {};
  });
}

}  // namespace impetus::mlx_backend

#include "mlx/kv_pool.h"

#include <cstring>
#include <limits>

#include "backend/kv_handoff.h"

namespace impetus::mlx_backend {
namespace {

// values [.., n * 32] -> codes i8, the same shape, and scales f16 [.., n]. As quantize_q8_0, but of
// halves to the even one. What is not finite has no finite scale.
std::pair<mx::array, mx::array> quantised_rows(const mx::array& values) {
  mx::Shape blocks = values.shape();
  blocks.back() /= kQuantBlock;
  const mx::Shape scales = blocks;
  blocks.push_back(kQuantBlock);
  const mx::array x = mx::reshape(mx::astype(values, mx::float32), blocks);
  const mx::array d = mx::divide(mx::max(mx::abs(x), -1, true), mx::array(127.0f));
  // Of a block of zeros any quantum will do.
  const mx::array codes = mx::round(mx::divide(x, mx::maximum(d, mx::array(1e-30f))));
  return {mx::reshape(mx::astype(codes, mx::int8), values.shape()),
          mx::reshape(mx::astype(d, mx::float16), scales)};
}

}  // namespace

mx::array KvRows::values(const mx::array& codes, const mx::array& scales) const {
  mx::Shape blocks = scales.shape();
  blocks.push_back(kQuantBlock);
  // Rounded once: bf16 has fewer bits than a scale.
  const mx::Dtype wide = type_ == mx::bfloat16 ? mx::float32 : type_;
  const mx::array made = mx::multiply(mx::astype(mx::reshape(codes, blocks), wide),
                                      mx::expand_dims(mx::astype(scales, wide), -1));
  return mx::reshape(mx::astype(made, type_), codes.shape());
}

mx::array KvRows::run(const SlotRun& run) const {
  const auto part = [&](const mx::array& of) {
    return mx::slice(of, {0, dim(run.begin), 0}, {of.shape(0), dim(run.end), of.shape(2)});
  };
  return scales_ == nullptr ? part(pool_) : values(part(pool_), part(*scales_));
}

mx::array KvRows::at(const mx::array& slots) const {
  const mx::array taken = mx::take(pool_, slots, 1);
  return scales_ == nullptr ? taken : values(taken, mx::take(*scales_, slots, 1));
}

Result<std::unique_ptr<KvPool>> KvPool::create(const ModelSpec& spec, DType dtype,
                                               mx::Dtype activations, int64_t tokens, bool cpu,
                                               bool direct, MemoryLedger& ledger) {
  std::unique_ptr<KvPool> pool(new KvPool);
  IMPETUS_CHECK(check_kv_type(dtype, spec.head_dim));
  if (tokens < 1) {
    return error(ErrorCode::invalid_argument, "a KV cache of {} positions: at least 1 is needed",
                 tokens);
  }
  pool->dtype_ = dtype;
  const bool quantised = pool->quantised();
  pool->type_ = quantised ? activations : *mlx_type(dtype);
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
  const auto add = [&](int64_t width, mx::Dtype type) -> Result<void> {
    const mx::Shape shape{dim(spec.kv_heads), dim(blocks * kBlockTokens), dim(width)};
    if (cpu || !Wall::get().has_gpu()) {
      // Not filled: the system gives the pages as they are written, and none is read before.
      auto data = mx::allocator::malloc(static_cast<size_t>(
          spec.kv_heads * blocks * kBlockTokens * width * static_cast<int64_t>(type.size())));
      if (data.buffer().ptr() == nullptr) {
        return error(ErrorCode::insufficient_memory, "the system has no {} bytes for a KV cache",
                     total);
      }
      pool->arrays_.emplace_back(std::move(data), shape, type);
    } else {
      pool->arrays_.push_back(mx::zeros(shape, type));
      pool->arrays_.back().eval();
    }
    pool->buffers_.push_back(pool->arrays_.back().buffer().ptr());
    return {};
  };
  for (int64_t i = 0; i < spec.layers * 2; ++i) {
    IMPETUS_CHECK(add(spec.head_dim, quantised ? mx::int8 : pool->type_));
  }
  for (int64_t i = 0; quantised && i < spec.layers * 2; ++i) {
    IMPETUS_CHECK(add(spec.head_dim / kQuantBlock, mx::float16));
  }
  return pool;
}

// `write(array, part)` for keys and for values, and for the scales of both where there are some.
template <typename Write>
void KvPool::write(int64_t layer, const mx::array& keys, const mx::array& values,
                   const Write& write) {
  const size_t at[2] = {index(layer, 0), index(layer, 1)};
  if (!quantised()) {
    write(arrays_[at[0]], mx::astype(keys, type_));
    write(arrays_[at[1]], mx::astype(values, type_));
    return;
  }
  // Quantised together: each of these small operations is a launch on a GPU.
  const auto [codes, scales] = quantised_rows(mx::stack({keys, values}));
  for (int which = 0; which < 2; ++which) {
    write(arrays_[at[which]], mx::take(codes, which, 0));
    write(arrays_[scales_of(at[which])], mx::take(scales, which, 0));
  }
}

void KvPool::write_runs(int64_t layer, std::span<const SlotRun> runs, const mx::array& keys,
                        const mx::array& values) {
  const auto in_runs = [&](mx::array& pool, const mx::array& from) {
    const auto heads = pool.shape(0), width = pool.shape(2);
    int64_t at = 0;
    for (const SlotRun& run : runs) {
      const int64_t count = run.end - run.begin;
      const mx::array part =
          runs.size() == 1 ? from
                           : mx::slice(from, {0, dim(at), 0}, {heads, dim(at + count), width});
      pool = mx::slice_update(pool, part, {0, dim(run.begin), 0}, {heads, dim(run.end), width});
      at += count;
    }
  };
  write(layer, keys, values, in_runs);
}

void KvPool::write_rows(int64_t layer, const mx::array& slots, const mx::array& keys,
                        const mx::array& values) {
  const auto in_rows = [&](mx::array& pool, const mx::array& from) {
    pool = mx::scatter(pool, slots, from, 1);
  };
  write(layer, keys, values, in_rows);
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

// `move(part of the host's array, bytes)` for each array's positions of the block, head by head.
template <typename Move>
void KvPool::walk(BlockId block, int32_t begin, int32_t end, const Move& move) const {
  const int64_t first = int64_t{block} * kBlockTokens + begin;
  for (size_t i = 0; i < arrays_.size(); ++i) {
    const auto row = static_cast<int64_t>(arrays_[i].shape(2) * arrays_[i].itemsize());
    for (int64_t head = 0; head < shape_.kv_heads; ++head) {
      move(host(i) + (head * blocks_ * kBlockTokens + first) * row, (end - begin) * row);
    }
  }
}

// The neutral layout is the arrays' parts one behind the other; in q8_0 each scale stands before
// its codes, not behind them all.
void KvPool::to_blocks(std::span<const std::byte> parts, std::span<std::byte> out) {
  const size_t count = out.size() / sizeof(BlockQ8_0);
  const std::byte *codes = parts.data(), *scales = codes + count * kQuantBlock;
  for (size_t i = 0; i < count; ++i) {
    std::byte* block = out.data() + i * sizeof(BlockQ8_0);
    std::memcpy(block, scales + i * sizeof(uint16_t), sizeof(uint16_t));
    std::memcpy(block + sizeof(uint16_t), codes + i * kQuantBlock, kQuantBlock);
  }
}
void KvPool::from_blocks(std::span<const std::byte> in, std::span<std::byte> parts) {
  const size_t count = in.size() / sizeof(BlockQ8_0);
  std::byte *codes = parts.data(), *scales = codes + count * kQuantBlock;
  for (size_t i = 0; i < count; ++i) {
    const std::byte* block = in.data() + i * sizeof(BlockQ8_0);
    std::memcpy(scales + i * sizeof(uint16_t), block, sizeof(uint16_t));
    std::memcpy(codes + i * kQuantBlock, block + sizeof(uint16_t), kQuantBlock);
  }
}

Result<void> KvPool::export_block(BlockId block, int32_t begin, int32_t end,
                                  std::span<std::byte> out) const {
  IMPETUS_CHECK(check_handoff(*this, block, begin, end, dtype_, out.size()));
  return entered("KV export", cpu_, [&]() -> Result<void> {
    if (barrier_) barrier_();
    std::vector<std::byte> parts(quantised() ? out.size() : 0);
    std::byte* to = quantised() ? parts.data() : out.data();
    const auto take = [&](const std::byte* from, int64_t bytes) {
      std::memcpy(to, from, static_cast<size_t>(bytes));
      to += bytes;
    };
    if (direct_) {
      walk(block, begin, end, take);
    } else {
      const auto first = dim(int64_t{block} * kBlockTokens + begin);
      // One array to be read, or codes and scales: the host's reads cost by the array.
      std::vector<mx::array> slices, wholes;
      for (const mx::array& array : arrays_) {
        slices.push_back(
            mx::slice(array, {0, first, 0}, {array.shape(0), first + end - begin, array.shape(2)}));
      }
      const auto scales = slices.begin() + shape_.layers * 2;
      for (const auto& [from, until] :
           {std::pair(slices.begin(), scales), {scales, slices.end()}}) {
        if (from == until) continue;
        wholes.push_back(mx::contiguous(mx::concatenate({from, until}, 0)));
      }
      mx::eval(wholes);
      for (mx::array& whole : wholes) {
        take(whole.data<std::byte>(), static_cast<int64_t>(whole.nbytes()));
      }
      // The slices are gone before the next step writes, or it would copy the pool.
      slices.clear();
      mx::synchronize(Wall::get().stream(cpu_));
    }
    if (quantised()) to_blocks(parts, out);
    return {};
  });
}

Result<void> KvPool::import_block(BlockId block, int32_t begin, int32_t end, DType type,
                                  std::span<const std::byte> in) {
  IMPETUS_CHECK(check_handoff(*this, block, begin, end, type, in.size()));
  return entered("KV import", cpu_, [&]() -> Result<void> {
    if (barrier_) barrier_();
    std::vector<std::byte> rounded, parts;
    if (type != dtype_) {
      rounded.resize(static_cast<size_t>(kv_bytes(shape_, end - begin, dtype_)));
      convert_kv(type, in, dtype_, rounded);
      in = rounded;
    }
    if (quantised()) {
      parts.resize(in.size());
      from_blocks(in, parts);
      in = parts;
    }
    const std::byte* from = in.data();
    const auto give = [&](std::byte* to, int64_t bytes) {
      std::memcpy(to, from, static_cast<size_t>(bytes));
      from += bytes;
    };
    if (direct_) {
      walk(block, begin, end, give);
      return {};
    }
    const auto first = dim(int64_t{block} * kBlockTokens + begin);
    try {
      for (mx::array& array : arrays_) {
        const mx::Shape shape{array.shape(0), end - begin, array.shape(2)};
        const auto bytes = static_cast<size_t>(array.shape(0)) * static_cast<size_t>(end - begin) *
                           static_cast<size_t>(array.shape(2)) * array.itemsize();
        mx::array values(mx::allocator::malloc(bytes), shape, array.dtype());
        give(values.data<std::byte>(), static_cast<int64_t>(bytes));
        array = mx::slice_update(array, values, {0, first, 0},
                                 {array.shape(0), first + end - begin, array.shape(2)});
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

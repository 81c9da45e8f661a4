// What the kernel tests share: seeded numbers, guarded memory, every table this machine runs.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>
#include <span>
#include <vector>

#include "cpu/kernels/kernels.h"

namespace impetus::cpu {

inline constexpr double kHalfUlp = 0x1p-24;  // unit roundoff of f32

// The classic bound of n roundings, n u / (1 - n u).
inline double rounding_bound(double n) {
  return n * kHalfUlp / (1 - n * kHalfUlp);
}

inline float float_from_f16(uint16_t raw) {
  return static_cast<float>(std::bit_cast<_Float16>(raw));
}
inline uint16_t f16_from_float(float value) {
  return std::bit_cast<uint16_t>(static_cast<_Float16>(value));
}
inline float float_from_bf16(uint16_t raw) {
  return std::bit_cast<float>(static_cast<uint32_t>(raw) << 16);
}

class Random {
 public:
  explicit Random(uint64_t seed) : engine_(seed) {}
  int64_t between(int64_t low, int64_t high) {
    return std::uniform_int_distribution<int64_t>(low, high)(engine_);
  }
  float normal() { return normal_(engine_); }
  uint64_t bits() { return engine_(); }

 private:
  std::mt19937_64 engine_;
  std::normal_distribution<float> normal_;
};

// Memory that ends right before a page nobody may touch, and begins behind a canary: a read or
// write past the end is a crash, one before the start is found by `intact`.
template <class T>
class Guarded {
 public:
  explicit Guarded(size_t count, T value = T{}) : count_(count) {
    size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    size_t bytes = count * sizeof(T) + kCanary;
    size_t usable = (bytes + page - 1) / page * page;
    mapped_ = usable + page;
    base_ = static_cast<uint8_t*>(
        mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    if (base_ == MAP_FAILED) std::abort();
    mprotect(base_ + usable, page, PROT_NONE);
    uint8_t* start = base_ + usable - count * sizeof(T);
    std::memset(start - kCanary, 0xa5, kCanary);
    data_ = reinterpret_cast<T*>(start);
    for (size_t i = 0; i < count; ++i) data_[i] = value;
  }
  ~Guarded() { munmap(base_, mapped_); }
  Guarded(const Guarded&) = delete;
  Guarded& operator=(const Guarded&) = delete;

  T* data() { return data_; }
  const T* data() const { return data_; }
  size_t size() const { return count_; }
  T& operator[](size_t i) { return data_[i]; }
  const T& operator[](size_t i) const { return data_[i]; }

  bool intact() const {
    const uint8_t* canary = reinterpret_cast<const uint8_t*>(data_) - kCanary;
    for (size_t i = 0; i < kCanary; ++i) {
      if (canary[i] != 0xa5) return false;
    }
    return true;
  }

 private:
  static constexpr size_t kCanary = 64;
  uint8_t* base_;
  T* data_;
  size_t count_;
  size_t mapped_;
};

inline std::vector<const KernelTable*> every_table() {
  KernelTables found = supported_kernels();
  std::vector<const KernelTable*> tables(found.tables, found.tables + found.count);
  // A machine with BF16's instructions runs the products that do without as well.
  if (tables.back() == avx512_bf16_kernels()) tables.push_back(avx512_kernels());
  return tables;
}

inline bool same_bits(const float* a, const float* b, size_t count) {
  return std::memcmp(a, b, count * sizeof(float)) == 0;
}

}  // namespace impetus::cpu

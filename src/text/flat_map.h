// A hash map for tables that are built once and read in the innermost loop: 64-bit keys, trivially
// copyable values, open addressing, at most half full. Not thread-shared while it grows.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>
#include <vector>

namespace impetus {

inline uint64_t mix_hash(uint64_t x) {
  x *= 0x9E3779B97F4A7C15ull;
  return x ^ (x >> 32);
}

// For words of some bytes; quality over speed matters little as every hit is compared in full.
inline uint64_t hash_bytes(std::string_view text) {
  const char* p = text.data();
  size_t n = text.size();
  uint64_t h = 0x243F6A8885A308D3ull ^ n;
  for (; n >= 8; n -= 8, p += 8) {
    uint64_t chunk;
    std::memcpy(&chunk, p, 8);
    h = mix_hash(h ^ chunk);
  }
  if (n > 0) {
    uint64_t chunk = 0;
    std::memcpy(&chunk, p, n);
    h = mix_hash(h ^ chunk ^ (static_cast<uint64_t>(n) << 56));
  }
  return mix_hash(h);
}

template <typename Value>
class FlatMap {
 public:
  void reserve(size_t entries) {
    const size_t wanted = std::bit_ceil(entries * 2 + 8);
    if (wanted > slots_.size()) rehash(wanted);
  }

  // Replaces the value of a key that is there already. `key` is not ~0.
  void set(uint64_t key, const Value& value) {
    if ((size_ + 1) * 2 > slots_.size()) rehash(slots_.empty() ? 16 : slots_.size() * 2);
    Slot& slot = slots_[place(key)];
    if (slot.key == vacant) {
      slot.key = key;
      ++size_;
    }
    slot.value = value;
  }

  const Value* find(uint64_t key) const {
    if (slots_.empty()) return nullptr;
    const Slot& slot = slots_[place(key)];
    return slot.key == key ? &slot.value : nullptr;
  }

  size_t size() const { return size_; }

 private:
  static constexpr uint64_t vacant = ~uint64_t{0};
  struct Slot {
    uint64_t key = vacant;
    Value value{};
  };

  size_t place(uint64_t key) const {
    const size_t mask = slots_.size() - 1;
    size_t i = mix_hash(key) & mask;
    while (slots_[i].key != key && slots_[i].key != vacant) i = (i + 1) & mask;
    return i;
  }

  void rehash(size_t capacity) {
    std::vector<Slot> old(capacity);
    old.swap(slots_);
    for (const Slot& slot : old) {
      if (slot.key != vacant) slots_[place(slot.key)] = slot;
    }
  }

  std::vector<Slot> slots_;
  size_t size_ = 0;
};

}  // namespace impetus

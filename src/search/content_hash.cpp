#include "search/content_hash.h"

#include <bit>
#include <cstring>

namespace impetus {
namespace {

// Odd, with bits in no pattern: digits of pi and e.
constexpr uint64_t kFirst = 0x243F6A8885A308D3, kSecond = 0xB7E151628AED2A6B;

uint64_t stir(uint64_t x) {
  x = (x ^ (x >> 32)) * kFirst;
  x = (x ^ (x >> 29)) * kSecond;
  return x ^ (x >> 32);
}

}  // namespace

ContentHash content_hash(std::string_view bytes) {
  // Two lanes that see every word with unlike constants.
  uint64_t a = stir(bytes.size() + 1), b = stir(a);
  const auto add = [&](uint64_t word) {
    a = std::rotl((a ^ word) * kFirst, 29) + word;
    b = std::rotl((b + word) * kSecond, 31) ^ a;
  };
  size_t at = 0;
  for (; at + 8 <= bytes.size(); at += 8) {
    uint64_t word;
    std::memcpy(&word, bytes.data() + at, 8);
    add(word);
  }
  uint64_t last = 0;
  if (at < bytes.size()) std::memcpy(&last, bytes.data() + at, bytes.size() - at);
  add(last);
  return {stir(a ^ stir(b)), stir(b + kFirst * a)};
}

}  // namespace impetus

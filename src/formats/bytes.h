// What the parsers of this folder share: bounded little-endian reading, and names fit to print.
#pragma once

#include <bit>
#include <cstddef>
#include <cstring>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>

namespace impetus {

static_assert(std::endian::native == std::endian::little, "the formats are read in place");

// Reads forward through borrowed bytes; nullopt past the end, never beyond it.
class ByteReader {
 public:
  explicit ByteReader(std::span<const std::byte> bytes) : bytes_(bytes) {}

  size_t position() const { return at_; }
  size_t remaining() const { return bytes_.size() - at_; }

  template <typename T>
    requires std::is_arithmetic_v<T>
  std::optional<T> read() {
    if (remaining() < sizeof(T)) return std::nullopt;
    T value;
    std::memcpy(&value, bytes_.data() + at_, sizeof(T));
    at_ += sizeof(T);
    return value;
  }

  std::optional<std::span<const std::byte>> take(uint64_t size) {
    if (remaining() < size) return std::nullopt;
    const auto taken = bytes_.subspan(at_, static_cast<size_t>(size));
    at_ += static_cast<size_t>(size);
    return taken;
  }

 private:
  std::span<const std::byte> bytes_;
  size_t at_ = 0;
};

inline std::string_view as_text(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

// Well-formed UTF-8 as Unicode 15, table 3-7: no overlong forms, surrogates or values past
// U+10FFFF.
bool is_utf8(std::string_view text);

// A name from a hostile file, for a message: control bytes and broken UTF-8 as '?', clipped.
std::string printable(std::string_view name);

}  // namespace impetus

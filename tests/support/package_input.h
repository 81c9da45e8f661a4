// A package as one string of bytes, for fuzzers: four bytes say how many of the rest are
// model.mlmodel; what follows is weight.bin.
#pragma once

#include <cstring>
#include <optional>
#include <span>

#include "mil/package.h"

namespace impetus::testing {

// Nothing where it is none.
inline std::optional<mil::Package> package_of(const uint8_t* data, size_t size) {
  uint32_t length = 0;
  if (size < sizeof(length)) return std::nullopt;
  std::memcpy(&length, data, sizeof(length));
  const std::span bytes(reinterpret_cast<const std::byte*>(data) + sizeof(length),
                        size - sizeof(length));
  if (length > bytes.size()) return std::nullopt;
  auto package = mil::parse_package(bytes.first(length), bytes.subspan(length));
  if (!package.ok()) return std::nullopt;
  return std::move(*package);
}

}  // namespace impetus::testing

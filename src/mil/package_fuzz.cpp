// The first four bytes say how many of the rest are model.mlmodel; what follows is weight.bin.
// Seeds: tests/fuzz/seeds/package.
#include <cstdlib>
#include <cstring>

#include "mil/package.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace impetus::mil;
  uint32_t length = 0;
  if (size < sizeof(length)) return 0;
  std::memcpy(&length, data, sizeof(length));
  const std::span bytes(reinterpret_cast<const std::byte*>(data) + sizeof(length),
                        size - sizeof(length));
  if (length > bytes.size()) return 0;
  const auto package = parse_package(bytes.first(length), bytes.subspan(length));
  if (!package.ok()) return 0;
  // What was read and can be written is read again, and then writes the same bytes.
  const auto once = serialize(package->model);
  if (!once.ok()) return 0;
  const auto again = parse_package(once->model, once->weights);
  if (!again.ok()) std::abort();
  const auto twice = serialize(again->model);
  if (!twice.ok() || twice->model != once->model || twice->weights != once->weights) std::abort();
  return 0;
}

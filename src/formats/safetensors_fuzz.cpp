// Seeds: tests/fuzz/seeds/safetensors.
#include <cstdlib>

#include "formats/weights.h"
#include "tests/support/weights_check.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::span bytes(reinterpret_cast<const std::byte*>(data), size);
  const auto weights = impetus::parse_safetensors(bytes, "fuzz");
  if (weights.ok() && !impetus::testing::contradiction(*weights, bytes).empty()) std::abort();
  return 0;
}

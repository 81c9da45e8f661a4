// Seeds: tests/fuzz/seeds/gguf.
#include "formats/gguf.h"

#include <cstdlib>

#include "tests/support/weights_check.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::span bytes(reinterpret_cast<const std::byte*>(data), size);
  const auto file = impetus::GgufFile::parse(bytes, "fuzz");
  if (!file.ok()) return 0;
  for (const auto& [key, value] : file->metadata()) {
    if (file->find(key) != &value) std::abort();
    // Typed access answers or refuses; of an entry, one kind at most is its own beside "number".
    const int kinds = file->integer(key).ok() + file->boolean(key).ok() + file->string(key).ok() +
                      file->strings(key).ok() + file->integers(key).ok() + file->numbers(key).ok();
    if (kinds > 1) std::abort();
  }
  if (!impetus::testing::contradiction(file->weights(), bytes).empty()) std::abort();
  return 0;
}

// Seeds as package_fuzz has them (tests/fuzz/seeds/validate): whatever parses is judged, and what
// is judged sound is walked.
#include <cstdlib>
#include <cstring>

#include "mil/operations.h"
#include "mil/package.h"
#include "mil/walk.h"

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
  const bool trusted = validate(package->model, Unknown::trust).ok();
  const bool sound = validate(package->model, Unknown::refuse).ok();
  const bool written = validate(package->model, Unknown::refuse, true).ok();
  // Each asks for more than the one before.
  if ((written && !sound) || (sound && !trusted)) std::abort();
  if (!trusted) return 0;
  for (const auto& [name, function] : package->model.program.functions) {
    const auto walked = walk(function, [](const Visit&) { return impetus::Result<void>(); });
    if (!walked.ok() || !outputs_of(function).ok()) std::abort();
  }
  return 0;
}

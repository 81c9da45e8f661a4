// Seeds as package_fuzz has them (tests/fuzz/seeds/validate): whatever parses is judged, and what
// is judged sound is walked.
#include <cstdlib>

#include "mil/operations.h"
#include "mil/package.h"
#include "mil/walk.h"
#include "tests/support/package_input.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace impetus::mil;
  const auto package = impetus::testing::package_of(data, size);
  if (!package) return 0;
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

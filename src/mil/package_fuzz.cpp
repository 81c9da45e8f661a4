// What is read and can be written is written the same again.
// Seeds: tests/fuzz/seeds/package.
#include <cstdlib>

#include "mil/package.h"
#include "tests/support/package_input.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace impetus::mil;
  const auto package = impetus::testing::package_of(data, size);
  if (!package) return 0;
  // What was read and can be written is read again, and then writes the same bytes.
  const auto once = serialize(package->model);
  if (!once.ok()) return 0;
  const auto again = parse_package(once->model, once->weights);
  if (!again.ok()) std::abort();
  const auto twice = serialize(again->model);
  if (!twice.ok() || twice->model != once->model || twice->weights != once->weights) std::abort();
  return 0;
}

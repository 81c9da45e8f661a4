// Where tests find the real inputs that the repository does not contain.
#pragma once

#include <cstdlib>
#include <filesystem>

namespace impetus::testing {

// IMPETUS_TEST_DATA, or ../shared/data beside the checkout.
inline std::filesystem::path test_data() {
  if (const char* folder = std::getenv("IMPETUS_TEST_DATA")) return folder;
  return std::filesystem::path(IMPETUS_SOURCE_DIR) / "../shared/data";
}

}  // namespace impetus::testing

// Skips the running test, loudly, where a path of the real inputs is absent.
#define IMPETUS_NEED_DATA(path)                                                          \
  if (!std::filesystem::exists(path)) {                                                  \
    GTEST_SKIP() << "needs " << (path) << " (set IMPETUS_TEST_DATA to the data folder)"; \
  }

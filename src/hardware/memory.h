// The memory of this machine, and how much of it this process may use.
#pragma once

#include <filesystem>

#include "hardware/inventory.h"

namespace impetus {

// All zero where nothing can be read.
MemoryInfo read_memory(const std::filesystem::path& root = "/");

// Bytes this process may plan with: the machine's memory or its cgroup's limit, whichever is less,
// less a reserve for the system, and never more than is available now.
int64_t usable_memory_bytes(const std::filesystem::path& root = "/");

}  // namespace impetus

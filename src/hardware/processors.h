// The CPU cores this process may use, and what they are called.
#pragma once

#include <filesystem>
#include <string>

namespace impetus {

// Physical cores within the affinity mask.
int allowed_cores(const std::filesystem::path& root = "/");
// Those, at most the whole CPUs of the cgroup's quota; on macOS the performance cores. At least 1.
int usable_cores(const std::filesystem::path& root = "/");
// CPUs by the cgroup's quota, such as 0.5; 0 where there is none.
double quota_cores(const std::filesystem::path& root = "/");
// "AMD EPYC 9B14", or "CPU" where the system does not say.
std::string processor_name(const std::filesystem::path& root = "/");

}  // namespace impetus

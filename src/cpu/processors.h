// The processors this process may use, and what they are called.
#pragma once

#include <filesystem>
#include <string>

namespace impetus::cpu {

// Physical cores within the affinity mask, at most the whole CPUs of the cgroup's quota; at
// least 1.
int usable_cores();
// The quota alone, from the files under `root`: whole CPUs, or 0 where there is none.
int cgroup_cores(const std::filesystem::path& root);
// "AMD EPYC 9B14", or "CPU" where the system does not say.
std::string processor_name();

}  // namespace impetus::cpu

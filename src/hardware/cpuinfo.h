// /proc/cpuinfo, which each architecture writes differently.
#pragma once

#include <string>
#include <vector>

#include "hardware/files.h"

namespace impetus::hardware {

struct CpuInfoFile {
  std::string architecture;        // "x86_64", "aarch64"; empty: not recognised
  std::string vendor;              // "GenuineIntel", "ARM"
  std::string model;               // "AMD EPYC 9B14", "4 x Cortex-A76 + 4 x Cortex-A55"
  std::vector<std::string> flags;  // as Linux names them
  int processors = 0;
};
CpuInfoFile read_cpuinfo(const Path& root);

// The instruction sets that kernels choose by, among these flags, in a fixed order.
std::vector<std::string> known_instruction_sets(const std::vector<std::string>& flags);
// Those of the CPU that runs this, where CPUID says it and the operating system saves the
// registers; empty where the architecture has no CPUID.
std::vector<std::string> instruction_sets_by_cpuid();

}  // namespace impetus::hardware

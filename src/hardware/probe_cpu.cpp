#include <algorithm>

#include "hardware/cpuinfo.h"
#include "hardware/probes.h"
#include "hardware/processors.h"
#include "hardware/topology.h"

namespace impetus::hardware {
namespace {

#if defined(__x86_64__)
constexpr const char* kArchitecture = "x86_64";
#elif defined(__aarch64__)
constexpr const char* kArchitecture = "aarch64";
#else
constexpr const char* kArchitecture = "";
#endif

}  // namespace

CpuInfo probe_cpu(const Path& root, std::vector<Missing>& missing) {
  const bool here = root == "/";
  CpuInfo cpu;
  const CpuInfoFile file = read_cpuinfo(root);
  cpu.architecture = here ? kArchitecture : file.architecture;
  cpu.vendor = file.vendor;
  cpu.model = file.model;
  if (here) cpu.instruction_sets = instruction_sets_by_cpuid();
  if (cpu.instruction_sets.empty()) cpu.instruction_sets = known_instruction_sets(file.flags);
  if (cpu.model.empty()) missing.push_back({"cpu.model", "/proc/cpuinfo does not name it"});
  if (cpu.instruction_sets.empty()) {
    missing.push_back({"cpu.instruction_sets", "/proc/cpuinfo lists none that kernels choose by"});
  }

  const auto fast = performance_cpus(root);
  std::optional<Topology> topology;
  if (here) topology = topology_from_hwloc(fast);
  if (!topology) topology = topology_from_files(root, fast);
  if (topology) {
    cpu.sockets = topology->sockets;
    cpu.physical_cores = topology->physical_cores;
    cpu.logical_cores = topology->logical_cores;
    cpu.caches = topology->caches;
  } else {
    missing.push_back({"cpu.topology", "/sys/devices/system/cpu cannot be read"});
    cpu.logical_cores = cpu.physical_cores = file.processors;
  }
  if (cpu.caches.empty()) missing.push_back({"cpu.caches", "the kernel does not tell their sizes"});
  cpu.numa_nodes = std::max(1, numa_nodes(root));
  if (!fast.empty()) {
    cpu.performance_cores = std::min(physical_cores(root, fast), cpu.physical_cores);
    cpu.efficiency_cores = cpu.physical_cores - cpu.performance_cores;
  }
  cpu.allowed_cores = allowed_cores(root);
  cpu.quota_cores = quota_cores(root);
  cpu.usable_cores = usable_cores(root);
  return cpu;
}

}  // namespace impetus::hardware

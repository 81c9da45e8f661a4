#include "hardware/processors.h"

#include <algorithm>
#include <thread>
#include <vector>

#if defined(__linux__)
#include <sched.h>
#endif

#if defined(__APPLE__)
#include "hardware/macos.h"
#endif
#include "hardware/cgroup.h"
#include "hardware/cpuinfo.h"
#include "hardware/topology.h"

namespace impetus {
namespace {

using namespace hardware;

std::vector<int> allowed_cpus(const Path& root) {
  std::vector<int> cpus;
  for_each_line(read_text(root / "proc/self/status", 64 << 10), [&](std::string_view line) {
    constexpr std::string_view kKey = "Cpus_allowed_list:";
    if (!line.starts_with(kKey)) return true;
    cpus = parse_cpu_list(line.substr(kKey.size()));
    return false;
  });
#if defined(__linux__)
  if (root == "/") {
    cpu_set_t allowed;
    CPU_ZERO(&allowed);
    if (sched_getaffinity(0, sizeof allowed, &allowed) == 0) {
      cpus.clear();
      for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
        if (CPU_ISSET(cpu, &allowed)) cpus.push_back(cpu);
      }
    }
  }
#endif
  return cpus;
}

}  // namespace

int allowed_cores(const std::filesystem::path& root) {
#if defined(__APPLE__)
  if (root == "/") return std::max(1, macos_physical_cores());
#endif
  auto cpus = allowed_cpus(root);
  const auto online = online_cpus(root);
  // The mask may name CPUs that do not exist (yet).
  if (!online.empty() && !cpus.empty()) {
    std::erase_if(cpus,
                  [&](int cpu) { return !std::binary_search(online.begin(), online.end(), cpu); });
  }
  if (cpus.empty()) cpus = online;
  int cores = physical_cores(root, cpus);
  if (cores == 0) cores = read_cpuinfo(root).processors;
  if (cores == 0 && root == "/") cores = static_cast<int>(std::thread::hardware_concurrency());
  return std::max(1, cores);
}

double quota_cores(const std::filesystem::path& root) {
  return read_cgroup_cpu(root).quota_cores;
}

int usable_cores(const std::filesystem::path& root) {
#if defined(__APPLE__)
  // The fast cores alone: a parallel loop is as slow as its slowest worker.
  if (root == "/") return std::max(1, macos_performance_cores());
#endif
  const int cores = allowed_cores(root);
  const double quota = quota_cores(root);
  if (quota <= 0 || quota >= cores) return cores;
  return std::max(1, static_cast<int>(quota));
}

std::string processor_name(const std::filesystem::path& root) {
#if defined(__APPLE__)
  if (root == "/") return macos_processor_name();
#endif
  const std::string model = read_cpuinfo(root).model;
  return model.empty() ? "CPU" : model;
}

}  // namespace impetus

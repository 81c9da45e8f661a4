#include "cpu/processors.h"

#include <algorithm>
#include <fstream>
#include <set>
#include <sstream>
#include <thread>

#if defined(__linux__)
#include <sched.h>
#elif defined(__APPLE__)
#include <sys/sysctl.h>
#endif

namespace impetus::cpu {

int cgroup_cores(const std::filesystem::path& root) {
  double cores = 0;
  const auto take = [&](double quota, double period) {
    if (quota <= 0 || period <= 0) return;
    const double here = quota / period;
    cores = cores == 0 ? here : std::min(cores, here);
  };
  std::ifstream groups(root / "proc/self/cgroup");
  for (std::string line; std::getline(groups, line);) {
    const size_t first = line.find(':');
    const size_t second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = "," + line.substr(first + 1, second - first - 1) + ",";
    const bool v2 = controllers == ",,";
    if (!v2 && controllers.find(",cpu,") == std::string::npos) continue;
    const auto mount = root / (v2 ? "sys/fs/cgroup" : "sys/fs/cgroup/cpu");
    // From the process's group up to the mount: inside a container only the latter may be there.
    for (std::filesystem::path path = line.substr(second + 1);; path = path.parent_path()) {
      const auto folder = mount / path.relative_path();
      double quota = 0, period = 0;
      if (v2) {
        std::ifstream(folder / "cpu.max") >> quota >> period;  // "max" reads as 0
      } else {
        std::ifstream(folder / "cpu.cfs_quota_us") >> quota;
        std::ifstream(folder / "cpu.cfs_period_us") >> period;
      }
      take(quota, period);
      if (path.empty() || path == path.root_path()) break;
    }
  }
  return cores == 0 ? 0 : std::max(1, static_cast<int>(cores));
}

int usable_cores() {
  int cores = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
#if defined(__linux__)
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  if (sched_getaffinity(0, sizeof(allowed), &allowed) == 0) {
    std::set<std::string> physical;  // by the list of the threads that share a core
    for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
      if (!CPU_ISSET(cpu, &allowed)) continue;
      std::ifstream file("/sys/devices/system/cpu/cpu" + std::to_string(cpu) +
                         "/topology/thread_siblings_list");
      std::string siblings;
      if (!std::getline(file, siblings)) siblings = "cpu" + std::to_string(cpu);
      physical.insert(siblings);
    }
    if (!physical.empty()) cores = static_cast<int>(physical.size());
  }
  if (const int quota = cgroup_cores("/"); quota > 0) cores = std::min(cores, quota);
#elif defined(__APPLE__)
  // The fast cores alone: a parallel loop is as slow as its slowest worker.
  for (const char* name : {"hw.perflevel0.physicalcpu", "hw.physicalcpu"}) {
    int value = 0;
    size_t size = sizeof(value);
    if (sysctlbyname(name, &value, &size, nullptr, 0) == 0 && value > 0) return value;
  }
#endif
  return cores;
}

std::string processor_name() {
#if defined(__APPLE__)
  char name[256] = {};
  size_t size = sizeof(name) - 1;
  if (sysctlbyname("machdep.cpu.brand_string", name, &size, nullptr, 0) == 0) return name;
#else
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    const size_t colon = line.find(": ");
    if (line.starts_with("model name") && colon != std::string::npos) return line.substr(colon + 2);
  }
#endif
  return "CPU";
}

}  // namespace impetus::cpu

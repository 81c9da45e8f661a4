#include "hardware/topology.h"

#include <algorithm>
#include <limits>
#include <map>
#include <set>
#include <string>

namespace impetus::hardware {
namespace {

Path cpu_folder(const Path& root, int cpu) {
  return root / "sys/devices/system/cpu" / ("cpu" + std::to_string(cpu));
}

// The threads of one core carry the same list; a CPU without one is a core of its own.
std::string core_of(const Path& root, int cpu) {
  const Path folder = cpu_folder(root, cpu) / "topology";
  for (const char* name : {"thread_siblings_list", "core_cpus_list"}) {
    if (auto list = read_line(folder / name)) return *list;
  }
  return std::to_string(cpu);
}

// "48K", "2048K", "32M"
int64_t parse_size(std::string_view text) {
  text = trimmed(text);
  int64_t unit = 1;
  if (text.ends_with('K')) unit = int64_t{1} << 10;
  if (text.ends_with('M')) unit = int64_t{1} << 20;
  if (text.ends_with('G')) unit = int64_t{1} << 30;
  if (unit > 1) text.remove_suffix(1);
  const int64_t value = parse_int(text).value_or(0);
  return value <= 0 || value > (int64_t{1} << 50) / unit ? 0 : value * unit;
}

std::vector<CacheInfo> caches_from_files(const Path& root, const std::vector<int>& cpus) {
  struct Level {
    CacheInfo info;
    std::set<std::string> shared;  // one entry a cache
  };
  std::map<int, Level> levels;
  for (const int cpu : cpus) {
    for (const Path& index : entries(cpu_folder(root, cpu) / "cache", "index")) {
      const auto level = read_int(index / "level");
      if (!level || *level < 1 || *level > 8) continue;
      if (read_line(index / "type") == "Instruction") continue;
      const int64_t bytes = parse_size(read_line(index / "size").value_or(""));
      if (bytes == 0) continue;
      std::string shared = read_text(index / "shared_cpu_list", 64 << 10);
      if (shared.empty()) shared = std::to_string(cpu);
      Level& entry = levels[static_cast<int>(*level)];
      if (entry.shared.insert(shared).second && entry.info.bytes < bytes) {
        entry.info.level = static_cast<int>(*level);
        entry.info.bytes = bytes;
        entry.info.cores_sharing = std::max(1, physical_cores(root, parse_cpu_list(shared)));
      }
    }
  }
  std::vector<CacheInfo> caches;
  for (auto& [level, entry] : levels) {
    entry.info.count = static_cast<int>(entry.shared.size());
    caches.push_back(entry.info);
  }
  return caches;
}

}  // namespace

std::vector<int> online_cpus(const Path& root) {
  auto cpus = read_cpu_list(root / "sys/devices/system/cpu/online");
  if (!cpus.empty()) return cpus;
  for (const Path& folder : entries(root / "sys/devices/system/cpu", "cpu")) {
    const auto id = parse_cpu_list(folder.filename().native().substr(3));  // not "cpufreq"
    if (id.size() == 1) cpus.push_back(id.front());
  }
  return cpus;
}

int physical_cores(const Path& root, const std::vector<int>& cpus) {
  std::set<std::string> cores;
  for (const int cpu : cpus) cores.insert(core_of(root, cpu));
  return static_cast<int>(cores.size());
}

int numa_nodes(const Path& root) {
  const Path folder = root / "sys/devices/system/node";
  auto nodes = read_cpu_list(folder / "has_cpu");
  if (nodes.empty()) nodes = read_cpu_list(folder / "online");
  return static_cast<int>(nodes.size());
}

std::vector<int> performance_cpus(const Path& root) {
  // Intel: the kernel has a performance-counter device a kind.
  const auto fast = read_cpu_list(root / "sys/devices/cpu_core/cpus");
  const auto slow = read_cpu_list(root / "sys/devices/cpu_atom/cpus");
  if (!fast.empty() && !slow.empty()) return fast;
  // ARM: a capacity a CPU, 1024 for the fastest. Those of at least half are worth a thread beside
  // the fastest; the others are made to save power.
  std::vector<std::pair<int, int64_t>> capacities;
  int64_t most = 0;
  for (const int cpu : online_cpus(root)) {
    const auto capacity = read_int(cpu_folder(root, cpu) / "cpu_capacity");
    if (!capacity || *capacity <= 0) return {};
    capacities.emplace_back(cpu, *capacity);
    most = std::max(most, *capacity);
  }
  std::vector<int> big;
  for (const auto& [cpu, capacity] : capacities) {
    if (capacity >= most - most / 2) big.push_back(cpu);
  }
  if (big.size() == capacities.size()) big.clear();
  return big;
}

std::optional<Topology> topology_from_files(const Path& root, const std::vector<int>& fast) {
  const auto cpus = online_cpus(root);
  if (cpus.empty()) return std::nullopt;
  Topology topology;
  topology.logical_cores = static_cast<int>(cpus.size());
  topology.physical_cores = physical_cores(root, cpus);
  std::set<int64_t> packages;
  for (const int cpu : cpus) {
    const auto id = read_int(cpu_folder(root, cpu) / "topology/physical_package_id");
    if (id) packages.insert(*id);
  }
  topology.sockets = std::max(1, static_cast<int>(packages.size()));
  topology.caches = caches_from_files(root, fast.empty() ? cpus : fast);
  return topology;
}

}  // namespace impetus::hardware

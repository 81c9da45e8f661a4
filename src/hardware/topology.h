// Cores, sockets and caches: from hwloc on this machine, from the files of /sys below any root.
#pragma once

#include <optional>
#include <vector>

#include "hardware/files.h"
#include "hardware/inventory.h"

namespace impetus::hardware {

struct Topology {
  int sockets = 0;
  int physical_cores = 0;
  int logical_cores = 0;
  std::vector<CacheInfo> caches;
};

// The CPUs of the fast kind; empty where all are alike.
std::vector<int> performance_cpus(const Path& root);
// Physical cores that these CPUs belong to.
int physical_cores(const Path& root, const std::vector<int>& cpus);
// The CPUs that are online.
std::vector<int> online_cpus(const Path& root);
// Nodes that have CPUs; 0: cannot be read.
int numa_nodes(const Path& root);

// `fast`: the CPUs whose caches are meant; empty: all.
std::optional<Topology> topology_from_files(const Path& root, const std::vector<int>& fast);
std::optional<Topology> topology_from_hwloc(const std::vector<int>& fast);

}  // namespace impetus::hardware

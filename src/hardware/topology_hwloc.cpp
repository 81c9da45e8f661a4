#include <algorithm>
#include <memory>

#include <hwloc.h>

#include "hardware/topology.h"

namespace impetus::hardware {
namespace {

struct Destroy {
  void operator()(hwloc_topology_t topology) const { hwloc_topology_destroy(topology); }
};
struct Free {
  void operator()(hwloc_bitmap_t bitmap) const { hwloc_bitmap_free(bitmap); }
};

}  // namespace

std::optional<Topology> topology_from_hwloc(const std::vector<int>& fast) {
  hwloc_topology_t made = nullptr;
  if (hwloc_topology_init(&made) != 0) return std::nullopt;
  const std::unique_ptr<hwloc_topology, Destroy> owner(made);
  // The whole machine: what of it this process may use is asked for elsewhere.
  hwloc_topology_set_flags(made, HWLOC_TOPOLOGY_FLAG_INCLUDE_DISALLOWED);
  if (hwloc_topology_load(made) != 0) return std::nullopt;

  Topology topology;
  topology.logical_cores = hwloc_get_nbobjs_by_type(made, HWLOC_OBJ_PU);
  topology.physical_cores = hwloc_get_nbobjs_by_type(made, HWLOC_OBJ_CORE);
  topology.sockets = std::max(1, hwloc_get_nbobjs_by_type(made, HWLOC_OBJ_PACKAGE));
  if (topology.logical_cores < 1 || topology.physical_cores < 1) return std::nullopt;

  const std::unique_ptr<hwloc_bitmap_s, Free> cpus(hwloc_bitmap_alloc());
  if (!cpus) return std::nullopt;
  for (const int cpu : fast) hwloc_bitmap_set(cpus.get(), static_cast<unsigned>(cpu));

  for (const hwloc_obj_type_t type : {HWLOC_OBJ_L1CACHE, HWLOC_OBJ_L2CACHE, HWLOC_OBJ_L3CACHE,
                                      HWLOC_OBJ_L4CACHE, HWLOC_OBJ_L5CACHE}) {
    CacheInfo cache;
    cache.count = 0;
    for (hwloc_obj_t object = hwloc_get_next_obj_by_type(made, type, nullptr); object != nullptr;
         object = hwloc_get_next_obj_by_type(made, type, object)) {
      if (!fast.empty() && !hwloc_bitmap_intersects(object->cpuset, cpus.get())) continue;
      ++cache.count;
      const auto bytes = static_cast<int64_t>(object->attr->cache.size);
      if (bytes <= cache.bytes) continue;
      cache.level = static_cast<int>(object->attr->cache.depth);
      cache.bytes = bytes;
      cache.cores_sharing =
          std::max(1, hwloc_get_nbobjs_inside_cpuset_by_type(made, object->cpuset, HWLOC_OBJ_CORE));
    }
    if (cache.bytes > 0) topology.caches.push_back(cache);
  }
  return topology;
}

}  // namespace impetus::hardware

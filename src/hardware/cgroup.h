// What the cgroups of this process allow it, of version 1 or 2: the one reader of their files.
//
// A limit may stand in the process's own group or in any parent; inside a container often only the
// mount's own files are there, whatever path the kernel tells. All of them are asked, the tightest
// counts.
#pragma once

#include <cstdint>
#include <optional>

#include "hardware/files.h"

namespace impetus::hardware {

struct CgroupCpu {
  double quota_cores = 0;  // 0: no quota
  // CPU time that the group of the tightest quota (else the process's own) has used so far.
  std::optional<int64_t> used_microseconds;
};
CgroupCpu read_cgroup_cpu(const Path& root);

struct CgroupMemory {
  std::optional<int64_t> limit_bytes;  // absent: no limit
  // Of the tightest limit's group, less what the kernel takes back by itself (clean page cache).
  int64_t used_bytes = 0;
  // The least that any group has left; absent where no group has a limit.
  std::optional<int64_t> available_bytes;
};
CgroupMemory read_cgroup_memory(const Path& root);

}  // namespace impetus::hardware

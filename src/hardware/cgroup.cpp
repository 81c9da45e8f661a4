#include "hardware/cgroup.h"

#include <algorithm>
#include <cmath>

namespace impetus::hardware {
namespace {

constexpr size_t kPathBytesMax = 4096;
constexpr int kLevelsMax = 64;
// Version 1 writes "no limit" as the largest multiple of a page; version 2 as "max", which is no
// number and so is absent.
constexpr int64_t kNoLimit = int64_t{1} << 60;

// The folders of a hierarchy from `path` up to `mount`.
template <typename Each>
void for_each_level(const Path& mount, std::string_view path, Each each) {
  if (path.size() > kPathBytesMax) path = "/";
  Path relative = Path("/" + std::string(path)).lexically_normal().relative_path();
  for (int level = 0; level < kLevelsMax && !relative.empty(); ++level) {
    each(mount / relative);
    relative = relative.parent_path();
  }
  each(mount);
}

// Calls `each(folder, version 2?)` for every folder that may hold limits of this controller.
template <typename Each>
void for_each_group(const Path& root, std::string_view controller, Each each) {
  const Path base = root / "sys/fs/cgroup";
  const std::string text = read_text(root / "proc/self/cgroup", 64 << 10);
  bool seen = false;
  for_each_line(text, [&](std::string_view line) {
    const size_t first = line.find(':');
    const size_t second = first == std::string_view::npos ? first : line.find(':', first + 1);
    if (second == std::string_view::npos) return true;
    const std::string_view controllers = line.substr(first + 1, second - first - 1);
    const std::string_view path = line.substr(second + 1);
    if (controllers.empty()) {
      seen = true;
      for_each_level(base, path, [&](const Path& folder) { each(folder, true); });
      // Beside version 1 the second hierarchy has a mount of its own.
      if (present(base / "unified")) {
        for_each_level(base / "unified", path, [&](const Path& folder) { each(folder, true); });
      }
    } else if (("," + std::string(controllers) + ",").find("," + std::string(controller) + ",") !=
               std::string::npos) {
      seen = true;
      for_each_level(base / controller, path, [&](const Path& folder) { each(folder, false); });
    }
    return true;
  });
  if (seen) return;
  each(base, true);
  each(base / controller, false);
}

// The group's CPU time so far.
std::optional<int64_t> cpu_used(const Path& folder, const Path& root, bool v2) {
  if (v2) return int_after(read_text(folder / "cpu.stat"), "usage_usec");
  auto nanoseconds = read_int(folder / "cpuacct.usage");
  if (!nanoseconds) {  // counted in a hierarchy of its own
    const Path base = root / "sys/fs/cgroup";
    nanoseconds =
        read_int(base / "cpuacct" / folder.lexically_relative(base / "cpu") / "cpuacct.usage");
  }
  if (!nanoseconds) return std::nullopt;
  return *nanoseconds / 1000;
}

struct Quota {
  std::optional<int64_t> share, period;
};

Quota read_quota(const Path& folder, bool v2) {
  if (!v2) return {read_int(folder / "cpu.cfs_quota_us"), read_int(folder / "cpu.cfs_period_us")};
  const std::string text = read_text(folder / "cpu.max", 128);
  const size_t blank = text.find(' ');
  if (blank == std::string::npos) return {};
  return {parse_int(text), parse_int(std::string_view(text).substr(blank))};
}

// Page cache that nobody has to write first. Both lists count: a model read a second time is
// "active", and still goes when memory is asked for. Shared memory is on neither list.
int64_t reclaimable(const Path& folder, bool v2) {
  const std::string stat = read_text(folder / "memory.stat");
  const auto value = [&](const char* in_v2, const char* in_v1) {
    const int64_t bytes = int_after(stat, v2 ? in_v2 : in_v1).value_or(0);
    return std::clamp<int64_t>(bytes, 0, kNoLimit);
  };
  return std::max<int64_t>(
      0, value("inactive_file", "total_inactive_file") + value("active_file", "total_active_file") -
             value("file_dirty", "total_dirty") - value("file_writeback", "total_writeback"));
}

}  // namespace

CgroupCpu read_cgroup_cpu(const Path& root) {
  CgroupCpu result;
  for_each_group(root, "cpu", [&](const Path& folder, bool v2) {
    const Quota quota = read_quota(folder, v2);
    double cores = 0;
    if (quota.share && quota.period && *quota.share > 0 && *quota.period > 0) {
      cores = static_cast<double>(*quota.share) / static_cast<double>(*quota.period);
    }
    const bool tightest = cores > 0 && (result.quota_cores == 0 || cores < result.quota_cores);
    if (tightest) result.quota_cores = cores;
    if (tightest || !result.used_microseconds) {
      const auto used = cpu_used(folder, root, v2);
      if (used && *used >= 0) result.used_microseconds = used;
    }
  });
  return result;
}

CgroupMemory read_cgroup_memory(const Path& root) {
  CgroupMemory result;
  for_each_group(root, "memory", [&](const Path& folder, bool v2) {
    auto limit = read_int(folder / (v2 ? "memory.max" : "memory.limit_in_bytes"));
    if (v2) {  // beyond `high` a group is slowed to a crawl: as good as a limit
      const auto high = read_int(folder / "memory.high");
      if (high && (!limit || *high < *limit)) limit = high;
    }
    if (!limit || *limit < 0 || *limit >= kNoLimit) return;
    const int64_t charged =
        read_int(folder / (v2 ? "memory.current" : "memory.usage_in_bytes")).value_or(0);
    const int64_t used =
        std::max<int64_t>(0, std::clamp<int64_t>(charged, 0, kNoLimit) - reclaimable(folder, v2));
    const int64_t available = std::max<int64_t>(0, *limit - used);
    if (!result.limit_bytes || *limit < *result.limit_bytes) {
      result.limit_bytes = limit;
      result.used_bytes = used;
    }
    if (!result.available_bytes || available < *result.available_bytes) {
      result.available_bytes = available;
    }
  });
  return result;
}

}  // namespace impetus::hardware

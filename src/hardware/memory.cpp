#include "hardware/memory.h"

#include <algorithm>

#include <unistd.h>

#if defined(__APPLE__)
#include "hardware/macos.h"
#endif
#include "hardware/cgroup.h"
#include "hardware/files.h"

namespace impetus {
namespace {

using namespace hardware;

constexpr int64_t kMiB = int64_t{1} << 20;
constexpr int64_t kBytesMax = int64_t{1} << 60;  // beyond is no memory but garbage

int64_t kibibytes(std::string_view meminfo, std::string_view key) {
  const int64_t value = int_after(meminfo, key).value_or(0);
  return value < 0 || value > kBytesMax / 1024 ? 0 : value * 1024;
}

int64_t usable(int64_t total, int64_t available) {
  const int64_t reserve = std::min(std::max(total / 16, 256 * kMiB), total / 2);
  return std::min(total - reserve, available);
}

}  // namespace

MemoryInfo read_memory(const std::filesystem::path& root) {
  MemoryInfo info;
#if defined(__APPLE__)
  if (root == "/") {
    info.total_bytes = macos_memory_bytes();
    info.available_bytes = macos_available_bytes();
    info.unified = macos_unified_memory();
    // What others hold is paged out or compressed for the one that needs it.
    info.usable_bytes = usable(info.total_bytes, info.total_bytes);
    return info;
  }
#endif
  const std::string meminfo = read_text(root / "proc/meminfo", 64 << 10);
  info.total_bytes = kibibytes(meminfo, "MemTotal:");
  info.available_bytes = kibibytes(meminfo, "MemAvailable:");
  if (info.total_bytes == 0 && root == "/") {
    const int64_t pages = ::sysconf(_SC_PHYS_PAGES), page = ::sysconf(_SC_PAGESIZE);
    if (pages > 0 && page > 0 && pages < kBytesMax / page) info.total_bytes = pages * page;
  }
  if (info.available_bytes == 0) info.available_bytes = info.total_bytes;
  int64_t mine = info.total_bytes;
  const CgroupMemory group = read_cgroup_memory(root);
  if (group.limit_bytes && (mine == 0 || *group.limit_bytes < mine)) {
    info.limit_bytes = mine = *group.limit_bytes;
    if (info.total_bytes == 0) info.available_bytes = *group.limit_bytes;
  }
  if (group.available_bytes) {
    info.available_bytes = std::min(info.available_bytes, *group.available_bytes);
  }
  info.usable_bytes = usable(mine, info.available_bytes);
  return info;
}

int64_t usable_memory_bytes(const std::filesystem::path& root) {
  return read_memory(root).usable_bytes;
}

}  // namespace impetus

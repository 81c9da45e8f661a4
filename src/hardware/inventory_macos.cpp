// CPU, memory and version of a Mac. Not yet run on one (macos.h).
#if defined(__APPLE__)

#include <algorithm>
#include <cstring>

#include <mach/mach.h>
#include <sys/sysctl.h>
#include <unistd.h>

#include <fmt/format.h>

#include "hardware/cpuinfo.h"
#include "hardware/files.h"
#include "hardware/macos.h"
#include "hardware/memory.h"
#include "hardware/processors.h"

namespace impetus::hardware {
namespace {

int small(const char* name, int otherwise) {
  const auto value = sysctl_int(name);
  return value && *value > 0 && *value < 65536 ? static_cast<int>(*value) : otherwise;
}

void add_cache(CpuInfo& cpu, int level, const char* bytes, int threads_sharing) {
  CacheInfo cache;
  cache.level = level;
  cache.bytes = sysctl_int(bytes).value_or(0);
  if (cache.bytes <= 0) return;
  cache.cores_sharing = std::max(1, threads_sharing);  // Apple's cores run one thread each
  const int cores = macos_performance_cores();
  cache.count = std::max(1, cores / cache.cores_sharing);
  cpu.caches.push_back(cache);
}

#if defined(__aarch64__)
std::vector<std::string> arm_features() {
  const struct {
    const char* sysctl;
    const char* name;  // Linux's
  } features[] = {
      {"hw.optional.AdvSIMD", "asimd"},         {"hw.optional.arm.FEAT_FP16", "asimdhp"},
      {"hw.optional.arm.FEAT_FHM", "asimdfhm"}, {"hw.optional.arm.FEAT_DotProd", "asimddp"},
      {"hw.optional.arm.FEAT_BF16", "bf16"},    {"hw.optional.arm.FEAT_I8MM", "i8mm"},
      {"hw.optional.arm.FEAT_SME", "sme"},      {"hw.optional.arm.FEAT_SME2", "sme2"},
  };
  std::vector<std::string> names;
  for (const auto& [sysctl, name] : features) {
    if (sysctl_int(sysctl).value_or(0) == 1) names.push_back(name);
  }
  return names;
}
#endif

CpuInfo probe_cpu() {
  CpuInfo cpu;
#if defined(__aarch64__)
  cpu.architecture = "aarch64";
  cpu.vendor = "Apple";
  cpu.instruction_sets = arm_features();
#else
  cpu.architecture = "x86_64";
  cpu.vendor = sysctl_text("machdep.cpu.vendor");
  cpu.instruction_sets = instruction_sets_by_cpuid();
#endif
  cpu.model = macos_processor_name();
  cpu.sockets = small("hw.packages", 1);
  cpu.physical_cores = macos_physical_cores();
  cpu.logical_cores = small("hw.logicalcpu", cpu.physical_cores);
  if (small("hw.nperflevels", 1) > 1) {
    cpu.performance_cores = macos_performance_cores();
    cpu.efficiency_cores = std::max(0, cpu.physical_cores - cpu.performance_cores);
  }
  cpu.allowed_cores = allowed_cores();
  cpu.usable_cores = usable_cores();
  if (sysctl_int("hw.perflevel0.l1dcachesize")) {
    add_cache(cpu, 1, "hw.perflevel0.l1dcachesize", 1);
    add_cache(cpu, 2, "hw.perflevel0.l2cachesize", small("hw.perflevel0.cpusperl2", 1));
  } else {
    add_cache(cpu, 1, "hw.l1dcachesize", 1);
    add_cache(cpu, 2, "hw.l2cachesize", 1);
    add_cache(cpu, 3, "hw.l3cachesize", cpu.physical_cores);
  }
  return cpu;
}

}  // namespace

std::optional<int64_t> sysctl_int(const char* name) {
  unsigned char bytes[8] = {};
  size_t size = sizeof bytes;
  if (::sysctlbyname(name, bytes, &size, nullptr, 0) != 0) return std::nullopt;
  if (size == sizeof(int32_t)) {
    int32_t value = 0;
    std::memcpy(&value, bytes, sizeof value);
    return value;
  }
  if (size != sizeof(int64_t)) return std::nullopt;
  int64_t value = 0;
  std::memcpy(&value, bytes, sizeof value);
  return value;
}

std::string sysctl_text(const char* name) {
  char text[256] = {};
  size_t size = sizeof text - 1;
  return ::sysctlbyname(name, text, &size, nullptr, 0) == 0 ? printable(text) : "";
}

std::string macos_processor_name() {
  const std::string name = sysctl_text("machdep.cpu.brand_string");
  return name.empty() ? "CPU" : name;
}

int macos_physical_cores() {
  return small("hw.physicalcpu", 1);
}

int macos_performance_cores() {
  return small("hw.perflevel0.physicalcpu", macos_physical_cores());
}

int64_t macos_memory_bytes() {
  constexpr int64_t kLeastOfAnyMac = int64_t{4} << 30;
  return sysctl_int("hw.memsize").value_or(kLeastOfAnyMac);
}

int64_t macos_available_bytes() {
  vm_statistics64_data_t pages{};
  mach_msg_type_number_t count = HOST_VM_INFO64_COUNT;
  if (::host_statistics64(::mach_host_self(), HOST_VM_INFO64,
                          reinterpret_cast<host_info64_t>(&pages), &count) != KERN_SUCCESS) {
    return macos_memory_bytes();
  }
  const int64_t available =
      int64_t{pages.free_count} + int64_t{pages.inactive_count} + int64_t{pages.purgeable_count};
  return std::min(macos_memory_bytes(), available * int64_t{::getpagesize()});
}

bool macos_unified_memory() {
#if defined(__aarch64__)
  return true;
#else
  return false;
#endif
}

std::optional<CpuTicks> macos_cpu_ticks() {
  host_cpu_load_info_data_t load{};
  mach_msg_type_number_t count = HOST_CPU_LOAD_INFO_COUNT;
  if (::host_statistics(::mach_host_self(), HOST_CPU_LOAD_INFO,
                        reinterpret_cast<host_info_t>(&load), &count) != KERN_SUCCESS) {
    return std::nullopt;
  }
  CpuTicks ticks;
  for (int state = 0; state < CPU_STATE_MAX; ++state) {
    ticks.total += load.cpu_ticks[state];
    if (state != CPU_STATE_IDLE) ticks.busy += load.cpu_ticks[state];
  }
  return ticks;
}

void macos_probe(Inventory& inventory) {
  inventory.os.version = sysctl_text("kern.osproductversion");
  inventory.os.name = "macOS";
  inventory.os.kernel = sysctl_text("kern.osrelease");
  inventory.cpu = probe_cpu();
  inventory.memory = read_memory();
  macos_probe_gpu(inventory);
  macos_probe_neural_engine(inventory);
  macos_probe_power(inventory);
}

}  // namespace impetus::hardware

#endif

#include <algorithm>
#include <map>

#include <fmt/format.h>

#if defined(__APPLE__)
#include "hardware/macos.h"
#endif
#include "hardware/cgroup.h"
#include "hardware/memory.h"
#include "hardware/nvidia.h"
#include "hardware/probes.h"

namespace impetus {
namespace {

using namespace hardware;

// Counters that only rise; how much they rose between two looks.
struct Counters {
  std::optional<double> seconds;               // since the machine started
  std::optional<int64_t> cpu_busy, cpu_total;  // ticks of all CPUs
  std::optional<int64_t> group_microseconds;
  std::map<std::string, int64_t> package_microjoules;
  std::map<std::string, int64_t> npu_microseconds;
};

std::optional<double> uptime(const Path& root) {
  const std::string text = read_text(root / "proc/uptime", 64);
  // "350735.47 234388.90", in hundredths; no locale may change how it is read
  const size_t dot = text.find('.');
  const auto whole = parse_int(text.substr(0, dot));
  if (dot == std::string::npos || !whole || *whole < 0 || *whole > int64_t{1} << 40) {
    return std::nullopt;
  }
  const auto hundredths = parse_int(std::string_view(text).substr(dot + 1));
  return static_cast<double>(*whole) +
         static_cast<double>(std::clamp<int64_t>(hundredths.value_or(0), 0, 99)) / 100;
}

// user nice system idle iowait irq softirq steal (guest is part of user)
void read_cpu_ticks(const Path& root, Counters& counters) {
#if defined(__APPLE__)
  if (root == "/") {
    if (const auto ticks = macos_cpu_ticks()) {
      counters.cpu_busy = ticks->busy;
      counters.cpu_total = ticks->total;
    }
    return;
  }
#endif
  const std::string text = read_text(root / "proc/stat", 4096);
  if (!text.starts_with("cpu ")) return;
  std::string_view rest = std::string_view(text).substr(4, text.find('\n') - 4);
  int64_t total = 0, idle = 0;
  int field = 0;
  for (; field < 8; ++field) {
    rest = trimmed(rest);
    const auto ticks = parse_int(rest);
    if (!ticks || *ticks < 0 || *ticks > int64_t{1} << 56) break;
    total += *ticks;
    if (field == 3 || field == 4) idle += *ticks;
    rest.remove_prefix(std::min(rest.find(' '), rest.size()));
  }
  if (field < 4) return;
  counters.cpu_total = total;
  counters.cpu_busy = total - idle;
}

Counters read_counters(const Path& root, const CgroupCpu& group) {
  Counters counters;
  counters.seconds = uptime(root);
  read_cpu_ticks(root, counters);
  counters.group_microseconds = group.used_microseconds;
  // Packages only: what stands below them ("intel-rapl:0:1") is contained in them.
  for (const Path& zone : entries(root / "sys/class/powercap", "intel-rapl:")) {
    if (!read_line(zone / "name").value_or("").starts_with("package")) continue;
    if (const auto energy = read_int(zone / "energy_uj"); energy && *energy >= 0) {
      counters.package_microjoules[zone.native()] = *energy;
    }
  }
  for (const Path& device : entries(root / "sys/class/accel", "accel")) {
    if (const auto busy = read_int(device / "device/npu_busy_time_us"); busy && *busy >= 0) {
      counters.npu_microseconds[device.native()] = *busy;
    }
  }
  return counters;
}

double share(double part, double whole) {
  return whole > 0 && part >= 0 ? std::min(1.0, part / whole) : -1;
}

double cpu_share(const Counters& before, const Counters& now, double quota_cores, double seconds) {
  if (quota_cores > 0) {
    if (!before.group_microseconds || !now.group_microseconds) return -1;
    const auto used = static_cast<double>(*now.group_microseconds) -
                      static_cast<double>(*before.group_microseconds);
    return share(used * 1e-6, quota_cores * seconds);
  }
  if (!before.cpu_total || !now.cpu_total) return -1;
  return share(static_cast<double>(*now.cpu_busy - *before.cpu_busy),
               static_cast<double>(*now.cpu_total - *before.cpu_total));
}

double package_watts(const Path& root, const Counters& before, const Counters& now,
                     double seconds) {
  double joules = 0;
  bool any = false;
  for (const auto& [zone, energy] : now.package_microjoules) {
    const auto earlier = before.package_microjoules.find(zone);
    if (earlier == before.package_microjoules.end()) continue;
    auto used = static_cast<double>(energy) - static_cast<double>(earlier->second);
    if (used < 0) {  // the counter went round
      used += static_cast<double>(read_int(Path(zone) / "max_energy_range_uj").value_or(0));
    }
    if (used < 0) continue;
    joules += used * 1e-6;
    any = true;
  }
  return any && seconds > 0 ? joules / seconds : -1;
}

}  // namespace

struct MetricsProbe::State {
  explicit State(std::filesystem::path root) : root(std::move(root)) {
    before = read_counters(this->root, read_cgroup_cpu(this->root));
    if (this->root == "/" && nvml().ok()) gpus = find_nvidia_gpus(cuda_driver(), nvml()).gpus;
  }

  std::filesystem::path root;
  Counters before;
  std::vector<NvidiaGpu> gpus;
};

MetricsProbe::MetricsProbe(std::filesystem::path root)
    : state_(std::make_unique<State>(std::move(root))) {}

MetricsProbe::~MetricsProbe() = default;

std::vector<ProcessorMetrics> MetricsProbe::read() {
  const auto& root = state_->root;
  const CgroupCpu group = read_cgroup_cpu(root);
  Counters now = read_counters(root, group);
  const Counters& before = state_->before;
  const double seconds = now.seconds && before.seconds ? *now.seconds - *before.seconds : 0;

  std::vector<ProcessorMetrics> all;
  ProcessorMetrics cpu;
  cpu.id = "cpu";
  cpu.used_share = cpu_share(before, now, group.quota_cores, seconds);
  const MemoryInfo memory = read_memory(root);
  if (memory.total_bytes > 0) {
    cpu.memory_total_bytes = memory.limit_bytes > 0 ? memory.limit_bytes : memory.total_bytes;
    cpu.memory_used_bytes = memory.limit_bytes > 0
                                ? read_cgroup_memory(root).used_bytes
                                : std::max<int64_t>(0, memory.total_bytes - memory.available_bytes);
  }
  cpu.celsius = cpu_celsius(root);
  cpu.watts = package_watts(root, before, now, seconds);
  all.push_back(std::move(cpu));

  for (const NvidiaGpu& gpu : state_->gpus) all.push_back(read_nvidia_metrics(*nvml(), gpu));

  int index = 0;
  for (const Path& device : entries(root / "sys/class/accel", "accel")) {
    ProcessorMetrics npu;
    npu.id = fmt::format("npu{}", index++);
    const auto earlier = before.npu_microseconds.find(device.native());
    const auto later = now.npu_microseconds.find(device.native());
    if (earlier != before.npu_microseconds.end() && later != now.npu_microseconds.end()) {
      npu.used_share = share(static_cast<double>(later->second - earlier->second) * 1e-6, seconds);
    }
    all.push_back(std::move(npu));
  }
  state_->before = std::move(now);
  return all;
}

}  // namespace impetus

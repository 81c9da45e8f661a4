// What this machine is made of, as data. Probes fill it; planner, CLI and HTTP read it.
//
// Probing never aborts and never throws: what cannot be read is left at its default and named in
// `missing` with the reason. Nothing here needs a vendor's SDK at build time: the drivers'
// libraries are loaded at run time where they are there. Sizes are bytes, rates bytes or hertz as
// the names say; 0 means unknown unless said. Plain values: copy freely; probe() may run on any
// thread.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "base/json.h"

namespace impetus {

struct Missing {
  std::string what;  // "gpu", "cpu.caches", "memory.limit"
  std::string why;   // a sentence for people: "libnvidia-ml.so.1 is not installed"
};

struct CacheInfo {
  int level = 0;          // 1, 2, 3
  int64_t bytes = 0;      // of one
  int cores_sharing = 1;  // physical cores that share one
  int count = 1;
};

struct CpuInfo {
  std::string architecture;  // "x86_64", "aarch64"
  std::string vendor;        // "GenuineIntel", "AuthenticAMD", "Apple", ...
  std::string model;         // "Intel(R) Xeon(R) Platinum 8481C"
  // Those that kernels choose by, lower case as Linux names them: "avx2", "avx512f", "avx512_vnni",
  // "avx512_bf16", "avx512_fp16", "amx_int8", "amx_bf16", "asimd", "asimddp", "i8mm", "bf16",
  // "sme".
  std::vector<std::string> instruction_sets;
  int sockets = 1;
  int numa_nodes = 1;
  int physical_cores = 0;  // of the machine
  int logical_cores = 0;
  int performance_cores = 0;  // 0 where all cores are alike
  int efficiency_cores = 0;
  int allowed_cores = 0;          // physical cores within this process's affinity mask
  double quota_cores = 0;         // of the cgroup; 0: no quota
  int usable_cores = 0;           // threads worth starting: what mask and quota leave, at least 1
  std::vector<CacheInfo> caches;  // largest core type, rising level; data or unified
};

struct MemoryInfo {
  int64_t total_bytes = 0;      // of the machine
  int64_t limit_bytes = 0;      // of the cgroup; 0: no limit
  int64_t available_bytes = 0;  // now, within the limit
  int64_t usable_bytes = 0;     // what a server may plan with (usable_memory_bytes)
  bool unified = false;         // GPU and NPU use the same memory
};

struct GpuInfo {
  std::string id;            // "gpu0"
  std::string vendor;        // "NVIDIA", "Apple"
  std::string name;          // "NVIDIA H200", "Apple M4 Max"
  std::string api;           // "cuda", "metal"
  std::string driver;        // version
  std::string architecture;  // "sm_90", "applegpu_g16s"
  int cores = 0;             // SMs, or Apple's GPU cores
  int64_t memory_bytes = 0;
  int64_t available_bytes = 0;
  int64_t working_set_bytes = 0;        // Metal: recommendedMaxWorkingSetSize
  double memory_bytes_per_second = 0;   // from the memory's clock and width
  bool neural_accelerators = false;     // matrix units in an Apple GPU, usable by MLX
  std::string neural_accelerators_why;  // the rule that decided
};

struct NpuInfo {
  std::string id;      // "npu0"
  std::string vendor;  // "Apple", "Intel", "AMD"
  std::string name;    // "Apple Neural Engine", "Intel NPU"
  std::string family;  // "h16", "37xx", ...; empty: unknown
  std::string driver;  // kernel module; empty: none
  int cores = 0;
};

struct PowerInfo {
  std::string source;           // "mains", "battery"; empty: unknown
  double battery_percent = -1;  // -1: no battery, or unknown
  std::string thermal;          // "nominal", "fair", "serious", "critical"; empty: unknown
};

struct OsInfo {
  std::string name;     // "Debian GNU/Linux 12 (bookworm)", "macOS"
  std::string version;  // "12", "26.2"
  std::string kernel;   // "6.1.0-30-amd64"
};

struct Inventory {
  OsInfo os;
  CpuInfo cpu;
  MemoryInfo memory;
  std::vector<GpuInfo> gpus;
  std::vector<NpuInfo> npus;
  PowerInfo power;
  std::vector<Missing> missing;
};

// `root` stands for "/" where files are read (tests plant /proc, /sys and cgroups there); GPUs and
// topology are those of this machine only where it is "/".
Inventory probe_inventory(const std::filesystem::path& root = "/");

// What is unknown is null.
json::object to_json(const Inventory& inventory);

// The same machine, the same plan: a short text of all that measured rates depend on (processors,
// instruction sets, cores usable, memory, drivers, OS), and of nothing that changes by the minute.
std::string fingerprint(const Inventory& inventory);

// What changes by the minute. Negative: cannot be read here.
struct ProcessorMetrics {
  std::string id;          // "cpu", "gpu0", "npu0"
  double used_share = -1;  // 0 to 1 since the last call
  int64_t memory_used_bytes = -1;
  int64_t memory_total_bytes = -1;
  double celsius = -1;
  double watts = -1;
};
json::object to_json(const ProcessorMetrics& metrics);

// Keeps the counters of the last call; one owner, one thread at a time. Where a cgroup limits this
// process, the CPU's use and memory are the group's against its limits, else the machine's.
class MetricsProbe {
 public:
  // Looks at the counters for the first time; loads drivers where there are some (may take a
  // second).
  explicit MetricsProbe(std::filesystem::path root = "/");
  ~MetricsProbe();
  MetricsProbe(const MetricsProbe&) = delete;
  MetricsProbe& operator=(const MetricsProbe&) = delete;
  // Shares and watts are means since the last call.
  std::vector<ProcessorMetrics> read();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace impetus

#include "hardware/inventory.h"

#include <algorithm>
#include <random>

#include <gtest/gtest.h>

#include "hardware/cpuinfo.h"
#include "hardware/test_support.h"
#include "hardware/topology.h"

namespace impetus {
namespace {

using testing::kGiB;
using testing::kMiB;

using Planted = testing::PlantedRoot;

std::vector<std::string> missing_names(const Inventory& inventory) {
  std::vector<std::string> names;
  for (const Missing& missing : inventory.missing) {
    EXPECT_FALSE(missing.why.empty()) << missing.what;
    names.push_back(missing.what);
  }
  return names;
}

bool misses(const Inventory& inventory, const std::string& what) {
  const auto names = missing_names(inventory);
  return std::find(names.begin(), names.end(), what) != names.end();
}

TEST_F(Planted, Desktop) {
  write_desktop();
  write("etc/os-release",
        "# a comment\nNAME='Planted'\nPRETTY_NAME=\"Planted Linux 7\"\nVERSION_ID=\"7\"\n");
  write("proc/sys/kernel/osrelease", "6.1.0-30-amd64\n");
  const Inventory inventory = probe_inventory(root_);
  EXPECT_EQ(inventory.os.name, "Planted Linux 7");
  EXPECT_EQ(inventory.os.version, "7");
  EXPECT_EQ(inventory.os.kernel, "6.1.0-30-amd64");
  const CpuInfo& cpu = inventory.cpu;
  EXPECT_EQ(cpu.architecture, "x86_64");
  EXPECT_EQ(cpu.vendor, "GenuineIntel");
  EXPECT_EQ(cpu.model, "Planted CPU @ 3 GHz");
  EXPECT_EQ(cpu.instruction_sets, (std::vector<std::string>{"sse4_2", "avx", "f16c", "fma", "avx2",
                                                            "avx512f", "amx_int8"}));
  EXPECT_EQ(cpu.sockets, 1);
  EXPECT_EQ(cpu.numa_nodes, 1);
  EXPECT_EQ(cpu.physical_cores, 4);
  EXPECT_EQ(cpu.logical_cores, 8);
  EXPECT_EQ(cpu.performance_cores, 0);
  EXPECT_EQ(cpu.usable_cores, 4);
  ASSERT_EQ(cpu.caches.size(), 3u);
  EXPECT_EQ(cpu.caches[0].bytes, 48 << 10);  // of data, not of instructions
  EXPECT_EQ(cpu.caches[0].count, 4);
  EXPECT_EQ(cpu.caches[0].cores_sharing, 1);
  EXPECT_EQ(cpu.caches[2].level, 3);
  EXPECT_EQ(cpu.caches[2].bytes, 16 * kMiB);
  EXPECT_EQ(cpu.caches[2].cores_sharing, 4);
  EXPECT_EQ(cpu.caches[2].count, 1);
  EXPECT_TRUE(inventory.gpus.empty());
  EXPECT_TRUE(inventory.npus.empty());
  EXPECT_TRUE(misses(inventory, "npu"));
  EXPECT_FALSE(misses(inventory, "cpu.caches"));
}

TEST_F(Planted, TwoSocketsWithNodes) {
  write_desktop();
  for (int cpu = 0; cpu < 8; ++cpu) {
    write_cpu(cpu, std::to_string(cpu), cpu / 4);
    write_cache(cpu, 3, 3, "Unified", "32M", cpu < 4 ? "0-3" : "4-7");
  }
  write("sys/devices/system/node/has_cpu", "0-1\n");
  write("sys/devices/system/node/online", "0-3\n");  // two of them memory alone
  const CpuInfo cpu = probe_inventory(root_).cpu;
  EXPECT_EQ(cpu.sockets, 2);
  EXPECT_EQ(cpu.numa_nodes, 2);
  EXPECT_EQ(cpu.physical_cores, 8);
  EXPECT_EQ(cpu.caches.back().count, 2);
  EXPECT_EQ(cpu.caches.back().cores_sharing, 4);
}

TEST_F(Planted, ContainerOfHalfACoreVersionTwo) {
  write_desktop();
  write("proc/self/cgroup", "0::/\n");
  write("sys/fs/cgroup/cpu.max", "50000 100000\n");
  write("sys/fs/cgroup/memory.max", std::to_string(512 * kMiB) + "\n");
  write("sys/fs/cgroup/memory.current", std::to_string(64 * kMiB) + "\n");
  const Inventory inventory = probe_inventory(root_);
  EXPECT_DOUBLE_EQ(inventory.cpu.quota_cores, 0.5);
  EXPECT_EQ(inventory.cpu.usable_cores, 1);
  EXPECT_EQ(inventory.cpu.physical_cores, 4);
  EXPECT_EQ(inventory.memory.limit_bytes, 512 * kMiB);
  EXPECT_EQ(inventory.memory.available_bytes, 448 * kMiB);
  EXPECT_EQ(inventory.memory.usable_bytes, 256 * kMiB);
}

TEST_F(Planted, ContainerOfHalfACoreVersionOne) {
  write_desktop();
  write("proc/self/cgroup", "4:memory:/docker/x\n3:cpu,cpuacct:/docker/x\n1:name=systemd:/\n");
  write("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "50000\n");
  write("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n");
  write("sys/fs/cgroup/memory/memory.limit_in_bytes", std::to_string(512 * kMiB) + "\n");
  write("sys/fs/cgroup/memory/memory.usage_in_bytes", std::to_string(96 * kMiB) + "\n");
  write("sys/fs/cgroup/memory/memory.stat",
        "inactive_file 1\ntotal_inactive_file " + std::to_string(32 * kMiB) + "\n");
  const Inventory inventory = probe_inventory(root_);
  EXPECT_DOUBLE_EQ(inventory.cpu.quota_cores, 0.5);
  EXPECT_EQ(inventory.cpu.usable_cores, 1);
  EXPECT_EQ(inventory.memory.limit_bytes, 512 * kMiB);
  EXPECT_EQ(inventory.memory.available_bytes, 448 * kMiB);
}

TEST_F(Planted, IntelHybrid) {
  write_desktop();
  // Two fast cores of two threads, four slow ones of one.
  const char* siblings[] = {"0-1", "0-1", "2-3", "2-3", "4", "5", "6", "7"};
  for (int cpu = 0; cpu < 8; ++cpu) {
    write_cpu(cpu, siblings[cpu]);
    write_cache(cpu, 0, 1, "Data", cpu < 4 ? "48K" : "32K", siblings[cpu]);
    write_cache(cpu, 2, 2, "Unified", cpu < 4 ? "2048K" : "4096K", cpu < 4 ? siblings[cpu] : "4-7");
  }
  write("sys/devices/cpu_core/cpus", "0-3\n");
  write("sys/devices/cpu_atom/cpus", "4-7\n");
  const CpuInfo cpu = probe_inventory(root_).cpu;
  EXPECT_EQ(cpu.physical_cores, 6);
  EXPECT_EQ(cpu.performance_cores, 2);
  EXPECT_EQ(cpu.efficiency_cores, 4);
  ASSERT_EQ(cpu.caches.size(), 3u);
  EXPECT_EQ(cpu.caches[0].bytes, 48 << 10);
  EXPECT_EQ(cpu.caches[1].bytes, 2 * kMiB);  // the fast cores', although the slow have more
  EXPECT_EQ(cpu.caches[1].count, 2);
}

TEST_F(Planted, ArmBigLittle) {
  std::string cpuinfo;
  for (int cpu = 0; cpu < 6; ++cpu) {
    cpuinfo += "processor\t: " + std::to_string(cpu) +
               "\nFeatures\t: fp asimd asimdhp asimddp bf16 i8mm\nCPU implementer\t: 0x41\n"
               "CPU part\t: " +
               (cpu < 4 ? "0xd05" : "0xd0b") + "\n\n";
    write_cpu(cpu, std::to_string(cpu));
    write("sys/devices/system/cpu/cpu" + std::to_string(cpu) + "/cpu_capacity",
          cpu < 4 ? "414\n" : "1024\n");
  }
  write("proc/cpuinfo", cpuinfo);
  write("sys/devices/system/cpu/online", "0-5\n");
  const CpuInfo cpu = probe_inventory(root_).cpu;
  EXPECT_EQ(cpu.architecture, "aarch64");
  EXPECT_EQ(cpu.vendor, "ARM");
  EXPECT_EQ(cpu.model, "4 x Cortex-A55 + 2 x Cortex-A76");
  EXPECT_EQ(cpu.instruction_sets,
            (std::vector<std::string>{"asimd", "asimdhp", "asimddp", "bf16", "i8mm"}));
  EXPECT_EQ(cpu.performance_cores, 2);
  EXPECT_EQ(cpu.efficiency_cores, 4);
}

TEST_F(Planted, NothingAtAll) {
  const Inventory inventory = probe_inventory(root_);
  for (const char* what : {"os", "cpu.model", "cpu.instruction_sets", "cpu.topology", "cpu.caches",
                           "memory", "npu", "power", "thermal"}) {
    EXPECT_TRUE(misses(inventory, what)) << what;
  }
  EXPECT_EQ(inventory.cpu.usable_cores, 1);
  EXPECT_EQ(inventory.memory.usable_bytes, 0);
  EXPECT_FALSE(fingerprint(inventory).empty());
  const json::object report = to_json(inventory);
  EXPECT_TRUE(report.at("cpu").at("model").is_null());
  EXPECT_TRUE(report.at("memory").at("total_bytes").is_null());
  EXPECT_EQ(report.at("missing").as_array().size(), inventory.missing.size());
}

TEST_F(Planted, Accelerators) {
  write_desktop();
  write("sys/class/accel/accel0/device/vendor", "0x8086\n");
  write("sys/class/accel/accel0/device/device", "0x643e\n");
  link("sys/class/accel/accel0/device/driver", "../../../bus/pci/drivers/intel_vpu");
  write("sys/class/accel/accel1/device/vendor", "0x1022\n");
  write("sys/class/accel/accel1/device/device", "0x17f0\n");
  link("sys/class/accel/accel1/device/driver", "../../../bus/pci/drivers/amdxdna");
  link("sys/class/accel/accel2/device/driver", "../../../bus/platform/drivers/rocket");
  write("sys/class/accel/accel3/device/vendor", "0x1de5\n");
  write("sys/class/accel/accel3/device/device", "0x1234\n");
  const Inventory inventory = probe_inventory(root_);
  ASSERT_EQ(inventory.npus.size(), 4u);
  EXPECT_EQ(inventory.npus[0].id, "npu0");
  EXPECT_EQ(inventory.npus[0].name, "Intel NPU");
  EXPECT_EQ(inventory.npus[0].family, "40xx");
  EXPECT_EQ(inventory.npus[0].driver, "intel_vpu");
  EXPECT_EQ(inventory.npus[1].vendor, "AMD");
  EXPECT_EQ(inventory.npus[1].family, "xdna2");
  EXPECT_EQ(inventory.npus[2].vendor, "Rockchip");
  EXPECT_EQ(inventory.npus[3].vendor, "");
  EXPECT_EQ(inventory.npus[3].name, "accelerator 1de5:1234");
  EXPECT_EQ(inventory.npus[3].driver, "");
  EXPECT_FALSE(misses(inventory, "npu"));
}

TEST_F(Planted, GraphicsCardsWithoutADriverOfOurs) {
  write("sys/bus/pci/devices/0000:01:00.0/class", "0x030000\n");
  write("sys/bus/pci/devices/0000:01:00.0/vendor", "0x1002\n");
  write("sys/bus/pci/devices/0000:01:00.0/device", "0x744c\n");
  write("sys/bus/pci/devices/0000:02:00.0/class", "0x020000\n");  // a network card
  write("sys/bus/pci/devices/0000:02:00.0/vendor", "0x8086\n");
  const Inventory inventory = probe_inventory(root_);
  const auto found = std::find_if(inventory.missing.begin(), inventory.missing.end(),
                                  [](const Missing& entry) { return entry.what == "gpu"; });
  ASSERT_NE(found, inventory.missing.end());
  EXPECT_NE(found->why.find("AMD 1002:744c"), std::string::npos) << found->why;
  EXPECT_EQ(found->why.find("8086"), std::string::npos) << found->why;
}

TEST_F(Planted, LaptopOnBattery) {
  write("sys/class/power_supply/AC/type", "Mains\n");
  write("sys/class/power_supply/AC/online", "0\n");
  write("sys/class/power_supply/BAT0/type", "Battery\n");
  write("sys/class/power_supply/BAT0/status", "Discharging\n");
  write("sys/class/power_supply/BAT0/capacity", "64\n");
  write("sys/class/power_supply/hidpp_battery_0/type", "Battery\n");  // a mouse
  write("sys/class/power_supply/hidpp_battery_0/scope", "Device\n");
  write("sys/class/power_supply/hidpp_battery_0/capacity", "5\n");
  PowerInfo power = probe_inventory(root_).power;
  EXPECT_EQ(power.source, "battery");
  EXPECT_DOUBLE_EQ(power.battery_percent, 64);
  write("sys/class/power_supply/AC/online", "1\n");
  EXPECT_EQ(probe_inventory(root_).power.source, "mains");
}

TEST_F(Planted, MachineWithoutABattery) {
  write("sys/class/power_supply/AC/type", "Mains\n");
  write("sys/class/power_supply/AC/online", "1\n");
  const PowerInfo power = probe_inventory(root_).power;
  EXPECT_EQ(power.source, "mains");
  EXPECT_EQ(power.battery_percent, -1);
}

TEST_F(Planted, HeatByTripPoints) {
  const std::string zone = "sys/class/thermal/thermal_zone0/";
  write(zone + "trip_point_0_type", "critical\n");
  write(zone + "trip_point_0_temp", "110000\n");
  write(zone + "trip_point_1_type", "passive\n");
  write(zone + "trip_point_1_temp", "95000\n");
  write(zone + "trip_point_2_type", "active\n");
  write(zone + "trip_point_2_temp", "-274000\n");  // some firmware's "never"
  const auto heat = [&](const char* millidegrees) {
    write(zone + "temp", millidegrees);
    return probe_inventory(root_).power.thermal;
  };
  EXPECT_EQ(heat("40000\n"), "nominal");
  EXPECT_EQ(heat("96000\n"), "serious");
  EXPECT_EQ(heat("111000\n"), "critical");
  EXPECT_EQ(heat("nonsense\n"), "");
}

TEST_F(Planted, HeatByTheCpusSensor) {
  const std::string sensor = "sys/class/hwmon/hwmon1/";
  write(sensor + "name", "coretemp\n");
  write(sensor + "temp1_input", "85000\n");
  write(sensor + "temp1_max", "80000\n");
  write(sensor + "temp1_crit", "100000\n");
  EXPECT_EQ(probe_inventory(root_).power.thermal, "fair");
  write(sensor + "name", "nvme\n");
  EXPECT_EQ(probe_inventory(root_).power.thermal, "");
}

// Every file that is read, filled with what no kernel writes.
TEST_F(Planted, GarbageChangesNothingButTheAnswer) {
  const char* paths[] = {"etc/os-release",
                         "proc/cpuinfo",
                         "proc/meminfo",
                         "proc/stat",
                         "proc/uptime",
                         "proc/self/cgroup",
                         "proc/self/status",
                         "proc/sys/kernel/osrelease",
                         "sys/fs/cgroup/cpu.max",
                         "sys/fs/cgroup/cpu.stat",
                         "sys/fs/cgroup/memory.max",
                         "sys/fs/cgroup/memory.high",
                         "sys/fs/cgroup/memory.current",
                         "sys/fs/cgroup/memory.stat",
                         "sys/fs/cgroup/cpu/cpu.cfs_quota_us",
                         "sys/fs/cgroup/cpu/cpu.cfs_period_us",
                         "sys/fs/cgroup/cpu/cpuacct.usage",
                         "sys/fs/cgroup/memory/memory.limit_in_bytes",
                         "sys/fs/cgroup/memory/memory.usage_in_bytes",
                         "sys/fs/cgroup/memory/memory.stat",
                         "sys/devices/system/cpu/online",
                         "sys/devices/system/cpu/cpu0/cpu_capacity",
                         "sys/devices/system/cpu/cpu0/topology/thread_siblings_list",
                         "sys/devices/system/cpu/cpu0/topology/physical_package_id",
                         "sys/devices/system/cpu/cpu0/cache/index0/level",
                         "sys/devices/system/cpu/cpu0/cache/index0/type",
                         "sys/devices/system/cpu/cpu0/cache/index0/size",
                         "sys/devices/system/cpu/cpu0/cache/index0/shared_cpu_list",
                         "sys/devices/cpu_core/cpus",
                         "sys/devices/cpu_atom/cpus",
                         "sys/devices/system/node/has_cpu",
                         "sys/class/accel/accel0/device/vendor",
                         "sys/class/accel/accel0/device/npu_busy_time_us",
                         "sys/class/power_supply/BAT0/type",
                         "sys/class/power_supply/BAT0/capacity",
                         "sys/class/thermal/thermal_zone0/temp",
                         "sys/class/thermal/thermal_zone0/trip_point_0_type",
                         "sys/class/thermal/thermal_zone0/trip_point_0_temp",
                         "sys/class/hwmon/hwmon0/name",
                         "sys/class/hwmon/hwmon0/temp1_input",
                         "sys/class/powercap/intel-rapl:0/name",
                         "sys/class/powercap/intel-rapl:0/energy_uj",
                         "sys/bus/pci/devices/0/class"};
  std::mt19937_64 random(7);
  const auto bytes = [&](size_t count) {
    std::string text(count, '\0');
    for (char& c : text) c = static_cast<char>(random());
    return text;
  };
  // With the right words in front, so that the numbers behind them are read.
  const std::string keys =
      "MemTotal: {}\nMemAvailable: {}\n0::/{}\n4:memory:/{}\n3:cpu:/{}\ncpu {} {} {} {} {}\n"
      "inactive_file {}\nactive_file {}\nfile_dirty {}\ntotal_inactive_file {}\nusage_usec {}\n"
      "Cpus_allowed_list: {}\nprocessor : {}\nCPU implementer : {}\nCPU part : {}\nflags : {}\n";
  const auto filled = [&](const std::string& with) {
    std::string text = keys;
    for (size_t at = 0; (at = text.find("{}", at)) != std::string::npos; at += with.size()) {
      text.replace(at, 2, with);
    }
    return text;
  };
  std::vector<std::string> contents = {"",
                                       "\n",
                                       std::string(1, '\0'),
                                       "9223372036854775807",
                                       "9223372036854775807 9223372036854775807",
                                       "-9223372036854775808 -9223372036854775808",
                                       "99999999999999999999999999",
                                       "-1",
                                       "0",
                                       "1 0",
                                       "0-4294967295",
                                       "0-8191",
                                       "9007199254740992G",
                                       "Battery",
                                       "coretemp",
                                       "package-0",
                                       "1.99999999999999",
                                       std::string(1 << 20, '9'),
                                       std::string(1 << 20, ','),
                                       bytes(1),
                                       bytes(4096),
                                       bytes(200000),
                                       filled("9223372036854775807"),
                                       filled("-9223372036854775808"),
                                       filled("9007199254740993 kB"),
                                       filled("0"),
                                       filled("../../../../.."),
                                       filled("0x" + std::string(50, 'f'))};
  std::string deep = "0::";
  for (int i = 0; i < 200000; ++i) deep += "/a";
  contents.push_back(deep);
  const auto look = [&](MetricsProbe& metrics, const std::string& what) {
    const Inventory inventory = probe_inventory(root_);
    EXPECT_GE(inventory.cpu.usable_cores, 1) << what;
    EXPECT_GE(inventory.memory.usable_bytes, 0) << what;
    EXPECT_GE(inventory.memory.available_bytes, 0) << what;
    EXPECT_GE(inventory.cpu.quota_cores, 0) << what;
    EXPECT_GE(inventory.cpu.efficiency_cores, 0) << what;
    EXPECT_LE(inventory.power.battery_percent, 100) << what;
    for (const ProcessorMetrics& each : metrics.read()) {
      EXPECT_LE(each.used_share, 1) << what;
      EXPECT_TRUE(parse_json(json::serialize(to_json(each))).ok()) << what;
    }
    // Valid UTF-8 and no infinities: it can be read back.
    EXPECT_TRUE(parse_json(json::serialize(to_json(inventory))).ok()) << what;
  };
  MetricsProbe metrics(root_);
  for (const std::string& content : contents) {
    for (const char* path : paths) write(path, content);
    look(metrics, "all: " + content.substr(0, 40));
  }
  for (int round = 0; round < 80; ++round) {
    for (const char* path : paths) {
      const std::string& content = contents[random() % contents.size()];
      write(path, content.substr(0, 5000));
    }
    look(metrics, "round " + std::to_string(round));
  }
}

TEST_F(Planted, FingerprintStaysWhileTheMinuteChanges) {
  write_desktop();
  const std::string before = fingerprint(probe_inventory(root_));
  write("proc/meminfo", "MemTotal: 16777000 kB\nMemAvailable: 4000000 kB\n");
  write("sys/class/power_supply/BAT0/type", "Battery\n");
  write("sys/class/power_supply/BAT0/capacity", "5\n");
  EXPECT_EQ(fingerprint(probe_inventory(root_)), before);
  write("proc/self/status", "Cpus_allowed_list:\t0-1\n");
  EXPECT_NE(fingerprint(probe_inventory(root_)), before);
}

TEST(Fingerprint, NamesTheGpuItsDriverAndTheLimit) {
  Inventory inventory;
  const std::string bare = fingerprint(inventory);
  inventory.gpus.push_back({.id = "gpu0", .name = "NVIDIA H200", .driver = "580.1"});
  const std::string with = fingerprint(inventory);
  EXPECT_NE(with, bare);
  inventory.gpus[0].available_bytes = kGiB;
  EXPECT_EQ(fingerprint(inventory), with);
  inventory.gpus[0].driver = "590.1";
  EXPECT_NE(fingerprint(inventory), with);
  inventory.memory.limit_bytes = kGiB;
  EXPECT_NE(fingerprint(inventory).find("limit 1024 MiB"), std::string::npos);
}

TEST(ThisMachine, IsSane) {
  const Inventory inventory = probe_inventory();
  const CpuInfo& cpu = inventory.cpu;
  EXPECT_FALSE(cpu.architecture.empty());
  EXPECT_FALSE(cpu.model.empty());
  EXPECT_FALSE(cpu.instruction_sets.empty());
  EXPECT_GE(cpu.physical_cores, 1);
  EXPECT_GE(cpu.logical_cores, cpu.physical_cores);
  EXPECT_GE(cpu.usable_cores, 1);
  EXPECT_LE(cpu.usable_cores, cpu.allowed_cores);
  EXPECT_LE(cpu.allowed_cores, cpu.physical_cores);
  EXPECT_GE(cpu.sockets, 1);
  EXPECT_GE(cpu.numa_nodes, 1);
  for (size_t i = 1; i < cpu.caches.size(); ++i) {
    EXPECT_GT(cpu.caches[i].level, cpu.caches[i - 1].level);
    EXPECT_GT(cpu.caches[i].bytes, cpu.caches[i - 1].bytes);
  }
  EXPECT_GT(inventory.memory.total_bytes, 16 * kMiB);
  EXPECT_GT(inventory.memory.available_bytes, 0);
  EXPECT_LE(inventory.memory.available_bytes, inventory.memory.total_bytes);
  EXPECT_LE(inventory.memory.usable_bytes, inventory.memory.total_bytes);
  EXPECT_FALSE(inventory.os.name.empty());
  EXPECT_FALSE(inventory.os.kernel.empty());
  EXPECT_EQ(fingerprint(inventory), fingerprint(probe_inventory()));
}

#if defined(__linux__)
// Two ways to the same facts.
TEST(ThisMachine, HwlocAndTheKernelAgree) {
  const auto files = hardware::topology_from_files("/", {});
  const auto hwloc = hardware::topology_from_hwloc({});
  if (!files) GTEST_SKIP() << "/sys does not show the CPUs here";
  ASSERT_TRUE(hwloc.has_value());
  EXPECT_EQ(hwloc->physical_cores, files->physical_cores);
  EXPECT_EQ(hwloc->logical_cores, files->logical_cores);
  EXPECT_EQ(hwloc->sockets, files->sockets);
  if (files->caches.empty()) GTEST_SKIP() << "/sys does not show the caches here";
  ASSERT_EQ(hwloc->caches.size(), files->caches.size());
  for (size_t i = 0; i < files->caches.size(); ++i) {
    EXPECT_EQ(hwloc->caches[i].bytes, files->caches[i].bytes) << i;
    EXPECT_EQ(hwloc->caches[i].count, files->caches[i].count) << i;
    EXPECT_EQ(hwloc->caches[i].cores_sharing, files->caches[i].cores_sharing) << i;
  }
}

TEST(ThisMachine, CpuidAndTheKernelAgree) {
  const auto cpuid = hardware::instruction_sets_by_cpuid();
  const auto file = hardware::known_instruction_sets(hardware::read_cpuinfo("/").flags);
  if (cpuid.empty()) GTEST_SKIP() << "no CPUID on this architecture";
  // An old kernel may not know the newest names; what it names must be there.
  for (const std::string& name : file) {
    EXPECT_NE(std::find(cpuid.begin(), cpuid.end(), name), cpuid.end()) << name;
  }
  EXPECT_NE(std::find(file.begin(), file.end(), "sse4_2"), file.end());
}
#endif

}  // namespace
}  // namespace impetus

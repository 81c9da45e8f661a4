#include <thread>

#include <gtest/gtest.h>

#include "hardware/inventory.h"
#include "hardware/test_support.h"

namespace impetus {
namespace {

using testing::kGiB;
using testing::kMiB;

using Metrics = testing::PlantedRoot;

TEST_F(Metrics, OfTheMachine) {
  write_desktop();
  write("proc/uptime", "100.00 50.00\n");
  write("proc/stat", "cpu  100 0 100 800 0 0 0 0 0 0\ncpu0 1 2 3 4\n");
  MetricsProbe probe(root_);
  write("proc/uptime", "102.50 50.00\n");
  write("proc/stat", "cpu  150 0 125 850 25 0 0 0 0 0\ncpu0 1 2 3 4\n");
  auto all = probe.read();
  ASSERT_EQ(all.size(), 1u);
  EXPECT_EQ(all[0].id, "cpu");
  EXPECT_DOUBLE_EQ(all[0].used_share, 0.5);  // 75 busy of 150
  EXPECT_EQ(all[0].memory_total_bytes, 16 * kGiB);
  EXPECT_EQ(all[0].memory_used_bytes, 777216 * int64_t{1024});
  EXPECT_LT(all[0].celsius, 0);
  EXPECT_LT(all[0].watts, 0);
  // Nothing happened since.
  EXPECT_LT(probe.read()[0].used_share, 0);
}

TEST_F(Metrics, OfTheCgroupAgainstItsQuota) {
  write_desktop();
  write("proc/stat", "cpu  0 0 0 800 0 0 0 0 0 0\n");
  write("proc/self/cgroup", "0::/\n");
  write("sys/fs/cgroup/cpu.max", "50000 100000\n");
  write("sys/fs/cgroup/memory.max", std::to_string(512 * kMiB) + "\n");
  write("sys/fs/cgroup/memory.current", std::to_string(128 * kMiB) + "\n");
  write("proc/uptime", "100.00 50.00\n");
  write("sys/fs/cgroup/cpu.stat", "usage_usec 1000000\nuser_usec 1\n");
  MetricsProbe probe(root_);
  write("proc/uptime", "102.00 50.00\n");
  write("sys/fs/cgroup/cpu.stat", "usage_usec 1400000\nuser_usec 1\n");
  const auto cpu = probe.read()[0];
  EXPECT_NEAR(cpu.used_share, 0.4, 1e-9);  // 0.4 s of the 1 s that half a core has in 2 s
  EXPECT_EQ(cpu.memory_total_bytes, 512 * kMiB);
  EXPECT_EQ(cpu.memory_used_bytes, 128 * kMiB);
}

TEST_F(Metrics, OfTheCgroupVersionOne) {
  write_desktop();
  write("proc/self/cgroup", "3:cpu:/x\n2:cpuacct:/x\n");
  write("sys/fs/cgroup/cpu/x/cpu.cfs_quota_us", "100000\n");
  write("sys/fs/cgroup/cpu/x/cpu.cfs_period_us", "100000\n");
  write("proc/uptime", "100.00 50.00\n");
  write("sys/fs/cgroup/cpuacct/x/cpuacct.usage", "5000000000\n");
  MetricsProbe probe(root_);
  write("proc/uptime", "104.00 50.00\n");
  write("sys/fs/cgroup/cpuacct/x/cpuacct.usage", "6000000000\n");
  EXPECT_NEAR(probe.read()[0].used_share, 0.25, 1e-9);
}

TEST_F(Metrics, HeatAndPower) {
  write("sys/class/hwmon/hwmon0/name", "nvme\n");
  write("sys/class/hwmon/hwmon0/temp1_input", "70000\n");
  write("sys/class/hwmon/hwmon1/name", "k10temp\n");
  write("sys/class/hwmon/hwmon1/temp1_input", "54250\n");
  write("sys/class/powercap/intel-rapl:0/name", "package-0\n");
  write("sys/class/powercap/intel-rapl:0/max_energy_range_uj", "1000000000\n");
  write("sys/class/powercap/intel-rapl:0/energy_uj", "990000000\n");
  write("sys/class/powercap/intel-rapl:0:0/name", "core\n");
  write("sys/class/powercap/intel-rapl:0:0/energy_uj", "1\n");
  write("proc/uptime", "10.00 1.00\n");
  MetricsProbe probe(root_);
  write("sys/class/powercap/intel-rapl:0/energy_uj", "30000000\n");  // it went round
  write("sys/class/powercap/intel-rapl:0:0/energy_uj", "900000000\n");
  write("proc/uptime", "12.00 1.00\n");
  const auto cpu = probe.read()[0];
  EXPECT_DOUBLE_EQ(cpu.celsius, 54.25);
  EXPECT_NEAR(cpu.watts, 20, 1e-9);
}

TEST_F(Metrics, Accelerators) {
  write("proc/uptime", "10.00 1.00\n");
  write("sys/class/accel/accel0/device/npu_busy_time_us", "500000\n");
  write("sys/class/accel/accel1/device/vendor", "0x1022\n");
  MetricsProbe probe(root_);
  write("proc/uptime", "11.00 1.00\n");
  write("sys/class/accel/accel0/device/npu_busy_time_us", "750000\n");
  const auto all = probe.read();
  ASSERT_EQ(all.size(), 3u);
  EXPECT_EQ(all[1].id, "npu0");
  EXPECT_NEAR(all[1].used_share, 0.25, 1e-9);
  EXPECT_LT(all[2].used_share, 0);
}

TEST_F(Metrics, NothingToRead) {
  MetricsProbe probe(root_);
  const auto all = probe.read();
  ASSERT_EQ(all.size(), 1u);
  EXPECT_LT(all[0].used_share, 0);
  const json::object report = to_json(all[0]);
  EXPECT_TRUE(report.at("used_share").is_null());
  EXPECT_TRUE(report.at("memory_used_bytes").is_null());
}

TEST(MetricsHere, SeeThisTestsOwnWork) {
  MetricsProbe probe;
  const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(200);
  while (std::chrono::steady_clock::now() < end) {
  }
  const auto all = probe.read();
  ASSERT_GE(all.size(), 1u);
  EXPECT_GT(all[0].used_share, 0);
  EXPECT_LE(all[0].used_share, 1);
  EXPECT_GT(all[0].memory_used_bytes, 0);
}

}  // namespace
}  // namespace impetus

// What cgroups and affinity leave of the machine: cores and memory.
#include <gtest/gtest.h>

#include "hardware/cgroup.h"
#include "hardware/memory.h"
#include "hardware/processors.h"
#include "hardware/test_support.h"

namespace impetus {
namespace {

using testing::kGiB;
using testing::kMiB;

class Cores : public testing::PlantedRoot {
 protected:
  void SetUp() override {
    PlantedRoot::SetUp();
    write_desktop();
  }
};

TEST_F(Cores, AllOfThemWithoutLimits) {
  EXPECT_EQ(quota_cores(root_), 0);
  write("proc/self/cgroup", "0::/a\n");
  write("sys/fs/cgroup/a/cpu.max", "max 100000\n");
  EXPECT_EQ(quota_cores(root_), 0);
  EXPECT_EQ(allowed_cores(root_), 4);
  EXPECT_EQ(usable_cores(root_), 4);
}

TEST_F(Cores, PhysicalOnesWithinTheAffinity) {
  write("proc/self/status", "Cpus_allowed_list:\t1,5-6\n");  // 1 and 5 share a core
  EXPECT_EQ(allowed_cores(root_), 2);
  EXPECT_EQ(usable_cores(root_), 2);
  // The mask may name what is not there.
  write("proc/self/status", "Cpus_allowed_list:\t0-1023\n");
  EXPECT_EQ(allowed_cores(root_), 4);
}

TEST_F(Cores, TheTightestOfTheParents) {
  write("proc/self/cgroup", "0::/a/b\n");
  write("sys/fs/cgroup/a/b/cpu.max", "800000 100000\n");
  write("sys/fs/cgroup/a/cpu.max", "350000 100000\n");
  EXPECT_DOUBLE_EQ(quota_cores(root_), 3.5);
  EXPECT_EQ(usable_cores(root_), 3);
}

TEST_F(Cores, HalfACoreIsOneThread) {
  write("proc/self/cgroup", "0::/\n");
  write("sys/fs/cgroup/cpu.max", "50000 100000\n");
  EXPECT_DOUBLE_EQ(quota_cores(root_), 0.5);
  EXPECT_EQ(usable_cores(root_), 1);
}

TEST_F(Cores, QuotaOfVersionOne) {
  write("proc/self/cgroup", "3:cpu,cpuacct:/docker/x\n");
  write("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "200000\n");
  write("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n");
  EXPECT_EQ(usable_cores(root_), 2);
  write("sys/fs/cgroup/cpu/docker/x/cpu.cfs_quota_us", "50000\n");
  write("sys/fs/cgroup/cpu/docker/x/cpu.cfs_period_us", "100000\n");
  EXPECT_DOUBLE_EQ(quota_cores(root_), 0.5);
  write("sys/fs/cgroup/cpu/docker/x/cpu.cfs_quota_us", "-1\n");
  EXPECT_DOUBLE_EQ(quota_cores(root_), 2);
}

TEST_F(Cores, VersionTwoBesideVersionOne) {
  write("proc/self/cgroup", "2:memory:/m\n0::/u\n");
  write("sys/fs/cgroup/unified/u/cpu.max", "100000 100000\n");
  EXPECT_DOUBLE_EQ(quota_cores(root_), 1);
}

TEST_F(Cores, TheMountsOwnFilesWithoutAListOfGroups) {
  write("sys/fs/cgroup/cpu.max", "150000 100000\n");
  EXPECT_DOUBLE_EQ(quota_cores(root_), 1.5);
}

TEST_F(Cores, AHugeQuotaIsNoLimit) {
  write("proc/self/cgroup", "0::/\n");
  write("sys/fs/cgroup/cpu.max", "9223372036854775807 1\n");
  EXPECT_EQ(usable_cores(root_), 4);
}

TEST(CoresHere, AtLeastOne) {
  EXPECT_GE(usable_cores(), 1);
  EXPECT_LE(usable_cores(), allowed_cores());
  EXPECT_FALSE(processor_name().empty());
}

class Memory : public testing::PlantedRoot {
 protected:
  void SetUp() override {
    PlantedRoot::SetUp();
    write_desktop();
  }
};

TEST_F(Memory, TheMachine) {
  EXPECT_EQ(usable_memory_bytes(root_), 15 * kGiB);
  EXPECT_EQ(read_memory(root_).total_bytes, 16 * kGiB);
  EXPECT_EQ(read_memory(root_).limit_bytes, 0);
}

TEST_F(Memory, NoMoreThanIsAvailable) {
  write("proc/meminfo", "MemTotal: 16777216 kB\nMemAvailable: 1024 kB\n");
  EXPECT_EQ(usable_memory_bytes(root_), kMiB);
}

TEST_F(Memory, VersionTwoLimitOfAParent) {
  write("proc/self/cgroup", "0::/a/b\n");
  write("sys/fs/cgroup/a/b/memory.max", "max\n");
  write("sys/fs/cgroup/a/memory.max", std::to_string(4 * kGiB) + "\n");
  EXPECT_EQ(usable_memory_bytes(root_), 4 * kGiB - 256 * kMiB);
}

TEST_F(Memory, VersionOne) {
  write("proc/self/cgroup", "5:cpu,cpuacct:/x\n4:memory:/docker/1\n");
  write("sys/fs/cgroup/memory/memory.limit_in_bytes", std::to_string(8 * kGiB) + "\n");
  EXPECT_EQ(usable_memory_bytes(root_), 8 * kGiB - kGiB / 2);
}

TEST_F(Memory, VersionOneWithoutALimit) {
  write("proc/self/cgroup", "4:memory:/\n");
  write("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
  EXPECT_EQ(read_memory(root_).limit_bytes, 0);
  EXPECT_EQ(usable_memory_bytes(root_), 15 * kGiB);
}

TEST_F(Memory, ALimitBeyondTheMachineIsNone) {
  write("proc/self/cgroup", "0::/\n");
  write("sys/fs/cgroup/memory.max", std::to_string(64 * kGiB) + "\n");
  EXPECT_EQ(read_memory(root_).limit_bytes, 0);
}

TEST_F(Memory, WhatTheGroupHoldsIsGoneButForItsPageCache) {
  write("proc/self/cgroup", "0::/box\n");
  write("sys/fs/cgroup/box/memory.max", std::to_string(4 * kGiB) + "\n");
  write("sys/fs/cgroup/box/memory.current", std::to_string(3 * kGiB) + "\n");
  write("sys/fs/cgroup/box/memory.stat",
        "anon " + std::to_string(kGiB) + "\nfile " + std::to_string(2 * kGiB) +
            "\nshmem 0\ninactive_file " + std::to_string(kGiB + 8 * kMiB) + "\nactive_file " +
            std::to_string(kGiB - 8 * kMiB) + "\nfile_dirty " + std::to_string(kMiB) + "\n");
  EXPECT_EQ(read_memory(root_).available_bytes, 3 * kGiB - kMiB);
  EXPECT_EQ(hardware::read_cgroup_memory(root_).used_bytes, kGiB + kMiB);
}

TEST_F(Memory, WhatAParentHoldsCountsToo) {
  write("proc/self/cgroup", "0::/a/b\n");
  write("sys/fs/cgroup/a/b/memory.max", std::to_string(2 * kGiB) + "\n");
  write("sys/fs/cgroup/a/memory.max", std::to_string(8 * kGiB) + "\n");
  write("sys/fs/cgroup/a/memory.current", std::to_string(7 * kGiB) + "\n");
  const MemoryInfo memory = read_memory(root_);
  EXPECT_EQ(memory.limit_bytes, 2 * kGiB);
  EXPECT_EQ(memory.available_bytes, kGiB);
}

TEST_F(Memory, AHighMarkIsALimit) {
  write("proc/self/cgroup", "0::/\n");
  write("sys/fs/cgroup/memory.max", "max\n");
  write("sys/fs/cgroup/memory.high", std::to_string(kGiB) + "\n");
  EXPECT_EQ(read_memory(root_).limit_bytes, kGiB);
}

TEST(MemoryHere, IsPlausible) {
  EXPECT_GT(usable_memory_bytes(), 16 << 20);
}

}  // namespace
}  // namespace impetus

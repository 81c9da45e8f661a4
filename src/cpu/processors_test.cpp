#include "cpu/processors.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>

namespace impetus::cpu {
namespace {

class CgroupCores : public ::testing::Test {
 protected:
  void SetUp() override {
    root_ =
        std::filesystem::temp_directory_path() / ("impetus_cores_" + std::to_string(::getpid()));
    std::filesystem::remove_all(root_);
  }
  void TearDown() override { std::filesystem::remove_all(root_); }
  void write(const std::string& path, const std::string& text) {
    std::filesystem::create_directories((root_ / path).parent_path());
    std::ofstream(root_ / path) << text;
  }
  std::filesystem::path root_;
};

TEST_F(CgroupCores, NoneWithoutLimits) {
  EXPECT_EQ(cgroup_cores(root_), 0);
  write("proc/self/cgroup", "0::/a\n");
  write("sys/fs/cgroup/a/cpu.max", "max 100000\n");
  EXPECT_EQ(cgroup_cores(root_), 0);
}

TEST_F(CgroupCores, TheTightestOfTheParents) {
  write("proc/self/cgroup", "0::/a/b\n");
  write("sys/fs/cgroup/a/b/cpu.max", "800000 100000\n");
  write("sys/fs/cgroup/a/cpu.max", "350000 100000\n");
  EXPECT_EQ(cgroup_cores(root_), 3);
}

TEST_F(CgroupCores, HalfACoreIsOne) {
  write("proc/self/cgroup", "0::/\n");
  write("sys/fs/cgroup/cpu.max", "50000 100000\n");
  EXPECT_EQ(cgroup_cores(root_), 1);
}

TEST_F(CgroupCores, VersionOne) {
  write("proc/self/cgroup", "3:cpu,cpuacct:/docker/x\n");
  write("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "200000\n");
  write("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n");
  EXPECT_EQ(cgroup_cores(root_), 2);
}

TEST(Processors, ThisMachine) {
  EXPECT_GE(usable_cores(), 1);
  EXPECT_FALSE(processor_name().empty());
}

}  // namespace
}  // namespace impetus::cpu

// A folder that stands for "/", with the files that a test plants in it.
#pragma once

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>

#include <gtest/gtest.h>

namespace impetus::testing {

class PlantedRoot : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto* test = ::testing::UnitTest::GetInstance()->current_test_info();
    root_ = std::filesystem::temp_directory_path() /
            ("impetus_root_" + std::to_string(::getpid()) + "_" + test->name());
    std::filesystem::remove_all(root_);
    std::filesystem::create_directories(root_);
  }
  void TearDown() override { std::filesystem::remove_all(root_); }

  void write(const std::string& path, const std::string& text) {
    std::filesystem::create_directories((root_ / path).parent_path());
    std::ofstream(root_ / path, std::ios::binary) << text;
  }
  void link(const std::string& path, const std::string& target) {
    std::filesystem::create_directories((root_ / path).parent_path());
    std::filesystem::create_symlink(target, root_ / path);
  }

  // A CPU of /sys, with the threads of its core and its caches.
  void write_cpu(int cpu, const std::string& siblings, int package = 0) {
    const std::string folder = "sys/devices/system/cpu/cpu" + std::to_string(cpu) + "/";
    write(folder + "topology/thread_siblings_list", siblings + "\n");
    write(folder + "topology/physical_package_id", std::to_string(package) + "\n");
  }
  void write_cache(int cpu, int index, int level, const std::string& type, const std::string& size,
                   const std::string& shared) {
    const std::string folder = "sys/devices/system/cpu/cpu" + std::to_string(cpu) + "/cache/index" +
                               std::to_string(index) + "/";
    write(folder + "level", std::to_string(level) + "\n");
    write(folder + "type", type + "\n");
    write(folder + "size", size + "\n");
    write(folder + "shared_cpu_list", shared + "\n");
  }
  // Four cores of two threads in one socket, 16 GiB.
  void write_desktop() {
    write("proc/cpuinfo", [] {
      std::string text;
      for (int cpu = 0; cpu < 8; ++cpu) {
        text += "processor\t: " + std::to_string(cpu) +
                "\nvendor_id\t: GenuineIntel\nmodel name\t: Planted CPU @ 3 GHz\n"
                "flags\t\t: fpu sse4_2 avx f16c fma avx2 avx512f amx_int8 xyzzy\n\n";
      }
      return text;
    }());
    write("proc/meminfo",
          "MemTotal:       16777216 kB\nMemFree:             1 kB\nMemAvailable:   16000000 kB\n");
    write("proc/self/status", "Name:\timpetus\nCpus_allowed_list:\t0-7\n");
    write("sys/devices/system/cpu/online", "0-7\n");
    write("sys/devices/system/node/has_cpu", "0\n");
    for (int cpu = 0; cpu < 8; ++cpu) {
      const std::string pair = std::to_string(cpu % 4) + "," + std::to_string(cpu % 4 + 4);
      write_cpu(cpu, pair);
      write_cache(cpu, 0, 1, "Data", "48K", pair);
      write_cache(cpu, 1, 1, "Instruction", "64K", pair);
      write_cache(cpu, 2, 2, "Unified", "2048K", pair);
      write_cache(cpu, 3, 3, "Unified", "16M", "0-7");
    }
  }

  std::filesystem::path root_;
};

constexpr int64_t kGiB = int64_t{1} << 30;
constexpr int64_t kMiB = int64_t{1} << 20;

}  // namespace impetus::testing

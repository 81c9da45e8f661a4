// NVIDIA's libraries played by functions of this file; and whatever this machine has.
#include "hardware/nvidia.h"

#include <cstring>

#include <gtest/gtest.h>

namespace impetus::hardware {
namespace {

int gpus = 1;
bool tells_clock = true;
int handle = 0;

Result<CudaDriver> fake_cuda() {
  CudaDriver cuda;
  cuda.device_count = [](int* count) { return *count = gpus, 0; };
  cuda.device_get = [](int* device, int ordinal) { return *device = 10 + ordinal, 0; };
  cuda.device_name = [](char* name, int size, int) {
    return std::strncpy(name, "NVIDIA H100 80GB HBM3", static_cast<size_t>(size)), 0;
  };
  cuda.device_memory = [](size_t* bytes, int) { return *bytes = size_t{80} << 30, 0; };
  cuda.device_attribute = [](int* value, int attribute, int device) {
    if (device < 10) return 101;
    switch (attribute) {
      case 16:
        *value = 132;
        break;
      case 36:
        *value = tells_clock ? 2619000 : 0;
        break;
      case 37:
        *value = 5120;
        break;
      case 75:
        *value = 9;
        break;
      case 76:
        *value = 0;
        break;
      default:
        *value = 0;
    }
    return 0;
  };
  cuda.device_pci = [](char* id, int size, int) {
    return std::strncpy(id, "0000:1B:00.0", static_cast<size_t>(size)), 0;
  };
  return cuda;
}

Result<Nvml> fake_nvml() {
  Nvml nvml;
  nvml.driver_version = [](char* version, unsigned size) {
    return std::strncpy(version, "580.65.06", size), 0;
  };
  nvml.device_count = [](unsigned* count) { return *count = static_cast<unsigned>(gpus), 0; };
  nvml.device_at = [](unsigned, void** device) { return *device = &handle, 0; };
  nvml.device_by_pci = [](const char* id, void** device) {
    if (std::strcmp(id, "0000:1B:00.0") != 0) return 6;
    return *device = &handle, 0;
  };
  nvml.name = [](void*, char* name, unsigned size) {
    return std::strncpy(name, "NVIDIA H100 80GB HBM3", size), 0;
  };
  nvml.memory = [](void*, Nvml::Memory* memory) {
    return *memory = {81ull << 30, 79ull << 30, 2ull << 30}, 0;
  };
  nvml.utilization = [](void*, Nvml::Utilization* utilization) {
    return *utilization = {35, 10}, 0;
  };
  nvml.temperature = [](void*, int, unsigned* celsius) { return *celsius = 41, 0; };
  nvml.power = [](void*, unsigned*) { return 3; };  // not supported
  nvml.max_clock = [](void*, int clock, unsigned* megahertz) {
    return clock == 2 ? (*megahertz = 2619, 0) : 2;
  };
  nvml.bus_width = [](void*, unsigned* bits) { return *bits = 5120, 0; };
  nvml.compute_capability = [](void*, int* major, int* minor) { return *major = 9, *minor = 0, 0; };
  return nvml;
}

template <typename T>
Result<T> absent() {
  return Error{ErrorCode::not_found, "lib.so.1 is not installed"};
}

class Nvidia : public ::testing::Test {
 protected:
  void SetUp() override {
    gpus = 1;
    tells_clock = true;
  }
};

TEST_F(Nvidia, BothLibraries) {
  const NvidiaGpus found = find_nvidia_gpus(fake_cuda(), fake_nvml());
  ASSERT_EQ(found.gpus.size(), 1u);
  EXPECT_TRUE(found.missing.empty());
  const GpuInfo& gpu = found.gpus[0].info;
  EXPECT_EQ(gpu.id, "gpu0");
  EXPECT_EQ(gpu.vendor, "NVIDIA");
  EXPECT_EQ(gpu.name, "NVIDIA H100 80GB HBM3");
  EXPECT_EQ(gpu.api, "cuda");
  EXPECT_EQ(gpu.driver, "580.65.06");
  EXPECT_EQ(gpu.architecture, "sm_90");
  EXPECT_EQ(gpu.cores, 132);
  EXPECT_EQ(gpu.memory_bytes, int64_t{80} << 30);
  EXPECT_EQ(gpu.available_bytes, int64_t{79} << 30);
  EXPECT_NEAR(gpu.memory_bytes_per_second, 3.35e12, 0.01e12);
}

TEST_F(Nvidia, ClockFromNvmlWhereCudaDoesNotTell) {
  tells_clock = false;
  const NvidiaGpus found = find_nvidia_gpus(fake_cuda(), fake_nvml());
  EXPECT_NEAR(found.gpus.at(0).info.memory_bytes_per_second, 3.35e12, 0.01e12);
}

TEST_F(Nvidia, CudaAlone) {
  const NvidiaGpus found = find_nvidia_gpus(fake_cuda(), absent<Nvml>());
  ASSERT_EQ(found.gpus.size(), 1u);
  EXPECT_EQ(found.gpus[0].info.available_bytes, 0);
  EXPECT_EQ(found.gpus[0].info.driver, "");
  ASSERT_EQ(found.missing.size(), 1u);
  EXPECT_EQ(found.missing[0].why, "lib.so.1 is not installed");
}

TEST_F(Nvidia, NvmlAloneShowsWhatCannotBeUsed) {
  const NvidiaGpus found = find_nvidia_gpus(absent<CudaDriver>(), fake_nvml());
  ASSERT_EQ(found.gpus.size(), 1u);
  EXPECT_EQ(found.gpus[0].info.api, "");
  EXPECT_EQ(found.gpus[0].info.architecture, "sm_90");
  EXPECT_EQ(found.gpus[0].info.memory_bytes, int64_t{81} << 30);
  ASSERT_EQ(found.missing.size(), 1u);
  EXPECT_EQ(found.missing[0].what, "gpu");
}

TEST_F(Nvidia, NoLibraryAndNoDevice) {
  const NvidiaGpus none = find_nvidia_gpus(absent<CudaDriver>(), absent<Nvml>());
  EXPECT_TRUE(none.gpus.empty());
  ASSERT_EQ(none.missing.size(), 1u);
  gpus = 0;
  const NvidiaGpus empty = find_nvidia_gpus(fake_cuda(), fake_nvml());
  EXPECT_TRUE(empty.gpus.empty());
  ASSERT_EQ(empty.missing.size(), 1u);
  gpus = -5;
  EXPECT_TRUE(find_nvidia_gpus(fake_cuda(), fake_nvml()).gpus.empty());
}

TEST_F(Nvidia, Metrics) {
  const auto nvml = fake_nvml();
  const NvidiaGpus found = find_nvidia_gpus(fake_cuda(), nvml);
  const ProcessorMetrics metrics = read_nvidia_metrics(*nvml, found.gpus.at(0));
  EXPECT_EQ(metrics.id, "gpu0");
  EXPECT_DOUBLE_EQ(metrics.used_share, 0.35);
  EXPECT_EQ(metrics.memory_used_bytes, int64_t{2} << 30);
  EXPECT_DOUBLE_EQ(metrics.celsius, 41);
  EXPECT_LT(metrics.watts, 0);
}

TEST_F(Nvidia, ThisMachineDoesNotCrash) {
  const NvidiaGpus found = find_nvidia_gpus(cuda_driver(), nvml());
  EXPECT_TRUE(!found.gpus.empty() || !found.missing.empty());
  for (const NvidiaGpu& gpu : found.gpus) EXPECT_GT(gpu.info.memory_bytes, 0);
}

}  // namespace
}  // namespace impetus::hardware

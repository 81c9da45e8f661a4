// NVIDIA's GPUs through the driver's own libraries, loaded at run time where they are installed.
//
// The entry points are declared here, so that no build needs NVIDIA's headers. Nothing makes a CUDA
// context: a probe takes no GPU memory. Tests put functions of their own in the tables.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"
#include "hardware/inventory.h"

namespace impetus::hardware {

// libcuda.so.1. Every function returns 0 for success; a device is a small number.
struct CudaDriver {
  int (*init)(unsigned flags) = nullptr;
  int (*device_count)(int* count) = nullptr;
  int (*device_get)(int* device, int ordinal) = nullptr;
  int (*device_name)(char* name, int size, int device) = nullptr;
  int (*device_memory)(size_t* bytes, int device) = nullptr;
  int (*device_attribute)(int* value, int attribute, int device) = nullptr;
  int (*device_pci)(char* id, int size, int device) = nullptr;
};

// libnvidia-ml.so.1, likewise. A device is a pointer that only the library understands.
struct Nvml {
  struct Memory {
    unsigned long long total, free, used;
  };
  struct Utilization {
    unsigned gpu, memory;  // per cent
  };
  int (*init)() = nullptr;
  int (*driver_version)(char* version, unsigned size) = nullptr;
  int (*device_count)(unsigned* count) = nullptr;
  int (*device_at)(unsigned index, void** device) = nullptr;
  int (*device_by_pci)(const char* id, void** device) = nullptr;
  int (*name)(void* device, char* name, unsigned size) = nullptr;
  int (*memory)(void* device, Memory* memory) = nullptr;
  int (*utilization)(void* device, Utilization* utilization) = nullptr;
  int (*temperature)(void* device, int sensor, unsigned* celsius) = nullptr;
  int (*power)(void* device, unsigned* milliwatts) = nullptr;
  int (*max_clock)(void* device, int clock, unsigned* megahertz) = nullptr;
  int (*bus_width)(void* device, unsigned* bits) = nullptr;
  int (*compute_capability)(void* device, int* major, int* minor) = nullptr;
};

// The libraries of this machine, loaded and started once. The error says what is not there.
const Result<CudaDriver>& cuda_driver();
const Result<Nvml>& nvml();

// A GPU that one of the two libraries knows, or both.
struct NvidiaGpu {
  GpuInfo info;
  void* nvml_device = nullptr;
  bool integrated = false;  // uses the machine's memory
};
struct NvidiaGpus {
  std::vector<NvidiaGpu> gpus;  // in CUDA's order, which honours CUDA_VISIBLE_DEVICES
  std::vector<Missing> missing;
};
NvidiaGpus find_nvidia_gpus(const Result<CudaDriver>& cuda, const Result<Nvml>& nvml);

ProcessorMetrics read_nvidia_metrics(const Nvml& nvml, const NvidiaGpu& gpu);

}  // namespace impetus::hardware

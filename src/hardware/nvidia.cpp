#include "hardware/nvidia.h"

#include <algorithm>

#include <dlfcn.h>

#include "hardware/files.h"

namespace impetus::hardware {
namespace {

// CUdevice_attribute and nvmlClockType_t, by number.
constexpr int kMultiprocessors = 16;
constexpr int kIntegrated = 18;
constexpr int kMemoryClockKilohertz = 36;
constexpr int kMemoryBusBits = 37;
constexpr int kCapabilityMajor = 75;
constexpr int kCapabilityMinor = 76;
constexpr int kNvmlMemoryClock = 2;
constexpr int kNvmlGpuSensor = 0;
constexpr int kGpusMax = 64;

// A library that stays loaded: drivers do not like to be unloaded.
class Library {
 public:
  explicit Library(const char* name)
      : name_(name), handle_(::dlopen(name, RTLD_NOW | RTLD_LOCAL)) {}

  template <typename Function>
  void take(Function*& into, const char* symbol) {
    if (handle_) into = reinterpret_cast<Function*>(::dlsym(handle_, symbol));
    if (handle_ && !into && lacks_.empty()) lacks_ = symbol;
  }
  Result<void> complete() const {
    if (!handle_) return error(ErrorCode::not_found, "{} is not installed", name_);
    if (lacks_.empty()) return {};
    return error(ErrorCode::unsupported, "{} is too old: it lacks {}", name_, lacks_);
  }

 private:
  std::string name_, lacks_;
  void* handle_;
};

Result<CudaDriver> load_cuda() {
  Library library("libcuda.so.1");
  CudaDriver cuda;
  library.take(cuda.init, "cuInit");
  library.take(cuda.device_count, "cuDeviceGetCount");
  library.take(cuda.device_get, "cuDeviceGet");
  library.take(cuda.device_name, "cuDeviceGetName");
  library.take(cuda.device_memory, "cuDeviceTotalMem_v2");
  library.take(cuda.device_attribute, "cuDeviceGetAttribute");
  library.take(cuda.device_pci, "cuDeviceGetPCIBusId");
  IMPETUS_CHECK(library.complete());
  return cuda;
}

Result<Nvml> load_nvml() {
  Library library("libnvidia-ml.so.1");
  Nvml nvml;
  library.take(nvml.init, "nvmlInit_v2");
  library.take(nvml.driver_version, "nvmlSystemGetDriverVersion");
  library.take(nvml.device_count, "nvmlDeviceGetCount_v2");
  library.take(nvml.device_at, "nvmlDeviceGetHandleByIndex_v2");
  library.take(nvml.device_by_pci, "nvmlDeviceGetHandleByPciBusId_v2");
  library.take(nvml.name, "nvmlDeviceGetName");
  library.take(nvml.memory, "nvmlDeviceGetMemoryInfo");
  library.take(nvml.utilization, "nvmlDeviceGetUtilizationRates");
  library.take(nvml.temperature, "nvmlDeviceGetTemperature");
  library.take(nvml.power, "nvmlDeviceGetPowerUsage");
  library.take(nvml.max_clock, "nvmlDeviceGetMaxClockInfo");
  library.take(nvml.bus_width, "nvmlDeviceGetMemoryBusWidth");
  library.take(nvml.compute_capability, "nvmlDeviceGetCudaComputeCapability");
  IMPETUS_CHECK(library.complete());
  return nvml;
}

std::string cuda_failure(int code) {
  switch (code) {
    case 34:
      return "libcuda.so.1 is only a stub to link against";
    case 100:
      return "the NVIDIA driver finds no GPU";
    case 802:
      return "the GPUs' fabric is still starting (CUDA error 802)";
    case 803:
      return "libcuda.so.1 and the kernel's NVIDIA driver are of different versions";
    case 804:
      return "this libcuda.so.1 (of a compatibility package) does not support the GPU";
    case 999:
      return "the NVIDIA driver does not start (CUDA error 999)";
    default:
      return fmt::format("the CUDA driver does not start (CUDA error {})", code);
  }
}

std::string nvml_failure(int code) {
  switch (code) {
    case 4:
      return "NVML may not be used by this user";
    case 9:
      return "the NVIDIA kernel module is not loaded";
    case 18:
      return "libnvidia-ml.so.1 and the kernel's NVIDIA driver are of different versions";
    default:
      return fmt::format("NVML does not start (error {})", code);
  }
}

double bandwidth(double clock_hertz, int64_t bus_bits) {
  return clock_hertz > 0 && bus_bits > 0 ? clock_hertz * 2 * static_cast<double>(bus_bits) / 8 : 0;
}

// What only NVML knows, and what the CUDA driver left open.
void complete_by_nvml(const Nvml& nvml, NvidiaGpu& gpu) {
  GpuInfo& info = gpu.info;
  void* device = gpu.nvml_device;
  char text[96] = {};
  if (info.name.empty() && nvml.name(device, text, sizeof text - 1) == 0) {
    info.name = printable(text);
  }
  Nvml::Memory memory{};
  if (nvml.memory(device, &memory) == 0) {
    constexpr unsigned long long kMax = 1ull << 60;
    if (info.memory_bytes == 0) {
      info.memory_bytes = static_cast<int64_t>(std::min(memory.total, kMax));
    }
    // A slice of a GPU has less than the GPU, of which NVML speaks.
    info.available_bytes =
        std::min(info.memory_bytes, static_cast<int64_t>(std::min(memory.free, kMax)));
  }
  int major = 0, minor = 0;
  if (info.architecture.empty() && nvml.compute_capability(device, &major, &minor) == 0 &&
      major > 0) {
    info.architecture = fmt::format("sm_{}{}", major, minor);
  }
  unsigned megahertz = 0, bits = 0;
  if (info.memory_bytes_per_second == 0 &&
      nvml.max_clock(device, kNvmlMemoryClock, &megahertz) == 0 &&
      nvml.bus_width(device, &bits) == 0) {
    info.memory_bytes_per_second = bandwidth(megahertz * 1e6, bits);
  }
}

NvidiaGpu gpu_of_cuda(const CudaDriver& cuda, int device) {
  NvidiaGpu gpu;
  const auto attribute = [&](int which) {
    int value = 0;
    return cuda.device_attribute(&value, which, device) == 0 ? std::max(0, value) : 0;
  };
  char name[256] = {};
  if (cuda.device_name(name, sizeof name - 1, device) == 0) gpu.info.name = printable(name);
  size_t bytes = 0;
  if (cuda.device_memory(&bytes, device) == 0) {
    gpu.info.memory_bytes = static_cast<int64_t>(std::min<size_t>(bytes, size_t{1} << 60));
  }
  gpu.info.api = "cuda";
  gpu.info.cores = attribute(kMultiprocessors);
  if (const int major = attribute(kCapabilityMajor); major > 0) {
    gpu.info.architecture = fmt::format("sm_{}{}", major, attribute(kCapabilityMinor));
  }
  gpu.info.memory_bytes_per_second =
      bandwidth(attribute(kMemoryClockKilohertz) * 1e3, attribute(kMemoryBusBits));
  gpu.integrated = attribute(kIntegrated) == 1;
  return gpu;
}

}  // namespace

const Result<CudaDriver>& cuda_driver() {
  static const Result<CudaDriver> loaded = [] {
    auto cuda = load_cuda();
    if (!cuda.ok()) return cuda;
    const int code = cuda->init(0);
    return code == 0 ? cuda : Result<CudaDriver>(Error{ErrorCode::unavailable, cuda_failure(code)});
  }();
  return loaded;
}

const Result<Nvml>& nvml() {
  static const Result<Nvml> loaded = [] {
    auto nvml = load_nvml();
    if (!nvml.ok()) return nvml;
    const int code = nvml->init();
    return code == 0 ? nvml : Result<Nvml>(Error{ErrorCode::unavailable, nvml_failure(code)});
  }();
  return loaded;
}

NvidiaGpus find_nvidia_gpus(const Result<CudaDriver>& cuda, const Result<Nvml>& nvml) {
  NvidiaGpus found;
  if (cuda.ok()) {
    int count = 0;
    if (cuda->device_count(&count) != 0) count = 0;
    for (int ordinal = 0; ordinal < std::min(count, kGpusMax); ++ordinal) {
      int device = 0;
      if (cuda->device_get(&device, ordinal) != 0) continue;
      NvidiaGpu gpu = gpu_of_cuda(*cuda, device);
      char pci[32] = {};
      if (nvml.ok() && cuda->device_pci(pci, sizeof pci - 1, device) == 0 &&
          nvml->device_by_pci(pci, &gpu.nvml_device) != 0) {
        gpu.nvml_device = nullptr;
      }
      found.gpus.push_back(std::move(gpu));
    }
    if (found.gpus.empty()) found.missing.push_back({"gpu", "the CUDA driver shows no GPU"});
  } else {
    // Without CUDA nothing can run there, but people should see that the GPU is there.
    unsigned count = 0;
    if (!nvml.ok() || nvml->device_count(&count) != 0) count = 0;
    for (unsigned index = 0; index < std::min<unsigned>(count, kGpusMax); ++index) {
      NvidiaGpu gpu;
      if (nvml->device_at(index, &gpu.nvml_device) == 0) found.gpus.push_back(std::move(gpu));
    }
    found.missing.push_back({"gpu", "no CUDA: " + cuda.error().message});
  }
  char version[96] = {};
  if (nvml.ok() && nvml->driver_version(version, sizeof version - 1) != 0) version[0] = '\0';
  for (size_t i = 0; i < found.gpus.size(); ++i) {
    NvidiaGpu& gpu = found.gpus[i];
    gpu.info.id = fmt::format("gpu{}", i);
    gpu.info.vendor = "NVIDIA";
    gpu.info.driver = printable(version);
    if (nvml.ok() && gpu.nvml_device) complete_by_nvml(*nvml, gpu);
    if (gpu.info.memory_bytes_per_second == 0) {
      found.missing.push_back(
          {gpu.info.id + ".memory_bytes_per_second", "the driver does not tell clock and width"});
    }
  }
  if (!found.gpus.empty() && !nvml.ok()) {
    found.missing.push_back({"gpu.available", nvml.error().message});
  }
  return found;
}

ProcessorMetrics read_nvidia_metrics(const Nvml& nvml, const NvidiaGpu& gpu) {
  ProcessorMetrics metrics;
  metrics.id = gpu.info.id;
  if (!gpu.nvml_device) return metrics;
  Nvml::Utilization utilization{};
  if (nvml.utilization(gpu.nvml_device, &utilization) == 0) {
    metrics.used_share = std::min(utilization.gpu, 100u) / 100.0;
  }
  Nvml::Memory memory{};
  if (nvml.memory(gpu.nvml_device, &memory) == 0) {
    constexpr unsigned long long kMax = 1ull << 60;
    metrics.memory_used_bytes = static_cast<int64_t>(std::min(memory.used, kMax));
    metrics.memory_total_bytes = static_cast<int64_t>(std::min(memory.total, kMax));
  }
  unsigned value = 0;
  if (nvml.temperature(gpu.nvml_device, kNvmlGpuSensor, &value) == 0) metrics.celsius = value;
  if (nvml.power(gpu.nvml_device, &value) == 0) metrics.watts = value / 1000.0;
  return metrics;
}

}  // namespace impetus::hardware

// The inventory as JSON and as a fingerprint.
#include <cmath>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "hardware/inventory.h"

namespace impetus {
namespace {

json::value known(int64_t value) {
  return value > 0 ? json::value(value) : json::value(nullptr);
}
json::value known(double value) {
  return value > 0 && std::isfinite(value) ? json::value(value) : json::value(nullptr);
}
json::value known(const std::string& text) {
  return text.empty() ? json::value(nullptr) : json::value(text);
}
// Where zero is a reading and negative means unknown.
json::value reading(double value) {
  return value >= 0 && std::isfinite(value) ? json::value(value) : json::value(nullptr);
}
json::value reading(int64_t value) {
  return value >= 0 ? json::value(value) : json::value(nullptr);
}

json::object cpu_object(const CpuInfo& cpu) {
  json::array caches;
  for (const CacheInfo& cache : cpu.caches) {
    caches.push_back(json::object{{"level", cache.level},
                                  {"bytes", cache.bytes},
                                  {"cores_sharing", cache.cores_sharing},
                                  {"count", cache.count}});
  }
  return {
      {"architecture", known(cpu.architecture)},
      {"vendor", known(cpu.vendor)},
      {"model", known(cpu.model)},
      {"instruction_sets", json::array(cpu.instruction_sets.begin(), cpu.instruction_sets.end())},
      {"sockets", cpu.sockets},
      {"numa_nodes", cpu.numa_nodes},
      {"physical_cores", known(int64_t{cpu.physical_cores})},
      {"logical_cores", known(int64_t{cpu.logical_cores})},
      {"performance_cores", known(int64_t{cpu.performance_cores})},
      {"efficiency_cores", known(int64_t{cpu.efficiency_cores})},
      {"allowed_cores", known(int64_t{cpu.allowed_cores})},
      {"quota_cores", known(cpu.quota_cores)},
      {"usable_cores", cpu.usable_cores},
      {"caches", std::move(caches)}};
}

json::object gpu_object(const GpuInfo& gpu) {
  return {{"id", gpu.id},
          {"vendor", known(gpu.vendor)},
          {"name", known(gpu.name)},
          {"api", known(gpu.api)},
          {"driver", known(gpu.driver)},
          {"architecture", known(gpu.architecture)},
          {"cores", known(int64_t{gpu.cores})},
          {"memory_bytes", known(gpu.memory_bytes)},
          {"available_bytes", known(gpu.available_bytes)},
          {"working_set_bytes", known(gpu.working_set_bytes)},
          {"memory_bytes_per_second", known(gpu.memory_bytes_per_second)},
          {"neural_accelerators", gpu.neural_accelerators},
          {"neural_accelerators_why", known(gpu.neural_accelerators_why)}};
}

int64_t gibibytes(int64_t bytes) {
  return (bytes + (int64_t{1} << 29)) >>
         30;  // to the nearest: kernels keep a little for themselves
}

// "6.1" of "6.1.0-30-amd64": an update within a series changes no rates.
std::string series(const std::string& version) {
  const size_t dot = version.find('.');
  return dot == std::string::npos ? version : version.substr(0, version.find('.', dot + 1));
}

}  // namespace

json::object to_json(const Inventory& inventory) {
  json::array gpus, npus, missing;
  for (const GpuInfo& gpu : inventory.gpus) gpus.push_back(gpu_object(gpu));
  for (const NpuInfo& npu : inventory.npus) {
    npus.push_back(json::object{{"id", npu.id},
                                {"vendor", known(npu.vendor)},
                                {"name", known(npu.name)},
                                {"family", known(npu.family)},
                                {"driver", known(npu.driver)},
                                {"cores", known(int64_t{npu.cores})}});
  }
  for (const Missing& entry : inventory.missing) {
    missing.push_back(json::object{{"what", entry.what}, {"why", entry.why}});
  }
  const MemoryInfo& memory = inventory.memory;
  return {{"os", json::object{{"name", known(inventory.os.name)},
                              {"version", known(inventory.os.version)},
                              {"kernel", known(inventory.os.kernel)}}},
          {"cpu", cpu_object(inventory.cpu)},
          {"memory", json::object{{"total_bytes", known(memory.total_bytes)},
                                  {"limit_bytes", known(memory.limit_bytes)},
                                  {"available_bytes", reading(memory.available_bytes)},
                                  {"usable_bytes", reading(memory.usable_bytes)},
                                  {"unified", memory.unified}}},
          {"gpus", std::move(gpus)},
          {"npus", std::move(npus)},
          {"power", json::object{{"source", known(inventory.power.source)},
                                 {"battery_percent", reading(inventory.power.battery_percent)},
                                 {"thermal", known(inventory.power.thermal)}}},
          {"missing", std::move(missing)},
          {"fingerprint", fingerprint(inventory)}};
}

std::string fingerprint(const Inventory& inventory) {
  const CpuInfo& cpu = inventory.cpu;
  std::string text = fmt::format(
      "{} {}; {}; {} cores {} threads {} sockets {} nodes, {} fast, {} usable", cpu.architecture,
      cpu.model, fmt::join(cpu.instruction_sets, " "), cpu.physical_cores, cpu.logical_cores,
      cpu.sockets, cpu.numa_nodes, cpu.performance_cores, cpu.usable_cores);
  if (cpu.quota_cores > 0) text += fmt::format(", quota {:.2f}", cpu.quota_cores);
  text += fmt::format("; {} GiB", gibibytes(inventory.memory.total_bytes));
  if (inventory.memory.limit_bytes > 0) {
    text += fmt::format(", limit {} MiB", inventory.memory.limit_bytes >> 20);
  }
  for (const GpuInfo& gpu : inventory.gpus) {
    text += fmt::format("; {} {} {} {} cores {} GiB driver {}", gpu.id, gpu.name, gpu.architecture,
                        gpu.cores, gibibytes(gpu.memory_bytes), gpu.driver);
    if (gpu.neural_accelerators) text += " neural accelerators";
  }
  for (const NpuInfo& npu : inventory.npus) {
    text += fmt::format("; {} {} {} {} cores", npu.id, npu.name, npu.family, npu.cores);
  }
  text += fmt::format("; {} {}, kernel {}", inventory.os.name, inventory.os.version,
                      series(inventory.os.kernel));
  return text;
}

json::object to_json(const ProcessorMetrics& metrics) {
  return {{"id", metrics.id},
          {"used_share", reading(metrics.used_share)},
          {"memory_used_bytes", reading(metrics.memory_used_bytes)},
          {"memory_total_bytes", reading(metrics.memory_total_bytes)},
          {"celsius", reading(metrics.celsius)},
          {"watts", reading(metrics.watts)}};
}

}  // namespace impetus

// What macOS tells through sysctl, Mach, IOKit and Metal. macOS only; written from the documented
// names and checked by a compiler, but not yet run on a Mac.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "hardware/inventory.h"

namespace impetus::hardware {

std::string macos_processor_name();
int macos_physical_cores();
int macos_performance_cores();  // all, where all are alike

int64_t macos_memory_bytes();
int64_t macos_available_bytes();
bool macos_unified_memory();

struct CpuTicks {
  int64_t busy = 0;
  int64_t total = 0;
};
std::optional<CpuTicks> macos_cpu_ticks();

void macos_probe(Inventory& inventory);
// The GPU, the Neural Engine, and the state of power and heat (gpu_macos.cpp).
void macos_probe_gpu(Inventory& inventory);
void macos_probe_neural_engine(Inventory& inventory);
void macos_probe_power(Inventory& inventory);

std::optional<int64_t> sysctl_int(const char* name);
std::string sysctl_text(const char* name);

}  // namespace impetus::hardware

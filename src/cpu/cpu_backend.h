// The CPU as a processor. `threads` workers (the driving thread is one of them) are shared by all
// models this backend loads, so only one executor or encoder may run at a time: the device's loop
// sees to it.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "backend/executor.h"

namespace impetus {

struct CpuOptions {
  int threads = 0;  // 0: the physical cores this process may use (affinity and cgroup quota)
  std::string isa;  // "", "reference", "avx2", "avx512"; "" takes IMPETUS_CPU_ISA, else the best
};

// Those there are kernels for, whatever this machine and build have.
inline constexpr const char* kCpuInstructionSets[] = {"reference", "avx2", "avx512"};

// unsupported, naming the instruction set, where the forced one is not there.
Result<std::unique_ptr<Backend>> make_cpu_backend(const CpuOptions& options);

// Peaks of this machine with these threads and kernels, for `bench` to set its figures against.
struct CpuPeaks {
  double read_gigabytes_per_second = 0;
  double int8_gigaops_per_second = 0;  // multiply and add counted as two
  double bf16_gigaflops_per_second = 0;
  double f32_gigaflops_per_second = 0;
};
CpuPeaks measure_cpu_peaks(Backend& cpu, double seconds);

}  // namespace impetus

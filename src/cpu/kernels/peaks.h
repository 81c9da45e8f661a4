// What this machine's one thread can do at most with a kernel table's instructions: plain loops
// over registers, and over memory for the bandwidth. Kernels are judged by their share of it. Run
// them on each thread at once for the machine's sum.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "cpu/kernels/kernels.h"

namespace impetus::cpu {

struct PeakLoops {
  // Each runs `rounds` rounds of a loop and returns the operations done, multiply and add as two.
  double (*int8)(int64_t rounds);  // vpdpbusd; without VNNI vpmaddubsw + vpaddw
  double (*bf16)(int64_t rounds);  // vdpbf16ps; without it the f32 loop
  double (*f32)(int64_t rounds);   // fma
  // Reads all of it, 64-byte aligned and a multiple of 1024 bytes.
  void (*read)(const void* data, size_t bytes);
};

// Of the tables of these names; defined where those are.
extern const PeakLoops kReferencePeaks;
extern const PeakLoops kAvx2Peaks;
extern const PeakLoops kAvx512Peaks;
extern const PeakLoops kAvx512Bf16Peaks;

// Operations a second of this thread, the best of slices of about `seconds` / 8.
double peak_int8_ops(const KernelTable& table, double seconds);
double peak_bf16_ops(const KernelTable& table, double seconds);
double peak_f32_ops(const KernelTable& table, double seconds);
// Bytes a second of this thread over memory the caller provides, which should be far larger than
// the last-level cache, and touched. The best pass.
double peak_read_bytes(const KernelTable& table, const void* data, size_t bytes, double seconds);

}  // namespace impetus::cpu

// Generations of the Apple Neural Engine: limits and rates, a source each. Nothing here was
// measured by us; `source` says which figure somebody measured and which is estimated.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace impetus::coreml {

struct Chip {
  std::string_view name;             // "m1"
  std::string_view family;           // "H13"
  int64_t extent_max = 0;            // of width, height and contraction
  int kernel_width_max = 0;          // of a convolution
  bool sine = false;                 // sin and cos on the engine
  bool fast_int8 = false;            // 8-bit weights and activations at twice the rate
  bool late_slices = false;          // slices of the last axis past 4094 are right
  bool streams_int8 = false;         // 8-bit weights stay 8 bits in memory; else: unpacked to fp16
  bool streams_blocks = false;       // the same for weights with scales by block
  double fp16_flops = 0;             // a second, achieved in large convolutions
  double matmul_flops = 0;           // a second, fp16, in products of two activations
  double bytes_per_second = 0;       // of weights, and of activations past the working set
  double launch_seconds = 0;         // of one prediction
  int64_t working_set_bytes = 0;     // past it the rate falls
  std::string_view limits, figures;  // sources of the limits, of the rates
};

// Of channels, on every chip (H13 and H14 measured: ANEForge docs/cross-chip.md).
inline constexpr int64_t kChannelsMax = 65536;
// The rate that is left past the working set: 5.7 to 4.0 TFLOPS on an M4
// (https://maderix.substack.com/p/inside-the-m4-apple-neural-engine-615).
inline constexpr double kCliffShare = 0.7;

// What leaves the engine runs on other processors. All estimated, of the order of an M1's: they say
// that leaving costs, not how much on which chip.
struct HostRates {
  double cpu_flops = 0.5e12, gpu_flops = 2e12;
  double bytes_per_second = 40e9;
  double launch_seconds = 50e-6;  // of one island
};

std::span<const Chip> chips();
// By chip or by machine, any case: "m4", "m4-max", "m4-pro" are the family's; null: unknown.
const Chip* find_chip(std::string_view name);
// The table as docs/neural-engine.md has it.
std::string chips_markdown();

}  // namespace impetus::coreml

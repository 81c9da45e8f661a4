// Generations of the Apple Neural Engine: limits and measured rates, a source each.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

namespace impetus::coreml {

struct Chip {
  std::string_view name;          // "m1"
  std::string_view family;        // "H13"
  int64_t extent_max = 0;         // of width, height and contraction
  int kernel_width_max = 0;       // of a convolution
  bool sine = false;              // sin and cos on the engine
  bool fast_int8 = false;         // 8-bit weights and activations at twice the rate
  bool late_slices = false;       // slices of the last axis past 4094 are right
  double fp16_flops = 0;          // a second, achieved in large convolutions
  double bytes_per_second = 0;    // of weights and activations
  double launch_seconds = 0;      // of one prediction
  int64_t working_set_bytes = 0;  // past it the rate falls
  std::string_view source;
};

std::span<const Chip> chips();
const Chip* find_chip(std::string_view name);  // "m4", "m4-max": the family's; null: unknown

}  // namespace impetus::coreml

// The table's three parts, one a maker's kind; known_machines.cpp joins them.
#pragma once

#include <cstdint>
#include <span>

#include "hardware/known_machines.h"

namespace impetus {

std::span<const KnownMachine> apple_machines();
std::span<const KnownMachine> nvidia_machines();
std::span<const KnownMachine> cpu_machines();

inline constexpr int64_t gib = int64_t{1} << 30;
inline constexpr double giga = 1e9;
inline constexpr double tera = 1e12;

// A CPU's peaks follow from its cores, a clock in GHz and operations a cycle and core.
struct CyclesOps {
  double f32, f16, bf16, int8;
};
constexpr KnownProcessor cpu_by_cycles(const char* backend, const char* name, int cores, double ghz,
                                       CyclesOps ops, double memory_bytes_per_second,
                                       const char* source) {
  const double cycles = cores * ghz * giga;
  return {"cpu",
          backend,
          name,
          cores,
          memory_bytes_per_second,
          cycles * ops.f32,
          cycles * ops.f16,
          cycles * ops.bf16,
          cycles * ops.int8,
          0,
          source};
}

// Operations a cycle and core, multiply and add as two. What a core cannot do is 0.
inline constexpr CyclesOps avx2 = {32, 0, 0, 64};             // 2 x 256 bit; int8 by maddubs, madd
inline constexpr CyclesOps avx_vnni = {32, 0, 0, 128};        // 2 x 256 bit vpdpbusd
inline constexpr CyclesOps zen4 = {32, 0, 64, 128};           // 512 bit on 256 bit wide units
inline constexpr CyclesOps zen5 = {64, 0, 128, 256};          // 2 x 512 bit
inline constexpr CyclesOps amx = {64, 128, 2048, 4096};       // f32, f16: 2 x 512 bit; tiles beyond
inline constexpr CyclesOps amx_f16 = {64, 2048, 2048, 4096};  // Granite Rapids: f16 tiles too
inline constexpr CyclesOps neon_4 = {32, 64, 0, 128};         // 4 x 128 bit, sdot
inline constexpr CyclesOps neon_4_bf16 = {32, 64, 64, 128};   // and bfdot
inline constexpr CyclesOps neon_v2 = {32, 64, 128, 256};      // and bfmmla, smmla on all four
inline constexpr CyclesOps neon_2 = {16, 32, 0, 64};          // 2 x 128 bit, sdot

}  // namespace impetus

#include "cpu/kernels/kernels.h"

namespace impetus::cpu {
namespace {

// The compiler's run-time library asks both CPUID and XGETBV, so an instruction set counts only
// where the operating system saves its registers too.
bool machine_has_avx2() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
         __builtin_cpu_supports("f16c");
#else
  return false;
#endif
}

bool machine_has_avx512_vnni() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  return machine_has_avx2() && __builtin_cpu_supports("avx512f") &&
         __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni");
#else
  return false;
#endif
}

bool machine_has_avx512_bf16() {
#if defined(__x86_64__)
  return machine_has_avx512_vnni() && __builtin_cpu_supports("avx512bf16");
#else
  return false;
#endif
}

}  // namespace

#if !defined(__x86_64__)
const KernelTable* avx2_kernels() {
  return nullptr;
}
const KernelTable* avx512_kernels() {
  return nullptr;
}
const KernelTable* avx512_bf16_kernels() {
  return nullptr;
}
#endif

KernelTables supported_kernels() {
  KernelTables found = {{reference_kernels(), nullptr, nullptr}, 1};
  if (machine_has_avx2() && avx2_kernels() != nullptr) found.tables[found.count++] = avx2_kernels();
  if (machine_has_avx512_vnni() && avx512_kernels() != nullptr) {
    found.tables[found.count++] =
        machine_has_avx512_bf16() ? avx512_bf16_kernels() : avx512_kernels();
  }
  return found;
}

}  // namespace impetus::cpu

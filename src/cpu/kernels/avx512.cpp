#include "cpu/kernels/kernels.h"

namespace impetus::cpu {

const KernelTable* avx512_kernels() {
  return nullptr;
}

}  // namespace impetus::cpu

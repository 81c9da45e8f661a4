#include "cpu/kernels/kernels.h"

namespace impetus::cpu {

const KernelTable* avx2_kernels() {
  return nullptr;
}

}  // namespace impetus::cpu

// What the tests of this folder share.
#pragma once

#include "mlx/mlx_backend.h"

namespace impetus::mlx_backend {

// The paths of a GPU with the kernels of decode steps, all on the host (decode_kernels_test.cpp).
// `way` 0 to 3: with kernels that go wrong in one way.
MlxOptions with_host_kernels(int way = -1);

}  // namespace impetus::mlx_backend

// What the tests of this folder share.
#pragma once

#include <vector>

#include "mlx/mlx_backend.h"
#include "mlx/wall.h"

namespace impetus::mlx_backend {

// An array's values, row by row.
inline std::vector<float> floats(const mx::array& array) {
  mx::array wide = mx::contiguous(mx::astype(array, mx::float32));
  wide.eval();
  return {wide.data<float>(), wide.data<float>() + wide.size()};
}

// Greedy tokens of some sequences side by side, one step for all at a time (decoder_test.cpp).
std::vector<std::vector<TokenId>> side_by_side(Executor& executor,
                                               std::vector<std::vector<TokenId>> sequences,
                                               const std::vector<std::vector<BlockId>>& blocks,
                                               int steps);

// The kernel of prompts' attention on the host (prefill_kernel_test.cpp). `way` 0 to 2: one that
// goes wrong in one way.
decltype(MlxOptions::prefill_kernel) host_prefill(int way = -1);

// The kernels of rows on the host (row_kernels_test.cpp). `way` 0 to 9: with one that goes wrong.
decltype(MlxOptions::row_kernels) host_rows(int way = -1);

// The kernel of whole decode steps on the host (decode_step_test.cpp).
decltype(MlxOptions::decode_step) host_step();

// The paths of a GPU with kernels of our own, all on the host (decode_kernels_test.cpp).
// `way` 0 to 3: with kernels that go wrong in one way.
MlxOptions with_host_kernels(int way = -1);

}  // namespace impetus::mlx_backend

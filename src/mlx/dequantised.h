// From how many rows on a quantised matrix is multiplied faster when it is dequantised first: MLX's
// own product on CUDA dequantises it again for each tile of 64 rows.
// Includes MLX: only the sources of this folder include this.
#pragma once

#include <array>

#include "mlx/mlx_backend.h"
#include "mlx/weights.h"

namespace impetus::mlx_backend {

struct DequantisedChoice {
  int64_t from = 0;  // rows; 0: never
  double error = 0;  // of the products that were timed, as apart() has it
};

// As many are timed. MLX compiles one kernel for all of them, which shorter prompts (of more than
// 32 rows) need in any case.
inline constexpr std::array<int, 4> kDequantisedRows = {512, 384, 256, 128};

// Times both products by turns with random rows: of kDequantisedRows those that a step may have, as
// long as dequantising is clearly the faster.
// REQUIRES matrix.dequantisable(type).
DequantisedChoice dequantised_choice(const Matrix& matrix, mx::Dtype type, int64_t rows_max,
                                     const decltype(MlxOptions::product_seconds)& seconds);

// By the clock, once.
double product_seconds(int64_t rows, bool dequantised, const std::function<void()>& product);

}  // namespace impetus::mlx_backend

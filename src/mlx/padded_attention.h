// One attention for single rows of several sequences by MLX's operations: keys and values gathered
// from the pool, padded to the longest, behind a mask. Includes MLX: only the sources of this
// folder include this.
#pragma once

#include "mlx/kv_pool.h"
#include "mlx/step_plan.h"
#include "mlx/wall.h"

namespace impetus::mlx_backend {

struct PaddedStep {
  mx::array slots = mx::array(0);    // i32 [sequences * longest]
  mx::array seen = mx::array(true);  // bool [sequences, 1, 1, longest]
};
// REQUIRES plan.one_row_each.
PaddedStep padded_step(const StepPlan& plan);

// query [sequences, heads, 1, head_dim], keys and values the pool's -> [sequences, heads *
// head_dim].
mx::array attend_padded(const PaddedStep& step, const mx::array& query, const KvRows& keys,
                        const KvRows& values);

}  // namespace impetus::mlx_backend

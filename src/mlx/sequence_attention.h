// Rows of sequences over their keys and values in the KV pool by MLX's attention, one sequence
// after another. Includes MLX: only the sources of this folder include this.
#pragma once

#include "mlx/kv_pool.h"
#include "mlx/step_plan.h"
#include "mlx/wall.h"

namespace impetus::mlx_backend {

// query: of one sequence [1, heads, rows, head_dim], of several [rows, heads, 1, head_dim]; keys,
// values: the pool's of a layer, written before -> [rows, heads * head_dim], in query's type.
// `scores_max`: of all heads' scores at a time, where MLX writes them out; 0: it does not.
mx::array attend_by_sequence(const ModelSpec& spec, const StepPlan& plan, const mx::array& query,
                             const KvRows& keys, const KvRows& values, int64_t scores_max);

}  // namespace impetus::mlx_backend

// Rotary position embeddings for rows of any positions. Includes MLX: only the sources of this
// folder include this.
#pragma once

#include <optional>
#include <vector>

#include "mlx/step_plan.h"
#include "mlx/wall.h"

namespace impetus::mlx_backend {

// Where MLX has a kernel for it (a GPU) that is used; on a CPU it would compute sines and cosines
// anew in each layer, so they are made once a step, from angles in double.
class Rotary {
 public:
  Rotary(const ModelSpec& spec, bool fused);

  void begin(const StepPlan& plan);
  void clear();
  // [1, heads, rows, head_dim] of one sequence, or [rows, heads, 1, head_dim] of several.
  mx::array apply(const mx::array& x) const;

 private:
  int64_t width_;
  bool neighbours_, fused_;
  std::vector<float> frequencies_;
  std::optional<mx::array> periods_;        // [head_dim / 2]: 1 / frequency, as MLX takes them
  std::optional<mx::array> offsets_;        // i32: the first position, or one a row
  std::optional<mx::array> cosine_, sine_;  // f32, broadcast over heads
};

}  // namespace impetus::mlx_backend

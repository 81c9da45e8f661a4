#include "mlx/padded_attention.h"

#include <algorithm>
#include <cmath>

namespace impetus::mlx_backend {

// Beyond its end a shorter sequence reads its own first position again, never a slot that nobody
// wrote or somebody wrote infinities to: zero weight would not undo those.
PaddedStep padded_step(const StepPlan& plan) {
  const auto longest = static_cast<size_t>(plan.length_max);
  const size_t count = plan.sequences.size();
  std::vector<int32_t> slots(count * longest);
  std::vector<uint8_t> seen(count * longest, 0);
  for (size_t s = 0; s < count; ++s) {
    const PlannedSequence& sequence = plan.sequences[s];
    int32_t* to = slots.data() + s * longest;
    std::fill_n(seen.data() + s * longest, sequence.position + 1, uint8_t{1});
    for (const SlotRun& run : sequence.runs) {
      for (int64_t slot = run.begin; slot < run.end; ++slot) *to++ = static_cast<int32_t>(slot);
    }
    std::fill(to, slots.data() + (s + 1) * longest,
              static_cast<int32_t>(sequence.runs.front().begin));
  }
  const auto rows = dim(static_cast<int64_t>(count)), width = dim(plan.length_max);
  return {mx::array(slots.begin(), mx::Shape{rows * width}, mx::int32),
          mx::array(seen.begin(), mx::Shape{rows, 1, 1, width}, mx::bool_)};
}

mx::array attend_padded(const PaddedStep& step, const mx::array& query, const KvRows& keys,
                        const KvRows& values) {
  const auto count = query.shape(0), heads = query.shape(1), width = query.shape(3);
  const auto gather = [&](const KvRows& pool) {
    return mx::transpose(
        mx::reshape(pool.at(step.slots), {pool.kv_heads(), count, step.seen.shape(3), width}),
        {1, 0, 2, 3});
  };
  const mx::array out = mx::fast::scaled_dot_product_attention(
      query, gather(keys), gather(values), 1.0f / std::sqrt(static_cast<float>(width)), "array",
      step.seen);
  return mx::reshape(out, {count, heads * width});
}

}  // namespace impetus::mlx_backend

#include "mlx/sequence_attention.h"

#include <algorithm>
#include <cmath>

namespace impetus::mlx_backend {
namespace {

// Keys or values of positions [0, end), [1, kv_heads, end, head_dim]: a view where the blocks are a
// run of values that are not quantised, else a copy.
mx::array cached(const KvRows& pool, const PlannedSequence& sequence, int64_t end) {
  std::vector<mx::array> parts;
  int64_t left = end;
  for (const SlotRun& run : sequence.runs) {
    if (left == 0) break;
    const int64_t count = std::min(left, run.end - run.begin);
    parts.push_back(pool.run({run.begin, run.begin + count}));
    left -= count;
  }
  return mx::expand_dims(parts.size() == 1 ? parts[0] : mx::concatenate(parts, 1), 0);
}

// Consecutive rows of one sequence, query [1, heads, n, head_dim] -> [n, heads * head_dim].
mx::array attend_one(const ModelSpec& spec, const PlannedSequence& sequence, const mx::array& query,
                     const KvRows& keys, const KvRows& values, int64_t scores_max) {
  const float scale = 1.0f / std::sqrt(static_cast<float>(spec.head_dim));
  const int64_t end = sequence.position + sequence.count;
  const int64_t most =
      scores_max == 0 ? sequence.count : std::max<int64_t>(1, scores_max / (spec.heads * end));
  std::vector<mx::array> parts;
  const mx::array all_keys = cached(keys, sequence, end),
                  all_values = cached(values, sequence, end);
  for (int64_t first = 0; first < sequence.count; first += most) {
    const int64_t count = std::min(most, sequence.count - first);
    const int64_t seen = sequence.position + first + count;
    const auto until = [&](const mx::array& all) {
      if (seen == end) return all;
      return mx::slice(all, {0, 0, 0, 0}, {1, all.shape(1), dim(seen), all.shape(3)});
    };
    const mx::array part =
        count == sequence.count
            ? query
            : mx::slice(query, {0, 0, dim(first), 0},
                        {1, dim(spec.heads), dim(first + count), dim(spec.head_dim)});
    const mx::array out = mx::fast::scaled_dot_product_attention(
        part, until(all_keys), until(all_values), scale, count > 1 ? "causal" : "");
    parts.push_back(mx::reshape(mx::transpose(out, {0, 2, 1, 3}),
                                {dim(count), dim(spec.heads * spec.head_dim)}));
  }
  return parts.size() == 1 ? parts[0] : mx::concatenate(parts, 0);
}

}  // namespace

mx::array attend_by_sequence(const ModelSpec& spec, const StepPlan& plan, const mx::array& query,
                             const KvRows& keys, const KvRows& values, int64_t scores_max) {
  std::vector<mx::array> parts;
  for (const PlannedSequence& sequence : plan.sequences) {
    mx::array rows = query;
    if (!plan.single()) {
      rows = mx::transpose(
          mx::slice(query, {dim(sequence.row), 0, 0, 0},
                    {dim(sequence.row + sequence.count), dim(spec.heads), 1, dim(spec.head_dim)}),
          {2, 1, 0, 3});
    }
    parts.push_back(attend_one(spec, sequence, rows, keys, values, scores_max));
  }
  return parts.size() == 1 ? parts[0] : mx::concatenate(parts, 0);
}

}  // namespace impetus::mlx_backend

// How long a step takes on a processor: a roofline over what its profile says it achieves. Pure.
//
//   step = overhead + sum over weight types of products + attention + keys and values read
// where products of one type take the root of the squared times to compute them and to read their
// weights: the larger decides, and where both are alike neither hides the other whole. The
// read rate is that of the model's working set, the compute rate that of the step's rows; both are
// interpolated between the profile's figures. Where steps are enqueued the profile has times of
// whole layers, which are interpolated instead; of MLX's groups those of the nearest bits, or where
// it has none those of the type that they are planned as. Nothing exceeds the profile's physical
// limits.
#pragma once

#include <map>
#include <optional>

#include "backend/profile.h"
#include "planner/model_cost.h"

namespace impetus {

// One step of a model: `rows` tokens of `sequences` sequences.
struct StepShape {
  ShapeClass shape = ShapeClass::decode;
  int64_t rows = 1;
  int64_t sequences = 1;
  int64_t outputs = 1;       // rows whose logits are wanted
  int64_t visible_keys = 0;  // summed over the rows
  int64_t keys_read = 0;     // summed over the sequences
  DType kv = DType::f16;
};

struct PhaseTime {
  double seconds = 0;
  bool limited_by_memory = false;
};

class Predictor {
 public:
  // Borrows both. `threads` is clamped to what the profile has.
  Predictor(const DeviceProfile& profile, const ModelCost& model, int threads);

  PhaseTime step(const StepShape& shape) const;
  // Seconds to decode one token for each of `batch` sequences of `context` positions.
  PhaseTime decode(int64_t batch, int64_t context, DType kv) const;
  // Seconds to prefill `tokens` from position `past` on, in chunks.
  PhaseTime prefill(int64_t tokens, int64_t past, int64_t chunk, DType kv) const;
  // Seconds to encode `texts` texts of `length` tokens at once.
  PhaseTime encode(int64_t texts, int64_t length) const;

  int threads() const { return threads_; }

 private:
  PhaseTime layered(const StepShape& shape) const;
  // No less than the profile's limits allow.
  double bounded(double seconds, double bytes, double ops) const;
  // Of a layer of `parameters` weights like the group's.
  std::optional<double> layer_seconds(ShapeClass shape, const WeightGroup& group, int64_t rows,
                                      int64_t parameters) const;
  std::optional<double> head_seconds(int64_t rows) const;
  std::map<double, std::map<double, double>> layer_times(ShapeClass shape,
                                                         const WeightGroup& group) const;
  double compute_rate(DType type, int64_t rows) const;
  double read_rate(int64_t working_set_bytes) const;
  double attention_rate(ShapeClass shape, double items) const;
  const Overhead& overhead(ShapeClass shape) const;

  const DeviceProfile& profile_;
  const ModelCost& model_;
  int threads_;
};

// The thread counts the profile has figures for, rising.
std::vector<int> thread_counts(const DeviceProfile& profile);

}  // namespace impetus

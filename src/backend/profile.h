// What a processor does with models, as measured through the seam or written down from a data
// sheet: the planner's only source of speeds. Plain data; to_json and from_json are inverses.
//
// A profile belongs to one backend of one device. Rates are what the backend *achieved* on models
// of random weights, so they contain its kernels, its barriers and its memory; limits come from
// data sheets and bound what may be predicted.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/result.h"
#include "tensor/dtype.h"

namespace impetus {

// Decode runs a row a sequence; prefill and encoder run many rows, and differ by attention.
enum class ShapeClass : uint8_t { decode, prefill, encoder };
std::string_view to_string(ShapeClass shape);

// Products of weights of one type with `rows` rows at a time, beside everything else a step costs.
struct MatrixRate {
  DType weights = DType::f32;  // as run: 8-bit conversions count as q8_0
  int64_t rows = 1;
  int threads = 1;
  double ops_per_second = 0;  // multiply and add as two
};

// Weights read once through, from a working set of this size (caches make small ones faster).
struct ReadRate {
  int threads = 1;
  int64_t working_set_bytes = 0;
  double bytes_per_second = 0;
};

// What a layer takes where steps are enqueued: launches run beside the work, and small products
// leave the processor idle, so that no rate and no cost say it. Products, elementwise work and
// attention among the rows themselves, a decode step's to its first keys (attention_within).
struct LayerTime {
  ShapeClass shape = ShapeClass::decode;
  DType weights = DType::f32;
  int64_t rows = 1;        // decode: a sequence each; prefill: one sequence's first; encoder: texts
  int64_t parameters = 0;  // of the layer
  double seconds = 0;
  int bits = 0;  // of a code, where the weights are `grouped`: MLX's, in groups of 64
};
// "q4_0"; of `grouped` weights "4-bit".
std::string weights_name(const LayerTime& time);
// The longest text, the longest prompt, and the keys that a decode step sees, in the times above.
inline constexpr int64_t kLayerTextTokens = 128, kLayerPromptTokens = 512, kLayerDecodeKeys = 96;
// Query rows times keys that each sees, as far as those times have them.
int64_t attention_within(ShapeClass shape, int64_t rows, int64_t sequences);

struct AttentionRate {
  ShapeClass shape = ShapeClass::decode;
  int threads = 1;
  double ops_per_second = 0;  // 4 x heads x head_dim for each query row and visible key
};

// What a step costs beside products and attention.
struct Overhead {
  ShapeClass shape = ShapeClass::decode;  // stands for prefill, where that has none
  int threads = 1;
  double step_seconds = 0;       // once
  double layer_seconds = 0;      // a layer: barriers on a CPU, launches on a GPU
  double row_value_seconds = 0;  // elementwise work: a row, a layer, a value of `hidden`
};

// How long layers took in the moments in which they were timed, as parts of what is kept, their
// median: one in ten took less than the least, one in ten more than the most. The host of a virtual
// machine changes its pace.
struct Scatter {
  ShapeClass shape = ShapeClass::decode;
  double least = 1, most = 1;
};

struct DeviceProfile {
  std::string device;   // "cpu", "gpu0", "npu0"
  std::string backend;  // "cpu-avx512", "mlx", "coreml", "cuda"
  std::string source;   // "measured 2026-11-27", or where the figures stand
  bool measured = false;
  std::vector<ReadRate> read;
  std::vector<MatrixRate> matrix;
  std::vector<LayerTime> layers;  // where there are any, they stand for `matrix`
  std::vector<AttentionRate> attention;
  std::vector<Overhead> overhead;
  std::vector<Scatter> scatter;  // where figures were timed in several moments
  // KV out of this device's memory or into it, by KvStorage; 0: shared with the host, no copy.
  double copy_bytes_per_second = 0;
  double copy_seconds = 0;  // of a copy of next to nothing
  // Physical limits, where known (0: unknown): no prediction may exceed them.
  double limit_bytes_per_second = 0;
  double limit_ops_per_second = 0;  // of the fastest type

  // Nobody measured or estimated it: nothing can be predicted from it.
  bool empty() const { return read.empty() && matrix.empty() && layers.empty(); }
  Scatter scatter_of(ShapeClass shape) const;  // 1 and 1 where nobody knows
};

json::object to_json(const DeviceProfile& profile);
Result<DeviceProfile> profile_from_json(const json::value& value);

}  // namespace impetus

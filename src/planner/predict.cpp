#include "planner/predict.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <optional>

namespace impetus {
namespace {

// Interpolates y over the logarithm of x; flat beyond the ends. Points need no order.
class Curve {
 public:
  void add(double x, double y) {
    if (x > 0 && y > 0) points_.emplace_back(std::log(x), y);
  }
  bool empty() const { return points_.empty(); }
  double at(double x) {
    if (points_.empty()) return 0;
    std::ranges::sort(points_);
    const double wanted = std::log(std::max(x, 1e-300));
    const auto above = std::ranges::lower_bound(points_, std::pair{wanted, 0.0});
    if (above == points_.begin()) return points_.front().second;
    if (above == points_.end()) return points_.back().second;
    const auto& [x1, y1] = *above;
    const auto& [x0, y0] = *(above - 1);
    if (x1 <= x0) return y1;
    return y0 + (y1 - y0) * (wanted - x0) / (x1 - x0);
  }

 private:
  std::vector<std::pair<double, double>> points_;
};

// What a time rises by beyond the last point: as the line through the last two; in proportion where
// that does not rise, or there is one point alone.
double rise_beyond(const std::map<double, double>& points) {
  const auto last = std::prev(points.end());
  if (last != points.begin()) {
    const auto before = std::prev(last);
    const double rise = (last->second - before->second) / (last->first - before->first);
    if (rise > 0) return rise;
  }
  return last->second / last->first;
}

// Lines between points, and beyond the last; below the first as there.
double on_lines(const std::map<double, double>& points, double x) {
  const auto above = points.lower_bound(x);
  if (above == points.begin()) return above->second;
  const auto& [x0, y0] = *std::prev(above);
  if (above == points.end()) return y0 + rise_beyond(points) * (x - x0);
  return y0 + (above->second - y0) / (above->first - x0) * (x - x0);
}

constexpr double kInfinite = 1e300;

// Types that cost about the same to compute with stand in for one that has no figure.
std::vector<DType> stand_ins(DType type) {
  switch (type) {
    case DType::f16:
      return {DType::f16, DType::f32, DType::bf16};
    case DType::bf16:
      return {DType::bf16, DType::f16, DType::f32};
    case DType::q8_0:
      return {DType::q8_0, DType::q4_0, DType::f16, DType::f32};
    case DType::q4_0:
      return {DType::q4_0, DType::q8_0, DType::f16, DType::f32};
    default:
      return {DType::f32, DType::f16, DType::bf16};
  }
}

// Bits of the layers in MLX's groups that are nearest; of two equally near the more, which take
// longer to read. 0: there are none of this shape.
int nearest_bits(const DeviceProfile& profile, ShapeClass shape, int bits) {
  int nearest = 0;
  for (const LayerTime& time : profile.layers) {
    if (time.shape != shape || time.weights != DType::grouped) continue;
    const int distance = std::abs(time.bits - bits), least = std::abs(nearest - bits);
    if (nearest == 0 || distance < least || (distance == least && time.bits > nearest)) {
      nearest = time.bits;
    }
  }
  return nearest;
}

}  // namespace

std::vector<int> thread_counts(const DeviceProfile& profile) {
  std::vector<int> counts;
  for (const ReadRate& rate : profile.read) counts.push_back(rate.threads);
  std::ranges::sort(counts);
  counts.erase(std::unique(counts.begin(), counts.end()), counts.end());
  return counts.empty() ? std::vector<int>{1} : counts;
}

Predictor::Predictor(const DeviceProfile& profile, const ModelCost& model, int threads)
    : profile_(profile), model_(model) {
  const auto counts = thread_counts(profile);
  // The largest count there is a figure for that does not exceed what is asked.
  threads_ = counts.front();
  for (const int count : counts) {
    if (count <= threads) threads_ = count;
  }
}

double Predictor::compute_rate(DType type, int64_t rows) const {
  const int most = thread_counts(profile_).back();
  const auto curve = [&](DType of, int threads) {
    Curve found;
    for (const MatrixRate& rate : profile_.matrix) {
      if (rate.weights == of && rate.threads == threads) {
        found.add(static_cast<double>(rate.rows), rate.ops_per_second);
      }
    }
    return found;
  };
  for (const DType of : stand_ins(type)) {
    Curve own = curve(of, threads_);
    Curve whole = curve(of, most);
    if (own.empty() && whole.empty()) continue;
    if (whole.empty()) return own.at(static_cast<double>(rows));
    const double full = whole.at(static_cast<double>(rows));
    if (threads_ == most) return full;
    // With fewer threads only some types and row counts were measured: their share of the full
    // rate, at one row and at many, stands for the others'.
    double share = 0;
    for (const DType like : stand_ins(of)) {
      Curve fewer = curve(like, threads_);
      Curve all = curve(like, most);
      if (fewer.empty() || all.empty()) continue;
      const double few = fewer.at(1) / all.at(1);
      const double many = fewer.at(512) / all.at(512);
      const double weight = std::clamp(std::log2(static_cast<double>(rows)) / 4, 0.0, 1.0);
      share = few + (many - few) * weight;
      break;
    }
    return full * (share > 0 ? share : static_cast<double>(threads_) / most);
  }
  return kInfinite;
}

double Predictor::read_rate(int64_t working_set_bytes) const {
  Curve curve;
  for (const ReadRate& rate : profile_.read) {
    if (rate.threads == threads_) {
      curve.add(static_cast<double>(std::max<int64_t>(1, rate.working_set_bytes)),
                rate.bytes_per_second);
    }
  }
  return curve.empty() ? kInfinite : curve.at(static_cast<double>(working_set_bytes));
}

double Predictor::attention_rate(ShapeClass shape, double items) const {
  // A group of queries against one key head is one thread's work: fewer of them use fewer threads.
  const double threads = std::min(static_cast<double>(threads_), std::max(1.0, items));
  const auto of = [&](ShapeClass wanted) {
    Curve curve;
    for (const AttentionRate& rate : profile_.attention) {
      if (rate.shape == wanted) curve.add(rate.threads, rate.ops_per_second);
    }
    return curve.empty() ? 0.0 : curve.at(threads);
  };
  for (const ShapeClass like : {shape, ShapeClass::prefill, ShapeClass::decode}) {
    if (const double rate = of(like); rate > 0) return rate;
  }
  return kInfinite;
}

const Overhead& Predictor::overhead(ShapeClass shape) const {
  static const Overhead none;
  // Decode's stands for prefill where that has none.
  const auto others = shape == ShapeClass::prefill ? ShapeClass::decode : shape;
  for (const ShapeClass wanted : {shape, others}) {
    const Overhead* best = nullptr;
    for (const Overhead& cost : profile_.overhead) {
      if (cost.shape != wanted) continue;
      if (best == nullptr ||
          std::abs(cost.threads - threads_) < std::abs(best->threads - threads_)) {
        best = &cost;
      }
    }
    if (best != nullptr) return *best;
  }
  return none;
}

// A layer takes what it reads and multiplies, and something beside: lines over its weights, and
// then over rows.
std::optional<double> Predictor::layer_seconds(ShapeClass shape, const WeightGroup& group,
                                               int64_t rows, int64_t parameters) const {
  const auto by_rows = layer_times(shape, group);
  if (by_rows.empty()) return std::nullopt;
  std::map<double, double> of_size;
  for (const auto& [count, points] : by_rows) {
    of_size[count] = on_lines(points, static_cast<double>(parameters));
  }
  return on_lines(of_size, static_cast<double>(rows));
}

// One product: what as many weights more than the largest layer's would add to it.
std::optional<double> Predictor::head_seconds(int64_t rows) const {
  const auto by_rows = layer_times(ShapeClass::decode, model_.head);
  if (by_rows.empty()) return std::nullopt;
  std::map<double, double> of_head;
  for (const auto& [count, points] : by_rows) {
    of_head[count] = rise_beyond(points) * static_cast<double>(model_.head.parameters);
  }
  return on_lines(of_head, static_cast<double>(rows));
}

// Seconds by parameters, by rows: of the likest shape, type and bits that there are.
std::map<double, std::map<double, double>> Predictor::layer_times(ShapeClass shape,
                                                                  const WeightGroup& group) const {
  const auto shapes = shape == ShapeClass::encoder
                          ? std::vector{shape, ShapeClass::prefill}
                          : std::vector{shape, ShapeClass::prefill, ShapeClass::decode};
  for (const ShapeClass like : shapes) {
    std::vector<std::pair<DType, int>> kinds;  // type and bits, the likest first
    if (group.bits > 0) {
      if (const int bits = nearest_bits(profile_, like, group.bits); bits > 0) {
        kinds.emplace_back(DType::grouped, bits);
      }
    }
    for (const DType of : stand_ins(group.type)) kinds.emplace_back(of, 0);
    for (const auto& [of, bits] : kinds) {
      std::map<double, std::map<double, double>> by_rows;
      for (const LayerTime& time : profile_.layers) {
        if (time.shape != like || time.weights != of || time.bits != bits) continue;
        if (time.seconds <= 0) continue;
        by_rows[static_cast<double>(time.rows)][static_cast<double>(time.parameters)] =
            time.seconds;
      }
      if (!by_rows.empty()) return by_rows;
    }
  }
  return {};
}

double Predictor::bounded(double seconds, double bytes, double ops) const {
  const double memory = profile_.limit_bytes_per_second, compute = profile_.limit_ops_per_second;
  if (memory > 0) seconds = std::max(seconds, bytes / memory);
  if (compute > 0) seconds = std::max(seconds, ops / compute);
  return seconds;
}

PhaseTime Predictor::layered(const StepShape& shape) const {
  double seconds = overhead(shape.shape).step_seconds, ops = 0, bytes = 0;
  int64_t parameters = 0;
  for (const WeightGroup& group : model_.layer_weights) parameters += group.parameters;
  const int64_t a_layer = std::max<int64_t>(1, parameters / std::max<int64_t>(1, model_.layers));
  // So much of a group, in so many rows, takes as long; where no time is known, as memory does.
  const auto add = [&](const WeightGroup& group, double share, int64_t rows,
                       std::optional<double> takes) {
    const double read = share * static_cast<double>(group.bytes());
    seconds += takes ? *takes : read / read_rate(static_cast<int64_t>(read));
    bytes += read;
    ops += 2.0 * share * static_cast<double>(group.parameters) * static_cast<double>(rows);
  };
  // A prompt's last layer makes keys and values; what it does beside for the last row is a step's.
  double whole = 1, attending = static_cast<double>(model_.layers);
  if (shape.shape == ShapeClass::prefill && model_.layers > 0) {
    const auto keys = static_cast<double>(2 * model_.hidden * model_.kv_heads * model_.head_dim);
    const double part = std::min(1.0, keys / static_cast<double>(a_layer));
    whole -= (1 - part) / static_cast<double>(model_.layers);
    attending -= 1;
  }
  for (const WeightGroup& group : model_.layer_weights) {
    if (group.parameters == 0 || shape.rows == 0) continue;
    // Of several types each takes its part of the layers.
    const double layers =
        whole * static_cast<double>(group.parameters) / static_cast<double>(a_layer);
    auto takes = layer_seconds(shape.shape, group, shape.rows, a_layer);
    if (takes) *takes *= layers;
    add(group, whole, shape.rows, takes);
  }
  if (model_.head.parameters > 0 && shape.outputs > 0) {
    add(model_.head, 1, shape.outputs, head_seconds(shape.outputs));
  }
  // What the layers' times do not have: earlier positions, and longer texts.
  const int64_t within = attention_within(shape.shape, shape.rows, shape.sequences);
  const auto others =
      static_cast<double>(shape.visible_keys - std::min(shape.visible_keys, within));
  const double attention_ops =
      4.0 * static_cast<double>(model_.heads * model_.head_dim) * attending * others;
  seconds += attention_ops / attention_rate(shape.shape, 1);
  ops += attention_ops;
  if (model_.kind == ModelKind::decoder) {
    bytes += static_cast<double>(shape.keys_read * model_.kv_token_bytes(shape.kv));
  }
  seconds = bounded(seconds, bytes, ops);
  return {seconds, bytes / read_rate(static_cast<int64_t>(bytes)) > seconds / 2};
}

PhaseTime Predictor::step(const StepShape& shape) const {
  if (!profile_.layers.empty()) return layered(shape);
  const Overhead& cost = overhead(shape.shape);
  const auto layers = static_cast<double>(model_.layers);
  const auto rows = static_cast<double>(shape.rows);
  double seconds = cost.step_seconds + layers * cost.layer_seconds +
                   rows * layers * static_cast<double>(model_.hidden) * cost.row_value_seconds;

  const int64_t kv_bytes =
      model_.kind == ModelKind::decoder ? shape.keys_read * model_.kv_token_bytes(shape.kv) : 0;
  const double read = read_rate(model_.weight_bytes() + kv_bytes);
  double bytes_total = 0, ops_total = 0, computing = 0, reading = 0;
  const auto products = [&](const WeightGroup& group, int64_t group_rows) {
    if (group_rows == 0 || group.parameters == 0) return;
    const double ops =
        2.0 * static_cast<double>(group.parameters) * static_cast<double>(group_rows);
    const auto bytes = static_cast<double>(group.bytes());
    const double compute = ops / compute_rate(group.type, group_rows);
    const double memory = bytes / read;
    computing += compute;
    reading += memory;
    ops_total += ops;
    bytes_total += bytes;
    seconds += std::hypot(compute, memory);
  };
  for (const WeightGroup& group : model_.layer_weights) products(group, shape.rows);
  products(model_.head, shape.outputs);

  const double attention_ops = 4.0 * static_cast<double>(model_.heads * model_.head_dim) * layers *
                               static_cast<double>(shape.visible_keys);
  const double items = static_cast<double>(model_.kv_heads) *
                       static_cast<double>(std::max<int64_t>(shape.sequences, shape.rows / 64));
  const double attention = attention_ops / attention_rate(shape.shape, items);
  const double keys = static_cast<double>(kv_bytes) / read;
  seconds += std::max(attention, keys);

  bytes_total += static_cast<double>(kv_bytes);
  ops_total += attention_ops;
  seconds = bounded(seconds, bytes_total, ops_total);
  return {seconds, reading + keys > computing + attention};
}

PhaseTime Predictor::decode(int64_t batch, int64_t context, DType kv) const {
  return step({.shape = ShapeClass::decode,
               .rows = batch,
               .sequences = batch,
               .outputs = batch,
               .visible_keys = batch * context,
               .keys_read = batch * context,
               .kv = kv});
}

PhaseTime Predictor::prefill(int64_t tokens, int64_t past, int64_t chunk, DType kv) const {
  PhaseTime whole;
  double memory = 0;
  for (int64_t at = 0; at < tokens; at += chunk) {
    const int64_t count = std::min(chunk, tokens - at);
    const int64_t before = past + at;
    const PhaseTime part = step({.shape = ShapeClass::prefill,
                                 .rows = count,
                                 .sequences = 1,
                                 .outputs = at + count == tokens ? 1 : 0,
                                 .visible_keys = count * before + count * (count + 1) / 2,
                                 .keys_read = before + count,
                                 .kv = kv});
    whole.seconds += part.seconds;
    if (part.limited_by_memory) memory += part.seconds;
  }
  whole.limited_by_memory = 2 * memory > whole.seconds;
  return whole;
}

PhaseTime Predictor::encode(int64_t texts, int64_t length) const {
  return step({.shape = ShapeClass::encoder,
               .rows = texts * length,
               .sequences = texts,
               .outputs = 0,
               .visible_keys = texts * length * length,
               .keys_read = 0,
               .kv = DType::f32});
}

}  // namespace impetus

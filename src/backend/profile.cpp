#include "backend/profile.h"

#include <algorithm>
#include <array>
#include <cmath>

namespace impetus {
namespace {

constexpr int64_t kThreadsMax = 4096;
constexpr std::array kTypes = {DType::f32, DType::f16, DType::bf16, DType::q8_0, DType::q4_0};
constexpr std::array kLayerTypes = {DType::f32,  DType::f16,  DType::bf16,
                                    DType::q8_0, DType::q4_0, DType::grouped};
constexpr std::array kShapes = {ShapeClass::decode, ShapeClass::prefill, ShapeClass::encoder};

// Reads fields of one object; the first that is missing or wrong is remembered.
class Reader {
 public:
  Reader(const json::value& value, std::string place) : place_(std::move(place)) {
    object_ = value.if_object();
    if (object_ == nullptr) fail("is not an object");
  }

  double number(std::string_view key, double least = 0) {
    if (object_ == nullptr) return 0;
    const auto value = number_field(*object_, key);
    if (!value.ok() || !*value || !std::isfinite(**value) || **value < least) {
      fail(fmt::format("'{}' is no number of at least {}", key, least));
      return least;
    }
    return **value;
  }
  int64_t integer(std::string_view key, int64_t least) {
    const double value = number(key, static_cast<double>(least));
    return value < 9e15 ? static_cast<int64_t>(value) : least;
  }
  int threads() {
    const int64_t count = integer("threads", 1);
    if (count > kThreadsMax) fail(fmt::format("'threads' is {}, more than {}", count, kThreadsMax));
    return static_cast<int>(std::min(count, kThreadsMax));
  }
  std::string text(std::string_view key) {
    if (object_ == nullptr) return {};
    const auto value = string_field(*object_, key);
    if (!value.ok() || !*value) {
      fail(fmt::format("'{}' is no text", key));
      return {};
    }
    return **value;
  }
  template <typename Enum, size_t N>
  Enum one_of(std::string_view key, const std::array<Enum, N>& all) {
    const std::string name = text(key);
    for (const Enum value : all) {
      if (to_string(value) == name) return value;
    }
    fail(fmt::format("'{}' is '{}', which is unknown", key, name));
    return all[0];
  }
  // Calls `each` with a Reader for every entry of a list.
  template <typename Each>
  void list(std::string_view key, Each each) {
    const json::value* value = object_ ? object_->if_contains(key) : nullptr;
    const json::array* array = value ? value->if_array() : nullptr;
    if (array == nullptr) return fail(fmt::format("'{}' is no list", key));
    for (const json::value& entry : *array) {
      Reader reader(entry, fmt::format("{}.{}", place_, key));
      each(reader);
      if (reader.error_ && !error_) error_ = std::move(reader.error_);
    }
  }
  void fail(const std::string& what) {
    if (!error_) error_ = error(ErrorCode::corrupt, "{}: {}", place_, what);
  }
  const std::optional<Error>& failure() const { return error_; }

 private:
  std::string place_;
  const json::object* object_ = nullptr;
  std::optional<Error> error_;
};

}  // namespace

std::string_view to_string(ShapeClass shape) {
  switch (shape) {
    case ShapeClass::decode:
      return "decode";
    case ShapeClass::prefill:
      return "prefill";
    case ShapeClass::encoder:
      return "encoder";
  }
  return "";
}

std::string weights_name(const LayerTime& time) {
  if (time.weights == DType::grouped) return fmt::format("{}-bit", time.bits);
  return std::string(to_string(time.weights));
}

Scatter DeviceProfile::scatter_of(ShapeClass shape) const {
  const auto found = std::ranges::find(scatter, shape, &Scatter::shape);
  return found == scatter.end() ? Scatter{shape} : *found;
}

int64_t attention_within(ShapeClass shape, int64_t rows, int64_t sequences) {
  if (shape == ShapeClass::decode) return rows * kLayerDecodeKeys;
  const int64_t each = rows / std::max<int64_t>(1, sequences);
  if (shape == ShapeClass::prefill) return rows * (std::min(each, kLayerPromptTokens) + 1) / 2;
  return rows * std::min(each, kLayerTextTokens);
}

json::object to_json(const DeviceProfile& profile) {
  json::array read, matrix, layers, attention, overhead, scatter;
  for (const ReadRate& rate : profile.read) {
    read.push_back(json::object{{"threads", rate.threads},
                                {"working_set_bytes", rate.working_set_bytes},
                                {"bytes_per_second", rate.bytes_per_second}});
  }
  for (const MatrixRate& rate : profile.matrix) {
    matrix.push_back(json::object{{"weights", to_string(rate.weights)},
                                  {"rows", rate.rows},
                                  {"threads", rate.threads},
                                  {"ops_per_second", rate.ops_per_second}});
  }
  for (const LayerTime& time : profile.layers) {
    json::object layer{{"shape", to_string(time.shape)},
                       {"weights", to_string(time.weights)},
                       {"rows", time.rows},
                       {"parameters", time.parameters},
                       {"seconds", time.seconds}};
    if (time.weights == DType::grouped) layer["bits"] = time.bits;
    layers.push_back(std::move(layer));
  }
  for (const AttentionRate& rate : profile.attention) {
    attention.push_back(json::object{{"shape", to_string(rate.shape)},
                                     {"threads", rate.threads},
                                     {"ops_per_second", rate.ops_per_second}});
  }
  for (const Overhead& cost : profile.overhead) {
    overhead.push_back(json::object{{"shape", to_string(cost.shape)},
                                    {"threads", cost.threads},
                                    {"step_seconds", cost.step_seconds},
                                    {"layer_seconds", cost.layer_seconds},
                                    {"row_value_seconds", cost.row_value_seconds}});
  }
  for (const Scatter& one : profile.scatter) {
    scatter.push_back(
        json::object{{"shape", to_string(one.shape)}, {"least", one.least}, {"most", one.most}});
  }
  return {{"device", profile.device},
          {"backend", profile.backend},
          {"source", profile.source},
          {"measured", profile.measured},
          {"read", std::move(read)},
          {"matrix", std::move(matrix)},
          {"layers", std::move(layers)},
          {"attention", std::move(attention)},
          {"overhead", std::move(overhead)},
          {"scatter", std::move(scatter)},
          {"copy_bytes_per_second", profile.copy_bytes_per_second},
          {"copy_seconds", profile.copy_seconds},
          {"limit_bytes_per_second", profile.limit_bytes_per_second},
          {"limit_ops_per_second", profile.limit_ops_per_second}};
}

Result<DeviceProfile> profile_from_json(const json::value& value) {
  DeviceProfile profile;
  Reader reader(value, "profile");
  profile.device = reader.text("device");
  profile.backend = reader.text("backend");
  profile.source = reader.text("source");
  if (const json::object* object = value.if_object()) {
    const auto measured = bool_field(*object, "measured");
    if (!measured.ok() || !*measured) reader.fail("'measured' is neither true nor false");
    profile.measured = measured.ok() && measured->value_or(false);
  }
  reader.list("read", [&](Reader& r) {
    profile.read.push_back(
        {r.threads(), r.integer("working_set_bytes", 0), r.number("bytes_per_second")});
  });
  reader.list("matrix", [&](Reader& r) {
    profile.matrix.push_back({r.one_of("weights", kTypes), r.integer("rows", 1), r.threads(),
                              r.number("ops_per_second")});
  });
  // Of processors to which steps are enqueued alone; profiles of before have no scatter.
  if (value.is_object() && value.get_object().contains("layers")) {
    reader.list("layers", [&](Reader& r) {
      LayerTime& time = profile.layers.emplace_back();
      time = {r.one_of("shape", kShapes), r.one_of("weights", kLayerTypes), r.integer("rows", 1),
              r.integer("parameters", 1), r.number("seconds")};
      // Profiles of before MLX's groups were measured have none.
      if (time.weights == DType::grouped) {
        const int64_t bits = r.integer("bits", 2);
        if (bits > 8) r.fail(fmt::format("'bits' is {}, more than 8", bits));
        time.bits = static_cast<int>(std::min<int64_t>(bits, 8));
      }
      const double seconds = time.seconds;
      if (!(seconds > 0 && seconds < 3600)) r.fail("'seconds' is no time that a layer takes");
    });
  }
  if (value.is_object() && value.get_object().contains("scatter")) {
    reader.list("scatter", [&](Reader& r) {
      profile.scatter.push_back(
          {r.one_of("shape", kShapes), r.number("least"), r.number("most", 1)});
      if (profile.scatter.back().least > 1) r.fail("'least' is more than 1");
    });
  }
  reader.list("attention", [&](Reader& r) {
    profile.attention.push_back(
        {r.one_of("shape", kShapes), r.threads(), r.number("ops_per_second")});
  });
  reader.list("overhead", [&](Reader& r) {
    profile.overhead.push_back({r.one_of("shape", kShapes), r.threads(), r.number("step_seconds"),
                                r.number("layer_seconds"), r.number("row_value_seconds")});
  });
  profile.copy_bytes_per_second = reader.number("copy_bytes_per_second");
  profile.copy_seconds = reader.number("copy_seconds");
  profile.limit_bytes_per_second = reader.number("limit_bytes_per_second");
  profile.limit_ops_per_second = reader.number("limit_ops_per_second");
  if (profile.read.empty()) reader.fail("'read' is empty");
  if (profile.matrix.empty() && profile.layers.empty()) {
    reader.fail("'matrix' and 'layers' are empty");
  }
  if (reader.failure()) return *reader.failure();
  return profile;
}

}  // namespace impetus

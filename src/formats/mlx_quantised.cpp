#include "formats/mlx_quantised.h"

#include <algorithm>
#include <set>

#include "formats/bytes.h"

namespace impetus {
namespace {

constexpr std::string_view kWeight = ".weight";
constexpr std::string_view kScales = ".scales";
constexpr std::string_view kBiases = ".biases";

struct Settings {
  int64_t group = 0;
  int64_t bits = 0;
  GroupQuantised::Mode mode = GroupQuantised::Mode::affine;
};

Result<int64_t> integer(const json::object& object, std::string_view key) {
  const json::value* value = object.if_contains(key);
  if (value == nullptr || !value->is_int64()) {
    return error(ErrorCode::corrupt, "config.json: quantization: '{}' is no integer", key);
  }
  return value->get_int64();
}

Result<Settings> read_settings(const json::object& object) {
  Settings settings;
  if (const json::value* mode = object.if_contains("mode"); mode != nullptr) {
    const json::string* name = mode->if_string();
    if (name != nullptr && *name == "mxfp4") {
      settings.mode = GroupQuantised::Mode::mxfp4;
    } else if (name == nullptr || *name != "affine") {
      return error(ErrorCode::unsupported,
                   "config.json: quantization: mode {}: this version runs affine and mxfp4",
                   printable(json::serialize(*mode)));
    }
  }
  const bool affine = settings.mode == GroupQuantised::Mode::affine;
  IMPETUS_TRY(settings.group, integer(object, "group_size"));
  IMPETUS_TRY(settings.bits, integer(object, "bits"));
  const int64_t bits = settings.bits, group = settings.group;
  const bool known =
      affine ? bits >= 2 && bits <= 8 && bits != 7 && (group == 32 || group == 64 || group == 128)
             : bits == 4 && group == 32;
  if (!known) {
    return error(
        ErrorCode::unsupported,
        "config.json: quantization: {} bits in groups of {}{}: this version runs 2, 3, 4, 5, 6 "
        "and 8 bits in groups of 32, 64 and 128, and mxfp4's 4 bits in groups of 32",
        bits, group, affine ? "" : " (mxfp4)");
  }
  return settings;
}

// A layer's own settings, else those of all.
Result<Settings> settings_of(const json::object& quantisation, std::string_view layer) {
  const json::value* own = quantisation.if_contains(layer);
  if (own != nullptr && own->is_object()) return read_settings(own->get_object());
  if (own != nullptr && own->is_bool() && !own->get_bool()) {
    return error(ErrorCode::corrupt,
                 "config.json says that it is not quantised, yet it has scales");
  }
  return read_settings(quantisation);
}

bool is_scale(DType type) {
  return type == DType::f32 || type == DType::f16 || type == DType::bf16;
}

// The joined view; `grouped` gets what it points to.
Result<TensorView> join(const Settings& settings, const TensorView& codes, const TensorView& scales,
                        const TensorView* biases, GroupQuantised& grouped) {
  const bool affine = settings.mode == GroupQuantised::Mode::affine;
  if (codes.dtype != DType::u32 || codes.shape.rank() != 2 || scales.shape.rank() != 2) {
    return error(ErrorCode::corrupt,
                 "codes are {} {} and scales {}, not two matrices, codes in u32",
                 to_string(codes.dtype), codes.shape.to_string(), scales.shape.to_string());
  }
  if (affine ? !is_scale(scales.dtype) : scales.dtype != DType::u8) {
    return error(ErrorCode::corrupt, "scales are {}, which {} does not have",
                 to_string(scales.dtype), affine ? "affine quantisation" : "mxfp4");
  }
  // Bounded by the file's bytes where neither is empty, so that no product overflows.
  const int64_t columns =
      scales.shape.elements() == 0 ? 0 : scales.shape.columns() * settings.group;
  if (columns == 0 || codes.shape.elements() == 0 || codes.shape.rows() != scales.shape.rows() ||
      codes.shape.columns() * 32 != columns * settings.bits) {
    return error(ErrorCode::corrupt, "codes {} and scales {} do not fit {} bits in groups of {}",
                 codes.shape.to_string(), scales.shape.to_string(), settings.bits, settings.group);
  }
  if (affine && biases == nullptr) return error(ErrorCode::corrupt, "its biases are missing");
  if (!affine && biases != nullptr) return error(ErrorCode::corrupt, "mxfp4 has no biases");
  if (biases != nullptr && (biases->dtype != scales.dtype || biases->shape != scales.shape)) {
    return error(ErrorCode::corrupt, "biases are {} {}, scales {} {}", to_string(biases->dtype),
                 biases->shape.to_string(), to_string(scales.dtype), scales.shape.to_string());
  }
  grouped = {settings.mode,
             static_cast<int>(settings.bits),
             static_cast<int>(settings.group),
             scales.dtype,
             scales.data,
             biases == nullptr ? std::span<const std::byte>{} : biases->data};
  return TensorView{DType::grouped, Shape{codes.shape.rows(), columns}, codes.data, &grouped};
}

}  // namespace

const json::object* mlx_quantisation(const json::object& config) {
  const auto object = [&](const char* key) {
    const json::value* value = config.if_contains(key);
    return value == nullptr ? nullptr : value->if_object();
  };
  if (const json::object* own = object("quantization")) return own;
  const json::object* shared = object("quantization_config");
  const bool other =
      shared == nullptr || shared->contains("quant_method") || !shared->contains("group_size");
  return other ? nullptr : shared;
}

Result<WeightSet> join_quantised(WeightSet set, const json::object& config) {
  const json::object* quantisation = mlx_quantisation(config);
  std::vector<NamedTensor> tensors;
  std::set<std::string, std::less<>> joined;  // scales and biases that went into a weight
  std::vector<std::unique_ptr<const GroupQuantised>> groups;
  for (const NamedTensor& tensor : set.tensors_) {
    NamedTensor& kept = tensors.emplace_back(tensor);
    if (!tensor.name.ends_with(kWeight)) continue;
    const std::string layer = tensor.name.substr(0, tensor.name.size() - kWeight.size());
    const NamedTensor* scales = set.find(layer + std::string(kScales));
    if (scales == nullptr) continue;
    const auto place = [&] {
      return fmt::format("{}: layer {}", set.path_of(tensor), printable(layer));
    };
    if (quantisation == nullptr) {
      return error(ErrorCode::corrupt,
                   "{} has scales, but config.json has no \"quantization\" that says how many bits",
                   place());
    }
    auto settings = settings_of(*quantisation, layer);
    if (!settings.ok()) return std::move(settings).error().within(place());
    const NamedTensor* biases = set.find(layer + std::string(kBiases));
    auto grouped = std::make_unique<GroupQuantised>();
    auto view = join(*settings, tensor.view, scales->view,
                     biases == nullptr ? nullptr : &biases->view, *grouped);
    if (!view.ok()) return std::move(view).error().within(place());
    kept.view = *view;
    groups.push_back(std::move(grouped));
    joined.insert(scales->name);
    if (biases != nullptr) joined.insert(biases->name);
  }
  if (groups.empty()) return set;
  std::erase_if(tensors, [&](const NamedTensor& tensor) { return joined.contains(tensor.name); });
  IMPETUS_TRY(WeightSet result, WeightSet::build(std::move(set.files_), std::move(tensors),
                                                 std::move(set.unusable_), std::move(set.name_)));
  result.groups_ = std::move(groups);
  return result;
}

}  // namespace impetus

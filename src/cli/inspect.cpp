#include <charconv>

#include <CLI/CLI.hpp>

#include "cli/commands.h"
#include "formats/mlx_quantised.h"
#include "runtime/model.h"

namespace impetus::cli {
namespace {

struct Options {
  std::string model, tensor, values;
  bool tensors = false, json = false;
};

json::array shape_array(const Shape& shape) {
  json::array dims;
  for (int i = 0; i < shape.rank(); ++i) dims.push_back(shape[i]);
  return dims;
}

json::object tensor_object(const NamedTensor& tensor) {
  return {{"name", tensor.name},
          {"dtype", type_name(tensor.view)},
          {"shape", shape_array(tensor.view.shape)}};
}

// "FIRST:COUNT" within [0, elements].
Result<std::pair<int64_t, int64_t>> parse_range(const std::string& text, int64_t elements) {
  int64_t first = 0, count = 0;
  const size_t colon = text.find(':');
  const auto number = [](std::string_view digits, int64_t& value) {
    const auto [end, code] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
    return code == std::errc{} && end == digits.data() + digits.size();
  };
  if (colon == std::string::npos || !number(std::string_view(text).substr(0, colon), first) ||
      !number(std::string_view(text).substr(colon + 1), count) || first < 0 || count < 0 ||
      first > elements || count > elements - first) {
    return error(ErrorCode::invalid_argument,
                 "--values '{}' must be FIRST:COUNT within the tensor's {} elements", text,
                 elements);
  }
  return std::pair{first, count};
}

Result<void> inspect_tensor(const Options& options, const WeightSet& weights) {
  IMPETUS_TRY(const NamedTensor* tensor, weights.require(options.tensor));
  json::object report = tensor_object(*tensor);
  std::vector<float> values;
  if (!options.values.empty()) {
    if (!is_weight(tensor->view.dtype)) {
      return error(ErrorCode::unsupported, "{}: values of type {} are not shown", tensor->name,
                   to_string(tensor->view.dtype));
    }
    const TensorView& view = tensor->view;
    IMPETUS_TRY(const auto range, parse_range(options.values, view.shape.elements()));
    const auto [first, count] = range;
    // Whole blocks around the range, rows where weights are grouped; then cut.
    const int64_t columns = view.shape.columns();
    const int64_t block = view.grouped != nullptr ? columns : block_elements(view.dtype);
    const int64_t begin = first / block * block;
    const int64_t end = (first + count + block - 1) / block * block;
    values.resize(static_cast<size_t>(end - begin));
    if (view.grouped == nullptr) {
      dequantize(view.dtype, view.data.data() + begin / block * block_bytes(view.dtype),
                 end - begin, values.data());
    } else {
      for (int64_t at = begin; at < end; at += columns) {
        dequantize_row(view, at / columns, values.data() + (at - begin));
      }
    }
    values.erase(values.begin(), values.begin() + (first - begin));
    values.resize(static_cast<size_t>(count));
  }
  if (!options.json) {
    fmt::print("{} {} {}\n", tensor->name, type_name(tensor->view), tensor->view.shape.to_string());
    for (const float value : values) fmt::print("{:.9g}\n", value);
    return {};
  }
  // Nine digits bring every float back exactly; JSON has no word for what is not finite.
  std::string text = json::serialize(report);
  if (!options.values.empty()) {
    text.pop_back();
    text += ",\"values\":[";
    for (size_t i = 0; i < values.size(); ++i) {
      if (i) text += ',';
      text += std::isfinite(values[i]) ? fmt::format("{:.9g}", values[i]) : "null";
    }
    text += "]}";
  }
  fmt::print("{}\n", text);
  return {};
}

Result<void> inspect(const Options& options) {
  IMPETUS_TRY(const ModelLocation location, locate(options.model));
  if (!options.tensor.empty()) {
    // Tensors can be looked at in files whose architecture this build does not run.
    if (location.format == ModelLocation::Format::gguf) {
      IMPETUS_TRY(const GgufFile file, GgufFile::open(location.path));
      return inspect_tensor(options, file.weights());
    }
    IMPETUS_TRY(WeightSet weights, open_safetensors_folder(location.path));
    const auto config = read_json_file((location.path / "config.json").string());
    if (config.ok() && config->is_object()) {
      IMPETUS_TRY(weights, join_quantised(std::move(weights), config->get_object()));
    }
    return inspect_tensor(options, weights);
  }
  IMPETUS_TRY(const ModelFiles files, open_model_files(location));
  const ModelSpec& spec = files.spec;
  auto text = load_model_text(location);
  int64_t parameters = 0;
  std::map<std::string, int64_t> types;
  for (const auto& tensor : files.weights->tensors()) {
    parameters += tensor.view.shape.elements();
    types[type_name(tensor.view)] += tensor.view.bytes();
  }
  json::object report{
      {"id", location.id},
      {"path", location.path.string()},
      {"format", location.format == ModelLocation::Format::gguf ? "gguf" : "safetensors"},
      {"kind", spec.kind == ModelKind::decoder ? "decoder" : "encoder"},
      {"family", spec.family},
      {"parameters", parameters},
      {"weight_bytes", files.weights->bytes()},
      {"layers", spec.layers},
      {"hidden", spec.hidden},
      {"heads", spec.heads},
      {"kv_heads", spec.kv_heads},
      {"head_dim", spec.head_dim},
      {"feed_forward", spec.feed_forward},
      {"vocab", spec.vocab},
      {"context", spec.context},
      {"tokenizer",
       text.ok() ? std::string(text->tokenizer->kind()) : "none: " + text.error().message},
      {"chat_template", text.ok() && text->chat_template.has_value()}};
  json::object by_type;
  for (const auto& [type, bytes] : types) by_type[type] = bytes;
  report["bytes_by_type"] = std::move(by_type);
  if (options.tensors) {
    json::array tensors;
    for (const auto& tensor : files.weights->tensors()) tensors.push_back(tensor_object(tensor));
    report["tensors"] = std::move(tensors);
  }
  if (options.json) {
    print_json(report);
    return {};
  }
  for (const auto& entry : report) {
    if (entry.key() == "tensors") continue;
    const std::string value = entry.value().is_string() ? std::string(entry.value().get_string())
                                                        : json::serialize(entry.value());
    fmt::print("{:<16} {}\n", std::string_view(entry.key()), value);
  }
  if (options.tensors) {
    for (const auto& tensor : files.weights->tensors()) {
      fmt::print("  {:<48} {:<5} {}\n", tensor.name, type_name(tensor.view),
                 tensor.view.shape.to_string());
    }
  }
  return {};
}

}  // namespace

void add_inspect(Commands& commands) {
  auto options = std::make_shared<Options>();
  auto* app = commands.add("inspect", "Say what a model file holds",
                           "impetus inspect impetus-tiny-chat --tensors",
                           [options] { return inspect(*options); });
  app->add_option("model", options->model, "A path or name")->required();
  app->add_flag("--tensors", options->tensors, "List the tensors");
  app->add_option("--tensor", options->tensor, "One tensor");
  app->add_option("--values", options->values,
                  "With --tensor: elements FIRST:COUNT, decoded to f32");
  app->add_flag("--json", options->json, "As JSON");
}

}  // namespace impetus::cli

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <random>

#include <CLI/CLI.hpp>

#include "cli/commands.h"
#include "mil/interpreter.h"
#include "mil/package.h"

namespace impetus::cli {
namespace {

struct Options {
  std::string package, function, inputs;
  std::string accumulate = "f32";
  int threads = 1;
  int seed = 1;
  int64_t length = 128;
  double memory_gib = 4;
  bool no_rounding = false, json = false;
};

constexpr size_t kShown = 8;   // values and ranges that are printed without --json
constexpr int kDepthMax = 16;  // of nested arrays
constexpr int64_t kElementsMax = int64_t{1} << 28;

std::string_view to_string(mil::NumericEvent::Kind kind) {
  return kind == mil::NumericEvent::Kind::overflow ? "overflow" : "nan";
}

// Nested arrays to flat numbers; the shape is that of the first elements, all others must agree.
Result<void> flatten(const json::value& value, size_t depth, std::vector<int64_t>& shape,
                     std::vector<double>& numbers) {
  if (const json::array* array = value.if_array()) {
    if (depth >= kDepthMax) return error(ErrorCode::invalid_argument, "arrays nest too deep");
    const auto length = static_cast<int64_t>(array->size());
    if (depth == shape.size() && numbers.empty()) shape.push_back(length);
    if (depth >= shape.size() || shape[depth] != length) {
      return error(ErrorCode::invalid_argument, "the arrays are ragged at depth {}", depth);
    }
    for (const json::value& element : *array) {
      IMPETUS_CHECK(flatten(element, depth + 1, shape, numbers));
    }
    return {};
  }
  if (depth != shape.size()) {
    return error(ErrorCode::invalid_argument, "the arrays are ragged at depth {}", depth);
  }
  if (const bool* flag = value.if_bool()) {
    numbers.push_back(*flag ? 1 : 0);
  } else if (value.is_number()) {
    numbers.push_back(value.to_number<double>());
  } else {
    return error(ErrorCode::invalid_argument, "a value is neither a number nor a bool");
  }
  return {};
}

Result<mil::TensorValue> tensor_of(const json::value& value, mil::DataType type) {
  std::vector<int64_t> shape;
  std::vector<double> numbers;
  if (const json::object* object = value.if_object()) {
    const json::value* given = object->if_contains("values");
    const json::value* dimensions = object->if_contains("shape");
    if (given == nullptr || dimensions == nullptr || !dimensions->is_array()) {
      return error(ErrorCode::invalid_argument, "an object has \"shape\" and \"values\"");
    }
    IMPETUS_CHECK(flatten(*given, 0, shape, numbers));
    shape.clear();
    int64_t elements = 1;
    for (const json::value& dimension : dimensions->as_array()) {
      const int64_t* length = dimension.if_int64();
      if (length == nullptr || *length < 0 ||
          __builtin_mul_overflow(elements, *length, &elements)) {
        return error(ErrorCode::invalid_argument, "\"shape\" is a list of lengths");
      }
      shape.push_back(*length);
    }
    if (std::cmp_not_equal(numbers.size(), elements)) {
      return error(ErrorCode::invalid_argument, "{} values for {} elements", numbers.size(),
                   elements);
    }
  } else {
    IMPETUS_CHECK(flatten(value, 0, shape, numbers));
  }
  mil::TensorValue tensor;
  tensor.type = {type, std::move(shape)};
  for (const double number : numbers) {
    const bool real = mil::is_float(type);
    // What fp16 does not hold is the program's affair: it is reported with the results.
    const bool fits =
        real ? std::fabs(number) <= double{std::numeric_limits<float>::max()}
             : number == std::floor(number) && number >= -2147483648.0 && number <= 2147483647.0;
    if (!fits) {
      return error(ErrorCode::invalid_argument, "{} is no {}", number, mil::to_string(type));
    }
    if (real) {
      tensor.floats.push_back(static_cast<float>(number));
    } else {
      tensor.ints.push_back(static_cast<int32_t>(number));
    }
  }
  return tensor;
}

Result<mil::TensorValues> inputs_from(const std::string& path, const mil::Interpreter& program) {
  IMPETUS_TRY(const json::value document, read_json_file(path));
  const json::object* object = document.if_object();
  if (object == nullptr) {
    return error(ErrorCode::invalid_argument, "{}: not an object of inputs by name", path);
  }
  mil::TensorValues inputs;
  for (const auto& [name, value] : *object) {
    mil::DataType type = mil::DataType::f32;
    for (const mil::NamedType& input : program.inputs()) {
      if (input.name == std::string_view(name)) type = input.type.tensor.dtype;
    }
    auto tensor = tensor_of(value, type);
    if (!tensor.ok()) {
      return std::move(tensor).error().within(
          fmt::format("{}: input {}", path, std::string_view(name)));
    }
    inputs[std::string(name)] = *std::move(tensor);
  }
  return inputs;
}

// Floats of a normal distribution, small whole numbers; open dimensions take `length`.
Result<mil::TensorValues> random_inputs(const mil::Interpreter& program, const Options& options) {
  std::mt19937_64 engine(static_cast<uint64_t>(options.seed));
  mil::TensorValues inputs;
  for (const mil::NamedType& input : program.inputs()) {
    mil::TensorValue tensor;
    tensor.type = input.type.tensor;
    for (int64_t& dimension : tensor.type.shape) {
      if (dimension == mil::kUnknown) dimension = options.length;
    }
    const auto elements = tensor.type.elements();
    if (!elements || *elements > kElementsMax) {
      return error(ErrorCode::unsupported,
                   "input {} ({}) is too large to be made up; give it with --inputs", input.name,
                   input.type.to_string());
    }
    for (int64_t i = 0; i < *elements; ++i) {
      // Box-Muller on whole numbers, so that every standard library gives the same.
      const double u = (static_cast<double>(engine() >> 11) + 1) * 0x1p-53;
      const double v = static_cast<double>(engine() >> 11) * 0x1p-53;
      if (mil::is_float(tensor.type.dtype)) {
        tensor.floats.push_back(
            static_cast<float>(std::sqrt(-2 * std::log(u)) * std::cos(6.283185307179586 * v)));
      } else {
        tensor.ints.push_back(static_cast<int32_t>(v * 2));
      }
    }
    inputs[input.name] = std::move(tensor);
  }
  return inputs;
}

// The place, and what to do about it.
Error advised(Error failure, const std::string& package) {
  if (failure.code == ErrorCode::insufficient_memory) {
    failure.message += "; --memory-gib allows more";
  }
  return std::move(failure).within(package);
}

json::value number_of(float value) {
  // JSON has no word for these.
  if (std::isnan(value)) return "NaN";
  if (std::isinf(value)) return value > 0 ? "Infinity" : "-Infinity";
  return value;
}

json::object json_of(const mil::RunResult& result) {
  json::object outputs;
  for (const auto& [name, value] : result.outputs) {
    json::array values;
    values.reserve(value.floats.size() + value.ints.size());
    for (const float number : value.floats) values.push_back(number_of(number));
    for (const int32_t number : value.ints) values.push_back(number);
    outputs[name] =
        json::object{{"type", mil::to_string(value.type.dtype)},
                     {"shape", json::array(value.type.shape.begin(), value.type.shape.end())},
                     {"values", std::move(values)}};
  }
  json::array events, ranges;
  for (const auto& event : result.events) {
    events.push_back(json::object{{"kind", to_string(event.kind)},
                                  {"operation", event.operation},
                                  {"type", event.type},
                                  {"tensor", event.tensor},
                                  {"index", event.index},
                                  {"count", event.count},
                                  {"value", number_of(event.value)}});
  }
  for (const auto& range : result.ranges) {
    ranges.push_back(json::object{{"tensor", range.tensor},
                                  {"operation", range.operation},
                                  {"type", range.type},
                                  {"max_abs", number_of(range.max_abs)}});
  }
  return json::object{{"outputs", std::move(outputs)},
                      {"events", std::move(events)},
                      {"ranges", std::move(ranges)}};
}

void print_text(const mil::RunResult& result) {
  for (const auto& [name, value] : result.outputs) {
    fmt::print("{} {}:", name, value.type.to_string());
    const size_t count = value.floats.size() + value.ints.size();
    for (size_t i = 0; i < std::min(count, kShown); ++i) {
      if (value.floats.empty()) {
        fmt::print(" {}", value.ints[i]);
      } else {
        fmt::print(" {}", value.floats[i]);
      }
    }
    fmt::print("{}\n", count > kShown ? " ..." : "");
  }
  for (const auto& event : result.events) {
    fmt::print("{}: {} ({}) gives {} in {} at {}, {} in all\n", to_string(event.kind),
               event.operation, event.type, event.value, event.tensor, event.index, event.count);
  }
  if (result.events.empty()) fmt::print("no overflow, no NaN\n");
  auto largest = result.ranges;
  std::ranges::sort(largest, [](const mil::TensorRange& a, const mil::TensorRange& b) {
    return a.max_abs != b.max_abs ? a.max_abs > b.max_abs : a.tensor < b.tensor;
  });
  if (largest.size() > kShown) largest.resize(kShown);
  for (const auto& range : largest) {
    fmt::print("max |x| {:>10.5g}  {} ({})\n", range.max_abs, range.tensor, range.type);
  }
}

Result<void> run_package(const Options& options) {
  const auto started = std::chrono::steady_clock::now();
  const auto seconds = [&started] {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count();
  };
  IMPETUS_TRY(const mil::Package package, mil::open_package(options.package));
  mil::InterpreterOptions settings;
  settings.accumulation =
      options.accumulate == "f16" ? mil::Accumulation::f16 : mil::Accumulation::f32;
  settings.round_f16 = !options.no_rounding;
  settings.threads = options.threads;
  settings.memory_max = static_cast<int64_t>(options.memory_gib * 0x1p30);
  auto loaded = mil::Interpreter::load(package.model, options.function, settings);
  if (!loaded.ok()) return advised(std::move(loaded).error(), options.package);
  const double load_seconds = seconds();
  const bool made_up = options.inputs.empty();
  if (made_up) {
    fmt::print(stderr, "no --inputs: random ones, of seed {}\n", options.seed);
  }
  IMPETUS_TRY(const mil::TensorValues inputs,
              made_up ? random_inputs(*loaded, options) : inputs_from(options.inputs, *loaded));
  const double before = seconds();
  auto result = loaded->run(inputs);
  if (!result.ok()) return advised(std::move(result).error(), options.package);
  const double run_seconds = seconds() - before;
  if (!options.json) {
    print_text(*result);
    fmt::print("loaded in {:.3f} s ({:.1f} MiB of weights), ran in {:.3f} s\n", load_seconds,
               static_cast<double>(loaded->weight_bytes()) * 0x1p-20, run_seconds);
    return {};
  }
  json::object document = json_of(*result);
  document["random_inputs"] = made_up;
  document["accumulate"] = options.accumulate;
  document["rounding"] = !options.no_rounding;
  document["weight_bytes"] = loaded->weight_bytes();
  document["load_seconds"] = load_seconds;
  document["run_seconds"] = run_seconds;
  print_json(document);
  return {};
}

}  // namespace

void add_run_package(Commands& commands) {
  auto options = std::make_shared<Options>();
  auto* app =
      commands.add("run-package", "Run a Core ML package on the CPU, as the Neural Engine rounds",
                   "impetus run-package MiniLM.mlpackage --inputs inputs.json --json",
                   [options] { return run_package(*options); });
  app->add_option("package", options->package, "An .mlpackage folder")->required();
  app->add_option("--function", options->function, "Which function; the default one otherwise");
  app->add_option("--inputs", options->inputs,
                  "JSON: {\"name\": {\"shape\": [...], \"values\": [...]}}, or nested arrays; "
                  "random ones otherwise");
  app->add_option("--accumulate", options->accumulate, "Sums inside an operation: f32 or f16")
      ->check(CLI::IsMember({"f16", "f32"}));
  app->add_flag("--no-rounding", options->no_rounding, "Keep fp16 results in f32, to compare");
  app->add_option("--threads", options->threads, "Threads")->check(CLI::Range(1, 256));
  app->add_option("--seed", options->seed, "Of random inputs");
  app->add_option("--length", options->length, "What random inputs give open dimensions")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 20));
  app->add_option("--memory-gib", options->memory_gib, "Weights and live tensors, at most")
      ->check(CLI::Range(0.001, 4096.0));
  app->add_flag("--json", options->json, "Outputs, numeric events, ranges and times as JSON");
}

}  // namespace impetus::cli

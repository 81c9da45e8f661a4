// Judges of functions and packages as wholes.
#include <algorithm>

#include "coreml/judges.h"

namespace impetus::coreml {
namespace {

const mil::FunctionDescription* description_of(const mil::Model& model, const std::string& name) {
  const auto found = std::ranges::find(model.functions, name, &mil::FunctionDescription::name);
  return found == model.functions.end() ? nullptr : &*found;
}

}  // namespace

void judge_interface(const Context&, const Placement& placement, Hits& hits) {
  for (const mil::NamedType& input : placement.graph.function->inputs) {
    if (input.type.kind != mil::ValueType::Kind::tensor ||
        input.type.tensor.dtype != mil::DataType::f32) {
      continue;
    }
    hits.push_back({.level = Level::info,
                    .tensor = input.name,
                    .message = fmt::format("input {}: the system converts it at each prediction",
                                           input.type.to_string()),
                    .mend = "take fp16 inputs (macOS 13 and later)"});
  }
}

void judge_length(const Context&, const Placement& placement, Hits& hits) {
  constexpr int64_t kFew = 2;
  if (placement.operations == 0 || placement.operations > kFew) return;
  hits.push_back({.level = Level::info,
                  .message = fmt::format("{} operation{} alone", placement.operations,
                                         placement.operations == 1 ? "" : "s"),
                  .mend = "put more of the model into the function",
                  .unit = Unit::cpu});
}

void judge_partition(const Context& context, const Placement& placement, Hits& hits) {
  if (placement.engine_segments == 0 || placement.segments <= 1) return;
  const Node* first = placement.first_off;
  hits.push_back(
      {.level = Level::performance,
       .tensor = first != nullptr ? std::string(first->name()) : std::string(),
       .message = fmt::format(
           "the program runs in {} pieces, {} of them on the engine, each with a launch of {:.0f} "
           "us{}",
           placement.segments, placement.engine_segments, context.chip.launch_seconds * 1e6,
           first != nullptr ? fmt::format("; the first operation off it is {} ({})", first->name(),
                                          first->type())
                            : std::string()),
       .mend = "mend what leaves the engine, or move it to the program's ends"});
}

void judge_flexible_shapes(const Context& context, const Placement& placement, Hits& hits) {
  const mil::FunctionDescription* description = description_of(context.model, placement.graph.name);
  if (description == nullptr) return;
  for (const mil::Feature& input : description->inputs) {
    if (input.enumerated.size() > 1) {
      hits.push_back({.level = Level::warning,
                      .tensor = input.name,
                      .message = fmt::format("{} shapes are enumerated", input.enumerated.size()),
                      .mend = "write a function for each shape"});
    }
    const bool open = std::ranges::any_of(
        input.ranges, [](const auto& range) { return range.first != range.second; });
    if (open) {
      hits.push_back({.level = Level::error,
                      .tensor = input.name,
                      .message = "its shape is a range",
                      .mend = "write a function for each shape"});
    }
  }
}

void judge_states(const Context&, const Placement& placement, Hits& hits) {
  constexpr int64_t kMultiple = 32;
  for (const mil::NamedType& input : placement.graph.function->inputs) {
    if (input.type.kind != mil::ValueType::Kind::state) continue;
    const mil::TensorType& type = input.type.tensor;
    // Height and width; the outer ones (layers, heads) are free.
    const size_t rank = type.shape.size();
    bool odd = false;
    for (size_t i = rank > 2 ? rank - 2 : 0; i < rank; ++i) odd |= type.shape[i] % kMultiple != 0;
    if (!odd) continue;
    hits.push_back({.level = Level::warning,
                    .tensor = input.name,
                    .message = fmt::format("state {} has dimensions that are no multiples of {}",
                                           type.to_string(), kMultiple),
                    .mend = "pad them"});
  }
}

void judge_size(const Context&, int64_t package_bytes, Hits& hits) {
  constexpr int64_t kGB = 1'000'000'000;
  if (package_bytes <= kGB) return;
  const bool fails = package_bytes > 2 * kGB;
  hits.push_back({.level = fails ? Level::error : Level::warning,
                  .message = fmt::format("the package has {:.2f} GB",
                                         static_cast<double>(package_bytes) / kGB),
                  .mend = "quantise its weights, or split the model into several packages"});
}

}  // namespace impetus::coreml

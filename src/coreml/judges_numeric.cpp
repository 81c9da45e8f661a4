// Judges of numbers: constants that fp16 does not hold, and values that may overflow it.
#include <algorithm>
#include <cmath>

#include "coreml/judges.h"

namespace impetus::coreml {
namespace {

constexpr float kHalfMax = 65504;
constexpr float kSquareMax = 256;   // sqrt(65504), nearly
constexpr float kExponentMax = 11;  // ln(65504), nearly

std::string place_of(const Node& node, const Reference& operand) {
  return operand.name.empty() ? std::string(node.name()) : std::string(operand.name);
}

std::optional<float> scalar_of(const Reference* reference) {
  if (reference == nullptr || reference->constant == nullptr) return std::nullopt;
  if (elements_of(reference->tensor()) != 1) return std::nullopt;
  const auto values = reference->constant->as_floats();
  if (!values.ok() || values->size() != 1) return std::nullopt;
  return values->front();
}

bool one_of(std::string_view type, std::initializer_list<std::string_view> types) {
  return std::ranges::find(types, type) != types.end();
}

// A known range of what `reference` reads; a rearrangement has that of its maker.
std::optional<float> range_of(const Context& context, const Graph& graph,
                              const Reference& reference) {
  if (const auto found = context.ranges.find(reference.name); found != context.ranges.end()) {
    return found->second;
  }
  const Node* maker = origin(graph, reference);
  if (maker == nullptr) return std::nullopt;
  for (const mil::NamedType& result : maker->operation->outputs) {
    if (const auto found = context.ranges.find(result.name); found != context.ranges.end()) {
      return found->second;
    }
  }
  return std::nullopt;
}

// An upper bound of a clip or minimum.
bool bounded_by(const Node& node, float most) {
  if (node.type() == "clip") {
    const auto upper = scalar_of(node.find("beta"));
    return upper && *upper <= most;
  }
  if (node.type() == "minimum") {
    for (const char* side : {"x", "y"}) {
      const auto upper = scalar_of(node.find(side));
      if (upper && *upper <= most) return true;
    }
  }
  return false;
}

// Values of order one, whatever goes in.
bool is_normalised(std::string_view type) {
  return one_of(type, {"layer_norm", "instance_norm", "l2_norm", "softmax", "sigmoid",
                       "sigmoid_hard", "tanh", "erf", "softsign", "relu6", "sin", "cos"});
}

// A product with a constant that is small enough to bring any fp16 value near `most`.
bool is_scaled_down(const Node& node) {
  constexpr float kSmall = 1.0f / 256;
  if (node.type() != "mul" && node.type() != "real_div") return false;
  for (const char* side : {"x", "y"}) {
    const auto factor = scalar_of(node.find(side));
    if (!factor) continue;
    const float scale = node.type() == "mul" ? *factor : 1 / *factor;
    if (std::abs(scale) <= kSmall) return true;
  }
  return false;
}

// x - max(x).
bool subtracts_maximum(const Graph& graph, const Node& node) {
  const Reference* y = node.find("y");
  if (node.type() != "sub" || y == nullptr) return false;
  const Node* maker = origin(graph, *y);
  return maker != nullptr && maker->type() == "reduce_max";
}

void overflow(Hits& hits, const Node& node, const Reference& operand, std::string message,
              std::string mend) {
  hits.push_back({.level = Level::warning,
                  .tensor = place_of(node, operand),
                  .message = std::move(message),
                  .mend = std::move(mend)});
}

// What is squared here; null: nothing.
const Reference* squared(const Node& node) {
  const Reference *x = node.find("x"), *y = node.find("y");
  if (one_of(node.type(), {"square", "reduce_sum_square", "reduce_l2_norm", "l2_norm"})) return x;
  if (x == nullptr || y == nullptr) return nullptr;
  if (node.type() == "mul" && !x->name.empty() && x->name == y->name) return x;
  if (node.type() == "pow") {
    const auto exponent = scalar_of(y);
    if (exponent && *exponent == 2) return x;
  }
  return nullptr;
}

bool is_summed(const Graph& graph, const Node& node) {
  return std::ranges::any_of(node.consumers, [&](int consumer) {
    return one_of(graph.nodes[static_cast<size_t>(consumer)].type(), {"reduce_mean", "reduce_sum"});
  });
}

}  // namespace

void judge_mask(const Context& context, const Graph&, const Node& node, Hits& hits) {
  if (node.type() == "clip") return;  // a bound that is never reached
  for (const Reference& operand : node.operands) {
    if (operand.constant == nullptr) continue;
    const float least = context.constants.facts(*operand.constant).least;
    if (least >= -kHalfMax) continue;
    hits.push_back({.level = Level::error,
                    .tensor = place_of(node, operand),
                    .message = fmt::format("a constant holds {:g}", least),
                    .mend = "mask with -1e4: softmax gives 0 there all the same"});
  }
}

void judge_nan(const Context& context, const Graph&, const Node& node, Hits& hits) {
  for (const Reference& operand : node.operands) {
    if (operand.constant == nullptr || !context.constants.facts(*operand.constant).nan) continue;
    hits.push_back({.level = Level::error,
                    .tensor = place_of(node, operand),
                    .message = "a constant holds NaN",
                    .mend = "mark what is absent by a mask or another number"});
  }
}

void judge_epsilon(const Context&, const Graph& graph, const Node& node, Hits& hits) {
  constexpr float kLeast = 1e-7f;
  if (node.result().dtype != mil::DataType::f16) return;
  const auto vanishes = [&](float epsilon) {
    hits.push_back({.level = Level::error,
                    .tensor = std::string(node.name()),
                    .message = fmt::format("epsilon {:.3g} is lost in fp16", epsilon),
                    .mend = "use 1e-5, or 1e-7 at least"});
  };
  if (const auto epsilon = scalar_of(node.find("epsilon")); epsilon && *epsilon < kLeast) {
    vanishes(*epsilon);
  }
  if (node.type() != "add") return;
  // An epsilon of its own: added to what is then divided by.
  const bool divides = std::ranges::any_of(node.consumers, [&](int consumer) {
    const Node& reader = graph.nodes[static_cast<size_t>(consumer)];
    const Reference* y = reader.find("y");
    return one_of(reader.type(), {"rsqrt", "sqrt", "log", "inverse"}) ||
           (reader.type() == "real_div" && y != nullptr && y->name == node.name());
  });
  for (const char* side : {"x", "y"}) {
    const auto epsilon = scalar_of(node.find(side));
    if (divides && epsilon && *epsilon >= 0 && *epsilon < kLeast) vanishes(*epsilon);
  }
}

void judge_range(const Context& context, const Graph& graph, const Node& node, Hits& hits) {
  for (const mil::NamedType& result : node.operation->outputs) {
    const auto range = context.ranges.find(result.name);
    if (range == context.ranges.end() || range->second <= kHalfMax ||
        result.type.tensor.dtype != mil::DataType::f16) {
      continue;
    }
    hits.push_back({.level = Level::warning,
                    .tensor = result.name,
                    .message = fmt::format("values up to {:g} do not fit fp16", range->second),
                    .mend = "scale the weights that make it down, and what reads it up"});
  }
  if (node.type() == "layer_norm" || node.type() == "instance_norm") {
    const Reference* x = node.find("x");
    const auto range = x != nullptr ? range_of(context, graph, *x) : std::nullopt;
    if (range && *range > kSquareMax) {
      overflow(hits, node, *x,
               fmt::format("values up to {:g} are squared for the variance", *range),
               "scale the input down before the norm: its result stays the same");
    }
    return;
  }
  if (const Reference* x = squared(node)) {
    if (const auto range = range_of(context, graph, *x)) {
      if (*range > kSquareMax) {
        overflow(hits, node, *x, fmt::format("values up to {:g} are squared", *range),
                 "divide by the largest first, or use layer_norm");
      }
      return;
    }
    const bool sums = node.type() == "reduce_sum_square" || node.type() == "reduce_l2_norm" ||
                      is_summed(graph, node);
    const Node* maker = origin(graph, *x);
    if (sums && (maker == nullptr || !(is_normalised(maker->type()) || is_scaled_down(*maker) ||
                                       bounded_by(*maker, kSquareMax)))) {
      overflow(hits, node, *x, "squares of values of unknown size are summed",
               "use layer_norm, scale them down first, or measure their range");
    }
    return;
  }
  if (!one_of(node.type(), {"exp", "exp2", "softplus", "reduce_log_sum_exp"})) return;
  const Reference* x = node.find("x");
  if (x == nullptr) return;
  if (const auto range = range_of(context, graph, *x)) {
    if (*range > kExponentMax) {
      overflow(hits, node, *x, fmt::format("values up to {:g} go into {}", *range, node.type()),
               "subtract the maximum first, or clip");
    }
    return;
  }
  const Node* maker = origin(graph, *x);
  if (maker != nullptr && (is_normalised(maker->type()) || bounded_by(*maker, kExponentMax) ||
                           subtracts_maximum(graph, *maker))) {
    return;
  }
  overflow(hits, node, *x, fmt::format("values of unknown size go into {}", node.type()),
           "subtract the maximum first, clip at 11, or measure their range");
}

void judge_blocks(const Context&, const Graph&, const Node& node, Hits& hits) {
  if (node.type() != "constexpr_blockwise_shift_scale") return;
  const Reference* scale = node.find("scale");
  if (scale == nullptr) return;
  const std::vector<int64_t>& shape = scale->tensor().shape;
  // By channel: one axis alone has more than one scale.
  const auto axes = std::ranges::count_if(shape, [](int64_t length) { return length > 1; });
  if (axes <= 1) return;
  hits.push_back({.level = Level::warning,
                  .tensor = std::string(node.name()),
                  .message = fmt::format("{} scales stand by block", scale->tensor().to_string()),
                  .mend = "quantise by channel, or palettise"});
}

}  // namespace impetus::coreml

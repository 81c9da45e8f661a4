#include "coreml/cost.h"

#include <algorithm>
#include <map>
#include <set>
#include <unordered_map>

#include "coreml/work.h"

namespace impetus::coreml {
namespace {

constexpr HostRates kHost;
constexpr double kSlowShare = 18.0 / 52.5;  // D11: 17-19 GB/s instead of 45-60

int64_t results_bytes(const Node& node) {
  int64_t bytes = 0;
  for (const mil::NamedType& result : node.operation->outputs) {
    bytes = saturating_add(bytes, padded_bytes(result.type.tensor));
  }
  return bytes;
}

// Whether an activation and the weights are both 8-bit: dequantize before, integers beside it.
bool is_int8(const Graph& graph, const Node& node, const WeightBytes& weights) {
  const Reference* x = node.find("x");
  if (!weights.integer || x == nullptr || x->producer < 0) return false;
  return graph.nodes[static_cast<size_t>(x->producer)].type() == "dequantize";
}

int64_t streamed(const Chip& chip, const WeightBytes& weights) {
  const bool unpacks =
      (weights.blocks && !chip.streams_blocks) || (weights.integer && !chip.streams_int8);
  return unpacks ? std::max(weights.stored, weights.unpacked) : weights.stored;
}

}  // namespace

int64_t streamed_bytes(const Chip& chip, const Node& node) {
  return streamed(chip, node.weights);
}

PlacedOperation cost_of(const Chip& chip, const Graph& graph, const Node& node, Unit unit) {
  PlacedOperation cost;
  cost.function = graph.name;
  cost.name = node.name();
  cost.type = node.type();
  cost.output_type =
      node.operation->outputs.empty() ? "" : node.operation->outputs.front().type.to_string();
  cost.unit = unit;
  const WeightBytes& weights = node.weights;
  cost.weight_bytes = weights.stored;
  if (unit == Unit::constant) return cost;
  cost.flops = flops_of(node);
  cost.activation_bytes = results_bytes(node);
  int64_t moved = cost.activation_bytes;
  for (const Reference& operand : node.operands) {
    const bool folded =
        operand.constant != nullptr ||
        (operand.producer >= 0 && graph.nodes[static_cast<size_t>(operand.producer)].constant);
    if (!folded) moved = saturating_add(moved, padded_bytes(operand.tensor()));
  }
  const auto flops = static_cast<double>(cost.flops);
  if (unit != Unit::neural_engine) {
    const double rate = unit == Unit::gpu ? kHost.gpu_flops : kHost.cpu_flops;
    // A lookup reads rows, not the table.
    const int64_t read = node.type().starts_with("gather") ? 0 : weights.stored;
    cost.seconds = std::max(
        flops / rate, static_cast<double>(saturating_add(moved, read)) / kHost.bytes_per_second);
    return cost;
  }
  const int64_t read = streamed(chip, weights);
  double rate = is_matrix_product(node.type()) ? chip.matmul_flops : chip.fp16_flops;
  if (is_convolution(node.type()) && chip.fast_int8 && is_int8(graph, node, weights)) rate *= 2;
  double bandwidth = chip.bytes_per_second;
  if (payload_is_slow(payload_bytes(graph, node))) bandwidth *= kSlowShare;
  auto bytes = static_cast<double>(read);
  if (saturating_add(read, moved) > chip.working_set_bytes) {
    rate *= kCliffShare;
    bytes += static_cast<double>(moved);
  }
  cost.seconds = std::max(flops / rate, bytes / bandwidth);
  return cost;
}

Pieces pieces_of(const Graph& graph, const std::vector<Unit>& units) {
  std::vector<int64_t> phase(graph.nodes.size());
  std::set<std::pair<int64_t, Unit>> pieces;
  for (size_t i = 0; i < graph.nodes.size(); ++i) {
    if (units[i] == Unit::constant) continue;
    for (const Reference& operand : graph.nodes[i].operands) {
      if (operand.producer < 0) continue;
      const auto from = static_cast<size_t>(operand.producer);
      if (units[from] == Unit::constant) continue;
      phase[i] = std::max(phase[i], phase[from] + (units[from] != units[i] ? 1 : 0));
    }
    pieces.emplace(phase[i], units[i]);
  }
  Pieces counted;
  counted.all = static_cast<int64_t>(pieces.size());
  counted.engine =
      std::ranges::count(pieces, Unit::neural_engine, &std::pair<int64_t, Unit>::second);
  return counted;
}

int64_t transfer_bytes(const Graph& graph, const std::vector<Unit>& units) {
  int64_t bytes = 0;
  for (size_t i = 0; i < graph.nodes.size(); ++i) {
    if (units[i] == Unit::constant) continue;
    std::set<Unit> readers;
    for (const int consumer : graph.nodes[i].consumers) {
      const Unit unit = units[static_cast<size_t>(consumer)];
      if (unit != units[i] && unit != Unit::constant) readers.insert(unit);
    }
    bytes = saturating_add(
        bytes, saturating_mul(static_cast<int64_t>(readers.size()), results_bytes(graph.nodes[i])));
  }
  return bytes;
}

int64_t activation_peak(const Graph& graph) {
  const size_t count = graph.nodes.size();
  std::vector<int64_t> freed(count + 1);  // bytes that end after an operation
  std::unordered_map<std::string_view, std::pair<int64_t, size_t>> inputs;  // bytes, last reader
  for (const mil::NamedType& input : graph.function->inputs) {
    inputs[input.name] = {padded_bytes(input.type.tensor), 0};
  }
  for (size_t i = 0; i < count; ++i) {
    for (const Reference& operand : graph.nodes[i].operands) {
      if (operand.producer != kNoProducer) continue;
      if (const auto found = inputs.find(operand.name); found != inputs.end()) {
        found->second.second = i;
      }
    }
  }
  int64_t alive = 0, peak = 0;
  for (const auto& [name, use] : inputs) {
    alive = saturating_add(alive, use.first);
    freed[use.second] = saturating_add(freed[use.second], use.first);
  }
  for (size_t i = 0; i < count; ++i) {
    const Node& node = graph.nodes[i];
    if (!node.constant) {
      const int64_t bytes = results_bytes(node);
      alive = saturating_add(alive, bytes);
      const size_t last = node.output              ? count
                          : node.consumers.empty() ? i
                                                   : static_cast<size_t>(node.consumers.back());
      freed[last] = saturating_add(freed[last], bytes);
    }
    peak = std::max(peak, alive);
    alive = std::max<int64_t>(0, alive - freed[i]);
  }
  return std::max(peak, alive);
}

}  // namespace impetus::coreml

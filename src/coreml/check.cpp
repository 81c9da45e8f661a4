#include "coreml/check.h"

#include <algorithm>
#include <set>
#include <tuple>

#include "base/json.h"
#include "coreml/cost.h"
#include "coreml/rules.h"
#include "coreml/work.h"

namespace impetus::coreml {
namespace {

constexpr HostRates kHost;

// Weights of a model, equal ones once: by where they lie, then by what they hold.
class Weights {
 public:
  void add(const mil::Value& value) {
    const std::span<const std::byte> view = value.bytes.view;
    if (elements_of(value.type.tensor) < kWeightElements || !places_.insert(view.data()).second)
      return;
    const std::string_view text(reinterpret_cast<const char*>(view.data()), view.size());
    if (contents_.emplace(view.size(), std::hash<std::string_view>{}(text)).second) {
      bytes_ = saturating_add(bytes_, static_cast<int64_t>(view.size()));
    }
  }
  int64_t bytes() const { return bytes_; }

 private:
  std::set<const std::byte*> places_;
  std::set<std::pair<size_t, size_t>> contents_;
  int64_t bytes_ = 0;
};

struct Waiver {
  std::string rule, name, reason;  // name: empty: everywhere; ends in '*': a beginning
};

bool matches(const Waiver& waiver, std::string_view name) {
  if (!waiver.name.ends_with('*')) return waiver.name == name;
  return name.starts_with(std::string_view(waiver.name).substr(0, waiver.name.size() - 1));
}

Result<std::vector<Waiver>> waivers_of(const mil::Model& model) {
  std::vector<Waiver> waivers;
  const auto found = model.metadata.user.find(kWaiversKey);
  if (found == model.metadata.user.end()) return waivers;
  IMPETUS_TRY(const json::value value, parse_json_unique(found->second));
  const json::object* object = value.if_object();
  if (object == nullptr) return error(ErrorCode::corrupt, "they are no JSON object");
  for (const auto& [key, reason] : *object) {
    if (!reason.is_string() || reason.get_string().empty()) {
      return error(ErrorCode::corrupt, "{} has no reason", std::string_view(key));
    }
    const std::string_view name(key);
    const size_t colon = name.find(':');
    waivers.push_back({std::string(name.substr(0, colon)),
                       colon == name.npos ? "" : std::string(name.substr(colon + 1)),
                       std::string(reason.get_string())});
  }
  return waivers;
}

// One function, judged and placed.
class FunctionCheck {
 public:
  FunctionCheck(const Context& context, const Graph& graph, CheckReport& report)
      : context_(context), placement_{graph, {}}, report_(report) {}

  void run() {
    place();
    judge_whole();
    sum_up();
  }

  // Bytes that the chip's compiler adds by unpacking weights, by where they lie.
  void unpacked(std::map<const void*, int64_t>& extra) const {
    for (const Node& node : graph().nodes) {
      if (!node.type().starts_with("constexpr_")) continue;
      for (const int consumer : node.consumers) {
        const Node& reader = graph().nodes[static_cast<size_t>(consumer)];
        const WeightBytes& weights = reader.weights;
        const int64_t more = streamed_bytes(context_.chip, reader) - weights.stored;
        for (const Reference& operand : node.operands) {
          if (operand.constant == nullptr || operand.constant->bytes.view.empty()) continue;
          if (more > 0) extra.try_emplace(operand.constant->bytes.view.data(), more);
          break;
        }
      }
    }
  }

 private:
  const Graph& graph() const { return placement_.graph; }

  void add(const Rule& rule, const Node* node, Hit& hit) {
    Finding finding;
    finding.rule = rule.id;
    finding.level = hit.level;
    finding.function = graph().name;
    if (node != nullptr) {
      finding.operation = node->name();
      finding.type = node->type();
    }
    finding.tensor = std::move(hit.tensor);
    finding.message = std::move(hit.message);
    finding.mend = std::move(hit.mend);
    // A constant that several operations read is one finding.
    if (rule.constants && !seen_.emplace(rule.id, finding.tensor).second) return;
    report_.findings.push_back(std::move(finding));
  }

  void place() {
    Hits hits;
    for (const Node& node : graph().nodes) {
      Unit unit = node.constant ? Unit::constant : Unit::neural_engine;
      std::string reason;
      for (const Rule& rule : rules()) {
        if (rule.operation == nullptr || (node.constant && !rule.constants)) continue;
        hits.clear();
        rule.operation(context_, graph(), node, hits);
        for (Hit& hit : hits) {
          if (unit == Unit::neural_engine && hit.unit != Unit::neural_engine) {
            unit = hit.unit;
            reason = fmt::format("{}: {}", rule.id, hit.message);
          }
          add(rule, &node, hit);
        }
      }
      if (node.depth > 0 && unit == Unit::neural_engine) {
        unit = Unit::cpu;
        reason = "D8: inside a block of cond or while_loop";
      }
      if (node.constant) reason = "folded before the program runs";
      placement_.units.push_back(unit);
      reasons_.push_back(std::move(reason));
      if (node.constant) continue;
      ++placement_.operations;
      if (unit != Unit::neural_engine && placement_.first_off == nullptr) {
        placement_.first_off = &node;
      }
    }
  }

  void judge_whole() {
    count_pieces();
    Hits hits;
    for (const Rule& rule : rules()) {
      if (rule.function == nullptr) continue;
      hits.clear();
      rule.function(context_, placement_, hits);
      for (Hit& hit : hits) {
        for (size_t i = 0; hit.unit != Unit::neural_engine && i < reasons_.size(); ++i) {
          if (placement_.units[i] != Unit::neural_engine) continue;
          placement_.units[i] = hit.unit;
          reasons_[i] = fmt::format("{}: {}", rule.id, hit.message);
        }
        add(rule, nullptr, hit);
      }
    }
    count_pieces();
  }

  void count_pieces() {
    const Pieces pieces = pieces_of(graph(), placement_.units);
    placement_.segments = pieces.all;
    placement_.engine_segments = pieces.engine;
  }

  void sum_up() {
    FunctionReport& sums = report_.functions.emplace_back();
    sums.name = graph().name;
    sums.operations = placement_.operations;
    sums.segments = placement_.segments;
    int64_t engine_flops = 0;
    Weights weights;
    for (size_t i = 0; i < graph().nodes.size(); ++i) {
      const Node& node = graph().nodes[i];
      for (const Reference& operand : node.operands) {
        if (operand.constant != nullptr) weights.add(*operand.constant);
      }
      const Unit unit = placement_.units[i];
      int64_t& count = unit == Unit::neural_engine ? sums.engine
                       : unit == Unit::gpu         ? sums.gpu
                       : unit == Unit::cpu         ? sums.cpu
                                                   : sums.constants;
      ++count;
      if (node.type() == "const") continue;
      PlacedOperation placed = cost_of(context_.chip, graph(), node, unit);
      placed.reason = std::move(reasons_[i]);
      if (unit != Unit::constant) {
        sums.flops = saturating_add(sums.flops, placed.flops);
        if (unit == Unit::neural_engine) engine_flops = saturating_add(engine_flops, placed.flops);
        sums.padded_bytes = saturating_add(sums.padded_bytes, placed.activation_bytes);
        for (const mil::NamedType& result : node.operation->outputs) {
          sums.activation_bytes =
              saturating_add(sums.activation_bytes, bytes_of(result.type.tensor));
        }
        sums.seconds += placed.seconds;
      }
      report_.operations.push_back(std::move(placed));
    }
    sums.weight_bytes = weights.bytes();
    sums.transfer_bytes = transfer_bytes(graph(), placement_.units);
    sums.activation_peak_bytes = activation_peak(graph());
    if (sums.operations > 0) {
      sums.residency = static_cast<double>(sums.engine) / static_cast<double>(sums.operations);
    }
    if (sums.flops > 0) {
      sums.flops_residency = static_cast<double>(engine_flops) / static_cast<double>(sums.flops);
    }
    const auto host = static_cast<double>(placement_.segments - placement_.engine_segments);
    sums.seconds += static_cast<double>(placement_.engine_segments) * context_.chip.launch_seconds +
                    host * kHost.launch_seconds +
                    static_cast<double>(sums.transfer_bytes) / kHost.bytes_per_second;
  }

  const Context& context_;
  Placement placement_;
  CheckReport& report_;
  std::vector<std::string> reasons_;
  std::set<std::pair<std::string_view, std::string>> seen_;
};

}  // namespace

std::string_view to_string(Level level) {
  switch (level) {
    case Level::error:
      return "error";
    case Level::warning:
      return "warning";
    case Level::performance:
      return "performance";
    case Level::info:
      return "info";
  }
  return "?";
}

std::string_view to_string(Unit unit) {
  switch (unit) {
    case Unit::neural_engine:
      return "neural engine";
    case Unit::gpu:
      return "gpu";
    case Unit::cpu:
      return "cpu";
    case Unit::constant:
      return "constant";
  }
  return "?";
}

bool CheckReport::has_errors() const {
  return std::ranges::any_of(findings, [](const Finding& finding) {
    return finding.level == Level::error && finding.waiver.empty();
  });
}

Result<CheckReport> check(const mil::Model& model, const Chip& chip, int64_t package_bytes,
                          std::span<const mil::TensorRange> measured) {
  CheckReport report;
  report.chip = chip.name;
  report.package_bytes = package_bytes;
  Ranges ranges;
  for (const mil::TensorRange& one : measured) ranges[one.tensor] = one.max_abs;
  Constants constants;
  const Context context{chip, model, ranges, constants};

  Weights weights;
  std::map<const void*, int64_t> unpacked;
  int64_t peak = 0;
  for (const auto& [name, function] : model.program.functions) {
    IMPETUS_TRY(const Graph graph, graph_of(name, function));
    FunctionCheck one(context, graph, report);
    one.run();
    one.unpacked(unpacked);
    peak = std::max(peak, report.functions.back().activation_peak_bytes);
    for (const Node& node : graph.nodes) {
      for (const Reference& operand : node.operands) {
        if (operand.constant != nullptr) weights.add(*operand.constant);
      }
    }
  }
  report.weight_bytes = weights.bytes();
  report.memory_bytes = saturating_add(report.weight_bytes, peak);
  for (const auto& [place, bytes] : unpacked) {
    report.memory_bytes = saturating_add(report.memory_bytes, bytes);
  }
  for (const Rule& rule : rules()) {
    if (rule.package == nullptr) continue;
    Hits hits;
    rule.package(context, package_bytes, hits);
    for (Hit& hit : hits) {
      Finding& finding = report.findings.emplace_back();
      finding.rule = rule.id;
      finding.level = hit.level;
      finding.message = std::move(hit.message);
      finding.mend = std::move(hit.mend);
    }
  }

  const auto waivers = waivers_of(model);
  if (!waivers.ok()) {
    Finding& finding = report.findings.emplace_back();
    finding.rule = "waivers";
    finding.level = Level::warning;
    finding.message =
        fmt::format("the metadata's {} cannot be read: {}", kWaiversKey, waivers.error().message);
    finding.mend = "write a JSON object, rule to reason";
    return report;
  }
  for (Finding& finding : report.findings) {
    for (const Waiver& waiver : *waivers) {
      if (waiver.rule == finding.rule && (waiver.name.empty() || matches(waiver, finding.tensor) ||
                                          matches(waiver, finding.operation))) {
        finding.waiver = waiver.reason;
      }
    }
  }
  return report;
}

}  // namespace impetus::coreml

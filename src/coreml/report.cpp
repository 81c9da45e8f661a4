#include "coreml/report.h"

#include <algorithm>

namespace impetus::coreml {
namespace {

json::object to_json(const FunctionReport& function) {
  return {{"name", function.name},
          {"operations", function.operations},
          {"engine", function.engine},
          {"gpu", function.gpu},
          {"cpu", function.cpu},
          {"constants", function.constants},
          {"segments", function.segments},
          {"residency", function.residency},
          {"flops_residency", function.flops_residency},
          {"flops", function.flops},
          {"weight_bytes", function.weight_bytes},
          {"transfer_bytes", function.transfer_bytes},
          {"activation_bytes", function.activation_bytes},
          {"padded_bytes", function.padded_bytes},
          {"activation_peak_bytes", function.activation_peak_bytes},
          {"predicted_seconds", function.seconds}};
}

json::object to_json(const PlacedOperation& operation) {
  return {{"function", operation.function},
          {"name", operation.name},
          {"type", operation.type},
          {"output_type", operation.output_type},
          {"unit", to_string(operation.unit)},
          {"reason", operation.reason},
          {"flops", operation.flops},
          {"weight_bytes", operation.weight_bytes},
          {"activation_bytes", operation.activation_bytes},
          {"predicted_seconds", operation.seconds}};
}

json::object to_json(const Finding& finding) {
  json::object object{{"rule", finding.rule},         {"level", to_string(finding.level)},
                      {"function", finding.function}, {"operation", finding.operation},
                      {"type", finding.type},         {"tensor", finding.tensor},
                      {"message", finding.message},   {"mend", finding.mend}};
  if (!finding.waiver.empty()) object["waiver"] = finding.waiver;
  return object;
}

template <typename T>
json::array to_array(const std::vector<T>& values) {
  json::array array;
  array.reserve(values.size());
  for (const T& value : values) array.push_back(to_json(value));
  return array;
}

}  // namespace

json::object to_json(const CheckReport& report) {
  const auto open = [&](Level level) {
    return std::ranges::count_if(report.findings, [&](const Finding& finding) {
      return finding.level == level && finding.waiver.empty();
    });
  };
  return {{"chip", report.chip},
          {"package_bytes", report.package_bytes},
          {"weight_bytes", report.weight_bytes},
          {"memory_bytes", report.memory_bytes},
          {"errors", open(Level::error)},
          {"warnings", open(Level::warning)},
          {"functions", to_array(report.functions)},
          {"findings", to_array(report.findings)},
          {"operations", to_array(report.operations)}};
}

}  // namespace impetus::coreml

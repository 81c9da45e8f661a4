#include "planner/published.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <string_view>

#include "base/timing.h"
#include "planner/paper.h"
#include "planner/predict.h"

namespace impetus {
namespace {

// The nearest of our types: what is read and how it is computed, not what it sounds like.
std::optional<DType> type_of(std::string_view weights) {
  if (weights == "f32") return DType::f32;
  if (weights == "f16") return DType::f16;
  if (weights == "bf16") return DType::bf16;
  if (weights == "q8_0" || weights == "mlx-8bit") return DType::q8_0;
  if (weights == "q4_0" || weights == "mlx-4bit" || weights == "q4_k_m" || weights == "q4_k_s") {
    return DType::q4_0;
  }
  return std::nullopt;
}

const ModelSpec* shape_of(std::string_view model) {
  if (model == "llama-3-8b") model = "llama-3.1-8b";
  if (model == "llama-3-70b") model = "llama-3.1-70b";
  return known_shape(model);
}

}  // namespace

std::vector<PublishedCheck> check_published() {
  std::vector<PublishedCheck> checks;
  for (const PublishedRate& rate : published_rates()) {
    const KnownMachine* known = find_known_machine(rate.machine);
    const ModelSpec* spec = shape_of(rate.model);
    const auto type = type_of(rate.weights);
    if (known == nullptr || spec == nullptr || !type) continue;
    const PlanMachine machine = paper_machine(*known);
    const auto found = std::ranges::find(machine.processors, rate.device, &Processor::device);
    if (found == machine.processors.end() || found->profile.backend.empty()) continue;
    const ModelCost model = model_cost(rate.model, *spec, *type);
    const DeviceProfile& profile = found->profile;
    const Predictor predictor(profile, model, 1 << 20);
    const std::string_view phase = rate.phase;
    const int64_t prompt = rate.prompt > 0 ? rate.prompt : 512;
    const auto batch = static_cast<double>(std::max(1, rate.batch));
    PublishedCheck check{&rate, 0, 0};
    double ops = 0;
    for (const WeightGroup& group : model.layer_weights) {
      ops += 2.0 * static_cast<double>(group.parameters);
    }
    const double compute_bound = profile.limit_ops_per_second / ops;
    if (phase == "decode") {
      // Published runs decode after an empty or a short prompt.
      check.predicted = batch / predictor.decode(std::max(1, rate.batch), 64, DType::f16).seconds;
      check.bound = std::min(
          batch * profile.limit_bytes_per_second / static_cast<double>(model.weight_bytes()),
          compute_bound);
    } else if (phase == "prefill") {
      check.predicted =
          static_cast<double>(prompt) /
          predictor.prefill(prompt, 0, std::min<int64_t>(prompt, 512), DType::f16).seconds;
      check.bound = compute_bound;
    } else if (phase == "embeddings" && spec->kind == ModelKind::encoder) {
      check.predicted = static_cast<double>(prompt) * batch /
                        predictor.encode(std::max(1, rate.batch), prompt).seconds;
      check.bound = compute_bound;
    } else {
      continue;
    }
    checks.push_back(check);
  }
  return checks;
}

double median_error(const std::vector<PublishedCheck>& checks) {
  std::vector<double> errors;
  for (const PublishedCheck& check : checks) errors.push_back(std::abs(check.error()));
  return median(std::move(errors));
}

}  // namespace impetus

// A profile from outside (`plan --hardware FILE`, a kept file): refused with words, or one that a
// plan can be made of. Seeds: tests/fuzz/seeds/profile.
#include <cmath>
#include <cstdint>
#include <cstdlib>

#include "planner/plan.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace impetus;
  const auto must = [](bool holds) {
    if (!holds) std::abort();
  };
  const auto value = parse_json({reinterpret_cast<const char*>(data), size});
  if (!value.ok()) return 0;
  const auto profile = profile_from_json(*value);
  if (!profile.ok()) {
    must(!profile.error().message.empty());
    return 0;
  }
  must(profile_from_json(to_json(*profile)).ok());
  PlanMachine machine;
  machine.host_memory_bytes = int64_t{1} << 40;
  Processor& one = machine.processors.emplace_back();
  one.device = profile->device;
  one.profile = *profile;
  one.memory_bytes = machine.host_memory_bytes;
  static const std::vector<ModelCost> models{
      model_cost("chat", *known_shape("llama-3.2-1b"), DType::q4_0),
      model_cost("embed", *known_shape("minilm-l6"), DType::f16)};
  const Plan plan = make_plan(machine, models, {});
  must(plan.models.size() == models.size());
  for (const ModelPlan& model : plan.models) {
    for (const Candidate& candidate : model.candidates) {
      must(!candidate.reason.empty());
      must(candidate.predicted.seconds >= 0);  // no NaN
    }
  }
  must(!json::serialize(to_json(plan)).empty());
  return 0;
}

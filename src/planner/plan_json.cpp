#include "planner/plan.h"

namespace impetus {
namespace {

json::object predicted_json(const Predicted& predicted) {
  return {{"seconds", predicted.seconds},
          {"tokens_per_second", predicted.tokens_per_second},
          {"memory_bytes", predicted.memory_bytes}};
}

json::object placement_json(const PhasePlan& placement) {
  json::object object{{"device", placement.device},
                      {"backend", placement.backend},
                      {"precision", placement.precision},
                      {"threads", placement.threads},
                      {"predicted", predicted_json(placement.predicted)},
                      {"reason", placement.reason}};
  if (placement.phase != Phase::embeddings) return object;
  json::array buckets;
  for (const auto& bucket : placement.buckets) {
    buckets.push_back(json::object{{"length", bucket.length},
                                   {"device", bucket.device},
                                   {"backend", bucket.backend},
                                   {"threads", bucket.threads},
                                   {"predicted", predicted_json(bucket.predicted)}});
  }
  object["buckets"] = std::move(buckets);
  return object;
}

json::object candidate_json(const Candidate& candidate) {
  json::object object{
      {"phase", to_string(candidate.phase)}, {"device", candidate.device},
      {"backend", candidate.backend},        {"precision", candidate.precision},
      {"threads", candidate.threads},        {"predicted", predicted_json(candidate.predicted)},
      {"possible", candidate.possible},      {"chosen", candidate.chosen},
      {"reason", candidate.reason}};
  if (candidate.phase == Phase::embeddings) object["length"] = candidate.length;
  return object;
}

}  // namespace

json::object to_json(const Plan& plan, bool candidates) {
  json::array models;
  for (const ModelPlan& model : plan.models) {
    json::object placements;
    for (const PhasePlan& placement : model.placements) {
      placements[to_string(placement.phase)] = placement_json(placement);
    }
    json::object entry{{"model", model.model},
                       {"kind", model.kind == ModelKind::decoder ? "decoder" : "encoder"},
                       {"possible", model.possible},
                       {"placements", std::move(placements)}};
    if (!model.possible) entry["reason"] = model.reason;
    if (model.kind == ModelKind::decoder && model.possible) {
      entry["kv_tokens"] = model.kv_tokens;
      entry["chunk_tokens"] = model.chunk_tokens;
      entry["handoff_seconds"] = model.handoff_seconds;
    }
    if (model.possible) entry["batch_max"] = model.batch_max;
    if (candidates) {
      json::array all;
      for (const Candidate& candidate : model.candidates) all.push_back(candidate_json(candidate));
      entry["candidates"] = std::move(all);
    }
    models.push_back(std::move(entry));
  }
  return {{"hardware", plan.hardware}, {"models", std::move(models)}};
}

}  // namespace impetus

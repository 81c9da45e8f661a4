// One model while it is served: what never changes, what a move to another processor does, and its
// lanes.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "engine/runner.h"
#include "planner/model_cost.h"
#include "runtime/embedding_lanes.h"
#include "runtime/model.h"

namespace impetus {

// What is known of a model now. Thread-safe.
class LiveInfo {
 public:
  explicit LiveInfo(ModelInfo info) : info_(std::move(info)) {}
  ModelInfo get() const {
    const std::lock_guard lock(mutex_);
    return info_;
  }
  int64_t context() const {
    const std::lock_guard lock(mutex_);
    return info_.context;
  }
  std::string fallback_reason() const {
    const std::lock_guard lock(mutex_);
    return info_.fallback_reason;
  }
  void set(ModelInfo info) {
    const std::lock_guard lock(mutex_);
    info_ = std::move(info);
  }

 private:
  mutable std::mutex mutex_;
  ModelInfo info_;
};

struct Served {
  ModelText text;
  Model model;                    // as it was loaded, its executor or encoders moved into the lanes
  std::optional<ModelCost> cost;  // what the planner knows of it
  std::shared_ptr<LiveInfo> now;  // model.info where it is served now
  std::unique_ptr<GenerationLane> generation;
  EmbeddingLanes embedding;

  // For failover.h, whose thread alone changes them.
  Ladders ladders;                             // as it was placed by
  SchedulerLimits limits;                      // as they would be without its context's
  std::vector<const Backend*> homes;           // of each lane
  std::map<std::string, std::string> refused;  // backends on which its steps do not fit: why
};

}  // namespace impetus

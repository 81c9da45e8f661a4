// The planner at work in the running whole: it orders a model's ladders and gives each rung its
// threads, watches how long steps really take, and says what is placed where and why.
//
// A plan decides at load time only: what runs is never moved or disturbed. What runs teach (see
// Observations) shows in the next load and in report(). Thread-safe.
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "planner/plan.h"
#include "planner/predict.h"
#include "runtime/placement.h"
#include "runtime/types.h"

namespace impetus {

class Planning : public std::enable_shared_from_this<Planning> {
 public:
  Planning(PlanMachine machine, Policy policy);

  // What a model that is served now was placed by, and where it is.
  struct Served {
    ModelCost cost;
    Devices devices;
    bool fixed = false;  // the user named where it runs: a new start would change nothing
  };
  // The plan for one more model, within the memory that is free: the host's, and that of processors
  // with memory of their own, by backend.
  ModelPlan plan(const ModelCost& model, int64_t memory_free,
                 const std::map<std::string, int64_t>& own_free = {}) const;
  // `ladders` as the user gave them: phases marked there as named keep their order, the others are
  // ordered by the plan; every rung gets the threads that are fastest for its phase.
  Ladders order(const Ladders& ladders, const Placement& named, const ModelPlan& plan) const;
  // Wraps what a backend loaded so that its steps are held against their predictions.
  std::unique_ptr<Executor> watch(const ModelCost& model, const ThreadPlan& threads, DType kv,
                                  std::unique_ptr<Executor> executor);
  std::unique_ptr<Encoder> watch(const ModelCost& model, const ThreadPlan& threads,
                                 std::unique_ptr<Encoder> encoder);

  // GET /api/plan: the plan as of now for what is served, where it runs, and whether another
  // placement would be worth a new start.
  json::object report(const std::vector<Served>& served) const;

 private:
  friend class WatchedExecutor;
  friend class WatchedEncoder;
  ModelCost as_run(const ModelCost& model) const;  // in the precision that the policy sets
  const DeviceProfile* profile_of(const std::string& backend) const;
  void observe(const std::string& key, double predicted, double measured);
  Corrections corrections() const;

  const PlanMachine machine_;
  const Policy policy_;
  mutable std::mutex mutex_;  // of observations_
  Observations observations_;
};

}  // namespace impetus

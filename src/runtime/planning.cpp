#include "runtime/planning.h"

#include <algorithm>
#include <chrono>
#include <tuple>
#include <utility>

#include "base/timing.h"

namespace impetus {
namespace {

using Clock = std::chrono::steady_clock;

// Every so many steps one is held against its prediction; the first ones pay for cold pages.
constexpr int kWatchEvery = 8;

// What is learned is no reason to fail: without memory for it, it is not learned.
template <typename Learn>
void quietly(Learn learn) {
  try {
    learn();
  } catch (const std::exception&) {
  }
}

}  // namespace

// Both pass everything on; only the clock is theirs.
class WatchedExecutor final : public Executor {
 public:
  WatchedExecutor(std::shared_ptr<Planning> planning, const DeviceProfile& profile, ModelCost model,
                  const ThreadPlan& threads, DType kv, std::unique_ptr<Executor> inner)
      : planning_(std::move(planning)),
        model_(std::move(model)),
        prefill_(profile, model_, threads.prefill),
        decode_(profile, model_, threads.decode),
        prefill_key_(correction_key(model_.id, Phase::prefill, profile.backend)),
        decode_key_(correction_key(model_.id, Phase::decode, profile.backend)),
        kv_(kv),
        inner_(std::move(inner)) {}

  const BackendDescriptor& descriptor() const override { return inner_->descriptor(); }
  const KvStorage& kv() const override { return std::as_const(*inner_).kv(); }
  KvStorage& kv() override { return inner_->kv(); }
  int64_t step_tokens_max() const override { return inner_->step_tokens_max(); }

  Result<std::vector<SequenceResult>> execute(std::span<const SequenceStep> batch) override {
    if (++steps_ % kWatchEvery != 0 || batch.empty()) return inner_->execute(batch);
    const auto start = Clock::now();
    auto results = inner_->execute(batch);
    const double seconds = seconds_since(start);
    if (results.ok()) quietly([&] { hold(batch, seconds); });
    return results;
  }

  const BackendDescriptor& at_work() const override { return inner_->at_work(); }
  double expected_seconds(std::span<const SequenceStep> batch) const override {
    double sum = 0;
    for (const StepPhase phase : {StepPhase::prefill, StepPhase::decode}) {
      StepShape shape;
      shape.rows = shape.sequences = shape.outputs = 0;
      shape.kv = kv_;
      for (const SequenceStep& step : batch) {
        if (step.phase == phase) add(step, shape);
      }
      if (shape.sequences == 0) continue;
      shape.shape = shape.rows == shape.sequences ? ShapeClass::decode : ShapeClass::prefill;
      sum += (phase == StepPhase::decode ? decode_ : prefill_).step(shape).seconds;
    }
    return sum;
  }

 private:
  static void add(const SequenceStep& step, StepShape& shape) {
    const auto count = static_cast<int64_t>(step.tokens.size());
    ++shape.sequences;
    shape.rows += count;
    shape.outputs += step.output == StepOutput::logits_all ? count
                     : step.output == StepOutput::none     ? 0
                                                           : 1;
    shape.visible_keys += count * step.position + count * (count + 1) / 2;
    shape.keys_read += step.position + count;
  }

  // Steps that mix phases tell of neither.
  void hold(std::span<const SequenceStep> batch, double seconds) const {
    const StepPhase phase = batch.front().phase;
    StepShape shape;
    shape.shape = phase == StepPhase::decode ? ShapeClass::decode : ShapeClass::prefill;
    shape.rows = shape.outputs = shape.sequences = 0;
    shape.kv = kv_;
    for (const SequenceStep& step : batch) {
      // Nor do those that compute an answer's positions again, many at a time.
      if (step.phase != phase) return;
      if ((phase == StepPhase::decode) != (step.tokens.size() == 1)) return;
      add(step, shape);
    }
    const bool decode = phase == StepPhase::decode;
    planning_->observe(decode ? decode_key_ : prefill_key_,
                       (decode ? decode_ : prefill_).step(shape).seconds, seconds);
  }

  std::shared_ptr<Planning> planning_;
  ModelCost model_;
  Predictor prefill_, decode_;  // borrow model_, and the profile from planning_
  std::string prefill_key_, decode_key_;
  DType kv_;
  std::unique_ptr<Executor> inner_;
  int64_t steps_ = 0;
};

class WatchedEncoder final : public Encoder {
 public:
  WatchedEncoder(std::shared_ptr<Planning> planning, const DeviceProfile& profile, ModelCost model,
                 const ThreadPlan& threads, std::unique_ptr<Encoder> inner)
      : planning_(std::move(planning)),
        model_(std::move(model)),
        predictor_(profile, model_, threads.prefill),
        key_(correction_key(model_.id, Phase::embeddings, profile.backend)),
        inner_(std::move(inner)) {}

  const BackendDescriptor& descriptor() const override { return inner_->descriptor(); }
  int64_t batch_tokens_max() const override { return inner_->batch_tokens_max(); }
  int64_t text_tokens_max() const override { return inner_->text_tokens_max(); }
  std::string_view precision() const override { return inner_->precision(); }

  Result<Encoded> encode(const EncoderBatch& batch) override {
    if (++batches_ % kWatchEvery != 0 || batch.tokens.empty()) return inner_->encode(batch);
    const auto start = Clock::now();
    auto encoded = inner_->encode(batch);
    const double seconds = seconds_since(start);
    if (!encoded.ok()) return encoded;
    quietly([&] { hold(batch, seconds); });
    return encoded;
  }
  double expected_seconds(const EncoderBatch& batch) const override {
    return predictor_.step(shape_of(batch)).seconds;
  }

 private:
  static StepShape shape_of(const EncoderBatch& batch) {
    StepShape shape;
    shape.shape = ShapeClass::encoder;
    shape.rows = static_cast<int64_t>(batch.tokens.size());
    shape.sequences = static_cast<int64_t>(batch.offsets.size()) - 1;
    shape.outputs = 0;
    for (size_t t = 0; t + 1 < batch.offsets.size(); ++t) {
      const int64_t length = batch.offsets[t + 1] - batch.offsets[t];
      shape.visible_keys += length * length;
    }
    return shape;
  }
  void hold(const EncoderBatch& batch, double seconds) const {
    planning_->observe(key_, predictor_.step(shape_of(batch)).seconds, seconds);
  }

  std::shared_ptr<Planning> planning_;
  ModelCost model_;
  Predictor predictor_;
  std::string key_;
  std::unique_ptr<Encoder> inner_;
  int64_t batches_ = 0;
};

Planning::Planning(PlanMachine machine, Policy policy)
    : machine_(std::move(machine)), policy_(std::move(policy)) {}

const DeviceProfile* Planning::profile_of(const std::string& backend) const {
  for (const Processor& one : machine_.processors) {
    if (one.profile.backend == backend && one.unavailable.empty()) return &one.profile;
  }
  return nullptr;
}

void Planning::observe(const std::string& key, double predicted, double measured) {
  if (!(predicted > 0) || !(measured > 0)) return;
  const std::lock_guard lock(mutex_);
  observations_.add(key, predicted, measured);
}

Corrections Planning::corrections() const {
  const std::lock_guard lock(mutex_);
  return observations_.corrections();
}

ModelPlan Planning::plan(const ModelCost& model, int64_t memory_free,
                         const std::map<std::string, int64_t>& own_free) const {
  PlanMachine machine = machine_;
  machine.host_memory_bytes = memory_free;
  for (Processor& one : machine.processors) {
    const auto own = own_free.find(one.profile.backend);
    one.memory_bytes =
        std::min(one.memory_bytes, own != own_free.end() ? own->second : memory_free);
  }
  return make_plan(machine, {&model, 1}, policy_, corrections()).models.front();
}

Ladders Planning::order(const Ladders& ladders, const Placement& named,
                        const ModelPlan& plan) const {
  Ladders ordered = ladders;
  const auto arrange = [&](std::vector<Rung>& rungs, bool by_plan, Phase phase) {
    // What the plan thinks of a rung: its rank, its time (of all lengths for encoders), its
    // threads.
    struct Opinion {
      int rank = 3;
      double seconds = 0;
      int threads = 0;
    };
    const PhasePlan* placed = plan.placement(phase);
    const auto opinion = [&](const Rung& rung) {
      Opinion found;
      if (rung.backend == nullptr) return found;
      const std::string& backend = rung.backend->descriptor().backend;
      for (const Candidate& one : plan.candidates) {
        if (one.phase != phase || one.backend != backend) continue;
        found.rank = placed != nullptr && placed->backend == backend ? 0 : one.possible ? 1 : 2;
        found.seconds += one.predicted.seconds;
        found.threads = one.threads;  // encoders: of the longest texts, which stands last
      }
      return found;
    };
    for (Rung& rung : rungs) {
      (phase == Phase::decode ? rung.threads.decode : rung.threads.prefill) = opinion(rung).threads;
    }
    if (!by_plan) return;
    // The chosen one, then what could, the fastest first; the planner's "no" comes last, for what a
    // backend takes in the end it knows best itself.
    std::vector<std::tuple<int, double, size_t>> keys;
    for (size_t i = 0; i < rungs.size(); ++i) {
      const Opinion one = opinion(rungs[i]);
      keys.emplace_back(one.rank, one.seconds, i);
    }
    std::ranges::sort(keys);
    std::vector<Rung> sorted;
    for (const auto& [rank, seconds, i] : keys) sorted.push_back(rungs[i]);
    rungs = std::move(sorted);
  };
  arrange(ordered.prefill, named.prefill.empty(), Phase::prefill);
  arrange(ordered.decode, named.decode.empty(), Phase::decode);
  arrange(ordered.embeddings, named.embeddings.empty(), Phase::embeddings);
  // A backend that may do both phases is loaded once, with the threads of each.
  for (Rung& rung : ordered.prefill) {
    for (Rung& other : ordered.decode) {
      if (rung.backend == nullptr || rung.backend != other.backend) continue;
      rung.threads.decode = other.threads.decode;
      other.threads.prefill = rung.threads.prefill;
    }
  }
  return ordered;
}

ModelCost Planning::as_run(const ModelCost& model) const {
  return policy_.weights ? model.in(*policy_.weights) : model;
}

std::unique_ptr<Executor> Planning::watch(const ModelCost& model, const ThreadPlan& threads,
                                          DType kv, std::unique_ptr<Executor> executor) {
  const BackendDescriptor& descriptor = executor->descriptor();
  const DeviceProfile* profile = profile_of(descriptor.backend);
  if (profile == nullptr) return executor;
  ThreadPlan used = threads;
  if (used.prefill <= 0) used.prefill = descriptor.threads;
  if (used.decode <= 0) used.decode = descriptor.threads;
  return std::make_unique<WatchedExecutor>(shared_from_this(), *profile, as_run(model), used, kv,
                                           std::move(executor));
}

std::unique_ptr<Encoder> Planning::watch(const ModelCost& model, const ThreadPlan& threads,
                                         std::unique_ptr<Encoder> encoder) {
  const BackendDescriptor& descriptor = encoder->descriptor();
  const DeviceProfile* profile = profile_of(descriptor.backend);
  if (profile == nullptr) return encoder;
  ThreadPlan used = threads;
  if (used.prefill <= 0) used.prefill = descriptor.threads;
  return std::make_unique<WatchedEncoder>(shared_from_this(), *profile, as_run(model), used,
                                          std::move(encoder));
}

json::object Planning::report(const std::vector<Served>& served) const {
  std::vector<ModelCost> models;
  for (const Served& one : served) models.push_back(one.cost);
  const Corrections known = corrections();
  const Plan plan = make_plan(machine_, models, policy_, known);
  json::object report = to_json(plan);
  report["measured"] = std::ranges::all_of(machine_.processors, [](const Processor& one) {
    return !one.unavailable.empty() || one.profile.measured;
  });
  for (size_t m = 0; m < served.size(); ++m) {
    const ModelPlan& fresh = plan.models[m];
    json::object& entry = report["models"].as_array()[m].as_object();
    const Devices& devices = served[m].devices;
    const auto names = [](const std::vector<std::string>& list) {
      return json::array(list.begin(), list.end());
    };
    json::object running;
    // What the fresh plan thinks of a phase on a backend, all lengths together.
    const auto seconds = [&](Phase phase, const std::string& backend) {
      double sum = 0;
      for (const Candidate& one : fresh.candidates) {
        if (one.phase == phase && one.backend == backend) sum += one.predicted.seconds;
      }
      return sum;
    };
    double now = 0, then = 0;
    const auto first = [](const std::vector<std::string>& list) {
      return list.empty() ? std::string() : list.front();
    };
    if (served[m].cost.kind == ModelKind::decoder) {
      running["prefill"] = names(devices.prefill);
      running["decode"] = names(devices.decode);
      const auto answer = static_cast<double>(policy_.answer_tokens);
      const auto cost = [&](const std::string& prefill, const std::string& decode) {
        return seconds(Phase::prefill, prefill) + answer * seconds(Phase::decode, decode);
      };
      now = cost(first(devices.prefill), first(devices.decode));
      const PhasePlan* prefill = fresh.placement(Phase::prefill);
      const PhasePlan* decode = fresh.placement(Phase::decode);
      if (prefill && decode) {
        then = cost(prefill->backend, decode->backend) + fresh.handoff_seconds;
      }
    } else {
      running["embeddings"] = names(devices.embeddings);
      now = seconds(Phase::embeddings, first(devices.embeddings));
      // One backend holds an encoder, whatever the best of each length would be.
      if (const PhasePlan* placed = fresh.placement(Phase::embeddings)) {
        then = seconds(Phase::embeddings, placed->backend);
      }
    }
    entry["running"] = std::move(running);
    entry["worth_a_new_start"] =
        !served[m].fixed && now > 0 && then > 0 && Observations::worth_changing(now, then);
  }
  json::object observed;
  for (const auto& [key, factor] : known) observed[key] = factor;
  report["observed"] = std::move(observed);
  return report;
}

}  // namespace impetus

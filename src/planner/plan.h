// Which processor does what for which model, in which precision and with how many threads, and why.
//
// A pure function: machine, models and policy in, a Plan out; no clock, no device, no file. So any
// machine of the world can be planned on paper, and a plan can be tested anywhere. The runtime
// turns the plan into a ladder of executors; a plan never changes what already runs.
//
// Objective, for each decoder, for a prompt of n and an answer of m tokens (policy):
//   T_prefill(A, n) + handoff(A, B, n) + m x T_decode(B)      over processors A and B that hold it,
// where A is another than B only if T_prefill(A, n) + handoff < split_gain x T_prefill(B, n); for
// each encoder the sum over the length buckets of one text's time, each bucket on a processor that
// holds it. The sum over all models is least, within every processor's memory.
#pragma once

#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "backend/executor.h"
#include "backend/profile.h"
#include "base/json.h"
#include "planner/model_cost.h"

namespace impetus {

enum class Phase : uint8_t { embeddings, prefill, decode };
std::string_view to_string(Phase phase);

// One thing that work can be placed on.
struct Processor {
  std::string device;  // "cpu", "gpu0", "npu0"
  std::string name;    // for people
  DeviceProfile profile;
  std::string unavailable;          // why nothing can be placed here now; empty: it can
  int64_t memory_bytes = 0;         // for models; of the host where shared
  bool shares_host_memory = false;  // models there take of the host's
  bool runs_decoders = true;
  bool runs_encoders = true;
  std::vector<DType> weights;  // types it computes on
  std::vector<DType> kv;       // types it keeps keys and values in; empty: any
};

// Of a backend that is not here; empty: nobody knows.
std::vector<DType> kv_types_of(std::string_view backend);

struct PlanMachine {
  std::string name;
  int64_t host_memory_bytes = 0;  // for models
  std::vector<Processor> processors;
};

struct Policy {
  int64_t prompt_tokens = 512, answer_tokens = 128;  // what a request is taken to be
  DType kv = DType::f16;
  std::optional<DType> weights;  // another precision than the file's (q8_0 for --weights int8)
  std::optional<int64_t> kv_tokens;
  int threads = 0;                   // 0: the planner chooses
  std::vector<std::string> devices;  // devices or backends that may be used; empty: all
  // The rules of thumb, each named where it decides.
  int64_t npu_encoder_bytes_max = 500'000'000;  // smaller encoders go to an NPU nobody measured
  double split_gain = 0.9;                      // see above
  double chunk_seconds_max = 0.25;  // a prompt's chunk keeps running streams waiting no longer
  std::vector<int64_t> length_buckets = {16, 32, 64, 128, 256, 512};
};

// Measured over predicted time of what ran before, by (model, phase, device); absent: 1.
using Corrections = std::map<std::string, double>;
std::string correction_key(std::string_view model, Phase phase, std::string_view backend);

struct Predicted {
  double seconds = 0;  // a prompt of policy.prompt_tokens; one token; one text of the bucket
  double tokens_per_second = 0;
  int64_t memory_bytes = 0;  // weights, KV and working memory on this processor
};

struct Candidate {
  Phase phase = Phase::decode;
  std::string device, backend, precision;
  int threads = 0;
  int64_t length = 0;  // embeddings: of the bucket
  Predicted predicted;
  bool possible = false;
  bool chosen = false;
  std::string reason;  // why it won, lost, or cannot be
};

struct PhasePlan {
  Phase phase = Phase::decode;
  std::string device, backend, precision;
  int threads = 0;
  Predicted predicted;
  std::string reason;
  struct Bucket {  // embeddings: texts up to this length
    int64_t length = 0;
    std::string device, backend;
    int threads = 0;
    Predicted predicted;
  };
  std::vector<Bucket> buckets;
};

struct ModelPlan {
  std::string model;
  ModelKind kind = ModelKind::decoder;
  bool possible = false;
  std::string reason;  // where it is not
  std::vector<PhasePlan> placements;
  std::vector<Candidate> candidates;
  double handoff_seconds = 0;  // prefill to decode, for the policy's prompt
  int64_t kv_tokens = 0;       // decoders
  int64_t chunk_tokens = 0;
  int64_t batch_max = 0;  // sequences at once (decoders), texts at once (encoders)

  const PhasePlan* placement(Phase phase) const;  // null where there is none
};

struct Plan {
  std::string hardware;
  std::vector<ModelPlan> models;
  double seconds = 0;  // the objective's value
};

Plan make_plan(const PlanMachine& machine, std::span<const ModelCost> models, const Policy& policy,
               const Corrections& corrections = {});

// The documented shape: {"hardware", "models": [{"model", "placements": {...}, "candidates"}]}.
json::object to_json(const Plan& plan, bool candidates = true);

// Learns from runs: measured over predicted, smoothed; reported only once it left the band of
// +-10 % around what is reported, so that a plan does not swing with noise. One thread at a time.
class Observations {
 public:
  // REQUIRES: both positive.
  void add(const std::string& key, double predicted_seconds, double measured_seconds);
  const Corrections& corrections() const { return reported_; }
  // Whether a new plan is worth changing to: at least a tenth less than what the old one would cost
  // under what is known now.
  static bool worth_changing(double old_seconds, double new_seconds) {
    return new_seconds < 0.9 * old_seconds;
  }

 private:
  struct State {
    double log_ratio = 0;
    int count = 0;
  };
  std::map<std::string, State> states_;
  Corrections reported_;
};

}  // namespace impetus

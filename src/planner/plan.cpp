#include "planner/plan.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <tuple>

#include "backend/kv_handoff.h"
#include "planner/predict.h"

namespace impetus {
namespace {

constexpr double kNever = std::numeric_limits<double>::infinity();
constexpr int64_t kWorkingBytes = int64_t{64} << 20;  // activations, scratch: an allowance
constexpr int64_t kContextsMax = 8;                   // whole contexts a KV cache aims at
constexpr size_t kEncodersMax = 8;      // processors that an encoder's lengths are shared over
constexpr int64_t kNodesMax = 200'000;  // of the search over several models

// One processor's times for one model.
struct Rated {
  const Processor* processor = nullptr;
  ModelCost model;  // in the precision it would run
  std::string impossible;
  int prefill_threads = 0, decode_threads = 0;
  int64_t chunk = 0;
  double prefill = kNever, decode = kNever;  // corrected
  bool memory_bound = false;                 // decoding is
  struct Bucket {
    int64_t length;
    int threads;
    double seconds;
  };
  std::vector<Bucket> buckets;  // encoders

  int64_t bytes() const { return model.file_bytes + kWorkingBytes; }
};

// What may be chosen for one model: where, what it costs, and what it takes of whose memory.
struct Option {
  double seconds = 0;
  int prefill = -1, decode = -1;  // indices of processors
  std::vector<int> buckets;       // encoders: the processor of each bucket
  std::vector<int64_t> memory;    // by processor; the host's stands last
  double handoff = 0;
};

// The cheapest first; among equals those that come first in the machine's list, so that a plan is
// the same every time.
void sort_by_cost(std::vector<Option>& options) {
  std::ranges::sort(options, {}, [](const Option& o) {
    return std::tuple(o.seconds, o.prefill != o.decode, o.decode, o.prefill, o.buckets);
  });
}

class Planner {
 public:
  Planner(const PlanMachine& machine, std::span<const ModelCost> models, const Policy& policy,
          const Corrections& corrections)
      : machine_(machine), models_(models), policy_(policy), corrections_(corrections) {}

  Plan run();

 private:
  bool allowed(const Processor& processor) const {
    return policy_.devices.empty() ||
           std::ranges::any_of(policy_.devices, [&](const std::string& name) {
             return name == processor.device || name == processor.profile.backend;
           });
  }
  double correction(const ModelCost& model, Phase phase, const Processor& processor) const {
    const auto found =
        corrections_.find(correction_key(model.id, phase, processor.profile.backend));
    return found == corrections_.end() ? 1 : found->second;
  }
  std::vector<int> threads_to_try(const Processor& processor) const {
    if (policy_.threads > 0) return {policy_.threads};
    return thread_counts(processor.profile);
  }
  int64_t memory_of(const Processor& processor) const {
    return processor.shares_host_memory ? machine_.host_memory_bytes : processor.memory_bytes;
  }
  Rated rate(const ModelCost& model, const Processor& processor) const;
  void rate_decoder(Rated& rated) const;
  void rate_encoder(Rated& rated) const;
  double handoff(const ModelCost& model, const Processor& from, const Processor& to) const;
  int64_t kv_bytes(const ModelCost& model) const {
    return (policy_.prompt_tokens + policy_.answer_tokens) * model.kv_token_bytes(policy_.kv);
  }
  std::vector<Option> options(std::span<const Rated> rated) const;
  std::vector<Option> encoder_options(std::span<const Rated> rated) const;
  void take(Option& option, int processor, int64_t bytes) const;
  bool fits(const std::vector<int64_t>& used, const Option& option) const;
  std::vector<int> choose(const std::vector<std::vector<Option>>& all) const;
  ModelPlan describe(std::span<const Rated> rated, const std::vector<Option>& all, int chosen,
                     const std::vector<int64_t>& used) const;
  void describe_decoder(ModelPlan& plan, std::span<const Rated> rated, const Option& option) const;
  void describe_encoder(ModelPlan& plan, std::span<const Rated> rated, const Option& option) const;
  bool npu_by_rule(std::span<const Rated> rated, int processor) const;

  const PlanMachine& machine_;
  std::span<const ModelCost> models_;
  const Policy& policy_;
  const Corrections& corrections_;
};

Rated Planner::rate(const ModelCost& model, const Processor& processor) const {
  Rated rated;
  rated.processor = &processor;
  rated.model = policy_.weights ? model.in(*policy_.weights) : model;
  if (!allowed(processor)) {
    rated.impossible = "the policy does not name it";
  } else if (!processor.unavailable.empty()) {
    rated.impossible = processor.unavailable;
  } else if (model.kind == ModelKind::decoder && !processor.runs_decoders) {
    rated.impossible = "it runs compiled graphs of fixed shapes: no decoders";
  } else if (model.kind == ModelKind::encoder && !processor.runs_encoders) {
    rated.impossible = "it runs no encoders";
  }
  if (rated.impossible.empty() && !processor.weights.empty()) {
    for (const WeightGroup& group : rated.model.layer_weights) {
      if (std::ranges::find(processor.weights, group.type) == processor.weights.end()) {
        rated.impossible = fmt::format("it does not compute on {} weights", to_string(group.type));
        break;
      }
    }
  }
  if (rated.impossible.empty() && model.kind == ModelKind::decoder) {
    const auto kept = check_kv_type(policy_.kv, model.head_dim);
    if (!kept.ok()) {
      rated.impossible = kept.error().message;
    } else if (!processor.kv.empty() &&
               std::ranges::find(processor.kv, policy_.kv) == processor.kv.end()) {
      rated.impossible = fmt::format("it keeps no KV in {}", to_string(policy_.kv));
    }
  }
  if (rated.impossible.empty() && rated.bytes() > memory_of(processor)) {
    rated.impossible = fmt::format("{} MiB of weights and working memory exceed its {} MiB",
                                   rated.bytes() >> 20, memory_of(processor) >> 20);
  }
  // Rated all the same, so that the explanation says what it would give.
  if (model.kind == ModelKind::decoder) {
    rate_decoder(rated);
  } else {
    rate_encoder(rated);
  }
  return rated;
}

void Planner::rate_decoder(Rated& rated) const {
  const DeviceProfile& profile = rated.processor->profile;
  const int64_t prompt = std::min(policy_.prompt_tokens, rated.model.context);
  for (const int threads : threads_to_try(*rated.processor)) {
    const Predictor predictor(profile, rated.model, threads);
    // The largest chunk that keeps others waiting no longer than allowed.
    int64_t chunk = 64;
    for (const int64_t larger : {128, 256, 512}) {
      if (predictor.prefill(larger, 0, larger, policy_.kv).seconds > policy_.chunk_seconds_max)
        break;
      chunk = larger;
    }
    const double prefill = predictor.prefill(prompt, 0, chunk, policy_.kv).seconds;
    if (prefill < rated.prefill) {
      rated.prefill = prefill;
      rated.prefill_threads = policy_.threads > 0 ? policy_.threads : predictor.threads();
      rated.chunk = chunk;
    }
    const PhaseTime token = predictor.decode(1, prompt + policy_.answer_tokens / 2, policy_.kv);
    if (token.seconds < rated.decode) {
      rated.decode = token.seconds;
      rated.decode_threads = policy_.threads > 0 ? policy_.threads : predictor.threads();
      rated.memory_bound = token.limited_by_memory;
    }
  }
  rated.prefill *= correction(rated.model, Phase::prefill, *rated.processor);
  rated.decode *= correction(rated.model, Phase::decode, *rated.processor);
}

void Planner::rate_encoder(Rated& rated) const {
  for (const int64_t length : policy_.length_buckets) {
    Rated::Bucket bucket{std::min(length, rated.model.context), 0, kNever};
    if (!rated.buckets.empty() && rated.buckets.back().length == bucket.length) break;
    for (const int threads : threads_to_try(*rated.processor)) {
      const Predictor predictor(rated.processor->profile, rated.model, threads);
      const double seconds = predictor.encode(1, bucket.length).seconds;
      if (seconds < bucket.seconds) {
        bucket.seconds = seconds;
        bucket.threads = policy_.threads > 0 ? policy_.threads : predictor.threads();
      }
    }
    bucket.seconds *= correction(rated.model, Phase::embeddings, *rated.processor);
    rated.buckets.push_back(bucket);
  }
}

double Planner::handoff(const ModelCost& model, const Processor& from, const Processor& to) const {
  const auto bytes = static_cast<double>(std::min(policy_.prompt_tokens, model.context) *
                                         model.kv_token_bytes(policy_.kv));
  double seconds = 0;
  for (const Processor* side : {&from, &to}) {
    seconds += side->profile.copy_seconds;
    if (side->profile.copy_bytes_per_second > 0) {  // 0: the other reads it where it stands
      seconds += bytes / side->profile.copy_bytes_per_second;
    }
  }
  return seconds;
}

void Planner::take(Option& option, int processor, int64_t bytes) const {
  const Processor& where = machine_.processors[static_cast<size_t>(processor)];
  option.memory[where.shares_host_memory ? machine_.processors.size()
                                         : static_cast<size_t>(processor)] += bytes;
}

bool Planner::fits(const std::vector<int64_t>& used, const Option& option) const {
  for (size_t i = 0; i < used.size(); ++i) {
    const int64_t capacity = i == machine_.processors.size() ? machine_.host_memory_bytes
                                                             : machine_.processors[i].memory_bytes;
    if (option.memory[i] > 0 && used[i] + option.memory[i] > capacity) return false;
  }
  return true;
}

std::vector<Option> Planner::options(std::span<const Rated> rated) const {
  if (rated.front().model.kind == ModelKind::encoder) return encoder_options(rated);
  std::vector<Option> all;
  const auto count = static_cast<int>(rated.size());
  for (int b = 0; b < count; ++b) {
    const Rated& decode = rated[static_cast<size_t>(b)];
    if (!decode.impossible.empty()) continue;
    for (int a = 0; a < count; ++a) {
      const Rated& prefill = rated[static_cast<size_t>(a)];
      if (!prefill.impossible.empty()) continue;
      Option option;
      option.prefill = a;
      option.decode = b;
      option.memory.assign(machine_.processors.size() + 1, 0);
      take(option, b, decode.bytes() + kv_bytes(decode.model));
      if (a != b) {
        option.handoff = handoff(decode.model, *prefill.processor, *decode.processor);
        if (prefill.prefill + option.handoff >= policy_.split_gain * decode.prefill) continue;
        // Weights that both map from one file in shared memory are there once, packed or not is the
        // backends' affair: each side is counted whole, so that nothing is promised twice.
        take(option, a, prefill.bytes() + kv_bytes(prefill.model));
      }
      option.seconds = prefill.prefill + option.handoff +
                       static_cast<double>(policy_.answer_tokens) * decode.decode;
      all.push_back(std::move(option));
    }
  }
  sort_by_cost(all);
  return all;
}

// An NPU that nobody measured gets the encoders that the rule of thumb gives it.
bool Planner::npu_by_rule(std::span<const Rated> rated, int processor) const {
  const Rated& one = rated[static_cast<size_t>(processor)];
  return one.processor->device.starts_with("npu") && !one.processor->profile.measured &&
         one.impossible.empty() && one.model.file_bytes < policy_.npu_encoder_bytes_max;
}

std::vector<Option> Planner::encoder_options(std::span<const Rated> rated) const {
  std::vector<int> able;
  std::vector<int> by_rule;
  for (size_t i = 0; i < rated.size(); ++i) {
    if (!rated[i].impossible.empty()) continue;
    able.push_back(static_cast<int>(i));
    if (npu_by_rule(rated, static_cast<int>(i))) by_rule.push_back(static_cast<int>(i));
  }
  if (!by_rule.empty()) able = by_rule;
  // Every set of them is tried: of very many, the fastest.
  if (able.size() > kEncodersMax) {
    std::ranges::sort(able, {}, [&](int i) {
      double sum = 0;
      for (const auto& bucket : rated[static_cast<size_t>(i)].buckets) sum += bucket.seconds;
      return sum;
    });
    able.resize(kEncodersMax);
  }
  std::vector<Option> all;
  // For a given set of processors each bucket takes the fastest of them.
  for (uint32_t set = 1; set < (1u << able.size()); ++set) {
    Option option;
    option.memory.assign(machine_.processors.size() + 1, 0);
    std::vector<bool> used(rated.size());
    for (size_t b = 0; b < rated.front().buckets.size(); ++b) {
      int best = -1;
      for (size_t i = 0; i < able.size(); ++i) {
        if ((set >> i & 1u) == 0) continue;
        if (best < 0 || rated[static_cast<size_t>(able[i])].buckets[b].seconds <
                            rated[static_cast<size_t>(best)].buckets[b].seconds) {
          best = able[i];
        }
      }
      option.buckets.push_back(best);
      option.seconds += rated[static_cast<size_t>(best)].buckets[b].seconds;
      used[static_cast<size_t>(best)] = true;
    }
    bool whole = true;  // a set with an idle member stands elsewhere without it
    for (size_t i = 0; i < able.size(); ++i) {
      if ((set >> i & 1u) != 0 && !used[static_cast<size_t>(able[i])]) whole = false;
    }
    if (!whole) continue;
    for (size_t i = 0; i < used.size(); ++i) {
      if (used[i]) take(option, static_cast<int>(i), rated[i].bytes());
    }
    all.push_back(std::move(option));
  }
  sort_by_cost(all);
  return all;
}

// The least sum over all models within the memories: branch and bound, each model's options in
// order of cost. -1 where a model has no option that fits; such models count as nothing, so that
// as many as possible are placed first.
std::vector<int> Planner::choose(const std::vector<std::vector<Option>>& all) const {
  const size_t count = all.size();
  std::vector<double> rest(count + 1, 0);  // least that models from i on can cost
  for (size_t i = count; i-- > 0;) {
    rest[i] = rest[i + 1] + (all[i].empty() ? 0 : all[i].front().seconds);
  }
  std::vector<int> best(count, -1), current(count, -1);
  size_t best_placed = 0;
  double best_seconds = kNever;
  std::vector<int64_t> used(machine_.processors.size() + 1, 0);
  int64_t nodes = 0;
  const auto search = [&](auto&& self, size_t i, size_t placed, double seconds) -> void {
    // The first way down is greedy, so a bounded search still ends with a plan.
    if (++nodes > kNodesMax) return;
    if (placed + (count - i) < best_placed) return;
    if (placed + (count - i) == best_placed && seconds + rest[i] >= best_seconds) return;
    if (i == count) {
      if (placed > best_placed || seconds < best_seconds) {
        best = current;
        best_placed = placed;
        best_seconds = seconds;
      }
      return;
    }
    for (size_t o = 0; o < all[i].size(); ++o) {
      const Option& option = all[i][o];
      if (!fits(used, option)) continue;
      for (size_t p = 0; p < used.size(); ++p) used[p] += option.memory[p];
      current[i] = static_cast<int>(o);
      self(self, i + 1, placed + 1, seconds + option.seconds);
      for (size_t p = 0; p < used.size(); ++p) used[p] -= option.memory[p];
    }
    current[i] = -1;
    self(self, i + 1, placed, seconds);
  };
  search(search, 0, 0, 0);
  return best;
}

std::string rate_text(double per_second) {
  return per_second >= 100 ? fmt::format("{:.0f}", per_second) : fmt::format("{:.1f}", per_second);
}

std::string with_threads(const Processor& processor, int threads) {
  if (processor.device != "cpu") return {};
  return fmt::format(" with {} thread{}", threads, threads == 1 ? "" : "s");
}

std::string seconds_text(double seconds) {
  return seconds < 1 ? fmt::format("{:.1f} ms", seconds * 1e3) : fmt::format("{:.2f} s", seconds);
}

void Planner::describe_decoder(ModelPlan& plan, std::span<const Rated> rated,
                               const Option& option) const {
  const Rated& prefill = rated[static_cast<size_t>(option.prefill)];
  const Rated& decode = rated[static_cast<size_t>(option.decode)];
  const auto prompt = static_cast<double>(std::min(policy_.prompt_tokens, decode.model.context));
  plan.handoff_seconds = option.handoff;
  plan.chunk_tokens = prefill.chunk;

  // Beside the best of the others, where there is one that can.
  const auto runner_up = [&](int but, auto seconds_of) -> const Rated* {
    const Rated* best = nullptr;
    for (size_t i = 0; i < rated.size(); ++i) {
      if (static_cast<int>(i) == but || !rated[i].impossible.empty()) continue;
      if (best == nullptr || seconds_of(rated[i]) < seconds_of(*best)) best = &rated[i];
    }
    return best;
  };
  PhasePlan token;
  token.phase = Phase::decode;
  token.device = decode.processor->device;
  token.backend = decode.processor->profile.backend;
  token.precision = decode.model.precision;
  token.threads = decode.decode_threads;
  token.predicted = {decode.decode, 1 / decode.decode,
                     decode.bytes() + plan.kv_tokens * decode.model.kv_token_bytes(policy_.kv)};
  token.reason = fmt::format("{} tokens/s{}, bound by {}", rate_text(1 / decode.decode),
                             with_threads(*decode.processor, decode.decode_threads),
                             decode.memory_bound ? "reading its weights" : "computing");
  if (const Rated* other = runner_up(option.decode, [](const Rated& r) { return r.decode; })) {
    token.reason += fmt::format(
        "; {} would give {}{}",
        other->processor->device + " (" + other->processor->profile.backend + ")",
        rate_text(1 / other->decode),
        other->decode < decode.decode ? ", but prompts would cost more than that saves" : "");
  } else {
    token.reason += "; nothing else here can hold it";
  }
  plan.placements.push_back(token);

  PhasePlan whole = token;
  whole.phase = Phase::prefill;
  whole.device = prefill.processor->device;
  whole.backend = prefill.processor->profile.backend;
  whole.precision = prefill.model.precision;
  whole.threads = prefill.prefill_threads;
  whole.predicted.seconds = prefill.prefill;
  whole.predicted.tokens_per_second = prompt / prefill.prefill;
  whole.reason = fmt::format("{} tokens/s{} over a prompt of {:.0f}",
                             rate_text(whole.predicted.tokens_per_second),
                             with_threads(*prefill.processor, prefill.prefill_threads), prompt);
  if (option.prefill != option.decode) {
    whole.reason += fmt::format(
        "; split from decoding: {} and {} of handoff are less than {:.0f} % of the {} it would "
        "take "
        "there",
        seconds_text(prefill.prefill), seconds_text(option.handoff), policy_.split_gain * 100,
        seconds_text(decode.prefill));
  } else if (const Rated* other =
                 runner_up(option.prefill, [](const Rated& r) { return r.prefill; })) {
    const double there =
        other->prefill + handoff(decode.model, *other->processor, *decode.processor);
    const bool worth = there < policy_.split_gain * decode.prefill;
    whole.reason += fmt::format(
        "; stays where it decodes: {} ({}) would take {} with the handoff, {}less than {:.0f} % of "
        "{}",
        other->processor->device, other->processor->profile.backend, seconds_text(there),
        worth ? "" : "not ", policy_.split_gain * 100, seconds_text(decode.prefill));
    if (worth) whole.reason += ", but there is no memory for both";
  }
  plan.placements.insert(plan.placements.begin(), std::move(whole));
}

void Planner::describe_encoder(ModelPlan& plan, std::span<const Rated> rated,
                               const Option& option) const {
  PhasePlan placement;
  placement.phase = Phase::embeddings;
  std::map<int, int> times;
  for (size_t b = 0; b < option.buckets.size(); ++b) {
    const Rated& one = rated[static_cast<size_t>(option.buckets[b])];
    const Rated::Bucket& bucket = one.buckets[b];
    ++times[option.buckets[b]];
    placement.buckets.push_back(
        {bucket.length,
         one.processor->device,
         one.processor->profile.backend,
         bucket.threads,
         {bucket.seconds, static_cast<double>(bucket.length) / bucket.seconds, one.bytes()}});
  }
  // The placement as a whole is that of the most buckets.
  const int most =
      std::ranges::max_element(times, {}, [](const auto& entry) { return entry.second; })->first;
  const Rated& one = rated[static_cast<size_t>(most)];
  placement.device = one.processor->device;
  placement.backend = one.processor->profile.backend;
  placement.precision = one.model.precision;
  const auto middle = std::ranges::find_if(placement.buckets, [&](const auto& bucket) {
    return bucket.device == placement.device && bucket.length >= 128;
  });
  const auto& shown = middle != placement.buckets.end()
                          ? *middle
                          : *std::ranges::find_if(placement.buckets, [&](const auto& bucket) {
                              return bucket.device == placement.device;
                            });
  placement.threads = shown.threads;
  placement.predicted = shown.predicted;
  placement.reason =
      fmt::format("{:.2f} ms for a text of {} tokens{}", shown.predicted.seconds * 1e3,
                  shown.length, with_threads(*one.processor, shown.threads));
  if (npu_by_rule(rated, most)) {
    placement.reason += fmt::format(
        "; by the rule that encoders under {} MB go to the NPU, which nobody measured here",
        policy_.npu_encoder_bytes_max / 1'000'000);
  }
  if (times.size() > 1) placement.reason += "; other lengths elsewhere, see the buckets";
  plan.placements.push_back(std::move(placement));
}

ModelPlan Planner::describe(std::span<const Rated> rated, const std::vector<Option>& all,
                            int chosen, const std::vector<int64_t>& used) const {
  ModelPlan plan;
  const ModelCost& model = rated.front().model;
  plan.model = model.id;
  plan.kind = model.kind;
  plan.possible = chosen >= 0;
  const Option* option = chosen >= 0 ? &all[static_cast<size_t>(chosen)] : nullptr;

  if (option != nullptr && model.kind == ModelKind::decoder) {
    // Eight whole contexts where memory allows, never more than two fifths of what is free: of a
    // pair's memories the least.
    const auto affordable_on = [&](int index) {
      const auto at = static_cast<size_t>(index);
      const Processor& processor = machine_.processors[at];
      const size_t place = processor.shares_host_memory ? machine_.processors.size() : at;
      const int64_t room = memory_of(processor) - used[place];
      return std::max<int64_t>(0, room + kv_bytes(model)) / 5 * 2 /
             std::max<int64_t>(1, model.kv_token_bytes(policy_.kv));
    };
    const int64_t affordable =
        std::min(affordable_on(option->decode), affordable_on(option->prefill));
    plan.kv_tokens = policy_.kv_tokens.value_or(std::min(model.context * kContextsMax, affordable));
    plan.batch_max = std::clamp<int64_t>(
        plan.kv_tokens / std::max<int64_t>(1, policy_.prompt_tokens + policy_.answer_tokens), 1,
        64);
    describe_decoder(plan, rated, *option);
  } else if (option != nullptr) {
    plan.batch_max = std::max<int64_t>(1, 512 / 16);
    describe_encoder(plan, rated, *option);
  }

  for (size_t i = 0; i < rated.size(); ++i) {
    const Rated& one = rated[i];
    Candidate candidate;
    candidate.device = one.processor->device;
    candidate.backend = one.processor->profile.backend;
    candidate.precision = one.model.precision;
    candidate.possible = one.impossible.empty();
    const auto add = [&](Phase phase, int threads, double seconds, int64_t tokens, int64_t bytes,
                         bool won) {
      candidate.phase = phase;
      candidate.threads = threads;
      candidate.length = phase == Phase::embeddings ? tokens : 0;
      if (one.processor->profile.empty()) seconds = 0;
      candidate.predicted = {seconds, seconds > 0 ? static_cast<double>(tokens) / seconds : 0,
                             bytes};
      candidate.chosen = won;
      if (!candidate.possible) {
        candidate.reason = one.impossible;
      } else if (won) {
        candidate.reason = "chosen";
      } else if (option == nullptr) {
        candidate.reason = "other models take the memory it would need";
      } else if (phase == Phase::embeddings && !npu_by_rule(rated, static_cast<int>(i)) &&
                 npu_by_rule(rated, option->buckets.front())) {
        candidate.reason = "the rule gives small encoders to the NPU, which nobody measured here";
      } else {
        candidate.reason = "another is faster in the whole";
      }
      plan.candidates.push_back(candidate);
    };
    const bool decodes = option != nullptr && option->decode == static_cast<int>(i);
    const bool prefills = option != nullptr && option->prefill == static_cast<int>(i);
    if (model.kind == ModelKind::decoder) {
      const int64_t bytes = one.bytes() + kv_bytes(one.model);
      add(Phase::prefill, one.prefill_threads, one.prefill,
          std::min(policy_.prompt_tokens, model.context), bytes, prefills);
      add(Phase::decode, one.decode_threads, one.decode, 1, bytes, decodes);
    } else {
      for (size_t b = 0; b < one.buckets.size(); ++b) {
        add(Phase::embeddings, one.buckets[b].threads, one.buckets[b].seconds,
            one.buckets[b].length, one.bytes(),
            option != nullptr && option->buckets[b] == static_cast<int>(i));
      }
    }
  }
  if (!plan.possible) {
    plan.reason =
        all.empty() ? "no processor here can run it:" : "the other models leave no memory for it:";
    for (const Rated& one : rated) {
      plan.reason +=
          fmt::format(" {} ({}): {};", one.processor->device, one.processor->profile.backend,
                      one.impossible.empty() ? "taken by other models" : one.impossible);
    }
    plan.reason.pop_back();
  }
  return plan;
}

Plan Planner::run() {
  Plan plan;
  plan.hardware = machine_.name;
  std::vector<std::vector<Rated>> rated;
  std::vector<std::vector<Option>> all;
  for (const ModelCost& model : models_) {
    auto& row = rated.emplace_back();
    for (const Processor& processor : machine_.processors) row.push_back(rate(model, processor));
    all.push_back(row.empty() ? std::vector<Option>{} : options(row));
  }
  const std::vector<int> chosen = choose(all);
  std::vector<int64_t> used(machine_.processors.size() + 1, 0);
  for (size_t m = 0; m < models_.size(); ++m) {
    if (chosen[m] < 0) continue;
    const Option& option = all[m][static_cast<size_t>(chosen[m])];
    plan.seconds += option.seconds;
    for (size_t p = 0; p < used.size(); ++p) used[p] += option.memory[p];
  }
  for (size_t m = 0; m < models_.size(); ++m) {
    if (rated[m].empty()) {
      ModelPlan none;
      none.model = models_[m].id;
      none.kind = models_[m].kind;
      none.reason = "this machine has no processor that work can be placed on";
      plan.models.push_back(std::move(none));
      continue;
    }
    plan.models.push_back(describe(rated[m], all[m], chosen[m], used));
  }
  return plan;
}

}  // namespace

std::vector<DType> kv_types_of(std::string_view backend) {
  std::vector<DType> types;
  const bool mlx = backend.starts_with("mlx");
  if (mlx || backend.starts_with("cpu")) types = {DType::f32, DType::f16, DType::bf16};
  if (mlx) types.push_back(DType::q8_0);
  return types;
}

std::string_view to_string(Phase phase) {
  switch (phase) {
    case Phase::embeddings:
      return "embeddings";
    case Phase::prefill:
      return "prefill";
    case Phase::decode:
      return "decode";
  }
  return "";
}

std::string correction_key(std::string_view model, Phase phase, std::string_view backend) {
  return fmt::format("{}/{}/{}", model, to_string(phase), backend);
}

const PhasePlan* ModelPlan::placement(Phase phase) const {
  const auto found = std::ranges::find(placements, phase, &PhasePlan::phase);
  return found == placements.end() ? nullptr : &*found;
}

Plan make_plan(const PlanMachine& machine, std::span<const ModelCost> models, const Policy& policy,
               const Corrections& corrections) {
  return Planner(machine, models, policy, corrections).run();
}

void Observations::add(const std::string& key, double predicted_seconds, double measured_seconds) {
  constexpr double kSmoothing = 0.2;
  constexpr int kSettled = 5;  // runs before anything is believed
  State& state = states_[key];
  const double ratio = std::log(measured_seconds / predicted_seconds);
  state.log_ratio =
      state.count == 0 ? ratio : state.log_ratio + kSmoothing * (ratio - state.log_ratio);
  if (++state.count < kSettled) return;
  const auto found = reported_.find(key);
  const double now = found == reported_.end() ? 0 : std::log(found->second);
  if (std::abs(state.log_ratio - now) > std::log(1.1)) reported_[key] = std::exp(state.log_ratio);
}

}  // namespace impetus

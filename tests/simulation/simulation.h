// Seeded schedules of requests against the real scheduler and a pretend model: arrivals, shared
// prefixes, cancels, stops, loans of blocks, failing steps, NaN rows, pools far too small.
// Everything a client may rely on is checked as it happens, and what the scheduler owes itself
// after each step.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "engine/scheduler.h"
#include "engine/split_executor.h"
#include "tests/simulation/simulated_model.h"

namespace impetus {

// Looks inside; the planted bugs reach in through it.
struct SchedulerTestPeer {
  using Sequence = Scheduler::Sequence;
  static BlockPool& pool(Scheduler& s) { return s.pool_; }
  static auto& waiting(Scheduler& s) { return s.waiting_; }
  static auto& running(Scheduler& s) { return s.running_; }
  static auto& planned(Scheduler& s) { return s.planned_; }
  static void publish(Scheduler& s, Sequence& sequence) { s.publish_full_blocks(sequence); }
};

struct SplitExecutorTestPeer {
  static std::vector<int32_t>& valid(SplitExecutor& split, StepPhase side) {
    return split.sides_[static_cast<size_t>(side)].valid;
  }
};

namespace simulation {

struct Options {
  uint64_t seed = 1;
  int requests = 24;
  bool disturb = true;      // cancels, stops, failures, NaN rows, loans
  bool look_inside = true;  // false: only what a client can see is checked
  bool split = false;       // prefill on one pretend model, decoding on another
  bool recover = false;     // steps fail that need not cost an answer, and executors are replaced
  // A planted bug: called before each step is planned, and after.
  std::function<void(Scheduler&)> before_plan = {}, after_plan = {};
  // The same of a pair: around each step's run.
  std::function<void(SplitExecutor&, std::span<const SequenceStep>)> before_run = {},
                                                                     after_run = {};
};

struct Report {
  std::string failure;  // empty: all is well
  int64_t steps = 0, tokens = 0, cached_tokens = 0, preemptions = 0, refused = 0;
  int64_t errors = 0, cancelled = 0, stopped = 0, lengths = 0, loans = 0;
  int64_t recovered = 0, moved = 0;
  int64_t to_prefill = 0, to_decode = 0;  // positions handed over to either side
};

class Simulation {
 public:
  explicit Simulation(const Options& options);
  Report run();

 private:
  struct Client {
    SequenceRequest request;
    SequenceId id = 0;
    Alone expected;
    std::vector<TokenId> answer;
    int64_t deadline = 0;  // step by which it must have ended, whatever arrives after it
    int64_t preemptions_before = 0;
    bool prefilled = false, ended = false;
    bool may_cancel = false, may_stop = false, may_fail = false;
    int64_t work() const {
      return static_cast<int64_t>(request.prompt.size()) + request.tokens_max;
    }
  };

  bool chance(double p) { return std::uniform_real_distribution<>(0, 1)(random_) < p; }
  int64_t between(int64_t low, int64_t high) {
    return std::uniform_int_distribution<int64_t>(low, high)(random_);
  }
  std::vector<TokenId> some_tokens(int64_t count);
  std::vector<TokenId> some_prompt();
  Client* some_live_client();
  void arrive();
  void meddle();  // cancels and stops
  void lend_and_return();
  void step();
  void make_executor();
  void recover(std::span<const SequenceStep> steps);
  Result<std::vector<SequenceResult>> run_step(std::span<const SequenceStep> steps);
  void check_ran_on(const Client& client, const SequenceEvent& event);
  int64_t computed(uint64_t seed);  // tokens, on all sides
  void receive(std::vector<SequenceEvent> events);
  void receive_end(Client& client, const SequenceEvent& event);
  void check_plan(std::span<const SequenceStep> steps);
  void check_blocks();
  void check_deadlines();
  void check_end();
  template <typename... Args>
  void fail(fmt::format_string<Args...> format, Args&&... args) {
    if (report_.failure.empty()) {
      report_.failure = fmt::format("seed {}, step {}: {}", options_.seed, report_.steps,
                                    fmt::format(format, std::forward<Args>(args)...));
    }
  }

  Options options_;
  std::mt19937_64 random_;
  SchedulerLimits limits_;
  int32_t block_tokens_, blocks_;
  double arrivals_, cancels_, failures_, loans_;
  std::vector<std::vector<TokenId>> prefixes_;
  Scheduler scheduler_;
  // The executor, which owns the models; one of them, or prefill's and decode's.
  std::unique_ptr<Executor> executor_;
  SplitExecutor* pair_ = nullptr;
  std::vector<SimulatedModel*> models_;
  std::map<SequenceId, Client> clients_;
  int submitted_ = 0;
  std::vector<BlockId> lent_;
  bool shrunk_ = false;  // the scheduler's steps
  // Of steps that never end: what they read, and what must keep it alive.
  std::vector<std::pair<std::vector<SequenceStep>, std::shared_ptr<const void>>> abandoned_;
  Report report_;

  static SchedulerLimits limits_of(std::mt19937_64& random);
};

}  // namespace simulation
}  // namespace impetus

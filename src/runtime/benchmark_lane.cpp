#include "runtime/benchmark_lane.h"

#include <algorithm>
#include <condition_variable>
#include <exception>
#include <utility>

#include <fmt/ranges.h>

#include "base/keep_forever.h"
#include "base/log.h"
#include "hardware/inventory.h"
#include "runtime/profiles.h"

namespace impetus {
namespace {

// Of a device's time where chat (2) and embeddings (1) also want it.
constexpr double kShare = 1;

enum class Ending : uint8_t { none, cancelled, stopped };

}  // namespace

struct Benchmarks::Job {
  ModelLocation location;
  ModelFiles files;
  BenchmarkRequest request;
  std::vector<size_t> targets;            // which backends
  std::vector<BenchmarkRefusal> refused;  // before anything ran
  Done done;

  std::mutex mutex;
  std::condition_variable changed;  // it is to end, or a lane has ended
  Ending ending = Ending::none;

  void end(Ending how) {
    const std::lock_guard lock(mutex);
    if (ending == Ending::none) ending = how;
    changed.notify_all();
  }
};

// One backend's part.
class Benchmarks::Lane final : public LaneWork, public std::enable_shared_from_this<Lane> {
 public:
  Lane(std::shared_ptr<Job> job, Backend& backend, const LoadOptions& load, MemoryLedger& ledger,
       Failover& failover)
      : kept_job_(std::move(job)),
        job_(*kept_job_),
        backend_(backend),
        load_(load),
        ledger_(ledger),
        failover_(failover) {}
  // REQUIRES: job.mutex held, since before it was attached.
  void set_place(DeviceLoop::Place place) { place_ = std::move(place); }

  bool has_work() override {
    const std::lock_guard lock(job_.mutex);
    return !ended_ && job_.ending == Ending::none;
  }
  void run_slice() override {
    DeviceLoop::Place place;
    {
      const std::lock_guard lock(job_.mutex);
      place = place_;
    }
    const auto ran = guarded([&]() -> Result<void> {
      if (!benchmark_) return load();  // takes as long as the model is large
      place.begin_step(LaneGuard{failover_.step_seconds()}.limit(0));
      return benchmark_->step();
    });
    if (!place.end_step()) return;
    if (!ran.ok()) {
      end(ran.error());
    } else if (benchmark_->done()) {
      end({});
    }
  }
  void given_up(double seconds) override {
    keep_forever(shared_from_this());
    const DeviceFailure failure = hanging(backend_.descriptor().backend, seconds);
    failover_.report(failure);
    end(failure.error);
  }
  void close() override { end(error(ErrorCode::unavailable, "it was stopped")); }

  // REQUIRES: job.mutex held.
  bool ended() const { return ended_; }
  // Those below REQUIRE: the lane is detached. `failure`: of loading or running, if it failed.
  const std::optional<Error>& failure() const { return failure_; }
  const Model& model() const { return *model_; }
  BenchmarkResult result() const { return benchmark_->result(); }

 private:
  Result<void> load() {
    const BenchmarkOptions& options = job_.request.options;
    IMPETUS_TRY(model_,
                load_model(job_.location, job_.files, Ladders::only(backend_), Fallback::forbid,
                           load_, options.prompt + options.generate + 1, ledger_));
    auto created = Benchmark::create(*model_, options);
    if (!created.ok()) return std::move(created).error();
    benchmark_.emplace(std::move(*created));
    return {};
  }
  void end(std::optional<Error> failure) {
    const std::lock_guard lock(job_.mutex);
    if (std::exchange(ended_, true)) return;
    failure_ = std::move(failure);
    job_.changed.notify_all();
  }

  const std::shared_ptr<Job> kept_job_;
  Job& job_;
  Backend& backend_;
  const LoadOptions& load_;
  MemoryLedger& ledger_;
  Failover& failover_;
  DeviceLoop::Place place_;  // under job_.mutex
  std::optional<Model> model_;
  std::optional<Benchmark> benchmark_;  // borrows the model
  bool ended_ = false;
  std::optional<Error> failure_;
};

Benchmarks::Benchmarks(std::span<const std::unique_ptr<Backend>> backends,
                       std::span<const std::shared_ptr<DeviceLoop>> loops,
                       const Placement& placement, const LoadOptions& load, MemoryLedger& ledger,
                       Failover& failover)
    : backends_(backends),
      loops_(loops),
      placement_(placement),
      load_(load),
      ledger_(ledger),
      failover_(failover) {}

Result<std::function<void()>> Benchmarks::start(ModelLocation location, BenchmarkRequest request,
                                                Done done) {
  const Error busy =
      error(ErrorCode::overloaded, "another benchmark is running; try again when it has ended");
  if (busy_) return busy;
  const auto refuse = [](std::string_view param, Error failure) {
    failure.param = std::string(param);
    return failure;
  };
  auto job = std::make_shared<Job>();
  for (const std::string& name : request.devices) {
    bool known = false;
    for (size_t b = 0; b < backends_.size(); ++b) {
      const BackendDescriptor& one = backends_[b]->descriptor();
      if (name != one.backend && name != one.device) continue;
      known = true;
      if (std::ranges::find(job->targets, b) == job->targets.end()) job->targets.push_back(b);
    }
    if (known) continue;
    if (const auto absent = placement_.absent.find(name); absent != placement_.absent.end()) {
      job->refused.push_back({name, absent->second});
      continue;
    }
    std::vector<std::string> names;
    for (const auto& backend : backends_) names.push_back(backend->descriptor().backend);
    return refuse("devices", error(ErrorCode::invalid_argument,
                                   "'devices': this server has no processor '{}'; it has: {}", name,
                                   fmt::join(names, ", ")));
  }
  if (request.devices.empty()) {
    for (size_t b = 0; b < backends_.size(); ++b) job->targets.push_back(b);
  }
  IMPETUS_TRY(job->files, open_model_files(location));
  const BenchmarkOptions& options = request.options;
  const int64_t context = job->files.spec.context;
  if (job->files.spec.kind == ModelKind::decoder && options.prompt + options.generate > context) {
    return refuse("prompt",
                  error(ErrorCode::context_length,
                        "'prompt' and 'generate' are {} + {} tokens; '{}' has a context of {}",
                        options.prompt, options.generate, location.id, context));
  }
  job->location = std::move(location);
  job->request = std::move(request);
  job->done = std::move(done);

  const std::lock_guard lock(mutex_);
  if (stopped_) return error(ErrorCode::unavailable, "the server is shutting down");
  if (busy_.exchange(true)) return busy;
  if (leader_.joinable()) leader_.join();  // of the benchmark before, which has ended
  job_ = job;
  try {
    leader_ = std::thread([this, job] { lead(job); });
  } catch (const std::exception& failure) {  // the system has no thread left
    job_.reset();
    busy_ = false;
    return error(ErrorCode::unavailable, "a benchmark cannot be started: {}", failure.what());
  }
  return std::function<void()>([job] { job->end(Ending::cancelled); });
}

void Benchmarks::stop() {
  const std::lock_guard lock(mutex_);
  stopped_ = true;
  if (job_) job_->end(Ending::stopped);
  if (leader_.joinable()) leader_.join();
}

void Benchmarks::lead(const std::shared_ptr<Job>& kept) {
  Job& job = *kept;
  // What the job holds goes here: handles of clients may keep the job itself longer.
  const Done done = std::move(job.done);
  auto answer = [&]() -> Result<BenchmarkAnswer> {
    try {
      return run(kept);
    } catch (const std::exception& failure) {  // no memory
      return error(ErrorCode::internal, "the benchmark failed: {}", failure.what());
    }
  }();
  job.files = {};
  busy_ = false;  // who hears the answer may ask for the next at once
  try {
    done(std::move(answer));
  } catch (const std::exception& failure) {
    log::error("a benchmark's answer could not be given: {}", failure.what());
  }
}

Result<BenchmarkAnswer> Benchmarks::run(const std::shared_ptr<Job>& owned) {
  Job& job = *owned;
  BenchmarkAnswer answer;
  answer.model = job.location.id;
  answer.refused = std::move(job.refused);
  const PlanMachine machine =
      plan_machine(probe_inventory(), backends_, ProfileStore(), ledger_.capacity_bytes());
  for (const size_t target : job.targets) {
    Backend& backend = *backends_[target];
    const BackendDescriptor& descriptor = backend.descriptor();
    if (const std::string why = failover_.why_lost(descriptor.backend); !why.empty()) {
      answer.refused.push_back({descriptor.backend, "lost: " + why});
      continue;
    }
    const auto lane = std::make_shared<Lane>(owned, backend, load_, ledger_, failover_);
    DeviceLoop::Place place;
    {
      // A slice asks for its place under this lock.
      const std::lock_guard lock(job.mutex);
      place = loops_[target]->attach(lane, kShare);
      lane->set_place(place);
    }
    Ending ending;
    {
      std::unique_lock lock(job.mutex);
      job.changed.wait(lock, [&] { return lane->ended() || job.ending != Ending::none; });
      ending = job.ending;
    }
    place.detach();
    if (ending == Ending::cancelled) {
      return error(ErrorCode::cancelled, "the benchmark was cancelled");
    }
    if (ending == Ending::stopped) {
      return error(ErrorCode::unavailable, "the server is shutting down");
    }
    if (lane->failure()) {
      answer.refused.push_back({descriptor.backend, lane->failure()->message});
      continue;
    }
    std::ranges::move(
        benchmark_records(lane->model(), descriptor, machine.processors[target].profile, load_,
                          job.request.options, lane->result()),
        std::back_inserter(answer.results));
  }
  if (job.request.devices.empty()) {
    for (size_t p = backends_.size(); p < machine.processors.size(); ++p) {  // undriven
      answer.refused.push_back({machine.processors[p].device, machine.processors[p].unavailable});
    }
  }
  if (answer.results.empty()) return answer;
  const auto kept = [&]() -> Result<void> {
    IMPETUS_TRY(const auto history, open_history());
    return history->add(answer.results);
  }();
  if (!kept.ok()) {
    answer.history_failure = kept.error().message;
    log::warn("the history is not written: {}", answer.history_failure);
  }
  return answer;
}

}  // namespace impetus

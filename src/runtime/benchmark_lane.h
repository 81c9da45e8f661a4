// Benchmarks beside running work, on the loops of a runtime's devices.
//
// One backend after the other is measured by a lane of its device's loop: loading the model is one
// slice, and so is each step. What else the device runs keeps its share and comes out the same;
// only steps are timed, not what runs between two of them. The model is loaded anew, whether it is
// served or not, with memory from the ledger, which gets it back before the next backend's turn.
//
// Threads: thread-safe. A thread of its own leads the benchmark that runs: it probes the machine,
// waits for the lanes and writes the history, all of it off the devices' threads.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <thread>

#include "engine/device_loop.h"
#include "runtime/benchmark_records.h"
#include "runtime/failover.h"

namespace impetus {

class Benchmarks {
 public:
  // `loops`: of each backend. All outlive this. A processor that is lost is refused, and one whose
  // step does not end is lost.
  Benchmarks(std::span<const std::unique_ptr<Backend>> backends,
             std::span<const std::shared_ptr<DeviceLoop>> loops, const Placement& placement,
             const LoadOptions& load, MemoryLedger& ledger, Failover& failover);
  ~Benchmarks() { stop(); }
  Benchmarks(const Benchmarks&) = delete;
  Benchmarks& operator=(const Benchmarks&) = delete;

  using Done = std::function<void(Result<BenchmarkAnswer>)>;
  // What cancels it: at once for its caller, within one slice for the device; `done` then gets
  // `cancelled`, and the history nothing. A backend that cannot load or run the model is in the
  // answer's `refused`. overloaded while another benchmark runs; context_length;
  // invalid_argument for an unknown device; `done` is not called then, else exactly once.
  Result<std::function<void()>> start(ModelLocation location, BenchmarkRequest request, Done done);
  // Ends the one that runs as unavailable, `done` included, and takes no more. Not from a `done`.
  void stop();

 private:
  struct Job;
  class Lane;
  void lead(const std::shared_ptr<Job>& job);
  Result<BenchmarkAnswer> run(const std::shared_ptr<Job>& job);

  const std::span<const std::unique_ptr<Backend>> backends_;
  const std::span<const std::shared_ptr<DeviceLoop>> loops_;
  const Placement& placement_;
  const LoadOptions& load_;
  MemoryLedger& ledger_;
  Failover& failover_;

  std::atomic<bool> busy_ = false;
  std::mutex mutex_;  // start and stop take turns; the leading thread never takes it
  bool stopped_ = false;
  std::shared_ptr<Job> job_;
  std::thread leader_;
};

}  // namespace impetus

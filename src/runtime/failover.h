// What the running whole does where a processor fails while it runs (engine/guard.h says how that
// is noticed): what ran there goes on on the next rung of its ladder, as `Fallback` allows, or ends
// with an error that names the processor.
//
// A processor that is lost stays so until a new start: no model is placed there, no benchmark runs
// there, and every other model that stands there moves too. Where steps are merely too large for
// its memory, the one model moves, and the processor stays.
//
// Threads: thread-safe. A thread of its own leads the moves, one after the other; whatever touches
// a backend is run on its loop. Lifetime: outlives the lanes it guards.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "engine/device_loop.h"
#include "engine/guard.h"
#include "runtime/served.h"

namespace impetus {

class Failover {
 public:
  struct Setup {
    Fallback fallback = Fallback::warn;
    LoadOptions load;
    std::optional<int64_t> kv_tokens;
    double step_seconds = 0;  // LaneGuard's
    MemoryLedger* ledger = nullptr;
    std::function<DeviceLoop&(const Backend&)> loop_of;
  };
  explicit Failover(Setup setup) : setup_(std::move(setup)) {}
  ~Failover();  // REQUIRES: stop() was true
  Failover(const Failover&) = delete;
  Failover& operator=(const Failover&) = delete;

  // For the lanes of a model; `ladders` as it was placed by.
  LaneGuard guard(const std::shared_ptr<Served>& served, const Ladders& ladders);
  // From now on it moves where its processor is lost. Once, when its lanes are there.
  void add(const std::shared_ptr<Served>& served);
  // A processor failed something that is no lane of a model.
  void report(const DeviceFailure& failure);

  // The same, with what is lost as absent.
  Ladders without_lost(Ladders ladders) const;
  std::vector<LostProcessor> lost() const;
  std::string why_lost(const std::string& backend) const;  // empty: it is not
  // Some step of it never ended: nothing that stands on it may be destroyed.
  bool hangs(const std::string& backend) const;
  double step_seconds() const { return setup_.step_seconds; }

  // No move from now on. False where one is still under way after that long: then nothing that it
  // may use can be destroyed.
  bool stop(double seconds);

 private:
  struct Task {
    std::weak_ptr<Served> served;  // empty: of no model
    DeviceFailure failure;
  };
  Result<void> failed(const Task& task, const Ladders& ladders);
  void lose(const DeviceFailure& failure);  // REQUIRES: mutex_ held
  void enqueue(Task task);                  // REQUIRES: mutex_ held
  void lead();
  void handle(const Task& task);
  void move(Served& served, const DeviceFailure& failure);
  void move_decoder(Served& served, const DeviceFailure& failure, bool hangs);
  void move_encoder(Served& served, size_t lane, const DeviceFailure& failure, bool hangs);
  Result<Model> load(Served& served);
  template <typename T>
  void destroy(const Backend& home, std::shared_ptr<T> what);

  const Setup setup_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<LostProcessor> lost_;
  std::vector<std::weak_ptr<Served>> served_;
  std::deque<Task> tasks_;
  bool stopping_ = false;
  bool leading_ = false;  // the thread runs
  std::thread leader_;
};

}  // namespace impetus

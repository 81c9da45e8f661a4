#include "engine/device_loop.h"

#include <algorithm>
#include <cassert>
#include <chrono>
#include <condition_variable>
#include <map>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "base/log.h"
#include "engine/fair_share.h"

namespace impetus {
namespace {

double steady_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// How often the watchdog looks at a step, by how long that may take.
double tick_for(double seconds_max) {
  return std::clamp(seconds_max / 8, 0.005, 0.25);
}

}  // namespace

struct DeviceLoop::Place::Core : std::enable_shared_from_this<DeviceLoop::Place::Core> {
  struct Lane {
    std::shared_ptr<LaneWork> work;
    bool leaving = false;    // to be closed
    bool departing = false;  // to go without
  };

  explicit Core(Clock clock_) : clock(std::move(clock_)) {}

  // `given_up`: the lane whose step the thread before did not return from; 0: none.
  void run(uint64_t given_up, double seconds);
  void start(uint64_t given_up, double seconds);  // REQUIRES: mutex held; may throw
  // Whether the calling thread is the loop's no longer. REQUIRES: mutex held.
  bool replaced() const { return std::this_thread::get_id() != thread_id; }
  void watch();
  void give_up();  // REQUIRES: mutex held
  // Closes and drops the lanes that leave (all where the loop stops). Called without the lock.
  void close_leaving();

  const Clock clock;

  std::mutex mutex;
  std::thread thread;
  std::thread::id thread_id;
  std::condition_variable woken;   // the loop waits for a signal
  std::condition_variable closed;  // detach waits for its lane to go
  std::condition_variable ended;   // a slice, or the loop
  bool signalled = false;
  bool stopping = false;
  bool stopped = false;
  uint64_t current = 0;  // the lane whose slice runs
  uint64_t next_id = 1;
  std::map<uint64_t, Lane> lanes;
  FairShare shares;
  double busy = 0;

  // The watchdog: a thread of its own from the first step that has a limit.
  std::thread watchdog;
  std::condition_variable watched;  // a step began while it slept, or it is to end
  bool watching = false;            // a step with a limit runs
  bool asleep = false;
  bool watchdog_ends = false;
  uint64_t step = 0;  // which
  double step_seconds_max = 0;
};

void DeviceLoop::Place::Core::close_leaving() {
  for (;;) {
    uint64_t leaving = 0;
    std::shared_ptr<LaneWork> work;
    {
      const std::lock_guard lock(mutex);
      for (auto& [id, lane] : lanes) {
        if (!lane.leaving && !stopping) continue;
        leaving = id;
        work = std::move(lane.work);
        break;
      }
    }
    if (!work) return;
    work->close();
    // Let go of before its owner may go on, so that the owner's reference is the last; and without
    // the lock, for where the owner could not wait it goes here.
    work.reset();
    const std::lock_guard lock(mutex);
    lanes.erase(leaving);
    shares.remove(leaving);
    closed.notify_all();
  }
}

void DeviceLoop::Place::Core::start(uint64_t given_up, double seconds) {
  std::thread fresh(
      [self = shared_from_this(), given_up, seconds] { self->run(given_up, seconds); });
  // It cannot be ended, so it is not waited for: see this file's header.
  if (thread.joinable()) thread.detach();
  thread = std::move(fresh);
  thread_id = thread.get_id();
}

void DeviceLoop::Place::Core::run(uint64_t given_up, double seconds_max) {
  if (given_up != 0) {
    std::shared_ptr<LaneWork> work;
    {
      const std::lock_guard lock(mutex);
      work = lanes.at(given_up).work;
    }
    work->given_up(seconds_max);
    work.reset();
    const std::lock_guard lock(mutex);
    current = 0;
    ended.notify_all();
  }
  std::vector<std::pair<uint64_t, std::shared_ptr<LaneWork>>> all;
  std::vector<FairShare::Lane> ready;
  for (;;) {
    {
      // Before anything is looked at: what is signalled from here on is looked at again.
      const std::lock_guard lock(mutex);
      signalled = false;
    }
    close_leaving();
    all.clear();
    {
      const std::lock_guard lock(mutex);
      if (stopping && lanes.empty()) {
        stopped = true;
        ended.notify_all();
        return;
      }
      for (const auto& [id, lane] : lanes) {
        if (!lane.departing) all.emplace_back(id, lane.work);
      }
    }
    ready.clear();
    for (const auto& [id, work] : all) {
      if (work->has_work()) ready.push_back(id);
    }
    all.clear();
    std::shared_ptr<LaneWork> next;
    uint64_t id = 0;
    {
      std::unique_lock lock(mutex);
      std::erase_if(ready, [this](uint64_t one) {
        const auto found = lanes.find(one);
        return found == lanes.end() || found->second.departing;
      });
      const auto picked = shares.pick(ready);
      if (!picked) {
        woken.wait(lock, [this] { return signalled || stopping; });
        continue;
      }
      current = id = *picked;
      next = lanes.at(id).work;
    }
    const double from = clock();
    next->run_slice();
    const double seconds = clock() - from;
    const std::lock_guard lock(mutex);
    if (replaced()) return;
    current = 0;
    ended.notify_all();
    shares.charge(id, seconds);
    busy += seconds;
  }
}

void DeviceLoop::Place::Core::watch() {
  std::unique_lock lock(mutex);
  uint64_t seen = 0;
  double age = 0, last = steady_seconds();
  while (!watchdog_ends) {
    if (!watching) {
      asleep = true;
      watched.wait(lock, [this] { return watching || watchdog_ends; });
      asleep = false;
      last = steady_seconds();
      continue;
    }
    const double tick = tick_for(step_seconds_max);
    if (step != seen) {
      seen = step;
      age = 0;
    } else if (age >= step_seconds_max) {
      give_up();
      age = 0;
      continue;
    }
    watched.wait_for(lock, std::chrono::duration<double>(tick));
    const double now = steady_seconds();
    // More than that between two looks is time in which this process did not run.
    if (step == seen) age += std::min(now - last, 2 * tick);
    last = now;
  }
}

void DeviceLoop::Place::Core::give_up() {
  try {
    start(current, step_seconds_max);
    watching = false;
  } catch (const std::exception& failure) {  // the system has no thread left: at the next look
    log::error("a step hangs, and its thread cannot be replaced yet: {}", failure.what());
  }
}

DeviceLoop::DeviceLoop(Clock clock) {
  core_ = std::make_shared<Place::Core>(clock ? std::move(clock) : Clock(steady_seconds));
  const std::lock_guard lock(core_->mutex);
  core_->start(0, 0);
}

DeviceLoop::~DeviceLoop() {
  {
    std::unique_lock lock(core_->mutex);
    assert(core_->replaced());
    core_->stopping = true;
    core_->woken.notify_all();
    // Not a join: the thread that is to be joined may yet be replaced.
    core_->ended.wait(lock, [this] { return core_->stopped; });
    core_->watchdog_ends = true;
    core_->watched.notify_all();
  }
  core_->thread.join();
  if (core_->watchdog.joinable()) core_->watchdog.join();
}

DeviceLoop::Place DeviceLoop::attach(std::shared_ptr<LaneWork> lane, double share) {
  Place place;
  place.core_ = core_;
  const std::lock_guard lock(core_->mutex);
  place.id_ = core_->next_id++;
  core_->lanes.emplace(place.id_, Place::Core::Lane{std::move(lane)});
  core_->shares.add(place.id_, share);
  core_->signalled = true;
  core_->woken.notify_all();
  return place;
}

bool DeviceLoop::run(const std::function<void()>& work, double share) {
  struct Errand final : LaneWork {
    explicit Errand(const std::function<void()>& work_) : work(work_) {}
    bool has_work() override { return !ran; }
    void run_slice() override {
      work();
      ran = true;
      end();
    }
    void close() override { end(); }
    void end() {
      const std::lock_guard lock(mutex);
      over = true;
      changed.notify_all();
    }
    const std::function<void()>& work;
    bool ran = false;  // the loop's thread alone, until it is over
    std::mutex mutex;
    std::condition_variable changed;
    bool over = false;
  };
  const auto errand = std::make_shared<Errand>(work);
  const Place place = attach(errand, share);
  {
    std::unique_lock lock(errand->mutex);
    errand->changed.wait(lock, [&] { return errand->over; });
  }
  place.detach();
  return errand->ran;
}

double DeviceLoop::busy_seconds() const {
  const std::lock_guard lock(core_->mutex);
  return core_->busy;
}

double DeviceLoop::now() const {
  return core_->clock();
}

void DeviceLoop::Place::wake() const {
  const std::lock_guard lock(core_->mutex);
  core_->signalled = true;
  core_->woken.notify_one();
}

void DeviceLoop::Place::detach() const {
  std::unique_lock lock(core_->mutex);
  const auto found = core_->lanes.find(id_);
  if (found == core_->lanes.end()) return;  // the loop went first
  found->second.leaving = true;
  core_->signalled = true;
  core_->woken.notify_one();
  if (!core_->replaced()) return;  // waiting for oneself would never end
  core_->closed.wait(lock, [this] { return !core_->lanes.contains(id_); });
}

bool DeviceLoop::Place::leave() const {
  std::unique_lock lock(core_->mutex);
  const auto found = core_->lanes.find(id_);
  if (found == core_->lanes.end() || found->second.leaving || core_->stopping) return false;
  assert(core_->replaced());
  found->second.departing = true;
  core_->ended.wait(lock, [this] { return core_->current != id_; });
  const auto still = core_->lanes.find(id_);
  if (still == core_->lanes.end() || still->second.leaving || core_->stopping) return false;
  core_->lanes.erase(still);
  core_->shares.remove(id_);
  core_->signalled = true;
  core_->woken.notify_one();  // a loop that stops waits for its lanes
  return true;
}

bool DeviceLoop::Place::on_loop_thread() const {
  const std::lock_guard lock(core_->mutex);
  return !core_->replaced();
}

void DeviceLoop::Place::begin_step(double seconds_max) const {
  if (!(seconds_max > 0)) return;
  const std::lock_guard lock(core_->mutex);
  core_->watching = true;
  ++core_->step;
  core_->step_seconds_max = seconds_max;
  if (!core_->watchdog.joinable()) {
    try {
      core_->watchdog = std::thread([core = core_] { core->watch(); });
    } catch (const std::exception& failure) {
      log::warn("steps are not watched: {}", failure.what());
    }
  }
  if (core_->asleep) core_->watched.notify_one();
}

bool DeviceLoop::Place::end_step() const {
  const std::lock_guard lock(core_->mutex);
  if (core_->replaced()) return false;
  core_->watching = false;
  return true;
}

double DeviceLoop::Place::busy_seconds() const {
  const std::lock_guard lock(core_->mutex);
  return core_->shares.seconds(id_);
}

}  // namespace impetus

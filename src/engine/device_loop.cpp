#include "engine/device_loop.h"

#include <cassert>
#include <chrono>
#include <condition_variable>
#include <map>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "engine/fair_share.h"

namespace impetus {

struct DeviceLoop::Place::Core {
  struct Lane {
    std::shared_ptr<LaneWork> work;
    bool leaving = false;
  };

  explicit Core(Clock clock_) : clock(std::move(clock_)) {}

  void run();
  // Closes and drops the lanes that leave (all where the loop stops). Called without the lock.
  void close_leaving();

  const Clock clock;
  std::thread thread;
  std::thread::id thread_id;  // set before any lane can be attached

  std::mutex mutex;
  std::condition_variable woken;   // the loop waits for a signal
  std::condition_variable closed;  // detach waits for its lane to go
  bool signalled = false;
  bool stopping = false;
  uint64_t next_id = 1;
  std::map<uint64_t, Lane> lanes;
  FairShare shares;
  double busy = 0;
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

void DeviceLoop::Place::Core::run() {
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
      if (stopping && lanes.empty()) return;
      for (const auto& [id, lane] : lanes) all.emplace_back(id, lane.work);
    }
    ready.clear();
    for (const auto& [id, work] : all) {
      if (work->has_work()) ready.push_back(id);
    }
    std::shared_ptr<LaneWork> next;
    uint64_t id = 0;
    {
      std::unique_lock lock(mutex);
      const auto picked = shares.pick(ready);
      if (!picked) {
        all.clear();
        woken.wait(lock, [this] { return signalled || stopping; });
        continue;
      }
      id = *picked;
      next = lanes.at(id).work;
    }
    all.clear();
    const double from = clock();
    next->run_slice();
    const double seconds = clock() - from;
    const std::lock_guard lock(mutex);
    shares.charge(id, seconds);
    busy += seconds;
  }
}

DeviceLoop::DeviceLoop(Clock clock) {
  if (!clock) {
    clock = [] {
      return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch())
          .count();
    };
  }
  core_ = std::make_shared<Place::Core>(std::move(clock));
  core_->thread = std::thread([core = core_] { core->run(); });
  core_->thread_id = core_->thread.get_id();
}

DeviceLoop::~DeviceLoop() {
  assert(std::this_thread::get_id() != core_->thread_id);
  {
    const std::lock_guard lock(core_->mutex);
    core_->stopping = true;
    core_->woken.notify_all();
  }
  core_->thread.join();
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
  if (on_loop_thread()) return;  // waiting for oneself would never end
  core_->closed.wait(lock, [this] { return !core_->lanes.contains(id_); });
}

bool DeviceLoop::Place::on_loop_thread() const {
  return std::this_thread::get_id() == core_->thread_id;
}

double DeviceLoop::Place::busy_seconds() const {
  const std::lock_guard lock(core_->mutex);
  return core_->shares.seconds(id_);
}

}  // namespace impetus

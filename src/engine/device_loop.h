// One thread a device, which runs one slice of one lane at a time and shares its time between them.
//
// Threads: LaneWork's methods are called on the loop's thread alone, and without any lock held.
// Lifetime: a lane detaches before it goes; a loop that goes first closes its lanes. After either,
// nothing of the lane is called again.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

namespace impetus {

// What a lane is to the loop.
class LaneWork {
 public:
  virtual ~LaneWork() = default;
  virtual bool has_work() = 0;
  // A bounded piece of work: others wait for its end.
  virtual void run_slice() = 0;
  // The last call: ends whatever is left as cancelled.
  virtual void close() = 0;
};

class DeviceLoop {
 public:
  // Seconds from any fixed point, never falling; called on the loop's thread.
  using Clock = std::function<double()>;

  explicit DeviceLoop(Clock clock = {});  // none: the steady clock
  ~DeviceLoop();  // closes the lanes, after the slice that runs; not from the loop's own thread
  DeviceLoop(const DeviceLoop&) = delete;
  DeviceLoop& operator=(const DeviceLoop&) = delete;

  // A lane's place in the loop. A value; safe to use after the loop is gone. Thread-safe.
  class Place {
   public:
    Place() = default;
    void wake() const;  // the lane may have work now
    // Blocks until the slice that runs has ended and the lane is closed. Not from the loop's
    // thread.
    void detach() const;
    bool on_loop_thread() const;
    double busy_seconds() const;  // of this lane's slices

   private:
    friend class DeviceLoop;
    struct Core;
    std::shared_ptr<Core> core_;
    uint64_t id_ = 0;
  };

  // `share` > 0: the lane's weight where several have work. Called by lanes.
  Place attach(std::shared_ptr<LaneWork> lane, double share);
  double busy_seconds() const;  // of all slices since the start
  double now() const;           // by the loop's clock

 private:
  std::shared_ptr<Place::Core> core_;
};

}  // namespace impetus

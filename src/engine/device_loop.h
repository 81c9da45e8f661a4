// One thread a device, which runs one slice of one lane at a time and shares its time between them.
//
// Threads: LaneWork's methods are called on the loop's thread alone, and without any lock held.
// Lifetime: a lane detaches before it goes; a loop that goes first closes its lanes. After either,
// nothing of the lane is called again.
//
// A step that never returns cannot be ended from outside. A lane says before a step how long it may
// take (Place::begin_step). Once it has taken longer, the loop gives its thread up: it is detached
// and never joined, another takes its place, the lane is told (LaneWork::given_up), and the other
// lanes go on. Should the step return after all, its thread ends without touching anything: the
// lane must keep alive, for ever, what the step may still use (base/keep_forever.h).
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
  // The step that run_slice began took longer than its `seconds`: it may still run, on a thread
  // that is no longer the loop's. Called on the new one before anything else of the lane is.
  virtual void given_up(double seconds) { (void)seconds; }
  // The last call: ends whatever is left as cancelled.
  virtual void close() = 0;
};

class DeviceLoop {
 public:
  // Seconds from any fixed point, never falling; called on the loop's thread.
  using Clock = std::function<double()>;

  explicit DeviceLoop(Clock clock = {});  // none: the steady clock
  // Closes the lanes, after the slice that runs or once that is given up; not from the loop's own
  // thread.
  ~DeviceLoop();
  DeviceLoop(const DeviceLoop&) = delete;
  DeviceLoop& operator=(const DeviceLoop&) = delete;

  // A lane's place in the loop. A value; safe to use after the loop is gone. Thread-safe.
  class Place {
   public:
    Place() = default;
    void wake() const;  // the lane may have work now
    // Blocks until the slice that runs has ended and the lane is closed. On the loop's own thread
    // it cannot wait: the lane is closed right after the present slice, and the loop lets go of it
    // last.
    void detach() const;
    // Leaves without being closed, for another loop: blocks until the lane's slice has ended. False
    // where it was closed already. Not on the loop's thread.
    bool leave() const;
    bool on_loop_thread() const;
    double busy_seconds() const;  // of this lane's slices

    // Around a step, by run_slice. Time counts only while this process runs: one that was stopped
    // or put to sleep has not lost its device. 0 or less: however long it takes.
    void begin_step(double seconds_max) const;
    // False: the step was given up, and this thread with it. It must touch nothing of the lane and
    // return.
    [[nodiscard]] bool end_step() const;

   private:
    friend class DeviceLoop;
    struct Core;
    std::shared_ptr<Core> core_;
    uint64_t id_ = 0;
  };

  // `share` > 0: the lane's weight where several have work. Called by lanes.
  Place attach(std::shared_ptr<LaneWork> lane, double share);
  // Runs `work` as a slice of its own and waits for it; it does not throw. False: the loop closed
  // before it could. Not on the loop's thread.
  bool run(const std::function<void()>& work, double share);
  double busy_seconds() const;  // of all slices since the start
  double now() const;           // by the loop's clock

 private:
  std::shared_ptr<Place::Core> core_;
};

}  // namespace impetus

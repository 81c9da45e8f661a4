// Who runs next on a device that does one thing at a time: the lane with the least service time
// for its share (start-time fair queueing: Goyal, Vin, Cheng 1996). A lane that was idle comes back
// at the present level: it runs soon, but has saved nothing up. Pure; not thread-safe.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>

namespace impetus {

class FairShare {
 public:
  using Lane = uint64_t;

  // REQUIRES: share > 0, lane not added yet.
  void add(Lane lane, double share);
  void remove(Lane lane);
  // One of `ready` (each added before), the lanes that have work now; nothing where there are none.
  std::optional<Lane> pick(std::span<const Lane> ready);
  void charge(Lane lane, double seconds);
  double seconds(Lane lane) const;  // charged so far; 0 for an unknown lane

 private:
  struct Entry {
    double share = 1;
    double level = 0;  // seconds / share, lifted where the lane comes back from idling
    double seconds = 0;
    bool ready = false;  // at the last pick
  };
  std::map<Lane, Entry> lanes_;
  double level_ = 0;  // of the lane picked last, when it was picked
};

}  // namespace impetus

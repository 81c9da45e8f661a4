#include "engine/fair_share.h"

#include <algorithm>
#include <cassert>

namespace impetus {

void FairShare::add(Lane lane, double share) {
  assert(share > 0);
  lanes_[lane] = Entry{.share = share, .level = level_};
}

void FairShare::remove(Lane lane) {
  lanes_.erase(lane);
}

std::optional<FairShare::Lane> FairShare::pick(std::span<const Lane> ready) {
  for (auto& [lane, entry] : lanes_) {
    const bool now = std::ranges::find(ready, lane) != ready.end();
    if (now && !entry.ready) entry.level = std::max(entry.level, level_);
    entry.ready = now;
  }
  const Entry* best = nullptr;
  std::optional<Lane> picked;
  for (const Lane lane : ready) {
    const Entry& entry = lanes_.at(lane);
    if (!best || entry.level < best->level) {
      best = &entry;
      picked = lane;
    }
  }
  if (best) level_ = std::max(level_, best->level);
  return picked;
}

void FairShare::charge(Lane lane, double seconds) {
  const auto found = lanes_.find(lane);
  if (found == lanes_.end()) return;
  found->second.seconds += seconds;
  found->second.level += seconds / found->second.share;
}

double FairShare::seconds(Lane lane) const {
  const auto found = lanes_.find(lane);
  return found == lanes_.end() ? 0 : found->second.seconds;
}

}  // namespace impetus

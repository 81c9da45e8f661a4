#include "base/keep_forever.h"

#include <mutex>
#include <utility>
#include <vector>

namespace impetus {

void keep_forever(std::shared_ptr<const void> what) {
  static auto& mutex = *new std::mutex;
  // Reachable, so that a leak checker sees the purpose; never destroyed, not even at the exit.
  static auto& kept = *new std::vector<std::shared_ptr<const void>>;
  if (!what) return;
  const std::lock_guard lock(mutex);
  kept.push_back(std::move(what));
}

}  // namespace impetus

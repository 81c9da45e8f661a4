#include "coreml/buckets.h"

#include <algorithm>
#include <utility>

namespace impetus::coreml {

std::optional<size_t> Buckets::fit(int64_t tokens) const {
  const auto at = std::ranges::lower_bound(shapes_, tokens);
  if (at == shapes_.end()) return std::nullopt;
  return static_cast<size_t>(at - shapes_.begin());
}

std::optional<std::vector<Buckets::Turn>> Buckets::order(std::span<const int32_t> offsets) const {
  std::vector<Turn> turns;
  for (size_t t = 0; t + 1 < offsets.size(); ++t) {
    const auto bucket = fit(int64_t{offsets[t + 1]} - offsets[t]);
    if (!bucket) return std::nullopt;
    turns.push_back({t, *bucket});
  }
  std::ranges::sort(turns, {}, [](const Turn& turn) { return std::pair(turn.bucket, turn.text); });
  return turns;
}

}  // namespace impetus::coreml

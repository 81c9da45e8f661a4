// Times of layers of which no slow moment bends one alone: isotonic regression.
#pragma once

#include <vector>

#include "backend/profile.h"

namespace impetus {

// Of one shape and one kind of weights a wider layer takes no less time than a narrower one with as
// many rows, nor more rows than fewer through the same layer. Where times say otherwise, neighbours
// that disagree get their geometric mean (pool adjacent violators, every time of equal weight),
// along the widths and along the rows by turns until neither changes anything. The least change
// along one of the two, near it along both. Times that agree stay as they are, as does the order of
// the list. REQUIRES: seconds > 0.
void make_monotone(std::vector<LayerTime>& times);

}  // namespace impetus

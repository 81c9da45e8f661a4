// Measures a backend through the seam: models of random weights are loaded and stepped like any
// other, so every backend present is measured the same way, with all that it does around its
// products.
//
// What is timed, with T threads each:
//
// - read: decode steps over f32 weights, from a working set in the caches to one far past them
// - matrix: steps of 1 to 512 rows (64 where those would take seconds) over each weight type that
//   the backend lists
// - overhead: the same weights in few layers and in many: barriers
// - layers, in place of these two where steps are enqueued: layers of five widths; MLX's groups of
//   64 with 4 and with 8 bits, where the backend lists `grouped`
// - attention: the difference that 2,000 earlier positions make to a step; texts of 512 tokens
// - copies: KV blocks out of the backend's storage and into it again
//
// Each figure is the lower quartile of at least five steps (two, where a step takes long), or their
// median where steps are enqueued.
//
// Where steps are enqueued the host's pace is part of them, and on a virtual machine it changes for
// seconds at a time. So all but copies is timed in five moments: the models of a type stay loaded
// while those of the next four are loaded and timed (where memory is short, they get the rest of
// their moments before they go), and in each moment all of them run, through all their row counts,
// one after the other. A moment's time is the mean of two stretches or more (of one, where it takes
// long), a figure the median of its moments; how far those of layers lay from it is kept (Scatter).
// Layers' times are then made monotone in weights and rows (backend/isotonic.h).
// REQUIRES: nothing else runs on the backend.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "backend/executor.h"
#include "backend/profile.h"

namespace impetus {

struct MeasureOptions {
  // Threads to measure with; empty: 1, 2, 4, ... and all that the backend has. The last is all.
  std::vector<int> threads;
  double step_budget_seconds = 0.04;  // of one figure
  std::function<double()> clock;      // seconds; empty: the steady clock
  // Told what is measured next, and the share that is done.
  std::function<void(const std::string& what, double share)> progress;
};

// insufficient_memory where not even the smallest model fits the ledger. What the backend refuses
// (no decoders, a type it does not run) is left out.
Result<DeviceProfile> measure_backend(Backend& backend, MemoryLedger& ledger,
                                      const MeasureOptions& options);

}  // namespace impetus

// What a placed function costs: times, copies, the peak of its activations. See check.h for the
// formula.
#pragma once

#include <vector>

#include "coreml/check.h"
#include "coreml/graph.h"

namespace impetus::coreml {

// Bytes of weights that an operation reads from memory on `chip`: as stored, unless the chip's
// compiler unpacks such weights.
int64_t streamed_bytes(const Chip& chip, const Node& node);

// The operation's own time and bytes, without launches and copies.
PlacedOperation cost_of(const Chip& chip, const Graph& graph, const Node& node, Unit unit);

// Pieces of a function: each runs on one processor, and starts when those it reads from are done.
struct Pieces {
  int64_t all = 0, engine = 0;
};
Pieces pieces_of(const Graph& graph, const std::vector<Unit>& units);

// Bytes that one processor makes and another reads.
int64_t transfer_bytes(const Graph& graph, const std::vector<Unit>& units);

// Most bytes of activations alive at once, padded, in the program's order.
int64_t activation_peak(const Graph& graph);

}  // namespace impetus::coreml

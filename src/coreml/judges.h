// The judges of rules.cpp. Inner header of the check: see rules.h.
#pragma once

#include "coreml/rules.h"
#include "coreml/work.h"
#include "tensor/dtype.h"

namespace impetus::coreml {

void judge_type(const Context&, const Graph&, const Node&, Hits&);
void judge_interface(const Context&, const Placement&, Hits&);
void judge_rank(const Context&, const Graph&, const Node&, Hits&);
void judge_extent(const Context&, const Graph&, const Node&, Hits&);
void judge_padding(const Context&, const Graph&, const Node&, Hits&);
void judge_convolution(const Context&, const Graph&, const Node&, Hits&);
void judge_pool(const Context&, const Graph&, const Node&, Hits&);
void judge_vocabulary(const Context&, const Graph&, const Node&, Hits&);
void judge_operation(const Context&, const Graph&, const Node&, Hits&);
void judge_condition(const Context&, const Graph&, const Node&, Hits&);
void judge_slice(const Context&, const Graph&, const Node&, Hits&);
void judge_payload(const Context&, const Graph&, const Node&, Hits&);
void judge_mask(const Context&, const Graph&, const Node&, Hits&);
void judge_epsilon(const Context&, const Graph&, const Node&, Hits&);
void judge_range(const Context&, const Graph&, const Node&, Hits&);
void judge_nan(const Context&, const Graph&, const Node&, Hits&);
void judge_size(const Context&, int64_t package_bytes, Hits&);
void judge_length(const Context&, const Placement&, Hits&);
void judge_inner(const Context&, const Graph&, const Node&, Hits&);
void judge_partition(const Context&, const Placement&, Hits&);
void judge_open_shape(const Context&, const Graph&, const Node&, Hits&);
void judge_flexible_shapes(const Context&, const Placement&, Hits&);
void judge_attention(const Context&, const Graph&, const Node&, Hits&);
void judge_states(const Context&, const Placement&, Hits&);
void judge_blocks(const Context&, const Graph&, const Node&, Hits&);

}  // namespace impetus::coreml

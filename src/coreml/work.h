// How much an operation computes and reads, from its shapes alone. Sizes from outside saturate.
#pragma once

#include <cstdint>

#include "coreml/graph.h"

namespace impetus::coreml {

// Outputs, inputs and positions of a constant or computed kernel.
struct WeightShape {
  int64_t outputs = 0, inputs = 0, kernel = 1;
};
WeightShape weight_shape(const Node& node);  // of conv, conv_transpose, linear; zeros: none, open

bool is_matrix_product(std::string_view type);  // matmul, einsum
bool is_convolution(std::string_view type);     // conv, conv_transpose, linear

// Of a matrix product (linear too); 0: it is none, or open.
int64_t inner_dimension(const Node& node);

// Multiplications and additions as two; one an element for element-wise operations, five for
// softmax and norms, none for rearrangements.
int64_t flops_of(const Node& node);

// What one core reads of a convolution's constant weights (D11): ceil(outputs / 16) * inputs *
// kernel * 2; 0: none.
int64_t payload_bytes(const Graph& graph, const Node& node);
bool payload_is_slow(int64_t bytes);

}  // namespace impetus::coreml

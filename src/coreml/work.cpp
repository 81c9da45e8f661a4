#include "coreml/work.h"

#include <algorithm>
#include <array>
#include <map>

namespace impetus::coreml {
namespace {

// Labels of an einsum with their lengths; empty where the equation is none that can be read.
struct Einsum {
  std::map<char, int64_t> lengths;
  std::string result;
};

Einsum einsum_of(const Node& node) {
  Einsum einsum;
  const Reference* equation = node.find("equation");
  if (equation == nullptr || equation->constant == nullptr) return {};
  const auto text = equation->constant->as_string();
  if (!text.ok()) return {};
  std::vector<std::string> terms(1);
  size_t arrow = std::string::npos;
  for (const char letter : *text) {
    if (letter == ' ' || letter == '>') continue;
    if (letter == ',' || letter == '-') {
      if (letter == '-') arrow = terms.size();
      terms.emplace_back();
    } else {
      terms.back() += letter;
    }
  }
  if (arrow == std::string::npos || terms.size() != arrow + 1) return {};
  einsum.result = terms.back();
  size_t at = 0;
  for (const Reference& operand : node.operands) {
    if (operand.parameter != "values") continue;
    if (at >= arrow || terms[at].size() != operand.tensor().shape.size()) return {};
    for (size_t i = 0; i < terms[at].size(); ++i) {
      einsum.lengths[terms[at][i]] = operand.tensor().shape[i];
    }
    ++at;
  }
  return einsum;
}

int64_t product(const std::vector<int64_t>& dims, size_t first, size_t count) {
  int64_t total = 1;
  for (size_t i = first; i < dims.size() && i < first + count; ++i) {
    total = saturating_mul(total, std::max<int64_t>(0, dims[i]));
  }
  return total;
}

bool one_of(std::string_view type, std::initializer_list<std::string_view> types) {
  return std::ranges::find(types, type) != types.end();
}

}  // namespace

bool is_matrix_product(std::string_view type) {
  return type == "matmul" || type == "einsum";
}

bool is_convolution(std::string_view type) {
  return type == "conv" || type == "conv_transpose" || type == "linear";
}

WeightShape weight_shape(const Node& node) {
  const Reference* weight = node.find("weight");
  if (!is_convolution(node.type()) || weight == nullptr || !weight->tensor().fixed()) return {};
  const std::vector<int64_t>& shape = weight->tensor().shape;
  if (shape.size() < 2) return {};
  WeightShape found{shape[0], shape[1], product(shape, 2, shape.size())};
  if (node.type() == "conv_transpose") std::swap(found.outputs, found.inputs);
  return found;
}

int64_t inner_dimension(const Node& node) {
  if (node.type() == "linear") return weight_shape(node).inputs;
  if (node.type() == "matmul") {
    const Reference *x = node.find("x"), *transposed = node.find("transpose_x");
    if (x == nullptr || x->tensor().shape.empty()) return 0;
    const std::vector<int64_t>& shape = x->tensor().shape;
    bool flip = false;
    if (transposed != nullptr && transposed->constant != nullptr) {
      const auto value = transposed->constant->as_bool();
      flip = value.ok() && *value;
    }
    const int64_t inner = flip && shape.size() > 1 ? shape[shape.size() - 2] : shape.back();
    return std::max<int64_t>(0, inner);
  }
  if (node.type() == "einsum") {
    const Einsum einsum = einsum_of(node);
    int64_t inner = einsum.lengths.empty() ? 0 : 1;
    for (const auto& [label, length] : einsum.lengths) {
      if (einsum.result.find(label) == std::string::npos) {
        inner = saturating_mul(inner, std::max<int64_t>(0, length));
      }
    }
    return inner;
  }
  return 0;
}

int64_t flops_of(const Node& node) {
  if (node.constant || rearranges(node.type())) return 0;
  const int64_t results = elements_of(node.result());
  if (is_convolution(node.type())) {
    const WeightShape weight = weight_shape(node);
    int64_t positions = results;
    if (node.type() == "conv_transpose") {
      const Reference* x = node.find("x");
      positions = x != nullptr ? elements_of(x->tensor()) : 0;
      return saturating_mul(
          2, saturating_mul(positions, saturating_mul(weight.outputs, weight.kernel)));
    }
    return saturating_mul(2,
                          saturating_mul(positions, saturating_mul(weight.inputs, weight.kernel)));
  }
  if (is_matrix_product(node.type())) {
    return saturating_mul(2, saturating_mul(results, inner_dimension(node)));
  }
  const Reference* x = node.find("x");
  const int64_t inputs = x != nullptr ? elements_of(x->tensor()) : results;
  if (node.type() == "scaled_dot_product_attention") {
    const Reference *query = node.find("query"), *key = node.find("key");
    if (query == nullptr || key == nullptr || key->tensor().shape.size() < 2) return results;
    const std::vector<int64_t>& shape = key->tensor().shape;
    return saturating_mul(4, saturating_mul(elements_of(query->tensor()),
                                            std::max<int64_t>(0, shape[shape.size() - 2])));
  }
  if (node.type() == "softmax" || node.type().ends_with("_norm")) {
    return saturating_mul(5, inputs);
  }
  if (one_of(node.type(), {"read_state", "write_state", "coreml_update_state", "fill", "fill_like",
                           "shape", "gather", "range_1d"})) {
    return 0;
  }
  return node.type().starts_with("reduce_") || node.type().ends_with("_pool") ? inputs : results;
}

int64_t payload_bytes(const Graph& graph, const Node& node) {
  constexpr int64_t kCores = 16, kHalf = 2;
  const Reference* reference = node.find("weight");
  const bool constant =
      reference != nullptr && (reference->constant != nullptr ||
                               (reference->producer >= 0 &&
                                graph.nodes[static_cast<size_t>(reference->producer)].constant));
  if (!constant) return 0;
  const WeightShape weight = weight_shape(node);
  const int64_t share = weight.outputs / kCores + (weight.outputs % kCores != 0 ? 1 : 0);
  return saturating_mul(kHalf, saturating_mul(share, saturating_mul(weight.inputs, weight.kernel)));
}

bool payload_is_slow(int64_t bytes) {
  constexpr int64_t kMiB = int64_t{1} << 20, kNear = int64_t{16} << 10;
  if (bytes < kMiB - kNear) return false;
  const int64_t past = bytes % kMiB;
  return past <= kNear || past >= kMiB - kNear;
}

}  // namespace impetus::coreml

// Type rules of products and windows.
// Source: coremltools ops/defs iOS15/{conv,linear,pool}, iOS17/{conv,linear}, iOS18/transformers
// and _utils (output lengths of windows).
#include <algorithm>
#include <array>

#include "mil/infer.h"

namespace impetus::mil::infer {
namespace {

// The window of a convolution or pool; a number a spatial dimension.
struct Window {
  std::string pad_type;
  Ints kernel, strides, dilations, pad;  // pad: before and after, a pair a dimension
  bool ceil = false;
};

Result<Ints> positive(const Reader& read, std::string_view parameter, size_t count,
                      int64_t least = 1) {
  IMPETUS_TRY(auto values, read.ints(parameter));
  if (!values) return Ints(count, least);
  if (values->size() != count) {
    return wrong("{} {} has {} elements and wants {}", parameter, show(*values), values->size(),
                 count);
  }
  for (const int64_t one : *values) {
    if (one < least || one > kDimensionMax / 2) {
      return wrong("{} holds {}; it must be at least {} and no absurd length", parameter, one,
                   least);
    }
  }
  return *values;
}

// The length of one dimension after the window has passed.
Result<int64_t> passed(const Window& window, size_t i, int64_t length) {
  if (!known(length) || !known(window.kernel[i])) return kUnknown;
  int64_t kernel = 0;
  if (__builtin_mul_overflow(window.kernel[i] - 1, window.dilations[i], &kernel) ||
      kernel > kDimensionMax) {
    return wrong("a kernel of {} dilated by {} is too long", window.kernel[i], window.dilations[i]);
  }
  kernel += 1;
  const int64_t stride = window.strides[i];
  int64_t pad = 0, before = 0;
  if (window.pad_type == "custom") {
    before = window.pad[2 * i];
    pad = before + window.pad[2 * i + 1];
  } else if (window.pad_type != "valid") {  // same, same_lower: ceil(length / stride) results
    const int64_t steps = length / stride + (length % stride != 0 ? 1 : 0);
    pad = std::max<int64_t>(0, steps * stride - length + kernel - stride);
  }
  const int64_t room = length + pad - kernel;
  if (room < 0) {
    return wrong("a kernel of {} (dilated: {}) does not fit into length {} with padding {}",
                 window.kernel[i], kernel, length, pad);
  }
  if (!window.ceil) return room / stride + 1;
  int64_t steps = (room + stride - 1) / stride + 1;
  // The last window may not lie wholly in the padding.
  if ((steps - 1) * stride >= length + before && pad > 0) --steps;
  return steps;
}

Result<void> check_pad_type(const std::string& pad_type, bool same_lower) {
  if (pad_type == "valid" || pad_type == "same" || pad_type == "custom") return {};
  if (pad_type == "same_lower") {
    if (same_lower) return {};
    return wrong("pad_type \"same_lower\" needs CoreML6");
  }
  return wrong("pad_type \"{}\" is none of valid, same, custom, same_lower", pad_type);
}

Types conv(const Operands& operands, bool same_lower) {
  const Reader read(operands);
  IMPETUS_TRY(const TensorType x, read.tensor("x"));
  IMPETUS_TRY(const TensorType weight, read.tensor("weight"));
  IMPETUS_TRY(const auto bias, read.tensor_if("bias"));
  if (x.shape.size() < 3 || x.shape.size() > 5) {
    return wrong("x is {}; its rank must be 3 to 5", x.to_string());
  }
  if (weight.shape.size() != x.shape.size()) {
    return wrong("weight is {} and x is {}: their ranks must be equal", weight.to_string(),
                 x.to_string());
  }
  const size_t spatial = x.shape.size() - 2;
  IMPETUS_TRY(const int64_t groups, read.integer("groups", 1));
  if (groups < 1) return wrong("groups is {}", groups);
  const int64_t outputs = weight.shape[0], inputs = x.shape[1];
  if (known(outputs) && (outputs == 0 || outputs % groups != 0)) {
    return wrong("weight {} has {} output channels, not a multiple of groups {}",
                 weight.to_string(), outputs, groups);
  }
  if (known(inputs) && (inputs % groups != 0 || !agree(inputs / groups, weight.shape[1]))) {
    return wrong("x {} has {} channels in {} groups, weight {} wants {} a group", x.to_string(),
                 inputs, groups, weight.to_string(), weight.shape[1]);
  }
  if (bias && (bias->shape.size() != 1 || !agree(bias->shape[0], outputs))) {
    return wrong("bias is {}; weight {} has {} output channels", bias->to_string(),
                 weight.to_string(), outputs);
  }

  Window window;
  IMPETUS_TRY(window.pad_type, read.text("pad_type", "valid"));
  IMPETUS_CHECK(check_pad_type(window.pad_type, same_lower));
  window.kernel.assign(weight.shape.begin() + 2, weight.shape.end());
  if (std::ranges::find(window.kernel, 0) != window.kernel.end()) {
    return wrong("weight is {}: an empty kernel", weight.to_string());
  }
  IMPETUS_TRY(window.strides, positive(read, "strides", spatial));
  IMPETUS_TRY(window.dilations, positive(read, "dilations", spatial));
  IMPETUS_TRY(window.pad, positive(read, "pad", 2 * spatial, 0));
  const Operand* const bound = operands.find("weight");
  if (bound != nullptr && !bound->fixed &&
      std::ranges::any_of(window.dilations, [](int64_t dilation) { return dilation > 1; })) {
    return wrong("weight is computed while the program runs; then dilations must be 1");
  }
  Shape shape{x.shape[0], outputs};
  for (size_t i = 0; i < spatial; ++i) {
    IMPETUS_TRY(const int64_t length, passed(window, i, x.shape[i + 2]));
    shape.push_back(length);
  }
  return one(x.dtype, std::move(shape));
}

Types pool(const Operands& operands, bool same_lower) {
  const Reader read(operands);
  IMPETUS_TRY(TensorType x, read.tensor("x"));
  if (x.shape.size() < 3 || x.shape.size() > 5) {
    return wrong("x is {}; its rank must be 3 to 5", x.to_string());
  }
  const size_t spatial = x.shape.size() - 2;
  Window window;
  window.dilations.assign(spatial, 1);
  IMPETUS_TRY(window.pad_type, read.text("pad_type", "valid"));
  IMPETUS_CHECK(check_pad_type(window.pad_type, same_lower));
  if (!read.has("kernel_sizes")) return wrong("required parameter kernel_sizes is missing");
  IMPETUS_TRY(window.kernel, positive(read, "kernel_sizes", spatial));
  IMPETUS_TRY(window.strides, positive(read, "strides", spatial));
  IMPETUS_TRY(window.pad, positive(read, "pad", 2 * spatial, 0));
  IMPETUS_TRY(window.ceil, read.flag("ceil_mode", false));
  if (window.ceil) {
    if (spatial > 2) return wrong("ceil_mode needs one or two spatial dimensions");
    if (window.pad_type == "same")
      return wrong("ceil_mode and pad_type \"same\" exclude each other");
    for (size_t i = 0; i < spatial; ++i) {
      if (window.pad[2 * i] != window.pad[2 * i + 1]) {
        return wrong("pad {} must be symmetric with ceil_mode", show(window.pad));
      }
    }
  }
  for (size_t i = 0; i < spatial; ++i) {
    IMPETUS_TRY(const int64_t length, passed(window, i, x.shape[i + 2]));
    x.shape[i + 2] = length;
  }
  return one(x.dtype, std::move(x.shape));
}

Types matmul_of(const Operands& operands, DataType result) {
  const Reader read(operands);
  IMPETUS_TRY(const TensorType x, read.tensor("x"));
  IMPETUS_TRY(const TensorType y, read.tensor("y"));
  IMPETUS_TRY(const bool transpose_x, read.flag("transpose_x", false));
  IMPETUS_TRY(const bool transpose_y, read.flag("transpose_y", false));
  Shape a = x.shape, b = y.shape;
  if (a.empty() || b.empty()) {
    return wrong("x is {} and y is {}: a scalar has no product", x.to_string(), y.to_string());
  }
  const bool x_vector = a.size() == 1, y_vector = b.size() == 1;
  if ((x_vector && transpose_x) || (y_vector && transpose_y)) {
    return wrong("{} is a vector, which cannot be transposed", x_vector ? "x" : "y");
  }
  if (x_vector) a.insert(a.begin(), 1);
  if (y_vector) b.push_back(1);
  if (transpose_x) std::swap(a[a.size() - 1], a[a.size() - 2]);
  if (transpose_y) std::swap(b[b.size() - 1], b[b.size() - 2]);
  if (!agree(a[a.size() - 1], b[b.size() - 2])) {
    return wrong("x {}{} and y {}{} do not multiply: {} columns, {} rows", x.to_string(),
                 transpose_x ? " transposed" : "", y.to_string(), transpose_y ? " transposed" : "",
                 a[a.size() - 1], b[b.size() - 2]);
  }
  IMPETUS_TRY(Shape shape, broadcast(std::span(a).first(a.size() - 2), "x's batch",
                                     std::span(b).first(b.size() - 2), "y's batch"));
  if (!x_vector) shape.push_back(a[a.size() - 2]);
  if (!y_vector) shape.push_back(b[b.size() - 1]);
  return one(result, std::move(shape));
}

// The lengths of an equation's letters, as the operands give them.
struct Letters {
  std::array<int64_t, 26> upper{}, lower{};

  Letters() {
    upper.fill(-2);
    lower.fill(-2);
  }
  // -2 where the letter has not occurred.
  int64_t& operator[](char letter) {
    return letter <= 'Z' ? upper[static_cast<size_t>(letter - 'A')]
                         : lower[static_cast<size_t>(letter - 'a')];
  }
};

bool is_letter(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

Result<void> check_subscripts(std::string_view subscripts, std::string_view equation) {
  for (size_t i = 0; i < subscripts.size(); ++i) {
    if (!is_letter(subscripts[i])) {
      return wrong("equation \"{}\" holds more than letters, one comma and one arrow", equation);
    }
    if (subscripts.find(subscripts[i], i + 1) != std::string_view::npos) {
      return wrong("equation \"{}\" names {} twice in one term", equation, subscripts[i]);
    }
  }
  return {};
}

}  // namespace

Types conv5(const Operands& operands) {
  return conv(operands, false);
}
Types conv6(const Operands& operands) {
  return conv(operands, true);
}
Types pool5(const Operands& operands) {
  return pool(operands, false);
}
Types pool6(const Operands& operands) {
  return pool(operands, true);
}

Types linear(const Operands& operands) {
  const Reader read(operands);
  IMPETUS_TRY(TensorType x, read.tensor("x"));
  IMPETUS_TRY(const TensorType weight, read.tensor("weight"));
  IMPETUS_TRY(const auto bias, read.tensor_if("bias"));
  if (weight.shape.size() != 2)
    return wrong("weight is {}; it must have rank 2", weight.to_string());
  if (x.shape.empty() || !agree(x.shape.back(), weight.shape[1])) {
    return wrong("x is {}; weight {} wants a last dimension of {}", x.to_string(),
                 weight.to_string(), weight.shape[1]);
  }
  if (bias && (bias->shape.size() != 1 || !agree(bias->shape[0], weight.shape[0]))) {
    return wrong("bias is {}; weight {} has {} outputs", bias->to_string(), weight.to_string(),
                 weight.shape[0]);
  }
  x.shape.back() = weight.shape[0];
  return one(x.dtype, std::move(x.shape));
}

Types matmul5(const Operands& operands) {
  IMPETUS_TRY(const TensorType x, Reader(operands).tensor("x"));
  return matmul_of(operands, x.dtype);
}

// From CoreML7 on a constant factor may have another element type; the other one's is the result's.
Types matmul7(const Operands& operands) {
  const Reader read(operands);
  IMPETUS_TRY(const TensorType x, read.tensor("x"));
  IMPETUS_TRY(const TensorType y, read.tensor("y"));
  IMPETUS_TRY(const Operand* const x_bound, read.operand("x"));
  IMPETUS_TRY(const Operand* const y_bound, read.operand("y"));
  const bool x_constant = x_bound->constant != nullptr, y_constant = y_bound->constant != nullptr;
  if (x_constant == y_constant && x.dtype != y.dtype) {
    return wrong("x is {} and y is {}: they must have one element type", x.to_string(),
                 y.to_string());
  }
  return matmul_of(operands, x_constant && !y_constant ? y.dtype : x.dtype);
}

// Two terms, each letter once a term. Letters of both terms and the result are batches and
// broadcast; those of both terms alone are summed and must be equal.
Types einsum(const Operands& operands) {
  const Reader read(operands);
  IMPETUS_TRY(const auto values, read.tensors("values"));
  IMPETUS_TRY(const std::string equation, read.text("equation"));
  if (values.size() != 2) return wrong("values holds {} tensors and takes two", values.size());
  if (values[0].dtype != values[1].dtype) {
    return wrong("values are {} and {}: they must have one element type", values[0].to_string(),
                 values[1].to_string());
  }
  const size_t comma = equation.find(','), arrow = equation.find("->");
  if (comma == std::string::npos || arrow == std::string::npos || comma > arrow) {
    return wrong("equation \"{}\" is not of the form \"ab,bc->ac\"", equation);
  }
  const std::string_view text = equation;
  const std::array terms{text.substr(0, comma), text.substr(comma + 1, arrow - comma - 1)};
  const std::string_view result = text.substr(arrow + 2);
  IMPETUS_CHECK(check_subscripts(result, equation));

  Letters lengths;
  for (size_t i = 0; i < 2; ++i) {
    IMPETUS_CHECK(check_subscripts(terms[i], equation));
    if (terms[i].size() != values[i].shape.size()) {
      return wrong("equation \"{}\" gives {} {} dimensions, but it is {}", equation,
                   i == 0 ? "the first value" : "the second value", terms[i].size(),
                   values[i].to_string());
    }
    for (size_t at = 0; at < terms[i].size(); ++at) {
      const char letter = terms[i][at];
      const int64_t length = values[i].shape[at];
      int64_t& seen = lengths[letter];
      if (seen == -2) {
        seen = length;
      } else if (result.find(letter) == std::string_view::npos) {
        if (!agree(seen, length)) {
          return wrong("{} is {} long in {} and {} in {}", letter, seen, values[0].to_string(),
                       length, values[1].to_string());
        }
      } else {
        const std::array a{seen}, b{length};
        auto both = broadcast(a, "the first value's", b, "the second value's");
        if (!both.ok()) return std::move(both).error().within(std::string_view(&letter, 1));
        seen = both->front();
      }
    }
  }
  Shape shape;
  for (const char letter : result) {
    if (lengths[letter] == -2)
      return wrong("equation \"{}\" makes {} of nothing", equation, letter);
    shape.push_back(lengths[letter]);
  }
  return one(values[0].dtype, std::move(shape));
}

Types attention(const Operands& operands) {
  const Reader read(operands);
  IMPETUS_TRY(const TensorType query, read.tensor("query"));
  IMPETUS_TRY(const TensorType key, read.tensor("key"));
  IMPETUS_TRY(const TensorType value, read.tensor("value"));
  IMPETUS_TRY(const auto mask, read.tensor_if("attn_mask"));
  const size_t rank = query.shape.size();
  if (rank < 3 || key.shape.size() != rank || value.shape.size() != rank) {
    return wrong("query {}, key {} and value {} must have one rank of at least 3",
                 query.to_string(), key.to_string(), value.to_string());
  }
  const auto batch = [rank](const TensorType& type) {
    return std::span(type.shape).first(rank - 2);
  };
  if (!agree(batch(query), batch(key)) || !agree(batch(query), batch(value)) ||
      !agree(batch(key), batch(value))) {
    return wrong("query {}, key {} and value {} differ in their batch", query.to_string(),
                 key.to_string(), value.to_string());
  }
  if (!agree(query.shape[rank - 1], key.shape[rank - 1])) {
    return wrong("query {} and key {} differ in their last dimension", query.to_string(),
                 key.to_string());
  }
  if (!agree(key.shape[rank - 2], value.shape[rank - 2])) {
    return wrong("key {} and value {} differ in length", key.to_string(), value.to_string());
  }
  if (mask) {
    if (mask->shape.empty() || !agree(mask->shape.back(), key.shape[rank - 2])) {
      return wrong("attn_mask is {}; key {} has length {}", mask->to_string(), key.to_string(),
                   key.shape[rank - 2]);
    }
    IMPETUS_CHECK(broadcast(std::span(query.shape).first(rank - 1), "query",
                            std::span(mask->shape).first(mask->shape.size() - 1), "attn_mask"));
  }
  Shape shape = query.shape;
  shape.back() = value.shape.back();
  return one(query.dtype, std::move(shape));
}

}  // namespace impetus::mil::infer

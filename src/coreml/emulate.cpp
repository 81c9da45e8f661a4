#include "coreml/emulate.h"

#include <algorithm>
#include <cassert>
#include <cmath>

#include "coreml/convert.h"
#include "tensor/dtype.h"

namespace impetus::coreml {
namespace {

float rounded(float value) {
  return f16_to_f32(f32_to_f16(value));
}

double cosine(std::span<const double> a, std::span<const double> b) {
  double product = 0, squares_a = 0, squares_b = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    product += a[i] * b[i];
    squares_a += a[i] * a[i];
    squares_b += b[i] * b[i];
  }
  // Two rows of zeros are alike; what is not finite is not.
  if (squares_a == 0 && squares_b == 0) return 1;
  const double of = product / std::sqrt(squares_a * squares_b);
  return std::isfinite(of) ? of : -1;
}

const mil::TensorType* find_type(const std::vector<mil::NamedType>& ports, std::string_view name) {
  const auto found = std::ranges::find(ports, name, &mil::NamedType::name);
  return found == ports.end() ? nullptr : &found->type.tensor;
}

}  // namespace

Result<Emulated> emulate(const mil::Interpreter& encoder, const HostEmbeddings& embeddings,
                         std::span<const TokenId> tokens, std::span<const int32_t> token_types) {
  const mil::TensorType* hidden = find_type(encoder.inputs(), "hidden");
  const mil::TensorType* mask = find_type(encoder.inputs(), "mask");
  if (hidden == nullptr || mask == nullptr || hidden->shape.size() != 4) {
    return error(ErrorCode::invalid_argument, "the function is no encoder of this program's own");
  }
  const int64_t width = hidden->shape[1], padded = hidden->shape[3];
  const auto count = static_cast<int64_t>(tokens.size());
  if (count > padded) {
    return error(ErrorCode::invalid_argument, "{} tokens do not fit a function of {}", count,
                 padded);
  }
  mil::TensorValues inputs;
  mil::TensorValue& sums = inputs["hidden"];
  sums.type = *hidden;
  IMPETUS_TRY(sums.floats, embeddings.lookup(tokens, token_types, padded));
  std::ranges::transform(sums.floats, sums.floats.begin(), rounded);
  mil::TensorValue& padding = inputs["mask"];
  padding.type = *mask;
  padding.floats.assign(static_cast<size_t>(padded), kMaskValue);
  std::fill_n(padding.floats.begin(), count, 0.0f);

  IMPETUS_TRY(mil::RunResult ran, encoder.run(inputs));
  const auto found = ran.outputs.find("hidden_states");
  if (found == ran.outputs.end() ||
      static_cast<int64_t>(found->second.floats.size()) != width * padded) {
    return error(ErrorCode::internal, "the program gave no hidden_states of its input's shape");
  }
  Emulated made{.hidden = std::vector<float>(static_cast<size_t>(width * count)),
                .events = std::move(ran.events),
                .ranges = std::move(ran.ranges)};
  for (int64_t t = 0; t < count; ++t) {
    for (int64_t c = 0; c < width; ++c) {
      made.hidden[static_cast<size_t>(t * width + c)] =
          found->second.floats[static_cast<size_t>(c * padded + t)];
    }
  }
  return made;
}

Result<std::vector<mil::TensorRange>> ranges_over(const mil::Interpreter& encoder,
                                                  const HostEmbeddings& embeddings,
                                                  std::span<const std::vector<TokenId>> texts) {
  const mil::TensorType* hidden = find_type(encoder.inputs(), "hidden");
  if (hidden == nullptr || hidden->shape.size() != 4) {
    return error(ErrorCode::invalid_argument, "the function is no encoder of this program's own");
  }
  std::vector<mil::TensorRange> ranges;
  for (const std::vector<TokenId>& text : texts) {
    if (text.empty()) continue;
    const auto length = std::min(text.size(), static_cast<size_t>(hidden->shape[3]));
    IMPETUS_TRY(Emulated ran, emulate(encoder, embeddings, std::span(text).first(length), {}));
    if (ranges.empty()) ranges = std::move(ran.ranges);
    // One program: the same tensors in the same order each time.
    for (size_t i = 0; i < ran.ranges.size(); ++i) {
      ranges[i].max_abs = std::max(ranges[i].max_abs, ran.ranges[i].max_abs);
    }
  }
  return ranges;
}

Likeness likeness(std::span<const float> a, std::span<const float> b, int64_t width) {
  assert(a.size() == b.size());
  const auto columns = static_cast<size_t>(width);
  Likeness made;
  std::vector<double> mean_a(columns), mean_b(columns), row_a(columns), row_b(columns);
  for (size_t first = 0; first < a.size(); first += columns) {
    for (size_t i = 0; i < columns; ++i) {
      row_a[i] = static_cast<double>(a[first + i]);
      row_b[i] = static_cast<double>(b[first + i]);
      mean_a[i] += row_a[i];
      mean_b[i] += row_b[i];
    }
    made.lowest_token = std::min(made.lowest_token, cosine(row_a, row_b));
  }
  made.text = cosine(mean_a, mean_b);
  return made;
}

}  // namespace impetus::coreml

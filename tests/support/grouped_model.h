// Random models with their matrices quantised in groups, as MLX stores them.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>

#include "tests/support/random_model.h"

namespace impetus::testing {

struct Grouping {
  GroupQuantised::Mode mode = GroupQuantised::Mode::affine;
  int bits = 4;
  int group = 64;
  DType scale_type = DType::f16;

  std::string name() const {
    if (mode == GroupQuantised::Mode::mxfp4) return "mxfp4";
    return fmt::format("{}bits_{}_{}", bits, group, to_string(scale_type));
  }
};

// Every bits, group and type of scales, and mxfp4.
inline std::vector<Grouping> every_grouping() {
  std::vector<Grouping> all;
  for (const int bits : {2, 3, 4, 5, 6, 8}) {
    for (const int group : {32, 64, 128}) {
      for (const DType type : {DType::f32, DType::f16, DType::bf16}) {
        all.push_back({GroupQuantised::Mode::affine, bits, group, type});
      }
    }
  }
  all.push_back({GroupQuantised::Mode::mxfp4, 4, 32, DType::u8});
  return all;
}

class GroupQuantiser {
 public:
  GroupQuantiser(RandomModel& model, const Grouping& grouping) : model_(model), how_(grouping) {}

  // The matrix with its rows in groups; what the view points to lives in the model.
  TensorView quantise(const TensorView& matrix) {
    const int64_t rows = matrix.shape.rows(), columns = matrix.shape.columns();
    auto grouped = std::make_unique<GroupQuantised>();
    grouped->mode = how_.mode;
    grouped->bits = how_.bits;
    grouped->group = how_.group;
    grouped->scale_type = how_.scale_type;
    const int64_t groups = rows * (columns / how_.group);
    const auto codes = keep(DType::u8, {rows, grouped->row_bytes(columns)});
    const auto scales = keep(how_.scale_type, {groups});
    std::span<std::byte> biases;
    if (how_.mode == GroupQuantised::Mode::affine) biases = keep(how_.scale_type, {groups});
    std::vector<float> row(static_cast<size_t>(columns));
    for (int64_t r = 0; r < rows; ++r) {
      dequantize_row(matrix, r, row.data());
      for (int64_t at = 0; at < columns; at += how_.group) {
        const int64_t index = (r * columns + at) / how_.group;
        encode(std::span(row).subspan(static_cast<size_t>(at), static_cast<size_t>(how_.group)),
               index, scales, biases, codes, (r * columns + at) * how_.bits);
      }
    }
    grouped->scales = scales;
    grouped->biases = biases;
    const TensorView view{DType::grouped, matrix.shape, codes, grouped.get()};
    model_.groups.push_back(std::move(grouped));
    return view;
  }

 private:
  std::span<std::byte> keep(DType type, Shape shape) {
    model_.storage.push_back(*Tensor::zeros(type, shape));
    return model_.storage.back().mutable_bytes();
  }

  // Stores a scale and gives back what it has become.
  float put(std::span<std::byte> to, int64_t index, float value) const {
    const auto tensor = [&] {
      auto one = *Tensor::zeros(DType::f32, {1});
      std::memcpy(one.mutable_bytes().data(), &value, sizeof value);
      return *convert(one.view(), how_.scale_type);
    }();
    const auto bytes = tensor.view().data;
    std::memcpy(to.data() + index * static_cast<int64_t>(bytes.size()), bytes.data(), bytes.size());
    float stored;
    dequantize(how_.scale_type, bytes.data(), 1, &stored);
    return stored;
  }

  void encode(std::span<const float> values, int64_t index, std::span<std::byte> scales,
              std::span<std::byte> biases, std::span<std::byte> codes, int64_t bit) const {
    const auto [least, most] = std::ranges::minmax(values);
    const float peak = std::max(std::fabs(least), std::fabs(most));
    const int last = (1 << how_.bits) - 1;
    float scale = 1, bias = 0;
    if (how_.mode == GroupQuantised::Mode::mxfp4) {
      const int exponent = peak == 0 ? 0 : std::ilogb(peak) - 2;  // 6 is the largest value
      scale = std::ldexp(1.0f, exponent);
      scales[static_cast<size_t>(index)] = static_cast<std::byte>(exponent + 127);
    } else {
      scale = put(scales, index, std::max(1e-4f, (most - least) / static_cast<float>(last)));
      bias = put(biases, index, least);
    }
    for (const float value : values) {
      unsigned code = 0;
      if (how_.mode == GroupQuantised::Mode::mxfp4) {
        const auto near = [&](unsigned c) { return std::fabs(kE2m1[c] * scale - value); };
        for (unsigned c = 1; c < 16; ++c) code = near(c) < near(code) ? c : code;
      } else {
        code = static_cast<unsigned>(
            std::clamp(std::lround((value - bias) / scale), 0l, static_cast<long>(last)));
      }
      for (int b = 0; b < how_.bits; ++b, ++bit) {
        if ((code >> b & 1u) != 0) codes[static_cast<size_t>(bit / 8)] |= std::byte{1} << (bit % 8);
      }
    }
  }

  RandomModel& model_;
  Grouping how_;
};

// The model with every matrix that is whole groups quantised; norms, biases and the rest stand.
inline RandomModel in_groups(const RandomModel& model, const Grouping& grouping) {
  RandomModel result;
  result.spec = model.spec;
  result.storage.reserve(4096);  // views point into it
  GroupQuantiser quantiser(result, grouping);
  for (const NamedTensor& tensor : model.tensors) {
    const Shape& shape = tensor.view.shape;
    if (shape.rank() == 2 && shape.columns() % grouping.group == 0) {
      result.tensors.push_back({tensor.name, quantiser.quantise(tensor.view), 0});
    } else {
      result.storage.push_back(*convert(tensor.view, DType::f32));
      result.tensors.push_back({tensor.name, result.storage.back().view(), 0});
    }
  }
  result.build();
  return result;
}

}  // namespace impetus::testing

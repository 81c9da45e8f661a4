// What must hold for every set of tensors that a parser lets through, whatever the bytes were.
#pragma once

#include <span>
#include <string>

#include "formats/weights.h"

namespace impetus::testing {

// Empty, or the first contradiction. Reads every byte of every tensor, so that a sanitizer sees a
// view that leaves `file`.
inline std::string contradiction(const WeightSet& weights, std::span<const std::byte> file) {
  unsigned sum = 0;
  const auto inside = [&](std::span<const std::byte> bytes) {
    for (const std::byte byte : bytes) sum += static_cast<unsigned>(byte);
    return bytes.empty() || (bytes.data() >= file.data() &&
                             bytes.data() + bytes.size() <= file.data() + file.size());
  };
  for (const NamedTensor& tensor : weights.tensors()) {
    const TensorView& view = tensor.view;
    const bool grouped = view.grouped != nullptr;
    if (grouped != (view.dtype == DType::grouped)) return tensor.name + ": groups of no type";
    const auto wanted =
        grouped ? std::optional(view.shape.rows() * view.grouped->row_bytes(view.shape.columns()))
                : bytes_of(view.dtype, view.shape.elements());
    if (!wanted || static_cast<size_t>(*wanted) != view.data.size()) {
      return tensor.name + ": its bytes are not its shape's";
    }
    if (view.shape.columns() % block_elements(view.dtype) != 0)
      return tensor.name + ": broken rows";
    if (!inside(view.data)) return tensor.name + ": leaves the file";
    if (grouped) {
      const GroupQuantised& groups = *view.grouped;
      const auto scales = bytes_of(groups.scale_type, view.shape.elements() / groups.group);
      if (!scales || static_cast<size_t>(*scales) != groups.scales.size() ||
          (groups.mode == GroupQuantised::Mode::affine ? groups.scales.size() : 0) !=
              groups.biases.size() ||
          view.shape.columns() % groups.group != 0) {
        return tensor.name + ": its scales are not its shape's";
      }
      if (!inside(groups.scales) || !inside(groups.biases)) return tensor.name + ": scales outside";
    }
    if (weights.find(tensor.name) != &tensor) return tensor.name + ": not found by its name";
    if (!weights.require(tensor.name).ok()) return tensor.name + ": not given when required";
  }
  for (const UnusableTensor& tensor : weights.unusable()) {
    if (weights.require(tensor.name).ok()) return tensor.name + ": unusable, but given";
    if (!weights.contains(tensor.name)) return tensor.name + ": not contained";
  }
  if (weights.bytes() < 0 || static_cast<size_t>(weights.bytes()) > file.size()) {
    return "more bytes of tensors than of file";
  }
  volatile unsigned keep = sum;
  (void)keep;
  return {};
}

}  // namespace impetus::testing

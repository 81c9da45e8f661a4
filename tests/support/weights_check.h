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
  for (const NamedTensor& tensor : weights.tensors()) {
    const TensorView& view = tensor.view;
    const auto wanted = bytes_of(view.dtype, view.shape.elements());
    if (!wanted || static_cast<size_t>(*wanted) != view.data.size()) {
      return tensor.name + ": its bytes are not its shape's";
    }
    if (view.shape.columns() % block_elements(view.dtype) != 0)
      return tensor.name + ": broken rows";
    if (!view.data.empty() && (view.data.data() < file.data() ||
                               view.data.data() + view.data.size() > file.data() + file.size())) {
      return tensor.name + ": leaves the file";
    }
    for (const std::byte byte : view.data) sum += static_cast<unsigned>(byte);
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

// Copies between the host's packed f32 and a processor's own tensors, whose rows may be padded and
// whose strides may be any. Padding is neither read nor written. Pure: any thread.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "coreml/compiled_model.h"

namespace impetus::coreml {

// Row-major strides whose last dimension is padded to whole `row_bytes`, as the Neural Engine lays
// tensors out (64); 0: packed.
std::vector<int64_t> padded_strides(const mil::TensorType& type, int64_t row_bytes);
// Elements from the first to past the last one. nullopt for types or strides that are no tensor's
// (unknown or negative dimensions, as many strides as not dimensions, overflow).
std::optional<int64_t> span_of(const StridedView& view);

// Whether `view` is a tensor of this shape that can be copied: fp16 or fp32, in memory, elements
// apart from each other. `internal` errors naming `name`, what it is and what it should be: whoever
// hands it out has broken the contract.
Result<void> check_view(const StridedView& view, std::span<const int64_t> shape,
                        std::string_view name);

// REQUIRES (both): check_view(), `values` of as many elements. Row-major. To fp16 values are
// rounded to the nearest; what overflows becomes infinite and is counted.
int64_t write_strided(std::span<const float> values, const StridedView& to);
// Counts the values that are not finite.
int64_t read_strided(const StridedView& from, std::span<float> values);

}  // namespace impetus::coreml

// The numbers that the formats have for types and colours, and what of the format is read and
// written. Sources: MIL.proto, FeatureTypes.proto.
#pragma once

#include <cstddef>
#include <optional>

#include "mil/limits.h"
#include "mil/program.h"

namespace impetus::mil {

// Of model.mlmodel, weights aside: room for a hundred thousand operations. In memory hostile bytes
// grow a hundredfold, hence no more.
inline constexpr size_t kModelBytesMax = size_t{64} << 20;
inline constexpr int kSpecificationFirst = 6, kSpecificationLast = 10;  // of ML programs

int number_of(DataType type);  // MIL.proto's DataType
std::optional<DataType> data_type_from(int number);

std::optional<int> array_number_of(DataType type);  // FeatureTypes.proto's ArrayDataType
std::optional<DataType> array_type_from(int number);

int number_of(Feature::Color color);  // FeatureTypes.proto's ColorSpace
std::optional<Feature::Color> color_from(int number);
int64_t channels_of(Feature::Color color);
DataType type_of(Feature::Color color);

bool is_utf8(std::string_view text);

}  // namespace impetus::mil

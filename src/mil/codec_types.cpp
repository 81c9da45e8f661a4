#include "mil/codec_types.h"

#include <algorithm>
#include <array>

#include "base/utf8.h"

namespace impetus::mil {
namespace {

template <typename T>
struct Row {
  T value;
  int number;
};

constexpr std::array<Row<DataType>, 22> kTypes{{
    {DataType::boolean, 1},   {DataType::string, 2},  {DataType::f16, 10}, {DataType::f32, 11},
    {DataType::f64, 12},      {DataType::bf16, 13},   {DataType::i8, 21},  {DataType::i16, 22},
    {DataType::i32, 23},      {DataType::i64, 24},    {DataType::i4, 25},  {DataType::u8, 31},
    {DataType::u16, 32},      {DataType::u32, 33},    {DataType::u64, 34}, {DataType::u4, 35},
    {DataType::u2, 36},       {DataType::u1, 37},     {DataType::u6, 38},  {DataType::u3, 39},
    {DataType::f8e4m3fn, 40}, {DataType::f8e5m2, 41},
}};

// 0x10000 | bits of a float, 0x20000 | bits of an integer.
constexpr std::array<Row<DataType>, 5> kArrayTypes{{
    {DataType::f16, 65552},
    {DataType::f32, 65568},
    {DataType::f64, 65600},
    {DataType::i8, 131080},
    {DataType::i32, 131104},
}};

constexpr std::array<Row<Feature::Color>, 4> kColors{{
    {Feature::Color::grayscale, 10},
    {Feature::Color::rgb, 20},
    {Feature::Color::bgr, 30},
    {Feature::Color::grayscale_f16, 40},
}};

template <typename T, size_t N>
std::optional<int> number_in(const std::array<Row<T>, N>& rows, T value) {
  const auto found = std::ranges::find(rows, value, &Row<T>::value);
  return found == rows.end() ? std::nullopt : std::optional(found->number);
}

template <typename T, size_t N>
std::optional<T> value_in(const std::array<Row<T>, N>& rows, int number) {
  const auto found = std::ranges::find(rows, number, &Row<T>::number);
  return found == rows.end() ? std::nullopt : std::optional(found->value);
}

}  // namespace

int number_of(DataType type) {
  return number_in(kTypes, type).value_or(0);
}
std::optional<DataType> data_type_from(int number) {
  return value_in(kTypes, number);
}

std::optional<int> array_number_of(DataType type) {
  return number_in(kArrayTypes, type);
}
std::optional<DataType> array_type_from(int number) {
  return value_in(kArrayTypes, number);
}

int number_of(Feature::Color color) {
  return number_in(kColors, color).value_or(0);
}
std::optional<Feature::Color> color_from(int number) {
  return value_in(kColors, number);
}
int64_t channels_of(Feature::Color color) {
  return color == Feature::Color::rgb || color == Feature::Color::bgr ? 3 : 1;
}
DataType type_of(Feature::Color color) {
  return color == Feature::Color::grayscale_f16 ? DataType::f16 : DataType::u8;
}

bool is_utf8(std::string_view text) {
  if (std::ranges::all_of(text, [](char c) { return static_cast<unsigned char>(c) < 0x80; })) {
    return true;
  }
  return repair_utf8(text) == text;
}

}  // namespace impetus::mil

#include "formats/gguf.h"

#include <algorithm>
#include <array>
#include <bit>
#include <limits>
#include <unordered_set>

#include "formats/bytes.h"

namespace impetus {
namespace {

// Bounds on what a reader of hostile files will hold; real files stay far below them.
constexpr uint64_t kEntriesMax = 1u << 20;        // metadata entries, tensors
constexpr uint64_t kArrayElementsMax = 1u << 25;  // in all arrays together
constexpr uint64_t kKeyBytesMax = 65535;          // the format's own limit
constexpr uint64_t kTensorNameBytesMax = 1024;    // the format says 64; some writers exceed it
constexpr int64_t kAlignmentDefault = 32;

// GGUF's value types, as numbered in the file.
enum class ValueType : uint32_t {
  u8 = 0,
  i8 = 1,
  u16 = 2,
  i16 = 3,
  u32 = 4,
  i32 = 5,
  f32 = 6,
  boolean = 7,
  string = 8,
  array = 9,
  u64 = 10,
  i64 = 11,
  f64 = 12,
};

struct TensorTypeRow {
  uint32_t id;
  std::string_view name;
  uint64_t block_elements;
  uint64_t block_bytes;
  std::optional<DType> dtype;  // nullopt: known, not usable here
};

// ggml's tensor types (https://github.com/ggml-org/ggml/blob/master/include/ggml.h). Sizes of those
// that do not run here are needed too: their extent in the file is checked like any other.
constexpr std::array kTensorTypes = {
    TensorTypeRow{0, "F32", 1, 4, DType::f32},
    TensorTypeRow{1, "F16", 1, 2, DType::f16},
    TensorTypeRow{2, "Q4_0", 32, 18, DType::q4_0},
    TensorTypeRow{3, "Q4_1", 32, 20, std::nullopt},
    TensorTypeRow{6, "Q5_0", 32, 22, std::nullopt},
    TensorTypeRow{7, "Q5_1", 32, 24, std::nullopt},
    TensorTypeRow{8, "Q8_0", 32, 34, DType::q8_0},
    TensorTypeRow{9, "Q8_1", 32, 36, std::nullopt},
    TensorTypeRow{10, "Q2_K", 256, 84, std::nullopt},
    TensorTypeRow{11, "Q3_K", 256, 110, std::nullopt},
    TensorTypeRow{12, "Q4_K", 256, 144, std::nullopt},
    TensorTypeRow{13, "Q5_K", 256, 176, std::nullopt},
    TensorTypeRow{14, "Q6_K", 256, 210, std::nullopt},
    TensorTypeRow{15, "Q8_K", 256, 292, std::nullopt},
    TensorTypeRow{16, "IQ2_XXS", 256, 66, std::nullopt},
    TensorTypeRow{17, "IQ2_XS", 256, 74, std::nullopt},
    TensorTypeRow{18, "IQ3_XXS", 256, 98, std::nullopt},
    TensorTypeRow{19, "IQ1_S", 256, 50, std::nullopt},
    TensorTypeRow{20, "IQ4_NL", 32, 18, std::nullopt},
    TensorTypeRow{21, "IQ3_S", 256, 110, std::nullopt},
    TensorTypeRow{22, "IQ2_S", 256, 82, std::nullopt},
    TensorTypeRow{23, "IQ4_XS", 256, 136, std::nullopt},
    TensorTypeRow{24, "I8", 1, 1, DType::i8},
    TensorTypeRow{25, "I16", 1, 2, std::nullopt},
    TensorTypeRow{26, "I32", 1, 4, DType::i32},
    TensorTypeRow{27, "I64", 1, 8, DType::i64},
    TensorTypeRow{28, "F64", 1, 8, std::nullopt},
    TensorTypeRow{29, "IQ1_M", 256, 56, std::nullopt},
    TensorTypeRow{30, "BF16", 1, 2, DType::bf16},
    TensorTypeRow{34, "TQ1_0", 256, 54, std::nullopt},
    TensorTypeRow{35, "TQ2_0", 256, 66, std::nullopt},
    TensorTypeRow{39, "MXFP4", 32, 17, std::nullopt},
};

constexpr std::string_view kRunnable = "F32, F16, BF16, Q8_0, Q4_0";

using Metadata = std::vector<std::pair<std::string_view, GgufValue>>;

struct Extent {
  uint64_t begin, end;  // from the start of the data section
  std::string_view name;
};

class Parser {
 public:
  explicit Parser(std::span<const std::byte> bytes) : bytes_(bytes), reader_(bytes) {}

  Result<void> run() {
    IMPETUS_TRY(const auto counts, read_counts());
    IMPETUS_CHECK(read_metadata(counts.second));
    IMPETUS_CHECK(read_tensors(counts.first));
    return {};
  }

  Metadata metadata;
  std::vector<NamedTensor> tensors;
  std::vector<UnusableTensor> unusable;

 private:
  Error truncated(std::string_view what) const {
    return error(ErrorCode::corrupt, "truncated: the file ends at byte {} within {}", bytes_.size(),
                 what);
  }

  template <typename T>
  Result<T> read(std::string_view what) {
    const auto value = reader_.read<T>();
    if (!value) return truncated(what);
    return *value;
  }

  Result<std::string_view> read_string(std::string_view what) {
    IMPETUS_TRY(const auto size, read<uint64_t>(what));
    const auto bytes = reader_.take(size);
    if (!bytes) {
      return error(ErrorCode::corrupt, "truncated: {} claims {} bytes, {} follow", what, size,
                   reader_.remaining());
    }
    return as_text(*bytes);
  }

  Result<std::string_view> read_name(std::string_view what, uint64_t bytes_max) {
    IMPETUS_TRY(const auto name, read_string(what));
    if (name.size() > bytes_max) {
      return error(ErrorCode::corrupt, "{} '{}' has {} bytes, more than {}", what, printable(name),
                   name.size(), bytes_max);
    }
    if (!is_utf8(name)) {
      return error(ErrorCode::corrupt, "{} '{}' is not valid UTF-8", what, printable(name));
    }
    return name;
  }

  // A count whose items take at least `item_bytes` each must fit into what is left of the file.
  Result<void> check_count(uint64_t count, uint64_t item_bytes, uint64_t count_max,
                           std::string_view what) const {
    if (count > reader_.remaining() / item_bytes) {
      return error(ErrorCode::corrupt, "truncated: {} {} cannot fit into the {} bytes that follow",
                   count, what, reader_.remaining());
    }
    if (count > count_max) {
      return error(ErrorCode::unsupported, "{} {}, more than the {} that this version reads", count,
                   what, count_max);
    }
    return {};
  }

  // Tensors, metadata entries.
  Result<std::pair<uint64_t, uint64_t>> read_counts() {
    const auto magic = reader_.take(4);
    if (!magic || as_text(*magic) != "GGUF") {
      return error(ErrorCode::corrupt, "not a GGUF file: it begins with '{}', not 'GGUF'",
                   printable(as_text(bytes_.first(std::min<size_t>(bytes_.size(), 4)))));
    }
    IMPETUS_TRY(const auto version, read<uint32_t>("the version"));
    if (version != 2 && version != 3) {
      if (version != 0 && (version & 0xffffu) == 0) {
        return error(ErrorCode::unsupported,
                     "a big-endian GGUF file: this version reads little-endian ones");
      }
      return error(ErrorCode::unsupported, "GGUF version {}: this version reads 2 and 3", version);
    }
    IMPETUS_TRY(const auto tensor_count, read<uint64_t>("the tensor count"));
    IMPETUS_TRY(const auto entry_count, read<uint64_t>("the metadata count"));
    IMPETUS_CHECK(check_count(entry_count, 8 + 4 + 1, kEntriesMax, "metadata entries"));
    IMPETUS_CHECK(check_count(tensor_count, 8 + 4 + 4 + 8, kEntriesMax, "tensors"));
    return std::pair{tensor_count, entry_count};
  }

  Result<void> read_metadata(uint64_t count) {
    std::unordered_set<std::string_view> keys;
    for (uint64_t i = 0; i < count; ++i) {
      IMPETUS_TRY(const auto key, read_name("a metadata key", kKeyBytesMax));
      if (!keys.insert(key).second) {
        return error(ErrorCode::corrupt, "metadata key {} occurs twice", printable(key));
      }
      auto value = read_entry_value();
      if (!value.ok()) {
        return std::move(value).error().within(fmt::format("metadata key {}", printable(key)));
      }
      metadata.emplace_back(key, std::move(*value));
    }
    return {};
  }

  Result<GgufValue> read_entry_value() {
    IMPETUS_TRY(const auto type, read<uint32_t>("its type"));
    if (static_cast<ValueType>(type) == ValueType::array) return read_array();
    return read_value(type);
  }

  template <typename T>
  Result<GgufValue> read_integer() {
    IMPETUS_TRY(const T value, read<T>("its value"));
    if constexpr (std::is_same_v<T, uint64_t>) {
      if (value > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
        return error(ErrorCode::unsupported,
                     "its value {} is past the largest that is read, 2^63 - 1", value);
      }
    }
    return GgufValue(static_cast<int64_t>(value));
  }

  Result<GgufValue> read_value(uint32_t type) {
    switch (static_cast<ValueType>(type)) {
      case ValueType::u8:
        return read_integer<uint8_t>();
      case ValueType::i8:
        return read_integer<int8_t>();
      case ValueType::u16:
        return read_integer<uint16_t>();
      case ValueType::i16:
        return read_integer<int16_t>();
      case ValueType::u32:
        return read_integer<uint32_t>();
      case ValueType::i32:
        return read_integer<int32_t>();
      case ValueType::u64:
        return read_integer<uint64_t>();
      case ValueType::i64:
        return read_integer<int64_t>();
      case ValueType::f32: {
        IMPETUS_TRY(const float value, read<float>("its value"));
        return GgufValue(static_cast<double>(value));
      }
      case ValueType::f64: {
        IMPETUS_TRY(const double value, read<double>("its value"));
        return GgufValue(value);
      }
      case ValueType::boolean: {
        IMPETUS_TRY(const auto value, read<uint8_t>("its value"));
        if (value > 1) return error(ErrorCode::corrupt, "its value {} is neither 0 nor 1", value);
        return GgufValue(value == 1);
      }
      case ValueType::string: {
        IMPETUS_TRY(const auto value, read_string("its string"));
        return GgufValue(value);
      }
      case ValueType::array:
        return error(ErrorCode::unsupported, "it is an array of arrays");
    }
    return error(ErrorCode::corrupt, "its type {} is unknown", type);
  }

  static uint64_t item_bytes_min(uint32_t type) {
    switch (static_cast<ValueType>(type)) {
      case ValueType::u16:
      case ValueType::i16:
        return 2;
      case ValueType::u32:
      case ValueType::i32:
      case ValueType::f32:
        return 4;
      case ValueType::string:
      case ValueType::u64:
      case ValueType::i64:
      case ValueType::f64:
        return 8;
      default:
        return 1;
    }
  }

  template <typename T>
  Result<GgufValue> read_items(uint32_t type, uint64_t count) {
    std::vector<T> items;
    items.reserve(count);
    for (uint64_t i = 0; i < count; ++i) {
      auto item = read_value(type);
      if (!item.ok()) return std::move(item).error().within(fmt::format("element {}", i));
      items.push_back(std::get<T>(*item));
    }
    return GgufValue(GgufArray{std::move(items)});
  }

  Result<GgufValue> read_array() {
    IMPETUS_TRY(const auto type, read<uint32_t>("its element type"));
    IMPETUS_TRY(const auto count, read<uint64_t>("its length"));
    if (static_cast<ValueType>(type) == ValueType::array) return read_value(type);
    if (type > static_cast<uint32_t>(ValueType::f64)) {
      return error(ErrorCode::corrupt, "its element type {} is unknown", type);
    }
    IMPETUS_CHECK(check_count(count, item_bytes_min(type), kArrayElementsMax - array_elements_,
                              "array elements"));
    array_elements_ += count;
    switch (static_cast<ValueType>(type)) {
      case ValueType::string:
        return read_items<std::string_view>(type, count);
      case ValueType::boolean:
        return read_items<bool>(type, count);
      case ValueType::f32:
      case ValueType::f64:
        return read_items<double>(type, count);
      default:
        return read_items<int64_t>(type, count);
    }
  }

  Result<uint64_t> alignment() const {
    for (const auto& [key, value] : metadata) {
      if (key != "general.alignment") continue;
      const int64_t* number = std::get_if<int64_t>(&value);
      // The format asks for a multiple of 8; 2^30 is only there so that sums cannot overflow.
      if (number == nullptr || *number <= 0 || *number % 8 != 0 || *number > (1 << 30)) {
        return error(ErrorCode::corrupt,
                     "metadata key general.alignment is {}, not a positive multiple of 8",
                     number == nullptr ? std::string("no integer") : std::to_string(*number));
      }
      return static_cast<uint64_t>(*number);
    }
    return static_cast<uint64_t>(kAlignmentDefault);
  }

  struct TensorInfo {
    std::string_view name;
    std::vector<int64_t> dims;  // row-major: the file's order reversed
    uint32_t type = 0;
    uint64_t offset = 0;
  };

  Result<void> read_tensors(uint64_t count) {
    std::vector<TensorInfo> infos;
    infos.reserve(count);
    for (uint64_t i = 0; i < count; ++i) {
      TensorInfo info;
      IMPETUS_TRY(info.name, read_name("a tensor name", kTensorNameBytesMax));
      if (auto rest = read_info(info); !rest.ok()) {
        return std::move(rest).error().within(fmt::format("tensor {}", printable(info.name)));
      }
      infos.push_back(std::move(info));
    }
    IMPETUS_TRY(const uint64_t align, alignment());
    if (infos.empty()) return {};

    const uint64_t begin = (reader_.position() + align - 1) / align * align;
    if (begin > bytes_.size()) return truncated("the padding before the tensor data");
    const auto data = bytes_.subspan(begin);
    std::vector<Extent> extents;
    for (const TensorInfo& info : infos) {
      auto extent = add_tensor(info, data, align);
      if (!extent.ok()) {
        return std::move(extent).error().within(fmt::format("tensor {}", printable(info.name)));
      }
      extents.push_back(*extent);
    }
    return check_overlap(extents);
  }

  Result<void> read_info(TensorInfo& info) {
    IMPETUS_TRY(const auto rank, read<uint32_t>("its dimensions"));
    if (rank > Shape::kRankMax) {
      return error(ErrorCode::corrupt, "{} dimensions, more than the format's {}", rank,
                   Shape::kRankMax);
    }
    for (uint32_t i = 0; i < rank; ++i) {
      IMPETUS_TRY(const auto dim, read<uint64_t>("its dimensions"));
      if (dim > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
        return error(ErrorCode::corrupt, "dimension {} is {}, which overflows", i, dim);
      }
      info.dims.insert(info.dims.begin(), static_cast<int64_t>(dim));
    }
    IMPETUS_TRY(info.type, read<uint32_t>("its type"));
    IMPETUS_TRY(info.offset, read<uint64_t>("its offset"));
    return {};
  }

  Result<Extent> add_tensor(const TensorInfo& info, std::span<const std::byte> data,
                            uint64_t align) {
    IMPETUS_TRY(const Shape shape, Shape::checked(info.dims));
    const auto row =
        std::find_if(kTensorTypes.begin(), kTensorTypes.end(),
                     [&](const TensorTypeRow& known) { return known.id == info.type; });
    if (row == kTensorTypes.end()) {
      return error(ErrorCode::unsupported, "has the unknown type number {}; this version runs {}",
                   info.type, kRunnable);
    }
    const auto columns = static_cast<uint64_t>(shape.columns());
    if (columns % row->block_elements != 0) {
      return error(ErrorCode::corrupt, "rows of {} values are no whole number of {} blocks of {}",
                   columns, row->name, row->block_elements);
    }
    uint64_t size = static_cast<uint64_t>(shape.elements()) / row->block_elements;
    if (__builtin_mul_overflow(size, row->block_bytes, &size)) {
      return error(ErrorCode::corrupt, "shape {} overflows", shape.to_string());
    }
    if (info.offset % align != 0) {
      return error(ErrorCode::corrupt, "its offset {} is not a multiple of the alignment {}",
                   info.offset, align);
    }
    if (info.offset > data.size() || size > data.size() - info.offset) {
      return error(ErrorCode::corrupt, "its {} bytes at offset {} leave the {} bytes of data", size,
                   info.offset, data.size());
    }
    if (row->dtype) {
      tensors.push_back(
          {std::string(info.name), {*row->dtype, shape, data.subspan(info.offset, size)}, 0});
    } else {
      unusable.push_back({std::string(info.name),
                          fmt::format("has type {}, which this version does not run; it runs {}",
                                      row->name, kRunnable),
                          std::string(row->name), shape, 0});
    }
    return Extent{info.offset, info.offset + size, info.name};
  }

  static Result<void> check_overlap(std::vector<Extent>& extents) {
    std::sort(extents.begin(), extents.end(), [](const Extent& a, const Extent& b) {
      return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
    });
    for (size_t i = 1; i < extents.size(); ++i) {
      if (extents[i].begin < extents[i - 1].end) {
        return error(ErrorCode::corrupt, "tensor {}: its data overlaps that of {}",
                     printable(extents[i].name), printable(extents[i - 1].name));
      }
    }
    return {};
  }

  std::span<const std::byte> bytes_;
  ByteReader reader_;
  uint64_t array_elements_ = 0;
};

std::string kind_of(const GgufValue& value) {
  constexpr std::array<std::string_view, 4> kScalars = {"an integer", "a number", "a boolean",
                                                        "a string"};
  constexpr std::array<std::string_view, 4> kArrays = {
      "an array of strings", "an array of integers", "an array of numbers", "an array of booleans"};
  if (const auto* array = std::get_if<GgufArray>(&value)) {
    return std::string(kArrays[array->values.index()]);
  }
  return std::string(kScalars[value.index()]);
}

Error wrong_kind(std::string_view file, std::string_view key, std::string_view wanted,
                 const GgufValue& value) {
  return error(ErrorCode::corrupt, "{}: metadata key {} is {}, not {}", file, key, kind_of(value),
               wanted);
}

template <typename T>
Result<std::optional<T>> scalar(const GgufFile& file, std::string_view key,
                                std::string_view wanted) {
  const GgufValue* value = file.find(key);
  if (value == nullptr) return std::optional<T>{};
  const T* found = std::get_if<T>(value);
  if (found == nullptr) return wrong_kind(file.name(), key, wanted, *value);
  return std::optional<T>{*found};
}

template <typename T>
Result<const std::vector<T>*> items(const GgufFile& file, std::string_view key,
                                    std::string_view wanted) {
  const GgufValue* value = file.find(key);
  if (value == nullptr) return static_cast<const std::vector<T>*>(nullptr);
  const auto* array = std::get_if<GgufArray>(value);
  const auto* found = array == nullptr ? nullptr : std::get_if<std::vector<T>>(&array->values);
  if (found == nullptr) return wrong_kind(file.name(), key, wanted, *value);
  return found;
}

}  // namespace

Result<GgufFile> GgufFile::read(std::span<const std::byte> bytes, std::string name,
                                std::vector<MappedFile> files) {
  Parser parser(bytes);
  if (auto parsed = parser.run(); !parsed.ok()) return std::move(parsed).error().within(name);
  GgufFile file;
  IMPETUS_TRY(file.weights_, WeightSet::build(std::move(files), std::move(parser.tensors),
                                              std::move(parser.unusable), name));
  file.metadata_ = std::move(parser.metadata);
  file.name_ = std::move(name);
  return file;
}

Result<GgufFile> GgufFile::parse(std::span<const std::byte> bytes, std::string_view name) {
  return read(bytes, std::string(name), {});
}

Result<GgufFile> GgufFile::open(const std::filesystem::path& path) {
  std::vector<MappedFile> files(1);
  IMPETUS_TRY(files[0], MappedFile::open(path));
  const auto bytes = files[0].bytes();
  return read(bytes, path.string(), std::move(files));
}

const GgufValue* GgufFile::find(std::string_view key) const {
  for (const auto& [name, value] : metadata_) {
    if (name == key) return &value;
  }
  return nullptr;
}

Result<std::optional<int64_t>> GgufFile::integer(std::string_view key) const {
  return scalar<int64_t>(*this, key, "an integer");
}

Result<std::optional<double>> GgufFile::number(std::string_view key) const {
  if (const GgufValue* value = find(key)) {
    if (const int64_t* integer = std::get_if<int64_t>(value)) {
      return std::optional<double>{static_cast<double>(*integer)};
    }
  }
  return scalar<double>(*this, key, "a number");
}

Result<std::optional<bool>> GgufFile::boolean(std::string_view key) const {
  return scalar<bool>(*this, key, "a boolean");
}

Result<std::optional<std::string_view>> GgufFile::string(std::string_view key) const {
  return scalar<std::string_view>(*this, key, "a string");
}

Result<const std::vector<std::string_view>*> GgufFile::strings(std::string_view key) const {
  return items<std::string_view>(*this, key, "an array of strings");
}

Result<const std::vector<int64_t>*> GgufFile::integers(std::string_view key) const {
  return items<int64_t>(*this, key, "an array of integers");
}

Result<const std::vector<double>*> GgufFile::numbers(std::string_view key) const {
  return items<double>(*this, key, "an array of numbers");
}

}  // namespace impetus

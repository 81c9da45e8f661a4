// Format: https://huggingface.co/docs/safetensors: a u64 length, that many bytes of JSON, then the
// data, which the tensors must cover from the first byte to the last without overlap or hole.
#include <algorithm>
#include <array>
#include <set>

#include "base/json.h"
#include "formats/bytes.h"
#include "formats/weights.h"

namespace impetus {
namespace {

constexpr uint64_t kHeaderBytesMax = 100'000'000;  // the format's own limit

struct DtypeRow {
  std::string_view name;
  int64_t bits;
  std::optional<DType> dtype;  // nullopt: known, not usable here
};

constexpr std::array kDtypes = {
    DtypeRow{"F32", 32, DType::f32},          DtypeRow{"F16", 16, DType::f16},
    DtypeRow{"BF16", 16, DType::bf16},        DtypeRow{"I64", 64, DType::i64},
    DtypeRow{"I32", 32, DType::i32},          DtypeRow{"I8", 8, DType::i8},
    DtypeRow{"U32", 32, DType::u32},          DtypeRow{"U8", 8, DType::u8},
    DtypeRow{"F64", 64, std::nullopt},        DtypeRow{"U64", 64, std::nullopt},
    DtypeRow{"U16", 16, std::nullopt},        DtypeRow{"I16", 16, std::nullopt},
    DtypeRow{"BOOL", 8, std::nullopt},        DtypeRow{"F8_E4M3", 8, std::nullopt},
    DtypeRow{"F8_E5M2", 8, std::nullopt},     DtypeRow{"F8_E8M0", 8, std::nullopt},
    DtypeRow{"F8_E4M3FNUZ", 8, std::nullopt}, DtypeRow{"F8_E5M2FNUZ", 8, std::nullopt},
    DtypeRow{"C64", 64, std::nullopt},        DtypeRow{"F4", 4, std::nullopt},
    DtypeRow{"F6_E2M3", 6, std::nullopt},     DtypeRow{"F6_E3M2", 6, std::nullopt},
};

struct Extent {
  uint64_t begin, end;
  std::string_view name;  // into the JSON document
};

// One entry of the header: [begin, end) in the data, and what the header says about it.
struct Entry {
  std::string dtype;
  std::vector<int64_t> dims;
  uint64_t begin = 0, end = 0;
};

Result<std::vector<int64_t>> integers(const json::object& object, std::string_view key) {
  const json::value* field = object.if_contains(key);
  if (field == nullptr || !field->is_array()) {
    return error(ErrorCode::corrupt, "'{}' is not an array", key);
  }
  std::vector<int64_t> values;
  for (const json::value& item : field->get_array()) {
    boost::system::error_code code;
    const auto value = item.is_int64() || item.is_uint64() ? item.to_number<int64_t>(code) : -1;
    if (code || value < 0) {
      return error(ErrorCode::corrupt, "'{}' holds {}, not a non-negative integer", key,
                   printable(json::serialize(item)));
    }
    values.push_back(value);
  }
  return values;
}

Result<Entry> read_entry(const json::value& value) {
  const json::object* object = value.if_object();
  if (object == nullptr) return error(ErrorCode::corrupt, "its entry is not an object");
  const json::value* dtype = object->if_contains("dtype");
  if (dtype == nullptr || !dtype->is_string()) {
    return error(ErrorCode::corrupt, "'dtype' is not a string");
  }
  IMPETUS_TRY(auto dims, integers(*object, "shape"));
  IMPETUS_TRY(const auto offsets, integers(*object, "data_offsets"));
  if (offsets.size() != 2) {
    return error(ErrorCode::corrupt, "'data_offsets' has {} numbers, not 2", offsets.size());
  }
  return Entry{std::string(dtype->get_string()), std::move(dims), static_cast<uint64_t>(offsets[0]),
               static_cast<uint64_t>(offsets[1])};
}

// Bytes that the shape needs, checked whatever its rank.
Result<uint64_t> bytes_wanted(const Entry& entry, int64_t bits) {
  int64_t product = 1;
  bool zero = false;
  for (const int64_t dim : entry.dims) {
    zero |= dim == 0;
    if (__builtin_mul_overflow(product, std::max<int64_t>(dim, 1), &product)) {
      return error(ErrorCode::corrupt, "its shape overflows");
    }
  }
  if (zero) return uint64_t{0};
  int64_t total_bits = 0;
  if (__builtin_mul_overflow(product, bits, &total_bits)) {
    return error(ErrorCode::corrupt, "its shape overflows");
  }
  if (total_bits % 8 != 0)
    return error(ErrorCode::corrupt, "its shape is no whole number of bytes");
  return static_cast<uint64_t>(total_bits / 8);
}

struct Parsed {
  std::vector<NamedTensor> tensors;
  std::vector<UnusableTensor> unusable;
};

Result<void> add_tensor(const Entry& entry, std::string_view name, std::span<const std::byte> data,
                        size_t file, Parsed& out) {
  if (entry.begin > entry.end || entry.end > data.size()) {
    return error(ErrorCode::corrupt, "data_offsets [{}, {}] leave the {} bytes of data",
                 entry.begin, entry.end, data.size());
  }
  const auto row = std::find_if(kDtypes.begin(), kDtypes.end(),
                                [&](const DtypeRow& known) { return known.name == entry.dtype; });
  if (row != kDtypes.end()) {
    IMPETUS_TRY(const uint64_t wanted, bytes_wanted(entry, row->bits));
    if (wanted != entry.end - entry.begin) {
      return error(ErrorCode::corrupt, "data_offsets [{}, {}] span {} bytes, its shape needs {}",
                   entry.begin, entry.end, entry.end - entry.begin, wanted);
    }
  }
  const bool small = entry.dims.size() <= Shape::kRankMax;
  if (row != kDtypes.end() && row->dtype && small) {
    IMPETUS_TRY(const Shape shape, Shape::checked(entry.dims));
    const auto bytes = data.subspan(entry.begin, entry.end - entry.begin);
    out.tensors.push_back({std::string(name), {*row->dtype, shape, bytes}, file});
    return {};
  }
  Shape shape;
  if (small) {
    // A dtype without a row has no size to check its shape by, so the product may still overflow.
    IMPETUS_TRY(shape, Shape::checked(entry.dims));
  }
  const bool usable_type = row != kDtypes.end() && row->dtype;
  std::string why =
      usable_type
          ? fmt::format("has {} dimensions, more than {}", entry.dims.size(), Shape::kRankMax)
          : fmt::format("has dtype {}, which this version does not run; it runs F32, F16, BF16",
                        printable(entry.dtype));
  out.unusable.push_back({std::string(name), std::move(why), printable(entry.dtype), shape, file});
  return {};
}

Result<void> check_metadata(const json::value& value) {
  if (value.is_null()) return {};  // so MLX writes that there is none
  const json::object* object = value.if_object();
  if (object == nullptr) return error(ErrorCode::corrupt, "__metadata__ is not an object");
  for (const auto& [key, item] : *object) {
    if (!item.is_string()) {
      return error(ErrorCode::corrupt, "__metadata__: '{}' is not a string", printable(key));
    }
  }
  return {};
}

Result<void> check_coverage(std::vector<Extent>& extents, uint64_t size) {
  std::sort(extents.begin(), extents.end(), [](const Extent& a, const Extent& b) {
    return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
  });
  uint64_t at = 0;
  for (size_t i = 0; i < extents.size(); ++i) {
    const Extent& extent = extents[i];
    if (extent.begin < at) {
      return error(ErrorCode::corrupt, "tensor {}: its data overlaps that of {}",
                   printable(extent.name), printable(extents[i - 1].name));
    }
    if (extent.begin > at) {
      return error(ErrorCode::corrupt,
                   "tensor {}: bytes {} to {} before its data belong to no tensor",
                   printable(extent.name), at, extent.begin);
    }
    at = extent.end;
  }
  if (at != size) {
    return error(ErrorCode::corrupt, "the last {} of {} bytes of data belong to no tensor",
                 size - at, size);
  }
  return {};
}

Result<void> parse(std::span<const std::byte> bytes, size_t file, Parsed& out) {
  ByteReader reader(bytes);
  const auto header_size = reader.read<uint64_t>();
  if (!header_size) {
    return error(ErrorCode::corrupt, "{} bytes are too few for a safetensors file", bytes.size());
  }
  if (*header_size > kHeaderBytesMax) {
    return error(ErrorCode::corrupt,
                 "the header claims {} bytes, more than the {} the format allows", *header_size,
                 kHeaderBytesMax);
  }
  const auto header = reader.take(*header_size);
  if (!header) {
    return error(ErrorCode::corrupt, "truncated: the header claims {} bytes, {} follow",
                 *header_size, reader.remaining());
  }
  const std::string_view text = as_text(*header);
  if (text.empty() || text.front() != '{') {
    return error(ErrorCode::corrupt, "the header does not begin with '{{'");
  }
  auto document = parse_json_unique(text);
  if (!document.ok()) {
    Error failure = std::move(document).error().within("header");
    failure.code = ErrorCode::corrupt;
    return failure;
  }
  const auto data = bytes.subspan(reader.position());
  std::vector<Extent> extents;
  for (const auto& [key, value] : document->get_object()) {
    const std::string_view name = key;
    if (name == "__metadata__") {
      IMPETUS_CHECK(check_metadata(value));
      continue;
    }
    const auto place = [&] { return fmt::format("tensor {}", printable(name)); };
    auto entry = read_entry(value);
    if (!entry.ok()) return std::move(entry).error().within(place());
    if (auto added = add_tensor(*entry, name, data, file, out); !added.ok()) {
      return std::move(added).error().within(place());
    }
    extents.push_back({entry->begin, entry->end, name});
  }
  return check_coverage(extents, data.size());
}

Result<void> parse_file(const MappedFile& mapped, size_t file, Parsed& out) {
  auto parsed = parse(mapped.bytes(), file, out);
  if (!parsed.ok()) return std::move(parsed).error().within(mapped.path().string());
  return {};
}

// The index: {"weight_map": {tensor: shard}}, https://huggingface.co/docs/safetensors (sharded
// checkpoints as transformers writes them).
Result<std::vector<std::pair<std::string, std::string>>> read_index(const std::string& path) {
  IMPETUS_TRY(const std::string text, read_file(path));
  auto document = parse_json_unique(text);
  if (!document.ok()) {
    Error failure = std::move(document).error().within(path);
    failure.code = ErrorCode::corrupt;
    return failure;
  }
  const json::object* root = document->if_object();
  const json::value* map = root == nullptr ? nullptr : root->if_contains("weight_map");
  if (map == nullptr || !map->is_object()) {
    return error(ErrorCode::corrupt, "{}: 'weight_map' is not an object", path);
  }
  std::vector<std::pair<std::string, std::string>> entries;
  for (const auto& [tensor, shard] : map->get_object()) {
    if (!shard.is_string()) {
      return error(ErrorCode::corrupt, "{}: tensor {}: its shard is not a string", path,
                   printable(tensor));
    }
    entries.emplace_back(std::string_view(tensor), std::string_view(shard.get_string()));
  }
  if (entries.empty()) return error(ErrorCode::corrupt, "{}: 'weight_map' is empty", path);
  return entries;
}

// Whether a shard's name stays inside its folder, read as text: links inside the folder are the
// user's own arrangement (the Hugging Face cache is made of them).
bool stays_inside(std::string_view shard) {
  const std::filesystem::path path(shard);
  if (shard.empty() || shard.find('\0') != std::string_view::npos || path.is_absolute())
    return false;
  return std::none_of(path.begin(), path.end(), [](const auto& part) { return part == ".."; });
}

Result<WeightSet> open_shards(const std::filesystem::path& folder,
                              const std::filesystem::path& index) {
  IMPETUS_TRY(const auto entries, read_index(index.string()));
  std::map<std::string, size_t> shards;
  for (const auto& [tensor, shard] : entries) {
    if (!stays_inside(shard)) {
      return error(ErrorCode::corrupt, "{}: tensor {}: its shard '{}' is outside the folder",
                   index.string(), printable(tensor), printable(shard));
    }
    shards.emplace(shard, 0);
  }
  std::vector<MappedFile> files;
  Parsed parsed;
  for (auto& [shard, file] : shards) {
    file = files.size();
    auto mapped = MappedFile::open(folder / shard);
    if (!mapped.ok()) {
      return std::move(mapped).error().within(fmt::format("{}: shard", index.string()));
    }
    IMPETUS_CHECK(parse_file(*mapped, file, parsed));
    files.push_back(std::move(*mapped));
  }
  IMPETUS_TRY(WeightSet set, WeightSet::build(std::move(files), std::move(parsed.tensors),
                                              std::move(parsed.unusable)));
  std::map<std::string_view, size_t> where;
  for (const NamedTensor& tensor : set.tensors()) where.emplace(tensor.name, tensor.file);
  for (const UnusableTensor& tensor : set.unusable()) where.emplace(tensor.name, tensor.file);
  for (const auto& [tensor, shard] : entries) {
    const auto found = where.find(tensor);
    if (found == where.end() || found->second != shards.at(shard)) {
      return error(ErrorCode::corrupt, "{}: tensor {} is missing: {} puts it there",
                   (folder / shard).string(), printable(tensor), index.filename().string());
    }
  }
  return set;
}

}  // namespace

Result<WeightSet> parse_safetensors(std::span<const std::byte> bytes, std::string_view name) {
  Parsed parsed;
  if (auto done = parse(bytes, 0, parsed); !done.ok()) return std::move(done).error().within(name);
  return WeightSet::build({}, std::move(parsed.tensors), std::move(parsed.unusable),
                          std::string(name));
}

Result<WeightSet> open_safetensors(const std::filesystem::path& path) {
  std::vector<MappedFile> files(1);
  IMPETUS_TRY(files[0], MappedFile::open(path));
  Parsed parsed;
  IMPETUS_CHECK(parse_file(files[0], 0, parsed));
  return WeightSet::build(std::move(files), std::move(parsed.tensors), std::move(parsed.unusable));
}

Result<WeightSet> open_safetensors_folder(const std::filesystem::path& folder) {
  std::error_code ignored;
  const auto single = folder / "model.safetensors";
  if (std::filesystem::exists(single, ignored)) return open_safetensors(single);
  const auto index = folder / "model.safetensors.index.json";
  if (std::filesystem::exists(index, ignored)) return open_shards(folder, index);
  if (std::filesystem::exists(folder / "pytorch_model.bin", ignored)) {
    return error(ErrorCode::unsupported,
                 "{}: the weights are in pytorch_model.bin, which this version does not read: "
                 "convert them to model.safetensors",
                 folder.string());
  }
  return error(ErrorCode::not_found,
               "{}: neither model.safetensors nor model.safetensors.index.json is there",
               folder.string());
}

}  // namespace impetus

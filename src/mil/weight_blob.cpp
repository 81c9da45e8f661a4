#include "mil/weight_blob.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cassert>
#include <cstring>
#include <string_view>

namespace impetus::mil {
namespace {

static_assert(std::endian::native == std::endian::little, "weights are mapped as they are");

constexpr uint64_t kAlignment = 64;
constexpr uint32_t kVersion = 2, kSentinel = 0xDEADBEEF;

struct Header {
  uint32_t count = 0, version = kVersion;
  std::array<uint64_t, 7> reserved = {};
};
struct BlobMetadata {
  uint32_t sentinel = kSentinel, code = 0;
  uint64_t bytes = 0, data_offset = 0, unused_bits = 0;
  std::array<uint64_t, 4> reserved = {};
};
static_assert(sizeof(Header) == kAlignment && sizeof(BlobMetadata) == kAlignment);

struct CodeRow {
  DataType type;
  uint32_t code;
};
constexpr std::array<CodeRow, 17> kCodes{{
    {DataType::f16, 1},
    {DataType::f32, 2},
    {DataType::u8, 3},
    {DataType::i8, 4},
    {DataType::bf16, 5},
    {DataType::i16, 6},
    {DataType::u16, 7},
    {DataType::i4, 8},
    {DataType::u1, 9},
    {DataType::u2, 10},
    {DataType::u4, 11},
    {DataType::u3, 12},
    {DataType::u6, 13},
    {DataType::i32, 14},
    {DataType::u32, 15},
    {DataType::f8e4m3fn, 16},
    {DataType::f8e5m2, 17},
}};

const CodeRow* row_of(DataType type) {
  const auto found = std::ranges::find(kCodes, type, &CodeRow::type);
  return found == kCodes.end() ? nullptr : &*found;
}

std::string code_name(uint32_t code) {
  const auto found = std::ranges::find(kCodes, code, &CodeRow::code);
  return found == kCodes.end() ? fmt::format("unknown type {}", code)
                               : std::string(to_string(found->type));
}

template <typename T>
T read_at(std::span<const std::byte> bytes, uint64_t offset) {
  T value;
  std::memcpy(&value, bytes.data() + offset, sizeof(T));
  return value;
}

template <typename T>
std::span<const std::byte> bytes_of(const T& value) {
  return std::as_bytes(std::span(&value, 1));
}

uint64_t aligned(uint64_t offset) {
  return (offset + kAlignment - 1) / kAlignment * kAlignment;
}

// Of the last byte, where elements take less than one. REQUIRES elements().
uint32_t unused_bits_of(const TensorType& type) {
  const auto elements = static_cast<uint64_t>(*type.elements());
  const uint64_t used = elements % 8 * static_cast<uint64_t>(bits_of(type.dtype)) % 8;
  return used == 0 ? 0 : static_cast<uint32_t>(8 - used);
}

}  // namespace

bool has_blob_code(DataType type) {
  return row_of(type) != nullptr;
}

Result<BlobFile> BlobFile::open(std::span<const std::byte> bytes,
                                std::shared_ptr<const void> owner) {
  if (bytes.size() < sizeof(Header)) {
    return error(ErrorCode::corrupt, "{} bytes, where a weight file's header alone takes {}",
                 bytes.size(), sizeof(Header));
  }
  const auto header = read_at<Header>(bytes, 0);
  if (header.version != kVersion) {
    return error(ErrorCode::unsupported, "a weight file of version {}; this build reads {}",
                 header.version, kVersion);
  }
  if (header.count > (bytes.size() - sizeof(Header)) / sizeof(BlobMetadata)) {
    return error(ErrorCode::corrupt, "{} blobs cannot stand in {} bytes", header.count,
                 bytes.size());
  }
  BlobFile file;
  file.bytes_ = bytes;
  file.owner_ = std::move(owner);
  return file;
}

Result<Bytes> BlobFile::tensor(uint64_t offset, const TensorType& type) const {
  const auto fail = [&](const std::string& what) {
    return error(ErrorCode::corrupt, "weight blob at {}: {}", offset, what);
  };
  const auto bytes = type.bytes();
  const CodeRow* row = row_of(type.dtype);
  if (!bytes || row == nullptr) {
    return fail(fmt::format("no blob can be the declared {}", type.to_string()));
  }
  const uint64_t size = bytes_.size();
  if (offset % kAlignment != 0 || offset < sizeof(Header)) {
    return fail("no place for a blob: they stand on multiples of 64, after the header");
  }
  if (offset > size || size - offset < sizeof(BlobMetadata)) {
    return fail(fmt::format("past the end of the file, which has {} bytes", size));
  }
  const auto metadata = read_at<BlobMetadata>(bytes_, offset);
  if (metadata.sentinel != kSentinel) {
    return fail(
        fmt::format("starts with {:#010x}, not with {:#010x}", metadata.sentinel, kSentinel));
  }
  if (metadata.code != row->code) {
    return fail(fmt::format("holds {}, the program declares {}", code_name(metadata.code),
                            type.to_string()));
  }
  if (metadata.data_offset % kAlignment != 0 ||
      metadata.data_offset < offset + sizeof(BlobMetadata)) {
    return fail(fmt::format("its data at {} overlap its metadata, or are not on a multiple of 64",
                            metadata.data_offset));
  }
  if (metadata.data_offset > size || metadata.bytes > size - metadata.data_offset) {
    return fail(fmt::format("{} bytes at {} end past the file, which has {}", metadata.bytes,
                            metadata.data_offset, size));
  }
  if (metadata.bytes != static_cast<uint64_t>(*bytes)) {
    return fail(
        fmt::format("{} bytes, where {} takes {}", metadata.bytes, type.to_string(), *bytes));
  }
  // Older writers leave the field as it was for whole-byte types.
  if (bits_of(type.dtype) < 8 && metadata.unused_bits != unused_bits_of(type)) {
    return fail(fmt::format("{} unused bits, where {} has {}", metadata.unused_bits,
                            type.to_string(), unused_bits_of(type)));
  }
  return Bytes{bytes_.subspan(metadata.data_offset, metadata.bytes), owner_};
}

uint64_t BlobLayout::add(const TensorType& type, std::span<const std::byte> bytes) {
  const CodeRow* row = row_of(type.dtype);
  assert(row != nullptr && type.bytes() && static_cast<uint64_t>(*type.bytes()) == bytes.size());
  const uint32_t unused_bits = unused_bits_of(type);
  const size_t hash =
      std::hash<std::string_view>{}({reinterpret_cast<const char*>(bytes.data()), bytes.size()});
  for (auto [at, end] = by_hash_.equal_range(hash); at != end; ++at) {
    const Blob& blob = blobs_[at->second];
    if (blob.code == row->code && blob.unused_bits == unused_bits &&
        std::ranges::equal(blob.bytes, bytes)) {
      return blob.offset;
    }
  }
  const uint64_t offset = aligned(end_);
  by_hash_.emplace(hash, blobs_.size());
  blobs_.push_back({row->code, unused_bits, offset, bytes});
  end_ = offset + sizeof(BlobMetadata) + bytes.size();
  return offset;
}

uint64_t BlobLayout::file_bytes() const {
  return empty() ? 0 : end_;
}

Result<void> BlobLayout::write(const Sink& sink) const {
  if (empty()) return {};
  const Header header{.count = static_cast<uint32_t>(blobs_.size())};
  IMPETUS_CHECK(sink(bytes_of(header)));
  uint64_t at = sizeof(Header);
  const std::array<std::byte, kAlignment> zeros{};
  for (const Blob& blob : blobs_) {
    IMPETUS_CHECK(sink(std::span(zeros).first(blob.offset - at)));
    const BlobMetadata metadata{.code = blob.code,
                                .bytes = blob.bytes.size(),
                                .data_offset = blob.offset + sizeof(BlobMetadata),
                                .unused_bits = blob.unused_bits};
    IMPETUS_CHECK(sink(bytes_of(metadata)));
    IMPETUS_CHECK(sink(blob.bytes));
    at = metadata.data_offset + blob.bytes.size();
  }
  return {};
}

std::vector<std::span<const std::byte>> BlobLayout::blobs() const {
  std::vector<std::span<const std::byte>> all;
  for (const Blob& blob : blobs_) all.push_back(blob.bytes);
  return all;
}

}  // namespace impetus::mil

// weight.bin, where an ML Program's large constants stand. Little-endian: a header of 64 bytes
// (u32 count, u32 version 2, zeros), then for each blob 64 bytes of metadata (u32 sentinel
// 0xDEADBEEF, u32 type, u64 bytes, u64 offset of the data, u64 unused bits of the last byte, zeros)
// and its data, both on multiples of 64. A program names a blob by the offset of its metadata.
// Source: coremltools, mlmodel/src/MILBlob/Blob/StorageFormat.hpp.
#pragma once

#include <cstddef>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include "base/result.h"
#include "mil/program.h"

namespace impetus::mil {

// Whether the file has a code for the type: no bool, string or 64-bit type does.
bool has_blob_code(DataType type);

// A weight file's bytes, which `owner` keeps alive. Immutable; any thread may read.
class BlobFile {
 public:
  // corrupt where the header is not one.
  static Result<BlobFile> open(std::span<const std::byte> bytes,
                               std::shared_ptr<const void> owner = {});

  // The data of the blob whose metadata stand at `offset`; corrupt where they lie outside the file
  // or are not those of a tensor of this type and shape. Nothing is copied.
  Result<Bytes> tensor(uint64_t offset, const TensorType& type) const;

 private:
  std::span<const std::byte> bytes_;
  std::shared_ptr<const void> owner_;
};

// Where each blob of a file to be written will stand. Equal ones (type, bytes) stand there once.
// Borrows the bytes until the file is written.
class BlobLayout {
 public:
  // Offset of the blob's metadata. REQUIRES a type with a code, and the bytes of `type`.
  uint64_t add(const TensorType& type, std::span<const std::byte> bytes);

  bool empty() const { return blobs_.empty(); }
  uint64_t file_bytes() const;  // 0 where it is empty

  using Sink = std::function<Result<void>(std::span<const std::byte>)>;
  // The file, front to back, in pieces; nothing where it is empty. Stops at the sink's first error.
  Result<void> write(const Sink& sink) const;

  // The data of each blob, in the file's order.
  std::vector<std::span<const std::byte>> blobs() const;

 private:
  struct Blob {
    uint32_t code;
    uint32_t unused_bits;
    uint64_t offset;  // of the metadata
    std::span<const std::byte> bytes;
  };
  std::vector<Blob> blobs_;
  std::multimap<size_t, size_t> by_hash_;  // hash of the bytes -> index
  uint64_t end_ = 64;
};

}  // namespace impetus::mil

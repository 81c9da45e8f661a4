// A read-only memory-mapped file. Owns the mapping; views into it live as long as it does.
// Immutable after open, so any thread may read. A file that another process truncates while it is
// mapped raises SIGBUS, as with every mapping.
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>

#include "base/result.h"

namespace impetus {

class MappedFile {
 public:
  static Result<MappedFile> open(const std::filesystem::path& path);

  MappedFile() = default;
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  ~MappedFile();

  const std::filesystem::path& path() const { return path_; }
  std::span<const std::byte> bytes() const { return {data_, size_}; }

  // Tells the system that these bytes are not needed soon: they leave resident memory and come back
  // from the file when touched. Bytes outside the mapping are ignored.
  void release(std::span<const std::byte> bytes) const;

 private:
  std::filesystem::path path_;
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
};

// Reads a whole text file of at most `bytes_max` bytes.
Result<std::string> read_file(const std::filesystem::path& path, size_t bytes_max = 256u << 20);

}  // namespace impetus

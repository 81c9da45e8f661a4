// Advisory locks between processes (and threads) on a file of their own: flock(2). Movable; given
// back when it goes, also by a process that dies.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>

#include "base/result.h"

namespace impetus {

class FileLock {
 public:
  enum class Kind : uint8_t { shared, exclusive };

  // Makes the file where there is none. `try_take` gives nothing where another holder is in the
  // way; `take` waits.
  static Result<std::optional<FileLock>> try_take(const std::filesystem::path& path, Kind kind);
  static Result<FileLock> take(const std::filesystem::path& path, Kind kind);

  FileLock() = default;
  FileLock(FileLock&& other) noexcept;
  FileLock& operator=(FileLock&& other) noexcept;
  ~FileLock();

  // Removes the file: those who wait for it take a new one. REQUIRES: held exclusively.
  void remove_file();

 private:
  static Result<std::optional<FileLock>> attempt(const std::filesystem::path& path, int operation);
  void release();

  std::filesystem::path path_;
  int descriptor_ = -1;
};

}  // namespace impetus

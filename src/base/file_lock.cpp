#include "base/file_lock.h"

#include <cerrno>
#include <system_error>
#include <utility>

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

namespace impetus {

FileLock::FileLock(FileLock&& other) noexcept
    : path_(std::move(other.path_)), descriptor_(std::exchange(other.descriptor_, -1)) {}

FileLock& FileLock::operator=(FileLock&& other) noexcept {
  if (this != &other) {
    release();
    path_ = std::move(other.path_);
    descriptor_ = std::exchange(other.descriptor_, -1);
  }
  return *this;
}

FileLock::~FileLock() {
  release();
}

void FileLock::release() {
  if (descriptor_ >= 0) ::close(std::exchange(descriptor_, -1));
}

Result<std::optional<FileLock>> FileLock::attempt(const std::filesystem::path& path,
                                                  int operation) {
  const auto failed = [&](int number) {
    return error(ErrorCode::io, "{}: cannot be locked: {}", path.string(),
                 std::generic_category().message(number));
  };
  for (;;) {
    FileLock lock;
    lock.path_ = path;
    lock.descriptor_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (lock.descriptor_ < 0) return failed(errno);
    int done;
    do {
      done = ::flock(lock.descriptor_, operation);
    } while (done != 0 && errno == EINTR);
    if (done != 0) {
      if (errno == EWOULDBLOCK) return std::optional<FileLock>();
      return failed(errno);
    }
    // Whoever held it may have removed the file meanwhile: then this locks nothing.
    struct stat mine{}, named{};
    if (::fstat(lock.descriptor_, &mine) == 0 && ::stat(path.c_str(), &named) == 0 &&
        mine.st_ino == named.st_ino && mine.st_dev == named.st_dev) {
      return std::optional<FileLock>(std::move(lock));
    }
  }
}

Result<std::optional<FileLock>> FileLock::try_take(const std::filesystem::path& path, Kind kind) {
  return attempt(path, (kind == Kind::shared ? LOCK_SH : LOCK_EX) | LOCK_NB);
}

Result<FileLock> FileLock::take(const std::filesystem::path& path, Kind kind) {
  IMPETUS_TRY(auto lock, attempt(path, kind == Kind::shared ? LOCK_SH : LOCK_EX));
  return std::move(*lock);
}

void FileLock::remove_file() {
  std::error_code code;
  std::filesystem::remove(path_, code);
}

}  // namespace impetus

#include "base/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

namespace impetus {
namespace {

Error system_error(const std::filesystem::path& path, const char* action) {
  const int code = errno;
  return error(code == ENOENT ? ErrorCode::not_found : ErrorCode::io, "{}: cannot {}: {}",
               path.string(), action, std::strerror(code));
}

// Opens a regular file and tells its size; the descriptor is the caller's to close.
Result<std::pair<int, size_t>> open_regular(const std::filesystem::path& path) {
  // O_NONBLOCK: opening a FIFO must not wait for a writer. It means nothing for regular files.
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return system_error(path, "open");
  struct stat info{};
  if (::fstat(fd, &info) != 0) {
    Error failure = system_error(path, "stat");
    ::close(fd);
    return failure;
  }
  if (!S_ISREG(info.st_mode)) {
    ::close(fd);
    return error(ErrorCode::invalid_argument, "{}: not a regular file", path.string());
  }
  return std::pair{fd, static_cast<size_t>(info.st_size)};
}

}  // namespace

Result<MappedFile> MappedFile::open(const std::filesystem::path& path) {
  IMPETUS_TRY(const auto opened, open_regular(path));
  const auto [fd, size] = opened;
  MappedFile file;
  file.path_ = path;
  file.size_ = size;
  if (size > 0) {
    void* data = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (data == MAP_FAILED) {
      Error failure = system_error(path, "map");
      ::close(fd);
      return failure;
    }
    file.data_ = static_cast<const std::byte*>(data);
  }
  ::close(fd);
  return file;
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)),
      data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), size_);
}

void MappedFile::release(std::span<const std::byte> bytes) const {
  if (bytes.data() < data_ || bytes.data() + bytes.size() > data_ + size_) return;
  const auto page = static_cast<uintptr_t>(::sysconf(_SC_PAGESIZE));
  const auto begin = (reinterpret_cast<uintptr_t>(bytes.data()) + page - 1) / page * page;
  const auto end = reinterpret_cast<uintptr_t>(bytes.data() + bytes.size()) / page * page;
  if (begin < end) ::madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
}

Result<std::string> read_file(const std::filesystem::path& path, size_t bytes_max) {
  IMPETUS_TRY(const auto opened, open_regular(path));
  const auto [fd, size] = opened;
  if (size > bytes_max) {
    ::close(fd);
    return error(ErrorCode::invalid_argument, "{}: {} bytes, more than the {} allowed here",
                 path.string(), size, bytes_max);
  }
  std::string text(size, '\0');
  size_t done = 0;
  while (done < size) {
    const ssize_t n = ::read(fd, text.data() + done, size - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) {
      Error failure = system_error(path, "read");
      ::close(fd);
      return failure;
    }
    if (n == 0) break;
    done += static_cast<size_t>(n);
  }
  ::close(fd);
  text.resize(done);
  return text;
}

}  // namespace impetus

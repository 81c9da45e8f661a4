#include "base/replace_file.h"

#include <cerrno>
#include <cstring>

#include <fcntl.h>
#include <unistd.h>

namespace impetus {
namespace {

namespace fs = std::filesystem;

// 0, or what the system said.
int write_all(const fs::path& path, std::string_view bytes, mode_t mode) {
  const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode);
  if (fd < 0) return errno;
  int code = 0;
  while (!bytes.empty() && code == 0) {
    const ssize_t count = ::write(fd, bytes.data(), bytes.size());
    if (count >= 0) {
      bytes.remove_prefix(static_cast<size_t>(count));
    } else if (errno != EINTR) {
      code = errno;
    }
  }
  if (::close(fd) != 0 && code == 0) code = errno;
  return code;
}

}  // namespace

Result<void> replace_file(const fs::path& path, std::string_view bytes, Readable readable) {
  std::error_code code;
  if (path.has_parent_path()) fs::create_directories(path.parent_path(), code);
  if (code) {
    return error(ErrorCode::io, "{} cannot be made: {}", path.parent_path().string(),
                 code.message());
  }
  const fs::path fresh = path.string() + fmt::format(".{}", ::getpid());
  code.assign(write_all(fresh, bytes, readable == Readable::by_user ? 0600 : 0666),
              std::generic_category());
  if (!code) fs::rename(fresh, path, code);
  if (!code) return {};
  std::error_code ignored;
  fs::remove(fresh, ignored);
  return error(ErrorCode::io, "{} cannot be written: {}", path.string(), code.message());
}

}  // namespace impetus

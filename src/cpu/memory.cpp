#include "cpu/memory.h"

#include <sys/mman.h>

#include <cerrno>
#include <cstring>

namespace impetus::cpu {

Result<Memory> Memory::map(int64_t bytes, std::string_view purpose, bool large_pages) {
  Memory memory;
  if (bytes <= 0) return memory;
  int flags = MAP_PRIVATE | MAP_ANONYMOUS;
#ifdef MAP_NORESERVE
  flags |= MAP_NORESERVE;  // the ledger has counted it already
#endif
  void* data = ::mmap(nullptr, static_cast<size_t>(bytes), PROT_READ | PROT_WRITE, flags, -1, 0);
  if (data == MAP_FAILED) {
    return error(ErrorCode::insufficient_memory, "{}: cannot map {} bytes: {}", purpose, bytes,
                 std::strerror(errno));
  }
#ifdef MADV_HUGEPAGE
  if (large_pages) ::madvise(data, static_cast<size_t>(bytes), MADV_HUGEPAGE);
#endif
  memory.data_ = static_cast<std::byte*>(data);
  memory.bytes_ = bytes;
  return memory;
}

Memory::~Memory() {
  if (data_ != nullptr) ::munmap(data_, static_cast<size_t>(bytes_));
}

}  // namespace impetus::cpu

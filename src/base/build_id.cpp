#include "base/build_id.h"

#include <fmt/format.h>

#if defined(__linux__)
#include <elf.h>
#include <link.h>

#include <cstring>
#endif

namespace impetus {

#if defined(__linux__)
std::string build_id() {
  std::string id;
  // The first object is the program itself; its notes hold the identity (NT_GNU_BUILD_ID).
  dl_iterate_phdr(
      [](dl_phdr_info* info, size_t, void* out) {
        for (int i = 0; i < info->dlpi_phnum; ++i) {
          const ElfW(Phdr)& segment = info->dlpi_phdr[i];
          if (segment.p_type != PT_NOTE) continue;
          const char* at = reinterpret_cast<const char*>(info->dlpi_addr + segment.p_vaddr);
          const char* const end = at + segment.p_memsz;
          const auto padded = [](uint32_t size) { return (size_t{size} + 3) & ~size_t{3}; };
          while (at + sizeof(ElfW(Nhdr)) <= end) {
            ElfW(Nhdr) note;
            std::memcpy(&note, at, sizeof(note));
            const char* name = at + sizeof(note);
            const char* value = name + padded(note.n_namesz);
            if (note.n_type == NT_GNU_BUILD_ID && note.n_namesz == 4 &&
                std::memcmp(name, "GNU", 4) == 0) {
              for (uint32_t b = 0; b < note.n_descsz; ++b) {
                *static_cast<std::string*>(out) +=
                    fmt::format("{:02x}", static_cast<unsigned char>(value[b]));
              }
              return 1;
            }
            at = value + padded(note.n_descsz);
          }
        }
        return 1;
      },
      &id);
  return id;
}
#else
std::string build_id() {
  return {};
}
#endif

}  // namespace impetus

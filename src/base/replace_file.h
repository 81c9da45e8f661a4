// A file that is there whole or not at all: written beside, then renamed into place.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string_view>

#include "base/result.h"

namespace impetus {

enum class Readable : uint8_t { by_all, by_user };  // as the umask allows; by this user alone

// Replaces what is at `path`. Folders that lack are made. io names the file and the system's
// reason; what was there before stands then. Two programs at once: the last one wins.
Result<void> replace_file(const std::filesystem::path& path, std::string_view bytes,
                          Readable readable = Readable::by_all);

}  // namespace impetus

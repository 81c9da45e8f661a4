// The text files below a folder. Stateless; any thread.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "base/result.h"

namespace impetus {

struct FoundFiles {
  std::vector<std::filesystem::path> files;  // regular, sorted
  int64_t hidden = 0;                        // entries passed over; a hidden folder counts once
  std::vector<std::string> unreadable;       // "path: why"
};

// `root` itself where it is a file, hidden or not. Links to files are followed, links to folders
// are not. not_found where there is none.
Result<FoundFiles> find_files(const std::filesystem::path& root);

struct TextFile {
  enum class Kind : uint8_t { text, binary, not_utf8, too_large };
  Kind kind = Kind::text;
  std::string text;  // of Kind::text alone
};

inline constexpr int64_t kTextFileBytesMax = 64 << 20;

// binary: a zero byte in the first 8 KiB. io where it cannot be read.
Result<TextFile> read_text_file(const std::filesystem::path& path);

}  // namespace impetus

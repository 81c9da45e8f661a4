#include "search/files.h"

#include <algorithm>
#include <fstream>

#include "base/mapped_file.h"
#include "text/unicode.h"

namespace impetus {

namespace fs = std::filesystem;

Result<FoundFiles> find_files(const fs::path& root) {
  std::error_code code;
  const fs::file_status status = fs::status(root, code);
  if (!fs::exists(status)) {
    return error(ErrorCode::not_found, "there is no file or folder {}", root.string());
  }
  FoundFiles found;
  if (fs::is_regular_file(status)) {
    found.files.push_back(root);
    return found;
  }
  if (!fs::is_directory(status)) {
    return error(ErrorCode::invalid_argument, "{} is neither a file nor a folder", root.string());
  }
  // A folder that cannot be read is one entry of the report, not the walk's end.
  std::vector<fs::path> folders = {root};
  while (!folders.empty()) {
    const fs::path folder = std::move(folders.back());
    folders.pop_back();
    fs::directory_iterator entry(folder, code);
    for (; !code && entry != fs::directory_iterator(); entry.increment(code)) {
      const fs::path& path = entry->path();
      std::error_code unknown;
      if (path.filename().string().starts_with('.')) {
        ++found.hidden;
      } else if (entry->is_symlink(unknown) && !entry->is_regular_file(unknown)) {
        continue;
      } else if (entry->is_directory(unknown)) {
        folders.push_back(path);
      } else if (entry->is_regular_file(unknown)) {
        found.files.push_back(path);
      }
    }
    if (code) found.unreadable.push_back(folder.string() + ": " + code.message());
  }
  std::ranges::sort(found.files);
  return found;
}

Result<TextFile> read_text_file(const fs::path& path) {
  constexpr size_t kLook = 8 << 10;
  std::error_code code;
  const auto size = fs::file_size(path, code);
  if (code) return error(ErrorCode::io, "{}: {}", path.string(), code.message());
  if (size > static_cast<uintmax_t>(kTextFileBytesMax)) {
    // A large file is mostly no text at all: its beginning tells.
    std::string begin(kLook, 'x');
    std::ifstream(path, std::ios::binary).read(begin.data(), kLook);
    const bool zero = begin.find('\0') != begin.npos;
    return TextFile{zero ? TextFile::Kind::binary : TextFile::Kind::too_large, {}};
  }
  auto text = read_file(path, kTextFileBytesMax);
  if (!text.ok()) return std::move(text).error();
  if (std::string_view(*text).substr(0, kLook).find('\0') != std::string_view::npos) {
    return TextFile{TextFile::Kind::binary, {}};
  }
  if (unicode::valid_prefix(*text) != text->size()) return TextFile{TextFile::Kind::not_utf8, {}};
  return TextFile{TextFile::Kind::text, std::move(*text)};
}

}  // namespace impetus

#include "terminal/input_history.h"

#include <cerrno>
#include <cstring>

#include <fcntl.h>
#include <unistd.h>

#include "base/mapped_file.h"
#include "base/replace_file.h"
#include "base/utf8.h"

namespace impetus {
namespace {

namespace fs = std::filesystem;

std::string escaped(const std::string& entry) {
  std::string line;
  for (const char c : entry) {
    if (c == '\\')
      line += "\\\\";
    else if (c == '\n')
      line += "\\n";
    else
      line += c;
  }
  return line + '\n';
}

std::string unescaped(std::string_view line) {
  std::string entry;
  for (size_t i = 0; i < line.size(); ++i) {
    if (line[i] == '\\' && i + 1 < line.size()) {
      ++i;
      entry += line[i] == 'n' ? '\n' : line[i];
    } else {
      entry += line[i];
    }
  }
  return entry;
}

Result<void> append(const fs::path& file, const std::string& text) {
  const int fd = ::open(file.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  const bool whole =
      fd >= 0 && ::write(fd, text.data(), text.size()) == static_cast<ssize_t>(text.size());
  const int code = errno;
  if (fd >= 0) ::close(fd);
  if (whole) return {};
  return error(ErrorCode::io, "{} cannot be written: {}", file.string(), std::strerror(code));
}

}  // namespace

InputHistory::InputHistory(fs::path file) : file_(std::move(file)) {
  const auto text = read_file(file_, 256u << 20);
  if (!text.ok()) return;
  size_t lines = 0;
  for (size_t at = 0; at < text->size(); ++lines) {
    const size_t end = std::min(text->find('\n', at), text->size());
    std::string entry = unescaped(std::string_view(*text).substr(at, end - at));
    at = end + 1;
    if (!entry.empty() && repair_utf8(entry) == entry) entries_.push_back(std::move(entry));
  }
  if (entries_.size() > kEntriesMax) {
    entries_.erase(entries_.begin(), entries_.end() - kEntriesMax);
  }
  if (lines <= 2 * kEntriesMax) return;
  std::string newest;
  for (const std::string& entry : entries_) newest += escaped(entry);
  // A history that stays too long is no reason to say anything.
  (void)replace_file(file_, newest, Readable::by_user).ok();
}

Result<bool> InputHistory::add(const std::string& entry) {
  if (entry.empty() || entry.size() > kEntryBytesMax) return false;
  if (!entries_.empty() && entries_.back() == entry) return false;
  entries_.push_back(entry);
  std::error_code code;
  fs::create_directories(file_.parent_path(), code);
  IMPETUS_CHECK(append(file_, escaped(entry)));
  return true;
}

}  // namespace impetus

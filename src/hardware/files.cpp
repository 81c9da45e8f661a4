#include "hardware/files.h"

#include <algorithm>
#include <charconv>
#include <fstream>

#include "base/utf8.h"

namespace impetus::hardware {
namespace {

constexpr size_t kLineBytesMax = 256;
constexpr size_t kEntriesMax = 8192;
constexpr int kCpuMax = 8191;  // the most that Linux counts; beyond is garbage

}  // namespace

std::string read_text(const Path& path, size_t bytes_max) {
  std::error_code code;
  if (std::filesystem::is_directory(path, code)) return {};
  std::ifstream file(path, std::ios::binary);
  std::string text;
  char part[4096];
  while (file && text.size() < bytes_max) {
    file.read(part, static_cast<std::streamsize>(std::min(sizeof part, bytes_max - text.size())));
    text.append(part, static_cast<size_t>(file.gcount()));
  }
  return text;
}

std::string printable(std::string_view bytes) {
  std::string text;
  for (const char c : repair_utf8(bytes.substr(0, kLineBytesMax))) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte >= 0x20 && byte != 0x7f) text += c;
  }
  return std::string(trimmed(text));
}

std::string_view trimmed(std::string_view text) {
  const auto blank = [](char c) { return c == ' ' || c == '\t' || c == '\r' || c == '\n'; };
  while (!text.empty() && blank(text.front())) text.remove_prefix(1);
  while (!text.empty() && blank(text.back())) text.remove_suffix(1);
  return text;
}

std::optional<std::string> read_line(const Path& path) {
  const std::string text = read_text(path, 4096);
  std::string line = printable(std::string_view(text).substr(0, text.find('\n')));
  if (line.empty()) return std::nullopt;
  return line;
}

std::optional<int64_t> parse_int(std::string_view text) {
  while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
  int64_t value = 0;
  const auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (code != std::errc()) return std::nullopt;
  if (end != text.data() + text.size() && *end != ' ' && *end != '\t' && *end != '\n') {
    return std::nullopt;
  }
  return value;
}

std::optional<int64_t> read_int(const Path& path) {
  return parse_int(read_text(path, 64));
}

std::optional<int64_t> int_after(std::string_view text, std::string_view key) {
  std::optional<int64_t> found;
  for_each_line(text, [&](std::string_view line) {
    if (!line.starts_with(key)) return true;
    line.remove_prefix(key.size());
    if (!key.ends_with(':') && !line.starts_with(' ')) return true;  // a longer name
    found = parse_int(line);
    return false;
  });
  return found;
}

std::vector<int> parse_cpu_list(std::string_view text) {
  std::vector<int> ids;
  text = trimmed(text);
  const char* at = text.data();
  const char* const end = at + text.size();
  while (at < end) {
    int first = 0, last = 0;
    auto parsed = std::from_chars(at, end, first);
    if (parsed.ec != std::errc()) return {};
    last = first;
    if (parsed.ptr < end && *parsed.ptr == '-') {
      parsed = std::from_chars(parsed.ptr + 1, end, last);
      if (parsed.ec != std::errc()) return {};
    }
    if (first < 0 || last < first || last > kCpuMax) return {};
    for (int id = first; id <= last; ++id) ids.push_back(id);
    if (ids.size() > static_cast<size_t>(kCpuMax) + 1) return {};
    if (parsed.ptr < end && *parsed.ptr != ',') return {};
    at = parsed.ptr + 1;
  }
  std::sort(ids.begin(), ids.end());
  ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
  return ids;
}

std::vector<int> read_cpu_list(const Path& path) {
  return parse_cpu_list(read_text(path, 64 << 10));
}

std::vector<Path> entries(const Path& folder, std::string_view prefix) {
  std::vector<Path> found;
  std::error_code code;
  for (std::filesystem::directory_iterator at(folder, code), end; !code && at != end;
       at.increment(code)) {
    if (found.size() >= kEntriesMax) break;
    if (at->path().filename().native().starts_with(prefix)) found.push_back(at->path());
  }
  std::sort(found.begin(), found.end(), [](const Path& a, const Path& b) {
    const auto& left = a.native();
    const auto& right = b.native();
    return left.size() != right.size() ? left.size() < right.size() : left < right;
  });
  return found;
}

bool present(const Path& path) {
  std::error_code code;
  return std::filesystem::exists(path, code);
}

}  // namespace impetus::hardware

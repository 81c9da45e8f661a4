// Small files of /proc and /sys, read as what they are: bytes that may be anything. Nothing here
// throws on what a file holds; what does not parse is absent.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace impetus::hardware {

using Path = std::filesystem::path;

// At most `bytes_max` from the start; empty where it cannot be read.
std::string read_text(const Path& path, size_t bytes_max = size_t{1} << 20);
// The first line, as text for people: valid UTF-8, no control characters, at most 256 bytes.
std::optional<std::string> read_line(const Path& path);
// The first line's number.
std::optional<int64_t> read_int(const Path& path);

// A whole number after blanks, ended by a blank or the end; absent where it does not fit.
std::optional<int64_t> parse_int(std::string_view text);
// The number after `key` at the start of one of the lines: "MemTotal:", "usage_usec".
std::optional<int64_t> int_after(std::string_view text, std::string_view key);
// "0-3,8": the kernel's lists of CPUs and nodes. Empty where it is no such list.
std::vector<int> parse_cpu_list(std::string_view text);
std::vector<int> read_cpu_list(const Path& path);

std::string printable(std::string_view bytes);
std::string_view trimmed(std::string_view text);

// Calls `each(line)` without line ends; stops where it returns false.
template <typename Each>
void for_each_line(std::string_view text, Each each) {
  while (!text.empty()) {
    const size_t end = text.find('\n');
    if (!each(text.substr(0, end))) return;
    if (end == std::string_view::npos) return;
    text.remove_prefix(end + 1);
  }
}

// What a folder holds whose name starts so, in order of the number behind (cpu2 before cpu10).
std::vector<Path> entries(const Path& folder, std::string_view prefix = "");
bool present(const Path& path);

}  // namespace impetus::hardware

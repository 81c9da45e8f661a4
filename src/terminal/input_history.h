// What a person typed before, kept in a file: one entry a line, line ends and backslashes escaped.
// Several programs may append to one file; a line is written at once. Not thread-shared.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "base/result.h"

namespace impetus {

class InputHistory {
 public:
  static constexpr size_t kEntriesMax = 1000;
  static constexpr size_t kEntryBytesMax = 64 << 10;  // a longer one is not kept

  // No file, or one that cannot be read: nothing was typed before. Entries that are no UTF-8 are
  // left out. A file of more than twice the entries is cut to the newest.
  explicit InputHistory(std::filesystem::path file);

  const std::vector<std::string>& entries() const { return entries_; }  // the oldest first
  // False where it says nothing new: empty, or as the last one. io where the file cannot be
  // written, which only this user may read; the entry is kept in memory all the same.
  Result<bool> add(const std::string& entry);

 private:
  std::filesystem::path file_;
  std::vector<std::string> entries_;
};

}  // namespace impetus

// Packages that were converted once, kept on disk to be found again: by other starts, by other
// processes, and by Apple's own cache of what it compiled, which knows them by their path.
//
//   FOLDER/KEY/content/    what was made; digests.json beside it says what it must be
//   FOLDER/KEY/compiled/   what a loader makes of it (a folder an environment)
//   FOLDER/locks/, FOLDER/staging/
//
// Several threads and processes may use one folder: of those that want the same key one makes it
// and the others wait. An entry is there whole or not at all; one whose files are not what they
// were is made anew. Entries in use are never removed; the others go, the longest unused first,
// when all together exceed the folder's bound.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <string>

#include "base/file_lock.h"
#include "base/result.h"
#include "coreml/convert.h"

namespace impetus::coreml {

// All that decides what a converted package holds, as 64 hexadecimal digits. `content`: of
// model_content().
std::string package_key(const std::string& content, Precision precision,
                        std::span<const int64_t> shapes, int macos);

// SHA-256 over what the model is: the spec's numbers, and every tensor with its name, type, shape
// and bytes, in the order of their names; whatever files they stand in. Reads each byte once.
std::string model_content(const ModelSpec& spec, const WeightSet& weights);

struct CacheEntry {
  std::filesystem::path content, compiled;  // `compiled` may not exist yet
  bool made = false;                        // by this call
  FileLock use;                             // while it is held the entry stays
};

class PackageCache {
 public:
  static constexpr int64_t kBytesMax = int64_t{8} << 30;

  // io where the folder cannot be made or written.
  static Result<PackageCache> open(std::filesystem::path folder, int64_t bytes_max = kBytesMax);

  // The entry, as it stands, or as `make` writes it into the empty folder that it is given.
  // REQUIRES: a key of hexadecimal digits. `make`'s errors are passed on, and nothing is kept.
  Result<CacheEntry> get(const std::string& key,
                         const std::function<Result<void>(const std::filesystem::path&)>& make);
  // Removes what exceeds the bound. Also after a loader wrote compiled forms.
  void trim();

  int64_t bytes() const;  // of all entries
  const std::filesystem::path& folder() const { return folder_; }

 private:
  std::filesystem::path lock_path(const std::string& key, std::string_view purpose) const;
  Result<void> fill(const std::string& key,
                    const std::function<Result<void>(const std::filesystem::path&)>& make);

  std::filesystem::path folder_;
  int64_t bytes_max_ = 0;
};

}  // namespace impetus::coreml

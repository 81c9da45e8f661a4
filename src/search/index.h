// Passages and their vectors by content, kept in one file a model: what was embedded once is not
// embedded again, whatever a file is called now.
//
// Not thread-shared. Several programs may use one file: it is replaced whole, the last one wins,
// and what the others had is embedded again when it is wanted.
#pragma once

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/result.h"
#include "base/sha256.h"
#include "search/passages.h"

namespace impetus {

// What a file's content is known by: its SHA-256.
using ContentHash = Sha256Digest;
struct ContentHashes {  // for unordered containers
  size_t operator()(const ContentHash& hash) const {
    size_t first;
    std::memcpy(&first, hash.data(), sizeof first);
    return first;
  }
};

// One content.
struct IndexEntry {
  std::vector<Passage> passages;
  std::vector<uint16_t> vectors;  // [passages, dimension] f16, each of length 1
  int64_t used = 0;               // seconds since 1970 at the last search over it
};

class PassageIndex {
 public:
  // `key` says what the vectors came from: model, precision, way of cutting. Vectors under another
  // key are not read.
  explicit PassageIndex(std::string key) : key_(std::move(key)) {}

  // Absent: an empty index. corrupt names what contradicts itself (a cut, other bytes than were
  // written, another key); the index is empty then.
  Result<void> load(const std::filesystem::path& path);
  // Replaces the file at once or not at all; only this user may read it. Past `bytes_max` the
  // entries that were used longest ago are left out of it (and stay in memory); how many. io where
  // the folder cannot be written.
  Result<int64_t> save(const std::filesystem::path& path, int64_t bytes_max) const;

  const IndexEntry* find(const ContentHash& content) const;
  // REQUIRES: vectors of passages.size() rows of one dimension, the same for all entries.
  void put(const ContentHash& content, IndexEntry entry);
  void touch(const ContentHash& content, int64_t now);
  size_t size() const { return entries_.size(); }

 private:
  std::string key_;
  std::unordered_map<ContentHash, IndexEntry, ContentHashes> entries_;
};

}  // namespace impetus

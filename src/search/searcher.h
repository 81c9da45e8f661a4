// Searches files by meaning: keeps the index of what lies below a folder up to date, and ranks its
// passages by a question.
//
// Not thread-shared; the encoder may work on threads of its own. Any number of files; in memory are
// the vectors of all passages and the texts that are being embedded.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <future>
#include <string>
#include <vector>

#include "base/result.h"
#include "search/files.h"
#include "search/index.h"
#include "search/passages.h"

namespace impetus {

// The encoder as a search needs it.
struct SearchEncoder {
  std::string key;       // says which vectors these are; the index is kept under it
  PassageLimits limits;  // of a passage
  CountTokens count;
  using Vectors = std::vector<std::vector<float>>;  // one a text, of length 1
  // Begins at once and may run beside others. REQUIRES: each text within the limits, none empty.
  std::function<std::future<Result<Vectors>>(std::vector<std::string> texts)> embed;
};

struct SearchOptions {
  std::filesystem::path index_file;              // empty: nothing is kept
  int64_t index_bytes_max = int64_t{512} << 20;  // of the file
  size_t batch_passages = 256;                   // given to the encoder at once
  size_t batches_max = 4;                        // on their way at a time
  double save_seconds = 60;                      // a long indexing is kept so often meanwhile
};

// What an update found and did.
struct SearchReport {
  int64_t files = 0, passages = 0;  // searched from now on
  int64_t files_embedded = 0;       // not known before
  int64_t passages_embedded = 0;
  int64_t bytes_embedded = 0;
  int64_t hidden = 0, binary = 0;                            // passed over
  std::vector<std::string> not_utf8, too_large, unreadable;  // passed over, by name
  std::vector<std::string> warnings;  // of the index: damaged, not to be written, too large
};

struct SearchHit {
  std::filesystem::path file;
  uint32_t line = 1;
  float score = 0;  // cosine
  std::string text;
  TextRange best;  // of `text`: the sentence nearest to the question; empty where there is but one
  uint32_t best_line = 1;
};

class Searcher {
 public:
  Searcher(SearchEncoder encoder, SearchOptions options);

  // Takes in what lies below `root` now; only contents that the index lacks are embedded.
  // `progress` (may be empty) hears of bytes of text, done and in all. An error of the encoder ends
  // it; what was embedded until then is kept.
  using Progress = std::function<void(int64_t done, int64_t total)>;
  Result<SearchReport> update(const std::filesystem::path& root, const Progress& progress);

  // The passages nearest to the question, best first, at most `top`; of passages that share text
  // the best alone. Files that changed since the update are left out.
  Result<std::vector<SearchHit>> ask(const std::string& question, int64_t top) const;

 private:
  struct File {
    std::filesystem::path path;
    ContentHash content;
  };
  class Embedding;

  void keep(SearchReport& report);

  SearchEncoder encoder_;
  SearchOptions options_;
  PassageIndex index_;
  bool loaded_ = false;
  std::vector<File> files_;
};

}  // namespace impetus

// What was measured on this machine before, kept in SQLite: <state folder>/history.db.
//
// Thread-safe; several processes may share the file. A file that is damaged or was written by a
// newer version is an error that names it; nothing is ever deleted from it here.
#pragma once

#include <filesystem>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/result.h"

struct sqlite3;

namespace impetus {

// One phase of one model on one backend.
struct BenchmarkRecord {
  int64_t time = 0;                     // seconds since 1970
  std::string model, precision, phase;  // "prefill", "decode", "embeddings"
  std::string device, backend;
  int threads = 0;
  int64_t prompt = 0, generate = 0;
  double measured = 0, least = 0,
         most = 0;                // tokens a second: median of the rounds, and its spread
  double predicted = 0;           // by the plan; 0: none
  bool profile_measured = false;  // or the prediction rests on an estimate
  std::string version, build;
};

json::object to_json(const BenchmarkRecord& record);

class History {
 public:
  static Result<std::unique_ptr<History>> open(const std::filesystem::path& path);
  ~History();
  History(const History&) = delete;
  History& operator=(const History&) = delete;

  Result<void> add(const std::vector<BenchmarkRecord>& records);  // all or none
  // The newest first; of one model where named.
  Result<std::vector<BenchmarkRecord>> list(const std::optional<std::string>& model,
                                            int64_t limit) const;

 private:
  explicit History(sqlite3* db, std::string path) : db_(db), path_(std::move(path)) {}
  Error failure(const char* what) const;

  mutable std::mutex mutex_;
  sqlite3* db_;
  std::string path_;
};

// history.db of the state folder (runtime/profiles.h), made where it is not; io where there is no
// such folder.
Result<std::unique_ptr<History>> open_history();
// History::list of it; nothing, and nothing is made, where it does not exist.
Result<std::vector<BenchmarkRecord>> kept_benchmarks(const std::optional<std::string>& model,
                                                     int64_t limit);

}  // namespace impetus

#include "runtime/history.h"

#include <sqlite3.h>

#include "runtime/profiles.h"

namespace impetus {
namespace {

constexpr const char* kFileName = "history.db";
constexpr int kVersion = 1;
constexpr int kBusyMilliseconds = 5000;

constexpr const char* kSchema =
    "CREATE TABLE IF NOT EXISTS benchmark("
    "id INTEGER PRIMARY KEY, time INTEGER NOT NULL, model TEXT NOT NULL, precision TEXT NOT NULL,"
    "phase TEXT NOT NULL, device TEXT NOT NULL, backend TEXT NOT NULL, threads INTEGER NOT NULL,"
    "prompt INTEGER NOT NULL, generate INTEGER NOT NULL, measured REAL NOT NULL,"
    "least REAL NOT NULL, most REAL NOT NULL, predicted REAL NOT NULL,"
    "profile_measured INTEGER NOT NULL, version TEXT NOT NULL, build TEXT NOT NULL);"
    "CREATE INDEX IF NOT EXISTS benchmark_of_model ON benchmark(model, id);";

// A prepared statement that goes with its scope.
class Statement {
 public:
  Statement(sqlite3* db, const char* sql) { sqlite3_prepare_v2(db, sql, -1, &statement_, nullptr); }
  ~Statement() { sqlite3_finalize(statement_); }
  Statement(const Statement&) = delete;
  Statement& operator=(const Statement&) = delete;

  explicit operator bool() const { return statement_ != nullptr; }
  void bind(int at, const std::string& text) {
    sqlite3_bind_text64(statement_, at, text.data(), text.size(), SQLITE_TRANSIENT, SQLITE_UTF8);
  }
  void bind(int at, int64_t value) { sqlite3_bind_int64(statement_, at, value); }
  void bind(int at, double value) { sqlite3_bind_double(statement_, at, value); }
  int step() { return sqlite3_step(statement_); }
  void reset() { sqlite3_reset(statement_); }
  std::string text(int column) const {
    const auto* from = reinterpret_cast<const char*>(sqlite3_column_text(statement_, column));
    return from ? std::string(from, static_cast<size_t>(sqlite3_column_bytes(statement_, column)))
                : std::string();
  }
  int64_t integer(int column) const { return sqlite3_column_int64(statement_, column); }
  double number(int column) const { return sqlite3_column_double(statement_, column); }

 private:
  sqlite3_stmt* statement_ = nullptr;
};

}  // namespace

json::object to_json(const BenchmarkRecord& record) {
  return {{"time", record.time},
          {"model", record.model},
          {"precision", record.precision},
          {"phase", record.phase},
          {"device", record.device},
          {"backend", record.backend},
          {"threads", record.threads},
          {"prompt", record.prompt},
          {"generate", record.generate},
          {"tokens_per_second", record.measured},
          {"tokens_per_second_min", record.least},
          {"tokens_per_second_max", record.most},
          {"predicted_tokens_per_second",
           record.predicted > 0 ? json::value(record.predicted) : json::value(nullptr)},
          {"profile_measured", record.profile_measured},
          {"version", record.version},
          {"build", record.build}};
}

Error History::failure(const char* what) const {
  return error(ErrorCode::io, "{}: {}: {}", path_, what, sqlite3_errmsg(db_));
}

Result<std::unique_ptr<History>> History::open(const std::filesystem::path& path) {
  std::error_code code;
  std::filesystem::create_directories(path.parent_path(), code);
  if (code) {
    return error(ErrorCode::io, "{} cannot be made: {}", path.parent_path().string(),
                 code.message());
  }
  sqlite3* db = nullptr;
  const int opened =
      sqlite3_open_v2(path.c_str(), &db,
                      SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_FULLMUTEX, nullptr);
  std::unique_ptr<History> history(new History(db, path.string()));  // closes it in any case
  if (opened != SQLITE_OK) return history->failure("cannot be opened");
  sqlite3_busy_timeout(db, kBusyMilliseconds);
  const auto run = [&](const char* sql) {
    return sqlite3_exec(db, sql, nullptr, nullptr, nullptr) == SQLITE_OK;
  };
  int64_t version = 0;
  {
    Statement statement(db, "PRAGMA user_version");
    if (!statement || statement.step() != SQLITE_ROW) {
      return history->failure("is no history of benchmarks; move it away to begin a new one");
    }
    version = statement.integer(0);
  }
  if (version > kVersion) {
    return error(ErrorCode::unsupported, "{} was written by a newer version (format {}, not {})",
                 path.string(), version, kVersion);
  }
  if (version == kVersion) return history;  // so that a folder that is read only can be read
  if (!run("PRAGMA journal_mode=WAL") || !run(kSchema) ||
      !run(fmt::format("PRAGMA user_version={}", kVersion).c_str())) {
    return history->failure("cannot be set up");
  }
  return history;
}

History::~History() {
  sqlite3_close_v2(db_);
}

Result<void> History::add(const std::vector<BenchmarkRecord>& records) {
  const std::lock_guard lock(mutex_);
  const auto run = [&](const char* sql) {
    return sqlite3_exec(db_, sql, nullptr, nullptr, nullptr) == SQLITE_OK;
  };
  if (!run("BEGIN IMMEDIATE")) return failure("cannot be written");
  Statement insert(db_,
                   "INSERT INTO benchmark(time, model, precision, phase, device, backend, threads,"
                   "prompt, generate, measured, least, most, predicted, profile_measured, version,"
                   "build) VALUES(?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)");
  bool written = static_cast<bool>(insert);
  for (const BenchmarkRecord& r : records) {
    if (!written) break;
    insert.reset();
    insert.bind(1, r.time);
    insert.bind(2, r.model);
    insert.bind(3, r.precision);
    insert.bind(4, r.phase);
    insert.bind(5, r.device);
    insert.bind(6, r.backend);
    insert.bind(7, int64_t{r.threads});
    insert.bind(8, r.prompt);
    insert.bind(9, r.generate);
    insert.bind(10, r.measured);
    insert.bind(11, r.least);
    insert.bind(12, r.most);
    insert.bind(13, r.predicted);
    insert.bind(14, int64_t{r.profile_measured});
    insert.bind(15, r.version);
    insert.bind(16, r.build);
    written = insert.step() == SQLITE_DONE;
  }
  insert.reset();
  if (written && run("COMMIT")) return {};
  Error broken = failure("cannot be written");
  run("ROLLBACK");
  return broken;
}

Result<std::vector<BenchmarkRecord>> History::list(const std::optional<std::string>& model,
                                                   int64_t limit) const {
  const std::lock_guard lock(mutex_);
  Statement query(db_, model ? "SELECT time, model, precision, phase, device, backend, threads,"
                               "prompt, generate, measured, least, most, predicted,"
                               "profile_measured, version, build FROM benchmark WHERE model = ?1 "
                               "ORDER BY id DESC LIMIT ?2"
                             : "SELECT time, model, precision, phase, device, backend, threads,"
                               "prompt, generate, measured, least, most, predicted,"
                               "profile_measured, version, build FROM benchmark "
                               "ORDER BY id DESC LIMIT ?2");
  if (!query) return failure("cannot be read");
  if (model) query.bind(1, *model);
  query.bind(2, limit);
  std::vector<BenchmarkRecord> records;
  int step;
  while ((step = query.step()) == SQLITE_ROW) {
    BenchmarkRecord& r = records.emplace_back();
    r.time = query.integer(0);
    r.model = query.text(1);
    r.precision = query.text(2);
    r.phase = query.text(3);
    r.device = query.text(4);
    r.backend = query.text(5);
    r.threads = static_cast<int>(query.integer(6));
    r.prompt = query.integer(7);
    r.generate = query.integer(8);
    r.measured = query.number(9);
    r.least = query.number(10);
    r.most = query.number(11);
    r.predicted = query.number(12);
    r.profile_measured = query.integer(13) != 0;
    r.version = query.text(14);
    r.build = query.text(15);
  }
  if (step != SQLITE_DONE) return failure("cannot be read");
  return records;
}

Result<std::unique_ptr<History>> open_history() {
  const std::filesystem::path folder = state_folder();
  if (folder.empty()) {
    return error(ErrorCode::io, "there is no folder to keep a history in: set IMPETUS_STATE_DIR");
  }
  return History::open(folder / kFileName);
}

Result<std::vector<BenchmarkRecord>> kept_benchmarks(const std::optional<std::string>& model,
                                                     int64_t limit) {
  const std::filesystem::path folder = state_folder();
  std::error_code code;
  if (folder.empty() || !std::filesystem::exists(folder / kFileName, code)) {
    return std::vector<BenchmarkRecord>{};
  }
  IMPETUS_TRY(const auto history, open_history());
  return history->list(model, limit);
}

}  // namespace impetus

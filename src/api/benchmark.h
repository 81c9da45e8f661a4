// Bodies of /api/models/benchmark and its history to native values and back. Pure. Unknown keys are
// ignored; what is wrong is refused by `param`.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/json.h"
#include "base/result.h"
#include "runtime/benchmark_records.h"

namespace impetus::api {

Result<BenchmarkRequest> parse_benchmark(const json::value& body);

struct HistoryQuery {
  std::optional<std::string> model;  // unset: of all
  int64_t limit = 100;
};
// Of a query string's names and values.
Result<HistoryQuery> parse_history_query(
    std::span<const std::pair<std::string, std::string>> query);

// What `impetus bench --device all --json` prints as well.
json::object benchmark_object(const BenchmarkAnswer& answer);
std::string history_body(const std::vector<BenchmarkRecord>& records);

}  // namespace impetus::api

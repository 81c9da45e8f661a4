#include "api/benchmark.h"

#include <charconv>

namespace impetus::api {
namespace {

constexpr int64_t kTokensMax = 32768;
constexpr int64_t kRoundsMax = 20;
constexpr size_t kDevicesMax = 64;
constexpr int64_t kRecordsMax = 1000;

Error refuse(std::string_view param, std::string_view what) {
  Error failure = error(ErrorCode::invalid_argument, "'{}' must be {}", param, what);
  failure.param = std::string(param);
  return failure;
}

// Sets `out` where the field is there.
Result<void> ranged(const json::object& body, std::string_view key, int64_t low, int64_t high,
                    int64_t& out) {
  IMPETUS_TRY(const auto value, int_field(body, key));
  if (!value) return {};
  if (*value < low || *value > high) {
    return refuse(key, fmt::format("between {} and {}, not {}", low, high, *value));
  }
  out = *value;
  return {};
}

}  // namespace

Result<BenchmarkRequest> parse_benchmark(const json::value& value) {
  const json::object* body = value.if_object();
  if (body == nullptr) {
    return error(ErrorCode::invalid_argument, "the request body must be a JSON object");
  }
  BenchmarkRequest request;
  IMPETUS_TRY(const auto model, string_field(*body, "model"));
  request.model = model.value_or("");
  int64_t repeat = request.options.repeat;
  IMPETUS_CHECK(ranged(*body, "prompt", 1, kTokensMax, request.options.prompt));
  IMPETUS_CHECK(ranged(*body, "generate", 0, kTokensMax, request.options.generate));
  IMPETUS_CHECK(ranged(*body, "repeat", 1, kRoundsMax, repeat));
  request.options.repeat = static_cast<int>(repeat);
  const json::value* devices = body->if_contains("devices");
  if (devices == nullptr || devices->is_null()) return request;
  if (!devices->is_array() || devices->get_array().empty() ||
      devices->get_array().size() > kDevicesMax) {
    return refuse("devices", fmt::format("an array of 1 to {} names", kDevicesMax));
  }
  for (const json::value& name : devices->get_array()) {
    if (!name.is_string() || name.get_string().empty()) {
      return refuse("devices", "an array of names of processors");
    }
    request.devices.emplace_back(name.get_string());
  }
  return request;
}

Result<HistoryQuery> parse_history_query(
    std::span<const std::pair<std::string, std::string>> query) {
  HistoryQuery asked;
  for (const auto& [name, value] : query) {
    if (name == "model" && !value.empty()) asked.model = value;
    if (name != "limit") continue;
    const char* const end = value.data() + value.size();
    const auto [stopped, code] = std::from_chars(value.data(), end, asked.limit);
    if (code != std::errc{} || stopped != end || asked.limit < 1 || asked.limit > kRecordsMax) {
      return refuse("limit", fmt::format("a number from 1 to {}", kRecordsMax));
    }
  }
  return asked;
}

json::object benchmark_object(const BenchmarkAnswer& answer) {
  json::array results, refused;
  for (const BenchmarkRecord& one : answer.results) results.push_back(to_json(one));
  for (const BenchmarkRefusal& one : answer.refused) {
    refused.push_back(json::object{{"backend", one.backend}, {"reason", one.reason}});
  }
  json::object object{
      {"model", answer.model},
      {"results", std::move(results)},
      {"refused", std::move(refused)},
      {"median_prediction_error", answer.results.empty()
                                      ? json::value(nullptr)
                                      : json::value(median_prediction_error(answer.results))}};
  if (!answer.history_failure.empty()) {
    object["history"] = "not written: " + answer.history_failure;
  }
  return object;
}

std::string history_body(const std::vector<BenchmarkRecord>& records) {
  json::array results;
  for (const BenchmarkRecord& one : records) results.push_back(to_json(one));
  return json::serialize(json::object{{"results", std::move(results)}});
}

}  // namespace impetus::api

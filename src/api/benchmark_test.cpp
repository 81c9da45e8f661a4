#include "api/benchmark.h"

#include <gtest/gtest.h>

#include "api/error.h"

namespace impetus::api {
namespace {

Result<BenchmarkRequest> parse(std::string_view text) {
  return parse_benchmark(*parse_json(text));
}

TEST(ParseBenchmark, TakesWhatIsAskedAndDefaults) {
  const auto plain = parse(R"({"model": "m", "repeat": null, "devices": null, "other": 1})");
  ASSERT_TRUE(plain.ok()) << plain.error().message;
  EXPECT_EQ(plain->model, "m");
  EXPECT_EQ(plain->options.prompt, 512);
  EXPECT_EQ(plain->options.generate, 64);
  EXPECT_EQ(plain->options.repeat, 3);
  EXPECT_TRUE(plain->devices.empty());
  const auto all = parse(
      R"({"model": "m", "prompt": 32768, "generate": 0, "repeat": 20, "devices": ["cpu-avx2"]})");
  ASSERT_TRUE(all.ok()) << all.error().message;
  EXPECT_EQ(all->options.prompt, 32768);
  EXPECT_EQ(all->options.generate, 0);
  EXPECT_EQ(all->options.repeat, 20);
  EXPECT_EQ(all->devices, std::vector<std::string>{"cpu-avx2"});
}

TEST(ParseBenchmark, RefusesNamingTheField) {
  struct Refusal {
    const char* field;
    const char* param;
  };
  for (const auto& [field, param] :
       {Refusal{R"("model": 1)", "model"}, Refusal{R"("prompt": 0)", "prompt"},
        Refusal{R"("prompt": 32769)", "prompt"}, Refusal{R"("prompt": 1.5)", "prompt"},
        Refusal{R"("generate": -1)", "generate"}, Refusal{R"("generate": "x")", "generate"},
        Refusal{R"("generate": 32769)", "generate"}, Refusal{R"("repeat": 0)", "repeat"},
        Refusal{R"("repeat": 21)", "repeat"}, Refusal{R"("devices": "cpu")", "devices"},
        Refusal{R"("devices": [])", "devices"}, Refusal{R"("devices": [1])", "devices"},
        Refusal{R"("devices": [""])", "devices"}}) {
    const auto call = parse(std::string("{") + field + "}");
    ASSERT_FALSE(call.ok()) << field;
    EXPECT_EQ(call.error().param, param) << call.error().message;
    EXPECT_EQ(wire_error(call.error()).status, 400);
    EXPECT_NE(call.error().message.find(param), std::string::npos) << call.error().message;
  }
  EXPECT_FALSE(parse("[]").ok());
}

TEST(ParseHistoryQuery, TakesModelAndLimit) {
  using Query = std::vector<std::pair<std::string, std::string>>;
  const auto none = parse_history_query({});
  ASSERT_TRUE(none.ok());
  EXPECT_FALSE(none->model);
  EXPECT_EQ(none->limit, 100);
  const auto both = parse_history_query(Query{{"model", "m"}, {"limit", "1000"}, {"x", "y"}});
  ASSERT_TRUE(both.ok());
  EXPECT_EQ(both->model, "m");
  EXPECT_EQ(both->limit, 1000);
  for (const char* limit :
       {"", "0", "-1", "1001", "ten", "1x", " 1", "+1", "99999999999999999999"}) {
    const auto wrong = parse_history_query(Query{{"limit", limit}});
    ASSERT_FALSE(wrong.ok()) << limit;
    EXPECT_EQ(wrong.error().param, "limit");
  }
}

TEST(BenchmarkObject, SaysWhatRanWhatDidNotAndWhatIsNotKept) {
  BenchmarkRecord record;
  record.backend = "cpu-avx2";
  record.measured = 10;
  record.predicted = 8;
  const json::object whole = benchmark_object({"m", {record}, {{"npu", "there is none"}}, ""});
  EXPECT_EQ(whole.at("model"), "m");
  EXPECT_EQ(whole.at("results").at(0).at("backend"), "cpu-avx2");
  EXPECT_EQ(whole.at("refused"),
            parse_json(R"([{"backend": "npu", "reason": "there is none"}])").value());
  EXPECT_NEAR(whole.at("median_prediction_error").as_double(), 0.2, 1e-12);
  EXPECT_FALSE(whole.contains("history"));
  const json::object none = benchmark_object({"m", {}, {}, "no disk"});
  EXPECT_TRUE(none.at("median_prediction_error").is_null());
  EXPECT_EQ(none.at("history"), "not written: no disk");
}

}  // namespace
}  // namespace impetus::api

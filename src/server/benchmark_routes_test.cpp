// Benchmarks over HTTP: measured beside streams, one at a time, remembered.
#include <cstdlib>

#include <unistd.h>

#include "server/test_support.h"

namespace impetus {
namespace {

// A server with a state folder of its own.
class BenchmarkRoutesTest : public ServerTest {
 protected:
  static void SetUpTestSuite() {
    state_ = std::filesystem::temp_directory_path() / fmt::format("impetus-server-{}", ::getpid());
    std::filesystem::remove_all(state_);
    ::setenv("IMPETUS_STATE_DIR", state_.c_str(), 1);
    ServerTest::SetUpTestSuite();
  }
  static void TearDownTestSuite() {
    ServerTest::TearDownTestSuite();
    ::unsetenv("IMPETUS_STATE_DIR");
    std::filesystem::remove_all(state_);
  }
  static inline std::filesystem::path state_;
};

TEST_F(BenchmarkRoutesTest, MeasuresWhileItStreamsAndRemembers) {
  HttpClient client(port_);
  const auto nothing = client.get("/api/models/benchmark/history");
  ASSERT_EQ(nothing.status, 200) << nothing.body;
  EXPECT_TRUE(body(nothing).at("results").as_array().empty());
  EXPECT_FALSE(std::filesystem::exists(state_));

  const std::string rest = R"(, "max_tokens": 200, "seed": 5, "ignore_eos": true)";
  const std::string alone =
      answer_text(client.post("/v1/chat/completions", chat_body("Tell me of a fox.", rest)));
  HttpClient stream(port_);
  stream.start_post("/v1/chat/completions",
                    chat_body("Tell me of a fox.", rest + R"(, "stream": true)"));
  const auto measured =
      client.post("/api/models/benchmark",
                  R"({"model": "impetus-tiny-chat", "prompt": 32, "generate": 8, "repeat": 2})");
  ASSERT_EQ(measured.status, 200) << measured.body;
  const json::object whole = body(measured);
  EXPECT_EQ(whole.at("model"), "impetus-tiny-chat");
  ASSERT_EQ(whole.at("results").as_array().size(), 2u) << measured.body;
  EXPECT_EQ(whole.at("results").at(0).at("phase"), "prefill");
  EXPECT_EQ(whole.at("results").at(1).at("phase"), "decode");
  EXPECT_GT(whole.at("results").at(1).at("tokens_per_second").as_double(), 0);
  EXPECT_TRUE(whole.at("refused").is_array());
  EXPECT_GE(whole.at("median_prediction_error").as_double(), 0);
  EXPECT_FALSE(whole.contains("history")) << measured.body;
  std::string text;
  for (const std::string& event : events(stream.receive().body)) {
    if (event == "[DONE]") continue;
    const json::value chunk = *parse_json(event);
    for (const auto& choice : chunk.at("choices").as_array()) {
      const auto& delta = choice.at("delta").as_object();
      if (delta.contains("content")) text += std::string_view(delta.at("content").as_string());
    }
  }
  EXPECT_EQ(text, alone);

  EXPECT_EQ(client
                .post("/api/models/benchmark",
                      R"({"model": "impetus-tiny-embed", "prompt": 16, "repeat": 1})")
                .status,
            200);
  const auto results = [&](const std::string& query) {
    const auto answer = client.get("/api/models/benchmark/history" + query);
    EXPECT_EQ(answer.status, 200) << answer.body;
    return body(answer).at("results").as_array();
  };
  ASSERT_EQ(results("").size(), 4u);
  EXPECT_EQ(results("").at(0).at("model"), "impetus-tiny-embed");  // the newest first
  EXPECT_EQ(results("?limit=3").size(), 3u);
  ASSERT_EQ(results("?model=impetus%2Dtiny%2dchat").size(), 2u);
  EXPECT_EQ(results("?model=impetus-tiny-chat").at(1), whole.at("results").at(0));
  EXPECT_EQ(results("?model=nobody").size(), 0u);
}

TEST_F(BenchmarkRoutesTest, SaysWhatIsWrong) {
  HttpClient client(port_);
  const auto post = [&](const std::string& body) {
    return client.post("/api/models/benchmark", body);
  };
  expect_error(post(R"({"model": "nobody"})"), 404, "model");
  expect_error(post("{}"), 400, "model");  // two are served
  expect_error(post(R"({"model": "impetus-tiny-chat", "repeat": 0})"), 400, "repeat");
  expect_error(post(R"({"model": "impetus-tiny-chat", "prompt": 32000})"), 400, "prompt");
  expect_error(post(R"({"model": "impetus-tiny-chat", "devices": ["tpu"]})"), 400, "devices");
  expect_error(post("[]"), 400);
  expect_error(client.get("/api/models/benchmark"), 405);
  const auto history = [&](const std::string& query) {
    return client.get("/api/models/benchmark/history" + query);
  };
  expect_error(history("?limit=0"), 400, "limit");
  expect_error(history("?limit=1001"), 400, "limit");
  expect_error(history("?limit=1&limit=2"), 400, "limit");
  expect_error(history("?model=%zz"), 400);
  expect_error(history("?model=%ff"), 400);
}

TEST_F(BenchmarkRoutesTest, OneAtATimeAndNoLongerThanItsClient) {
  const std::string lasting =
      R"({"model": "impetus-tiny-chat", "prompt": 1, "generate": 1500, "repeat": 20})";
  const int64_t used = runtime_->ledger().used_bytes();
  HttpClient first(port_), second(port_);
  first.start_post("/api/models/benchmark", lasting);
  for (int i = 0; i < 6000 && runtime_->ledger().used_bytes() == used; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  const auto refused = second.post("/api/models/benchmark", R"({"model": "impetus-tiny-chat"})");
  expect_error(refused, 429);
  EXPECT_NE(refused.head.find("Retry-After"), std::string::npos) << refused.head;
  first.close();
  for (int i = 0; i < 6000 && runtime_->ledger().used_bytes() != used; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  EXPECT_EQ(runtime_->ledger().used_bytes(), used);
  // Its thread lets go right after the memory does.
  HttpAnswer next;
  for (int i = 0; i < 600 && next.status != 200; ++i) {
    next =
        second.post("/api/models/benchmark",
                    R"({"model": "impetus-tiny-chat", "prompt": 4, "generate": 1, "repeat": 1})");
    if (next.status != 200) std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  EXPECT_EQ(next.status, 200) << next.body;
}

TEST_F(BenchmarkRoutesTest, ZNeedsTheKeyAndAServerThatStays) {  // last: it ends the server
  stop();
  start({.api_key = "secret"});
  HttpClient client(port_);
  expect_error(client.get("/api/models/benchmark/history"), 401);
  expect_error(client.post("/api/models/benchmark", "{}"), 401);
  client.close();
  stop();
  runtime_->drain(0);
  start({});
  HttpClient late(port_);
  const auto refused = late.post("/api/models/benchmark", R"({"model": "impetus-tiny-chat"})");
  expect_error(refused, 503);
  EXPECT_NE(refused.head.find("Retry-After"), std::string::npos) << refused.head;
}

}  // namespace
}  // namespace impetus

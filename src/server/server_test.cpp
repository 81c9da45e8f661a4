// The server as clients see it: a real socket, the repository's own models, the CPU backend.
#include "server/test_support.h"

namespace impetus {
namespace {

TEST_F(ServerTest, AnswersAChat) {
  HttpClient client(port_);
  const auto answer =
      client.post("/v1/chat/completions", chat_body("Hello!", R"(, "max_tokens": 8, "seed": 1)"));
  ASSERT_EQ(answer.status, 200) << answer.body;
  EXPECT_NE(answer.head.find("x-impetus-device: cpu-"), std::string::npos) << answer.head;
  const auto whole = body(answer);
  EXPECT_EQ(whole.at("object"), "chat.completion");
  EXPECT_EQ(whole.at("usage").at("completion_tokens").to_number<int>() <= 8, true);
  EXPECT_GT(whole.at("usage").at("prompt_tokens").to_number<int>(), 0);
  // The same connection, the path without /v1, the same seed: the same answer.
  const auto again =
      client.post("/chat/completions", chat_body("Hello!", R"(, "max_tokens": 8, "seed": 1)"));
  EXPECT_EQ(answer_text(again), answer_text(answer));
}

TEST_F(ServerTest, StreamsInTheOrderClientsExpect) {
  HttpClient client(port_);
  const std::string rest = R"(, "max_tokens": 12, "seed": 5, "temperature": 0.8)";
  const std::string whole =
      answer_text(client.post("/v1/chat/completions", chat_body("Tell me of a fox.", rest)));
  const auto stream = client.post(
      "/v1/chat/completions",
      chat_body("Tell me of a fox.",
                rest + R"(, "stream": true, "stream_options": {"include_usage": true})"));
  EXPECT_EQ(stream.status, 200);
  EXPECT_NE(stream.head.find("Content-Type: text/event-stream"), std::string::npos);
  auto all = events(stream.body);
  ASSERT_GE(all.size(), 4u);
  EXPECT_EQ(all.back(), "[DONE]");
  all.pop_back();
  std::string text;
  bool ended = false;
  for (size_t i = 0; i < all.size(); ++i) {
    const json::object chunk = parse_json(all[i])->as_object();
    const auto& choices = chunk.at("choices").as_array();
    if (i + 1 == all.size()) {
      EXPECT_TRUE(choices.empty());
      EXPECT_GT(chunk.at("usage").at("completion_tokens").to_number<int>(), 0);
      continue;
    }
    EXPECT_TRUE(chunk.at("usage").is_null());
    const auto& choice = choices.at(0).as_object();
    const auto& delta = choice.at("delta").as_object();
    if (i == 0) EXPECT_EQ(delta.at("role"), "assistant");
    if (delta.contains("content")) text += std::string_view(delta.at("content").as_string());
    if (!choice.at("finish_reason").is_null()) ended = true;
  }
  EXPECT_TRUE(ended);
  EXPECT_EQ(text, whole);
}

TEST_F(ServerTest, StopStringsNAndLogprobs) {
  HttpClient client(port_);
  const std::string rest = R"(, "max_tokens": 24, "seed": 5)";
  const std::string whole =
      answer_text(client.post("/v1/chat/completions", chat_body("Tell me a tale.", rest)));
  ASSERT_GT(whole.size(), 12u);
  const std::string stop = whole.substr(6, 4);
  const auto cut = client.post(
      "/v1/chat/completions",
      chat_body("Tell me a tale.", rest + ", \"stop\": " + json::serialize(json::value(stop))));
  EXPECT_EQ(answer_text(cut), whole.substr(0, whole.find(stop)));
  EXPECT_EQ(body(cut).at("choices").as_array().at(0).at("finish_reason"), "stop");

  const auto two = body(client.post(
      "/v1/chat/completions",
      chat_body("Tell me a tale.", rest + R"(, "n": 2, "logprobs": true, "top_logprobs": 2)")));
  const auto& choices = two.at("choices").as_array();
  ASSERT_EQ(choices.size(), 2u);
  EXPECT_EQ(std::string(choices.at(0).at("message").at("content").as_string()), whole);
  std::string joined;
  for (const auto& token : choices.at(0).at("logprobs").at("content").as_array()) {
    EXPECT_LE(token.at("logprob").as_double(), 0.0);
    EXPECT_EQ(token.at("top_logprobs").as_array().size(), 2u);
    for (const auto& byte : token.at("bytes").as_array())
      joined += static_cast<char>(byte.to_number<int>());
  }
  EXPECT_TRUE(joined.starts_with(whole)) << joined;  // the ending token may follow
}

TEST_F(ServerTest, CompletesRawPrompts) {
  HttpClient client(port_);
  const auto answer = body(client.post(
      "/v1/completions",
      R"({"model": "impetus-tiny-chat", "prompt": ["Once upon", "The fox"], "max_tokens": 4, "echo": true, "seed": 3})"));
  const auto& choices = answer.at("choices").as_array();
  ASSERT_EQ(choices.size(), 2u);
  EXPECT_TRUE(std::string_view(choices.at(0).at("text").as_string()).starts_with("Once upon"));
  EXPECT_TRUE(std::string_view(choices.at(1).at("text").as_string()).starts_with("The fox"));
}

TEST_F(ServerTest, EmbedsEqualAloneAndTogether) {
  HttpClient client(port_);
  const auto vectors = [&](const std::string& input, const char* path = "/v1/embeddings") {
    const auto answer =
        client.post(path, R"({"model": "impetus-tiny-embed", "input": )" + input + "}");
    EXPECT_EQ(answer.status, 200) << answer.body;
    std::vector<json::value> all;
    const json::object whole = body(answer);  // the loop must not outlive it
    for (const auto& entry : whole.at("data").as_array()) all.push_back(entry.at("embedding"));
    return all;
  };
  const auto together =
      vectors(R"(["a cat", "a much longer sentence about a cat that sleeps", "x"])");
  ASSERT_EQ(together.size(), 3u);
  EXPECT_EQ(vectors(R"("a cat")").at(0), together[0]);
  EXPECT_EQ(vectors(R"(["x"])", "/api/embeddings").at(0), together[2]);
  const auto legacy =
      body(client.post("/api/embeddings", R"({"model": "impetus-tiny-embed", "prompt": "x"})"));
  EXPECT_EQ(legacy.at("embedding"), together[2]);
}

TEST_F(ServerTest, SaysWhatIsWrong) {
  HttpClient client(port_);
  expect_error(client.post("/v1/chat/completions", "{"), 400);
  expect_error(
      client.post("/v1/chat/completions",
                  R"({"model": "nobody", "messages": [{"role": "user", "content": "x"}]})"),
      404, "model");
  expect_error(client.post("/v1/chat/completions", chat_body("x", R"(, "tools": [{}])")), 400,
               "tools");
  expect_error(
      client.post(
          "/v1/chat/completions",
          R"({"model": "impetus-tiny-embed", "messages": [{"role": "user", "content": "x"}]})"),
      400, "model");
  expect_error(client.post("/v1/embeddings", R"({"model": "impetus-tiny-chat", "input": "x"})"),
               400, "model");
  expect_error(client.post("/v1/embeddings", R"({"model": "impetus-tiny-embed", "input": [1, 2]})"),
               400, "input");
  expect_error(client.post("/v1/embeddings",
                           R"({"model": "impetus-tiny-embed", "input": "x", "dimensions": 7})"),
               400, "dimensions");
  std::string words;
  for (int i = 0; i < 4000; ++i) words += "word ";
  const auto too_long = client.post("/v1/chat/completions", chat_body(words));
  expect_error(too_long, 400, "messages");
  EXPECT_EQ(body(too_long).at("error").at("code"), "context_length_exceeded");
  const auto long_text = "{\"model\": \"impetus-tiny-embed\", \"input\": \"" + words + "\"";
  expect_error(client.post("/v1/embeddings", long_text + "}"), 400, "input");
  EXPECT_EQ(client.post("/v1/embeddings", long_text + ", \"truncate\": true}").status, 200);
  expect_error(client.get("/nowhere"), 404);
  expect_error(client.get("/v1/chat/completions"), 405);
  expect_error(client.get("/v1/models/none"), 404, "model");
  expect_error(client.post("/v1/chat/completions", "x=1", "Content-Type: text/plain\r\n"), 400);
}

TEST_F(ServerTest, ListsModelsTokenizesAndReports) {
  HttpClient client(port_);
  EXPECT_EQ(body(client.get("/v1/models")).at("data").as_array().size(), 2u);
  EXPECT_EQ(body(client.get("/v1/models/impetus-tiny-chat")).at("id"), "impetus-tiny-chat");
  EXPECT_EQ(body(client.get("/api/models/list")).at("models").as_array().size(), 2u);
  const auto tokens = body(client.post("/tokenize", R"({"text": "Hello there"})"));
  const auto text = body(
      client.post("/detokenize", json::serialize(json::object{{"tokens", tokens.at("tokens")}})));
  EXPECT_EQ(text.at("text"), "Hello there");
  for (const char* path :
       {"/health", "/api/health/live", "/api/health/ready", "/api/health/status"}) {
    EXPECT_EQ(client.get(path).status, 200) << path;
  }
  const auto metrics = client.get("/metrics").body;
  for (const char* name :
       {"impetus_http_request_seconds_bucket", "impetus_time_to_first_token_seconds",
        "impetus_requests_waiting", "impetus_kv_blocks_used"}) {
    EXPECT_NE(metrics.find(name), std::string::npos) << name;
  }
}

TEST_F(ServerTest, KeepsToHttp) {
  {
    HttpClient client(port_);  // two requests at once on one connection, answered in order
    client.send(
        "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\nGET /v1/models HTTP/1.1\r\nHost: "
        "localhost\r\n\r\n");
    EXPECT_NE(client.receive().body.find("ok"), std::string::npos);
    EXPECT_NE(client.receive().body.find("impetus-tiny-chat"), std::string::npos);
  }
  {
    HttpClient client(port_);
    const std::string body = chat_body("Hi", R"(, "max_tokens": 1)");
    client.send(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: "
        "chunked\r\n\r\n" +
        fmt::format("{:x}\r\n{}\r\n0\r\n\r\n", body.size(), body));
    EXPECT_EQ(client.receive().status, 200);
  }
  {
    HttpClient client(port_);
    client.send(
        "POST /tokenize HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: "
        "13\r\n\r\n");
    EXPECT_EQ(client.receive().status, 100);
    client.send(R"({"text": "a"})");
    EXPECT_EQ(client.receive().status, 200);
  }
  {
    HttpClient client(port_);
    const auto preflight = [&] {
      client.send(
          "OPTIONS /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nOrigin: "
          "http://localhost:3000\r\n"
          "Access-Control-Request-Method: POST\r\n\r\n");
      return client.receive();
    }();
    EXPECT_EQ(preflight.status, 204);
    EXPECT_NE(preflight.head.find("Access-Control-Allow-Origin: http://localhost:3000"),
              std::string::npos);
  }
  expect_error(HttpClient(port_).get("/health", "Origin: https://evil.example\r\n"), 403);
  {
    HttpClient client(port_);
    client.send("GET /health HTTP/1.1\r\nHost: rebound.example\r\n\r\n");
    expect_error(client.receive(), 403);
  }
  {
    HttpClient client(port_);
    client.send("nonsense\r\n\r\n");
    expect_error(client.receive(), 400);
  }
  {
    HttpClient client(port_);
    client.send("GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + std::string(100000, 'x') +
                "\r\n\r\n");
    expect_error(client.receive(), 431);
  }
  {
    HttpClient client(port_);
    client.send("POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999\r\n\r\n");
    expect_error(client.receive(), 413);
  }
  {
    HttpClient client(port_);  // headers that never end: closed after header_seconds
    client.send("GET /health HTTP/1.1\r\n");
    EXPECT_EQ(client.receive().status, 0);
  }
}

TEST_F(ServerTest, StopsWorkWhenTheClientGoes) {
  for (const char* stream : {"true", "false"}) {
    HttpClient client(port_);
    client.start_post(
        "/v1/chat/completions",
        chat_body(
            "Tell me a long story.",
            fmt::format(
                R"(, "stream": {}, "max_tokens": 1500, "logit_bias": {{"0": -100, "2": -100}})",
                stream)));
    for (int i = 0; i < 500 && running() == 0; ++i)
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    EXPECT_EQ(running(), 1);
    client.close();
    for (int i = 0; i < 500 && running() > 0; ++i)
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    EXPECT_EQ(running(), 0) << "stream: " << stream;
  }
}

TEST_F(ServerTest, FindsARepeatedPromptInTheCache) {
  HttpClient client(port_);
  std::string words;
  for (int i = 0; i < 200; ++i) words += fmt::format("stone {} ", i);
  const auto usage = [&] {
    return body(client.post("/v1/chat/completions", chat_body(words, R"(, "max_tokens": 2)")))
        .at("usage")
        .as_object();
  };
  EXPECT_EQ(usage().at("prompt_tokens_details").at("cached_tokens"), 0);
  const auto second = usage();
  const auto prompt = second.at("prompt_tokens").to_number<int64_t>();
  const auto cached = second.at("prompt_tokens_details").at("cached_tokens").to_number<int64_t>();
  EXPECT_LT(cached, prompt);
  EXPECT_GT(cached, prompt - 32);
}

TEST_F(ServerTest, ManyAtOnceGetTheirAnswerAlone) {
  constexpr int kClients = 12;
  std::map<int, std::string> alone;
  const auto ask = [&](HttpClient& client, int i) {
    return answer_text(client.post(
        "/v1/chat/completions",
        chat_body(fmt::format("Tell me of the number {}.", i),
                  fmt::format(R"(, "max_tokens": 16, "seed": {}, "temperature": 0.9)", i))));
  };
  {
    HttpClient client(port_);
    for (int i = 0; i < kClients; ++i) alone[i] = ask(client, i);
  }
  std::atomic<int> wrong = 0;
  std::vector<std::thread> threads;
  for (int i = 0; i < kClients; ++i) {
    threads.emplace_back([&, i] {
      HttpClient client(port_);
      for (int round = 0; round < 2; ++round) {
        if (ask(client, i) != alone[i]) ++wrong;
        if (client
                .post("/v1/embeddings",
                      R"({"model": "impetus-tiny-embed", "input": ["a", "b c d"]})")
                .status != 200)
          ++wrong;
      }
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
}

TEST_F(ServerTest, SaysWhatIsPlacedWhereAndWhy) {
  HttpClient client(port_);
  const json::object plan = body(client.get("/api/plan"));
  EXPECT_FALSE(plan.at("hardware").as_string().empty());
  ASSERT_EQ(plan.at("models").as_array().size(), 2u);
  for (const json::value& model : plan.at("models").as_array()) {
    EXPECT_TRUE(model.at("possible").as_bool());
    EXPECT_FALSE(model.at("worth_a_new_start").as_bool());
    const bool chat = model.at("kind") == "decoder";
    const json::value& placed = model.at("placements").at(chat ? "decode" : "embeddings");
    EXPECT_GT(placed.at("predicted").at("tokens_per_second").as_double(), 0);
    EXPECT_FALSE(placed.at("reason").as_string().empty());
    // It runs where the plan puts it.
    EXPECT_EQ(model.at("running").at(chat ? "decode" : "embeddings").at(0), placed.at("backend"));
  }
}

TEST_F(ServerTest, TellsOfTheMachine) {
  HttpClient client(port_);
  const auto info = client.get("/api/hardware/info");
  ASSERT_EQ(info.status, 200) << info.body;
  EXPECT_GE(body(info).at("cpu").at("usable_cores").as_int64(), 1);
  EXPECT_GT(body(info).at("memory").at("total_bytes").as_int64(), 0);
  EXPECT_TRUE(body(info).at("missing").is_array());
  for (int i = 0; i < 3; ++i) {  // the first waits for a reading, the others find it
    const auto metrics = client.get("/api/hardware/metrics");
    ASSERT_EQ(metrics.status, 200) << metrics.body;
    const json::object whole = body(metrics);
    const json::object& cpu = whole.at("processors").as_array().at(0).as_object();
    EXPECT_EQ(cpu.at("id"), "cpu");
    EXPECT_TRUE(cpu.at("celsius").is_null() || cpu.at("celsius").as_double() > 0);
  }
}

TEST_F(ServerTest, RefusesMoreThanItsQueueHolds) {
  // 64 run and 32 wait: these clients stay, so sooner or later every place is taken.
  std::vector<std::unique_ptr<HttpClient>> clients;
  std::string head;
  for (int i = 0; i < 60 && head.find(" 429 ") == std::string::npos; ++i) {
    clients.push_back(std::make_unique<HttpClient>(port_));
    clients.back()->start_post(
        "/v1/chat/completions",
        chat_body(fmt::format("{}", i), R"(, "n": 16, "max_tokens": 1500, "stream": true,
                                            "logit_bias": {"0": -100, "2": -100})"));
    ASSERT_TRUE(clients.back()->take_until("\r\n\r\n", head));
  }
  // What waits in the queue began, without a word of who runs it.
  EXPECT_NE(head.find(" 429 "), std::string::npos) << head;
  EXPECT_NE(head.find("Retry-After"), std::string::npos) << head;
  clients.clear();
  for (int i = 0; i < 6000 && running() > 0; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  EXPECT_EQ(running(), 0);
}

TEST_F(ServerTest, ZDrainsAndWantsItsKey) {  // last: it ends the shared server
  HttpClient client(port_);
  client.start_post(
      "/v1/chat/completions",
      chat_body("Tell me a story.", R"(, "max_tokens": 64, "logit_bias": {"0": -100, "2": -100})"));
  for (int i = 0; i < 500 && running() == 0; ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  stop();
  const auto answer = client.receive();  // what ran was finished
  EXPECT_EQ(answer.status, 200) << answer.body;
  EXPECT_FALSE(HttpClient(port_).connected());

  EXPECT_FALSE(Server::listen(*runtime_, {.host = "0.0.0.0", .port = 0, .api_key = ""}).ok());
  start({.api_key = "secret"});
  HttpClient keyed(port_);
  expect_error(keyed.get("/v1/models"), 401);
  EXPECT_EQ(keyed.get("/v1/models", "Authorization: Bearer secret\r\n").status, 200);
  EXPECT_EQ(keyed.get("/api/health/status", "x-api-key: secret\r\n").status, 200);
  expect_error(keyed.get("/api/health/status"), 401);
  EXPECT_EQ(keyed.get("/health").status, 200);
}

}  // namespace
}  // namespace impetus

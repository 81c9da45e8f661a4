// What the tests of the server share: a server on a free port with the repository's own models, and
// how its answers are read.
#pragma once

#include <atomic>
#include <map>
#include <thread>

#include <gtest/gtest.h>

#include "base/json.h"
#include "cpu/cpu_backend.h"
#include "server/server.h"
#include "tests/support/http_client.h"

namespace impetus {

using testing::HttpAnswer;
using testing::HttpClient;

class ServerTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    auto cpu = make_cpu_backend({.threads = 2, .isa = {}});
    ASSERT_TRUE(cpu.ok()) << cpu.error().message;
    std::vector<std::unique_ptr<Backend>> backends;
    backends.push_back(std::move(*cpu));
    RuntimeOptions options;
    options.model_folders = {std::filesystem::path(IMPETUS_SOURCE_DIR) / "models"};
    options.waiting_max = 32;
    auto runtime = Runtime::create(std::move(options), std::move(backends));
    ASSERT_TRUE(runtime.ok()) << runtime.error().message;
    runtime_ = std::move(*runtime);
    for (const char* model : {"impetus-tiny-chat", "impetus-tiny-embed"}) {
      const auto loaded = runtime_->load(model);
      ASSERT_TRUE(loaded.ok()) << loaded.error().message;
    }
    start({});
  }
  static void TearDownTestSuite() {
    stop();
    runtime_.reset();
  }

  static void start(ServerOptions options) {
    options.port = 0;
    options.body_bytes_max = 1 << 20;
    options.header_seconds = 1;
    options.keep_alive_seconds = 0.5;
    auto server = Server::listen(*runtime_, options);
    ASSERT_TRUE(server.ok()) << server.error().message;
    server_ = std::move(*server);
    const std::string url = server_->url();
    port_ = static_cast<uint16_t>(std::stoi(url.substr(url.rfind(':') + 1)));
    thread_ = std::thread([] { server_->run(); });
  }
  static void stop() {
    if (!server_) return;
    server_->stop();
    thread_.join();
    server_.reset();
  }

  static json::object body(const HttpAnswer& answer) {
    auto parsed = parse_json(answer.body);
    EXPECT_TRUE(parsed.ok()) << answer.status << ": " << answer.body;
    return parsed.ok() && parsed->is_object() ? parsed->get_object() : json::object{};
  }
  static void expect_error(const HttpAnswer& answer, int status, const char* param = nullptr) {
    EXPECT_EQ(answer.status, status) << answer.body;
    const json::object whole = body(answer);
    ASSERT_TRUE(whole.contains("error")) << answer.body;
    const json::object& error = whole.at("error").as_object();
    EXPECT_FALSE(error.at("message").as_string().empty());
    EXPECT_TRUE(error.at("type").is_string());
    EXPECT_FALSE(error.at("code").as_string().empty());
    if (param) EXPECT_EQ(error.at("param"), param) << answer.body;
  }
  static std::string chat_body(const std::string& text, const std::string& more = "") {
    return R"({"model": "impetus-tiny-chat", "messages": [{"role": "user", "content": )" +
           json::serialize(json::value(text)) + "}]" + more + "}";
  }
  static std::string answer_text(const HttpAnswer& answer) {
    const json::object whole = body(answer);
    if (!whole.contains("choices")) return "no choices: " + answer.body;
    return std::string(
        whole.at("choices").as_array().at(0).at("message").at("content").as_string());
  }
  static std::vector<std::string> events(const std::string& stream) {
    std::vector<std::string> all;
    size_t at = 0;
    while ((at = stream.find("data: ", at)) != std::string::npos) {
      const size_t end = stream.find("\n\n", at);
      all.push_back(stream.substr(at + 6, end - at - 6));
      at = end;
    }
    return all;
  }
  static int64_t running() {
    int64_t sum = 0;
    for (const auto& lane : runtime_->metrics()) sum += lane.running + lane.waiting;
    return sum;
  }

  static inline std::unique_ptr<Runtime> runtime_;
  static inline std::unique_ptr<Server> server_;
  static inline std::thread thread_;
  static inline uint16_t port_ = 0;
};

}  // namespace impetus

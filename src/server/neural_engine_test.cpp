// An encoder converted, checked, cached and served by a Neural Engine that is imitated: by length
// bucket, beside a CPU that takes what does not fit.
#include <cmath>
#include <future>

#include <unistd.h>

#include "coreml/coreml_backend.h"
#include "server/test_support.h"

namespace impetus {
namespace {

namespace fs = std::filesystem;

class NeuralEngineTest : public ServerTest {
 protected:
  static void SetUpTestSuite() {
    std::string name = (fs::temp_directory_path() / "impetus-ane-XXXXXX").string();
    folder_ = ::mkdtemp(name.data());
    runtime_ = make(Fallback::warn);
    ASSERT_TRUE(runtime_);
    for (const char* model : {"impetus-tiny-chat", "impetus-tiny-embed"}) {
      const auto loaded = runtime_->load(model);
      ASSERT_TRUE(loaded.ok()) << loaded.error().message;
    }
    start({});
  }
  static void TearDownTestSuite() {
    ServerTest::TearDownTestSuite();
    fs::remove_all(folder_);
  }

  // Programs for 16 and 32 tokens; decoders and longer texts on the CPU.
  static std::unique_ptr<Runtime> make(Fallback fallback) {
    std::vector<std::unique_ptr<Backend>> backends;
    auto engine = coreml::make_coreml_backend(coreml::make_emulated_loader(2),
                                              {.shapes = {16, 32}, .cache = folder_});
    EXPECT_TRUE(engine.ok()) << engine.error().message;
    backends.push_back(std::move(*engine));
    backends.push_back(std::move(*make_cpu_backend({.threads = 1, .isa = {}})));
    cpu_ = backends.back()->descriptor().backend;
    RuntimeOptions options;
    options.model_folders = {fs::path(IMPETUS_SOURCE_DIR) / "models"};
    options.placement = {{"cpu"}, {"cpu"}, {"coreml-emulated", "cpu"}};
    options.fallback = fallback;
    auto runtime = Runtime::create(std::move(options), std::move(backends));
    EXPECT_TRUE(runtime.ok()) << runtime.error().message;
    return runtime.ok() ? std::move(*runtime) : nullptr;
  }
  static HttpAnswer post(const std::string& input, const std::string& more = "",
                         const char* path = "/v1/embeddings") {
    HttpClient client(port_);
    return client.post(path, R"({"model": "impetus-tiny-embed", "input": )" + input + more + "}");
  }
  static std::vector<std::vector<float>> vectors(const HttpAnswer& answer) {
    std::vector<std::vector<float>> all;
    const json::object whole = body(answer);
    for (const json::value& entry : whole.at("data").as_array()) {
      auto& vector = all.emplace_back();
      for (const json::value& x : entry.at("embedding").as_array()) {
        vector.push_back(static_cast<float>(x.to_number<double>()));
      }
    }
    return all;
  }
  // What the CPU says, by itself.
  static std::vector<std::vector<float>> on_cpu(const std::vector<std::string>& texts) {
    std::vector<std::unique_ptr<Backend>> backends;
    backends.push_back(std::move(*make_cpu_backend({.threads = 1, .isa = {}})));
    RuntimeOptions options;
    options.model_folders = {fs::path(IMPETUS_SOURCE_DIR) / "models"};
    auto runtime = std::move(*Runtime::create(std::move(options), std::move(backends)));
    EXPECT_TRUE(runtime->load("impetus-tiny-embed").ok());
    EmbedRequest request;
    request.model = "impetus-tiny-embed";
    request.input = texts;
    std::promise<Result<EmbedAnswer>> promise;
    auto answer = promise.get_future();
    const auto handle = runtime->embed(std::move(request),
                                       [&](auto result) { promise.set_value(std::move(result)); });
    EXPECT_TRUE(handle.ok());
    return answer.get()->vectors;
  }
  static double cosine(const std::vector<float>& a, const std::vector<float>& b) {
    double ab = 0, aa = 0, bb = 0;
    EXPECT_EQ(a.size(), b.size());
    for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
      ab += double{a[i]} * b[i], aa += double{a[i]} * a[i], bb += double{b[i]} * b[i];
    }
    return ab / std::sqrt(aa * bb);
  }
  static std::string words(int count) {
    std::string text;
    for (int i = 0; i < count; ++i) text += i % 3 ? "cat " : "house ";
    return text;
  }

  static inline fs::path folder_;
  static inline std::string cpu_;
};

TEST_F(NeuralEngineTest, AnswersAsTheCpuDoesAndSaysWhoDid) {
  const std::vector<std::string> texts{"a cat", "The quick brown fox jumps over the lazy dog.",
                                       words(20)};
  const std::string input = json::serialize(json::value(json::array(texts.begin(), texts.end())));
  for (const char* path : {"/v1/embeddings", "/api/embeddings"}) {
    const auto answer = post(input, "", path);
    ASSERT_EQ(answer.status, 200) << answer.body;
    EXPECT_NE(answer.head.find("x-impetus-device: coreml-emulated\r\n"), std::string::npos)
        << answer.head;
    const auto own = body(answer).at("impetus").as_object();
    EXPECT_EQ(own.at("device"), "coreml-emulated");
    EXPECT_EQ(own.at("devices").at("embeddings"), json::array({"coreml-emulated"}));
    const auto here = vectors(answer), there = on_cpu(texts);
    ASSERT_EQ(here.size(), texts.size());
    for (size_t t = 0; t < texts.size(); ++t) {
      EXPECT_GE(cosine(here[t], there[t]), 0.9999) << texts[t];
      double square = 0;
      for (const float x : here[t]) square += double{x} * x;
      EXPECT_NEAR(square, 1, 1e-4);
    }
  }
  // The same text alone, and in the old form.
  HttpClient client(port_);
  const auto bare =
      client.post("/api/embeddings", R"({"model": "impetus-tiny-embed", "prompt": "a cat"})");
  EXPECT_NE(bare.head.find("x-impetus-device: coreml-emulated\r\n"), std::string::npos);
}

TEST_F(NeuralEngineTest, WhatIsTooLongGoesToTheCpuAndSaysSo) {
  const auto alone = post(json::serialize(json::value(words(60))));
  ASSERT_EQ(alone.status, 200) << alone.body;
  EXPECT_NE(alone.head.find("x-impetus-device: " + cpu_ + "\r\n"), std::string::npos) << alone.head;
  EXPECT_EQ(vectors(alone), on_cpu({words(60)}));
  const auto both = post(json::serialize(json::value(json::array{"a cat", words(60)})));
  ASSERT_EQ(both.status, 200) << both.body;
  EXPECT_NE(both.head.find("x-impetus-device: coreml-emulated, " + cpu_ + "\r\n"),
            std::string::npos)
      << both.head;
  EXPECT_EQ(vectors(both)[1], vectors(alone)[0]);
  EXPECT_EQ(vectors(both)[0], vectors(post(R"("a cat")"))[0]);  // whatever stands beside it

  HttpClient client(port_);
  const auto model = body(client.get("/v1/models/impetus-tiny-embed")).at("impetus").as_object();
  EXPECT_EQ(model.at("devices").at("embeddings"), json::array({"coreml-emulated", cpu_}));
  EXPECT_EQ(model.at("precision"), "fp16");
  EXPECT_NE(model.at("fallback_reason").as_string().find("texts of at most 32 tokens"),
            std::string::npos);
  const auto chat = client.post("/v1/chat/completions", chat_body("Hi", R"(, "max_tokens": 2)"));
  EXPECT_NE(chat.head.find("x-impetus-device: " + cpu_ + "\r\n"), std::string::npos) << chat.head;
  EXPECT_EQ(client.get("/api/plan").status, 200);
}

TEST_F(NeuralEngineTest, WhereNoOtherIsAllowedTooLongIsAnError) {
  stop();
  auto before = std::exchange(runtime_, make(Fallback::forbid));
  ASSERT_TRUE(runtime_->load("impetus-tiny-embed").ok());
  start({});
  const auto answer = post(json::serialize(json::value(words(60))));
  expect_error(answer, 400, "input");
  EXPECT_NE(answer.body.find("coreml-emulated takes texts of at most 32 tokens, and no other"),
            std::string::npos)
      << answer.body;
  EXPECT_EQ(post(R"("a cat")").status, 200);
  EXPECT_EQ(post(json::serialize(json::value(words(60))), R"(, "truncate": true)").status, 200);
  stop();
  runtime_ = std::move(before);
  start({});
}

TEST_F(NeuralEngineTest, TheSecondStartConvertsNothing) {
  const auto files = [] {
    std::map<std::string, fs::file_time_type> found;
    for (const auto& entry : fs::recursive_directory_iterator(folder_)) {
      if (entry.path().string().find("/content/") != std::string::npos) {
        found[entry.path().string()] = entry.last_write_time();
      }
    }
    return found;
  };
  const auto before = files();
  EXPECT_GE(before.size(), 3u);
  const auto again = make(Fallback::warn);
  ASSERT_TRUE(again->load("impetus-tiny-embed").ok());
  EXPECT_EQ(files(), before);
}

}  // namespace
}  // namespace impetus

// A server one of whose processors throws, runs out of memory, is lost or hangs: it lives on, its
// streams go on elsewhere or end with an error that names the processor, and the rest is untouched.
#include <chrono>

#ifdef IMPETUS_HAVE_MLX
#include "mlx/mlx_backend.h"
#endif
#include "server/test_support.h"
#include "tests/support/faulty_backend.h"

namespace impetus {
namespace {

using Kind = FaultPlan::Kind;

// Two processors of one kind of kernels: "gpu", which meets faults, and the CPU below it.
class FailoverTest : public ServerTest {
 protected:
  static constexpr double kStepSeconds = 2;  // the sanitizers are slow

  static void SetUpTestSuite() {}
  static void TearDownTestSuite() {}

  // `embeddings`: where they are placed, by names as for --device. `text_tokens_max`: of gpu's.
  void serve(Fallback fallback, std::vector<std::string> embeddings, int64_t text_tokens_max = 0,
             std::vector<std::string> chat = {"gpu", "cpu"}) {
    std::vector<std::unique_ptr<Backend>> backends;
    backends.push_back(
        std::make_unique<testing::FaultyBackend>(inner(), "gpu", around_, text_tokens_max));
    backends.push_back(std::move(*make_cpu_backend({.threads = 1, .isa = {}})));
    cpu_ = backends.back()->descriptor().backend;
    RuntimeOptions options;
    options.model_folders = {std::filesystem::path(IMPETUS_SOURCE_DIR) / "models"};
    options.placement.prefill = options.placement.decode = std::move(chat);
    options.placement.embeddings = std::move(embeddings);
    options.fallback = fallback;
    options.step_seconds = kStepSeconds;
    auto runtime = Runtime::create(std::move(options), std::move(backends));
    ASSERT_TRUE(runtime.ok()) << runtime.error().message;
    runtime_ = std::move(*runtime);
    for (const char* model : {"impetus-tiny-chat", "impetus-tiny-embed"}) {
      const auto loaded = runtime_->load(model);
      ASSERT_TRUE(loaded.ok()) << loaded.error().message;
    }
    start({});
  }
  void TearDown() override {
    stop();
    runtime_.reset();
    // What hung goes on after all is gone: what it stands on must still be there.
    plan_->release();
    while (plan_->hanging() > 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }

  // What "gpu" computes with.
  virtual std::unique_ptr<Backend> inner() {
    return std::move(*make_cpu_backend({.threads = 1, .isa = {}}));
  }

  static std::string question(int tokens, bool stream) {
    return chat_body("Tell me a story about a fox.",
                     R"(, "temperature": 0.9, "seed": 4, "ignore_eos": true, "max_tokens": )" +
                         std::to_string(tokens) + (stream ? R"(, "stream": true)" : ""));
  }
  static std::string streamed_text(const std::string& stream) {
    std::string text;
    for (const std::string& event : events(stream)) {
      if (event == "[DONE]") continue;
      const json::object chunk = parse_json(event)->as_object();
      if (!chunk.contains("choices") || chunk.at("choices").as_array().empty()) continue;
      const json::object& delta = chunk.at("choices").as_array()[0].at("delta").as_object();
      if (delta.contains("content")) text += std::string(delta.at("content").as_string());
    }
    return text;
  }
  static json::object own(const std::string& event) {
    return parse_json(event)->as_object().at("impetus").as_object();
  }
  json::array names(std::initializer_list<std::string_view> list) {
    return json::array(list.begin(), list.end());
  }
  static HttpAnswer embed(HttpClient& client, const std::string& text = "a fox") {
    return client.post("/v1/embeddings", R"({"model": "impetus-tiny-embed", "input": )" +
                                             json::serialize(json::value(text)) + "}");
  }
  static json::array devices_of(const HttpAnswer& answer, const char* phase) {
    return body(answer).at("impetus").at("devices").at(phase).as_array();
  }
  // A metric's value; -1: there is none.
  static double metric(HttpClient& client, const std::string& name) {
    const std::string all = client.get("/metrics").body;
    const size_t at = all.find("\n" + name + " ");
    return at == std::string::npos ? -1 : std::stod(all.substr(at + name.size() + 2));
  }
  void wait_for_hang() {
    while (plan_->hanging() == 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }

  std::shared_ptr<FaultPlan> plan_ = std::make_shared<FaultPlan>();
  std::shared_ptr<FaultPlan> around_ = plan_;  // that faults are met by around `inner`
  std::string cpu_;
};

TEST_F(FailoverTest, AStreamGoesOnElsewhereWhileItsDeviceHangs) {
  serve(Fallback::warn, {"cpu"});
  HttpClient client(port_), other(port_);
  const std::string whole = answer_text(client.post("/v1/chat/completions", question(40, false)));
  ASSERT_GT(whole.size(), 20u);

  plan_->at(12, Kind::hang);
  client.start_post("/v1/chat/completions", question(40, true));
  wait_for_hang();
  const auto from = std::chrono::steady_clock::now();
  EXPECT_EQ(other.get("/health").status, 200);
  EXPECT_EQ(other.get("/api/health/ready").status, 200);
  const auto vectors = embed(other);
  EXPECT_EQ(vectors.status, 200) << vectors.body;
  EXPECT_EQ(devices_of(vectors, "embeddings"), names({cpu_}));
  EXPECT_LT(std::chrono::steady_clock::now() - from, std::chrono::duration<double>(kStepSeconds));
  // New requests go to the next rung as well.
  const auto fresh = other.post("/v1/chat/completions", question(40, false));
  EXPECT_EQ(answer_text(fresh), whole);
  EXPECT_EQ(devices_of(fresh, "prefill"), names({cpu_}));

  const auto stream = client.receive();
  EXPECT_EQ(plan_->hanging(), 1);
  EXPECT_NE(stream.head.find("x-impetus-device: gpu"), std::string::npos) << stream.head;
  EXPECT_EQ(streamed_text(stream.body), whole);
  const auto all = events(stream.body);
  ASSERT_GE(all.size(), 2u);
  const json::object last = own(all[all.size() - 2]);
  EXPECT_EQ(last.at("devices").at("prefill"), names({"gpu", cpu_}));
  EXPECT_EQ(last.at("devices").at("decode"), names({"gpu", cpu_}));
  const std::string reason(last.at("fallback_reason").as_string());
  EXPECT_NE(reason.find("decode on " + cpu_ + ", not on gpu (lost: a step did not end"),
            std::string::npos)
      << reason;

  const json::object status = body(other.get("/api/health/status"));
  const json::array& lost = status.at("lost").as_array();
  ASSERT_EQ(lost.size(), 1u);
  EXPECT_EQ(lost[0].at("backend"), "gpu");
  EXPECT_TRUE(lost[0].at("hangs").as_bool());
  EXPECT_EQ(body(other.get("/api/hardware/info")).at("lost"), status.at("lost"));
  EXPECT_EQ(metric(other, "impetus_processors_lost_total"), 1);
  EXPECT_EQ(metric(other, R"(impetus_processor_lost{device="gpu"})"), 1);
  EXPECT_GE(metric(other, R"(impetus_moved_total{model="impetus-tiny-chat"})"), 1);
  const json::object model = body(other.get("/v1/models/impetus-tiny-chat"));
  EXPECT_EQ(model.at("impetus").at("devices").at("decode"), names({cpu_}));
  const auto refused =
      other.post("/api/models/benchmark", R"({"model": "impetus-tiny-chat", "devices": ["gpu"]})");
  EXPECT_NE(refused.body.find("lost: a step"), std::string::npos) << refused.body;
}

TEST_F(FailoverTest, ForbiddenToMoveItEndsWithAnErrorThatNamesTheDevice) {
  serve(Fallback::forbid, {"cpu"});
  HttpClient client(port_), other(port_);
  plan_->at(12, Kind::hang);
  client.start_post("/v1/chat/completions", question(40, true));
  const auto stream = client.receive();
  EXPECT_NE(stream.body.find("gpu: a step did not end"), std::string::npos) << stream.body;
  EXPECT_NE(stream.body.find("no other is allowed"), std::string::npos) << stream.body;
  const auto refused = other.post("/v1/chat/completions", question(4, false));
  expect_error(refused, 503);
  EXPECT_NE(refused.body.find("gpu"), std::string::npos);
  EXPECT_EQ(other.get("/health").status, 200);
  EXPECT_EQ(embed(other).status, 200);
}

TEST_F(FailoverTest, ExceptionsAndMemoryEndNoRequestThatCanRun) {
  serve(Fallback::allow, {"gpu", "cpu"});
  HttpClient client(port_);
  const std::string whole = answer_text(client.post("/v1/chat/completions", question(30, false)));
  // In passing: where it is.
  for (const Kind kind : {Kind::exception, Kind::odd, Kind::bad_alloc, Kind::memory, Kind::error}) {
    plan_->at(5, kind);
    const auto answer = client.post("/v1/chat/completions", question(30, false));
    EXPECT_EQ(answer_text(answer), whole);
    EXPECT_EQ(devices_of(answer, "decode"), names({"gpu"}));
    EXPECT_TRUE(body(answer).at("impetus").at("fallback_reason").is_null());
  }
  for (const Kind kind : {Kind::exception, Kind::odd, Kind::error}) {
    plan_->at(0, kind);
    EXPECT_EQ(devices_of(embed(client), "embeddings"), names({"gpu"}));
  }
  // One text cannot be made any smaller: this model moves, and the device stays.
  plan_->at(0, Kind::memory, true);
  const auto vectors = embed(client);
  EXPECT_EQ(devices_of(vectors, "embeddings"), names({cpu_})) << vectors.body;
  EXPECT_TRUE(runtime_->lost().empty());
  plan_->clear();
  const auto answer = client.post("/v1/chat/completions", question(30, false));
  EXPECT_EQ(devices_of(answer, "decode"), names({"gpu"}));
}

TEST_F(FailoverTest, ADeviceThatIsGoneLosesItsModelsToTheNext) {
  serve(Fallback::warn, {"gpu", "cpu"});
  HttpClient client(port_), other(port_);
  const std::string whole = answer_text(client.post("/v1/chat/completions", question(30, false)));
  const auto before = body(embed(client)).at("data");
  EXPECT_EQ(runtime_->lost().size(), 0u);
  plan_->at(9, Kind::lost, true);
  const auto moved = client.post("/v1/chat/completions", question(30, false));
  EXPECT_EQ(answer_text(moved), whole);
  EXPECT_EQ(devices_of(moved, "decode"), names({"gpu", cpu_}));
  // The other model moved too, before anybody asked it anything.
  const auto vectors = embed(other);
  EXPECT_EQ(devices_of(vectors, "embeddings"), names({cpu_}));
  EXPECT_EQ(body(vectors).at("data"), before);
  EXPECT_FALSE(runtime_->lost()[0].hangs);
}

TEST_F(FailoverTest, TextsOfADeviceThatHangsGoToTheOneThatTakesLongerTexts) {
  serve(Fallback::warn, {"gpu", "cpu"}, /*text_tokens_max=*/16, {"cpu"});
  HttpClient client(port_), other(port_);
  const auto before = embed(client);
  EXPECT_EQ(devices_of(before, "embeddings"), names({"gpu"}));
  const int64_t used = runtime_->ledger().used_bytes();
  plan_->at(0, Kind::hang);
  client.start_post("/v1/embeddings", R"({"model": "impetus-tiny-embed", "input": "a fox"})");
  wait_for_hang();
  EXPECT_EQ(answer_text(other.post("/v1/chat/completions", question(8, false))).empty(), false);
  const std::string longer =
      "The quick brown fox jumps over the lazy dog, again and again and "
      "again, until the dog has had enough of it and goes away.";
  EXPECT_EQ(devices_of(embed(other, longer), "embeddings"), names({cpu_}));
  EXPECT_EQ(devices_of(client.receive(), "embeddings"), names({cpu_}));
  const auto after = embed(other);
  EXPECT_EQ(devices_of(after, "embeddings"), names({cpu_}));
  EXPECT_EQ(body(after).at("data"), body(before).at("data"));
  EXPECT_EQ(runtime_->ledger().used_bytes(), used);  // nothing was loaded twice
}

// The process can end though a step never does.
TEST_F(FailoverTest, EndsThoughAStepHangs) {
  serve(Fallback::warn, {"cpu"});
  HttpClient client(port_);
  plan_->at(6, Kind::hang);
  client.start_post("/v1/chat/completions", question(40, true));
  wait_for_hang();
  const auto from = std::chrono::steady_clock::now();
  stop();
  runtime_.reset();
  EXPECT_LT(std::chrono::steady_clock::now() - from, std::chrono::seconds(40));
  EXPECT_EQ(plan_->hanging(), 1);
}

#ifdef IMPETUS_HAVE_MLX
// The faults are met inside MLX's backend, where it is MLX's turn.
class MlxFailoverTest : public FailoverTest {
 protected:
  MlxFailoverTest() { around_ = std::make_shared<FaultPlan>(); }
  std::unique_ptr<Backend> inner() override {
    return std::move(*make_mlx_backend({.cpu = true, .fault = [plan = plan_](std::string_view at) {
                                          if (at == "load") return;
                                          const auto met = plan->meet(1);
                                          if (!met.ok())
                                            throw std::runtime_error(met.error().message);
                                        }}));
  }
};

TEST_F(MlxFailoverTest, AHangInsideMlx) {
  serve(Fallback::warn, {"gpu", "cpu"});
  HttpClient client(port_), other(port_);
  plan_->at(12, Kind::hang);
  client.start_post("/v1/chat/completions", question(40, true));
  wait_for_hang();
  EXPECT_EQ(other.get("/health").status, 200);
  const auto all = events(client.receive().body);
  ASSERT_GE(all.size(), 41u);
  EXPECT_EQ(own(all[all.size() - 2]).at("devices").at("decode"), names({"gpu", cpu_}));
  EXPECT_EQ(embed(other).status, 200);
  EXPECT_EQ(other.post("/v1/chat/completions", question(10, false)).status, 200);
  EXPECT_EQ(metric(other, "impetus_processors_lost_total"), 1);
  EXPECT_EQ(plan_->hanging(), 1);
}

// Texts meet MLX's turn, which the step that hangs keeps for itself: they go elsewhere too.
TEST_F(MlxFailoverTest, TextsBesideAHangInsideMlx) {
  serve(Fallback::warn, {"gpu", "cpu"});
  plan_->at(12, Kind::hang);
  HttpClient client(port_), other(port_);
  client.start_post("/v1/chat/completions", question(40, true));
  wait_for_hang();
  const auto vectors = embed(other);
  EXPECT_EQ(vectors.status, 200) << vectors.body;
  EXPECT_EQ(devices_of(vectors, "embeddings"), names({cpu_}));
  EXPECT_GE(events(client.receive().body).size(), 41u);
}

// One is nobody's loss; one in every step ends who meets it twice, and after three the processor is
// left.
TEST_F(MlxFailoverTest, ExceptionsInsideMlx) {
  serve(Fallback::warn, {"gpu", "cpu"});
  HttpClient client(port_), other(port_);
  plan_->at(12, Kind::exception);
  client.start_post("/v1/chat/completions", question(40, true));
  auto all = events(client.receive().body);
  ASSERT_GE(all.size(), 41u);
  EXPECT_EQ(own(all[all.size() - 2]).at("devices").at("decode"), names({"gpu"}));

  plan_->at(12, Kind::exception, true);
  client.start_post("/v1/chat/completions", question(40, true));
  const auto ended = client.receive().body;
  EXPECT_NE(ended.find("MLX failed"), std::string::npos) << ended;
  HttpAnswer answer;
  for (int i = 0; i < 3 && answer.status != 200; ++i) {
    answer = other.post("/v1/chat/completions", question(10, false));
  }
  ASSERT_EQ(answer.status, 200) << answer.body;
  EXPECT_EQ(devices_of(answer, "decode"), names({cpu_}));
  EXPECT_EQ(embed(other).status, 200);
}

TEST_F(MlxFailoverTest, NoMemoryInsideMlx) {
  serve(Fallback::warn, {"gpu", "cpu"});
  HttpClient client(port_);
  plan_->at(12, Kind::bad_alloc);
  client.start_post("/v1/chat/completions", question(40, true));
  const auto all = events(client.receive().body);
  ASSERT_GE(all.size(), 41u);
  // Once is no reason to leave.
  EXPECT_EQ(own(all[all.size() - 2]).at("devices").at("decode"), names({"gpu"}));
}
#endif

}  // namespace
}  // namespace impetus

// Every answer says who ran it, though it was planned otherwise: header, impetus object, metrics.
#include "server/test_support.h"

namespace impetus {
namespace {

// An executor that runs elsewhere than its descriptor says, as one would that fell back by itself.
class Elsewhere final : public Executor, public Encoder {
 public:
  static inline const BackendDescriptor prompts = [] {
    BackendDescriptor one;
    one.device = one.backend = "elsewhere-prompts";
    return one;
  }();
  static inline const BackendDescriptor answers = [] {
    BackendDescriptor one;
    one.device = one.backend = "elsewhere-answers";
    return one;
  }();
  static inline std::atomic<bool> hold = false;  // steps wait
  static inline std::atomic<bool> fail = false;  // steps fail

  explicit Elsewhere(std::unique_ptr<Executor> executor) : executor_(std::move(executor)) {}
  explicit Elsewhere(std::unique_ptr<Encoder> encoder) : encoder_(std::move(encoder)) {}
  const BackendDescriptor& descriptor() const override {
    return executor_ ? executor_->descriptor() : encoder_->descriptor();
  }
  const KvStorage& kv() const override { return std::as_const(*executor_).kv(); }
  KvStorage& kv() override { return executor_->kv(); }
  int64_t step_tokens_max() const override { return executor_->step_tokens_max(); }
  Result<std::vector<SequenceResult>> execute(std::span<const SequenceStep> batch) override {
    while (hold) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    if (fail) return error(ErrorCode::unavailable, "the device was lost");
    IMPETUS_TRY(auto results, executor_->execute(batch));
    for (size_t i = 0; i < results.size(); ++i) {
      // The third token of each answer and those after it are the first processor's again.
      const bool late = batch[i].context.answer.size() >= 3;
      if (batch[i].phase == StepPhase::prefill) {
        results[i].ran_on = &prompts;
      } else if (!late) {
        results[i].ran_on = &answers;
      }
      results[i].handoff_seconds = 0.001;
    }
    return results;
  }
  int64_t batch_tokens_max() const override { return encoder_->batch_tokens_max(); }
  int64_t text_tokens_max() const override { return encoder_->text_tokens_max(); }
  Result<Encoded> encode(const EncoderBatch& batch) override {
    IMPETUS_TRY(auto encoded, encoder_->encode(batch));
    for (auto& one : encoded.ran_on) one = &answers;
    return encoded;
  }

 private:
  std::unique_ptr<Executor> executor_;
  std::unique_ptr<Encoder> encoder_;
};

constexpr int64_t kMemory = int64_t{300} << 20;

// With memory of its own, too.
class ElsewhereBackend final : public Backend {
 public:
  explicit ElsewhereBackend(std::unique_ptr<Backend> backend) : backend_(std::move(backend)) {}
  const BackendDescriptor& descriptor() const override { return backend_->descriptor(); }
  const MemoryLedger* memory() const override { return &memory_; }
  Result<std::unique_ptr<Executor>> load_decoder(const ModelSpec& spec, const WeightSet& weights,
                                                 const LoadOptions& options,
                                                 MemoryLedger&) override {
    IMPETUS_TRY(auto executor, backend_->load_decoder(spec, weights, options, memory_));
    return std::unique_ptr<Executor>(std::make_unique<Elsewhere>(std::move(executor)));
  }
  Result<std::unique_ptr<Encoder>> load_encoder(const ModelSpec& spec, const WeightSet& weights,
                                                const LoadOptions& options,
                                                MemoryLedger&) override {
    IMPETUS_TRY(auto encoder, backend_->load_encoder(spec, weights, options, memory_));
    return std::unique_ptr<Encoder>(std::make_unique<Elsewhere>(std::move(encoder)));
  }

 private:
  MemoryLedger memory_{kMemory};  // outlives what is reserved in it
  std::unique_ptr<Backend> backend_;
};

// A server whose models run elsewhere than planned.
class ProofTest : public ServerTest {
 protected:
  static void SetUpTestSuite() {
    std::vector<std::unique_ptr<Backend>> backends;
    auto cpu = std::move(*make_cpu_backend({.threads = 1, .isa = {}}));
    planned_ = cpu->descriptor().backend;
    backends.push_back(std::make_unique<ElsewhereBackend>(std::move(cpu)));
    RuntimeOptions options;
    options.model_folders = {std::filesystem::path(IMPETUS_SOURCE_DIR) / "models"};
    options.placement.prefill = {"npu", planned_};
    options.placement.absent["npu"] = "there is none";
    auto runtime = Runtime::create(std::move(options), std::move(backends));
    ASSERT_TRUE(runtime.ok()) << runtime.error().message;
    runtime_ = std::move(*runtime);
    for (const char* model : {"impetus-tiny-chat", "impetus-tiny-embed"}) {
      ASSERT_TRUE(runtime_->load(model).ok());
    }
    start({});
  }
  static json::object own(const json::object& body) { return body.at("impetus").as_object(); }
  static json::array names(std::initializer_list<std::string_view> list) {
    return json::array(list.begin(), list.end());
  }
  static inline std::string planned_;
};

TEST_F(ProofTest, MemoryOfAProcessorsOwnIsShown) {
  HttpClient client(port_);
  const json::object memory = body(client.get("/api/health/status")).at("memory").as_object();
  EXPECT_EQ(memory.at("reserved_bytes"), 0);
  const json::object own = memory.at("devices").at(planned_).as_object();
  EXPECT_EQ(own.at("capacity_bytes"), kMemory);
  const int64_t reserved = own.at("reserved_bytes").as_int64();
  EXPECT_GT(reserved, 20 << 20);
  EXPECT_GE(own.at("reservations").as_array().size(), 4u);  // two models' weights and more
  const std::string metrics = client.get("/metrics").body;
  const auto says = [&](const char* name, int64_t value) {
    const std::string line = fmt::format("\n{}{{device=\"{}\"}} {}\n", name, planned_, value);
    EXPECT_NE(metrics.find(line), std::string::npos) << line;
  };
  says("impetus_device_memory_reserved_bytes", reserved);
  says("impetus_device_memory_capacity_bytes", kMemory);
}

TEST_F(ProofTest, AnAnswerNamesWhoRanItNotWhoWasPlanned) {
  HttpClient client(port_);
  const std::string greedy = R"(, "temperature": 0, "ignore_eos": true, "max_tokens": )";
  const auto one = client.post("/v1/chat/completions", chat_body("Hello!", greedy + "1"));
  EXPECT_NE(one.head.find("x-impetus-device: elsewhere-prompts\r\n"), std::string::npos)
      << one.head;
  EXPECT_EQ(own(body(one)).at("devices").at("decode"), names({}));

  const auto three = client.post("/v1/chat/completions", chat_body("Hello!", greedy + "3"));
  EXPECT_NE(three.head.find("x-impetus-device: elsewhere-prompts, elsewhere-answers\r\n"),
            std::string::npos)
      << three.head;
  EXPECT_EQ(own(body(three)).at("device"), "elsewhere-prompts, elsewhere-answers");
  EXPECT_EQ(own(body(three)).at("devices").at("prefill"), names({"elsewhere-prompts"}));
  EXPECT_EQ(own(body(three)).at("devices").at("decode"), names({"elsewhere-answers"}));
  EXPECT_NEAR(own(body(three)).at("timings").at("handoff_ms").as_double(), 3, 1e-6);

  // Several for one phase: each once, in their order.
  const auto six = client.post("/v1/chat/completions", chat_body("Hello!", greedy + "6"));
  EXPECT_EQ(own(body(six)).at("devices").at("decode"), names({"elsewhere-answers", planned_}));

  const auto metrics = client.get("/metrics").body;
  for (const std::string& line :
       {std::string("impetus_time_to_first_token_seconds_count{model=\"impetus-tiny-chat\",device="
                    "\"elsewhere-prompts\"} 3"),
        std::string("impetus_time_per_output_token_seconds_count{model=\"impetus-tiny-chat\","
                    "device=\"elsewhere-answers\"} 1"),
        "impetus_time_per_output_token_seconds_count{model=\"impetus-tiny-chat\",device="
        "\"elsewhere-answers," +
            planned_ + "\"} 1"}) {
    EXPECT_NE(metrics.find(line), std::string::npos) << line << "\n" << metrics;
  }
}

TEST_F(ProofTest, SoDoStreamsAndEmbeddings) {
  HttpClient client(port_);
  const std::string rest = R"(, "stream": true, "ignore_eos": true, "max_tokens": 3)";
  for (const std::string& usage :
       {std::string(), std::string(R"(, "stream_options": {"include_usage": true})")}) {
    const auto stream = client.post("/v1/chat/completions", chat_body("Hello!", rest + usage));
    // Who ran the prompt; and who decodes, where that had begun before the head was written.
    EXPECT_NE(stream.head.find("x-impetus-device: elsewhere-prompts"), std::string::npos)
        << stream.head;
    auto all = events(stream.body);
    ASSERT_GE(all.size(), 3u);
    const json::object last = parse_json(all[all.size() - 2])->as_object();
    EXPECT_EQ(own(last).at("device"), "elsewhere-prompts, elsewhere-answers");
    EXPECT_EQ(last.contains("usage"), !usage.empty());
    for (size_t i = 0; i + 2 < all.size(); ++i) {
      EXPECT_FALSE(parse_json(all[i])->as_object().contains("impetus"));
    }
  }
  const auto vectors =
      client.post("/v1/embeddings", R"({"model": "impetus-tiny-embed", "input": ["a", "b"]})");
  EXPECT_NE(vectors.head.find("x-impetus-device: elsewhere-answers\r\n"), std::string::npos)
      << vectors.head;
  EXPECT_EQ(own(body(vectors)).at("devices").at("embeddings"), names({"elsewhere-answers"}));
}

TEST_F(ProofTest, AStreamThatWaitsLongBeginsWithoutTheHeader) {
  Elsewhere::hold = true;
  HttpClient client(port_);
  client.start_post("/v1/chat/completions",
                    chat_body("Hello!", R"(, "stream": true, "max_tokens": 2)"));
  std::string head, role;
  ASSERT_TRUE(client.take_until("\r\n\r\n", head));  // after keep_alive_seconds
  EXPECT_NE(head.find(" 200 "), std::string::npos);
  EXPECT_EQ(head.find("x-impetus-device"), std::string::npos) << head;
  ASSERT_TRUE(client.take_until("\n\n", role));
  EXPECT_NE(role.find("assistant"), std::string::npos);
  Elsewhere::hold = false;
  std::string rest;
  ASSERT_TRUE(client.take_until("data: [DONE]", rest));
  EXPECT_NE(rest.find("elsewhere-prompts"), std::string::npos) << rest;
}

TEST_F(ProofTest, AStreamThatFailsBeforeItsFirstTokenHasAStatus) {
  Elsewhere::fail = true;
  HttpClient client(port_);
  const auto answer = client.post("/v1/chat/completions",
                                  chat_body("Hello!", R"(, "stream": true, "max_tokens": 2)"));
  Elsewhere::fail = false;
  expect_error(answer, 503);
  EXPECT_EQ(answer.head.find("x-impetus-device"), std::string::npos);
}

TEST_F(ProofTest, AModelSaysWhyItIsNotWhereItWasWanted) {
  HttpClient client(port_);
  const auto model = own(body(client.get("/v1/models/impetus-tiny-chat")));
  EXPECT_EQ(model.at("device").as_string(), planned_);
  EXPECT_EQ(model.at("devices").at("decode"), names({planned_}));
  EXPECT_EQ(model.at("fallback_reason").as_string(),
            "prefill on " + planned_ + ", not on npu (there is none)");
  EXPECT_TRUE(
      own(body(client.get("/v1/models/impetus-tiny-embed"))).at("fallback_reason").is_null());
}

}  // namespace
}  // namespace impetus

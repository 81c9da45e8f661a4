// Benchmarks on a runtime that answers meanwhile: two CPU backends, the repository's own models.
#include "runtime/benchmark_lane.h"

#include <cstdlib>
#include <fstream>
#include <future>

#include <gtest/gtest.h>
#include <unistd.h>

#include "cpu/cpu_backend.h"
#include "runtime/runtime.h"

namespace impetus {
namespace {

namespace fs = std::filesystem;

// What the tests see of a backend, and do to it.
struct Handle {
  std::atomic<int64_t> steps = 0;
  std::atomic<int64_t> hunger = 0;  // loading reserves as many bytes more
  std::atomic<bool> fail = false;   // steps fail
};

class WatchedExecutor final : public Executor {
 public:
  WatchedExecutor(std::unique_ptr<Executor> executor, Handle& handle, Reservation extra)
      : executor_(std::move(executor)), handle_(handle), extra_(std::move(extra)) {}
  const BackendDescriptor& descriptor() const override { return executor_->descriptor(); }
  const KvStorage& kv() const override { return std::as_const(*executor_).kv(); }
  KvStorage& kv() override { return executor_->kv(); }
  int64_t step_tokens_max() const override { return executor_->step_tokens_max(); }
  Result<std::vector<SequenceResult>> execute(std::span<const SequenceStep> batch) override {
    ++handle_.steps;
    if (handle_.fail) return error(ErrorCode::unavailable, "the device was lost");
    return executor_->execute(batch);
  }

 private:
  std::unique_ptr<Executor> executor_;
  Handle& handle_;
  Reservation extra_;
};

class WatchedBackend final : public Backend {
 public:
  WatchedBackend(std::unique_ptr<Backend> backend, Handle& handle)
      : backend_(std::move(backend)), handle_(handle) {}
  const BackendDescriptor& descriptor() const override { return backend_->descriptor(); }
  Result<std::unique_ptr<Executor>> load_decoder(const ModelSpec& spec, const WeightSet& weights,
                                                 const LoadOptions& options,
                                                 MemoryLedger& ledger) override {
    IMPETUS_TRY(Reservation extra, ledger.reserve(handle_.hunger, "a hungry backend"));
    IMPETUS_TRY(auto executor, backend_->load_decoder(spec, weights, options, ledger));
    return std::unique_ptr<Executor>(
        std::make_unique<WatchedExecutor>(std::move(executor), handle_, std::move(extra)));
  }
  Result<std::unique_ptr<Encoder>> load_encoder(const ModelSpec& spec, const WeightSet& weights,
                                                const LoadOptions& options,
                                                MemoryLedger& ledger) override {
    return backend_->load_encoder(spec, weights, options, ledger);
  }

 private:
  std::unique_ptr<Backend> backend_;
  Handle& handle_;
};

class Answer final : public AnswerSink {
 public:
  void on_started(const Devices&) override {}
  void on_delta(AnswerDelta delta) override { text += delta.text; }
  void on_choice_end(int32_t, AnswerEnd) override {}
  void on_done(const Usage&, const Timings&, const Devices&) override { done_.set_value(text); }
  void on_error(Error error) override { done_.set_value("error: " + error.message); }
  std::future<std::string> future() { return done_.get_future(); }

 private:
  std::string text;
  std::promise<std::string> done_;
};

class BenchmarkLaneTest : public ::testing::Test {
 protected:
  BenchmarkLaneTest()
      : state_(fs::temp_directory_path() / fmt::format("impetus-benchmarks-{}", ::getpid())) {
    fs::remove_all(state_);
    ::setenv("IMPETUS_STATE_DIR", state_.c_str(), 1);
    std::vector<std::unique_ptr<Backend>> backends;
    for (const char* isa : {"", "reference"}) {
      auto cpu = make_cpu_backend({.threads = 2, .isa = isa});
      EXPECT_TRUE(cpu.ok());
      names_.push_back((*cpu)->descriptor().backend);
      backends.push_back(
          std::make_unique<WatchedBackend>(std::move(*cpu), handles_[backends.size()]));
    }
    RuntimeOptions options;
    options.model_folders = {fs::path(IMPETUS_SOURCE_DIR) / "models"};
    options.memory_bytes = int64_t{1} << 30;
    options.kv_tokens = 4096;
    options.placement.absent["npu"] = "there is none";
    auto runtime = Runtime::create(std::move(options), std::move(backends));
    EXPECT_TRUE(runtime.ok());
    runtime_ = std::move(*runtime);
    EXPECT_TRUE(runtime_->load("impetus-tiny-chat").ok());
    used_ = runtime_->ledger().used_bytes();
  }
  ~BenchmarkLaneTest() override {
    runtime_.reset();
    ::unsetenv("IMPETUS_STATE_DIR");
    fs::remove_all(state_);
  }

  struct Started {
    RequestHandle handle;
    std::future<Result<BenchmarkAnswer>> answer;
  };
  Result<Started> start(BenchmarkRequest request) {
    auto promise = std::make_shared<std::promise<Result<BenchmarkAnswer>>>();
    Started started;
    started.answer = promise->get_future();
    IMPETUS_TRY(started.handle,
                runtime_->benchmark(std::move(request), [promise](Result<BenchmarkAnswer> answer) {
                  promise->set_value(std::move(answer));
                }));
    return started;
  }
  Result<BenchmarkAnswer> run(BenchmarkRequest request) {
    IMPETUS_TRY(Started started, start(std::move(request)));
    return started.answer.get();
  }
  static BenchmarkRequest small(std::vector<std::string> devices = {}) {
    return {"impetus-tiny-chat", {24, 4, 2}, std::move(devices)};
  }
  // Longer than any test waits.
  static BenchmarkRequest endless() { return {"impetus-tiny-chat", {1, 1500, 20}, {"cpu"}}; }

  GenerateRequest story(uint64_t seed) const {
    GenerateRequest request;
    request.model = "impetus-tiny-chat";
    request.prompt = TextPrompt{"Once upon a time"};
    request.sampling.temperature = 1.0f;
    request.sampling.seed = seed;
    request.ignore_eos = true;
    request.tokens_max = 48;
    return request;
  }
  std::pair<RequestHandle, std::future<std::string>> tell(uint64_t seed) {
    auto sink = std::make_shared<Answer>();
    auto handle = runtime_->generate(story(seed), sink);
    EXPECT_TRUE(handle.ok());
    return {std::move(*handle), sink->future()};
  }
  void wait_for_steps(const Handle& handle, int64_t count) {
    const int64_t from = handle.steps;
    for (int i = 0; i < 60'000 && handle.steps < from + count; ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    ASSERT_GE(handle.steps, from + count);
  }

  fs::path state_;
  Handle handles_[2];  // of the best, which serves, and of the reference
  std::vector<std::string> names_;
  std::unique_ptr<Runtime> runtime_;
  int64_t used_ = 0;
};

TEST_F(BenchmarkLaneTest, RunsBesideStreamsWhichComeOutTheSame) {
  std::vector<std::string> alone;
  for (uint64_t seed = 0; seed < 4; ++seed) alone.push_back(tell(seed).second.get());
  auto started = start(small());
  ASSERT_TRUE(started.ok()) << started.error().message;
  int told = 0;
  const auto ready = [&] {
    return started->answer.wait_for(std::chrono::seconds(0)) == std::future_status::ready;
  };
  do {
    std::vector<std::pair<RequestHandle, std::future<std::string>>> stories;
    for (uint64_t seed = 0; seed < 4; ++seed) stories.push_back(tell(seed));
    for (size_t seed = 0; seed < 4; ++seed) EXPECT_EQ(stories[seed].second.get(), alone[seed]);
    ++told;
  } while (!ready() && told < 1000);
  const auto answer = started->answer.get();
  ASSERT_TRUE(answer.ok()) << answer.error().message;
  EXPECT_EQ(answer->model, "impetus-tiny-chat");
  EXPECT_EQ(answer->history_failure, "");
  ASSERT_EQ(answer->results.size(), 4u);
  for (size_t i = 0; i < 4; ++i) {
    const BenchmarkRecord& one = answer->results[i];
    EXPECT_EQ(one.backend, names_[i / 2]);
    EXPECT_EQ(one.phase, i % 2 ? "decode" : "prefill");
    EXPECT_GT(one.least, 0);
    EXPECT_LE(one.least, one.measured);
    EXPECT_LE(one.measured, one.most);
    EXPECT_GT(one.predicted, 0);
    EXPECT_EQ(one.prompt, 24);
    EXPECT_EQ(one.generate, 4);
  }
  EXPECT_EQ(runtime_->ledger().used_bytes(), used_);
  const auto kept = kept_benchmarks("impetus-tiny-chat", 100);
  ASSERT_TRUE(kept.ok()) << kept.error().message;
  ASSERT_EQ(kept->size(), 4u);
  EXPECT_EQ(kept->front().measured, answer->results.back().measured);  // the newest first
}

TEST_F(BenchmarkLaneTest, AShortRoundComesFirstAndDoesNotCount) {
  const int64_t before = handles_[0].steps;
  const auto answer = run({"impetus-tiny-chat", {24, 16, 2}, {names_[0]}});
  ASSERT_TRUE(answer.ok()) << answer.error().message;
  // Loading proves itself by two steps; a prompt and 8 tokens; then twice a prompt and 16.
  EXPECT_EQ(handles_[0].steps - before, 2 + (1 + 8) + 2 * (1 + 16));
}

TEST_F(BenchmarkLaneTest, MeasuresEncodersAndModelsThatAreNotServed) {
  const auto answer = run({"impetus-tiny-embed", {64, 64, 1}, {names_[0], "cpu", "npu"}});
  ASSERT_TRUE(answer.ok()) << answer.error().message;
  ASSERT_EQ(answer->results.size(), 4u);  // each backend once
  EXPECT_EQ(answer->results[0].phase, "embeddings");
  EXPECT_EQ(answer->results[1].phase, "embedding");
  EXPECT_EQ(answer->results[2].backend, names_[1]);
  ASSERT_EQ(answer->refused.size(), 1u);
  EXPECT_EQ(answer->refused[0].backend, "npu");
  EXPECT_EQ(answer->refused[0].reason, "there is none");
}

TEST_F(BenchmarkLaneTest, ABackendWithoutTheMemoryIsNamedAndTheOthersRun) {
  const std::string alone = tell(1).second.get();
  handles_[0].hunger = int64_t{1} << 40;
  auto story = tell(1);
  auto answer = run(small());
  EXPECT_EQ(story.second.get(), alone);
  ASSERT_TRUE(answer.ok()) << answer.error().message;
  ASSERT_EQ(answer->results.size(), 2u);
  EXPECT_EQ(answer->results[0].backend, names_[1]);
  ASSERT_FALSE(answer->refused.empty());
  EXPECT_EQ(answer->refused[0].backend, names_[0]);
  EXPECT_NE(answer->refused[0].reason.find("a hungry backend"), std::string::npos)
      << answer->refused[0].reason;

  handles_[1].fail = true;
  answer = run(small({"cpu"}));
  ASSERT_TRUE(answer.ok()) << answer.error().message;
  EXPECT_TRUE(answer->results.empty());
  ASSERT_EQ(answer->refused.size(), 2u);
  EXPECT_NE(answer->refused[1].reason.find("the device was lost"), std::string::npos);
  EXPECT_EQ(runtime_->ledger().used_bytes(), used_);
  EXPECT_EQ(kept_benchmarks({}, 100)->size(), 2u);
}

TEST_F(BenchmarkLaneTest, OneAtATimeAndCancelledWithinAStep) {
  auto first = start(endless());
  ASSERT_TRUE(first.ok()) << first.error().message;
  wait_for_steps(handles_[0], 10);
  const auto second = start(small());
  ASSERT_FALSE(second.ok());
  EXPECT_EQ(second.error().code, ErrorCode::overloaded);

  first->handle.cancel();
  const int64_t steps = handles_[0].steps;
  const auto answer = first->answer.get();
  ASSERT_FALSE(answer.ok());
  EXPECT_EQ(answer.error().code, ErrorCode::cancelled);
  EXPECT_LE(handles_[0].steps, steps + 1);
  EXPECT_EQ(handles_[1].steps, 0);
  EXPECT_EQ(runtime_->ledger().used_bytes(), used_);
  EXPECT_FALSE(fs::exists(state_ / "history.db"));
  first->handle.cancel();  // of one that is over: nothing
  const auto third = run(small({names_[0]}));
  ASSERT_TRUE(third.ok()) << third.error().message;
  EXPECT_EQ(third->results.size(), 2u);
}

TEST_F(BenchmarkLaneTest, SaysWhatIsWrong) {
  const auto refused = [&](BenchmarkRequest request, ErrorCode code, std::string_view param) {
    const auto started = start(std::move(request));
    ASSERT_FALSE(started.ok());
    EXPECT_EQ(started.error().code, code) << started.error().message;
    EXPECT_EQ(started.error().param, param) << started.error().message;
  };
  refused({"nobody", {}, {}}, ErrorCode::not_found, "model");
  refused({"", {}, {}}, ErrorCode::invalid_argument, "model");
  // A path is no name, though there is a model.
  refused({IMPETUS_SOURCE_DIR "/models/impetus-tiny-embed", {}, {}}, ErrorCode::not_found, "model");
  refused({"impetus-tiny-chat", {30000, 64, 1}, {}}, ErrorCode::context_length, "prompt");
  refused({"impetus-tiny-chat", {8, 8, 1}, {"tpu"}}, ErrorCode::invalid_argument, "devices");
  EXPECT_TRUE(run(small({names_[0]})).ok());  // none of them stands in the way
}

TEST_F(BenchmarkLaneTest, AHistoryThatCannotBeWrittenIsNamed) {
  std::ofstream(state_) << "no folder";
  const auto answer = run(small({names_[0]}));
  ASSERT_TRUE(answer.ok()) << answer.error().message;
  EXPECT_EQ(answer->results.size(), 2u);
  EXPECT_NE(answer->history_failure, "");
}

TEST_F(BenchmarkLaneTest, DrainEndsItAndTakesNoMore) {
  auto started = start(endless());
  ASSERT_TRUE(started.ok()) << started.error().message;
  wait_for_steps(handles_[0], 10);
  runtime_->drain(0.01);
  const auto answer = started->answer.get();
  ASSERT_FALSE(answer.ok());
  EXPECT_EQ(answer.error().code, ErrorCode::unavailable);
  EXPECT_EQ(start(small()).error().code, ErrorCode::unavailable);
}

TEST_F(BenchmarkLaneTest, GoesWithItsRuntime) {
  auto started = start(endless());
  ASSERT_TRUE(started.ok()) << started.error().message;
  wait_for_steps(handles_[0], 10);
  runtime_.reset();
  EXPECT_EQ(started->answer.get().error().code, ErrorCode::unavailable);
}

}  // namespace
}  // namespace impetus

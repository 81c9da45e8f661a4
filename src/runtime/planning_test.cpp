// The planner inside the runtime: ladders by plan, threads, what runs teach, and the report.
#include "runtime/planning.h"

#include <gtest/gtest.h>

#include "backend/fake.h"
#include "cpu/cpu_backend.h"
#include "runtime/runtime.h"

namespace impetus {
namespace {

// Two kernel tables of this machine's CPU, with profiles that say what the test wants.
struct World {
  std::vector<std::unique_ptr<Backend>> backends;
  PlanMachine machine;
  ModelCost model = model_cost("chat", *known_shape("qwen2.5-0.5b"), DType::q8_0);

  World(double reference_rate, double best_rate) {
    machine.host_memory_bytes = int64_t{64} << 30;
    for (const char* isa : {"reference", ""}) {
      backends.push_back(std::move(*make_cpu_backend({.threads = 2, .isa = isa})));
      Processor& one = machine.processors.emplace_back();
      one.device = "cpu";
      one.profile.device = "cpu";
      one.profile.backend = backends.back()->descriptor().backend;
      one.profile.measured = true;
      const double rate = backends.size() == 1 ? reference_rate : best_rate;
      one.profile.read = {{1, 1, rate / 2}, {2, 1, rate}};
      one.profile.matrix = {{DType::q8_0, 1, 1, 20 * rate},
                            {DType::q8_0, 512, 1, 100 * rate},
                            {DType::q8_0, 1, 2, 15 * rate},
                            {DType::q8_0, 512, 2, 200 * rate}};
      one.memory_bytes = machine.host_memory_bytes;
      one.shares_host_memory = true;
    }
  }
  Ladders all() const {
    Ladders ladders;
    for (const auto& backend : backends) {
      ladders.prefill.push_back({backend->descriptor().backend, backend.get()});
    }
    ladders.decode = ladders.embeddings = ladders.prefill;
    return ladders;
  }
};

std::string first(const std::vector<Rung>& rungs) {
  return rungs.front().backend->descriptor().backend;
}

TEST(Planning, OrdersWhatNobodyNamed) {
  const World world(10e9, 30e9);
  const auto planning = std::make_shared<Planning>(world.machine, Policy{});
  const ModelPlan plan = planning->plan(world.model, world.machine.host_memory_bytes);
  const std::string best = world.backends[1]->descriptor().backend;
  Ladders ladders = planning->order(world.all(), {}, plan);
  EXPECT_EQ(first(ladders.prefill), best);
  EXPECT_EQ(first(ladders.decode), best);
  EXPECT_EQ(ladders.prefill.size(), 2u) << "the others stay, to fall back on";
  // What the user named stands, whatever the plan thinks.
  Placement named;
  named.decode = {"cpu-reference"};
  ladders = planning->order(world.all(), named, plan);
  EXPECT_EQ(first(ladders.prefill), best);
  EXPECT_EQ(first(ladders.decode), "cpu-reference");
}

TEST(Planning, GivesEachPhaseItsThreads) {
  const World world(10e9, 30e9);
  const auto planning = std::make_shared<Planning>(world.machine, Policy{});
  const ModelPlan plan = planning->plan(world.model, world.machine.host_memory_bytes);
  const Ladders ladders = planning->order(world.all(), {}, plan);
  for (const Rung& rung : {ladders.prefill.front(), ladders.decode.front()}) {
    EXPECT_EQ(rung.threads.prefill, 2);
    EXPECT_EQ(rung.threads.decode, plan.placement(Phase::decode)->threads);
  }
}

// What a step may take follows from it, so it holds for steps that mix phases too.
TEST(Planning, SaysHowLongAStepShouldTake) {
  World world(10e9, 30e9);
  FakeExecutor probe(FakeOptions{});
  world.machine.processors.resize(1);
  world.machine.processors[0].profile.backend = probe.descriptor().backend;
  const auto planning = std::make_shared<Planning>(world.machine, Policy{});
  const auto executor = planning->watch(world.model, {1, 1}, DType::f16,
                                        std::make_unique<FakeExecutor>(FakeOptions{}));
  const Predictor predictor(world.machine.processors[0].profile, world.model, 1);
  const std::vector<TokenId> tokens(48, 1);
  SequenceStep decode, prefill;
  decode.tokens = std::span(tokens).first(1);
  decode.position = 100;
  decode.output = StepOutput::sample;
  decode.phase = StepPhase::decode;
  prefill.tokens = tokens;
  prefill.output = StepOutput::sample;
  const double one = executor->expected_seconds({&decode, 1});
  EXPECT_NEAR(one, predictor.decode(1, 100, DType::f16).seconds, 0.01 * one);
  const double prompt = executor->expected_seconds({&prefill, 1});
  EXPECT_GT(prompt, one);
  const std::vector<SequenceStep> both{decode, prefill, decode};
  const double mixed = executor->expected_seconds(both);
  EXPECT_GE(mixed, prompt + one);
  EXPECT_LT(mixed, prompt + 2 * one);
  // Nobody knows what a fake needs that no profile speaks of.
  EXPECT_EQ(probe.expected_seconds(both), 0);
}

// What is free of a device's own memory counts there, and the host's elsewhere.
TEST(Planning, MemoryOfADevicesOwn) {
  World world(10e9, 30e9);
  Processor& fast = world.machine.processors[1];
  fast.device = fast.profile.device = "gpu0";
  fast.shares_host_memory = false;
  fast.memory_bytes = int64_t{8} << 30;
  const std::string& backend = fast.profile.backend;
  const auto planning = std::make_shared<Planning>(world.machine, Policy{});
  const auto runs_on = [&](int64_t host, std::map<std::string, int64_t> own) {
    const ModelPlan plan = planning->plan(world.model, host, own);
    const PhasePlan* decode = plan.placement(Phase::decode);
    return decode == nullptr ? std::string() : decode->backend;
  };
  const std::string slow = world.machine.processors[0].profile.backend;
  EXPECT_EQ(runs_on(int64_t{64} << 30, {{backend, int64_t{8} << 30}}), backend);
  EXPECT_EQ(runs_on(int64_t{64} << 30, {{backend, int64_t{1} << 20}}), slow);
  EXPECT_EQ(runs_on(int64_t{1} << 20, {{backend, int64_t{8} << 30}}), backend);
  EXPECT_EQ(runs_on(int64_t{1} << 20, {{backend, int64_t{1} << 20}}), "");
}

TEST(Planning, LearnsFromStepsThatTakeLonger) {
  World world(10e9, 30e9);
  FakeOptions options;
  options.step_time = std::chrono::microseconds(300);
  FakeExecutor probe(options);
  // As if the fake were the machine's processor.
  world.machine.processors.resize(1);
  world.machine.processors[0].profile.backend = probe.descriptor().backend;
  world.machine.processors[0].profile.read = {{1, 1, 1e15}};  // "it takes no time at all"
  world.machine.processors[0].profile.matrix = {{DType::q8_0, 1, 1, 1e18}};
  const auto planning = std::make_shared<Planning>(world.machine, Policy{});
  const auto executor =
      planning->watch(world.model, {1, 1}, DType::f16, std::make_unique<FakeExecutor>(options));
  EXPECT_EQ(executor->kv().blocks(), options.blocks);
  SamplingParams greedy;
  greedy.temperature = 0;
  const std::vector<TokenId> token{1};
  const std::vector<BlockId> blocks{0};
  for (int i = 0; i < 100; ++i) {
    SequenceStep step;
    step.tokens = token;
    step.blocks = blocks;
    step.output = StepOutput::sample;
    step.sampling = &greedy;
    step.phase = StepPhase::decode;
    ASSERT_TRUE(executor->execute({&step, 1}).ok());
  }
  Devices devices;
  devices.prefill = devices.decode = {probe.descriptor().backend};
  const json::object report = planning->report({{world.model, devices}});
  const json::object& observed = report.at("observed").as_object();
  const std::string key = correction_key("chat", Phase::decode, probe.descriptor().backend);
  ASSERT_TRUE(observed.contains(key)) << json::serialize(report);
  EXPECT_GT(observed.at(key).as_double(), 100);
}

TEST(Planning, TheReportSaysWhereThingsRunAndWhetherElsewhereWouldBeBetter) {
  const World world(10e9, 30e9);
  const auto planning = std::make_shared<Planning>(world.machine, Policy{});
  Devices slow;
  slow.prefill = slow.decode = {"cpu-reference"};
  Devices fast;
  fast.prefill = fast.decode = {world.backends[1]->descriptor().backend};
  for (const auto& [devices, worth] : {std::pair{slow, true}, {fast, false}}) {
    const json::object report = planning->report({{world.model, devices}});
    const json::object& entry = report.at("models").at(0).as_object();
    EXPECT_EQ(entry.at("worth_a_new_start").as_bool(), worth) << json::serialize(entry);
    EXPECT_EQ(entry.at("running").at("decode").at(0).as_string(), devices.decode[0]);
    EXPECT_FALSE(entry.at("placements").at("decode").at("reason").as_string().empty());
  }
}

}  // namespace
}  // namespace impetus

#include "planner/plan.h"

#include <cmath>
#include <limits>
#include <random>

#include <gtest/gtest.h>

#include "planner/predict.h"

namespace impetus {
namespace {

constexpr double kNever = std::numeric_limits<double>::infinity();
constexpr int64_t kGiB = int64_t{1} << 30;

// A processor whose speeds are given by few numbers; one thread count.
Processor processor(std::string device, double read, double ops, int64_t memory,
                    double layer_seconds = 0) {
  Processor one;
  one.device = device;
  one.name = device;
  one.profile.device = device;
  one.profile.backend = device + "-backend";
  one.profile.measured = true;
  one.profile.read = {{1, 1, read}};
  one.profile.matrix = {{DType::f32, 1, 1, ops / 10}, {DType::f32, 512, 1, ops}};
  one.profile.overhead = {{ShapeClass::decode, 1, 0, layer_seconds, 0},
                          {ShapeClass::encoder, 1, 0, layer_seconds, 0}};
  one.memory_bytes = memory;
  return one;
}

ModelCost decoder(std::string id = "chat", DType type = DType::q4_0) {
  return model_cost(std::move(id), *known_shape("llama-3.2-1b"), type);
}
ModelCost encoder(std::string id = "embed", DType type = DType::f16) {
  return model_cost(std::move(id), *known_shape("minilm-l6"), type);
}

const PhasePlan& placement(const Plan& plan, Phase phase, size_t model = 0) {
  const PhasePlan* found = plan.models.at(model).placement(phase);
  EXPECT_NE(found, nullptr);
  static const PhasePlan none;
  return found ? *found : none;
}

// Where steps are enqueued: what was measured is predicted, and what lies between lies between.
TEST(Predict, WholeLayersAsMeasured) {
  DeviceProfile profile;
  profile.read = {{1, 1 << 30, 1e12}};
  profile.overhead = {{ShapeClass::decode, 1, 1e-4, 0, 0}, {ShapeClass::encoder, 1, 2e-4, 0, 0}};
  profile.attention = {{ShapeClass::decode, 1, 1e12}, {ShapeClass::encoder, 1, 1e13}};
  ModelCost model = decoder("chat", DType::q8_0);
  model.head = {};
  const int64_t layer = model.layer_weights.front().parameters / model.layers;
  const auto add = [&](ShapeClass shape, DType type, int64_t rows, int64_t size, double seconds) {
    profile.layers.push_back({shape, type, rows, size, seconds});
  };
  add(ShapeClass::decode, DType::q8_0, 1, layer / 4, 5e-5);
  add(ShapeClass::decode, DType::q8_0, 1, layer, 8e-5);
  add(ShapeClass::decode, DType::q8_0, 16, layer / 4, 6e-5);
  add(ShapeClass::decode, DType::q8_0, 16, layer, 16e-5);
  add(ShapeClass::prefill, DType::q8_0, 512, layer, 1e-3);
  const Predictor predictor(profile, model, 1);
  const auto layers = static_cast<double>(model.layers);
  EXPECT_NEAR(predictor.decode(1, 0, DType::f16).seconds, 1e-4 + layers * 8e-5, 1e-9);
  EXPECT_NEAR(predictor.decode(16, 0, DType::f16).seconds, 1e-4 + layers * 16e-5, 1e-9);
  EXPECT_NEAR(predictor.decode(4, 0, DType::f16).seconds, 1e-4 + layers * 9.6e-5, 1e-9);
  EXPECT_NEAR(predictor.decode(31, 0, DType::f16).seconds, 1e-4 + layers * 24e-5, 1e-9);
  // A prompt's own attention is in its time, that to earlier positions is not. Of its last layer
  // keys and values are.
  const double keys = 2.0 * static_cast<double>(model.hidden * model.kv_heads * model.head_dim) /
                      static_cast<double>(layer);
  EXPECT_NEAR(predictor.prefill(512, 0, 512, DType::f16).seconds, 1e-4 + (layers - 1 + keys) * 1e-3,
              1e-9);
  EXPECT_NEAR(predictor.prefill(512, 100, 512, DType::f16).seconds,
              1e-4 + (layers - 1 + keys) * 1e-3 + (layers - 1) * 4.0 * 2048 * 512 * 100 / 1e12,
              1e-9);
  // Between two sizes a prompt's time lies on a line; below both it is as there.
  DeviceProfile sized = profile;
  sized.layers.push_back({ShapeClass::prefill, DType::q8_0, 512, layer / 9, 2e-4});
  for (const auto& [size, seconds] : {std::pair{3, 4e-4}, {9, 2e-4}, {18, 2e-4}}) {
    ModelCost smaller = model;
    smaller.layer_weights.front().parameters /= size;
    EXPECT_NEAR(Predictor(sized, smaller, 1).prefill(512, 0, 512, DType::f16).seconds,
                1e-4 + (layers - 1 + std::min(1.0, size * keys)) * seconds, 1e-9)
        << size;
  }
  // Beyond the largest, too; an eighth of it is as the smallest.
  ModelCost other = model;
  const auto decode_of = [&](double size) {
    other.layer_weights = {
        {DType::q8_0, static_cast<int64_t>(static_cast<double>(layer * model.layers) * size)}};
    return (Predictor(profile, other, 1).decode(1, 0, DType::f16).seconds - 1e-4) / layers;
  };
  EXPECT_NEAR(decode_of(0.5), 6e-5, 1e-9);
  EXPECT_NEAR(decode_of(4), 20e-5, 1e-9);
  EXPECT_NEAR(decode_of(0.125), 5e-5, 1e-9);
  // A head is what as many weights more would add, and has nothing beside.
  ModelCost headed = model;
  headed.head = {DType::q8_0, 2 * layer};
  EXPECT_NEAR(Predictor(profile, headed, 1).decode(1, 0, DType::f16).seconds,
              1e-4 + layers * 8e-5 + 8e-5, 1e-9);
  // Where the two widest take the same time, in proportion; and never less for more rows.
  DeviceProfile flat = profile;
  flat.layers[0].seconds = 8e-5;
  EXPECT_NEAR(Predictor(flat, headed, 1).decode(1, 0, DType::f16).seconds,
              1e-4 + layers * 8e-5 + 16e-5, 1e-9);
  flat.layers[2].seconds = 15e-5;
  double before = 0;
  for (const int64_t rows : {1, 8, 16, 64, 512, 4096}) {
    const double seconds = Predictor(flat, headed, 1).decode(rows, 0, DType::f16).seconds;
    EXPECT_GT(seconds, before) << rows;
    before = seconds;
  }
  // Two types: each its part. A type without times: the nearest with some.
  other.layer_weights = {{DType::q8_0, layer * model.layers / 2},
                         {DType::q4_0, layer * model.layers / 2}};
  EXPECT_NEAR(Predictor(profile, other, 1).decode(1, 0, DType::f16).seconds, 1e-4 + layers * 8e-5,
              1e-9);
  // No time at all: as fast as memory gives the weights, never at once.
  DeviceProfile texts_only = profile;
  std::erase_if(texts_only.layers,
                [](const LayerTime& time) { return time.shape != ShapeClass::encoder; });
  texts_only.layers.push_back({ShapeClass::encoder, DType::f32, 16, layer, 1e-4});
  EXPECT_GE(Predictor(texts_only, model, 1).decode(1, 0, DType::f16).seconds,
            static_cast<double>(model.weight_bytes()) / 1e12);
  ModelCost empty = model;
  empty.layer_weights = {{DType::q8_0, 0}};
  EXPECT_TRUE(std::isfinite(predictor.decode(1, 0, DType::f16).seconds));
  EXPECT_TRUE(std::isfinite(Predictor(profile, empty, 1).decode(1, 0, DType::f16).seconds));
  // Limits hold.
  profile.limit_bytes_per_second = 1e10;
  EXPECT_NEAR(Predictor(profile, model, 1).decode(1, 0, DType::f16).seconds,
              static_cast<double>(model.weight_bytes()) / 1e10, 1e-6);
}

TEST(Predict, GroupsByTheNearestBits) {
  ModelCost model = decoder("chat", DType::q4_0);
  model.head = {};
  const int64_t layer = model.layer_weights.front().parameters / model.layers;
  DeviceProfile profile;
  profile.read = {{1, 1 << 30, 1e12}};
  profile.layers = {{ShapeClass::decode, DType::q4_0, 1, layer, 4e-5},
                    {ShapeClass::decode, DType::q8_0, 1, layer, 8e-5}};
  const auto a_layer = [&](DType type, int bits) {
    model.layer_weights = {{type, layer * model.layers, bits}};
    return Predictor(profile, model, 1).decode(1, 0, DType::f16).seconds /
           static_cast<double>(model.layers);
  };
  // A profile of before: as the types that they are planned as.
  EXPECT_NEAR(a_layer(DType::q4_0, 4), 4e-5, 1e-12);
  EXPECT_NEAR(a_layer(DType::q8_0, 6), 8e-5, 1e-12);
  profile.layers.push_back({ShapeClass::decode, DType::grouped, 1, layer, 3e-5, 4});
  EXPECT_NEAR(a_layer(DType::q8_0, 8), 3e-5, 1e-12) << "the only ones";
  profile.layers.push_back({ShapeClass::decode, DType::grouped, 1, layer, 5e-5, 8});
  for (const auto& [bits, seconds] :
       {std::pair{2, 3e-5}, {3, 3e-5}, {4, 3e-5}, {5, 3e-5}, {6, 5e-5}, {8, 5e-5}}) {
    EXPECT_NEAR(a_layer(bits <= 4 ? DType::q4_0 : DType::q8_0, bits), seconds, 1e-12) << bits;
  }
  EXPECT_NEAR(a_layer(DType::q4_0, 0), 4e-5, 1e-12) << "GGUF's by their own";
  EXPECT_NEAR(a_layer(DType::q8_0, 0), 8e-5, 1e-12);
  // A type that has no times is not taken for groups.
  std::erase_if(profile.layers, [](const LayerTime& t) { return t.weights == DType::q4_0; });
  EXPECT_NEAR(a_layer(DType::q4_0, 0), 8e-5, 1e-12);
}

// Of a machine that is not here as well: what no CPU keeps, and what heads do not fit.
TEST(Plan, KvIsKeptWhereItCanBe) {
  for (const char* cpu : {"cpu-avx512", "cpu-neon"}) {
    EXPECT_EQ(std::ranges::count(kv_types_of(cpu), DType::q8_0), 0);
    EXPECT_EQ(std::ranges::count(kv_types_of(cpu), DType::bf16), 1);
  }
  EXPECT_EQ(std::ranges::count(kv_types_of("mlx-metal"), DType::q8_0), 1);
  EXPECT_TRUE(kv_types_of("another").empty());
  // The faster one keeps none in q8_0, and nobody heads of 80.
  PlanMachine machine{
      "two",
      0,
      {processor("cpu", 900e9, 20e12, 64 * kGiB), processor("gpu0", 30e9, 1e12, 24 * kGiB)}};
  machine.processors[0].kv = kv_types_of("cpu-avx2");
  machine.processors[1].kv = kv_types_of("mlx-cuda");
  std::vector models{decoder()};
  Policy policy;
  EXPECT_EQ(placement(make_plan(machine, models, policy), Phase::decode).device, "cpu");
  policy.kv = DType::q8_0;
  EXPECT_EQ(placement(make_plan(machine, models, policy), Phase::decode).device, "gpu0");
  models[0].head_dim = 80;
  const Plan none = make_plan(machine, models, policy);
  EXPECT_FALSE(none.models[0].possible);
  EXPECT_NE(none.models[0].reason.find("heads of 80"), std::string::npos) << none.models[0].reason;
}

TEST(Plan, DecodesWhereReadingIsFastest) {
  PlanMachine machine{
      "two",
      0,
      {processor("cpu", 30e9, 1e12, 64 * kGiB), processor("gpu0", 900e9, 20e12, 24 * kGiB)}};
  const std::vector models{decoder()};
  const Plan plan = make_plan(machine, models, {});
  EXPECT_EQ(placement(plan, Phase::decode).device, "gpu0");
  EXPECT_EQ(placement(plan, Phase::prefill).device, "gpu0");
  EXPECT_FALSE(placement(plan, Phase::decode).reason.empty());
  // Every processor and phase stands among the candidates, each with a reason.
  EXPECT_EQ(plan.models[0].candidates.size(), 4u);
  for (const Candidate& candidate : plan.models[0].candidates) {
    EXPECT_FALSE(candidate.reason.empty());
    EXPECT_GT(candidate.predicted.seconds, 0);
  }
}

// The blueprint's rule: prefill goes elsewhere only where that gains a tenth with its handoff.
TEST(Plan, SplitsPrefillOffOnlyForATenth) {
  const std::vector models{decoder()};
  Policy policy;
  PlanMachine machine{
      "two",
      0,
      {processor("gpu0", 500e9, 5e12, 64 * kGiB), processor("gpu1", 50e9, 6.5e12, 64 * kGiB)}};
  Plan plan = make_plan(machine, models, policy);
  EXPECT_EQ(placement(plan, Phase::decode).device, "gpu0");
  EXPECT_EQ(placement(plan, Phase::prefill).device, "gpu1") << "20 % faster, and free to hand over";
  EXPECT_NE(placement(plan, Phase::prefill).reason.find("90 %"), std::string::npos);

  machine.processors[1] = processor("gpu1", 50e9, 5.3e12, 64 * kGiB);
  plan = make_plan(machine, models, policy);
  EXPECT_EQ(placement(plan, Phase::prefill).device, "gpu0") << "only 6 % faster";

  machine.processors[1] = processor("gpu1", 50e9, 6.5e12, 64 * kGiB);
  machine.processors[1].profile.copy_bytes_per_second = 0.2e9;  // 17 MB of KV take 80 ms
  plan = make_plan(machine, models, policy);
  EXPECT_EQ(placement(plan, Phase::prefill).device, "gpu0") << "the handoff eats it";
}

TEST(Plan, SmallEncodersGoToAnNpuByRuleUnlessMeasuredOtherwise) {
  PlanMachine machine{
      "mac",
      16 * kGiB,
      {processor("cpu", 60e9, 2e12, 16 * kGiB), processor("npu0", 60e9, 1e12, 16 * kGiB)}};
  machine.processors[1].runs_decoders = false;
  machine.processors[1].profile.measured = false;
  const std::vector models{encoder()};
  Plan plan = make_plan(machine, models, {});
  EXPECT_EQ(placement(plan, Phase::embeddings).device, "npu0");
  EXPECT_NE(placement(plan, Phase::embeddings).reason.find("rule"), std::string::npos);
  machine.processors[1].profile.measured = true;  // and found slower
  plan = make_plan(machine, models, {});
  EXPECT_EQ(placement(plan, Phase::embeddings).device, "cpu");
  machine.processors[1].profile.measured = false;
  Policy policy;
  policy.npu_encoder_bytes_max = 1'000'000;  // it is no small encoder any more
  plan = make_plan(machine, models, policy);
  EXPECT_EQ(placement(plan, Phase::embeddings).device, "cpu");
}

TEST(Plan, SaysWhyNothingFits) {
  PlanMachine machine{"small", 0, {processor("cpu", 30e9, 1e12, kGiB / 4)}};
  machine.processors.push_back(processor("gpu0", 900e9, 9e12, 64 * kGiB));
  machine.processors[1].unavailable = "this build has no CUDA";
  const std::vector models{decoder()};
  const Plan plan = make_plan(machine, models, {});
  ASSERT_FALSE(plan.models[0].possible);
  EXPECT_NE(plan.models[0].reason.find("MiB"), std::string::npos) << plan.models[0].reason;
  EXPECT_NE(plan.models[0].reason.find("no CUDA"), std::string::npos);
  EXPECT_EQ(make_plan({}, models, {}).models.size(), 1u);
}

TEST(Plan, HonoursThePolicysDevicesAndPrecision) {
  PlanMachine machine{
      "two",
      0,
      {processor("cpu", 30e9, 1e12, 64 * kGiB), processor("gpu0", 900e9, 20e12, 24 * kGiB)}};
  const std::vector models{decoder("chat", DType::f16)};
  Policy policy;
  policy.devices = {"cpu-backend"};
  policy.weights = DType::q8_0;
  const Plan plan = make_plan(machine, models, policy);
  EXPECT_EQ(placement(plan, Phase::decode).device, "cpu");
  EXPECT_EQ(placement(plan, Phase::decode).precision, "q8_0");
}

TEST(Plan, TakesTheThreadsThatAreFastestForEachPhase) {
  Processor cpu = processor("cpu", 0, 0, 64 * kGiB);
  cpu.profile.read = {{1, 1, 12e9}, {4, 1, 40e9}, {8, 1, 36e9}};  // memory is saturated by four
  cpu.profile.matrix = {{DType::q4_0, 1, 1, 600e9},  {DType::q4_0, 512, 1, 200e9},
                        {DType::q4_0, 1, 4, 2400e9}, {DType::q4_0, 512, 4, 800e9},
                        {DType::q4_0, 1, 8, 4800e9}, {DType::q4_0, 512, 8, 1500e9}};
  const std::vector models{decoder()};
  const Plan plan = make_plan({"cpu", 0, {cpu}}, models, {});
  EXPECT_EQ(placement(plan, Phase::decode).threads, 4);
  EXPECT_EQ(placement(plan, Phase::prefill).threads, 8);
}

TEST(Plan, FollowsWhatRunsShowed) {
  PlanMachine machine{
      "two",
      0,
      {processor("cpu", 100e9, 5e12, 64 * kGiB), processor("gpu0", 120e9, 5e12, 64 * kGiB)}};
  const std::vector models{decoder()};
  EXPECT_EQ(placement(make_plan(machine, models, {}), Phase::decode).device, "gpu0");
  const Corrections slow{{correction_key("chat", Phase::decode, "gpu0-backend"), 1.5}};
  EXPECT_EQ(placement(make_plan(machine, models, {}, slow), Phase::decode).device, "cpu");
}

TEST(Observations, BelievesOnlyWhatLasts) {
  Observations seen;
  for (int i = 0; i < 4; ++i) seen.add("a", 1, 2);
  EXPECT_TRUE(seen.corrections().empty()) << "four runs are too few";
  seen.add("a", 1, 2);
  EXPECT_NEAR(seen.corrections().at("a"), 2, 1e-9);
  for (int i = 0; i < 100; ++i) seen.add("a", 1, i % 2 ? 1.9 : 2.15);  // noise inside the band
  EXPECT_NEAR(seen.corrections().at("a"), 2, 1e-9);
  for (int i = 0; i < 50; ++i) seen.add("a", 1, 3);
  EXPECT_NEAR(seen.corrections().at("a"), 3, 0.3);
  EXPECT_FALSE(Observations::worth_changing(1.0, 0.95));
  EXPECT_TRUE(Observations::worth_changing(1.0, 0.85));
}

// ---- against exhaustive enumeration ----

struct World {
  PlanMachine machine;
  std::vector<ModelCost> models;
  Policy policy;
};

World random_world(uint64_t seed) {
  std::mt19937_64 random(seed);
  const auto between = [&](double low, double high) {  // evenly in the logarithm
    return std::exp(std::uniform_real_distribution(std::log(low), std::log(high))(random));
  };
  World world;
  world.machine.name = "synthetic";
  world.machine.host_memory_bytes = static_cast<int64_t>(between(0.5e9, 64e9));
  const int count = 2 + static_cast<int>(random() % 3);
  for (int i = 0; i < count; ++i) {
    const int kind = i == 0 ? 0 : static_cast<int>(random() % 3);
    const std::string name = (kind == 0 ? "cpu" : kind == 1 ? "gpu" : "npu") + std::to_string(i);
    Processor one = processor(name, between(5e9, 3e12), between(1e11, 5e14),
                              static_cast<int64_t>(between(0.3e9, 80e9)), between(1e-6, 1e-4));
    one.shares_host_memory = kind != 1 || random() % 2 == 0;
    if (!one.shares_host_memory) one.profile.copy_bytes_per_second = between(1e9, 60e9);
    one.profile.copy_seconds = between(1e-6, 1e-3);
    one.profile.measured = random() % 3 != 0;
    one.runs_decoders = kind != 2;
    if (random() % 8 == 0) one.weights = {DType::q8_0};
    if (random() % 8 == 0) one.kv = {DType::f32};
    if (random() % 10 == 0) one.unavailable = "broken";
    for (int threads = 2; kind == 0 && threads <= 8; threads *= 2) {
      one.profile.read.push_back(
          {threads, 1, one.profile.read[0].bytes_per_second * between(0.8, 4)});
      for (const int64_t rows : {1, 512}) {
        one.profile.matrix.push_back({DType::f32, rows, threads, between(1e10, 1e13)});
      }
    }
    world.machine.processors.push_back(std::move(one));
  }
  const std::vector<const char*> names{"llama-3.2-1b", "qwen2.5-0.5b", "llama-3.1-8b", "minilm-l6",
                                       "bert-base"};
  const std::vector<DType> types{DType::f32, DType::f16, DType::q8_0, DType::q4_0};
  const int models = 1 + static_cast<int>(random() % 2);
  for (int m = 0; m < models; ++m) {
    world.models.push_back(model_cost("m" + std::to_string(m),
                                      *known_shape(names[random() % names.size()]),
                                      types[random() % types.size()]));
  }
  world.policy.prompt_tokens = static_cast<int64_t>(between(16, 2000));
  world.policy.answer_tokens = static_cast<int64_t>(between(1, 500));
  world.policy.length_buckets = {16, 128, 512};
  return world;
}

// Every way to place every model, weighed by the definition in plan.h; written apart from the
// planner. Fewest models left out first, then the least time.
struct Exhaustive {
  const World& world;
  size_t placed_best = 0;
  double seconds_best = kNever;

  static constexpr int64_t kWorking = int64_t{64} << 20;

  size_t count() const { return world.machine.processors.size(); }
  bool holds(const ModelCost& model, size_t p) const {
    const Processor& one = world.machine.processors[p];
    if (!one.unavailable.empty()) return false;
    if (model.kind == ModelKind::decoder && !one.runs_decoders) return false;
    if (!one.weights.empty() &&
        std::ranges::find(one.weights, model.layer_weights[0].type) == one.weights.end()) {
      return false;
    }
    if (model.kind == ModelKind::decoder && !one.kv.empty() &&
        std::ranges::find(one.kv, world.policy.kv) == one.kv.end()) {
      return false;
    }
    return model.file_bytes + kWorking <=
           (one.shares_host_memory ? world.machine.host_memory_bytes : one.memory_bytes);
  }
  int64_t kv(const ModelCost& model) const {
    return (world.policy.prompt_tokens + world.policy.answer_tokens) *
           model.kv_token_bytes(world.policy.kv);
  }
  double prefill(const ModelCost& model, size_t p) const {
    double best = kNever;
    for (const int threads : thread_counts(world.machine.processors[p].profile)) {
      const Predictor predictor(world.machine.processors[p].profile, model, threads);
      int64_t chunk = 64;
      for (const int64_t next : {128, 256, 512}) {
        if (predictor.prefill(next, 0, next, world.policy.kv).seconds >
            world.policy.chunk_seconds_max) {
          break;
        }
        chunk = next;
      }
      best = std::min(best, predictor
                                .prefill(std::min(world.policy.prompt_tokens, model.context), 0,
                                         chunk, world.policy.kv)
                                .seconds);
    }
    return best;
  }
  double decode(const ModelCost& model, size_t p) const {
    double best = kNever;
    for (const int threads : thread_counts(world.machine.processors[p].profile)) {
      const Predictor predictor(world.machine.processors[p].profile, model, threads);
      best = std::min(best, predictor
                                .decode(1,
                                        std::min(world.policy.prompt_tokens, model.context) +
                                            world.policy.answer_tokens / 2,
                                        world.policy.kv)
                                .seconds);
    }
    return best;
  }
  double encode(const ModelCost& model, size_t p, int64_t length) const {
    double best = kNever;
    for (const int threads : thread_counts(world.machine.processors[p].profile)) {
      const Predictor predictor(world.machine.processors[p].profile, model, threads);
      best = std::min(best, predictor.encode(1, length).seconds);
    }
    return best;
  }

  void run() { place(0, 0, 0, std::vector<int64_t>(count()), 0); }

  void place(size_t m, size_t placed, double seconds, std::vector<int64_t> own, int64_t host) {
    for (size_t p = 0; p < count(); ++p) {
      if (own[p] > world.machine.processors[p].memory_bytes) return;
    }
    if (host > world.machine.host_memory_bytes) return;
    if (m == world.models.size()) {
      if (placed > placed_best || (placed == placed_best && seconds < seconds_best)) {
        placed_best = placed;
        seconds_best = seconds;
      }
      return;
    }
    place(m + 1, placed, seconds, own, host);  // left out
    const ModelCost& model = world.models[m];
    const auto with = [&](std::vector<int64_t>& own_now, int64_t& host_now, size_t p,
                          int64_t bytes) {
      (world.machine.processors[p].shares_host_memory ? host_now : own_now[p]) += bytes;
    };
    if (model.kind == ModelKind::decoder) {
      for (size_t a = 0; a < count(); ++a) {
        for (size_t b = 0; b < count(); ++b) {
          if (!holds(model, a) || !holds(model, b)) continue;
          double cost = prefill(model, a);
          auto own_now = own;
          int64_t host_now = host;
          with(own_now, host_now, b, model.file_bytes + kWorking + kv(model));
          if (a != b) {
            const double bytes =
                static_cast<double>(std::min(world.policy.prompt_tokens, model.context) *
                                    model.kv_token_bytes(world.policy.kv));
            for (const size_t side : {a, b}) {
              const Processor& one = world.machine.processors[side];
              cost += one.profile.copy_seconds;
              if (one.profile.copy_bytes_per_second > 0) {
                cost += bytes / one.profile.copy_bytes_per_second;
              }
            }
            if (!(cost < world.policy.split_gain * prefill(model, b))) continue;
            with(own_now, host_now, a, model.file_bytes + kWorking + kv(model));
          }
          cost += static_cast<double>(world.policy.answer_tokens) * decode(model, b);
          place(m + 1, placed + 1, seconds + cost, own_now, host_now);
        }
      }
      return;
    }
    std::vector<size_t> able;
    bool rule = false;
    for (size_t p = 0; p < count(); ++p) {
      const Processor& one = world.machine.processors[p];
      if (holds(model, p) && one.device.starts_with("npu") && !one.profile.measured &&
          model.file_bytes < world.policy.npu_encoder_bytes_max) {
        rule = true;
      }
    }
    for (size_t p = 0; p < count(); ++p) {
      const Processor& one = world.machine.processors[p];
      const bool ruled = one.device.starts_with("npu") && !one.profile.measured;
      if (holds(model, p) && (!rule || ruled)) able.push_back(p);
    }
    const auto& buckets = world.policy.length_buckets;
    std::vector<size_t> at(buckets.size());
    while (!able.empty()) {  // every assignment of buckets to processors
      auto own_now = own;
      int64_t host_now = host;
      double cost = 0;
      std::vector<bool> used(count());
      for (size_t b = 0; b < buckets.size(); ++b) {
        cost += encode(model, able[at[b]], buckets[b]);
        used[able[at[b]]] = true;
      }
      for (size_t p = 0; p < count(); ++p) {
        if (used[p]) with(own_now, host_now, p, model.file_bytes + kWorking);
      }
      place(m + 1, placed + 1, seconds + cost, own_now, host_now);
      size_t digit = 0;
      while (digit < at.size() && ++at[digit] == able.size()) at[digit++] = 0;
      if (digit == at.size()) break;
    }
  }
};

TEST(Plan, EqualsExhaustiveEnumerationOnAThousandMachines) {
  int split = 0, elsewhere = 0, left_out = 0;
  for (uint64_t seed = 0; seed < 1000; ++seed) {
    const World world = random_world(seed);
    Exhaustive all{world};
    all.run();
    const Plan plan = make_plan(world.machine, world.models, world.policy);
    size_t placed = 0;
    for (const ModelPlan& model : plan.models) {
      placed += model.possible ? 1 : 0;
      left_out += model.possible ? 0 : 1;
      const PhasePlan* prefill = model.placement(Phase::prefill);
      if (prefill && prefill->device != model.placement(Phase::decode)->device) ++split;
      if (const PhasePlan* embed = model.placement(Phase::embeddings)) {
        for (const auto& bucket : embed->buckets) elsewhere += bucket.device != embed->device;
      }
    }
    ASSERT_EQ(placed, all.placed_best) << "seed " << seed;
    if (placed > 0) {
      ASSERT_NEAR(plan.seconds, all.seconds_best, 1e-9 * all.seconds_best) << "seed " << seed;
    }
  }
  // Or the worlds were too tame to tell anything.
  EXPECT_GT(split, 20);
  EXPECT_GT(elsewhere, 20);
  EXPECT_GT(left_out, 20);
}

TEST(Predict, NothingExceedsThePhysicalLimits) {
  for (uint64_t seed = 0; seed < 200; ++seed) {
    World world = random_world(seed);
    for (Processor& one : world.machine.processors) {
      one.profile.limit_bytes_per_second = one.profile.read[0].bytes_per_second / 2;
      one.profile.limit_ops_per_second = one.profile.matrix[1].ops_per_second / 2;
      for (const ModelCost& model : world.models) {
        const Predictor predictor(one.profile, model, 1);
        if (model.kind == ModelKind::encoder) continue;
        const double bytes = static_cast<double>(model.weight_bytes());
        EXPECT_GE(predictor.decode(1, 1, DType::f16).seconds,
                  bytes / one.profile.limit_bytes_per_second * 0.999);
        double ops = 0;
        for (const WeightGroup& group : model.layer_weights) {
          ops += 2.0 * 256 * static_cast<double>(group.parameters);
        }
        EXPECT_GE(predictor.prefill(256, 0, 256, DType::f16).seconds,
                  ops / one.profile.limit_ops_per_second * 0.999);
      }
    }
  }
}

TEST(Predict, MoreWorkNeverTakesLess) {
  const DeviceProfile profile = processor("cpu", 30e9, 1e12, kGiB, 1e-5).profile;
  const ModelCost model = decoder();
  const Predictor predictor(profile, model, 1);
  EXPECT_LT(predictor.decode(1, 10, DType::f16).seconds,
            predictor.decode(8, 10, DType::f16).seconds);
  EXPECT_LT(predictor.decode(1, 10, DType::f16).seconds,
            predictor.decode(1, 100000, DType::f16).seconds);
  EXPECT_LT(predictor.prefill(64, 0, 64, DType::f16).seconds,
            predictor.prefill(512, 0, 64, DType::f16).seconds);
  const double together = predictor.decode(16, 10, DType::f16).seconds;
  EXPECT_LT(together, 16 * predictor.decode(1, 10, DType::f16).seconds) << "weights are read once";
}

}  // namespace
}  // namespace impetus

// Ladders: what a user may write, what is tried in which order, and what is said of it.
#include "runtime/placement.h"

#include <gtest/gtest.h>

#include "base/json.h"
#include "cpu/cpu_backend.h"
#include "engine/split_executor.h"
#include "runtime/climb.h"
#include "runtime/runtime.h"
#include "tests/support/random_model.h"

namespace impetus {
namespace {

using Names = std::vector<std::string>;

TEST(ParsePlacement, NamesPhasesAndTheirOwn) {
  const auto parse = [](const Names& items) { return *parse_placement(items); };
  const auto every = parse({"a", "b"});
  EXPECT_EQ(every.prefill, (Names{"a", "b"}));
  EXPECT_EQ(every.embeddings, every.prefill);
  const auto split = parse({"prefill=a", "b", "decode=c"});
  EXPECT_EQ(split.prefill, (Names{"a", "b"}));
  EXPECT_EQ(split.decode, (Names{"c"}));
  EXPECT_TRUE(split.embeddings.empty());
  const auto mixed = parse({"a", "decode=b"});
  EXPECT_EQ(mixed.prefill, (Names{"a"}));
  EXPECT_EQ(mixed.decode, (Names{"b", "a"}));
  EXPECT_EQ(mixed.embeddings, (Names{"a"}));
  for (const Names& bad : {Names{"warm=a"}, Names{"decode="}, Names{""}}) {
    const auto refused = parse_placement(bad);
    ASSERT_FALSE(refused.ok()) << bad[0];
    EXPECT_EQ(refused.error().code, ErrorCode::invalid_argument);
  }
}

// The CPU under another name, which refuses all models with `refusal` where it has one.
class NamedBackend final : public Backend {
 public:
  NamedBackend(const std::string& name, std::optional<Error> refusal = {})
      : cpu_(std::move(*make_cpu_backend({.threads = 1, .isa = "reference"}))),
        descriptor_(cpu_->descriptor()),
        refusal_(std::move(refusal)) {
    descriptor_.device = descriptor_.backend = name;
  }
  const BackendDescriptor& descriptor() const override { return descriptor_; }
  const MemoryLedger* memory() const override { return own.get(); }
  Result<std::unique_ptr<Executor>> load_decoder(const ModelSpec& spec, const WeightSet& weights,
                                                 const LoadOptions& options,
                                                 MemoryLedger& ledger) override {
    ++loads;
    kv_tokens = options.kv_tokens;
    if (refusal_) return *refusal_;
    return cpu_->load_decoder(spec, weights, options, own ? *own : ledger);
  }
  Result<std::unique_ptr<Encoder>> load_encoder(const ModelSpec& spec, const WeightSet& weights,
                                                const LoadOptions& options,
                                                MemoryLedger& ledger) override {
    if (refusal_) return *refusal_;
    return cpu_->load_encoder(spec, weights, options, ledger);
  }

  int loads = 0;
  int64_t kv_tokens = 0;              // that the last was to have
  std::unique_ptr<MemoryLedger> own;  // memory that is not the host's

 private:
  std::unique_ptr<Backend> cpu_;
  BackendDescriptor descriptor_;
  std::optional<Error> refusal_;
};

class Climbing : public ::testing::Test {
 protected:
  Climbing() {
    ModelSpec spec;
    spec.family = "llama";
    spec.layers = 1;
    spec.hidden = 32;
    spec.heads = spec.kv_heads = 2;
    spec.head_dim = 16;
    spec.feed_forward = 32;
    spec.vocab = 40;
    spec.context = 64;
    model_ = testing::RandomModelBuilder(spec, 1, DType::f32).decoder();
    add("good");
    add("other");
    add("odd", error(ErrorCode::unsupported, "no such activation"));
    add("full", error(ErrorCode::insufficient_memory, "64 GiB asked, 1 GiB free"));
    add("broken", error(ErrorCode::corrupt, "tensor x lies outside the file"));
  }
  void add(const std::string& name, std::optional<Error> refusal = {}) {
    backends_.push_back(std::make_unique<NamedBackend>(name, std::move(refusal)));
  }
  Result<Placed> place(Names prefill, Names decode, Fallback fallback = Fallback::warn) {
    Placement placement{std::move(prefill), std::move(decode), {}};
    placement.absent["gone"] = "its driver is not installed";
    IMPETUS_TRY(const Ladders ladders, resolve_placement(placement, backends_));
    return place_decoder("m", model_.spec, *model_.weights, ladders, fallback, {}, 64, ledger_);
  }
  int loads(size_t index) { return static_cast<NamedBackend&>(*backends_[index]).loads; }

  testing::RandomModel model_;
  std::vector<std::unique_ptr<Backend>> backends_;
  MemoryLedger ledger_{int64_t{1} << 30};
};

TEST_F(Climbing, TheFirstOfEachLadderWhereItTakesTheModel) {
  const auto one = place({"good"}, {"good"});
  ASSERT_TRUE(one.ok()) << one.error().message;
  EXPECT_EQ(one->devices.text(), "good");
  EXPECT_EQ(one->fallback_reason, "");
  EXPECT_EQ(dynamic_cast<SplitExecutor*>(one->executor.get()), nullptr);
  EXPECT_EQ(loads(0), 1);
  const auto two = place({"good"}, {"other"}, Fallback::forbid);
  ASSERT_TRUE(two.ok()) << two.error().message;
  EXPECT_EQ(two->devices.prefill, Names{"good"});
  EXPECT_EQ(two->devices.decode, Names{"other"});
  EXPECT_NE(dynamic_cast<SplitExecutor*>(two->executor.get()), nullptr);
  EXPECT_EQ(two->home, backends_[1].get());
  // Without names: in the order of the list.
  const auto plain = place({}, {});
  ASSERT_TRUE(plain.ok());
  EXPECT_EQ(plain->devices.text(), "good");
}

TEST_F(Climbing, TakesTheNextAndSaysWhy) {
  for (const Fallback fallback : {Fallback::warn, Fallback::allow}) {
    const auto placed = place({"odd", "gone", "good"}, {"full", "good"}, fallback);
    ASSERT_TRUE(placed.ok()) << placed.error().message;
    EXPECT_EQ(placed->devices.text(), "good");
    EXPECT_EQ(placed->fallback_reason,
              "prefill on good, not on odd (no such activation), nor on gone (its driver is not "
              "installed); decode on good, not on full (64 GiB asked, 1 GiB free)");
  }
  const auto pair = place({"gone", "other"}, {"good"});
  ASSERT_TRUE(pair.ok()) << pair.error().message;
  EXPECT_EQ(pair->devices.text(), "other, good");
  EXPECT_EQ(pair->fallback_reason, "prefill on other, not on gone (its driver is not installed)");
}

TEST_F(Climbing, ForbidsWhereToldTo) {
  for (const char* name : {"odd", "full", "gone"}) {
    const auto refused = place({name, "good"}, {"good"}, Fallback::forbid);
    ASSERT_FALSE(refused.ok());
    EXPECT_NE(refused.error().message.find(name), std::string::npos) << refused.error().message;
    EXPECT_NE(refused.error().message.find("no other is allowed"), std::string::npos);
  }
  EXPECT_EQ(loads(0), 0);
}

TEST_F(Climbing, EndsWhereTheLadderDoes) {
  const auto refused = place({"good"}, {"full", "gone"});
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().message,
            "m: no processor is left for decode: full (64 GiB asked, 1 GiB free), nor on gone (its "
            "driver is not installed)");
  // What is wrong with the model itself is nobody's to retry.
  const auto broken = place({"broken", "good"}, {"good"}, Fallback::allow);
  ASSERT_FALSE(broken.ok());
  EXPECT_EQ(broken.error().code, ErrorCode::corrupt);
  EXPECT_EQ(ledger_.used_bytes(), 0);
}

TEST_F(Climbing, AnUnknownNameListsWhatThereIs) {
  const auto refused = place({"gpu"}, {});
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, ErrorCode::invalid_argument);
  EXPECT_NE(refused.error().message.find("good, other, odd"), std::string::npos)
      << refused.error().message;
}

TEST_F(Climbing, APairThatDoesNotFitTwiceIsNotLeftHalf) {
  // Room for one side and no more: decode's ladder ends, and nothing stays reserved.
  Placement placement{{"good"}, {"other"}, {}};
  const auto ladders = resolve_placement(placement, backends_);
  int64_t once = 0;
  {
    const auto alone = place({"good"}, {"good"});
    once = ledger_.used_bytes();
  }
  MemoryLedger small(once + once / 2);
  const auto refused =
      place_decoder("m", model_.spec, *model_.weights, *ladders, Fallback::warn, {}, 64, small);
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, ErrorCode::insufficient_memory);
  EXPECT_EQ(small.used_bytes(), 0);
}

// A cache is sized by the memory that it is in: by the least of a pair's.
TEST_F(Climbing, MemoryOfADevicesOwnHoldsItsModels) {
  model_.spec.context = 1 << 20;  // as much as there is room for
  const auto positions = [&](Names prefill, Names decode) {
    Placement placement{std::move(prefill), std::move(decode), {}};
    const auto ladders = resolve_placement(placement, backends_);
    const auto placed = place_decoder("m", model_.spec, *model_.weights, *ladders, Fallback::warn,
                                      {}, std::nullopt, ledger_);
    EXPECT_TRUE(placed.ok()) << placed.error().message;
    if (!placed.ok()) return int64_t{0};
    const KvStorage& kv = std::as_const(*placed->executor).kv();
    return int64_t{kv.blocks()} * kv.block_tokens();
  };
  const int64_t in_host = positions({"good"}, {"good"}), of_two = positions({"good"}, {"other"});
  EXPECT_NEAR(static_cast<double>(of_two) / static_cast<double>(in_host), 0.5, 0.01);
  auto& other = static_cast<NamedBackend&>(*backends_[1]);
  other.own = std::make_unique<MemoryLedger>(ledger_.capacity_bytes() / 8);
  EXPECT_NEAR(static_cast<double>(positions({"other"}, {"other"})) / static_cast<double>(in_host),
              1.0 / 8, 0.01);
  EXPECT_NEAR(static_cast<double>(positions({"good"}, {"other"})) / static_cast<double>(in_host),
              1.0 / 8, 0.01);
  other.own = std::make_unique<MemoryLedger>(ledger_.capacity_bytes() * 2);
  EXPECT_EQ(positions({"good"}, {"other"}), in_host);
  EXPECT_NEAR(static_cast<double>(positions({"other"}, {"other"})) / static_cast<double>(in_host),
              2, 0.01);
  EXPECT_EQ(ledger_.used_bytes() + other.own->used_bytes(), 0);
  // What does not fit there goes on: the side that it is.
  other.own = std::make_unique<MemoryLedger>(1000);
  for (const auto& [prefill, decode] : {std::pair(Names{"other", "good"}, Names{"other", "good"}),
                                        {{"other", "good"}, {"good"}},
                                        {{"good"}, {"other", "good"}}}) {
    const auto ladders = resolve_placement({prefill, decode, {}}, backends_);
    const auto placed = place_decoder("m", model_.spec, *model_.weights, *ladders, Fallback::warn,
                                      {}, std::nullopt, ledger_);
    ASSERT_TRUE(placed.ok()) << placed.error().message;
    EXPECT_EQ(placed->devices.text(), "good");
  }
}

// Of a narrower type as many more fit.
TEST_F(Climbing, PositionsAreCountedInTheCachesType) {
  model_.spec.context = 1 << 20;
  model_.spec.head_dim = 32;  // whole blocks
  const auto positions = [&](DType type) {
    const auto ladders = resolve_placement({{"full"}, {"full"}, {}}, backends_);
    LoadOptions options;
    options.kv = type;
    EXPECT_FALSE(place_decoder("m", model_.spec, *model_.weights, *ladders, Fallback::warn, options,
                               std::nullopt, ledger_)
                     .ok());
    return static_cast<double>(static_cast<NamedBackend&>(*backends_[3]).kv_tokens);
  };
  const double halves = positions(DType::f16);
  EXPECT_GT(halves, 1e5);
  EXPECT_NEAR(positions(DType::f32) / halves, 0.5, 1e-3);
  EXPECT_NEAR(positions(DType::q8_0) / halves, 64.0 / 34, 1e-3);
}

TEST(PlacedRuntime, RunsEachPhaseWhereItWasPut) {
  std::vector<std::unique_ptr<Backend>> backends;
  backends.push_back(std::move(*make_cpu_backend({.threads = 1, .isa = {}})));
  backends.push_back(std::move(*make_cpu_backend({.threads = 1, .isa = "reference"})));
  const std::string best = backends[0]->descriptor().backend;
  RuntimeOptions options;
  options.model_folders = {std::filesystem::path(IMPETUS_SOURCE_DIR) / "models"};
  options.placement = {{"cpu"}, {"cpu-reference"}, {"cpu-reference"}};
  auto runtime = Runtime::create(std::move(options), std::move(backends));
  ASSERT_TRUE(runtime.ok()) << runtime.error().message;
  const auto chat = (*runtime)->load("impetus-tiny-chat");
  ASSERT_TRUE(chat.ok()) << chat.error().message;
  EXPECT_EQ(chat->devices.prefill, Names{best});
  EXPECT_EQ(chat->devices.decode, Names{"cpu-reference"});
  const auto embed = (*runtime)->load("impetus-tiny-embed");
  ASSERT_TRUE(embed.ok()) << embed.error().message;
  EXPECT_EQ(embed->devices.embeddings, Names{"cpu-reference"});
  RuntimeOptions wrong;
  wrong.placement.decode = {"npu"};
  std::vector<std::unique_ptr<Backend>> one;
  one.push_back(std::move(*make_cpu_backend({.threads = 1, .isa = {}})));
  EXPECT_FALSE(Runtime::create(std::move(wrong), std::move(one)).ok());
}

}  // namespace
}  // namespace impetus

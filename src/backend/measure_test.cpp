// The measuring itself, on the fake backend, whose steps take a known time; profiles to JSON and
// back; the synthetic models.
#include "backend/measure.h"

#include <cmath>
#include <map>
#include <random>
#include <set>
#include <tuple>

#include <gtest/gtest.h>

#include "backend/fake.h"
#include "backend/isotonic.h"
#include "backend/synthetic_model.h"
#include "base/timing.h"

namespace impetus {
namespace {

MeasureOptions quick() {
  MeasureOptions options;
  options.step_budget_seconds = 0.001;
  return options;
}

FakeOptions fake(std::chrono::microseconds step_time) {
  FakeOptions options;
  options.blocks = 4096;
  options.step_tokens_max = 512;
  options.step_time = step_time;
  return options;
}

TEST(Measure, EveryFigureIsThereAndFinite) {
  FakeBackend backend(fake(std::chrono::microseconds(20)));
  MemoryLedger ledger(int64_t{4} << 30);
  double last = -1;
  MeasureOptions options = quick();
  options.progress = [&](const std::string& what, double share) {
    EXPECT_FALSE(what.empty());
    EXPECT_GT(share, last);
    EXPECT_LE(share, 1);
    last = share;
  };
  const auto profile = measure_backend(backend, ledger, options);
  ASSERT_TRUE(profile.ok()) << profile.error().message;
  EXPECT_TRUE(profile->measured);
  EXPECT_EQ(profile->backend, backend.descriptor().backend);
  EXPECT_FALSE(profile->read.empty());
  EXPECT_FALSE(profile->attention.empty());
  EXPECT_FALSE(profile->overhead.empty());
  const auto good = [](double value) { return std::isfinite(value) && value >= 0; };
  for (const ReadRate& rate : profile->read) EXPECT_TRUE(good(rate.bytes_per_second));
  for (const MatrixRate& rate : profile->matrix) EXPECT_TRUE(good(rate.ops_per_second));
  for (const AttentionRate& rate : profile->attention) EXPECT_TRUE(good(rate.ops_per_second));
  for (const Overhead& cost : profile->overhead) {
    EXPECT_TRUE(good(cost.layer_seconds) && good(cost.step_seconds) &&
                good(cost.row_value_seconds));
  }
  EXPECT_EQ(ledger.used_bytes(), 0) << "what was loaded is given back";
}

TEST(Measure, LayersWhereStepsAreEnqueued) {
  FakeOptions options = fake(std::chrono::microseconds(20));
  options.enqueues = true;
  FakeBackend backend(options);
  MemoryLedger ledger(int64_t{2} << 30);
  double last = -1;
  MeasureOptions with = quick();
  // Moments are seconds apart, and these seconds are short.
  constexpr double kFaster = 20;
  const auto start = std::chrono::steady_clock::now();
  with.clock = [&] { return kFaster * seconds_since(start); };
  with.progress = [&](const std::string&, double share) {
    EXPECT_GT(share, last);
    EXPECT_LE(share, 1);
    last = share;
  };
  const auto profile = measure_backend(backend, ledger, with);
  ASSERT_TRUE(profile.ok()) << profile.error().message;
  EXPECT_TRUE(profile->matrix.empty());
  EXPECT_FALSE(profile->read.empty() || profile->attention.empty());
  for (const ShapeClass shape : {ShapeClass::decode, ShapeClass::prefill, ShapeClass::encoder}) {
    std::set<int64_t> sizes;
    for (const LayerTime& time : profile->layers) {
      if (time.shape != shape) continue;
      EXPECT_GT(time.seconds, 0);
      EXPECT_LT(time.seconds, 0.1 * kFaster);
      sizes.insert(time.parameters);
    }
    EXPECT_GE(sizes.size(), 3u) << to_string(shape);
  }
  EXPECT_EQ(ledger.used_bytes(), 0);
  const auto back = profile_from_json(to_json(*profile));
  ASSERT_TRUE(back.ok()) << back.error().message;
  EXPECT_EQ(json::serialize(to_json(*back)), json::serialize(to_json(*profile)));
}

// A GPU in a time of its own, on a host whose pace changes for seconds at a time: what its steps
// take is known, and what a slow moment makes of it.
class PacedBackend : public Backend {
 public:
  // `slow`: how much longer steps take in slow moments. Its memory is its own.
  PacedBackend(uint32_t seed, double slow, int64_t memory_bytes = int64_t{64} << 30)
      : memory_(memory_bytes), random_(seed), slow_(slow) {
    descriptor_.device = descriptor_.backend = descriptor_.name = "paced";
    descriptor_.weights = {DType::f32,  DType::f16,  DType::bf16,
                           DType::q8_0, DType::q4_0, DType::grouped};
    descriptor_.enqueues = true;
  }
  const BackendDescriptor& descriptor() const override { return descriptor_; }
  // A little later each time, since KV is copied in no time.
  double now() { return now_ += 5e-7; }
  int64_t most_held() const { return most_; }
  // Quantised models that were loaded where less was free than four times three layers in 16 bits.
  int without_plenty() const { return without_plenty_; }

  static constexpr double kStep = 50e-6;
  static constexpr double kAttention = 1e12;  // operations a second
  static double bits_of(const TensorView& weight) {
    if (weight.grouped != nullptr) return weight.grouped->bits + 0.5;
    return 8.0 * static_cast<double>(block_bytes(weight.dtype)) /
           static_cast<double>(block_elements(weight.dtype));
  }
  static double bits_of(const LayerTime& time) {
    if (time.weights == DType::grouped) return time.bits + 0.5;
    return 8.0 * static_cast<double>(block_bytes(time.weights)) /
           static_cast<double>(block_elements(time.weights));
  }
  // A layer of so many weights of so many bits.
  static double layer(double bits, int64_t parameters, int64_t rows) {
    const auto weights = static_cast<double>(parameters);
    return 30e-6 + weights * bits / 8 / 3e12 + 2 * weights * static_cast<double>(rows) / 3e14;
  }

  Result<std::unique_ptr<Executor>> load_decoder(const ModelSpec& spec, const WeightSet& weights,
                                                 const LoadOptions& options,
                                                 MemoryLedger& ledger) override {
    pass(1.5);
    const double bits = bits_of(weights.find("lm_head.weight")->view);
    auto made = std::make_unique<Holding>(fake_options(spec, options));
    const auto bytes =
        static_cast<int64_t>(static_cast<double>(spec.layers) * parameters_of(spec) * bits / 8);
    IMPETUS_TRY(made->here, memory_.reserve(bytes, "paced"));
    IMPETUS_TRY(made->there, ledger.reserve(bytes, "paced"));
    most_ = std::max(most_, memory_.used_bytes());
    const double plenty = 4 * 3 * parameters_of(spec) * 2;
    if (bits < 16 && plenty > static_cast<double>(ledger.free_bytes())) ++without_plenty_;
    made->step = [this, spec, bits](std::span<const SequenceStep> batch) {
      int64_t rows = 0;
      for (const SequenceStep& step : batch) rows += static_cast<int64_t>(step.tokens.size());
      const int64_t keys = spec.hidden * 2 * spec.kv_heads * spec.head_dim;
      const bool prompt = batch.front().tokens.size() > 1;
      const double layers = static_cast<double>(spec.layers) -
                            (prompt ? 1 - static_cast<double>(keys) / parameters_of(spec) : 0);
      // Keys past those that layers are timed with, of all layers' rows: of a prompt's last layer
      // one.
      const int64_t position = batch.front().position;
      const auto pairs =
          static_cast<double>(prompt ? position * ((spec.layers - 1) * rows + 1)
                                     : std::max<int64_t>(0, position - 128) * spec.layers);
      pass(kStep + layers * layer(bits, static_cast<int64_t>(parameters_of(spec)), rows) +
           pairs * static_cast<double>(4 * spec.heads * spec.head_dim) / kAttention);
    };
    return std::unique_ptr<Executor>(std::move(made));
  }
  Result<std::unique_ptr<Encoder>> load_encoder(const ModelSpec& spec, const WeightSet& weights,
                                                const LoadOptions& options,
                                                MemoryLedger&) override {
    pass(1);
    auto made = std::make_unique<FakeEncoder>(fake_options(spec, options));
    const double bits = bits_of(weights.find("encoder.layer.0.attention.self.query.weight")->view);
    made->on_batch([this, spec, bits](const EncoderBatch& batch) {
      const int64_t length = batch.offsets[1];
      const auto pairs = static_cast<double>(
          length > kLayerTextTokens ? spec.layers * length * (length - 16) : int64_t{0});
      pass(kStep + pairs * static_cast<double>(4 * spec.hidden) / kAttention +
           static_cast<double>(spec.layers) * layer(bits, static_cast<int64_t>(parameters_of(spec)),
                                                    static_cast<int64_t>(batch.tokens.size())));
    });
    return std::unique_ptr<Encoder>(std::move(made));
  }

 private:
  // Its tokens are nobody's concern, and would take longer than all the measuring.
  struct Holding : FakeExecutor {
    using FakeExecutor::FakeExecutor;
    Result<std::vector<SequenceResult>> execute(std::span<const SequenceStep> batch) override {
      step(batch);
      return std::vector<SequenceResult>(batch.size());
    }
    std::function<void(std::span<const SequenceStep>)> step;
    Reservation here, there;
  };
  static double parameters_of(const ModelSpec& spec) {
    const int64_t width = spec.head_dim * (2 * spec.heads + 2 * spec.kv_heads);
    const int64_t matrices = spec.kind == ModelKind::decoder ? 3 : 2;
    return static_cast<double>(spec.hidden * (width + matrices * spec.feed_forward));
  }
  static FakeOptions fake_options(const ModelSpec& spec, const LoadOptions& options) {
    FakeOptions made;
    made.vocab = spec.vocab;
    made.dimension = spec.hidden;
    made.step_tokens_max = options.step_tokens_max;
    made.blocks = static_cast<int32_t>(options.kv_tokens / made.block_tokens + 1);
    return made;
  }
  void pass(double seconds) {
    while (now_ >= until_) {
      slow_now_ = !slow_now_;
      // The same in every standard library.
      const double even = (static_cast<double>(random_()) + 1) / 4294967297.0;
      until_ -= (slow_now_ ? 1.5 : 7.5) * std::log(even);
    }
    now_ += seconds * (slow_now_ ? slow_ : 1);
  }

  BackendDescriptor descriptor_;
  MemoryLedger memory_;
  int64_t most_ = 0;
  int without_plenty_ = 0;
  std::mt19937 random_;
  double slow_, now_ = 0, until_ = 0;
  bool slow_now_ = true;
};

DeviceProfile profile_in(PacedBackend& backend, int64_t memory = int64_t{4} << 30) {
  MemoryLedger ledger(memory);
  MeasureOptions options;
  options.clock = [&] { return backend.now(); };
  auto profile = measure_backend(backend, ledger, options);
  EXPECT_TRUE(profile.ok()) << profile.error().message;
  EXPECT_EQ(ledger.used_bytes(), 0);
  return profile.ok() ? std::move(*profile) : DeviceProfile{};
}
std::vector<LayerTime> measured_in(PacedBackend& backend, int64_t memory = int64_t{4} << 30) {
  return profile_in(backend, memory).layers;
}

TEST(Measure, WhatAStepCostsAtAllAndEarlierKeys) {
  PacedBackend backend(1, 1.0);
  const DeviceProfile profile = profile_in(backend);
  for (const AttentionRate& rate : profile.attention) {
    EXPECT_NEAR(rate.ops_per_second, PacedBackend::kAttention, 0.03 * PacedBackend::kAttention);
  }
  EXPECT_EQ(profile.attention.size(), 3u);
  EXPECT_EQ(profile.overhead.size(), 3u);
  for (const Overhead& cost : profile.overhead) {
    // Of a prompt a part of the last layer, too.
    const double part = cost.shape == ShapeClass::prefill ? 10e-6 : 0;
    EXPECT_NEAR(cost.step_seconds, PacedBackend::kStep + part, 0.02 * PacedBackend::kStep + part);
  }
}

TEST(Measure, LayersTakeWhatTheyTake) {
  PacedBackend backend(1, 1.0);
  const auto layers = measured_in(backend);
  std::map<std::string, int> kinds;
  for (const LayerTime& time : layers) {
    ++kinds[weights_name(time)];
    const double right =
        PacedBackend::layer(PacedBackend::bits_of(time), time.parameters, time.rows);
    EXPECT_NEAR(time.seconds, right, 0.02 * right)
        << to_string(time.shape) << " " << weights_name(time) << " " << time.rows << " "
        << time.parameters;
  }
  // Prompts of quantised models with 256 rows, too.
  EXPECT_EQ(kinds["4-bit"], 5 * 8);
  EXPECT_EQ(kinds["8-bit"], 5 * 8);
  EXPECT_EQ(kinds["q4_0"], 5 * 8);
  EXPECT_EQ(kinds["q8_0"], 5 * 8);
  EXPECT_GE(kinds["f32"], 4 * 7 + 4 * 3);
  EXPECT_EQ(std::ranges::count(layers, 256, &LayerTime::rows), 4 * 5);
}

// Models that do not fit beside one another go sooner, with as many moments. What fits alone is
// measured.
TEST(Measure, HoldsNoMoreThanFits) {
  constexpr int64_t kSmall = int64_t{1000} << 20, kLedger = int64_t{5} << 29;
  const auto check = [&](const LayerTime& time) {
    const double takes =
        PacedBackend::layer(PacedBackend::bits_of(time), time.parameters, time.rows);
    EXPECT_NEAR(time.seconds, takes, 0.02 * takes);
  };
  PacedBackend roomy(1, 1.0);
  EXPECT_GT(measured_in(roomy).size(), 260u);
  EXPECT_GT(roomy.most_held(), kLedger);
  // As far as half of the ledger goes: of f16 and bf16 four widths.
  PacedBackend shared(1, 1.0);
  const auto layers = measured_in(shared, kLedger);
  EXPECT_EQ(layers.size(), 280u);
  for (const LayerTime& time : layers) check(time);
  // A device with less: no f32 of the fourth width either.
  PacedBackend small(1, 1.0, kSmall);
  const auto fewer = measured_in(small, kLedger);
  EXPECT_EQ(fewer.size(), 273u);
  for (const LayerTime& time : fewer) check(time);
  EXPECT_GT(small.most_held(), kSmall / 2);
}

// Prompts of quantised models are timed as they run where memory is plenty, if it ever is: what is
// held goes first.
TEST(Measure, MakesRoomForDequantisedLayers) {
  PacedBackend backend(1, 1.0);
  const auto layers = measured_in(backend, int64_t{6} << 30);
  EXPECT_EQ(backend.without_plenty(), 0);
  EXPECT_GT(layers.size(), 280u);
  PacedBackend small(1, 1.0);
  measured_in(small, int64_t{5} << 29);
  EXPECT_GT(small.without_plenty(), 0);
}

// 1.7 times as long in one second of six, for a second and a half at a time: of figures taken in
// one moment each as many would be wrong, by as much and more.
TEST(Measure, SlowMomentsBendNoLayer) {
  PacedBackend calm(1, 1.0);
  std::map<std::tuple<ShapeClass, std::string, int64_t, int64_t>, double> right;
  const DeviceProfile undisturbed = profile_in(calm, int64_t{8} << 30);
  const std::array shapes = {ShapeClass::decode, ShapeClass::prefill, ShapeClass::encoder};
  for (const ShapeClass shape : shapes) {
    EXPECT_NEAR(undisturbed.scatter_of(shape).least, 1, 0.01);
    EXPECT_NEAR(undisturbed.scatter_of(shape).most, 1, 0.01);
  }
  for (const LayerTime& time : undisturbed.layers) {
    right[{time.shape, weights_name(time), time.parameters, time.rows}] = time.seconds;
  }
  std::vector<double> errors;
  std::array<double, 3> most = {};  // by shape, of any seed
  for (const uint32_t seed : {1, 2, 3}) {
    PacedBackend backend(seed, 1.7);
    const DeviceProfile profile = profile_in(backend, int64_t{8} << 30);
    const std::vector<LayerTime>& layers = profile.layers;
    for (size_t i = 0; i < shapes.size(); ++i) {
      most[i] = std::max(most[i], profile.scatter_of(shapes[i]).most);
      EXPECT_NEAR(profile.scatter_of(shapes[i]).least, 1, 0.01) << "no moment is fast";
    }
    for (const AttentionRate& rate : profile.attention) {
      EXPECT_NEAR(rate.ops_per_second, PacedBackend::kAttention, 0.1 * PacedBackend::kAttention);
    }
    ASSERT_EQ(layers.size(), right.size());
    for (const LayerTime& time : layers) {
      const double wanted = right[{time.shape, weights_name(time), time.parameters, time.rows}];
      errors.push_back(std::abs(time.seconds / wanted - 1));
    }
    std::map<std::tuple<ShapeClass, std::string, int64_t>, double> narrower, fewer;
    for (const LayerTime& time : layers) {  // widths rise, and rows within each
      double& by_width = narrower[{time.shape, weights_name(time), time.rows}];
      double& by_rows = fewer[{time.shape, weights_name(time), time.parameters}];
      EXPECT_GE(time.seconds, std::max(by_width, by_rows));
      by_width = by_rows = time.seconds;
    }
  }
  // That it was disturbed is known; texts, which are timed in fewer moments, may miss it.
  for (const double one : most) EXPECT_NEAR(one, 1.6, 0.11);
  std::ranges::sort(errors);
  const auto share = [&](double of) {
    return errors[static_cast<size_t>(of * static_cast<double>(errors.size()))];
  };
  EXPECT_LT(share(0.95), 0.02);
  EXPECT_LT(errors.back(), 1);
}

TEST(Measure, NoMemoryIsAnError) {
  FakeBackend backend(fake(std::chrono::microseconds(0)));
  MemoryLedger ledger(1 << 20);
  const auto profile = measure_backend(backend, ledger, quick());
  ASSERT_FALSE(profile.ok());
  EXPECT_EQ(profile.error().code, ErrorCode::insufficient_memory);
}

TEST(Profile, JsonAndBack) {
  DeviceProfile profile;
  profile.device = "cpu";
  profile.backend = "cpu-avx2";
  profile.source = "measured";
  profile.measured = true;
  profile.read = {{2, 1 << 20, 1.5e10}};
  profile.matrix = {{DType::q4_0, 16, 2, 3e11}};
  profile.attention = {{ShapeClass::encoder, 1, 5e10}};
  profile.overhead = {{ShapeClass::decode, 2, 1e-6, 2e-6, 3e-9}};
  profile.layers = {{ShapeClass::decode, DType::q4_0, 4, 1 << 20, 4e-5},
                    {ShapeClass::prefill, DType::grouped, 128, 1 << 20, 6e-5, 8}};
  profile.scatter = {{ShapeClass::prefill, 0.75, 1.5}};
  profile.copy_bytes_per_second = 1e10;
  profile.limit_ops_per_second = 1e12;
  const auto back = profile_from_json(to_json(profile));
  ASSERT_TRUE(back.ok()) << back.error().message;
  EXPECT_EQ(json::serialize(to_json(*back)), json::serialize(to_json(profile)));
  EXPECT_EQ(weights_name(back->layers[0]), "q4_0");
  EXPECT_EQ(weights_name(back->layers[1]), "8-bit");
  EXPECT_EQ(back->scatter_of(ShapeClass::prefill).least, 0.75);
  EXPECT_EQ(back->scatter_of(ShapeClass::prefill).most, 1.5);
  EXPECT_EQ(back->scatter_of(ShapeClass::decode).most, 1);
}

TEST(Profile, RefusesWhatIsNoProfile) {
  DeviceProfile profile;
  profile.device = profile.backend = profile.source = "x";
  profile.read = {{2, 1, 1e9}};
  profile.matrix = {{DType::q4_0, 16, 2, 3e11}};
  const json::object good = to_json(profile);
  ASSERT_TRUE(profile_from_json(good).ok());
  const auto broken = [&](const char* key, json::value value) {
    json::object object = good;
    object[key] = std::move(value);
    const auto result = profile_from_json(object);
    EXPECT_FALSE(result.ok()) << key;
    if (!result.ok()) {
      EXPECT_NE(result.error().message.find(key), std::string::npos) << result.error().message;
    }
  };
  broken("device", 5);
  broken("measured", "yes");
  broken("read", "none");
  broken("read", json::array{});
  broken("matrix", json::array{});
  json::object older = good;
  older.erase("layers");
  older.erase("scatter");
  EXPECT_TRUE(profile_from_json(older).ok());
  broken("layers", "none");
  broken("scatter", "none");
  for (const auto& [least, most] : {std::pair(-1.0, 1.0), {2.0, 3.0}, {0.5, 0.5}}) {
    broken("scatter",
           json::array{json::object{{"shape", "decode"}, {"least", least}, {"most", most}}});
  }
  broken("layers", json::array{json::object{{"shape", "decode"},
                                            {"weights", "f32"},
                                            {"rows", 1},
                                            {"parameters", 0},
                                            {"seconds", 1}}});
  for (const json::value& bits : {json::value(1), json::value(9), json::value("4")}) {
    broken("layers", json::array{json::object{{"shape", "decode"},
                                              {"weights", "grouped"},
                                              {"bits", bits},
                                              {"rows", 1},
                                              {"parameters", 1},
                                              {"seconds", 1}}});
  }
  broken("matrix",
         json::array{json::object{
             {"weights", "grouped"}, {"rows", 1}, {"threads", 1}, {"ops_per_second", 1}}});
  broken("read", json::array{json::object{
                     {"threads", 4294967297}, {"working_set_bytes", 1}, {"bytes_per_second", 1}}});
  broken("copy_seconds", -1);
  broken("copy_seconds", "fast");
  broken("matrix", json::array{json::object{{"weights", "q9"}}});
  broken("matrix", json::array{5});
  broken("matrix", json::array{json::object{
                       {"weights", "f32"}, {"rows", 0}, {"threads", 1}, {"ops_per_second", 1}}});
  for (const json::value& value :
       {json::value(nullptr), json::value(1), json::value("x"), json::value(json::array{})}) {
    EXPECT_FALSE(profile_from_json(value).ok());
  }
}

TEST(SyntheticModel, HasEveryTensorItsSpecNames) {
  for (const DType type : {DType::f32, DType::f16, DType::bf16, DType::q8_0, DType::q4_0}) {
    auto decoder = synthetic_model(synthetic_decoder_spec(2, 256, 128), type);
    ASSERT_TRUE(decoder.ok()) << decoder.error().message;
    const auto resolved = resolve_decoder(decoder->spec, *decoder->weights);
    EXPECT_TRUE(resolved.ok()) << resolved.error().message;
    auto encoder = synthetic_model(synthetic_encoder_spec(2, 128, 64), type);
    ASSERT_TRUE(encoder.ok()) << encoder.error().message;
    const auto other = resolve_encoder(encoder->spec, *encoder->weights);
    EXPECT_TRUE(other.ok()) << other.error().message;
  }
}

TEST(SyntheticModel, ItsValuesAreFiniteAndDiffer) {
  for (const auto& [type, bits] : {std::pair{DType::q4_0, 4}, std::pair{DType::grouped, 4},
                                   std::pair{DType::grouped, 8}, std::pair{DType::grouped, 3}}) {
    auto model = synthetic_model(synthetic_decoder_spec(1, 256, 64), type, false, bits);
    ASSERT_TRUE(model.ok()) << model.error().message;
    const NamedTensor* matrix = model->weights->find("model.layers.0.mlp.up_proj.weight");
    ASSERT_NE(matrix, nullptr);
    const TensorView& view = matrix->view;
    ASSERT_EQ(view.dtype, type);
    std::vector<float> row(static_cast<size_t>(view.shape.columns()));
    std::set<float> values;
    double sum = 0, squares = 0;
    for (int64_t r = 0; r < view.shape.rows(); ++r) {
      dequantize_row(view, r, row.data());
      for (const float value : row) {
        ASSERT_TRUE(std::isfinite(value));
        sum += value;
        squares += value * value;
        values.insert(value);
      }
    }
    const auto count = static_cast<double>(view.shape.elements());
    EXPECT_GT(std::sqrt(squares / count), 1e-3);
    EXPECT_LT(std::abs(sum / count), 0.2 * std::sqrt(squares / count)) << "about zero";
    EXPECT_EQ(values.size(), size_t{1} << bits) << "every code";
  }
}

TEST(SyntheticModel, Groups) {
  for (const int bits : {4, 8}) {
    auto model = synthetic_model(synthetic_decoder_spec(2, 256, 64), DType::grouped, false, bits);
    ASSERT_TRUE(model.ok()) << model.error().message;
    EXPECT_TRUE(resolve_decoder(model->spec, *model->weights).ok());
    const TensorView& view = model->weights->find("lm_head.weight")->view;
    ASSERT_NE(view.grouped, nullptr);
    EXPECT_EQ(view.grouped->to_string(), fmt::format("{}-bit, groups of 64", bits));
    EXPECT_EQ(view.bytes(), view.shape.elements() * (2 * bits + 1) / 16);
  }
  // 352 columns are no whole groups.
  const auto odd = synthetic_model(synthetic_decoder_spec(1, 128, 64), DType::grouped);
  ASSERT_FALSE(odd.ok());
  EXPECT_EQ(odd.error().code, ErrorCode::invalid_argument);
}

}  // namespace
}  // namespace impetus

// The measuring itself, on the fake backend, whose steps take a known time; profiles to JSON and
// back; the synthetic models.
#include "backend/measure.h"

#include <cmath>
#include <set>

#include <gtest/gtest.h>

#include "backend/fake.h"
#include "backend/synthetic_model.h"

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
      EXPECT_LT(time.seconds, 0.1);
      sizes.insert(time.parameters);
    }
    EXPECT_GE(sizes.size(), 3u) << to_string(shape);
  }
  EXPECT_EQ(ledger.used_bytes(), 0);
  const auto back = profile_from_json(to_json(*profile));
  ASSERT_TRUE(back.ok()) << back.error().message;
  EXPECT_EQ(json::serialize(to_json(*back)), json::serialize(to_json(*profile)));
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
  profile.copy_bytes_per_second = 1e10;
  profile.limit_ops_per_second = 1e12;
  const auto back = profile_from_json(to_json(profile));
  ASSERT_TRUE(back.ok()) << back.error().message;
  EXPECT_EQ(json::serialize(to_json(*back)), json::serialize(to_json(profile)));
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
  EXPECT_TRUE(profile_from_json(older).ok());
  broken("layers", "none");
  broken("layers", json::array{json::object{{"shape", "decode"},
                                            {"weights", "f32"},
                                            {"rows", 1},
                                            {"parameters", 0},
                                            {"seconds", 1}}});
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
  auto model = synthetic_model(synthetic_decoder_spec(1, 256, 64), DType::q4_0);
  ASSERT_TRUE(model.ok());
  const NamedTensor* matrix = model->weights->find("model.layers.0.mlp.up_proj.weight");
  ASSERT_NE(matrix, nullptr);
  std::vector<float> values(static_cast<size_t>(matrix->view.shape.elements()));
  dequantize(matrix->view.dtype, matrix->view.data.data(), matrix->view.shape.elements(),
             values.data());
  double sum = 0;
  for (const float value : values) {
    ASSERT_TRUE(std::isfinite(value));
    sum += std::abs(value);
  }
  EXPECT_GT(sum / static_cast<double>(values.size()), 1e-3);
  EXPECT_NE(values[0], values[1]);
}

}  // namespace
}  // namespace impetus

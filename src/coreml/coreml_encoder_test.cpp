// The encoder over a fake of Apple's framework: padded strides, wrong shapes, NaN, errors.
#include "coreml/coreml_encoder.h"

#include <cmath>

#include <gtest/gtest.h>

#include "coreml/strided.h"
#include "tensor/dtype.h"
#include "tests/support/random_model.h"

namespace impetus::coreml {
namespace {

constexpr int64_t kHidden = 32;

// Gives back twice what came in; each token's values depend on that token alone.
class FakeModel final : public CompiledModel {
 public:
  struct Plan {
    std::string who = "fake";
    int64_t row_bytes = 64;
    bool transposed = false;                        // tokens are the slow dimension
    int fail = 0;                                   // predictions that fail first
    bool nan = false;                               // of the last token
    bool wrong_output = false;                      // another shape comes out than was promised
    std::vector<int64_t> hidden_shape, mask_shape;  // instead of the right ones
    std::string output = "hidden_states";
  };

  FakeModel(int64_t tokens, Plan plan) : plan_(std::move(plan)) {
    const auto make = [&](std::vector<int64_t> shape, mil::DataType type) {
      Memory memory;
      memory.view.type = {type, std::move(shape)};
      if (plan_.transposed && memory.view.type.shape[1] > 1 && memory.view.type.shape[3] > 1) {
        const int64_t row = memory.view.type.shape[1] + 3;
        memory.view.strides = {row * tokens, 1, row * tokens, row};
      } else {
        memory.view.strides = padded_strides(memory.view.type, plan_.row_bytes);
      }
      memory.bytes.assign(static_cast<size_t>(*span_of(memory.view)) * 4 + 64, std::byte{0xff});
      memory.view.data = memory.bytes.data();
      return memory;
    };
    const std::vector<int64_t> shape{1, kHidden, 1, tokens};
    hidden_ = make(plan_.hidden_shape.empty() ? shape : plan_.hidden_shape, mil::DataType::f16);
    mask_ =
        make(plan_.mask_shape.empty() ? std::vector<int64_t>{1, tokens, 1, 1} : plan_.mask_shape,
             mil::DataType::f16);
    output_ = make(shape, plan_.row_bytes == 0 ? mil::DataType::f32 : mil::DataType::f16);
    inputs_ = {{"mask", mask_.view.type}, {"hidden", hidden_.view.type}};
    outputs_ = {{plan_.output, output_.view.type}};
  }

  std::string_view ran_on() const override { return plan_.who; }
  const std::vector<Port>& inputs() const override { return inputs_; }
  const std::vector<Port>& outputs() const override { return outputs_; }
  Result<StridedView> input(const std::string& name) override {
    return name == "mask" ? mask_.view : hidden_.view;
  }
  Result<StridedView> output(const std::string&) override {
    StridedView view = output_.view;
    if (plan_.wrong_output) view.type.shape.back() -= 1;
    return view;
  }
  Result<void> predict() override {
    ++predictions;
    if (plan_.fail-- > 0) {
      for (Memory* input : {&hidden_, &mask_}) std::ranges::fill(input->bytes, std::byte{0xff});
      return error(ErrorCode::unavailable, "the engine was taken away");
    }
    const int64_t tokens = hidden_.view.type.shape.back();
    std::vector<float> values(static_cast<size_t>(kHidden * tokens)),
        mask(static_cast<size_t>(tokens));
    EXPECT_EQ(read_strided(hidden_.view, values), 0);
    EXPECT_EQ(read_strided(mask_.view, mask), 0);
    used = 0;
    for (const float value : mask) {
      EXPECT_TRUE(value == 0 || value == -10000) << value;
      used += value == 0;
    }
    for (float& value : values) value *= 2;
    for (int64_t s = 0; s < tokens; ++s) {
      // Padding holds no numbers; who reads it is found out.
      if (s < used && !(plan_.nan && s + 1 == used)) continue;
      for (int64_t h = 0; h < kHidden; ++h) values[static_cast<size_t>(h * tokens + s)] = NAN;
    }
    write_strided(values, output_.view);
    return {};
  }

  int predictions = 0;
  int64_t used = 0;

 private:
  struct Memory {
    std::vector<std::byte> bytes;
    StridedView view;
  };
  Plan plan_;
  Memory hidden_, mask_, output_;
  std::vector<Port> inputs_, outputs_;
};

class CoremlEncoderTest : public ::testing::Test {
 protected:
  CoremlEncoderTest() {
    spec_.family = "bert";
    spec_.kind = ModelKind::encoder;
    spec_.layers = 1;
    spec_.hidden = kHidden;
    spec_.heads = spec_.kv_heads = 2;
    spec_.head_dim = 16;
    spec_.feed_forward = 32;
    spec_.vocab = 40;
    spec_.context = 64;
    spec_.token_types = 2;
    spec_.activation = Activation::gelu_erf;
    spec_.pooling = Pooling::mean;
    model_ = std::make_unique<testing::RandomModel>(
        testing::RandomModelBuilder(spec_, 5, DType::f32).encoder());
  }

  Result<std::unique_ptr<Encoder>> make(std::vector<FakeModel::Plan> plans = {}) {
    auto host = HostEmbeddings::load(spec_, *model_->weights);
    EXPECT_TRUE(host.ok()) << host.error().message;
    CoremlEncoderParts parts{.host = std::move(*host)};
    parts.descriptor.device = parts.descriptor.backend = "fake";
    parts.spec = spec_;
    parts.shapes = {4, 16, 32};
    programs_.clear();
    for (size_t i = 0; i < 3; ++i) {
      auto program = std::make_unique<FakeModel>(parts.shapes[i],
                                                 i < plans.size() ? plans[i] : FakeModel::Plan());
      programs_.push_back(program.get());
      parts.programs.push_back(std::move(program));
    }
    return make_coreml_encoder(std::move(parts));
  }
  // What the fake must give for one text.
  std::vector<float> expected(std::span<const TokenId> tokens, std::span<const int32_t> types) {
    const auto host = HostEmbeddings::load(spec_, *model_->weights);
    const auto count = static_cast<int64_t>(tokens.size());
    const auto values = *host->lookup(tokens, types, count);
    std::vector<float> pooled(static_cast<size_t>(kHidden));
    for (int64_t h = 0; h < kHidden; ++h) {
      float sum = 0;
      for (int64_t s = 0; s < count; ++s) {
        const float in = f16_to_f32(f32_to_f16(values[static_cast<size_t>(h * count + s)]));
        sum += f16_to_f32(f32_to_f16(2 * in));
      }
      pooled[static_cast<size_t>(h)] = sum / static_cast<float>(count);
    }
    return pooled;
  }

  ModelSpec spec_;
  std::unique_ptr<testing::RandomModel> model_;
  std::vector<FakeModel*> programs_;
};

TEST_F(CoremlEncoderTest, EachTextOnItsProgramWhateverTheStrides) {
  FakeModel::Plan packed, turned;
  packed.row_bytes = 0;
  turned.transposed = true;
  const auto encoder = make({{}, packed, turned});
  ASSERT_TRUE(encoder.ok()) << encoder.error().message;
  EXPECT_EQ((*encoder)->text_tokens_max(), 32);
  EXPECT_GE((*encoder)->batch_tokens_max(), 32);
  std::vector<TokenId> tokens;
  std::vector<int32_t> types, offsets{0};
  for (const int length : {20, 1, 16, 4, 5, 32}) {
    for (int i = 0; i < length; ++i) {
      tokens.push_back((i * 7 + length) % 40);
      types.push_back(i % 2);
    }
    offsets.push_back(static_cast<int32_t>(tokens.size()));
  }
  const auto pooled = (*encoder)->encode({tokens, offsets, types, EncodeOutput::pooled});
  ASSERT_TRUE(pooled.ok()) << pooled.error().message;
  EXPECT_EQ(programs_[0]->predictions, 2);
  EXPECT_EQ(programs_[1]->predictions, 2);
  EXPECT_EQ(programs_[2]->predictions, 2);
  ASSERT_EQ(pooled->ran_on.size(), 6u);
  for (size_t t = 0; t < 6; ++t) {
    const auto begin = static_cast<size_t>(offsets[t]);
    const auto count = static_cast<size_t>(offsets[t + 1]) - begin;
    const auto wanted =
        expected(std::span(tokens).subspan(begin, count), std::span(types).subspan(begin, count));
    for (size_t h = 0; h < kHidden; ++h) {
      EXPECT_NEAR(pooled->values[t * kHidden + h], wanted[h], 1e-6) << t << " " << h;
    }
    // Alone it is the same, bit for bit.
    const std::vector<int32_t> ends{0, static_cast<int32_t>(count)};
    const auto alone = (*encoder)->encode(
        {std::span(tokens).subspan(begin, count), ends, std::span(types).subspan(begin, count)});
    ASSERT_TRUE(alone.ok());
    EXPECT_TRUE(std::equal(alone->values.begin(), alone->values.end(),
                           pooled->values.begin() + static_cast<int64_t>(t * kHidden)));
  }
  const auto hidden = (*encoder)->encode({tokens, offsets, types, EncodeOutput::hidden});
  ASSERT_TRUE(hidden.ok());
  EXPECT_EQ(hidden->values.size(), tokens.size() * kHidden);
  for (const float value : hidden->values) ASSERT_TRUE(std::isfinite(value));
}

TEST_F(CoremlEncoderTest, AnswersNameTheProcessorOfTheirProgram) {
  FakeModel::Plan engine, gpu;
  engine.who = "coreml-ane";
  gpu.who = "coreml-gpu";
  const auto encoder = make({engine, gpu});
  const std::vector<TokenId> tokens(24, 1);
  const std::vector<int32_t> offsets{0, 10, 14, 24};
  const auto encoded = (*encoder)->encode({tokens, offsets, {}});
  ASSERT_TRUE(encoded.ok());
  EXPECT_EQ(encoded->ran_on[0]->backend, "coreml-gpu");
  EXPECT_EQ(encoded->ran_on[1]->backend, "coreml-ane");
  EXPECT_EQ(encoded->ran_on[2]->backend, "coreml-gpu");
}

TEST_F(CoremlEncoderTest, PoolsAndNormalisesAsTheSpecSays) {
  const std::vector<TokenId> tokens{3, 9, 27};
  const std::vector<int32_t> offsets{0, 3};
  spec_.pooling = Pooling::cls;
  const auto first = *make().value()->encode({tokens, offsets, {}});
  const auto rows = *make().value()->encode({tokens, offsets, {}, EncodeOutput::hidden});
  EXPECT_TRUE(std::equal(first.values.begin(), first.values.end(), rows.values.begin()));
  spec_.normalize = true;
  double square = 0;
  const auto unit = *make().value()->encode({tokens, offsets, {}});
  for (const float x : unit.values) square += x * x;
  EXPECT_NEAR(square, 1, 1e-5);
  spec_.pooling = Pooling::none;
  const auto refused = make().value()->encode({tokens, offsets, {}});
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, ErrorCode::unsupported);
}

TEST_F(CoremlEncoderTest, TriesAgainOnce) {
  FakeModel::Plan once, always;
  once.fail = 1;
  always.fail = 1000;
  const auto encoder = make({once, always});
  const std::vector<TokenId> tokens(10, 1);
  const std::vector<int32_t> small{0, 3}, large{0, 10};
  const auto third = std::span(tokens).first(3);
  const auto second = (*encoder)->encode({third, small, {}});
  ASSERT_TRUE(second.ok()) << second.error().message;
  const auto wanted = expected(third, {});
  for (size_t h = 0; h < kHidden; ++h) EXPECT_NEAR(second->values[h], wanted[h], 1e-6);
  EXPECT_EQ(programs_[0]->predictions, 2);
  const auto failed = (*encoder)->encode({tokens, large, {}});
  ASSERT_FALSE(failed.ok());
  EXPECT_EQ(failed.error().code, ErrorCode::unavailable);
  EXPECT_NE(failed.error().message.find("the program for 16 tokens"), std::string::npos);
  EXPECT_EQ(programs_[1]->predictions, 2);
}

TEST_F(CoremlEncoderTest, WhatIsNoNumberStaysInItsText) {
  FakeModel::Plan plan;
  plan.nan = true;
  const auto encoder = make({plan});
  const std::vector<TokenId> tokens(9, 1);
  const std::vector<int32_t> offsets{0, 3, 9};
  const auto encoded = (*encoder)->encode({tokens, offsets, {}});
  ASSERT_TRUE(encoded.ok());
  EXPECT_TRUE(std::isnan(encoded->values[0]));
  for (size_t h = 0; h < kHidden; ++h) EXPECT_TRUE(std::isfinite(encoded->values[kHidden + h]));
}

TEST_F(CoremlEncoderTest, RefusesProgramsOfAnotherShape) {
  FakeModel::Plan hidden, mask, output;
  hidden.hidden_shape = {1, kHidden, 1, 8};
  mask.mask_shape = {1, 1, 1, 4};
  output.output = "var_12";
  for (const auto& [plan, what] : {std::pair{hidden, "'hidden' is fp16[1, 32, 1, 8]"},
                                   {mask, "'mask' is"},
                                   {output, "has no 'hidden_states'"}}) {
    const auto refused = make({plan});
    ASSERT_FALSE(refused.ok());
    EXPECT_EQ(refused.error().code, ErrorCode::corrupt);
    EXPECT_NE(refused.error().message.find(what), std::string::npos) << refused.error().message;
    EXPECT_NE(refused.error().message.find("for 4 tokens"), std::string::npos);
  }
  FakeModel::Plan late;
  late.wrong_output = true;
  const std::vector<TokenId> tokens(3, 1);
  const std::vector<int32_t> offsets{0, 3};
  const auto failed = make({late}).value()->encode({tokens, offsets, {}});
  ASSERT_FALSE(failed.ok());
  EXPECT_EQ(failed.error().code, ErrorCode::internal);
}

TEST_F(CoremlEncoderTest, RefusesWhatTheModelDoesNotHave) {
  const auto encoder = std::move(make().value());
  const std::vector<TokenId> tokens(33, 1);
  const auto refused = [&](std::span<const TokenId> ids, std::vector<int32_t> offsets,
                           std::vector<int32_t> types = {}) {
    const auto result = encoder->encode({ids, offsets, types});
    return result.ok() ? "taken" : std::string(to_string(result.error().code));
  };
  const auto invalid = std::string(to_string(ErrorCode::invalid_argument));
  EXPECT_EQ(refused(tokens, {0, 33}), to_string(ErrorCode::context_length));
  EXPECT_EQ(refused(std::span(tokens).first(3), {0, 2}), invalid);
  EXPECT_EQ(refused(std::span(tokens).first(3), {0, 0, 3}), invalid);
  EXPECT_EQ(refused(std::span(tokens).first(3), {0, 3}, {0}), invalid);
  EXPECT_EQ(refused(std::span(tokens).first(1), {0, 1}, {2}), invalid);
  EXPECT_EQ(refused(std::vector<TokenId>{40}, {0, 1}), invalid);
  EXPECT_EQ(refused(std::vector<TokenId>{-1}, {0, 1}), invalid);
}

}  // namespace
}  // namespace impetus::coreml

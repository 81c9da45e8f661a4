#include "planner/model_cost.h"

#include <gtest/gtest.h>

#include "tests/support/grouped_model.h"

namespace impetus {
namespace {

ModelSpec llama() {
  ModelSpec spec;
  spec.family = "llama";
  spec.layers = 1;
  spec.hidden = 128;
  spec.heads = 2;
  spec.kv_heads = 1;
  spec.head_dim = 64;
  spec.feed_forward = 256;
  spec.vocab = 64;
  spec.context = 64;
  return spec;
}

constexpr int64_t kLayer = 128 * (2 * 128 + 2 * 64) + 3 * 128 * 256;
constexpr int64_t kHead = 64 * 128;

// What the CPU holds of them: 4 bits and less nearly as Q4_0, more as Q8_0.
TEST(ModelCost, GroupsArePlannedAsWhatTheyRunLike) {
  const auto plain = testing::RandomModelBuilder(llama(), 1, DType::f32).decoder();
  for (const testing::Grouping& grouping : testing::every_grouping()) {
    const auto model = testing::in_groups(plain, grouping);
    const auto cost = model_cost("m", model.spec, *model.weights);
    ASSERT_TRUE(cost.ok()) << cost.error().message;
    const DType type = grouping.bits <= 4 ? DType::q4_0 : DType::q8_0;
    ASSERT_EQ(cost->layer_weights.size(), 1u);
    EXPECT_EQ(cost->layer_weights[0].type, type) << grouping.name();
    EXPECT_EQ(cost->layer_weights[0].parameters, kLayer);
    EXPECT_EQ(cost->layer_weights[0].bits, grouping.bits);
    EXPECT_EQ(cost->head.type, type);
    EXPECT_EQ(cost->head.bits, grouping.bits);
    EXPECT_EQ(cost->precision,
              model.weights->require("lm_head.weight").value()->view.grouped->to_string());
    EXPECT_EQ(cost->weight_bytes(), (kLayer + kHead) / 32 * (type == DType::q4_0 ? 18 : 34));
    EXPECT_GE(cost->file_bytes, model.weights->bytes());
    EXPECT_GE(cost->file_bytes, cost->weight_bytes() - kHead / 32 * 34);

    const ModelCost eight = cost->in(DType::q8_0);
    EXPECT_EQ(eight.weight_bytes(), cost->weight_bytes()) << "int8 leaves what is quantised";
    EXPECT_EQ(eight.precision, cost->precision);
    EXPECT_EQ(eight.file_bytes, cost->file_bytes);
  }
}

TEST(ModelCost, FloatsTurnIntoTheTypeAskedFor) {
  testing::RandomModelBuilder builder(llama(), 1, DType::q8_0);
  builder.mix_with(DType::bf16);
  const auto model = builder.decoder();
  const auto cost = model_cost("m", model.spec, *model.weights);
  ASSERT_TRUE(cost.ok()) << cost.error().message;
  ASSERT_EQ(cost->layer_weights.size(), 2u);
  const ModelCost eight = cost->in(DType::q8_0);
  ASSERT_EQ(eight.layer_weights.size(), 1u);
  EXPECT_EQ(eight.layer_weights[0].type, DType::q8_0);
  EXPECT_EQ(eight.layer_weights[0].parameters, kLayer);
  EXPECT_EQ(eight.precision, "q8_0");
  EXPECT_EQ(eight.weight_bytes(), (kLayer + kHead) / 32 * 34);
  EXPECT_LT(eight.file_bytes, cost->file_bytes);
}

}  // namespace
}  // namespace impetus

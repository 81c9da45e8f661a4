// Models as mlx-lm publishes them (tests/golden/make_mlx_models.py): overrides a layer, layers left
// plain, a quantised embedding that is the head as well, mxfp4. The logits are MLX's own.
#include "cpu/test_support.h"
#include "formats/mlx_quantised.h"

namespace impetus::cpu {
namespace {

using testing::Matrix;
using testing::ReferenceForward;
using testing::Rounding;

struct Golden {
  ModelSpec spec;
  std::unique_ptr<WeightSet> weights;
  std::vector<TokenId> tokens;
  Matrix logits;
};

Golden open_golden(const std::string& name) {
  const std::filesystem::path folder =
      std::filesystem::path(IMPETUS_SOURCE_DIR) / "tests/golden/mlx_models" / name;
  Golden golden;
  const auto config = read_json_file((folder / "config.json").string());
  auto spec = spec_from_config(config->as_object());
  EXPECT_TRUE(spec.ok()) << spec.error().message;
  golden.spec = *spec;
  auto set = open_safetensors_folder(folder);
  EXPECT_TRUE(set.ok()) << set.error().message;
  auto joined = join_quantised(std::move(*set), config->as_object());
  EXPECT_TRUE(joined.ok()) << joined.error().message;
  golden.weights = std::make_unique<WeightSet>(std::move(*joined));
  const auto reference = read_json_file((folder / "logits.json").string());
  for (const auto& token : reference->at("tokens").as_array()) {
    golden.tokens.push_back(static_cast<TokenId>(token.to_number<int64_t>()));
  }
  for (const auto& row : reference->at("logits").as_array()) {
    auto& values = golden.logits.emplace_back();
    for (const auto& value : row.as_array()) values.push_back(value.to_number<double>());
  }
  return golden;
}

double largest_difference(const Matrix& a, const Matrix& b) {
  EXPECT_EQ(a.size(), b.size());
  double worst = 0;
  for (size_t r = 0; r < a.size(); ++r) {
    for (size_t i = 0; i < a[r].size(); ++i) worst = std::max(worst, std::fabs(a[r][i] - b[r][i]));
  }
  return worst;
}

Matrix rows_of(std::span<const float> values, size_t rows) {
  Matrix matrix(rows);
  const size_t width = values.size() / rows;
  for (size_t r = 0; r < rows; ++r) {
    matrix[r].assign(values.begin() + static_cast<std::ptrdiff_t>(r * width),
                     values.begin() + static_cast<std::ptrdiff_t>((r + 1) * width));
  }
  return matrix;
}

class MlxModels : public ::testing::TestWithParam<const char*> {};

// Three ways to MLX's logits: the slow forward over the groups; the f32 twin on the CPU; the groups
// on the CPU, which may differ by what int8 activations cost (precision_test.cpp).
TEST_P(MlxModels, LogitsAreMlxsOwn) {
  const Golden golden = open_golden(GetParam());
  const auto grouped = std::ranges::count_if(golden.weights->tensors(), [](const auto& tensor) {
    return tensor.view.dtype == DType::grouped;
  });
  EXPECT_GE(grouped, 7);
  const auto tensors = resolve_decoder(golden.spec, *golden.weights);
  ASSERT_TRUE(tensors.ok()) << tensors.error().message;
  const Matrix exact = ReferenceForward(golden.spec).decoder(*tensors, golden.tokens);
  EXPECT_LE(largest_difference(exact, golden.logits), 1e-4);

  testing::RandomModel twin;
  twin.tensors = golden.weights->tensors();
  twin = twin.in_f32();
  const Matrix rounded =
      ReferenceForward(golden.spec, Rounding::q8).decoder(*tensors, golden.tokens);
  const double tolerance = 2 * largest_difference(exact, rounded) + 1e-4;
  EXPECT_LT(tolerance, 0.3) << "of logits that differ by a few units";
  for (const auto& isa : instruction_sets()) {
    const auto plain = load_decoder(golden.spec, *twin.weights, isa, 2);
    EXPECT_LE(largest_difference(golden.logits,
                                 rows_of(all_logits(*plain.model, golden.tokens), exact.size())),
              1e-4)
        << isa;
    const auto loaded = load_decoder(golden.spec, *golden.weights, isa, 2);
    EXPECT_LE(largest_difference(golden.logits,
                                 rows_of(all_logits(*loaded.model, golden.tokens), exact.size())),
              tolerance)
        << isa;
  }
}

INSTANTIATE_TEST_SUITE_P(Golden, MlxModels,
                         ::testing::Values("llama_overrides", "qwen3_tied_2bit", "qwen3_mxfp4"),
                         [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace impetus::cpu

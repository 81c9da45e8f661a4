// The kernels of decode steps, run on the host: against a reference in double on seeded random
// shapes, against MLX's operations, and in whole models.
#include "mlx/decode_kernels.h"

#ifdef __linux__  // contexts that run by turns
#include "mlx/cuda_on_host.h"
#include "mlx/decoder.h"
#include "mlx/test_support.h"
#include "tests/conformance/subject.h"

namespace impetus::mlx_backend {
namespace {

using conformance::decoder_spec;
using on_host::HostKernels;

struct Case {
  int heads, kv_heads, dim;
  bool neighbours, qk_norm;
  mx::Dtype activations, kv;
};

ModelSpec spec_of(const Case& one) {
  ModelSpec spec = decoder_spec("llama");
  spec.heads = one.heads;
  spec.kv_heads = one.kv_heads;
  spec.head_dim = one.dim;
  spec.hidden = 72;
  spec.context = 4096;
  spec.qk_norm = one.qk_norm;
  spec.rope_pairs = one.neighbours ? RopePairs::neighbours : RopePairs::halves;
  return spec;
}

DecodeShape shape_of(const Case& one) {
  return {one.heads, one.kv_heads, one.dim, one.neighbours, one.qk_norm, one.activations, one.kv};
}

std::vector<Case> cases() {
  std::vector<Case> made;
  const mx::Dtype types[] = {mx::float32, mx::float16, mx::bfloat16};
  for (const mx::Dtype type : types) {
    for (const auto& [heads, kv_heads, dim] :
         {std::tuple{14, 2, 64}, {3, 3, 80}, {5, 1, 256}, {1, 1, 8}, {4, 2, 16}}) {
      made.push_back({heads, kv_heads, dim, (heads + dim) % 4 == 2, dim != 80, type, type});
    }
  }
  made.push_back({4, 2, 16, true, false, mx::float32, mx::float16});
  made.push_back({4, 2, 16, false, true, mx::float16, mx::float32});
  made.push_back({4, 2, 16, true, true, mx::bfloat16, mx::float16});
  return made;
}

// Of one rounding to the type.
double step_of(mx::Dtype type) {
  return type == mx::float32 ? 6e-8 : type == mx::float16 ? 4.9e-4 : 3.9e-3;
}

mx::array normal(std::mt19937_64& random, const mx::Shape& shape, mx::Dtype type) {
  size_t count = 1;
  for (const auto extent : shape) count *= static_cast<size_t>(extent);
  std::normal_distribution<float> distribution;
  std::vector<float> values(count);
  for (float& value : values) value = distribution(random);
  mx::array made = mx::astype(mx::array(values.begin(), shape, mx::float32), type);
  made.eval();
  return made;
}

TEST(DecodeKernels, AttendAsAReferenceInDouble) {
  std::mt19937_64 random(11);
  const Turn turn(true);
  for (const Case& one : cases()) {
    const ModelSpec spec = spec_of(one);
    const DecodeShape shape = shape_of(one);
    auto kernels = HostKernels::make(shape, spec);
    ASSERT_NE(kernels, nullptr);
    const int dim = one.dim, width = (one.heads + 2 * one.kv_heads) * dim;
    constexpr int kBlocks = 24, kBlock = KvPool::kBlockTokens;
    for (const int shares : {1, 2, 5}) {
      // Sequences of any length, in blocks of any order.
      std::vector<BlockId> all(kBlocks);
      for (int i = 0; i < kBlocks; ++i) all[static_cast<size_t>(i)] = i;
      std::shuffle(all.begin(), all.end(), random);
      std::vector<SequenceStep> batch;
      size_t taken = 0;
      const TokenId token = 1;
      for (int r = 0; r < 3; ++r) {
        const size_t blocks = 1 + random() % 6;
        SequenceStep step;
        step.tokens = {&token, 1};
        step.blocks = std::span(all).subspan(taken, blocks);
        step.position = static_cast<int64_t>((blocks - 1) * kBlock + random() % kBlock);
        if (r == 2) step.position = 0;
        batch.push_back(step);
        taken += blocks;
      }
      StepPlan plan;
      plan.make(batch, kBlock);
      HostPages told;
      AttendStep step = attend_step(plan, shape, told);
      step.shares = shares;
      const mx::array qkv = normal(random, {3, width}, one.activations);
      const mx::Shape pool{one.kv_heads, kBlocks * kBlock, dim};
      const mx::array keys = normal(random, pool, one.kv), values = normal(random, pool, one.kv);
      const mx::array q_norm = normal(random, {dim}, one.activations);
      const mx::array k_norm = normal(random, {dim}, one.activations);
      std::vector<float> before_keys = floats(keys), before_values = floats(values);
      const auto made = floats(kernels->attend(step, qkv, keys, values, q_norm, k_norm));
      const auto after_keys = floats(keys), after_values = floats(values);

      const auto inputs = floats(qkv), q_weights = floats(q_norm), k_weights = floats(k_norm);
      const auto frequencies = spec.rope_frequencies();
      const double rounding = step_of(one.activations) + step_of(one.kv);
      for (int r = 0; r < 3; ++r) {
        const SequenceStep& sequence = batch[static_cast<size_t>(r)];
        const auto vector_of = [&](int head, const std::vector<float>* weights) {
          std::vector<double> x(static_cast<size_t>(dim));
          double squares = 0;
          for (int d = 0; d < dim; ++d) {
            x[d] = inputs[static_cast<size_t>(r * width + head * dim + d)];
            squares += x[d] * x[d];
          }
          if (weights == nullptr) return x;
          if (one.qk_norm) {
            const double scale = 1 / std::sqrt(squares / dim + spec.norm_eps);
            for (int d = 0; d < dim; ++d) x[d] *= scale * (*weights)[static_cast<size_t>(d)];
          }
          auto turned = x;
          for (int i = 0; i < dim / 2; ++i) {
            const double angle = static_cast<double>(sequence.position) * frequencies[i];
            const int a = one.neighbours ? 2 * i : i, b = one.neighbours ? a + 1 : i + dim / 2;
            turned[a] = x[a] * std::cos(angle) - x[b] * std::sin(angle);
            turned[b] = x[a] * std::sin(angle) + x[b] * std::cos(angle);
          }
          return turned;
        };
        const int64_t own = plan.slots[static_cast<size_t>(r)];
        for (int k = 0; k < one.kv_heads; ++k) {
          const auto key = vector_of(one.heads + k, &k_weights);
          const auto value = vector_of(one.heads + one.kv_heads + k, nullptr);
          const auto at = static_cast<size_t>((k * kBlocks * kBlock + own) * dim);
          for (int d = 0; d < dim; ++d) {
            ASSERT_NEAR(after_keys[at + d], key[d], 8 * rounding * 4) << shape.head_dim;
            ASSERT_NEAR(after_values[at + d], value[d], rounding * 8);
            // Nothing else is written.
            before_keys[at + d] = after_keys[at + d];
            before_values[at + d] = after_values[at + d];
          }
        }
        for (int h = 0; h < one.heads; ++h) {
          const auto query = vector_of(h, &q_weights);
          const int k = h / (one.heads / one.kv_heads);
          std::vector<double> scores;
          for (int64_t p = 0; p <= sequence.position; ++p) {
            const int64_t slot = sequence.blocks[p / kBlock] * kBlock + p % kBlock;
            const auto at = static_cast<size_t>((k * kBlocks * kBlock + slot) * dim);
            double score = 0;
            for (int d = 0; d < dim; ++d) score += query[d] * after_keys[at + d];
            scores.push_back(score / std::sqrt(dim));
          }
          const double most = *std::ranges::max_element(scores);
          double total = 0;
          for (double& score : scores) total += score = std::exp(score - most);
          for (int d = 0; d < dim; ++d) {
            double expected = 0;
            for (int64_t p = 0; p <= sequence.position; ++p) {
              const int64_t slot = sequence.blocks[p / kBlock] * kBlock + p % kBlock;
              expected +=
                  scores[p] / total *
                  after_values[static_cast<size_t>((k * kBlocks * kBlock + slot) * dim + d)];
            }
            // A rounded query moves every score a little.
            ASSERT_NEAR(made[static_cast<size_t>((r * one.heads + h) * dim + d)], expected,
                        1e-5 + 40 * step_of(one.activations))
                << one.heads << " " << dim << " row " << r << " head " << h << " shares " << shares;
          }
        }
      }
      ASSERT_EQ(after_keys, before_keys);
      ASSERT_EQ(after_values, before_values);
    }
  }
}

TEST(DecodeKernels, PlansHaveFewWidths) {
  const Turn turn(true);
  constexpr int kBlock = KvPool::kBlockTokens;
  const std::vector<BlockId> blocks = {7, 3, 4, 11, 2, 9, 0, 5, 6};
  const TokenId token = 1;
  for (const size_t most : {1, 2, 3, 4, 7, 8, 9}) {
    std::vector<SequenceStep> batch(2);
    for (SequenceStep& step : batch) step.tokens = {&token, 1};
    batch[0].blocks = std::span(blocks).first(most);
    batch[0].position = static_cast<int64_t>(most) * kBlock - 1;
    batch[1].blocks = std::span(blocks).last(1);
    StepPlan plan;
    plan.make(batch, kBlock);
    HostPages told;
    const AttendStep step = attend_step(plan, {4, 2, 16}, told);
    const int width = most < 2 ? 2 : most < 4 ? 4 : most < 8 ? 8 : 16;
    ASSERT_EQ(step.plan.shape(), (mx::Shape{2, width}));
    std::vector<float> expected(static_cast<size_t>(2 * width));
    expected[0] = static_cast<float>(batch[0].position);
    std::ranges::copy(batch[0].blocks, expected.begin() + 1);
    expected[static_cast<size_t>(width) + 1] = static_cast<float>(blocks.back());
    EXPECT_EQ(floats(step.plan), expected) << most;
  }
}

TEST(DecodeKernels, FewRowsAsAReferenceInDouble) {
  std::mt19937_64 random(12);
  const Turn turn(true);
  const ModelSpec spec = decoder_spec("llama");
  for (const mx::Dtype type : {mx::float16, mx::bfloat16}) {
    auto kernels = HostKernels::make({4, 2, 16, false, false, type, type}, spec);
    for (const auto& [bits, group] :
         {std::pair{4, 32}, {4, 64}, {4, 128}, {8, 32}, {8, 64}, {8, 128}}) {
      for (const int rows : {1, 2, 3, 5, 8}) {
        const bool gated = random() % 2 == 0;
        const int columns = group * static_cast<int>(1 + random() % (rows == 3 ? 2 : 7));
        // Many at one place: then fewer warps share a tile.
        const int outputs = static_cast<int>(1 + random() % 70) + (rows == 3 ? 8192 : 0);
        const int all = gated ? 2 * outputs : outputs;
        Matrix matrix;
        matrix.bits = bits;
        matrix.group = group;
        const mx::array wide = normal(random, {all, columns}, type);
        const auto packed = mx::quantize(wide, group, bits);
        matrix.weight = packed[0];
        matrix.scales = packed[1];
        matrix.biases = packed[2];
        const mx::array values = mx::dequantize(packed[0], mx::astype(packed[1], mx::float32),
                                                mx::astype(packed[2], mx::float32), group, bits);
        ASSERT_EQ(few_rows_take(matrix, type, rows), rows > 1);
        const mx::array x = normal(random, {rows, columns}, type);
        const auto made = floats(kernels->few_rows(x, matrix, gated));
        const auto inputs = floats(x), weights = floats(values);
        for (int r = 0; r < rows; ++r) {
          const auto product = [&](int output) {
            double sum = 0, size = 0;
            for (int c = 0; c < columns; ++c) {
              const double one = static_cast<double>(inputs[static_cast<size_t>(r * columns + c)]) *
                                 weights[static_cast<size_t>(output * columns + c)];
              sum += one;
              size += one * one;
            }
            return std::pair(sum, std::sqrt(size));
          };
          for (int o = 0; o < outputs; ++o) {
            auto [expected, size] = product(o);
            // Each weight's rounding moves the sum as a random walk does; then that of the result.
            double tolerance = step_of(type) * (6 * size + std::abs(expected) + 1e-3);
            if (gated) {
              const auto [other, other_size] = product(o + outputs);
              const double gate = expected / (1 + std::exp(-expected));
              tolerance = step_of(type) * (8 * size * (std::abs(other) + 1) +
                                           8 * other_size * (std::abs(gate) + 1) + 1e-3);
              expected = gate * other;
            }
            ASSERT_NEAR(made[static_cast<size_t>(r * outputs + o)], expected, tolerance)
                << bits << " bits, groups of " << group << ", " << rows << " rows, " << columns
                << " columns, output " << o << (gated ? " gated" : "");
          }
        }
      }
    }
  }
}

TEST(DecodeKernels, AgreeWithMlxAsAMachineChecksThem) {
  const Turn turn(true);
  for (const Case& one : cases()) {
    const ModelSpec spec = spec_of(one);
    auto kernels = HostKernels::make(shape_of(one), spec);
    const double error = kernels_error(*kernels, shape_of(one), spec);
    EXPECT_LE(error, kernels_error_limit(shape_of(one))) << one.heads << " " << one.dim;
  }
}

// Kernels that go wrong in one way.
class Wrong final : public DecodeKernels {
 public:
  Wrong(std::unique_ptr<DecodeKernels> right, int way) : right_(std::move(right)), way_(way) {}
  mx::array attend(const AttendStep& step, const mx::array& qkv, const mx::array& keys,
                   const mx::array& values, const mx::array& q_norm,
                   const mx::array& k_norm) override {
    if (way_ == 0) throw std::runtime_error("no compiler");
    AttendStep other = step;
    if (way_ == 1) other.plan = mx::maximum(step.plan, mx::array(1));
    mx::array made = right_->attend(other, qkv, keys, values, q_norm, k_norm);
    return way_ == 2 ? mx::multiply(made, mx::array(NAN)) : made;
  }
  std::pair<mx::array, mx::array> add_norm(const mx::array& residual, const mx::array& x,
                                           const mx::array& weight) override {
    auto made = right_->add_norm(residual, x, weight);
    if (way_ == 3) std::swap(made.first, made.second);
    return made;
  }
  mx::array few_rows(const mx::array& x, const Matrix& matrix, bool gated) override {
    const mx::array made = right_->few_rows(x, matrix, gated);
    // Of eight rows the last only.
    return way_ == 4 && x.shape(0) == 8
               ? mx::slice_update(made, mx::array(1.0f, x.dtype()), {7, 0}, {8, 1})
               : made;
  }

 private:
  std::unique_ptr<DecodeKernels> right_;
  int way_;
};

TEST(DecodeKernels, FewRowsAreUsedWhereTheyAreRight) {
  std::mt19937_64 random(13);
  const Turn turn(true);
  const ModelSpec spec = decoder_spec("llama");
  const DecodeShape shape{4, 2, 16, false, false, mx::float16, mx::float16};
  const auto quantised = [&](int rows, int bits) {
    const auto packed = mx::quantize(normal(random, {rows, 64}, mx::float16), 32, bits);
    Matrix matrix;
    matrix.weight = packed[0];
    matrix.scales = packed[1];
    matrix.biases = packed[2];
    matrix.bits = bits;
    matrix.group = 32;
    return matrix;
  };
  const Matrix four = quantised(48, 4), eight = quantised(40, 8);
  Matrix dense;
  dense.weight = normal(random, {48, 64}, mx::float16);
  const std::vector<std::pair<const Matrix*, bool>> matrices = {
      {&dense, false}, {&four, false}, {&four, true}, {&eight, false}};
  auto kernels = HostKernels::make(shape, spec);
  EXPECT_TRUE(few_rows_right(*kernels, matrices, shape, spec));
  Wrong wrong(std::move(kernels), 4);
  EXPECT_FALSE(few_rows_right(wrong, matrices, shape, spec));
  EXPECT_TRUE(few_rows_right(wrong, std::span(matrices).first(1), shape, spec));
}

}  // namespace

MlxOptions with_host_kernels(int way) {
  return {.run_ahead = MlxOptions::RunAhead::on,
          .as_gpu = true,
          .decode_kernels = [way](const DecodeShape& shape,
                                  const ModelSpec& spec) -> std::unique_ptr<DecodeKernels> {
            auto kernels = HostKernels::make(shape, spec);
            if (way < 0 || !kernels) return kernels;
            return std::make_unique<Wrong>(std::move(kernels), way);
          },
          .decode_step = host_step(),
          .prefill_kernel = host_prefill(),
          .row_kernels = host_rows(),
          .encode_step = host_encode(),
          .encode_rows = 40};  // larger batches go by the kernels above
}

namespace {

TEST(DecodeKernels, AModelUsesThemWhereTheyAreRight) {
  const auto model = testing::RandomModelBuilder(decoder_spec("qwen3"), 3, DType::f32).decoder();
  const auto run = [&](const MlxOptions& with) {
    const auto loaded = conformance::load_decoder_on(std::move(*make_mlx_backend(with)), model.spec,
                                                     *model.weights);
    auto tokens = conformance::greedy(*loaded.model, {5, 6, 7}, 40);
    return std::pair(tokens, counters_of(*loaded.model));
  };
  const auto [expected, none] =
      run({.run_ahead = MlxOptions::RunAhead::off, .as_gpu = true, .decode_kernels = [](auto&&...) {
             return nullptr;
           }});
  EXPECT_EQ(none.own_kernels, 0);
  const auto [tokens, counters] = run(with_host_kernels());
  EXPECT_EQ(tokens, expected);
  EXPECT_EQ(counters.own_kernels, 37);  // as many as decode
  EXPECT_GE(counters.ahead_used, 30);
  EXPECT_EQ(counters.kv_copies, 0);
  for (const int way : {0, 1, 2, 3}) {
    const auto [others, fallen] = run(with_host_kernels(way));
    EXPECT_EQ(others, expected) << way;
    EXPECT_EQ(fallen.own_kernels, 0) << way;
  }
}

}  // namespace
}  // namespace impetus::mlx_backend
#endif

// The kernel of prompts' attention, run on the host: against a reference in double on seeded random
// batches, against MLX's operations, and in whole models.
#include "mlx/prefill_kernel.h"

#ifdef __linux__  // contexts that run by turns
#include <numeric>

#include "mlx/decoder.h"
#include "mlx/test_support.h"
#include "mlx/tiles_on_host.h"
#include "tests/conformance/subject.h"

namespace impetus::mlx_backend {
namespace {

using on_host::HostPrefill;

constexpr int kBlock = KvPool::kBlockTokens;

// Numbers of a type, those at `nan` not among them.
mx::array numbers(std::mt19937_64& random, const mx::Shape& shape, mx::Dtype type, float size,
                  const std::function<bool(size_t at)>& nan = nullptr) {
  size_t count = 1;
  for (const auto extent : shape) count *= static_cast<size_t>(extent);
  std::normal_distribution<float> normal(0, size);
  std::vector<float> values(count);
  for (size_t i = 0; i < count; ++i) values[i] = nan && nan(i) ? NAN : normal(random);
  mx::array made = mx::astype(mx::array(values.begin(), shape, mx::float32), type);
  made.eval();
  return made;
}

struct Case {
  int heads, kv_heads, dim;
  std::vector<int64_t> lengths, positions;  // of sequences; of their first rows
};

// Lengths around the borders of fragments, warps' rows, tiles and blocks.
const std::vector<Case>& cases() {
  static const std::vector<Case> all = {
      {4, 2, 16, {1, 16, 17, 200, 64, 65}, {130, 0, 15, 7, 0, 63}},
      {4, 4, 16, {129, 3, 48}, {0, 61, 16}},
      {3, 3, 32, {63, 31, 1, 90}, {1, 0, 64, 33}},
      {7, 1, 64, {70, 2}, {29, 127}},
      {2, 2, 80, {97, 15}, {0, 50}},
      {4, 1, 128, {66, 1}, {21, 64}},
      {2, 1, 256, {65, 9}, {13, 0}},
      {1, 1, 144, {34, 80}, {31, 0}},
  };
  return all;
}

// Where a position's key and value begin, of one head.
using Place = std::function<size_t(size_t sequence, int64_t position)>;

// made, queries [rows, heads, dim]. Each row against softmax and sum in double.
void expect_as_in_double(const Case& one, mx::Dtype type, bool causal,
                         const std::vector<PlannedSequence>& sequences, const Place& place,
                         int64_t head_stride, std::span<const float> queries,
                         std::span<const float> keys, std::span<const float> values,
                         std::span<const float> made) {
  const double rounding = type == mx::float16 ? 0x1p-11 : 0x1p-8;
  const auto dim = static_cast<size_t>(one.dim);
  double worst = 0;
  for (size_t s = 0; s < sequences.size(); ++s) {
    const PlannedSequence& sequence = sequences[s];
    for (int64_t i = 0; i < sequence.count; ++i) {
      const int64_t seen = causal ? sequence.position + i + 1 : sequence.count;
      for (int h = 0; h < one.heads; ++h) {
        const size_t at = static_cast<size_t>((sequence.row + i) * one.heads + h) * dim;
        const auto head = static_cast<size_t>(h / (one.heads / one.kv_heads) * head_stride);
        std::vector<double> weights;
        for (int64_t p = 0; p < seen; ++p) {
          const float* key = keys.data() + head + place(s, p);
          double score = 0;
          for (size_t d = 0; d < dim; ++d) score += static_cast<double>(queries[at + d]) * key[d];
          weights.push_back(score / std::sqrt(static_cast<double>(dim)));
        }
        const double most = *std::ranges::max_element(weights);
        double total = 0;
        for (double& weight : weights) total += weight = std::exp(weight - most);
        for (size_t d = 0; d < dim; ++d) {
          double expected = 0, size = 0;
          for (int64_t p = 0; p < seen; ++p) {
            const double part =
                weights[static_cast<size_t>(p)] / total * values[head + place(s, p) + d];
            expected += part;
            size += std::abs(part);
          }
          // Of each weight's rounding (halves of subnormal steps of f16 beside), the result's, and
          // f32's in scores and sums.
          const double allowed = rounding * (size + std::abs(expected)) + 1e-4 * size +
                                 0x1p-24 * 8 * static_cast<double>(seen);
          const double off = std::abs(made[at + d] - expected);
          worst = std::max(worst, std::isnan(off) ? 1e9 : off / allowed);
          ASSERT_LE(off, allowed) << one.heads << "/" << one.kv_heads << " heads of " << dim
                                  << ", sequence " << s << " row " << i << " head " << h << " at "
                                  << d;
        }
      }
    }
  }
  EXPECT_GT(worst, 0.01);  // the bound means something
}

TEST(PrefillKernel, PromptsAsAReferenceInDouble) {
  std::mt19937_64 random(21);
  const Turn turn(true);
  for (const mx::Dtype type : {mx::float16, mx::bfloat16}) {
    for (const Case& one : cases()) {
      const PrefillShape shape{one.heads, one.kv_heads, one.dim, true, type};
      auto kernel = HostPrefill::make(shape);
      ASSERT_NE(kernel, nullptr);
      // Blocks in any order, and some that are nobody's.
      std::vector<std::vector<BlockId>> blocks;
      BlockId count = 3;
      for (size_t s = 0; s < one.lengths.size(); ++s) {
        const int64_t needed = (one.positions[s] + one.lengths[s] - 1) / kBlock + 1;
        blocks.emplace_back(static_cast<size_t>(needed));
        count += static_cast<BlockId>(needed);
      }
      std::vector<BlockId> order(static_cast<size_t>(count));
      std::iota(order.begin(), order.end(), 0);
      std::shuffle(order.begin(), order.end(), random);
      std::vector<bool> owned(static_cast<size_t>(count * kBlock), false);
      std::vector<PlannedSequence> sequences;
      int64_t rows = 0;
      for (size_t s = 0, next = 0; s < blocks.size(); ++s) {
        for (BlockId& block : blocks[s]) block = order[next++];
        const int64_t end = one.positions[s] + one.lengths[s];
        sequences.push_back(
            {rows, one.lengths[s], one.positions[s], runs_of(blocks[s], 0, end, kBlock)});
        rows += one.lengths[s];
        for (const SlotRun& run : sequences.back().runs) {
          std::fill(owned.begin() + run.begin, owned.begin() + run.end, true);
        }
      }
      const int slots = count * kBlock;
      const mx::Shape pool{one.kv_heads, slots, one.dim};
      const auto foreign = [&](size_t at) {
        return !owned[at / static_cast<size_t>(one.dim) % static_cast<size_t>(slots)];
      };
      const mx::array keys = numbers(random, pool, type, 1, foreign);
      const mx::array values = numbers(random, pool, type, 1, foreign);
      // Both orders of rows and heads.
      const bool head_major = one.dim % 32 == 0;
      mx::array queries =
          head_major ? mx::transpose(numbers(random, {1, one.heads, dim(rows), one.dim}, type, 2),
                                     {2, 1, 0, 3})
                     : numbers(random, {dim(rows), one.heads, 1, one.dim}, type, 2);
      HostPages told;
      const mx::array made = kernel->attend(prefill_step(sequences, told), queries, keys, values);
      expect_as_in_double(
          one, type, true, sequences,
          [&](size_t s, int64_t p) {
            const int64_t slot = blocks[s][static_cast<size_t>(p / kBlock)] * kBlock + p % kBlock;
            return static_cast<size_t>(slot * one.dim);
          },
          int64_t{slots} * one.dim, floats(queries), floats(keys), floats(values), floats(made));
    }
  }
}

TEST(PrefillKernel, TextsAsAReferenceInDouble) {
  std::mt19937_64 random(22);
  const Turn turn(true);
  for (const mx::Dtype type : {mx::float16, mx::bfloat16}) {
    for (const Case& one : cases()) {
      const PrefillShape shape{one.heads, one.kv_heads, one.dim, false, type};
      auto kernel = HostPrefill::make(shape);
      ASSERT_NE(kernel, nullptr);
      std::vector<PlannedSequence> sequences;
      int64_t rows = 0;
      for (const int64_t length : one.lengths) {
        sequences.push_back({rows, length, 0, {}});
        rows += length;
      }
      // Behind the last text lie rows of nobody.
      const int64_t stored = rows + 100;
      const int64_t width = int64_t{one.kv_heads} * one.dim;
      const mx::Shape extents{dim(stored), dim(width)};
      const auto foreign = [&](size_t at) { return at >= static_cast<size_t>(rows * width); };
      const mx::array keys = numbers(random, extents, type, 1, foreign);
      const mx::array values = numbers(random, extents, type, 1, foreign);
      const mx::array queries = numbers(random, {dim(stored), one.heads * one.dim}, type, 2);
      const mx::array qkv = mx::concatenate({queries, keys, values}, 1);
      HostPages told;
      const mx::array made = kernel->attend_texts(prefill_step(sequences, told), qkv);
      expect_as_in_double(
          one, type, false, sequences,
          [&](size_t s, int64_t p) { return static_cast<size_t>((sequences[s].row + p) * width); },
          one.dim, floats(queries), floats(keys), floats(values), floats(made));
    }
  }
}

TEST(PrefillKernel, AgreesWithMlxAsAMachineChecksIt) {
  const Turn turn(true);
  for (const mx::Dtype type : {mx::float16, mx::bfloat16}) {
    for (const Case& one : cases()) {
      for (const bool pool : {true, false}) {
        const PrefillShape shape{one.heads, one.kv_heads, one.dim, pool, type};
        auto kernel = HostPrefill::make(shape);
        EXPECT_LE(prefill_error(*kernel, shape, false), prefill_error_limit(shape)) << one.dim;
      }
    }
  }
}

TEST(PrefillKernel, TilesOfAStep) {
  // Positions 30 to 169 and 5 to 6, in blocks 7, 8, 2 and so on.
  const std::vector<PlannedSequence> sequences = {{2, 140, 30, {{112, 144}, {32, 160}, {320, 330}}},
                                                  {0, 2, 5, {{16, 23}}}};
  HostPages told;
  PrefillStep step = prefill_step(sequences, told);
  EXPECT_EQ(step.tiles, 4);
  EXPECT_EQ(step.rows, 142);
  step.plan.eval();
  const std::vector<int32_t> made(step.plan.data<int32_t>(),
                                  step.plan.data<int32_t>() + step.plan.size());
  EXPECT_EQ(made, (std::vector<int32_t>{130, 12, 158, 170, 20, 66, 64, 94, 158, 20, 2,
                                        64,  30, 94,  20,  0,  2,  5,  7,  31,  7,  8,
                                        2,   3,  4,   5,   6,  7,  8,  9,  20,  1}));
}

// A kernel that goes wrong in one way.
class Wrong final : public PrefillKernel {
 public:
  Wrong(std::unique_ptr<PrefillKernel> right, int way) : right_(std::move(right)), way_(way) {}
  mx::array attend(const PrefillStep& step, const mx::array& queries, const mx::array& keys,
                   const mx::array& values) override {
    if (way_ == 0) throw std::runtime_error("no compiler");
    mx::array made = right_->attend(step, queries, keys, way_ == 1 ? keys : values);
    return way_ == 2 ? mx::multiply(made, mx::array(NAN, made.dtype())) : made;
  }
  mx::array attend_texts(const PrefillStep& step, const mx::array& qkv) override {
    return right_->attend_texts(step, qkv);
  }

 private:
  std::unique_ptr<PrefillKernel> right_;
  int way_;
};

}  // namespace

decltype(MlxOptions::prefill_kernel) host_prefill(int way) {
  return [way](const PrefillShape& shape) -> std::unique_ptr<PrefillKernel> {
    auto kernel = HostPrefill::make(shape);
    if (way < 0 || !kernel) return kernel;
    return std::make_unique<Wrong>(std::move(kernel), way);
  };
}

namespace {

TEST(PrefillKernel, AModelUsesItWhereItIsRight) {
  const auto model =
      testing::RandomModelBuilder(conformance::decoder_spec("qwen3"), 3, DType::f32).decoder();
  const auto run = [&](decltype(MlxOptions::prefill_kernel) prefill) {
    const auto loaded = conformance::load_decoder_on(
        std::move(*make_mlx_backend({.run_ahead = MlxOptions::RunAhead::on,
                                     .as_gpu = true,
                                     .prefill_kernel = std::move(prefill)})),
        model.spec, *model.weights, {.kv = DType::f16});
    std::vector<TokenId> prompt;
    for (TokenId t = 0; t < 75; ++t) prompt.push_back(t * 37 % 101);
    auto tokens = conformance::greedy(*loaded.model, prompt, 95);
    return std::pair(tokens, counters_of(*loaded.model));
  };
  const auto [expected, none] = run(nullptr);
  EXPECT_EQ(none.own_prefills, 0);
  const auto [tokens, counters] = run(host_prefill());
  EXPECT_EQ(tokens, expected);
  EXPECT_GE(counters.own_prefills, 1);
  EXPECT_EQ(counters.kv_copies, 0);
  for (const int way : {0, 1, 2}) {
    const auto [others, fallen] = run(host_prefill(way));
    EXPECT_EQ(others, expected) << way;
    EXPECT_EQ(fallen.own_prefills, 0) << way;
  }
}

}  // namespace
}  // namespace impetus::mlx_backend
#endif

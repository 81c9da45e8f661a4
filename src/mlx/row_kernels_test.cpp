// The kernels of prompts' and texts' rows, run on the host: against a reference in double on seeded
// random shapes, against MLX's operations, and in whole models.
#include "mlx/row_kernels.h"

#ifdef __linux__  // contexts that run by turns
#include "mlx/decoder.h"
#include "mlx/rows_on_host.h"
#include "mlx/test_support.h"
#include "tests/conformance/subject.h"

namespace impetus::mlx_backend {
namespace {

using conformance::decoder_spec;
using conformance::encoder_spec;
using on_host::HostRows;

struct Case {
  int heads, kv_heads, dim;
  bool neighbours, qk_norm;
  mx::Dtype activations, kv;
};

std::vector<Case> cases() {
  std::vector<Case> made;
  for (const mx::Dtype type : {mx::float32, mx::float16, mx::bfloat16}) {
    for (const auto& [heads, kv_heads, dim] :
         {std::tuple{14, 2, 64}, {3, 3, 80}, {5, 1, 256}, {4, 2, 16}}) {
      for (const bool neighbours : {false, true}) {
        made.push_back(
            {heads, kv_heads, dim, neighbours, (heads + neighbours) % 2 == 0, type, type});
      }
    }
  }
  for (const bool norm : {false, true}) {
    made.push_back({4, 2, 16, true, norm, mx::float32, mx::float16});
    made.push_back({4, 2, 16, false, norm, mx::float16, mx::float32});
    made.push_back({4, 2, 16, !norm, norm, mx::bfloat16, mx::float16});
  }
  return made;
}

ModelSpec spec_of(const Case& one) {
  ModelSpec spec = decoder_spec("llama");
  spec.heads = one.heads;
  spec.kv_heads = one.kv_heads;
  spec.head_dim = one.dim;
  spec.feed_forward = 88;
  spec.context = 4096;
  spec.qk_norm = one.qk_norm;
  spec.rope_pairs = one.neighbours ? RopePairs::neighbours : RopePairs::halves;
  return spec;
}

DecodeShape shape_of(const Case& one) {
  return {one.heads, one.kv_heads, one.dim, one.neighbours, one.qk_norm, one.activations, one.kv};
}

// The most that one rounding to the type changes, relative.
double rounding_of(mx::Dtype type) {
  return type == mx::float32 ? 0x1p-24 : type == mx::float16 ? 0x1p-11 : 0x1p-8;
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

TEST(RowKernels, PlaceAsAReferenceInDouble) {
  std::mt19937_64 random(31);
  const Turn turn(true);
  constexpr int kBlock = KvPool::kBlockTokens, kBlocks = 12, kSlots = kBlocks * kBlock;
  for (const Case& one : cases()) {
    const ModelSpec spec = spec_of(one);
    auto kernels = HostRows::make(shape_of(one), spec);
    ASSERT_NE(kernels, nullptr);
    const int dim = one.dim, width = (one.heads + 2 * one.kv_heads) * dim;
    // Sequences of any lengths, at any positions, in blocks of any order.
    std::vector<BlockId> all(kBlocks);
    for (int i = 0; i < kBlocks; ++i) all[static_cast<size_t>(i)] = i;
    std::shuffle(all.begin(), all.end(), random);
    const std::vector<TokenId> tokens(2 * kBlock, 0);
    std::vector<SequenceStep> batch;
    for (size_t s = 0; s < 3; ++s) {
      SequenceStep step;
      step.blocks = std::span(all).subspan(s * 3, 3);
      step.position = static_cast<int64_t>(s == 0 ? 0 : random() % (2 * kBlock));
      const size_t most = 3 * kBlock - static_cast<size_t>(step.position);
      step.tokens = std::span(tokens).first(s == 1 ? 1 : 1 + random() % std::min(most, 9ul));
      batch.push_back(step);
    }
    StepPlan plan;
    plan.make(batch, kBlock);
    // A late position, as of a long text, beside those of the blocks.
    plan.positions.back() = 4000 + static_cast<int32_t>(random() % 90);
    const auto rows = static_cast<size_t>(plan.rows());
    const mx::array qkv = normal(random, {static_cast<int>(rows), width}, one.activations);
    const mx::Shape pool{one.kv_heads, kSlots, dim};
    const mx::array keys = normal(random, pool, one.kv), values = normal(random, pool, one.kv);
    const mx::array q_norm = normal(random, {dim}, one.activations);
    const mx::array k_norm = normal(random, {dim}, one.activations);
    auto expected_keys = floats(keys), expected_values = floats(values);
    HostPages told;
    const mx::array made =
        kernels->place(place_step(plan, told), qkv, keys, values, q_norm, k_norm);
    EXPECT_EQ(made.shape(), (mx::Shape{static_cast<int>(rows), one.heads, 1, dim}));
    EXPECT_EQ(made.dtype(), one.kv);
    const auto queries = floats(made), after_keys = floats(keys), after_values = floats(values);

    const auto inputs = floats(qkv), q_weights = floats(q_norm), k_weights = floats(k_norm);
    const auto frequencies = spec.rope_frequencies();
    const double rounding = rounding_of(one.activations), kv_rounding = rounding_of(one.kv);
    for (size_t r = 0; r < rows; ++r) {
      // Of a head: {wanted, the most it may be off} where it is rotated, a pair after another.
      const auto expect_turned = [&](int head, const std::vector<float>& weights,
                                     const float* got) {
        std::vector<double> x(static_cast<size_t>(dim));
        double squares = 0;
        for (int d = 0; d < dim; ++d) {
          x[static_cast<size_t>(d)] =
              inputs[r * static_cast<size_t>(width) + static_cast<size_t>(head * dim + d)];
          squares += x[static_cast<size_t>(d)] * x[static_cast<size_t>(d)];
        }
        if (one.qk_norm) {
          const double scale = 1 / std::sqrt(squares / dim + static_cast<double>(spec.norm_eps));
          for (size_t d = 0; d < x.size(); ++d) x[d] *= scale * static_cast<double>(weights[d]);
        }
        for (int i = 0; i < dim / 2; ++i) {
          const double angle = static_cast<double>(plan.positions[r]) *
                               static_cast<double>(frequencies[static_cast<size_t>(i)]);
          const auto a = static_cast<size_t>(one.neighbours ? 2 * i : i);
          const auto b = one.neighbours ? a + 1 : a + static_cast<size_t>(dim / 2);
          const double first = x[a] * std::cos(angle) - x[b] * std::sin(angle);
          const double second = x[a] * std::sin(angle) + x[b] * std::cos(angle);
          // Rounded after the norm, after the rotation and for the pool; f32's sums and sines.
          const double size = std::abs(x[a]) + std::abs(x[b]);
          const double allowed = (one.qk_norm ? 2 : 1) * rounding * size + kv_rounding * size +
                                 0x1p-24 * 24 * size + 1e-7;
          ASSERT_NEAR(got[a], first, allowed) << dim << " head " << head << " row " << r;
          ASSERT_NEAR(got[b], second, allowed) << dim << " head " << head << " row " << r;
        }
      };
      for (int h = 0; h < one.heads; ++h) {
        expect_turned(
            h, q_weights,
            queries.data() + (r * static_cast<size_t>(one.heads) + static_cast<size_t>(h)) *
                                 static_cast<size_t>(dim));
      }
      for (int k = 0; k < one.kv_heads; ++k) {
        const auto at = static_cast<size_t>((k * kSlots + plan.slots[r]) * dim);
        expect_turned(one.heads + k, k_weights, after_keys.data() + at);
        for (int d = 0; d < dim; ++d) {
          const float value = inputs[r * static_cast<size_t>(width) +
                                     static_cast<size_t>((one.heads + one.kv_heads + k) * dim + d)];
          ASSERT_NEAR(after_values[at + static_cast<size_t>(d)], value,
                      kv_rounding * std::abs(value) + 1e-7);
          expected_keys[at + static_cast<size_t>(d)] = after_keys[at + static_cast<size_t>(d)];
          expected_values[at + static_cast<size_t>(d)] = after_values[at + static_cast<size_t>(d)];
        }
      }
    }
    // Nothing else is written.
    ASSERT_EQ(after_keys, expected_keys);
    ASSERT_EQ(after_values, expected_values);
  }
}

TEST(RowKernels, GatedAsAReferenceInDouble) {
  std::mt19937_64 random(32);
  const Turn turn(true);
  for (const mx::Dtype type : {mx::float32, mx::float16, mx::bfloat16}) {
    auto kernels = HostRows::make({4, 2, 16, false, false, type, type}, decoder_spec("llama"));
    // Less than a block of threads, one, and some with a rest.
    for (const auto& [rows, columns] : {std::pair{1, 8}, {3, 40}, {2, 1024}, {37, 152}}) {
      const mx::array both =
          mx::multiply(normal(random, {rows, 2 * columns}, type), mx::array(8.0f, type));
      const auto made = floats(kernels->gated(both)), in = floats(both);
      for (int r = 0; r < rows; ++r) {
        for (int c = 0; c < columns; ++c) {
          const double gate = in[static_cast<size_t>(r * 2 * columns + c)];
          const double up = in[static_cast<size_t>((r * 2 + 1) * columns + c)];
          const double expected = gate / (1 + std::exp(-gate)) * up;
          ASSERT_NEAR(made[static_cast<size_t>(r * columns + c)], expected,
                      (rounding_of(type) + 0x1p-24 * 16) * std::abs(expected) + 6e-8)
              << rows << "x" << columns << " row " << r << " column " << c;
        }
      }
    }
  }
  // Gates far out let nothing, or all, through.
  auto kernels =
      HostRows::make({4, 2, 16, false, false, mx::float32, mx::float32}, decoder_spec("llama"));
  const float far[16] = {-1e4f, 1e4f, -200, 200, -88, 88, 0, -0.0f, 1, 1, 1, 1, 1, 1, 1, 1};
  const auto made = floats(kernels->gated(mx::array(far, mx::Shape{1, 16}, mx::float32)));
  EXPECT_EQ(made[0], 0);
  EXPECT_EQ(made[1], 1e4f);
  EXPECT_EQ(made[2], 0);
  EXPECT_EQ(made[3], 200);
  EXPECT_EQ(made[6], 0);
}

TEST(RowKernels, AddLayerNormAsAReferenceInDouble) {
  std::mt19937_64 random(33);
  const Turn turn(true);
  const ModelSpec spec = encoder_spec("bert");
  for (const mx::Dtype type : {mx::float32, mx::float16, mx::bfloat16}) {
    auto kernels = HostRows::make({4, 4, 16, false, false, type, type}, spec);
    for (const int columns : {8, 64, 384, 1000, 1032, 4096}) {
      constexpr int kRows = 3;
      // A mean far from zero beside the spread, where a variance of squares alone would be off.
      const mx::array residual =
          mx::add(normal(random, {kRows, columns}, type), mx::array(30.0f, type));
      const mx::array x = normal(random, {kRows, columns}, type);
      const mx::array weight = normal(random, {columns}, type);
      const mx::array offset = normal(random, {columns}, type);
      const auto a = floats(residual), b = floats(x), w = floats(weight), o = floats(offset);
      for (const bool with : {false, true}) {
        const auto made = floats(kernels->add_layer_norm(
            residual, x, weight, with ? std::optional(offset) : std::nullopt));
        for (size_t r = 0; r < kRows; ++r) {
          const size_t from = r * static_cast<size_t>(columns);
          const auto sum = [&](size_t c) {
            return static_cast<double>(a[from + c]) + static_cast<double>(b[from + c]);
          };
          double mean = 0, variance = 0;
          const auto n = static_cast<size_t>(columns);
          for (size_t c = 0; c < n; ++c) mean += sum(c) / columns;
          for (size_t c = 0; c < n; ++c) variance += (sum(c) - mean) * (sum(c) - mean) / columns;
          const double scale = 1 / std::sqrt(variance + static_cast<double>(spec.norm_eps));
          for (size_t c = 0; c < n; ++c) {
            const double normed = (sum(c) - mean) * scale * static_cast<double>(w[c]);
            const double expected = normed + (with ? static_cast<double>(o[c]) : 0);
            // The mean of sums of 30 is off by some of f32's steps there.
            const double allowed =
                rounding_of(type) * std::abs(expected) +
                0x1p-24 * (30 * 32 * scale * std::abs(static_cast<double>(w[c])) +
                           16 * std::abs(normed) + 16) +
                1e-7;
            ASSERT_NEAR(made[from + c], expected, allowed)
                << columns << " row " << r << " at " << c;
          }
        }
      }
    }
  }
}

TEST(RowKernels, PoolAsAReferenceInDouble) {
  std::mt19937_64 random(34);
  const Turn turn(true);
  const std::vector<int32_t> offsets = {0, 1, 8, 16, 25, 60};
  for (const mx::Dtype type : {mx::float32, mx::float16, mx::bfloat16}) {
    auto kernels = HostRows::make({4, 4, 16, false, false, type, type}, encoder_spec("bert"));
    for (const int columns : {8, 256, 264, 1032, 4096}) {
      const mx::array rows = normal(random, {60, columns}, type);
      const auto in = floats(rows);
      const auto width = static_cast<size_t>(columns);
      for (const auto& [mean, normalize] :
           {std::pair{true, true}, {true, false}, {false, true}, {false, false}}) {
        HostPages told;
        const mx::array out = told.room({5, columns});
        kernels->pool({mean, normalize}, rows, told.put(offsets, {6}), out).eval();
        const auto* made = out.data<float>();
        for (size_t t = 0; t < 5; ++t) {
          const auto first = static_cast<size_t>(offsets[t]);
          const auto last = mean ? static_cast<size_t>(offsets[t + 1]) : first + 1;
          std::vector<double> expected(width, 0);
          double squares = 0;
          for (size_t c = 0; c < width; ++c) {
            for (size_t r = first; r < last; ++r) {
              expected[c] +=
                  static_cast<double>(in[r * width + c]) / static_cast<double>(last - first);
            }
            squares += expected[c] * expected[c];
          }
          for (size_t c = 0; c < width; ++c) {
            const double wanted = normalize ? expected[c] / std::sqrt(squares) : expected[c];
            ASSERT_NEAR(made[t * width + c], wanted, 1e-5 * (std::abs(wanted) + 0.1))
                << columns << " text " << t << " at " << c;
          }
        }
      }
    }
  }
}

TEST(RowKernels, AgreeWithMlxAsAMachineChecksThem) {
  const Turn turn(true);
  for (const Case& one : cases()) {
    const ModelSpec spec = spec_of(one);
    auto kernels = HostRows::make(shape_of(one), spec);
    EXPECT_LE(row_kernels_error(*kernels, shape_of(one), spec), kernels_error_limit(shape_of(one)))
        << one.heads << " " << one.dim;
  }
  {
    // As wide as the largest models: more than a step's part of the host's pages holds.
    const Case one = cases().front();
    ModelSpec spec = spec_of(one);
    spec.feed_forward = 53248;
    auto kernels = HostRows::make(shape_of(one), spec);
    EXPECT_LE(row_kernels_error(*kernels, shape_of(one), spec), kernels_error_limit(shape_of(one)));
  }
  const ModelSpec spec = encoder_spec("bert");
  for (const mx::Dtype type : {mx::float32, mx::float16, mx::bfloat16}) {
    const DecodeShape shape{4, 4, 16, false, false, type, type};
    auto kernels = HostRows::make(shape, spec);
    EXPECT_LE(row_kernels_error(*kernels, shape, spec), kernels_error_limit(shape));
  }
}

// Kernels that go wrong in one way.
class Wrong final : public RowKernels {
 public:
  Wrong(std::unique_ptr<RowKernels> right, int way) : right_(std::move(right)), way_(way) {}
  mx::array place(const PlaceStep& step, const mx::array& qkv, const mx::array& keys,
                  const mx::array& values, const mx::array& q_norm,
                  const mx::array& k_norm) override {
    if (way_ == 0) throw std::runtime_error("no compiler");
    PlaceStep other = step;
    // Positions or slots that are one off.
    if (way_ == 1 || way_ == 2) {
      const int32_t by[2] = {way_ == 1, way_ == 2};
      other.plan = mx::add(step.plan, mx::array(by, mx::Shape{2, 1}, mx::int32));
    }
    return right_->place(other, qkv, keys, way_ == 3 ? keys : values, q_norm, k_norm);
  }
  mx::array gated(const mx::array& both) override {
    mx::array made = right_->gated(both);
    return way_ == 4 ? mx::multiply(made, mx::array(NAN, made.dtype())) : made;
  }
  mx::array add_layer_norm(const mx::array& residual, const mx::array& x, const mx::array& weight,
                           const std::optional<mx::array>& bias) override {
    return right_->add_layer_norm(residual, x, weight, way_ == 5 ? std::nullopt : bias);
  }
  mx::array pool(Pool how, const mx::array& rows, const mx::array& offsets,
                 const mx::array& out) override {
    if (way_ == 6) how.mean = !how.mean;
    if (way_ == 7) how.normalize = true;
    return right_->pool(how, rows, offsets, out);
  }
  mx::array tell(const mx::array& values, const mx::array& out) override {
    return right_->tell(way_ == 8 ? mx::negative(values) : values, out);
  }
  mx::array draw(const mx::array& logits, const mx::array& likeliest, const mx::array& draws,
                 const mx::array& out) override {
    return right_->draw(way_ == 9 ? mx::multiply(logits, mx::array(1.5f)) : logits, likeliest,
                        draws, out);
  }

 private:
  std::unique_ptr<RowKernels> right_;
  int way_;
};

}  // namespace

decltype(MlxOptions::row_kernels) host_rows(int way) {
  return [way](const DecodeShape& shape, const ModelSpec& spec) -> std::unique_ptr<RowKernels> {
    auto kernels = HostRows::make(shape, spec);
    if (way < 0 || !kernels) return kernels;
    return std::make_unique<Wrong>(std::move(kernels), way);
  };
}

namespace {

MlxOptions with_rows(decltype(MlxOptions::row_kernels) rows) {
  MlxOptions options = with_host_kernels();
  options.row_kernels = std::move(rows);
  return options;
}

std::vector<TokenId> prompt_of(TokenId length) {
  std::vector<TokenId> prompt;
  for (TokenId t = 0; t < length; ++t) prompt.push_back(t * 37 % 101);
  return prompt;
}

TEST(RowKernels, AModelUsesThemWhereTheyAreRight) {
  for (const char* family : {"qwen3", "qwen2"}) {
    const auto model = testing::RandomModelBuilder(decoder_spec(family), 3, DType::f32).decoder();
    const auto run = [&](decltype(MlxOptions::row_kernels) rows) {
      const auto loaded =
          conformance::load_decoder_on(std::move(*make_mlx_backend(with_rows(std::move(rows)))),
                                       model.spec, *model.weights, {.kv = DType::f16});
      auto tokens = conformance::greedy(*loaded.model, prompt_of(75), 95);
      return std::pair(tokens, counters_of(*loaded.model));
    };
    const auto [expected, none] = run([](auto&&...) { return nullptr; });
    EXPECT_EQ(none.own_places, 0);
    EXPECT_GE(none.own_prefills, 1);
    const auto [tokens, counters] = run(host_rows());
    EXPECT_EQ(tokens, expected);
    EXPECT_GE(counters.own_places, 1);
    EXPECT_EQ(counters.own_places, counters.own_prefills);
    EXPECT_EQ(counters.kv_copies, 0);
    for (const int way : {0, 1, 2, 3, 4, 8}) {
      const auto [others, fallen] = run(host_rows(way));
      EXPECT_EQ(others, expected) << way;
      EXPECT_EQ(fallen.own_places, 0) << way;
    }
  }
}

// Steps from which nobody wants logits write their keys and values all the same: alone, beside
// others, and a row by itself.
TEST(RowKernels, PartsOfAPromptAreWrittenWithoutLogits) {
  const auto model = testing::RandomModelBuilder(decoder_spec("qwen3"), 8, DType::f32).decoder();
  const auto prompt = prompt_of(60), other = prompt_of(41);
  const std::vector<BlockId> blocks = {7, 2, 9, 4}, others = {1, 5, 3};
  const auto run = [&](const MlxOptions& options, std::span<const size_t> ends) {
    const auto loaded = conformance::load_decoder_on(
        std::move(*make_mlx_backend(options)), model.spec, *model.weights, {.kv = DType::f16});
    size_t done = 0;
    for (const size_t end : ends) {
      std::vector<SequenceStep> batch(end == 33 ? 2 : 1);
      batch[0].tokens = std::span(prompt).subspan(done, end - done);
      batch[0].position = static_cast<int64_t>(done);
      batch[0].blocks = blocks;
      batch[0].output = StepOutput::none;
      if (batch.size() == 2) {
        batch[1].tokens = other;
        batch[1].blocks = others;
        batch[1].output = StepOutput::logits_last;
      }
      EXPECT_TRUE(loaded.model->execute(batch).ok());
      done = end;
    }
    SequenceStep last;
    last.tokens = std::span(prompt).subspan(done);
    last.position = static_cast<int64_t>(done);
    last.blocks = blocks;
    last.output = StepOutput::logits_all;
    auto results = loaded.model->execute({&last, 1});
    EXPECT_TRUE(results.ok()) << results.error().message;
    std::vector<std::byte> kept(static_cast<size_t>(loaded->kv().block_bytes()));
    EXPECT_TRUE(loaded->kv().export_block(2, 0, 16, kept).ok());
    EXPECT_EQ(counters_of(*loaded.model).kv_copies, 0);
    return std::pair(std::move((*results)[0].logits), std::move(kept));
  };
  const size_t ends[] = {17, 33, 34, 50};
  const auto [wanted, wanted_kept] = run(with_rows([](auto&&...) { return nullptr; }), ends);
  const auto [made, kept] = run(with_rows(host_rows()), ends);
  ASSERT_EQ(made.size(), wanted.size());
  for (size_t i = 0; i < made.size(); ++i) ASSERT_NEAR(made[i], wanted[i], 0.02) << i;
  // The same in f16 but for a last bit here and there.
  const auto* a = reinterpret_cast<const _Float16*>(kept.data());
  const auto* b = reinterpret_cast<const _Float16*>(wanted_kept.data());
  for (size_t i = 0; i < kept.size() / 2; ++i) {
    ASSERT_NEAR(static_cast<float>(a[i]), static_cast<float>(b[i]),
                0.01 + 0.01 * std::abs(static_cast<float>(b[i])));
  }
}

TEST(RowKernels, AnEncoderUsesThemWhereTheyAreRight) {
  const auto model = testing::RandomModelBuilder(encoder_spec("bert"), 5, DType::f16).encoder();
  const auto tokens = prompt_of(60);
  const std::vector<int32_t> ends = {0, 1, 18, 60};
  const auto run = [&](const MlxOptions& options) {
    const auto loaded = conformance::load_encoder_on(std::move(*make_mlx_backend(options)),
                                                     model.spec, *model.weights);
    auto encoded = loaded->encode({tokens, ends, {}, EncodeOutput::hidden});
    EXPECT_TRUE(encoded.ok()) << encoded.error().message;
    return std::move(encoded->values);
  };
  const auto expected = run({.as_gpu = true});
  // -1: right; 5: what a check finds wrong is not used.
  for (const int way : {-1, 5, 6, 7}) {
    const auto made = run(with_rows(host_rows(way)));
    ASSERT_EQ(made.size(), expected.size());
    for (size_t i = 0; i < made.size(); ++i) ASSERT_NEAR(made[i], expected[i], 0.02) << way;
  }
}

}  // namespace
}  // namespace impetus::mlx_backend
#endif

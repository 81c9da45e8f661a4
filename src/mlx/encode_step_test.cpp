// The kernel of whole batches of texts, run on the host, its blocks by turns: against MLX's
// operations, in whole models.
#include "mlx/encode_step.h"

#ifdef __linux__  // contexts that run by turns
#include <chrono>
#include <random>
#include <thread>

#include "mlx/decoder.h"
#include "mlx/test_support.h"
#include "mlx/tiles_on_host.h"
#include "tests/conformance/subject.h"
#include "tests/support/reference_forward.h"

namespace impetus::mlx_backend {
namespace {

using on_host::Bf16;
using on_host::data;

// What may go wrong, or be otherwise than elsewhere.
struct Ways {
  bool throws = false;        // it does not compile
  bool forgets = false;       // it makes the first vector zeros
  bool not_a_number = false;  // a value of it
  bool slow = false;
  int shared_bytes = 227 << 10;
  // Changed and looked at while a model is loaded.
  std::shared_ptr<unsigned> missing = std::make_shared<unsigned>(0);  // blocks that do not come
  std::shared_ptr<int> tiling = std::make_shared<int>(-1);  // of all products; below 0: as wanted
  std::shared_ptr<int> launches = std::make_shared<int>(0);
};

// The shapes and types that are compiled here.
class HostEncode final : public EncodeKernel {
 public:
  HostEncode(const EncodeForm& form, const Ways& ways) : form_(form), ways_(ways) {}

  bool has_form() {
    return with([](auto) {});
  }
  int shared_bytes_max() override { return ways_.shared_bytes; }
  int prepare(int shared_bytes) override {
    if (ways_.throws) throw std::runtime_error("no compiler");
    bytes_ = shared_bytes;
    return kBlocks;
  }

  void hold(const std::vector<std::vector<AddressOrNumber>>& table,
            int64_t scratch_bytes) override {
    table_.clear();
    held_.clear();
    for (const auto& part : table) {
      for (const AddressOrNumber& word : part) {
        if (const auto* number = std::get_if<int64_t>(&word)) {
          table_.push_back(*number);
          continue;
        }
        mx::array array = std::get<mx::array>(word);
        array.eval();
        EXPECT_TRUE(array.flags().row_contiguous);
        held_.push_back(array);
        table_.push_back(reinterpret_cast<int64_t>(data<char>(array)));
      }
    }
    scratch_.assign(static_cast<size_t>(scratch_bytes) / sizeof(std::max_align_t) + 1, {});
    // NaNs: what nobody wrote shows; but the barrier's state, the last of it, is zeros.
    std::memset(scratch_.data(), 0xff, static_cast<size_t>(scratch_bytes) - 256);
  }

  void run(const EncodeLaunch& launch, double) override {
    ++*ways_.launches;
    if (ways_.slow) std::this_thread::sleep_for(std::chrono::seconds(1));
    int tilings = 0;
    for (size_t i = 0; i < launch.tilings.size(); ++i) {
      const int tiling = *ways_.tiling < 0 ? launch.tilings[i] : *ways_.tiling;
      EXPECT_LE(
          tiling_bytes(tiling, i % 2 == 0, form_.hidden) + (i % 2 == 0 ? form_.hidden * 4 : 0),
          bytes_);
      tilings |= tiling << 2 * i;
    }
    with([&](auto model) {
      using Model = decltype(model);
      expect_layout<Model>();
      on_host::launch_at_once(
          kBlocks, *ways_.missing, kEncodeThreads, static_cast<size_t>(bytes_), [&](char* memory) {
            impetus::Encode<Model>(reinterpret_cast<const long long*>(table_.data()),
                                   reinterpret_cast<char*>(scratch_.data()), memory, launch.rows,
                                   launch.tiles, launch.texts)
                .run(launch.given, tilings, launch.vectors, launch.status);
          });
    });
    if (ways_.forgets) std::fill_n(launch.vectors, form_.hidden, 0.0f);
    if (ways_.not_a_number) launch.vectors[3] = NAN;
  }

 private:
  static constexpr int kBlocks = 3;

  template <typename Model>
  void expect_layout() const {
    EXPECT_LE(static_cast<int>(sizeof(impetus::PrefillShared<Model::kDim, 0>)) * 2, bytes_);
    EXPECT_LE(impetus::kProductWarps * form_.hidden * 4 + form_.hidden * 4, bytes_);
    const auto expect = [&](auto tiles, int tiling) {
      using Tiles = decltype(tiles);
      for (const bool resident : {false, true}) {
        EXPECT_EQ(Tiles::bytes(resident, form_.hidden),
                  tiling_bytes(tiling, resident, form_.hidden));
      }
    };
    expect(impetus::SmallTiles(), 0);
    expect(impetus::MediumTiles(), 1);
    expect(impetus::LargeTiles(), 2);
  }
  template <int DIM, int EACH, int ACTIVATION, typename Body>
  bool with_type(Body&& body) {
    if (form_.head_dim != DIM || encode_each(form_.hidden) != EACH ||
        form_.activation != ACTIVATION) {
      return false;
    }
    form_.type == mx::bfloat16
        ? body(impetus::EncodeModel<Bf16, true, DIM, EACH, ACTIVATION>())
        : body(impetus::EncodeModel<_Float16, false, DIM, EACH, ACTIVATION>());
    return true;
  }
  template <typename Body>
  bool with(Body&& body) {
    // Those of the conformance suite; rows of more than one turn of a warp, with an end in it.
    return with_type<16, 1, 0>(body) || with_type<32, 1, 0>(body) || with_type<16, 1, 1>(body) ||
           with_type<16, 1, 2>(body) || with_type<80, 2, 0>(body) || with_type<80, 4, 0>(body) ||
           with_type<80, 8, 0>(body) || with_type<80, 16, 0>(body);
  }

  EncodeForm form_;
  Ways ways_;
  int bytes_ = 0;
  std::vector<int64_t> table_;
  std::vector<mx::array> held_;
  std::vector<std::max_align_t> scratch_;
};
static_assert(kEncodeThreads == impetus::kProductThreads &&
              kEncodeTilePlan == impetus::kEncodeTilePlan &&
              kEncodeTextPlan == impetus::kEncodeTextPlan && kEncoded == impetus::kEncoded);

decltype(MlxOptions::encode_step) host_encode(const Ways& ways) {
  return [ways](const EncodeForm& form) -> std::unique_ptr<EncodeKernel> {
    auto made = std::make_unique<HostEncode>(form, ways);
    return made->has_form() ? std::move(made) : nullptr;
  };
}

}  // namespace

decltype(MlxOptions::encode_step) host_encode() {
  return host_encode(Ways{});
}

namespace {

using conformance::distance;
using conformance::encoder_spec;
using conformance::load_encoder_on;
using conformance::random_tokens;
using conformance::RandomModel;
using conformance::RandomModelBuilder;
using conformance::ReferenceForward;

// Rows of one launch, at which the check at load is short.
constexpr int64_t kRows = 128;

std::unique_ptr<Backend> backend_with(const Ways& ways, int64_t rows = kRows) {
  MlxOptions options = with_host_kernels();
  options.encode_step = host_encode(ways);
  options.encode_rows = rows;
  return std::move(*make_mlx_backend(options));
}

struct Shape {
  int64_t heads, head_dim, feed_forward;
  Activation activation;
  Pooling pooling;
  bool normalize;
};
// Columns and outputs that are no whole tiles; heads of several sizes; rows of some turns of a
// warp.
const Shape kShapes[] = {
    {4, 16, 128, Activation::gelu_erf, Pooling::mean, true},
    {3, 32, 200, Activation::gelu_erf, Pooling::cls, true},
    {4, 16, 136, Activation::gelu_tanh, Pooling::mean, false},
    {4, 16, 72, Activation::relu, Pooling::cls, false},
    {2, 80, 320, Activation::gelu_erf, Pooling::mean, true},
    {5, 80, 136, Activation::gelu_erf, Pooling::mean, true},
    {8, 80, 64, Activation::gelu_erf, Pooling::mean, true},
    {13, 80, 64, Activation::gelu_erf, Pooling::cls, true},
};

ModelSpec spec_of(const Shape& shape, const std::string& family = "bert") {
  ModelSpec spec = encoder_spec(family);
  spec.heads = spec.kv_heads = shape.heads;
  spec.head_dim = shape.head_dim;
  spec.hidden = shape.heads * shape.head_dim;
  spec.feed_forward = shape.feed_forward;
  spec.activation = shape.activation;
  spec.pooling = shape.pooling;
  spec.normalize = shape.normalize;
  spec.context = 150;
  if (spec.hidden > 256) spec.layers = 1;
  return spec;
}

struct Texts {
  std::vector<TokenId> tokens;
  std::vector<int32_t> offsets = {0}, types;
  EncoderBatch batch() const { return {tokens, offsets, types}; }
};
Texts texts_of(std::span<const int> lengths, const ModelSpec& spec, uint64_t seed) {
  std::mt19937_64 random(seed);
  Texts made;
  for (const int length : lengths) {
    const auto ids = random_tokens(random, static_cast<size_t>(length), spec.vocab);
    made.tokens.insert(made.tokens.end(), ids.begin(), ids.end());
    for (int i = 0; i < length && spec.token_types > 0; ++i) {
      made.types.push_back(static_cast<int32_t>(random() % 2));
    }
    made.offsets.push_back(static_cast<int32_t>(made.tokens.size()));
  }
  return made;
}

// [texts, hidden], in double.
impetus::testing::Matrix reference_of(const ModelSpec& spec, const WeightSet& weights,
                                      const Texts& texts) {
  const auto tensors = resolve_encoder(spec, weights);
  EXPECT_TRUE(tensors.ok());
  const ReferenceForward reference(spec);
  impetus::testing::Matrix made;
  for (size_t t = 0; t + 1 < texts.offsets.size(); ++t) {
    const int32_t begin = texts.offsets[t], end = texts.offsets[t + 1];
    const auto part = [&](const std::vector<int32_t>& of) {
      return of.empty() ? of : std::vector<int32_t>(of.begin() + begin, of.begin() + end);
    };
    made.push_back(
        reference.pool(reference.encoder(*tensors, part(texts.tokens), part(texts.types))));
  }
  return made;
}

double largest_of(const impetus::testing::Matrix& rows) {
  double largest = 0;
  for (const auto& row : rows) {
    for (const double value : row) largest = std::max(largest, std::abs(value));
  }
  return largest;
}

// Around the borders of fragments, warps' rows and tiles.
constexpr int kLengths[] = {5, 70, 1, 16, 17, 1};
TEST(EncodeKernel, AsAReferenceInDoubleByEachTiling) {
  uint64_t seed = 1;
  for (const Shape& shape : kShapes) {
    for (const DType type : {DType::f16, DType::bf16}) {
      const ModelSpec spec = spec_of(shape, seed % 3 == 0 ? "distilbert" : "bert");
      RandomModelBuilder builder(spec, ++seed, type);
      const RandomModel model = builder.encoder();
      const Texts texts = texts_of(kLengths, spec, seed);
      const auto wanted = reference_of(spec, *model.weights, texts);
      Ways ways;
      const auto loaded = load_encoder_on(backend_with(ways), spec, *model.weights);
      for (const int tiling : {-1, 0, 1, 2}) {
        // The host takes its time for the others.
        if ((type == DType::bf16 || spec.hidden > 160) && tiling >= 0) break;
        *ways.tiling = tiling;
        const int before = *ways.launches;
        const auto made = loaded->encode(texts.batch());
        ASSERT_TRUE(made.ok()) << made.error().message;
        EXPECT_EQ(*ways.launches, before + 1);
        // Weights are what they are; what is between products is rounded to 16 bits.
        EXPECT_LT(distance(wanted, made->values) / largest_of(wanted),
                  type == DType::bf16 ? 0.02 : 0.002)
            << to_string(type) << ", tiles " << tiling << ", " << shape.heads << " heads of "
            << shape.head_dim;
      }
    }
  }
}

// What is longer, or wanted row by row, is made of several launches.
TEST(EncodeKernel, OfSoManyRowsAndPooledAlone) {
  const ModelSpec spec = spec_of(kShapes[0]);
  const RandomModel model = RandomModelBuilder(spec, 3, DType::f16).encoder();
  const Ways ways;
  const auto loaded = load_encoder_on(backend_with(ways), spec, *model.weights);
  const auto launches_of = [&](std::vector<int> lengths, EncodeOutput output) {
    const Texts texts = texts_of(lengths, spec, 9);
    EncoderBatch batch = texts.batch();
    batch.output = output;
    const int before = *ways.launches;
    const auto made = loaded->encode(batch);
    EXPECT_TRUE(made.ok()) << made.error().message;
    if (made.ok() && output == EncodeOutput::pooled) {
      const auto wanted = reference_of(spec, *model.weights, texts);
      EXPECT_LT(distance(wanted, made->values) / largest_of(wanted), 0.004);
    }
    return *ways.launches - before;
  };
  EXPECT_EQ(launches_of({100, 28}, EncodeOutput::pooled), 1);
  EXPECT_EQ(launches_of({100, 29}, EncodeOutput::pooled), 0);
  EXPECT_EQ(launches_of({9}, EncodeOutput::hidden), 0);
  EXPECT_EQ(launches_of({1}, EncodeOutput::pooled), 1);
  EXPECT_EQ(launches_of(std::vector<int>(128, 1), EncodeOutput::pooled), 1);
}

TEST(EncodeKernel, IsLeftWhereItIsSlower) {
  const ModelSpec spec = spec_of(kShapes[0]);
  const RandomModel model = RandomModelBuilder(spec, 8, DType::f16).encoder();
  Ways ways;
  ways.slow = true;
  const Logged logged;
  const auto loaded = load_encoder_on(backend_with(ways, 0), spec, *model.weights);
  EXPECT_EQ(logged.count("texts of up to 0 tokens are one launch"), 1) << logged.text();
  const int before = *ways.launches;
  EXPECT_GT(before, 1);
  ASSERT_TRUE(loaded->encode(texts_of(std::array{5, 20}, spec, 3).batch()).ok());
  EXPECT_EQ(*ways.launches, before);
}

// Where it cannot run, or not rightly, texts are made of several launches, and it is said.
TEST(EncodeKernel, IsNotUsedWhereItGoesWrong) {
  const ModelSpec spec = spec_of(kShapes[0]);
  const RandomModel model = RandomModelBuilder(spec, 4, DType::f16).encoder();
  const Texts texts = texts_of(std::array{5, 20}, spec, 10);
  const auto wanted = reference_of(spec, *model.weights, texts);
  struct Wrong {
    const char* said;
    std::function<void(Ways&)> make;
  };
  const Wrong all[] = {
      {"does not run here: no compiler", [](Ways& ways) { ways.throws = true; }},
      {"off MLX's operations", [](Ways& ways) { ways.forgets = true; }},
      {"off MLX's operations", [](Ways& ways) { ways.not_a_number = true; }},
      {"waited for a part of this GPU in vain", [](Ways& ways) { *ways.missing = 1; }},
      {"", [](Ways& ways) { ways.shared_bytes = 32 << 10; }},
  };
  for (const Wrong& wrong : all) {
    Ways ways;
    wrong.make(ways);
    const Logged logged;
    const auto loaded = load_encoder_on(backend_with(ways), spec, *model.weights);
    EXPECT_NE(logged.text().find(wrong.said), std::string::npos) << logged.text();
    EXPECT_EQ(logged.count("warn"), *wrong.said == 0 ? 0 : 1) << logged.text();
    const int before = *ways.launches;
    const auto made = loaded->encode(texts.batch());
    ASSERT_TRUE(made.ok()) << made.error().message;
    EXPECT_EQ(*ways.launches, before) << wrong.said;
    EXPECT_LT(distance(wanted, made->values) / largest_of(wanted), 0.004) << wrong.said;
  }
}

// Another program took a part of the GPU later on: one error, then several launches.
TEST(EncodeKernel, GivesUpOnce) {
  const ModelSpec spec = spec_of(kShapes[0]);
  const RandomModel model = RandomModelBuilder(spec, 5, DType::f16).encoder();
  const Texts texts = texts_of(std::array{5, 20}, spec, 11);
  const Ways ways;
  const auto loaded = load_encoder_on(backend_with(ways), spec, *model.weights);
  const int64_t held = loaded.ledger->used_bytes();
  *ways.missing = 1;
  const auto failed = loaded->encode(texts.batch());
  ASSERT_FALSE(failed.ok());
  EXPECT_NE(failed.error().message.find("in vain"), std::string::npos) << failed.error().message;
  EXPECT_LT(loaded.ledger->used_bytes(), held);
  *ways.missing = 0;
  const int before = *ways.launches;
  const auto made = loaded->encode(texts.batch());
  ASSERT_TRUE(made.ok()) << made.error().message;
  EXPECT_EQ(*ways.launches, before);
  const auto wanted = reference_of(spec, *model.weights, texts);
  EXPECT_LT(distance(wanted, made->values) / largest_of(wanted), 0.004);
}

// Of fewer rows where memory is short, or of none.
TEST(EncodeKernel, TakesTheMemoryThatThereIs) {
  const ModelSpec spec = spec_of(kShapes[0]);
  const RandomModel model = RandomModelBuilder(spec, 6, DType::f16).encoder();
  const Ways ways;
  const auto loaded = load_encoder_on(backend_with(ways), spec, *model.weights);
  const int64_t all = loaded.ledger->used_bytes();
  const auto without = load_encoder_on(backend_with(ways, 1), spec, *model.weights);
  struct Short {
    int64_t bytes, rows;
  };
  for (const auto [bytes, rows] :
       {Short{all, kRows}, {all - 1, 64}, {without.ledger->used_bytes() - 1, 0}}) {
    MemoryLedger ledger(bytes);
    const Logged logged;
    const auto encoder =
        loaded.backend->load_encoder(spec, *model.weights, conformance::f32_options(), ledger);
    ASSERT_TRUE(encoder.ok()) << encoder.error().message;
    EXPECT_EQ(logged.count("no memory is left for texts in one launch"), rows == 0 ? 1 : 0);
    for (const int64_t count : {rows, rows + 1}) {
      if (count == 0) continue;
      const Texts texts = texts_of(std::vector<int>(static_cast<size_t>(count), 1), spec, 12);
      const int before = *ways.launches;
      ASSERT_TRUE((*encoder)->encode(texts.batch()).ok());
      EXPECT_EQ(*ways.launches - before, count == rows ? 1 : 0) << bytes;
    }
  }
}

// Tiles fit, and are no larger than leave blocks without one.
TEST(EncodeKernel, TilesForRowsAndBlocks) {
  EncodeForm form;
  form.hidden = 384;
  form.heads = 12;
  form.head_dim = 32;
  form.feed_forward = 1536;
  ASSERT_TRUE(encode_takes(form));
  const int memory = *encode_shared_bytes(form, 227 << 10);
  EXPECT_EQ(encode_tilings(form, 16, memory, 132), (EncodeTilings{0, 0, 0, 0}));
  EXPECT_EQ(encode_tilings(form, 8192, memory, 132), (EncodeTilings{2, 2, 2, 2}));
  for (const int hidden : {16, 384, 1024, 2048}) {
    for (const int most : {48 << 10, 99 << 10, 163 << 10, 227 << 10}) {
      form.hidden = hidden;
      form.head_dim = 16;
      form.heads = hidden / 16;
      form.feed_forward = 4 * hidden;
      const auto bytes = encode_shared_bytes(form, most);
      if (!bytes) continue;
      EXPECT_LE(*bytes, most);
      for (const int rows : {1, 100, 512, 4096}) {
        const EncodeTilings tilings = encode_tilings(form, rows, *bytes, 132);
        for (size_t p = 0; p < tilings.size(); ++p) {
          EXPECT_LE(tiling_bytes(tilings[p], p % 2 == 0, hidden), *bytes);
        }
      }
    }
  }
  form.hidden = 2048;
  EXPECT_EQ(encode_shared_bytes(form, 99 << 10), std::nullopt);
}

// Every row in one tile; a text's tiles side by side; the longest first.
TEST(EncodeKernel, WhatABatchIsTold) {
  const std::vector<TokenId> tokens(206, 7);
  const std::vector<int32_t> offsets = {0, 3, 203, 206};
  const EncodeGiven given = encode_given({tokens, offsets, {}});
  EXPECT_EQ(given.rows, 206);
  EXPECT_EQ(given.texts, 3);
  EXPECT_EQ(given.tiles, 6);
  const std::vector<int32_t> plan(given.values.begin() + 3 * 206, given.values.end());
  EXPECT_EQ(plan, (std::vector<int32_t>{195, 8,  3,   200, 4,  //
                                        131, 64, 3,   200, 3,  //
                                        67,  64, 3,   200, 2,  //
                                        3,   64, 3,   200, 1,  //
                                        203, 3,  203, 3,   5,  //
                                        0,   3,  0,   3,   0,  //
                                        0,   3,  1,   200, 5, 3}));
  EXPECT_EQ(given.values[206], 0);              // a type
  EXPECT_EQ(given.values[2 * 206 + 202], 199);  // a position
  EXPECT_EQ(encode_scratch({}, 10).places.size(), size_t{7});
}

}  // namespace
}  // namespace impetus::mlx_backend
#endif

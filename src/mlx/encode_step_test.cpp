// The kernel of whole batches of texts, run on the host, its blocks by turns: against MLX's
// operations, in whole models.
#include "mlx/encode_step.h"

#ifdef __linux__  // contexts that run by turns
#include <numeric>
#include <random>

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
  bool throws = false;   // it does not compile
  bool forgets = false;  // it leaves the first vector as it was
  unsigned missing = 0;  // so many blocks do not come
  int shared_bytes = 227 << 10;
  std::optional<int> tiling;  // of all products
  int* launches = nullptr;
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
    if (ways_.launches != nullptr) ++*ways_.launches;
    int tilings = 0;
    for (size_t i = 0; i < launch.tilings.size(); ++i) {
      const int tiling = ways_.tiling.value_or(launch.tilings[i]);
      EXPECT_LE(tiling_bytes(tiling, i % 2 == 0, form_.hidden), bytes_);
      tilings |= tiling << 2 * i;
    }
    with([&](auto model) {
      using Model = decltype(model);
      expect_layout<Model>();
      on_host::launch_at_once(
          kBlocks, ways_.missing, kEncodeThreads, static_cast<size_t>(bytes_), [&](char* memory) {
            impetus::Encode<Model>(reinterpret_cast<const long long*>(table_.data()),
                                   reinterpret_cast<char*>(scratch_.data()), memory, launch.rows,
                                   launch.tiles, launch.texts)
                .run(launch.given, tilings, launch.vectors, launch.status);
          });
    });
    if (ways_.forgets) std::fill_n(launch.vectors, form_.hidden, 0.0f);
  }

 private:
  static constexpr int kBlocks = 3;

  template <typename Model>
  void expect_layout() const {
    EXPECT_LE(static_cast<int>(sizeof(impetus::PrefillShared<Model::kDim, 0>)) * 2, bytes_);
    EXPECT_LE(impetus::kProductWarps * form_.hidden * 4, bytes_);
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
           with_type<16, 1, 2>(body) || with_type<80, 2, 0>(body) || with_type<80, 4, 0>(body);
  }

  EncodeForm form_;
  Ways ways_;
  int bytes_ = 0;
  std::vector<int64_t> table_;
  std::vector<mx::array> held_;
  std::vector<std::max_align_t> scratch_;
};
static_assert(kEncodeThreads == impetus::kProductThreads);

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

std::unique_ptr<Backend> backend_with(const Ways& ways, int64_t rows = 512) {
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
    {5, 80, 256, Activation::gelu_erf, Pooling::mean, true},
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
impetus::testing::Matrix reference_of(const ModelSpec& spec, const WeightSet& weights, const Texts& texts) {
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

constexpr int kLengths[] = {5, 128, 1, 65, 16, 17};

TEST(EncodeStep, AsAReferenceInDoubleByEachTiling) {
  uint64_t seed = 1;
  for (const Shape& shape : kShapes) {
    for (const DType type : {DType::f16, DType::bf16}) {
      const ModelSpec spec = spec_of(shape, seed % 3 == 0 ? "distilbert" : "bert");
      RandomModelBuilder builder(spec, ++seed, type);
      const RandomModel model = builder.encoder();
      const Texts texts = texts_of(kLengths, spec, seed);
      const auto wanted = reference_of(spec, *model.weights, texts);
      double largest = 0;
      for (const auto& row : wanted) {
        for (const double value : row) largest = std::max(largest, std::abs(value));
      }
      for (const int tiling : {0, 1, 2}) {
        int launches = 0;
        Ways ways;
        ways.tiling = tiling;
        ways.launches = &launches;
        const auto loaded = load_encoder_on(backend_with(ways), spec, *model.weights);
        const int before = launches;
        const auto made = loaded->encode(texts.batch());
        ASSERT_TRUE(made.ok()) << made.error().message;
        EXPECT_EQ(launches, before + 1);
        EXPECT_EQ(whole_steps_of(*loaded.model), 1);
        std::cout << distance(wanted, made->values) / largest << "\n";
        // Weights are what they are; what is between products is rounded to 16 bits.
        EXPECT_LT(distance(wanted, made->values) / largest, type == DType::bf16 ? 0.03 : 0.004)
            << to_string(type) << ", tiles " << tiling << ", " << shape.heads << " heads of "
            << shape.head_dim;
      }
    }
  }
}

}  // namespace
}  // namespace impetus::mlx_backend
#endif

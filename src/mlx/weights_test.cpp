// Weights: repacked without a rounding, borrowed without a copy, and MLX's own quantisation in
// every bits and group against the values it stands for.
#include "mlx/weights.h"

#include <fstream>

#include "cpu/cpu_backend.h"
#include "mlx/decoder.h"
#include "mlx/kernel_check.h"
#include "mlx/test_support.h"
#include "tests/conformance/subject.h"

namespace impetus::mlx_backend {
namespace {

using conformance::all_logits;
using conformance::decoder_spec;
using conformance::f32_options;
using conformance::load_decoder_on;
using conformance::random_tokens;
using testing::RandomModel;
using testing::RandomModelBuilder;

TEST(MlxWeights, RepackedBlocksHaveTheFilesValues) {
  const Turn turn(true);
  std::mt19937_64 random(11);
  for (const DType type : {DType::q8_0, DType::q4_0}) {
    for (const auto& [rows, columns] : {std::pair{1, 32}, {3, 64}, {17, 96}, {40, 256}}) {
      Tensor source = *Tensor::zeros(DType::f32, {rows, columns});
      auto* values = reinterpret_cast<float*>(source.mutable_bytes().data());
      std::normal_distribution<float> normal(0, 2);
      for (int i = 0; i < rows * columns; ++i) values[i] = normal(random);
      const Tensor blocks = *convert(source.view(), type);
      std::vector<float> wanted(static_cast<size_t>(rows * columns));
      dequantize(type, blocks.view().data.data(), rows * columns, wanted.data());
      for (const mx::Dtype scales : {mx::float32, mx::float16}) {
        const Matrix matrix = repack(blocks.view(), scales);
        // In f32 the scale, the code and their product are exact, and so is the sum.
        const auto wide = [&](const mx::array& a) { return mx::astype(a, mx::float32); };
        EXPECT_EQ(floats(mx::dequantize(matrix.weight, wide(*matrix.scales), wide(*matrix.biases),
                                        32, matrix.bits)),
                  wanted)
            << to_string(type) << " " << rows << " x " << columns;
      }
    }
  }
}

TEST(MlxWeights, FilesAreBorrowedOnTheCpu) {
  if (Wall::get().has_gpu()) return;  // its allocator is another
  const Turn turn(true);
  alignas(16) float values[24];
  for (int i = 0; i < 24; ++i) values[i] = static_cast<float>(i);
  const auto* bytes = reinterpret_cast<const std::byte*>(values + 4);
  auto borrowed = borrow_on_cpu(bytes, {4, 5}, mx::float32);
  ASSERT_TRUE(borrowed.has_value());
  EXPECT_EQ(borrowed->data<float>(), values + 4);
  EXPECT_EQ(floats(mx::add(*borrowed, *borrowed))[19], 46);
  // An operation may not take the borrowed memory for its result.
  EXPECT_FALSE(borrowed->is_donatable());
  borrowed = mx::add(*borrowed, mx::array(1.0f));
  borrowed->eval();
  EXPECT_EQ(values[4], 4);
  EXPECT_FALSE(borrow_on_cpu(bytes + 2, {4}, mx::float32).has_value());

  RandomModelBuilder builder(decoder_spec("llama"), 1, DType::f32);
  const RandomModel model = builder.decoder();
  const auto loaded =
      load_decoder_on(std::move(*make_mlx_backend({.cpu = true})), model.spec, *model.weights);
  int64_t matrices = 0;
  for (const NamedTensor& tensor : model.weights->tensors()) {
    if (tensor.view.shape.rank() == 2) matrices += static_cast<int64_t>(tensor.view.data.size());
  }
  EXPECT_EQ(counters_of(*loaded.model).borrowed_bytes, matrices);
}

TEST(MlxWeights, ViewsOfPagesAreTheFilesBytes) {
  const Turn turn(true);
  std::vector<uint8_t> bytes(3 * kPageBytes);
  std::mt19937_64 random(5);
  for (auto& byte : bytes) byte = static_cast<uint8_t>(random());
  const mx::array pages(bytes.begin(), {3, static_cast<int>(kPageBytes)}, mx::uint8);
  for (const int64_t offset :
       {int64_t{0}, int64_t{4}, kPageBytes - 8, kPageBytes, 2 * kPageBytes + 64}) {
    mx::array view = view_of_pages(pages, offset, {3, 5}, mx::uint32);
    view.eval();
    mx::array wanted_host = mx::contiguous(view);
    wanted_host.eval();
    uint32_t wanted[15];
    std::memcpy(wanted, bytes.data() + offset, sizeof wanted);
    EXPECT_TRUE(std::equal(wanted, wanted + 15, wanted_host.data<uint32_t>())) << offset;
  }
}

// A model whose matrices MLX's own quantiser wrote, and the one of the values they stand for.
struct GroupedModel {
  RandomModel dense;
  std::vector<std::unique_ptr<GroupQuantised>> groups;
  std::vector<mx::array> arrays;
  std::vector<Tensor> decoded;
  std::unique_ptr<WeightSet> grouped, values;
};

GroupedModel quantise(const ModelSpec& spec, uint64_t seed, int bits, int group,
                      const std::string& mode, DType type) {
  GroupedModel made;
  made.dense = RandomModelBuilder(spec, seed, type, type).decoder();
  std::vector<NamedTensor> grouped, values;
  made.decoded.reserve(made.dense.tensors.size());
  for (const NamedTensor& tensor : made.dense.tensors) {
    if (tensor.view.shape.rank() != 2) {
      grouped.push_back(tensor);
      made.decoded.push_back(*convert(tensor.view, DType::f32));
      values.push_back({tensor.name, made.decoded.back().view(), 0});
      continue;
    }
    std::vector<float> floats(static_cast<size_t>(tensor.view.shape.elements()));
    dequantize(tensor.view.dtype, tensor.view.data.data(), tensor.view.shape.elements(),
               floats.data());
    const mx::array whole = mx::astype(
        mx::array(floats.begin(),
                  {static_cast<int>(tensor.view.shape[0]), static_cast<int>(tensor.view.shape[1])},
                  mx::float32),
        *mlx_type(type));
    const auto parts = mx::quantize(whole, group, bits, mode);
    auto about = std::make_unique<GroupQuantised>();
    about->mode = mode == "affine" ? GroupQuantised::Mode::affine : GroupQuantised::Mode::mxfp4;
    about->bits = bits;
    about->group = group;
    about->scale_type = mode == "affine" ? type : DType::u8;
    const auto bytes = [&](const mx::array& part) {
      made.arrays.push_back(mx::contiguous(part));
      made.arrays.back().eval();
      return std::span<const std::byte>(made.arrays.back().data<std::byte>(), part.nbytes());
    };
    NamedTensor quantised = tensor;
    quantised.view.dtype = DType::grouped;
    quantised.view.data = bytes(parts[0]);
    about->scales = bytes(parts[1]);
    if (parts.size() > 2) about->biases = bytes(parts[2]);
    quantised.view.grouped = about.get();
    made.groups.push_back(std::move(about));
    Tensor decoded = *Tensor::zeros(DType::f32, tensor.view.shape);
    for (int64_t r = 0; r < tensor.view.shape.rows(); ++r) {
      dequantize_row(quantised.view, r,
                     reinterpret_cast<float*>(decoded.mutable_bytes().data()) +
                         r * tensor.view.shape.columns());
    }
    made.decoded.push_back(std::move(decoded));
    values.push_back({tensor.name, made.decoded.back().view(), 0});
    grouped.push_back(std::move(quantised));
  }
  made.grouped = std::make_unique<WeightSet>(*WeightSet::build({}, grouped, {}, "grouped"));
  made.values = std::make_unique<WeightSet>(*WeightSet::build({}, values, {}, "values"));
  return made;
}

// Products with a bias before each row, of matrices by themselves and joined, against sums in
// double.
TEST(MlxWeights, JoinedMatricesMultiplyAsTheirParts) {
  std::mt19937_64 random(161);
  std::normal_distribution<float> normal;
  const Turn turn(true);
  constexpr int kIn = 64;
  const int widths[] = {24, 8, 40};
  const auto values_of = [&](const mx::Shape& shape) {
    std::vector<float> values(static_cast<size_t>(shape[0] * (shape.size() > 1 ? shape[1] : 1)));
    for (float& value : values) value = normal(random);
    mx::array made(values.begin(), shape, mx::float32);
    made.eval();
    return made;
  };
  for (const bool quantised : {false, true}) {
    std::vector<Matrix> parts;
    std::vector<double> weights, biases;  // of all outputs
    for (const int width : widths) {
      Matrix part;
      mx::array weight = values_of({width, kIn});
      if (quantised) {
        const auto packed = mx::quantize(weight, 32, 8);
        part.weight = packed[0];
        part.scales = packed[1];
        part.biases = packed[2];
        part.bits = 8;
        part.group = 32;
        weight = mx::dequantize(packed[0], packed[1], packed[2], 32, 8);
      } else {
        part.weight = weight;
      }
      part.bias = values_of({width});
      for (const float w : floats(weight)) weights.push_back(static_cast<double>(w));
      for (const float b : floats(*part.bias)) biases.push_back(static_cast<double>(b));
      if (width != widths[1]) part.transpose();  // whether or not a view was made before
      parts.push_back(std::move(part));
    }
    const auto whole = joined(parts);
    ASSERT_TRUE(whole.has_value());
    EXPECT_EQ(whole->transposed.has_value(), !quantised);
    const int64_t all[] = {24, 8, 40};
    for (const int rows : {1, 2, 5}) {
      const mx::array x = values_of({rows, kIn});
      const auto in = floats(x);
      const auto multiply = [](const Matrix& m, const mx::array& of) { return m.apply(of); };
      for (const auto& matrices : {parts, std::vector<Matrix>{*whole}}) {
        size_t output = 0;
        const auto made = products(matrices, x, all, multiply);
        for (size_t p = 0; p < made.size(); output += static_cast<size_t>(all[p++])) {
          const auto got = floats(made[p]);
          for (size_t r = 0; r < static_cast<size_t>(rows); ++r) {
            for (size_t o = 0; o < static_cast<size_t>(all[p]); ++o) {
              double expected = biases[output + o], size = std::abs(expected);
              for (size_t c = 0; c < kIn; ++c) {
                const double one =
                    static_cast<double>(in[r * kIn + c]) * weights[(output + o) * kIn + c];
                expected += one;
                size += std::abs(one);
              }
              ASSERT_NEAR(got[r * static_cast<size_t>(all[p]) + o], expected, 0x1p-24 * 16 * size)
                  << (quantised ? "quantised" : "dense") << " part " << p << " row " << r;
            }
          }
        }
      }
    }
  }
}

// In every form that files have, with a bias and without.
TEST(MlxWeights, DequantisedMatricesMultiplyAsTheirCodes) {
  std::mt19937 random(31);
  const Turn turn(true);
  const auto check = [&](int bits, int group, const std::string& mode, mx::Dtype type) {
    const auto packed = mx::quantize(random_rows(random, {40, 256}, type), group, bits, mode);
    Matrix matrix;
    matrix.weight = packed[0];
    matrix.scales = packed[1];
    if (packed.size() > 2) matrix.biases = packed[2];
    matrix.bits = bits;
    matrix.group = group;
    matrix.mode = mode;
    ASSERT_TRUE(matrix.dequantisable(type));
    EXPECT_EQ(matrix.dequantised_bytes(type), 40 * 256 * static_cast<int64_t>(type.size()));
    // Codes in f32, as MLX's CPU rounds every sum in narrower types.
    Matrix codes = matrix;
    const auto wide = [](mx::array array) { return mx::astype(array, mx::float32); };
    if (mode == "affine") {
      codes.scales = wide(*codes.scales);
      codes.biases = wide(*codes.biases);
    }
    const double limit = type == mx::float32 ? 1e-5 : type == mx::float16 ? 2e-3 : 1.6e-2;
    for (const bool bias : {false, true}) {
      if (bias) {
        matrix.bias = random_rows(random, {40}, type);
        matrix.bias->eval();
        codes.bias = wide(*matrix.bias);
        codes.bias->eval();
      }
      for (const int rows : {1, 3, 33}) {
        const mx::array x = random_rows(random, {rows, 256}, type);
        const mx::array made = matrix.apply_dequantised(x), wanted = codes.apply(wide(x));
        EXPECT_EQ(made.dtype(), type);
        EXPECT_EQ(made.shape(), wanted.shape());
        EXPECT_LE(apart(made, wanted), limit)
            << bits << " bits, groups of " << group << ", " << mode << (bias ? ", bias" : "");
      }
    }
  };
  for (const mx::Dtype type : {mx::float32, mx::float16, mx::bfloat16}) {
    for (const int bits : {2, 3, 4, 5, 6, 8}) {
      for (const int group : {32, 64, 128}) check(bits, group, "affine", type);
    }
    check(4, 32, "mxfp4", type);
  }
  Matrix dense;
  EXPECT_FALSE(dense.dequantisable(mx::float32));
  dense.bits = 4;
  dense.scales = mx::array(1.0f, mx::float16);
  EXPECT_FALSE(dense.dequantisable(mx::float32));
}

TEST(MlxWeights, ItsOwnQuantisationRunsAsItIs) {
  std::mt19937_64 random(2718);
  ModelSpec spec = decoder_spec("llama");
  spec.hidden = 128;
  spec.feed_forward = 256;
  spec.heads = 8;
  spec.kv_heads = 4;
  spec.head_dim = 32;
  const auto tokens = random_tokens(random, 23, spec.vocab);
  const auto check = [&](int bits, int group, const std::string& mode, DType type) {
    std::optional<GroupedModel> model;
    {
      const Turn turn(true);
      model = quantise(spec, random(), bits, group, mode, type);
    }
    const auto quantised =
        load_decoder_on(std::move(*make_mlx_backend({.cpu = true})), spec, *model->grouped);
    const auto values =
        load_decoder_on(std::move(*make_cpu_backend({1, "reference"})), spec, *model->values);
    const auto wanted = all_logits(*values.model, tokens),
               got = all_logits(*quantised.model, tokens);
    ASSERT_EQ(wanted.size(), got.size());
    double largest = 1, worst = 0;
    for (size_t i = 0; i < wanted.size(); ++i) {
      largest = std::max(largest, std::fabs(static_cast<double>(wanted[i])));
      worst =
          std::max(worst, std::fabs(static_cast<double>(wanted[i]) - static_cast<double>(got[i])));
    }
    // f32: sums in another order. Narrower: activations, and the embedding's rows, are rounded too.
    const double tolerance = type == DType::f32 ? 1e-4 : 64 * conformance::rounding_of(type);
    EXPECT_LE(worst, tolerance * largest)
        << bits << " bits, groups of " << group << ", " << mode << ", " << to_string(type);
    const Turn turn(true);
    model.reset();
  };
  for (const int bits : {2, 3, 4, 5, 6, 8}) {
    for (const int group : {32, 64, 128}) check(bits, group, "affine", DType::f32);
    check(bits, 64, "affine", bits % 2 == 0 ? DType::f16 : DType::bf16);
  }
  for (const DType type : {DType::f32, DType::bf16}) check(4, 32, "mxfp4", type);
}

}  // namespace
}  // namespace impetus::mlx_backend

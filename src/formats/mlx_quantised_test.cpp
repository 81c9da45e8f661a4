// MLX's own quantiser made the golden file (tests/golden/make_mlx_quantised.py).
#include "formats/mlx_quantised.h"

#include <cstring>

#include <gtest/gtest.h>

#include "tests/support/safetensors_writer.h"

namespace impetus {
namespace {

using testing::Bytes;
using testing::SafetensorsWriter;

json::object config_of(std::string_view text) {
  return parse_json(text)->as_object();
}

// {"quantization": {"group_size": 64, "bits": 4, NAME: its own, ...}} for the names of the golden.
json::object golden_config(const WeightSet& set) {
  json::object quantization{{"group_size", 64}, {"bits", 4}};
  for (const NamedTensor& tensor : set.tensors()) {
    int bits = 0, group = 0;
    if (std::sscanf(tensor.name.c_str(), "b%d_g%d_", &bits, &group) == 2) {
      quantization[tensor.name.substr(0, tensor.name.find('.'))] =
          json::object{{"group_size", group}, {"bits", bits}};
    }
  }
  quantization["mxfp4"] = json::object{{"group_size", 32}, {"bits", 4}, {"mode", "mxfp4"}};
  return {{"quantization", quantization}};
}

TEST(MlxQuantised, DecodesAsMlxDoes) {
  auto set = open_safetensors(IMPETUS_SOURCE_DIR "/tests/golden/mlx_quantised.safetensors");
  ASSERT_TRUE(set.ok()) << set.error().message;
  const json::object config = golden_config(*set);
  const int64_t bytes = set->bytes();
  const auto joined = join_quantised(std::move(*set), config);
  ASSERT_TRUE(joined.ok()) << joined.error().message;
  EXPECT_EQ(joined->bytes(), bytes);
  int compared = 0;
  for (const NamedTensor& tensor : joined->tensors()) {
    if (tensor.view.dtype != DType::grouped) continue;
    const std::string name = tensor.name.substr(0, tensor.name.find('.'));
    const NamedTensor* expected = joined->find(name + ".expected");
    ASSERT_NE(expected, nullptr) << name;
    ASSERT_EQ(tensor.view.shape, expected->view.shape) << name;
    EXPECT_FALSE(joined->contains(name + ".scales"));
    std::vector<float> row(static_cast<size_t>(tensor.view.shape.columns()));
    for (int64_t r = 0; r < tensor.view.shape.rows(); ++r) {
      dequantize_row(tensor.view, r, row.data());
      const auto wanted = expected->view.row(r);
      for (size_t i = 0; i < row.size(); ++i) {
        float value;
        std::memcpy(&value, wanted.data() + i * 4, 4);
        ASSERT_EQ(row[i], value) << name << " row " << r << " value " << i;
      }
    }
    ++compared;
  }
  EXPECT_EQ(compared, 3 * 6 * 3 + 1);
  EXPECT_EQ(joined->find("plain.weight")->view.dtype, DType::f32);
}

// One layer "a" of 2 x 64, with what the caller makes of it.
struct Layer {
  std::string codes_type = "U32", scales_type = "F16", biases_type = "F16";
  std::vector<uint64_t> codes{2, 8}, scales{2, 1}, biases{2, 1};
  bool has_biases = true;
};

Result<WeightSet> joined(const Layer& layer, std::string_view config) {
  const auto bytes_for = [](std::string_view type, const std::vector<uint64_t>& shape) {
    uint64_t bytes = type == "U32" || type == "F32" ? 4 : type == "U8" ? 1 : 2;
    for (const uint64_t dim : shape) bytes *= dim;
    return Bytes(bytes, std::byte{1});
  };
  SafetensorsWriter writer;
  writer.tensor("a.weight", layer.codes_type, layer.codes,
                bytes_for(layer.codes_type, layer.codes));
  writer.tensor("a.scales", layer.scales_type, layer.scales,
                bytes_for(layer.scales_type, layer.scales));
  if (layer.has_biases) {
    writer.tensor("a.biases", layer.biases_type, layer.biases,
                  bytes_for(layer.biases_type, layer.biases));
  }
  static std::vector<std::unique_ptr<Bytes>> kept;  // the set's views borrow from it
  kept.push_back(std::make_unique<Bytes>(writer.finish()));
  auto set = parse_safetensors(*kept.back(), "x.safetensors");
  if (!set.ok()) return std::move(set).error();
  return join_quantised(std::move(*set), config_of(config));
}

constexpr std::string_view kFour = R"({"quantization": {"group_size": 64, "bits": 4}})";

TEST(MlxQuantised, JoinsALayer) {
  const auto set = joined({}, kFour);
  ASSERT_TRUE(set.ok()) << set.error().message;
  ASSERT_EQ(set->tensors().size(), 1u);
  const TensorView& view = set->find("a.weight")->view;
  EXPECT_EQ(view.shape, (Shape{2, 64}));
  EXPECT_EQ(view.grouped->to_string(), "4-bit, groups of 64");
  EXPECT_EQ(view.bytes(), 64 + 4 + 4);
}

TEST(MlxQuantised, OtherMethodsAndPlainFilesAreLeftAlone) {
  const Bytes plain = SafetensorsWriter().f32_tensor("a.weight", {2, 2}).finish();
  for (const char* config : {"{}", R"({"quantization": {"group_size": 64, "bits": 4}})",
                             R"({"quantization_config": {"quant_method": "gptq", "bits": 4}})"}) {
    auto set = parse_safetensors(plain, "x.safetensors");
    const auto same = join_quantised(std::move(*set), config_of(config));
    ASSERT_TRUE(same.ok()) << same.error().message;
    EXPECT_EQ(same->find("a.weight")->view.dtype, DType::f32);
  }
}

TEST(MlxQuantised, EveryContradictionIsOneClearError) {
  struct Case {
    Layer layer;
    std::string_view config;
    std::string_view says;
  };
  const Case cases[] = {
      {{}, "{}", "config.json has no \"quantization\""},
      {{}, R"({"quantization": {"group_size": 64}})", "'bits' is no integer"},
      {{}, R"({"quantization": {"group_size": "64", "bits": 4}})", "'group_size' is no integer"},
      {{}, R"({"quantization": {"group_size": 64, "bits": 7}})", "7 bits in groups of 64"},
      {{}, R"({"quantization": {"group_size": 48, "bits": 4}})", "4 bits in groups of 48"},
      {{}, R"({"quantization": {"group_size": 64, "bits": -4}})", "-4 bits"},
      {{}, R"({"quantization": {"group_size": 16, "bits": 4, "mode": "nvfp4"}})", "mode \"nvfp4\""},
      {{}, R"({"quantization": {"group_size": 64, "bits": 4, "mode": "mxfp4"}})", "(mxfp4)"},
      {{}, R"({"quantization": {"group_size": 64, "bits": 4, "a": false}})", "yet it has scales"},
      {{},
       R"({"quantization": {"group_size": 64, "bits": 4, "a": {"bits": 5, "group_size": 64}}})",
       "codes [2, 8] and scales [2, 1] do not fit 5 bits in groups of 64"},
      {{.codes_type = "F32"}, kFour, "codes in u32"},
      {{.codes = {16}}, kFour, "not two matrices"},
      {{.codes = {3, 8}}, kFour, "codes [3, 8] and scales [2, 1]"},
      {{.codes = {2, 7}}, kFour, "codes [2, 7] and scales [2, 1]"},
      {{.codes = {2, 0}, .scales = {2, 0}}, kFour, "do not fit"},
      {{.codes = {0, uint64_t{1} << 62}, .scales = {0, uint64_t{1} << 62}, .biases = {0, 1}},
       kFour,
       "do not fit"},
      {{.scales_type = "U8"}, kFour, "scales are u8"},
      {{.scales_type = "F32"}, kFour, "biases are f16 [2, 1], scales f32 [2, 1]"},
      {{.biases = {2, 2}}, kFour, "biases are f16 [2, 2]"},
      {{.has_biases = false}, kFour, "its biases are missing"},
      {{.scales_type = "U8", .scales = {2, 2}},
       R"({"quantization": {"group_size": 32, "bits": 4, "mode": "mxfp4"}})",
       "mxfp4 has no biases"},
  };
  for (const Case& c : cases) {
    const auto set = joined(c.layer, c.config);
    ASSERT_FALSE(set.ok()) << c.says;
    EXPECT_NE(set.error().message.find(c.says), std::string::npos)
        << c.says << "\n in: " << set.error().message;
    EXPECT_NE(set.error().message.find("x.safetensors: layer a"), std::string::npos)
        << set.error().message;
  }
}

}  // namespace
}  // namespace impetus

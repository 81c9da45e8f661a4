// The fuzzers' seeds are files that the test writers make. IMPETUS_UPDATE_SEEDS=1 writes them anew;
// otherwise this shows that they are still what the writers say and that the parsers take them.
#include <cstdlib>
#include <map>

#include <gtest/gtest.h>

#include "architectures/model_spec.h"
#include "tests/support/tiny_models.h"

namespace impetus {
namespace {

using namespace impetus::testing;

std::map<std::string, Bytes> seeds() {
  const auto text = [](std::string_view json) { return bytes_of_text(json); };
  const TensorList few = {{"token_embd.weight", {4, 8}}, {"output_norm.weight", {8}}};
  return {
      {"safetensors/few",
       SafetensorsWriter().f32_tensor("a", {2}).f32_tensor("b", {1, 2}).finish()},
      {"safetensors/types", SafetensorsWriter()
                                .metadata("format", "pt")
                                .tensor("h", "F16", {2}, Bytes(4))
                                .tensor("b", "BF16", {2}, Bytes(4))
                                .tensor("i", "I64", {1}, Bytes(8))
                                .tensor("e", "F8_E4M3", {4}, Bytes(4))
                                .tensor("z", "F32", {0, 3}, {})
                                .finish()},
      // Layers as safetensors_fuzz.cpp's config has them.
      {"safetensors/mlx", SafetensorsWriter()
                              .tensor("a.weight", "U32", {2, 8}, Bytes(64, std::byte{0x5a}))
                              .tensor("a.scales", "F16", {2, 1}, Bytes(4, std::byte{0x2c}))
                              .tensor("a.biases", "F16", {2, 1}, Bytes(4, std::byte{0xac}))
                              .tensor("b.weight", "U32", {1, 6}, Bytes(24, std::byte{0x35}))
                              .tensor("b.scales", "BF16", {1, 2}, Bytes(4, std::byte{0x3c}))
                              .tensor("b.biases", "BF16", {1, 2}, Bytes(4, std::byte{0xbc}))
                              .tensor("c.weight", "U32", {1, 4}, Bytes(16, std::byte{0x91}))
                              .tensor("c.scales", "U8", {1, 1}, Bytes(1, std::byte{126}))
                              .finish()},
      {"gguf/vocabulary", GgufWriter()
                              .string("general.architecture", "llama")
                              .strings("tokenizer.ggml.tokens", {"<s>", "a", "b"})
                              .f32s("tokenizer.ggml.scores", {0, -1, -2})
                              .i32s("tokenizer.ggml.token_type", {3, 1, 1})
                              .boolean("tokenizer.ggml.add_bos_token", true)
                              .finish()},
      {"gguf/tensors", GgufWriter()
                           .u32("general.alignment", 64)
                           .u64("n", 5)
                           .f64("x", 0.5)
                           .align(64)
                           .f32_tensor("a", {2, 3})
                           .tensor("q8", DType::q8_0, {1, 32}, Bytes(34))
                           .tensor("q4", DType::q4_0, {1, 32}, Bytes(18))
                           .typed_tensor("k", 14, {256}, Bytes(210))
                           .finish()},
      {"config/llama", text(kTinyLlamaConfig)},
      {"config/bert", text(kTinyBertConfig)},
      {"config/distilbert", text(kTinyDistilbertConfig)},
      {"config/qwen3",
       text(R"({"model_type":"qwen3","hidden_size":8,"intermediate_size":12,)"
            R"("num_hidden_layers":2,"num_attention_heads":2,"num_key_value_heads":1,)"
            R"("head_dim":6,"vocab_size":13,"max_position_embeddings":16,)"
            R"("rope_parameters":{"rope_theta":1e6,"rope_type":"llama3","factor":8,)"
            R"("low_freq_factor":1,"high_freq_factor":4,)"
            R"("original_max_position_embeddings":8192},"layer_types":["full_attention"]})")},
      {"config/llama.gguf", gguf_of(tiny_decoder_metadata(), few)},
      {"config/bert.gguf", gguf_of(tiny_bert_metadata().u32("bert.pooling_type", 2), few)},
  };
}

TEST(FuzzSeeds, AreWhatTheWritersMake) {
  const auto folder = std::filesystem::path(IMPETUS_SOURCE_DIR) / "tests/fuzz/seeds";
  const bool update = std::getenv("IMPETUS_UPDATE_SEEDS") != nullptr;
  for (const auto& [name, bytes] : seeds()) {
    const auto path = folder / name;
    if (update) {
      std::filesystem::create_directories(path.parent_path());
      std::ofstream file(path, std::ios::binary);
      file.write(reinterpret_cast<const char*>(bytes.data()),
                 static_cast<std::streamsize>(bytes.size()));
    }
    const auto found = read_file(path);
    ASSERT_TRUE(found.ok()) << found.error().message << " (IMPETUS_UPDATE_SEEDS=1 writes it)";
    EXPECT_EQ(bytes_of_text(*found), bytes) << name << " (IMPETUS_UPDATE_SEEDS=1 writes it anew)";
    if (name.starts_with("safetensors/")) {
      EXPECT_TRUE(parse_safetensors(bytes, name).ok()) << name;
    } else if (name.starts_with("gguf/") || name.ends_with(".gguf")) {
      const auto file = GgufFile::parse(bytes, name);
      ASSERT_TRUE(file.ok()) << file.error().message;
      if (name.starts_with("config/")) {
        const auto spec = spec_from_gguf(*file);
        EXPECT_TRUE(spec.ok()) << spec.error().message;
      }
    } else {
      const auto spec = spec_from_config(parse_json(*found)->get_object());
      EXPECT_TRUE(spec.ok()) << name << ": " << spec.error().message;
    }
  }
}

// Seeded lies in configs: a spec or one error, never more. (The fuzzer goes further.)
TEST(ConfigMutations, OnlyCleanErrors) {
  const char* values[] = {"0",
                          "-1",
                          "1",
                          "3",
                          "1e999",
                          "1e30",
                          "9223372036854775807",
                          "null",
                          "\"x\"",
                          "[]",
                          "{}",
                          "true",
                          "18446744073709551615",
                          "4294967296",
                          "0.5",
                          "2"};
  int fine = 0;
  for (const std::string_view base : {kTinyLlamaConfig, kTinyBertConfig, kTinyDistilbertConfig}) {
    for (uint32_t seed = 0; seed < 2000; ++seed) {
      std::mt19937 random(seed);
      json::object config = parse_json(base)->get_object();
      config["rope_scaling"] = json::object{{"type", "llama3"},
                                            {"factor", 8},
                                            {"low_freq_factor", 1},
                                            {"high_freq_factor", 4},
                                            {"original_max_position_embeddings", 8192}};
      config["head_dim"] = 8;
      for (uint32_t lie = random() % 3 + 1; lie > 0; --lie) {
        json::object& target = random() % 4 == 0 && config["rope_scaling"].is_object()
                                   ? config["rope_scaling"].get_object()
                                   : config;
        if (target.empty()) continue;
        auto field = target.begin() + random() % target.size();
        if (field->key() == "model_type") continue;
        field->value() = *parse_json(values[random() % std::size(values)]);
      }
      const auto spec = spec_from_config(config);
      if (!spec.ok()) {
        const auto code = spec.error().code;
        ASSERT_TRUE(code == ErrorCode::corrupt || code == ErrorCode::unsupported)
            << json::serialize(config) << ": " << spec.error().message;
        continue;
      }
      ++fine;
      if (spec->kind == ModelKind::encoder) {
        ASSERT_EQ(spec->heads * spec->head_dim, spec->hidden);
        continue;
      }
      ASSERT_EQ(spec->heads % spec->kv_heads, 0);
      if (spec->head_dim > 4096) continue;
      for (const float frequency : spec->rope_frequencies()) ASSERT_GE(frequency, 0);
    }
  }
  EXPECT_GT(fine, 100);
}

}  // namespace
}  // namespace impetus

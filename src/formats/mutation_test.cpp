// Thousands of seeded lies told to the parsers: each answer is a set of tensors that holds
// together, or one error that names the file. Run under ASan and UBSan this also shows that nothing
// is read outside the bytes: they are copied to a block of exactly their size.
#include <algorithm>
#include <cstring>
#include <functional>
#include <memory>
#include <random>

#include <gtest/gtest.h>

#include "formats/gguf.h"
#include "formats/mlx_quantised.h"
#include "tests/support/gguf_writer.h"
#include "tests/support/safetensors_writer.h"
#include "tests/support/weights_check.h"

namespace impetus {
namespace {

using testing::Bytes;

Bytes gguf_sample() {
  return testing::GgufWriter()
      .string("general.architecture", "llama")
      .u32("general.alignment", 32)
      .u64("big", 77)
      .f32("eps", 1e-5f)
      .boolean("flag", true)
      .strings("tokenizer.ggml.tokens", {"<s>", "a", "\xe2\x96\x81the"})
      .f32s("tokenizer.ggml.scores", {0, -1, -2})
      .i32s("types", {1, 2, 3})
      .f32_tensor("token_embd.weight", {3, 32})
      .tensor("q8", DType::q8_0, {2, 32}, Bytes(68, std::byte{1}))
      .tensor("q4", DType::q4_0, {1, 64}, Bytes(36, std::byte{2}))
      .typed_tensor("kq", 14, {256}, Bytes(210))
      .finish();
}

Bytes safetensors_sample() {
  return testing::SafetensorsWriter()
      .metadata("format", "pt")
      .f32_tensor("model.embed_tokens.weight", {3, 4})
      .tensor("half", "F16", {4}, Bytes(8))
      .tensor("brain", "BF16", {2, 2}, Bytes(8))
      .tensor("eight", "F8_E4M3", {8}, Bytes(8))
      .f32_tensor("last", {2, 2, 2})
      .finish();
}

// One to three lies: cut, flip bits, overwrite a word with an extreme, copy, insert, remove.
Bytes mutate(Bytes bytes, std::mt19937& random) {
  constexpr uint64_t kExtremes[] = {0,          1,          0x7f,       0xff,       0xffff,
                                    0x7fffffff, 0x80000000, 0xffffffff, 1ull << 32, 1ull << 62,
                                    1ull << 63, ~0ull,      ~0ull - 31, 32,         9};
  const auto below = [&](size_t n) { return n == 0 ? 0 : random() % n; };
  const size_t lies = 1 + below(3);
  for (size_t i = 0; i < lies && !bytes.empty(); ++i) {
    switch (below(7)) {
      case 0:
        bytes.resize(below(bytes.size()));
        break;
      case 1:
        bytes[below(bytes.size())] ^= static_cast<std::byte>(1u << below(8));
        break;
      case 2:
        bytes[below(bytes.size())] = static_cast<std::byte>(random());
        break;
      case 3: {  // a length, count, dimension or offset, anywhere
        const size_t size = below(2) == 0 ? 4 : 8;
        if (bytes.size() < size) break;
        const uint64_t extreme = kExtremes[below(std::size(kExtremes))];
        std::memcpy(bytes.data() + below(bytes.size() - size + 1), &extreme, size);
        break;
      }
      case 4: {  // a digit of a JSON number, or whatever else is there
        const size_t at = below(bytes.size());
        bytes[at] = static_cast<std::byte>("0123456789-.e\"[]{},:"[below(20)]);
        break;
      }
      case 5: {
        const size_t from = below(bytes.size());
        const size_t size = std::min<size_t>(below(40), bytes.size() - from);
        const Bytes piece(bytes.begin() + static_cast<ptrdiff_t>(from),
                          bytes.begin() + static_cast<ptrdiff_t>(from + size));
        bytes.insert(bytes.begin() + static_cast<ptrdiff_t>(below(bytes.size())), piece.begin(),
                     piece.end());
        break;
      }
      default: {
        const size_t from = below(bytes.size());
        const size_t size = std::min<size_t>(1 + below(16), bytes.size() - from);
        bytes.erase(bytes.begin() + static_cast<ptrdiff_t>(from),
                    bytes.begin() + static_cast<ptrdiff_t>(from + size));
      }
    }
  }
  return bytes;
}

// Empty where the parser answered as it must.
using Check = std::function<std::string(std::span<const std::byte>)>;

std::string judge(const Error& error) {
  if (!error.message.starts_with("lie: ")) return "the message names no file: " + error.message;
  if (error.code != ErrorCode::corrupt && error.code != ErrorCode::unsupported) {
    return "the code is " + std::string(to_string(error.code)) + ": " + error.message;
  }
  return {};
}

void run(const Bytes& sample, int rounds, const Check& check) {
  ASSERT_EQ(check(sample), "");
  int changed = 0;
  const auto tell = [&](const Bytes& lie) {
    const std::unique_ptr<std::byte[]> exact(new std::byte[lie.size()]);
    std::copy(lie.begin(), lie.end(), exact.get());
    ++changed;
    return check({exact.get(), lie.size()});
  };
  for (size_t size = 0; size < sample.size(); ++size) {  // every truncation
    const Bytes cut(sample.begin(), sample.begin() + static_cast<ptrdiff_t>(size));
    ASSERT_EQ(tell(cut), "") << "cut to " << size;
  }
  for (int seed = 0; seed < rounds; ++seed) {
    std::mt19937 random(static_cast<uint32_t>(seed));
    ASSERT_EQ(tell(mutate(sample, random)), "") << "seed " << seed;
  }
  EXPECT_GE(changed, rounds);
}

TEST(Mutations, Gguf) {
  int survived = 0;
  run(gguf_sample(), 20000, [&](std::span<const std::byte> bytes) -> std::string {
    const auto file = GgufFile::parse(bytes, "lie");
    if (!file.ok()) return judge(file.error());
    ++survived;
    size_t text = 0;
    for (const auto& [key, value] : file->metadata()) {
      text += key.size();
      if (file->find(key) != &value) return "a key is not found by its name";
    }
    if (text > bytes.size()) return "more keys than bytes";
    return testing::contradiction(file->weights(), bytes);
  });
  EXPECT_GT(survived, 100) << "lies in tensor data and strings are no lies: some files still parse";
}

TEST(Mutations, Safetensors) {
  int survived = 0;
  run(safetensors_sample(), 20000, [&](std::span<const std::byte> bytes) -> std::string {
    const auto weights = parse_safetensors(bytes, "lie");
    if (!weights.ok()) return judge(weights.error());
    ++survived;
    return testing::contradiction(*weights, bytes);
  });
  EXPECT_GT(survived, 100);
}

// Lies in the tensors of MLX's layers, and in the config that says how many bits they have.
TEST(Mutations, MlxQuantised) {
  const std::string config =
      R"({"quantization": {"group_size": 64, "bits": 4, "b": {"group_size": 32, "bits": 3},)"
      R"( "c": {"group_size": 32, "bits": 4, "mode": "mxfp4"}, "d": false}})";
  const Bytes tensors = testing::SafetensorsWriter()
                            .tensor("a.weight", "U32", {2, 8}, Bytes(64, std::byte{0x5a}))
                            .tensor("a.scales", "F16", {2, 1}, Bytes(4))
                            .tensor("a.biases", "F16", {2, 1}, Bytes(4))
                            .tensor("b.weight", "U32", {1, 6}, Bytes(24, std::byte{0x35}))
                            .tensor("b.scales", "BF16", {1, 2}, Bytes(4))
                            .tensor("b.biases", "BF16", {1, 2}, Bytes(4))
                            .tensor("c.weight", "U32", {1, 4}, Bytes(16, std::byte{0x91}))
                            .tensor("c.scales", "U8", {1, 1}, Bytes(1))
                            .f32_tensor("d.weight", {1, 3})
                            .finish();
  int joined_layers = 0;
  const auto check = [&](std::span<const std::byte> bytes, const json::object& how) -> std::string {
    auto parsed = parse_safetensors(bytes, "lie");
    if (!parsed.ok()) return judge(parsed.error());
    const auto joined = join_quantised(std::move(*parsed), how);
    if (!joined.ok()) return judge(joined.error());
    std::string wrong = testing::contradiction(*joined, bytes);
    for (const NamedTensor& tensor : joined->tensors()) {
      if (tensor.view.grouped == nullptr || !wrong.empty()) continue;
      ++joined_layers;
      std::vector<float> row(static_cast<size_t>(tensor.view.shape.columns()));
      for (int64_t r = 0; r < tensor.view.shape.rows(); ++r) {
        dequantize_row(tensor.view, r, row.data());
      }
    }
    return wrong;
  };
  const json::object honest = parse_json(config)->as_object();
  run(tensors, 20000, [&](std::span<const std::byte> bytes) { return check(bytes, honest); });
  EXPECT_GT(joined_layers, 1000);
  const Bytes text = testing::bytes_of_text(config);
  int understood = 0;
  for (int seed = 0; seed < 20000; ++seed) {
    std::mt19937 random(static_cast<uint32_t>(seed));
    const Bytes lie = mutate(text, random);
    const auto how =
        parse_json(std::string_view(reinterpret_cast<const char*>(lie.data()), lie.size()));
    if (!how.ok() || !how->is_object()) continue;
    ++understood;
    ASSERT_EQ(check(tensors, how->get_object()), "") << "seed " << seed;
  }
  EXPECT_GT(understood, 500);
}

}  // namespace
}  // namespace impetus

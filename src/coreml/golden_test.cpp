// The writer's bytes: the same on every machine and in every run, and changed only on purpose.
#include <gtest/gtest.h>

#include <cstring>

#include "coreml/test_support.h"
#include "mil/package.h"

namespace impetus::coreml {
namespace {

using testing::converted;

// A small encoder whose values no library's random numbers decide.
testing::RandomModel fixed_encoder() {
  auto model = testing::random_encoder(testing::small_spec(), 1);
  uint64_t state = 0x9e3779b97f4a7c15;
  for (size_t t = 0; t < model.tensors.size(); ++t) {
    const auto bytes = model.storage[t].mutable_bytes();
    for (size_t at = 0; at < bytes.size(); at += sizeof(float)) {
      state = state * 6364136223846793005 + 1442695040888963407;
      const float value = static_cast<float>(state >> 40) / (1 << 24) - 0.5f;  // exact
      std::memcpy(bytes.data() + at, &value, sizeof value);
    }
  }
  return model;
}

uint64_t fnv1a(std::span<const std::byte> bytes, uint64_t hash) {
  for (const std::byte byte : bytes) hash = (hash ^ static_cast<uint64_t>(byte)) * 0x100000001b3;
  return hash;
}

uint64_t hash_of(const std::vector<Converted>& made) {
  uint64_t hash = 0xcbf29ce484222325;
  for (const Converted& one : made) {
    const auto bytes = mil::serialize(one.model);
    EXPECT_TRUE(bytes.ok()) << bytes.error().message;
    if (!bytes.ok()) return 0;
    hash = fnv1a(bytes->weights, fnv1a(bytes->model, hash));
  }
  return hash;
}

struct Golden {
  Precision precision;
  int macos;
  uint64_t hash;
};

// Where one differs on purpose: raise kWriterVersion (caches and packages in the field are told
// apart by it), run this test, and take the hashes it prints.
constexpr int kGoldenVersion = 3;
constexpr Golden kGoldens[] = {
    {Precision::fp16, 13, 0xe4d6d93441c6a275},
    {Precision::fp16, 14, 0xb7594dafb9be0933},
    {Precision::fp16, 15, 0x41de80141f74674a},
    {Precision::int8, 13, 0x3aec234d597b8081},
    {Precision::int8, 15, 0x86c2009a6ff3616b},
    {Precision::palettized8, 13, 0x199c31df3abdf5},
    {Precision::palettized8, 15, 0xcb23ea483475d735},
    {Precision::palettized6, 13, 0x8ec3e9eaf036b381},
    {Precision::palettized6, 15, 0x2956ea79765aa015},
    {Precision::palettized4, 15, 0x8fe966c1882ae8fd},
};

TEST(Writer, GivesTheBytesItGaveBefore) {
  EXPECT_EQ(kWriterVersion, kGoldenVersion) << "new goldens belong to a new version";
  const auto model = fixed_encoder();
  for (const Golden& golden : kGoldens) {
    const uint64_t hash = hash_of(converted(
        model.spec, *model.weights,
        {.precision = golden.precision, .shapes = {16, 32}, .macos = golden.macos, .name = "x"}));
    EXPECT_EQ(hash, golden.hash) << fmt::format("{{Precision::{}, {}, {:#x}}},",
                                                to_string(golden.precision), golden.macos, hash);
  }
}

TEST(Writer, GivesTheSameBytesTwice) {
  const auto model = testing::random_encoder(testing::small_spec("distilbert"), 9);
  const auto again = testing::random_encoder(testing::small_spec("distilbert"), 9);
  const auto other = testing::random_encoder(testing::small_spec("distilbert"), 10);
  for (const auto precision : {Precision::fp16, Precision::int8, Precision::palettized4}) {
    const ConvertOptions options{.precision = precision, .shapes = {16}};
    const uint64_t hash = hash_of(converted(model.spec, *model.weights, options));
    EXPECT_EQ(hash, hash_of(converted(model.spec, *again.weights, options)));
    EXPECT_NE(hash, hash_of(converted(model.spec, *other.weights, options)));
  }
}

}  // namespace
}  // namespace impetus::coreml

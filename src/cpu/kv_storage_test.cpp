// KV on its way from one storage to another: the neutral layout, exactness, rounding, refusals.
#include "cpu/kv_storage.h"

#include <cmath>
#include <cstring>
#include <random>

#include "backend/kv_handoff.h"
#include "cpu/test_support.h"

namespace impetus::cpu {
namespace {

constexpr DType kTypes[] = {DType::f32, DType::f16, DType::bf16};

ModelSpec small_spec() {
  ModelSpec spec;
  spec.family = "llama";
  spec.layers = 3;
  spec.kv_heads = 2;
  spec.head_dim = 8;
  return spec;
}

std::unique_ptr<CpuKvStorage> storage(DType type, MemoryLedger& ledger) {
  return std::move(*CpuKvStorage::create(small_spec(), type, 64, ledger));
}

// Values that no rounding spares, with both zeros, subnormals and the largest of f16.
std::vector<float> some_values(size_t count) {
  std::mt19937_64 random(5);
  std::normal_distribution<float> normal(0, 3);
  std::vector<float> values(count);
  for (float& value : values) value = normal(random);
  const float odd[] = {0.0f, -0.0f, 65504.0f, -65519.0f, 0x1p-24f, 0x1.8p-25f, 1.0f + 0x1p-11f};
  std::copy(std::begin(odd), std::end(odd), values.begin());
  return values;
}

std::vector<std::byte> bytes_as(const std::vector<float>& values, DType type) {
  std::vector<std::byte> bytes(values.size() * static_cast<size_t>(block_bytes(type)));
  convert_kv(DType::f32, std::as_bytes(std::span(values)), type, bytes);
  return bytes;
}

TEST(KvHandoff, TheLayoutIsTheOneThatIsWritten) {
  // What the kernels store comes out at [layer][key or value][head][position][element].
  MemoryLedger ledger(1 << 30);
  for (const DType type : kTypes) {
    const auto kv = storage(type, ledger);
    const KernelTable& table = *supported_kernels().tables[0];
    const auto kernel = static_cast<size_t>(kv->kernel_type());
    const auto values = some_values(static_cast<size_t>(kv->shape().elements()) * 3);
    size_t at = 0;
    for (int64_t layer = 0; layer < 3; ++layer) {
      for (const bool key : {true, false}) {
        for (int64_t head = 0; head < 2; ++head) {
          for (int64_t slot = 5; slot < 8; ++slot, at += 8) {
            if (key) {
              table.store_key[kernel](&values[at], 8, slot, kv->keys(2, layer, head));
            } else {
              table.store_value[kernel](&values[at], 8, slot, kv->values(2, layer, head));
            }
          }
        }
      }
    }
    std::vector<std::byte> out(static_cast<size_t>(kv_bytes(kv->shape(), 3, type)));
    ASSERT_TRUE(kv->export_block(2, 5, 8, out).ok());
    EXPECT_EQ(out, bytes_as(values, type)) << to_string(type);
  }
}

TEST(KvHandoff, EqualTypesPassExactlyAndOthersRoundOnce) {
  MemoryLedger ledger(1 << 30);
  for (const DType from : kTypes) {
    for (const DType to : kTypes) {
      const auto source = storage(from, ledger), target = storage(to, ledger);
      const auto values = some_values(static_cast<size_t>(source->shape().elements()) * 7);
      const auto in = bytes_as(values, from);
      ASSERT_TRUE(source->import_block(1, 3, 10, from, in).ok());
      std::vector<std::byte> scratch;
      ASSERT_TRUE(hand_over(*source, *target, 1, 3, 10, scratch).ok());
      std::vector<std::byte> out(static_cast<size_t>(kv_bytes(target->shape(), 7, to)));
      ASSERT_TRUE(target->export_block(1, 3, 10, out).ok());
      std::vector<float> held(values.size());
      dequantize(from, in.data(), static_cast<int64_t>(held.size()), held.data());
      EXPECT_EQ(out, bytes_as(held, to)) << to_string(from) << " to " << to_string(to);
      if (from == to) EXPECT_EQ(out, in);
    }
  }
}

TEST(KvHandoff, RoundsToNearestEven) {
  const std::vector<float> values = {1 + 0x1p-11f, 1 + 0x3p-11f, 1 + 0x1.1p-11f, 65520.0f};
  const auto bytes = bytes_as(values, DType::f16);
  uint16_t halves[4];
  std::memcpy(halves, bytes.data(), sizeof halves);
  EXPECT_EQ(halves[0], 0x3c00);  // a tie, down to even
  EXPECT_EQ(halves[1], 0x3c02);  // a tie, up to even
  EXPECT_EQ(halves[2], 0x3c01);
  EXPECT_EQ(halves[3], 0x7c00);
}

TEST(KvHandoff, LeavesTheOtherPositionsAlone) {
  MemoryLedger ledger(1 << 30);
  const auto kv = storage(DType::f16, ledger);
  const auto all =
      bytes_as(some_values(static_cast<size_t>(kv->shape().elements()) * 16), DType::f16);
  ASSERT_TRUE(kv->import_block(0, 0, 16, DType::f16, all).ok());
  const auto one = static_cast<size_t>(kv_bytes(kv->shape(), 1, DType::f16));
  const std::vector<std::byte> zeros(one);
  ASSERT_TRUE(kv->import_block(0, 9, 10, DType::f16, zeros).ok());
  std::vector<std::byte> out(one);
  for (int32_t slot = 0; slot < 16; ++slot) {
    ASSERT_TRUE(kv->export_block(0, slot, slot + 1, out).ok());
    EXPECT_EQ(out == zeros, slot == 9) << slot;
  }
}

TEST(KvHandoff, RefusesWhatIsNotThere) {
  MemoryLedger ledger(1 << 30);
  const auto kv = storage(DType::f16, ledger);
  std::vector<std::byte> bytes(static_cast<size_t>(kv_bytes(kv->shape(), 2, DType::f16)));
  const auto code = [](const Result<void>& result) {
    return result.ok() ? std::string("ok") : std::string(to_string(result.error().code));
  };
  EXPECT_EQ(code(kv->export_block(0, 0, 2, bytes)), "ok");
  EXPECT_EQ(code(kv->export_block(4, 0, 2, bytes)), "invalid_argument");
  EXPECT_EQ(code(kv->export_block(-1, 0, 2, bytes)), "invalid_argument");
  EXPECT_EQ(code(kv->export_block(0, 15, 17, bytes)), "invalid_argument");
  EXPECT_EQ(code(kv->export_block(0, 2, 2, bytes)), "invalid_argument");
  EXPECT_EQ(code(kv->export_block(0, 0, 3, bytes)), "invalid_argument");
  EXPECT_EQ(code(kv->import_block(0, 0, 2, DType::f32, bytes)), "invalid_argument");
  EXPECT_EQ(code(kv->import_block(0, 0, 2, DType::q8_0, bytes)), "unsupported");
}

}  // namespace
}  // namespace impetus::cpu

// Attention of every table against softmax in double, and the independence of its rows.
#include <gtest/gtest.h>

#include <memory>

#include "cpu/kernels_test_support.h"

namespace impetus::cpu {
namespace {

constexpr KvType kTypes[] = {KvType::f32, KvType::f16, KvType::bf16};
constexpr const char* kTypeNames[] = {"f32", "f16", "bf16"};

size_t element_bytes(KvType type) {
  return type == KvType::f32 ? 4 : 2;
}

// The keys and values of one head in blocks, and as numbers after rounding to the cache's type.
struct Cache {
  KvType type;
  int32_t block_tokens;
  int32_t head_dim;
  int64_t positions;
  std::vector<float> keys;    // [positions][head_dim]
  std::vector<float> values;  // the same
  std::vector<std::unique_ptr<Guarded<uint8_t>>> key_blocks;
  std::vector<std::unique_ptr<Guarded<uint8_t>>> value_blocks;

  std::vector<const void*> pointers(bool key, int64_t visible) const {
    std::vector<const void*> list;
    const auto& blocks = key ? key_blocks : value_blocks;
    for (size_t i = 0; i < blocks.size(); ++i) {
      bool needed = static_cast<int64_t>(i) * block_tokens < visible;
      list.push_back(needed ? blocks[i]->data() : nullptr);
    }
    return list;
  }
};

float rounded(KvType type, float value) {
  if (type == KvType::f16) return float_from_f16(f16_from_float(value));
  if (type == KvType::bf16) {
    uint16_t raw;
    reference_kernels()->to_bf16(&value, 1, &raw);
    return float_from_bf16(raw);
  }
  return value;
}

Cache make_cache(const KernelTable& table, Random& random, KvType type, int32_t block_tokens,
                 int32_t head_dim, int64_t positions, float spread) {
  Cache cache{};
  cache.type = type;
  cache.block_tokens = block_tokens;
  cache.head_dim = head_dim;
  cache.positions = positions;
  const int64_t blocks = (positions + block_tokens - 1) / block_tokens;
  const size_t bytes = static_cast<size_t>(block_tokens * head_dim) * element_bytes(type);
  for (int64_t b = 0; b < blocks; ++b) {
    cache.key_blocks.push_back(std::make_unique<Guarded<uint8_t>>(bytes, 0xff));  // NaN everywhere
    cache.value_blocks.push_back(std::make_unique<Guarded<uint8_t>>(bytes, 0xff));
  }
  std::vector<float> key(static_cast<size_t>(head_dim));
  std::vector<float> value(static_cast<size_t>(head_dim));
  for (int64_t j = 0; j < positions; ++j) {
    for (int32_t d = 0; d < head_dim; ++d) {
      key[static_cast<size_t>(d)] = random.normal() * spread;
      value[static_cast<size_t>(d)] = random.normal();
      cache.keys.push_back(rounded(type, key[static_cast<size_t>(d)]));
      cache.values.push_back(rounded(type, value[static_cast<size_t>(d)]));
    }
    const size_t block = static_cast<size_t>(j / block_tokens);
    const int index = static_cast<int>(type);
    table.store_key[index](key.data(), head_dim, j % block_tokens, cache.key_blocks[block]->data());
    table.store_value[index](value.data(), head_dim, j % block_tokens,
                             cache.value_blocks[block]->data());
  }
  return cache;
}

struct Queries {
  int32_t rows;
  int64_t stride;
  std::unique_ptr<Guarded<float>> query;
  std::vector<int32_t> visible;
};

Queries make_queries(Random& random, const Cache& cache, int32_t rows, bool causal) {
  Queries q{};
  q.rows = rows;
  q.stride = cache.head_dim + random.between(0, 4);
  q.query =
      std::make_unique<Guarded<float>>(static_cast<size_t>((rows - 1) * q.stride + cache.head_dim));
  for (size_t i = 0; i < q.query->size(); ++i) {
    (*q.query)[i] = random.normal() / std::sqrt(static_cast<float>(cache.head_dim));
  }
  for (int32_t r = 0; r < rows; ++r) {
    int64_t seen = causal ? cache.positions - rows + 1 + r : random.between(1, cache.positions);
    q.visible.push_back(static_cast<int32_t>(seen < 1 ? 1 : seen));
  }
  return q;
}

void run(const KernelTable& table, const Cache& cache, const Queries& q, int32_t row, int32_t rows,
         float* out, int64_t out_stride) {
  int64_t longest = 0;
  for (int32_t r = row; r < row + rows; ++r) {
    longest = std::max<int64_t>(longest, q.visible[static_cast<size_t>(r)]);
  }
  std::vector<const void*> keys = cache.pointers(true, longest);
  std::vector<const void*> values = cache.pointers(false, longest);
  AttentionArgs a{.query = q.query->data() + row * q.stride,
                  .query_stride = q.stride,
                  .out = out + row * out_stride,
                  .out_stride = out_stride,
                  .rows = rows,
                  .visible = q.visible.data() + row,
                  .key_blocks = keys.data(),
                  .value_blocks = values.data(),
                  .block_tokens = cache.block_tokens,
                  .head_dim = cache.head_dim};
  table.attention[static_cast<int>(cache.type)](a);
}

// A score is a chain of head_dim roundings, off by at most delta. So exp(score - top) is off by the
// factor exp(2 delta), its own error (4 units) and those of the rescalings (4 units a tile);
// numerator and denominator alike, and the two chains over the positions add one rounding each a
// position.
void check_values(const Cache& cache, const Queries& q, const float* out, int64_t out_stride) {
  const int32_t dim = cache.head_dim;
  for (int32_t r = 0; r < q.rows; ++r) {
    const int32_t visible = q.visible[static_cast<size_t>(r)];
    std::vector<double> weight(static_cast<size_t>(visible));
    double top = -INFINITY;
    double delta = 0;
    for (int32_t j = 0; j < visible; ++j) {
      double sum = 0;
      double magnitude = 0;
      for (int32_t d = 0; d < dim; ++d) {
        double product = static_cast<double>((*q.query)[static_cast<size_t>(r * q.stride + d)]) *
                         cache.keys[static_cast<size_t>(j * dim + d)];
        sum += product;
        magnitude += std::abs(product);
      }
      weight[static_cast<size_t>(j)] = sum;
      top = std::max(top, sum);
      delta = std::max(delta, rounding_bound(dim) * magnitude);
    }
    double total = 0;
    for (double& w : weight) {
      // The subtraction of the top rounds too.
      delta = std::max(delta, rounding_bound(dim + 1) * std::abs(w - top));
      w = std::exp(w - top);
      total += w;
    }
    double relative = std::expm1(4 * delta) + rounding_bound(2.0 * visible + visible / 8.0 + 40);
    for (int32_t d = 0; d < dim; ++d) {
      double sum = 0;
      double magnitude = 0;
      for (int32_t j = 0; j < visible; ++j) {
        double term =
            weight[static_cast<size_t>(j)] / total * cache.values[static_cast<size_t>(j * dim + d)];
        sum += term;
        magnitude += std::abs(term);
      }
      float got = out[r * out_stride + d];
      ASSERT_LE(std::abs(got - sum), relative * magnitude + 1e-36)
          << "row " << r << " of " << q.rows << ", sees " << visible << ", column " << d << ": "
          << got << " for " << sum;
    }
  }
}

class KernelsAttention : public testing::TestWithParam<KvType> {};

TEST_P(KernelsAttention, RandomShapesAgreeWithSoftmaxAndRowsAreIndependent) {
  const KvType type = GetParam();
  const int32_t dims[] = {2, 4, 6, 8, 10, 16, 24, 32, 64, 72, 80, 96, 100, 128, 130, 256, 320};
  for (const KernelTable* table : every_table()) {
    Random random(23);
    const bool slow = std::strcmp(table->name, "reference") == 0;
    for (int round = 0; round < (slow ? 25 : 150); ++round) {
      int32_t dim = dims[random.between(0, std::size(dims) - 1)];
      int32_t block_tokens = 16 * static_cast<int32_t>(random.between(1, 5));
      int64_t positions = random.between(1, round % 10 == 0 ? 300 : 140);
      int32_t rows = static_cast<int32_t>(random.between(1, round % 5 == 0 ? 110 : 9));
      float spread = random.between(0, 3) == 0 ? 20.0f : 1.0f;
      Cache cache = make_cache(*table, random, type, block_tokens, dim, positions, spread);
      Queries q = make_queries(random, cache, rows, random.between(0, 2) != 0);
      SCOPED_TRACE(testing::Message()
                   << table->name << " head_dim " << dim << " block " << block_tokens
                   << " positions " << positions << " rows " << rows);
      const int64_t stride = dim + random.between(0, 3);
      Guarded<float> out(static_cast<size_t>(rows * stride), -7.0f);
      run(*table, cache, q, 0, rows, out.data(), stride);
      ASSERT_TRUE(out.intact());
      check_values(cache, q, out.data(), stride);
      if (HasFatalFailure()) return;

      // In other company, in blocks of another size, on memory that held something else.
      Guarded<float> parts(out.size(), -7.0f);
      for (int32_t row = 0; row < rows;) {
        int32_t some =
            random.between(0, 1) != 0 ? 1 : static_cast<int32_t>(random.between(1, rows - row));
        std::memset(parts.data() + row * stride, 0xff, static_cast<size_t>(dim) * 4);
        run(*table, cache, q, row, some, parts.data(), stride);
        row += some;
      }
      ASSERT_TRUE(same_bits(out.data(), parts.data(), out.size())) << "a row depends on its batch";
    }
  }
}

TEST_P(KernelsAttention, BlockSizeDoesNotMatter) {
  const KvType type = GetParam();
  for (const KernelTable* table : every_table()) {
    std::vector<float> first;
    for (int32_t block_tokens : {16, 32, 48, 64, 256}) {
      Random random(29);
      Cache cache = make_cache(*table, random, type, block_tokens, 40, 150, 1.0f);
      Queries q = make_queries(random, cache, 20, true);
      std::vector<float> out(20 * 40);
      run(*table, cache, q, 0, 20, out.data(), 40);
      if (first.empty()) first = out;
      EXPECT_TRUE(same_bits(first.data(), out.data(), out.size()))
          << table->name << ' ' << block_tokens;
    }
  }
}

// A position only later rows see holds infinities and NaN: the rows before it must not notice.
TEST_P(KernelsAttention, WhatARowDoesNotSeeCannotReachIt) {
  const KvType type = GetParam();
  const float bad[] = {INFINITY, -INFINITY, std::nanf("")};
  for (const KernelTable* table : every_table()) {
    for (int32_t rows : {2, 6, 20}) {
      Random random(31);
      Cache cache = make_cache(*table, random, type, 32, 20, 100, 1.0f);
      Queries q = make_queries(random, cache, rows, true);
      std::vector<float> clean(static_cast<size_t>(rows) * 20);
      run(*table, cache, q, 0, rows, clean.data(), 20);
      for (float poison : bad) {
        std::vector<float> filled(20, poison);
        const int index = static_cast<int>(type);
        table->store_key[index](filled.data(), 20, 99 % 32, cache.key_blocks[3]->data());
        table->store_value[index](filled.data(), 20, 99 % 32, cache.value_blocks[3]->data());
        std::vector<float> out(clean.size());
        run(*table, cache, q, 0, rows, out.data(), 20);
        EXPECT_TRUE(same_bits(clean.data(), out.data(), static_cast<size_t>(rows - 1) * 20))
            << table->name << " rows " << rows << " poison " << poison;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Types, KernelsAttention, testing::ValuesIn(kTypes),
                         [](const auto& info) { return kTypeNames[static_cast<int>(info.param)]; });

}  // namespace
}  // namespace impetus::cpu

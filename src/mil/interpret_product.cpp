// Matrix products in portable C++: B is packed into panels of 32 columns, and a small tile of C is
// kept in registers for the whole sum. The order of the sum over k is the same for each tile size,
// so every instruction set and every number of threads gives the same bits.
#include <algorithm>
#include <cstring>

#include "mil/interpret.h"

namespace impetus::mil {
namespace {

constexpr int64_t kPanel = 32;       // columns of B in one panel
constexpr int64_t kRowsInTask = 64;  // rows of A that one task takes

// Rows of C (at most 64) against one panel, all of k.
struct Tile {
  const float* a;
  int64_t a_row;
  const float* panel;  // [k, kPanel]
  int64_t k, rows, columns;
  float* c;
  int64_t c_row, c_column;
  const float* row_bias;
  const float* column_bias;
};

template <int kWidth>
using Vector = float __attribute__((vector_size(kWidth * sizeof(float)), aligned(4)));

template <int kWidth, bool kHalf>
[[gnu::always_inline]] inline void add_to(Vector<kWidth>& sum, const Vector<kWidth>& term) {
  sum += term;
  if constexpr (kHalf) {
    for (int i = 0; i < kWidth; ++i) sum[i] = rounded_f16(sum[i]);
  }
}

template <int kRows, int kWidth, int kVectors, bool kHalf>
[[gnu::always_inline]] inline void small_tile(const Tile& tile, int64_t row, int64_t column) {
  using V = Vector<kWidth>;
  V sums[kRows][kVectors] = {};
  const float* a = tile.a + row * tile.a_row;
  const float* b = tile.panel + column;
  for (int64_t k = 0; k < tile.k; ++k, b += kPanel) {
    V right[kVectors];
    for (int v = 0; v < kVectors; ++v) {
      std::memcpy(&right[v], b + v * kWidth, sizeof(V));
    }
    for (int r = 0; r < kRows; ++r) {
      const float left = a[r * tile.a_row + k];
      for (int v = 0; v < kVectors; ++v) {
        add_to<kWidth, kHalf>(sums[r][v], left * right[v]);
      }
    }
  }
  constexpr int kColumns = kWidth * kVectors;
  const int64_t columns = std::min<int64_t>(kColumns, tile.columns - column);
  for (int r = 0; r < kRows; ++r) {
    float values[kColumns];
    std::memcpy(values, sums[r], sizeof(values));
    if (tile.row_bias != nullptr) {
      for (float& value : values) value += tile.row_bias[row + r];
    }
    float* c = tile.c + (row + r) * tile.c_row + column * tile.c_column;
    if (tile.column_bias != nullptr) {
      for (int64_t i = 0; i < columns; ++i) values[i] += tile.column_bias[column + i];
    }
    if (tile.c_column == 1) {
      std::memcpy(c, values, static_cast<size_t>(columns) * sizeof(float));
    } else {
      for (int64_t i = 0; i < columns; ++i) c[i * tile.c_column] = values[i];
    }
  }
}

template <int kRows, int kWidth, int kVectors, bool kHalf>
[[gnu::always_inline]] inline void tile_of(const Tile& tile) {
  for (int64_t column = 0; column < tile.columns; column += kWidth * kVectors) {
    int64_t row = 0;
    for (; row + kRows <= tile.rows; row += kRows) {
      small_tile<kRows, kWidth, kVectors, kHalf>(tile, row, column);
    }
    for (; row < tile.rows; ++row) small_tile<1, kWidth, kVectors, kHalf>(tile, row, column);
  }
}

void tile_plain(const Tile& tile) {
  tile_of<4, 4, 2, false>(tile);
}
void half_tile_plain(const Tile& tile) {
  tile_of<2, 4, 2, true>(tile);
}

#if defined(__x86_64__)
__attribute__((target("avx2"))) void tile_avx2(const Tile& tile) {
  tile_of<4, 8, 2, false>(tile);
}
__attribute__((target("avx2"))) void half_tile_avx2(const Tile& tile) {
  tile_of<2, 8, 2, true>(tile);
}
__attribute__((target("avx512f,avx512dq,avx512bw,avx512vl"))) void tile_avx512(const Tile& tile) {
  tile_of<8, 16, 2, false>(tile);
}
#endif

using TileFunction = void (*)(const Tile&);

TileFunction tile_function(bool half) {
#if defined(__x86_64__)
  if (half) return __builtin_cpu_supports("avx2") ? half_tile_avx2 : half_tile_plain;
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl")) {
    return tile_avx512;
  }
  if (__builtin_cpu_supports("avx2")) return tile_avx2;
#endif
  return half ? half_tile_plain : tile_plain;
}

int64_t at_of(const std::vector<int64_t>& offsets, int64_t batch) {
  return offsets.empty() ? 0 : offsets[static_cast<size_t>(batch)];
}

// One panel of B, [k, kPanel]; columns past n stay zero.
void pack(const Product& product, int64_t batch, int64_t panel, float* to) {
  const int64_t column = panel * kPanel;
  const int64_t columns = std::min(kPanel, product.n - column);
  if (product.fill_b) {
    for (int64_t k = 0; k < product.k; ++k) {
      product.fill_b(batch, k, column, columns, to + k * kPanel);
    }
    return;
  }
  const float* from = product.b + at_of(product.b_at, batch) + column * product.b_column;
  if (product.b_column == 1) {
    for (int64_t k = 0; k < product.k; ++k) {
      std::memcpy(to + k * kPanel, from + k * product.b_row,
                  static_cast<size_t>(columns) * sizeof(float));
    }
    return;
  }
  for (int64_t i = 0; i < columns; ++i) {
    for (int64_t k = 0; k < product.k; ++k) {
      to[k * kPanel + i] = from[i * product.b_column + k * product.b_row];
    }
  }
}

}  // namespace

Result<void> multiply(Call& call, const Product& product) {
  const Product& p = product;
  const auto work = elements_of(
      {p.batches, std::max<int64_t>(p.m, 1), std::max<int64_t>(p.n, 1), std::max<int64_t>(p.k, 1)});
  IMPETUS_CHECK(call.charge(work));
  if (p.batches == 0 || p.m == 0 || p.n == 0) return {};
  const int64_t panels = (p.n + kPanel - 1) / kPanel;
  const auto packed_floats = elements_of({p.batches, panels, p.k, kPanel});
  IMPETUS_TRY(const auto packed, call.scratch(packed_floats.value_or(-1)));
  float* b = packed->floats.data();
  const int64_t panel_floats = p.k * kPanel;
  call.crew().ranges(p.batches * panels, std::max<int64_t>(1, 16384 / (panel_floats + 1)),
                     [&](int64_t begin, int64_t end) {
                       for (int64_t i = begin; i < end; ++i) {
                         pack(p, i / panels, i % panels, b + i * panel_floats);
                       }
                     });
  std::shared_ptr<Buffer> rows;  // A where its rows are not contiguous
  if (p.a_column != 1) {
    const auto floats = elements_of({p.batches, p.m, p.k});
    IMPETUS_TRY(rows, call.scratch(floats.value_or(-1)));
    float* to = rows->floats.data();
    call.crew().ranges(p.batches * p.m, std::max<int64_t>(1, 16384 / (p.k + 1)),
                       [&](int64_t begin, int64_t end) {
                         for (int64_t i = begin; i < end; ++i) {
                           const float* from = p.a + at_of(p.a_at, i / p.m) + i % p.m * p.a_row;
                           for (int64_t k = 0; k < p.k; ++k) to[i * p.k + k] = from[k * p.a_column];
                         }
                       });
  }
  const TileFunction run = tile_function(p.half);
  const int64_t blocks = (p.m + kRowsInTask - 1) / kRowsInTask;
  // Blocks of rows inside, so that neighbours share a panel.
  call.crew().ranges(p.batches * panels * blocks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t batch = i / blocks / panels, panel = i / blocks % panels;
      const int64_t row = i % blocks * kRowsInTask, column = panel * kPanel;
      Tile tile{};
      tile.a_row = rows ? p.k : p.a_row;
      tile.a = rows ? rows->floats.data() + batch * p.m * p.k : p.a + at_of(p.a_at, batch);
      tile.a += row * tile.a_row;
      tile.panel = b + (batch * panels + panel) * panel_floats;
      tile.k = p.k;
      tile.rows = std::min(kRowsInTask, p.m - row);
      tile.columns = std::min(kPanel, p.n - column);
      tile.c = p.c + at_of(p.c_at, batch) + row * p.c_row + column * p.c_column;
      tile.c_row = p.c_row;
      tile.c_column = p.c_column;
      tile.row_bias = p.row_bias != nullptr ? p.row_bias + row : nullptr;
      tile.column_bias = p.column_bias != nullptr ? p.column_bias + column : nullptr;
      run(tile);
    }
  });
  return {};
}

}  // namespace impetus::mil

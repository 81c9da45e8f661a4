// Attention of one group of query rows against one key/value head, written once over `Simd`.
//
// Online softmax (Milakov and Gimelshein 2018; Dao et al. 2022) over tiles of 64 positions counted
// from position 0. Every score is one fma chain over head_dim, every output element one chain over
// the positions, rescaled at each tile; so a row's result depends on its own query and visible
// positions alone, not on the rows beside it nor on block_tokens. Positions a row does not see are
// never multiplied, whatever their bits are.
#pragma once

#include "cpu/kernels/kernels.h"
#include "cpu/kernels/math.inc.h"

namespace impetus::cpu {
namespace {

constexpr int kTileKeys = 64;
constexpr int kRowBlock = 48;  // rows that share one conversion of a tile
constexpr int kRowTile = 6;    // rows whose accumulators fit the registers
constexpr int kScratchHeadDim =
    256;  // up to here tiles are converted to f32 for more than one row tile

template <KvType type>
inline Simd::F load_cache(const void* base, int64_t index) {
  if constexpr (type == KvType::f32) return Simd::load(static_cast<const float*>(base) + index);
  if constexpr (type == KvType::f16)
    return Simd::load_f16(static_cast<const uint16_t*>(base) + index);
  if constexpr (type == KvType::bf16) {
    return Simd::load_bf16(static_cast<const uint16_t*>(base) + index);
  }
}

template <KvType type>
inline Simd::F load_cache_n(const void* base, int64_t index, int lanes) {
  if constexpr (type == KvType::f32) {
    return Simd::load_n(static_cast<const float*>(base) + index, lanes);
  } else {
    uint16_t raw[Simd::width] = {};
    memcpy(raw, static_cast<const uint16_t*>(base) + index, static_cast<size_t>(lanes) * 2);
    return load_cache<type>(raw, 0);
  }
}

template <KvType type>
inline const void* cache_offset(const void* base, int64_t elements) {
  return static_cast<const char*>(base) + elements * (type == KvType::f32 ? 4 : 2);
}

// The groups of 16 positions of one tile: keys [head_dim][16], values [16][head_dim].
struct Tile {
  const void* keys[kTileKeys / 16];
  const void* values[kTileKeys / 16];
};

// scores[r][16 g + lane] for `groups` groups of keys.
template <KvType type, int rows, int groups>
inline void score_groups(const float* query, int64_t query_stride, const void* const* keys,
                         int head_dim, float* scores) {
  using S = Simd;
  constexpr int per_group = 16 / S::width;
  S::F sums[rows][groups * per_group];
  for (auto& row : sums) {
    for (auto& sum : row) sum = S::zero();
  }
  for (int d = 0; d < head_dim; ++d) {
    S::F key[groups * per_group];
    for (int g = 0; g < groups; ++g) {
      for (int v = 0; v < per_group; ++v) {
        key[g * per_group + v] = load_cache<type>(keys[g], d * 16 + v * S::width);
      }
    }
    for (int r = 0; r < rows; ++r) {
      S::F q = S::set1(query[r * query_stride + d]);
      for (int v = 0; v < groups * per_group; ++v) sums[r][v] = S::fma(q, key[v], sums[r][v]);
    }
  }
  for (int r = 0; r < rows; ++r) {
    for (int v = 0; v < groups * per_group; ++v) {
      S::store(scores + r * kTileKeys + v * S::width, sums[r][v]);
    }
  }
}

template <KvType type, int rows>
inline void score_tile(const float* query, int64_t query_stride, const Tile& tile, int groups,
                       int head_dim, float* scores) {
  constexpr int together = 4 * Simd::width / 16;  // four vectors of keys, or two
  constexpr int step = rows > 3 && Simd::width == 8 ? 1 : together;
  int g = 0;
  for (; g + step <= groups; g += step) {
    score_groups<type, rows, step>(query, query_stride, tile.keys + g, head_dim, scores + g * 16);
  }
  if constexpr (step > 1) {
    for (; g < groups; ++g) {
      score_groups<type, rows, 1>(query, query_stride, tile.keys + g, head_dim, scores + g * 16);
    }
  }
}

// out[r] = out[r] * scale[r] + sum over positions [begin, end) of p[r][j] value[j], for `vectors`
// vectors of the head; with `lanes` < width, the last part of a head.
template <KvType type, int rows, int vectors, bool partial>
inline void value_columns(const float* p, const float* scale, const Tile& tile, int begin, int end,
                          int head_dim, int column, int lanes, float* out, int64_t out_stride,
                          bool first) {
  using S = Simd;
  S::F sums[rows][vectors];
  for (int r = 0; r < rows; ++r) {
    for (int v = 0; v < vectors; ++v) {
      const float* at = out + r * out_stride + column + v * S::width;
      if (first) {
        sums[r][v] = S::zero();
      } else {
        sums[r][v] = S::mul(partial ? S::load_n(at, lanes) : S::load(at), S::set1(scale[r]));
      }
    }
  }
  for (int j = begin; j < end;) {
    const void* group = tile.values[j / 16];
    int stop = (j / 16 + 1) * 16 < end ? (j / 16 + 1) * 16 : end;
    for (; j < stop; ++j) {
      S::F value[vectors];
      for (int v = 0; v < vectors; ++v) {
        int64_t index = static_cast<int64_t>(j % 16) * head_dim + column + v * S::width;
        value[v] =
            partial ? load_cache_n<type>(group, index, lanes) : load_cache<type>(group, index);
      }
      for (int r = 0; r < rows; ++r) {
        S::F weight = S::set1(p[r * kTileKeys + j]);
        for (int v = 0; v < vectors; ++v) sums[r][v] = S::fma(weight, value[v], sums[r][v]);
      }
    }
  }
  for (int r = 0; r < rows; ++r) {
    for (int v = 0; v < vectors; ++v) {
      float* at = out + r * out_stride + column + v * S::width;
      if constexpr (partial) {
        S::store_n(at, sums[r][v], lanes);
      } else {
        S::store(at, sums[r][v]);
      }
    }
  }
}

template <KvType type, int rows>
inline void value_tile(const float* p, const float* scale, const Tile& tile, int begin, int end,
                       int head_dim, float* out, int64_t out_stride, bool first) {
  constexpr int width = Simd::width;
  constexpr int wide = width == 16 ? 4 : 2;
  int c = 0;
  for (; c + wide * width <= head_dim; c += wide * width) {
    value_columns<type, rows, wide, false>(p, scale, tile, begin, end, head_dim, c, width, out,
                                           out_stride, first);
  }
  if constexpr (wide == 4) {
    for (; c + 2 * width <= head_dim; c += 2 * width) {
      value_columns<type, rows, 2, false>(p, scale, tile, begin, end, head_dim, c, width, out,
                                          out_stride, first);
    }
  }
  for (; c + width <= head_dim; c += width) {
    value_columns<type, rows, 1, false>(p, scale, tile, begin, end, head_dim, c, width, out,
                                        out_stride, first);
  }
  if (c < head_dim) {
    value_columns<type, rows, 1, true>(p, scale, tile, begin, end, head_dim, c, head_dim - c, out,
                                       out_stride, first);
  }
}

// What the online softmax remembers of each row of a block.
struct Softmax {
  float top[kRowBlock];
  float total[kRowBlock];
  float rescale[kRowBlock];
  int live[kRowBlock];  // positions of this tile the row sees
};

// Turns a row's scores into exp(score - top), and updates top, total and rescale.
inline void softmax_row(float* scores, int live, float* top, float* total, float* rescale) {
  using S = Simd;
  constexpr int vectors = kTileKeys / S::width;
  S::F lanes[vectors];
  S::F highest = S::set1(*top);
  for (int v = 0; v < vectors; ++v) {
    int here = live - v * S::width;
    lanes[v] = here > 0 ? S::load(scores + v * S::width) : S::zero();
    lanes[v] = S::keep_n(lanes[v], here);
    highest = S::max(highest, lanes[v]);
  }
  float now = S::max_lane(highest);
  S::F sum = S::zero();
  for (int v = 0; v < vectors; ++v) {
    lanes[v] = exp_negative(S::sub(lanes[v], S::set1(now)));
    S::store(scores + v * S::width, lanes[v]);
    sum = S::add(sum, lanes[v]);
  }
  float store[S::width];
  S::store(store, exp_negative(S::set1(*top - now)));
  *rescale = store[0];
  *total = *total * *rescale + S::sum(sum);
  *top = now;
}

// Calls f with a compile-time number of rows in [1, kRowTile].
template <class Function>
inline void with_rows(int rows, Function f) {
  switch (rows) {
    case 1:
      return f.template operator()<1>();
    case 2:
      return f.template operator()<2>();
    case 3:
      return f.template operator()<3>();
    case 4:
      return f.template operator()<4>();
    case 5:
      return f.template operator()<5>();
    default:
      return f.template operator()<kRowTile>();
  }
}

template <KvType type>
inline void score_rows(const AttentionArgs& a, int row, int rows, const Tile& tile, int groups,
                       float* scores) {
  for (int r = 0; r < rows; r += kRowTile) {
    int here = rows - r < kRowTile ? rows - r : kRowTile;
    with_rows(here, [&]<int count>() {
      score_tile<type, count>(a.query + (row + r) * a.query_stride, a.query_stride, tile, groups,
                              a.head_dim, scores + r * kTileKeys);
    });
  }
}

template <KvType type>
inline void value_rows(const AttentionArgs& a, int row, int rows, const Tile& tile,
                       const float* scores, const Softmax& state, bool first) {
  for (int r = 0; r < rows; r += kRowTile) {
    int here = rows - r < kRowTile ? rows - r : kRowTile;
    // Together as far as all of these rows see, then each alone.
    int common = state.live[r];
    for (int i = 1; i < here; ++i) common = common < state.live[r + i] ? common : state.live[r + i];
    float* out = a.out + (row + r) * a.out_stride;
    with_rows(here, [&]<int count>() {
      value_tile<type, count>(scores + r * kTileKeys, state.rescale + r, tile, 0, common,
                              a.head_dim, out, a.out_stride, first);
    });
    const float unchanged = 1.0f;
    for (int i = 0; i < here; ++i) {
      if (state.live[r + i] > common) {
        value_tile<type, 1>(scores + (r + i) * kTileKeys, &unchanged, tile, common,
                            state.live[r + i], a.head_dim, out + i * a.out_stride, a.out_stride,
                            false);
      }
    }
  }
}

template <KvType type>
inline void convert_tile(const void* const* from, int64_t elements, int groups, float* scratch,
                         const void** to) {
  for (int g = 0; g < groups; ++g) {
    float* out = scratch + g * elements;
    for (int64_t i = 0; i < elements; i += Simd::width) {
      Simd::store(out + i, load_cache<type>(from[g], i));
    }
    to[g] = out;
  }
}

// Asks for one group of keys or values ahead of its use. With few rows the cache is what the time
// goes to, and its blocks lie apart, so that no hardware prefetcher sees where the next one is.
template <KvType type>
inline void fetch(const void* group, int64_t elements) {
  const char* base = static_cast<const char*>(group);
  const int64_t bytes = elements * (type == KvType::f32 ? 4 : 2);
  for (int64_t at = 0; at < bytes; at += 64) __builtin_prefetch(base + at);
}

template <KvType type>
inline void attend_rows(const AttentionArgs& a, int row, int rows, float* scratch) {
  float scores[kRowBlock * kTileKeys];
  Softmax state;
  int longest = 0;
  for (int r = 0; r < rows; ++r) {
    state.top[r] = -__builtin_inff();
    state.total[r] = 0;
    if (a.visible[row + r] > longest) longest = a.visible[row + r];
  }
  const int64_t group_elements = static_cast<int64_t>(a.head_dim) * 16;
  const auto group_of = [&](const void* const* blocks, int position) {
    return cache_offset<type>(blocks[position / a.block_tokens],
                              position % a.block_tokens / 16 * group_elements);
  };
  for (int begin = 0; begin < longest; begin += kTileKeys) {
    int keys = longest - begin < kTileKeys ? longest - begin : kTileKeys;
    int groups = (keys + 15) / 16;
    Tile tile;
    for (int g = 0; g < groups; ++g) {
      tile.keys[g] = group_of(a.key_blocks, begin + g * 16);
      tile.values[g] = group_of(a.value_blocks, begin + g * 16);
      if (scratch == nullptr) fetch<type>(tile.values[g], group_elements);
    }
    if (scratch != nullptr) {
      Tile plain;
      convert_tile<type>(tile.keys, group_elements, groups, scratch, plain.keys);
      score_rows<KvType::f32>(a, row, rows, plain, groups, scores);
    } else {
      score_rows<type>(a, row, rows, tile, groups, scores);
    }
    for (int r = 0; r < rows; ++r) {
      int live = a.visible[row + r] - begin;
      state.live[r] = live < 0 ? 0 : live < kTileKeys ? live : kTileKeys;
      if (live > 0) {
        softmax_row(scores + r * kTileKeys, state.live[r], state.top + r, state.total + r,
                    state.rescale + r);
      } else {
        state.rescale[r] = 1.0f;  // all of its positions are behind it
      }
    }
    if (scratch != nullptr) {
      Tile plain;
      convert_tile<type>(tile.values, group_elements, groups, scratch, plain.values);
      value_rows<KvType::f32>(a, row, rows, plain, scores, state, begin == 0);
    } else {
      for (int next = begin + kTileKeys; next < longest && next < begin + 2 * kTileKeys;
           next += 16) {
        fetch<type>(group_of(a.key_blocks, next), group_elements);
      }
      value_rows<type>(a, row, rows, tile, scores, state, begin == 0);
    }
  }
  for (int r = 0; r < rows; ++r) {
    float* out = a.out + (row + r) * a.out_stride;
    Simd::F scale = Simd::set1(1.0f / state.total[r]);
    int i = 0;
    for (; i + Simd::width <= a.head_dim; i += Simd::width) {
      Simd::store(out + i, Simd::mul(Simd::load(out + i), scale));
    }
    if (i < a.head_dim) {
      int lanes = a.head_dim - i;
      Simd::store_n(out + i, Simd::mul(Simd::load_n(out + i, lanes), scale), lanes);
    }
  }
}

// A function of its own, so that only calls with many rows pay for the stack.
template <KvType type>
[[gnu::noinline]] void attend_converted(const AttentionArgs& a, int row, int rows) {
  alignas(64) float scratch[kTileKeys * kScratchHeadDim];
  attend_rows<type>(a, row, rows, scratch);
}

template <KvType type>
void attention(const AttentionArgs& a) {
  for (int row = 0; row < a.rows; row += kRowBlock) {
    int rows = a.rows - row < kRowBlock ? a.rows - row : kRowBlock;
    if (type != KvType::f32 && rows > kRowTile && a.head_dim <= kScratchHeadDim) {
      attend_converted<type>(a, row, rows);
    } else {
      attend_rows<type>(a, row, rows, nullptr);
    }
  }
}

}  // namespace
}  // namespace impetus::cpu

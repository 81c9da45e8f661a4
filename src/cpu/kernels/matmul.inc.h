// The loops around the matrix kernels, written once over `Simd`, and the kernel for weights that
// are multiplied in f32.
//
// A kernel K describes one weight layout on one instruction set:
//   k_per_unit         the k of one unit: 1, 2 (bf16 pairs) or 32 (quantised blocks)
//   unit_bytes         packed bytes of a unit of one panel
//   staged_bytes       bytes of a unit once staged (converted or unpacked for reuse), 0: never
//   staged stage(from, units, to) tile_rows          most rows of one register tile panels(rows)
//   panels of a register tile with so many rows, in calls of few rows staged_panels      the same
//   in calls of many rows chunk_units        units per pass, so that a pass's weights stay in the
//   first or second cache stage_from_rows    from how many rows on staging pays has_correction
//   wants the integer corrections (`offset` times each block's sum) tile<rows, panels,
//   staged>(Pass)
//
// Loops, from the outside: rows in blocks whose activations stay in the second-level cache; panels;
// chunks of k; register tiles of rows. Accumulators rest in `sums` between chunks, exactly, so that
// every output is one chain over k whatever the blocking.
#pragma once

#include "cpu/kernels/kernels.h"

namespace impetus::cpu {
namespace {

constexpr int kRowsPerBlock = 96;
constexpr int64_t kBlockActivationBytes = 384 * 1024;
constexpr int kRowStep = 12;  // row blocks are multiples of every tile's rows (4 and 6)

// What the blocks of a quantised layout hold. `offset`: how far q is above the weight's whole
// number; 0 where there is a bias instead.
enum class ScaleType { f16, bf16, f32 };
template <bool four_bits, ScaleType type, bool has_bias>
struct BlockFormat {
  static constexpr bool nibbles = four_bits;
  static constexpr ScaleType scale_type = type;
  static constexpr bool biased = has_bias;
  static constexpr int offset = biased ? 0 : nibbles ? 8 : 128;
  static constexpr int scale_bytes = type == ScaleType::f32 ? 4 : 2;
  static constexpr int codes = kPanel * scale_bytes * (biased ? 2 : 1);  // where q begins
  static constexpr int bytes = codes + (nibbles ? 256 : 512);
};
using Q8Format = BlockFormat<false, ScaleType::f16, false>;
using Q4Format = BlockFormat<true, ScaleType::f16, false>;
template <ScaleType type>
using G4Format = BlockFormat<true, type, true>;
template <ScaleType type>
using G8Format = BlockFormat<false, type, true>;

struct Pass {
  const uint8_t* weights;  // first unit of the first panel
  int64_t panel_stride;    // bytes from a panel to the next
  int64_t units;
  const uint8_t* x;           // first row's activations at this chunk
  int64_t x_stride;           // bytes from row to row
  const float* x_scale;       // quantised: first row's scales at this chunk
  int64_t scale_stride;       // elements from row to row
  const int32_t* correction;  // [rows][correction_stride], where the kernel has one
  int64_t correction_stride;
  float* sums;  // [rows][sums_stride]
  int64_t sums_stride;
  const uint8_t* next;  // weights wanted soon: the tiles of a pass fetch them along the way
};

inline Simd::F broadcast_f32(const uint8_t* p) {
  float value;
  memcpy(&value, p, 4);
  return Simd::set1(value);
}

inline int32_t load_i32(const uint8_t* p) {
  int32_t value;
  memcpy(&value, p, 4);
  return value;
}

// Row r of a tile as base, base + s, base + 2 s from two bases: address forms the processor has,
// where six pointers, or multiples worked out in the loop, would cost registers or additions.
struct TileRows {
  const uint8_t* base[2];
  int64_t stride;
  explicit TileRows(const Pass& pass)
      : base{pass.x, pass.x + 3 * pass.x_stride}, stride(pass.x_stride) {}
  const uint8_t* row(int r) const { return base[r / 3] + r % 3 * stride; }
  void advance(int64_t bytes) {
    base[0] += bytes;
    base[1] += bytes;
  }
};

// Loads stay on their side of it. Without it the compiler hoists them until accumulators are
// spilled.
inline void load_fence() {
  asm volatile("" ::: "memory");
}

// A function of its own: its loop gets all registers.
template <class K, int rows, int panels, bool staged>
[[gnu::noinline]] void call_tile(const Pass& pass) {
  K::template tile<rows, panels, staged>(pass);
}

template <class K, int panels, bool staged>
inline void row_tiles(Pass pass, int rows) {
  // Wide groups of panels serve few rows only; with more, registers would not do.
  constexpr bool wide = !staged && panels == K::few_panels && panels > K::many_panels;
  constexpr int most = wide ? K::few_rows : K::tile_rows;
  const uint8_t* x = pass.x;
  for (int r = 0; r < rows; r += K::tile_rows) {
    switch (rows - r < K::tile_rows ? rows - r : K::tile_rows) {
      case 1:
        if constexpr (most >= 1) call_tile<K, 1, panels, staged>(pass);
        break;
      case 2:
        if constexpr (most >= 2) call_tile<K, 2, panels, staged>(pass);
        break;
      case 3:
        if constexpr (most >= 3) call_tile<K, 3, panels, staged>(pass);
        break;
      case 4:
        if constexpr (most >= 4) call_tile<K, 4, panels, staged>(pass);
        break;
      case 5:
        if constexpr (most >= 5) call_tile<K, 5, panels, staged>(pass);
        break;
      case 6:
        if constexpr (most >= 6) call_tile<K, 6, panels, staged>(pass);
        break;
    }
    x += K::tile_rows * pass.x_stride;
    pass.x = x;
    pass.x_scale += K::tile_rows * pass.scale_stride;
    if (K::has_correction) pass.correction += K::tile_rows * pass.correction_stride;
    pass.sums += K::tile_rows * pass.sums_stride;
    pass.next += K::next_bytes;
  }
}

inline void write_sums(const MatmulArgs& a, int64_t row, int rows, int64_t panel, int panels,
                       const float* sums) {
  using S = Simd;
  for (int r = 0; r < rows; ++r) {
    for (int i = 0; i < panels * kPanel; i += S::width) {
      S::F value = S::load(sums + r * panels * kPanel + i);
      if (a.bias != nullptr) value = S::add(value, S::load(a.bias + panel * kPanel + i));
      float* out = a.out + (row + r) * a.out_stride + panel * kPanel + i;
      if (a.accumulate) value = S::add(S::load(out), value);
      S::store(out, value);
    }
  }
}

// One block of rows against `panels` neighbouring panels, the whole of k.
template <class K, int panels, bool staged>
[[gnu::noinline]] void panel_group(const MatmulArgs& a, int64_t row, int rows, int64_t panel) {
  constexpr int max_rows = staged ? kRowsPerBlock : K::unstaged_rows;
  alignas(64) float sums[max_rows * panels * kPanel];
  alignas(64) uint8_t stage[staged ? panels * K::chunk_units * K::staged_bytes : 1];
  int32_t corrections[K::has_correction ? max_rows * K::chunk_units : 1];

  memset(sums, 0, sizeof(float) * static_cast<size_t>(rows) * panels * kPanel);
  const int64_t units = (a.k + K::k_per_unit - 1) / K::k_per_unit;
  const int64_t panel_bytes = units * K::unit_bytes;
  const uint8_t* weights = static_cast<const uint8_t*>(a.weights) + panel * panel_bytes;
  for (int64_t unit = 0; unit < units; unit += K::chunk_units) {
    const int64_t here = units - unit < K::chunk_units ? units - unit : K::chunk_units;
    Pass pass{};
    pass.units = here;
    pass.sums = sums;
    pass.sums_stride = panels * kPanel;
    K::activations(a, row, unit, &pass);
    if constexpr (K::has_correction) {
      K::correct(a, row, rows, unit, here, corrections);
      pass.correction = corrections;
      pass.correction_stride = here;
    }
    if constexpr (staged) {
      for (int p = 0; p < panels; ++p) {
        K::stage(weights + p * panel_bytes + unit * K::unit_bytes, here,
                 stage + p * K::chunk_units * K::staged_bytes);
      }
      pass.weights = stage;
      pass.panel_stride = K::chunk_units * K::staged_bytes;
    } else {
      pass.weights = weights + unit * K::unit_bytes;
      pass.panel_stride = panel_bytes;
    }
    // The first panel's next chunk, or the next panel's first.
    pass.next = weights + (unit + K::chunk_units) * K::unit_bytes;
    row_tiles<K, panels, staged>(pass, rows);
  }
  write_sums(a, row, rows, panel, panels, sums);
}

template <class K, int panels, bool staged>
void all_panels(const MatmulArgs& a, int64_t row, int rows) {
  int64_t panel = a.panel_begin;
  for (; panel + panels <= a.panel_end; panel += panels) {
    panel_group<K, panels, staged>(a, row, rows, panel);
  }
  if constexpr (panels > 1) {
    for (; panel < a.panel_end; ++panel) panel_group<K, 1, staged>(a, row, rows, panel);
  }
}

template <class K>
void matmul(const MatmulArgs& a) {
  constexpr bool stages = K::staged_bytes != 0;
  int64_t block = kRowsPerBlock;
  if (a.k > 0) {
    int64_t fit = kBlockActivationBytes / (a.k * K::activation_bytes) / kRowStep * kRowStep;
    int64_t least = 2 * kRowStep;
    block = fit < least ? least : fit < block ? fit : block;
  }
  for (int64_t row = 0; row < a.m;) {
    const int64_t left = a.m - row;
    if (stages && left >= K::stage_from_rows) {
      // Blocks of like size, so that the last one is not a sliver.
      int64_t parts = (left + block - 1) / block;
      int64_t rows = ((left + parts - 1) / parts + kRowStep - 1) / kRowStep * kRowStep;
      if (rows > left) rows = left;
      if constexpr (stages) all_panels<K, K::staged_panels, true>(a, row, static_cast<int>(rows));
      row += rows;
    } else {
      int64_t most = stages                     ? K::unstaged_rows
                     : block < K::unstaged_rows ? block
                                                : K::unstaged_rows;
      int rows = static_cast<int>(left < most ? left : most);
      if (rows <= K::few_rows) {
        all_panels<K, K::few_panels, false>(a, row, rows);
      } else {
        all_panels<K, K::many_panels, false>(a, row, rows);
      }
      row += rows;
    }
  }
}

// ---- weights multiplied in f32
// ---------------------------------------------------------------------

enum class FloatSource { f32, f16, bf16 };

// One chain of fma over k for each output. bf16 is staged too where it has no instruction of its
// own.
template <FloatSource source>
struct FloatKernel {
  using S = Simd;
  static constexpr int per_panel = kPanel / S::width;
  static constexpr int k_per_unit = source == FloatSource::bf16 ? 2 : 1;
  static constexpr int unit_bytes = source == FloatSource::f16 ? 32 : 64;
  static constexpr int staged_bytes = source == FloatSource::f32 ? 0 : 64 * k_per_unit;
  static constexpr int activation_bytes = source == FloatSource::bf16 ? 2 : 4;
  static constexpr int tile_rows = 6;
  static constexpr int staged_panels = S::width == 16 ? 4 : 1;
  static constexpr int many_panels = staged_panels;
  static constexpr int few_panels = S::width == 16 ? 4 : 2;
  static constexpr int few_rows = S::width == 16 ? 6 : 2;
  static constexpr int unstaged_rows = source == FloatSource::f32 ? kRowsPerBlock : 12;
  static constexpr int stage_from_rows = 7;
  static constexpr int chunk_units = 256 / k_per_unit;
  static constexpr bool has_correction = false;
  static constexpr int next_bytes = chunk_units / 4 * 128;

  static void correct(const MatmulArgs&, int64_t, int, int64_t, int64_t, int32_t*) {}

  static void activations(const MatmulArgs& a, int64_t row, int64_t unit, Pass* pass) {
    pass->x = source == FloatSource::bf16
                  ? reinterpret_cast<const uint8_t*>(a.x_bf16 + row * a.x_stride + unit * 2)
                  : reinterpret_cast<const uint8_t*>(a.x + row * a.x_stride + unit);
    pass->x_stride = a.x_stride * activation_bytes;
  }

  // The `j`th k of the unit at `from`, vector v of the panel.
  template <bool staged>
  static S::F weight(const uint8_t* from, int j, int v) {
    if constexpr (staged || source == FloatSource::f32) {
      return S::load(reinterpret_cast<const float*>(from) + j * kPanel + v * S::width);
    } else if constexpr (source == FloatSource::f16) {
      return S::load_f16(reinterpret_cast<const uint16_t*>(from) + v * S::width);
    } else {
      S::I pairs;
      memcpy(&pairs, from + v * S::width * 4, sizeof(pairs));
      return j == 0 ? S::even_bf16(pairs) : S::odd_bf16(pairs);
    }
  }

  static void stage(const uint8_t* from, int64_t units, uint8_t* to) {
    for (int64_t u = 0; u < units; ++u, from += unit_bytes, to += staged_bytes) {
      for (int j = 0; j < k_per_unit; ++j) {
        for (int v = 0; v < per_panel; ++v) {
          S::store(reinterpret_cast<float*>(to) + j * kPanel + v * S::width,
                   weight<false>(from, j, v));
        }
      }
    }
  }

  template <int rows, int panels, bool staged>
  static void tile(const Pass& pass) {
    if constexpr (source == FloatSource::bf16 && staged) {
      // Activations to f32 first, then as f32: the conversion beside every product would cost a
      // third.
      alignas(64) float x[rows * chunk_units * 2];
      for (int r = 0; r < rows; ++r) {
        const uint8_t* from = pass.x + r * pass.x_stride;
        for (int64_t u = 0; u < pass.units; ++u) {
          uint32_t pair = static_cast<uint32_t>(load_i32(from + u * 4));
          uint32_t halves[2] = {pair << 16, pair & 0xffff0000u};
          memcpy(x + (r * chunk_units + u) * 2, halves, 8);
        }
      }
      Pass plain = pass;
      plain.x = reinterpret_cast<const uint8_t*>(x);
      plain.x_stride = chunk_units * 2 * 4;
      plain.units = pass.units * 2;
      FloatKernel<FloatSource::f32>::tile<rows, panels, false>(plain);
    } else {
      multiply<rows, panels, staged>(pass);
    }
  }

  template <int rows, int panels, bool staged>
  static void multiply(const Pass& pass) {
    constexpr int vectors = panels * per_panel;
    constexpr int step = staged ? staged_bytes : unit_bytes;
    S::F sums[rows][vectors];
    for (int r = 0; r < rows; ++r) {
      for (int v = 0; v < vectors; ++v) {
        sums[r][v] = S::load(pass.sums + r * pass.sums_stride + v * S::width);
      }
    }
    const uint8_t* weights = pass.weights;
    TileRows x(pass);
    auto unit = [&](int64_t i) __attribute__((always_inline)) {
      if constexpr (!staged && rows < 3) {
        for (int p = 0; p < panels; ++p) {
          _mm_prefetch(
              reinterpret_cast<const char*>(weights + i * step + p * pass.panel_stride + 2048),
              _MM_HINT_T0);
        }
      }
      for (int j = 0; j < k_per_unit; ++j) {
        S::F w[vectors];
        for (int v = 0; v < vectors; ++v) {
          w[v] = weight<staged>(weights + i * step + v / per_panel * pass.panel_stride, j,
                                v % per_panel);
        }
        for (int r = 0; r < rows; ++r) {
          S::F value = broadcast_f32(x.row(r) + i * 4);
          if constexpr (source == FloatSource::bf16) {
            S::I bits;
            memcpy(&bits, &value, sizeof(bits));
            value = j == 0 ? S::even_bf16(bits) : S::odd_bf16(bits);
          }
          for (int v = 0; v < vectors; ++v) sums[r][v] = S::fma(value, w[v], sums[r][v]);
        }
        load_fence();
      }
    };
    int64_t u = 0;
    const char* next = reinterpret_cast<const char*>(pass.next);
    for (; u + 4 <= pass.units; u += 4, weights += 4 * step, x.advance(16)) {
      if constexpr (!staged && rows >= 3) {
        _mm_prefetch(next, _MM_HINT_T1);
        _mm_prefetch(next + 64, _MM_HINT_T1);
        next += 128;
      }
      unit(0);
      unit(1);
      unit(2);
      unit(3);
    }
    for (; u < pass.units; ++u, weights += step, x.advance(4)) unit(0);
    for (int r = 0; r < rows; ++r) {
      for (int v = 0; v < vectors; ++v) {
        S::store(pass.sums + r * pass.sums_stride + v * S::width, sums[r][v]);
      }
    }
  }
};

}  // namespace
}  // namespace impetus::cpu

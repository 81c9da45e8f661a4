#include "cpu/product.h"

#include <algorithm>
#include <cassert>
#include <cstring>

namespace impetus::cpu {
namespace {

// Multiply-adds below which a second thread costs more than it brings.
constexpr int64_t kSmallWork = int64_t{1} << 16;
// Weights of one item: enough to hide its handing out, few enough to share evenly and to stay in
// L2.
constexpr int64_t kItemBytes = int64_t{256} << 10;

template <typename Body>
void run_items(ThreadPool& pool, bool small, int64_t items, Body&& body) {
  if (small) {
    for (int64_t item = 0; item < items; ++item) body(item, 0);
  } else {
    pool.parallel_for(items, body);
  }
}

// Arguments for `count` panels of a matrix from `panel` on, as a matrix of its own.
void set_panels(MatmulArgs& args, const PackedMatrix& matrix, int64_t k, int64_t panel,
                int64_t count) {
  args.weights = matrix.data + panel * panel_bytes(matrix.layout, k);
  args.panel_begin = 0;
  args.panel_end = count;
  args.bias = matrix.bias.empty() ? nullptr : matrix.bias.data() + panel * kPanel;
}

}  // namespace

Activations::Activations(Carver& carver, int64_t rows, int64_t k_max, uint8_t forms) {
  x_ = carver.take<float>(rows * round_up(k_max, kPanel));
  if (forms & kFormBf16) bf16_ = carver.take<uint16_t>(rows * round_up(k_max, 2));
  if (forms & kFormQ8) {
    const int64_t blocks = rows * (k_max / kQuantBlock + 1);
    q8_ = {carver.take<int8_t>(rows * k_max), carver.take<float>(blocks),
           carver.take<int32_t>(blocks)};
  }
  set_width(k_max);
}

void Activations::set_width(int64_t k) {
  k_ = k;
  stride_ = round_up(k, kPanel);
}

QuantizedRows Activations::quantized(int64_t row) const {
  const int64_t blocks = row * (k_ / kQuantBlock);
  return {q8_.q + row * k_, q8_.scale + blocks, q8_.sum + blocks};
}

void Activations::convert(const KernelTable& kernels, uint8_t forms, int64_t begin,
                          int64_t end) const {
  if (forms & kFormQ8) {
    kernels.quantize_rows(row(begin), stride_, end - begin, k_, quantized(begin));
  }
  if (forms & kFormBf16) {
    for (int64_t r = begin; r < end; ++r) {
      uint16_t* to = bf16_ + r * round_up(k_, 2);
      kernels.to_bf16(row(r), k_, to);
      if (k_ % 2 != 0) to[k_] = 0;
    }
  }
}

void Activations::convert_columns(const KernelTable& kernels, uint8_t forms, int64_t row_index,
                                  const float* values, int64_t begin, int64_t end) const {
  if (forms & kFormF32) {
    std::memcpy(row(row_index) + begin, values, static_cast<size_t>(end - begin) * sizeof(float));
  }
  if (forms & kFormQ8) {
    QuantizedRows to = quantized(row_index);
    to.q += begin;
    to.scale += begin / kQuantBlock;
    to.sum += begin / kQuantBlock;
    kernels.quantize_rows(values, end - begin, 1, end - begin, to);
  }
  if (forms & kFormBf16) {
    uint16_t* to = bf16_ + row_index * round_up(k_, 2);
    kernels.to_bf16(values, end - begin, to + begin);
    if (end == k_ && k_ % 2 != 0) to[k_] = 0;
  }
}

MatmulArgs Activations::args(WeightLayout layout, int64_t row_index, int64_t rows) const {
  MatmulArgs args{};
  args.m = rows;
  args.k = k_;
  switch (form_of(layout)) {
    case kFormF32:
      args.x = row(row_index);
      args.x_stride = stride_;
      break;
    case kFormBf16:
      args.x_stride = round_up(k_, 2);
      args.x_bf16 = bf16_ + row_index * args.x_stride;
      break;
    case kFormQ8:
      args.x_q8 = quantized(row_index);
      break;
  }
  return args;
}

namespace {

// How a product is cut into items. Few rows: the weights are read once, each item takes a run of
// panels. Many rows: a tile of rows whose activations stay in the second-level cache meets many
// panels.
struct Cut {
  int64_t tile;    // rows of an item
  int64_t tiles;   // runs of rows
  int64_t panels;  // panels of an item
  int64_t runs;    // runs of panels
  int64_t items() const { return tiles * runs; }
};

Cut cut_product(int64_t rows, int64_t panels, int64_t k, WeightLayout layout, int64_t threads) {
  constexpr int64_t kFewRows = 12;
  constexpr int64_t kTileBytes = int64_t{384} << 10;
  Cut cut{rows, 1, 0, 0};
  if (rows <= kFewRows) {
    const int64_t even = std::max<int64_t>(1, panels / (threads * 4));
    cut.panels = std::clamp<int64_t>(kItemBytes / panel_bytes(layout, k), 1, even);
  } else {
    const int64_t row_bytes = k * (form_of(layout) == kFormQ8     ? 1
                                   : form_of(layout) == kFormBf16 ? 2
                                                                  : 4);
    const int64_t most = std::clamp<int64_t>(kTileBytes / row_bytes / 12 * 12, 24, 96);
    cut.tiles = (rows + most - 1) / most;
    cut.tile = round_up((rows + cut.tiles - 1) / cut.tiles, 12);
    cut.tiles = (rows + cut.tile - 1) / cut.tile;
    cut.panels = std::clamp<int64_t>(panels * cut.tiles / (threads * 6),
                                     std::min<int64_t>(4, panels), panels);
  }
  // Whole pairs of panels are whole blocks of 32 outputs.
  cut.panels = std::min(panels, round_up(cut.panels, 2));
  cut.runs = (panels + cut.panels - 1) / cut.panels;
  return cut;
}

}  // namespace

void multiply(Machine& machine, const PackedLinear& weights, const Activations& x, int64_t rows,
              float* out, int64_t out_stride, bool accumulate) {
  if (rows == 0) return;
  assert(weights.k == x.width());
  for (const PackedMatrix& matrix : weights.matrices) {
    const Cut cut =
        cut_product(rows, matrix.panels, weights.k, matrix.layout, machine.pool.threads());
    const bool small = rows * matrix.panels * kPanel * weights.k < kSmallWork;
    run_items(machine.pool, small, cut.items(), [&](int64_t item, int) {
      const int64_t row = item / cut.runs * cut.tile;
      const int64_t panel = item % cut.runs * cut.panels;
      MatmulArgs args = x.args(matrix.layout, row, std::min(cut.tile, rows - row));
      set_panels(args, matrix, weights.k, panel, std::min(cut.panels, matrix.panels - panel));
      args.out = out + row * out_stride + matrix.first_column + panel * kPanel;
      args.out_stride = out_stride;
      args.accumulate = accumulate;
      machine.kernels->matmul[static_cast<size_t>(matrix.layout)](args);
    });
  }
}

void multiply_activate(Machine& machine, const PackedLinear& weights, const Activations& x,
                       int64_t rows, ActivationFunction activation, const Activations& out,
                       uint8_t out_forms, float* scratch) {
  if (rows == 0) return;
  const bool gated = weights.segments.size() == 2;
  const int64_t width = weights.segments[0].rows;
  assert(out.width() == width);
  const int64_t panels = panels_of(width);
  const Cut cut =
      cut_product(rows, panels, weights.k, weights.matrices[0].layout, machine.pool.threads());
  // What a pass of an item makes fits the scratch: 96 rows x 2 x 64 columns, or 12 x 2 x 512.
  const int64_t pass = cut.tile <= 12 ? 32 : 4;
  const bool small = rows * weights.columns * weights.k < kSmallWork;
  run_items(machine.pool, small, cut.items(), [&](int64_t item, int thread) {
    float* buffer = scratch + thread * kHiddenScratch;
    const int64_t row = item / cut.runs * cut.tile;
    const int64_t tile_rows = std::min(cut.tile, rows - row);
    const int64_t first = item % cut.runs * cut.panels;
    const int64_t last = std::min(panels, first + cut.panels);
    for (int64_t panel = first; panel < last; panel += pass) {
      const int64_t count = std::min(pass, last - panel);
      const int64_t begin = panel * kPanel, end = std::min(width, begin + count * kPanel);
      const int64_t stride = count * kPanel * (gated ? 2 : 1);
      for (size_t s = 0; s < weights.segments.size(); ++s) {
        const PackedLinear::Segment& segment = weights.segments[s];
        const PackedMatrix& matrix = weights.matrices[segment.matrix];
        MatmulArgs args = x.args(matrix.layout, row, tile_rows);
        set_panels(args, matrix, weights.k, segment.first_panel + panel, count);
        args.out = buffer + static_cast<int64_t>(s) * count * kPanel;
        args.out_stride = stride;
        machine.kernels->matmul[static_cast<size_t>(matrix.layout)](args);
      }
      for (int64_t r = 0; r < tile_rows; ++r) {
        float* values = buffer + r * stride;
        if (gated) {
          machine.kernels->silu_multiply(values, values + count * kPanel, end - begin, values);
        } else {
          activation(values, end - begin, values);
        }
        out.convert_columns(*machine.kernels, out_forms, row + r, values, begin, end);
      }
    }
  });
}

}  // namespace impetus::cpu

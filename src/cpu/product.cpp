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

void multiply(Machine& machine, const PackedLinear& weights, const Activations& x, int64_t rows,
              float* out, int64_t out_stride, bool accumulate) {
  if (rows == 0) return;
  assert(weights.k == x.width());
  const int64_t threads = machine.pool.threads();
  for (const PackedMatrix& matrix : weights.matrices) {
    const int64_t bytes = panel_bytes(matrix.layout, weights.k);
    const int64_t even = matrix.panels / (threads * 4);
    const int64_t step = std::clamp<int64_t>(kItemBytes / bytes, 1, std::max<int64_t>(1, even));
    const int64_t runs = (matrix.panels + step - 1) / step;
    // Few panels and many rows: share the rows out as well.
    const int64_t tiles = std::clamp<int64_t>(threads * 4 / runs, 1, (rows + 47) / 48);
    const int64_t tile = (rows + tiles - 1) / tiles;
    const bool small = rows * matrix.panels * kPanel * weights.k < kSmallWork;
    run_items(machine.pool, small, runs * tiles, [&](int64_t item, int) {
      const int64_t row = item % tiles * tile;
      const int64_t panel = item / tiles * step;
      const int64_t count = std::min(tile, rows - row);
      if (count <= 0) return;
      MatmulArgs args = x.args(matrix.layout, row, count);
      set_panels(args, matrix, weights.k, panel, std::min(step, matrix.panels - panel));
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
  // Even numbers of panels, so that each item quantises whole blocks of 32; tiles that fit the
  // scratch: 192 rows x 2 x 64 columns, or 31 x 2 x 256.
  const int64_t threads = machine.pool.threads();
  const int64_t widest = rows < 32 ? 16 : 4;
  const int64_t step = std::clamp<int64_t>(round_up(panels / (threads * 4), 2), 2, widest);
  const int64_t tile = rows < 32 ? rows : 192;
  const bool small = rows * weights.columns * weights.k < kSmallWork;
  run_items(machine.pool, small, (panels + step - 1) / step, [&](int64_t item, int thread) {
    float* buffer = scratch + thread * kHiddenScratch;
    const int64_t panel = item * step;
    const int64_t count = std::min(step, panels - panel);
    const int64_t begin = panel * kPanel, end = std::min(width, begin + count * kPanel);
    const int64_t stride = count * kPanel * (gated ? 2 : 1);
    for (int64_t row = 0; row < rows; row += tile) {
      const int64_t tile_rows = std::min(tile, rows - row);
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

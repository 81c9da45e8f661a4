#include "cpu/packing.h"

#include <algorithm>
#include <array>
#include <cassert>
#include <cstring>

namespace impetus::cpu {
namespace {

WeightLayout layout_of(const GroupQuantised& grouped) {
  const auto of = [&](WeightLayout f16, WeightLayout bf16, WeightLayout f32) {
    return grouped.scale_type == DType::f16 ? f16 : grouped.scale_type == DType::f32 ? f32 : bf16;
  };
  // The sixteen values of mxfp4 are whole numbers of half its scale, but not evenly spaced: 8 bits.
  const bool four = grouped.bits <= 4 && grouped.mode == GroupQuantised::Mode::affine;
  return four ? of(WeightLayout::g4_f16, WeightLayout::g4_bf16, WeightLayout::g4_f32)
              : of(WeightLayout::g8_f16, WeightLayout::g8_bf16, WeightLayout::g8_f32);
}

WeightLayout layout_of(const TensorView& view) {
  switch (view.dtype) {
    case DType::grouped:
      return layout_of(*view.grouped);
    case DType::f16:
      return WeightLayout::f16;
    case DType::bf16:
      return WeightLayout::bf16;
    case DType::q8_0:
      return WeightLayout::q8_0;
    case DType::q4_0:
      return WeightLayout::q4_0;
    default:
      return WeightLayout::f32;
  }
}

// Sixteen rows side by side; `rows` of them are there. Element size 4 or 2, `group` elements of k
// stay together (2 for bf16). Missing rows and the odd last k stay zero.
template <typename T>
void pack_plain(const std::byte* source, int64_t rows, int64_t k, int64_t group, std::byte* out) {
  std::memset(out, 0, static_cast<size_t>(round_up(k, group) * kPanel) * sizeof(T));
  for (int64_t r = 0; r < rows; ++r) {
    const std::byte* row = source + r * k * static_cast<int64_t>(sizeof(T));
    T* column = reinterpret_cast<T*>(out) + r * group;
    for (int64_t i = 0; i < k; ++i) {
      std::memcpy(column + (i / group) * group * kPanel + i % group, row + i * sizeof(T),
                  sizeof(T));
    }
  }
}

// Blocks of { f16 d; uint8 q[4 * groups] } from `rows` rows, `row_stride` bytes apart. `flip` is
// xor-ed onto each byte (128 turns int8 into weight + 128); `zero` stands for no weight.
void pack_blocks(const std::byte* source, int64_t row_stride, int64_t rows, int64_t k,
                 int64_t groups, uint8_t flip, uint8_t zero, std::byte* out) {
  const int64_t block = 2 + 4 * groups;
  const int64_t panel_block = kPanel * block;
  for (int64_t b = 0; b < k / kQuantBlock; ++b) {
    std::byte* scales = out + b * panel_block;
    auto* q = reinterpret_cast<uint8_t*>(scales + 2 * kPanel);
    for (int64_t r = 0; r < kPanel; ++r) {
      if (r >= rows) {
        std::memset(scales + 2 * r, 0, 2);
        for (int64_t g = 0; g < groups; ++g) std::memset(q + (g * kPanel + r) * 4, zero, 4);
        continue;
      }
      const std::byte* from = source + r * row_stride + b * block;
      std::memcpy(scales + 2 * r, from, 2);
      for (int64_t g = 0; g < groups; ++g) {
        uint32_t word;
        std::memcpy(&word, from + 2 + 4 * g, 4);
        word ^= flip * 0x01010101u;
        std::memcpy(q + (g * kPanel + r) * 4, &word, 4);
      }
    }
  }
}

// Bytes of a block's scales; its biases take as many, and then come its codes.
int64_t scales_bytes(WeightLayout layout) {
  return kPanel * (layout == WeightLayout::g4_f32 || layout == WeightLayout::g8_f32 ? 4 : 2);
}
bool is_four_bits(WeightLayout layout) {
  return layout == WeightLayout::g4_f16 || layout == WeightLayout::g4_bf16 ||
         layout == WeightLayout::g4_f32;
}

// A mxfp4 group's scale and bias for codes that are twice the value plus 12: powers of two, and 1.5
// times such, which bf16 holds. (Scales from 2^126 on, of no real weight, overflow to NaN.)
std::array<uint16_t, 2> mxfp4_scales(const GroupQuantised& grouped, int64_t index) {
  const float half = group_scale(grouped, index).scale / 2;
  return {f32_to_bf16(half), f32_to_bf16(-12 * half)};
}

void pack_grouped(const TensorView& view, WeightLayout layout, int64_t first, int64_t rows,
                  std::byte* out) {
  const GroupQuantised& grouped = *view.grouped;
  const bool mxfp4 = grouped.mode == GroupQuantised::Mode::mxfp4;
  const int64_t k = view.shape.columns();
  const int64_t scales = scales_bytes(layout);
  const auto scale_bytes = static_cast<size_t>(scales / kPanel);
  const int64_t panel_block = panel_bytes(layout, kQuantBlock);
  std::memset(out, 0, static_cast<size_t>(panel_bytes(layout, k)));  // no weight: scale, bias 0
  std::array<uint8_t, kQuantBlock> codes;
  for (int64_t r = 0; r < rows; ++r) {
    const std::byte* row = view.row(first + r).data();
    for (int64_t b = 0; b < k / kQuantBlock; ++b) {
      std::byte* block = out + b * panel_block;
      const int64_t group = ((first + r) * k + b * kQuantBlock) / grouped.group;
      std::byte* to = block + r * static_cast<int64_t>(scale_bytes);
      if (mxfp4) {
        const auto pair = mxfp4_scales(grouped, group);
        std::memcpy(to, &pair[0], 2);
        std::memcpy(to + scales, &pair[1], 2);
      } else {
        const auto at = static_cast<size_t>(group) * scale_bytes;
        std::memcpy(to, grouped.scales.data() + at, scale_bytes);
        std::memcpy(to + scales, grouped.biases.data() + at, scale_bytes);
      }
      unpack_codes(grouped.bits, row + grouped.row_bytes(b * kQuantBlock), kQuantBlock,
                   codes.data());
      auto* q = reinterpret_cast<uint8_t*>(block + 2 * scales);
      for (int64_t i = 0; i < kQuantBlock; ++i) {
        uint8_t code = codes[static_cast<size_t>(i)];
        if (is_four_bits(layout)) {
          uint8_t& byte = q[(i % 16 / 4 * kPanel + r) * 4 + i % 4];
          byte = static_cast<uint8_t>(byte | (i < 16 ? code : code << 4));
        } else {
          if (mxfp4) code = static_cast<uint8_t>(2 * kE2m1[code] + 12);
          q[(i / 4 * kPanel + r) * 4 + i % 4] = code;
        }
      }
    }
  }
}

// f32, f16 or bf16 rows, quantised on the way.
void pack_as_q8(const TensorView& view, int64_t first, int64_t rows, int64_t k, std::byte* out) {
  std::vector<float> values(static_cast<size_t>(k));
  std::vector<BlockQ8_0> blocks(static_cast<size_t>(rows * k / kQuantBlock));
  for (int64_t r = 0; r < rows; ++r) {
    dequantize_row(view, first + r, values.data());
    quantize_q8_0(values.data(), k, blocks.data() + r * k / kQuantBlock);
  }
  pack_blocks(reinterpret_cast<const std::byte*>(blocks.data()), k / kQuantBlock * 34, rows, k, 8,
              0x80, 0x80, out);
}

void pack_panel(const TensorView& view, WeightLayout layout, int64_t panel, std::byte* out) {
  const int64_t k = view.shape.columns();
  const int64_t first = panel * kPanel;
  const int64_t rows = std::min<int64_t>(kPanel, view.shape.rows() - first);
  if (layout != layout_of(view)) {
    pack_as_q8(view, first, rows, k, out);
    return;
  }
  const std::byte* source = view.row(first).data();
  switch (layout) {
    case WeightLayout::f32:
      pack_plain<float>(source, rows, k, 1, out);
      break;
    case WeightLayout::f16:
      pack_plain<uint16_t>(source, rows, k, 1, out);
      break;
    case WeightLayout::bf16:
      pack_plain<uint16_t>(source, rows, k, 2, out);
      break;
    case WeightLayout::q8_0:
      pack_blocks(source, k / kQuantBlock * 34, rows, k, 8, 0x80, 0x80, out);
      break;
    case WeightLayout::q4_0:
      pack_blocks(source, k / kQuantBlock * 18, rows, k, 4, 0, 0x88, out);
      break;
    default:
      pack_grouped(view, layout, first, rows, out);
      break;
  }
}

}  // namespace

Form form_of(WeightLayout layout) {
  switch (layout) {
    case WeightLayout::f32:
    case WeightLayout::f16:
      return kFormF32;
    case WeightLayout::bf16:
      return kFormBf16;
    default:
      return kFormQ8;
  }
}

int64_t panel_bytes(WeightLayout layout, int64_t k) {
  switch (layout) {
    case WeightLayout::f32:
      return k * kPanel * 4;
    case WeightLayout::f16:
      return k * kPanel * 2;
    case WeightLayout::bf16:
      return round_up(k, 2) * kPanel * 2;
    case WeightLayout::q8_0:
      return k / kQuantBlock * kPanel * 34;
    case WeightLayout::q4_0:
      return k / kQuantBlock * kPanel * 18;
    default:
      return k / kQuantBlock * (2 * scales_bytes(layout) + (is_four_bits(layout) ? 256 : 512));
  }
}

Result<void> WeightPacker::add(PackedLinear& target, std::span<const Linear> tensors) {
  target = {};
  for (const Linear& linear : tensors) {
    const TensorView& view = linear.weight->view;
    const int64_t rows = view.shape.rows(), k = view.shape.columns();
    assert(target.k == 0 || target.k == k);
    target.k = k;
    WeightLayout layout = layout_of(view);
    if (precision_ == WeightPrecision::int8 && form_of(layout) != kFormQ8) {
      if (k % kQuantBlock != 0) {
        return error(ErrorCode::unsupported,
                     "{}: tensor {}: rows of {} weights are no whole number of blocks of {}, so it "
                     "cannot run in int8; run the weights as they are",
                     weights_.path_of(*linear.weight), linear.weight->name, k, kQuantBlock);
      }
      layout = WeightLayout::q8_0;
    }
    if (target.matrices.empty() || target.matrices.back().layout != layout) {
      target.matrices.push_back({layout, 0, target.columns, nullptr, {}});
    }
    PackedMatrix& matrix = target.matrices.back();
    target.segments.push_back({target.matrices.size() - 1, matrix.panels, target.columns, rows});
    matrix.panels += panels_of(rows);
    target.columns += panels_of(rows) * kPanel;
    target.forms |= form_of(layout);
    bytes_ += panels_of(rows) * panel_bytes(layout, k);
    jobs_.push_back({&target, target.segments.size() - 1, linear.weight, linear.bias});
  }
  bytes_ += 64 * static_cast<int64_t>(target.matrices.size());  // alignment of each matrix
  return {};
}

Result<PackedWeights> WeightPacker::pack(std::string purpose, MemoryLedger& ledger) {
  PackedWeights packed;
  IMPETUS_TRY(packed.reservation, ledger.reserve(bytes_, purpose));
  IMPETUS_TRY(packed.memory, Memory::map(bytes_, purpose, true));
  Carver carver(packed.memory.data());
  for (const Job& job : jobs_) {
    PackedLinear& target = *job.target;
    const PackedLinear::Segment& segment = target.segments[job.segment];
    PackedMatrix& matrix = target.matrices[segment.matrix];
    if (matrix.data == nullptr) {
      matrix.data = carver.take<std::byte>(matrix.panels * panel_bytes(matrix.layout, target.k));
    }
    if (job.bias != nullptr) {
      matrix.bias.resize(static_cast<size_t>(matrix.panels * kPanel));
      const auto bias = to_floats(*job.bias);
      std::copy(bias.begin(), bias.end(),
                matrix.bias.begin() + static_cast<std::ptrdiff_t>(segment.first_panel * kPanel));
    }
    const int64_t offset = segment.first_panel * panel_bytes(matrix.layout, target.k);
    pack_tensor(job, const_cast<std::byte*>(matrix.data) + offset);
  }
  jobs_.clear();
  return packed;
}

void WeightPacker::pack_tensor(const Job& job, std::byte* out) const {
  const PackedLinear::Segment& segment = job.target->segments[job.segment];
  const WeightLayout layout = job.target->matrices[segment.matrix].layout;
  const TensorView& view = job.tensor->view;
  const int64_t bytes = panel_bytes(layout, job.target->k);
  const int64_t panels = panels_of(segment.rows);
  const auto row_bytes = static_cast<int64_t>(view.data.size()) / segment.rows;
  // Slices of a few MiB, each let go of once packed: what is resident stays near the file's size.
  const int64_t slice = std::max<int64_t>(1, (int64_t{4} << 20) / (row_bytes * kPanel + 1));
  pool_.set_threads(0);  // a step before may have left fewer
  pool_.parallel_for((panels + slice - 1) / slice, [&](int64_t item, int) {
    const int64_t begin = item * slice, end = std::min(panels, begin + slice);
    for (int64_t panel = begin; panel < end; ++panel) {
      pack_panel(view, layout, panel, out + panel * bytes);
    }
    const int64_t first = begin * kPanel, last = std::min(segment.rows, end * kPanel);
    weights_.release(view.data.subspan(static_cast<size_t>(first * row_bytes),
                                       static_cast<size_t>((last - first) * row_bytes)));
  });
  weights_.release(*job.tensor);  // the pages that lay across slices
}

std::vector<float> to_floats(const NamedTensor& tensor) {
  std::vector<float> values(static_cast<size_t>(tensor.view.shape.elements()));
  dequantize(tensor.view.dtype, tensor.view.data.data(), tensor.view.shape.elements(),
             values.data());
  return values;
}

}  // namespace impetus::cpu

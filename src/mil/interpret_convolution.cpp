// conv, avg_pool, max_pool, l2_pool: any number of spatial dimensions.
#include <algorithm>
#include <cmath>

#include "mil/interpret.h"

namespace impetus::mil {
namespace {

constexpr int64_t kSizeMax = int64_t{1} << 40;  // of a kernel, stride, dilation or pad

// One spatial dimension of a window that moves over an input.
struct Window {
  int64_t in = 0, kernel = 1, stride = 1, dilation = 1, before = 0, after = 0, out = 0;
  int64_t extent() const { return (kernel - 1) * dilation + 1; }
};

Result<std::vector<Window>> windows_of(Call& call, const Dims& in, const Dims& kernel,
                                       bool has_dilations) {
  const size_t count = in.size();
  IMPETUS_TRY(const auto strides, call.integers_if("strides"));
  IMPETUS_TRY(const auto pad, call.integers_if("pad"));
  std::optional<Dims> dilations;
  if (has_dilations) {
    IMPETUS_TRY(dilations, call.integers_if("dilations"));
  }
  IMPETUS_TRY(const std::string type, call.text("pad_type", "valid"));
  IMPETUS_TRY(const bool ceil_mode, call.flag("ceil_mode", false));
  if (kernel.size() != count || (strides && strides->size() != count) ||
      (dilations && dilations->size() != count)) {
    return error(ErrorCode::corrupt, "kernel, strides and dilations are not {} numbers each",
                 count);
  }
  const bool same = type == "same" || type == "same_lower", custom = type == "custom";
  if (!same && !custom && type != "valid") {
    return error(ErrorCode::corrupt, "pad_type \"{}\" is unknown", type);
  }
  if (custom && pad && pad->size() != 2 * count) {
    return error(ErrorCode::corrupt, "pad is not {} numbers", 2 * count);
  }
  std::vector<Window> windows;
  for (size_t i = 0; i < count; ++i) {
    Window w;
    w.in = in[i];
    w.kernel = kernel[i];
    w.stride = strides ? (*strides)[i] : 1;
    w.dilation = dilations ? (*dilations)[i] : 1;
    if (w.kernel < 1 || w.stride < 1 || w.dilation < 1 || w.kernel > kSizeMax / w.dilation) {
      return error(ErrorCode::corrupt, "kernel {}, stride {}, dilation {} in spatial dimension {}",
                   w.kernel, w.stride, w.dilation, i);
    }
    if (custom && pad) {
      w.before = (*pad)[2 * i];
      w.after = (*pad)[2 * i + 1];
      if (w.before < 0 || w.after < 0) return error(ErrorCode::corrupt, "pad is negative");
    } else if (same) {
      const int64_t steps = (w.in + w.stride - 1) / w.stride;
      const int64_t total = std::max<int64_t>(0, (steps - 1) * w.stride + w.extent() - w.in);
      w.before = type == "same" ? total / 2 : total - total / 2;
      w.after = total - w.before;
    }
    const int64_t room = w.in + w.before + w.after - w.extent();
    if (room < 0) {
      return error(
          ErrorCode::corrupt,
          "a window of {} does not fit spatial dimension {} of length {} padded by {} and {}",
          w.extent(), i, w.in, w.before, w.after);
    }
    w.out = room / w.stride + 1;
    if (ceil_mode) {
      w.out = (room + w.stride - 1) / w.stride + 1;
      // A window must not begin in the padding behind.
      if ((w.out - 1) * w.stride >= w.in + w.before && w.before + w.after > 0) --w.out;
    }
    windows.push_back(w);
  }
  return windows;
}

// Where column `column` of the unrolled input begins, in each spatial dimension.
void origin_of(const std::vector<Window>& windows, int64_t column, Dims& origin) {
  for (size_t d = windows.size(); d-- > 0;) {
    origin[d] = column % windows[d].out * windows[d].stride - windows[d].before;
    column /= windows[d].out;
  }
}

Result<void> conv(Call& call) {
  IMPETUS_TRY(const Array* x, call.floating("x"));
  IMPETUS_TRY(const Array* weight, call.floating("weight"));
  const Array* bias = call.find("bias");
  IMPETUS_TRY(const int64_t groups, call.integer("groups", 1));
  if (x->rank() < 3 || x->rank() != weight->rank()) {
    return error(ErrorCode::corrupt, "x {} and weight {}: both have a rank of 3 or more",
                 x->to_string(), weight->to_string());
  }
  const int64_t batch = x->shape[0], inputs = x->shape[1], outputs = weight->shape[0];
  if (groups < 1 || inputs % groups != 0 || outputs % groups != 0 ||
      weight->shape[1] != inputs / groups) {
    return error(ErrorCode::corrupt, "x {} and weight {} do not fit {} groups", x->to_string(),
                 weight->to_string(), groups);
  }
  if (bias != nullptr && (!bias->floating() || bias->rank() != 1 || bias->shape[0] != outputs)) {
    return error(ErrorCode::corrupt, "bias {} does not fit {} outputs", bias->to_string(), outputs);
  }
  const Dims in(x->shape.begin() + 2, x->shape.end());
  const Dims kernel(weight->shape.begin() + 2, weight->shape.end());
  IMPETUS_TRY(const auto windows, windows_of(call, in, kernel, true));
  Dims shape{batch, outputs};
  for (const Window& w : windows) shape.push_back(w.out);
  const auto columns = elements_of(Dims(shape.begin() + 2, shape.end()));
  const auto in_columns = elements_of(in), kernel_size = elements_of(kernel);
  IMPETUS_TRY(Array * out, call.output(shape));
  if (!out->floating()) {
    return error(ErrorCode::corrupt, "the result is declared {}", to_string(out->dtype));
  }
  if (!columns || !in_columns || !kernel_size) return error(ErrorCode::corrupt, "sizes overflow");
  if (out->elements() == 0) return {};
  const int64_t in_group = inputs / groups, out_group = outputs / groups;
  const bool pointwise =
      *columns == *in_columns && std::ranges::all_of(windows, [](const Window& w) {
        return w.kernel == 1 && w.stride == 1 && w.before == 0 && w.after == 0;
      });
  const Dims in_strides = strides_of(in);
  for (int64_t group = 0; group < groups; ++group) {
    Product product;
    product.batches = batch;
    product.m = out_group;
    product.n = *columns;
    product.k = in_group * *kernel_size;
    product.a = weight->floats() + group * out_group * product.k;
    product.a_row = product.k;
    product.b = x->floats() + group * in_group * *in_columns;
    product.b_row = *in_columns;
    product.c = out->floats() + group * out_group * *columns;
    product.c_row = *columns;
    product.row_bias = bias != nullptr ? bias->floats() + group * out_group : nullptr;
    product.half = call.half_sums();
    for (int64_t i = 0; i < batch; ++i) {
      product.a_at.push_back(0);
      product.b_at.push_back(i * inputs * *in_columns);
      product.c_at.push_back(i * outputs * *columns);
    }
    if (!pointwise) {
      // Row `row` of the unrolled input is one input channel seen through one place of the kernel.
      product.fill_b = [&, base = product.b](int64_t i, int64_t row, int64_t column, int64_t count,
                                             float* to) {
        Dims place(windows.size()), origin(windows.size());
        int64_t rest = row % *kernel_size;
        for (size_t d = windows.size(); d-- > 0;) {
          place[d] = rest % windows[d].kernel * windows[d].dilation;
          rest /= windows[d].kernel;
        }
        const float* from = base + i * inputs * *in_columns + row / *kernel_size * *in_columns;
        for (int64_t j = 0; j < count; ++j) {
          origin_of(windows, column + j, origin);
          int64_t offset = 0;
          bool inside = true;
          for (size_t d = 0; d < windows.size(); ++d) {
            const int64_t at = origin[d] + place[d];
            inside = inside && at >= 0 && at < windows[d].in;
            offset += at * in_strides[d];
          }
          to[j] = inside ? from[offset] : 0.0f;
        }
      };
    }
    IMPETUS_CHECK(multiply(call, product));
  }
  return {};
}

enum class Pool : uint8_t { average, max, l2 };  // l2: the root of the sum of squares

Result<void> pool(Call& call, Pool kind) {
  IMPETUS_TRY(const Array* x, call.floating("x"));
  IMPETUS_TRY(const Dims kernel, call.integers("kernel_sizes"));
  IMPETUS_TRY(const bool exclude, call.flag("exclude_padding_from_average", false));
  if (x->rank() < 3) {
    return error(ErrorCode::corrupt, "x {} has no spatial dimension", x->to_string());
  }
  const Dims in(x->shape.begin() + 2, x->shape.end());
  IMPETUS_TRY(const auto windows, windows_of(call, in, kernel, false));
  Dims shape{x->shape[0], x->shape[1]};
  for (const Window& w : windows) shape.push_back(w.out);
  IMPETUS_TRY(Array * out, call.output(shape));
  const int64_t size = elements_of(kernel).value_or(0);
  const int64_t columns = elements_of(Dims(shape.begin() + 2, shape.end())).value_or(0);
  const int64_t in_columns = elements_of(in).value_or(0);
  if (!out->floating()) {
    return error(ErrorCode::corrupt, "the result is declared {}", to_string(out->dtype));
  }
  IMPETUS_CHECK(call.charge(
      elements_of({std::max<int64_t>(out->elements(), 1), elements_of(kernel).value_or(-1)})));
  const Dims in_strides = strides_of(in);
  const bool half = call.half_sums();
  call.crew().ranges(
      out->elements(), std::max<int64_t>(1, 4096 / (size + 1)), [&](int64_t begin, int64_t end) {
        Dims origin(windows.size());
        for (int64_t i = begin; i < end; ++i) {
          const float* from = x->floats() + i / columns * in_columns;
          origin_of(windows, i % columns, origin);
          float sum = 0, top = -__builtin_huge_valf();
          int64_t padded = 0,
                  inside = 0;  // places of the window in the padded and in the own input
          for (int64_t place = 0; place < size; ++place) {
            int64_t rest = place, offset = 0;
            bool is_padded = true, is_inside = true;
            for (size_t d = windows.size(); d-- > 0;) {
              const Window& w = windows[d];
              const int64_t at = origin[d] + rest % w.kernel;
              rest /= w.kernel;
              is_padded = is_padded && at < w.in + w.after;
              is_inside = is_inside && at >= 0 && at < w.in;
              offset += at * in_strides[d];
            }
            padded += is_padded;
            if (!is_inside) continue;
            ++inside;
            const float v = from[offset];
            sum += kind == Pool::l2 ? v * v : v;
            if (half) sum = rounded_f16(sum);
            top = v > top || v != v ? v : top;
          }
          const int64_t count = exclude ? inside : padded;
          switch (kind) {
            case Pool::average:
              out->floats()[i] = count > 0 ? sum / static_cast<float>(count) : 0.0f;
              break;
            case Pool::max:
              out->floats()[i] = top;
              break;
            case Pool::l2:
              out->floats()[i] = std::sqrt(sum);
              break;
          }
        }
      });
  return {};
}

Result<void> avg_pool(Call& call) {
  return pool(call, Pool::average);
}
Result<void> max_pool(Call& call) {
  return pool(call, Pool::max);
}
Result<void> l2_pool(Call& call) {
  return pool(call, Pool::l2);
}

constexpr Kernel kKernels[] = {
    {"conv", conv},
    {"avg_pool", avg_pool},
    {"max_pool", max_pool},
    {"l2_pool", l2_pool},
};

}  // namespace

std::span<const Kernel> convolution_kernels() {
  return kKernels;
}

}  // namespace impetus::mil

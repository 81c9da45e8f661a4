// What kernels/tiles.cuh makes of instructions, in C++, lane by lane as the PTX ISA documents them;
// and the kernels that use it. For tests.
#pragma once

#include "mlx/cuda_on_host.h"
#include "mlx/prefill_kernel.h"

namespace impetus {

using mlx_backend::on_host::Block;

inline Shared anew(Shared at) {
  return at;
}

template <bool TRANSPOSED>
inline void load_matrices_as(unsigned (&to)[4], Shared row) {
  struct Lane {
    unsigned* to;
    const char* row;
  } mine{to, row};
  Block::running().together(mine, [](Lane** lanes) {
    for (int m = 0; m < 4; ++m) {
      uint16_t matrix[8][8];
      for (int r = 0; r < 8; ++r) std::memcpy(matrix[r], lanes[m * 8 + r]->row, sizeof(matrix[r]));
      for (int l = 0; l < 32; ++l) {
        const int a = l / 4, b = l % 4 * 2;
        const uint16_t first = TRANSPOSED ? matrix[b][a] : matrix[a][b];
        const uint16_t second = TRANSPOSED ? matrix[b + 1][a] : matrix[a][b + 1];
        lanes[l]->to[m] = first | static_cast<unsigned>(second) << 16;
      }
    }
  });
}
inline void load_matrices(unsigned (&to)[4], Shared row) {
  load_matrices_as<false>(to, row);
}
inline void load_transposed(unsigned (&to)[4], Shared row) {
  load_matrices_as<true>(to, row);
}

inline float power_of_2(float x) {
  return std::exp2(x);
}
inline unsigned read_pair(const void* from) {
  unsigned pair;
  std::memcpy(&pair, from, sizeof(pair));
  return pair;
}
inline void write_pair(void* to, unsigned pair) {
  std::memcpy(to, &pair, sizeof(pair));
}

}  // namespace impetus

#define alignas(bytes)
#include "mlx/kernels/prefill.cuh"
#include "mlx/kernels/tile_products.cuh"
// After these.
#include "mlx/kernels/encode.cuh"
#undef alignas

namespace impetus::mlx_backend::on_host {

static_assert(mlx_backend::kPrefillThreads == impetus::kPrefillThreads &&
              mlx_backend::kTileRows == impetus::kTileRows &&
              mlx_backend::kTilePlan == impetus::kTilePlan);

// The shapes and types that are compiled here.
class HostPrefill final : public PrefillKernel {
 public:
  explicit HostPrefill(const PrefillShape& shape) : shape_(shape) {}

  // Null where the shape is none of those.
  static std::unique_ptr<PrefillKernel> make(const PrefillShape& shape) {
    auto kernel = std::make_unique<HostPrefill>(shape);
    return kernel->with([](auto) {}) ? std::move(kernel) : nullptr;
  }

  mx::array attend(const PrefillStep& step, const mx::array& queries, const mx::array& keys,
                   const mx::array& values) override {
    if (!shape_.pool) throw std::logic_error("a kernel of texts");
    return run(step, {queries, keys, values, step.plan});
  }

  mx::array attend_texts(const PrefillStep& step, const mx::array& qkv) override {
    if (shape_.pool) throw std::logic_error("a kernel of prompts");
    return run(step, {mx::contiguous(qkv), step.plan});
  }

 private:
  mx::array run(const PrefillStep& step, std::vector<mx::array> inputs) {
    mx::eval(inputs);
    mx::array out = empty({step.rows, shape_.heads * shape_.head_dim}, shape_.type);
    with([&](auto form) {
      using F = decltype(form);
      using T = typename F::T;
      constexpr bool kBf16 = std::is_same_v<T, Bf16>;
      launch({F::kHeads * static_cast<unsigned>(step.tiles), 1, 1}, kPrefillThreads, [&] {
        if (shape_.pool) {
          impetus::prefill<T, kBf16, F::kHeads, F::kKvHeads, F::kDim, KvPool::kBlockTokens, true>(
              data<T>(inputs[0]), inputs[0].strides(0), inputs[0].strides(1), data<T>(inputs[1]),
              data<T>(inputs[2]), static_cast<int>(inputs[1].shape(1)), data<int>(inputs[3]),
              data<T>(out));
        } else {
          const T* qkv = data<T>(inputs[0]);
          impetus::prefill<T, kBf16, F::kHeads, F::kKvHeads, F::kDim, 0, false>(
              qkv, (F::kHeads + 2 * F::kKvHeads) * F::kDim, F::kDim, qkv + F::kHeads * F::kDim,
              qkv + (F::kHeads + F::kKvHeads) * F::kDim, 0, data<int>(inputs[1]), data<T>(out));
        }
      });
    });
    return out;
  }

  template <typename T_, int HEADS, int KV_HEADS, int DIM>
  struct Form {
    using T = T_;
    static constexpr int kHeads = HEADS, kKvHeads = KV_HEADS, kDim = DIM;
  };

  template <typename T, typename Body>
  bool with_dims(Body&& body, mx::Dtype type) {
    if (shape_.type != type) return false;
    const auto is = [&](int heads, int kv_heads, int dim) {
      return shape_.heads == heads && shape_.kv_heads == kv_heads && shape_.head_dim == dim;
    };
    // Those of the conformance suite.
    if (is(4, 2, 16)) return body(Form<T, 4, 2, 16>()), true;
    if (is(4, 4, 16)) return body(Form<T, 4, 4, 16>()), true;
    if (is(3, 3, 32)) return body(Form<T, 3, 3, 32>()), true;
    // Groups of 7, 4 and 1; rows that are no power of two of pieces; tiles of fewer keys.
    if (is(7, 1, 64)) return body(Form<T, 7, 1, 64>()), true;
    if (is(2, 2, 80)) return body(Form<T, 2, 2, 80>()), true;
    if (is(5, 5, 80)) return body(Form<T, 5, 5, 80>()), true;
    if (is(8, 8, 80)) return body(Form<T, 8, 8, 80>()), true;
    if (is(13, 13, 80)) return body(Form<T, 13, 13, 80>()), true;
    if (is(4, 1, 128)) return body(Form<T, 4, 1, 128>()), true;
    if (is(2, 1, 256)) return body(Form<T, 2, 1, 256>()), true;
    if (is(1, 1, 144)) return body(Form<T, 1, 1, 144>()), true;
    return false;
  }
  template <typename Body>
  bool with(Body&& body) {
    return with_dims<_Float16>(body, mx::float16) || with_dims<Bf16>(body, mx::bfloat16);
  }

  PrefillShape shape_;
};

}  // namespace impetus::mlx_backend::on_host

// Kernels' text (kernels/*.cuh) on the host, for tests on machines without a GPU: a block's threads
// are contexts of one thread that run by turns, from barrier to barrier.
#pragma once

#include <ucontext.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <stdexcept>
#include <utility>
#include <vector>

#include "mlx/decode_kernels.h"

namespace impetus::mlx_backend::on_host {

struct Bf16 {
  uint16_t bits = 0;
  Bf16() = default;
  explicit Bf16(float value) : bits(f32_to_bf16(value)) {}
  explicit operator float() const { return bf16_to_f32(bits); }
};

struct Dim3 {
  unsigned x = 0, y = 0, z = 0;
};

class Block {
 public:
  static Block& running() { return *current_; }

  // Runs `body` once in each of `threads` contexts. Throws where not all reach the same barriers.
  void run(unsigned threads, const std::function<void()>& body) {
    begin(threads, body);
    for (;;) {
      const uint64_t before = progress_;
      if (!turn()) return;
      if (progress_ == before) throw std::logic_error("threads wait at unlike barriers");
    }
  }

  // In two parts, for blocks that run at once.
  void begin(unsigned threads, const std::function<void()>& body) {
    body_ = &body;
    contexts_.resize(threads);
    stacks_.resize(threads);
    done_.assign(threads, false);
    whole_ = {};
    some_ = {};
    warps_.assign((threads + 31) / 32, {});
    parcels_.assign(threads, {});
    waiting_.assign(threads, {});
    copies_.assign(threads, {});
    groups_.assign(threads, 0);
    unlike_ = false;
    for (unsigned t = 0; t < threads; ++t) {
      if (!stacks_[t]) stacks_[t].reset(new char[kStack]);
      getcontext(&contexts_[t]);
      contexts_[t].uc_stack.ss_sp = stacks_[t].get();
      contexts_[t].uc_stack.ss_size = kStack;
      contexts_[t].uc_link = &scheduler_;
      makecontext(&contexts_[t], &Block::enter, 0);
    }
  }
  // Each warp until it waits; false where all have ended.
  bool turn() {
    current_ = this;
    bool any = false;
    const auto threads = static_cast<unsigned>(contexts_.size());
    // A warp's lanes give their turn on to one another.
    for (unsigned first = 0; first < threads; first += 32) {
      const unsigned end = warp_end(first);
      for (unsigned t = first; t < end && !any; ++t) any = !done_[t];
      const unsigned t = ready_lane(first, first);
      if (t == end) continue;
      thread.x = t;
      swapcontext(&scheduler_, &contexts_[t]);
    }
    if (unlike_) throw std::logic_error("a warp's lanes are at unlike instructions");
    return any;
  }
  // Lets others run, its warp's next lane first; a thread that waits for other warps or blocks. It
  // does not wait for ever: kernels give up.
  void pause() {
    ++progress_;
    give_turn(thread.x);
  }
  static uint64_t progress() { return progress_; }

  void barrier() {
    wait(whole_, static_cast<unsigned>(contexts_.size()), [] {});
  }
  // Of `threads` alone, by its number.
  void barrier(size_t number, unsigned threads) {
    wait(some_.at(number), threads, [] {});
  }

  // An instruction of a whole warp: the last lane to arrive runs it for all, over what each
  // brought. `Lane` names the instruction.
  template <typename Lane, typename Run>
  void together(Lane& mine, Run&& run) {
    static const char kind = 0;
    const unsigned me = thread.x, first = me / 32 * 32;
    parcels_[me] = {&mine, &kind};
    wait(warps_[me / 32], 32, [&] {
      Lane* lanes[32];
      for (unsigned l = 0; l < 32; ++l) {
        unlike_ = unlike_ || parcels_[first + l].kind != &kind;
        lanes[l] = static_cast<Lane*>(parcels_[first + l].lane);
      }
      if (!unlike_) run(lanes);
    });
  }

  float exchange(float value, unsigned offset) {
    struct Lane {
      float value;
      unsigned offset;
      float other;
    } mine{value, offset, 0};
    together(mine, [](Lane** lanes) {
      for (unsigned l = 0; l < 32; ++l) lanes[l]->other = lanes[l ^ lanes[l]->offset]->value;
    });
    return mine.other;
  }

  // Made at once or as late as may be, by turns without order; until then what is there is spoiled.
  void copy_later(void* to, const void* from, size_t bytes) {
    chance_ = chance_ * 1664525u + 1013904223u;
    if (chance_ >> 31 != 0) {
      std::memmove(to, from, bytes);
      return;
    }
    std::memset(to, 0xff, bytes);
    copies_[thread.x].push_back({to, from, bytes, groups_[thread.x]});
  }
  void make_copies() {
    make_copies([](const Copy&) { return true; });
  }
  // Copies belong to groups: all but those of the last ones that ended.
  void end_copies() { ++groups_[thread.x]; }
  void make_copies_but(unsigned groups) {
    const uint64_t ended = groups_[thread.x];
    make_copies([&](const Copy& copy) { return copy.group + groups < ended; });
  }

  Dim3 thread, block, grid;

 private:
  struct Barrier {
    unsigned arrived = 0;
    uint64_t generation = 0;
  };
  struct Waiting {
    const Barrier* barrier = nullptr;
    uint64_t generation = 0;
  };
  struct Parcel {
    void* lane = nullptr;
    const void* kind = nullptr;
  };
  struct Copy {
    void* to;
    const void* from;
    size_t bytes;
    uint64_t group;
  };
  template <typename Which>
  void make_copies(const Which& which) {
    auto& copies = copies_[thread.x];
    std::erase_if(copies, [&](const Copy& copy) {
      if (!which(copy)) return false;
      std::memmove(copy.to, copy.from, copy.bytes);
      return true;
    });
  }
  static constexpr size_t kStack = size_t{64} << 10;

  // The first lane from `from` on in the warp of `of` that neither has ended nor waits, or the
  // warp's end.
  unsigned ready_lane(unsigned from, unsigned of) const {
    const unsigned end = warp_end(of);
    const auto waits = [&](const Waiting& at) {
      return at.barrier != nullptr && at.barrier->generation == at.generation;
    };
    while (from < end && (done_[from] || waits(waiting_[from]))) ++from;
    return from;
  }
  unsigned warp_end(unsigned of) const {
    return std::min(of / 32 * 32 + 32, static_cast<unsigned>(contexts_.size()));
  }

  static void enter() {
    Block& block = *current_;
    (*block.body_)();
    block.done_[block.thread.x] = true;
    ++block.progress_;
  }

  template <typename Last>
  void wait(Barrier& barrier, unsigned wanted, Last&& last) {
    const unsigned me = thread.x;
    const uint64_t generation = barrier.generation;
    ++progress_;
    if (++barrier.arrived == wanted) {
      last();
      barrier.arrived = 0;
      ++barrier.generation;
    }
    waiting_[me] = {&barrier, generation};
    while (barrier.generation == generation) give_turn(me);
    waiting_[me] = {};
  }
  void give_turn(unsigned me) {
    const unsigned next = ready_lane(me + 1, me);
    if (next < warp_end(me)) {
      thread.x = next;
      swapcontext(&contexts_[me], &contexts_[next]);
    } else {
      swapcontext(&contexts_[me], &scheduler_);
    }
    thread.x = me;
  }

  static inline Block* current_ = nullptr;
  static inline uint64_t progress_ = 0;  // of all blocks
  ucontext_t scheduler_ = {};
  std::vector<ucontext_t> contexts_;
  std::vector<std::unique_ptr<char[]>> stacks_;
  std::vector<bool> done_;
  std::vector<Parcel> parcels_;
  std::vector<Waiting> waiting_;
  std::vector<std::vector<Copy>> copies_;
  std::vector<uint64_t> groups_;  // that ended
  uint32_t chance_ = 1;
  bool unlike_ = false;
  std::vector<Barrier> warps_;
  Barrier whole_;
  std::array<Barrier, 4> some_;
  const std::function<void()>* body_ = nullptr;
};

inline long long clock_now = 0;  // nanoseconds, as kernels read them

}  // namespace impetus::mlx_backend::on_host

// What CUDA gives to a kernel.
#define __device__
#define __shared__ static
#define threadIdx (::impetus::mlx_backend::on_host::Block::running().thread)
#define blockIdx (::impetus::mlx_backend::on_host::Block::running().block)
#define gridDim (::impetus::mlx_backend::on_host::Block::running().grid)
inline void __syncthreads() {
  ::impetus::mlx_backend::on_host::Block::running().barrier();
}
inline float __shfl_xor_sync(unsigned, float value, int offset) {
  return ::impetus::mlx_backend::on_host::Block::running().exchange(value,
                                                                    static_cast<unsigned>(offset));
}
inline float __shfl_sync(unsigned, float value, int source) {
  auto& block = ::impetus::mlx_backend::on_host::Block::running();
  return block.exchange(value, block.thread.x % 32 ^ static_cast<unsigned>(source));
}
inline int __shfl_sync(unsigned mask, int value, int source) {
  return std::bit_cast<int>(__shfl_sync(mask, std::bit_cast<float>(value), source));
}
inline void __syncwarp() {
  __shfl_sync(0xffffffffu, 0.0f, 0);
}
inline double __shfl_xor_sync(unsigned mask, double value, int offset) {
  auto halves = std::bit_cast<std::array<float, 2>>(value);
  for (float& half : halves) half = __shfl_xor_sync(mask, half, offset);
  return std::bit_cast<double>(halves);
}
inline double __dadd_rn(double a, double b) {
  return a + b;
}
inline double __dmul_rn(double a, double b) {
  return a * b;
}
inline long long __double_as_longlong(double value) {
  return std::bit_cast<long long>(value);
}
inline double __longlong_as_double(long long bits) {
  return std::bit_cast<double>(bits);
}
// One thread at a time runs, and what it wrote is there.
inline void __threadfence() {}
template <typename T>
T atomicAdd(T* at, T value) {
  return std::exchange(*at, *at + value);
}
inline int min(int a, int b) {
  return b < a ? b : a;
}
inline int max(int a, int b) {
  return a < b ? b : a;
}
inline int __clz(int x) {
  return std::countl_zero(static_cast<unsigned>(x));
}
using std::memcpy;
inline float rsqrtf(float x) {
  return 1.0f / std::sqrt(x);
}

inline unsigned __float_as_uint(float value) {
  return std::bit_cast<unsigned>(value);
}
inline float __uint_as_float(unsigned bits) {
  return std::bit_cast<float>(bits);
}
// Each of the selector's digits names a byte: 0 to 3 of low, 4 to 7 of high.
inline unsigned __byte_perm(unsigned low, unsigned high, unsigned selector) {
  const uint64_t all = uint64_t{high} << 32 | low;
  unsigned made = 0;
  for (int i = 0; i < 4; ++i) {
    made |= static_cast<unsigned>(all >> (selector >> 4 * i & 7) * 8 & 0xff) << 8 * i;
  }
  return made;
}

// MLX's memory is aligned to less on a host.
#define alignas(bytes)
#include "mlx/kernels/common.cuh"

namespace impetus {

inline Four read_once(const void* from) {
  Four made;
  std::memcpy(&made, from, sizeof(made));
  return made;
}
inline unsigned read_early(const unsigned short* from) {
  return *from;
}
template <typename V>
V read_l2(const V* from) {
  V made;
  std::memcpy(&made, from, sizeof(made));
  return made;
}
template <int THREADS, int ID = 1>
void barrier() {
  mlx_backend::on_host::Block::running().barrier(ID, THREADS);
}
template <int THREADS>
void barrier_of(int id) {
  mlx_backend::on_host::Block::running().barrier(static_cast<size_t>(id), THREADS);
}
inline void arrive(unsigned* at, unsigned value) {
  *at += value;
}
inline unsigned arrivals(const unsigned* at) {
  mlx_backend::on_host::Block::running().pause();
  return *at;
}
// What kernels/tiles.cuh has of copies and of mbarriers.
using Shared = char*;
inline Shared shared(const void* at) {
  return static_cast<char*>(const_cast<void*>(at));
}
// A GPU traps where these stand otherwise. MLX's arrays of the host stand behind 8 bytes of its
// own.
inline void expect_aligned(const void* to, const void* from, size_t bytes) {
  if (reinterpret_cast<uintptr_t>(to) % bytes != 0 || reinterpret_cast<uintptr_t>(from) % 8 != 0) {
    throw std::logic_error("cp.async between addresses that are not aligned to its bytes");
  }
}
inline void copy_async(Shared to, const void* from, bool there) {
  alignas(16) static const char zeros[16] = {};
  expect_aligned(to, from, sizeof(zeros));
  mlx_backend::on_host::Block::running().copy_later(to, there ? from : zeros, sizeof(zeros));
}
inline void copy_async_some(Shared to, const void* from, int bytes) {
  expect_aligned(to, from, 16);
  std::memset(to + bytes, 0, static_cast<size_t>(16 - bytes));
  mlx_backend::on_host::Block::running().copy_later(to, from, static_cast<size_t>(bytes));
}
inline void copy_async_word(Shared to, const void* from) {
  expect_aligned(to, from, 8);
  mlx_backend::on_host::Block::running().copy_later(to, from, 8);
}
inline void copies_done() {
  mlx_backend::on_host::Block::running().make_copies();
}
inline void copies_end() {
  mlx_backend::on_host::Block::running().end_copies();
}
template <int LEFT>
void copies_left() {
  mlx_backend::on_host::Block::running().make_copies_but(LEFT);
}
inline void fetch(const void*) {}

struct Mbarrier {
  uint16_t wanted, left;
  int parity;
};
inline void mbarrier_init(Mbarrier* mbarrier, int arrivals) {
  *mbarrier = {static_cast<uint16_t>(arrivals), static_cast<uint16_t>(arrivals), 0};
}
inline void mbarrier_arrive(Mbarrier* mbarrier) {
  if (--mbarrier->left > 0) return;
  mbarrier->left = mbarrier->wanted;
  mbarrier->parity ^= 1;
}
inline void mbarrier_arrive_with_copies(Mbarrier* mbarrier) {
  copies_done();
  mbarrier_arrive(mbarrier);
}
// By whole warps: one lane looks.
inline void mbarrier_wait(Mbarrier* mbarrier, int parity) {
  auto& block = mlx_backend::on_host::Block::running();
  block.exchange(0, 0);
  while (block.thread.x % 32 == 0 && mbarrier->parity == parity) block.pause();
  block.exchange(0, 0);
}

// A second later each time: kernels look seldom.
inline long long nanoseconds() {
  return mlx_backend::on_host::clock_now += 1000000000;
}

template <bool BF16>
float half_of(unsigned pair, int which) {
  const auto bits = static_cast<uint16_t>(pair >> 16 * which);
  return BF16 ? bf16_to_f32(bits) : f16_to_f32(bits);
}

template <bool BF16>
unsigned pair_of(double low, double high) {
  const auto bits = [](double x) -> unsigned {
    return BF16 ? f32_to_bf16(static_cast<float>(x)) : f32_to_f16(static_cast<float>(x));
  };
  return bits(low) | bits(high) << 16;
}

template <bool BF16>
unsigned fma_pair(unsigned a, unsigned b, unsigned c) {
  const auto one = [&](int i) {
    return static_cast<double>(half_of<BF16>(a, i)) * static_cast<double>(half_of<BF16>(b, i)) +
           static_cast<double>(half_of<BF16>(c, i));
  };
  return pair_of<BF16>(one(0), one(1));
}

template <bool BF16>
unsigned pair(float low, float high) {
  return pair_of<BF16>(low, high);
}

template <bool BF16>
void multiply_add(float (&sum)[4], unsigned a0, unsigned a1, unsigned a2, unsigned a3, unsigned b0,
                  unsigned b1) {
  struct Lane {
    float* sum;
    unsigned a[4], b[2];
  } mine{sum, {a0, a1, a2, a3}, {b0, b1}};
  mlx_backend::on_host::Block::running().together(mine, [](Lane** lanes) {
    float a[16][16], b[16][8];
    for (int l = 0; l < 32; ++l) {
      const int group = l / 4, pair = l % 4 * 2;
      for (int i = 0; i < 2; ++i) {
        for (int r = 0; r < 4; ++r) {
          a[group + r % 2 * 8][pair + r / 2 * 8 + i] = half_of<BF16>(lanes[l]->a[r], i);
        }
        for (int r = 0; r < 2; ++r) b[pair + r * 8 + i][group] = half_of<BF16>(lanes[l]->b[r], i);
      }
    }
    for (int l = 0; l < 32; ++l) {
      for (int i = 0; i < 4; ++i) {
        const int row = l / 4 + i / 2 * 8, column = l % 4 * 2 + i % 2;
        for (int k = 0; k < 16; ++k) lanes[l]->sum[i] += a[row][k] * b[k][column];
      }
    }
  });
}

}  // namespace impetus

#include "mlx/kernels/add_norm.cuh"
#include "mlx/kernels/attend.cuh"
#include "mlx/kernels/few_rows.cuh"
// After few_rows.cuh.
#include "mlx/kernels/grid_barrier.cuh"
#include "mlx/kernels/weight_ring.cuh"
// After these.
#include "mlx/kernels/decode_step.cuh"
#undef alignas

namespace impetus::mlx_backend::on_host {

static_assert(mlx_backend::kAttendThreads == impetus::kAttendThreads &&
              mlx_backend::kNormThreads == impetus::kNormThreads &&
              mlx_backend::kHeadsAtOnce == impetus::kHeadsAtOnce &&
              mlx_backend::kFewRowsThreads == impetus::kFewRowsThreads &&
              mlx_backend::kFewRowsWarps == impetus::kFewRowsWarps &&
              mlx_backend::kFewRowsMax == impetus::kFewRowsMax);

// Each block of a grid by itself. A kernel's shared memory is static, so no two run at once.
template <typename Kernel>
void launch(Dim3 grid, unsigned threads, Kernel&& kernel) {
  static Block block;
  block.grid = grid;
  const std::function<void()> body = kernel;
  for (block.block.z = 0; block.block.z < grid.z; ++block.block.z) {
    for (block.block.y = 0; block.block.y < grid.y; ++block.block.y) {
      for (block.block.x = 0; block.block.x < grid.x; ++block.block.x) block.run(threads, body);
    }
  }
}

// All blocks at once, each with shared memory of its own; the last `missing` do not come.
template <typename Kernel>
void launch_at_once(unsigned blocks, unsigned missing, unsigned threads, size_t shared_bytes,
                    Kernel&& kernel) {
  const unsigned here = blocks - missing;
  std::vector<Block> running(here);
  std::vector<std::vector<std::max_align_t>> memory(here);
  std::vector<std::function<void()>> bodies(here);
  for (unsigned b = 0; b < here; ++b) {
    running[b].grid = {blocks, 1, 1};
    running[b].block = {b, 0, 0};
    memory[b].resize(shared_bytes / sizeof(std::max_align_t) + 1);
    // NaNs: what nobody wrote shows.
    std::memset(memory[b].data(), 0xff, memory[b].size() * sizeof(std::max_align_t));
    bodies[b] = [&, b] { kernel(reinterpret_cast<char*>(memory[b].data())); };
    running[b].begin(threads, bodies[b]);
  }
  for (bool any = true; any;) {
    any = false;
    const uint64_t before = Block::progress();
    for (Block& block : running) any = block.turn() || any;
    if (any && Block::progress() == before) throw std::logic_error("blocks wait for one another");
  }
}

template <typename T>
T* data(const mx::array& array) {
  return reinterpret_cast<T*>(const_cast<mx::array&>(array).data<std::byte>());
}
inline mx::array empty(const mx::Shape& shape, mx::Dtype type) {
  size_t bytes = type.size();
  for (const auto extent : shape) bytes *= static_cast<size_t>(extent);
  return mx::array(mx::allocator::malloc(bytes), shape, type);
}

template <typename T_, typename U_, int HEADS, int KV_HEADS, int DIM>
struct Form {
  using T = T_;
  using U = U_;
  static constexpr int kHeads = HEADS, kKvHeads = KV_HEADS, kDim = DIM;
};

template <typename T, typename U, typename Body>
bool with_dims(const DecodeShape& shape, Body&& body, mx::Dtype t, mx::Dtype u) {
  if (shape.activations != t || shape.kv != u) return false;
  const auto is = [&](int heads, int kv_heads, int dim) {
    return shape.heads == heads && shape.kv_heads == kv_heads && shape.head_dim == dim;
  };
  // That of the conformance suite.
  if (is(4, 2, 16)) return body(Form<T, U, 4, 2, 16>()), true;
  // Pieces and a rest of query heads, in no whole number of warps; lanes without elements; a warp a
  // key, several pairs a lane; one head.
  if constexpr (std::is_same_v<T, U>) {
    if (is(14, 2, 64)) return body(Form<T, U, 14, 2, 64>()), true;
    if (is(3, 3, 80)) return body(Form<T, U, 3, 3, 80>()), true;
    if (is(5, 1, 256)) return body(Form<T, U, 5, 1, 256>()), true;
    if (is(1, 1, 8)) return body(Form<T, U, 1, 1, 8>()), true;
  }
  return false;
}

// Calls `body` with the Form of the shape, of those that are compiled here; false: it is none.
template <typename Body>
bool with_form(const DecodeShape& shape, Body&& body) {
  return with_dims<float, float>(shape, body, mx::float32, mx::float32) ||
         with_dims<_Float16, _Float16>(shape, body, mx::float16, mx::float16) ||
         with_dims<Bf16, Bf16>(shape, body, mx::bfloat16, mx::bfloat16) ||
         with_dims<float, _Float16>(shape, body, mx::float32, mx::float16) ||
         with_dims<float, Bf16>(shape, body, mx::float32, mx::bfloat16) ||
         with_dims<_Float16, float>(shape, body, mx::float16, mx::float32) ||
         with_dims<Bf16, float>(shape, body, mx::bfloat16, mx::float32) ||
         with_dims<Bf16, _Float16>(shape, body, mx::bfloat16, mx::float16);
}

// Where the shape has a Form.
class HostKernels final : public DecodeKernels {
 public:
  HostKernels(const DecodeShape& shape, const ModelSpec& spec)
      : shape_(shape), frequencies_(spec.rope_frequencies()), epsilon_(spec.norm_eps) {}

  // Null where the shape is none of those.
  static std::unique_ptr<DecodeKernels> make(const DecodeShape& shape, const ModelSpec& spec) {
    auto kernels = std::make_unique<HostKernels>(shape, spec);
    return kernels->with([](auto) {}) ? std::move(kernels) : nullptr;
  }

  mx::array attend(const AttendStep& step, const mx::array& qkv, const mx::array& keys,
                   const mx::array& values, const mx::array& q_norm,
                   const mx::array& k_norm) override {
    std::vector<mx::array> inputs = {qkv, keys, values, step.plan, q_norm, k_norm};
    mx::eval(inputs);
    mx::array out = empty({step.rows, shape_.heads * shape_.head_dim}, shape_.activations);
    with([&](auto form) {
      using F = decltype(form);
      using T = typename F::T;
      using U = typename F::U;
      const auto run = [&]<bool NEIGHBOURS, bool NORM, bool PARTIAL>(auto* to) {
        const auto pieces = static_cast<unsigned>(pieces_of(F::kHeads, F::kKvHeads));
        launch({F::kKvHeads * pieces, static_cast<unsigned>(step.rows),
                static_cast<unsigned>(step.shares)},
               kAttendThreads, [&] {
                 impetus::attend<T, U, F::kHeads / F::kKvHeads, F::kDim, KvPool::kBlockTokens,
                                 NEIGHBOURS, NORM, PARTIAL>(
                     F::kKvHeads, data<T>(inputs[0]), data<U>(inputs[1]), data<U>(inputs[2]),
                     static_cast<int>(keys.shape(1)), data<int>(inputs[3]),
                     static_cast<int>(step.plan.shape(1)), frequencies_.data(), data<T>(inputs[4]),
                     data<T>(inputs[5]), epsilon_, to);
               });
      };
      const auto choose = [&]<bool PARTIAL>(auto* to) {
        if (shape_.neighbours && shape_.qk_norm)
          return run.template operator()<true, true, PARTIAL>(to);
        if (shape_.neighbours) return run.template operator()<true, false, PARTIAL>(to);
        if (shape_.qk_norm) return run.template operator()<false, true, PARTIAL>(to);
        return run.template operator()<false, false, PARTIAL>(to);
      };
      if (step.shares == 1) return choose.template operator()<false>(data<T>(out));
      std::vector<float> partial(static_cast<size_t>(step.rows * F::kHeads * step.shares) *
                                 (F::kDim + 2));
      choose.template operator()<true>(partial.data());
      launch({F::kHeads, static_cast<unsigned>(step.rows), 1}, kAttendThreads, [&] {
        impetus::merge<T, F::kDim>(partial.data(), F::kHeads, step.shares, data<T>(out));
      });
    });
    return out;
  }

  std::pair<mx::array, mx::array> add_norm(const mx::array& residual, const mx::array& x,
                                           const mx::array& weight) override {
    std::vector<mx::array> inputs = {residual, x, weight};
    mx::eval(inputs);
    mx::array sum = empty(residual.shape(), shape_.activations);
    mx::array normed = empty(residual.shape(), shape_.activations);
    with([&](auto form) {
      using T = typename decltype(form)::T;
      launch({static_cast<unsigned>(residual.shape(0)), 1, 1}, kNormThreads, [&] {
        impetus::add_norm<T>(data<T>(inputs[0]), data<T>(inputs[1]), data<T>(inputs[2]), epsilon_,
                             static_cast<int>(residual.shape(1)), data<T>(sum), data<T>(normed));
      });
    });
    return {sum, normed};
  }

  mx::array few_rows(const mx::array& x, const Matrix& matrix, bool gated) override {
    std::vector<mx::array> inputs = {mx::contiguous(x), matrix.weight, *matrix.scales,
                                     *matrix.biases};
    mx::eval(inputs);
    const int rows = static_cast<int>(x.shape(0)), columns = static_cast<int>(x.shape(1));
    const int outputs = static_cast<int>(matrix.weight.shape(0)) / (gated ? 2 : 1);
    const int tiles = few_rows_tiles(matrix, gated), split = few_rows_split(tiles);
    if (split != impetus::few_rows_split(tiles)) throw std::logic_error("unlike splits");
    mx::array out = empty({rows, outputs}, x.dtype());
    const auto run = [&]<typename T, bool BF16, int BITS, int GROUP, bool GATED>() {
      launch({static_cast<unsigned>((tiles * split + kFewRowsWarps - 1) / kFewRowsWarps), 1, 1},
             kFewRowsThreads, [&] {
               impetus::few_rows<T, BF16, BITS, GROUP, GATED>(
                   data<T>(inputs[0]), data<unsigned>(inputs[1]), data<uint16_t>(inputs[2]),
                   data<uint16_t>(inputs[3]), rows, columns, outputs, data<T>(out));
             });
    };
    const auto by_gate = [&]<typename T, bool BF16, int BITS, int GROUP>() {
      gated ? run.template operator()<T, BF16, BITS, GROUP, true>()
            : run.template operator()<T, BF16, BITS, GROUP, false>();
    };
    const auto by_format = [&]<typename T, bool BF16>() {
      switch (matrix.bits * 1000 + matrix.group) {
        case 4032:
          return by_gate.template operator()<T, BF16, 4, 32>();
        case 4064:
          return by_gate.template operator()<T, BF16, 4, 64>();
        case 4128:
          return by_gate.template operator()<T, BF16, 4, 128>();
        case 8032:
          return by_gate.template operator()<T, BF16, 8, 32>();
        case 8064:
          return by_gate.template operator()<T, BF16, 8, 64>();
        case 8128:
          return by_gate.template operator()<T, BF16, 8, 128>();
        default:
          throw std::logic_error("a matrix that few_rows does not take");
      }
    };
    x.dtype() == mx::bfloat16 ? by_format.template operator()<Bf16, true>()
                              : by_format.template operator()<_Float16, false>();
    return out;
  }

 private:
  template <typename Body>
  bool with(Body&& body) {
    return with_form(shape_, body);
  }

  DecodeShape shape_;
  std::vector<float> frequencies_;
  float epsilon_;
};

}  // namespace impetus::mlx_backend::on_host

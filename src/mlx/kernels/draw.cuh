// Tokens from logits, as the reference sampler draws them (backend/sampling.h), to the bit.
namespace impetus {

constexpr int kDrawThreads = 256;  // a block of draw, and the ids of a run
constexpr int kDrawWords = 10;     // of a row's Draw
constexpr int kDrawMost = 2048;    // candidates for top-k and top-p, a power of two
constexpr int kDrawDepths = 32;
constexpr int kDrawCounts = kDrawDepths + 1;
constexpr int kNotDrawn = -3;

// What a row's blocks leave for the last of them.
struct DrawScratch {
  double* runs;      // [runs] sums
  unsigned* depths;  // [kDrawDepths] ids by depth, then how many blocks have come; 0 at the end
};

// Operations by themselves: a product that is added in one rounding has other bits.
__device__ inline double less(double x, double y) {
  return __dadd_rn(x, -y);
}

// portable_exp.
__device__ inline double exp_of(double x) {
  constexpr double kShift = 6755399441055744.0;  // 1.5 * 2^52
  const double shifted = __dadd_rn(__dmul_rn(x, 1.4426950408889634), kShift);
  const double n = less(shifted, kShift);
  const double r = less(less(x, __dmul_rn(n, 6.93147180369123816490e-01)),
                        __dmul_rn(n, 1.90821492927058770002e-10));
  double p = 1.0 / 6227020800.0;
  constexpr double kInverseFactorials[] = {1.0 / 479001600,
                                           1.0 / 39916800,
                                           1.0 / 3628800,
                                           1.0 / 362880,
                                           1.0 / 40320,
                                           1.0 / 5040,
                                           1.0 / 720,
                                           1.0 / 120,
                                           1.0 / 24,
                                           1.0 / 6,
                                           0.5,
                                           1.0,
                                           1.0};
  IMPETUS_UNROLL
  for (int i = 0; i < 13; ++i) p = __dadd_rn(__dmul_rn(p, r), kInverseFactorials[i]);
  const unsigned long long power =
      static_cast<unsigned long long>(__double_as_longlong(shifted)) + 1023;
  const double result = __dmul_rn(p, __longlong_as_double(static_cast<long long>(power << 52)));
  return x > -700 ? result : 0;
}

__device__ inline double double_at(const int* words, int index) {
  const auto low = static_cast<unsigned>(words[2 * index]);
  const auto high = static_cast<unsigned>(words[2 * index + 1]);
  return __longlong_as_double(
      static_cast<long long>(static_cast<unsigned long long>(high) << 32 | low));
}

// How far an id is behind the likeliest, in whole steps of e.
__device__ inline int depth_of(double x) {
  if (!(x > -(kDrawDepths - 1))) return kDrawDepths - 1;  // NaN, too
  return x < 0 ? static_cast<int>(-x) : 0;
}

// A candidate as a number that rises from the likeliest on, of equal ones from the smaller id.
__device__ inline unsigned long long candidate(float logit, int id) {
  const unsigned bits = __float_as_uint(logit + 0.0f);  // -0 is 0
  const unsigned rising = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
  return static_cast<unsigned long long>(~rising) << 32 | static_cast<unsigned>(id);
}
__device__ inline float logit_of(unsigned long long one) {
  const unsigned rising = ~static_cast<unsigned>(one >> 32);
  return __uint_as_float(rising & 0x80000000u ? rising & 0x7fffffffu : ~rising);
}

// keys [count], a power of two, rising; by all threads.
__device__ inline void sort_keys(unsigned long long* keys, int count, int thread) {
  for (int length = 2; length <= count; length *= 2) {
    for (int apart = length / 2; apart > 0; apart /= 2) {
      __syncthreads();
      for (int i = thread; i < count; i += kDrawThreads) {
        const int other = i ^ apart;
        if (other < i) continue;
        const unsigned long long a = keys[i], b = keys[other];
        if ((a > b) == ((i & length) == 0)) {
          keys[i] = b;
          keys[other] = a;
        }
      }
    }
  }
  __syncthreads();
}

// One row; a thread's view of it.
struct RowDraw {
  const float* logits;
  int vocab, runs, thread;
  double peak, inverse, random, top_p, least;
  int top_k;
  DrawScratch scratch;

  __device__ double exponent(float logit) const {
    return __dmul_rn(less(static_cast<double>(logit), peak), inverse);
  }
  // Of a run's sum: what min-p drops weighs nothing, where neither top-k nor top-p come before it.
  __device__ double weight(float logit) const {
    const double w = exp_of(exponent(logit));
    return some() || w >= least ? w : 0;
  }
  __device__ bool some() const { return top_k > 0 || top_p < 1; }

  // The sum of run `r`, in every lane of the warp that takes it.
  __device__ double sum_of(int r) const {
    double sum = 0;
    const int first = r * kDrawThreads + thread % kWarp;
    IMPETUS_UNROLL
    for (int i = 0; i < kDrawThreads / kWarp; ++i) {
      const int id = first + i * kWarp;
      if (id < vocab) sum = __dadd_rn(sum, weight(logits[id]));
    }
    IMPETUS_UNROLL
    for (int half = kWarp / 2; half > 0; half /= 2) {
      sum = __dadd_rn(sum, __shfl_xor_sync(0xffffffffu, sum, half));
    }
    return sum;
  }

  // What the runs add up to, one after the other, up to each: into sums [kDrawMost].
  __device__ void add_runs(double* sums) const {
    const volatile double* of = scratch.runs;
    for (int r = thread; r < runs; r += kDrawThreads) sums[r] = of[r];
    __syncthreads();
    if (thread == 0) {
      for (int r = 1; r < runs; ++r) sums[r] = __dadd_rn(sums[r - 1], sums[r]);
    }
    __syncthreads();
  }

  // From all ids. sums: [kDrawMost]; held: [kDrawThreads].
  __device__ int draw_any(double* sums, double* held, int* shared) const {
    add_runs(sums);
    const double target = __dmul_rn(random, sums[runs - 1]);
    if (thread == 0) shared[0] = runs;
    __syncthreads();
    for (int r = thread; r < runs; r += kDrawThreads) {
      if (sums[r] > target && (r == 0 || !(sums[r - 1] > target))) shared[0] = r;
    }
    __syncthreads();
    const int found = shared[0];
    int run = found;
    if (found == runs) {  // the last that weighs anything
      const volatile double* of = scratch.runs;
      do --run;
      while (run > 0 && !(of[run] > 0));
    }
    const int first = run * kDrawThreads;
    held[thread] = first + thread < vocab ? weight(logits[first + thread]) : 0;
    __syncthreads();
    if (thread != 0) return 0;
    double sum = run > 0 ? sums[run - 1] : 0;
    int drawn = 0;
    for (int i = 0; i < kDrawThreads; ++i) {
      if (held[i] > 0) drawn = i;
      sum = __dadd_rn(sum, held[i]);
      if (found < runs && sum > target) return first + i;
    }
    return first + drawn;
  }

  // The depth to which ids are candidates: with top-k the first that has enough, else the last
  // whose ids fit with all that are likelier; -1 where none fits.
  __device__ int depth_wanted() const {
    const volatile unsigned* ids = scratch.depths;
    unsigned fit = 0;
    for (int depth = 0; depth < kDrawDepths; ++depth) {
      fit += ids[depth];
      if (fit > kDrawMost) return depth - 1;
      if (top_k > 0 && fit >= static_cast<unsigned>(top_k)) return depth;
    }
    return kDrawDepths - 1;
  }

  // Puts the candidates down to `depth` into keys [kDrawMost]; how many.
  __device__ int collect(int depth, unsigned long long* keys, int* count) const {
    constexpr int kAhead = 8;  // loads that are asked for at once
    if (thread == 0) *count = 0;
    __syncthreads();
    for (int first = 0; first < vocab; first += kDrawThreads * kAhead) {
      float ahead[kAhead];
      IMPETUS_UNROLL
      for (int i = 0; i < kAhead; ++i) {
        const int id = first + i * kDrawThreads + thread;
        ahead[i] = id < vocab ? logits[id] : 0;
      }
      IMPETUS_UNROLL
      for (int i = 0; i < kAhead; ++i) {
        const int id = first + i * kDrawThreads + thread;
        if (id >= vocab || depth_of(exponent(ahead[i])) > depth) continue;
        const int at = atomicAdd(count, 1);
        if (at < kDrawMost) keys[at] = candidate(ahead[i], id);
      }
    }
    __syncthreads();
    return min(*count, kDrawMost);
  }

  // keys [count] and behind them what sorts last, up to a power of two, which is returned.
  __device__ int padded(unsigned long long* keys, int count) const {
    int whole = 1;
    while (whole < count) whole *= 2;
    for (int i = count + thread; i < whole; i += kDrawThreads) keys[i] = ~0ull;
    return whole;
  }

  // Of weights [count], how many reach `wanted`, one after the other; 0: all do not. By one thread.
  __device__ static int reach(const double* weights, int count, double wanted) {
    double sum = 0;
    for (int i = 0; i < count; ++i) {
      sum = __dadd_rn(sum, weights[i]);
      if (sum >= wanted) return i + 1;
    }
    return 0;
  }

  // From those that top-k and top-p keep; kNotDrawn where they may be more than the candidates
  // that fit. keys, weights: [kDrawMost].
  __device__ int draw_some(unsigned long long* keys, double* weights, int* shared) const {
    double all = 0;
    if (top_k == 0) {
      add_runs(weights);
      all = weights[runs - 1];
    }
    if (thread == 0) shared[0] = depth_wanted();
    __syncthreads();
    const int depth = shared[0];
    if (depth < 0) return kNotDrawn;
    const int count = collect(depth, keys, &shared[1]);
    if (count == 0 || (count < vocab && top_k > count)) return kNotDrawn;
    sort_keys(keys, padded(keys, count), thread);
    int kept = top_k > 0 ? min(top_k, count) : count;
    for (int i = thread; i < kept; i += kDrawThreads) {
      weights[i] = exp_of(exponent(logit_of(keys[i])));
    }
    __syncthreads();
    if (top_k == 0) {
      if (thread == 0) {
        const int most = reach(weights, kept, __dmul_rn(top_p, all));
        shared[0] = most > 0 ? most : count == vocab ? kept : kNotDrawn;
      }
      __syncthreads();
      kept = shared[0];
      if (kept < 0) return kNotDrawn;
    }
    // In the order of ids, each with its rank.
    for (int i = thread; i < kept; i += kDrawThreads) {
      keys[i] = (keys[i] & 0xffffffffu) << 32 | static_cast<unsigned>(i);
    }
    sort_keys(keys, padded(keys, kept), thread);
    if (thread != 0) return 0;
    const auto rank = [&](int i) { return static_cast<int>(keys[i] & 0xffffffffu); };
    int most = kept;
    if (top_k > 0 && top_p < 1) {
      for (int i = 0; i < kept; ++i) all = __dadd_rn(all, weights[rank(i)]);
      const int reached = reach(weights, kept, __dmul_rn(top_p, all));
      if (reached > 0) most = reached;
    }
    const auto in = [&](int i) { return rank(i) < most && weights[rank(i)] >= least; };
    all = 0;
    for (int i = 0; i < kept; ++i) {
      if (in(i)) all = __dadd_rn(all, weights[rank(i)]);
    }
    const double target = __dmul_rn(random, all);
    double sum = 0;
    int drawn = 0;
    for (int i = 0; i < kept; ++i) {
      if (!in(i)) continue;
      sum = __dadd_rn(sum, weights[rank(i)]);
      if (sum > target || weights[rank(i)] > 0) drawn = static_cast<int>(keys[i] >> 32);
      if (sum > target) break;
    }
    return drawn;
  }
};

// logits [rows, vocab], their likeliest ids [rows], a Draw of kDrawWords a row: doubles inverse
// temperature (0: the likeliest), random, top-p (1: none), least weight; top-k (0: none).
// out [rows], written once: ids, or kNotDrawn where the host must draw; next [rows]: the same, with
// the likeliest for the latter. Working memory: counts [rows, kDrawCounts], 0 before and after;
// sums [rows, runs]. Grid: (any number, rows) blocks. Of a row that is not finite, or of another
// likeliest id, any id or kNotDrawn. REQUIRES: vocab <= kDrawMost * kDrawThreads.
__device__ inline void draw(const float* logits, const int* likeliest, const int* draws, int vocab,
                            unsigned* counts, double* sums, int* out, int* next) {
  __shared__ unsigned depths[kDrawDepths];
  __shared__ unsigned long long keys[kDrawMost];
  __shared__ double weights[kDrawMost], held[kDrawThreads];
  __shared__ int shared[2], words[kDrawWords];
  const int row = static_cast<int>(blockIdx.y), thread = static_cast<int>(threadIdx.x);
  const int runs = (vocab + kDrawThreads - 1) / kDrawThreads;
  // Across the bus, once a block.
  if (thread < kDrawWords) words[thread] = draws[row * kDrawWords + thread];
  if (thread < kDrawDepths) depths[thread] = 0;
  const int best = likeliest[row];
  __syncthreads();
  RowDraw one;
  one.scratch = {sums + static_cast<long long>(row) * runs, counts + row * kDrawCounts};
  one.inverse = double_at(words, 0);
  if (one.inverse == 0) {
    if (blockIdx.x == 0 && thread == 0) out[row] = next[row] = best;
    return;
  }
  one.logits = logits + static_cast<long long>(row) * vocab;
  one.vocab = vocab;
  one.runs = runs;
  one.thread = thread;
  one.peak = static_cast<double>(one.logits[best]);
  one.random = double_at(words, 1);
  one.top_p = double_at(words, 2);
  one.least = double_at(words, 3);
  one.top_k = words[8];

  constexpr int kWarps = kDrawThreads / kWarp;
  const int warp = thread / kWarp;
  const int apart = static_cast<int>(gridDim.x) * kWarps;
  for (int r = static_cast<int>(blockIdx.x) * kWarps + warp; r < runs; r += apart) {
    if (one.some()) {
      for (int i = thread % kWarp; i < kDrawThreads; i += kWarp) {
        const int id = r * kDrawThreads + i;
        if (id < vocab) atomicAdd(&depths[depth_of(one.exponent(one.logits[id]))], 1u);
      }
      if (one.top_k > 0) continue;
    }
    const double sum = one.sum_of(r);
    if (thread % kWarp == 0) one.scratch.runs[r] = sum;
  }
  __syncthreads();
  if (one.some() && thread < kDrawDepths && depths[thread] > 0) {
    atomicAdd(&one.scratch.depths[thread], depths[thread]);
  }
  __threadfence();
  __syncthreads();
  if (thread == 0)
    shared[0] = atomicAdd(one.scratch.depths + kDrawDepths, 1u) + 1 == gridDim.x ? 1 : 0;
  __syncthreads();
  if (shared[0] == 0) return;
  __threadfence();
  __syncthreads();
  const int drawn =
      one.some() ? one.draw_some(keys, weights, shared) : one.draw_any(weights, held, shared);
  __syncthreads();
  if (thread < kDrawCounts) one.scratch.depths[thread] = 0;
  if (thread != 0) return;
  out[row] = drawn;
  next[row] = drawn < 0 ? best : drawn;
}

}  // namespace impetus

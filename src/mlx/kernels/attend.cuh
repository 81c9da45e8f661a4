// Attention of decode steps over the KV pool's blocks of BLOCK positions.
//
// A row of `plan`, i32 [rows, 1 + blocks]: its position, then the blocks of positions 0 to there.
namespace impetus {

constexpr int kAttendThreads = 128;  // a block of attend and merge
constexpr int kHeadsAtOnce = 4;      // query heads that share what is read of one head of keys

// Lanes that share a key of DIM elements, eight each: a power of two.
__device__ constexpr int lanes_of(int dim) {
  int lanes = 1;
  while (lanes * 8 < dim) lanes *= 2;
  return lanes;
}

// Query heads of one head of keys, and how they are cut into pieces that are worked on at once.
template <int GROUP>
struct HeadPieces {
  static constexpr int kPieces = (GROUP + kHeadsAtOnce - 1) / kHeadsAtOnce;
  static constexpr int kHeads = (GROUP + kPieces - 1) / kPieces;  // even pieces: 5 are 3 and 2
};

template <int GROUP, int DIM, int WARPS>
struct AttendShared {
  static constexpr int kHeads = HeadPieces<GROUP>::kHeads;
  float vectors[kHeads + 2][DIM];  // queries, then the row's own key and value
  float sums[WARPS][kHeads][DIM];
  float bests[WARPS][kHeads], totals[WARPS][kHeads];
};

// What a block of attend works on: one of heads of keys * kPieces, a row, a share of its positions.
struct AttendPart {
  int head, row, share, shares;
};

// Attention of a row over its sequence up to itself, by a block of WARPS; GROUP query heads for
// each of `kv_heads`, in all `heads`.
//   qkv [rows, (heads + 2 * kv_heads) * DIM]: before norms and rotation
//   keys, values [kv_heads, slots, DIM]: the row's own are written here, by the block that needs
//     them last; no other block reads them
//   frequencies f32 [DIM / 2]; q_norm, k_norm T [DIM] (with NORM)
//   out T [rows, heads * DIM], or with PARTIAL f32 [rows, heads, shares, DIM + 2]: weighted sums,
//     the largest score times log2 e, the sum of weights
template <typename T, typename U, int GROUP, int DIM, int BLOCK, bool NEIGHBOURS, bool NORM,
          bool PARTIAL, int WARPS, typename O>
__device__ inline void attend_part(const AttendPart& at, int kv_heads, const T* qkv, U* keys,
                                   U* values, int slots, const int* plan, int plan_width,
                                   const float* frequencies, const T* q_norm, const T* k_norm,
                                   float epsilon, O* out,
                                   AttendShared<GROUP, DIM, WARPS>& shared_memory) {
  using Pieces = HeadPieces<GROUP>;
  constexpr int kPieces = Pieces::kPieces, kHeads = Pieces::kHeads;
  constexpr int kLanes = lanes_of(DIM), kKeys = kWarp / kLanes;  // keys that a warp reads at once
  constexpr int kReaders = WARPS * kKeys, kThreads = WARPS * kWarp;
  constexpr int kKey = kHeads, kValue = kHeads + 1;
  auto& [vectors, sums, bests, totals] = shared_memory;
  const int all_heads = kv_heads * GROUP;

  const int thread = static_cast<int>(threadIdx.x);
  const int lane = thread % kWarp, warp = thread / kWarp;
  const int kv_head = at.head / kPieces, piece = at.head % kPieces;
  const int row = at.row, share = at.share, shares = at.shares;
  const int first = kv_head * GROUP + piece * kHeads;  // query head
  const int heads = GROUP - piece * kHeads < kHeads ? GROUP - piece * kHeads : kHeads;
  const int* blocks = plan + static_cast<long long>(row) * plan_width + 1;
  const int position = blocks[-1];
  const int each = (position + shares) / shares;  // of position + 1, rounded up
  const int begin = share * each;
  const int end = begin + each < position + 1 ? begin + each : position + 1;

  // Norms.
  const T* source = qkv + static_cast<long long>(row) * (all_heads + 2 * kv_heads) * DIM;
  for (int v = warp; v < kHeads + 2; v += WARPS) {
    int head = v < heads ? first + v : first;  // none: the first again, and never written out
    if (v == kKey) head = all_heads + kv_head;
    if (v == kValue) head = all_heads + kv_heads + kv_head;
    float squares = 0;
    for (int d = lane; d < DIM; d += kWarp) {
      const float x = static_cast<float>(read_l2(source + head * DIM + d));
      vectors[v][d] = x;
      squares += x * x;
    }
    if (!NORM || v == kValue) continue;
    squares = sum_over(squares, kWarp);
    const float scale = rsqrtf(squares / DIM + epsilon);
    const T* weight = v == kKey ? k_norm : q_norm;
    for (int d = lane; d < DIM; d += kWarp) {
      vectors[v][d] = rounded<T>(vectors[v][d] * scale * static_cast<float>(weight[d]));
    }
  }
  __syncthreads();

  // Rotation. The angle's rounding is made good: position * frequency = angle + rest.
  for (int i = thread; i < (kHeads + 1) * (DIM / 2); i += kThreads) {
    const int v = i / (DIM / 2), pair = i % (DIM / 2);
    const int a = NEIGHBOURS ? 2 * pair : pair, b = NEIGHBOURS ? a + 1 : pair + DIM / 2;
    const float angle = static_cast<float>(position) * frequencies[pair];
    const float rest = fmaf(static_cast<float>(position), frequencies[pair], -angle);
    const float s = sinf(angle), c = cosf(angle);
    const float sine = s + rest * c, cosine = c - rest * s;
    const float x = vectors[v][a], y = vectors[v][b];
    vectors[v][a] = rounded<T>(x * cosine - y * sine);
    vectors[v][b] = rounded<T>(x * sine + y * cosine);
  }
  __syncthreads();
  if (begin <= position && end == position + 1) {
    const int slot = blocks[position / BLOCK] * BLOCK + position % BLOCK;
    const long long to = (static_cast<long long>(kv_head) * slots + slot) * DIM;
    for (int d = thread; d < DIM; d += kThreads) {
      const U key = static_cast<U>(vectors[kKey][d]), value = static_cast<U>(vectors[kValue][d]);
      if (piece == 0) {
        keys[to + d] = key;
        values[to + d] = value;
      }
      vectors[kKey][d] = static_cast<float>(key);
      vectors[kValue][d] = static_cast<float>(value);
    }
  }
  __syncthreads();

  // Each group of lanes goes over its own keys; a running softmax for each query head.
  const int part = (lane % kLanes) * 8;
  const bool holds = part < DIM;
  const int reader = warp * kKeys + lane / kLanes;
  const float scale = kLog2E * rsqrtf(static_cast<float>(DIM));
  float query[kHeads][8], sum[kHeads][8], best[kHeads], total[kHeads];
  for (int h = 0; h < kHeads; ++h) {
    best[h] = kNothing;
    total[h] = 0;
    for (int i = 0; i < 8; ++i) {
      query[h][i] = holds ? vectors[h][part + i] * scale : 0;
      sum[h][i] = 0;
    }
  }
  const auto load = [&](const U* pool, int p, Eight<U>& into) {
    const long long slot = static_cast<long long>(blocks[p / BLOCK]) * BLOCK + p % BLOCK;
    into = *reinterpret_cast<const Eight<U>*>(
        pool + (static_cast<long long>(kv_head) * slots + slot) * DIM + part);
  };
  Eight<U> key, value, next_key, next_value;
  int p = begin + reader;
  if (holds && p < end && p != position) {
    load(keys, p, key);
    load(values, p, value);
  }
  for (int base = begin + warp * kKeys; base < end; base += kReaders, p += kReaders) {
    // The next ones are on their way while these are worked on.
    const int next = p + kReaders;
    if (holds && next < end && next != position) {
      load(keys, next, next_key);
      load(values, next, next_value);
    }
    const bool seen = holds && p < end;
    float k[8], v[8];
    for (int i = 0; i < 8; ++i) {
      const bool own = p == position;
      k[i] = !seen ? 0 : own ? vectors[kKey][part + i] : static_cast<float>(key.at[i]);
      v[i] = !seen ? 0 : own ? vectors[kValue][part + i] : static_cast<float>(value.at[i]);
    }
    for (int h = 0; h < kHeads; ++h) {
      float score = 0;
      for (int i = 0; i < 8; ++i) score += query[h][i] * k[i];
      score = sum_over(score, kLanes);
      if (p >= end) continue;
      const float most = fmaxf(best[h], score);
      const float before = exp2f(best[h] - most), weight = exp2f(score - most);
      total[h] = total[h] * before + weight;
      for (int i = 0; i < 8; ++i) sum[h][i] = sum[h][i] * before + weight * v[i];
      best[h] = most;
    }
    key = next_key;
    value = next_value;
  }
  // A warp's readers together.
  for (int h = 0; h < kHeads; ++h) {
    for (int offset = kLanes; offset < kWarp; offset *= 2) {
      const float other_best = __shfl_xor_sync(0xffffffffu, best[h], offset);
      const float other_total = __shfl_xor_sync(0xffffffffu, total[h], offset);
      const float most = fmaxf(best[h], other_best);
      // Readers without a key have no best.
      const float mine = total[h] > 0 ? exp2f(best[h] - most) : 0;
      const float theirs = other_total > 0 ? exp2f(other_best - most) : 0;
      total[h] = total[h] * mine + other_total * theirs;
      for (int i = 0; i < 8; ++i) {
        sum[h][i] = sum[h][i] * mine + __shfl_xor_sync(0xffffffffu, sum[h][i], offset) * theirs;
      }
      best[h] = most;
    }
    if (lane >= kLanes) continue;
    if (holds) {
      for (int i = 0; i < 8; ++i) sums[warp][h][part + i] = sum[h][i];
    }
    if (part == 0) {
      bests[warp][h] = best[h];
      totals[warp][h] = total[h];
    }
  }
  __syncthreads();

  for (int i = thread; i < heads * DIM; i += kThreads) {
    const int h = i / DIM, d = i % DIM;
    float most = kNothing;
    for (int r = 0; r < WARPS; ++r) most = fmaxf(most, bests[r][h]);
    float all = 0, weights = 0;
    for (int r = 0; r < WARPS; ++r) {
      const float factor = totals[r][h] > 0 ? exp2f(bests[r][h] - most) : 0;
      all += factor * sums[r][h][d];
      weights += factor * totals[r][h];
    }
    const long long head = static_cast<long long>(row) * all_heads + first + h;
    if (!PARTIAL) {
      out[head * DIM + d] = static_cast<O>(all / weights);
      continue;
    }
    O* to = out + (head * shares + share) * (DIM + 2);
    to[d] = static_cast<O>(all);
    if (d == 0) {
      to[DIM] = static_cast<O>(most);
      to[DIM + 1] = static_cast<O>(weights);
    }
  }
}

// The same as a kernel. Grid: x over AttendPart::head, y over rows, z over shares (with PARTIAL).
template <typename T, typename U, int HEADS, int KV_HEADS, int DIM, int BLOCK, bool NEIGHBOURS,
          bool NORM, bool PARTIAL, typename O>
__device__ inline void attend(const T* qkv, U* keys, U* values, int slots, const int* plan,
                              int plan_width, const float* frequencies, const T* q_norm,
                              const T* k_norm, float epsilon, O* out) {
  __shared__ AttendShared<HEADS / KV_HEADS, DIM, kAttendThreads / kWarp> memory;
  const AttendPart at = {static_cast<int>(blockIdx.x), static_cast<int>(blockIdx.y),
                         static_cast<int>(blockIdx.z), static_cast<int>(gridDim.z)};
  attend_part<T, U, HEADS / KV_HEADS, DIM, BLOCK, NEIGHBOURS, NORM, PARTIAL>(
      at, KV_HEADS, qkv, keys, values, slots, plan, plan_width, frequencies, q_norm, k_norm,
      epsilon, out, memory);
}

// An element of the shares of attend<PARTIAL> together: f32 [rows * HEADS, shares, DIM + 2] -> T
// [rows * HEADS, DIM].
template <typename T, int DIM>
__device__ inline void merge_one(const float* partial, int shares, long long head, int d, T* out) {
  const float* from = partial + head * shares * (DIM + 2);
  float most = kNothing;
  for (int s = 0; s < shares; ++s) most = fmaxf(most, read_l2(from + s * (DIM + 2) + DIM));
  float all = 0, weights = 0;
  for (int s = 0; s < shares; ++s) {
    const float* one = from + s * (DIM + 2);
    const float total = read_l2(one + DIM + 1);
    const float factor = total > 0 ? exp2f(read_l2(one + DIM) - most) : 0;
    all += factor * read_l2(one + d);
    weights += factor * total;
  }
  out[head * DIM + d] = static_cast<T>(all / weights);
}

// The same as a kernel. Grid: x over heads, y over rows.
template <typename T, int HEADS, int DIM>
__device__ inline void merge(const float* partial, int shares, T* out) {
  const long long head =
      static_cast<long long>(blockIdx.y) * HEADS + static_cast<long long>(blockIdx.x);
  for (int d = static_cast<int>(threadIdx.x); d < DIM; d += kAttendThreads) {
    merge_one<T, DIM>(partial, shares, head, d, out);
  }
}

}  // namespace impetus

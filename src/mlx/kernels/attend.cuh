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
//   turn: of the row's position, as find_turn leaves it; q_norm, k_norm T [DIM] (with NORM)
//   out T [rows, heads * DIM], or with PARTIAL f32 [rows, heads, shares, DIM + 2]: weighted sums,
//     the largest score times log2 e, the sum of weights
template <typename T, typename U, int GROUP, int DIM, int BLOCK, bool NEIGHBOURS, bool NORM,
          bool PARTIAL, int WARPS, typename O>
__device__ inline void attend_part(const AttendPart& at, int kv_heads, const T* qkv, U* keys,
                                   U* values, int slots, const int* plan, int plan_width,
                                   const float* turn, const T* q_norm, const T* k_norm,
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
  const int lane = thread % kWarp, warp = uniform(thread / kWarp);
  const int kv_head = at.head / kPieces, piece = at.head % kPieces;
  const int row = at.row, share = at.share, shares = at.shares;
  const int first = kv_head * GROUP + piece * kHeads;  // query head
  const int heads = GROUP - piece * kHeads < kHeads ? GROUP - piece * kHeads : kHeads;
  const int* blocks = plan + static_cast<long long>(row) * plan_width + 1;
  const int position = uniform(blocks[-1]);
  const int each = (position + shares) / shares;  // of position + 1, rounded up
  const int begin = share * each;
  const int end = begin + each < position + 1 ? begin + each : position + 1;

  // Each group of lanes goes over its own keys. The first ones are on their way from here on.
  const int part = (lane % kLanes) * 8;
  const bool holds = part < DIM;
  const int reader = warp * kKeys + lane / kLanes;
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

  // Norms.
  const T* source = qkv + static_cast<long long>(row) * (all_heads + 2 * kv_heads) * DIM;
  IMPETUS_ROLL
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

  // Rotation.
  IMPETUS_ROLL
  for (int i = thread; i < (kHeads + 1) * (DIM / 2); i += kThreads) {
    const int v = i / (DIM / 2), pair = i % (DIM / 2);
    const int a = NEIGHBOURS ? 2 * pair : pair, b = NEIGHBOURS ? a + 1 : pair + DIM / 2;
    const float sine = turn[pair], cosine = turn[DIM / 2 + pair];
    const float x = vectors[v][a], y = vectors[v][b];
    vectors[v][a] = rounded<T>(x * cosine - y * sine);
    vectors[v][b] = rounded<T>(x * sine + y * cosine);
  }
  __syncthreads();
  if (begin <= position && end == position + 1) {
    const int slot = blocks[position / BLOCK] * BLOCK + position % BLOCK;
    const long long to = (static_cast<long long>(kv_head) * slots + slot) * DIM;
    IMPETUS_ROLL
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

  // A running softmax for each query head.
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
  IMPETUS_ROLL
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
    const auto over_readers = [](float x, const auto& join) {
      for (int offset = kLanes; offset < kWarp; offset *= 2) {
        x = join(x, __shfl_xor_sync(0xffffffffu, x, offset));
      }
      return x;
    };
    const auto plus = [](float a, float b) { return a + b; };
    const float most = over_readers(best[h], [](float a, float b) { return fmaxf(a, b); });
    // Readers without a key have no best.
    const float mine = total[h] > 0 ? exp2f(best[h] - most) : 0;
    best[h] = most;
    total[h] = over_readers(total[h] * mine, plus);
    for (int i = 0; i < 8; ++i) sum[h][i] = over_readers(sum[h][i] * mine, plus);
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

  IMPETUS_ROLL
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
template <typename T, typename U, int GROUP, int DIM, int BLOCK, bool NEIGHBOURS, bool NORM,
          bool PARTIAL, typename O>
__device__ inline void attend(int kv_heads, const T* qkv, U* keys, U* values, int slots,
                              const int* plan, int plan_width, const float* frequencies,
                              const T* q_norm, const T* k_norm, float epsilon, O* out) {
  __shared__ AttendShared<GROUP, DIM, kAttendThreads / kWarp> memory;
  __shared__ float turn[DIM];
  find_turn<DIM>(plan[static_cast<long long>(blockIdx.y) * plan_width], frequencies,
                 static_cast<int>(threadIdx.x), kAttendThreads, turn);
  const AttendPart at = {static_cast<int>(blockIdx.x), static_cast<int>(blockIdx.y),
                         static_cast<int>(blockIdx.z), static_cast<int>(gridDim.z)};
  attend_part<T, U, GROUP, DIM, BLOCK, NEIGHBOURS, NORM, PARTIAL>(
      at, kv_heads, qkv, keys, values, slots, plan, plan_width, turn, q_norm, k_norm, epsilon, out,
      memory);
}

// Pieces of kWarp elements of a head, each a warp's work in merging.
__device__ constexpr int merge_pieces(int dim) {
  return (dim + kWarp - 1) / kWarp;
}

// A piece of a head's shares of attend<PARTIAL> together, by a warp: f32 [rows * heads, shares, DIM
// + 2] -> T [rows * heads, DIM].
template <typename T, int DIM>
__device__ inline void merge_piece(const float* partial, int shares, long long head, int piece,
                                   T* out) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp, d = piece * kWarp + lane;
  const float* from = partial + head * shares * (DIM + 2);
  float all = 0, weights = 0, best = kNothing;
  for (int base = 0; base < shares; base += kWarp) {
    // A share a lane, then an element a lane.
    const int count = shares - base < kWarp ? shares - base : kWarp;
    const float* mine = from + (base + lane) * (DIM + 2) + DIM;
    const float own = lane < count ? read_l2(mine) : kNothing;
    const float total = lane < count ? read_l2(mine + 1) : 0;
    const float most = fmaxf(best, max_over(own, kWarp));
    const float before = exp2f(best - most);
    const float factor = total > 0 ? exp2f(own - most) : 0;  // a share may be of no position
    best = most;
    all *= before;
    weights = weights * before + factor * total;
    for (int s = 0; s < count; ++s) {
      const float one = d < DIM ? read_l2(from + (base + s) * (DIM + 2) + d) : 0;
      all += __shfl_sync(0xffffffffu, factor, s) * one;
    }
  }
  weights = sum_over(weights, kWarp);
  if (d < DIM) out[head * DIM + d] = static_cast<T>(all / weights);
}

// The same as a kernel. Grid: x over heads, y over rows.
template <typename T, int DIM>
__device__ inline void merge(const float* partial, int heads, int shares, T* out) {
  const long long head =
      static_cast<long long>(blockIdx.y) * heads + static_cast<long long>(blockIdx.x);
  constexpr int kWarps = kAttendThreads / kWarp;
  for (int piece = uniform(static_cast<int>(threadIdx.x) / kWarp); piece < merge_pieces(DIM);
       piece += kWarps) {
    merge_piece<T, DIM>(partial, shares, head, piece, out);
  }
}

}  // namespace impetus

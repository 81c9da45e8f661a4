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

// The keys and values of a part that a lane reads: of positions first(), first() + kReaders and so
// on, eight elements from `part` on.
template <typename U, int DIM, int BLOCK, int WARPS>
struct KeyReader {
  static constexpr int kLanes = lanes_of(DIM), kKeys = kWarp / kLanes;  // keys a warp reads at once
  static constexpr int kReaders = WARPS * kKeys;
  const int* blocks;
  long long head;  // its first row in the pool
  int position, begin, end, part;
  bool holds;

  __device__ KeyReader(const AttendPart& of, int pieces, int slots, const int* plan, int plan_width)
      : blocks(plan + static_cast<long long>(of.row) * plan_width + 1),
        head(static_cast<long long>(of.head / pieces) * slots),
        position(uniform(blocks[-1])),
        part(static_cast<int>(threadIdx.x) % kLanes * 8),
        holds(part < DIM) {
    const int each = (position + of.shares) / of.shares;  // of position + 1, rounded up
    begin = of.share * each;
    end = begin + each < position + 1 ? begin + each : position + 1;
  }
  __device__ int first() const {
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
    return begin + uniform(static_cast<int>(threadIdx.x) / kWarp) * kKeys + lane / kLanes;
  }
  // The row's own are not in the pool yet.
  __device__ bool reads(int p) const { return holds && p < end && p != position; }
  __device__ long long row_of(int p) const {
    return (head + static_cast<long long>(blocks[p / BLOCK]) * BLOCK + p % BLOCK) * DIM;
  }
  __device__ const Eight<U>* at(const U* pool, int p) const {
    return reinterpret_cast<const Eight<U>*>(pool + row_of(p) + part);
  }
};

// A lane's keys and values one after another, the next ones on their way in registers.
template <typename U, int DIM, int BLOCK, int WARPS>
class KeysInRegisters {
 public:
  using Reader = KeyReader<U, DIM, BLOCK, WARPS>;
  __device__ KeysInRegisters(const U* keys, const U* values) : keys_(keys), values_(values) {}

  __device__ void begin(const Reader& reads, int p) { read(reads, p); }
  // Those of position p, if it reads that.
  __device__ void take(const Reader& reads, int p, Eight<U>& key, Eight<U>& value) {
    key = key_;
    value = value_;
    read(reads, p + Reader::kReaders);
  }

 private:
  __device__ void read(const Reader& reads, int p) {
    if (!reads.reads(p)) return;
    key_ = *reads.at(keys_, p);
    value_ = *reads.at(values_, p);
  }

  const U *keys_, *values_;
  Eight<U> key_, value_;
};

// Attention of a row over its sequence up to itself, by a block of WARPS; GROUP query heads for
// each of `kv_heads`, in all `heads`.
//   qkv [rows, (heads + 2 * kv_heads) * DIM]: before norms and rotation
//   keys, values [kv_heads, slots, DIM]: the row's own are written here, by the block that needs
//     them last; no other block reads them
//   stream: of keys and values, as KeysInRegisters has them; begun
//   rotation: of the row's position, as find_rotation leaves it; q_norm, k_norm T [DIM] (with NORM)
//   out T [rows, heads * DIM], or with PARTIAL f32 [rows, heads, shares, DIM + 2]: weighted sums,
//     the largest score times log2 e, the sum of weights
template <typename T, typename U, int GROUP, int DIM, int BLOCK, bool NEIGHBOURS, bool NORM,
          bool PARTIAL, int WARPS, typename O, typename Stream>
__device__ inline void attend_part(const AttendPart& at, int kv_heads, const T* qkv, U* keys,
                                   U* values, int slots, const int* plan, int plan_width,
                                   Stream& stream, const float* rotation, const T* q_norm,
                                   const T* k_norm, float epsilon, O* out,
                                   AttendShared<GROUP, DIM, WARPS>& shared_memory) {
  using Pieces = HeadPieces<GROUP>;
  constexpr int kPieces = Pieces::kPieces, kHeads = Pieces::kHeads;
  using Reader = KeyReader<U, DIM, BLOCK, WARPS>;
  constexpr int kLanes = Reader::kLanes, kKeys = Reader::kKeys, kReaders = Reader::kReaders;
  constexpr int kThreads = WARPS * kWarp;
  constexpr int kKey = kHeads, kValue = kHeads + 1;
  auto& [vectors, sums, bests, totals] = shared_memory;
  const int all_heads = kv_heads * GROUP;

  const int thread = static_cast<int>(threadIdx.x);
  const int lane = thread % kWarp, warp = uniform(thread / kWarp);
  const int kv_head = at.head / kPieces, piece = at.head % kPieces;
  const int row = at.row, share = at.share, shares = at.shares;
  const int first = kv_head * GROUP + piece * kHeads;  // query head
  const int heads = GROUP - piece * kHeads < kHeads ? GROUP - piece * kHeads : kHeads;
  // Each group of lanes goes over its own keys.
  const Reader reads(at, kPieces, slots, plan, plan_width);
  const int position = reads.position, begin = reads.begin, end = reads.end;
  const int part = reads.part;
  const bool holds = reads.holds;
  int p = reads.first();

  // Norms.
  const T* source = qkv + static_cast<long long>(row) * (all_heads + 2 * kv_heads) * DIM;
  IMPETUS_ROLL
  for (int v = warp; v < kHeads + 2; v += WARPS) {
    int head = v < heads ? first + v : first;  // none: the first again, and never written out
    if (v == kKey) head = all_heads + kv_head;
    if (v == kValue) head = all_heads + kv_heads + kv_head;
    constexpr int kOwn = (DIM + kWarp - 1) / kWarp;
    T own[kOwn];  // all on their way at once
    IMPETUS_UNROLL
    for (int i = 0; i < kOwn; ++i) {
      const int d = lane + i * kWarp;
      if (d < DIM) own[i] = read_l2(source + head * DIM + d);
    }
    float squares = 0;
    IMPETUS_UNROLL
    for (int i = 0; i < kOwn; ++i) {
      const int d = lane + i * kWarp;
      if (d >= DIM) continue;
      const float x = static_cast<float>(own[i]);
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
  barrier<kThreads>();

  // Rotation.
  IMPETUS_ROLL
  for (int i = thread; i < (kHeads + 1) * (DIM / 2); i += kThreads) {
    const int v = i / (DIM / 2), pair = i % (DIM / 2);
    const int a = NEIGHBOURS ? 2 * pair : pair, b = NEIGHBOURS ? a + 1 : pair + DIM / 2;
    const float sine = rotation[pair], cosine = rotation[DIM / 2 + pair];
    const float x = vectors[v][a], y = vectors[v][b];
    vectors[v][a] = rounded<T>(x * cosine - y * sine);
    vectors[v][b] = rounded<T>(x * sine + y * cosine);
  }
  barrier<kThreads>();
  if (begin <= position && end == position + 1) {
    const long long to = reads.row_of(position);
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
  barrier<kThreads>();

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
    Eight<U> key, value;
    stream.take(reads, p, key, value);
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
  barrier<kThreads>();

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
  __shared__ float rotation[DIM];
  find_rotation<DIM>(plan[static_cast<long long>(blockIdx.y) * plan_width], frequencies,
                     static_cast<int>(threadIdx.x), kAttendThreads, rotation);
  const AttendPart at = {static_cast<int>(blockIdx.x), static_cast<int>(blockIdx.y),
                         static_cast<int>(blockIdx.z), static_cast<int>(gridDim.z)};
  constexpr int kWarps = kAttendThreads / kWarp;
  KeysInRegisters<U, DIM, BLOCK, kWarps> stream(keys, values);
  const KeyReader<U, DIM, BLOCK, kWarps> reads(at, HeadPieces<GROUP>::kPieces, slots, plan,
                                               plan_width);
  stream.begin(reads, reads.first());
  attend_part<T, U, GROUP, DIM, BLOCK, NEIGHBOURS, NORM, PARTIAL>(
      at, kv_heads, qkv, keys, values, slots, plan, plan_width, stream, rotation, q_norm, k_norm,
      epsilon, out, memory);
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

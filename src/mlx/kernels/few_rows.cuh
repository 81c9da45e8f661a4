// Products of a few rows with a matrix, as decode steps make them. The weights are what there is to
// read, so they are read once, for all rows; tensor cores leave the time to take codes apart.
namespace impetus {

constexpr int kFewRowsWarps = 8, kFewRowsThreads = kFewRowsWarps * kWarp;  // a block
constexpr int kFewRowsMax = 8;

// Elements of a row that a lane reads at once: 16 bytes.
__device__ constexpr int few_rows_each(int bits) {
  return 128 / bits;
}

__device__ inline float gated(float gate, float up) {
  return gate / (1 + expf(-gate)) * up;
}

// Warps that share the columns of a tile of outputs: 1, 2, 4 or 8, for enough blocks of threads.
__device__ constexpr int few_rows_split(int tiles) {
  int split = 1;
  while (split < kFewRowsWarps && tiles * split < 256 * kFewRowsWarps) split *= 2;
  return split;
}

// Pair `p` of the codes in 16 bytes: 4 bits: elements 8 (p / 4) + p % 4 and four further; 8: 2 p
// and 2 p + 1. In T: scale * code + bias, each step rounded once. 16 bits: T itself, 2 p and 2 p
// + 1.
template <bool BF16, int BITS>
__device__ inline unsigned weights_of(const Four& words, int p, unsigned scale, unsigned bias) {
  if constexpr (BITS == 16) return words.at[p];
  const unsigned scales = scale * 0x10001u, biases = bias * 0x10001u;
  // A code as the last bits of a float's fraction is that float plus the code.
  constexpr unsigned kOne = BF16 ? 0x3f803f80u : 0x3c003c00u;
  constexpr unsigned kLess = BF16 ? 0xc300c300u : 0xe400e400u;  // -128, -1024
  if constexpr (BITS == 4) {
    const unsigned codes = words.at[p / 4] >> (4 * (p % 4));
    const unsigned more = (codes & 0x000f000fu) | (BF16 ? 0x43004300u : 0x64006400u);
    return fma_pair<BF16>(fma_pair<BF16>(more, kOne, kLess), scales, biases);
  }
  const unsigned word = words.at[p / 2], at = p % 2 * 2;
  if constexpr (!BF16) {
    const unsigned more = __byte_perm(word, 0x64646464u, at == 0 ? 0x5140 : 0x5342);
    return fma_pair<BF16>(fma_pair<BF16>(more, kOne, kLess), scales, biases);
  }
  // bfloat16's fraction is too short for eight bits more.
  const auto one = [&](unsigned byte) {
    const float code = __uint_as_float(__byte_perm(word, 0x4b000000u, 0x7650 + byte)) - 8388608.0f;
    return fmaf(code, __uint_as_float(scale * 0x10000u), __uint_as_float(bias * 0x10000u));
  };
  return pair<true>(one(at), one(at + 1));
}

// The pair of x that meets pair `p` of the codes; `words`: x of the same elements in order.
template <int BITS>
__device__ inline unsigned meets(const unsigned* words, int p) {
  if constexpr (BITS != 4) return words[p];
  const int first = p / 4 * 4 + p % 4 / 2;
  return __byte_perm(words[first], words[first + 2], p % 2 == 0 ? 0x5410 : 0x7632);
}

// Eight of x, so that those that meet codes of 4 bits stand together: 0, 4, 1, 5, 2, 6, 3, 7.
__device__ inline Four crossed(const Four& x) {
  return {{meets<4>(x.at, 0), meets<4>(x.at, 1), meets<4>(x.at, 2), meets<4>(x.at, 3)}};
}

// Sums of a tile that do not wait for one another: a product takes its time.
constexpr int kSums = 2;

// sum [16 outputs, 8 rows] += weights times x, as multiply_add holds it.
//   words: 16 bytes of weights of output g and of g + 8; scale, bias: of these
//   input: of row g, the same columns; CROSSED: as `crossed` leaves them
template <bool BF16, int BITS, bool CROSSED>
__device__ inline void multiply_slab(float (&sum)[kSums][4], const Four (&words)[2],
                                     const unsigned (&scale)[2], const unsigned (&bias)[2],
                                     const unsigned (&input)[few_rows_each(BITS) / 2]) {
  IMPETUS_UNROLL
  for (int p = 0; p < few_rows_each(BITS) / 2; p += 2) {
    unsigned codes[2][2];
    for (int r = 0; r < 2; ++r) {
      for (int i = 0; i < 2; ++i) {
        codes[r][i] = weights_of<BF16, BITS>(words[r], p + i, scale[r], bias[r]);
      }
    }
    multiply_add<BF16>(sum[p / 2 % kSums], codes[0][0], codes[1][0], codes[0][1], codes[1][1],
                       meets<CROSSED ? 8 : BITS>(input, p),
                       meets<CROSSED ? 8 : BITS>(input, p + 1));
  }
}

__device__ inline float whole_sum(const float (&sum)[kSums][4], int i) {
  float whole = sum[0][i];
  for (int s = 1; s < kSums; ++s) whole += sum[s][i];
  return whole;
}

// Weights on their way to a warp: of some slabs of a tile.
struct TileReads {
  static constexpr int kMost = 4;
  Four words[kMost][2];
  unsigned scale[kMost][2], bias[kMost][2];
};

// A warp's tile of a product: 16 outputs, slabs [begin, end) of their columns.
//   weight [.., columns]: codes of BITS (4, 8), scales and biases [.., columns / GROUP]; or dense,
//     with BITS 16
//   output: that this lane reads, g and g + 8 of the tile, if they are `there`
template <int BITS, int GROUP>
class Tile {
 public:
  static constexpr int kEach = few_rows_each(BITS), kSlab = 4 * kEach;
  static constexpr bool kCodes = BITS < 16;
  // Slabs that are on their way while as many are worked on.
  static constexpr int kAhead = kCodes ? 2 : TileReads::kMost;

  __device__ Tile(const unsigned* weight, const unsigned short* scales,
                  const unsigned short* biases, int columns, const int (&output)[2],
                  const bool (&there)[2], int begin, int end)
      : columns_(columns), begin_(begin), end_(end) {
    for (int r = 0; r < 2; ++r) {
      const long long row = there[r] ? output[r] : 0;
      from_[r] = weight + (row * columns + (lane_at() < columns ? lane_at() : 0)) / (32 / BITS);
      if constexpr (kCodes) {
        scales_[r] = scales + row * (columns / GROUP);
        biases_[r] = biases + row * (columns / GROUP);
      }
    }
  }

  __device__ int begin() const { return begin_; }
  __device__ int end() const { return end_; }
  // This lane's first column of a slab.
  __device__ static int column(int slab) { return slab * kSlab + lane_at(); }

  __device__ void read(int slab, int to, TileReads& reads) const {
    if (slab >= end_) return;
    // Past the columns something of the same row, which meets zeros.
    const bool past = column(slab) >= columns_;
    for (int r = 0; r < 2; ++r) {
      reads.words[to][r] = read_once(from_[r] + (past ? 0 : slab * (kSlab / (32 / BITS))));
      if constexpr (kCodes) {
        const int group = past ? 0 : column(slab) / GROUP;
        reads.scale[to][r] = read_early(scales_[r] + group);
        reads.bias[to][r] = read_early(biases_[r] + group);
      }
    }
  }

 private:
  __device__ static int lane_at() { return static_cast<int>(threadIdx.x) % 4 * kEach; }

  const unsigned* from_[2];
  const unsigned short *scales_[2], *biases_[2];
  int columns_, begin_, end_;
};

// sum [16 outputs, 8 rows] += a tile of weights times x [rows, columns], as multiply_add holds it.
template <typename T, bool BF16, int BITS, int GROUP>
__device__ inline void multiply_tile(float (&sum)[kSums][4], const T* x, int rows, int columns,
                                     const Tile<BITS, GROUP>& tile) {
  using Of = Tile<BITS, GROUP>;
  constexpr int kEach = Of::kEach, kAhead = Of::kAhead;
  const int row = static_cast<int>(threadIdx.x) % kWarp / 4;
  TileReads reads;
  IMPETUS_UNROLL
  for (int d = 0; d < kAhead; ++d) tile.read(tile.begin() + d, d, reads);
  const auto multiply = [&](int slab, int which) {
    const int at = Of::column(slab);
    unsigned input[kEach / 2];
    IMPETUS_UNROLL
    for (int i = 0; i < kEach / 8; ++i) {
      Four some = {};
      if (row < rows && at < columns) {
        some = reinterpret_cast<const Four*>(x + row * columns + at)[i];
      }
      for (int w = 0; w < 4; ++w) input[4 * i + w] = some.at[w];
    }
    multiply_slab<BF16, BITS, false>(sum, reads.words[which], reads.scale[which], reads.bias[which],
                                     input);
  };
  IMPETUS_ROLL
  for (int base = tile.begin(); base < tile.end(); base += kAhead) {
    TileReads behind;
    IMPETUS_UNROLL
    for (int d = 0; d < kAhead; ++d) tile.read(base + kAhead + d, d, behind);
    IMPETUS_UNROLL
    for (int d = 0; d < kAhead; ++d) {
      if (base + d < tile.end()) multiply(base + d, d);
    }
    reads = behind;
  }
}

// out [rows, outputs] = x [rows, columns] times the transpose of weight [outputs, columns]; with
// GATED weight is [2 * outputs, columns], and out = silu(first half's) * second half's. T in 16
// bits; the matrix as multiply_tile takes it. rows <= kFewRowsMax; columns % 32 == 0.
// Grid: x over tiles of outputs, 16 or with GATED 8, kFewRowsWarps / few_rows_split a block.
template <typename T, bool BF16, int BITS, int GROUP, bool GATED>
__device__ inline void few_rows(const T* x, const unsigned* weight, const unsigned short* scales,
                                const unsigned short* biases, int rows, int columns, int outputs,
                                T* out) {
  constexpr int kSlab = 4 * few_rows_each(BITS), kOutputs = GATED ? 8 : 16;
  __shared__ float sums[kFewRowsWarps][kFewRowsMax][16];

  const int thread = static_cast<int>(threadIdx.x);
  const int lane = thread % kWarp, warp = uniform(thread / kWarp);
  const int g = lane / 4, t = lane % 4;
  const int split = few_rows_split((outputs + kOutputs - 1) / kOutputs);
  const int per = kFewRowsWarps / split;  // tiles
  const int first = (static_cast<int>(blockIdx.x) * per + warp / split) * kOutputs;
  const int slabs = (columns + kSlab - 1) / kSlab, each = (slabs + split - 1) / split;
  const int begin = warp % split * each, end = begin + each < slabs ? begin + each : slabs;
  const int output[2] = {first + g, first + g + (GATED ? outputs : 8)};
  const bool there[2] = {output[0] < outputs, (GATED ? output[0] : output[1]) < outputs};
  float sum[kSums][4] = {};
  const Tile<BITS, GROUP> tile(weight, scales, biases, columns, output, there, begin, end);
  multiply_tile<T, BF16>(sum, x, rows, columns, tile);
  for (int i = 0; i < 4; ++i) sums[warp][2 * t + i % 2][g + i / 2 * 8] = whole_sum(sum, i);
  __syncthreads();

  for (int i = thread; i < per * rows * kOutputs; i += kFewRowsThreads) {
    const int output = i % kOutputs, row = i / kOutputs % rows, tile = i / kOutputs / rows;
    const int to = (static_cast<int>(blockIdx.x) * per + tile) * kOutputs + output;
    if (to >= outputs) continue;
    float whole = 0, other = 0;
    for (int s = 0; s < split; ++s) {
      const auto& share = sums[tile * split + s][row];
      whole += share[output];
      if (GATED) other += share[output + 8];
    }
    if (GATED) whole = gated(whole, other);
    out[static_cast<long long>(row) * outputs + to] = static_cast<T>(whole);
  }
}

}  // namespace impetus

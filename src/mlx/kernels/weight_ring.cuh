// Weights of a step's products on their way to a block's warps, through shared memory: producer
// warps do nothing but ask for them, as far ahead as there is room, for the consumer warps, which
// multiply; so memory is at work while blocks wait for one another, too. They come in rows of
// kStageRow bytes, a line of the L2 cache: tensor cores take pieces of half as many, which memory
// gives more slowly.
namespace impetus {

constexpr int kProducerWarps = 4;                // behind the consumers
constexpr int kStageRows = 16, kStageRow = 128;  // outputs of a warp's stage; bytes of each
constexpr int kStageBytes = kStageRows * kStageRow;
constexpr int kStagesMax = 8;  // of a block at once: what is on its way while blocks wait

struct StepMatrix {
  const unsigned* weight;
  const unsigned short *scales, *biases, *bias;
  int format, split;
};

// A product of all rows with a matrix [outputs, columns], or [2 * outputs, columns] where it
// `gates`: then two outputs become one, as in few_rows with GATED.
struct StepProduct {
  StepMatrix matrix;
  int columns, outputs;
  bool gates;
};

__device__ constexpr int log2_of(int power) {
  return power > 1 ? 1 + log2_of(power / 2) : 0;
}

// How a block's warps share a product: its tiles of 2^wide outputs are `units` of 2^(log2 of WARPS
// - split), each a block's at once; 2^split warps share a tile, each has every 2^split-th of its
// `stages`, at most `rounds`.
template <int WARPS>
struct ProductShare {
  int wide, tiles, split, per, units, row_bytes, stages, rounds;
  int group;  // log2 of its columns
  __device__ explicit ProductShare(const StepProduct& of) {
    wide = of.gates ? 3 : 4;
    tiles = (of.outputs + (1 << wide) - 1) >> wide;
    split = 1 << of.matrix.split < WARPS ? of.matrix.split : log2_of(WARPS);
    const int all = log2_of(WARPS) - split;
    per = 1 << all;
    units = (tiles + per - 1) >> all;
    row_bytes = of.columns * (of.matrix.format / 1000) / 8;
    stages = (row_bytes + kStageRow - 1) / kStageRow;
    rounds = (stages + (1 << split) - 1) >> split;
    group = 31 - __clz(of.matrix.format % 1000);
  }
  __device__ int first_stage(int warp) const { return warp & ((1 << split) - 1); }
  __device__ int tile(int unit, int warp) const { return unit * per + (warp >> split); }
};

// Scales, or biases, of a row in a stage: those 16 bytes of memory, and the next ones, in which the
// first of them stands.
constexpr int kFactorRow = 32, kFactorBytes = 2 * kStageRows * kFactorRow;
// In bytes from the array's beginning.
__device__ inline int factor_at(int output, int groups, int group) {
  return (output * groups + group) * 2;
}

// So that lanes that read the same pieces of two rows meet in no bank.
__device__ inline int piece_at(int row, int piece) {
  return piece ^ row % 2 * 4;
}

// A block's stages, each with a part for each of WARPS. Producers take units from a counter, as
// memory does not serve all multiprocessors alike. CODES: parts have room for scales and biases.
template <int WARPS, bool CODES>
class WeightRing {
 public:
  static constexpr int kPartBytes = kStageBytes + (CODES ? kFactorBytes : 0);
  static constexpr int kHeadBytes = 256;
  static_assert(kStagesMax * (2 * sizeof(Mbarrier) + sizeof(int)) + 2 * sizeof(int) <= kHeadBytes);

  // Of a block, behind a barrier after `prepare`. `memory`: kHeadBytes and as many stages of WARPS
  // * kPartBytes.
  __device__ WeightRing(char* memory, int stages)
      : barriers_(reinterpret_cast<Mbarrier*>(memory)),
        parts_(memory + kHeadBytes),
        stages_(stages) {}
  __device__ void prepare() const {
    const int i = static_cast<int>(threadIdx.x);
    if (i < stages_) mbarrier_init(full(i), kProducerWarps * kWarp + 1);
    if (i < stages_) mbarrier_init(empty(i), WARPS);
  }

  // For consumers: the unit of the stage that is next, when it is there; past the
  // product's units: none, the product is over.
  __device__ int unit() const {
    wait();
    return *unit_of(at_);
  }
  __device__ void wait() const { mbarrier_wait(full(at_), parity_); }
  // A warp's part of the stage.
  //   row r of kStageRows at r * kStageRow; its piece p of 16 bytes as piece_at(r, p)
  //   behind them scales and then biases, as factor_at has them, row r at r * kFactorRow
  __device__ const char* part(int warp) const { return parts_ + (at_ * WARPS + warp) * kPartBytes; }
  __device__ void release() {
    __syncwarp();
    if (threadIdx.x % kWarp == 0) mbarrier_arrive(empty(at_));
    advance();
  }

  // For producers: a product's weights. `producer`: this thread, of kProducerWarps; `counter`: the
  // product's, 0 before the launch.
  __device__ void load(const StepProduct& of, unsigned* counter, int producer) {
    const ProductShare<WARPS> share(of);
    int unit = static_cast<int>(blockIdx.x);
    IMPETUS_ROLL
    for (;;) {
      // The one after it, while this one is asked for.
      int coming = 0;
      if (producer == 0 && unit < share.units) {
        coming = static_cast<int>(gridDim.x + atomicAdd(counter, 1u));
      }
      const int rounds = unit < share.units ? share.rounds : 1;
      IMPETUS_ROLL
      for (int round = 0; round < rounds; ++round) {
        mbarrier_wait(empty(at_), parity_ ^ 1);
        if (unit < share.units) load_stage(of, share, unit, round, producer);
        if (producer == 0) {
          *unit_of(at_) = unit;
          mbarrier_arrive(full(at_));
        }
        mbarrier_arrive_with_copies(full(at_));
        advance();
      }
      if (unit >= share.units) return;
      int* const told = unit_of(kStagesMax + (told_ ^= 1));
      if (producer == 0) *told = coming;
      barrier<kProducerWarps * kWarp, 2>();
      unit = *told;
    }
  }

 private:
  __device__ void load_stage(const StepProduct& of, const ProductShare<WARPS>& share, int unit,
                             int round, int producer) {
    static_assert(WARPS % kProducerWarps == 0);
    constexpr int kEach = WARPS / kProducerWarps;
    const int lane = producer % kWarp, first = producer / kWarp * kEach;
    const int row = lane / 8, piece = lane % 8 * 16;  // 16 bytes of four rows are this lane's
    const int pitch = share.row_bytes, bits = of.matrix.format / 1000;
    // Of a gate's tile both halves are as many.
    const long long behind = static_cast<long long>(of.gates ? of.outputs : 8) * pitch;
    const int later = of.gates ? 0 : 8;
    IMPETUS_UNROLL
    for (int w = 0; w < kEach; ++w) {
      const int tile = share.tile(unit, first + w);
      const int stage = share.first_stage(first + w) + (round << share.split);
      if (tile >= share.tiles || stage >= share.stages) continue;
      const int output = (tile << share.wide) + row, left = of.outputs - output;
      const int column = stage * kStageRow + piece;
      const char* from = reinterpret_cast<const char*>(of.matrix.weight) +
                         static_cast<long long>(output) * pitch + column;
      const char* const to = part(first + w);
      const Shared at = shared(to + row * kStageRow + piece_at(row, lane % 8) * 16);
      const bool in = column < pitch;
      copy_async(at, from, in && left > 0);
      copy_async(at + 4 * kStageRow, from + 4 * pitch, in && left > 4);
      copy_async(at + 8 * kStageRow, from + behind, in && left > later);
      copy_async(at + 12 * kStageRow, from + behind + 4 * pitch, in && left > later + 4);
      if constexpr (CODES) {
        if (bits < 16) {
          load_factors(of, tile << share.wide, stage * kStageRow * 8 / bits, share.group, to, lane);
        }
      }
    }
  }
  // A lane copies the scales or the biases of a row. `shift`: log2 of the columns of a group.
  __device__ static void load_factors(const StepProduct& of, int first, int column, int shift,
                                      const char* to, int lane) {
    const int row = lane % kStageRows, groups = of.columns >> shift;
    const bool second = of.gates && row >= 8;
    const int output = first + row - (second ? 8 : 0);
    if (output >= of.outputs) return;
    const int all = (of.gates ? 2 * of.outputs : of.outputs) * groups * 2;
    const int from =
        factor_at(output + (second ? of.outputs : 0), groups, column >> shift) / 16 * 16;
    const char* array =
        reinterpret_cast<const char*>(lane < kStageRows ? of.matrix.scales : of.matrix.biases);
    const Shared at = shared(to + kStageBytes + lane * kFactorRow);
    // Zeros behind the end: columns that are not there are multiplied with them.
    IMPETUS_UNROLL
    for (int i = 0; i < 32; i += 16) {
      copy_async_some(at + i, array + from + i, min(max(all - from - i, 0), 16));
    }
  }

  __device__ Mbarrier* full(int stage) const { return barriers_ + stage; }
  __device__ Mbarrier* empty(int stage) const { return barriers_ + kStagesMax + stage; }
  __device__ int* unit_of(int stage) const {
    return reinterpret_cast<int*>(barriers_ + 2 * kStagesMax) + stage;
  }
  __device__ void advance() {
    if (++at_ < stages_) return;
    at_ = 0;
    parity_ ^= 1;
  }

  Mbarrier* barriers_;
  char* parts_;
  int stages_, at_ = 0, parity_ = 0, told_ = 0;
};

// sum [16 outputs, 8 rows] += a stage's weights times x, as multiply_add holds it.
//   part: of the ring; first: output of the tile; x: of this lane's row, from its first column of
//     the stage on, as `crossed` leaves it
template <typename T, bool BF16, int BITS, int GROUP>
__device__ inline void multiply_stage(float (&sum)[kSums][4], const char* part,
                                      const StepProduct& of, int first, int stage, const T* x) {
  constexpr int kEach = few_rows_each(BITS), kColumns = 8 * kEach;
  const int lane = static_cast<int>(threadIdx.x) % kWarp, g = lane / 4, t = lane % 4;
  const char* factors[2] = {};
  if constexpr (BITS < 16) {
    IMPETUS_UNROLL
    for (int r = 0; r < 2; ++r) {
      const int output = first + g + r * (of.gates ? of.outputs : 8);
      const int at = factor_at(output, of.columns / GROUP, stage * kColumns / GROUP);
      factors[r] = part + kStageBytes + (g + 8 * r) * kFactorRow + (at & 15);
    }
  }
  IMPETUS_UNROLL
  for (int s = 0; s < 2; ++s) {
    Four words[2];
    unsigned scale[2] = {}, bias[2] = {};
    IMPETUS_UNROLL
    for (int r = 0; r < 2; ++r) {
      const int row = g + 8 * r, piece = piece_at(g, 4 * s + t);
      words[r] = *reinterpret_cast<const Four*>(part + row * kStageRow + piece * 16);
      if constexpr (BITS < 16) {
        const int group = (4 * s + t) * kEach / GROUP * 2;
        const auto* from = reinterpret_cast<const unsigned short*>(factors[r] + group);
        scale[r] = *from;
        bias[r] = from[kStageRows * kFactorRow / 2];
      }
    }
    unsigned input[kEach / 2];
    IMPETUS_UNROLL
    for (int i = 0; i < kEach / 8; ++i) {
      const Four some = reinterpret_cast<const Four*>(x + s * 4 * kEach)[i];
      for (int w = 0; w < 4; ++w) input[4 * i + w] = some.at[w];
    }
    multiply_slab<BF16, BITS, true>(sum, words, scale, bias, input);
  }
}

}  // namespace impetus

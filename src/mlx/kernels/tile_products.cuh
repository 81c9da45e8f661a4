// Products of many rows with a matrix, tile by tile over the blocks of one launch, on tensor cores.
// Sums in f32.
namespace impetus {

// Two neighbours.
struct alignas(8) TwoFloats {
  float at[2];
};
template <typename T>
__device__ inline TwoFloats two_of(unsigned pair) {
  T both[2];
  memcpy(both, &pair, sizeof(both));
  return {static_cast<float>(both[0]), static_cast<float>(both[1])};
}

constexpr int kProductThreads = 256, kProductWarps = kProductThreads / kWarp;

// A tile of ROWS rows and OUTPUTS outputs, made DEPTH columns at a time, of which STAGES are on
// their way. ROW_WARPS by OUTPUT_WARPS of a block's warps share it; where that is not all of them,
// they share the columns, too.
template <int ROWS, int OUTPUTS, int DEPTH, int STAGES, int ROW_WARPS, int OUTPUT_WARPS>
struct Tiling {
  static constexpr int kRows = ROWS, kOutputs = OUTPUTS, kDepth = DEPTH, kStages = STAGES;
  static constexpr int kRowWarps = ROW_WARPS, kTileWarps = ROW_WARPS * OUTPUT_WARPS;
  static constexpr int kDepthWarps = kProductWarps / kTileWarps;
  static constexpr int kWarpDepth = DEPTH / kDepthWarps;
  static constexpr int kRowParts = ROWS / ROW_WARPS / 16;  // fragments of a warp
  static constexpr int kOutputParts = OUTPUTS / OUTPUT_WARPS / 8;
  static constexpr int kPitch = DEPTH + 8;  // an odd number of 16 bytes
  static_assert(ROWS % (kProductThreads * 8 / DEPTH) == 0 &&
                OUTPUTS % (kProductThreads * 8 / DEPTH) == 0);
  static_assert(kRowParts * kOutputParts % kDepthWarps == 0);
  static_assert(kRowParts > 0 && kOutputParts % 2 == 0 && kWarpDepth % 16 == 0);

  // In bytes; RESIDENT: rows stand in shared memory whole, in front of the ring.
  static __device__ constexpr int resident_pitch(int columns) {
    return (columns + DEPTH - 1) / DEPTH * DEPTH + 8;
  }
  static __device__ constexpr int stage_bytes(bool resident) {
    return (OUTPUTS + (resident ? 0 : ROWS)) * kPitch * 2;
  }
  static __device__ constexpr int bytes(bool resident, int columns) {
    return (resident ? ROWS * resident_pitch(columns) * 2 : 0) + STAGES * stage_bytes(resident);
  }
  // What warps that share columns leave for one another lies where the ring was.
  static_assert(kDepthWarps == 1 || kProductWarps * kRowParts * kOutputParts * kWarp * 16 <=
                                        STAGES * OUTPUTS * kPitch * 2);
};
// For few tiles, for many, and for so many that what is read counts.
using SmallTiles = Tiling<32, 32, 128, 3, 2, 1>;
using MediumTiles = Tiling<64, 64, 64, 4, 2, 2>;
using LargeTiles = Tiling<64, 128, 64, 3, 2, 4>;

// use(row, output, value, next output's value, more) for each pair of outputs of input [rows,
// columns] times weight [outputs, columns], transposed, and bias [outputs], or null; `more`:
// more_of(row, output), asked for before. By all blocks; `meet`: where they wait for what was
// written before, once; weights are asked for ahead of it, and what `ask_ahead` asks for. RESIDENT:
// in place of `input`, load_rows(first row, to, pitch, whether nobody else loads these) leaves a
// tile's rows in shared memory, zeros behind their columns up to the pitch less 8; what was asked
// for ahead is there. REQUIRES columns % 8 == 0, outputs % 2 == 0; rows aligned to 16 bytes; a
// barrier of the block before, where `memory` was in use; `memory`: Tiles::bytes, aligned to 16.
template <typename Tiles, typename T, bool BF16, bool RESIDENT, typename AskAhead, typename Meet,
          typename LoadRows, typename MoreOf, typename Use>
__device__ inline void multiply_tiles(const T* input, const T* weight, const T* bias, int rows,
                                      int columns, int outputs, char* memory,
                                      const AskAhead& ask_ahead, const Meet& meet,
                                      const LoadRows& load_rows, const MoreOf& more_of,
                                      const Use& use) {
  constexpr int kRows = Tiles::kRows, kOutputs = Tiles::kOutputs, kDepth = Tiles::kDepth;
  constexpr int kStages = Tiles::kStages, kPitch = Tiles::kPitch, kPieces = kDepth / 8;
  constexpr int kRowParts = Tiles::kRowParts, kOutputParts = Tiles::kOutputParts;
  const int thread = static_cast<int>(threadIdx.x);
  const int lane = thread % kWarp, warp = thread / kWarp;
  const int tile_warp = warp % Tiles::kTileWarps, depth_warp = warp / Tiles::kTileWarps;
  const int row_warp = tile_warp % Tiles::kRowWarps, output_warp = tile_warp / Tiles::kRowWarps;

  // A block's tiles lie side by side: rows that are resident serve several.
  const int wide = (outputs + kOutputs - 1) / kOutputs;
  const int tiles = (rows + kRows - 1) / kRows * wide, blocks = static_cast<int>(gridDim.x);
  const int each = (tiles + blocks - 1) / blocks;
  const int begin = min(static_cast<int>(blockIdx.x) * each, tiles), end = min(begin + each, tiles);
  const int stages = (columns + kDepth - 1) / kDepth;
  if (begin == end) {
    meet();
    return;
  }
  const int row_pitch = RESIDENT ? Tiles::resident_pitch(columns) : kPitch;
  char* ring = memory + (RESIDENT ? kRows * row_pitch * 2 : 0);
  const Shared ring_at = shared(ring);
  constexpr int kStageBytes = Tiles::stage_bytes(RESIDENT);

  // Of a stage of `from`, rows from `first` on, this thread's pieces of 16 bytes.
  const int own_row = thread / kPieces, own_column = thread % kPieces * 8;
  const auto copy = [&](auto count, Shared to, const T* from, int first, int limit, int stage) {
    constexpr int kApart = kProductThreads / kPieces;
    const int column = stage * kDepth + own_column, row = first + own_row;
    const T* at = from + static_cast<long long>(row) * columns + column;
    const Shared own = anew(to + (own_row * kPitch + own_column) * 2);
    IMPETUS_UNROLL
    for (int i = 0; i < decltype(count)::kValue; i += kApart) {
      const bool there = row + i < limit && column < columns;
      copy_async(own + i * kPitch * 2, there ? at + static_cast<long long>(i) * columns : from,
                 there);
    }
  };
  const auto ask_weights = [&](int first_output, int stage) {
    if (stage >= stages) return;
    copy(Number<kOutputs>(), ring_at + stage % kStages * kStageBytes, weight, first_output, outputs,
         stage);
  };
  const auto ask_input = [&](int first_row, int stage) {
    if (RESIDENT || stage >= stages) return;
    copy(Number<kRows>(), ring_at + stage % kStages * kStageBytes + kOutputs * kPitch * 2, input,
         first_row, rows, stage);
  };

  ask_ahead();
  IMPETUS_ROLL
  for (int tile = begin; tile < end; ++tile) {
    const int first_row = tile / wide * kRows, first_output = tile % wide * kOutputs;
    IMPETUS_ROLL
    for (int s = 0; s < kStages - 1; ++s) {
      ask_weights(first_output, s);
      copies_end();
    }
    if (tile == begin) meet();
    if constexpr (RESIDENT) {
      if (tile == begin || tile % wide == 0) {
        copies_left<kStages - 2>();
        __syncthreads();
        load_rows(first_row, kRows, memory, row_pitch, tile % wide == 0);
      }
    } else {
      IMPETUS_ROLL
      for (int s = 0; s < kStages - 1; ++s) {
        ask_input(first_row, s);
        copies_end();
      }
    }
    float sums[kRowParts][kOutputParts][4] = {};
    IMPETUS_ROLL
    for (int s = 0; s < stages; ++s) {
      copies_left<kStages - 2>();
      __syncthreads();
      ask_weights(first_output, s + kStages - 1);
      ask_input(first_row, s + kStages - 1);
      copies_end();
      const Shared stage = ring_at + s % kStages * kStageBytes;
      const Shared row = (RESIDENT ? shared(memory) : stage + kOutputs * kPitch * 2) +
                         ((row_warp * kRowParts * 16 + lane % 16) * row_pitch + lane / 16 * 8 +
                          (RESIDENT ? s * kDepth : 0) + depth_warp * Tiles::kWarpDepth) *
                             2;
      const Shared output =
          stage + ((output_warp * kOutputParts * 8 + lane / 16 * 8 + lane % 8) * kPitch +
                   lane / 8 % 2 * 8 + depth_warp * Tiles::kWarpDepth) *
                      2;
      IMPETUS_UNROLL
      for (int k = 0; k < Tiles::kWarpDepth; k += 16) {
        unsigned a[kRowParts][4];
        IMPETUS_UNROLL
        for (int r = 0; r < kRowParts; ++r) load_matrices(a[r], row + (r * 16 * row_pitch + k) * 2);
        IMPETUS_UNROLL
        for (int n = 0; n < kOutputParts / 2; ++n) {
          unsigned b[4];  // two fragments: of 8 outputs each
          load_matrices(b, output + (n * 16 * kPitch + k) * 2);
          IMPETUS_UNROLL
          for (int r = 0; r < kRowParts; ++r) {
            multiply_add<BF16>(sums[r][2 * n], a[r][0], a[r][1], a[r][2], a[r][3], b[0], b[1]);
            multiply_add<BF16>(sums[r][2 * n + 1], a[r][0], a[r][1], a[r][2], a[r][3], b[2], b[3]);
          }
        }
      }
    }
    // Each warp of those that share columns makes a share of the fragments whole.
    constexpr int kParts = kRowParts * kOutputParts, kShare = kParts / Tiles::kDepthWarps;
    const auto row_of = [&](int p) {
      return first_row + (row_warp * kRowParts + p / kOutputParts) * 16 + lane / 4;
    };
    const auto output_of = [&](int p) {
      return first_output + (output_warp * kOutputParts + p % kOutputParts) * 8 + lane % 4 * 2;
    };
    unsigned biases[kShare], more[kShare][2];
    IMPETUS_UNROLL
    for (int i = 0; i < kShare; ++i) {
      const int p = depth_warp * kShare + i, row = row_of(p), output = output_of(p);
      const bool there = output < outputs;
      biases[i] = there && bias != nullptr ? read_pair(bias + output) : 0;
      more[i][0] = there && row < rows ? more_of(row, output) : 0;
      more[i][1] = there && row + 8 < rows ? more_of(row + 8, output) : 0;
    }
    // Through shared memory, even where each warp's sums are whole: a loop of little code.
    __syncthreads();
    struct Part {
      float at[4];
    };
    Part* parts = reinterpret_cast<Part*>(ring);
    const auto place = [&](int of, int part) {
      return ((of * kParts + part) * Tiles::kTileWarps + tile_warp) * kWarp + lane;
    };
    IMPETUS_UNROLL
    for (int r = 0; r < kRowParts; ++r) {
      IMPETUS_UNROLL
      for (int n = 0; n < kOutputParts; ++n) {
        Part& to = parts[place(depth_warp, r * kOutputParts + n)];
        for (int i = 0; i < 4; ++i) to.at[i] = sums[r][n][i];
      }
    }
    __syncthreads();
    IMPETUS_UNROLL
    for (int i = 0; i < kShare; ++i) {
      const int p = depth_warp * kShare + i, row = row_of(p), output = output_of(p);
      Part whole = parts[place(0, p)];
      for (int d = 1; d < Tiles::kDepthWarps; ++d) {
        const Part part = parts[place(d, p)];
        for (int k = 0; k < 4; ++k) whole.at[k] += part.at[k];
      }
      if (output >= outputs) continue;
      const TwoFloats plus = two_of<T>(biases[i]);
      for (int half = 0; half < 2; ++half) {
        if (row + 8 * half >= rows) continue;
        use(row + 8 * half, output, whole.at[2 * half] + plus.at[0],
            whole.at[2 * half + 1] + plus.at[1], more[i][half]);
      }
    }
    __syncthreads();  // the ring is asked for again, and rows
  }
  copies_done();
}

}  // namespace impetus

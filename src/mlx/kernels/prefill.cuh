// Attention of many rows a sequence: of prompts over the KV pool's blocks, and of texts over their
// own rows. Rows of all sequences stand behind one another; tiles of them, of one sequence each, go
// over its keys tile by tile with a running softmax. Products by tensor cores, sums in f32,
// probabilities in T.
namespace impetus {

constexpr int kPrefillThreads = 128;  // a block of prefill
constexpr int kTileRows = 64;         // 16 a warp: a fragment's
// A tile's place in `plan`: its first row, its rows, the position of the first one in its sequence,
// the positions that its rows see at most, and where in `plan` the blocks of these positions begin,
// or (without blocks) the row of position 0.
constexpr int kTilePlan = 5;

// What a tile of rows is attended with, of one head: rows that begin at its first, keys and values
// at position 0 of the sequence, or of the pool.
template <typename T>
struct PrefillTile {
  const T* queries;
  long long query_stride;  // from row to row
  const T *keys, *values;
  int key_stride;     // from a position to the next
  const int* blocks;  // of the sequence's positions, in the pool
  int rows, position, end;
  T* out;
  long long out_stride;
};

// What threads of a tile share.
template <int DIM, int BLOCK>
struct PrefillShared {
  static constexpr int kKeys = DIM <= 128 ? 64 : 32;  // of a tile; more would not leave registers
  static constexpr int kPitch = DIM + 8;  // an odd number of 16 bytes: 8 rows lie in unlike banks
  // Of a tile; without blocks two, so that all is 16 bytes wide.
  static constexpr int kBlocks = BLOCK > 0 ? kKeys / (BLOCK > 0 ? BLOCK : 1) : 2;
  alignas(16) unsigned short key_tile[kKeys * kPitch];
  alignas(16) unsigned short value_tile[kKeys * kPitch];
  int places[2][kBlocks];  // slots where the blocks of a tile begin, and of the next one
};

// By kPrefillThreads that meet at `sync`. FRESH: queries were written in this launch (keys and
// values may always be). As `prefill` says.
template <typename T, bool BF16, int DIM, int BLOCK, bool CAUSAL, bool FRESH, typename Sync>
__device__ inline void prefill_tile(const PrefillTile<T>& tile, PrefillShared<DIM, BLOCK>& memory,
                                    int thread, const Sync& sync) {
  using Memory = PrefillShared<DIM, BLOCK>;
  constexpr int kKeys = Memory::kKeys, kPitch = Memory::kPitch, kBlocks = Memory::kBlocks;
  constexpr int kPieces = DIM / 8;  // of 16 bytes, in a row
  constexpr int kSteps = DIM / 16;
  auto& places = memory.places;
  const int lane = thread % kWarp, warp = thread / kWarp;
  const int rows = tile.rows, position = tile.position, end = tile.end;
  const T *const keys = tile.keys, *const values = tile.values;

  // This thread's block of a tile from `base` on.
  const auto slot_of = [&](int base) {
    if constexpr (BLOCK > 0) {
      const int p = base + thread * BLOCK;
      if (thread < kBlocks && p < end) return tile.blocks[p / BLOCK] * BLOCK;
    }
    return 0;
  };
  const Shared key_rows = shared(memory.key_tile), value_rows = shared(memory.value_tile);
  // A thread's pieces of a tile: of every kApart-th row where pieces divide threads, else any.
  const auto copy_tile = [&](Shared to, const T* from, int base, const int* blocks) {
    const auto copy = [&](Shared to, const T* from, int row, bool there) {
      // Zeros past the end: what lies there would spoil a sum even with no weight.
      copy_async(to,
                 from + (BLOCK > 0 || there ? static_cast<long long>(row) * tile.key_stride : 0),
                 there);
    };
    if constexpr (kPrefillThreads % kPieces == 0) {
      constexpr int kApart = kPrefillThreads / kPieces;
      // Neither `key` nor `i` crosses a block's border that the other does not.
      const int key = thread / kPieces, piece = thread % kPieces, left = end - base - key;
      const Shared first_to = anew(to + (key * kPitch + piece * 8) * 2);
      IMPETUS_UNROLL
      for (int i = 0; i < kKeys; i += kApart) {
        int row = base + key + i;
        if constexpr (BLOCK > 0) row = blocks[key / BLOCK + i / BLOCK] + key % BLOCK + i % BLOCK;
        copy(first_to + i * kPitch * 2, from + piece * 8, row, i < left);
      }
    } else {
      for (int at = thread; at < kKeys * kPieces; at += kPrefillThreads) {
        const int key = at / kPieces, piece = at % kPieces;
        int row = base + key;
        if constexpr (BLOCK > 0) row = blocks[key / BLOCK] + key % BLOCK;
        copy(to + (key * kPitch + piece * 8) * 2, from + piece * 8, row, base + key < end);
      }
    }
  };

  if (thread < kBlocks) places[0][thread] = slot_of(0);
  sync();
  copy_tile(key_rows, keys, 0, places[0]);

  // This lane's two rows.
  const int row0 = warp * 16 + lane / 4, row1 = row0 + 8;
  const int column = lane % 4 * 2;
  unsigned query[kSteps][4];
  const T* from = tile.queries + row0 * tile.query_stride + column;
  const auto two = [](const T* at) {
    if constexpr (FRESH) {
      return read_l2(reinterpret_cast<const unsigned*>(at));
    } else {
      return read_pair(at);
    }
  };
  IMPETUS_UNROLL
  for (int s = 0; s < kSteps; ++s) {
    query[s][0] = row0 < rows ? two(from + s * 16) : 0;
    query[s][1] = row1 < rows ? two(from + 8 * tile.query_stride + s * 16) : 0;
    query[s][2] = row0 < rows ? two(from + s * 16 + 8) : 0;
    query[s][3] = row1 < rows ? two(from + 8 * tile.query_stride + s * 16 + 8) : 0;
  }
  // Positions below these are seen: by all rows of this warp, by any, and by this lane's first row
  // counted from its first column. Rows that are not there see zeros too, and are not written.
  constexpr int kNextRow = CAUSAL ? 1 : 0;
  const int seen_by_all = CAUSAL ? position + warp * 16 + 1 : end;
  const int sight = seen_by_all + kNextRow * (lane / 4) - column;
  const bool works = warp * 16 < rows;

  const float scale = kLog2E * rsqrtf(static_cast<float>(DIM));
  float sums[2 * kSteps][4] = {};
  float best0 = kNothing, best1 = kNothing, total0 = 0, total1 = 0;
  int parity = 0;
  for (int base = 0; base < end; base += kKeys, parity ^= 1) {
    // A tile of keys is there, and the values before it are done with.
    copies_done();
    sync();
    copy_tile(value_rows, values, base, places[parity]);
    const int next = slot_of(base + kKeys);
    const bool sees = works && base < seen_by_all + kNextRow * 15;
    float scores[kKeys / 8][4] = {};
    if (sees) {
      const Shared at =
          anew(key_rows + ((lane / 16 * 8 + lane % 8) * kPitch + lane / 8 % 2 * 8) * 2);
      IMPETUS_UNROLL
      for (int s = 0; s < kSteps; ++s) {
        IMPETUS_UNROLL
        for (int n = 0; n < kKeys / 16; ++n) {
          unsigned b[4];  // two fragments: of 8 keys each
          load_matrices(b, at + (n * 16 * kPitch + s * 16) * 2);
          const unsigned(&a)[4] = query[s];
          multiply_add<BF16>(scores[2 * n], a[0], a[1], a[2], a[3], b[0], b[1]);
          multiply_add<BF16>(scores[2 * n + 1], a[0], a[1], a[2], a[3], b[2], b[3]);
        }
      }
    }
    // The values are there, and the keys are done with.
    if (thread < kBlocks) places[parity ^ 1][thread] = next;
    copies_done();
    sync();
    if (base + kKeys < end) copy_tile(key_rows, keys, base + kKeys, places[parity ^ 1]);
    if (!sees) continue;

    if (base + kKeys > seen_by_all) {
      const int left = sight - base;
      IMPETUS_UNROLL
      for (int n = 0; n < kKeys / 8; ++n) {
        IMPETUS_UNROLL
        for (int i = 0; i < 4; ++i) {
          if (n * 8 + i % 2 >= left + kNextRow * 8 * (i / 2)) scores[n][i] = kNothing;
        }
      }
    }
    float most0 = best0, most1 = best1;
    IMPETUS_UNROLL
    for (int n = 0; n < kKeys / 8; ++n) {
      most0 = fmaxf(most0, fmaxf(scores[n][0], scores[n][1]));
      most1 = fmaxf(most1, fmaxf(scores[n][2], scores[n][3]));
    }
    IMPETUS_UNROLL
    for (int offset = 1; offset < 4; offset *= 2) {
      most0 = fmaxf(most0, __shfl_xor_sync(0xffffffffu, most0, offset));
      most1 = fmaxf(most1, __shfl_xor_sync(0xffffffffu, most1, offset));
    }
    const float before0 = power_of_2((best0 - most0) * scale);
    const float before1 = power_of_2((best1 - most1) * scale);
    best0 = most0;
    best1 = most1;
    total0 *= before0;
    total1 *= before1;
    const float low0 = most0 * scale, low1 = most1 * scale;
    IMPETUS_UNROLL
    for (int n = 0; n < kKeys / 8; ++n) {
      scores[n][0] = power_of_2(fmaf(scores[n][0], scale, -low0));
      scores[n][1] = power_of_2(fmaf(scores[n][1], scale, -low0));
      scores[n][2] = power_of_2(fmaf(scores[n][2], scale, -low1));
      scores[n][3] = power_of_2(fmaf(scores[n][3], scale, -low1));
      total0 += scores[n][0] + scores[n][1];
      total1 += scores[n][2] + scores[n][3];
    }
    IMPETUS_UNROLL
    for (int n = 0; n < 2 * kSteps; ++n) {
      sums[n][0] *= before0;
      sums[n][1] *= before0;
      sums[n][2] *= before1;
      sums[n][3] *= before1;
    }
    const Shared at = anew(value_rows + (lane % 16 * kPitch + lane / 16 * 8) * 2);
    // What c holds of two times 8 keys is just what a takes of 16.
    IMPETUS_UNROLL
    for (int k = 0; k < kKeys / 16; ++k) {
      const float(&x)[4] = scores[2 * k];
      const float(&y)[4] = scores[2 * k + 1];
      const unsigned a[4] = {pair<BF16>(x[0], x[1]), pair<BF16>(x[2], x[3]), pair<BF16>(y[0], y[1]),
                             pair<BF16>(y[2], y[3])};
      IMPETUS_UNROLL
      for (int n = 0; n < kSteps; ++n) {
        unsigned b[4];
        load_transposed(b, at + (k * 16 * kPitch + n * 16) * 2);
        multiply_add<BF16>(sums[2 * n], a[0], a[1], a[2], a[3], b[0], b[1]);
        multiply_add<BF16>(sums[2 * n + 1], a[0], a[1], a[2], a[3], b[2], b[3]);
      }
    }
  }
  if (!works) return;
  total0 = sum_over(total0, 4);
  total1 = sum_over(total1, 4);
  const float part0 = 1.0f / total0, part1 = 1.0f / total1;
  T* to = tile.out + row0 * tile.out_stride + column;
  IMPETUS_UNROLL
  for (int n = 0; n < 2 * kSteps; ++n) {
    if (row0 < rows) {
      write_pair(to + n * 8, pair<BF16>(sums[n][0] * part0, sums[n][1] * part0));
    }
    if (row1 < rows) {
      write_pair(to + 8 * tile.out_stride + n * 8,
                 pair<BF16>(sums[n][2] * part1, sums[n][3] * part1));
    }
  }
}

// Grid: x over tiles and, within each, query heads: those of a head of keys read it together.
//   queries [rows, HEADS, DIM], normed and rotated, by strides of rows and heads
//   keys, values: with BLOCK > 0 [KV_HEADS, slots, DIM], where position p is slot
//     blocks[p / BLOCK] * BLOCK + p % BLOCK; else of rows of the batch, [rows, HEADS + 2 *
//     KV_HEADS, DIM], from the first of their heads on
//   CAUSAL: a row sees positions up to its own, else all of its text
//   out [rows, HEADS * DIM]
// Reads no position that a sequence does not have: others may hold anything. An infinity among its
// own values reaches rows before it in the same tile of keys, by a weight of zero.
// REQUIRES DIM % 16 == 0; keys and values aligned to 16 bytes, queries and their strides to 4.
template <typename T, bool BF16, int HEADS, int KV_HEADS, int DIM, int BLOCK, bool CAUSAL>
__device__ inline void prefill(const T* queries, long long query_stride, long long head_stride,
                               const T* keys, const T* values, int slots, const int* plan, T* out) {
  constexpr int kStride = BLOCK > 0 ? DIM : (HEADS + 2 * KV_HEADS) * DIM;
  using Memory = PrefillShared<DIM, BLOCK>;
  __shared__ alignas(16) unsigned char memory[sizeof(Memory)];
  const int head = static_cast<int>(blockIdx.x) % HEADS;
  const int* tile = plan + static_cast<int>(blockIdx.x) / HEADS * kTilePlan;
  const long long first = tile[0];
  const int start = tile[4];
  const long long to_head =
      head / (HEADS / KV_HEADS) * (BLOCK > 0 ? static_cast<long long>(slots) * DIM : DIM) +
      (BLOCK > 0 ? 0 : static_cast<long long>(start) * kStride);
  prefill_tile<T, BF16, DIM, BLOCK, CAUSAL, false>(
      PrefillTile<T>{queries + first * query_stride + head * head_stride, query_stride,
                     keys + to_head, values + to_head, kStride, plan + start, tile[1], tile[2],
                     tile[3], out + (first * HEADS + head) * DIM, HEADS * DIM},
      *reinterpret_cast<Memory*>(memory), static_cast<int>(threadIdx.x), [] { __syncthreads(); });
}

}  // namespace impetus

// A whole decode step, one row a sequence, in one launch: blocks of threads that all run at once
// and wait for one another between a layer's parts. A launch of each part would cost the host more
// than the GPU takes for it. Weights come through a ring of shared memory meanwhile.
namespace impetus {

// The table, in 64-bit words. A matrix is addresses of weight, scales, biases (of groups) and of
// the bias (of outputs; 0: none), its format: BITS * 1000 + GROUP, dense 16000, an embedding in f32
// 32000, and as a power of two, how many warps share a tile's columns.
constexpr int kMatrixWords = 6;
// First the embedding, the head, the last norm, the rotation's frequencies, then numbers and where
// in the scratch memory what lies, in bytes.
constexpr int kHeadAt = kMatrixWords, kLastNormAt = 2 * kMatrixWords;
constexpr int kFrequenciesAt = kLastNormAt + 1, kNumbersAt = kLastNormAt + 2;
enum StepNumber { kLayers, kHidden, kFeedForward, kVocab, kSlots, kKvHeads, kEpsilon, kNumbers };
// [rows, ..] of T; shares as attend<PARTIAL> makes them; keys of all blocks' rows; GridBarrier's
// state; units of each product that were taken.
enum StepPlace {
  kResidual,
  kQkv,
  kAttended,
  kHiddenRows,
  kShares,
  kKeys,
  kGridBarrier,
  kUnits,
  kPlaces
};
constexpr int kPlacesAt = kNumbersAt + kNumbers, kModelWords = kPlacesAt + kPlaces;
// Then of each layer matrices of q, k and v, of the output, of gate and up, of down, and norms: of
// attention, of the feed-forward, of q, of k.
constexpr int kNormsAt = 4 * kMatrixWords, kLayerWords = kNormsAt + 4;
constexpr int kStepRows = 8;         // at most
constexpr int kSharePositions = 32;  // that are worth a share

using Key = unsigned long long;

__device__ inline StepMatrix matrix_at(const Word* words) {
  return {reinterpret_cast<const unsigned*>(words[0]),
          reinterpret_cast<const unsigned short*>(words[1]),
          reinterpret_cast<const unsigned short*>(words[2]),
          reinterpret_cast<const unsigned short*>(words[3]),
          static_cast<int>(words[4]),
          static_cast<int>(words[5])};
}

// Four products a layer and what comes before each, then the head.
enum Product { kOfQkv, kOfOutput, kOfGateUp, kOfDown, kOfHead };
struct StepSizes {
  int layers, hidden, feed_forward, vocab, wide, qkv_wide;  // wide: of all heads
  __device__ StepSizes(const Word* model, int heads_wide, int kv_wide)
      : layers(number(model, kLayers)),
        hidden(number(model, kHidden)),
        feed_forward(number(model, kFeedForward)),
        vocab(number(model, kVocab)),
        wide(heads_wide),
        qkv_wide(heads_wide + 2 * kv_wide) {}
  __device__ static int number(const Word* model, StepNumber which) {
    return static_cast<int>(model[kNumbersAt + which]);
  }
  __device__ StepProduct product(int which, const StepMatrix& matrix) const {
    return {matrix,
            which == kOfOutput ? wide
            : which == kOfDown ? feed_forward
                               : hidden,
            which == kOfQkv      ? qkv_wide
            : which == kOfGateUp ? feed_forward
            : which == kOfHead   ? vocab
                                 : hidden,
            which == kOfGateUp};
  }
  __device__ int widest() const {
    const int most = hidden > wide ? hidden : wide;
    return feed_forward > most ? feed_forward : most;
  }
};

// All of a step's weights, by the producer warps.
template <typename Ring>
__device__ inline void load_all_weights(const Word* table, const StepSizes& sizes,
                                        unsigned* counters, Ring& ring, int producer) {
  const int last = 4 * sizes.layers;
  const auto matrix_of = [&](int i) {
    return matrix_at(i == last ? table + kHeadAt
                               : table + kModelWords + i / 4 * kLayerWords + i % 4 * kMatrixWords);
  };
  StepMatrix coming = matrix_of(0);
  IMPETUS_ROLL
  for (int i = 0; i <= last; ++i) {
    const StepMatrix matrix = coming;
    if (i < last) coming = matrix_of(i + 1);
    ring.load(sizes.product(i == last ? kOfHead : i % 4, matrix), counters + i, producer);
  }
  copies_done();
}

// Products of all rows, over all blocks: `use(row, output, value, early(row, output))` for each,
// once, rounded by nobody yet; always the same thread for a row, unless the product gates. The
// ring's next stages are the product's.
//   x T [rows, padded(columns)], rows `pitch` elements apart; zeros behind `columns`
template <typename T, bool BF16, int BITS, int GROUP, int WARPS, typename Ring, typename Early,
          typename Use>
__device__ inline void multiply_all(const StepProduct& of, Ring& ring, const T* x, int pitch,
                                    int rows, float (*sums)[kStepRows][16], const Early& early,
                                    const Use& use) {
  constexpr int kThreads = WARPS * kWarp;
  static_assert(kThreads % (16 * kStepRows) == 0);
  const ProductShare<WARPS> share(of);
  const int wide = share.wide;
  const int thread = static_cast<int>(threadIdx.x), lane = thread % kWarp;
  const int g = lane / 4, t = lane % 4, warp = uniform(thread / kWarp);
  // Rows that are not there are made of another's, and nobody's.
  const T* const mine = x + (g < rows ? g : 0) * pitch + t * few_rows_each(BITS);
  IMPETUS_ROLL
  for (;;) {
    const int unit = ring.unit();
    if (unit >= share.units) break;
    const auto output_of = [&](int i) {
      return ((unit * share.per + (i >> wide) / kStepRows) << wide) + (i & ((1 << wide) - 1));
    };
    const auto row_of = [&](int i) { return (i >> wide) % kStepRows; };
    const int all = share.per * kStepRows << wide;
    const auto is_one = [&](int i) {
      return i < all && output_of(i) < of.outputs && row_of(i) < rows;
    };
    const auto before = is_one(thread) ? early(row_of(thread), output_of(thread)) : 0;
    float sum[kSums][4] = {};
    const int tile = share.tile(unit, warp);
    IMPETUS_ROLL
    for (int round = 0, stage = share.first_stage(warp); round < share.rounds; ++round) {
      if (round > 0) ring.wait();
      if (tile < share.tiles && stage < share.stages) {
        multiply_stage<T, BF16, BITS, GROUP>(sum, ring.part(warp), of, tile << wide, stage,
                                             mine + stage * (kStageRow * 8 / BITS));
      }
      stage += 1 << share.split;
      ring.release();
    }
    for (int i = 0; i < 4; ++i) sums[warp][2 * t + i % 2][g + i / 2 * 8] = whole_sum(sum, i);
    barrier<kThreads>();
    IMPETUS_ROLL
    for (int i = thread; i < all; i += kThreads) {
      if (!is_one(i)) continue;
      const int row = row_of(i), output = output_of(i);
      const int at = i & ((1 << wide) - 1), tile = (i >> wide) / kStepRows;
      float whole = 0, other = 0;
      for (int s = 0; s < 1 << share.split; ++s) {
        const auto& part = sums[(tile << share.split) + s][row];
        whole += part[at];
        if (of.gates) other += part[at + 8];
      }
      use(row, output, of.gates ? gated(whole, other) : whole,
          i == thread ? before : early(row, output));
    }
    barrier<kThreads>();
  }
  ring.release();
}

// `one(format)` with whichever of FORMATS the product's matrix has.
template <int... FORMATS, typename One>
__device__ inline void with_format(const StepProduct& of, const One& one) {
  const auto if_it = [&](auto format) {
    if (of.matrix.format == decltype(format)::kValue) one(format);
  };
  (if_it(Number<FORMATS>{}), ...);
}

// 2^team warps share a row, when a block works on all rows at once or on as many as it has warps.
template <int WARPS>
__device__ inline int team_of(int rows) {
  int team = 0;
  while (rows << (team + 1) <= WARPS) ++team;
  return team;
}
// made [rows, columns], rows `pitch` apart: rms_norm(x) * weight, as `put` leaves eight of it.
//   weight, made: in shared memory
template <typename T, int WARPS, typename Put>
__device__ inline void normalise(const T* x, const T* weight, int team, int rows, int columns,
                                 float epsilon, T* made, int pitch, float (&squares_of)[WARPS],
                                 const Put& put) {
  const int thread = static_cast<int>(threadIdx.x);
  const int lane = thread % kWarp, warp = uniform(thread / kWarp);
  const auto eight = [](const T* at) { return read_l2(reinterpret_cast<const Eight<T>*>(at)); };
  const int begin = (thread & ((kWarp << team) - 1)) * 8, apart = 1 << (8 + team);
  const float each = 1.0f / static_cast<float>(columns);
  IMPETUS_ROLL
  for (int base = 0; base < rows; base += WARPS >> team) {
    const int row = base + (warp >> team);
    const T* from = x + static_cast<long long>(row) * columns;
    float squares = 0;
    // What a thread reads first is kept: of most models all of its part of a row.
    constexpr int kKept = 2;
    Eight<T> kept[kKept];
    const auto add = [&](const Eight<T>& some) {
      for (int i = 0; i < 8; ++i) {
        squares += static_cast<float>(some.at[i]) * static_cast<float>(some.at[i]);
      }
    };
    const int end = row < rows ? columns : 0;
    IMPETUS_UNROLL
    for (int k = 0; k < kKept; ++k) {
      if (begin + k * apart < end) kept[k] = eight(from + begin + k * apart);
    }
    IMPETUS_UNROLL
    for (int k = 0; k < kKept; ++k) {
      if (begin + k * apart < end) add(kept[k]);
    }
    IMPETUS_ROLL
    for (int c = begin + kKept * apart; c < end; c += apart) add(eight(from + c));
    squares = sum_over(squares, kWarp);
    if (lane == 0) squares_of[warp] = squares;
    barrier<WARPS * kWarp>();
    squares = 0;
    IMPETUS_ROLL
    for (int w = 0; w < 1 << team; ++w) squares += squares_of[(warp >> team << team) + w];
    const float scale = rsqrtf(squares * each + epsilon);
    const auto make = [&](int c, const Eight<T>& some) {
      const Eight<T> weights = *reinterpret_cast<const Eight<T>*>(weight + c);
      Eight<T> to;
      for (int i = 0; i < 8; ++i) {
        to.at[i] = static_cast<T>(static_cast<float>(some.at[i]) * scale *
                                  static_cast<float>(weights.at[i]));
      }
      put(made + row * pitch + c, to);
    };
    IMPETUS_UNROLL
    for (int k = 0; k < kKept; ++k) {
      const int c = begin + k * apart;
      if (c < end) make(c, kept[k]);
    }
    IMPETUS_ROLL
    for (int c = begin + kKept * apart; c < end; c += apart) {
      make(c, eight(from + c));
    }
    barrier<WARPS * kWarp>();
  }
}

// Greater for greater values, of equal ones for the smaller id; greatest where one is not finite.
__device__ inline Key key_of(float value, int id) {
  const unsigned bits = __float_as_uint(value + 0.0f);  // -0 is 0
  if ((bits & 0x7f800000u) == 0x7f800000u) return ~Key{0};
  const unsigned ordered = bits >> 31 != 0 ? ~bits : bits | 0x80000000u;
  return Key{ordered} << 32 | (0xffffffffu - static_cast<unsigned>(id));
}
// The id, or -1 where something was not finite.
__device__ inline int id_of(Key key) {
  return key == ~Key{0} ? -1 : static_cast<int>(0xffffffffu - static_cast<unsigned>(key));
}

// A lane's keys and values through shared memory, several on their way: the first ones from before
// the part's turn on. Pieces of 16 bytes, those of a block's threads side by side, so that a warp's
// meet in no bank.
template <typename U, int DIM, int BLOCK, int WARPS>
class KeysInRing {
 public:
  using Reader = KeyReader<U, DIM, BLOCK, WARPS>;
  static constexpr int kPieces = static_cast<int>(sizeof(Eight<U>)) / 16, kDepth = 4 / kPieces;
  static constexpr int kApart = WARPS * kWarp * 16;  // of a thread's pieces
  static constexpr int kBytes = kDepth * 2 * kPieces * kApart;

  // `memory`: of the block, kBytes.
  __device__ explicit KeysInRing(char* memory) : ring_(memory + threadIdx.x * 16) {}

  // Of which layer, before `begin`.
  __device__ void of(Word keys, Word values) {
    pools_[0] = reinterpret_cast<const U*>(keys);
    pools_[1] = reinterpret_cast<const U*>(values);
  }
  __device__ void begin(const Reader& reads, int p) {
    at_ = 0;
    IMPETUS_ROLL
    for (int i = 0; i < kDepth; ++i) load(reads, p + i * Reader::kReaders);
  }
  __device__ void take(const Reader& reads, int p, Eight<U>& key, Eight<U>& value) {
    copies_left<kDepth - 1>();
    IMPETUS_UNROLL
    for (int i = 0; i < 2; ++i) {
      IMPETUS_UNROLL
      for (int b = 0; b < kPieces; ++b) {
        const Four some = *reinterpret_cast<const Four*>(piece(i, b));
        memcpy(reinterpret_cast<char*>(i == 0 ? &key : &value) + b * 16, &some, 16);
      }
    }
    load(reads, p + kDepth * Reader::kReaders);
  }

 private:
  __device__ void load(const Reader& reads, int p) {
    if (reads.reads(p)) {
      IMPETUS_UNROLL
      for (int i = 0; i < 2; ++i) {
        const auto* from = reinterpret_cast<const char*>(reads.at(pools_[i], p));
        IMPETUS_UNROLL
        for (int b = 0; b < kPieces; ++b) {
          copy_async(shared(piece(i, b)), from + b * 16, true);
        }
      }
    }
    copies_end();
    at_ = (at_ + 1) % kDepth;
  }

  // Of the present keys (i 0) or values.
  __device__ char* piece(int i, int b) const {
    return ring_ + ((at_ * 2 + i) * kPieces + b) * kApart;
  }

  char* ring_;
  const U* pools_[2] = {};
  int at_ = 0;
};

// What a model is to the compiler. T in 16 bits: type of activations; U: of keys and values; GROUP:
// query heads of a head of keys; FORMATS: of its matrices.
template <typename T_, bool BF16, typename U_, int GROUP, int DIM, int BLOCK, bool NEIGHBOURS,
          bool QK_NORM, int... FORMATS>
struct StepModel {
  using T = T_;
  using U = U_;
  static constexpr int kGroup = GROUP, kDim = DIM, kBlock = BLOCK;
  static constexpr bool kQkNorm = QK_NORM;
  static constexpr bool kCodes = ((FORMATS / 1000 < 16) || ...);

  template <int WARPS, typename Ring, typename Early, typename Use>
  __device__ static void multiply(const StepProduct& of, Ring& ring, const T* x, int pitch,
                                  int rows, float (*sums)[kStepRows][16], const Early& early,
                                  const Use& use) {
    with_format<FORMATS...>(of, [&](auto format) {
      constexpr int kFormat = decltype(format)::kValue;
      multiply_all<T, BF16, kFormat / 1000, kFormat % 1000, WARPS>(of, ring, x, pitch, rows, sums,
                                                                   early, use);
    });
  }
  template <int WARPS>
  __device__ static void attend(const AttendPart& at, int kv_heads, const T* qkv, Word keys,
                                Word values, int slots, const int* plan, int plan_width,
                                KeysInRing<U, DIM, BLOCK, WARPS>& stream, const float* rotation,
                                Word q_norm, Word k_norm, float epsilon, float* out,
                                AttendShared<GROUP, DIM, WARPS>& memory) {
    attend_part<T, U, GROUP, DIM, BLOCK, NEIGHBOURS, QK_NORM, true>(
        at, kv_heads, qkv, reinterpret_cast<U*>(keys), reinterpret_cast<U*>(values), slots, plan,
        plan_width, stream, rotation, reinterpret_cast<const T*>(q_norm),
        reinterpret_cast<const T*>(k_norm), epsilon, out, memory);
  }
};

template <typename From>
__device__ inline void as_bits(Four& to, const From& from) {
  static_assert(sizeof(From) == sizeof(Four));
  memcpy(&to, &from, sizeof(to));
}

// Shared memory of a block: words of two layers by turns, and of the rest of the model; rotations
// of rows, f32 [rows, 2, DIM / 2]; the next norm's weight; what attention reads first; behind them
// take turns products (with their input behind them, T
// [rows, padded(columns) + kRowGap]), attention and keys; then the ring of weights.
constexpr int kRowGap = 8;  // so that rows lie in different banks
// To whole stages, of whatever format.
__device__ constexpr int padded(int columns) {
  constexpr int kMost = kStageRow * 8 / 4;
  return (columns + kMost - 1) / kMost * kMost;
}
constexpr int kPoolsAt = kLayerWords, kStepWords = kLayerWords + 2;
struct WordsShared {
  Word layer[2][kStepWords];              // the layer's, then where its keys and its values are
  Word model[(kModelWords + 1) / 2 * 2];  // what is behind it is read by 16 bytes
};
template <int WARPS>
struct ProductShared {
  float sums[WARPS][kStepRows][16];
  float squares[WARPS];
};
template <typename Model, int WARPS>
__device__ constexpr int step_shared_bytes(int rows, int hidden, int columns) {
  using Attend = AttendShared<Model::kGroup, Model::kDim, WARPS>;
  constexpr int kThreads = WARPS * kWarp, kType = static_cast<int>(sizeof(typename Model::T));
  const int input = rows * (padded(columns) + kRowGap) * kType;
  const int products = static_cast<int>(sizeof(ProductShared<WARPS>)) + input;
  const int attends = static_cast<int>(sizeof(Attend));
  const int keys = static_cast<int>(sizeof(Key)) * kThreads;
  const int most = products > attends ? products : attends;
  constexpr int kKeysRing =
      KeysInRing<typename Model::U, Model::kDim, Model::kBlock, WARPS>::kBytes;
  const int all = static_cast<int>(sizeof(WordsShared)) + rows * Model::kDim * 4 + hidden * kType +
                  kKeysRing + (most > keys ? most : keys);
  return (all + kStageRow - 1) / kStageRow * kStageRow;
}

// Into how many shares a step's positions are cut: for enough parts, of enough positions each.
__device__ inline int step_shares(int blocks, int parts, int positions) {
  const int worth = (positions + kSharePositions - 1) / kSharePositions;
  const int wanted = blocks / parts < worth ? blocks / parts : worth;
  return wanted < 1 ? 1 : wanted;
}

// An element of a matrix in any of the formats: for the embedding.
template <typename T>
__device__ inline T element_of(const StepMatrix& matrix, long long row, int columns, int column) {
  const long long at = row * columns + column;
  const int bits = matrix.format / 1000, group = matrix.format % 1000;
  if (bits == 16) return reinterpret_cast<const T*>(matrix.weight)[at];
  if (bits == 32) return static_cast<T>(reinterpret_cast<const float*>(matrix.weight)[at]);
  const int each = 32 / bits, shift = static_cast<int>(at % each) * bits;
  const unsigned code = matrix.weight[at / each] >> shift & ((1u << bits) - 1);
  const auto part = [&](const unsigned short* of) {
    return static_cast<float>(reinterpret_cast<const T*>(of)[at / group]);
  };
  return static_cast<T>(fmaf(static_cast<float>(code), part(matrix.scales), part(matrix.biases)));
}

// Grid: blocks that all run at once, of WARPS consumers and kProducerWarps. `memory`: shared;
// `memory_bytes`: step_shared_bytes and room for a stage of weights, at least.
//   table: as above; pools: addresses of keys and of values of each layer, [kv heads, slots, DIM]
//   tokens i32 [rows]; plan as attend takes it
//   logits f32 [rows, vocab], values of T; best: addresses of i32 [2], of rows 0 and 1, 2 and 3 and
//     so on: the likeliest id, of equal ones the smallest; -1: not finite; -2: blocks gave up; of
//     no more rows than there are
//   next i32 [rows]: the ids for the step after this one, 0 where there is none
template <typename Model, int WARPS>
__device__ inline void decode_step(const Word* table, const Word* pools, const int* tokens,
                                   const int* plan, int plan_width, int rows, char* scratch,
                                   char* memory, int memory_bytes, float* logits, int* const* best,
                                   int* next) {
  using T = typename Model::T;
  using Products = ProductShared<WARPS>;
  using Ring = WeightRing<WARPS, Model::kCodes>;
  using Attend = AttendShared<Model::kGroup, Model::kDim, WARPS>;
  constexpr int kThreads = WARPS * kWarp, kDim = Model::kDim;
  const int thread = static_cast<int>(threadIdx.x), block = static_cast<int>(blockIdx.x);
  const int blocks = static_cast<int>(gridDim.x);
  const int everywhere = block * kThreads + thread, everybody = blocks * kThreads;
  WordsShared& words_of = *reinterpret_cast<WordsShared*>(memory);
  char* const block_memory = memory;
  memory += sizeof(WordsShared);
  float* rotations = reinterpret_cast<float*>(memory);
  memory += rows * kDim * sizeof(float);
  const Word* model = words_of.model;
  for (int i = thread; i < kModelWords; i += kThreads) words_of.model[i] = table[i];
  __syncthreads();
  const int kv_heads = StepSizes::number(model, kKvHeads);
  const StepSizes sizes(model, kv_heads * Model::kGroup * kDim, kv_heads * kDim);
  T* const norm = reinterpret_cast<T*>(memory);
  memory += sizes.hidden * sizeof(T);
  KeysInRing<typename Model::U, kDim, Model::kBlock, WARPS> stream(memory);
  memory += stream.kBytes;
  auto& sums = reinterpret_cast<Products*>(memory)->sums;
  T* input = reinterpret_cast<T*>(memory + sizeof(Products));
  Key* keys = reinterpret_cast<Key*>(memory);

  const int taken = step_shared_bytes<Model, WARPS>(rows, sizes.hidden, sizes.widest());
  const int stages = (memory_bytes - taken - Ring::kHeadBytes) / (WARPS * Ring::kPartBytes);
  Ring ring(block_memory + taken, stages < kStagesMax ? stages : kStagesMax);
  ring.prepare();
  __syncthreads();
  if (thread >= kThreads) {
    unsigned* counters = reinterpret_cast<unsigned*>(scratch + model[kPlacesAt + kUnits]);
    return load_all_weights(table, sizes, counters, ring, thread - kThreads);
  }

  const auto place = [&](StepPlace which) {
    return reinterpret_cast<T*>(scratch + model[kPlacesAt + which]);
  };
  const int layers = sizes.layers, hidden = sizes.hidden, wide = sizes.wide;
  const float epsilon = __uint_as_float(static_cast<unsigned>(StepSizes::number(model, kEpsilon)));
  const int slots = StepSizes::number(model, kSlots);
  const int head_parts = kv_heads * HeadPieces<Model::kGroup>::kPieces;
  int longest = 0;
  IMPETUS_ROLL
  for (int row = 0; row < rows; ++row) {
    const int length = plan[row * plan_width] + 1;
    if (length > longest) longest = length;
  }
  const int shares = step_shares(blocks, head_parts * rows, longest);
  GridBarrier<kThreads> grid(reinterpret_cast<unsigned*>(place(kGridBarrier)));
  const auto at = [](int row, int columns, int column) {
    return static_cast<long long>(row) * columns + column;
  };
  // A layer's words while the one before is worked on.
  const auto prefetch_words = [&](int layer) {
    if (layer >= layers || thread >= kStepWords) return;
    copy_async_word(shared(&words_of.layer[layer % 2][thread]),
                    thread < kLayerWords ? table + kModelWords + layer * kLayerWords + thread
                                         : pools + 2 * layer + thread - kLayerWords);
  };
  // Rows as they are, in shared memory: each is read once, not by every warp.
  const auto stage = [&](const T* x, int columns, int apart, const auto& put) {
    constexpr int kAtOnce = 4;
    IMPETUS_ROLL
    for (int row = 0; row < rows; ++row) {
      IMPETUS_ROLL
      for (int begin = thread * 8; begin < columns; begin += kThreads * 8 * kAtOnce) {
        Four some[kAtOnce];
        IMPETUS_UNROLL
        for (int i = 0; i < kAtOnce; ++i) {
          const int c = begin + i * kThreads * 8;
          if (c < columns)
            some[i] = read_l2(reinterpret_cast<const Four*>(x + at(row, columns, c)));
        }
        IMPETUS_UNROLL
        for (int i = 0; i < kAtOnce; ++i) {
          const int c = begin + i * kThreads * 8;
          if (c < columns) put(input + row * apart + c, some[i]);
        }
      }
    }
    barrier<kThreads>();
  };

  prefetch_words(0);
  const StepMatrix embedding = matrix_at(model);
  IMPETUS_ROLL
  for (int row = 0; row < rows; ++row) {
    find_rotation<kDim>(plan[row * plan_width],
                        reinterpret_cast<const float*>(model[kFrequenciesAt]), thread, kThreads,
                        rotations + row * kDim);
  }
  IMPETUS_ROLL
  for (int i = everywhere; i < rows * hidden; i += everybody) {
    place(kResidual)[i] = element_of<T>(embedding, tokens[i / hidden], hidden, i % hidden);
  }
  const auto product_of = [&](int layer, int product) {
    return sizes.product(product, matrix_at(product == kOfHead ? model + kHeadAt
                                                               : words_of.layer[layer % 2] +
                                                                     product * kMatrixWords));
  };
  const auto norm_of = [&](int layer, int product) {
    return reinterpret_cast<const T*>(
        product == kOfHead ? model[kLastNormAt]
                           : words_of.layer[layer % 2][kNormsAt + (product == kOfGateUp ? 1 : 0)]);
  };
  const auto normed = [](int product) {
    return product == kOfQkv || product == kOfGateUp || product == kOfHead;
  };
  const int team = team_of<WARPS>(rows);
  // What memory gives late is prefetched a product ahead: before the weights, which are many.
  const auto prefetch_norm = [&](int layer, int product) {
    const T* from = norm_of(layer, product);
    IMPETUS_ROLL
    for (int c = thread * 8; c < hidden; c += kThreads * 8) {
      copy_async(shared(norm + c), from + c, true);
    }
  };
  const auto part_of = [&](int part) -> AttendPart {
    return {part % head_parts, part / head_parts % rows, part / head_parts / rows, shares};
  };
  const int parts = head_parts * rows * shares;
  const auto reads_of = [&](const AttendPart& part) {
    return KeyReader<typename Model::U, kDim, Model::kBlock, WARPS>(
        part, HeadPieces<Model::kGroup>::kPieces, slots, plan, plan_width);
  };
  const auto reads_first = reads_of(part_of(block < parts ? block : 0));
  const auto prefetch_keys = [&](const Word* words) {
    if (block >= parts) return;
    stream.of(words[kPoolsAt], words[kPoolsAt + 1]);
    stream.begin(reads_first, reads_first.first());
    if (Model::kQkNorm && thread < 4 && thread / 2 * 128 < kDim * static_cast<int>(sizeof(T))) {
      fetch(reinterpret_cast<const char*>(words[kNormsAt + 2 + thread % 2]) + thread / 2 * 128);
    }
  };
  copies_done();
  barrier<kThreads>();
  prefetch_norm(0, kOfQkv);
  copies_done();
  grid.begin();

  Key key = 0;
  int layer = 0, product = kOfQkv;
  for (;;) {
    const Word* words = words_of.layer[layer % 2];
    const StepProduct of = product_of(layer, product);
    if (product == kOfOutput) {
      for (int part = block; part < parts; part += blocks) {
        const AttendPart mine = part_of(part);
        if (part != block) {
          const auto reads = reads_of(mine);
          stream.begin(reads, reads.first());
        }
        Model::template attend<WARPS>(
            mine, kv_heads, place(kQkv), words[kPoolsAt], words[kPoolsAt + 1], slots, plan,
            plan_width, stream, rotations + mine.row * kDim, words[kNormsAt + 2],
            words[kNormsAt + 3], epsilon, reinterpret_cast<float*>(place(kShares)),
            *reinterpret_cast<Attend*>(memory));
        barrier<kThreads>();
      }
      grid.wait();
      constexpr int kPieces = merge_pieces(kDim);
      IMPETUS_ROLL
      for (int i = block + uniform(thread / kWarp) * blocks; i < rows * (wide / kDim) * kPieces;
           i += blocks * WARPS) {
        merge_piece<T, kDim>(reinterpret_cast<const float*>(place(kShares)), shares, i / kPieces,
                             i % kPieces, place(kAttended));
      }
      grid.wait();
    }

    const int apart = padded(of.columns) + kRowGap;
    IMPETUS_ROLL
    for (int c = of.columns + thread; c < padded(of.columns); c += kThreads) {
      IMPETUS_ROLL
      for (int row = 0; row < rows; ++row) input[row * apart + c] = static_cast<T>(0.0f);
    }
    const auto put = [&](T* to, const auto& eight) {
      Four four;
      as_bits(four, eight);
      *reinterpret_cast<Four*>(to) = of.matrix.format / 1000 == 4 ? crossed(four) : four;
    };
    if (normed(product)) {
      normalise<T, WARPS>(place(kResidual), norm, team, rows, hidden, epsilon, input, apart,
                          reinterpret_cast<Products*>(memory)->squares, put);
      if (product == kOfQkv) {
        prefetch_norm(layer, kOfGateUp);
        prefetch_words(layer + 1);
        prefetch_keys(words);
      } else if (product == kOfGateUp) {
        prefetch_norm(layer + 1, layer + 1 < layers ? kOfQkv : kOfHead);
      }
    } else {
      stage(place(product == kOfOutput ? kAttended : kHiddenRows), of.columns, apart, put);
    }
    const bool adds = product == kOfOutput || product == kOfDown;
    T* const to_rows = place(product == kOfQkv ? kQkv : adds ? kResidual : kHiddenRows);
    const auto at_of = [&](int row, int output) { return at(row, of.outputs, output); };
    Model::template multiply<WARPS>(
        of, ring, input, apart, rows, sums,
        [&](int row, int output) {
          if (adds) return static_cast<float>(read_l2(to_rows + at_of(row, output)));
          const T* bias = reinterpret_cast<const T*>(of.matrix.bias);
          return bias != nullptr ? static_cast<float>(bias[output]) : 0;
        },
        [&](int row, int output, float value, float more) {
          value = rounded<T>(value) + more;
          if (product != kOfHead) {
            to_rows[at_of(row, output)] = static_cast<T>(value);
            return;
          }
          logits[at_of(row, output)] = value;
          const Key one = key_of(value, output);
          if (one > key) key = one;
        });
    if (product == kOfHead) break;
    copies_done();
    if (++product > kOfDown) {
      ++layer;
      product = layer == layers ? kOfHead : kOfQkv;
    }
    grid.wait();
  }

  // Of the threads that are of one row (i, row): the greatest key, to thread `row`.
  const auto greatest = [&](const auto& thread_of) {
    keys[thread] = key;
    barrier<kThreads>();
    Key most = 0;
    IMPETUS_ROLL
    for (int i = 0; thread < kStepRows && i < kThreads / kStepRows; ++i) {
      const Key one = keys[thread_of(i, thread)];
      if (one > most) most = one;
    }
    return most;
  };
  // As multiply_all gives outputs to threads.
  key = greatest([](int i, int row) { return (i / 16 * kStepRows + row) * 16 + i % 16; });
  Key* left = reinterpret_cast<Key*>(place(kKeys));
  if (thread < rows) left[block * kStepRows + thread] = key;
  grid.wait();
  if (block != 0) return;
  // For the next launch; here nobody takes any more.
  IMPETUS_ROLL
  for (int i = thread; i <= 4 * layers; i += kThreads) {
    reinterpret_cast<unsigned*>(place(kUnits))[i] = 0;
  }
  key = 0;
  IMPETUS_ROLL
  for (int b = thread / kStepRows; b < blocks; b += kThreads / kStepRows) {
    const int row = thread % kStepRows;
    const Key one = row < rows ? read_l2(left + b * kStepRows + row) : 0;
    if (one > key) key = one;
  }
  key = greatest([](int i, int row) { return i * kStepRows + row; });
  if (thread >= rows) return;
  const int id = grid.gave_up() ? -2 : id_of(key);
  best[thread / 2][thread % 2] = id;
  next[thread] = id < 0 ? 0 : id;
}

}  // namespace impetus

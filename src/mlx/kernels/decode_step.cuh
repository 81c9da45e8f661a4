// A whole decode step, one row a sequence, in one launch: blocks of threads that all run at once
// and wait for one another between a layer's parts. A launch of each part would cost the host
// more than the GPU takes for it; and while blocks wait, the next part's first weights are on their
// way. Not more of them, to the L2 cache: steps took longer with that.
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
// [rows, ..] of T; shares as attend<PARTIAL> makes them; keys of all blocks' rows; Meeting's state.
enum StepPlace { kResidual, kQkv, kAttended, kHiddenRows, kShares, kKeys, kMeeting, kPlaces };
constexpr int kPlacesAt = kNumbersAt + kNumbers, kModelWords = kPlacesAt + kPlaces;
// Then of each layer matrices of q, k and v, of the output, of gate and up, of down, and norms: of
// attention, of the feed-forward, of q, of k.
constexpr int kNormsAt = 4 * kMatrixWords, kLayerWords = kNormsAt + 4;
constexpr int kStepRows = 8;         // at most
constexpr int kSharePositions = 64;  // that are worth a share
// Blocks that wait for the others longer give up: another program on this GPU holds their places.
constexpr long long kPatience = 5000000000;  // ns

using Word = long long;
using Key = unsigned long long;

struct StepMatrix {
  const unsigned* weight;
  const unsigned short *scales, *biases, *bias;
  int format, split;
};
__device__ inline StepMatrix matrix_at(const Word* words) {
  return {reinterpret_cast<const unsigned*>(words[0]),
          reinterpret_cast<const unsigned short*>(words[1]),
          reinterpret_cast<const unsigned short*>(words[2]),
          reinterpret_cast<const unsigned short*>(words[3]),
          static_cast<int>(words[4]),
          static_cast<int>(words[5])};
}

// Where all blocks wait for all, again and again. `state`, zeros before the first launch: arrivals
// at a launch's first meeting, which leave it as it was but for its highest bit; arrivals at the
// others; whether some gave up.
class Meeting {
 public:
  __device__ explicit Meeting(unsigned* state) : state_(state) {}

  // A launch's first.
  __device__ void begin() {
    constexpr unsigned kTurn = 0x80000000u;  // changes when all have arrived
    __syncthreads();
    if (threadIdx.x == 0) {
      const unsigned before = arrivals(state_);
      if (blockIdx.x == 0) state_[1] = 0;  // nobody is there before all have met
      arrive(state_, blockIdx.x == 0 ? kTurn - (gridDim.x - 1) : 1);
      until([&] { return ((before ^ arrivals(state_)) & kTurn) != 0; });
    }
    __syncthreads();
  }
  // The others, in two halves: what a block reads ahead is asked for between them, or it would not
  // arrive before that is there.
  __device__ void come() {
    met_ += gridDim.x;
    __syncthreads();
    if (threadIdx.x == 0) arrive(state_ + 1, 1);
  }
  __device__ void wait() {
    if (threadIdx.x == 0) {
      until([&] { return arrivals(state_ + 1) >= met_; });
    }
    __syncthreads();
  }
  __device__ bool gave_up() const { return arrivals(state_ + 2) != 0; }

 private:
  template <typename Done>
  __device__ void until(const Done& done) {
    constexpr int kTries = 4096;  // between looks at the clock, which take their time
    long long since = 0;
    for (int tries = 1; !done(); ++tries) {
      if (tries % kTries != 0) continue;
      if (gave_up()) return;
      const long long now = nanoseconds();
      if (since == 0) since = now;
      if (now - since > kPatience && !done()) arrive(state_ + 2, 1);
    }
  }

  unsigned* state_;
  unsigned met_ = 0;  // arrivals that were waited for
};

// A product of all rows with a matrix [outputs, columns], or [2 * outputs, columns] where it
// `gates`: then two outputs become one, as in few_rows with GATED.
struct StepProduct {
  StepMatrix matrix;
  int columns, outputs;
  bool gates;
};

// How a block's warps share a product: 2^split of them a tile of outputs, `per` tiles at once, the
// first at `base`; in all `tiles` of 2^wide outputs.
__device__ constexpr int log2_of(int power) {
  return power > 1 ? 1 + log2_of(power / 2) : 0;
}
template <int WARPS>
struct ProductShare {
  int wide, tiles, split, per, base;
  __device__ explicit ProductShare(const StepProduct& of) {
    wide = of.gates ? 3 : 4;
    tiles = (of.outputs + (1 << wide) - 1) >> wide;
    split = 1 << of.matrix.split < WARPS ? of.matrix.split : log2_of(WARPS);
    per = WARPS >> split;
    base = static_cast<int>(blockIdx.x) * per;
  }
};

// The tile of this warp when its block is at `base`.
template <int BITS, int GROUP, int WARPS>
__device__ inline Tile<BITS, GROUP> tile_at(const StepProduct& of, const ProductShare<WARPS>& share,
                                            int base) {
  constexpr int kSlab = Tile<BITS, GROUP>::kSlab;
  const int thread = static_cast<int>(threadIdx.x), g = thread % kWarp / 4;
  const int warp = uniform(thread / kWarp);
  const int slabs = (of.columns + kSlab - 1) / kSlab;
  const int each = (slabs + (1 << share.split) - 1) >> share.split;
  const int begin = (warp & ((1 << share.split) - 1)) * each;
  const int first = (base + (warp >> share.split)) << share.wide;
  const int end = first >= of.outputs ? begin : begin + each < slabs ? begin + each : slabs;
  const int output[2] = {first + g, first + g + (of.gates ? of.outputs : 8)};
  const bool there[2] = {output[0] < of.outputs, (of.gates ? output[0] : output[1]) < of.outputs};
  return {
      of.matrix.weight, of.matrix.scales, of.matrix.biases, of.columns, output, there, begin, end};
}

// Products of all rows, over all blocks: `use(row, output, value, early(row, output))` for each,
// once, rounded by nobody yet; always the same thread for a row, unless the product gates. `reads`:
// as read_first left them for this warp's first tile.
//   x T [rows, columns], rows `pitch` elements apart
template <typename T, bool BF16, int BITS, int GROUP, int WARPS, typename Early, typename Use>
__device__ inline void multiply_all(const StepProduct& of, TileReads& reads, const T* x, int pitch,
                                    int rows, float (*sums)[kStepRows][16], const Early& early,
                                    const Use& use) {
  constexpr int kThreads = WARPS * kWarp;
  static_assert(kThreads % (16 * kStepRows) == 0);
  const ProductShare<WARPS> share(of);
  const int wide = share.wide;
  const int thread = static_cast<int>(threadIdx.x), lane = thread % kWarp;
  const int g = lane / 4, t = lane % 4, warp = uniform(thread / kWarp);
  const int apart = static_cast<int>(gridDim.x) * share.per;
  IMPETUS_ROLL
  for (int base = share.base; base < share.tiles; base += apart) {
    const auto output_of = [&](int i) {
      return ((base + (i >> wide) / kStepRows) << wide) + (i & ((1 << wide) - 1));
    };
    const auto row_of = [&](int i) { return (i >> wide) % kStepRows; };
    const auto is_one = [&](int i) { return output_of(i) < of.outputs && row_of(i) < rows; };
    const auto before = is_one(thread) ? early(row_of(thread), output_of(thread)) : 0;
    float sum[4] = {};
    multiply_tile<T, BF16>(sum, x, pitch, rows, of.columns, tile_at<BITS, GROUP>(of, share, base),
                           reads);
    if (base + apart < share.tiles) {
      tile_at<BITS, GROUP>(of, share, base + apart).read_first(reads);
    }
    for (int i = 0; i < 4; ++i) sums[warp][2 * t + i % 2][g + i / 2 * 8] = sum[i];
    __syncthreads();
    IMPETUS_ROLL
    for (int i = thread; i < share.per * kStepRows << wide; i += kThreads) {
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
    __syncthreads();
  }
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
// The first column of those that a thread of a team works on, eight at once.
__device__ inline int team_column(int team) {
  return (static_cast<int>(threadIdx.x) & ((kWarp << team) - 1)) * 8;
}

// made [rows, columns], rows `pitch` apart, in shared memory: rms_norm(x) * weight. `first`: of
// weight, from team_column on, if that is one of the columns.
template <typename T, int WARPS>
__device__ inline void normalise(const T* x, const T* weight, const Eight<T>& first, int team,
                                 int rows, int columns, float epsilon, T* made, int pitch,
                                 float (&squares_of)[WARPS]) {
  const int thread = static_cast<int>(threadIdx.x);
  const int lane = thread % kWarp, warp = uniform(thread / kWarp);
  const auto eight = [](const T* at) { return read_l2(reinterpret_cast<const Eight<T>*>(at)); };
  const int begin = team_column(team), apart = 1 << (8 + team);
  const int shift = 8 + team;  // log2 of apart
  const int last = begin < columns ? begin + ((columns - 1 - begin) >> shift << shift) : -1;
  IMPETUS_ROLL
  for (int base = 0; base < rows; base += WARPS >> team) {
    const int row = base + (warp >> team);
    const T* from = x + static_cast<long long>(row) * columns;
    float squares = 0;
    // What a thread reads first is all of a row, if it is one of few: it is kept.
    Eight<T> some;
    for (int c = row < rows ? last : -1; c >= 0; c -= apart) {
      some = eight(from + c);
      for (int i = 0; i < 8; ++i) {
        squares += static_cast<float>(some.at[i]) * static_cast<float>(some.at[i]);
      }
    }
    squares = sum_over(squares, kWarp);
    if (lane == 0) squares_of[warp] = squares;
    __syncthreads();
    squares = 0;
    for (int w = 0; w < 1 << team; ++w) squares += squares_of[(warp >> team << team) + w];
    const float scale = rsqrtf(squares / static_cast<float>(columns) + epsilon);
    if (row < rows) {
      for (int c = begin; c < columns; c += apart) {
        Eight<T> weights = first;
        if (c >= apart) {
          some = eight(from + c);
          weights = *reinterpret_cast<const Eight<T>*>(weight + c);
        }
        Eight<T> to;
        for (int i = 0; i < 8; ++i) {
          to.at[i] = static_cast<T>(static_cast<float>(some.at[i]) * scale *
                                    static_cast<float>(weights.at[i]));
        }
        *reinterpret_cast<Eight<T>*>(made + row * pitch + c) = to;
      }
    }
    __syncthreads();
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

// What a model is to the compiler. T in 16 bits: type of activations; U: of keys and values; GROUP:
// query heads of a head of keys; FORMATS: of its matrices.
template <typename T_, bool BF16, typename U_, int GROUP, int DIM, int BLOCK, bool NEIGHBOURS,
          bool QK_NORM, int... FORMATS>
struct StepModel {
  using T = T_;
  using U = U_;
  static constexpr int kGroup = GROUP, kDim = DIM, kBlock = BLOCK;

  // As multiply_all begins with it.
  template <int WARPS>
  __device__ static void read_first(const StepProduct& of, TileReads& reads) {
    with_format<FORMATS...>(of, [&](auto format) {
      constexpr int kFormat = decltype(format)::kValue;
      const ProductShare<WARPS> share(of);
      tile_at<kFormat / 1000, kFormat % 1000>(of, share, share.base).read_first(reads);
    });
  }
  template <int WARPS, typename Early, typename Use>
  __device__ static void multiply(const StepProduct& of, TileReads& reads, const T* x, int pitch,
                                  int rows, float (*sums)[kStepRows][16], const Early& early,
                                  const Use& use) {
    with_format<FORMATS...>(of, [&](auto format) {
      constexpr int kFormat = decltype(format)::kValue;
      multiply_all<T, BF16, kFormat / 1000, kFormat % 1000, WARPS>(of, reads, x, pitch, rows, sums,
                                                                   early, use);
    });
  }
  template <int WARPS>
  __device__ static void attend(const AttendPart& at, int kv_heads, const T* qkv, Word keys,
                                Word values, int slots, const int* plan, int plan_width,
                                const float* turn, Word q_norm, Word k_norm, float epsilon,
                                float* out, AttendShared<GROUP, DIM, WARPS>& memory) {
    attend_part<T, U, GROUP, DIM, BLOCK, NEIGHBOURS, QK_NORM, true>(
        at, kv_heads, qkv, reinterpret_cast<U*>(keys), reinterpret_cast<U*>(values), slots, plan,
        plan_width, turn, reinterpret_cast<const T*>(q_norm), reinterpret_cast<const T*>(k_norm),
        epsilon, out, memory);
  }
};

// Shared memory of a block: words of two layers by turns, and of the rest of the model; the turns
// of rows, f32 [rows, 2, DIM / 2]; behind them take turns products (with their input behind them, T
// [rows, columns + kRowGap]), attention and keys.
constexpr int kRowGap = 8;  // so that rows lie in different banks
constexpr int kPoolsAt = kLayerWords, kStepWords = kLayerWords + 2;
struct WordsShared {
  Word layer[2][kStepWords];  // the layer's, then where its keys and its values are
  Word model[kModelWords];
};
template <int WARPS>
struct ProductShared {
  float sums[WARPS][kStepRows][16];
  float squares[WARPS];
};
template <typename Model, int WARPS>
__device__ constexpr int step_shared_bytes(int rows, int columns) {
  using Attend = AttendShared<Model::kGroup, Model::kDim, WARPS>;
  const int input = rows * (columns + kRowGap) * static_cast<int>(sizeof(typename Model::T));
  const int products = static_cast<int>(sizeof(ProductShared<WARPS>)) + input;
  const int attends = static_cast<int>(sizeof(Attend));
  const int keys = static_cast<int>(sizeof(Key)) * WARPS * kWarp;
  const int most = products > attends ? products : attends;
  return static_cast<int>(sizeof(WordsShared)) + rows * Model::kDim * 4 +
         (most > keys ? most : keys);
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

// Grid: blocks that all run at once, of WARPS. `memory`: shared, step_shared_bytes.
//   table: as above; pools: addresses of keys and of values of each layer, [kv heads, slots, DIM]
//   tokens i32 [rows]; plan as attend takes it
//   logits f32 [rows, vocab], values of T; best: addresses of i32 [2], of rows 0 and 1, 2 and 3 and
//     so on: the likeliest id, of equal ones the smallest; -1: not finite; -2: blocks gave up; of
//     no more rows than there are
//   next i32 [rows]: the ids for the step after this one, 0 where there is none
template <typename Model, int WARPS>
__device__ inline void decode_step(const Word* table, const Word* pools, const int* tokens,
                                   const int* plan, int plan_width, int rows, char* scratch,
                                   char* memory, float* logits, int* const* best, int* next) {
  using T = typename Model::T;
  using Products = ProductShared<WARPS>;
  using Attend = AttendShared<Model::kGroup, Model::kDim, WARPS>;
  constexpr int kThreads = WARPS * kWarp, kDim = Model::kDim;
  const int thread = static_cast<int>(threadIdx.x), block = static_cast<int>(blockIdx.x);
  const int blocks = static_cast<int>(gridDim.x);
  const int everywhere = block * kThreads + thread, everybody = blocks * kThreads;
  WordsShared& words_of = *reinterpret_cast<WordsShared*>(memory);
  memory += sizeof(WordsShared);
  float* turns = reinterpret_cast<float*>(memory);
  memory += rows * kDim * sizeof(float);
  auto& sums = reinterpret_cast<Products*>(memory)->sums;
  T* input = reinterpret_cast<T*>(memory + sizeof(Products));
  Key* keys = reinterpret_cast<Key*>(memory);

  const Word* model = words_of.model;
  for (int i = thread; i < kModelWords; i += kThreads) words_of.model[i] = table[i];
  __syncthreads();
  const auto number = [&](StepNumber which) { return static_cast<int>(model[kNumbersAt + which]); };
  const auto place = [&](StepPlace which) {
    return reinterpret_cast<T*>(scratch + model[kPlacesAt + which]);
  };
  const int layers = number(kLayers), hidden = number(kHidden), kv_heads = number(kKvHeads);
  const int wide = kv_heads * Model::kGroup * kDim, qkv_wide = wide + 2 * kv_heads * kDim;
  const float epsilon = __uint_as_float(static_cast<unsigned>(number(kEpsilon)));
  const int head_parts = kv_heads * HeadPieces<Model::kGroup>::kPieces;
  int longest = 0;
  IMPETUS_ROLL
  for (int row = 0; row < rows; ++row) {
    const int length = plan[row * plan_width] + 1;
    if (length > longest) longest = length;
  }
  const int shares = step_shares(blocks, head_parts * rows, longest);
  Meeting meeting(reinterpret_cast<unsigned*>(place(kMeeting)));
  const auto at = [](int row, int columns, int column) {
    return static_cast<long long>(row) * columns + column;
  };
  // A layer's words while the one before is worked on.
  const auto read_words = [&](int layer) {
    if (layer >= layers || thread >= kStepWords) return;
    words_of.layer[layer % 2][thread] = thread < kLayerWords
                                            ? table[kModelWords + layer * kLayerWords + thread]
                                            : pools[2 * layer + thread - kLayerWords];
  };
  // Rows as they are, in shared memory: each is read once, not by every warp.
  const auto stage = [&](const T* x, int columns, int apart) {
    for (int row = 0; row < rows; ++row) {
      for (int c = thread * 8; c < columns; c += kThreads * 8) {
        *reinterpret_cast<Four*>(input + row * apart + c) =
            read_l2(reinterpret_cast<const Four*>(x + at(row, columns, c)));
      }
    }
    __syncthreads();
  };

  read_words(0);
  const StepMatrix embedding = matrix_at(model);
  IMPETUS_ROLL
  for (int row = 0; row < rows; ++row) {
    find_turn<kDim>(plan[row * plan_width], reinterpret_cast<const float*>(model[kFrequenciesAt]),
                    thread, kThreads, turns + row * kDim);
  }
  IMPETUS_ROLL
  for (int i = everywhere; i < rows * hidden; i += everybody) {
    place(kResidual)[i] = element_of<T>(embedding, tokens[i / hidden], hidden, i % hidden);
  }
  // Four products a layer and what comes before each, then the head.
  enum Product { kOfQkv, kOfOutput, kOfGateUp, kOfDown, kOfHead };
  const auto product_of = [&](int layer, int product) -> StepProduct {
    const Word* words =
        product == kOfHead ? model + kHeadAt : words_of.layer[layer % 2] + product * kMatrixWords;
    return {matrix_at(words),
            product == kOfOutput ? wide
            : product == kOfDown ? number(kFeedForward)
                                 : hidden,
            product == kOfQkv      ? qkv_wide
            : product == kOfGateUp ? number(kFeedForward)
            : product == kOfHead   ? number(kVocab)
                                   : hidden,
            product == kOfGateUp};
  };
  const auto norm_of = [&](int layer, int product) {
    return reinterpret_cast<const T*>(
        product == kOfHead ? model[kLastNormAt]
                           : words_of.layer[layer % 2][kNormsAt + (product == kOfGateUp ? 1 : 0)]);
  };
  const auto normed = [](int product) {
    return product == kOfQkv || product == kOfGateUp || product == kOfHead;
  };
  // What comes next is on its way while blocks wait.
  const int team = team_of<WARPS>(rows);
  TileReads reads;
  Eight<T> norms;
  const auto read_ahead = [&](int layer, int product) {
    Model::template read_first<WARPS>(product_of(layer, product), reads);
    const int column = team_column(team);
    if (normed(product) && column < hidden) {
      norms = *reinterpret_cast<const Eight<T>*>(norm_of(layer, product) + column);
    }
  };
  __syncthreads();
  read_ahead(0, kOfQkv);
  meeting.begin();

  Key key = 0;
  int layer = 0, product = kOfQkv;
  for (;;) {
    const Word* words = words_of.layer[layer % 2];
    const StepProduct of = product_of(layer, product);
    if (product == kOfQkv) read_words(layer + 1);
    if (product == kOfOutput) {
      for (int part = block; part < head_parts * rows * shares; part += blocks) {
        const AttendPart mine = {part % head_parts, part / head_parts % rows,
                                 part / head_parts / rows, shares};
        Model::template attend<WARPS>(
            mine, kv_heads, place(kQkv), words[kPoolsAt], words[kPoolsAt + 1], number(kSlots), plan,
            plan_width, turns + mine.row * kDim, words[kNormsAt + 2], words[kNormsAt + 3], epsilon,
            reinterpret_cast<float*>(place(kShares)), *reinterpret_cast<Attend*>(memory));
        __syncthreads();
      }
      meeting.come();
      read_ahead(layer, product);
      meeting.wait();
      constexpr int kPieces = merge_pieces(kDim);
      for (int i = block + uniform(thread / kWarp) * blocks; i < rows * (wide / kDim) * kPieces;
           i += blocks * WARPS) {
        merge_piece<T, kDim>(reinterpret_cast<const float*>(place(kShares)), shares, i / kPieces,
                             i % kPieces, place(kAttended));
      }
      meeting.come();
      meeting.wait();
    }

    const int apart = of.columns + kRowGap;
    if (normed(product)) {
      normalise<T, WARPS>(place(kResidual), norm_of(layer, product), norms, team, rows, hidden,
                          epsilon, input, apart, reinterpret_cast<Products*>(memory)->squares);
    } else {
      stage(place(product == kOfOutput ? kAttended : kHiddenRows), of.columns, apart);
    }
    const bool adds = product == kOfOutput || product == kOfDown;
    T* const to_rows = place(product == kOfQkv ? kQkv : adds ? kResidual : kHiddenRows);
    const auto at_of = [&](int row, int output) { return at(row, of.outputs, output); };
    Model::template multiply<WARPS>(
        of, reads, input, apart, rows, sums,
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
    meeting.come();
    if (++product > kOfDown) {
      ++layer;
      product = layer == layers ? kOfHead : kOfQkv;
    }
    // Attention comes first, and needs its registers.
    if (product != kOfOutput) read_ahead(layer, product);
    meeting.wait();
  }

  // Of the threads that are of one row (i, row): the greatest key, to thread `row`.
  const auto greatest = [&](const auto& thread_of) {
    keys[thread] = key;
    __syncthreads();
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
  meeting.come();
  meeting.wait();
  if (block != 0) return;
  key = 0;
  IMPETUS_ROLL
  for (int b = thread / kStepRows; b < blocks; b += kThreads / kStepRows) {
    const int row = thread % kStepRows;
    const Key one = row < rows ? read_l2(left + b * kStepRows + row) : 0;
    if (one > key) key = one;
  }
  key = greatest([](int i, int row) { return i * kStepRows + row; });
  if (thread >= rows) return;
  const int id = meeting.gave_up() ? -2 : id_of(key);
  best[thread / 2][thread % 2] = id;
  next[thread] = id < 0 ? 0 : id;
}

}  // namespace impetus

// A whole decode step, one row a sequence, in one launch: blocks of threads that all run at once
// and wait for one another between a layer's parts. A launch of each part would cost the host
// more than the GPU takes for it; and while blocks wait, the next part's weights are on their way
// to the L2 cache.
namespace impetus {

// The table, in 64-bit words. A matrix is addresses of weight, scales, biases (of groups) and of
// the bias (of outputs; 0: none), and its format: BITS * 1000 + GROUP, dense 16000.
constexpr int kMatrixWords = 5;
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
constexpr int kOutputAt = kMatrixWords, kGateUpAt = 2 * kMatrixWords, kDownAt = 3 * kMatrixWords;
constexpr int kNormsAt = 4 * kMatrixWords, kLayerWords = kNormsAt + 4;
constexpr int kSharePositions = 32;  // that are worth a share
// Blocks that wait for the others longer give up: another program on this GPU holds their places.
constexpr long long kPatience = 5000000000;  // ns

using Word = long long;
using Key = unsigned long long;

struct StepMatrix {
  const unsigned* weight;
  const unsigned short *scales, *biases, *bias;
  int format;
};
__device__ inline StepMatrix matrix_at(const Word* words) {
  return {reinterpret_cast<const unsigned*>(words[0]),
          reinterpret_cast<const unsigned short*>(words[1]),
          reinterpret_cast<const unsigned short*>(words[2]),
          reinterpret_cast<const unsigned short*>(words[3]), static_cast<int>(words[4])};
}

// Where all blocks wait for all, again and again. `state`, zeros before the first launch: arrivals
// at a launch's first meeting, which leave it as it was but for its highest bit; arrivals at the
// others; whether some gave up.
class Meeting {
 public:
  __device__ explicit Meeting(unsigned* state) : state_(state) {}

  __device__ void wait() {
    __syncthreads();
    if (threadIdx.x == 0) {
      if (met_ == 0) {
        constexpr unsigned kTurn = 0x80000000u;  // changes when all have arrived
        const unsigned before = arrivals(state_);
        if (blockIdx.x == 0) state_[1] = 0;  // nobody is there before all have met
        arrive(state_, blockIdx.x == 0 ? kTurn - (gridDim.x - 1) : 1);
        until([&] { return ((before ^ arrivals(state_)) & kTurn) != 0; });
      } else {
        arrive(state_ + 1, 1);
        until([&] { return arrivals(state_ + 1) >= met_ * gridDim.x; });
      }
    }
    ++met_;
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
      if (now - since > kPatience) arrive(state_ + 2, 1);
    }
  }

  unsigned* state_;
  unsigned met_ = 0;
};

// The first bytes of a matrix, up to `most`, to the L2 cache: each block its share.
__device__ inline void fetch_ahead(const StepMatrix& matrix, long long elements, long long most,
                                   int threads) {
  const int bits = matrix.format / 1000, group = matrix.format % 1000;
  const auto fetch = [&](const void* from, long long bytes) {
    const long long lines = (bytes < most ? bytes : most) / 128;
    const long long stride = static_cast<long long>(gridDim.x) * threads;
    for (long long line = static_cast<long long>(blockIdx.x) * threads + threadIdx.x; line < lines;
         line += stride) {
      fetch_line(static_cast<const char*>(from) + line * 128);
    }
  };
  fetch(matrix.weight, elements * bits / 8);
  if (group == 0) return;
  fetch(matrix.scales, elements / group * 2);
  fetch(matrix.biases, elements / group * 2);
}

// Products of all rows with a matrix, over all blocks: `use(row, output, value)` for each, once,
// rounded by nobody yet; always the same thread for a row. With GATED two outputs become one, as in
// few_rows.
template <typename T, bool BF16, int BITS, int GROUP, bool GATED, int TILES, int WARPS,
          typename Use>
__device__ inline void multiply_all(const StepMatrix& matrix, const T* x, int pitch, int rows,
                                    int columns, int outputs, float (*sums)[TILES * 8][16],
                                    const Use& use) {
  constexpr int kSlab = 4 * few_rows_each(BITS), kOutputs = GATED ? 8 : 16;
  constexpr int kRows = TILES * 8, kThreads = WARPS * kWarp;
  static_assert(GATED || kThreads % (kOutputs * kRows) == 0);
  const int thread = static_cast<int>(threadIdx.x);
  const int lane = thread % kWarp, warp = thread / kWarp;
  const int g = lane / 4, t = lane % 4;
  const int blocks = static_cast<int>(gridDim.x);
  const int tiles = (outputs + kOutputs - 1) / kOutputs, slabs = (columns + kSlab - 1) / kSlab;
  // Warps that share a tile's columns: so many that blocks are busy to the end.
  int split = 1;
  long long least = 0;
  for (int s = 1; s <= WARPS; s *= 2) {
    const int at_once = blocks * (WARPS / s);
    const long long time =
        static_cast<long long>((tiles + at_once - 1) / at_once) * ((slabs + s - 1) / s);
    if (s > 1 && time >= least) continue;
    split = s;
    least = time;
  }
  const int per = WARPS / split, groups = (tiles + per - 1) / per;
  const int each = (slabs + split - 1) / split;
  const int begin = warp % split * each, end = begin + each < slabs ? begin + each : slabs;
  for (int group = static_cast<int>(blockIdx.x); group < groups; group += blocks) {
    const int first = (group * per + warp / split) * kOutputs;
    const int output[2] = {first + g, first + g + (GATED ? outputs : 8)};
    const bool there[2] = {output[0] < outputs, (GATED ? output[0] : output[1]) < outputs};
    float sum[TILES][4] = {};
    if (first < outputs) {
      multiply_tile<T, BF16, BITS, GROUP>(sum, x, pitch, rows, matrix.weight, matrix.scales,
                                          matrix.biases, columns, output, there, begin, end);
    }
    for (int tile = 0; tile < TILES; ++tile) {
      for (int i = 0; i < 4; ++i) {
        sums[warp][tile * 8 + 2 * t + i % 2][g + i / 2 * 8] = sum[tile][i];
      }
    }
    __syncthreads();
    for (int i = thread; i < per * kRows * kOutputs; i += kThreads) {
      const int output = i % kOutputs, row = i / kOutputs % kRows, tile = i / kOutputs / kRows;
      const int to = (group * per + tile) * kOutputs + output;
      if (to >= outputs || row >= rows) continue;
      float whole = 0, other = 0;
      for (int s = 0; s < split; ++s) {
        const auto& share = sums[tile * split + s][row];
        whole += share[output];
        if (GATED) other += share[output + 8];
      }
      use(row, to, GATED ? gated(whole, other) : whole);
    }
    __syncthreads();
  }
}

// The same in whichever of FORMATS the matrix has.
template <typename T, bool BF16, bool GATED, int TILES, int WARPS, int... FORMATS, typename Use>
__device__ inline void multiply_any(const StepMatrix& matrix, const T* x, int pitch, int rows,
                                    int columns, int outputs, float (*sums)[TILES * 8][16],
                                    const Use& use) {
  const auto one = [&](auto format) {
    constexpr int kFormat = decltype(format)::kValue;
    if (matrix.format != kFormat) return;
    multiply_all<T, BF16, kFormat / 1000, kFormat % 1000, GATED, TILES, WARPS>(
        matrix, x, pitch, rows, columns, outputs, sums, use);
  };
  (one(Number<FORMATS>{}), ...);
}

// made [rows, columns], rows `pitch` apart, in shared memory: rms_norm(x) * weight.
template <typename T, int WARPS>
__device__ inline void normalise(const T* x, const T* weight, int rows, int columns, float epsilon,
                                 T* made, int pitch, float (&squares_of)[WARPS]) {
  const int thread = static_cast<int>(threadIdx.x);
  const int lane = thread % kWarp, warp = thread / kWarp;
  int team = 1;  // warps of a row
  while (team * 2 * rows <= WARPS) team *= 2;
  const auto eight = [](const T* at) { return read_l2(reinterpret_cast<const Eight<T>*>(at)); };
  const int member = warp % team * kWarp + lane;
  for (int base = 0; base < rows; base += WARPS / team) {
    const int row = base + warp / team;
    const T* from = x + static_cast<long long>(row) * columns;
    float squares = 0;
    if (row < rows) {
      for (int c = member * 8; c < columns; c += team * kWarp * 8) {
        const Eight<T> some = eight(from + c);
        for (int i = 0; i < 8; ++i) {
          squares += static_cast<float>(some.at[i]) * static_cast<float>(some.at[i]);
        }
      }
    }
    squares = sum_over(squares, kWarp);
    if (lane == 0) squares_of[warp] = squares;
    __syncthreads();
    squares = 0;
    for (int w = 0; w < team; ++w) squares += squares_of[warp / team * team + w];
    const float scale = rsqrtf(squares / static_cast<float>(columns) + epsilon);
    if (row < rows) {
      for (int c = member * 8; c < columns; c += team * kWarp * 8) {
        const Eight<T> some = eight(from + c);
        const Eight<T> weights = *reinterpret_cast<const Eight<T>*>(weight + c);
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

  template <bool GATED, int TILES, int WARPS, typename Use>
  __device__ static void multiply(const StepMatrix& matrix, const T* x, int pitch, int rows,
                                  int columns, int outputs, float (*sums)[TILES * 8][16],
                                  const Use& use) {
    multiply_any<T, BF16, GATED, TILES, WARPS, FORMATS...>(matrix, x, pitch, rows, columns, outputs,
                                                           sums, use);
  }
  template <int WARPS>
  __device__ static void attend(const AttendPart& at, int kv_heads, const T* qkv, Word keys,
                                Word values, int slots, const int* plan, int plan_width,
                                Word frequencies, Word q_norm, Word k_norm, float epsilon,
                                float* out, AttendShared<GROUP, DIM, WARPS>& memory) {
    attend_part<T, U, GROUP, DIM, BLOCK, NEIGHBOURS, QK_NORM, true>(
        at, kv_heads, qkv, reinterpret_cast<U*>(keys), reinterpret_cast<U*>(values), slots, plan,
        plan_width, reinterpret_cast<const float*>(frequencies), reinterpret_cast<const T*>(q_norm),
        reinterpret_cast<const T*>(k_norm), epsilon, out, memory);
  }
};

// Shared memory of a block: words of two layers by turns, and of the rest of the model; behind them
// take turns products (with their input behind them, T [rows, columns + kRowGap]), attention and
// keys.
constexpr int kRowGap = 8;  // so that rows lie in different banks
constexpr int kPoolsAt = kLayerWords, kStepWords = kLayerWords + 2;
struct WordsShared {
  Word layer[2][kStepWords];  // the layer's, then where its keys and its values are
  Word model[kModelWords];
};
template <int TILES, int WARPS>
struct ProductShared {
  float sums[WARPS][TILES * 8][16];
  float squares[WARPS];
};
template <typename Model, int TILES, int WARPS>
__device__ constexpr int step_shared_bytes(int rows, int columns) {
  using Attend = AttendShared<Model::kGroup, Model::kDim, WARPS>;
  const int input = rows * (columns + kRowGap) * static_cast<int>(sizeof(typename Model::T));
  const int products = static_cast<int>(sizeof(ProductShared<TILES, WARPS>)) + input;
  const int attends = static_cast<int>(sizeof(Attend));
  const int keys = static_cast<int>(sizeof(Key)) * WARPS * kWarp;
  const int most = products > attends ? products : attends;
  return static_cast<int>(sizeof(WordsShared)) + (most > keys ? most : keys);
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
//     so on: the likeliest id, of equal ones the smallest; -1: not finite; -2: blocks gave up; next
//     i32 [rows]: the same, for the step after this one
template <typename Model, int TILES, int WARPS>
__device__ inline void decode_step(const Word* table, const Word* pools, const int* tokens,
                                   const int* plan, int plan_width, int rows, char* scratch,
                                   char* memory, float* logits, int* const* best, int* next) {
  using T = typename Model::T;
  using Products = ProductShared<TILES, WARPS>;
  using Attend = AttendShared<Model::kGroup, Model::kDim, WARPS>;
  constexpr int kThreads = WARPS * kWarp, kRows = TILES * 8, kDim = Model::kDim;
  // Ahead of a part that reads as much, no more: it would push out what is read before.
  constexpr long long kAhead = 12 << 20;
  const int thread = static_cast<int>(threadIdx.x), block = static_cast<int>(blockIdx.x);
  const int blocks = static_cast<int>(gridDim.x);
  const int everywhere = block * kThreads + thread, everybody = blocks * kThreads;
  WordsShared& words_of = *reinterpret_cast<WordsShared*>(memory);
  memory += sizeof(WordsShared);
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
  const int shares = step_shares(blocks, head_parts * rows, (plan_width - 1) * Model::kBlock);
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
    for (int i = thread * 8; i < rows * columns; i += kThreads * 8) {
      *reinterpret_cast<Four*>(input + i / columns * apart + i % columns) =
          read_l2(reinterpret_cast<const Four*>(x + i));
    }
    __syncthreads();
  };

  read_words(0);
  const StepMatrix embedding = matrix_at(model);
  for (int i = everywhere; i < rows * hidden; i += everybody) {
    place(kResidual)[i] = element_of<T>(embedding, tokens[i / hidden], hidden, i % hidden);
  }
  __syncthreads();
  fetch_ahead(matrix_at(words_of.layer[0]), at(qkv_wide, hidden, 0), kAhead, kThreads);
  meeting.wait();

  // Four products a layer and what comes before each, then the head.
  enum Product { kOfQkv, kOfOutput, kOfGateUp, kOfDown, kOfHead };
  Key key = 0;
  int layer = 0, product = kOfQkv;
  for (;;) {
    const Word* words = words_of.layer[layer % 2];
    if (product == kOfQkv) read_words(layer + 1);
    if (product == kOfOutput) {
      for (int part = block; part < head_parts * rows * shares; part += blocks) {
        const AttendPart mine = {part % head_parts, part / head_parts % rows,
                                 part / head_parts / rows, shares};
        Model::template attend<WARPS>(
            mine, kv_heads, place(kQkv), words[kPoolsAt], words[kPoolsAt + 1], number(kSlots), plan,
            plan_width, model[kFrequenciesAt], words[kNormsAt + 2], words[kNormsAt + 3], epsilon,
            reinterpret_cast<float*>(place(kShares)), *reinterpret_cast<Attend*>(memory));
        __syncthreads();
      }
      meeting.wait();
      for (int i = everywhere; i < rows * wide; i += everybody) {
        merge_one<T, kDim>(reinterpret_cast<const float*>(place(kShares)), shares, i / kDim,
                           i % kDim, place(kAttended));
      }
      meeting.wait();
    }

    const bool of_norm = product == kOfQkv || product == kOfGateUp || product == kOfHead;
    const int columns = of_norm ? hidden : product == kOfOutput ? wide : number(kFeedForward);
    const int apart = columns + kRowGap;
    if (of_norm) {
      const Word weight = product == kOfHead ? model[kLastNormAt]
                                             : words[kNormsAt + (product == kOfGateUp ? 1 : 0)];
      normalise<T, WARPS>(place(kResidual), reinterpret_cast<const T*>(weight), rows, hidden,
                          epsilon, input, apart, reinterpret_cast<Products*>(memory)->squares);
    } else {
      stage(place(product == kOfOutput ? kAttended : kHiddenRows), columns, apart);
    }
    const StepMatrix matrix =
        matrix_at(product == kOfHead ? model + kHeadAt : words + product * kMatrixWords);
    if (product == kOfGateUp) {
      const int outputs = number(kFeedForward);
      Model::template multiply<true, TILES, WARPS>(
          matrix, input, apart, rows, columns, outputs, sums, [&](int row, int to, float value) {
            place(kHiddenRows)[at(row, outputs, to)] = static_cast<T>(value);
          });
    } else {
      const int outputs = product == kOfQkv    ? qkv_wide
                          : product == kOfHead ? number(kVocab)
                                               : hidden;
      Model::template multiply<false, TILES, WARPS>(
          matrix, input, apart, rows, columns, outputs, sums, [&](int row, int to, float value) {
            const long long i = at(row, outputs, to);
            value = rounded<T>(value);
            if (matrix.bias != nullptr) {
              value += static_cast<float>(reinterpret_cast<const T*>(matrix.bias)[to]);
            }
            if (product == kOfHead) {
              logits[i] = value;
              const Key one = key_of(value, to);
              if (one > key) key = one;
            } else if (product == kOfQkv) {
              place(kQkv)[i] = static_cast<T>(value);
            } else {
              T* sum = place(kResidual) + i;
              *sum = static_cast<T>(static_cast<float>(read_l2(sum)) + value);
            }
          });
    }
    if (product == kOfHead) break;
    // While blocks wait, the next weights come.
    if (product == kOfQkv) {
      fetch_ahead(matrix_at(words + kOutputAt), at(hidden, wide, 0), kAhead, kThreads);
      fetch_ahead(matrix_at(words + kGateUpAt), 2 * at(number(kFeedForward), hidden, 0), kAhead,
                  kThreads);
    } else if (product == kOfGateUp) {
      fetch_ahead(matrix_at(words + kDownAt), at(hidden, number(kFeedForward), 0), kAhead,
                  kThreads);
    } else if (product == kOfDown) {
      const bool last = layer + 1 == layers;
      fetch_ahead(matrix_at(last ? model + kHeadAt : words_of.layer[(layer + 1) % 2]),
                  at(last ? number(kVocab) : qkv_wide, hidden, 0), kAhead, kThreads);
    }
    meeting.wait();
    if (++product > kOfDown) product = ++layer == layers ? kOfHead : kOfQkv;
  }

  // Of the threads that are of one row (i, row): the greatest key, to thread `row`.
  const auto greatest = [&](const auto& thread_of) {
    keys[thread] = key;
    __syncthreads();
    Key most = 0;
    for (int i = 0; thread < kRows && i < kThreads / kRows; ++i) {
      const Key one = keys[thread_of(i, thread)];
      if (one > most) most = one;
    }
    return most;
  };
  // As multiply_all gives outputs to threads.
  key = greatest([](int i, int row) { return (i / 16 * kRows + row) * 16 + i % 16; });
  Key* left = reinterpret_cast<Key*>(place(kKeys));
  if (thread < rows) left[block * kRows + thread] = key;
  meeting.wait();
  if (block != 0) return;
  key = 0;
  for (int b = thread / kRows; b < blocks; b += kThreads / kRows) {
    const Key one = thread % kRows < rows ? read_l2(left + b * kRows + thread % kRows) : 0;
    if (one > key) key = one;
  }
  key = greatest([](int i, int row) { return i * kRows + row; });
  if (thread >= rows) return;
  const int id = meeting.gave_up() ? -2 : id_of(key);
  best[thread / 2][thread % 2] = id;
  next[thread] = id < 0 ? 0 : id;
}

}  // namespace impetus

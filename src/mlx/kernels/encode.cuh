// A whole encoder (BERT: norms behind sums, learned positions) over a ragged batch of texts, in one
// launch: blocks of threads that all run at once and wait for one another between a layer's parts.
// A launch of each part would cost the host more than the GPU takes for it.
namespace impetus {

// The table, in 64-bit words: addresses of the tables of tokens, positions and types (0: none), the
// norm of their sum and its bias; numbers; and where in the scratch memory what lies, in bytes.
enum EncodeWord {
  kTokenTable,
  kPositionTable,
  kTypeTable,
  kSumNorm,
  kSumNormBias,
  kWideTables,  // a bit each, in the order above: in f32
  kEncodeLayers,
  kEncodeHidden,
  kEncodeHeads,
  kEncodeFeedForward,
  kEncodeEpsilon,  // bits of an f32
  kEncodeMean,     // texts are pooled to the mean, else to the first row
  kEncodeNormalize,
  kEncodePlaces
};
// f32 sums that wait for their norm; what was normed; q, k and v, or the feed-forward's inside;
// attended; f32 sums of rows of tiles; the plan; GridBarrier's state.
enum EncodePlace {
  kSumsAt,
  kNormedAt,
  kInnerAt,
  kAttendedAt,
  kPooledAt,
  kPlanAt,
  kEncodeBarrierAt,
  kEncodePlaceCount
};
constexpr int kEncodeWords = int{kEncodePlaces} + kEncodePlaceCount;
// Then of each layer matrices and their biases (0: none), norms and theirs.
enum EncodeLayerWord {
  kQkvMatrix,
  kOutputMatrix = 2,
  kUpMatrix = 4,
  kDownMatrix = 6,
  kAttentionNorm = 8,
  kOutputNorm = 10,
  kEncodeLayerWords = 12
};

// `given`: of each row token, type and position, an array each; then the plan: of each tile of
// kTileRows rows its first, their number, the first row of its text, how many that has, and the
// tile's place in the order of texts; then of each text its first tile's place and its length.
constexpr int kEncodeTilePlan = 5, kEncodeTextPlan = 2;

enum EncodeStatus { kEncoded = 1, kEncodeGaveUp = 2 };

// EACH: fours of a row's values that a lane holds. ACTIVATION: GELU by erf, GELU by tanh, ReLU.
template <typename T_, bool BF16, int DIM, int EACH, int ACTIVATION>
struct EncodeModel {
  using T = T_;
  static constexpr bool kBf16 = BF16;
  static constexpr int kDim = DIM, kEach = EACH, kActivation = ACTIVATION;
  static constexpr int kHiddenMax = EACH * 4 * kWarp;
  // Rows that a warp norms at once: as many as are asked for while the first is on its way.
  static constexpr int kAtOnce = EACH <= 2 ? 8 : 16 / EACH;
};

template <int ACTIVATION>
__device__ inline float activated(float x) {
  if constexpr (ACTIVATION == 0) return 0.5f * x * (1.0f + erff(x * 0.70710678f));
  if constexpr (ACTIVATION == 1) {
    return 0.5f * x * (1.0f + tanhf(0.79788456f * (x + 0.044715f * x * x * x)));
  }
  return fmaxf(x, 0.0f);
}

template <typename Model>
class Encode {
  using T = typename Model::T;
  static constexpr bool kBf16 = Model::kBf16;
  static constexpr int kDim = Model::kDim, kEach = Model::kEach, kAtOnce = Model::kAtOnce;

 public:
  // memory: shared by the block, encode_shared_bytes of it.
  __device__ Encode(const Word* table, char* scratch, char* memory, int rows, int tiles, int texts)
      : table_(table),
        scratch_(scratch),
        memory_(memory),
        rows_(rows),
        tiles_(tiles),
        texts_(texts),
        hidden_(number(kEncodeHidden)),
        heads_(number(kEncodeHeads)),
        epsilon_(__uint_as_float(static_cast<unsigned>(table[kEncodeEpsilon]))),
        thread_(static_cast<int>(threadIdx.x)),
        lane_(thread_ % kWarp),
        warp_(thread_ / kWarp),
        barrier_(place<unsigned>(kEncodeBarrierAt)) {}

  // `tilings`: 2 bits for each product of a layer: small, medium or large tiles.
  __device__ void run(const int* given, int tilings, float* vectors, int* status) {
    embed(given);
    barrier_.begin();
    if (gave_up()) {  // the plan may be an earlier launch's
      if (blockIdx.x == 0 && thread_ == 0) *status = kEncodeGaveUp;
      return;
    }
    const int feed_forward = number(kEncodeFeedForward);
    const T* norm = word(table_, kSumNorm);
    const T* norm_bias = word(table_, kSumNormBias);
    // Attention and feed-forward are alike: what is normed goes through a matrix, is worked on, and
    // comes back through another. As one loop it is half the code.
    const int halves = 2 * number(kEncodeLayers);
    IMPETUS_ROLL
    for (int h = 0; h < halves; ++h) {
      const Word* layer = table_ + kEncodeWords + h / 2 * kEncodeLayerWords;
      const bool attends = h % 2 == 0;
      const int tiling = tilings >> (attends ? 0 : 4);
      norm_and_multiply(tiling, norm, norm_bias, layer + (attends ? kQkvMatrix : kUpMatrix),
                        attends ? 3 * hidden_ : feed_forward, !attends, h == 0);
      if (attends) {
        wait();
        attend();
      }
      multiply_and_add(tiling >> 2, place<T>(attends ? kAttendedAt : kInnerAt),
                       attends ? hidden_ : feed_forward,
                       layer + (attends ? kOutputMatrix : kDownMatrix));
      norm = word(layer, attends ? kAttentionNorm : kOutputNorm);
      norm_bias = word(layer, (attends ? kAttentionNorm : kOutputNorm) + 1);
    }
    ask_norms(norm, norm_bias);
    wait();
    copies_done();
    __syncthreads();
    sum_tiles();
    wait();
    pool(vectors);
    if (blockIdx.x == 0 && thread_ == 0) *status = barrier_.gave_up() ? kEncodeGaveUp : kEncoded;
  }

 private:
  __device__ int number(int which) const { return static_cast<int>(table_[which]); }
  template <typename V>
  __device__ V* place(int which) const {
    return reinterpret_cast<V*>(scratch_ + table_[kEncodePlaces + which]);
  }
  __device__ static const T* word(const Word* words, int which) {
    return reinterpret_cast<const T*>(words[which]);
  }
  __device__ void wait() { barrier_.wait(); }
  // The same for all threads of a block.
  __device__ bool gave_up() const {
    int* said = reinterpret_cast<int*>(memory_);
    if (thread_ == 0) *said = barrier_.gave_up() ? 1 : 0;
    __syncthreads();
    const bool gone = *said != 0;
    __syncthreads();
    return gone;
  }

  // Four values from `column` on of a row of a table.
  __device__ void add_four(float (&sum)[4], int table, long long row, int column) const {
    if (table_[table] == 0) return;
    if ((number(kWideTables) >> table & 1) != 0) {
      const float* from = reinterpret_cast<const float*>(table_[table]) + row * hidden_ + column;
      for (int i = 0; i < 4; ++i) sum[i] += from[i];
      return;
    }
    const T* from = word(table_, table) + row * hidden_ + column;
    for (int i = 0; i < 4; i += 2) {
      const TwoFloats two = two_of<T>(read_pair(from + i));
      sum[i] += two.at[0];
      sum[i + 1] += two.at[1];
    }
  }

  // The sums of each row's three tables, and the plan to where it is read fast.
  __device__ void embed(const int* given) {
    const int first = static_cast<int>(blockIdx.x) * kProductWarps + warp_;
    const int apart = static_cast<int>(gridDim.x) * kProductWarps;
    IMPETUS_ROLL
    for (int row = first; row < rows_; row += apart) {
      const int token = given[row], type = given[rows_ + row], position = given[2 * rows_ + row];
      Four* to = place<Four>(kSumsAt) + static_cast<long long>(row) * (hidden_ / 4);
      IMPETUS_UNROLL
      for (int j = 0; j < kEach; ++j) {
        const int four = j * kWarp + lane_;
        if (four >= hidden_ / 4) continue;
        float sum[4] = {};
        add_four(sum, kTokenTable, token, four * 4);
        add_four(sum, kPositionTable, position, four * 4);
        add_four(sum, kTypeTable, type, four * 4);
        Four made;
        for (int i = 0; i < 4; ++i) made.at[i] = __float_as_uint(sum[i]);
        to[four] = made;
      }
    }
    const int numbers = tiles_ * kEncodeTilePlan + texts_ * kEncodeTextPlan;
    for (int i = static_cast<int>(blockIdx.x) * kProductThreads + thread_; i < numbers;
         i += static_cast<int>(gridDim.x) * kProductThreads) {
      place<int>(kPlanAt)[i] = given[3 * rows_ + i];
    }
  }

  // A norm's weight and bias stand before all else in shared memory, [2, hidden]: they are asked
  // for while blocks wait for one another.
  __device__ const T* norms() const { return reinterpret_cast<const T*>(memory_); }
  __device__ char* behind_norms() const { return memory_ + 2 * hidden_ * 2; }
  __device__ void ask_norms(const T* weight, const T* bias) const {
    const Shared to = shared(memory_);
    for (int at = thread_ * 8; at < hidden_; at += kProductThreads * 8) {
      copy_async(to + at * 2, weight + at, true);
      copy_async(to + (hidden_ + at) * 2, bias == nullptr ? weight : bias + at, bias != nullptr);
    }
  }

  // The layer norms of kAtOnce rows of sums from `row` on, `apart` from one another, by a warp:
  // use(which, j, values) of the lane's j-th four; zeros of rows that are not there.
  template <typename Use>
  __device__ void norm_rows(int row, int apart, int end, const Use& use) const {
    Four held[kAtOnce][kEach];
    const Four* from = place<Four>(kSumsAt);
    IMPETUS_UNROLL
    for (int r = 0; r < kAtOnce; ++r) {
      IMPETUS_UNROLL
      for (int j = 0; j < kEach; ++j) {
        const int four = j * kWarp + lane_;
        held[r][j] = {};
        if (row + r * apart < end && four < hidden_ / 4) {
          held[r][j] =
              read_l2(from + static_cast<long long>(row + r * apart) * (hidden_ / 4) + four);
        }
      }
    }
    IMPETUS_UNROLL
    for (int r = 0; r < kAtOnce; ++r) {
      const bool there = row + r * apart < end;
      float sum = 0;
      for (int j = 0; j < kEach; ++j) {
        for (int i = 0; i < 4; ++i) sum += __uint_as_float(held[r][j].at[i]);
      }
      const float mean = sum_over(sum, kWarp) / static_cast<float>(hidden_);
      float squares = 0;
      for (int j = 0; j < kEach; ++j) {
        if (j * kWarp + lane_ >= hidden_ / 4) continue;
        for (int i = 0; i < 4; ++i) {
          const float off = __uint_as_float(held[r][j].at[i]) - mean;
          squares += off * off;
        }
      }
      const float variance = sum_over(squares, kWarp) / static_cast<float>(hidden_);
      const float scale = rsqrtf(variance + epsilon_);
      IMPETUS_UNROLL
      for (int j = 0; j < kEach; ++j) {
        const int four = j * kWarp + lane_;
        if (four >= hidden_ / 4) continue;
        float made[4] = {};
        if (there) {
          for (int i = 0; i < 4; i += 2) {
            const TwoFloats by = two_of<T>(read_pair(norms() + four * 4 + i));
            const TwoFloats plus = two_of<T>(read_pair(norms() + hidden_ + four * 4 + i));
            for (int k = 0; k < 2; ++k) {
              made[i + k] =
                  (__uint_as_float(held[r][j].at[i + k]) - mean) * scale * by.at[k] + plus.at[k];
            }
          }
        }
        use(r, j, made);
      }
    }
  }

  // Of the normed sums: q, k and v, or what is inside the feed-forward.
  __device__ void norm_and_multiply(int tilings, const T* norm, const T* norm_bias,
                                    const Word* matrix, int outputs, bool inside, bool first) {
    T* to = place<T>(kInnerAt);
    const auto meet = [&] {
      if (!first) wait();
    };
    const auto load = [&](int first_row, int count, char* into, int pitch, bool alone) {
      T* normed = place<T>(kNormedAt);
      IMPETUS_ROLL
      for (int r = warp_; r < count; r += kProductWarps * kAtOnce) {
        norm_rows(first_row + r, kProductWarps, min(rows_, first_row + count),
                  [&](int which, int j, const float(&made)[4]) {
                    const int row = r + which * kProductWarps, four = j * kWarp + lane_;
                    if (row >= count) return;
                    const unsigned low = pair<kBf16>(made[0], made[1]);
                    const unsigned high = pair<kBf16>(made[2], made[3]);
                    char* at = into + (row * pitch + four * 4) * 2;
                    write_pair(at, low);
                    write_pair(at + 4, high);
                    if (!alone || first_row + row >= rows_) return;
                    T* kept = normed + static_cast<long long>(first_row + row) * hidden_ + four * 4;
                    write_pair(kept, low);
                    write_pair(kept + 2, high);
                  });
      }
      const int padding = (pitch - 8 - hidden_) / 2;  // pairs behind a row
      for (int at = thread_; at < count * padding; at += kProductThreads) {
        write_pair(into + (at / padding * pitch + hidden_ + at % padding * 2) * 2, 0);
      }
    };
    const auto use = [&](int row, int output, float a, float b, unsigned) {
      if (inside) {
        a = activated<Model::kActivation>(a);
        b = activated<Model::kActivation>(b);
      }
      write_pair(to + static_cast<long long>(row) * outputs + output, pair<kBf16>(a, b));
    };
    const auto multiply = [&](auto tiles) {
      multiply_tiles<decltype(tiles), T, kBf16, true>(
          static_cast<const T*>(nullptr), word(matrix, 0), word(matrix, 1), rows_, hidden_, outputs,
          behind_norms(), [&] { ask_norms(norm, norm_bias); }, meet, load,
          [](int, int) { return 0u; }, use);
    };
    by_tiling(tilings, multiply);
  }

  // sums = normed + input times the matrix + its bias.
  __device__ void multiply_and_add(int tilings, const T* input, int columns, const Word* matrix) {
    const T* normed = place<T>(kNormedAt);
    TwoFloats* to = place<TwoFloats>(kSumsAt);
    const auto at = [&](int row, int output) {
      return static_cast<long long>(row) * hidden_ + output;
    };
    const auto more_of = [&](int row, int output) {
      return read_l2(reinterpret_cast<const unsigned*>(normed + at(row, output)));
    };
    const auto use = [&](int row, int output, float a, float b, unsigned more) {
      const TwoFloats plus = two_of<T>(more);
      to[at(row, output) / 2] = {a + plus.at[0], b + plus.at[1]};
    };
    const auto multiply = [&](auto tiles) {
      multiply_tiles<decltype(tiles), T, kBf16, false>(
          input, word(matrix, 0), word(matrix, 1), rows_, columns, hidden_, memory_, [] {},
          [&] { wait(); }, [](int, int, char*, int, bool) {}, more_of, use);
    };
    by_tiling(tilings, multiply);
  }

  template <typename Multiply>
  __device__ static void by_tiling(int tilings, const Multiply& multiply) {
    switch (tilings & 3) {
      case 0:
        return multiply(SmallTiles());
      case 1:
        return multiply(MediumTiles());
      default:
        return multiply(LargeTiles());
    }
  }

  // Each half of a block's warps by itself.
  __device__ void attend() {
    constexpr int kHalves = kProductThreads / kPrefillThreads;
    const int half = uniform(thread_ / kPrefillThreads), blocks = static_cast<int>(gridDim.x);
    auto& memory = reinterpret_cast<PrefillShared<kDim, 0>*>(memory_)[half];
    const T* qkv = place<T>(kInnerAt);
    T* out = place<T>(kAttendedAt);
    const long long stride = 3 * hidden_;
    IMPETUS_ROLL
    for (int i = half * blocks + static_cast<int>(blockIdx.x); i < tiles_ * heads_;
         i += kHalves * blocks) {
      const int* tile = place<int>(kPlanAt) + i / heads_ * kEncodeTilePlan;
      const long long row = read_l2(tile), text = read_l2(tile + 2);
      const T* head = qkv + i % heads_ * kDim;
      prefill_tile<T, kBf16, kDim, 0, false, true>(
          PrefillTile<T>{head + row * stride, stride, head + text * stride + hidden_,
                         head + text * stride + 2 * hidden_, static_cast<int>(stride), nullptr,
                         read_l2(tile + 1), 0, read_l2(tile + 3),
                         out + row * hidden_ + i % heads_ * kDim, hidden_},
          memory, thread_ % kPrefillThreads, [half] { barrier_of<kPrefillThreads>(2 + half); });
    }
    __syncthreads();
  }

  // Of each tile the sum of its rows' last norms, or the first row of its text.
  __device__ void sum_tiles() {
    float* parts = reinterpret_cast<float*>(behind_norms());  // [warps, hidden]
    const bool mean = number(kEncodeMean) != 0;
    IMPETUS_ROLL
    for (int t = static_cast<int>(blockIdx.x); t < tiles_; t += static_cast<int>(gridDim.x)) {
      const int* tile = place<int>(kPlanAt) + t * kEncodeTilePlan;
      const int first = read_l2(tile), slot = read_l2(tile + 4);
      const int wanted = mean ? read_l2(tile + 1) : first == read_l2(tile + 2) ? 1 : 0;
      float sums[kEach][4] = {};
      for (int r = warp_; r < wanted; r += kProductWarps * kAtOnce) {
        norm_rows(first + r, kProductWarps, first + wanted, [&](int, int j, const float(&made)[4]) {
          for (int i = 0; i < 4; ++i) sums[j][i] += made[i];
        });
      }
      IMPETUS_UNROLL
      for (int j = 0; j < kEach; ++j) {
        const int four = j * kWarp + lane_;
        if (four >= hidden_ / 4) continue;
        for (int i = 0; i < 4; ++i) parts[warp_ * hidden_ + four * 4 + i] = sums[j][i];
      }
      __syncthreads();
      for (int c = thread_; c < hidden_; c += kProductThreads) {
        float sum = 0;
        for (int w = 0; w < kProductWarps; ++w) sum += parts[w * hidden_ + c];
        place<float>(kPooledAt)[static_cast<long long>(slot) * hidden_ + c] = sum;
      }
      __syncthreads();
    }
  }

  // Of each text its vector.
  __device__ void pool(float* vectors) {
    constexpr int kColumns = (Model::kHiddenMax + kProductThreads - 1) / kProductThreads;
    float* parts = reinterpret_cast<float*>(memory_);
    const bool mean = number(kEncodeMean) != 0;
    const int* texts = place<int>(kPlanAt) + tiles_ * kEncodeTilePlan;
    IMPETUS_ROLL
    for (int t = static_cast<int>(blockIdx.x); t < texts_; t += static_cast<int>(gridDim.x)) {
      const int slot = read_l2(texts + t * kEncodeTextPlan);
      const int length = mean ? read_l2(texts + t * kEncodeTextPlan + 1) : 1;
      const int slots = (length + kTileRows - 1) / kTileRows;
      float held[kColumns];
      float squares = 0;
      IMPETUS_UNROLL
      for (int k = 0; k < kColumns; ++k) {
        const int c = k * kProductThreads + thread_;
        held[k] = 0;
        if (c >= hidden_) continue;
        const float* from = place<float>(kPooledAt) + static_cast<long long>(slot) * hidden_ + c;
        for (int s = 0; s < slots; ++s) held[k] += read_l2(from + s * hidden_);
        held[k] /= static_cast<float>(length);
        squares += held[k] * held[k];
      }
      float size = 1;
      if (number(kEncodeNormalize) != 0) {
        squares = sum_over(squares, kWarp);
        if (lane_ == 0) parts[warp_] = squares;
        __syncthreads();
        squares = 0;
        for (int w = 0; w < kProductWarps; ++w) squares += parts[w];
        __syncthreads();
        size = fmaxf(sqrtf(squares), 1e-12f);
      }
      IMPETUS_UNROLL
      for (int k = 0; k < kColumns; ++k) {
        const int c = k * kProductThreads + thread_;
        if (c < hidden_) vectors[static_cast<long long>(t) * hidden_ + c] = held[k] / size;
      }
    }
  }

  const Word* table_;
  char *scratch_, *memory_;
  int rows_, tiles_, texts_, hidden_, heads_;
  float epsilon_;
  int thread_, lane_, warp_;
  GridBarrier<kProductThreads> barrier_;
};

}  // namespace impetus

// What the kernels of this folder share: attention on CUDA, and what of decode steps goes with it,
// products of few rows too.
// NVRTC compiles their text on the machine (cuda_kernel.h); tests compile it so for some
// architectures, and for the host, where its threads run by turns (cuda_on_host.h). Sums in f32. T:
// type of activations, U: of keys and values.
#ifdef __CUDACC__
#define IMPETUS_UNROLL _Pragma("unroll")
// Loops of little work: their code would take room from what runs often.
#define IMPETUS_ROLL _Pragma("unroll 1")
#else
#define IMPETUS_UNROLL
#define IMPETUS_ROLL
#endif

namespace impetus {

using Word = long long;  // of a table of addresses and numbers
constexpr int kWarp = 32;
constexpr float kLog2E = 1.44269504f;
constexpr float kNothing = -3.40282347e38f;  // the best score of no key

// What a lane loads at once.
template <typename T>
struct alignas(16) Eight {
  T at[8];
};

template <int VALUE>
struct Number {
  static constexpr int kValue = VALUE;
};

struct alignas(16) Four {
  unsigned at[4];
};

// Over `width` neighbouring lanes; every lane of the warp takes part.
__device__ inline float sum_over(float x, int width) {
  for (int offset = width / 2; offset > 0; offset /= 2) {
    x += __shfl_xor_sync(0xffffffffu, x, offset);
  }
  return x;
}

// The same of all of a warp's lanes, so that the compiler knows it.
__device__ inline int uniform(int x) {
  return __shfl_sync(0xffffffffu, x, 0);
}
__device__ inline float max_over(float x, int width) {
  for (int offset = width / 2; offset > 0; offset /= 2) {
    x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, offset));
  }
  return x;
}

template <typename T>
__device__ inline float rounded(float x) {
  return static_cast<float>(static_cast<T>(x));
}

// Sines, then cosines, [2][DIM / 2], of a position's angles; by all threads of a block.
template <int DIM>
__device__ inline void find_rotation(int position, const float* frequencies, int thread,
                                     int threads, float* rotation) {
  // The angle's rounding is made good: position * frequency = angle + rest.
  const float at = static_cast<float>(position);
  IMPETUS_ROLL
  for (int pair = thread; pair < DIM / 2; pair += threads) {
    const float angle = at * frequencies[pair];
    const float rest = fmaf(at, frequencies[pair], -angle);
    const float s = sinf(angle), c = cosf(angle);
    rotation[pair] = s + rest * c;
    rotation[DIM / 2 + pair] = c - rest * s;
  }
}

}  // namespace impetus

// The vectors of texts.
namespace impetus {

constexpr int kPoolThreads = 256;  // a block of pool_texts
constexpr int kPoolEach = 16;      // columns that a thread holds
constexpr int kPoolAhead = 8;      // rows that it asks for at once

// Of rows [tokens, columns], where text t is [offsets[t], offsets[t + 1]), the mean, or the first
// row without MEAN; of length one with NORMALIZE. out: f32 [texts, columns], written once. Sums in
// f32. Grid: x over texts.
// REQUIRES columns <= kPoolThreads * kPoolEach, no empty text.
template <typename T, bool MEAN, bool NORMALIZE>
__device__ inline void pool_texts(const T* rows, const int* offsets, int columns, float* out) {
  __shared__ float parts[kPoolThreads / kWarp];
  const int thread = static_cast<int>(threadIdx.x), text = static_cast<int>(blockIdx.x);
  const long long first = offsets[text];
  const int count = MEAN ? offsets[text + 1] - static_cast<int>(first) : 1;
  float held[kPoolEach];
  float squares = 0;
  IMPETUS_UNROLL
  for (int k = 0; k < kPoolEach; ++k) {
    const int c = k * kPoolThreads + thread;
    held[k] = 0;
    if (c >= columns) continue;
    const T* from = rows + first * columns + c;
    int r = 0;
    for (; r + kPoolAhead <= count; r += kPoolAhead) {
      T ahead[kPoolAhead];
      IMPETUS_UNROLL
      for (int i = 0; i < kPoolAhead; ++i) {
        ahead[i] = from[static_cast<long long>(r + i) * columns];
      }
      IMPETUS_UNROLL
      for (int i = 0; i < kPoolAhead; ++i) held[k] += static_cast<float>(ahead[i]);
    }
    for (; r < count; ++r) held[k] += static_cast<float>(from[static_cast<long long>(r) * columns]);
    held[k] /= static_cast<float>(count);
    squares += held[k] * held[k];
  }
  float length = 1;
  if (NORMALIZE) {
    squares = sum_over(squares, kWarp);
    if (thread % kWarp == 0) parts[thread / kWarp] = squares;
    __syncthreads();
    squares = 0;
    for (int w = 0; w < kPoolThreads / kWarp; ++w) squares += parts[w];
    length = fmaxf(sqrtf(squares), 1e-12f);
  }
  IMPETUS_UNROLL
  for (int k = 0; k < kPoolEach; ++k) {
    const int c = k * kPoolThreads + thread;
    if (c < columns) out[static_cast<long long>(text) * columns + c] = held[k] / length;
  }
}

}  // namespace impetus

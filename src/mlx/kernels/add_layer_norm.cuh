// The layer norm of a sum.
namespace impetus {

constexpr int kLayerNormThreads = 128;  // a block of add_layer_norm
constexpr int kLayerNormEights = 4;     // that a thread holds
constexpr int kLayerNormColumns = kLayerNormThreads * kLayerNormEights * 8;  // at most

// Over the threads of a block of add_layer_norm. `parts`: shared, each used once.
__device__ inline float sum_of_block(float x, float* parts) {
  const int thread = static_cast<int>(threadIdx.x);
  x = sum_over(x, kWarp);
  if (thread % kWarp == 0) parts[thread / kWarp] = x;
  __syncthreads();
  x = 0;
  for (int w = 0; w < kLayerNormThreads / kWarp; ++w) x += parts[w];
  return x;
}

// out = layer_norm(residual + x) * weight (+ bias, with BIAS), [rows, columns]; mean and variance
// in f32 of sums that are not rounded. Grid: x over rows.
// REQUIRES columns % 8 == 0, columns <= kLayerNormColumns.
template <typename T, bool BIAS>
__device__ inline void add_layer_norm(const T* residual, const T* x, const T* weight, const T* bias,
                                      float epsilon, int columns, T* out) {
  __shared__ float parts[2][kLayerNormThreads / kWarp];
  const int thread = static_cast<int>(threadIdx.x);
  const long long row = static_cast<long long>(blockIdx.x) * columns;
  const auto eight = [](const T* at) { return *reinterpret_cast<const Eight<T>*>(at); };

  float both[kLayerNormEights][8];
  float sum = 0;
  for (int k = 0; k < kLayerNormEights; ++k) {
    const int c = (k * kLayerNormThreads + thread) * 8;
    if (c >= columns) break;
    const Eight<T> a = eight(residual + row + c), b = eight(x + row + c);
    for (int i = 0; i < 8; ++i) {
      both[k][i] = static_cast<float>(a.at[i]) + static_cast<float>(b.at[i]);
      sum += both[k][i];
    }
  }
  const float mean = sum_of_block(sum, parts[0]) / static_cast<float>(columns);
  float squares = 0;
  for (int k = 0; k < kLayerNormEights; ++k) {
    const int c = (k * kLayerNormThreads + thread) * 8;
    if (c >= columns) break;
    for (int i = 0; i < 8; ++i) {
      both[k][i] -= mean;
      squares += both[k][i] * both[k][i];
    }
  }
  const float variance = sum_of_block(squares, parts[1]) / static_cast<float>(columns);
  const float scale = rsqrtf(variance + epsilon);
  for (int k = 0; k < kLayerNormEights; ++k) {
    const int c = (k * kLayerNormThreads + thread) * 8;
    if (c >= columns) break;
    const Eight<T> weights = eight(weight + c);
    Eight<T> offsets = {};
    if (BIAS) offsets = eight(bias + c);
    Eight<T> made;
    for (int i = 0; i < 8; ++i) {
      made.at[i] = static_cast<T>(both[k][i] * scale * static_cast<float>(weights.at[i]) +
                                  static_cast<float>(offsets.at[i]));
    }
    *reinterpret_cast<Eight<T>*>(out + row + c) = made;
  }
}

}  // namespace impetus

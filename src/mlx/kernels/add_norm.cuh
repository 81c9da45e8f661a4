// A sum and its norm.
namespace impetus {

constexpr int kNormThreads = 256;  // a block of add_norm

// sum = residual + x and normed = rms_norm(sum) * weight, [rows, columns]. Grid: x over rows.
// REQUIRES columns % 8 == 0.
template <typename T>
__device__ inline void add_norm(const T* residual, const T* x, const T* weight, float epsilon,
                                int columns, T* sum, T* normed) {
  __shared__ float squares_of[kNormThreads / kWarp];
  const int thread = static_cast<int>(threadIdx.x);
  const long long row = static_cast<long long>(blockIdx.x) * columns;
  const auto eight = [](const T* at) { return *reinterpret_cast<const Eight<T>*>(at); };
  float squares = 0;
  for (int c = thread * 8; c < columns; c += kNormThreads * 8) {
    const Eight<T> a = eight(residual + row + c), b = eight(x + row + c);
    Eight<T> both;
    for (int i = 0; i < 8; ++i) {
      both.at[i] = static_cast<T>(static_cast<float>(a.at[i]) + static_cast<float>(b.at[i]));
      const float value = static_cast<float>(both.at[i]);
      squares += value * value;
    }
    *reinterpret_cast<Eight<T>*>(sum + row + c) = both;
  }
  squares = sum_over(squares, kWarp);
  if (thread % kWarp == 0) squares_of[thread / kWarp] = squares;
  __syncthreads();
  squares = 0;
  for (int w = 0; w < kNormThreads / kWarp; ++w) squares += squares_of[w];
  const float scale = rsqrtf(squares / static_cast<float>(columns) + epsilon);
  for (int c = thread * 8; c < columns; c += kNormThreads * 8) {
    const Eight<T> both = eight(sum + row + c), weights = eight(weight + c);
    Eight<T> made;
    for (int i = 0; i < 8; ++i) {
      made.at[i] = static_cast<T>(static_cast<float>(both.at[i]) * scale *
                                  static_cast<float>(weights.at[i]));
    }
    *reinterpret_cast<Eight<T>*>(normed + row + c) = made;
  }
}

}  // namespace impetus

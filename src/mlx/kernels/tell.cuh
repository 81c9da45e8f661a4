// What the host reads of a step.
namespace impetus {

constexpr int kTellThreads = 256;  // a block of tell

// values to out, which the host reads where it stands. Grid: x over values, each thread every so
// many of them.
template <typename T>
__device__ inline void tell(const T* values, int count, T* out) {
  const int apart = static_cast<int>(gridDim.x) * kTellThreads;
  int i = static_cast<int>(blockIdx.x) * kTellThreads + static_cast<int>(threadIdx.x);
  for (; i < count; i += apart) out[i] = values[i];
}

}  // namespace impetus

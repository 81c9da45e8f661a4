// What a gate lets through.
namespace impetus {

constexpr int kGatedThreads = 256;  // a block of gated

// both [rows, 2 * columns]: a gate, then what it lets through -> out [rows, columns] = silu(gate) *
// up. Grid: x over all eights of `out`.
// REQUIRES columns % 8 == 0.
template <typename T>
__device__ inline void gated(const T* both, int rows, int columns, T* out) {
  const int eights = columns / 8;
  const long long at = static_cast<long long>(blockIdx.x) * kGatedThreads + threadIdx.x;
  if (at >= static_cast<long long>(rows) * eights) return;
  const long long row = at / eights;
  const T* from = both + (at + row * eights) * 8;
  const Eight<T> gate = *reinterpret_cast<const Eight<T>*>(from);
  const Eight<T> up = *reinterpret_cast<const Eight<T>*>(from + columns);
  Eight<T> made;
  for (int i = 0; i < 8; ++i) {
    const float x = static_cast<float>(gate.at[i]);
    made.at[i] = static_cast<T>(x / (1 + expf(-x)) * static_cast<float>(up.at[i]));
  }
  *reinterpret_cast<Eight<T>*>(out + at * 8) = made;
}

}  // namespace impetus

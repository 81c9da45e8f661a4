// What the rows of prompts bring to attention: queries, and keys and values in the KV pool.
namespace impetus {

constexpr int kPlaceThreads = 256;  // a block of place
constexpr int kPlaceWarps = kPlaceThreads / kWarp;

// Queries and keys of each row normed (with NORM) and rotated as attend does it, keys and values
// written to the row's slot. Grid: x over rows.
//   qkv [rows, (heads + 2 * kv_heads) * DIM]: before norms and rotation
//   plan i32 [2, rows]: positions, then slots, each once
//   frequencies f32 [DIM / 2]; q_norm, k_norm T [DIM] (with NORM)
//   keys, values [kv_heads, slots, DIM]: nothing but the rows' own slots is written
//   queries U [rows, heads, DIM]
// REQUIRES DIM % 2 == 0.
template <typename T, typename U, int DIM, bool NEIGHBOURS, bool NORM>
__device__ inline void place(int heads, int kv_heads, const T* qkv, const int* plan,
                             const float* frequencies, const T* q_norm, const T* k_norm,
                             float epsilon, U* keys, U* values, int slots, U* queries) {
  constexpr int kHalf = DIM / 2;
  constexpr int kPairs = (kHalf + kWarp - 1) / kWarp;  // that a lane holds, kWarp apart

  __shared__ float rotation[DIM];

  const int thread = static_cast<int>(threadIdx.x);
  const int lane = thread % kWarp, warp = thread / kWarp;
  const int rows = static_cast<int>(gridDim.x), row = static_cast<int>(blockIdx.x);
  const int slot = plan[rows + row];

  // One for all heads.
  find_rotation<DIM>(plan[row], frequencies, thread, kPlaceThreads, rotation);
  __syncthreads();

  const T* source = qkv + static_cast<long long>(row) * (heads + 2 * kv_heads) * DIM;
  for (int head = warp; head < heads + 2 * kv_heads; head += kPlaceWarps) {
    const bool is_query = head < heads, is_value = head >= heads + kv_heads;
    float x[kPairs], y[kPairs];
    float squares = 0;
    for (int i = 0; i < kPairs; ++i) {
      const int pair = lane + i * kWarp;
      const int a = NEIGHBOURS ? 2 * pair : pair, b = NEIGHBOURS ? a + 1 : pair + kHalf;
      x[i] = pair < kHalf ? static_cast<float>(source[head * DIM + a]) : 0;
      y[i] = pair < kHalf ? static_cast<float>(source[head * DIM + b]) : 0;
      squares += x[i] * x[i] + y[i] * y[i];
    }
    float scale = 1;
    if (NORM && !is_value) {
      squares = sum_over(squares, kWarp);
      scale = rsqrtf(squares / DIM + epsilon);
    }
    const T* weight = is_query ? q_norm : k_norm;
    U* to = queries + (static_cast<long long>(row) * heads + head) * DIM;
    if (!is_query) {
      const int kv_head = (head - heads) % kv_heads;
      to = (is_value ? values : keys) + (static_cast<long long>(kv_head) * slots + slot) * DIM;
    }
    for (int i = 0; i < kPairs; ++i) {
      const int pair = lane + i * kWarp;
      if (pair >= kHalf) break;
      const int a = NEIGHBOURS ? 2 * pair : pair, b = NEIGHBOURS ? a + 1 : pair + kHalf;
      float first = x[i], second = y[i];
      if (!is_value) {
        if (NORM) {
          first = rounded<T>(first * scale * static_cast<float>(weight[a]));
          second = rounded<T>(second * scale * static_cast<float>(weight[b]));
        }
        const float sine = rotation[pair], cosine = rotation[kHalf + pair];
        const float turned = rounded<T>(first * cosine - second * sine);
        second = rounded<T>(first * sine + second * cosine);
        first = turned;
      }
      to[a] = static_cast<U>(first);
      to[b] = static_cast<U>(second);
    }
  }
}

}  // namespace impetus

// Instructions on pairs of 16-bit floats and of tensor cores. Layouts: PTX ISA, "Matrix Fragments
// for mma.m16n8k16". The host's forms: cuda_on_host.h.
#ifdef __CUDACC__
namespace impetus {

// a * b + c of both halves.
template <bool BF16>
__device__ inline unsigned fma_pair(unsigned a, unsigned b, unsigned c) {
  unsigned made;
  if constexpr (BF16) {
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(made) : "r"(a), "r"(b), "r"(c));
  } else {
    asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(made) : "r"(a), "r"(b), "r"(c));
  }
  return made;
}

// Two neighbours of a fragment.
template <bool BF16>
__device__ inline unsigned pair(float low, float high) {
  unsigned made;
  if constexpr (BF16) {
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(made) : "f"(high), "f"(low));
  } else {
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(made) : "f"(high), "f"(low));
  }
  return made;
}

// sum [16, 8] += a [16, 16] times b [16, 8], by a warp: lane 4 g + t holds
//   a: rows g, g + 8, g, g + 8 at columns 2 t, 2 t, 2 t + 8, 2 t + 8 and the one behind each
//   b: column g at rows 2 t, 2 t + 8 and the one behind each
//   sum: row g at columns 2 t, 2 t + 1, then row g + 8
template <bool BF16>
__device__ inline void multiply_add(float (&sum)[4], unsigned a0, unsigned a1, unsigned a2,
                                    unsigned a3, unsigned b0, unsigned b1) {
  if constexpr (BF16) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
        "{%8,%9}, "
        "{%0,%1,%2,%3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
  } else {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
        "{%0,%1,%2,%3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
  }
}

}  // namespace impetus
#endif

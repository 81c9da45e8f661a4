// Instructions on pairs of 16-bit floats, of tensor cores and of memory. Layouts: PTX ISA, "Matrix
// Fragments for mma.m16n8k16". The host's forms: cuda_on_host.h.
#ifdef __CUDACC__
namespace impetus {

// 16 bytes, or 2, that nobody writes while the kernel runs. Volatile: they are read where it says,
// well before they are used.
__device__ inline Four read_once(const void* from) {
  Four made;
  asm volatile("ld.global.nc.L1::no_allocate.L2::128B.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(made.at[0]), "=r"(made.at[1]), "=r"(made.at[2]), "=r"(made.at[3])
               : "l"(from));
  return made;
}
__device__ inline unsigned read_early(const unsigned short* from) {
  unsigned made;
  asm volatile("ld.global.nc.u16 %0, [%1];" : "=r"(made) : "l"(from));
  return made;
}

// What another block has written, in this launch too: past the L1 cache, which may hold what was
// there before.
template <typename V>
__device__ inline V read_l2(const V* from) {
  static_assert(sizeof(V) == 2 || sizeof(V) == 4 || sizeof(V) == 8 || sizeof(V) == 16);
  union Made {
    V value;
    unsigned short half;
    unsigned word;
    unsigned long long two;
    unsigned four[4];
    __device__ Made() {}
  } made;
  if constexpr (sizeof(V) == 2) {
    asm volatile("ld.relaxed.gpu.global.u16 %0, [%1];" : "=h"(made.half) : "l"(from) : "memory");
  } else if constexpr (sizeof(V) == 4) {
    asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(made.word) : "l"(from) : "memory");
  } else if constexpr (sizeof(V) == 8) {
    asm volatile("ld.relaxed.gpu.global.u64 %0, [%1];" : "=l"(made.two) : "l"(from) : "memory");
  } else {
    asm volatile("ld.relaxed.gpu.global.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(made.four[0]), "=r"(made.four[1]), "=r"(made.four[2]), "=r"(made.four[3])
                 : "l"(from)
                 : "memory");
  }
  return made.value;
}

// A barrier of THREADS of a block, which meet at no other of that ID.
template <int THREADS, int ID = 1>
__device__ inline void barrier() {
  asm volatile("bar.sync %0, %1;" ::"n"(ID), "n"(THREADS) : "memory");
}
// The same of a number that only the running thread knows.
template <int THREADS>
__device__ inline void barrier_of(int id) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "n"(THREADS) : "memory");
}

// What blocks of one launch use to wait for one another. `arrive`: what the block wrote before is
// seen by who sees the sum, if read by read_l2 behind a barrier of its block. PTX would have an
// acquiring fence there, which empties the L1 cache; the GPUs seen read in this order without.
__device__ inline void arrive(unsigned* at, unsigned value) {
  asm volatile("red.release.gpu.global.add.u32 [%0], %1;" ::"l"(at), "r"(value) : "memory");
}
__device__ inline unsigned arrivals(const unsigned* at) {
  unsigned made;
  asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(made) : "l"(at) : "memory");
  return made;
}
__device__ inline long long nanoseconds() {
  long long now;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
  return now;
}

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
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
        "{%8,%9}, "
        "{%0,%1,%2,%3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
  } else {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
        "{%0,%1,%2,%3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
  }
}

}  // namespace impetus
#endif

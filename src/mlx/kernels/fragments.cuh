// Instructions for tiles of matrices (sm_80 and later) as functions. Fragments of a warp are as the
// PTX ISA documents them: "Matrix Fragments for mma.m16n8k16 with floating point type", "ldmatrix",
// "cp.async". Tests have the same functions in C++ (fragments_on_host.h).
#define IMPETUS_UNROLL _Pragma("unroll")

namespace impetus {

// Fragments: a [16, 16] by rows, b [16, 8] by columns, c [16, 8]; each register of a and b holds
// two neighbours. Of lane l with g = l / 4 and t = l % 4:
//   a: {row g, columns 2t}, {g + 8, 2t}, {g, 2t + 8}, {g + 8, 2t + 8}
//   b: {rows 2t, column g}, {2t + 8, g};  c: {g, 2t}, {g, 2t + 1}, {g + 8, 2t}, {g + 8, 2t + 1}
template <typename T>
struct Fragments;

template <>
struct Fragments<__half> {
  // c += a b
  __device__ static void multiply(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, "
        "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  }
  // Two neighbours of a fragment.
  __device__ static unsigned pair(float first, float second) {
    unsigned made;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(made) : "f"(second), "f"(first));
    return made;
  }
};

template <>
struct Fragments<__nv_bfloat16> {
  __device__ static void multiply(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, "
        "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  }
  __device__ static unsigned pair(float first, float second) {
    unsigned made;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(made) : "f"(second), "f"(first));
    return made;
  }
};

// Bytes in shared memory.
using Shared = unsigned;
__device__ inline Shared shared(const void* at) {
  return static_cast<Shared>(__cvta_generic_to_shared(at));
}
// The same address, of which the compiler knows nothing: sums of it and constants are made where
// they are used (an instruction holds the constant) rather than kept in registers over a loop.
__device__ inline Shared anew(Shared at) {
  asm volatile("" : "+r"(at));
  return at;
}

// Four matrices of 8 rows of 16 bytes in shared memory: lane l names row l % 8 of matrix l / 8, and
// gets of each the elements {row l / 4, columns 2 (l % 4) and the next}.
__device__ inline void load_matrices(unsigned (&to)[4], Shared row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(row)
               : "memory");
}
// The same of each transposed: {rows 2 (l % 4) and the next, column l / 4}.
__device__ inline void load_transposed(unsigned (&to)[4], Shared row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(row)
               : "memory");
}

// 16 bytes to shared memory, or zeros, by the time that copies_done returns (to this thread).
__device__ inline void copy_async(Shared to, const void* from, bool there) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to),
               "l"(__cvta_generic_to_global(from)), "r"(there ? 16 : 0)
               : "memory");
}
__device__ inline void copies_done() {
  asm volatile("cp.async.wait_all;" ::: "memory");
}

// 2^x to 22 bits.
__device__ inline float power_of_2(float x) {
  float made;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(made) : "f"(x));
  return made;
}

// Two neighbours in memory, aligned to both.
__device__ inline unsigned read_pair(const void* from) {
  return *static_cast<const unsigned*>(from);
}
__device__ inline void write_pair(void* to, unsigned pair) {
  *static_cast<unsigned*>(to) = pair;
}

}  // namespace impetus

// Instructions that move tiles of matrices (sm_80 and later) as functions. Layouts: PTX ISA,
// "ldmatrix", "cp.async"; what is multiplied: tensor_core.cuh. The host's forms: tiles_on_host.h.
namespace impetus {

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

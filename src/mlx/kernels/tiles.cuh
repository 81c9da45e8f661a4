// Instructions that move tiles of matrices (sm_80 and later) as functions. Layouts: PTX ISA,
// "ldmatrix", "cp.async", "mbarrier"; what is multiplied: tensor_core.cuh. The host's forms:
// cuda_on_host.h, of matrices tiles_on_host.h.
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
// copy_async_some: `bytes` and then zeros.
__device__ inline void copy_async_some(Shared to, const void* from, int bytes) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to),
               "l"(__cvta_generic_to_global(from)), "r"(bytes)
               : "memory");
}
__device__ inline void copy_async(Shared to, const void* from, bool there) {
  copy_async_some(to, from, there ? 16 : 0);
}
// What this thread has asked for since the last end of copies is one group; copies_left: until no
// more than LEFT groups are on their way.
__device__ inline void copies_end() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
template <int LEFT>
__device__ inline void copies_left() {
  asm volatile("cp.async.wait_group %0;" ::"n"(LEFT) : "memory");
}
// 8 bytes.
__device__ inline void copy_async_word(Shared to, const void* from) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 8;" ::"r"(to),
               "l"(__cvta_generic_to_global(from))
               : "memory");
}
__device__ inline void copies_done() {
  asm volatile("cp.async.wait_all;" ::: "memory");
}

// Where threads of a block wait for `arrivals` of others, phase by phase, of parities 0, 1, 0, ...
// In shared memory; made by one thread, with a barrier of the block behind (PTX ISA, "mbarrier").
using Mbarrier = unsigned long long;
__device__ inline void mbarrier_init(Mbarrier* mbarrier, int arrivals) {
  asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(shared(mbarrier)), "r"(arrivals)
               : "memory");
}
__device__ inline void mbarrier_arrive(Mbarrier* mbarrier) {
  asm volatile("{.reg .b64 state; mbarrier.arrive.shared.b64 state, [%0];}" ::"r"(shared(mbarrier))
               : "memory");
}
// One arrival, when all that this thread has asked for is there.
__device__ inline void mbarrier_arrive_with_copies(Mbarrier* mbarrier) {
  asm volatile("cp.async.mbarrier.arrive.noinc.shared.b64 [%0];" ::"r"(shared(mbarrier))
               : "memory");
}
// Until all of the phase have arrived; of parity 1, before there was any, at once.
__device__ inline void mbarrier_wait(Mbarrier* mbarrier, int parity) {
  unsigned done = 0;
  while (done == 0) {
#if __CUDA_ARCH__ >= 900
    asm volatile(
        "{.reg .pred p; mbarrier.try_wait.parity.shared.b64 p, [%1], %2; selp.u32 %0, 1, 0, p;}"
        : "=r"(done)
        : "r"(shared(mbarrier)), "r"(parity)
        : "memory");
#else
    asm volatile(
        "{.reg .pred p; mbarrier.test_wait.parity.shared.b64 p, [%1], %2; selp.u32 %0, 1, 0, p;}"
        : "=r"(done)
        : "r"(shared(mbarrier)), "r"(parity)
        : "memory");
#endif
  }
}

// What will be read soon, to the L2 cache.
__device__ inline void fetch(const void* from) {
  asm volatile("prefetch.global.L2 [%0];" ::"l"(__cvta_generic_to_global(from)));
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

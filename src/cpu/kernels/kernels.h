// The kernel table: every hot loop of the CPU backend, once per instruction set.
//
// This header is the whole ABI of the ISA files (reference.cpp, avx2.cpp, avx512*.cpp): plain
// structs and function pointers, no standard library, so that no inline function of it can be
// compiled with an instruction set the machine lacks and then be picked by the linker.
//
// Rules of every kernel
// - Pure: no allocation, no threads, no global state. Any thread may call it on its part.
// - A row's result does not depend on the other rows of the call, bit for bit: each output is one
//   chain of operations in the order of k (blocks of k for quantised weights), the same for
//   m = 1 and m = 1000. Integer sums are exact, so their order is free.
// - Instruction sets may differ from each other by rounding only; the reference sets the tolerance.
// - Buffers need no alignment unless said; row strides count elements.
//
// Packed weights. A matrix [n, k] becomes ceil(n / 16) panels of 16 outputs (missing outputs are
// zero), each a contiguous run of panel_bytes(type, k) bytes:
//   f32    [k][16] float                          f16  [k][16] half
//   bf16   [ceil(k / 2)][16][2] bfloat16          (an odd last k is padded with zero)
//   q8_0   [k / 32] of { f16 scale[16]; uint8 q[8][16][4] }   q = weight + 128, k = 4 * g + j
//   q4_0   [k / 32] of { f16 scale[16]; uint8 q[4][16][4] }   low nibble: k = 4 * g + j,
//                                                             high nibble: k = 16 + 4 * g + j
//   g8_T   [k / 32] of { T scale[16]; T bias[16]; uint8 q[8][16][4] }   T: f16, bf16 or f32
//   g4_T   [k / 32] of { T scale[16]; T bias[16]; uint8 q[4][16][4] }   nibbles as in q4_0
//          weight = scale * q + bias: MLX's groups of 32, 64 or 128, each block with its group's
// which is byte for byte the size of the unpacked rows (g4 and g8: codes of 4 and 8 bits in groups
// of 32). One 64-byte vector feeds 16 outputs with no
// horizontal add, and u8 x s8 dot instructions take weights as u8 and activations as s8; the
// offset (128 or 8) times the activations' sum is subtracted per block. Grouped weights have no
// offset, but a bias that the activations' sum is multiplied by.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace impetus::cpu {

inline constexpr int kPanel = 16;

enum class WeightLayout : uint8_t {
  f32,
  f16,
  bf16,
  q8_0,
  q4_0,
  g4_f16,
  g4_bf16,
  g4_f32,
  g8_f16,
  g8_bf16,
  g8_f32
};
inline constexpr int kWeightLayouts = 11;

// Activations quantised for q8_0, q4_0 and grouped weights: per row and per 32 values,
// scale = max|x| / 127, q = round-to-nearest-even(x * (127 / max|x|)), sum = sum of q; all in f32,
// and bit-equal in every table. A block whose max|x| is below kQuantizedZero has scale 0 and q 0;
// one that holds a NaN or an infinity has scale NaN and q 0, so that the row's products are NaN.
inline constexpr float kQuantizedZero = 0x1p-118f;

struct QuantizedRows {
  int8_t* q;     // [m][k]
  float* scale;  // [m][k / 32]
  int32_t* sum;  // [m][k / 32]
};

struct MatmulArgs {
  // The activations in the form the weights want: `x` for f32 and f16 weights, `x_bf16` for bf16
  // (rounded to nearest even, rows padded to even k with zero), `x_q8` for quantised ones.
  const float* x;          // [m][k], row stride x_stride
  const uint16_t* x_bf16;  // [m][round_up(k, 2)], row stride x_stride
  QuantizedRows x_q8;      // row strides k and k / 32
  int64_t x_stride;
  int64_t m;
  int64_t k;
  const void* weights;  // first panel of the whole matrix
  int64_t panel_begin;  // panels [begin, end) are computed by this call
  int64_t panel_end;
  const float* bias;  // [16 * panels], or null
  float* out;         // [m][..], row stride out_stride >= 16 * panel_end: whole panels are written
  int64_t out_stride;
  bool accumulate;  // out += x w + bias instead of out = x w + bias
};

// One group of query rows against one key/value head.
struct AttentionArgs {
  const float* query;  // row r at query + r * query_stride, [head_dim], scaled already
  int64_t query_stride;
  float* out;  // row r at out + r * out_stride, [head_dim]
  int64_t out_stride;
  int32_t rows;
  const int32_t* visible;  // row r sees keys [0, visible[r]), at least one
  // One pointer a block of `block_tokens` positions, for this layer and head. Positions from
  // visible on may hold anything. Keys: [block_tokens / 16][head_dim][16], values:
  // [block_tokens][head_dim].
  const void* const* key_blocks;
  const void* const* value_blocks;
  int32_t block_tokens;  // multiple of 16
  int32_t head_dim;
};

enum class KvType : uint8_t { f32, f16, bf16 };

struct PeakLoops;  // peaks.h

struct KernelTable {
  const char* name;  // "reference", "avx2", "avx512"
  const PeakLoops* peaks;

  void (*matmul[kWeightLayouts])(const MatmulArgs&);  // by WeightLayout
  void (*attention[3])(const AttentionArgs&);         // by KvType; fixed key tiles from position 0

  void (*quantize_rows)(const float* x, int64_t x_stride, int64_t m, int64_t k, QuantizedRows out);
  void (*to_bf16)(const float* x, int64_t n, uint16_t* out);

  // out may be x. norms over n values; weight [n]; bias [n] or null. Sums in f32 or better.
  void (*rms_norm)(const float* x, const float* weight, float eps, int64_t n, float* out);
  void (*layer_norm)(const float* x, const float* weight, const float* bias, float eps, int64_t n,
                     float* out);
  void (*add)(const float* x, const float* y, int64_t n, float* out);
  void (*silu_multiply)(const float* gate, const float* up, int64_t n, float* out);
  void (*gelu_erf)(const float* x, int64_t n, float* out);  // error <= 1e-6 absolute
  void (*gelu_tanh)(const float* x, int64_t n, float* out);
  void (*relu)(const float* x, int64_t n, float* out);

  // Rotates one head in place; cosine and sine [head_dim / 2].
  void (*rope_halves)(float* x, const float* cosine, const float* sine, int64_t head_dim);
  void (*rope_neighbours)(float* x, const float* cosine, const float* sine, int64_t head_dim);

  // Writes one position of one head into its block (layouts above). `slot` is the position in the
  // block.
  void (*store_key[3])(const float* key, int64_t head_dim, int64_t slot, void* block);
  void (*store_value[3])(const float* value, int64_t head_dim, int64_t slot, void* block);
};

// The best one this machine runs comes last. Never empty: the reference runs everywhere.
struct KernelTables {
  const KernelTable* tables[3];
  int count;
};
KernelTables supported_kernels();

const KernelTable* reference_kernels();
const KernelTable* avx2_kernels();    // AVX2, FMA, F16C; null where not compiled in
const KernelTable* avx512_kernels();  // AVX-512 F/BW/DQ/VL, VNNI; null where not compiled in
// The same by name, and all of it but the products of bf16, for which BF16 is there.
const KernelTable* avx512_bf16_kernels();

}  // namespace impetus::cpu

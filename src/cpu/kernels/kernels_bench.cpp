// The kernels on one thread beside this machine's peaks, measured in the same run:
//   kernels_bench [table] [seconds per line]
// GEMM: M 512, N 8192, K 2048. GEMV: M 1 over weights far larger than the caches.
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <vector>

#include "cpu/kernels/kernels.h"
#include "cpu/kernels/peaks.h"

namespace impetus::cpu {
namespace {

// This thread's own time, so that other work on the machine is not counted as slowness.
double now() {
  timespec t;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_nsec) * 1e-9;
}

template <class Function>
double best_seconds(double seconds, Function f) {
  f();
  const double end = now() + seconds;
  double best = 1e9;
  do {
    double start = now();
    f();
    best = std::min(best, now() - start);
  } while (now() < end);
  return best;
}

struct Layout {
  const char* name;
  WeightLayout layout;
  double bytes_per_weight;
};

constexpr Layout kLayouts[] = {{"f32", WeightLayout::f32, 4},
                               {"f16", WeightLayout::f16, 2},
                               {"bf16", WeightLayout::bf16, 2},
                               {"q8_0", WeightLayout::q8_0, 34.0 / 32},
                               {"q4_0", WeightLayout::q4_0, 18.0 / 32},
                               {"g4_f16", WeightLayout::g4_f16, 20.0 / 32},
                               {"g4_bf16", WeightLayout::g4_bf16, 20.0 / 32},
                               {"g4_f32", WeightLayout::g4_f32, 24.0 / 32},
                               {"g8_f16", WeightLayout::g8_f16, 36.0 / 32},
                               {"g8_bf16", WeightLayout::g8_bf16, 36.0 / 32},
                               {"g8_f32", WeightLayout::g8_f32, 40.0 / 32}};

// Bytes that read as small numbers in every layout.
struct Memory {
  explicit Memory(size_t n) : bytes(n), data(static_cast<uint8_t*>(aligned_alloc(64, n))) {
    for (size_t i = 0; i < n; i += 2) {
      data[i] = static_cast<uint8_t>(i * 37);
      data[i + 1] = static_cast<uint8_t>(0x2c | (i >> 9 & 3));
    }
  }
  ~Memory() { free(data); }
  size_t bytes;
  uint8_t* data;
};

void bench(const KernelTable& table, double seconds) {
  Memory weights(size_t{256} << 20);
  const double int8_peak = peak_int8_ops(table, seconds);
  const double bf16_peak = peak_bf16_ops(table, seconds);
  const double f32_peak = peak_f32_ops(table, seconds);
  const double read_peak = peak_read_bytes(table, weights.data, weights.bytes, seconds);
  std::printf("%s, one thread: int8 %.0f GOP/s, bf16 %.0f, f32 %.0f, read %.1f GB/s\n", table.name,
              int8_peak * 1e-9, bf16_peak * 1e-9, f32_peak * 1e-9, read_peak * 1e-9);

  const int64_t m = 512;
  const int64_t k = 2048;
  std::vector<float> x(static_cast<size_t>(m * k), 0.01f);
  std::vector<uint16_t> x_bf16(static_cast<size_t>(m * k), 0x3c24);
  std::vector<int8_t> q(static_cast<size_t>(m * k), 5);
  std::vector<float> scale(static_cast<size_t>(m * k / 32), 0.01f);
  std::vector<int32_t> sum(static_cast<size_t>(m * k / 32), 160);
  std::vector<float> out(static_cast<size_t>(m) * 8192);
  for (const Layout& layout : kLayouts) {
    auto kernel = table.matmul[static_cast<int>(layout.layout)];
    MatmulArgs a{};
    a.x = x.data();
    a.x_bf16 = x_bf16.data();
    a.x_q8 = {q.data(), scale.data(), sum.data()};
    a.x_stride = k;
    a.k = k;
    a.weights = weights.data;
    a.out = out.data();
    const double peak = layout.bytes_per_weight < 2           ? int8_peak
                        : layout.layout == WeightLayout::bf16 ? bf16_peak
                                                              : f32_peak;
    std::printf("  %-7s", layout.name);
    for (int64_t rows : {int64_t{512}, int64_t{64}, int64_t{16}}) {
      a.m = rows;
      a.panel_end = rows == 512 ? 512 / 4 : 512;  // a quarter of N is enough, and quicker
      a.out_stride = 8192;
      double took = best_seconds(seconds, [&] { kernel(a); });
      double rate = 2.0 * static_cast<double>(rows * k * a.panel_end * 16) / took;
      std::printf("  M %-3d %6.1f GOP/s %3.0f %%", static_cast<int>(rows), rate * 1e-9,
                  100 * rate / peak);
    }
    const double row_bytes = static_cast<double>(k) * layout.bytes_per_weight * 16;
    a.panel_end =
        static_cast<int64_t>(static_cast<double>(weights.bytes) / row_bytes) & ~int64_t{7};
    std::vector<float> vector_out(static_cast<size_t>(a.panel_end) * 16 * 4);
    a.out = vector_out.data();
    a.out_stride = a.panel_end * 16;
    for (int64_t rows : {int64_t{1}, int64_t{4}}) {
      a.m = rows;
      double took = best_seconds(seconds, [&] { kernel(a); });
      double rate = row_bytes * static_cast<double>(a.panel_end) / took;
      std::printf("  M %d %5.1f GB/s %3.0f %%", static_cast<int>(rows), rate * 1e-9,
                  100 * rate / read_peak);
    }
    std::printf("\n");
  }

  // Causal prefill of 128 rows at the end of a context, and one decode group of 4 rows.
  const char* type_names[] = {"f32", "f16", "bf16"};
  for (int type = 0; type < 3; ++type) {
    for (int32_t head_dim : {64, 128}) {
      std::printf("  attention %-4s head %-3d", type_names[type], head_dim);
      for (int32_t context : {512, 8192}) {
        const int32_t block = 64;
        const size_t block_bytes = static_cast<size_t>(block * head_dim) * (type == 0 ? 4 : 2);
        std::vector<const void*> keys;
        std::vector<const void*> values;
        for (int32_t b = 0; b < context / block; ++b) {
          keys.push_back(weights.data + static_cast<size_t>(2 * b) * block_bytes);
          values.push_back(weights.data + static_cast<size_t>(2 * b + 1) * block_bytes);
        }
        for (int32_t rows : {128, 4}) {
          std::vector<int32_t> visible;
          double seen = 0;
          for (int32_t r = 0; r < rows; ++r) {
            visible.push_back(rows == 4 ? context : context - rows + 1 + r);
            seen += visible.back();
          }
          AttentionArgs a{x.data(),       head_dim,    out.data(),    head_dim, rows,
                          visible.data(), keys.data(), values.data(), block,    head_dim};
          double took = best_seconds(seconds / 2, [&] { table.attention[type](a); });
          double rate = 4.0 * seen * head_dim / took;
          std::printf("  %4d x %-3d %5.1f GFLOP/s %3.0f %% of f32", context, rows, rate * 1e-9,
                      100 * rate / f32_peak);
        }
      }
      std::printf("\n");
    }
  }

  double took = best_seconds(seconds / 2, [&] {
    table.quantize_rows(x.data(), k, m, k, {q.data(), scale.data(), sum.data()});
  });
  std::printf("  quantize_rows %.2f G/s", static_cast<double>(m * k) / took * 1e-9);
  took = best_seconds(seconds / 2, [&] { table.to_bf16(x.data(), m * k, x_bf16.data()); });
  std::printf(", to_bf16 %.2f", static_cast<double>(m * k) / took * 1e-9);
  took = best_seconds(seconds / 2, [&] { table.silu_multiply(x.data(), x.data(), k, out.data()); });
  std::printf(", silu_multiply %.2f", static_cast<double>(k) / took * 1e-9);
  took = best_seconds(seconds / 2, [&] { table.gelu_erf(x.data(), k, out.data()); });
  std::printf(", gelu_erf %.2f", static_cast<double>(k) / took * 1e-9);
  took =
      best_seconds(seconds / 2, [&] { table.rms_norm(x.data(), x.data(), 1e-5f, k, out.data()); });
  std::printf(", rms_norm %.2f\n", static_cast<double>(k) / took * 1e-9);
}

}  // namespace
}  // namespace impetus::cpu

int main(int argc, char** argv) {
  impetus::cpu::KernelTables found = impetus::cpu::supported_kernels();
  const double seconds = argc > 2 ? atof(argv[2]) : 0.2;
  bool any = false;
  for (int i = found.count - 1; i > 0; --i) {
    if (argc > 1 && strcmp(argv[1], "all") != 0 && strcmp(found.tables[i]->name, argv[1]) != 0)
      continue;
    impetus::cpu::bench(*found.tables[i], seconds);
    any = true;
  }
  if (!any) std::fprintf(stderr, "no such table on this machine\n");
  return any ? 0 : 1;
}

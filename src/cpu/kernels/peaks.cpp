#include "cpu/kernels/peaks.h"

#include <string.h>
#include <time.h>

namespace impetus::cpu {
namespace {

// This thread's own time, so that other work on the machine is not counted as slowness.
double now() {
  timespec t;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_nsec) * 1e-9;
}

double best_rate(double (*loop)(int64_t), double seconds) {
  const double end = now() + seconds;
  int64_t rounds = 1024;
  double best = 0;
  do {
    double start = now();
    double done = loop(rounds);
    double took = now() - start;
    if (took < seconds / 16) {
      rounds *= 2;
      continue;
    }
    if (done / took > best) best = done / took;
  } while (now() < end || best == 0);
  return best;
}

// Sixteen chains that the compiler may put in whatever vectors the base instruction set has.
double plain_f32(int64_t rounds) {
  float sums[32] = {};
  volatile float seed = 0.5f;
  float factor = seed;
  for (int64_t i = 0; i < rounds; ++i) {
    for (float& sum : sums) sum = sum * factor + factor;
  }
  float total = 0;
  for (float sum : sums) total += sum;
  seed = total;
  return static_cast<double>(rounds) * 64;
}

double plain_int8(int64_t rounds) {
  int16_t sums[32] = {};
  volatile int16_t seed = 3;
  int16_t factor = seed;
  for (int64_t i = 0; i < rounds; ++i) {
    for (int16_t& sum : sums) sum = static_cast<int16_t>(sum * factor + factor);
  }
  int32_t total = 0;
  for (int16_t sum : sums) total += sum;
  seed = static_cast<int16_t>(total);
  return static_cast<double>(rounds) * 64;
}

void plain_read(const void* data, size_t bytes) {
  const char* p = static_cast<const char*>(data);
  uint64_t sums[8] = {};
  for (size_t i = 0; i + 64 <= bytes; i += 64) {
    uint64_t words[8];
    memcpy(words, p + i, 64);
    for (int j = 0; j < 8; ++j) sums[j] += words[j];
  }
  volatile uint64_t sink =
      sums[0] ^ sums[1] ^ sums[2] ^ sums[3] ^ sums[4] ^ sums[5] ^ sums[6] ^ sums[7];
  (void)sink;
}

}  // namespace

const PeakLoops kReferencePeaks = {plain_int8, plain_f32, plain_f32, plain_read};

double peak_int8_ops(const KernelTable& table, double seconds) {
  return best_rate(table.peaks->int8, seconds);
}

double peak_bf16_ops(const KernelTable& table, double seconds) {
  return best_rate(table.peaks->bf16, seconds);
}

double peak_f32_ops(const KernelTable& table, double seconds) {
  return best_rate(table.peaks->f32, seconds);
}

double peak_read_bytes(const KernelTable& table, const void* data, size_t bytes, double seconds) {
  const double end = now() + seconds;
  double best = 0;
  do {
    double start = now();
    table.peaks->read(data, bytes);
    double rate = static_cast<double>(bytes) / (now() - start);
    if (rate > best) best = rate;
  } while (now() < end);
  return best;
}

}  // namespace impetus::cpu

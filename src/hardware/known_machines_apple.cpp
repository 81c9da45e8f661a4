// Apple's own machines. What Apple prints: memory bandwidth, cores, some generations' GPU TFLOPS
// and the Neural Engine's TOPS; cited is the page that was read, often another's report of it. The
// rest is arithmetic or a measurement of others, and says so.
#include "hardware/known_machines_parts.h"

namespace impetus {
namespace {

#define FORUM_TABLE "https://spy.macrumors.com/threads/apple-silicon-mac-chips.2471322"
#define M1_PRO_PAGE                                                                               \
  "https://wccftech.com/apple-unveils-m1-max-m1-pro-5nm-socs-up-to-10-cpu-cores-high-end-gaming-" \
  "laptop-gpu/"
#define M1_ULTRA_PAGE                                                                              \
  "https://www.notebookcheck.net/Apple-M1-Ultra-revealed-with-UltraFusion-architecture-a-20-core-" \
  "CPU-and-up-to-a-64-core-GPU.607117.0.html"
#define M2_PRO_PAGE "https://meterpreter.org/apple-announces-m2-pro-and-m2-max-chips/"
#define M2_ULTRA_PAGE "https://myapplechat.com/apples-m2-ultra-chip-is-the-most-powerful-yet/"
#define M3_PAGE "https://gizmohopper.com/glossary/apple-m3"
#define M3_SPECS "https://support.apple.com/en-au/117737"
#define M3_TOPS "https://www.macrumors.com/2023/10/31/apple-m3-pro-less-memory-bandwidth/"
#define M3_ULTRA_PAGE "https://bgr.com/tech/inside-apples-new-m3-ultra-processor/"
#define M4_PAGE \
  "https://www.engadget.com/apples-m4-chip-arrives-with-a-big-focus-on-ai-142448428.html"
#define M4_PRO_PAGE \
  "https://techmoran.com/2024/10/31/apple-unveils-its-most-powerful-chips-the-m4-pro-and-m4-max/"
#define M4_MAX_32_PAGE "https://americanfork.business/?p=76748"
#define M5_PAGE "https://dig.watch/updates/apple-launches-m5-with-bigger-ai-gains"
#define M5_PRO_PAGE \
  "https://traitcraft.com/apple-unveils-m5-pro-and-m5-max-chips-with-new-fusion-architecture"
#define M5_SPECS "https://support.apple.com/en-us/126318"
#define NEURAL_ACCELERATORS \
  "not re-read: https://tzakharko.github.io/apple-neural-accelerators-benchmark"
#define CPU_STREAM "not re-read: https://arxiv.org/abs/2502.05317"
#define CPU_M1_MAX \
  "not re-read: https://www.anandtech.com/show/17024/apple-m1-max-performance-review/2"

#define CPU_PEAK                                                                   \
  "peaks, estimate: performance cores x their highest clock (M1, M2: " FORUM_TABLE \
  "; later ones not re-read) x four 128-bit NEON "                                 \
  "units (multiply-add; sdot; bfdot from M2 on); AMX and SME are not counted, as " \
  "nothing here uses them. "
#define CPU_BANDWIDTH_BASE                                                    \
  "bandwidth, estimate: 86 % of the chip's, as the M4's CPU reached (103 of " \
  "120 GB/s) in " CPU_STREAM
#define CPU_BANDWIDTH_MAX                                                      \
  "bandwidth, estimate: 61 % of the chip's, as the M1 Max's CPU reached (243 " \
  "of 400 GB/s) in " CPU_M1_MAX
#define GPU_F32_ALUS                                                             \
  "f32, estimate: cores x 128 ALUs x 2 x clock of the generation (1.38 GHz M3, " \
  "1.47 GHz M4, 1.58 GHz M4 Pro and Max); "
#define GPU_F16                                                               \
  "f16 at the rate of f32 (https://github.com/philipturner/metal-benchmarks " \
  "for M1 and M2; later generations, estimate: the same); no int8 dot products. "
#define GPU_BF16_NONE "bf16: emulated, so 0. "
#define GPU_BF16 "bf16, estimate: as f16. "
#define GPU_M5                                                                      \
  "f32 and f16, estimate: " NEURAL_ACCELERATORS                                     \
  " measured an A19's GPU and gives "                                               \
  "18 and 30 TFLOPS for 40 cores of the M5 generation without neural accelerators " \
  "and 70 TFLOPS fp16 and 130 TOPS int8 with them, here by core; bf16, estimate: as f16. "
#define NPU_F16_BASIS                                                                   \
  "Apple's TOPS of this generation are fp16 (not re-read: https://github.com/hollance/" \
  "neural-engine); int8 runs at the rate of fp16. "
#define NPU_INT8_BASIS                                                                   \
  "Apple's 38 TOPS are int8, fp16 is half (not re-read: https://maderix.substack.com/p/" \
  "inside-the-m4-apple-neural-engine-615 measures about 19 TFLOPS). "
#define NPU_M5                                                                                    \
  "Apple prints no TOPS for M5: 18.2 TFLOPS fp16 and 34.2 TOPS int8 measured on an "              \
  "M5, not re-read: https://gist.github.com/Anemll/49e219448ad350ef67ff4bfdcb9ebd8c; M5 Pro and " \
  "Max, estimate: the same. "
#define NPU_BANDWIDTH                                                                           \
  "bandwidth, not re-read: 57 GB/s measured on an M4 (https://pypi.org/project/torch-ane) and " \
  "fitted on an M5 (https://github.com/sbryngelson/ANEForge); other chips, "                    \
  "estimate: the same. "
#define NPU_BANDWIDTH_M5_PRO                                                          \
  "bandwidth, estimate: what 62 tokens a second of TinyLlama in fp16 need, measured " \
  "on an M5 Pro (not re-read: https://huggingface.co/aneforge/llm-text-generation). "
#define NPU_BANDWIDTH_ULTRA "bandwidth, estimate: two engines of 57 GB/s. "

constexpr KnownProcessor cpu(const char* name, int cores, double ghz, CyclesOps ops,
                             double bandwidth, const char* source) {
  return cpu_by_cycles("cpu-neon", name, cores, ghz, ops, bandwidth * giga, source);
}

constexpr KnownProcessor gpu(const char* name, int cores, double bandwidth, double f32, double f16,
                             double bf16, const char* source) {
  return {"gpu0",      "mlx", name, cores, bandwidth * giga, f32 * tera, f16 * tera,
          bf16 * tera, 0,     0,    source};
}

constexpr KnownProcessor npu(int cores, double bandwidth, double f16, double int8,
                             const char* source) {
  return {"npu0",
          "coreml",
          "Apple Neural Engine",
          cores,
          bandwidth * giga,
          0,
          f16 * tera,
          0,
          int8 * tera,
          0,
          source};
}

constexpr double m5_f32 = 18.0 / 40, m5_f16 = 30.0 / 40;  // TFLOPS by core
constexpr double m5_matrix_f16 = 70.0 / 40 * tera, m5_matrix_int8 = 130.0 / 40 * tera;  // by core

constexpr KnownProcessor m1[] = {
    cpu("Apple M1, 4 performance cores", 4, 3.2, neon_4, 59,
        FORUM_TABLE "; " CPU_PEAK CPU_BANDWIDTH_BASE),
    gpu("Apple M1 GPU, 8 cores", 8, 68.25, 2.6, 2.6, 0,
        FORUM_TABLE ": 2.6 teraflops; bandwidth: 128 bit LPDDR4X-4266, as 68.25 GB/s in "
                    "https://gist.github.com/kellyshephard; " GPU_F16 GPU_BF16_NONE),
    npu(16, 57, 11, 11, FORUM_TABLE ": 11 TOPS. " NPU_F16_BASIS NPU_BANDWIDTH)};
constexpr KnownProcessor m1_pro[] = {
    cpu("Apple M1 Pro, 8 performance cores", 8, 3.2, neon_4, 172,
        M1_PRO_PAGE "; " CPU_PEAK CPU_BANDWIDTH_BASE),
    gpu("Apple M1 Pro GPU, 16 cores", 16, 200, 5.2, 5.2, 0,
        M1_PRO_PAGE ": 200 GB/s, 5.2 teraflops; " GPU_F16 GPU_BF16_NONE),
    npu(16, 57, 11, 11, M1_PRO_PAGE ": 11 TOPS. " NPU_F16_BASIS NPU_BANDWIDTH)};
constexpr KnownProcessor m1_max[] = {
    cpu("Apple M1 Max, 8 performance cores", 8, 3.2, neon_4, 243,
        M1_PRO_PAGE "; " CPU_PEAK "bandwidth: 243 GB/s measured, " CPU_M1_MAX),
    gpu("Apple M1 Max GPU, 32 cores", 32, 400, 10.4, 10.4, 0,
        M1_PRO_PAGE ": 400 GB/s, 10.4 teraflops; " GPU_F16 GPU_BF16_NONE),
    npu(16, 57, 11, 11, M1_PRO_PAGE ": 11 TOPS. " NPU_F16_BASIS NPU_BANDWIDTH)};
constexpr KnownProcessor m1_ultra[] = {
    cpu("Apple M1 Ultra, 16 performance cores", 16, 3.2, neon_4, 486,
        M1_ULTRA_PAGE "; " CPU_PEAK CPU_BANDWIDTH_MAX),
    gpu("Apple M1 Ultra GPU, 64 cores", 64, 800, 20.8, 20.8, 0,
        M1_ULTRA_PAGE ": 800 GB/s; f32: two M1 Max; " GPU_F16 GPU_BF16_NONE),
    npu(32, 114, 22, 22, M1_ULTRA_PAGE ": 22 TOPS. " NPU_F16_BASIS NPU_BANDWIDTH_ULTRA)};

constexpr KnownProcessor m2[] = {
    cpu("Apple M2, 4 performance cores", 4, 3.5, neon_4_bf16, 86,
        FORUM_TABLE "; " CPU_PEAK CPU_BANDWIDTH_BASE),
    gpu("Apple M2 GPU, 10 cores", 10, 100, 3.6, 3.6, 0,
        FORUM_TABLE
        ": 100 GB/s, 3.55 teraflops, which Apple rounds to 3.6; " GPU_F16 GPU_BF16_NONE),
    npu(16, 57, 15.8, 15.8, FORUM_TABLE ": 15.8 TOPS. " NPU_F16_BASIS NPU_BANDWIDTH)};
constexpr KnownProcessor m2_pro[] = {
    cpu("Apple M2 Pro, 8 performance cores", 8, 3.5, neon_4_bf16, 172,
        M2_PRO_PAGE "; " CPU_PEAK CPU_BANDWIDTH_BASE),
    gpu("Apple M2 Pro GPU, 19 cores", 19, 200, 6.8, 6.8, 0,
        M2_PRO_PAGE ": 200 GB/s; f32, estimate: the M2's by core; " GPU_F16 GPU_BF16_NONE),
    npu(16, 57, 15.8, 15.8, M2_PRO_PAGE ": 15.8 TOPS. " NPU_F16_BASIS NPU_BANDWIDTH)};
constexpr KnownProcessor m2_max[] = {
    cpu("Apple M2 Max, 8 performance cores", 8, 3.5, neon_4_bf16, 243,
        M2_PRO_PAGE "; " CPU_PEAK CPU_BANDWIDTH_MAX),
    gpu("Apple M2 Max GPU, 38 cores", 38, 400, 13.6, 13.6, 0,
        M2_PRO_PAGE ": 400 GB/s; f32, estimate: the M2's by core; " GPU_F16 GPU_BF16_NONE),
    npu(16, 57, 15.8, 15.8, M2_PRO_PAGE ": 15.8 TOPS. " NPU_F16_BASIS NPU_BANDWIDTH)};
constexpr KnownProcessor m2_ultra[] = {
    cpu("Apple M2 Ultra, 16 performance cores", 16, 3.5, neon_4_bf16, 486,
        M2_ULTRA_PAGE "; " CPU_PEAK CPU_BANDWIDTH_MAX),
    gpu("Apple M2 Ultra GPU, 76 cores", 76, 800, 27.2, 27.2, 0,
        M2_ULTRA_PAGE ": 800 GB/s; 27.2 teraflops: a copy of https://www.apple.com/pl/mac-pro/ of "
                      "2023; " GPU_F16 GPU_BF16_NONE),
    npu(32, 114, 31.6, 31.6, M2_ULTRA_PAGE ": 31.6 TOPS. " NPU_F16_BASIS NPU_BANDWIDTH_ULTRA)};

constexpr KnownProcessor m3[] = {
    cpu("Apple M3, 4 performance cores", 4, 4.05, neon_4_bf16, 86,
        M3_PAGE "; " CPU_PEAK CPU_BANDWIDTH_BASE),
    gpu("Apple M3 GPU, 10 cores", 10, 100, 3.53, 3.53, 3.53,
        M3_PAGE ": 100 GB/s; " GPU_F32_ALUS GPU_F16 GPU_BF16),
    npu(16, 57, 18, 18, M3_TOPS ": 18 TOPS. " NPU_F16_BASIS NPU_BANDWIDTH)};
constexpr KnownProcessor m3_pro[] = {
    cpu("Apple M3 Pro, 6 performance cores", 6, 4.05, neon_4_bf16, 129,
        M3_SPECS "; " CPU_PEAK CPU_BANDWIDTH_BASE),
    gpu("Apple M3 Pro GPU, 18 cores", 18, 150, 6.36, 6.36, 6.36,
        M3_SPECS ": 150 GB/s; " GPU_F32_ALUS GPU_F16 GPU_BF16),
    npu(16, 57, 18, 18, M3_TOPS ": 18 TOPS. " NPU_F16_BASIS NPU_BANDWIDTH)};
constexpr KnownProcessor m3_max_30[] = {
    cpu("Apple M3 Max, 10 performance cores", 10, 4.05, neon_4_bf16, 182,
        M3_SPECS "; " CPU_PEAK CPU_BANDWIDTH_MAX),
    gpu("Apple M3 Max GPU, 30 cores", 30, 300, 10.6, 10.6, 10.6,
        M3_SPECS ": 300 GB/s; " GPU_F32_ALUS GPU_F16 GPU_BF16),
    npu(16, 57, 18, 18, M3_TOPS ": 18 TOPS. " NPU_F16_BASIS NPU_BANDWIDTH)};
constexpr KnownProcessor m3_max[] = {
    cpu("Apple M3 Max, 12 performance cores", 12, 4.05, neon_4_bf16, 243,
        M3_SPECS "; " CPU_PEAK CPU_BANDWIDTH_MAX),
    gpu("Apple M3 Max GPU, 40 cores", 40, 400, 14.1, 14.1, 14.1,
        M3_SPECS ": 400 GB/s; " GPU_F32_ALUS GPU_F16 GPU_BF16),
    npu(16, 57, 18, 18, M3_TOPS ": 18 TOPS. " NPU_F16_BASIS NPU_BANDWIDTH)};
constexpr KnownProcessor m3_ultra[] = {
    cpu("Apple M3 Ultra, 24 performance cores", 24, 4.05, neon_4_bf16, 497,
        M3_ULTRA_PAGE "; " CPU_PEAK CPU_BANDWIDTH_MAX),
    gpu("Apple M3 Ultra GPU, 80 cores", 80, 819, 28.3, 28.3, 28.3,
        "https://techpowerup.com/news-tags/Mac%20Studio: 819 GB/s; " GPU_F32_ALUS GPU_F16 GPU_BF16),
    npu(32, 114, 36, 36,
        M3_ULTRA_PAGE "; 36 TOPS, estimate: two M3. " NPU_F16_BASIS NPU_BANDWIDTH_ULTRA)};

constexpr KnownProcessor m4[] = {
    cpu("Apple M4, 4 performance cores", 4, 4.4, neon_4_bf16, 103,
        M4_PAGE "; " CPU_PEAK "bandwidth: 103 GB/s measured, " CPU_STREAM),
    gpu("Apple M4 GPU, 10 cores", 10, 120, 3.76, 3.76, 3.76,
        M4_PAGE ": 120 GB/s; " GPU_F32_ALUS GPU_F16 GPU_BF16),
    npu(16, 57, 19, 38, M4_PAGE ": 38 TOPS. " NPU_INT8_BASIS NPU_BANDWIDTH)};
constexpr KnownProcessor m4_pro[] = {
    cpu("Apple M4 Pro, 10 performance cores", 10, 4.5, neon_4_bf16, 235,
        M4_PRO_PAGE "; " CPU_PEAK CPU_BANDWIDTH_BASE),
    gpu("Apple M4 Pro GPU, 20 cores", 20, 273, 8.08, 8.08, 8.08,
        M4_PRO_PAGE ": 273 GB/s; " GPU_F32_ALUS GPU_F16 GPU_BF16),
    npu(16, 57, 19, 38, M4_PAGE ": 38 TOPS. " NPU_INT8_BASIS NPU_BANDWIDTH)};
constexpr KnownProcessor m4_max_32[] = {
    cpu("Apple M4 Max, 10 performance cores", 10, 4.5, neon_4_bf16, 249,
        M4_PRO_PAGE "; " CPU_PEAK CPU_BANDWIDTH_MAX),
    gpu("Apple M4 Max GPU, 32 cores", 32, 410, 12.9, 12.9, 12.9,
        M4_MAX_32_PAGE ": 410 GB/s; " GPU_F32_ALUS GPU_F16 GPU_BF16),
    npu(16, 57, 19, 38, M4_PAGE ": 38 TOPS. " NPU_INT8_BASIS NPU_BANDWIDTH)};
constexpr KnownProcessor m4_max[] = {
    cpu("Apple M4 Max, 12 performance cores", 12, 4.5, neon_4_bf16, 332,
        M4_PRO_PAGE "; " CPU_PEAK CPU_BANDWIDTH_MAX),
    gpu("Apple M4 Max GPU, 40 cores", 40, 546, 16.2, 16.2, 16.2,
        M4_PRO_PAGE ": 546 GB/s; " GPU_F32_ALUS GPU_F16 GPU_BF16),
    npu(16, 57, 19, 38, M4_PAGE ": 38 TOPS. " NPU_INT8_BASIS NPU_BANDWIDTH)};

constexpr KnownProcessor m5[] = {cpu("Apple M5, 4 performance cores", 4, 4.6, neon_4_bf16, 132,
                                     M5_PAGE "; " CPU_PEAK CPU_BANDWIDTH_BASE),
                                 gpu("Apple M5 GPU, 10 cores", 10, 153, 10 * m5_f32, 10 * m5_f16,
                                     10 * m5_f16, M5_PAGE ": 153 GB/s; " GPU_M5),
                                 npu(16, 57, 18.2, 34.2, M5_PAGE ". " NPU_M5 NPU_BANDWIDTH)};
#define M5_PRO_CPU "6 super and 12 performance cores, here at 4.3 GHz on average; "
constexpr KnownProcessor m5_pro[] = {
    cpu("Apple M5 Pro, 18 cores", 18, 4.3, neon_4_bf16, 264,
        M5_PRO_PAGE ": " M5_PRO_CPU CPU_PEAK CPU_BANDWIDTH_BASE),
    gpu("Apple M5 Pro GPU, 20 cores", 20, 307, 20 * m5_f32, 20 * m5_f16, 20 * m5_f16,
        M5_PRO_PAGE ": 307 GB/s; " GPU_M5),
    npu(16, 130, 18.2, 34.2, M5_PRO_PAGE ". " NPU_M5 NPU_BANDWIDTH_M5_PRO)};
constexpr KnownProcessor m5_max_32[] = {
    cpu("Apple M5 Max, 18 cores", 18, 4.3, neon_4_bf16, 280,
        M5_PRO_PAGE ": " M5_PRO_CPU CPU_PEAK CPU_BANDWIDTH_MAX),
    gpu("Apple M5 Max GPU, 32 cores", 32, 460, 32 * m5_f32, 32 * m5_f16, 32 * m5_f16,
        "not re-read: " M5_SPECS ": 460 GB/s; " GPU_M5),
    npu(16, 130, 18.2, 34.2, M5_PRO_PAGE ". " NPU_M5 NPU_BANDWIDTH_M5_PRO)};
constexpr KnownProcessor m5_max[] = {
    cpu("Apple M5 Max, 18 cores", 18, 4.3, neon_4_bf16, 373,
        M5_PRO_PAGE ": " M5_PRO_CPU CPU_PEAK CPU_BANDWIDTH_MAX),
    gpu("Apple M5 Max GPU, 40 cores", 40, 614, 40 * m5_f32, 40 * m5_f16, 40 * m5_f16,
        M5_PRO_PAGE ": 614 GB/s; " GPU_M5),
    npu(16, 130, 18.2, 34.2, M5_PRO_PAGE ". " NPU_M5 NPU_BANDWIDTH_M5_PRO)};

constexpr KnownMachine apple(const char* id, const char* name, int64_t memory, int generation,
                             char suffix, std::span<const KnownProcessor> processors) {
  return {id, name, memory * gib, true, 0, generation, suffix, 0, 0, processors};
}
// Neural accelerators, estimate: measured on an A19's five cores and scaled by core and clock,
// NEURAL_ACCELERATORS: 70 TFLOPS fp16 and 130 TOPS int8 for 40 cores.
constexpr KnownMachine apple_with_accelerators(const char* id, const char* name, int64_t memory,
                                               char suffix,
                                               std::span<const KnownProcessor> processors) {
  const int cores = processors[1].cores;
  return {id,
          name,
          memory * gib,
          true,
          0,
          17,
          suffix,
          cores * m5_matrix_f16,
          cores * m5_matrix_int8,
          processors};
}

// Memory, not re-read: of the cheapest configuration with this many GPU cores.
constexpr KnownMachine machines[] = {
    apple("m1", "Apple M1", 8, 13, 'g', m1),
    apple("m1-pro", "Apple M1 Pro", 16, 13, 's', m1_pro),
    apple("m1-max", "Apple M1 Max", 32, 13, 'c', m1_max),
    apple("m1-ultra", "Apple M1 Ultra", 64, 13, 'd', m1_ultra),
    apple("m2", "Apple M2", 8, 14, 'g', m2),
    apple("m2-pro", "Apple M2 Pro", 16, 14, 's', m2_pro),
    apple("m2-max", "Apple M2 Max", 32, 14, 'c', m2_max),
    apple("m2-ultra", "Apple M2 Ultra", 64, 14, 'd', m2_ultra),
    apple("m3", "Apple M3", 8, 15, 'g', m3),
    apple("m3-pro", "Apple M3 Pro", 18, 15, 's', m3_pro),
    apple("m3-max-30", "Apple M3 Max, 30-core GPU", 36, 15, 'c', m3_max_30),
    apple("m3-max", "Apple M3 Max, 40-core GPU", 48, 15, 'c', m3_max),
    apple("m3-ultra", "Apple M3 Ultra", 96, 15, 'd', m3_ultra),
    apple("m4", "Apple M4", 16, 16, 'g', m4),
    apple("m4-pro", "Apple M4 Pro", 24, 16, 's', m4_pro),
    apple("m4-max-32", "Apple M4 Max, 32-core GPU", 36, 16, 'c', m4_max_32),
    apple("m4-max", "Apple M4 Max, 40-core GPU", 48, 16, 'c', m4_max),
    apple_with_accelerators("m5", "Apple M5", 16, 'g', m5),
    apple_with_accelerators("m5-pro", "Apple M5 Pro", 24, 's', m5_pro),
    apple_with_accelerators("m5-max-32", "Apple M5 Max, 32-core GPU", 36, 'c', m5_max_32),
    apple_with_accelerators("m5-max", "Apple M5 Max, 40-core GPU", 48, 'c', m5_max),
};

}  // namespace

std::span<const KnownMachine> apple_machines() {
  return machines;
}

}  // namespace impetus

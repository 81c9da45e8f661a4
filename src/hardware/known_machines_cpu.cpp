// Machines whose CPU does the work. Bandwidth is channels x transfers x width. A clock is the one
// that all cores hold under vector work, where the maker prints it, else an estimate or the base
// clock; the source says which.
#include "hardware/known_machines_parts.h"

namespace impetus {
namespace {

// A GPU or NPU that nothing of Impetus drives: backend "".
constexpr KnownProcessor idle(const char* device, const char* name, int cores, double bandwidth,
                              double f32, double f16, double bf16, double int8,
                              const char* source) {
  return {device,      "",          name, cores, bandwidth * giga, f32 * tera, f16 * tera,
          bf16 * tera, int8 * tera, 0,    source};
}

#define ZEN4_CYCLES \
  "operations a cycle: measured for this project on Zen 4 (int8 128, bf16 64, f32 32 a core)"
#define ZEN5_CYCLES                                                     \
  "operations a cycle, estimate: twice Zen 4's, by 512 bit wide units " \
  "(not re-read: https://www.amd.com/en/products/processors/technologies/zen-core.html)"
#define AMX_CYCLES                                                                 \
  "operations a cycle: AMX 2,048 bf16 and 4,096 int8, AVX-512 64 f32 and 128 f16 " \
  "(not re-read: https://www.intel.com/content/www/us/en/content-details/671368/)"

constexpr KnownProcessor xeon_8480[] = {cpu_by_cycles(
    "cpu-avx512", "Intel Xeon Platinum 8480+", 56, 2.6, amx, 307.2 * giga,
    "https://wccftech.com/intel-xeon-sapphire-rapids-sp-cpus-feature-up-to-56-cores-on-350w-tdp/: "
    "56 cores, 8 channels of DDR5-4800; clock, estimate: 2.6 GHz, between base 2.0 and all-core "
    "turbo 3.0 (not re-read: "
    "https://www.intel.com/content/www/us/en/products/sku/231746/); " AMX_CYCLES)};
constexpr KnownProcessor xeon_6[] = {cpu_by_cycles(
    "cpu-avx512", "Intel Xeon 6980P", 128, 2.6, amx_f16, 844.8 * giga,
    "https://www.hardwareluxx.de/index.php/artikel/hardware/prozessoren/"
    "64561-intels-comeback-granite-rapids-mit-96-kernen-im-test.html: 128 cores, 12 channels of "
    "MRDIMM-8800; clock, estimate: 2.6 GHz, between base 2.0 and all-core turbo 3.2; " AMX_CYCLES
    "; f16 tiles as bf16")};
constexpr KnownProcessor epyc_9654[] = {cpu_by_cycles(
    "cpu-avx512", "AMD EPYC 9654", 96, 3.55, zen4, 460.8 * giga,
    "https://www.tomshardware.fr/epyc-genoa-la-prise-en-charge-de-12-canaux-de-memoire-ddr5-"
    "confirmee/: 96 cores, 12 channels, 460.8 GB/s; not re-read: all-core boost 3.55 "
    "GHz; " ZEN4_CYCLES)};
constexpr KnownProcessor epyc_9755[] = {cpu_by_cycles(
    "cpu-avx512", "AMD EPYC 9755", 128, 3.4, zen5, 614.4 * giga,
    "https://meftah.com/news/amd-epyc-9755-processor: 128 cores and clocks; 12 channels of "
    "DDR5-6400: https://www.hubbry.com/Epyc/encyclopedias; clock, estimate: 3.4 GHz, between base "
    "2.7 and boost 4.1; " ZEN5_CYCLES)};
constexpr KnownProcessor ryzen_7950x[] = {cpu_by_cycles(
    "cpu-avx512", "AMD Ryzen 9 7950X", 16, 4.5, zen4, 83.2 * giga,
    "https://web-autoai.com/articles/amd-ryzen-9-7950x-16-core-32-thread-high-end-cpu: "
    "16 cores, base clock 4.5 GHz, DDR5-5200; " ZEN4_CYCLES)};
constexpr KnownProcessor ryzen_9950x[] = {cpu_by_cycles(
    "cpu-avx512", "AMD Ryzen 9 9950X", 16, 4.3, zen5, 89.6 * giga,
    "https://timdobbs.substack.com/p/the-amd-ryzen-9-9950x-cpu: 16 cores, two channels of "
    "DDR5-5600; not re-read: base clock 4.3 GHz (that page has 4.4); " ZEN5_CYCLES)};

#define STRIX_PAGE                                                                                \
  "not re-read: https://www.amd.com/en/products/processors/laptop/ryzen/ai-300-series/amd-ryzen-" \
  "ai-max-plus-395.html"
#define STRIX_TABLE "https://whylucian.github.io/softab/docs/hardware-specs.html"
constexpr KnownProcessor ryzen_ai_max[] = {
    cpu_by_cycles("cpu-avx512", "AMD Ryzen AI Max+ 395", 16, 3.0, zen5, 128 * giga,
                  STRIX_PAGE ": 16 cores, base clock 3.0 GHz; bandwidth, estimate: two dies at "
                             "64 GB/s each, half of the memory's 256; " ZEN5_CYCLES),
    idle("gpu0", "AMD Radeon 8060S, 40 compute units", 40, 256, 29.7, 59.4, 59.4, 59.4,
         "no backend of Impetus drives it. " STRIX_TABLE
         ": 256 GB/s (215 measured), 59.4 TFLOPS f16, int8 as f16; f32, estimate: half"),
    idle("npu0", "AMD XDNA 2 NPU", 32, 100, 0, 0, 25, 50,
         "no backend of Impetus drives it. " STRIX_PAGE
         ": 50 TOPS int8; bf16, estimate: half; bandwidth, estimate: 100 GB/s; 32 tiles")};

#define LUNAR_PAGE "a copy of https://www.reddit.com/r/LocalLLaMA/comments/1gheslj/"
constexpr KnownProcessor core_ultra[] = {
    cpu_by_cycles(
        "cpu-avx2", "Intel Core Ultra 7 258V, 4 performance cores", 4, 3.7, avx_vnni, 80 * giga,
        "not re-read: https://www.intel.com/content/www/us/en/products/sku/240957/: 4 P-cores, "
        "AVX2 with VNNI; clock, estimate: 3.7 GHz at 28 W; the 4 E-cores are not counted; "
        "bandwidth: about 80 GB/s measured, as quoted in " LUNAR_PAGE),
    idle("gpu0", "Intel Arc 140V", 8, 136.5, 4.0, 32, 32, 64,
         "no backend of Impetus drives it. " LUNAR_PAGE
         ": 64 TOPS int8, LPDDR5X-8533; f16 half; f32: 8 Xe cores x 128 lanes x 2 x 1.95 GHz"),
    idle("npu0", "Intel NPU 4", 6, 68, 0, 23.5, 0, 47,
         "no backend of Impetus drives it. "
         "https://www.notebookcheck.net/Intel-Core-Ultra-7-256V-Processor-Benchmarks-and-Specs."
         "892554.0.html, but for its memory the same chip: 47 TOPS int8; f16 half; bandwidth, "
         "estimate: half of the memory's")};

constexpr KnownProcessor core_i9[] = {cpu_by_cycles(
    "cpu-avx2", "Intel Core i9-14900K, 8 performance cores", 8, 5.5, avx_vnni, 89.6 * giga,
    "not re-read: https://www.intel.com/content/www/us/en/products/sku/236773/: 8 P-cores, AVX2 "
    "with VNNI, "
    "DDR5-5600; clock, estimate: 5.5 GHz on all P-cores; the 16 E-cores are not counted")};
#define PI_PAGE "https://circuitdigest.com/news/the-new-raspberry-pi-5-is-here-faster-than-ever"
constexpr KnownProcessor pi_5[] = {
    cpu_by_cycles("cpu-neon", "Raspberry Pi 5, 4 x Arm Cortex-A76", 4, 2.4, neon_2, 17.1 * giga,
                  PI_PAGE ": 2.4 GHz, 32 bit LPDDR4X-4267; two 128-bit units with sdot (not "
                          "re-read: Arm Cortex-A76 software optimization guide)")};
constexpr KnownProcessor pi_4[] = {cpu_by_cycles(
    "cpu-neon", "Raspberry Pi 4, 4 x Arm Cortex-A72", 4, 1.8, CyclesOps{8, 0, 0, 0}, 8.0 * giga,
    PI_PAGE
    ": 32 bit LPDDR4 at an effective 2,000 MT/s, though its chips are rated for 3,200; 1.8 "
    "GHz: "
    "https://www.worksprout.org/blog-details/raspberry-pi-5-vs-pi-4-embedded-developer-guide/; "
    "one 128-bit multiply-add a cycle, neither f16 nor sdot (not re-read: Arm Cortex-A72 software "
    "optimization "
    "guide)")};
constexpr KnownProcessor graviton4[] = {cpu_by_cycles(
    "cpu-neon", "AWS Graviton4, 96 x Arm Neoverse V2", 96, 2.8, neon_v2, 537.6 * giga,
    "https://en.wikichip.org/wiki/annapurna_labs/graviton/graviton4: 96 cores, 12 channels of "
    "DDR5-5600; clock, estimate: 2.8 GHz; four 128-bit units (not re-read: Arm Neoverse V2 "
    "software optimization guide)")};
constexpr KnownProcessor altra[] = {cpu_by_cycles(
    "cpu-neon", "Ampere Altra Q80-30, 80 x Arm Neoverse N1", 80, 3.0, neon_2, 204.8 * giga,
    "https://www.heise.de/news/Ampere-Altra-ARM-Prozessoren-mit-bis-zu-80-Kernen-3-3-GHz-und-"
    "PCIe-4-0-4794196.html: 80 cores, 3.0 GHz, 8 channels of DDR4-3200, two 128-bit units")};

#define SNAPDRAGON_PAGE "https://smartphonecrunch.com/snapdragon-elite-x-introduction/"
#define SNAPDRAGON_MEMORY "a copy of https://beebom.com/snapdragon-x-elite-plus-skus-benchmarks"
constexpr KnownProcessor snapdragon[] = {
    cpu_by_cycles("cpu-neon", "Qualcomm Snapdragon X Elite X1E-80-100, 12 cores", 12, 3.4,
                  neon_4_bf16, 110 * giga,
                  SNAPDRAGON_PAGE ": 12 cores, 3.4 GHz; 135 GB/s: " SNAPDRAGON_MEMORY
                                  "; estimate: four 128-bit units; "
                                  "bandwidth, estimate: four fifths of the memory's"),
    idle("gpu0", "Qualcomm Adreno X1-85", 6, 135, 3.8, 7.6, 0, 0,
         "no backend of Impetus drives it. " SNAPDRAGON_PAGE
         ": 3.8 TFLOPS; 135 GB/s: " SNAPDRAGON_MEMORY
         "; f16, estimate: twice f32; not re-read: 6 shader processors"),
    idle("npu0", "Qualcomm Hexagon NPU", 1, 67, 0, 0, 0, 45,
         "no backend of Impetus drives it. " SNAPDRAGON_PAGE
         ": 45 TOPS int8; bandwidth, estimate: half of the memory's")};

constexpr KnownProcessor zen4_2core[] = {
    {"cpu", "cpu-avx512", "2 cores of AMD Zen 4 in a virtual machine", 2, 38 * giga, 0.224 * tera,
     0, 0.448 * tera, 0.866 * tera, 0,
     "measured for this project: reads 27 to 38 GB/s; f32 224, bf16 448, int8 775 to 866 GOPS; "
     "the best of each"}};
constexpr KnownProcessor sapphire_rapids_16core[] = {cpu_by_cycles(
    "cpu-avx512", "16 cores of Intel Sapphire Rapids in a virtual machine", 16, 2.6, amx,
    120 * giga,
    "clock, estimate: 2.6 GHz as of xeon-8480; " AMX_CYCLES
    "; bandwidth, estimate: 120 GB/s, above the 85 GB/s that a decode measured for this project "
    "needs")};

constexpr KnownMachine machine(const char* id, const char* name, int64_t memory,
                               std::span<const KnownProcessor> processors) {
  return {id, name, memory * gib, processors.size() > 1, 0, 0, 0, 0, 0, processors};
}

// Memory, estimate: a usual size. Machines with more than one processor share it.
constexpr KnownMachine machines[] = {
    machine("xeon-8480", "Intel Xeon Platinum 8480+, one socket", 512, xeon_8480),
    machine("xeon-6", "Intel Xeon 6980P with MRDIMM, one socket", 768, xeon_6),
    machine("epyc-9654", "AMD EPYC 9654, one socket", 384, epyc_9654),
    machine("epyc-9755", "AMD EPYC 9755, one socket", 768, epyc_9755),
    machine("ryzen-7950x", "AMD Ryzen 9 7950X", 64, ryzen_7950x),
    machine("ryzen-9950x", "AMD Ryzen 9 9950X", 64, ryzen_9950x),
    machine("ryzen-ai-max-395", "AMD Ryzen AI Max+ 395 (Strix Halo)", 128, ryzen_ai_max),
    machine("core-ultra-258v", "Intel Core Ultra 7 258V (Lunar Lake)", 32, core_ultra),
    machine("core-i9-14900k", "Intel Core i9-14900K", 64, core_i9),
    machine("raspberry-pi-5", "Raspberry Pi 5", 8, pi_5),
    machine("raspberry-pi-4", "Raspberry Pi 4 Model B", 4, pi_4),
    machine("graviton4", "AWS Graviton4, 96 cores", 768, graviton4),
    machine("ampere-altra", "Ampere Altra Q80-30", 256, altra),
    machine("snapdragon-x-elite", "Qualcomm Snapdragon X Elite", 32, snapdragon),
    machine("zen4-2core", "Virtual machine with 2 cores of AMD Zen 4", 8, zen4_2core),
    machine("sapphire-rapids-16core", "Virtual machine with 16 cores of Intel Sapphire Rapids", 128,
            sapphire_rapids_16core),
};

}  // namespace

std::span<const KnownMachine> cpu_machines() {
  return machines;
}

}  // namespace impetus

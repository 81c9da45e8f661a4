// Machines with an NVIDIA GPU, by NVIDIA's data sheets and architecture papers, without sparsity.
// GeForce cards multiply f16 twice as fast when they also add in f16: f16_ops is that peak,
// bf16_ops the one that adds in f32, which f16 has too. Hosts are typical ones: an estimate.
#include "hardware/known_machines_parts.h"

namespace impetus {
namespace {

#define ADA_PAPER                                                              \
  "https://images.nvidia.com/aem-dam/Solutions/Data-Center/l4/nvidia-ada-gpu-" \
  "architecture-whitepaper-v2.1.pdf"
#define AMPERE_PAPER \
  "https://www.nvidia.com/content/PDF/nvidia-ampere-ga-102-gpu-architecture-whitepaper-v2.pdf"
#define BLACKWELL_PAPER                                                   \
  "https://images.nvidia.com/aem-dam/Solutions/geforce/blackwell/nvidia-" \
  "rtx-blackwell-gpu-architecture.pdf"

constexpr double pcie_4 = 32 * giga, pcie_5 = 64 * giga;  // 16 lanes, one direction

constexpr KnownProcessor gpu(const char* name, int sms, double bandwidth, double f32, double f16,
                             double bf16, double int8, int64_t memory, const char* source) {
  return {"gpu0",      "cuda",      name,   sms,   bandwidth * giga, f32 * tera, f16 * tera,
          bf16 * tera, int8 * tera, memory, source};
}

constexpr KnownProcessor xeon_host = cpu_by_cycles(
    "cpu-avx512", "host CPU: Intel Xeon Platinum 8480+", 56, 2.6, amx, 307.2 * giga,
    "estimate: one socket of a typical host (DGX H200 has two Xeon 8480C); figures as of "
    "xeon-8480");
constexpr KnownProcessor epyc_host = cpu_by_cycles(
    "cpu-avx2", "host CPU: AMD EPYC 7742", 64, 2.25, avx2, 204.8 * giga,
    "estimate: one socket of a typical host (DGX A100 has two EPYC 7742), at its base clock of "
    "2.25 GHz; 8 channels of DDR4-3200");
constexpr KnownProcessor desktop_host =
    cpu_by_cycles("cpu-avx512", "host CPU: AMD Ryzen 9 7950X", 16, 4.5, zen4, 83.2 * giga,
                  "estimate: a typical desktop; figures as of ryzen-7950x");

constexpr int64_t gb = 1000 * 1000 * 1000;

constexpr KnownProcessor h200[] = {
    xeon_host,
    gpu("NVIDIA H200 SXM", 132, 4800, 67, 989, 989, 1979, 141 * gb,
        "https://www.nvidia.com/en-us/data-center/h200/: 4.8 TB/s, halves of the figures with "
        "sparsity. Measured for this project: reads 4.56 TB/s, bf16 GEMM 770 TFLOPS")};
constexpr KnownProcessor h100[] = {xeon_host,
                                   gpu("NVIDIA H100 SXM", 132, 3350, 67, 989, 989, 1979, 80 * gb,
                                       "https://www.nvidia.com/en-us/data-center/h100/: 3.35 TB/s, "
                                       "halves of the figures with sparsity")};
constexpr KnownProcessor h100_pcie[] = {
    xeon_host, gpu("NVIDIA H100 PCIe", 114, 2000, 51, 756, 756, 1513, 80 * gb,
                   "https://www.nvidia.com/content/dam/en-zz/Solutions/gtcs22/data-center/h100/"
                   "PB-11133-001_v01.pdf: 2.0 TB/s, halves of the figures with sparsity")};
constexpr KnownProcessor a100[] = {
    epyc_host, gpu("NVIDIA A100 80GB SXM", 108, 2039, 19.5, 312, 312, 624, 80 * gb,
                   "https://www.nvidia.com/en-us/data-center/a100/: 2,039 GB/s, dense figures")};
constexpr KnownProcessor l40s[] = {
    xeon_host, gpu("NVIDIA L40S", 142, 864, 91.6, 362, 362, 733, 48 * gb,
                   "https://www.nvidia.com/en-us/data-center/l40s/: 864 GB/s, dense figures")};
constexpr KnownProcessor b200[] = {
    xeon_host,
    gpu("NVIDIA B200", 148, 7700, 75, 2250, 2250, 4500, 180 * gb,
        "https://www.nvidia.com/en-us/data-center/hgx/: an eighth of HGX B200, dense; bandwidth "
        "and SMs as the driver tells: https://github.com/pytorch/ao/pull/4002")};
constexpr KnownProcessor rtx_5090[] = {
    desktop_host, gpu("NVIDIA GeForce RTX 5090", 170, 1792, 104.8, 419, 209.5, 838, 32 * gib,
                      BLACKWELL_PAPER ": RTX 5090, dense")};
constexpr KnownProcessor rtx_4090[] = {
    desktop_host, gpu("NVIDIA GeForce RTX 4090", 128, 1008, 82.6, 330.3, 165.2, 660.6, 24 * gib,
                      ADA_PAPER ": RTX 4090, dense")};
constexpr KnownProcessor rtx_4080[] = {
    desktop_host, gpu("NVIDIA GeForce RTX 4080", 76, 716.8, 48.7, 194.9, 97.5, 389.9, 16 * gib,
                      ADA_PAPER ": RTX 4080, dense")};
constexpr KnownProcessor rtx_3090[] = {
    desktop_host, gpu("NVIDIA GeForce RTX 3090", 82, 936, 35.6, 142, 71, 284, 24 * gib,
                      AMPERE_PAPER ": RTX 3090, dense")};
constexpr KnownProcessor rtx_3060[] = {
    desktop_host,
    gpu("NVIDIA GeForce RTX 3060 12 GB", 28, 360, 12.7, 51, 25.5, 102, 12 * gib,
        "https://www.techpowerup.com/gpu-specs/geforce-rtx-3060-12-gb.c3682: SMs, clock, f32, 360 "
        "GB/s; matrix rates, estimate: the RTX 3090's (" AMPERE_PAPER ") by SM and clock")};

constexpr KnownProcessor orin[] = {
    cpu_by_cycles("cpu-neon", "12 x Arm Cortex-A78AE", 12, 2.2, neon_2, 102 * giga,
                  "https://www.nvidia.com/content/dam/en-zz/Solutions/gtcf21/jetson-orin/"
                  "nvidia-jetson-agx-orin-technical-brief.pdf: cores, 2.2 GHz, two 128-bit units; "
                  "bandwidth, estimate: half of the memory's"),
    gpu("NVIDIA Jetson AGX Orin 64GB GPU", 16, 204.8, 5.3, 42.5, 42.5, 85, 0,
        "https://www.nvidia.com/content/dam/en-zz/Solutions/gtcf21/jetson-orin/"
        "nvidia-jetson-agx-orin-technical-brief.pdf: 204.8 GB/s, 5.3 TFLOPS, 170 sparse int8 TOPS, "
        "so 85 dense; f16, estimate: half of int8; the two DLAs are not counted")};
constexpr KnownProcessor spark[] = {
    cpu_by_cycles("cpu-neon", "10 x Arm Cortex-X925, 10 x Cortex-A725", 20, 3.3, neon_4_bf16,
                  180 * giga,
                  "https://www.nvidia.com/en-us/products/workstations/dgx-spark/: cores; estimate: "
                  "3.3 GHz over both kinds, four 128-bit units (X925 has six, A725 two); "
                  "bandwidth, estimate: two thirds of the memory's"),
    gpu("NVIDIA GB10 GPU", 48, 273, 31, 125, 125, 250, 0,
        "https://www.nvidia.com/en-us/products/workstations/dgx-spark/: 273 GB/s, 1 PFLOPS fp4 "
        "with sparsity; f32: 31 TFLOPS, Hot Chips 2025; f16 and int8, estimate: an eighth and a "
        "quarter of the sparse fp4 figure")};

constexpr KnownMachine nvidia(const char* id, const char* name, int64_t memory, double link,
                              std::span<const KnownProcessor> processors) {
  return {id, name, memory * gib, link == 0, link, 0, 0, 0, 0, processors};
}

// Memory is the host's, estimate: a usual size; of unified machines it is the data sheet's.
constexpr KnownMachine machines[] = {
    nvidia("h200", "NVIDIA H200 SXM in a server", 1024, pcie_5, h200),
    nvidia("h100", "NVIDIA H100 SXM in a server", 1024, pcie_5, h100),
    nvidia("h100-pcie", "NVIDIA H100 PCIe in a server", 512, pcie_5, h100_pcie),
    nvidia("a100-80", "NVIDIA A100 80GB SXM in a server", 1024, pcie_4, a100),
    nvidia("l40s", "NVIDIA L40S in a server", 512, pcie_4, l40s),
    nvidia("b200", "NVIDIA B200 in a server", 2048, pcie_5, b200),
    nvidia("rtx-5090", "Desktop with an NVIDIA GeForce RTX 5090", 64, pcie_5, rtx_5090),
    nvidia("rtx-4090", "Desktop with an NVIDIA GeForce RTX 4090", 64, pcie_4, rtx_4090),
    nvidia("rtx-4080", "Desktop with an NVIDIA GeForce RTX 4080", 32, pcie_4, rtx_4080),
    nvidia("rtx-3090", "Desktop with an NVIDIA GeForce RTX 3090", 64, pcie_4, rtx_3090),
    nvidia("rtx-3060", "Desktop with an NVIDIA GeForce RTX 3060", 32, pcie_4, rtx_3060),
    nvidia("jetson-orin-agx", "NVIDIA Jetson AGX Orin 64GB", 64, 0, orin),
    nvidia("dgx-spark", "NVIDIA DGX Spark (GB10)", 128, 0, spark),
};

}  // namespace

std::span<const KnownMachine> nvidia_machines() {
  return machines;
}

}  // namespace impetus

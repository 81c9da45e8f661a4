// Machines with an NVIDIA GPU, by NVIDIA's data sheets and architecture papers, without sparsity;
// cited is the page that was read, mostly another's copy of their figures.
// GeForce cards multiply f16 twice as fast when they also add in f16: f16_ops is that peak,
// bf16_ops the one that adds in f32, which f16 has too. Hosts are typical ones: an estimate.
#include "hardware/known_machines_parts.h"

namespace impetus {
namespace {

#define HOPPER_TABLE "https://archive-lib.hpctech.co.jp/gpuproduct/nvidia-h100.html"
#define KLOCKWOOD "https://glennklockwood.com/garden/processors/"
#define AMPERE_TABLE \
  "https://holynerdvana.blogspot.com/2022/10/nvidia-geforce-rtx-3090-specifications.html"

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
constexpr KnownProcessor epyc_host =
    cpu_by_cycles("cpu-avx2", "host CPU: AMD EPYC 7742", 64, 2.25, avx2, 204.8 * giga,
                  "not re-read; estimate: one socket of a typical host (DGX A100 has two EPYC "
                  "7742), at its base clock of 2.25 GHz; 8 channels of DDR4-3200");
constexpr KnownProcessor desktop_host =
    cpu_by_cycles("cpu-avx512", "host CPU: AMD Ryzen 9 7950X", 16, 4.5, zen4, 83.2 * giga,
                  "estimate: a typical desktop; figures as of ryzen-7950x");

constexpr int64_t gb = 1000 * 1000 * 1000;

constexpr KnownProcessor h200[] = {
    xeon_host, gpu("NVIDIA H200 SXM", 132, 4800, 67, 989, 989, 1979, 141 * gb,
                   "https://aiwiki.ai/wiki/nvidia_h200: 141 GB, 4.8 TB/s, arithmetic as of the "
                   "H100. Measured for this project: reads 4.56 TB/s, bf16 GEMM 770 TFLOPS")};
constexpr KnownProcessor h100[] = {
    xeon_host, gpu("NVIDIA H100 SXM", 132, 3350, 67, 989, 989, 1979, 80 * gb,
                   HOPPER_TABLE ": 3,350 GB/s, halves of the figures with sparsity")};
constexpr KnownProcessor h100_pcie[] = {
    xeon_host, gpu("NVIDIA H100 PCIe", 114, 2000, 51, 756, 756, 1513, 80 * gb,
                   HOPPER_TABLE ": 2,000 GB/s, halves of the figures with sparsity")};
constexpr KnownProcessor a100[] = {
    epyc_host, gpu("NVIDIA A100 80GB SXM", 108, 2039, 19.5, 312, 312, 624, 80 * gb,
                   KLOCKWOOD "A100: 2,039 GB/s, dense figures")};
constexpr KnownProcessor l40s[] = {
    xeon_host,
    gpu("NVIDIA L40S", 142, 864, 91.6, 362, 362, 733, 48 * gb,
        "https://www.mullet.se/product.html?product_id=355414: 864 GB/s, dense figures; int8: "
        "https://hmc-tech.com/gpu/nvidia-l40s-vs-nvidia-t40")};
constexpr KnownProcessor b200[] = {
    xeon_host,
    gpu("NVIDIA B200", 148, 7700, 75, 2250, 2250, 4500, 180 * gb,
        KLOCKWOOD
        "B200: f16, bf16 and int8, dense, of HGX at 1,000 W; f32, not re-read: an eighth of "
        "HGX B200's 600 TFLOPS (that page has 80); 180 GB and 7.7 TB/s: "
        "https://github.com/pytorch/pytorch/pull/193471; SMs, and 7.67 TB/s as the driver tells: "
        "https://github.com/pytorch/ao/pull/4002")};
constexpr KnownProcessor rtx_5090[] = {
    desktop_host,
    gpu("NVIDIA GeForce RTX 5090", 170, 1792, 104.8, 419, 209.5, 838, 32 * gib,
        "https://main-horse.github.io/posts/5090-mm-perf: SMs and dense peaks; 1,792 GB/s, 32 GB: "
        "https://www.spheron.network/blog/nvidia-rtx-5090-specs/")};
constexpr KnownProcessor rtx_4090[] = {
    desktop_host, gpu("NVIDIA GeForce RTX 4090", 128, 1008, 82.6, 330.3, 165.2, 660.6, 24 * gib,
                      "https://gigagpu.com/?p=34220: SMs and dense peaks; 1,008 GB/s, 24 GB: "
                      "https://waredb.com/processor/nvidia-geforce-rtx-4090")};
constexpr KnownProcessor rtx_4080[] = {
    desktop_host, gpu("NVIDIA GeForce RTX 4080", 76, 716.8, 48.7, 194.9, 97.5, 389.9, 16 * gib,
                      "https://www.holynerdvana.com/2022/10/"
                      "nvidia-geforce-rtx-4080-specifications.html: SMs, f32, 717 "
                      "GB/s, f16 as half of 390 with sparsity; bf16 half of f16 and int8 twice, as "
                      "on the RTX 4090")};
constexpr KnownProcessor rtx_3090[] = {
    desktop_host,
    gpu("NVIDIA GeForce RTX 3090", 82, 936, 35.6, 142, 71, 284, 24 * gib,
        AMPERE_TABLE
        ": SMs, f32, f16, 936 GB/s; bf16 half of f16 and int8 twice, as on the RTX 4090")};
constexpr KnownProcessor rtx_3060[] = {
    desktop_host,
    gpu("NVIDIA GeForce RTX 3060 12 GB", 28, 360, 12.7, 51, 25.5, 102, 12 * gib,
        "https://pcpartdb.com/gpus/view/nvidia-geforce-rtx-3060-12-gb-ga104: 3,584 lanes at 1.777 "
        "GHz, 360 GB/s; matrix rates, estimate: the RTX 3090's by SM and clock")};

constexpr KnownProcessor orin[] = {
    cpu_by_cycles(
        "cpu-neon", "12 x Arm Cortex-A78AE", 12, 2.2, neon_2, 102 * giga,
        "http://mzph.cn/web/30785.shtml, after NVIDIA's technical brief: cores; not re-read: 2.2 "
        "GHz, two 128-bit units; bandwidth, estimate: half of the memory's"),
    gpu("NVIDIA Jetson AGX Orin 64GB GPU", 16, 204.8, 5.3, 42.5, 42.5, 85, 0,
        "http://mzph.cn/web/30785.shtml, after NVIDIA's technical brief: SMs, 5.3 TFLOPS, 170 "
        "sparse int8 TOPS, so 85 dense; not re-read: 204.8 GB/s; f16, estimate: half of int8; the "
        "two DLAs are not counted")};
constexpr KnownProcessor spark[] = {
    cpu_by_cycles("cpu-neon", "10 x Arm Cortex-X925, 10 x Cortex-A725", 20, 3.3, neon_4_bf16,
                  180 * giga,
                  "https://ai-infrastructure.net/dgx-spark/: cores; estimate: "
                  "3.3 GHz over both kinds, four 128-bit units (X925 has six, A725 two); "
                  "bandwidth, estimate: two thirds of the memory's"),
    gpu("NVIDIA GB10 GPU", 48, 273, 31, 125, 125, 250, 0,
        "https://ai-infrastructure.net/dgx-spark/: 273 GB/s, 128 GB, 6,144 lanes, 1 PFLOPS fp4 "
        "with sparsity; f32: 31 TFLOPS, https://meterpreter.org/"
        "a-supercomputer-on-your-desk-nvidia-unveils-the-dgx-spark-ai-superchip; f16 and int8, "
        "estimate: an eighth and a quarter of the sparse fp4 figure (others put f16 at half of "
        "that, https://whylucian.github.io/softab/docs/hardware-specs.html)")};

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

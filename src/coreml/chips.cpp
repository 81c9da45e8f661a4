#include "coreml/chips.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <string>

#include <fmt/format.h>

namespace impetus::coreml {
namespace {

constexpr int64_t MiB = int64_t{1} << 20;
constexpr double giga = 1e9, tera = 1e12, micro = 1e-6;

// ANEForge: https://github.com/sbryngelson/ANEForge, docs/cross-chip.md (limits, families),
// docs/op-catalog.md (operations), bench/results/ROOFLINES.md (measured matrix products).
#define LIMITS_CROSS_CHIP "ANEForge docs/cross-chip.md"
#define ROOFLINES "ANEForge bench/results/ROOFLINES.md"
#define MADERIX "https://maderix.substack.com/p/inside-the-m4-apple-neural-engine-615"
// fp16 TOPS that Apple printed, times 0.8: the M4 reached 0.99 of them, the M5 0.68 (of 18.2,
// https://gist.github.com/Anemll/49e219448ad350ef67ff4bfdcb9ebd8c).
constexpr double kShareOfPrinted = 0.8;

constexpr std::array kChips = {
    Chip{.name = "m1",
         .family = "H13",
         .extent_max = 16384,
         .kernel_width_max = 13,
         .fp16_flops = 11 * kShareOfPrinted * tera,
         .matmul_flops = 4.3 * tera,
         .bytes_per_second = 45 * giga,
         .launch_seconds = 220 * micro,
         .working_set_bytes = 32 * MiB,
         .limits = LIMITS_CROSS_CHIP ", measured on M1",
         .figures = "launch 0.22 ms measured (brief D); products 4.3 TFLOPS measured (" ROOFLINES
                    "); convolutions estimated: 0.8 of Apple's 11 TOPS; bandwidth estimated: the "
                    "lower end of 45-60 GB/s; working set estimated: as M4"},
    Chip{.name = "m2",
         .family = "H14",
         .extent_max = 16384,
         .kernel_width_max = 13,
         .streams_int8 = true,
         .fp16_flops = 15.8 * kShareOfPrinted * tera,
         .matmul_flops = 4.3 * tera,
         .bytes_per_second = 45 * giga,
         .launch_seconds = 180 * micro,
         .working_set_bytes = 32 * MiB,
         .limits = LIMITS_CROSS_CHIP ", measured on H14; kernel width estimated: as M1",
         .figures =
             "products estimated: as M1 (an M2 Pro measured 3.4 TFLOPS, " ROOFLINES
             "); convolutions estimated: 0.8 of Apple's 15.8 TOPS; launch estimated: between "
             "M1 and M4; bandwidth estimated: as M1; working set estimated: as M4"},
    Chip{.name = "m3",
         .family = "H15",
         .extent_max = 16384,
         .kernel_width_max = 13,
         .sine = true,
         .streams_int8 = true,
         .streams_blocks = true,
         .fp16_flops = 18 * kShareOfPrinted * tera,
         .matmul_flops = 4.9 * tera,
         .bytes_per_second = 45 * giga,
         .launch_seconds = 140 * micro,
         .working_set_bytes = 32 * MiB,
         .limits = LIMITS_CROSS_CHIP ", from the compiler's tables: nobody measured an M3; kernel "
                                     "width estimated: as M1; late slices estimated: wrong before "
                                     "H16",
         .figures = "nothing measured; products and launch estimated: between M1 and M4; "
                    "convolutions estimated: 0.8 of Apple's 18 TOPS; bandwidth estimated: as M1; "
                    "working set estimated: as M4"},
    Chip{.name = "m4",
         .family = "H16",
         .extent_max = 65536,
         .kernel_width_max = 15,
         .sine = true,
         .fast_int8 = true,
         .late_slices = true,
         .streams_int8 = true,
         .streams_blocks = true,
         .fp16_flops = 18.8 * tera,
         .matmul_flops = 5.4 * tera,
         .bytes_per_second = 57 * giga,
         .launch_seconds = 95 * micro,
         .working_set_bytes = 32 * MiB,
         .limits = LIMITS_CROSS_CHIP "; kernel width: as M5",
         .figures = "convolutions 18.6-19 TFLOPS, 35 TOPS with 8-bit weights and activations, "
                    "launch 95 us, working set near 32 MB measured (brief D; " MADERIX
                    " finds no faster int8); products 5.4 TFLOPS measured (" ROOFLINES
                    "); bandwidth estimated: as M5"},
    Chip{.name = "m5",
         .family = "H17s",
         .extent_max = 65536,
         .kernel_width_max = 15,
         .sine = true,
         .fast_int8 = true,
         .late_slices = true,
         .streams_int8 = true,
         .streams_blocks = true,
         .fp16_flops = 12.3 * tera,
         .matmul_flops = 8.7 * tera,
         .bytes_per_second = 57 * giga,
         .launch_seconds = 90 * micro,
         .working_set_bytes = 32 * MiB,
         .limits = LIMITS_CROSS_CHIP ", measured on M5",
         .figures = "convolutions 12.2-12.4 TFLOPS, 57 GB/s, launch 70-110 us measured (brief D); "
                    "products 8.7 TFLOPS measured (" ROOFLINES "); working set estimated: as M4"},
};

}  // namespace

std::span<const Chip> chips() {
  return kChips;
}

const Chip* find_chip(std::string_view name) {
  std::string wanted(name.substr(0, name.find('-')));
  std::ranges::transform(wanted, wanted.begin(),
                         [](unsigned char letter) { return std::tolower(letter); });
  const auto found = std::ranges::find(kChips, wanted, &Chip::name);
  return found == kChips.end() ? nullptr : &*found;
}

std::string chips_markdown() {
  std::string text =
      "| chip | family | extents | kernel width | convolutions | products | bandwidth | launch | "
      "sources |\n|---|---|---|---|---|---|---|---|---|\n";
  for (const Chip& chip : kChips) {
    text += fmt::format(
        "| {} | {} | {} | {} | {:.1f} TFLOPS | {:.1f} TFLOPS | {:.0f} GB/s | {:.0f} us | limits: "
        "{}. Rates: {} |\n",
        chip.name, chip.family, chip.extent_max, chip.kernel_width_max, chip.fp16_flops / tera,
        chip.matmul_flops / tera, chip.bytes_per_second / giga, chip.launch_seconds / micro,
        chip.limits, chip.figures);
  }
  return text;
}

}  // namespace impetus::coreml

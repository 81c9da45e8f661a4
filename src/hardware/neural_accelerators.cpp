#include "hardware/neural_accelerators.h"

#include <charconv>

#include <fmt/format.h>

#include "hardware/known_machines.h"

namespace impetus {
namespace {

// A small number at the start, which is taken off; 0 where there is none.
int take_number(std::string_view& text) {
  int value = 0;
  const auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (code != std::errc() || value < 0 || value > 9999) return 0;
  text.remove_prefix(static_cast<size_t>(end - text.data()));
  return value;
}

}  // namespace

AppleGpu parse_apple_gpu(std::string_view architecture) {
  constexpr std::string_view kPrefix = "applegpu_g";
  if (!architecture.starts_with(kPrefix)) return {};
  architecture.remove_prefix(kPrefix.size());
  AppleGpu gpu;
  gpu.generation = take_number(architecture);
  if (gpu.generation == 0 || architecture.size() > 1) return {};
  if (!architecture.empty()) {
    if (architecture.front() < 'a' || architecture.front() > 'z') return {};
    gpu.suffix = architecture.front();
  }
  return gpu;
}

MacosVersion parse_macos_version(std::string_view text) {
  MacosVersion version;
  version.major = take_number(text);
  if (version.major > 0 && text.starts_with('.')) {
    text.remove_prefix(1);
    version.minor = take_number(text);
  }
  return version;
}

NeuralAcceleratorRule neural_accelerator_rule(int macos_major, int macos_minor, int gpu_generation,
                                              char gpu_suffix) {
  if (gpu_generation <= 0) return {false, "the GPU's generation is not known"};
  const int first = gpu_suffix == 'p' ? 18 : 17;
  if (gpu_generation < first) {
    return {false,
            fmt::format("GPU generation {}{}: neural accelerators begin with {}{}", gpu_generation,
                        gpu_suffix == 'p' ? "p" : "", first, gpu_suffix == 'p' ? "p" : " (M5)")};
  }
  if (macos_major < 26 || (macos_major == 26 && macos_minor < 2)) {
    return {false,
            fmt::format("macOS {}.{}: they are used from 26.2 on", macos_major, macos_minor)};
  }
  return {true, fmt::format("GPU generation {} and macOS {}.{}", gpu_generation, macos_major,
                            macos_minor)};
}

}  // namespace impetus

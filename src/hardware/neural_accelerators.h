// Apple's GPU names, and whether MLX uses the neural accelerators of such a GPU
// (neural_accelerator_rule, declared in known_machines.h).
#pragma once

#include <string_view>

namespace impetus {

struct AppleGpu {
  int generation = 0;  // 13 (M1) ... 17 (M5); 0: no such name
  char suffix = 0;     // 'g', 's', 'c', 'd', 'p'; 0: none
};

// Metal's architecture names: "applegpu_g16s" is generation 16, suffix 's'.
AppleGpu parse_apple_gpu(std::string_view architecture);

// "26.2" or "15.6.1": major and minor version; 0 and 0 where it is no version.
struct MacosVersion {
  int major = 0;
  int minor = 0;
};
MacosVersion parse_macos_version(std::string_view text);

}  // namespace impetus

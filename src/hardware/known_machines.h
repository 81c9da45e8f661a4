// Machines of the world, from their makers' data sheets, so that any of them can be planned on
// paper. A source stands behind every figure; estimates say that they are estimates. "not re-read"
// in a source: the figure was entered from memory or notes, and no page seen since then confirms
// it; it goes for what follows, up to the next source, and in brackets for what stands before.
// "copies agree": the page itself was out of reach, but others' copies of it have the same figures.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "hardware/inventory.h"

namespace impetus {

// One processor of a machine, by data sheet. Rates are dense peaks, in operations a second
// (multiply and add as two) and bytes a second; 0: the processor does not have it.
struct KnownProcessor {
  const char* device;  // "cpu", "gpu0", "npu0"
  const char*
      backend;  // what of Impetus would drive it: "cpu-avx512", "cpu-neon", "cuda", "mlx", "coreml"
  const char* name;                // "Apple M4 Max GPU, 40 cores"
  int cores;                       // performance cores; SMs; GPU cores; NPU cores
  double memory_bytes_per_second;  // that this processor can reach
  double f32_ops, f16_ops, bf16_ops, int8_ops;
  int64_t memory_bytes;  // of its own; 0: the machine's
  const char* source;    // URLs and words: where each figure stands, and what is estimated
};

struct KnownMachine {
  const char* id;  // "m4-max", "h200", "rtx-4090", "xeon-8480", "raspberry-pi-5"
  const char* name;
  int64_t memory_bytes;  // of the usual configuration
  bool unified;
  double link_bytes_per_second;  // between host and GPU memory, where not unified (PCIe)
  // Apple GPUs: MLX uses the neural accelerators where the macOS is at least 26.2 and the GPU's
  // generation at least 17 (18 for those whose architecture ends in 'p').
  int gpu_generation;  // 13 (M1) ... 17 (M5); 0: no Apple GPU
  char gpu_suffix;     // 'g', 's', 'c', 'd', 'p'; 0
  // Operations a second of the GPU with its neural accelerators in use; 0: it has none.
  double neural_accelerator_f16_ops, neural_accelerator_int8_ops;
  std::span<const KnownProcessor> processors;
};

std::span<const KnownMachine> known_machines();
const KnownMachine* find_known_machine(
    std::string_view id);  // null where unknown; case-insensitive

// MLX's own rule, for a real GPU and for one on paper (briefs: detection on macOS).
struct NeuralAcceleratorRule {
  bool used;
  std::string why;
};
NeuralAcceleratorRule neural_accelerator_rule(int macos_major, int macos_minor, int gpu_generation,
                                              char gpu_suffix);

// A speed somebody published for a machine of the table, to hold predictions against.
struct PublishedRate {
  const char* machine;  // id
  const char* device;   // "gpu0"
  const char* model;    // "llama-2-7b"
  const char* weights;  // "f16", "q8_0", "q4_0", "mlx-4bit", "bf16"
  const char* phase;    // "prefill" (512 tokens unless said), "decode", "embeddings"
  int prompt;           // tokens
  int batch;            // sequences at once
  double tokens_per_second;
  const char* program;  // "llama.cpp b1234 (Metal)", "mlx-lm 0.28"
  const char* source;   // URL, and whether it was read again
};
std::span<const PublishedRate> published_rates();

}  // namespace impetus

// Speeds that others published, and those measured for this project. Numbers as printed; a rate
// that the machine's data sheet makes impossible is not taken in (known_machines_test.cpp). What
// "not re-read" means: known_machines.h.
#include "hardware/known_machines.h"

namespace impetus {
namespace {

#define NOT_READ " (not re-read)"
#define COPIES_AGREE " (not re-read; copies of its table agree)"
#define METAL_THREAD "https://github.com/ggml-org/llama.cpp/discussions/4167"
#define CUDA_THREAD "https://github.com/ggml-org/llama.cpp/discussions/15013" COPIES_AGREE
#define GPU_BENCHMARKS "https://github.com/XiongjieDai/GPU-Benchmarks-on-LLM-Inference"
#define AI_BENCHMARKS "https://github.com/geerlingguy/ai-benchmarks"
#define MLX_LM "https://github.com/ml-explore/mlx-lm/blob/main/mlx_lm/BENCHMARKS.md"
#define CALM "https://github.com/zeux/calm"
#define IK "https://github.com/ikawrakow/ik_llama.cpp/pull/"
#define STRIX \
  "https://llm-tracker.info/AMD-Strix-Halo-(Ryzen-AI-Max+-395)-GPU-Performance" COPIES_AGREE
#define LUNAR                                             \
  "https://www.reddit.com/r/LocalLLaMA/comments/1gheslj/" \
  "testing_llamacpp_with_intels_xe2_igpu_core_ultra/" COPIES_AGREE
#define SPARK_BENCHES \
  "https://github.com/ggml-org/llama.cpp/blob/master/benches/dgx-spark/dgx-spark.md" COPIES_AGREE
#define ULTRA_BENCHES                                                       \
  "https://github.com/ggml-org/llama.cpp/blob/master/benches/mac-m2-ultra/" \
  "mac-m2-ultra.md" COPIES_AGREE
#define MATMUL "https://justine.lol/matmul/" NOT_READ
#define MEASURED "measured for this project with "

// Llama 2 7B on Apple GPUs: prefill of 512 and decode of 128 tokens; 0: not printed. M1 to M4
// by one build of 2023, M5 by one of 2026.
struct MetalRow {
  const char* machine;
  double f16_prefill, f16_decode, q8_0_prefill, q8_0_decode, q4_0_prefill, q4_0_decode;
  const char* program;
  const char* source;
};
#define BUILD_2023 "llama.cpp 8e672ef (Metal)", METAL_THREAD COPIES_AGREE
#define BUILD_2026 "llama.cpp c1d0e7a (Metal)", METAL_THREAD NOT_READ
constexpr MetalRow metal[] = {
    {"m1", 0, 0, 117.25, 7.91, 117.96, 14.15, BUILD_2023},
    {"m1-pro", 302.14, 12.75, 270.37, 22.34, 266.25, 36.41, BUILD_2023},
    {"m1-max", 599.53, 23.03, 537.37, 40.20, 530.06, 61.19, BUILD_2023},
    {"m1-ultra", 1168.89, 37.01, 1042.95, 59.87, 1030.04, 83.73, BUILD_2023},
    {"m2", 201.34, 6.72, 181.40, 12.21, 179.57, 21.91, BUILD_2023},
    {"m2-pro", 384.38, 13.06, 344.50, 23.01, 341.19, 38.86, BUILD_2023},
    {"m2-max", 755.67, 24.65, 677.91, 41.83, 671.31, 65.95, BUILD_2023},
    {"m2-ultra", 1401.85, 41.02, 1248.59, 66.64, 1238.48, 94.27, BUILD_2023},
    {"m3", 0, 0, 187.52, 12.27, 186.75, 21.34, BUILD_2023},
    {"m3-pro", 357.45, 9.89, 344.66, 17.53, 341.67, 30.74, BUILD_2023},
    {"m3-max-30", 589.41, 19.54, 566.40, 34.30, 567.59, 56.58, BUILD_2023},
    {"m3-max", 779.17, 25.09, 757.64, 42.75, 759.70, 66.31, BUILD_2023},
    {"m3-ultra", 1538.34, 39.78, 1487.51, 63.93, 1471.24, 92.14, BUILD_2023},
    {"m4", 230.18, 7.43, 223.64, 13.54, 221.29, 24.11, BUILD_2023},
    {"m4-pro", 464.48, 17.18, 449.62, 30.69, 439.78, 50.74, BUILD_2023},
    {"m4-max-32", 736.25, 24.29, 718.56, 43.87, 713.93, 69.95, BUILD_2023},
    {"m4-max", 922.83, 31.64, 891.94, 54.05, 885.68, 83.06, BUILD_2023},
    {"m5", 0, 0, 0, 0, 0, 31.88, BUILD_2026},
    {"m5-pro", 0, 21.6, 0, 38.9, 1620.6, 66.33, BUILD_2026},
    {"m5-max", 0, 37.11, 0, 72.4, 3220.0, 119.92, BUILD_2026},
};

constexpr PublishedRate others[] = {
    // llama.cpp's own thread for CUDA.
    {"rtx-5090", "gpu0", "llama-2-7b", "q4_0", "prefill", 512, 1, 14073.41,
     "llama.cpp 8cf6b42 (CUDA)", CUDA_THREAD},
    {"rtx-5090", "gpu0", "llama-2-7b", "q4_0", "decode", 0, 1, 290.02, "llama.cpp 8cf6b42 (CUDA)",
     CUDA_THREAD},
    {"rtx-4090", "gpu0", "llama-2-7b", "q4_0", "prefill", 512, 1, 11992.70,
     "llama.cpp 2241453 (CUDA)", CUDA_THREAD},
    {"rtx-4090", "gpu0", "llama-2-7b", "q4_0", "decode", 0, 1, 186.21, "llama.cpp 2241453 (CUDA)",
     CUDA_THREAD},
    {"h100", "gpu0", "llama-2-7b", "q4_0", "prefill", 512, 1, 9918.34,
     "llama.cpp 5143fa8 (CUDA; 'H100 80GB')", CUDA_THREAD},
    {"h100", "gpu0", "llama-2-7b", "q4_0", "decode", 0, 1, 267.81,
     "llama.cpp 5143fa8 (CUDA; 'H100 80GB')", CUDA_THREAD},
    {"rtx-3090", "gpu0", "llama-2-7b", "q4_0", "prefill", 512, 1, 5174.69,
     "llama.cpp c76b420 (CUDA)", CUDA_THREAD},
    {"rtx-3090", "gpu0", "llama-2-7b", "q4_0", "decode", 0, 1, 158.16, "llama.cpp c76b420 (CUDA)",
     CUDA_THREAD},
    {"a100-80", "gpu0", "llama-2-7b", "q4_0", "prefill", 512, 1, 4849.53,
     "llama.cpp 5143fa8 (CUDA; 'A100 80GB')", CUDA_THREAD},
    {"a100-80", "gpu0", "llama-2-7b", "q4_0", "decode", 0, 1, 190.88,
     "llama.cpp 5143fa8 (CUDA; 'A100 80GB')", CUDA_THREAD},
    {"dgx-spark", "gpu0", "llama-2-7b", "q4_0", "prefill", 512, 1, 3062.31,
     "llama.cpp 5acd455 (CUDA)", CUDA_THREAD},
    {"dgx-spark", "gpu0", "llama-2-7b", "q4_0", "decode", 0, 1, 57.21, "llama.cpp 5acd455 (CUDA)",
     CUDA_THREAD},
    {"dgx-spark", "gpu0", "qwen2.5-7b", "q8_0", "prefill", 2048, 1, 2250.28,
     "llama.cpp b7941 (CUDA)", SPARK_BENCHES},
    {"dgx-spark", "gpu0", "qwen2.5-7b", "q8_0", "decode", 0, 1, 29.43, "llama.cpp b7941 (CUDA)",
     SPARK_BENCHES},
    {"m2-ultra", "gpu0", "qwen2.5-7b", "q8_0", "prefill", 2048, 1, 1565.91,
     "llama.cpp b7948 (Metal)", ULTRA_BENCHES},
    {"m2-ultra", "gpu0", "qwen2.5-7b", "q8_0", "decode", 0, 1, 79.68, "llama.cpp b7948 (Metal)",
     ULTRA_BENCHES},

    // GPU-Benchmarks-on-LLM-Inference: Llama 3 of May 2024 (decode of 512 tokens), Llama 2 of
    // December 2023, where the length of the prompt is not said and prefill is left out.
    {"rtx-4080", "gpu0", "llama-3-8b", "q4_k_m", "prefill", 512, 1, 5389.74,
     "llama.cpp, May 2024 (CUDA)", GPU_BENCHMARKS},
    {"rtx-4080", "gpu0", "llama-3-8b", "q4_k_m", "decode", 0, 1, 108.15,
     "llama.cpp, May 2024 (CUDA)", GPU_BENCHMARKS},
    {"rtx-4080", "gpu0", "llama-3-8b", "f16", "prefill", 512, 1, 7246.97,
     "llama.cpp, May 2024 (CUDA)", GPU_BENCHMARKS},
    {"rtx-4080", "gpu0", "llama-3-8b", "f16", "decode", 0, 1, 40.58, "llama.cpp, May 2024 (CUDA)",
     GPU_BENCHMARKS},
    {"rtx-3090", "gpu0", "llama-3-8b", "q4_k_m", "prefill", 512, 1, 4030.40,
     "llama.cpp, May 2024 (CUDA)", GPU_BENCHMARKS},
    {"rtx-3090", "gpu0", "llama-3-8b", "q4_k_m", "decode", 0, 1, 115.42,
     "llama.cpp, May 2024 (CUDA)", GPU_BENCHMARKS},
    {"rtx-3090", "gpu0", "llama-3-8b", "f16", "prefill", 512, 1, 4444.65,
     "llama.cpp, May 2024 (CUDA)", GPU_BENCHMARKS},
    {"rtx-3090", "gpu0", "llama-3-8b", "f16", "decode", 0, 1, 47.40, "llama.cpp, May 2024 (CUDA)",
     GPU_BENCHMARKS},
    {"rtx-4090", "gpu0", "llama-3-8b", "q4_k_m", "prefill", 512, 1, 7138.99,
     "llama.cpp, May 2024 (CUDA)", GPU_BENCHMARKS},
    {"rtx-4090", "gpu0", "llama-3-8b", "q4_k_m", "decode", 0, 1, 130.58,
     "llama.cpp, May 2024 (CUDA)", GPU_BENCHMARKS},
    {"rtx-4090", "gpu0", "llama-3-8b", "f16", "prefill", 512, 1, 9382.00,
     "llama.cpp, May 2024 (CUDA)", GPU_BENCHMARKS},
    {"rtx-4090", "gpu0", "llama-3-8b", "f16", "decode", 0, 1, 54.84, "llama.cpp, May 2024 (CUDA)",
     GPU_BENCHMARKS},
    {"m1-max", "gpu0", "llama-3-8b", "q4_k_m", "prefill", 512, 1, 408.23,
     "llama.cpp, May 2024 (Metal)", GPU_BENCHMARKS},
    {"m1-max", "gpu0", "llama-3-8b", "q4_k_m", "decode", 0, 1, 35.73, "llama.cpp, May 2024 (Metal)",
     GPU_BENCHMARKS},
    {"m1-max", "gpu0", "llama-3-8b", "f16", "prefill", 512, 1, 517.34,
     "llama.cpp, May 2024 (Metal)", GPU_BENCHMARKS},
    {"m1-max", "gpu0", "llama-3-8b", "f16", "decode", 0, 1, 18.75, "llama.cpp, May 2024 (Metal)",
     GPU_BENCHMARKS},
    {"m2-ultra", "gpu0", "llama-3-8b", "q4_k_m", "prefill", 512, 1, 994.04,
     "llama.cpp, May 2024 (Metal)", GPU_BENCHMARKS},
    {"m2-ultra", "gpu0", "llama-3-8b", "q4_k_m", "decode", 0, 1, 78.81,
     "llama.cpp, May 2024 (Metal)", GPU_BENCHMARKS},
    {"m2-ultra", "gpu0", "llama-3-70b", "q4_k_m", "prefill", 512, 1, 118.79,
     "llama.cpp, May 2024 (Metal)", GPU_BENCHMARKS},
    {"m2-ultra", "gpu0", "llama-3-70b", "q4_k_m", "decode", 0, 1, 12.48,
     "llama.cpp, May 2024 (Metal)", GPU_BENCHMARKS},
    {"m2-ultra", "gpu0", "llama-3-70b", "f16", "decode", 0, 1, 4.76, "llama.cpp, May 2024 (Metal)",
     GPU_BENCHMARKS},
    {"m3-max", "gpu0", "llama-3-8b", "q4_k_m", "prefill", 512, 1, 693.32,
     "llama.cpp, May 2024 (Metal)", GPU_BENCHMARKS},
    {"m3-max", "gpu0", "llama-3-8b", "q4_k_m", "decode", 0, 1, 48.97, "llama.cpp, May 2024 (Metal)",
     GPU_BENCHMARKS},
    {"m3-max", "gpu0", "llama-3-8b", "f16", "prefill", 512, 1, 769.84,
     "llama.cpp, May 2024 (Metal)", GPU_BENCHMARKS},
    {"m3-max", "gpu0", "llama-3-8b", "f16", "decode", 0, 1, 22.04, "llama.cpp, May 2024 (Metal)",
     GPU_BENCHMARKS},
    {"m3-max", "gpu0", "llama-3-70b", "q4_k_m", "decode", 0, 1, 7.65, "llama.cpp, May 2024 (Metal)",
     GPU_BENCHMARKS},
    {"a100-80", "gpu0", "llama-2-7b", "f16", "decode", 0, 1, 73.83,
     "llama.cpp, December 2023 (CUDA; 'A100 80GB')", GPU_BENCHMARKS},
    {"a100-80", "gpu0", "llama-2-70b", "q4_0", "decode", 0, 1, 25.68,
     "llama.cpp, December 2023 (CUDA; 'A100 80GB')", GPU_BENCHMARKS},
    {"h100-pcie", "gpu0", "llama-2-7b", "f16", "decode", 0, 1, 83.32,
     "llama.cpp, December 2023 (CUDA)", GPU_BENCHMARKS},
    {"h100-pcie", "gpu0", "llama-2-7b", "q4_0", "decode", 0, 1, 133.77,
     "llama.cpp, December 2023 (CUDA)", GPU_BENCHMARKS},
    {"h100-pcie", "gpu0", "llama-2-70b", "q4_0", "decode", 0, 1, 25.88,
     "llama.cpp, December 2023 (CUDA)", GPU_BENCHMARKS},

    // Engines that aim at one stream.
    {"rtx-4090", "gpu0", "llama-2-7b", "f16", "decode", 0, 1, 67, "calm", CALM},
    {"rtx-4090", "gpu0", "llama-2-7b", "fp8", "decode", 0, 1, 128, "calm", CALM},
    {"rtx-4090", "gpu0", "mistral-7b", "f16", "decode", 0, 1, 63, "calm", CALM},
    {"rtx-4090", "gpu0", "mistral-7b", "fp8", "decode", 0, 1, 120, "calm", CALM},
    {"h100", "gpu0", "llama-3.1-8b", "bf16", "decode", 0, 1, 158.34, "SGLang, no speculation",
     "https://docs.sglang.io/advanced_features/speculative_decoding.html"},

    // One author's many machines; Llama files of Ollama's default, Q4_K_M.
    {"rtx-5090", "gpu0", "llama-3.2-3b", "q4_k_m", "decode", 0, 1, 271.40, "llama.cpp or Ollama",
     AI_BENCHMARKS},
    {"rtx-4090", "gpu0", "llama-3.2-3b", "q4_k_m", "decode", 0, 1, 334.67,
     "llama.cpp b7340 (Vulkan)", AI_BENCHMARKS},
    {"rtx-3060", "gpu0", "llama-3.2-3b", "q4_k_m", "decode", 0, 1, 122.85,
     "llama.cpp b7293 (Vulkan)", AI_BENCHMARKS},
    {"dgx-spark", "gpu0", "llama-3.2-3b", "q4_k_m", "decode", 0, 1, 97.93, "llama.cpp or Ollama",
     AI_BENCHMARKS},
    {"dgx-spark", "gpu0", "llama-3.1-70b", "q4_k_m", "decode", 0, 1, 4.71, "llama.cpp or Ollama",
     AI_BENCHMARKS},
    {"m3-ultra", "gpu0", "llama-3.2-3b", "q4_k_m", "decode", 0, 1, 154.60, "llama.cpp or Ollama",
     AI_BENCHMARKS},
    {"m3-ultra", "gpu0", "llama-3.1-70b", "q4_k_m", "decode", 0, 1, 14.08, "llama.cpp or Ollama",
     AI_BENCHMARKS},
    {"m1-ultra", "gpu0", "llama-3.2-3b", "q4_k_m", "decode", 0, 1, 127.6, "llama.cpp or Ollama",
     AI_BENCHMARKS},
    {"m1-ultra", "gpu0", "llama-3.1-70b", "q4_k_m", "decode", 0, 1, 9.84, "llama.cpp or Ollama",
     AI_BENCHMARKS},
    {"m4", "gpu0", "llama-3.2-3b", "q4_k_m", "decode", 0, 1, 41.31, "llama.cpp or Ollama",
     AI_BENCHMARKS},
    {"raspberry-pi-5", "cpu", "llama-3.2-3b", "q4_k_m", "decode", 0, 1, 4.88, "Ollama",
     AI_BENCHMARKS "/issues/7"},
    {"raspberry-pi-5", "cpu", "llama-3.1-8b", "q4_k_m", "decode", 0, 1, 2.17, "Ollama",
     AI_BENCHMARKS "/issues/7"},
    {"raspberry-pi-5", "cpu", "llama-2-13b", "q4_0", "decode", 0, 1, 1.36, "Ollama",
     AI_BENCHMARKS "/issues/7"},
    {"raspberry-pi-4", "cpu", "llama-3.2-3b", "q4_k_m", "decode", 0, 1, 1.60,
     "Ollama (Raspberry Pi 400: the same chip)", AI_BENCHMARKS},
    {"raspberry-pi-5", "cpu", "tinyllama-1.1b", "q8_0", "decode", 0, 1, 9, "llamafile 0.7", MATMUL},
    {"raspberry-pi-4", "cpu", "tinyllama-1.1b", "q8_0", "decode", 0, 1, 3, "llamafile 0.7", MATMUL},
    {"m2-ultra", "cpu", "mistral-7b", "q8_0", "decode", 0, 1, 27, "llama.cpp of 2024-03-26",
     MATMUL},

    // MLX.
    {"m4-max", "gpu0", "qwen3-4b", "bf16", "prefill", 2048, 1, 1780.63, "mlx-lm 0.28.2", MLX_LM},
    {"m4-max", "gpu0", "qwen3-4b", "bf16", "decode", 2048, 1, 52.47, "mlx-lm 0.28.2", MLX_LM},
    {"m4-max", "gpu0", "qwen3-4b", "mlx-8bit", "prefill", 2048, 1, 1606.57, "mlx-lm 0.28.2",
     MLX_LM},
    {"m4-max", "gpu0", "qwen3-4b", "mlx-8bit", "decode", 2048, 1, 86.91, "mlx-lm 0.28.2", MLX_LM},
    {"m4-max", "gpu0", "qwen3-4b", "mlx-4bit", "prefill", 2048, 1, 1622.27, "mlx-lm 0.28.2",
     MLX_LM},
    {"m4-max", "gpu0", "qwen3-4b", "mlx-4bit", "decode", 2048, 1, 134.52, "mlx-lm 0.28.2", MLX_LM},
    {"m3-pro", "gpu0", "qwen3-4b", "mlx-4bit", "prefill", 2048, 1, 615.28, "mlx-lm 0.31.3",
     "https://github.com/ml-explore/mlx-lm/pull/1569"},
    {"m3-pro", "gpu0", "qwen3-4b", "mlx-4bit", "decode", 2048, 1, 44.62, "mlx-lm 0.31.3",
     "https://github.com/ml-explore/mlx-lm/pull/1569"},
    {"m4-max", "gpu0", "qwen3-8b", "mlx-4bit", "decode", 0, 1, 79.9, "mlx-lm",
     "https://arxiv.org/abs/2601.19139" NOT_READ},
    {"m4-max", "gpu0", "llama-3.2-3b", "mlx-4bit", "decode", 0, 1, 167.5, "mlx-lm",
     "https://arxiv.org/abs/2601.19139" NOT_READ},
    {"m4-pro", "gpu0", "llama-3.2-3b", "mlx-4bit", "decode", 0, 1, 112.1, "MLX",
     "https://arxiv.org/abs/2607.00501" NOT_READ},
    {"m3-ultra", "gpu0", "llama-3.1-8b", "mlx-4bit", "decode", 1024, 1, 119.14, "MLX 0.30.7",
     "https://github.com/guruswami-ai/mlx-benchmarks"},
    {"m3-ultra", "gpu0", "llama-3.1-8b", "mlx-8bit", "decode", 1024, 1, 73.85, "MLX 0.30.7",
     "https://github.com/guruswami-ai/mlx-benchmarks"},

    // A Neural Engine, by direct access.
    {"m5-pro", "npu0", "tinyllama-1.1b", "f16", "decode", 0, 1, 62, "ANEForge",
     "https://huggingface.co/aneforge/llm-text-generation" NOT_READ},

    // CPUs.
    {"ryzen-7950x", "cpu", "llama-3.1-8b", "q4_0", "prefill", 512, 1, 165.26,
     "ik_llama.cpp, 16 threads", IK "54"},
    {"ryzen-7950x", "cpu", "llama-3.1-8b", "q8_0", "prefill", 512, 1, 169.26,
     "ik_llama.cpp, 16 threads", IK "54"},
    {"ryzen-7950x", "cpu", "llama-3.1-8b", "q4_0", "decode", 0, 1, 13.88, "ik_llama.cpp, 4 threads",
     IK "54"},
    {"ryzen-7950x", "cpu", "llama-3.1-8b", "q8_0", "decode", 0, 1, 7.79, "ik_llama.cpp, 4 threads",
     IK "54"},
    {"ryzen-7950x", "cpu", "llama-3.1-8b", "bf16", "prefill", 512, 1, 205, "ik_llama.cpp", IK "39"},
    {"ryzen-7950x", "cpu", "llama-3.1-8b", "q4_k_s", "prefill", 512, 1, 267.69,
     "ik_llama.cpp, 16 threads", IK "182"},
    {"ryzen-7950x", "cpu", "llama-3.1-8b", "q5_0", "prefill", 512, 1, 256.70,
     "ik_llama.cpp, 16 threads", IK "121"},
    {"ryzen-7950x", "cpu", "llama-3.1-8b", "q5_0", "decode", 0, 1, 11.73, "ik_llama.cpp, 4 threads",
     IK "121"},
    {"m2-max", "cpu", "llama-3.1-8b", "q4_0", "prefill", 512, 1, 128.41, "ik_llama.cpp",
     IK "546" NOT_READ},
    {"m2-max", "cpu", "llama-3.1-8b", "q8_0", "prefill", 512, 1, 128.63, "ik_llama.cpp",
     IK "546" NOT_READ},
    {"m2-max", "cpu", "llama-3.1-8b", "q5_0", "decode", 0, 1, 22.07, "ik_llama.cpp, 8 threads",
     IK "121"},
    {"ryzen-ai-max-395", "cpu", "llama-2-7b", "q4_0", "prefill", 512, 1, 294.64,
     "llama.cpp, May 2025", STRIX},
    {"ryzen-ai-max-395", "cpu", "llama-2-7b", "q4_0", "decode", 0, 1, 28.94, "llama.cpp, May 2025",
     STRIX},
    {"ryzen-ai-max-395", "gpu0", "llama-2-7b", "q4_0", "prefill", 512, 1, 881.71,
     "llama.cpp, May 2025 (Vulkan)", STRIX},
    {"ryzen-ai-max-395", "gpu0", "llama-2-7b", "q4_0", "decode", 0, 1, 52.22,
     "llama.cpp, May 2025 (Vulkan)", STRIX},
    {"core-ultra-258v", "cpu", "llama-2-7b", "q4_0", "prefill", 512, 1, 25.05, "llama.cpp ba6f62eb",
     LUNAR},
    {"core-ultra-258v", "cpu", "llama-2-7b", "q4_0", "decode", 0, 1, 11.59, "llama.cpp ba6f62eb",
     LUNAR},
    {"core-ultra-258v", "gpu0", "llama-2-7b", "q4_0", "prefill", 512, 1, 708.15,
     "IPEX-LLM's llama.cpp, 2024", LUNAR},
    {"core-ultra-258v", "gpu0", "llama-2-7b", "q4_0", "decode", 0, 1, 24.35,
     "IPEX-LLM's llama.cpp, 2024", LUNAR},
    {"snapdragon-x-elite", "cpu", "llama-3-8b", "q4_0", "decode", 0, 1, 18,
     "Ollama, July 2024 (18 to 20 are reported)",
     "https://github.com/ollama/ollama/issues/5360" NOT_READ},
    {"zen4-2core", "cpu", "llama-3.2-1b", "q4_0", "prefill", 512, 1, 185,
     "ik_llama.cpp, August 2026 (181 to 189)", MEASURED "ik_llama.cpp"},
    {"zen4-2core", "cpu", "llama-3.2-1b", "q8_0", "prefill", 512, 1, 185,
     "ik_llama.cpp, August 2026 (181 to 189)", MEASURED "ik_llama.cpp"},
    {"zen4-2core", "cpu", "llama-3.2-1b", "q4_0", "decode", 0, 1, 41,
     "ik_llama.cpp, August 2026 (26 to 41, a shared memory)", MEASURED "ik_llama.cpp"},
    {"zen4-2core", "cpu", "llama-3.2-1b", "q8_0", "decode", 0, 1, 22.4, "ik_llama.cpp, August 2026",
     MEASURED "ik_llama.cpp"},
    {"sapphire-rapids-16core", "cpu", "llama-3.2-1b", "q4_0", "prefill", 512, 1, 688,
     "ik_llama.cpp, August 2026", MEASURED "ik_llama.cpp"},
    {"sapphire-rapids-16core", "cpu", "llama-3.2-1b", "q4_0", "decode", 0, 1, 111,
     "ik_llama.cpp, August 2026", MEASURED "ik_llama.cpp"},

    // H200, measured for this project.
    {"h200", "gpu0", "llama-3.2-1b", "q4_0", "prefill", 2048, 1, 48000,
     "ik_llama.cpp, August 2026 (CUDA)", MEASURED "ik_llama.cpp"},
    {"h200", "gpu0", "llama-3.2-1b", "q4_0", "decode", 0, 1, 903,
     "ik_llama.cpp, August 2026 (CUDA)", MEASURED "ik_llama.cpp"},
    {"h200", "gpu0", "llama-3.2-1b", "f16", "prefill", 2048, 1, 72000,
     "ik_llama.cpp, August 2026 (CUDA)", MEASURED "ik_llama.cpp"},
    {"h200", "gpu0", "llama-3.2-1b", "f16", "decode", 0, 1, 489, "ik_llama.cpp, August 2026 (CUDA)",
     MEASURED "ik_llama.cpp"},
    {"h200", "gpu0", "llama-3.1-8b", "q4_0", "prefill", 2048, 1, 11000,
     "ik_llama.cpp, August 2026 (CUDA)", MEASURED "ik_llama.cpp"},
    {"h200", "gpu0", "llama-3.1-8b", "q4_0", "decode", 0, 1, 324,
     "ik_llama.cpp, August 2026 (CUDA)", MEASURED "ik_llama.cpp"},
    {"h200", "gpu0", "llama-3.1-8b", "q8_0", "prefill", 2048, 1, 11800,
     "ik_llama.cpp, August 2026 (CUDA)", MEASURED "ik_llama.cpp"},
    {"h200", "gpu0", "llama-3.1-8b", "q8_0", "decode", 0, 1, 257,
     "ik_llama.cpp, August 2026 (CUDA)", MEASURED "ik_llama.cpp"},
    {"h200", "gpu0", "llama-3.2-1b", "bf16", "decode", 0, 1, 544,
     "PyTorch 2.11, torch.compile, CUDA graphs", MEASURED "PyTorch"},
    {"h200", "gpu0", "llama-3.1-8b", "bf16", "decode", 0, 1, 140,
     "PyTorch 2.11, torch.compile, CUDA graphs", MEASURED "PyTorch"},
    {"h200", "gpu0", "llama-3.2-1b", "bf16", "decode", 0, 16, 4786,
     "PyTorch 2.11, torch.compile, CUDA graphs", MEASURED "PyTorch"},
    {"h200", "gpu0", "llama-3.1-8b", "bf16", "decode", 0, 16, 1471,
     "PyTorch 2.11, torch.compile, CUDA graphs", MEASURED "PyTorch"},
    {"h200", "gpu0", "llama-3.1-8b", "bf16", "prefill", 2048, 1, 33600, "PyTorch 2.11, SDPA",
     MEASURED "PyTorch"},
    {"h200", "gpu0", "llama-3.1-8b", "bf16", "prefill", 8192, 1, 30900, "PyTorch 2.11, SDPA",
     MEASURED "PyTorch"},
    {"h200", "gpu0", "distilbert-base", "f16", "embeddings", 128, 1, 128 / 0.57e-3,
     "PyTorch 2.11, CUDA graph", MEASURED "PyTorch"},
    {"h200", "gpu0", "distilbert-base", "f16", "embeddings", 128, 256, 4.4e6,
     "PyTorch 2.11, CUDA graph", MEASURED "PyTorch"},
    {"h200", "gpu0", "bert-base", "f16", "embeddings", 128, 1, 128 / 1.12e-3, "PyTorch 2.11",
     MEASURED "PyTorch"},
    {"h200", "gpu0", "bert-base", "f16", "embeddings", 128, 256, 2.2e6, "PyTorch 2.11",
     MEASURED "PyTorch"},
    {"h200", "gpu0", "minilm-l6", "f16", "embeddings", 128, 1, 128 / 0.47e-3, "PyTorch 2.11",
     MEASURED "PyTorch"},
    {"h200", "gpu0", "minilm-l6", "f16", "embeddings", 128, 256, 9.4e6, "PyTorch 2.11",
     MEASURED "PyTorch"},
};

}  // namespace

std::span<const PublishedRate> published_rates() {
  static const std::vector<PublishedRate> all = [] {
    std::vector<PublishedRate> rates(std::begin(others), std::end(others));
    for (const MetalRow& row : metal) {
      const auto add = [&](const char* weights, const char* phase, int prompt, double rate) {
        if (rate == 0) return;
        rates.push_back({row.machine, "gpu0", "llama-2-7b", weights, phase, prompt, 1, rate,
                         row.program, row.source});
      };
      add("f16", "prefill", 512, row.f16_prefill);
      add("f16", "decode", 0, row.f16_decode);
      add("q8_0", "prefill", 512, row.q8_0_prefill);
      add("q8_0", "decode", 0, row.q8_0_decode);
      add("q4_0", "prefill", 512, row.q4_0_prefill);
      add("q4_0", "decode", 0, row.q4_0_decode);
    }
    return rates;
  }();
  return all;
}

}  // namespace impetus

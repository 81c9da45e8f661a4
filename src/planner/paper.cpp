#include "planner/paper.h"

#include <algorithm>
#include <array>

namespace impetus {
namespace {

// Shares of a data sheet's peaks, and costs of launches, by what drives the processor.
struct Shares {
  std::string_view backend;  // as a beginning: "cpu" is every table that has no row of its own
  double read;               // of memory bandwidth, decoding
  double row;                // of the type's peak rate, one row
  double some, many;         // 16 rows; 512
  double attention;          // of the f16 (CPU: f32) peak, many rows
  double step_seconds, layer_seconds;
};

constexpr std::array kShares = {
    Shares{"cpu-neon", 0.60, 0.40, 0.50, 0.60, 0.15, 20e-6, 12e-6},
    Shares{"cpu", 0.80, 0.35, 0.40, 0.48, 0.15, 20e-6, 12e-6},
    Shares{"mlx", 0.84, 0.30, 0.40, 0.72, 0.25, 150e-6, 25e-6},
    Shares{"cuda", 0.92, 0.10, 0.25, 0.42, 0.30, 60e-6, 45e-6},
    Shares{"coreml", 0.90, 0.30, 0.30, 0.35, 0.20, 400e-6, 25e-6},
};

const Shares& shares_of(std::string_view backend) {
  for (const Shares& shares : kShares) {
    if (backend.starts_with(shares.backend)) return shares;
  }
  return kShares[1];
}

constexpr std::array kTypes = {DType::f32, DType::f16, DType::bf16, DType::q8_0, DType::q4_0};

// The rate of products with weights of a type, where many rows share them. A GPU computes on
// quantised weights in f16; a CPU in int8, less what their scales cost.
double peak_of(const KnownProcessor& processor, DType type) {
  const bool cpu = std::string_view(processor.backend).starts_with("cpu");
  double half = std::max(processor.f16_ops, processor.bf16_ops);
  if (half <= 0) half = processor.int8_ops;  // an NPU for integers alone
  // Vectors' dot products, not matrix units such as AMX: no kernel of the CPU backend uses those.
  const double ints = std::clamp(processor.int8_ops, processor.f32_ops, 4 * processor.f32_ops);
  const double brains = std::clamp(processor.bf16_ops, processor.f32_ops, 2 * processor.f32_ops);
  switch (type) {
    case DType::f16:
      return cpu ? processor.f32_ops : half;
    case DType::bf16:
      return cpu ? brains : half;
    case DType::q8_0:
    case DType::q4_0:
      return cpu ? ints * 0.75 : half;
    default:
      return processor.f32_ops > 0 ? processor.f32_ops : half;
  }
}

DeviceProfile paper_profile(const KnownProcessor& processor) {
  const Shares& shares = shares_of(processor.backend);
  const bool cpu = std::string_view(processor.backend).starts_with("cpu");
  DeviceProfile profile;
  profile.device = processor.device;
  profile.backend = processor.backend;
  profile.source = processor.source;
  const int threads = cpu ? std::max(1, processor.cores) : 1;
  profile.read = {{threads, 1, processor.memory_bytes_per_second * shares.read}};
  for (const DType type : kTypes) {
    const double peak = peak_of(processor, type);
    if (peak <= 0) continue;
    // A row alone uses vectors, not matrix units; what it reads takes longer in any case.
    profile.matrix.push_back({type, 1, threads, peak * shares.row});
    profile.matrix.push_back({type, 16, threads, peak * shares.some});
    profile.matrix.push_back({type, 512, threads, peak * shares.many});
    profile.limit_ops_per_second = std::max(profile.limit_ops_per_second, peak);
  }
  const double many = peak_of(processor, cpu ? DType::f32 : DType::f16) * shares.attention;
  profile.attention = {{ShapeClass::prefill, threads, many},
                       {ShapeClass::decode, threads, many * (cpu ? 0.6 : 0.1)},
                       {ShapeClass::encoder, threads, many}};
  for (const ShapeClass shape : {ShapeClass::decode, ShapeClass::encoder}) {
    profile.overhead.push_back({shape, threads, shares.step_seconds, shares.layer_seconds, 0});
  }
  profile.limit_bytes_per_second = processor.memory_bytes_per_second;
  return profile;
}

}  // namespace

NeuralAcceleratorRule neural_accelerators(const KnownMachine& machine,
                                          const PaperOptions& options) {
  if (machine.gpu_generation == 0) return {false, "not an Apple GPU"};
  NeuralAcceleratorRule rule = neural_accelerator_rule(options.macos_major, options.macos_minor,
                                                       machine.gpu_generation, machine.gpu_suffix);
  if (rule.used && machine.neural_accelerator_f16_ops <= 0) return {false, "it has none"};
  return rule;
}

PlanMachine paper_machine(const KnownMachine& known, const PaperOptions& options) {
  PlanMachine machine;
  machine.name = known.name;
  // What the system and other programs need is left to them.
  machine.host_memory_bytes = known.memory_bytes / 4 * 3;
  const NeuralAcceleratorRule rule = neural_accelerators(known, options);
  for (const KnownProcessor& sheet : known.processors) {
    KnownProcessor processor = sheet;
    const bool gpu = std::string_view(processor.device).starts_with("gpu");
    if (gpu && rule.used) {
      processor.f16_ops = std::max(processor.f16_ops, known.neural_accelerator_f16_ops);
      processor.bf16_ops = processor.f16_ops;
      processor.int8_ops = std::max(processor.int8_ops, known.neural_accelerator_int8_ops);
    }
    Processor& one = machine.processors.emplace_back();
    one.device = processor.device;
    one.name = processor.name;
    one.profile = paper_profile(processor);
    one.kv = kv_types_of(one.profile.backend);
    one.shares_host_memory = !gpu || known.unified;
    one.memory_bytes =
        one.shares_host_memory ? machine.host_memory_bytes : processor.memory_bytes / 10 * 9;
    if (gpu && known.gpu_generation > 0) {
      one.name += rule.used ? ", neural accelerators in use (" : ", no neural accelerators (";
      one.name += rule.why + ")";
    }
    if (one.profile.backend.empty()) one.unavailable = "Impetus has no backend for it";
    if (!one.shares_host_memory) {
      one.profile.copy_bytes_per_second = known.link_bytes_per_second;
      one.profile.copy_seconds = 20e-6;
    }
    one.runs_decoders = one.profile.backend != "coreml";
  }
  return machine;
}

DeviceProfile estimated_cpu_profile(const CpuInfo& cpu, const std::string& backend, int threads) {
  const auto has = [&](std::string_view set) {
    return std::ranges::find(cpu.instruction_sets, set) != cpu.instruction_sets.end();
  };
  // A core of today at a sustained 2.5 GHz; f32 operations a cycle by the width of its vectors.
  constexpr double kHertz = 2.5e9;
  double flops = 8;
  if (backend.ends_with("avx512")) flops = 32;
  if (backend.ends_with("avx2")) flops = 32;
  if (backend.ends_with("reference")) flops = 0.5;
  double ints = flops;
  if (backend.ends_with("avx512") && has("avx512_vnni")) ints = 128;
  if (backend.ends_with("avx2")) ints = 48;
  const double cores = threads;
  KnownProcessor guess{};
  guess.device = "cpu";
  guess.backend = backend.c_str();
  guess.name = "";
  guess.cores = threads;
  guess.memory_bytes_per_second = std::min(12e9 * cores, 40e9);
  guess.f32_ops = flops * kHertz * cores;
  guess.bf16_ops = guess.f32_ops * (backend.ends_with("avx512") && has("avx512_bf16") ? 2 : 1);
  guess.int8_ops = ints * kHertz * cores;
  guess.source =
      "a guess from instruction sets and cores: `impetus hardware --measure` replaces it";
  DeviceProfile profile = paper_profile(guess);
  // A guess bounds nothing.
  profile.limit_bytes_per_second = profile.limit_ops_per_second = 0;
  return profile;
}

}  // namespace impetus

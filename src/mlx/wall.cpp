#include "mlx/wall.h"

#include <algorithm>
#include <cctype>
#include <chrono>
#include <cstdlib>
#include <thread>
#include <variant>

#include "base/timing.h"
#include "hardware/nvidia.h"
#include "hardware/processors.h"

namespace impetus::mlx_backend {
namespace {

// Freed buffers that MLX may keep: a step's activations come again in the next one.
constexpr int64_t kCacheBytes = int64_t{512} << 20;

bool contains_any(std::string_view text, std::initializer_list<std::string_view> words) {
  std::string lower(text);
  std::ranges::transform(lower, lower.begin(),
                         [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return std::ranges::any_of(
      words, [&](std::string_view word) { return lower.find(word) != std::string::npos; });
}

}  // namespace

Wall& Wall::get() {
  // f32 is f32: MLX on CUDA would multiply it in TF32, of 10 bits, unless the user says so.
  static const int full_f32 = setenv("MLX_ENABLE_TF32", "0", 0);
  // On CUDA the device begins when MLX has put so many operations together. Its own 100 on large
  // GPUs are more than many a prompt has: host and device would work one after another.
  static const int begins_soon = mx::is_available(mx::Device::gpu) && !mx::metal::is_available()
                                     ? setenv("MLX_MAX_OPS_PER_BUFFER", "10", 0)
                                     : 0;
  (void)full_f32;
  (void)begins_soon;
  static Wall* const wall = new Wall;
  return *wall;
}

Wall::Wall()
    : has_gpu_(mx::is_available(mx::Device::gpu)),
      cpu_(mx::new_thread_unsafe_stream(mx::Device::cpu)),
      gpu_(has_gpu_ ? mx::new_thread_unsafe_stream(mx::Device::gpu) : cpu_) {
  // On a CPU a compiled function calls a C++ compiler, which a user's machine need not have.
  if (!has_gpu_) mx::disable_compile();
  set_limits();
}

std::string Wall::backend_name(bool cpu) const {
  if (cpu || !has_gpu_) return "mlx-cpu";
  return mx::metal::is_available() ? "mlx-metal" : "mlx-cuda";
}

std::string Wall::device_name(bool cpu) const {
  if (cpu || !has_gpu_) return processor_name();
  const auto& info = mx::device_info(mx::Device::gpu);
  const auto found = info.find("device_name");
  if (found == info.end() || !std::holds_alternative<std::string>(found->second)) return "GPU";
  return std::get<std::string>(found->second);
}

int64_t Wall::memory_for_models() const {
  if (!has_gpu_ || mx::metal::is_available()) return 0;
  const auto found = hardware::find_nvidia_gpus(hardware::cuda_driver(), hardware::nvml());
  if (!found.gpus.empty() && found.gpus.front().integrated) return 0;  // MLX drives the first
  const auto& info = mx::device_info(mx::Device::gpu);
  const auto free = info.find("free_memory");
  if (free == info.end() || !std::holds_alternative<size_t>(free->second)) return 0;
  return models_share(static_cast<int64_t>(std::get<size_t>(free->second)));
}

int64_t Wall::models_share(int64_t free_bytes) {
  constexpr int64_t kLeast = int64_t{1} << 30;
  return std::max<int64_t>(1, free_bytes - kCacheBytes - std::max(kLeast, free_bytes / 32));
}

void Wall::add_limit(int64_t bytes, int64_t kept) {
  const std::lock_guard lock(mutex_);
  reserved_ += bytes;
  kept_ += kept;
  set_limits();
}

void Wall::remove_limit(int64_t bytes, int64_t kept) {
  const std::lock_guard lock(mutex_);
  reserved_ -= bytes;
  kept_ -= kept;
  try {
    set_limits();
  } catch (const std::exception&) {  // the limits stay as they were: more than is needed
  }
}

void Wall::set_limits() {
  mx::set_cache_limit(static_cast<size_t>(kCacheBytes + kept_));
  // A guide to MLX, not a wall: past it an evaluation waits for buffers to come back.
  mx::set_memory_limit(static_cast<size_t>(reserved_ + kCacheBytes));
  if (!has_gpu_ || !mx::metal::is_available()) return;
  // Wired: what the models hold, never past what Metal recommends for this machine.
  const auto& info = mx::device_info(mx::Device::gpu);
  const auto found = info.find("max_recommended_working_set_size");
  if (found == info.end() || !std::holds_alternative<size_t>(found->second)) return;
  mx::set_wired_limit(std::min(static_cast<size_t>(reserved_), std::get<size_t>(found->second)));
}

void eval_and_spin(std::vector<mx::array> wanted, double spin_seconds) {
  if (spin_seconds > 0) {
    mx::async_eval(wanted);
    const auto start = std::chrono::steady_clock::now();
    const auto ended = [](const mx::array& one) { return one.is_available(); };
    while (!std::ranges::all_of(wanted, ended) && seconds_since(start) < spin_seconds) {
      std::this_thread::yield();
    }
  }
  mx::eval(std::move(wanted));
}

Error translate(std::string_view what, std::string_view message) {
  if (contains_any(message, {"unable to allocate", "out of memory", "insufficient memory",
                             "cudaerrormemoryallocation", "bad_alloc", "attempting to allocate"})) {
    return error(ErrorCode::insufficient_memory,
                 "{}: MLX is out of memory ({}); a smaller model, context or batch needs less",
                 what, message);
  }
  if (contains_any(message, {"device lost", "device removed", "gpu hang", "gpu timeout",
                             "timed out", "illegal memory access", "launch failure",
                             "launch timed out", "unspecified launch", "ecc error", "uncorrectable",
                             "no longer available", "command buffer execution failed"})) {
    return error(ErrorCode::unavailable, "{}: the GPU failed ({})", what, message);
  }
  return error(ErrorCode::internal, "{}: MLX failed ({})", what, message);
}

Result<mx::Dtype> mlx_type(DType type) {
  switch (type) {
    case DType::f32:
      return mx::float32;
    case DType::f16:
      return mx::float16;
    case DType::bf16:
      return mx::bfloat16;
    default:
      return error(ErrorCode::unsupported, "MLX computes in f32, f16 and bf16, not in {}",
                   to_string(type));
  }
}

}  // namespace impetus::mlx_backend

// The wall around MLX: its global state in one place, and no exception of it past here. Includes
// MLX: only the sources of this folder include this.
#pragma once

#include <cstdint>
#include <exception>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include <mlx/mlx.h>

#include "backend/executor.h"
#include "base/result.h"

namespace impetus::mlx_backend {

namespace mx = ::mlx::core;

// What MLX keeps for the whole process. Made at the first use and never destroyed: MLX's own
// threads run until the process ends.
class Wall {
 public:
  // REQUIRES: called within guarded (MLX may throw while it starts).
  static Wall& get();

  bool has_gpu() const { return has_gpu_; }
  // "mlx-metal", "mlx-cuda" or "mlx-cpu"; `cpu`: of its CPU.
  std::string backend_name(bool cpu) const;
  std::string device_name(bool cpu) const;
  // Of the GPU's own memory; 0 where it has none, or MLX does not say how much is free.
  int64_t memory_for_models() const;
  // Of what is free: without what CUDA and its libraries work in, and the buffers that MLX keeps.
  static int64_t models_share(int64_t free_bytes);
  const mx::Stream& stream(bool cpu) const { return cpu || !has_gpu_ ? cpu_ : gpu_; }

  // A model's memory comes and goes: MLX may use what all of them have reserved, and keeps at most
  // kCacheBytes of freed buffers beside it, and `kept` of what is reserved: buffers that are freed
  // and wanted again all the time.
  void add_limit(int64_t bytes, int64_t kept);
  void remove_limit(int64_t bytes, int64_t kept);

  std::recursive_mutex& mutex() { return mutex_; }

 private:
  Wall();
  void set_limits();

  std::recursive_mutex mutex_;
  bool has_gpu_ = false;
  mx::Stream cpu_, gpu_;
  int64_t reserved_ = 0, kept_ = 0;
};

// MLX's turn for this thread, on this stream. A stream of its own would be each thread's habit, and
// a model is loaded by one and stepped by another.
class Turn {
 public:
  explicit Turn(bool cpu) : lock_(Wall::get().mutex()), stream_(Wall::get().stream(cpu)) {
    mx::set_default_device(stream_.device);
    mx::set_default_stream(stream_);
  }
  const mx::Stream& stream() const { return stream_; }

 private:
  std::lock_guard<std::recursive_mutex> lock_;
  mx::Stream stream_;
};

// A share of MLX's limits, given back when it goes: as Wall::add_limit.
class LimitShare {
 public:
  LimitShare() = default;
  explicit LimitShare(int64_t bytes, int64_t kept = 0) : bytes_(bytes), kept_(kept) {
    Wall::get().add_limit(bytes_, kept_);
  }
  LimitShare(LimitShare&& other) noexcept
      : bytes_(std::exchange(other.bytes_, 0)), kept_(std::exchange(other.kept_, 0)) {}
  LimitShare& operator=(LimitShare&& other) noexcept {
    std::swap(bytes_, other.bytes_);
    std::swap(kept_, other.kept_);
    return *this;
  }
  ~LimitShare() {
    if (bytes_ > 0) Wall::get().remove_limit(bytes_, kept_);
  }

 private:
  int64_t bytes_ = 0, kept_ = 0;
};

// Evaluates what the host goes on from, and waits for it. MLX's wait on CUDA is a sleep until an
// interrupt (cudaEventBlockingSync): for the first `spin_seconds` the end is looked for instead.
// Within MLX's turn.
void eval_and_spin(std::vector<mx::array> wanted, double spin_seconds);

// What an exception's text means to a caller.
Error translate(std::string_view what, std::string_view message);

// Runs `body` in MLX's turn; what it throws becomes its Result's error.
template <typename Body>
auto entered(std::string_view what, bool cpu, Body&& body) -> decltype(body()) {
  try {
    const Turn turn(cpu);
    return body();
  } catch (const std::bad_alloc&) {
    return error(ErrorCode::insufficient_memory, "{}: the system is out of memory", what);
  } catch (const std::exception& failure) {
    return translate(what, failure.what());
  } catch (...) {
    return error(ErrorCode::internal, "{}: MLX failed without saying why", what);
  }
}

// unsupported for what MLX has no element type for.
Result<mx::Dtype> mlx_type(DType type);

// int32 for MLX's shapes. REQUIRES: it fits (checked where models are loaded).
inline mx::ShapeElem dim(int64_t value) {
  return static_cast<mx::ShapeElem>(value);
}

}  // namespace impetus::mlx_backend

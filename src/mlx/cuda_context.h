// CUDA's driver itself, in the context that MLX computes in: for what MLX has no call for. Knows no
// MLX.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace impetus::mlx_backend {

// The driver's functions return 0 for success.
class CudaContext {
 public:
  // Of the device that MLX computes on, its first. Null where this program has loaded no driver.
  static const CudaContext* get();

  // Has a managed allocation's pages stay with the host, or go where they are touched again.
  bool keep_with_host(void* data, size_t bytes, bool keep) const;
  // Shared memory that a block of threads may have, and multiprocessors. Throws.
  int shared_bytes_max() const;
  int multiprocessors() const;

 private:
  friend class DirectKernel;
  friend class CurrentContext;
  CudaContext();
  void check(int status, const char* what) const;
  int attribute(int which) const;

  void* context_ = nullptr;
  int (*push_)(void*) = nullptr;
  int (*pop_)(void**) = nullptr;
  int (*advise_)(unsigned long long, size_t, int, int) = nullptr;
  int (*attribute_)(int*, int, int) = nullptr;
  int (*error_string_)(int, const char**) = nullptr;
  int (*synchronize_)() = nullptr;
  int (*load_module_)(void**, const void*) = nullptr;
  int (*unload_module_)(void*) = nullptr;
  int (*function_)(void**, void*, const char*) = nullptr;
  int (*set_attribute_)(void*, int, int) = nullptr;
  int (*blocks_)(int*, void*, int, size_t) = nullptr;
  int (*launch_)(void*, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void*,
                 void**) = nullptr;
  int (*create_stream_)(void**, unsigned) = nullptr;
  int (*destroy_stream_)(void*) = nullptr;
  int (*create_event_)(void**, unsigned) = nullptr;
  int (*destroy_event_)(void*) = nullptr;
  int (*record_)(void*, void*) = nullptr;
  int (*query_)(void*) = nullptr;
  int (*wait_)(void*) = nullptr;
};

// A kernel that the driver launches, past MLX: all its blocks at once, and the host waits. For work
// that is one launch long, of which MLX's own steps around it would be most. In MLX's turn.
class DirectKernel {
 public:
  // `code`: as KernelCode makes it. Throws std::runtime_error with the driver's own words, and
  // where the device does not run a grid's blocks at once.
  DirectKernel(const std::string& code, const std::string& name, int threads, int shared_bytes);
  ~DirectKernel();
  DirectKernel(const DirectKernel&) = delete;
  DirectKernel& operator=(const DirectKernel&) = delete;

  // Blocks that run at once.
  int blocks() const { return blocks_; }
  // Behind all that the device was given before, by MLX too. `arguments`: addresses of the
  // kernel's. Looks for the end for `spin_seconds`, then sleeps until then. Throws.
  void run(std::vector<void*> arguments, double spin_seconds);

 private:
  void release() noexcept;

  const CudaContext& cuda_;
  int threads_, shared_bytes_, blocks_ = 0;
  void *module_ = nullptr, *function_ = nullptr, *stream_ = nullptr, *ended_ = nullptr;
};

}  // namespace impetus::mlx_backend

#include "mlx/cuda_context.h"

#include <chrono>
#include <stdexcept>
#include <thread>

#include <dlfcn.h>
#include <fmt/format.h>

#include "base/timing.h"

namespace impetus::mlx_backend {
namespace {

constexpr int kDevice = 0;
// Of cuda.h.
constexpr int kPreferredLocation = 3, kAccessedBy = 5, kUndone = 1, kHost = -1;
constexpr int kMultiprocessors = 16, kCooperativeLaunch = 95, kSharedBytesMax = 97;
constexpr int kDynamicSharedBytes = 8, kNotReady = 600;
constexpr unsigned kNonBlocking = 1, kBlockingSync = 1, kNoTiming = 2;

}  // namespace

// The context is the calling thread's while this lives, whatever it had.
class CurrentContext {
 public:
  explicit CurrentContext(const CudaContext& cuda)
      : cuda_(cuda), pushed_(cuda.push_(cuda.context_)) {}
  ~CurrentContext() {
    void* popped = nullptr;
    if (pushed_ == 0) cuda_.pop_(&popped);
  }
  CurrentContext(const CurrentContext&) = delete;
  CurrentContext& operator=(const CurrentContext&) = delete;
  int status() const { return pushed_; }

 private:
  const CudaContext& cuda_;
  int pushed_;
};

CudaContext::CudaContext() {
  bool all = true;
  // MLX has loaded it: CUDA's runtime is a part of MLX.
  const auto find = [&](const char* name, auto& function) {
    function =
        reinterpret_cast<std::remove_reference_t<decltype(function)>>(dlsym(RTLD_DEFAULT, name));
    all = all && function != nullptr;
  };
  int (*retain)(void** context, int device) = nullptr;
  find("cuDevicePrimaryCtxRetain", retain);
  find("cuCtxPushCurrent_v2", push_);
  find("cuCtxPopCurrent_v2", pop_);
  find("cuMemAdvise", advise_);
  find("cuDeviceGetAttribute", attribute_);
  find("cuGetErrorString", error_string_);
  find("cuCtxSynchronize", synchronize_);
  find("cuModuleLoadData", load_module_);
  find("cuModuleUnload", unload_module_);
  find("cuModuleGetFunction", function_);
  find("cuFuncSetAttribute", set_attribute_);
  find("cuOccupancyMaxActiveBlocksPerMultiprocessor", blocks_);
  find("cuLaunchCooperativeKernel", launch_);
  find("cuStreamCreate", create_stream_);
  find("cuStreamDestroy_v2", destroy_stream_);
  find("cuEventCreate", create_event_);
  find("cuEventDestroy_v2", destroy_event_);
  find("cuEventRecord", record_);
  find("cuEventQuery", query_);
  find("cuEventSynchronize", wait_);
  // The one that CUDA's runtime has; it stays as long as the program.
  if (!all || retain(&context_, kDevice) != 0) context_ = nullptr;
}

const CudaContext* CudaContext::get() {
  static const CudaContext context;
  return context.context_ != nullptr ? &context : nullptr;
}

void CudaContext::check(int status, const char* what) const {
  if (status == 0) return;
  const char* words = nullptr;
  if (error_string_(status, &words) != 0 || words == nullptr) words = "an unknown error";
  throw std::runtime_error(fmt::format("CUDA, {}: {} ({})", what, words, status));
}

bool CudaContext::keep_with_host(void* data, size_t bytes, bool keep) const {
  const int undone = keep ? 0 : kUndone;
  const CurrentContext current(*this);
  if (current.status() != 0) return false;
  const auto address = reinterpret_cast<unsigned long long>(data);
  return advise_(address, bytes, kPreferredLocation + undone, kHost) == 0 &&
         advise_(address, bytes, kAccessedBy + undone, kDevice) == 0;
}

int CudaContext::attribute(int which) const {
  int value = 0;
  check(attribute_(&value, which, kDevice), "asked for the device");
  return value;
}
int CudaContext::shared_bytes_max() const {
  return attribute(kSharedBytesMax);
}
int CudaContext::multiprocessors() const {
  return attribute(kMultiprocessors);
}

DirectKernel::DirectKernel(const std::string& code, const std::string& name, int threads,
                           int shared_bytes)
    : cuda_(CudaContext::get() != nullptr
                ? *CudaContext::get()
                : throw std::runtime_error("this program has loaded no CUDA driver")),
      threads_(threads),
      shared_bytes_(shared_bytes) {
  try {
    if (cuda_.attribute(kCooperativeLaunch) == 0) {
      throw std::runtime_error("the device does not run all blocks of a launch at once");
    }
    const CurrentContext current(cuda_);
    cuda_.check(current.status(), "its context");
    cuda_.check(cuda_.load_module_(&module_, code.data()), "loading a kernel");
    cuda_.check(cuda_.function_(&function_, module_, name.c_str()), "loading a kernel");
    cuda_.check(cuda_.set_attribute_(function_, kDynamicSharedBytes, shared_bytes),
                "a kernel's shared memory");
    int each = 0;
    cuda_.check(cuda_.blocks_(&each, function_, threads, static_cast<size_t>(shared_bytes)),
                "a kernel's blocks");
    if (each == 0) throw std::runtime_error("a multiprocessor has no room for a block");
    blocks_ = cuda_.multiprocessors();
    cuda_.check(cuda_.create_stream_(&stream_, kNonBlocking), "a stream");
    cuda_.check(cuda_.create_event_(&ended_, kBlockingSync | kNoTiming), "an event");
  } catch (...) {
    release();
    throw;
  }
}

DirectKernel::~DirectKernel() {
  release();
}

void DirectKernel::release() noexcept {
  const CurrentContext current(cuda_);
  if (current.status() != 0) return;
  if (ended_ != nullptr) cuda_.destroy_event_(ended_);
  if (stream_ != nullptr) cuda_.destroy_stream_(stream_);
  if (module_ != nullptr) cuda_.unload_module_(module_);
}

void DirectKernel::run(std::vector<void*> arguments, double spin_seconds) {
  const CurrentContext current(cuda_);
  cuda_.check(current.status(), "its context");
  // MLX's steps that were begun ahead: their blocks and these would wait for one another's places.
  cuda_.check(cuda_.synchronize_(), "what ran before");
  cuda_.check(cuda_.launch_(function_, static_cast<unsigned>(blocks_), 1, 1,
                            static_cast<unsigned>(threads_), 1, 1,
                            static_cast<unsigned>(shared_bytes_), stream_, arguments.data()),
              "a launch");
  cuda_.check(cuda_.record_(ended_, stream_), "a launch");
  const auto start = std::chrono::steady_clock::now();
  int status = kNotReady;
  while (status == kNotReady && seconds_since(start) < spin_seconds) {
    status = cuda_.query_(ended_);
    std::this_thread::yield();
  }
  if (status == kNotReady) status = cuda_.wait_(ended_);
  cuda_.check(status, "a kernel");
}

}  // namespace impetus::mlx_backend

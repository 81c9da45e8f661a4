// Kernels' texts to code that a GPU runs: compiled once, kept in memory and in a folder on disk, so
// that the next start of the program compiles nothing. Knows no MLX.
#pragma once

#include <cstddef>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>

namespace impetus::mlx_backend {

struct KernelCompiler {
  // All that the code depends on beside the text: the compiler's version and its options.
  std::string key;
  // Throws std::runtime_error with the compiler's own words.
  std::function<std::string(const std::string& text)> compile;
};

// Any thread; one text is compiled at a time.
//
// On disk: <sha256 of key and text>.cubin, 64 hexadecimal digits of SHA-256 of that name and the
// code, then the code. An entry that does not match is made anew. Processes share the folder.
class KernelCode {
 public:
  static constexpr size_t kEntriesMax = 1024;

  // `folder`: made at the first write; empty: nothing is kept on disk. Where it cannot be written
  // one warning says so. Of more than `entries_max` those go that were not used for longest.
  KernelCode(KernelCompiler compiler, std::filesystem::path folder,
             size_t entries_max = kEntriesMax);

  // Throws what the compiler throws; the next call tries again.
  std::shared_ptr<const std::string> of(const std::string& text);

 private:
  void keep(const std::filesystem::path& path, const std::string& name, const std::string& code);
  void bound() const;

  KernelCompiler compiler_;
  std::filesystem::path folder_;
  size_t entries_max_;
  std::mutex mutex_;
  bool warned_ = false;
  std::map<std::string, std::shared_ptr<const std::string>> known_;  // by the name on disk
};

// Whether a library that this program is linked with has brought NVRTC, CUDA's compiler.
bool nvrtc_is_loaded();

// NVRTC for an architecture such as "sm_90". Throws std::runtime_error where it is not loaded, and
// where CUDA's headers are not found: beside it, or below CUDA_HOME, CUDA_PATH or /usr/local/cuda.
KernelCompiler nvrtc_compiler(const std::string& architecture);

}  // namespace impetus::mlx_backend

// What MLX compiles while it runs on CUDA, kept on disk for the next start. Knows no MLX.
//
// MLX reads and writes one folder and checks nothing: an entry that another program is writing, or
// that one left when it was ended while it wrote, is loaded as it is, and a driver given half a
// file may end the process, at every start. So MLX is given a folder of this process alone. What
// is sealed and whole is there from the beginning; what MLX adds is sealed later.
//
// MLX's entries (mlx/backend/cuda/jit_module.cpp, 0.32): NAME.ptx, the code; NAME.txt, its kernels,
// a line each; NAME.cu, the text, written last. NAME is a path where it is long.
//
// On disk, below <root>/<key>:
//   <h>.ptx, <h>.txt  an entry; h is the SHA-256 of its NAME, in hexadecimal digits
//   <h>.seal          64 digits of SHA-256 of three lengths, NAME and both; then NAME
//   run-<x>/          the folder of a process that holds a lock on run-<x>.lock; no name comes
//   twice
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <set>
#include <string>
#include <utility>

#include "base/file_lock.h"
#include "base/result.h"

namespace impetus::mlx_backend {

class JitFolder {
 public:
  static constexpr uintmax_t kBytesMax = uintmax_t{256} << 20;

  // `key`: all that the code depends on beside MLX's names; folders of other keys go when no
  // process was started with them for three months and none runs. io where the folder cannot be
  // made or locked. Of more than `bytes_max` bytes of code those go that were sealed first. `run`:
  // this process's, of new_run.
  static Result<std::unique_ptr<JitFolder>> open(const std::filesystem::path& root,
                                                 const std::string& key, const std::string& run,
                                                 uintmax_t bytes_max = kBytesMax);
  // "run-" and what nobody else has, also where the folder was removed from under a process.
  static std::string new_run();
  // Removes this process's folder, and with it what is not sealed.
  ~JitFolder();
  JitFolder(const JitFolder&) = delete;
  JitFolder& operator=(const JitFolder&) = delete;

  const std::filesystem::path& path() const { return run_; }

  // Keeps what is new and whole; what cannot be kept is compiled again next time.
  // REQUIRES: MLX writes nothing meanwhile. Any thread, one at a time.
  void seal();

 private:
  JitFolder(std::filesystem::path folder, uintmax_t bytes_max)
      : folder_(std::move(folder)), bytes_max_(bytes_max) {}
  Result<void> take(const std::string& run);
  void fill();
  bool seal(const std::string& name);
  void bound() const;

  std::filesystem::path folder_, run_;
  uintmax_t bytes_max_;
  FileLock lock_;
  std::set<std::string> sealed_;  // NAMEs
};

}  // namespace impetus::mlx_backend

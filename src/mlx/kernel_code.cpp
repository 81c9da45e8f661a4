#include "mlx/kernel_code.h"

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <fstream>
#include <optional>
#include <stdexcept>
#include <string_view>
#include <utility>
#include <vector>

#include <dlfcn.h>

#include <fmt/ranges.h>

#include "base/log.h"
#include "base/replace_file.h"
#include "base/sha256.h"

namespace impetus::mlx_backend {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kEnding = ".cubin";
constexpr size_t kDigits = 64;                        // of a SHA-256
constexpr uintmax_t kBytesMax = uintmax_t{64} << 20;  // of an entry: no kernel comes near

// Of an entry's name, too: another's code is none.
std::string digest_of(const std::string& name, const std::string& code) {
  return Sha256().add(name).add(code).hex();
}

// The code of an entry that is whole.
std::optional<std::string> read_entry(const fs::path& path, const std::string& name) {
  std::error_code code;
  const uintmax_t bytes = fs::file_size(path, code);
  if (code || bytes <= kDigits || bytes > kBytesMax) return std::nullopt;
  std::string whole(static_cast<size_t>(bytes), '\0');
  std::ifstream file(path, std::ios::binary);
  if (!file.read(whole.data(), static_cast<std::streamsize>(whole.size()))) return std::nullopt;
  std::string made = whole.substr(kDigits);
  if (digest_of(name, made) != std::string_view(whole).substr(0, kDigits)) return std::nullopt;
  // Used: others go before it.
  fs::last_write_time(path, fs::file_time_type::clock::now(), code);
  return made;
}

}  // namespace

KernelCode::KernelCode(KernelCompiler compiler, fs::path folder, size_t entries_max)
    : compiler_(std::move(compiler)), folder_(std::move(folder)), entries_max_(entries_max) {}

std::shared_ptr<const std::string> KernelCode::of(const std::string& text) {
  const std::string name =
      Sha256().add(compiler_.key).add(std::string_view("\0", 1)).add(text).hex();
  const std::lock_guard lock(mutex_);
  if (const auto found = known_.find(name); found != known_.end()) return found->second;
  const fs::path path = folder_.empty() ? fs::path() : folder_ / fmt::format("{}{}", name, kEnding);
  std::optional<std::string> code = path.empty() ? std::nullopt : read_entry(path, name);
  if (!code) {
    code = compiler_.compile(text);
    if (!path.empty()) keep(path, name, *code);
  }
  return known_[name] = std::make_shared<const std::string>(std::move(*code));
}

void KernelCode::keep(const fs::path& path, const std::string& name, const std::string& code) {
  const auto written = replace_file(path, digest_of(name, code) + code);
  if (written.ok()) return bound();
  if (!std::exchange(warned_, true)) {
    log::warn("kernels are compiled at every start, as what was compiled cannot be kept: {}",
              written.error().message);
  }
}

void KernelCode::bound() const {
  std::vector<std::pair<fs::file_time_type, fs::path>> entries;
  std::error_code code;
  for (fs::directory_iterator at(folder_, code), end; !code && at != end; at.increment(code)) {
    // What a program left that ended while it wrote has more behind the ending.
    if (at->path().filename().string().find(kEnding) == std::string::npos) continue;
    std::error_code gone;  // another process does the same
    const auto time = at->last_write_time(gone);
    if (!gone) entries.emplace_back(time, at->path());
  }
  if (entries.size() <= entries_max_) return;
  std::ranges::sort(entries);
  entries.resize(entries.size() - entries_max_);
  for (const auto& [time, path] : entries) fs::remove(path, code);
}

namespace {

// The part of NVRTC's C interface that is used, by its documentation; 0 is success.
struct Nvrtc {
  using Program = struct OpaqueProgram*;
  int (*version)(int* major, int* minor) = nullptr;
  int (*create)(Program*, const char* text, const char* name, int headers, const char* const*,
                const char* const*) = nullptr;
  int (*compile)(Program, int count, const char* const* options) = nullptr;
  int (*log_size)(Program, size_t*) = nullptr;
  int (*log)(Program, char*) = nullptr;
  int (*code_size)(Program, size_t*) = nullptr;
  int (*code)(Program, char*) = nullptr;
  int (*destroy)(Program*) = nullptr;
  const char* (*words)(int) = nullptr;

  static std::optional<Nvrtc> loaded() {
    Nvrtc found;
    bool all = true;
    const auto find = [&](auto& function, const char* name) {
      function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(
          ::dlsym(RTLD_DEFAULT, name));
      all = all && function != nullptr;
    };
    find(found.version, "nvrtcVersion");
    find(found.create, "nvrtcCreateProgram");
    find(found.compile, "nvrtcCompileProgram");
    find(found.log_size, "nvrtcGetProgramLogSize");
    find(found.log, "nvrtcGetProgramLog");
    find(found.code_size, "nvrtcGetCUBINSize");
    find(found.code, "nvrtcGetCUBIN");
    find(found.destroy, "nvrtcDestroyProgram");
    find(found.words, "nvrtcGetErrorString");
    return all ? std::optional(found) : std::nullopt;
  }

  void check(int status, const char* what) const {
    if (status == 0) return;
    throw std::runtime_error(fmt::format("NVRTC: {}: {}", what, words(status)));
  }

  std::string run(const std::string& text, const std::vector<std::string>& options) const {
    Program program = nullptr;
    check(create(&program, text.c_str(), "kernel.cu", 0, nullptr, nullptr), "a program");
    const auto destroyer = [this](Program* one) { destroy(one); };
    const std::unique_ptr<Program, decltype(destroyer)> owner(&program, destroyer);
    std::vector<const char*> words_of;
    for (const std::string& option : options) words_of.push_back(option.c_str());
    const int status = compile(program, static_cast<int>(words_of.size()), words_of.data());
    size_t size = 0;
    if (status != 0) {
      std::string said;
      if (log_size(program, &size) == 0 && size > 1) {
        said.resize(size);
        if (log(program, said.data()) != 0) said.clear();
        while (!said.empty() && (said.back() == '\0' || said.back() == '\n')) said.pop_back();
      }
      throw std::runtime_error(
          fmt::format("NVRTC does not compile a kernel: {}\n{}", words(status), said));
    }
    check(code_size(program, &size), "the code's size");
    std::string made(size, '\0');
    check(code(program, made.data()), "the code");
    return made;
  }
};

// The folder of CUDA's headers. Throws where there is none.
fs::path cuda_headers(const Nvrtc& nvrtc) {
  std::vector<fs::path> places;
  Dl_info library = {};
  if (::dladdr(reinterpret_cast<const void*>(nvrtc.version), &library) != 0) {
    const fs::path folder = fs::path(library.dli_fname).parent_path();
    // Of an installation or a package of Python's; of a Linux distribution; of Python's packages
    // before CUDA 13.
    places = {folder / ".." / "include", folder / ".." / ".." / "include",
              folder / ".." / ".." / "cuda_runtime" / "include"};
  }
  for (const char* name : {"CUDA_HOME", "CUDA_PATH"}) {
    if (const char* home = std::getenv(name); home != nullptr && *home != '\0') {
      places.push_back(fs::path(home) / "include");
    }
  }
  places.emplace_back("/usr/local/cuda/include");
  std::vector<std::string> looked;
  for (const fs::path& place : places) {
    std::error_code ignored;
    if (fs::exists(place / "cuda_fp16.h", ignored)) return place.lexically_normal();
    looked.push_back(place.lexically_normal().string());
  }
  throw std::runtime_error(
      fmt::format("CUDA's headers are not here: there is no cuda_fp16.h in {}; CUDA_HOME may name "
                  "the folder that holds include/cuda_fp16.h",
                  fmt::join(looked, ", ")));
}

}  // namespace

bool nvrtc_is_loaded() {
  return Nvrtc::loaded().has_value();
}

KernelCompiler nvrtc_compiler(const std::string& architecture) {
  const auto nvrtc = Nvrtc::loaded();
  if (!nvrtc) {
    throw std::runtime_error(
        "CUDA's compiler is not loaded: MLX's build for CUDA brings libnvrtc, and this one has not "
        "loaded it");
  }
  int major = 0, minor = 0;
  nvrtc->check(nvrtc->version(&major, &minor), "its version");
  const std::vector<std::string> options = {"--gpu-architecture=" + architecture, "--std=c++17",
                                            "--device-as-default-execution-space",
                                            "--include-path=" + cuda_headers(*nvrtc).string()};
  KernelCompiler made;
  made.key = fmt::format("NVRTC {}.{} {}", major, minor, fmt::join(options, " "));
  made.compile = [nvrtc = *nvrtc, options](const std::string& text) {
    const auto begin = std::chrono::steady_clock::now();
    std::string code = nvrtc.run(text, options);
    log::debug("a kernel of {} bytes was compiled in {:.3f} s", code.size(),
               std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
    return code;
  };
  return made;
}

}  // namespace impetus::mlx_backend

#include "cli/processors.h"

#include <algorithm>

#include <fmt/ranges.h>

#include "coreml/apple_model.h"
#include "coreml/coreml_backend.h"
#include "cpu/cpu_backend.h"
#include "hardware/processors.h"
#include "runtime/profiles.h"
#ifdef IMPETUS_HAVE_MLX
#include "mlx/mlx_backend.h"
#endif

namespace impetus::cli {
namespace {

constexpr std::string_view kCpu = "cpu";
constexpr std::string_view kCoreml = "coreml";
constexpr std::string_view kEmulated = "coreml-emulated";
constexpr std::string_view kMlx = "mlx";

bool encodes_only(std::string_view name) {
  return name == kCoreml || name == kEmulated;
}

// "mlx", or one of its backends by name.
bool is_mlx(std::string_view name) {
  return name == kMlx || name == "mlx-cpu" || name == "mlx-metal" || name == "mlx-cuda";
}

// unsupported where this build or MLX's lacks it.
Result<std::unique_ptr<Backend>> make_mlx(std::string_view name) {
#ifdef IMPETUS_HAVE_MLX
  const auto cache = cache_folder();
  auto made = make_mlx_backend(
      {.cpu = name == "mlx-cpu", .kernels_folder = cache.empty() ? cache : cache / "kernels"});
  if (!made.ok()) {
    return error(ErrorCode::unsupported, "MLX does not start: {}", made.error().message);
  }
  const std::string& there = (*made)->descriptor().backend;
  if (name != kMlx && name != there) {
    return error(ErrorCode::unsupported, "this machine's MLX runs as {}", there);
  }
  return made;
#else
  return error(ErrorCode::unsupported, "{}", mlx_absent());
#endif
}

// MLX where it drives a GPU: the only one that is among the processors without being named.
std::unique_ptr<Backend> mlx_of_gpu() {
  auto made = make_mlx(kMlx);
  if (!made.ok() || (*made)->descriptor().backend == "mlx-cpu") return nullptr;
  return std::move(*made);
}

// "cpu-avx2" to "avx2", "cpu" to "" (the best); nullopt for what is no name of a CPU backend.
std::optional<std::string> isa_of(const std::string& name) {
  if (name == kCpu) return "";
  for (const char* isa : kCpuInstructionSets) {
    if (name == fmt::format("{}-{}", kCpu, isa)) return isa;
  }
  return std::nullopt;
}

Error unknown(const std::string& name) {
  std::vector<std::string> there{std::string(kCpu)};
  for (const char* isa : kCpuInstructionSets) {
    if (make_cpu_backend({.threads = 1, .isa = isa}).ok()) {
      there.push_back(fmt::format("{}-{}", kCpu, isa));
    }
  }
  there.emplace_back(kEmulated);
  if (mlx_absent().empty()) there.emplace_back(kMlx);
  return error(ErrorCode::invalid_argument, "--device: there is no processor '{}'; there are: {}",
               name, fmt::join(there, ", "));
}

// A backend by its name; unsupported where this machine lacks it.
Result<std::unique_ptr<Backend>> make_processor(const std::string& name, int threads,
                                                coreml::CoremlOptions coreml) {
  if (encodes_only(name)) {
    if (coreml.cache.empty()) {
      if (const auto folder = cache_folder(); !folder.empty()) coreml.cache = folder / "coreml";
    }
    if (name == kEmulated) {
      return coreml::make_coreml_backend(
          coreml::make_emulated_loader(threads > 0 ? threads : usable_cores()), std::move(coreml));
    }
    IMPETUS_TRY(const coreml::SystemCoreml system, coreml::system_coreml());
    coreml.macos = std::clamp(system.macos, 13, 15);
    return coreml::make_coreml_backend(system.loader, std::move(coreml));
  }
  if (is_mlx(name)) return make_mlx(name);
  const auto isa = isa_of(name);
  if (!isa) return unknown(name);
  return make_cpu_backend({.threads = threads, .isa = *isa});
}

// What a user wrote, with processors that only encode kept out of the other phases unless they are
// named there.
Result<Placement> placement_of(std::span<const std::string> devices) {
  IMPETUS_TRY(Placement placement, parse_placement(devices));
  std::vector<std::string> decoding;
  bool every = true;
  for (const std::string& item : devices) {
    every = every && item.find('=') == item.npos;
    if (!every || !encodes_only(item)) decoding.push_back(item);
  }
  IMPETUS_TRY(Placement others, parse_placement(decoding));
  placement.prefill = std::move(others.prefill);
  placement.decode = std::move(others.decode);
  return placement;
}

}  // namespace

Result<Processors> find_processors(std::span<const std::string> devices, int threads,
                                   const coreml::CoremlOptions& coreml) {
  Processors found;
  if (devices.size() == 1 && devices.front() == "all") {  // in the order that a plan finds
    for (const std::string& name : every_processor()) {
      IMPETUS_TRY(auto made, make_processor(name, threads, coreml));
      found.backends.push_back(std::move(made));
    }
    return found;
  }
  if (devices.empty()) {
    IMPETUS_TRY(auto best, make_cpu_backend({.threads = threads, .isa = {}}));
    found.backends.push_back(std::move(best));
    // A plan gives it what it was measured to be faster at; unmeasured it gets nothing.
    if (auto gpu = mlx_of_gpu()) found.backends.push_back(std::move(gpu));
    return found;
  }
  IMPETUS_TRY(found.placement, placement_of(devices));
  Placement& placement = found.placement;
  // A phase that nobody named runs on the best.
  for (auto* phase : {&placement.prefill, &placement.decode, &placement.embeddings}) {
    if (phase->empty()) phase->emplace_back(kCpu);
  }
  for (auto* phase : {&placement.prefill, &placement.decode, &placement.embeddings}) {
    for (std::string& name : *phase) {
      const auto there = [&](const std::string& backend) {
        return std::ranges::any_of(
            found.backends, [&](const auto& one) { return one->descriptor().backend == backend; });
      };
      if (there(name) || placement.absent.contains(name)) continue;
      auto made = make_processor(name, threads, coreml);
      if (!made.ok()) {
        // The best is there, unless the environment forces what is not.
        if (made.error().code != ErrorCode::unsupported || name == kCpu) return made.error();
        placement.absent.emplace(name, made.error().message);
        continue;
      }
      const std::string backend = (*made)->descriptor().backend;
      if (!there(backend)) found.backends.push_back(std::move(*made));
      name = backend;  // "cpu" may mean another one than the list's first
    }
  }
  if (found.backends.empty()) {
    std::vector<std::string> why;
    for (const auto& [name, reason] : placement.absent) why.push_back(name + ": " + reason);
    return error(ErrorCode::unsupported, "--device: none of the processors named is here: {}",
                 fmt::join(why, "; "));
  }
  return found;
}

std::string mlx_absent() {
#ifdef IMPETUS_HAVE_MLX
  return "";
#else
  return "MLX is not in this build: `scripts/serve --with mlx` fetches it and builds with it (or "
         "cmake -DIMPETUS_MLX=FOLDER with PyPI's package mlx)";
#endif
}

std::vector<std::string> every_processor() {
  std::vector<std::string> names;
  for (const char* isa : kCpuInstructionSets) {
    if (std::string_view(isa) == "reference") continue;
    if (make_cpu_backend({.threads = 1, .isa = isa}).ok()) {
      names.push_back(fmt::format("{}-{}", kCpu, isa));
    }
  }
  std::ranges::reverse(names);
  if (names.empty()) names.push_back(fmt::format("{}-{}", kCpu, kCpuInstructionSets[0]));
  if (auto made = make_mlx(kMlx); made.ok()) names.push_back((*made)->descriptor().backend);
  return names;
}

}  // namespace impetus::cli

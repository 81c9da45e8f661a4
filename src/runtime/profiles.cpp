#include "runtime/profiles.h"

#include <algorithm>
#include <cstdlib>

#include "base/build_id.h"
#include "base/json.h"
#include "base/log.h"
#include "base/replace_file.h"
#include "base/sha256.h"
#include "planner/paper.h"

namespace impetus {
namespace {

namespace fs = std::filesystem;

// All that a profile depends on, as text: its hash names the file, the text itself stands inside.
std::string identity(const Inventory& inventory, const BackendDescriptor& descriptor) {
  return fmt::format("{}\nbackend {} threads {}\nbuild {}", fingerprint(inventory),
                     descriptor.backend, descriptor.threads, build_id());
}

}  // namespace

fs::path state_folder() {
  if (const char* folder = std::getenv("IMPETUS_STATE_DIR"); folder && *folder) return folder;
  if (const char* home = std::getenv("HOME"); home && *home)
    return fs::path(home) / ".impetus/state";
  return {};
}

fs::path cache_folder() {
  if (const char* folder = std::getenv("IMPETUS_CACHE_DIR"); folder && *folder) return folder;
  // Who moves the state elsewhere wants nothing written at home.
  if (const char* folder = std::getenv("IMPETUS_STATE_DIR"); folder && *folder) {
    return fs::path(folder) / "cache";
  }
  if (const char* home = std::getenv("HOME"); home && *home)
    return fs::path(home) / ".impetus/cache";
  return {};
}

fs::path ProfileStore::file_of(const Inventory& inventory,
                               const BackendDescriptor& descriptor) const {
  return folder_ / "profiles" /
         fmt::format("{}-{}.json", descriptor.backend,
                     sha256_hex(identity(inventory, descriptor)).substr(0, 16));
}

std::optional<DeviceProfile> ProfileStore::find(const Inventory& inventory,
                                                const BackendDescriptor& descriptor) const {
  if (folder_.empty()) return std::nullopt;
  const fs::path path = file_of(inventory, descriptor);
  std::error_code code;
  if (!fs::exists(path, code)) return std::nullopt;
  const auto read = [&]() -> Result<DeviceProfile> {
    IMPETUS_TRY(const json::value value, read_json_file(path.string()));
    const json::object* object = value.if_object();
    const json::value* profile = object ? object->if_contains("profile") : nullptr;
    if (profile == nullptr) return error(ErrorCode::corrupt, "there is no 'profile' in it");
    IMPETUS_TRY(const auto of, string_field(*object, "of"));
    if (of != identity(inventory, descriptor)) {
      return error(ErrorCode::corrupt, "it belongs to another machine or build");
    }
    return profile_from_json(*profile);
  }();
  if (read.ok()) return *read;
  log::warn("{}: {}; measured figures are not used", path.string(), read.error().message);
  return std::nullopt;
}

Result<void> ProfileStore::put(const Inventory& inventory, const BackendDescriptor& descriptor,
                               const DeviceProfile& profile) const {
  if (folder_.empty()) {
    return error(ErrorCode::io, "there is no folder to keep a profile in: set IMPETUS_STATE_DIR");
  }
  const fs::path path = file_of(inventory, descriptor);
  return replace_file(path, json::serialize(json::object{{"of", identity(inventory, descriptor)},
                                                         {"profile", to_json(profile)}}));
}

namespace {

// Past the caches, backends of one CPU read from the same memory: where one measured less than
// another that was the moment, not its kernels, and no reason to prefer the other.
void share_memory_speed(std::vector<Processor>& processors) {
  constexpr int64_t kPastCaches = int64_t{100} << 20;
  const auto on_cpu = [](const Processor& one) {
    return one.device == "cpu" && one.profile.measured;
  };
  for (Processor& one : processors) {
    if (!on_cpu(one)) continue;
    for (ReadRate& rate : one.profile.read) {
      if (rate.working_set_bytes < kPastCaches) continue;
      for (const Processor& other : processors) {
        if (!on_cpu(other)) continue;
        for (const ReadRate& like : other.profile.read) {
          if (like.threads == rate.threads && like.working_set_bytes == rate.working_set_bytes) {
            rate.bytes_per_second = std::max(rate.bytes_per_second, like.bytes_per_second);
          }
        }
      }
    }
  }
}

}  // namespace

PlanMachine plan_machine(const Inventory& inventory,
                         std::span<const std::unique_ptr<Backend>> backends,
                         const ProfileStore& profiles, int64_t memory_bytes) {
  PlanMachine machine;
  machine.name = inventory.cpu.model.empty() ? "this machine" : inventory.cpu.model;
  machine.host_memory_bytes = memory_bytes;
  std::vector<std::string> driven;
  for (const auto& backend : backends) {
    const BackendDescriptor& descriptor = backend->descriptor();
    Processor& one = machine.processors.emplace_back();
    one.device = descriptor.device;
    one.name = descriptor.name;
    if (descriptor.emulated) {
      one.profile.backend = descriptor.backend;
      one.unavailable = "it only emulates: no plan chooses it, and its speed says nothing";
    } else if (auto kept = profiles.find(inventory, descriptor)) {
      one.profile = std::move(*kept);
    } else if (descriptor.device != "cpu") {
      one.profile.backend = descriptor.backend;
      one.unavailable = "nobody measured it: `impetus hardware --measure --device all` does";
    } else {
      one.profile = estimated_cpu_profile(inventory.cpu, descriptor.backend, descriptor.threads);
    }
    one.profile.device = descriptor.device;
    const MemoryLedger* own = backend->memory();
    one.memory_bytes = own != nullptr ? own->capacity_bytes() : memory_bytes;
    one.shares_host_memory = own == nullptr;
    one.weights = descriptor.weights;
    one.kv = descriptor.kv;
    driven.push_back(descriptor.device);
    for (const GpuInfo& gpu : inventory.gpus) {  // MLX drives the first one of its kind
      if (descriptor.backend != (gpu.vendor == "Apple" ? "mlx-metal" : "mlx-cuda")) continue;
      driven.push_back(gpu.id);
      break;
    }
  }
  share_memory_speed(machine.processors);
  const auto undriven = [&](const std::string& id, const std::string& name, std::string why) {
    if (std::ranges::find(driven, id) != driven.end()) return;
    Processor& one = machine.processors.emplace_back();
    one.device = id;
    one.name = name;
    one.profile.device = id;
    one.profile.backend = "none";
    one.unavailable = std::move(why);
  };
  for (const GpuInfo& gpu : inventory.gpus) {
    undriven(gpu.id, gpu.name,
             fmt::format("this build has no {} backend for {}", gpu.api, gpu.name));
  }
  for (const NpuInfo& npu : inventory.npus) {
    undriven(npu.id, npu.name, fmt::format("this build has no backend for {}", npu.name));
  }
  return machine;
}

}  // namespace impetus

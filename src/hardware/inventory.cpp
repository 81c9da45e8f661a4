#include "hardware/inventory.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#if defined(__APPLE__)
#include "hardware/macos.h"
#endif
#include "hardware/memory.h"
#include "hardware/nvidia.h"
#include "hardware/probes.h"

namespace impetus {
namespace hardware {
namespace {

// KEY=value, 'value' or "value", as os-release(5) has it.
std::string release_field(std::string_view text, std::string_view key) {
  std::string found;
  for_each_line(text, [&](std::string_view line) {
    line = trimmed(line);
    if (!line.starts_with(key) || !line.substr(key.size()).starts_with('=')) return true;
    line.remove_prefix(key.size() + 1);
    if (line.size() >= 2 && (line.front() == '"' || line.front() == '\'') &&
        line.back() == line.front()) {
      line = line.substr(1, line.size() - 2);
    }
    found = printable(line);
    return false;
  });
  return found;
}

void probe_gpus(const Path& root, Inventory& inventory) {
  const auto cards = pci_graphics(root);
  if (root == "/") {
    NvidiaGpus nvidia = find_nvidia_gpus(cuda_driver(), nvml());
    for (NvidiaGpu& gpu : nvidia.gpus) {
      if (gpu.integrated) inventory.memory.unified = true;
      inventory.gpus.push_back(std::move(gpu.info));
    }
    for (Missing& missing : nvidia.missing) inventory.missing.push_back(std::move(missing));
  }
  if (inventory.gpus.empty() && !cards.empty()) {
    inventory.missing.push_back(
        {"gpu", fmt::format("in the machine, but not usable here: {}", fmt::join(cards, ", "))});
  }
}

}  // namespace

OsInfo probe_os(const Path& root, std::vector<Missing>& missing) {
  OsInfo os;
  std::string release = read_text(root / "etc/os-release", 64 << 10);
  if (release.empty()) release = read_text(root / "usr/lib/os-release", 64 << 10);
  os.name = release_field(release, "PRETTY_NAME");
  if (os.name.empty()) os.name = release_field(release, "NAME");
  os.version = release_field(release, "VERSION_ID");
  os.kernel = read_line(root / "proc/sys/kernel/osrelease").value_or("");
  if (os.name.empty()) missing.push_back({"os", "/etc/os-release does not name it"});
  return os;
}

}  // namespace hardware

Inventory probe_inventory(const std::filesystem::path& root) {
  Inventory inventory;
#if defined(__APPLE__)
  if (root == "/") {
    hardware::macos_probe(inventory);
    return inventory;
  }
#endif
  inventory.os = hardware::probe_os(root, inventory.missing);
  inventory.cpu = hardware::probe_cpu(root, inventory.missing);
  inventory.memory = read_memory(root);
  if (inventory.memory.total_bytes == 0) {
    inventory.missing.push_back({"memory", "/proc/meminfo cannot be read"});
  }
  hardware::probe_gpus(root, inventory);
  inventory.npus = hardware::probe_npus(root, inventory.missing);
  inventory.power = hardware::probe_power(root, inventory.missing);
  return inventory;
}

}  // namespace impetus

// Accelerators that the Linux kernel drives: /sys/class/accel (and Habana's, which is one of them).
#include <charconv>

#include <fmt/format.h>

#include "hardware/probes.h"

namespace impetus::hardware {
namespace {

unsigned read_hex(const Path& path) {
  const std::string text = read_line(path).value_or("");
  std::string_view digits = text;
  if (digits.starts_with("0x")) digits.remove_prefix(2);
  unsigned value = 0;
  const auto parsed = std::from_chars(digits.data(), digits.data() + digits.size(), value, 16);
  return parsed.ec == std::errc() ? value : 0;
}

struct Kind {
  const char* driver;  // the kernel module's name
  unsigned vendor_id;
  const char* vendor;
  const char* name;
};

constexpr Kind kKinds[] = {
    {"intel_vpu", 0x8086, "Intel", "Intel NPU"},
    {"amdxdna", 0x1022, "AMD", "AMD XDNA NPU"},
    {"habanalabs", 0x1da3, "Habana", "Intel Gaudi"},
    {"qaic", 0x17cb, "Qualcomm", "Qualcomm Cloud AI 100"},
    {"rocket", 0, "Rockchip", "Rockchip NPU"},
};

// Families by PCI device id, as the kernel's drivers list them.
constexpr struct {
  unsigned vendor_id, device_id;
  const char* family;
} kFamilies[] = {
    {0x8086, 0x7d1d, "37xx"}, {0x8086, 0xad1d, "37xx"}, {0x8086, 0x643e, "40xx"},
    {0x8086, 0xb03e, "50xx"}, {0x1022, 0x1502, "xdna"}, {0x1022, 0x17f0, "xdna2"},
};

}  // namespace

std::vector<NpuInfo> probe_npus(const Path& root, std::vector<Missing>& missing) {
  std::vector<NpuInfo> npus;
  for (const Path& folder : entries(root / "sys/class/accel", "accel")) {
    const Path device = folder / "device";
    const unsigned vendor_id = read_hex(device / "vendor");
    const unsigned device_id = read_hex(device / "device");
    std::error_code code;
    const Path driver = std::filesystem::read_symlink(device / "driver", code);
    NpuInfo npu;
    npu.id = fmt::format("npu{}", npus.size());
    npu.driver = code ? "" : printable(driver.filename().native());
    for (const Kind& kind : kKinds) {
      const bool same = npu.driver.empty() ? vendor_id != 0 && vendor_id == kind.vendor_id
                                           : npu.driver == kind.driver;
      if (!same) continue;
      npu.vendor = kind.vendor;
      npu.name = kind.name;
    }
    if (npu.name.empty()) {
      npu.name = vendor_id == 0 ? "accelerator of an unknown maker"
                                : fmt::format("accelerator {:04x}:{:04x}", vendor_id, device_id);
    }
    for (const auto& [vendor, id, family] : kFamilies) {
      if (vendor == vendor_id && id == device_id) npu.family = family;
    }
    npus.push_back(std::move(npu));
  }
  if (npus.empty()) missing.push_back({"npu", "the kernel shows none (/sys/class/accel)"});
  return npus;
}

std::vector<std::string> pci_graphics(const Path& root) {
  std::vector<std::string> cards;
  for (const Path& device : entries(root / "sys/bus/pci/devices")) {
    if (read_hex(device / "class") >> 16 != 0x03) continue;  // display controllers
    const unsigned vendor = read_hex(device / "vendor");
    const char* name = vendor == 0x10de   ? "NVIDIA"
                       : vendor == 0x1002 ? "AMD"
                       : vendor == 0x8086 ? "Intel"
                                          : nullptr;  // servers' consoles, virtual screens
    if (name) {
      cards.push_back(fmt::format("{} {:04x}:{:04x}", name, vendor, read_hex(device / "device")));
    }
  }
  return cards;
}

}  // namespace impetus::hardware

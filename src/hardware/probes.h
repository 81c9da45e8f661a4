// The parts of an inventory, each read below a root. Internal to this folder.
#pragma once

#include "hardware/files.h"
#include "hardware/inventory.h"

namespace impetus::hardware {

CpuInfo probe_cpu(const Path& root, std::vector<Missing>& missing);
// Graphics cards that PCI knows: what is there although no driver of ours shows it.
std::vector<std::string> pci_graphics(const Path& root);
std::vector<NpuInfo> probe_npus(const Path& root, std::vector<Missing>& missing);
PowerInfo probe_power(const Path& root, std::vector<Missing>& missing);
OsInfo probe_os(const Path& root, std::vector<Missing>& missing);

// Of the CPU's own sensor; negative: none can be read.
double cpu_celsius(const Path& root);

}  // namespace impetus::hardware

#include "hardware/cpuinfo.h"

#include <algorithm>
#include <charconv>
#include <utility>

#include <fmt/format.h>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace impetus::hardware {
namespace {

// From what older chips have to what only new ones have.
constexpr const char* kInstructionSets[] = {
    // x86-64
    "sse4_2", "avx", "f16c", "fma", "avx2", "avx_vnni", "avx_vnni_int8", "avx512f", "avx512bw",
    "avx512dq", "avx512vl", "avx512vbmi", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile",
    "amx_int8", "amx_bf16", "amx_fp16",
    // 64-bit ARM
    "asimd", "asimdhp", "asimdfhm", "asimddp", "bf16", "i8mm", "sve", "sve2", "svebf16", "svei8mm",
    "sme", "sme2"};

struct Named {
  unsigned id;
  const char* name;
};

constexpr Named kArmImplementers[] = {{0x41, "ARM"},      {0x42, "Broadcom"},  {0x43, "Cavium"},
                                      {0x46, "Fujitsu"},  {0x48, "HiSilicon"}, {0x4e, "NVIDIA"},
                                      {0x51, "Qualcomm"}, {0x61, "Apple"},     {0x6d, "Microsoft"},
                                      {0xc0, "Ampere"}};

// ARM's own cores (implementer 0x41), as their reference manuals number them.
constexpr Named kArmParts[] = {
    {0xd03, "Cortex-A53"},  {0xd04, "Cortex-A35"},  {0xd05, "Cortex-A55"},  {0xd07, "Cortex-A57"},
    {0xd08, "Cortex-A72"},  {0xd09, "Cortex-A73"},  {0xd0a, "Cortex-A75"},  {0xd0b, "Cortex-A76"},
    {0xd0c, "Neoverse-N1"}, {0xd0d, "Cortex-A77"},  {0xd40, "Neoverse-V1"}, {0xd41, "Cortex-A78"},
    {0xd44, "Cortex-X1"},   {0xd46, "Cortex-A510"}, {0xd47, "Cortex-A710"}, {0xd48, "Cortex-X2"},
    {0xd49, "Neoverse-N2"}, {0xd4d, "Cortex-A715"}, {0xd4e, "Cortex-X3"},   {0xd4f, "Neoverse-V2"},
    {0xd80, "Cortex-A520"}, {0xd81, "Cortex-A720"}, {0xd82, "Cortex-X4"},   {0xd84, "Neoverse-V3"},
    {0xd85, "Cortex-X925"}, {0xd87, "Cortex-A725"}, {0xd8e, "Neoverse-N3"}};

template <size_t N>
const char* name_of(const Named (&table)[N], unsigned id) {
  for (const Named& row : table) {
    if (row.id == id) return row.name;
  }
  return nullptr;
}

unsigned hex(std::string_view text) {
  if (text.starts_with("0x")) text.remove_prefix(2);
  unsigned value = 0;
  std::from_chars(text.data(), text.data() + text.size(), value, 16);
  return value;
}

std::vector<std::string> words(std::string_view text) {
  std::vector<std::string> all;
  while (all.size() < 1024) {
    text = trimmed(text);
    if (text.empty()) break;
    const size_t end = std::min(text.find(' '), text.size());
    all.push_back(printable(text.substr(0, end)));
    text.remove_prefix(end);
  }
  return all;
}

// "Cortex-A76", or "4 x Cortex-A76 + 4 x Cortex-A55" where they differ.
std::string arm_model(const std::vector<std::pair<unsigned, int>>& parts, unsigned implementer) {
  std::string text;
  for (const auto& [part, count] : parts) {
    const char* known = implementer == 0x41 ? name_of(kArmParts, part) : nullptr;
    const std::string name = known ? known : fmt::format("part 0x{:03x}", part);
    if (!text.empty()) text += " + ";
    text += parts.size() > 1 ? fmt::format("{} x {}", count, name) : name;
  }
  return text;
}

}  // namespace

CpuInfoFile read_cpuinfo(const Path& root) {
  CpuInfoFile info;
  const std::string text = read_text(root / "proc/cpuinfo", size_t{16} << 20);
  unsigned implementer = 0;
  std::vector<std::pair<unsigned, int>> parts;  // in order of appearance
  for_each_line(text, [&](std::string_view line) {
    const size_t colon = line.find(':');
    if (colon == std::string_view::npos) return true;
    const std::string_view key = trimmed(line.substr(0, colon));
    const std::string_view value = trimmed(line.substr(colon + 1));
    if (key == "processor") {
      ++info.processors;
    } else if (key == "vendor_id" && info.vendor.empty()) {
      info.architecture = "x86_64";
      info.vendor = printable(value);
    } else if (key == "model name" && info.model.empty()) {
      info.model = printable(value);
    } else if ((key == "flags" || key == "Features") && info.flags.empty()) {
      info.flags = words(value);
    } else if (key == "CPU implementer") {
      info.architecture = "aarch64";
      implementer = hex(value);
    } else if (key == "CPU part") {
      const unsigned part = hex(value);
      const auto same = std::find_if(parts.begin(), parts.end(),
                                     [&](const auto& entry) { return entry.first == part; });
      if (same != parts.end()) {
        ++same->second;
      } else if (parts.size() < 4) {
        parts.emplace_back(part, 1);
      }
    }
    return true;
  });
  if (implementer != 0) {
    if (const char* name = name_of(kArmImplementers, implementer)) info.vendor = name;
    if (info.model.empty()) info.model = arm_model(parts, implementer);
  }
  return info;
}

std::vector<std::string> known_instruction_sets(const std::vector<std::string>& flags) {
  std::vector<std::string> known;
  for (const char* name : kInstructionSets) {
    if (std::find(flags.begin(), flags.end(), name) != flags.end()) known.push_back(name);
  }
  return known;
}

#if defined(__x86_64__)
std::vector<std::string> instruction_sets_by_cpuid() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (!__get_cpuid(1, &a, &b, &c, &d)) return {};
  const auto bit = [](unsigned word, int index) { return (word >> index & 1) != 0; };
  const unsigned leaf1 = c;
  // What the operating system saves: XMM and YMM, the AVX-512 state, the AMX tiles.
  unsigned saved = 0;
  if (bit(leaf1, 27)) {
    unsigned high = 0;
    asm volatile("xgetbv" : "=a"(saved), "=d"(high) : "c"(0));
  }
  const bool ymm = (saved & 0x6) == 0x6;
  const bool zmm = ymm && (saved & 0xe0) == 0xe0;
  const bool tiles = (saved & 0x60000) == 0x60000;

  unsigned b7 = 0, c7 = 0, d7 = 0, a71 = 0, d71 = 0;
  if (__get_cpuid_count(7, 0, &a, &b7, &c7, &d7) && a >= 1) {
    __get_cpuid_count(7, 1, &a71, &b, &c, &d71);
  }
  const struct {
    const char* name;
    bool has;
  } found[] = {
      {"sse4_2", bit(leaf1, 20)},
      {"avx", ymm && bit(leaf1, 28)},
      {"f16c", ymm && bit(leaf1, 29)},
      {"fma", ymm && bit(leaf1, 12)},
      {"avx2", ymm && bit(b7, 5)},
      {"avx_vnni", ymm && bit(a71, 4)},
      {"avx_vnni_int8", ymm && bit(d71, 4)},
      {"avx512f", zmm && bit(b7, 16)},
      {"avx512bw", zmm && bit(b7, 30)},
      {"avx512dq", zmm && bit(b7, 17)},
      {"avx512vl", zmm && bit(b7, 31)},
      {"avx512vbmi", zmm && bit(c7, 1)},
      {"avx512_vnni", zmm && bit(c7, 11)},
      {"avx512_bf16", zmm && bit(a71, 5)},
      {"avx512_fp16", zmm && bit(d7, 23)},
      {"amx_tile", tiles && bit(d7, 24)},
      {"amx_int8", tiles && bit(d7, 25)},
      {"amx_bf16", tiles && bit(d7, 22)},
      {"amx_fp16", tiles && bit(a71, 21)},
  };
  std::vector<std::string> names;
  for (const auto& [name, has] : found) {
    if (has) names.push_back(name);
  }
  return names;
}
#else
std::vector<std::string> instruction_sets_by_cpuid() {
  return {};
}
#endif

}  // namespace impetus::hardware

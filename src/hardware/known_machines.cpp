#include "hardware/known_machines.h"

#include <algorithm>
#include <cctype>

#include "hardware/known_machines_parts.h"

namespace impetus {

std::span<const KnownMachine> known_machines() {
  static const std::vector<KnownMachine> all = [] {
    std::vector<KnownMachine> machines;
    for (const auto part : {apple_machines(), nvidia_machines(), cpu_machines()}) {
      machines.insert(machines.end(), part.begin(), part.end());
    }
    return machines;
  }();
  return all;
}

const KnownMachine* find_known_machine(std::string_view id) {
  const auto lower = [](char c) {
    return static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  };
  for (const KnownMachine& machine : known_machines()) {
    const std::string_view known = machine.id;
    if (std::ranges::equal(id, known, {}, lower)) return &machine;
  }
  return nullptr;
}

}  // namespace impetus

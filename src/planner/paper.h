// Machines on paper: profiles from data sheets, for planning what is not here to be measured.
//
// What a processor achieves of its data sheet differs by program; the shares below are those that
// published runs of the field's programs reach (docs/hardware.md holds the predictions against
// them). A measured profile always comes before these.
#pragma once

#include "hardware/inventory.h"
#include "hardware/known_machines.h"
#include "planner/plan.h"

namespace impetus {

struct PaperOptions {
  int macos_major = 26, macos_minor = 2;  // decides whether MLX uses an M5's neural accelerators
};

PlanMachine paper_machine(const KnownMachine& machine, const PaperOptions& options = {});

// Whether a machine's plan may count on its GPU's neural accelerators, and the rule that decided.
NeuralAcceleratorRule neural_accelerators(const KnownMachine& machine, const PaperOptions& options);

// For a CPU that nobody measured yet: a guess from its instruction sets and cores, and said to be
// one in `source`.
DeviceProfile estimated_cpu_profile(const CpuInfo& cpu, const std::string& backend, int threads);

}  // namespace impetus

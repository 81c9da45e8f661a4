// Measured profiles, kept between runs, and the machine that the planner sees.
//
// A profile is kept under what its rates depend on: processors, drivers, OS, threads and this build
// of Impetus. When any of that changes there is none, and the backend is measured again or planned
// with on an estimate that says it is one.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "backend/executor.h"
#include "backend/profile.h"
#include "hardware/inventory.h"
#include "planner/plan.h"

namespace impetus {

// IMPETUS_STATE_DIR, else ~/.impetus/state; empty where there is no home either.
std::filesystem::path state_folder();
// For what can be made again: IMPETUS_CACHE_DIR, else "cache" below IMPETUS_STATE_DIR, else
// ~/.impetus/cache; empty where there is no home either.
std::filesystem::path cache_folder();

class ProfileStore {
 public:
  explicit ProfileStore(std::filesystem::path folder = state_folder())
      : folder_(std::move(folder)) {}

  // What was measured of this backend on this machine by this build; nothing where it was not. A
  // file that cannot be read counts as none, with a warning.
  std::optional<DeviceProfile> find(const Inventory& inventory,
                                    const BackendDescriptor& descriptor) const;
  // io where the folder cannot be written. Replaces the old one at once or not at all.
  Result<void> put(const Inventory& inventory, const BackendDescriptor& descriptor,
                   const DeviceProfile& profile) const;

 private:
  std::filesystem::path file_of(const Inventory& inventory,
                                const BackendDescriptor& descriptor) const;
  std::filesystem::path folder_;
};

// This machine as the planner sees it: the backends that are here, each with its kept profile or an
// estimate, and the processors that none of them drives, with the reason.
PlanMachine plan_machine(const Inventory& inventory,
                         std::span<const std::unique_ptr<Backend>> backends,
                         const ProfileStore& profiles, int64_t memory_bytes);

}  // namespace impetus

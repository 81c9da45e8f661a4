// Core ML itself behind compiled_model.h, over the C table of apple_bridge.h: what is compiled
// when, where it is kept, and what is said of who runs it. Has no call of Apple's in it.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "coreml/apple_bridge.h"
#include "coreml/compiled_model.h"

namespace impetus::coreml {

// `coreml` must outlive the loader and its models.
std::shared_ptr<ModelLoader> make_apple_loader(const ImpetusCoreml& coreml);

// This machine's Core ML; unsupported where there is none.
struct SystemCoreml {
  std::shared_ptr<ModelLoader> loader;
  int macos = 0;  // 15
};
Result<SystemCoreml> system_coreml();

// Where Core ML says it will run each operation of a package, for people.
struct DeviceOperation {
  std::string function, type, output;
  std::string device;      // "ane", "gpu", "cpu"; empty for constants
  double cost = -1;        // share of the whole; negative: not known
  bool on_engine = false;  // whether the Neural Engine could
};
struct DeviceReport {
  std::string system;                // "Version 15.3 (Build 24D60), Apple M3"
  std::vector<std::string> devices;  // "ane, 16 cores"
  std::vector<DeviceOperation> operations;
};
// Compiles into a temporary folder. `function` empty: all. unsupported before macOS 14.4, and where
// there is no Core ML.
Result<DeviceReport> on_device_report(const std::filesystem::path& package,
                                      const std::string& function, ComputeUnits units);
Result<DeviceReport> on_device_report(const ImpetusCoreml& coreml,
                                      const std::filesystem::path& package,
                                      const std::string& function, ComputeUnits units);

}  // namespace impetus::coreml

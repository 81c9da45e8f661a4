// A Core ML package that is loaded and can predict: what Apple's framework and the emulator both
// are. Nothing of Apple's crosses this line, so that everything above it (cache, buckets, strides,
// copies) runs and is tested on any machine.
//
// Threads: one at a time. No exception leaves an implementation; each of Apple's errors is an
// Error.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "mil/program.h"

namespace impetus::coreml {

enum class ComputeUnits : uint8_t { cpu_and_neural_engine, all, cpu_and_gpu, cpu_only };

// A tensor's memory, in elements from `data`; rows may be padded (the engine pads to 64 bytes).
struct StridedView {
  mil::TensorType type;  // fp16, fp32 or int32
  std::byte* data = nullptr;
  std::vector<int64_t> strides;  // in elements, one a dimension
};

struct Port {
  std::string name;
  mil::TensorType type;
};

class CompiledModel {
 public:
  virtual ~CompiledModel() = default;

  // Who this is, for answers: "coreml-emulated", or the processors that Core ML says it uses.
  virtual std::string_view ran_on() const = 0;
  virtual const std::vector<Port>& inputs() const = 0;
  virtual const std::vector<Port>& outputs() const = 0;

  // The model's own memory for a port, laid out as its processor wants it; valid until the next
  // predict(). Inputs are written before it, all of them each time; outputs read after it.
  virtual Result<StridedView> input(const std::string& name) = 0;
  virtual Result<StridedView> output(const std::string& name) = 0;
  virtual Result<void> predict() = 0;
};

// Loads functions of packages; the seam between the backend and Apple.
class ModelLoader {
 public:
  virtual ~ModelLoader() = default;
  virtual std::string_view name() const = 0;    // "coreml", "coreml-emulated"
  virtual std::string description() const = 0;  // for people: what computes
  // It computes as a Neural Engine would, on something else, and says nothing about its speed.
  virtual bool emulated() const = 0;
  // What beside the package's content decides whether a compiled form fits: OS build and chip.
  virtual std::string environment() const = 0;
  // About what one more loaded function will take, to be reserved before load(): without what it
  // shares with those of its package that are loaded.
  virtual Result<int64_t> bytes_needed(const std::filesystem::path& package,
                                       const std::string& function) const = 0;
  // Compiles where that is needed, into `cache` (a folder of the package's own, which lasts).
  virtual Result<std::unique_ptr<CompiledModel>> load(const std::filesystem::path& package,
                                                      const std::string& function,
                                                      const std::filesystem::path& cache,
                                                      ComputeUnits units) = 0;
};

}  // namespace impetus::coreml

// What the Apple Neural Engine will make of a Core ML program, judged without one: which operations
// it takes and which fall to GPU or CPU and why, what padding costs, what may overflow, how large,
// how fast. The rules are data with their sources (rules.h); what no Mac has confirmed is marked so
// in docs/neural-engine.md. Pure: any thread.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "coreml/chips.h"
#include "mil/interpreter.h"
#include "mil/program.h"

namespace impetus::coreml {

enum class Level : uint8_t { error, warning, performance, info };
std::string_view to_string(Level level);

// A rule that fired.
struct Finding {
  std::string rule;  // "D4"; "waivers" where those are no such object
  Level level = Level::info;
  std::string function, operation, type, tensor;  // where; empty where it is about the package
  std::string message;                            // what is wrong, with figures
  std::string mend;                               // what to do about it
  std::string waiver;  // the reason why the package's maker accepts it; empty: it does not
};

enum class Unit : uint8_t { neural_engine, gpu, cpu, constant };  // constant: folded before it runs
std::string_view to_string(Unit unit);

// One operation, as predicted.
struct PlacedOperation {
  std::string function, name, type, output_type;
  Unit unit = Unit::neural_engine;
  std::string reason;  // empty on the engine; else the rule and why
  int64_t flops = 0, weight_bytes = 0, activation_bytes = 0;  // padded as the engine stores them
  double seconds = 0;
};

struct FunctionReport {
  std::string name;
  int64_t operations = 0;  // without constants
  int64_t engine = 0, gpu = 0, cpu = 0, constants = 0;
  int64_t segments = 0;          // pieces that run on one processor each
  double residency = 0;          // share of operations on the engine, 0..1
  double flops_residency = 0;    // share of the arithmetic
  int64_t flops = 0;             // multiplications and additions
  int64_t weight_bytes = 0;      // as stored, equal ones once
  int64_t transfer_bytes = 0;    // between processors
  int64_t activation_bytes = 0;  // all activations packed, and as the engine stores them
  int64_t padded_bytes = 0;
  int64_t activation_peak_bytes = 0;
  double seconds = 0;  // predicted
};

struct CheckReport {
  std::string chip;
  std::vector<FunctionReport> functions;
  std::vector<PlacedOperation> operations;
  std::vector<Finding> findings;
  int64_t package_bytes = 0, weight_bytes = 0;
  int64_t memory_bytes = 0;  // predicted while it runs: weights as stored, and the largest peak

  bool has_errors() const;  // that no waiver covers
};

// Waivers stand in the package's metadata under this key: a JSON object of reasons. Its names are
// rules ("D4": everywhere), or rule and tensor or operation ("D4:mask"; "D4:mask*" by beginning).
inline constexpr const char* kWaiversKey = "org.impetus.waivers";

// `package_bytes`: 0 where there are no files yet. `ranges`: of an emulated run, where there was
// one; the rule on overflow (D14) then judges numbers instead of structure. Programs may hold
// operations that the table of mil/operations.h does not know: they are reported as such, not
// refused. Errors are for programs that contradict themselves.
//
// The predicted time of a function is
//   launches + sum over operations of max(flops / rate, bytes / bandwidth) + copies,
// where bytes are those of the weights, and of activations only past the chip's working set; what
// moves within it, and element-wise work, count as nearly free. Nobody has held it against a Mac.
Result<CheckReport> check(const mil::Model& model, const Chip& chip, int64_t package_bytes = 0,
                          std::span<const mil::TensorRange> ranges = {});

}  // namespace impetus::coreml

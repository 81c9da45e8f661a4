// Runs a function of an ML Program on the CPU as the Neural Engine would compute it, as far as that
// is known: each fp16 result is rounded to fp16 after its operation, sums are kept in fp32 or in
// fp16, quantised weights are decoded as MIL specifies. The slow, plain meaning of a program, to
// hold converters and (later) devices against; fast enough for encoders.
//
// An Interpreter is immutable after load: run() may be called from several threads. Programs are
// hostile: whatever is ill-typed, too large or unknown is an error from load(), naming the
// operation.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "mil/program.h"

namespace impetus::mil {

// A tensor's values while a program runs. Floats of any width stand as f32 (an fp16 tensor's values
// are all representable in fp16); integers and bools as i32.
struct TensorValue {
  TensorType type;
  std::vector<float> floats;
  std::vector<int32_t> ints;
};
using TensorValues = std::map<std::string, TensorValue, std::less<>>;

enum class Accumulation : uint8_t {
  f32,  // inside an operation sums are f32, its result is rounded
  f16,  // each partial sum is rounded to fp16
};

struct InterpreterOptions {
  Accumulation accumulation = Accumulation::f32;
  bool round_f16 = true;                  // false: everything in f32, for comparison
  int threads = 1;                        // of one run
  // Bytes of weights (shared ones in full) and live tensors; more is an error.
  int64_t memory_max = int64_t{4} << 30;
  // Work of one run and of load(): about one for each multiply-add and element; more is an error.
  int64_t work_max = int64_t{1} << 50;
};

// A result that does not fit its type (fp16: |v| > 65504; fp32: infinite), or is no number. Named
// once an operation and kind, at its first value. Operations that only move values (reshape,
// transpose, gather, ...) repeat none. Where a norm's partial sum in fp16 overflows and its result
// hides that, the value is infinite and the index 0.
struct NumericEvent {
  enum class Kind : uint8_t { overflow, nan };
  Kind kind = Kind::overflow;
  std::string operation, type, tensor;  // its name, "softmax", the result's name
  int64_t index = 0;                    // of the first such value, row-major
  int64_t count = 0;
  float value = 0;  // before rounding
};

// What one tensor's values were like in a run.
struct TensorRange {
  std::string tensor, operation;
  float max_abs = 0;  // of the finite ones, before rounding
};

struct RunResult {
  TensorValues outputs;
  std::vector<NumericEvent> events;
  std::vector<TensorRange> ranges;  // in order of execution; constants left out
};

class ConstantStore;  // interpret.h

// Decoded constants that several functions of a package have in common. Each load() that is given
// it takes from it what another has decoded already: same bytes, same options. Held by the
// Interpreters, not by this, so they may outlive it; any thread.
// REQUIRES that constants' bytes without an owner (Bytes) stay where they are while it lives.
class SharedConstants {
 public:
  SharedConstants();
  SharedConstants(const SharedConstants&) = delete;
  SharedConstants& operator=(const SharedConstants&) = delete;
  ~SharedConstants();

  int64_t bytes() const;  // that are held now, each constant once

 private:
  friend class Interpreter;
  std::unique_ptr<ConstantStore> store_;
};

class Interpreter {
 public:
  // `function` empty: the default one; the others are not judged. Constants are decoded here, once.
  static Result<Interpreter> load(const Model& model, const std::string& function,
                                  const InterpreterOptions& options,
                                  SharedConstants* shared = nullptr);
  Interpreter(Interpreter&&) noexcept;
  Interpreter& operator=(Interpreter&&) noexcept;
  ~Interpreter();

  const std::vector<NamedType>& inputs() const;
  const std::vector<NamedType>& outputs() const;
  int64_t weight_bytes() const;  // that the decoded constants take, shared ones too

  // invalid_argument for an input that is missing, unknown or of another shape. States start at
  // zero and last for the one run.
  Result<RunResult> run(const TensorValues& inputs) const;

 private:
  struct Loaded;
  explicit Interpreter(std::unique_ptr<const Loaded> loaded);
  std::unique_ptr<const Loaded> loaded_;
};

}  // namespace impetus::mil

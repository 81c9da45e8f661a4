// Bytes of a package to a run: whatever parses and validates is loaded and run within small bounds.
// Seeds: tests/fuzz/seeds/interpreter.
#include "mil/interpreter.h"
#include "mil/package.h"
#include "tests/support/package_input.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace impetus::mil;
  const auto package = impetus::testing::package_of(data, size);
  if (!package) return 0;
  InterpreterOptions options;
  options.memory_max = int64_t{8} << 20;
  options.work_max = int64_t{1} << 24;
  options.accumulation = size % 2 == 0 ? Accumulation::f32 : Accumulation::f16;
  const auto interpreter = Interpreter::load(package->model, "", options);
  if (!interpreter.ok()) return 0;
  TensorValues inputs;
  for (const NamedType& input : interpreter->inputs()) {
    TensorValue value;
    value.type = input.type.tensor;
    for (int64_t& dimension : value.type.shape) {
      if (dimension == kUnknown) dimension = 2;
    }
    const auto elements = value.type.elements();
    if (!elements || *elements > 1 << 16) return 0;
    if (is_float(value.type.dtype)) {
      value.floats.assign(static_cast<size_t>(*elements), 0.5f);
    } else {
      value.ints.assign(static_cast<size_t>(*elements), 1);
    }
    inputs[input.name] = std::move(value);
  }
  (void)interpreter->run(inputs).ok();
  return 0;
}

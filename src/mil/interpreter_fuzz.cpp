// Bytes of a package to a run: whatever parses and validates is loaded and run within small bounds;
// once more on the constants of the first, with the same results.
// Seeds: tests/fuzz/seeds/interpreter.
#include "mil/interpreter.h"

#include <cstdlib>
#include <cstring>
#include <vector>

#include "mil/package.h"
#include "tests/support/package_input.h"

namespace {

// Bit by bit: NaN is like itself.
template <typename T>
bool same(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() &&
         (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace impetus::mil;
  const auto package = impetus::testing::package_of(data, size);
  if (!package) return 0;
  InterpreterOptions options;
  options.memory_max = int64_t{8} << 20;
  options.work_max = int64_t{1} << 24;
  options.accumulation = size % 2 == 0 ? Accumulation::f32 : Accumulation::f16;
  SharedConstants shared;
  const auto interpreter = Interpreter::load(package->model, "", options, &shared);
  if (!interpreter.ok()) return 0;
  const auto again = Interpreter::load(package->model, "", options, &shared);
  if (!again.ok() || again->weight_bytes() != interpreter->weight_bytes()) std::abort();
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
  const auto run = interpreter->run(inputs), rerun = again->run(inputs);
  if (run.ok() != rerun.ok()) std::abort();
  if (!run.ok()) return 0;
  for (const auto& [name, value] : run->outputs) {
    const TensorValue& other = rerun->outputs.at(name);
    if (!same(value.floats, other.floats) || !same(value.ints, other.ints)) std::abort();
  }
  return 0;
}

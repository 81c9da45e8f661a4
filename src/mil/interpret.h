// The interpreter's inside, shared by its interpret_*.cpp files: arrays, the call of one
// operation, threads, rounding. Nothing outside mil/ includes this.
//
// An operation's kernel judges its own operands and computes its own result shape from the arrays
// that are really there; what the program declares is compared afterwards (interpreter.cpp). So no
// kernel depends on a type rule having been right.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "base/result.h"
#include "mil/interpreter.h"
#include "mil/program.h"

namespace impetus::mil {

using Dims = std::vector<int64_t>;

std::string text_of(const Dims& shape);  // "[1, 384]"
// Product of the dimensions; nullopt where one is negative or past kDimensionMax, or where the
// product of those that are not 0 passes int64.
std::optional<int64_t> elements_of(const Dims& shape);
// Row-major strides in elements.
Dims strides_of(const Dims& shape);

// ---- rounding ----

// v rounded to fp16 and back: bit-equal to f16_to_f32(f32_to_f16(v)), in a form that vectorises.
inline float rounded_f16(float v) {
  const uint32_t bits = __builtin_bit_cast(uint32_t, v);
  const uint32_t sign = bits & 0x80000000u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  const uint32_t normal = (magnitude + 0xfffu + ((magnitude >> 13) & 1u)) & ~0x1fffu;
  // Adding 0.5 leaves a multiple of fp16's smallest step, 2^-24, rounded to even.
  const float shifted = __builtin_bit_cast(float, magnitude) + 0.5f;
  const uint32_t subnormal = __builtin_bit_cast(uint32_t, shifted - 0.5f);
  uint32_t result = magnitude < 0x38800000u ? subnormal : normal;
  result = magnitude >= 0x477ff000u ? 0x7f800000u : result;
  result = magnitude > 0x7f800000u ? (magnitude & ~0x1fffu) | 0x7fc00000u : result;
  return __builtin_bit_cast(float, sign | result);
}

// What one pass over a result finds.
struct Scan {
  float max_abs = 0;  // of the finite values
  int64_t overflows = 0, nans = 0;
  int64_t first_overflow = 0, first_nan = 0;
  float overflow_value = 0, nan_value = 0;
};
// Looks at values (those above `limit` in magnitude overflow) and rounds them in place if asked.
Scan scan(std::span<float> values, float limit, bool round);

// ---- memory, work, threads ----

// Bytes that may be live at once. One thread at a time.
class Budget {
 public:
  Budget(int64_t max, int64_t used) : max_(max), used_(used) {}
  bool take(int64_t bytes) {
    if (bytes > max_ - used_) return false;
    used_ += bytes;
    return true;
  }
  void give(int64_t bytes) { used_ -= bytes; }
  int64_t max() const { return max_; }
  int64_t used() const { return used_; }

 private:
  int64_t max_, used_;
};

// Threads that share one loop at a time. Items are handed out by a counter, so which thread
// computes an item is open and what it computes is not.
class Crew {
 public:
  explicit Crew(int threads);
  ~Crew();
  Crew(const Crew&) = delete;
  Crew& operator=(const Crew&) = delete;

  // body(begin, end) over [0, count), in runs of `grain`; in the caller where one run suffices.
  void ranges(int64_t count, int64_t grain, const std::function<void(int64_t, int64_t)>& body);

 private:
  void work();
  void take();

  std::vector<std::thread> workers_;
  // The loop that runs now: written while it is closed and nobody is inside.
  const std::function<void(int64_t, int64_t)>* body_ = nullptr;
  int64_t count_ = 0, grain_ = 1;
  std::atomic<int64_t> next_{0};
  // Number of the loop, whether it may be entered, how many workers are inside. A worker that wakes
  // too late finds it closed and is not waited for.
  std::atomic<uint64_t> state_{0};
  std::atomic<bool> stop_{false};
};

// ---- arrays ----

struct Buffer {
  std::vector<float> floats;
  std::vector<int32_t> ints;
  Budget* budget = nullptr;
  int64_t bytes = 0;

  Buffer() = default;
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() {
    if (budget != nullptr) budget->give(bytes);
  }
};

// Immutable once its operation is done, so views share the buffer.
struct Array {
  DataType dtype = DataType::f32;
  Dims shape;
  std::shared_ptr<Buffer> buffer;
  std::string text;  // of a string

  bool floating() const { return is_float(dtype); }
  int64_t rank() const { return static_cast<int64_t>(shape.size()); }
  int64_t elements() const {
    return static_cast<int64_t>(floating() ? buffer->floats.size() : buffer->ints.size());
  }
  const float* floats() const { return buffer->floats.data(); }
  const int32_t* ints() const { return buffer->ints.data(); }
  float* floats() { return buffer->floats.data(); }
  int32_t* ints() { return buffer->ints.data(); }
  std::string to_string() const;  // "fp16[1, 384]"
};

// A constant's values; an error where the type cannot be held (fp8, int64 past int32).
Result<Array> decoded(const Value& value, Budget& budget);

// What SharedConstants keeps: numbers for what is known of constants, and who holds the decoded
// values. Any thread.
class ConstantStore {
 public:
  struct Kept {
    DataType dtype = DataType::f32;
    Dims shape;
    std::shared_ptr<Buffer> buffer;  // in nobody's budget; null: nothing is kept
  };

  // One number for each key. A key that names an address keeps `owner` of what stands there.
  int64_t id_of(const std::string& key, const std::shared_ptr<const void>& owner = {});
  Kept find(int64_t id) const;
  // What is kept of `id` afterwards: this, or what another thread came first with.
  Kept keep(int64_t id, Kept made);
  int64_t bytes() const;

 private:
  struct Entry {
    DataType dtype = DataType::f32;
    Dims shape;
    std::weak_ptr<Buffer> buffer;
  };

  mutable std::mutex mutex_;
  std::map<std::string, int64_t, std::less<>> ids_;
  std::map<int64_t, Entry> entries_;
  std::set<std::shared_ptr<const void>> owners_;
};

// ---- one operation ----

// A parameter and the slots that are bound to it.
struct BoundParameter {
  std::string name;
  std::vector<int> slots;
};

struct Step;

// What a run, or the folding of constants at load, has.
struct Machine {
  const InterpreterOptions& options;
  Budget& budget;
  Crew& crew;
  std::vector<Array>& slots;
  Opset opset;
  int64_t work = 0;  // done so far
};

class Call {
 public:
  Call(Machine& machine, const Step& step) : machine_(machine), step_(step) {}

  // Operands. Null or the fallback where a parameter is not bound.
  const Array* find(std::string_view parameter) const;
  Result<const Array*> operand(std::string_view parameter) const;
  Result<const Array*> floating(std::string_view parameter) const;  // of numbers with a fraction
  std::vector<const Array*> all(std::string_view parameter) const;
  Result<int64_t> integer(std::string_view parameter, std::optional<int64_t> otherwise = {}) const;
  Result<Dims> integers(std::string_view parameter) const;
  Result<std::optional<Dims>> integers_if(std::string_view parameter) const;
  Result<float> number(std::string_view parameter, std::optional<float> otherwise = {}) const;
  Result<bool> flag(std::string_view parameter, bool otherwise) const;
  Result<std::string> text(std::string_view parameter, std::string_view otherwise = {}) const;
  // One axis of `rank`, negative ones counted from the end.
  Result<int64_t> axis(std::string_view parameter, int64_t rank,
                       std::optional<int64_t> otherwise = {}) const;
  // Distinct axes in rising order; all where the parameter is not bound.
  Result<Dims> axes(std::string_view parameter, int64_t rank) const;

  // Results. The type is the declared one; the shape is the kernel's. Zero until written.
  Result<Array*> output(Dims shape, size_t index = 0);
  Result<void> share(const Array& x, Dims shape, size_t index = 0);  // REQUIRES equal elements
  size_t outputs() const;
  DataType output_type(size_t index = 0) const;
  // Room for something between, counted as live memory.
  Result<std::shared_ptr<Buffer>> scratch(int64_t floats);

  // Counts work (about one multiply-add or element each), so that it can be bounded.
  Result<void> charge(std::optional<int64_t> work);
  Crew& crew() { return machine_.crew; }
  Opset opset() const { return machine_.opset; }
  Machine& machine() { return machine_; }
  const Step& step() const { return step_; }
  // Whether partial sums of result 0 are rounded to fp16.
  bool half_sums() const;
  // A partial sum left fp16 where the result does not show it. From any thread of the crew.
  void overflowed() { overflowed_.store(true, std::memory_order_relaxed); }
  bool has_overflowed() const { return overflowed_.load(std::memory_order_relaxed); }

 private:
  Machine& machine_;
  const Step& step_;
  std::atomic<bool> overflowed_{false};
};

// Calls f with the values' pointers as they are: floats or integers.
template <typename F>
void with_values(const Array& x, Array& out, F f) {
  if (x.floating()) {
    f(x.floats(), out.floats());
  } else {
    f(x.ints(), out.ints());
  }
}
// A result of another shape that holds the same kind of values as x.
Result<Array*> output_like(Call& call, const Array& x, Dims shape, size_t index = 0);

struct Kernel {
  std::string_view type;
  Result<void> (*run)(Call& call) = nullptr;
  bool moves = false;  // values pass unchanged: there is nothing to round, nothing new to report
};

struct Step {
  const Kernel* kernel = nullptr;
  std::string type, name;
  std::vector<BoundParameter> parameters;
  std::vector<NamedType> results;  // as declared
  std::vector<int> result_slots;
  std::vector<int> dead_after;  // slots that nothing after this step reads
};

std::span<const Kernel> linear_kernels();
std::span<const Kernel> convolution_kernels();
std::span<const Kernel> elementwise_kernels();
std::span<const Kernel> reduce_kernels();
std::span<const Kernel> norm_kernels();
std::span<const Kernel> shape_kernels();
std::span<const Kernel> gather_kernels();
std::span<const Kernel> constexpr_kernels();
const Kernel* find_kernel(std::string_view type);

// Joins two or more shapes as numpy broadcasts them.
Result<Dims> broadcast(const Dims& a, const Dims& b);
// Strides of `shape` read as the broadcast `to`: 0 where it repeats.
Dims broadcast_strides(const Dims& shape, const Dims& to);
// Calls body(offsets into each) for each row of `shape`'s last dimension; strides are those of the
// operands. The rows of [begin, end) only.
void rows_of(const Dims& shape, std::span<const Dims> strides, int64_t begin, int64_t end,
             const std::function<void(std::span<const int64_t>)>& body);
// Copies with permuted dimensions; T is float or int32_t.
template <typename T>
void permute(Crew& crew, const T* from, const Dims& shape, const Dims& order, T* to);

// ---- products ----

// C = A B: for each batch a [m, k] matrix times a [k, n] one, read through strides in elements.
// Each element of C is summed over k in rising order by one thread; half: each partial sum is
// rounded to fp16 (products are exact in f32 where both factors are fp16).
struct Product {
  int64_t batches = 1, m = 0, n = 0, k = 0;
  const float* a = nullptr;
  const float* b = nullptr;
  float* c = nullptr;
  int64_t a_row = 0, a_column = 1;  // a_column other than 1 costs a copy
  int64_t b_row = 0, b_column = 1;
  int64_t c_row = 0, c_column = 1;
  // Where batch i begins in each; empty: at 0.
  std::vector<int64_t> a_at, b_at, c_at;
  const float* row_bias = nullptr;     // [m], added last
  const float* column_bias = nullptr;  // [n]
  bool half = false;
  // Instead of reading b: writes row `row` (of k), columns [column, column + count), of batch i.
  std::function<void(int64_t batch, int64_t row, int64_t column, int64_t count, float* to)> fill_b;
};
Result<void> multiply(Call& call, const Product& product);

}  // namespace impetus::mil

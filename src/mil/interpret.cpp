#include "mil/interpret.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>

#include <fmt/ranges.h>

#include "mil/limits.h"
#include "tensor/dtype.h"

namespace impetus::mil {
namespace {

constexpr uint64_t kOpen = uint64_t{1} << 15;
constexpr uint64_t kLoop = uint64_t{1} << 16;
constexpr uint64_t kInside = kOpen - 1;

// Values that one block of a scan looks at; small enough to stay in the first cache.
constexpr size_t kScanBlock = 2048;

template <typename T>
T read_at(const Value& value, size_t index) {
  T result;
  std::memcpy(&result, value.bytes.view.data() + index * sizeof(T), sizeof(T));
  return result;
}

Error no_operand(std::string_view parameter) {
  return error(ErrorCode::corrupt, "parameter {} is missing", parameter);
}

}  // namespace

std::string text_of(const Dims& shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

std::optional<int64_t> elements_of(const Dims& shape) {
  int64_t product = 1;
  bool empty = false;
  for (const int64_t dimension : shape) {
    empty = empty || dimension == 0;
    if (dimension < 0 || dimension > kDimensionMax ||
        __builtin_mul_overflow(product, std::max<int64_t>(dimension, 1), &product)) {
      return std::nullopt;
    }
  }
  return empty ? 0 : product;
}

Dims strides_of(const Dims& shape) {
  Dims strides(shape.size(), 1);
  for (size_t i = shape.size(); i > 1; --i) strides[i - 2] = strides[i - 1] * shape[i - 1];
  return strides;
}

Scan scan(std::span<float> values, float limit, bool round) {
  Scan found;
  const auto limit_bits = __builtin_bit_cast(uint32_t, limit);
  int32_t largest = 0;
  for (size_t at = 0; at < values.size(); at += kScanBlock) {
    const size_t count = std::min(kScanBlock, values.size() - at);
    float* block = values.data() + at;
    // Magnitudes order like integers; infinity and NaN come last.
    int32_t top = 0;
    for (size_t i = 0; i < count; ++i) {
      const auto magnitude =
          static_cast<int32_t>(__builtin_bit_cast(uint32_t, block[i]) & 0x7fffffffu);
      top = magnitude > top ? magnitude : top;
    }
    if (static_cast<uint32_t>(top) > limit_bits) {
      top = 0;
      for (size_t i = 0; i < count; ++i) {
        const uint32_t magnitude = __builtin_bit_cast(uint32_t, block[i]) & 0x7fffffffu;
        const auto index = static_cast<int64_t>(at + i);
        if (magnitude > 0x7f800000u) {
          if (found.nans++ == 0) found.first_nan = index, found.nan_value = block[i];
          continue;
        }
        if (magnitude > limit_bits && found.overflows++ == 0) {
          found.first_overflow = index, found.overflow_value = block[i];
        }
        if (magnitude != 0x7f800000u) top = std::max(top, static_cast<int32_t>(magnitude));
      }
    }
    largest = std::max(largest, top);
    if (round) {
      for (size_t i = 0; i < count; ++i) block[i] = rounded_f16(block[i]);
    }
  }
  found.max_abs = __builtin_bit_cast(float, largest);
  return found;
}

// ---- Crew ----

Crew::Crew(int threads) {
  for (int i = 1; i < std::min(threads, 64); ++i) workers_.emplace_back([this] { work(); });
}

Crew::~Crew() {
  stop_.store(true);
  state_.fetch_add(kLoop);
  state_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void Crew::take() {
  for (;;) {
    const int64_t begin = next_.fetch_add(grain_, std::memory_order_relaxed);
    if (begin >= count_) return;
    (*body_)(begin, std::min(count_, begin + grain_));
  }
}

void Crew::work() {
  uint64_t seen = 0;  // the loop this worker was last inside of
  for (;;) {
    uint64_t state = state_.load();
    if (stop_.load()) return;
    if ((state & kOpen) == 0 || state / kLoop == seen) {
      state_.wait(state);
      continue;
    }
    if (!state_.compare_exchange_weak(state, state + 1)) continue;
    seen = state / kLoop;
    take();
    state_.fetch_sub(1);
    state_.notify_all();
  }
}

void Crew::ranges(int64_t count, int64_t grain, const std::function<void(int64_t, int64_t)>& body) {
  if (count <= 0) return;
  grain = std::max<int64_t>(grain, 1);
  if (count <= grain || workers_.empty()) {
    body(0, count);
    return;
  }
  body_ = &body;
  count_ = count;
  grain_ = grain;
  next_.store(0, std::memory_order_relaxed);
  state_.store((state_.load() / kLoop + 1) * kLoop + kOpen);
  state_.notify_all();
  take();
  uint64_t state = state_.fetch_and(~kOpen) & ~kOpen;
  while ((state & kInside) != 0) {
    state_.wait(state);
    state = state_.load();
  }
}

// ---- arrays ----

std::string Array::to_string() const {
  return TensorType{dtype, shape}.to_string();
}

Result<Array> decoded(const Value& value, Budget& budget) {
  const TensorType& type = value.type.tensor;
  if (value.type.kind != ValueType::Kind::tensor) {
    return error(ErrorCode::unsupported, "a constant {} is not run here", value.type.to_string());
  }
  Array array{type.dtype, type.shape, nullptr, {}};
  array.buffer = std::make_shared<Buffer>();
  if (type.dtype == DataType::string) {
    if (value.strings.size() == 1) array.text = value.strings.front();
    return array;
  }
  const auto elements = elements_of(type.shape);
  const auto bytes = type.bytes();
  if (!elements || !bytes || std::cmp_not_equal(value.bytes.view.size(), *bytes)) {
    return error(ErrorCode::corrupt, "a constant {} has {} bytes", type.to_string(),
                 value.bytes.view.size());
  }
  if (*elements > std::numeric_limits<int64_t>::max() / 4 || !budget.take(*elements * 4)) {
    return error(ErrorCode::insufficient_memory,
                 "a constant {} needs more than the {} bytes of memory_max", type.to_string(),
                 budget.max());
  }
  array.buffer->budget = &budget;
  array.buffer->bytes = *elements * 4;
  const auto count = static_cast<size_t>(*elements);
  if (is_float(type.dtype)) {
    auto& to = array.buffer->floats;
    to.resize(count);
    switch (type.dtype) {
      case DataType::f32:
        if (count > 0) std::memcpy(to.data(), value.bytes.view.data(), count * sizeof(float));
        return array;
      case DataType::f16:
        for (size_t i = 0; i < count; ++i) to[i] = f16_to_f32(read_at<uint16_t>(value, i));
        return array;
      case DataType::bf16:
        for (size_t i = 0; i < count; ++i) to[i] = bf16_to_f32(read_at<uint16_t>(value, i));
        return array;
      case DataType::f64:
        for (size_t i = 0; i < count; ++i) to[i] = static_cast<float>(read_at<double>(value, i));
        return array;
      default:
        return error(ErrorCode::unsupported, "constants of type {} are not run here",
                     to_string(type.dtype));
    }
  }
  auto& to = array.buffer->ints;
  to.resize(count);
  if (const int bits = bits_of(type.dtype); bits < 8) {
    const auto* from = reinterpret_cast<const uint8_t*>(value.bytes.view.data());
    const auto width = static_cast<size_t>(bits);
    for (size_t i = 0; i < count; ++i) {
      int32_t element = 0;
      for (size_t bit = 0; bit < width; ++bit) {
        const size_t at = i * width + bit;
        element |= ((from[at / 8] >> (at % 8)) & 1) << bit;
      }
      to[i] = type.dtype == DataType::i4 && element >= 8 ? element - 16 : element;
    }
    return array;
  }
  switch (type.dtype) {
    case DataType::boolean:
      for (size_t i = 0; i < count; ++i) to[i] = read_at<uint8_t>(value, i) != 0;
      return array;
    case DataType::i8:
      for (size_t i = 0; i < count; ++i) to[i] = read_at<int8_t>(value, i);
      return array;
    case DataType::u8:
      for (size_t i = 0; i < count; ++i) to[i] = read_at<uint8_t>(value, i);
      return array;
    case DataType::i16:
      for (size_t i = 0; i < count; ++i) to[i] = read_at<int16_t>(value, i);
      return array;
    case DataType::u16:
      for (size_t i = 0; i < count; ++i) to[i] = read_at<uint16_t>(value, i);
      return array;
    case DataType::i32:
      if (count > 0) std::memcpy(to.data(), value.bytes.view.data(), count * sizeof(int32_t));
      return array;
    default:
      break;
  }
  for (size_t i = 0; i < count; ++i) {  // what may not fit
    int64_t element = 0;
    bool fits = true;
    if (type.dtype == DataType::u32) {
      element = read_at<uint32_t>(value, i);
    } else if (type.dtype == DataType::i64) {
      element = read_at<int64_t>(value, i);
    } else {
      const auto wide = read_at<uint64_t>(value, i);
      fits = wide <= static_cast<uint64_t>(std::numeric_limits<int32_t>::max());
      element = fits ? static_cast<int64_t>(wide) : 0;
    }
    if (!fits || !std::in_range<int32_t>(element)) {
      return error(ErrorCode::unsupported,
                   "a constant {} holds a value that does not fit int32, which integers are run as",
                   type.to_string());
    }
    to[i] = static_cast<int32_t>(element);
  }
  return array;
}

// ---- Call ----

const Array* Call::find(std::string_view parameter) const {
  for (const BoundParameter& bound : step_.parameters) {
    if (bound.name == parameter) {
      return bound.slots.size() == 1 ? &machine_.slots[static_cast<size_t>(bound.slots.front())]
                                     : nullptr;
    }
  }
  return nullptr;
}

Result<const Array*> Call::operand(std::string_view parameter) const {
  const Array* array = find(parameter);
  if (array == nullptr || array->buffer == nullptr) return no_operand(parameter);
  if (array->dtype == DataType::string) {
    return error(ErrorCode::corrupt, "{} is a string, not a tensor of numbers", parameter);
  }
  return array;
}

Result<const Array*> Call::floating(std::string_view parameter) const {
  IMPETUS_TRY(const Array* array, operand(parameter));
  if (!array->floating()) {
    return error(ErrorCode::corrupt, "{} is {}, not of floating point", parameter,
                 array->to_string());
  }
  return array;
}

std::vector<const Array*> Call::all(std::string_view parameter) const {
  std::vector<const Array*> arrays;
  for (const BoundParameter& bound : step_.parameters) {
    if (bound.name != parameter) continue;
    for (const int slot : bound.slots) {
      const Array& array = machine_.slots[static_cast<size_t>(slot)];
      if (array.buffer != nullptr && array.dtype != DataType::string) arrays.push_back(&array);
    }
  }
  return arrays;
}

Result<std::optional<Dims>> Call::integers_if(std::string_view parameter) const {
  const Array* array = find(parameter);
  if (array == nullptr) return std::optional<Dims>();
  if (array->buffer == nullptr || array->dtype == DataType::string || array->floating()) {
    return error(ErrorCode::corrupt, "{} is {}, not of integers", parameter, array->to_string());
  }
  return std::optional<Dims>(Dims(array->ints(), array->ints() + array->elements()));
}

Result<Dims> Call::integers(std::string_view parameter) const {
  IMPETUS_TRY(auto found, integers_if(parameter));
  if (!found) return no_operand(parameter);
  return std::move(*found);
}

Result<int64_t> Call::integer(std::string_view parameter, std::optional<int64_t> otherwise) const {
  IMPETUS_TRY(const auto found, integers_if(parameter));
  if (!found) {
    if (otherwise) return *otherwise;
    return no_operand(parameter);
  }
  if (found->size() != 1) {
    return error(ErrorCode::corrupt, "{} has {} elements, not one", parameter, found->size());
  }
  return found->front();
}

Result<float> Call::number(std::string_view parameter, std::optional<float> otherwise) const {
  const Array* array = find(parameter);
  if (array == nullptr) {
    if (otherwise) return *otherwise;
    return no_operand(parameter);
  }
  if (array->buffer == nullptr || array->dtype == DataType::string || array->elements() != 1) {
    return error(ErrorCode::corrupt, "{} is {}, not one number", parameter, array->to_string());
  }
  return array->floating() ? array->floats()[0] : static_cast<float>(array->ints()[0]);
}

Result<bool> Call::flag(std::string_view parameter, bool otherwise) const {
  IMPETUS_TRY(const int64_t value, integer(parameter, otherwise ? 1 : 0));
  return value != 0;
}

Result<std::string> Call::text(std::string_view parameter, std::string_view otherwise) const {
  const Array* array = find(parameter);
  if (array == nullptr) {
    if (!otherwise.empty()) return std::string(otherwise);
    return no_operand(parameter);
  }
  if (array->dtype != DataType::string) {
    return error(ErrorCode::corrupt, "{} is {}, not a string", parameter, array->to_string());
  }
  return array->text;
}

Result<int64_t> Call::axis(std::string_view parameter, int64_t rank,
                           std::optional<int64_t> otherwise) const {
  IMPETUS_TRY(const int64_t axis, integer(parameter, otherwise));
  if (axis < -rank || axis >= rank) {
    return error(ErrorCode::corrupt, "{} {} is outside a tensor of rank {}", parameter, axis, rank);
  }
  return axis < 0 ? axis + rank : axis;
}

Result<Dims> Call::axes(std::string_view parameter, int64_t rank) const {
  IMPETUS_TRY(auto found, integers_if(parameter));
  Dims axes;
  if (!found) {
    axes.resize(static_cast<size_t>(rank));
    std::iota(axes.begin(), axes.end(), 0);
    return axes;
  }
  for (const int64_t axis : *found) {
    if (axis < -rank || axis >= rank) {
      return error(ErrorCode::corrupt, "{} names {}, outside a tensor of rank {}", parameter, axis,
                   rank);
    }
    axes.push_back(axis < 0 ? axis + rank : axis);
  }
  std::ranges::sort(axes);
  if (std::ranges::adjacent_find(axes) != axes.end()) {
    return error(ErrorCode::corrupt, "{} names an axis twice", parameter);
  }
  return axes;
}

size_t Call::outputs() const {
  return step_.result_slots.size();
}

DataType Call::output_type(size_t index) const {
  return index < step_.results.size() ? step_.results[index].type.tensor.dtype : DataType::f32;
}

bool Call::half_sums() const {
  return machine_.options.accumulation == Accumulation::f16 && machine_.options.round_f16 &&
         output_type() == DataType::f16;
}

Result<std::shared_ptr<Buffer>> Call::scratch(int64_t floats) {
  auto buffer = std::make_shared<Buffer>();
  if (floats < 0 || floats > std::numeric_limits<int64_t>::max() / 4 ||
      !machine_.budget.take(floats * 4)) {
    return error(ErrorCode::insufficient_memory,
                 "needs {} more bytes with {} of memory_max = {} in use", 4.0 * double(floats),
                 machine_.budget.used(), machine_.budget.max());
  }
  buffer->budget = &machine_.budget;
  buffer->bytes = floats * 4;
  buffer->floats.resize(static_cast<size_t>(floats));
  return buffer;
}

Result<Array*> Call::output(Dims shape, size_t index) {
  if (index >= step_.result_slots.size()) {
    return error(ErrorCode::corrupt, "has {} results; the program names {}", index + 1,
                 step_.result_slots.size());
  }
  const auto elements = elements_of(shape);
  if (!elements || *elements > std::numeric_limits<int64_t>::max() / 4 ||
      !machine_.budget.take(*elements * 4)) {
    return error(ErrorCode::insufficient_memory,
                 "its result {} does not fit: {} of memory_max = {} bytes are in use",
                 text_of(shape), machine_.budget.used(), machine_.budget.max());
  }
  Array& array = machine_.slots[static_cast<size_t>(step_.result_slots[index])];
  array.dtype = output_type(index);
  array.shape = std::move(shape);
  array.buffer = std::make_shared<Buffer>();
  array.buffer->budget = &machine_.budget;
  array.buffer->bytes = *elements * 4;
  IMPETUS_CHECK(charge(*elements));
  if (array.floating()) {
    array.buffer->floats.resize(static_cast<size_t>(*elements));
  } else if (array.dtype != DataType::string) {
    array.buffer->ints.resize(static_cast<size_t>(*elements));
  } else {
    return error(ErrorCode::unsupported, "a result of strings is not run here");
  }
  return &array;
}

Result<void> Call::share(const Array& x, Dims shape, size_t index) {
  if (index >= step_.result_slots.size()) {
    return error(ErrorCode::corrupt, "has more results than the program names");
  }
  if (elements_of(shape) != x.elements()) {
    return error(ErrorCode::corrupt, "{} has not as many elements as {}", text_of(shape),
                 x.to_string());
  }
  if (is_float(output_type(index)) != x.floating()) {
    return error(ErrorCode::corrupt, "the program declares {} for a view of {}",
                 to_string(output_type(index)), x.to_string());
  }
  Array& array = machine_.slots[static_cast<size_t>(step_.result_slots[index])];
  Array view{x.dtype, std::move(shape), x.buffer, {}};  // x may be the slot's neighbour
  array = std::move(view);
  return {};
}

Result<void> Call::charge(std::optional<int64_t> work) {
  if (!work || __builtin_add_overflow(machine_.work, *work, &machine_.work) ||
      machine_.work > machine_.options.work_max) {
    return error(ErrorCode::unsupported, "takes more than the work allowed (work_max = {})",
                 machine_.options.work_max);
  }
  return {};
}

Result<Array*> output_like(Call& call, const Array& x, Dims shape, size_t index) {
  IMPETUS_TRY(Array * out, call.output(std::move(shape), index));
  if (out->dtype != x.dtype) {
    return error(ErrorCode::corrupt, "the result is declared {} where the values are {}",
                 to_string(out->dtype), x.to_string());
  }
  return out;
}

// ---- shapes ----

Result<Dims> broadcast(const Dims& a, const Dims& b) {
  Dims shape(std::max(a.size(), b.size()), 1);
  for (size_t i = 0; i < shape.size(); ++i) {
    const int64_t left = i < a.size() ? a[a.size() - 1 - i] : 1;
    const int64_t right = i < b.size() ? b[b.size() - 1 - i] : 1;
    if (left != right && left != 1 && right != 1) {
      return error(ErrorCode::corrupt, "shapes {} and {} do not broadcast", text_of(a), text_of(b));
    }
    shape[shape.size() - 1 - i] = left == 1 ? right : left;
  }
  return shape;
}

Dims broadcast_strides(const Dims& shape, const Dims& to) {
  const Dims own = strides_of(shape);
  Dims strides(to.size(), 0);
  for (size_t i = 0; i < shape.size(); ++i) {
    strides[to.size() - shape.size() + i] = shape[i] == 1 ? 0 : own[i];
  }
  return strides;
}

void rows_of(const Dims& shape, std::span<const Dims> strides, int64_t begin, int64_t end,
             const std::function<void(std::span<const int64_t>)>& body) {
  if (begin >= end) return;
  const size_t outer = shape.empty() ? 0 : shape.size() - 1;
  Dims index(outer, 0);
  Dims at(strides.size(), 0);
  int64_t rest = begin;
  for (size_t d = outer; d-- > 0;) {
    index[d] = rest % shape[d];
    rest /= shape[d];
    for (size_t i = 0; i < strides.size(); ++i) at[i] += index[d] * strides[i][d];
  }
  for (int64_t row = begin; row < end; ++row) {
    body(at);
    for (size_t d = outer; d-- > 0;) {
      ++index[d];
      for (size_t i = 0; i < strides.size(); ++i) at[i] += strides[i][d];
      if (index[d] < shape[d]) break;
      for (size_t i = 0; i < strides.size(); ++i) at[i] -= strides[i][d] * shape[d];
      index[d] = 0;
    }
  }
}

template <typename T>
void permute(Crew& crew, const T* from, const Dims& shape, const Dims& order, T* to) {
  const Dims own = strides_of(shape);
  // Dimensions that stay neighbours become one.
  Dims sizes, steps;
  for (const int64_t axis : order) {
    const int64_t size = shape[static_cast<size_t>(axis)];
    const int64_t step = own[static_cast<size_t>(axis)];
    if (size == 1) continue;
    if (!sizes.empty() && steps.back() == step * size) {
      sizes.back() *= size;
      steps.back() = step;
    } else {
      sizes.push_back(size);
      steps.push_back(step);
    }
  }
  if (sizes.empty()) sizes = {1}, steps = {1};
  const int64_t count = sizes.back(), step = steps.back();
  const auto total = elements_of(shape).value_or(0);
  if (total == 0) return;
  const int64_t rows = total / count;
  const std::vector<Dims> strides{steps};
  crew.ranges(rows, std::max<int64_t>(1, 16384 / count), [&](int64_t begin, int64_t end) {
    T* out = to + begin * count;
    rows_of(sizes, strides, begin, end, [&](std::span<const int64_t> at) {
      const T* in = from + at[0];
      if (step == 1) {
        std::memcpy(out, in, static_cast<size_t>(count) * sizeof(T));
      } else {
        for (int64_t i = 0; i < count; ++i) out[i] = in[i * step];
      }
      out += count;
    });
  });
}

template void permute<float>(Crew&, const float*, const Dims&, const Dims&, float*);
template void permute<int32_t>(Crew&, const int32_t*, const Dims&, const Dims&, int32_t*);

const Kernel* find_kernel(std::string_view type) {
  const std::span<const Kernel> groups[] = {
      linear_kernels(), convolution_kernels(), elementwise_kernels(), reduce_kernels(),
      norm_kernels(),   shape_kernels(),       gather_kernels(),      constexpr_kernels()};
  for (const auto& group : groups) {
    const auto found = std::ranges::find(group, type, &Kernel::type);
    if (found != group.end()) return &*found;
  }
  return nullptr;
}

}  // namespace impetus::mil

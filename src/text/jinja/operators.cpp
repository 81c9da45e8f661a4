#include "text/jinja/operators.h"

#include <algorithm>
#include <cmath>

#include "text/jinja/builtins.h"
#include "text/jinja/python_text.h"

namespace impetus::jinja {
namespace {

std::string_view symbol(Operation operation) {
  switch (operation) {
    case Operation::add:
      return "+";
    case Operation::subtract:
      return "-";
    case Operation::multiply:
      return "*";
    case Operation::divide:
      return "/";
    case Operation::floor_divide:
      return "//";
    case Operation::modulo:
      return "%";
    default:
      return "**";
  }
}

[[noreturn]] void bad_operands(Operation operation, const Value& left, const Value& right) {
  fail("unsupported operand type(s) for {}: '{}' and '{}'", symbol(operation), type_name(left),
       type_name(right));
}

[[noreturn]] void overflow() {
  fail("an integer does not fit 64 bits");
}

Value power(const Value& left, const Value& right) {
  if (left.is_integral() && right.is_integral() && right.as_integer() >= 0) {
    int64_t base = left.as_integer();
    int64_t result = 1;
    for (int64_t exponent = right.as_integer(); exponent > 0;) {
      if ((exponent & 1) != 0 && __builtin_mul_overflow(result, base, &result)) overflow();
      exponent >>= 1;
      if (exponent > 0 && __builtin_mul_overflow(base, base, &base)) overflow();
    }
    return Value::integer(result);
  }
  if (left.as_double() == 0 && right.as_double() < 0) {
    fail("0.0 cannot be raised to a negative power");
  }
  const double result = std::pow(left.as_double(), right.as_double());
  if (std::isnan(result) && !std::isnan(left.as_double()) && !std::isnan(right.as_double())) {
    fail("a power of a negative number is complex");
  }
  return Value::floating(result);
}

Value integers(Operation operation, int64_t a, int64_t b) {
  int64_t result = 0;
  switch (operation) {
    case Operation::add:
      if (__builtin_add_overflow(a, b, &result)) overflow();
      return Value::integer(result);
    case Operation::subtract:
      if (__builtin_sub_overflow(a, b, &result)) overflow();
      return Value::integer(result);
    case Operation::multiply:
      if (__builtin_mul_overflow(a, b, &result)) overflow();
      return Value::integer(result);
    default:
      break;
  }
  if (b == 0) {
    fail("{}", operation == Operation::divide ? "division by zero"
                                              : "integer division or modulo by zero");
  }
  if (operation == Operation::divide)
    return Value::floating(static_cast<double>(a) / static_cast<double>(b));
  if (b == -1) {  // INT64_MIN / -1
    if (operation == Operation::modulo) return Value::integer(0);
    if (__builtin_sub_overflow(int64_t{0}, a, &result)) overflow();
    return Value::integer(result);
  }
  const int64_t remainder = a % b;
  const bool floors = remainder != 0 && (remainder < 0) != (b < 0);
  if (operation == Operation::modulo) return Value::integer(floors ? remainder + b : remainder);
  return Value::integer(a / b - (floors ? 1 : 0));
}

Value floats(Operation operation, double a, double b) {
  switch (operation) {
    case Operation::add:
      return Value::floating(a + b);
    case Operation::subtract:
      return Value::floating(a - b);
    case Operation::multiply:
      return Value::floating(a * b);
    default:
      break;
  }
  if (b == 0)
    fail("{}", operation == Operation::modulo ? "float modulo" : "float division by zero");
  if (operation == Operation::divide) return Value::floating(a / b);
  double remainder = std::fmod(a, b);
  if (remainder != 0 && (remainder < 0) != (b < 0)) remainder += b;
  if (operation == Operation::modulo) return Value::floating(remainder);
  return Value::floating(std::floor((a - remainder) / b + 0.5));
}

Value repeat(const Value& value, int64_t count, Budget& budget) {
  const auto times = static_cast<uint64_t>(std::max<int64_t>(count, 0));
  if (value.is_string()) {
    const std::string& text = value.as_string();
    uint64_t size = 0;
    if (__builtin_mul_overflow(times, uint64_t{text.size()}, &size)) size = UINT64_MAX;
    budget.take(size);
    std::string result;
    result.reserve(size);
    for (uint64_t i = 0; i < times && !text.empty(); ++i) result += text;
    return Value::string(std::move(result), value.is_markup());
  }
  const auto& items = value.as_sequence().items;
  uint64_t size = 0;
  if (__builtin_mul_overflow(times, uint64_t{items.size()} * sizeof(Value), &size))
    size = UINT64_MAX;
  budget.take(size);
  std::vector<Value> result;
  for (uint64_t i = 0; i < times && !items.empty(); ++i) {
    result.insert(result.end(), items.begin(), items.end());
  }
  return value.is(Kind::list) ? Value::list(std::move(result)) : Value::tuple(std::move(result));
}

Value add_strings(const Value& left, const Value& right, Budget& budget) {
  budget.take(left.as_string().size() + right.as_string().size() + 64);
  if (left.is_markup() == right.is_markup()) {
    std::string text;
    text.reserve(left.as_string().size() + right.as_string().size());
    text += left.as_string();
    text += right.as_string();
    return Value::string(std::move(text), left.is_markup());
  }
  budget.take((left.as_string().size() + right.as_string().size()) * 5);  // escaped: &#39;
  std::string text = left.is_markup() ? left.as_string() : escape_html(left.as_string());
  text += right.is_markup() ? right.as_string() : escape_html(right.as_string());
  return Value::string(std::move(text), true);
}

Value add_sequences(const Value& left, const Value& right, Budget& budget) {
  std::vector<Value> items = left.as_sequence().items;
  const auto& more = right.as_sequence().items;
  items.insert(items.end(), more.begin(), more.end());
  budget.take(items.size() * sizeof(Value) + 64);
  return left.is(Kind::list) ? Value::list(std::move(items)) : Value::tuple(std::move(items));
}

bool is_repeatable(const Value& value) {
  return value.is_string() || value.is(Kind::list) || value.is(Kind::tuple);
}

// Where a slice begins and ends in a sequence of `size`: Python's PySlice_AdjustIndices.
int64_t clamp(int64_t index, int64_t size, int64_t low, int64_t high) {
  if (index < 0) index = std::max(index + size, low);
  return std::min(index, high);
}

struct SliceBounds {
  int64_t begin, end, stride;
};

SliceBounds slice_bounds(int64_t size, const Value* start, const Value* stop, const Value* step) {
  const auto bound = [](const Value* value, int64_t& out) {
    if (value == nullptr || value->is_none()) return false;
    require_defined(*value);
    if (!value->is_integral()) fail("slice indices must be integers or None");
    out = std::max(value->as_integer(), -INT64_MAX);
    return true;
  };
  int64_t stride = 1;
  bound(step, stride);
  if (stride == 0) fail("slice step cannot be zero");
  const bool backward = stride < 0;
  int64_t begin = backward ? size - 1 : 0;
  int64_t end = backward ? -1 : size;
  int64_t given = 0;
  if (bound(start, given))
    begin = clamp(given, size, backward ? -1 : 0, backward ? size - 1 : size);
  if (bound(stop, given)) end = clamp(given, size, backward ? -1 : 0, backward ? size - 1 : size);
  return {begin, end, stride};
}

std::vector<int64_t> slice_indices(int64_t size, const Value* start, const Value* stop,
                                   const Value* step) {
  const SliceBounds bounds = slice_bounds(size, start, stop, step);
  std::vector<int64_t> indices;
  for (int64_t i = bounds.begin; bounds.stride < 0 ? i > bounds.end : i < bounds.end;) {
    indices.push_back(i);
    if (__builtin_add_overflow(i, bounds.stride, &i)) break;
  }
  return indices;
}

Value slice_string(const Value& object, const Value* start, const Value* stop, const Value* step,
                   Budget& budget) {
  const std::string& text = object.as_string();
  budget.take(text.size() + 64);
  std::vector<uint32_t> offsets;
  for (size_t i = 0, bytes = 0; i < text.size(); i += bytes) {
    offsets.push_back(static_cast<uint32_t>(i));
    point_at(text, i, bytes);
  }
  const auto size = static_cast<int64_t>(offsets.size());
  offsets.push_back(static_cast<uint32_t>(text.size()));
  std::string result;
  for (const int64_t i : slice_indices(size, start, stop, step)) {
    const auto k = static_cast<size_t>(i);
    result.append(text, offsets[k], offsets[k + 1] - offsets[k]);
  }
  return Value::string(std::move(result), object.is_markup());
}

// A loop's or namespace's own attribute; nullptr kinds have none.
bool own_attribute(const Value& object, const std::string& name, Value& out) {
  if (object.is(Kind::name_space)) {
    const Value* value = object.as_namespace().attributes.find(name);
    if (value == nullptr) return false;
    out = *value;
    return true;
  }
  if (object.is(Kind::callable)) {
    if (name != "name") return false;
    out = Value::string(object.as_callable().name);
    return true;
  }
  if (!object.is(Kind::loop)) return false;
  const Loop& loop = object.as_loop();
  const auto size = static_cast<int64_t>(loop.items.size());
  const auto index0 = static_cast<int64_t>(loop.index0);
  if (name == "index")
    out = Value::integer(index0 + 1);
  else if (name == "index0")
    out = Value::integer(index0);
  else if (name == "revindex")
    out = Value::integer(size - index0);
  else if (name == "revindex0")
    out = Value::integer(size - index0 - 1);
  else if (name == "first")
    out = Value::boolean(index0 == 0);
  else if (name == "last")
    out = Value::boolean(index0 + 1 == size);
  else if (name == "length")
    out = Value::integer(size);
  else if (name == "depth")
    out = Value::integer(loop.level);
  else if (name == "depth0")
    out = Value::integer(loop.level - 1);
  else if (name == "previtem")
    out = index0 > 0 ? loop.items[loop.index0 - 1] : Value::undefined("there is no previous item");
  else if (name == "nextitem")
    out =
        index0 + 1 < size ? loop.items[loop.index0 + 1] : Value::undefined("there is no next item");
  else
    return false;
  return true;
}

bool find_attribute(const Value& object, const std::string& name, Value& out) {
  if (own_attribute(object, name, out)) return true;
  if (const Method method = find_method(object.kind(), name)) {
    out = bind_method(object, name, method);
    return true;
  }
  if (is_mutator(object.kind(), name)) {
    out =
        Value::undefined(fmt::format("access to attribute '{}' of '{}' object is unsafe: values "
                                     "cannot be changed, make new ones",
                                     name, type_name(object)));
    return true;
  }
  return false;
}

bool find_item(const Value& object, const Value& key, Value& out, Budget& budget) {
  if (object.is(Kind::dict)) {
    if (key.is_sequence() || key.is(Kind::dict)) return false;
    if (key.is_string()) budget.step(key.as_string().size() / 64);
    const Value* value = object.as_dict().find(key);
    if (value == nullptr) return false;
    out = *value;
    return true;
  }
  if (!key.is_integral()) return false;
  int64_t index = key.as_integer();
  if (object.is_string()) {
    const std::string& text = object.as_string();
    const int64_t size = length(object, budget);
    if (index < 0) index += size;
    if (index < 0 || index >= size) return false;
    const size_t offset = byte_offset(text, static_cast<size_t>(index));
    size_t bytes = 0;
    point_at(text, offset, bytes);
    out = Value::string(text.substr(offset, bytes), object.is_markup());
    return true;
  }
  if (!object.is(Kind::list) && !object.is(Kind::tuple) && !object.is(Kind::range)) return false;
  const auto& items = object.as_sequence().items;
  if (index < 0) index += static_cast<int64_t>(items.size());
  if (index < 0 || index >= static_cast<int64_t>(items.size())) return false;
  out = items[static_cast<size_t>(index)];
  return true;
}

}  // namespace

Value arithmetic(Operation operation, const Value& left, const Value& right, Budget& budget) {
  require_defined(left);
  if (operation == Operation::modulo && left.is_string()) {
    return Value::string(printf_format(left.as_string(), right, budget), left.is_markup());
  }
  require_defined(right);
  if (left.is_number() && right.is_number()) {
    if (operation == Operation::power) return power(left, right);
    if (left.is_integral() && right.is_integral()) {
      return integers(operation, left.as_integer(), right.as_integer());
    }
    return floats(operation, left.as_double(), right.as_double());
  }
  if (operation == Operation::add) {
    if (left.is_string() && right.is_string()) return add_strings(left, right, budget);
    if (left.kind() == right.kind() && (left.is(Kind::list) || left.is(Kind::tuple))) {
      return add_sequences(left, right, budget);
    }
    if (left.is_string()) {
      fail("can only concatenate str (not \"{}\") to str", type_name(right));
    }
  }
  if (operation == Operation::multiply) {
    if (is_repeatable(left) && right.is_integral()) return repeat(left, right.as_integer(), budget);
    if (is_repeatable(right) && left.is_integral()) return repeat(right, left.as_integer(), budget);
  }
  bad_operands(operation, left, right);
}

Value negate(const Value& value) {
  require_defined(value);
  if (value.is_integral()) {
    int64_t result = 0;
    if (__builtin_sub_overflow(int64_t{0}, value.as_integer(), &result)) overflow();
    return Value::integer(result);
  }
  if (value.is(Kind::floating)) return Value::floating(-value.as_double());
  fail("bad operand type for unary -: '{}'", type_name(value));
}

Value positive(const Value& value) {
  require_defined(value);
  if (value.is_integral()) return Value::integer(value.as_integer());
  if (value.is(Kind::floating)) return value;
  fail("bad operand type for unary +: '{}'", type_name(value));
}

bool compare_as(Comparison comparison, const Value& left, const Value& right, Budget& budget) {
  if (left.is(Kind::floating) || right.is(Kind::floating)) {
    // With nan every order is false, and it differs from everything.
    if (left.is_number() && right.is_number() &&
        (std::isnan(left.as_double()) || std::isnan(right.as_double())) &&
        comparison < Comparison::in) {
      return comparison == Comparison::ne;
    }
  }
  switch (comparison) {
    case Comparison::eq:
      return equal(left, right, budget);
    case Comparison::ne:
      return !equal(left, right, budget);
    case Comparison::lt:
      return compare(left, right, "<", budget) < 0;
    case Comparison::le:
      return compare(left, right, "<=", budget) <= 0;
    case Comparison::gt:
      return compare(left, right, ">", budget) > 0;
    case Comparison::ge:
      return compare(left, right, ">=", budget) >= 0;
    case Comparison::in:
      return contains(right, left, budget);
    case Comparison::not_in:
      return !contains(right, left, budget);
  }
  return false;
}

Value get_attribute(const Value& object, const std::string& name, Budget& budget) {
  require_defined(object);
  Value result;
  if (find_attribute(object, name, result)) return result;
  if (object.is(Kind::dict)) {
    if (const Value* value = object.as_dict().find(name)) return *value;
  }
  budget.take(128);
  return Value::undefined(
      fmt::format("{} has no attribute '{}'", object_name(object), shortened(name)));
}

Value get_item(const Value& object, const Value& key, Budget& budget) {
  require_defined(object);
  Value result;
  if (find_item(object, key, result, budget)) return result;
  budget.take(128);
  if (key.is_string()) {
    if (find_attribute(object, key.as_string(), result)) return result;
    return Value::undefined(
        fmt::format("{} has no attribute '{}'", object_name(object), shortened(key.as_string())));
  }
  return Value::undefined(
      fmt::format("{} has no element {}", object_name(object), shortened(to_repr(key, budget))));
}

Value get_slice(const Value& object, const Value* start, const Value* stop, const Value* step,
                Budget& budget) {
  require_defined(object);
  if (object.is_string()) return slice_string(object, start, stop, step, budget);
  if (!object.is(Kind::list) && !object.is(Kind::tuple) && !object.is(Kind::range)) {
    fail("'{}' object cannot be sliced", type_name(object));
  }
  const auto& items = object.as_sequence().items;
  budget.take(items.size() / 4);
  if (object.is(Kind::range)) {
    const Sequence& range = object.as_sequence();
    const SliceBounds bounds = slice_bounds(static_cast<int64_t>(items.size()), start, stop, step);
    int64_t first = 0, last = 0, stride = 0;
    if (__builtin_mul_overflow(range.step, bounds.stride, &stride) ||
        __builtin_mul_overflow(range.step, bounds.begin, &first) ||
        __builtin_add_overflow(range.start, first, &first) ||
        __builtin_mul_overflow(range.step, bounds.end, &last) ||
        __builtin_add_overflow(range.start, last, &last)) {
      overflow();
    }
    return Value::range(first, last, stride);
  }
  std::vector<Value> result;
  for (const int64_t i : slice_indices(static_cast<int64_t>(items.size()), start, stop, step)) {
    result.push_back(items[static_cast<size_t>(i)]);
  }
  budget.take(result.size() * sizeof(Value));
  return object.is(Kind::tuple) ? Value::tuple(std::move(result)) : Value::list(std::move(result));
}

}  // namespace impetus::jinja

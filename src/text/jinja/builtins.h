// The tables of what templates can name: filters, tests, methods, global functions.
#pragma once

#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "text/jinja/interpreter.h"
#include "text/jinja/value.h"

namespace impetus::jinja {

using Filter = Value (*)(Interpreter&, const Value& subject, Arguments&);
using Test = bool (*)(Interpreter&, const Value& subject, Arguments&);
using Method = Value (*)(Interpreter&, const Value& self, Arguments&);

// nullptr where there is none.
Filter find_filter(std::string_view name);
Test find_test(std::string_view name);
Method find_method(Kind kind, std::string_view name);
// list.append, dict.update ...: exist in Python, forbidden by the sandbox.
bool is_mutator(Kind kind, std::string_view name);
// The filters that take expressions apart: map, select, sort ... (sequence_filters.cpp)
Filter find_sequence_filter(std::string_view name);

Value bind_method(const Value& self, std::string_view name, Method method);
std::vector<std::pair<std::string, Value>> global_functions();

// Parameters by position or name, as in a Python signature.
class Bound {
 public:
  // Fails where there are too many, an unknown or a doubled name, or fewer than `required`.
  Bound(std::string_view function, const Arguments& arguments,
        std::initializer_list<std::string_view> names, size_t required = 0);

  bool has(size_t i) const { return values_[i] != nullptr; }
  const Value& value(size_t i) const { return *values_[i]; }
  bool boolean(size_t i, bool fallback) const { return has(i) ? truthy(value(i)) : fallback; }
  int64_t integer(size_t i, int64_t fallback) const;         // fails on other types
  std::string string(size_t i, std::string fallback) const;  // fails on other types
  bool is_none(size_t i) const { return !has(i) || value(i).is_none(); }

 private:
  std::string_view function_;
  std::vector<std::string_view> names_;
  std::vector<const Value*> values_;
};

// json.dumps(value, ensure_ascii, indent, separators, sort_keys)
struct JsonStyle {
  bool ensure_ascii = false;
  bool sort_keys = false;
  bool has_indent = false;
  std::string indent;
  std::string item_separator = ", ";
  std::string key_separator = ": ";
};
std::string json_text(const Value& value, const JsonStyle& style, Budget& budget);

// "%s and %d" % values
std::string printf_format(std::string_view format, const Value& values, Budget& budget);
// "{} and {name}".format(...)
std::string brace_format(std::string_view format, const Arguments& arguments, Budget& budget);
double round_to(double value, int64_t digits);  // Python's round(float, digits)

}  // namespace impetus::jinja

// Jinja's tests: what stands after "is". Source: the Jinja 3.1 template designer documentation
// ("List of Builtin Tests").
#include <array>
#include <cmath>

#include "text/jinja/builtins.h"
#include "text/jinja/operators.h"
#include "text/jinja/python_text.h"

namespace impetus::jinja {
namespace {

using Predicate = bool (*)(const Value&);

template <Predicate predicate>
bool simple(Interpreter&, const Value& subject, Arguments& arguments) {
  Bound("test", arguments, {});
  return predicate(subject);
}

template <Comparison comparison>
bool compared(Interpreter& interpreter, const Value& subject, Arguments& arguments) {
  const Bound bound("test", arguments, {"other"}, 1);
  return compare_as(comparison, subject, bound.value(0), interpreter.budget());
}

int64_t remainder(const Value& subject, int64_t divisor, Budget& budget) {
  const Value result = arithmetic(Operation::modulo, subject, Value::integer(divisor), budget);
  return result.is_integral() ? result.as_integer()
                              : (result.as_double() == 0   ? 0
                                 : result.as_double() == 1 ? 1
                                                           : 2);
}

bool odd(Interpreter& interpreter, const Value& subject, Arguments& arguments) {
  Bound("odd", arguments, {});
  return remainder(subject, 2, interpreter.budget()) == 1;
}

bool even(Interpreter& interpreter, const Value& subject, Arguments& arguments) {
  Bound("even", arguments, {});
  return remainder(subject, 2, interpreter.budget()) == 0;
}

bool divisible(Interpreter& interpreter, const Value& subject, Arguments& arguments) {
  const Bound bound("divisibleby", arguments, {"num"}, 1);
  const Value result = arithmetic(Operation::modulo, subject, bound.value(0), interpreter.budget());
  return result.is_number() && result.as_double() == 0;
}

bool same_as(Interpreter&, const Value& subject, Arguments& arguments) {
  const Bound bound("sameas", arguments, {"other"}, 1);
  const Value& other = bound.value(0);
  if (subject.kind() != other.kind()) return false;
  if (subject.is_none()) return true;
  if (subject.is_integral()) return subject.as_integer() == other.as_integer();
  return subject.identity() != nullptr && subject.identity() == other.identity();
}

template <bool wants_upper>
bool has_case(Interpreter& interpreter, const Value& subject, Arguments& arguments) {
  const Value text = Value::string(interpreter.text(subject));
  return find_method(Kind::string, wants_upper ? "isupper" : "islower")(interpreter, text,
                                                                        arguments)
      .as_bool();
}

bool is_filter(Interpreter& interpreter, const Value& subject, Arguments& arguments) {
  Bound("filter", arguments, {});
  return find_filter(interpreter.text(subject)) != nullptr;
}

bool is_test(Interpreter& interpreter, const Value& subject, Arguments& arguments) {
  Bound("test", arguments, {});
  return find_test(interpreter.text(subject)) != nullptr;
}

bool contained(Interpreter& interpreter, const Value& subject, Arguments& arguments) {
  const Bound bound("in", arguments, {"seq"}, 1);
  return contains(bound.value(0), subject, interpreter.budget());
}

bool is_sequence(const Value& v) {
  // Python's len() and indexing: dicts and undefined values have both.
  return v.is_undefined() || v.is_string() || v.is(Kind::list) || v.is(Kind::tuple) ||
         v.is(Kind::range) || v.is(Kind::dict);
}

using Entry = std::pair<std::string_view, Test>;

constexpr auto table = std::to_array<Entry>({
    {"defined", simple<[](const Value& v) { return !v.is_undefined(); }>},
    {"undefined", simple<[](const Value& v) { return v.is_undefined(); }>},
    {"none", simple<[](const Value& v) { return v.is_none(); }>},
    {"boolean", simple<[](const Value& v) { return v.is(Kind::boolean); }>},
    {"true", simple<[](const Value& v) { return v.is(Kind::boolean) && v.as_bool(); }>},
    {"false", simple<[](const Value& v) { return v.is(Kind::boolean) && !v.as_bool(); }>},
    {"integer", simple<[](const Value& v) { return v.is(Kind::integer); }>},
    {"float", simple<[](const Value& v) { return v.is(Kind::floating); }>},
    {"number", simple<[](const Value& v) { return v.is_number(); }>},
    {"string", simple<[](const Value& v) { return v.is_string(); }>},
    {"mapping", simple<[](const Value& v) { return v.is(Kind::dict); }>},
    {"sequence", simple<is_sequence>},
    {"iterable", simple<is_iterable>},
    {"callable", simple<[](const Value& v) { return v.is(Kind::callable) || v.is_undefined(); }>},
    {"escaped", simple<[](const Value& v) { return v.is_string() && v.is_markup(); }>},
    {"odd", odd},
    {"even", even},
    {"divisibleby", divisible},
    {"sameas", same_as},
    {"lower", has_case<false>},
    {"upper", has_case<true>},
    {"filter", is_filter},
    {"test", is_test},
    {"in", contained},
    {"eq", compared<Comparison::eq>},
    {"equalto", compared<Comparison::eq>},
    {"==", compared<Comparison::eq>},
    {"ne", compared<Comparison::ne>},
    {"!=", compared<Comparison::ne>},
    {"lt", compared<Comparison::lt>},
    {"lessthan", compared<Comparison::lt>},
    {"<", compared<Comparison::lt>},
    {"le", compared<Comparison::le>},
    {"<=", compared<Comparison::le>},
    {"gt", compared<Comparison::gt>},
    {"greaterthan", compared<Comparison::gt>},
    {">", compared<Comparison::gt>},
    {"ge", compared<Comparison::ge>},
    {">=", compared<Comparison::ge>},
});

}  // namespace

Test find_test(std::string_view name) {
  for (const auto& [key, test] : table) {
    if (key == name) return test;
  }
  return nullptr;
}

}  // namespace impetus::jinja

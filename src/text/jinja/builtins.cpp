#include "text/jinja/builtins.h"

#include <algorithm>
#include <ctime>

namespace impetus::jinja {
namespace {

struct BoundMethod : Callable {
  Value self;
  Method method = nullptr;
  Value call(Interpreter& interpreter, Arguments& arguments) override {
    return method(interpreter, self, arguments);
  }
};

struct GlobalFunction : Callable {
  Value (*function)(Interpreter&, Arguments&) = nullptr;
  Value call(Interpreter& interpreter, Arguments& arguments) override {
    return function(interpreter, arguments);
  }
};

Value range(Interpreter& interpreter, Arguments& arguments) {
  if (!arguments.named.empty()) fail("range() takes no keyword arguments");
  const Bound bound("range", arguments, {"start", "stop", "step"}, 1);
  const int64_t first = bound.integer(0, 0);
  interpreter.budget().take(64);
  return bound.has(1) ? Value::range(first, bound.integer(1, 0), bound.integer(2, 1))
                      : Value::range(0, first, 1);
}

Dict pairs(Interpreter& interpreter, const char* function, Arguments& arguments) {
  Dict entries;
  if (arguments.positional.size() > 1) {
    fail("{} expected at most 1 argument, got {}", function, arguments.positional.size());
  }
  if (!arguments.positional.empty()) {
    const Value& source = arguments.positional[0];
    require_defined(source);
    if (source.is(Kind::dict)) {
      entries = source.as_dict();
    } else {
      for (const Value& item : iterate(source, interpreter.budget())) {
        std::vector<Value> pair = iterate(item, interpreter.budget());
        if (pair.size() != 2) fail("{} needs pairs, got {} values", function, pair.size());
        entries.set(std::move(pair[0]), std::move(pair[1]));
      }
    }
  }
  for (auto& [name, value] : arguments.named) entries.set(Value::string(name), std::move(value));
  return entries;
}

Value dict(Interpreter& interpreter, Arguments& arguments) {
  return Value::dict(pairs(interpreter, "dict", arguments));
}

Value name_space(Interpreter& interpreter, Arguments& arguments) {
  return interpreter.make_namespace(pairs(interpreter, "namespace", arguments));
}

Value raise_exception(Interpreter& interpreter, Arguments& arguments) {
  const Bound bound("raise_exception", arguments, {"message"}, 1);
  TemplateError failure;
  failure.message = interpreter.text(bound.value(0));
  failure.raised_by_template = true;
  throw failure;
}

Value strftime_now(Interpreter&, Arguments& arguments) {
  const Bound bound("strftime_now", arguments, {"format"}, 1);
  const std::string format = bound.string(0, "");
  if (format.size() > 256) fail("strftime_now: the format is too long");
  if (format.empty()) return Value::string("");
  const std::time_t now = std::time(nullptr);
  std::tm local{};
  localtime_r(&now, &local);
  char buffer[4096];
  const size_t size = std::strftime(buffer, sizeof(buffer), format.c_str(), &local);
  return Value::string(std::string(buffer, size));
}

}  // namespace

Value bind_method(const Value& self, std::string_view name, Method method) {
  auto object = std::make_shared<BoundMethod>();
  if (self.depth() >= Limits::value_depth) fail("a value nests too deeply");
  object->depth = self.depth() + 1;
  object->name = name;
  object->self = self;
  object->method = method;
  return Value::object(Kind::callable, std::move(object));
}

std::vector<std::pair<std::string, Value>> global_functions() {
  std::vector<std::pair<std::string, Value>> result;
  const auto add = [&](const char* name, Value (*function)(Interpreter&, Arguments&)) {
    auto object = std::make_shared<GlobalFunction>();
    object->name = name;
    object->function = function;
    result.emplace_back(name, Value::object(Kind::callable, std::move(object)));
  };
  add("range", range);
  add("dict", dict);
  add("namespace", name_space);
  add("raise_exception", raise_exception);
  add("strftime_now", strftime_now);
  return result;
}

Bound::Bound(std::string_view function, const Arguments& arguments,
             std::initializer_list<std::string_view> names, size_t required)
    : function_(function), names_(names), values_(names.size(), nullptr) {
  if (arguments.positional.size() > names.size()) {
    fail("{}() takes at most {} argument(s), got {}", function, names.size(),
         arguments.positional.size());
  }
  for (size_t i = 0; i < arguments.positional.size(); ++i) values_[i] = &arguments.positional[i];
  for (const auto& [name, value] : arguments.named) {
    const auto found = std::find(names_.begin(), names_.end(), name);
    if (found == names_.end()) fail("{}() got an unexpected keyword argument '{}'", function, name);
    const auto i = static_cast<size_t>(found - names_.begin());
    if (values_[i] != nullptr) fail("{}() got multiple values for argument '{}'", function, name);
    values_[i] = &value;
  }
  for (size_t i = 0; i < required; ++i) {
    if (values_[i] == nullptr) fail("{}() misses the argument '{}'", function, names_[i]);
  }
}

int64_t Bound::integer(size_t i, int64_t fallback) const {
  if (!has(i)) return fallback;
  require_defined(value(i));
  if (!value(i).is_integral()) {
    fail("{}(): '{}' must be an integer, not '{}'", function_, names_[i], type_name(value(i)));
  }
  return value(i).as_integer();
}

std::string Bound::string(size_t i, std::string fallback) const {
  if (!has(i)) return fallback;
  require_defined(value(i));
  if (!value(i).is_string()) {
    fail("{}(): '{}' must be a string, not '{}'", function_, names_[i], type_name(value(i)));
  }
  return value(i).as_string();
}

}  // namespace impetus::jinja

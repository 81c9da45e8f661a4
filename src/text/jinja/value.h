// The values that templates compute with: Python's, as far as jinja2's sandbox lets them be seen.
//
// Everything but namespaces is immutable once made (the sandbox forbids list.append and its kin),
// so copies share. One render's values belong to one thread. Lists know how deep they nest, which
// bounds every recursion over them; namespaces and scopes, the only possible cycles, are cleared by
// the interpreter that made them.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/json.h"
#include "text/jinja/budget.h"

namespace impetus::jinja {

enum class Kind : uint8_t {
  undefined,
  none,
  boolean,
  integer,
  floating,
  string,
  list,
  tuple,
  range,
  view,       // dict.keys(), .values(), .items()
  generator,  // what map, select, items ... give: can be run through once
  dict,
  name_space,
  loop,
  callable,
};

class Value;
class Dict;
class Interpreter;
struct Arguments;

struct Object {
  virtual ~Object() = default;
  int depth = 1;  // 1 + the deepest immutable value inside
};

struct Sequence;
struct Namespace;
struct Loop;
struct Callable;

class Value {
 public:
  Value() = default;  // undefined, without a name
  static Value none();
  static Value boolean(bool value);
  static Value integer(int64_t value);
  static Value floating(double value);
  static Value string(std::string text, bool markup = false);
  // Undefined; using it fails with `why` ("'x' is undefined").
  static Value undefined(std::string why);
  static Value list(std::vector<Value> items);
  static Value tuple(std::vector<Value> items);
  static Value generator(std::vector<Value> items);
  static Value view(std::string_view label, std::vector<Value> items);
  static Value range(int64_t start, int64_t stop, int64_t step);
  static Value dict(Dict entries);
  static Value object(Kind kind, std::shared_ptr<Object> object);

  Kind kind() const { return kind_; }
  bool is(Kind kind) const { return kind_ == kind; }
  bool is_undefined() const { return kind_ == Kind::undefined; }
  bool is_none() const { return kind_ == Kind::none; }
  bool is_string() const { return kind_ == Kind::string; }
  bool is_number() const { return is_integral() || kind_ == Kind::floating; }
  bool is_integral() const { return kind_ == Kind::integer || kind_ == Kind::boolean; }
  bool is_sequence() const { return kind_ >= Kind::list && kind_ <= Kind::generator; }

  // REQUIRES the kind.
  bool as_bool() const { return integer_ != 0; }
  int64_t as_integer() const { return integer_; }  // booleans too
  double as_double() const {
    return kind_ == Kind::floating ? floating_ : static_cast<double>(integer_);
  }
  const std::string& as_string() const;
  bool is_markup() const { return markup_; }
  const Sequence& as_sequence() const;
  Sequence& as_generator() const;
  const Dict& as_dict() const;
  Namespace& as_namespace() const;
  Loop& as_loop() const;
  Callable& as_callable() const;
  const Object* identity() const { return object_.get(); }
  int depth() const { return object_ ? object_->depth : 1; }
  std::string why_undefined() const;

 private:
  Kind kind_ = Kind::undefined;
  bool markup_ = false;  // strings made by |safe and |escape: "+" escapes what joins them
  union {
    int64_t integer_ = 0;
    double floating_;
  };
  std::shared_ptr<Object> object_;
};

struct Sequence : Object {
  std::vector<Value> items;
  std::string_view label;                 // views: the Python type's name
  int64_t start = 0, stop = 0, step = 1;  // ranges
  bool consumed = false;                  // generators
};

// Keys are None, booleans, numbers and strings; 1, 1.0 and True are one key. Keeps insertion order.
class Dict {
 public:
  // nullptr where absent. Fails where the key cannot be one.
  const Value* find(const Value& key) const;
  const Value* find(std::string_view key) const;
  void set(Value key, Value value);
  const std::vector<std::pair<Value, Value>>& entries() const { return entries_; }
  size_t size() const { return entries_.size(); }

 private:
  static constexpr size_t npos = SIZE_MAX;
  size_t index_of(const Value& key, uint64_t hash) const;

  std::vector<std::pair<Value, Value>> entries_;
  std::vector<uint64_t> hashes_;
  std::unordered_multimap<uint64_t, size_t> index_;  // filled from 16 entries on
};

struct DictObject : Object {
  Dict entries;
};

struct Namespace : Object {
  Dict attributes;
};

struct Loop : Object {
  std::vector<Value> items;
  size_t index0 = 0;
  int64_t level = 1;  // loops around it, itself included
};

struct Arguments {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> named;
};

struct Callable : Object {
  std::string name;
  virtual Value call(Interpreter& interpreter, Arguments& arguments) = 0;
};

// "str", "int", "NoneType", ... as Python's messages name types.
std::string_view type_name(const Value& value);
// "'dict object'", "'None'": how jinja2 names an object whose attribute is missing.
std::string object_name(const Value& value);

bool truthy(const Value& value);
// Fails where `value` is undefined, with its own message.
void require_defined(const Value& value);
// str(value) and repr(value).
std::string to_text(const Value& value, Budget& budget);
std::string to_repr(const Value& value, Budget& budget);
bool equal(const Value& a, const Value& b, Budget& budget);
// -1, 0, 1; `operator_name` is for the message where the types have no order.
int compare(const Value& a, const Value& b, std::string_view operator_name, Budget& budget);
// What a for loop runs through; runs a generator out. Fails where it is not iterable.
std::vector<Value> iterate(const Value& value, Budget& budget);
bool is_iterable(const Value& value);
// len(); fails where there is none.
int64_t length(const Value& value, Budget& budget);
bool contains(const Value& container, const Value& item, Budget& budget);

Value from_json(const json::value& value);

}  // namespace impetus::jinja

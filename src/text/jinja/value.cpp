#include "text/jinja/value.h"

#include <algorithm>
#include <cmath>
#include <functional>

#include "text/jinja/python_text.h"

namespace impetus::jinja {
namespace {

struct Text : Object {
  std::string text;
};

int checked_depth(int inner) {
  if (inner >= Limits::value_depth) {
    fail("a value nests deeper than {} levels", Limits::value_depth);
  }
  return inner + 1;
}

Value make_sequence(Kind kind, std::vector<Value> items, std::string_view label = {}) {
  auto sequence = std::make_shared<Sequence>();
  int inner = 0;
  for (const Value& item : items) inner = std::max(inner, item.depth());
  sequence->depth = checked_depth(inner);
  sequence->items = std::move(items);
  sequence->label = label;
  return Value::object(kind, std::move(sequence));
}

uint64_t hash_key(const Value& key) {
  switch (key.kind()) {
    case Kind::string:
      return std::hash<std::string_view>{}(key.as_string());
    case Kind::boolean:
    case Kind::integer:
    case Kind::floating:
      return std::hash<double>{}(key.as_double());
    case Kind::none:
      return 7;
    case Kind::undefined:
      return 11;  // can be looked for, never found
    default:
      fail("a '{}' cannot be a dict key here", type_name(key));
  }
}

bool same_key(const Value& a, const Value& b) {
  if (a.is_string() || b.is_string()) {
    return a.is_string() && b.is_string() && a.as_string() == b.as_string();
  }
  if (a.is_number() && b.is_number()) {
    if (a.is_integral() && b.is_integral()) return a.as_integer() == b.as_integer();
    return a.as_double() == b.as_double();
  }
  return a.is_none() && b.is_none();
}

void append_text(std::string& out, const Value& value, bool repr, int depth, Budget& budget);

void append_items(std::string& out, const std::vector<Value>& items, int depth, Budget& budget) {
  bool first = true;
  for (const Value& item : items) {
    if (!first) out += ", ";
    first = false;
    append_text(out, item, true, depth, budget);
  }
}

void append_entries(std::string& out, const Dict& dict, int depth, Budget& budget) {
  out += '{';
  bool first = true;
  for (const auto& [key, value] : dict.entries()) {
    if (!first) out += ", ";
    first = false;
    append_text(out, key, true, depth, budget);
    out += ": ";
    append_text(out, value, true, depth, budget);
  }
  out += '}';
}

void append_text(std::string& out, const Value& value, bool repr, int depth, Budget& budget) {
  // Values may share parts (x = [x, x] a hundred times is small in memory and endless in print).
  budget.take(16);
  if (depth > 2 * Limits::value_depth) fail("a value is nested too deeply to be printed");
  switch (value.kind()) {
    case Kind::undefined:
      if (repr) out += "Undefined";
      return;
    case Kind::none:
      out += "None";
      return;
    case Kind::boolean:
      out += value.as_bool() ? "True" : "False";
      return;
    case Kind::integer:
      out += std::to_string(value.as_integer());
      return;
    case Kind::floating:
      out += float_text(value.as_double());
      return;
    case Kind::string:
      budget.take(value.as_string().size() * (repr ? 4 : 1));
      if (!repr) {
        out += value.as_string();
      } else if (value.is_markup()) {
        out += "Markup(" + string_repr(value.as_string()) + ")";
      } else {
        out += string_repr(value.as_string());
      }
      return;
    case Kind::list:
      out += '[';
      append_items(out, value.as_sequence().items, depth + 1, budget);
      out += ']';
      return;
    case Kind::tuple:
      out += '(';
      append_items(out, value.as_sequence().items, depth + 1, budget);
      out += value.as_sequence().items.size() == 1 ? ",)" : ")";
      return;
    case Kind::range: {
      const Sequence& range = value.as_sequence();
      out += range.step == 1
                 ? fmt::format("range({}, {})", range.start, range.stop)
                 : fmt::format("range({}, {}, {})", range.start, range.stop, range.step);
      return;
    }
    case Kind::view:
      out += value.as_sequence().label;
      out += "([";
      append_items(out, value.as_sequence().items, depth + 1, budget);
      out += "])";
      return;
    case Kind::generator:
      out += "<generator object>";
      return;
    case Kind::dict:
      append_entries(out, value.as_dict(), depth + 1, budget);
      return;
    case Kind::name_space:
      out += "<Namespace ";
      append_entries(out, value.as_namespace().attributes, depth + 1, budget);
      out += '>';
      return;
    case Kind::loop:
      out += fmt::format("<LoopContext {}/{}>", value.as_loop().index0 + 1,
                         value.as_loop().items.size());
      return;
    case Kind::callable:
      out += fmt::format("<function {}>", value.as_callable().name);
      return;
  }
}

bool equal_items(const std::vector<Value>& a, const std::vector<Value>& b, Budget& budget) {
  if (a.size() != b.size()) return false;
  for (size_t i = 0; i < a.size(); ++i) {
    if (!equal(a[i], b[i], budget)) return false;
  }
  return true;
}

}  // namespace

Value Value::none() {
  Value value;
  value.kind_ = Kind::none;
  return value;
}

Value Value::boolean(bool boolean) {
  Value value;
  value.kind_ = Kind::boolean;
  value.integer_ = boolean ? 1 : 0;
  return value;
}

Value Value::integer(int64_t integer) {
  Value value;
  value.kind_ = Kind::integer;
  value.integer_ = integer;
  return value;
}

Value Value::floating(double floating) {
  Value value;
  value.kind_ = Kind::floating;
  value.floating_ = floating;
  return value;
}

Value Value::string(std::string text, bool markup) {
  auto object = std::make_shared<Text>();
  object->text = std::move(text);
  Value value = Value::object(Kind::string, std::move(object));
  value.markup_ = markup;
  return value;
}

Value Value::undefined(std::string why) {
  auto object = std::make_shared<Text>();
  object->text = std::move(why);
  return Value::object(Kind::undefined, std::move(object));
}

Value Value::list(std::vector<Value> items) {
  return make_sequence(Kind::list, std::move(items));
}
Value Value::tuple(std::vector<Value> items) {
  return make_sequence(Kind::tuple, std::move(items));
}
Value Value::generator(std::vector<Value> items) {
  return make_sequence(Kind::generator, std::move(items));
}
Value Value::view(std::string_view label, std::vector<Value> items) {
  return make_sequence(Kind::view, std::move(items), label);
}

Value Value::range(int64_t start, int64_t stop, int64_t step) {
  if (step == 0) fail("range() arg 3 must not be zero");
  auto sequence = std::make_shared<Sequence>();
  sequence->start = start;
  sequence->stop = stop;
  sequence->step = step;
  for (int64_t i = start; step > 0 ? i < stop : i > stop;) {
    if (sequence->items.size() >= static_cast<size_t>(Limits::range_items)) {
      fail("range() is too big: at most {} items", Limits::range_items);
    }
    sequence->items.push_back(Value::integer(i));
    if (__builtin_add_overflow(i, step, &i)) break;
  }
  return Value::object(Kind::range, std::move(sequence));
}

Value Value::dict(Dict entries) {
  auto object = std::make_shared<DictObject>();
  int inner = 0;
  for (const auto& entry : entries.entries()) inner = std::max(inner, entry.second.depth());
  object->depth = checked_depth(inner);
  object->entries = std::move(entries);
  return Value::object(Kind::dict, std::move(object));
}

Value Value::object(Kind kind, std::shared_ptr<Object> object) {
  Value value;
  value.kind_ = kind;
  value.object_ = std::move(object);
  return value;
}

const std::string& Value::as_string() const {
  return static_cast<const Text*>(object_.get())->text;
}
const Sequence& Value::as_sequence() const {
  return *static_cast<const Sequence*>(object_.get());
}
Sequence& Value::as_generator() const {
  return *static_cast<Sequence*>(object_.get());
}
const Dict& Value::as_dict() const {
  return static_cast<const DictObject*>(object_.get())->entries;
}
Namespace& Value::as_namespace() const {
  return *static_cast<Namespace*>(object_.get());
}
Loop& Value::as_loop() const {
  return *static_cast<Loop*>(object_.get());
}
Callable& Value::as_callable() const {
  return *static_cast<Callable*>(object_.get());
}

std::string Value::why_undefined() const {
  return object_ ? static_cast<const Text*>(object_.get())->text : "a value is undefined";
}

size_t Dict::index_of(const Value& key, uint64_t hash) const {
  if (index_.empty()) {
    for (size_t i = 0; i < entries_.size(); ++i) {
      if (hashes_[i] == hash && same_key(entries_[i].first, key)) return i;
    }
    return npos;
  }
  const auto [begin, end] = index_.equal_range(hash);
  for (auto it = begin; it != end; ++it) {
    if (same_key(entries_[it->second].first, key)) return it->second;
  }
  return npos;
}

const Value* Dict::find(const Value& key) const {
  const size_t i = index_of(key, hash_key(key));
  return i == npos ? nullptr : &entries_[i].second;
}

const Value* Dict::find(std::string_view key) const {
  if (index_.empty()) {
    for (const auto& [name, value] : entries_) {
      if (name.is_string() && name.as_string() == key) return &value;
    }
    return nullptr;
  }
  return find(Value::string(std::string(key)));
}

void Dict::set(Value key, Value value) {
  if (key.is_undefined()) require_defined(key);
  const uint64_t hash = hash_key(key);
  if (const size_t i = index_of(key, hash); i != npos) {
    entries_[i].second = std::move(value);
    return;
  }
  entries_.emplace_back(std::move(key), std::move(value));
  hashes_.push_back(hash);
  if (entries_.size() == 16) {
    for (size_t i = 0; i < hashes_.size(); ++i) index_.emplace(hashes_[i], i);
  } else if (entries_.size() > 16) {
    index_.emplace(hash, entries_.size() - 1);
  }
}

std::string_view type_name(const Value& value) {
  switch (value.kind()) {
    case Kind::undefined:
      return "Undefined";
    case Kind::none:
      return "NoneType";
    case Kind::boolean:
      return "bool";
    case Kind::integer:
      return "int";
    case Kind::floating:
      return "float";
    case Kind::string:
      return value.is_markup() ? "Markup" : "str";
    case Kind::list:
      return "list";
    case Kind::tuple:
      return "tuple";
    case Kind::range:
      return "range";
    case Kind::view:
      return value.as_sequence().label;
    case Kind::generator:
      return "generator";
    case Kind::dict:
      return "dict";
    case Kind::name_space:
      return "Namespace";
    case Kind::loop:
      return "LoopContext";
    case Kind::callable:
      return "function";
  }
  return "object";
}

std::string object_name(const Value& value) {
  if (value.is_none()) return "'None'";
  return fmt::format("'{} object'", type_name(value));
}

bool truthy(const Value& value) {
  switch (value.kind()) {
    case Kind::undefined:
    case Kind::none:
      return false;
    case Kind::boolean:
    case Kind::integer:
      return value.as_integer() != 0;
    case Kind::floating:
      return value.as_double() != 0;
    case Kind::string:
      return !value.as_string().empty();
    case Kind::list:
    case Kind::tuple:
    case Kind::range:
    case Kind::view:
      return !value.as_sequence().items.empty();
    case Kind::dict:
      return value.as_dict().size() > 0;
    default:
      return true;
  }
}

void require_defined(const Value& value) {
  if (value.is_undefined()) fail("{}", value.why_undefined());
}

std::string to_text(const Value& value, Budget& budget) {
  std::string out;
  append_text(out, value, false, 0, budget);
  return out;
}

std::string to_repr(const Value& value, Budget& budget) {
  std::string out;
  append_text(out, value, true, 0, budget);
  return out;
}

bool equal(const Value& a, const Value& b, Budget& budget) {
  budget.step();
  if (a.is_number() && b.is_number()) {
    if (a.is_integral() && b.is_integral()) return a.as_integer() == b.as_integer();
    return a.as_double() == b.as_double();
  }
  if (a.kind() != b.kind()) return false;
  switch (a.kind()) {
    case Kind::undefined:
    case Kind::none:
      return true;
    case Kind::string:
      budget.step(std::min(a.as_string().size(), b.as_string().size()) / 64);
      return a.as_string() == b.as_string();
    case Kind::list:
    case Kind::tuple:
    case Kind::range:
      return a.identity() == b.identity() ||
             equal_items(a.as_sequence().items, b.as_sequence().items, budget);
    case Kind::view:
      // dict_values compare by identity in Python, keys and items by content.
      return a.identity() == b.identity() ||
             (a.as_sequence().label != "dict_values" &&
              a.as_sequence().label == b.as_sequence().label &&
              equal_items(a.as_sequence().items, b.as_sequence().items, budget));
    case Kind::dict: {
      if (a.identity() == b.identity()) return true;
      const Dict& left = a.as_dict();
      const Dict& right = b.as_dict();
      if (left.size() != right.size()) return false;
      for (const auto& [key, value] : left.entries()) {
        const Value* other = right.find(key);
        if (other == nullptr || !equal(value, *other, budget)) return false;
      }
      return true;
    }
    default:
      return a.identity() == b.identity();
  }
}

int compare(const Value& a, const Value& b, std::string_view operator_name, Budget& budget) {
  budget.step();
  require_defined(a);
  require_defined(b);
  if (a.is_number() && b.is_number()) {
    if (a.is_integral() && b.is_integral()) {
      return a.as_integer() < b.as_integer() ? -1 : a.as_integer() > b.as_integer();
    }
    if (std::isnan(a.as_double()) || std::isnan(b.as_double())) {
      fail("a comparison with nan has no order");
    }
    return a.as_double() < b.as_double() ? -1 : a.as_double() > b.as_double();
  }
  if (a.is_string() && b.is_string()) {
    budget.step(std::min(a.as_string().size(), b.as_string().size()) / 64);
    const int order = a.as_string().compare(b.as_string());  // UTF-8 sorts as code points do
    return order < 0 ? -1 : order > 0;
  }
  if (a.kind() == b.kind() && (a.is(Kind::list) || a.is(Kind::tuple))) {
    const auto& left = a.as_sequence().items;
    const auto& right = b.as_sequence().items;
    for (size_t i = 0; i < std::min(left.size(), right.size()); ++i) {
      if (!equal(left[i], right[i], budget))
        return compare(left[i], right[i], operator_name, budget);
    }
    return left.size() < right.size() ? -1 : left.size() > right.size();
  }
  fail("'{}' not supported between instances of '{}' and '{}'", operator_name, type_name(a),
       type_name(b));
}

bool is_iterable(const Value& value) {
  switch (value.kind()) {
    case Kind::undefined:
    case Kind::string:
    case Kind::dict:
    case Kind::loop:
      return true;
    default:
      return value.is_sequence();
  }
}

std::vector<Value> iterate(const Value& value, Budget& budget) {
  std::vector<Value> items;
  switch (value.kind()) {
    case Kind::undefined:
      break;
    case Kind::string: {
      const std::string& text = value.as_string();
      budget.take(text.size() * (sizeof(Value) + 48));
      for (size_t i = 0, bytes = 0; i < text.size(); i += bytes) {
        point_at(text, i, bytes);
        items.push_back(Value::string(text.substr(i, bytes), value.is_markup()));
      }
      break;
    }
    case Kind::generator:
      // A generator's items go to whoever runs through them first.
      if (!value.as_sequence().consumed) {
        value.as_generator().consumed = true;
        items = std::move(value.as_generator().items);
        value.as_generator().items.clear();
      }
      break;
    case Kind::list:
    case Kind::tuple:
    case Kind::range:
    case Kind::view:
      budget.take(value.as_sequence().items.size() * sizeof(Value));
      items = value.as_sequence().items;
      break;
    case Kind::dict:
      budget.take(value.as_dict().size() * sizeof(Value));
      for (const auto& entry : value.as_dict().entries()) items.push_back(entry.first);
      break;
    default:
      fail("'{}' object is not iterable", type_name(value));
  }
  budget.step(items.size());
  return items;
}

int64_t length(const Value& value, Budget& budget) {
  switch (value.kind()) {
    case Kind::undefined:
      return 0;
    case Kind::string:
      budget.step(value.as_string().size() / 16);
      return static_cast<int64_t>(count_points(value.as_string()));
    case Kind::list:
    case Kind::tuple:
    case Kind::range:
    case Kind::view:
      return static_cast<int64_t>(value.as_sequence().items.size());
    case Kind::dict:
      return static_cast<int64_t>(value.as_dict().size());
    case Kind::loop:
      return static_cast<int64_t>(value.as_loop().items.size());
    default:
      fail("object of type '{}' has no len()", type_name(value));
  }
}

bool contains(const Value& container, const Value& item, Budget& budget) {
  switch (container.kind()) {
    case Kind::undefined:
      return false;
    case Kind::string:
      if (!item.is_string()) {
        fail("'in <string>' requires string as left operand, not {}", type_name(item));
      }
      budget.step((container.as_string().size() + item.as_string().size()) / 16);
      return find_text(container.as_string(), item.as_string()) != std::string::npos;
    case Kind::dict:
      if (item.is_string()) budget.step(item.as_string().size() / 64);
      return container.as_dict().find(item) != nullptr;
    case Kind::list:
    case Kind::tuple:
    case Kind::range:
    case Kind::view:
      return std::any_of(container.as_sequence().items.begin(), container.as_sequence().items.end(),
                         [&](const Value& other) { return equal(item, other, budget); });
    case Kind::generator: {
      const auto items = iterate(container, budget);
      return std::any_of(items.begin(), items.end(),
                         [&](const Value& other) { return equal(item, other, budget); });
    }
    default:
      fail("argument of type '{}' is not iterable", type_name(container));
  }
}

Value from_json(const json::value& value) {
  switch (value.kind()) {
    case json::kind::null:
      return Value::none();
    case json::kind::bool_:
      return Value::boolean(value.get_bool());
    case json::kind::int64:
      return Value::integer(value.get_int64());
    case json::kind::uint64:
      if (value.get_uint64() > static_cast<uint64_t>(INT64_MAX)) {
        fail("the integer {} does not fit 64 bits with a sign", value.get_uint64());
      }
      return Value::integer(static_cast<int64_t>(value.get_uint64()));
    case json::kind::double_:
      return Value::floating(value.get_double());
    case json::kind::string:
      return Value::string(std::string(value.get_string()));
    case json::kind::array: {
      std::vector<Value> items;
      items.reserve(value.get_array().size());
      for (const json::value& item : value.get_array()) items.push_back(from_json(item));
      return Value::list(std::move(items));
    }
    case json::kind::object: {
      Dict entries;
      for (const auto& [key, item] : value.get_object()) {
        entries.set(Value::string(std::string(key)), from_json(item));
      }
      return Value::dict(std::move(entries));
    }
  }
  return Value::none();
}

}  // namespace impetus::jinja

// Jinja's filters on sequences. What jinja2 gives as a generator is one here: it runs through once.
#include <algorithm>
#include <array>
#include <iterator>
#include <list>
#include <optional>

#include "text/jinja/builtins.h"
#include "text/jinja/operators.h"
#include "text/jinja/python_text.h"

namespace impetus::jinja {
namespace {

// "a.b.0" of each item.
class AttributePath {
 public:
  explicit AttributePath(const Value& path) {
    if (path.is_integral()) {
      parts_.push_back(path);
      return;
    }
    if (!path.is_string())
      fail("an attribute must be a name or an index, not '{}'", type_name(path));
    std::string_view rest = path.as_string();
    for (;;) {
      const size_t dot = rest.find('.');
      const std::string_view part = rest.substr(0, dot);
      if (part.size() < 18 && !part.empty() && part.find_first_not_of("0123456789") == part.npos) {
        parts_.push_back(Value::integer(std::stoll(std::string(part))));
      } else {
        parts_.push_back(Value::string(std::string(part)));
      }
      if (dot == std::string_view::npos) return;
      rest = rest.substr(dot + 1);
    }
  }

  Value of(Value item, const Value* fallback, Budget& budget) const {
    for (const Value& part : parts_) {
      budget.step();
      item = get_item(item, part, budget);
      if (fallback != nullptr && item.is_undefined()) item = *fallback;
    }
    return item;
  }

 private:
  std::vector<Value> parts_;
};

std::optional<AttributePath> optional_path(const Bound& bound, size_t i) {
  if (bound.is_none(i)) return {};
  return AttributePath(bound.value(i));
}

// The key to sort or compare by: an attribute where asked for, lower case unless case matters.
class SortKey {
 public:
  SortKey(bool case_sensitive, const Value* attribute) : case_sensitive_(case_sensitive) {
    if (attribute == nullptr || attribute->is_none()) return;
    if (attribute->is_string()) {  // "a,b": by several
      std::string_view rest = attribute->as_string();
      for (size_t comma = 0; comma != std::string_view::npos;
           rest.remove_prefix(std::min(rest.size(), comma + 1))) {
        comma = rest.find(',');
        paths_.emplace_back(Value::string(std::string(rest.substr(0, comma))));
        if (comma == std::string_view::npos) break;
      }
    } else {
      paths_.emplace_back(*attribute);
    }
  }

  Value operator()(const Value& item, Budget& budget) const {
    if (paths_.empty()) return fold(item, budget);
    if (paths_.size() == 1) return fold(paths_[0].of(item, nullptr, budget), budget);
    std::vector<Value> keys;
    for (const AttributePath& path : paths_)
      keys.push_back(fold(path.of(item, nullptr, budget), budget));
    return Value::list(std::move(keys));
  }

 private:
  Value fold(const Value& value, Budget& budget) const {
    if (case_sensitive_ || !value.is_string()) return value;
    budget.take(value.as_string().size());
    return Value::string(lower(value.as_string()));
  }

  bool case_sensitive_;
  std::vector<AttributePath> paths_;
};

struct Keyed {
  Value key;
  Value item;
};

std::vector<Keyed> with_keys(std::vector<Value> items, const SortKey& key, Budget& budget) {
  std::vector<Keyed> result;
  budget.take(items.size() * sizeof(Keyed));
  result.reserve(items.size());
  for (Value& item : items) {
    Value by = key(item, budget);
    result.push_back({std::move(by), std::move(item)});
  }
  return result;
}

void sort_by_key(std::vector<Keyed>& items, bool reverse, Budget& budget) {
  // A list's merge sort is stable, and safe with any comparison: types without an order among them
  // throw from within it.
  std::list<Keyed> sorted(std::make_move_iterator(items.begin()),
                          std::make_move_iterator(items.end()));
  sorted.sort([&](const Keyed& a, const Keyed& b) {
    return reverse ? compare(b.key, a.key, "<", budget) < 0
                   : compare(a.key, b.key, "<", budget) < 0;
  });
  items.assign(std::make_move_iterator(sorted.begin()), std::make_move_iterator(sorted.end()));
}

Value list_of_items(std::vector<Keyed> items) {
  std::vector<Value> result;
  result.reserve(items.size());
  for (Keyed& item : items) result.push_back(std::move(item.item));
  return Value::list(std::move(result));
}

Value sort(Interpreter& interpreter, const Value& subject, Arguments& arguments) {
  const Bound bound("sort", arguments, {"reverse", "case_sensitive", "attribute"});
  const SortKey key(bound.boolean(1, false), bound.has(2) ? &bound.value(2) : nullptr);
  auto items = with_keys(iterate(subject, interpreter.budget()), key, interpreter.budget());
  sort_by_key(items, bound.boolean(0, false), interpreter.budget());
  return list_of_items(std::move(items));
}

Value dict_sort(Interpreter& interpreter, const Value& subject, Arguments& arguments) {
  const Bound bound("dictsort", arguments, {"case_sensitive", "by", "reverse"});
  const std::string by = bound.string(1, "key");
  if (by != "key" && by != "value") fail("dictsort: by must be 'key' or 'value'");
  require_defined(subject);
  if (!subject.is(Kind::dict)) fail("dictsort needs a mapping, not '{}'", type_name(subject));
  std::vector<Value> pairs;
  for (const auto& [key, value] : subject.as_dict().entries())
    pairs.push_back(Value::tuple({key, value}));
  const Value position = Value::integer(by == "key" ? 0 : 1);
  const SortKey key(bound.boolean(0, false), &position);
  auto items = with_keys(std::move(pairs), key, interpreter.budget());
  sort_by_key(items, bound.boolean(2, false), interpreter.budget());
  return list_of_items(std::move(items));
}

Value unique(Interpreter& interpreter, const Value& subject, Arguments& arguments) {
  const Bound bound("unique", arguments, {"case_sensitive", "attribute"});
  const SortKey key(bound.boolean(0, false), bound.has(1) ? &bound.value(1) : nullptr);
  Budget& budget = interpreter.budget();
  Dict seen;
  std::vector<Value> result;
  for (Keyed& item : with_keys(iterate(subject, budget), key, budget)) {
    if (item.key.is_undefined()) {
      // Undefined values are one value to a set, though none can be a dict's key.
      item.key = Value::none();
    }
    if (seen.find(item.key) != nullptr) continue;
    seen.set(item.key, Value::none());
    result.push_back(std::move(item.item));
  }
  return Value::generator(std::move(result));
}

template <bool greatest>
Value extreme(Interpreter& interpreter, const Value& subject, Arguments& arguments) {
  const Bound bound(greatest ? "max" : "min", arguments, {"case_sensitive", "attribute"});
  const SortKey key(bound.boolean(0, false), bound.has(1) ? &bound.value(1) : nullptr);
  Budget& budget = interpreter.budget();
  auto items = with_keys(iterate(subject, budget), key, budget);
  if (items.empty()) return Value::undefined("No aggregated item, sequence was empty.");
  size_t best = 0;
  for (size_t i = 1; i < items.size(); ++i) {
    const int order = compare(items[i].key, items[best].key, greatest ? ">" : "<", budget);
    if (greatest ? order > 0 : order < 0) best = i;
  }
  return items[best].item;
}

Value sum(Interpreter& interpreter, const Value& subject, Arguments& arguments) {
  const Bound bound("sum", arguments, {"attribute", "start"});
  Budget& budget = interpreter.budget();
  Value total = bound.has(1) ? bound.value(1) : Value::integer(0);
  if (total.is_string()) fail("sum() can't sum strings");
  const std::optional<AttributePath> path = optional_path(bound, 0);
  for (const Value& item : iterate(subject, budget)) {
    const Value part = path ? path->of(item, nullptr, budget) : item;
    total = arithmetic(Operation::add, total, part, budget);
  }
  return total;
}

Value join(Interpreter& interpreter, const Value& subject, Arguments& arguments) {
  const Bound bound("join", arguments, {"d", "attribute"});
  Budget& budget = interpreter.budget();
  const std::string separator = bound.has(0) ? interpreter.text(bound.value(0)) : "";
  const std::optional<AttributePath> path = optional_path(bound, 1);
  std::string result;
  bool first = true;
  for (const Value& item : iterate(subject, budget)) {
    if (!first) result += separator;
    first = false;
    result += interpreter.text(path ? path->of(item, nullptr, budget) : item);
    budget.take(separator.size());
  }
  return Value::string(std::move(result));
}

Value first(Interpreter& interpreter, const Value& subject, Arguments& arguments) {
  Bound("first", arguments, {});
  if (subject.is(Kind::generator) && !subject.as_sequence().items.empty()) {
    // Takes one item and leaves the others.
    auto& items = subject.as_generator().items;
    interpreter.budget().step(items.size() / 16);
    const Value item = items.front();
    items.erase(items.begin());
    return item;
  }
  auto items = iterate(subject, interpreter.budget());
  return items.empty() ? Value::undefined("No first item, sequence was empty.") : items.front();
}

Value last(Interpreter& interpreter, const Value& subject, Arguments& arguments) {
  Bound("last", arguments, {});
  if (subject.is(Kind::generator)) fail("'generator' object is not reversible: use |list first");
  auto items = iterate(subject, interpreter.budget());
  return items.empty() ? Value::undefined("No last item, sequence was empty.") : items.back();
}

Value list(Interpreter& interpreter, const Value& subject, Arguments& arguments) {
  Bound("list", arguments, {});
  return Value::list(iterate(subject, interpreter.budget()));
}

Value reverse(Interpreter& interpreter, const Value& subject, Arguments& arguments) {
  Bound("reverse", arguments, {});
  if (subject.is_undefined()) fail("argument must be iterable");
  auto items = iterate(subject, interpreter.budget());
  std::reverse(items.begin(), items.end());
  if (!subject.is_string())
    return subject.is(Kind::generator) ? Value::list(std::move(items))
                                       : Value::generator(std::move(items));
  std::string text;
  for (const Value& item : items) text += item.as_string();
  return Value::string(std::move(text), subject.is_markup());
}

Value items(Interpreter& interpreter, const Value& subject, Arguments& arguments) {
  Bound("items", arguments, {});
  std::vector<Value> result;
  if (!subject.is_undefined()) {
    if (!subject.is(Kind::dict)) fail("Can only get item pairs from a mapping.");
    interpreter.budget().take(subject.as_dict().size() * 4 * sizeof(Value));
    for (const auto& [key, value] : subject.as_dict().entries()) {
      result.push_back(Value::tuple({key, value}));
    }
  }
  return Value::generator(std::move(result));
}

// What map, select and reject need of the arguments after a filter's or test's name.
Arguments rest_of(const Arguments& arguments, size_t skipped, Budget& budget) {
  budget.step(arguments.positional.size() + arguments.named.size());
  Arguments rest;
  rest.positional.assign(arguments.positional.begin() + static_cast<std::ptrdiff_t>(skipped),
                         arguments.positional.end());
  rest.named = arguments.named;
  return rest;
}

Value map(Interpreter& interpreter, const Value& subject, Arguments& arguments) {
  Budget& budget = interpreter.budget();
  std::vector<Value> result;
  if (!truthy(subject)) return Value::generator({});
  if (arguments.positional.empty()) {
    const Bound bound("map", arguments, {"attribute", "default"});
    if (!bound.has(0)) fail("map requires a filter's name or attribute=");
    const AttributePath path(bound.value(0));
    const Value* fallback = bound.is_none(1) ? nullptr : &bound.value(1);
    for (Value& item : iterate(subject, budget))
      result.push_back(path.of(std::move(item), fallback, budget));
  } else {
    const Value& name = arguments.positional[0];
    if (!name.is_string()) fail("map requires a filter's name");
    for (const Value& item : iterate(subject, budget)) {
      Arguments rest = rest_of(arguments, 1, budget);
      result.push_back(interpreter.apply_filter(name.as_string(), item, rest));
    }
  }
  budget.take(result.size() * sizeof(Value));
  return Value::generator(std::move(result));
}

template <bool wanted, bool by_attribute>
Value select(Interpreter& interpreter, const Value& subject, Arguments& arguments) {
  Budget& budget = interpreter.budget();
  std::vector<Value> result;
  if (!truthy(subject)) return Value::generator({});
  const auto& given = arguments.positional;
  if (by_attribute && given.empty()) fail("Missing parameter for attribute name");
  const size_t skipped = by_attribute ? 1 : 0;
  std::optional<AttributePath> path;
  if (by_attribute) path.emplace(given[0]);
  for (Value& item : iterate(subject, budget)) {
    const Value looked_at = path ? path->of(item, nullptr, budget) : item;
    bool holds = false;
    if (given.size() > skipped) {
      if (!given[skipped].is_string()) fail("expected the name of a test");
      Arguments rest = rest_of(arguments, skipped + 1, budget);
      holds = interpreter.apply_test(given[skipped].as_string(), looked_at, rest);
    } else {
      holds = truthy(looked_at);
    }
    if (holds == wanted) result.push_back(std::move(item));
  }
  return Value::generator(std::move(result));
}

Value batch(Interpreter& interpreter, const Value& subject, Arguments& arguments) {
  const Bound bound("batch", arguments, {"linecount", "fill_with"}, 1);
  const int64_t size = bound.integer(0, 1);
  if (size < 1 || size > Limits::range_items)
    fail("batch: the size must be 1 to {}", Limits::range_items);
  std::vector<Value> result;
  std::vector<Value> current;
  for (Value& item : iterate(subject, interpreter.budget())) {
    if (current.size() == static_cast<size_t>(size)) {
      result.push_back(Value::list(std::exchange(current, {})));
    }
    current.push_back(std::move(item));
  }
  if (!current.empty()) {
    if (!bound.is_none(1)) {
      interpreter.budget().take(static_cast<uint64_t>(size) * sizeof(Value));
      current.resize(static_cast<size_t>(size), bound.value(1));
    }
    result.push_back(Value::list(std::move(current)));
  }
  return Value::generator(std::move(result));
}

Value attribute(Interpreter& interpreter, const Value& subject, Arguments& arguments) {
  const Bound bound("attr", arguments, {"name"}, 1);
  const std::string name = bound.string(0, "");
  // An item of that name is not an attribute.
  if (subject.is(Kind::dict) && find_method(Kind::dict, name) == nullptr) {
    return Value::undefined(fmt::format("'dict object' has no attribute '{}'", shortened(name)));
  }
  return get_attribute(subject, name, interpreter.budget());
}

using Entry = std::pair<std::string_view, Filter>;

constexpr auto table = std::to_array<Entry>({
    {"sort", sort},
    {"dictsort", dict_sort},
    {"unique", unique},
    {"min", extreme<false>},
    {"max", extreme<true>},
    {"sum", sum},
    {"join", join},
    {"first", first},
    {"last", last},
    {"list", list},
    {"reverse", reverse},
    {"items", items},
    {"map", map},
    {"select", select<true, false>},
    {"reject", select<false, false>},
    {"selectattr", select<true, true>},
    {"rejectattr", select<false, true>},
    {"batch", batch},
    {"attr", attribute},
});

}  // namespace

Filter find_sequence_filter(std::string_view name) {
  for (const auto& [key, filter] : table) {
    if (key == name) return filter;
  }
  return nullptr;
}

}  // namespace impetus::jinja

// Python's methods of str, dict, list and tuple, and loop.cycle. Source: the Python 3 library
// reference, "Built-in Types".
#include <algorithm>
#include <array>

#include "text/jinja/builtins.h"
#include "text/jinja/python_text.h"

namespace impetus::jinja {
namespace {

constexpr size_t npos = std::string_view::npos;

Value like(const Value& self, std::string_view text) {
  return Value::string(std::string(text), self.is_markup());
}

// --- str

template <bool left, bool right>
Value strip(Interpreter& interpreter, const Value& self, Arguments& arguments) {
  const Bound bound("strip", arguments, {"chars"});
  std::string_view text = self.as_string();
  interpreter.budget().step(text.size() / 16);
  if (bound.is_none(0)) {
    if (left) text = strip_left(text);
    if (right) text = strip_right(text);
    return like(self, text);
  }
  const std::string characters = bound.string(0, "");
  interpreter.budget().take(text.size() * std::min<size_t>(characters.size(), 4096) / 16);
  if (characters.size() > 4096) fail("strip(): more than 4096 characters to strip");
  if (left) text = strip_left(text, characters);
  if (right) text = strip_right(text, characters);
  return like(self, text);
}

Value list_of(const Value& self, const std::vector<std::string_view>& parts, Budget& budget) {
  std::vector<Value> items;
  budget.take(parts.size() * (sizeof(Value) + 96));
  items.reserve(parts.size());
  for (const std::string_view part : parts) items.push_back(like(self, part));
  return Value::list(std::move(items));
}

// The next run of non-blanks in text[from, ...); false at the end.
bool next_word(std::string_view text, size_t& start, size_t& end) {
  start = text.size() - strip_left(text.substr(start)).size();
  if (start >= text.size()) return false;
  for (end = start; end < text.size();) {
    size_t bytes = 0;
    if (is_space(point_at(text, end, bytes))) break;
    end += bytes;
  }
  return true;
}

Value split(Interpreter& interpreter, const Value& self, Arguments& arguments) {
  const Bound bound("split", arguments, {"sep", "maxsplit"});
  const std::string_view text = self.as_string();
  const int64_t most = bound.integer(1, -1);
  std::vector<std::string_view> parts;
  interpreter.budget().step(text.size() / 16);
  if (bound.is_none(0)) {
    size_t start = 0;
    for (size_t end = 0; next_word(text, start, end); start = end) {
      if (most >= 0 && parts.size() >= static_cast<size_t>(most)) {
        parts.push_back(strip_right(text.substr(start)));
        break;
      }
      parts.push_back(text.substr(start, end - start));
    }
    return list_of(self, parts, interpreter.budget());
  }
  const std::string separator = bound.string(0, "");
  if (separator.empty()) fail("empty separator");
  size_t from = 0;
  for (size_t hit = 0; most < 0 || parts.size() < static_cast<size_t>(most);
       from = hit + separator.size()) {
    hit = find_text(text, separator, from);
    if (hit == npos) break;
    parts.push_back(text.substr(from, hit - from));
  }
  parts.push_back(text.substr(from));
  return list_of(self, parts, interpreter.budget());
}

Value rsplit(Interpreter& interpreter, const Value& self, Arguments& arguments) {
  const Bound bound("rsplit", arguments, {"sep", "maxsplit"});
  const int64_t most = bound.integer(1, -1);
  if (most < 0) return split(interpreter, self, arguments);
  // Split wholly, then join the front again: the cuts nearest the end stay.
  std::string_view text = self.as_string();
  std::vector<std::string_view> parts;
  interpreter.budget().step(text.size() / 16);
  const auto cuts = static_cast<size_t>(most);
  if (bound.is_none(0)) {
    size_t start = 0;
    for (size_t end = 0; next_word(text, start, end); start = end) {
      parts.push_back(text.substr(start, end - start));
    }
    if (parts.size() > cuts + 1 || (cuts == 0 && !parts.empty())) {
      const size_t kept = parts.size() - cuts;  // words in front that stay together
      const char* stop = parts[kept - 1].data() + parts[kept - 1].size();
      const std::string_view front = text.substr(0, static_cast<size_t>(stop - text.data()));
      parts.erase(parts.begin(), parts.begin() + static_cast<std::ptrdiff_t>(kept));
      parts.insert(parts.begin(), front);
    }
    return list_of(self, parts, interpreter.budget());
  }
  const std::string separator = bound.string(0, "");
  if (separator.empty()) fail("empty separator");
  interpreter.budget().step(text.size() * separator.size() / 1024);  // rfind is quadratic
  while (parts.size() < cuts) {
    const size_t hit = text.rfind(separator);
    if (hit == npos) break;
    parts.push_back(text.substr(hit + separator.size()));
    text = text.substr(0, hit);
  }
  parts.push_back(text);
  std::reverse(parts.begin(), parts.end());
  return list_of(self, parts, interpreter.budget());
}

Value splitlines(Interpreter& interpreter, const Value& self, Arguments& arguments) {
  const Bound bound("splitlines", arguments, {"keepends"});
  const bool keep = bound.boolean(0, false);
  const std::string_view text = self.as_string();
  interpreter.budget().step(text.size() / 16);
  std::vector<std::string_view> parts;
  for (size_t start = 0, i = 0; start < text.size();) {
    size_t bytes = 0;
    size_t line_end = text.size();
    for (i = start; i < text.size(); i += bytes) {
      const int32_t point = point_at(text, i, bytes);
      if ((point >= 0x0A && point <= 0x0D) || (point >= 0x1C && point <= 0x1E) || point == 0x85 ||
          point == 0x2028 || point == 0x2029) {
        line_end = i;
        i += bytes;
        if (point == '\r' && i < text.size() && text[i] == '\n') ++i;
        break;
      }
    }
    parts.push_back(text.substr(start, (keep ? i : line_end) - start));
    start = i;
  }
  return list_of(self, parts, interpreter.budget());
}

template <bool at_end>
Value starts_or_ends_with(Interpreter& interpreter, const Value& self, Arguments& arguments) {
  const Bound bound(at_end ? "endswith" : "startswith", arguments, {"prefix", "start", "end"}, 1);
  std::string_view text = self.as_string();
  if (bound.has(1) || bound.has(2)) {
    const int64_t size = length(self, interpreter.budget());
    const auto place = [&](size_t i, int64_t fallback) {
      int64_t index = bound.is_none(i) ? fallback : bound.integer(i, fallback);
      if (index < 0) index += size;
      return byte_offset(text, static_cast<size_t>(std::clamp<int64_t>(index, 0, size)));
    };
    const size_t start = place(1, 0);
    const size_t end = place(2, size);
    if (start > end) return Value::boolean(false);
    text = text.substr(start, end - start);
  }
  const auto matches = [&](const Value& part) {
    require_defined(part);
    if (!part.is_string()) {
      fail("{} first arg must be str or a tuple of str, not {}", at_end ? "endswith" : "startswith",
           type_name(part));
    }
    interpreter.budget().step(part.as_string().size() / 16);
    return at_end ? text.ends_with(part.as_string()) : text.starts_with(part.as_string());
  };
  if (!bound.value(0).is(Kind::tuple)) return Value::boolean(matches(bound.value(0)));
  for (const Value& part : bound.value(0).as_sequence().items) {
    if (matches(part)) return Value::boolean(true);
  }
  return Value::boolean(false);
}

template <std::string (*function)(std::string_view)>
Value changed_case(Interpreter& interpreter, const Value& self, Arguments& arguments) {
  Bound("str method", arguments, {});
  interpreter.budget().step(self.as_string().size() / 4);
  return like(self, function(self.as_string()));
}

Value replace(Interpreter& interpreter, const Value& self, Arguments& arguments) {
  const Bound bound("replace", arguments, {"old", "new", "count"}, 2);
  const std::string old = bound.string(0, "");
  const std::string fresh = bound.string(1, "");
  const int64_t most = bound.integer(2, -1);
  std::string result;
  const std::string_view text = self.as_string();
  interpreter.budget().step(text.size() / 16);
  size_t from = 0;
  for (int64_t done = 0; most < 0 || done < most; ++done) {
    if (old.empty()) {  // before every code point, and at the end
      interpreter.budget().take(fresh.size() + 1);
      result += fresh;
      if (from >= text.size()) return like(self, result);
      size_t bytes = 0;
      point_at(text, from, bytes);
      result.append(text, from, bytes);
      from += bytes;
      continue;
    }
    const size_t hit = find_text(text, old, from);
    if (hit == npos) break;
    interpreter.budget().take(hit - from + fresh.size() + 1);
    result.append(text, from, hit - from);
    result += fresh;
    from = hit + old.size();
  }
  result.append(text.substr(from));
  return like(self, result);
}

Value join(Interpreter& interpreter, const Value& self, Arguments& arguments) {
  const Bound bound("join", arguments, {"iterable"}, 1);
  std::string result;
  bool first = true;
  for (const Value& item : iterate(bound.value(0), interpreter.budget())) {
    if (!item.is_string()) fail("sequence item: expected str instance, {} found", type_name(item));
    interpreter.budget().take(item.as_string().size() + self.as_string().size());
    if (!first) result += self.as_string();
    first = false;
    result += item.as_string();
  }
  return like(self, result);
}

template <bool from_right, bool must>
Value find_index(Interpreter& interpreter, const Value& self, Arguments& arguments) {
  const Bound bound(must ? "index" : "find", arguments, {"sub", "start"}, 1);
  const std::string_view text = self.as_string();
  const std::string part = bound.string(0, "");
  interpreter.budget().step(text.size() / 16);
  if (from_right)
    interpreter.budget().step(text.size() * part.size() / 1024);  // rfind is quadratic
  int64_t start = bound.integer(1, 0);
  const int64_t size = length(self, interpreter.budget());
  if (start < 0) start = std::max<int64_t>(start + size, 0);
  size_t hit = npos;
  if (start <= size) {
    const size_t offset = byte_offset(text, static_cast<size_t>(start));
    hit = from_right ? text.rfind(part) : find_text(text, part, offset);
    if (hit != npos && hit < offset) hit = npos;
  }
  if (hit == npos) {
    if (must) fail("substring not found");
    return Value::integer(-1);
  }
  return Value::integer(static_cast<int64_t>(count_points(text.substr(0, hit))));
}

Value count(Interpreter& interpreter, const Value& self, Arguments& arguments) {
  const Bound bound("count", arguments, {"sub"}, 1);
  const std::string part = bound.string(0, "");
  interpreter.budget().step(self.as_string().size() / 16);
  if (part.empty()) return Value::integer(length(self, interpreter.budget()) + 1);
  int64_t found = 0;
  for (size_t hit = 0; (hit = find_text(self.as_string(), part, hit)) != npos; hit += part.size())
    ++found;
  return Value::integer(found);
}

template <bool (*predicate)(int32_t)>
Value all_points(Interpreter& interpreter, const Value& self, Arguments& arguments) {
  Bound("str method", arguments, {});
  const std::string_view text = self.as_string();
  interpreter.budget().step(text.size() / 4);
  for (size_t i = 0, bytes = 0; i < text.size(); i += bytes) {
    if (!predicate(point_at(text, i, bytes))) return Value::boolean(false);
  }
  return Value::boolean(!text.empty());
}

bool is_alphanumeric(int32_t point) {
  return is_word(point) && point != '_';
}

template <bool wants_upper>
Value has_case(Interpreter& interpreter, const Value& self, Arguments& arguments) {
  Bound("str method", arguments, {});
  const std::string_view text = self.as_string();
  interpreter.budget().step(text.size() / 4);
  bool cased = false;
  for (size_t i = 0, bytes = 0; i < text.size(); i += bytes) {
    const int32_t point = point_at(text, i, bytes);
    if (wants_upper ? is_lower_case(point) : is_upper_case(point)) return Value::boolean(false);
    cased |= wants_upper ? is_upper_case(point) : is_lower_case(point);
  }
  return Value::boolean(cased);
}

Value removeprefix(Interpreter&, const Value& self, Arguments& arguments) {
  const Bound bound("removeprefix", arguments, {"prefix"}, 1);
  std::string_view text = self.as_string();
  const std::string part = bound.string(0, "");
  if (text.starts_with(part)) text.remove_prefix(part.size());
  return like(self, text);
}

Value removesuffix(Interpreter&, const Value& self, Arguments& arguments) {
  const Bound bound("removesuffix", arguments, {"suffix"}, 1);
  std::string_view text = self.as_string();
  const std::string part = bound.string(0, "");
  if (text.ends_with(part)) text.remove_suffix(part.size());
  return like(self, text);
}

// -1: text at the left, 0: in the middle, 1: at the right
template <int side>
Value justify(Interpreter& interpreter, const Value& self, Arguments& arguments) {
  const Bound bound("justify", arguments, {"width", "fillchar"}, 1);
  const std::string fill = bound.string(1, " ");
  if (count_points(fill) != 1) fail("the fill character must be exactly one character long");
  const int64_t width = bound.integer(0, 0);
  if (width > Limits::pad_columns)
    fail("cannot pad to {} columns: at most {}", width, Limits::pad_columns);
  const int64_t missing = std::max<int64_t>(width - length(self, interpreter.budget()), 0);
  int64_t left = side < 0 ? 0 : side > 0 ? missing : missing / 2 + (missing & width & 1);
  interpreter.budget().take(static_cast<uint64_t>(missing) * 4);
  std::string result;
  for (int64_t i = 0; i < left; ++i) result += fill;
  result += self.as_string();
  for (int64_t i = left; i < missing; ++i) result += fill;
  return like(self, result);
}

Value zfill(Interpreter& interpreter, const Value& self, Arguments& arguments) {
  const Bound bound("zfill", arguments, {"width"}, 1);
  const int64_t width = bound.integer(0, 0);
  if (width > Limits::pad_columns)
    fail("cannot pad to {} columns: at most {}", width, Limits::pad_columns);
  const auto missing =
      static_cast<size_t>(std::max<int64_t>(width - length(self, interpreter.budget()), 0));
  interpreter.budget().take(missing);
  std::string result = self.as_string();
  const bool sign = !result.empty() && (result[0] == '+' || result[0] == '-');
  result.insert(sign ? 1 : 0, missing, '0');
  return like(self, result);
}

template <bool from_right>
Value partition(Interpreter& interpreter, const Value& self, Arguments& arguments) {
  const Bound bound("partition", arguments, {"sep"}, 1);
  const std::string part = bound.string(0, "");
  if (part.empty()) fail("empty separator");
  const std::string_view text = self.as_string();
  interpreter.budget().step(text.size() / 16);
  if (from_right)
    interpreter.budget().step(text.size() * part.size() / 1024);  // rfind is quadratic
  const size_t hit = from_right ? text.rfind(part) : find_text(text, part);
  if (hit == npos) {
    const Value empty = like(self, "");
    return from_right ? Value::tuple({empty, empty, self}) : Value::tuple({self, empty, empty});
  }
  return Value::tuple({like(self, text.substr(0, hit)), like(self, part),
                       like(self, text.substr(hit + part.size()))});
}

Value format(Interpreter& interpreter, const Value& self, Arguments& arguments) {
  return like(self, brace_format(self.as_string(), arguments, interpreter.budget()));
}

std::string swap_case(std::string_view text) {
  std::string out;
  for (size_t i = 0, bytes = 0; i < text.size(); i += bytes) {
    const int32_t point = point_at(text, i, bytes);
    const std::string_view one = text.substr(i, bytes);
    out += is_upper_case(point) ? lower(one) : upper(one);
  }
  return out;
}

// --- dict

Value get(Interpreter& interpreter, const Value& self, Arguments& arguments) {
  if (!arguments.named.empty()) fail("dict.get() takes no keyword arguments");
  const Bound bound("get", arguments, {"key", "default"}, 1);
  if (bound.value(0).is_string()) interpreter.budget().step(bound.value(0).as_string().size() / 64);
  if (const Value* value = self.as_dict().find(bound.value(0))) return *value;
  return bound.has(1) ? bound.value(1) : Value::none();
}

Value keys(Interpreter& interpreter, const Value& self, Arguments& arguments) {
  Bound("keys", arguments, {});
  return Value::view("dict_keys", iterate(self, interpreter.budget()));
}

Value values(Interpreter& interpreter, const Value& self, Arguments& arguments) {
  Bound("values", arguments, {});
  std::vector<Value> result;
  interpreter.budget().take(self.as_dict().size() * sizeof(Value));
  for (const auto& entry : self.as_dict().entries()) result.push_back(entry.second);
  return Value::view("dict_values", std::move(result));
}

Value items(Interpreter& interpreter, const Value& self, Arguments& arguments) {
  Bound("items", arguments, {});
  std::vector<Value> result;
  interpreter.budget().take(self.as_dict().size() * 4 * sizeof(Value));
  for (const auto& [key, value] : self.as_dict().entries())
    result.push_back(Value::tuple({key, value}));
  return Value::view("dict_items", std::move(result));
}

Value copy(Interpreter&, const Value& self, Arguments& arguments) {
  Bound("copy", arguments, {});
  return self;
}

// --- list, tuple, range

Value count_items(Interpreter& interpreter, const Value& self, Arguments& arguments) {
  const Bound bound("count", arguments, {"value"}, 1);
  int64_t found = 0;
  for (const Value& item : self.as_sequence().items) {
    found += equal(item, bound.value(0), interpreter.budget()) ? 1 : 0;
  }
  return Value::integer(found);
}

Value index_of(Interpreter& interpreter, const Value& self, Arguments& arguments) {
  const Bound bound("index", arguments, {"value"}, 1);
  const auto& items = self.as_sequence().items;
  for (size_t i = 0; i < items.size(); ++i) {
    if (equal(items[i], bound.value(0), interpreter.budget())) {
      return Value::integer(static_cast<int64_t>(i));
    }
  }
  fail("{} is not in list", to_repr(bound.value(0), interpreter.budget()));
}

Value cycle(Interpreter&, const Value& self, Arguments& arguments) {
  if (arguments.positional.empty()) fail("no items for cycling given");
  return arguments.positional[self.as_loop().index0 % arguments.positional.size()];
}

using Entry = std::pair<std::string_view, Method>;

constexpr auto string_methods = std::to_array<Entry>({
    {"strip", strip<true, true>},
    {"lstrip", strip<true, false>},
    {"rstrip", strip<false, true>},
    {"split", split},
    {"rsplit", rsplit},
    {"splitlines", splitlines},
    {"startswith", starts_or_ends_with<false>},
    {"endswith", starts_or_ends_with<true>},
    {"upper", changed_case<upper>},
    {"lower", changed_case<lower>},
    {"casefold", changed_case<lower>},
    {"title", changed_case<title>},
    {"capitalize", changed_case<capitalize>},
    {"swapcase", changed_case<swap_case>},
    {"replace", replace},
    {"join", join},
    {"find", find_index<false, false>},
    {"rfind", find_index<true, false>},
    {"index", find_index<false, true>},
    {"rindex", find_index<true, true>},
    {"count", count},
    {"isdigit", all_points<is_decimal>},
    {"isdecimal", all_points<is_decimal>},
    {"isnumeric", all_points<is_decimal>},
    {"isalpha", all_points<is_alphabetic>},
    {"isalnum", all_points<is_alphanumeric>},
    {"isspace", all_points<is_space>},
    {"isupper", has_case<true>},
    {"islower", has_case<false>},
    {"removeprefix", removeprefix},
    {"removesuffix", removesuffix},
    {"ljust", justify<-1>},
    {"center", justify<0>},
    {"rjust", justify<1>},
    {"zfill", zfill},
    {"partition", partition<false>},
    {"rpartition", partition<true>},
    {"format", format},
});
constexpr auto dict_methods = std::to_array<Entry>(
    {{"get", get}, {"keys", keys}, {"values", values}, {"items", items}, {"copy", copy}});
constexpr auto list_methods =
    std::to_array<Entry>({{"count", count_items}, {"index", index_of}, {"copy", copy}});
constexpr auto tuple_methods = std::to_array<Entry>({{"count", count_items}, {"index", index_of}});
constexpr auto loop_methods = std::to_array<Entry>({{"cycle", cycle}});

template <typename Table>
Method look_up(const Table& table, std::string_view name) {
  for (const auto& [key, method] : table) {
    if (key == name) return method;
  }
  return nullptr;
}

}  // namespace

Method find_method(Kind kind, std::string_view name) {
  switch (kind) {
    case Kind::string:
      return look_up(string_methods, name);
    case Kind::dict:
      return look_up(dict_methods, name);
    case Kind::list:
      return look_up(list_methods, name);
    case Kind::tuple:
    case Kind::range:
      return look_up(tuple_methods, name);
    case Kind::loop:
      return look_up(loop_methods, name);
    default:
      return nullptr;
  }
}

bool is_mutator(Kind kind, std::string_view name) {
  static constexpr std::string_view list_names[] = {"append", "clear",  "extend",  "insert",
                                                    "pop",    "remove", "reverse", "sort"};
  static constexpr std::string_view dict_names[] = {"clear", "pop", "popitem", "setdefault",
                                                    "update"};
  if (kind == Kind::list)
    return std::find(std::begin(list_names), std::end(list_names), name) != std::end(list_names);
  if (kind == Kind::dict)
    return std::find(std::begin(dict_names), std::end(dict_names), name) != std::end(dict_names);
  return false;
}

}  // namespace impetus::jinja

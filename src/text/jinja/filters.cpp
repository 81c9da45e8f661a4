// Jinja's filters on single values. Source: the Jinja 3.1 template designer documentation ("List of
// Builtin Filters"); tojson is Hugging Face's: json.dumps without ASCII or HTML escaping.
#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>

#include "text/jinja/builtins.h"
#include "text/jinja/python_text.h"

namespace impetus::jinja {
namespace {

Value like(const Value& source, std::string text) {
  return Value::string(std::move(text), source.is_markup());
}

// str(value), keeping markup marked.
Value as_text(Interpreter& interpreter, const Value& value) {
  return value.is_string() ? value : Value::string(interpreter.text(value));
}

Value call_method(Interpreter& interpreter, const Value& self, std::string_view name,
                  Arguments& arguments) {
  return find_method(Kind::string, name)(interpreter, as_text(interpreter, self), arguments);
}

Value trim(Interpreter& interpreter, const Value& subject, Arguments& arguments) {
  return call_method(interpreter, subject, "strip", arguments);
}

template <std::string (*function)(std::string_view)>
Value changed_case(Interpreter& interpreter, const Value& subject, Arguments& arguments) {
  Bound("filter", arguments, {});
  const Value text = as_text(interpreter, subject);
  interpreter.budget().step(text.as_string().size() / 4);
  return like(text, function(text.as_string()));
}

// Words begin after blanks, dashes and opening brackets: not str.title().
std::string jinja_title(std::string_view text) {
  std::string out;
  bool starts = true;
  for (size_t i = 0, bytes = 0; i < text.size(); i += bytes) {
    const int32_t point = point_at(text, i, bytes);
    const std::string_view one = text.substr(i, bytes);
    out += starts ? upper(one) : lower(one);
    starts = is_space(point) || point == '-' || point == '(' || point == '{' || point == '[' ||
             point == '<';
  }
  return out;
}

Value default_value(Interpreter&, const Value& subject, Arguments& arguments) {
  const Bound bound("default", arguments, {"default_value", "boolean"});
  const bool replaced = subject.is_undefined() || (bound.boolean(1, false) && !truthy(subject));
  if (!replaced) return subject;
  return bound.has(0) ? bound.value(0) : Value::string("");
}

Value length_of(Interpreter& interpreter, const Value& subject, Arguments& arguments) {
  Bound("length", arguments, {});
  return Value::integer(length(subject, interpreter.budget()));
}

Value to_string(Interpreter& interpreter, const Value& subject, Arguments& arguments) {
  Bound("string", arguments, {});
  return as_text(interpreter, subject);
}

bool parse_integer(std::string_view text, int base, int64_t& out) {
  text = strip_left(strip_right(text));
  bool negative = false;
  if (!text.empty() && (text[0] == '-' || text[0] == '+')) {
    negative = text[0] == '-';
    text.remove_prefix(1);
  }
  if (base == 16 && (text.starts_with("0x") || text.starts_with("0X"))) text.remove_prefix(2);
  if (text.empty() || text[0] == '-') return false;
  const auto result = std::from_chars(text.data(), text.data() + text.size(), out, base);
  if (result.ec != std::errc() || result.ptr != text.data() + text.size()) return false;
  if (negative) out = -out;
  return true;
}

bool parse_float(std::string_view text, double& out) {
  text = strip_left(strip_right(text));
  if (text.starts_with("+")) text.remove_prefix(1);
  if (text.empty()) return false;
  const auto result = std::from_chars(text.data(), text.data() + text.size(), out);
  return result.ec == std::errc() && result.ptr == text.data() + text.size();
}

bool to_integer(double value, int64_t& out) {
  if (!(value > -9.2e18 && value < 9.2e18)) return false;
  out = static_cast<int64_t>(value);
  return true;
}

Value to_int(Interpreter& interpreter, const Value& subject, Arguments& arguments) {
  const Bound bound("int", arguments, {"default", "base"});
  const int64_t base = bound.integer(1, 10);
  if (base < 2 || base > 36) fail("int(): base must be 2 to 36");
  require_defined(subject);
  int64_t result = 0;
  if (subject.is_integral()) return Value::integer(subject.as_integer());
  if (subject.is(Kind::floating) && to_integer(subject.as_double(), result))
    return Value::integer(result);
  if (subject.is_string()) {
    interpreter.budget().step(subject.as_string().size() / 8);
    double real = 0;
    if (parse_integer(subject.as_string(), static_cast<int>(base), result))
      return Value::integer(result);
    if (parse_float(subject.as_string(), real) && to_integer(real, result))
      return Value::integer(result);
  }
  return bound.has(0) ? bound.value(0) : Value::integer(0);
}

Value to_float(Interpreter& interpreter, const Value& subject, Arguments& arguments) {
  const Bound bound("float", arguments, {"default"});
  require_defined(subject);
  if (subject.is_number()) return Value::floating(subject.as_double());
  double result = 0;
  if (subject.is_string()) interpreter.budget().step(subject.as_string().size() / 8);
  if (subject.is_string() && parse_float(subject.as_string(), result))
    return Value::floating(result);
  return bound.has(0) ? bound.value(0) : Value::floating(0);
}

Value absolute(Interpreter&, const Value& subject, Arguments& arguments) {
  Bound("abs", arguments, {});
  require_defined(subject);
  if (subject.is(Kind::floating)) return Value::floating(std::fabs(subject.as_double()));
  if (!subject.is_integral()) fail("bad operand type for abs(): '{}'", type_name(subject));
  if (subject.as_integer() == INT64_MIN) fail("an integer does not fit 64 bits");
  return Value::integer(std::abs(subject.as_integer()));
}

Value round_value(Interpreter&, const Value& subject, Arguments& arguments) {
  const Bound bound("round", arguments, {"precision", "method"});
  const int64_t digits = bound.integer(0, 0);
  const std::string method = bound.string(1, "common");
  require_defined(subject);
  if (!subject.is_number()) fail("type {} cannot be rounded", type_name(subject));
  if (digits < -300 || digits > 300) fail("round(): the precision must be -300 to 300");
  if (method == "common") {
    if (subject.is_integral() && digits >= 0) return Value::integer(subject.as_integer());
    const double result = round_to(subject.as_double(), digits);
    if (!subject.is_integral()) return Value::floating(result);
    int64_t integer = 0;
    if (!to_integer(result, integer)) fail("an integer does not fit 64 bits");
    return Value::integer(integer);
  }
  if (method != "ceil" && method != "floor") fail("round(): method must be common, ceil or floor");
  const double scale = std::pow(10.0, static_cast<double>(digits));
  const double scaled = subject.as_double() * scale;
  return Value::floating((method == "ceil" ? std::ceil(scaled) : std::floor(scaled)) / scale);
}

Value replace(Interpreter& interpreter, const Value& subject, Arguments& arguments) {
  const Bound bound("replace", arguments, {"old", "new", "count"}, 2);
  Arguments plain;
  plain.positional = {as_text(interpreter, bound.value(0)), as_text(interpreter, bound.value(1))};
  if (!bound.is_none(2)) plain.positional.push_back(bound.value(2));
  const Value text = Value::string(interpreter.text(subject));
  return find_method(Kind::string, "replace")(interpreter, text, plain);
}

Value escape(Interpreter& interpreter, const Value& subject, Arguments& arguments) {
  Bound("escape", arguments, {});
  if (subject.is_string() && subject.is_markup()) return subject;
  const std::string text = interpreter.text(subject);
  interpreter.budget().take(text.size() * 5);
  return Value::string(escape_html(text), true);
}

Value force_escape(Interpreter& interpreter, const Value& subject, Arguments& arguments) {
  Bound("forceescape", arguments, {});
  const std::string text = interpreter.text(subject);
  interpreter.budget().take(text.size() * 5);
  return Value::string(escape_html(text), true);
}

Value safe(Interpreter& interpreter, const Value& subject, Arguments& arguments) {
  Bound("safe", arguments, {});
  return Value::string(interpreter.text(subject), true);
}

Value indent(Interpreter& interpreter, const Value& subject, Arguments& arguments) {
  const Bound bound("indent", arguments, {"width", "first", "blank"});
  std::string prefix;
  if (bound.has(0) && bound.value(0).is_string()) {
    prefix = bound.string(0, "");
  } else {
    const int64_t width = bound.integer(0, 4);
    if (width > Limits::pad_columns)
      fail("cannot indent by {}: at most {}", width, Limits::pad_columns);
    prefix.assign(static_cast<size_t>(std::max<int64_t>(width, 0)), ' ');
  }
  const bool first = bound.boolean(1, false);
  const bool blank = bound.boolean(2, false);
  if (!subject.is_string()) {
    require_defined(subject);
    fail("indent: expected a string, not '{}'", type_name(subject));
  }
  // Lines are those of str.splitlines(); each ends in "\n" afterwards.
  Arguments none;
  const std::string text = subject.as_string();
  const Value split =
      find_method(Kind::string, "splitlines")(interpreter, Value::string(text + "\n"), none);
  std::string result;
  bool is_first = true;
  for (const Value& line : split.as_sequence().items) {
    interpreter.budget().take(prefix.size() + line.as_string().size() + 1);
    if (!is_first) result += '\n';
    if (is_first ? first : blank || !line.as_string().empty()) result += prefix;
    result += line.as_string();
    is_first = false;
  }
  return like(subject, std::move(result));
}

Value word_count(Interpreter& interpreter, const Value& subject, Arguments& arguments) {
  Bound("wordcount", arguments, {});
  const std::string text = interpreter.text(subject);
  interpreter.budget().step(text.size() / 4);
  int64_t words = 0;
  bool inside = false;
  for (size_t i = 0, bytes = 0; i < text.size(); i += bytes) {
    const bool word = is_word(point_at(text, i, bytes));
    words += word && !inside ? 1 : 0;
    inside = word;
  }
  return Value::integer(words);
}

std::string quoted_url(std::string_view text, bool keep_slash) {
  std::string out;
  for (const char c : text) {
    const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                       c == '_' || c == '.' || c == '-' || c == '~' || (keep_slash && c == '/');
    if (c == ' ' && !keep_slash) {  // in queries
      out += '+';
      continue;
    }
    out += plain ? std::string(1, c) : fmt::format("%{:02X}", static_cast<unsigned char>(c));
  }
  return out;
}

Value url_encode(Interpreter& interpreter, const Value& subject, Arguments& arguments) {
  Bound("urlencode", arguments, {});
  if (subject.is_string() || !is_iterable(subject)) {
    const std::string text = interpreter.text(subject);
    interpreter.budget().take(text.size() * 3);
    return Value::string(quoted_url(text, true));
  }
  std::string result;
  const auto add = [&](const Value& key, const Value& value) {
    if (!result.empty()) result += '&';
    result +=
        quoted_url(interpreter.text(key), false) + "=" + quoted_url(interpreter.text(value), false);
    interpreter.budget().take(result.size() / 4 + 64);
  };
  if (subject.is(Kind::dict)) {
    for (const auto& [key, value] : subject.as_dict().entries()) add(key, value);
  } else {
    for (const Value& item : iterate(subject, interpreter.budget())) {
      const auto pair = iterate(item, interpreter.budget());
      if (pair.size() != 2) fail("urlencode needs pairs, got {} values", pair.size());
      add(pair[0], pair[1]);
    }
  }
  return Value::string(std::move(result));
}

Value to_json(Interpreter& interpreter, const Value& subject, Arguments& arguments) {
  const Bound bound("tojson", arguments, {"ensure_ascii", "indent", "separators", "sort_keys"});
  JsonStyle style;
  style.ensure_ascii = bound.boolean(0, false);
  style.sort_keys = bound.boolean(3, false);
  if (!bound.is_none(1)) {
    style.has_indent = true;
    style.item_separator = ",";
    if (bound.value(1).is_string()) {
      style.indent = bound.string(1, "");
    } else {
      const int64_t width = bound.integer(1, 0);
      if (width > 64) fail("tojson: an indent of at most 64 is supported");
      style.indent.assign(static_cast<size_t>(std::max<int64_t>(width, 0)), ' ');
    }
    if (style.indent.size() > 64) fail("tojson: an indent of at most 64 is supported");
  }
  if (!bound.is_none(2)) {
    const auto parts = iterate(bound.value(2), interpreter.budget());
    if (parts.size() != 2 || !parts[0].is_string() || !parts[1].is_string()) {
      fail("tojson: separators must be two strings");
    }
    style.item_separator = parts[0].as_string();
    style.key_separator = parts[1].as_string();
    if (style.item_separator.size() + style.key_separator.size() > 64)
      fail("tojson: separators are too long");
  }
  return Value::string(json_text(subject, style, interpreter.budget()));
}

Value format(Interpreter& interpreter, const Value& subject, Arguments& arguments) {
  const Value text = as_text(interpreter, subject);
  if (!arguments.positional.empty() && !arguments.named.empty()) {
    fail("can't handle positional and keyword arguments at the same time");
  }
  Dict named;
  for (const auto& [name, value] : arguments.named) named.set(Value::string(name), value);
  const Value values =
      arguments.named.empty() ? Value::tuple(arguments.positional) : Value::dict(std::move(named));
  return like(text, printf_format(text.as_string(), values, interpreter.budget()));
}

Value center(Interpreter& interpreter, const Value& subject, Arguments& arguments) {
  const Bound bound("center", arguments, {"width"});
  Arguments plain;
  plain.positional = {Value::integer(bound.integer(0, 80))};
  return call_method(interpreter, subject, "center", plain);
}

using Entry = std::pair<std::string_view, Filter>;

constexpr auto table = std::to_array<Entry>({
    {"trim", trim},
    {"upper", changed_case<upper>},
    {"lower", changed_case<lower>},
    {"capitalize", changed_case<capitalize>},
    {"title", changed_case<jinja_title>},
    {"default", default_value},
    {"d", default_value},
    {"length", length_of},
    {"count", length_of},
    {"string", to_string},
    {"int", to_int},
    {"float", to_float},
    {"abs", absolute},
    {"round", round_value},
    {"replace", replace},
    {"escape", escape},
    {"e", escape},
    {"forceescape", force_escape},
    {"safe", safe},
    {"indent", indent},
    {"wordcount", word_count},
    {"urlencode", url_encode},
    {"tojson", to_json},
    {"format", format},
    {"center", center},
});

}  // namespace

Filter find_filter(std::string_view name) {
  for (const auto& [key, filter] : table) {
    if (key == name) return filter;
  }
  return find_sequence_filter(name);
}

}  // namespace impetus::jinja

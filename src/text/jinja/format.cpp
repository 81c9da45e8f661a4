// Values to text by a pattern: json.dumps, "%" formatting, str.format, round(). Source: the Python
// 3 library reference (json, "printf-style String Formatting", "Format String Syntax").
#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <list>

#include "text/jinja/builtins.h"
#include "text/jinja/operators.h"
#include "text/jinja/python_text.h"

namespace impetus::jinja {
namespace {

// --- JSON

class JsonWriter {
 public:
  JsonWriter(const JsonStyle& style, Budget& budget) : style_(style), budget_(budget) {}

  void write(const Value& value, int depth) {
    budget_.take(8);
    if (depth > 2 * Limits::value_depth) fail("tojson: a value is nested too deeply");
    switch (value.kind()) {
      case Kind::none:
        out += "null";
        return;
      case Kind::boolean:
        out += value.as_bool() ? "true" : "false";
        return;
      case Kind::integer:
        out += std::to_string(value.as_integer());
        return;
      case Kind::floating:
        out += number(value.as_double());
        return;
      case Kind::string:
        budget_.take(value.as_string().size() * 6);  // \u0001
        append_json_string(out, value.as_string(), style_.ensure_ascii);
        return;
      case Kind::list:
      case Kind::tuple:
        return write_items(value.as_sequence().items, depth);
      case Kind::dict:
        return write_entries(value.as_dict(), depth);
      default:
        fail("Object of type {} is not JSON serializable", type_name(value));
    }
  }

  std::string out;

 private:
  static std::string number(double value) {
    if (std::isnan(value)) return "NaN";
    if (std::isinf(value)) return value > 0 ? "Infinity" : "-Infinity";
    return float_text(value);
  }

  void line(int depth) {
    if (!style_.has_indent) return;
    budget_.take(style_.indent.size() * static_cast<size_t>(depth) + 1);
    out += '\n';
    for (int i = 0; i < depth; ++i) out += style_.indent;
  }

  void write_items(const std::vector<Value>& items, int depth) {
    if (items.empty()) {
      out += "[]";
      return;
    }
    out += '[';
    bool first = true;
    for (const Value& item : items) {
      if (!first) out += style_.item_separator;
      first = false;
      line(depth + 1);
      write(item, depth + 1);
    }
    line(depth);
    out += ']';
  }

  static std::string key_text(const Value& key) {
    switch (key.kind()) {
      case Kind::string:
        return key.as_string();
      case Kind::none:
        return "null";
      case Kind::boolean:
        return key.as_bool() ? "true" : "false";
      case Kind::integer:
        return std::to_string(key.as_integer());
      default:
        return number(key.as_double());
    }
  }

  void write_entries(const Dict& dict, int depth) {
    if (dict.size() == 0) {
      out += "{}";
      return;
    }
    std::list<const std::pair<Value, Value>*> entries;
    for (const auto& entry : dict.entries()) entries.push_back(&entry);
    if (style_.sort_keys) {
      entries.sort([&](const auto* a, const auto* b) {
        return compare(a->first, b->first, "<", budget_) < 0;
      });
    }
    out += '{';
    bool first = true;
    for (const auto* entry : entries) {
      if (!first) out += style_.item_separator;
      first = false;
      line(depth + 1);
      const std::string key = key_text(entry->first);
      budget_.take(key.size() * 6);
      append_json_string(out, key, style_.ensure_ascii);
      out += style_.key_separator;
      write(entry->second, depth + 1);
    }
    line(depth);
    out += '}';
  }

  const JsonStyle& style_;
  Budget& budget_;
};

// --- numbers by a specification

struct Spec {
  std::string fill = " ";
  char align = '\0';  // < > ^ =
  char sign = '-';
  bool alternate = false;
  char grouping = '\0';
  int64_t width = 0;
  int64_t precision = -1;
  char type = '\0';
};

std::string printed(const char* format, int precision, double value) {
  const int size = std::snprintf(nullptr, 0, format, precision, value);
  std::string text(static_cast<size_t>(size) + 1, '\0');
  std::snprintf(text.data(), text.size(), format, precision, value);
  text.pop_back();
  return text;
}

// Without a sign.
std::string float_digits(double value, char type, int precision, bool alternate) {
  value = std::fabs(value);
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return "inf";
  switch (type) {
    case 'f':
    case 'F':
      return printed(alternate ? "%#.*f" : "%.*f", precision, value);
    case 'e':
      return printed(alternate ? "%#.*e" : "%.*e", precision, value);
    case 'E':
      return printed(alternate ? "%#.*E" : "%.*E", precision, value);
    case 'G':
      return printed(alternate ? "%#.*G" : "%.*G", precision, value);
    default:
      return printed(alternate ? "%#.*g" : "%.*g", precision, value);
  }
}

std::string integer_digits(uint64_t value, char type) {
  char buffer[72];
  const int base = type == 'x' || type == 'X' ? 16 : type == 'o' ? 8 : type == 'b' ? 2 : 10;
  std::string text(buffer, std::to_chars(buffer, buffer + sizeof(buffer), value, base).ptr);
  return type == 'X' ? upper(text) : text;
}

std::string group(const std::string& digits, char separator) {
  const size_t whole = std::min(digits.find_first_not_of("0123456789"), digits.size());
  std::string out;
  for (size_t i = 0; i < whole; ++i) {
    if (i > 0 && (whole - i) % 3 == 0) out += separator;
    out += digits[i];
  }
  return out + digits.substr(whole);
}

std::string padded(std::string sign, std::string body, const Spec& spec, char default_align,
                   Budget& budget) {
  const auto size = static_cast<int64_t>(count_points(sign) + count_points(body));
  const int64_t missing = std::max<int64_t>(spec.width - size, 0);
  budget.take(static_cast<uint64_t>(missing) * 4);
  const char align = spec.align != '\0' ? spec.align : default_align;
  const auto fill = [&](int64_t count) {
    std::string text;
    for (int64_t i = 0; i < count; ++i) text += spec.fill;
    return text;
  };
  if (align == '=') return sign + fill(missing) + body;
  const int64_t left = align == '>' ? missing : align == '^' ? missing / 2 : 0;
  return fill(left) + sign + body + fill(missing - left);
}

std::string sign_of(bool negative, char style) {
  if (negative) return "-";
  return style == '+' ? "+" : style == ' ' ? " " : "";
}

std::string format_number(const Value& value, const Spec& spec, Budget& budget) {
  if (spec.precision > 400) fail("a precision of {} is too large: at most 400", spec.precision);
  const bool integral = value.is_integral();
  const std::string float_types = "fFeEgG%";
  const bool as_float =
      !integral || (spec.type != '\0' && float_types.find(spec.type) != std::string::npos);
  std::string digits;
  bool negative = false;
  if (as_float) {
    const double number = value.as_double() * (spec.type == '%' ? 100 : 1);
    negative = std::signbit(number);
    if (spec.type == '\0' && spec.precision < 0) {
      digits = float_text(std::fabs(number));
    } else {
      const int precision = spec.precision < 0 ? 6 : static_cast<int>(spec.precision);
      digits = float_digits(number, spec.type == '%' ? 'f' : spec.type,
                            spec.type == 'g' || spec.type == 'G' || spec.type == '\0'
                                ? std::max(precision, 1)
                                : precision,
                            spec.alternate);
      if (spec.type == '%') digits += '%';
    }
  } else {
    negative = value.as_integer() < 0;
    const auto magnitude = negative ? 0 - static_cast<uint64_t>(value.as_integer())
                                    : static_cast<uint64_t>(value.as_integer());
    digits = integer_digits(magnitude, spec.type);
    if (spec.alternate &&
        (spec.type == 'x' || spec.type == 'X' || spec.type == 'o' || spec.type == 'b')) {
      digits = std::string("0") + spec.type + digits;
    }
  }
  if (spec.grouping != '\0') digits = group(digits, spec.grouping);
  return padded(sign_of(negative, spec.sign), std::move(digits), spec, '>', budget);
}

std::string cut(const std::string& text, int64_t points) {
  return points < 0 ? text : text.substr(0, byte_offset(text, static_cast<size_t>(points)));
}

int64_t read_number(std::string_view text, size_t& i) {
  int64_t value = 0;
  while (i < text.size() && text[i] >= '0' && text[i] <= '9') {
    value = value * 10 + (text[i++] - '0');
    if (value > Limits::pad_columns)
      fail("a format's width is too large: at most {}", Limits::pad_columns);
  }
  return value;
}

Spec parse_spec(std::string_view text) {
  Spec spec;
  size_t i = 0;
  const auto is_align = [](char c) { return c == '<' || c == '>' || c == '^' || c == '='; };
  if (!text.empty()) {
    size_t bytes = 0;
    point_at(text, 0, bytes);
    if (bytes < text.size() && is_align(text[bytes])) {
      spec.fill = std::string(text.substr(0, bytes));
      spec.align = text[bytes];
      i = bytes + 1;
    } else if (is_align(text[0])) {
      spec.align = text[i++];
    }
  }
  const auto at = [&](char c) { return i < text.size() && text[i] == c; };
  if (at('+') || at('-') || at(' ')) spec.sign = text[i++];
  if (at('#')) spec.alternate = (++i, true);
  if (at('0')) {
    ++i;
    if (spec.align == '\0') {
      spec.fill = "0";
      spec.align = '=';
    }
  }
  spec.width = read_number(text, i);
  if (at(',') || at('_')) spec.grouping = text[i++];
  if (at('.')) {
    const size_t start = ++i;
    spec.precision = read_number(text, i);
    if (i == start) fail("a format specifier misses its precision");
  }
  if (i < text.size()) spec.type = text[i++];
  if (i != text.size()) fail("invalid format specifier '{}'", text);
  return spec;
}

std::string format_value(const Value& value, std::string_view text, Budget& budget) {
  require_defined(value);
  const Spec spec = parse_spec(text);
  const std::string number_types = "dnxXobfFeEgG%";
  if (value.is_number() && !(value.is(Kind::boolean) && text.empty())) {
    if (spec.type != '\0' && number_types.find(spec.type) == std::string::npos) {
      fail("unknown format code '{}' for object of type '{}'", spec.type, type_name(value));
    }
    if (!value.is_integral() && spec.type != '\0' &&
        std::string("dxXob").find(spec.type) != std::string::npos) {
      fail("unknown format code '{}' for object of type 'float'", spec.type);
    }
    return format_number(value, spec, budget);
  }
  if (!value.is_string() && !text.empty()) {
    fail("unsupported format string passed to {}", type_name(value));
  }
  if (spec.type != '\0' && spec.type != 's') {
    fail("unknown format code '{}' for object of type 'str'", spec.type);
  }
  if (spec.align == '=') fail("'=' alignment not allowed in string format specifier");
  return padded("", cut(to_text(value, budget), spec.precision), spec, '<', budget);
}

// The value that "a.b[c]" names, given its first part.
Value follow(Value value, std::string_view path, Budget& budget) {
  for (size_t i = 0; i < path.size();) {
    if (path[i] == '.') {
      const size_t end = std::min(path.find_first_of(".[", i + 1), path.size());
      value = get_attribute(value, std::string(path.substr(i + 1, end - i - 1)), budget);
      i = end;
    } else {
      const size_t end = path.find(']', i);
      if (path[i] != '[' || end == std::string_view::npos) fail("a format field is malformed");
      const std::string key(path.substr(i + 1, end - i - 1));
      const bool is_index = !key.empty() && key.size() < 18 &&
                            key.find_first_not_of("0123456789") == std::string::npos;
      value =
          get_item(value, is_index ? Value::integer(std::stoll(key)) : Value::string(key), budget);
      i = end + 1;
    }
    require_defined(value);
  }
  return value;
}

}  // namespace

std::string json_text(const Value& value, const JsonStyle& style, Budget& budget) {
  JsonWriter writer(style, budget);
  writer.write(value, 0);
  return std::move(writer.out);
}

double round_to(double value, int64_t digits) {
  if (!std::isfinite(value)) return value;
  if (digits >= 0) {
    // The exact decimal expansion, rounded half to even: what Python does.
    return std::strtod(
        printed("%.*f", static_cast<int>(std::min<int64_t>(digits, 330)), value).c_str(), nullptr);
  }
  const double scale = std::pow(10.0, static_cast<double>(-digits));
  return std::isinf(scale) ? 0.0 : std::nearbyint(value / scale) * scale;
}

std::string printf_format(std::string_view format, const Value& values, Budget& budget) {
  std::string out;
  size_t used = 0;
  bool named = false;
  const auto take = [&]() -> Value {
    if (values.is(Kind::tuple)) {
      const auto& items = values.as_sequence().items;
      if (used >= items.size()) fail("not enough arguments for format string");
      return items[used++];
    }
    if (used++ > 0) fail("not enough arguments for format string");
    return values;
  };
  for (size_t i = 0; i < format.size();) {
    const size_t percent = std::min(format.find('%', i), format.size());
    budget.take(percent - i + 1);
    out.append(format, i, percent - i);
    if (percent >= format.size()) break;
    i = percent + 1;
    Value value;
    bool has_value = false;
    if (i < format.size() && format[i] == '(') {
      const size_t end = format.find(')', i);
      if (end == std::string_view::npos) fail("incomplete format key");
      if (!values.is(Kind::dict)) fail("format requires a mapping");
      const std::string key(format.substr(i + 1, end - i - 1));
      const Value* found = values.as_dict().find(key);
      if (found == nullptr) fail("'{}' is missing in the format's mapping", key);
      value = *found;
      has_value = named = true;
      i = end + 1;
    }
    Spec spec;
    bool zero = false;
    for (; i < format.size() && std::string_view("-+ #0").find(format[i]) != std::string_view::npos;
         ++i) {
      switch (format[i]) {
        case '-':
          spec.align = '<';
          break;
        case '+':
          spec.sign = '+';
          break;
        case ' ':
          spec.sign = spec.sign == '+' ? '+' : ' ';
          break;
        case '#':
          spec.alternate = true;
          break;
        default:
          zero = true;
      }
    }
    spec.width = read_number(format, i);
    if (i < format.size() && format[i] == '.') {
      ++i;
      spec.precision = read_number(format, i);
    }
    if (i >= format.size()) fail("incomplete format");
    const char type = format[i++];
    if (type == '%') {
      out += '%';
      continue;
    }
    if (!has_value) value = take();
    if (type == 's' || type == 'r' || type == 'a') {
      const std::string text = type == 's' ? to_text(value, budget) : to_repr(value, budget);
      out += padded("", cut(text, spec.precision), spec, '>', budget);
      continue;
    }
    if (std::string_view("diuxXofFeEgG").find(type) == std::string_view::npos) {
      fail("unsupported format character '{}'", type);
    }
    require_defined(value);
    const bool integral = std::string_view("diuxXo").find(type) != std::string_view::npos;
    if (!value.is_number()) {
      fail("%{} format: a {} number is required, not {}", type, integral ? "whole" : "real",
           type_name(value));
    }
    if (integral && value.is(Kind::floating)) {
      if (!(std::fabs(value.as_double()) < 9e18)) fail("%{} format: the number does not fit", type);
      value = Value::integer(static_cast<int64_t>(value.as_double()));
    }
    if (zero && spec.align == '\0') {
      spec.fill = "0";
      spec.align = '=';
    }
    spec.type = type == 'i' || type == 'u' ? 'd' : type;
    out += format_number(value, spec, budget);
  }
  const bool all_used = !values.is(Kind::tuple)
                            ? used > 0 || values.is(Kind::dict) || values.is(Kind::list) || named
                            : used == values.as_sequence().items.size();
  if (!all_used) fail("not all arguments converted during string formatting");
  return out;
}

std::string brace_format(std::string_view format, const Arguments& arguments, Budget& budget) {
  std::string out;
  int64_t automatic = 0;
  for (size_t i = 0; i < format.size();) {
    const size_t brace = std::min(format.find_first_of("{}", i), format.size());
    budget.take(brace - i + 1);
    out.append(format, i, brace - i);
    if (brace >= format.size()) break;
    i = brace + 1;
    if (i < format.size() && format[i] == format[brace]) {
      out += format[brace];
      ++i;
      continue;
    }
    if (format[brace] == '}') fail("Single '}}' encountered in format string");
    const size_t end = format.find_first_of("{}", i);
    if (end == std::string_view::npos) fail("expected '}}' before end of string");
    if (format[end] == '{') fail("nested format fields are not supported");
    std::string_view field = format.substr(i, end - i);
    i = end + 1;
    const size_t colon = std::min(field.find(':'), field.size());
    const std::string_view spec =
        colon < field.size() ? field.substr(colon + 1) : std::string_view();
    field = field.substr(0, colon);
    char conversion = '\0';
    if (const size_t mark = field.find('!'); mark != std::string_view::npos) {
      if (mark + 2 != field.size()) fail("a format field's conversion is malformed");
      conversion = field[mark + 1];
      field = field.substr(0, mark);
    }
    const size_t path = std::min(field.find_first_of(".["), field.size());
    const std::string name(field.substr(0, path));
    Value value;
    if (name.empty() || name.find_first_not_of("0123456789") == std::string::npos) {
      if (name.size() > 6) fail("a format field's index is too large");
      if (name.empty() ? automatic < 0 : automatic > 0)
        fail("cannot mix automatic and numbered format fields");
      const auto index = static_cast<size_t>(name.empty() ? automatic : std::stoll(name));
      automatic = name.empty() ? automatic + 1 : -1;
      if (index >= arguments.positional.size()) {
        fail("Replacement index {} out of range for positional args tuple", index);
      }
      value = arguments.positional[index];
    } else {
      const auto found = std::find_if(arguments.named.begin(), arguments.named.end(),
                                      [&](const auto& argument) { return argument.first == name; });
      if (found == arguments.named.end()) fail("the format field '{}' is not given", name);
      value = found->second;
    }
    value = follow(std::move(value), field.substr(path), budget);
    if (conversion == 's') value = Value::string(to_text(value, budget));
    if (conversion == 'r') value = Value::string(to_repr(value, budget));
    if (conversion != '\0' && conversion != 's' && conversion != 'r') {
      fail("unknown conversion '!{}' in a format field", conversion);
    }
    out += format_value(value, spec, budget);
  }
  return out;
}

}  // namespace impetus::jinja

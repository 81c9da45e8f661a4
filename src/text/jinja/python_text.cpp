#include "text/jinja/python_text.h"

#include <charconv>
#include <cmath>
#include <cstring>

#include <fmt/format.h>
#include <utf8proc.h>

namespace impetus::jinja {
namespace {

utf8proc_category_t category(int32_t point) {
  return utf8proc_category(point);
}

// Simple mappings by utf8proc; the full mappings that differ and that text really has are here.
void append_upper(std::string& out, int32_t point) {
  if (point == 0xDF) {  // sharp s
    out += "SS";
  } else {
    append_point(out, utf8proc_toupper(point));
  }
}

void append_lower(std::string& out, int32_t point) {
  if (point == 0x130) {  // dotted capital I
    out += "i\xCC\x87";
  } else {
    append_point(out, utf8proc_tolower(point));
  }
}

void append_title(std::string& out, int32_t point) {
  if (point == 0xDF) {
    out += "Ss";
  } else {
    append_point(out, utf8proc_totitle(point));
  }
}

bool is_printable(int32_t point) {
  if (point == ' ') return true;
  switch (category(point)) {
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
    case UTF8PROC_CATEGORY_ZS:
      return false;
    default:
      return true;
  }
}

bool contains_point(std::string_view set, int32_t wanted) {
  for (size_t i = 0, bytes = 0; i < set.size(); i += bytes) {
    if (point_at(set, i, bytes) == wanted) return true;
  }
  return false;
}

// Start of the code point that ends at `end` (> 0).
size_t previous(std::string_view text, size_t end) {
  const size_t low = end >= 4 ? end - 4 : 0;
  for (size_t start = end - 1; start + 1 > low; --start) {
    size_t bytes = 0;
    point_at(text, start, bytes);
    if (start + bytes == end) {
      if (bytes > 1 || static_cast<unsigned char>(text[start]) < 0x80) return start;
    }
    if (start == 0) break;
  }
  return end - 1;
}

}  // namespace

int32_t point_at(std::string_view text, size_t position, size_t& bytes) {
  const auto byte = static_cast<unsigned char>(text[position]);
  bytes = 1;
  if (byte < 0x80) return byte;
  utf8proc_int32_t point = -1;
  const auto length = utf8proc_iterate(
      reinterpret_cast<const utf8proc_uint8_t*>(text.data()) + position,
      static_cast<utf8proc_ssize_t>(std::min<size_t>(text.size() - position, 4)), &point);
  if (length <= 0 || point < 0) return 0xDC00 + byte;
  bytes = static_cast<size_t>(length);
  return point;
}

size_t count_points(std::string_view text) {
  size_t count = 0;
  for (size_t i = 0, bytes = 0; i < text.size(); i += bytes, ++count) point_at(text, i, bytes);
  return count;
}

size_t byte_offset(std::string_view text, size_t index) {
  size_t i = 0;
  for (size_t bytes = 0; i < text.size() && index > 0; i += bytes, --index)
    point_at(text, i, bytes);
  return i;
}

bool is_valid_utf8(std::string_view text) {
  for (size_t i = 0, bytes = 0; i < text.size(); i += bytes) {
    point_at(text, i, bytes);
    if (bytes == 1 && static_cast<unsigned char>(text[i]) >= 0x80) return false;
  }
  return true;
}

void append_point(std::string& out, int32_t point) {
  if (point >= 0xDC80 && point <= 0xDCFF) {  // an invalid byte, as point_at() names it
    out += static_cast<char>(point - 0xDC00);
    return;
  }
  utf8proc_uint8_t buffer[4];
  const auto length = utf8proc_encode_char(point, buffer);
  out.append(reinterpret_cast<const char*>(buffer), static_cast<size_t>(length));
}

bool is_space(int32_t point) {
  return (point >= 9 && point <= 13) || (point >= 28 && point <= 32) || point == 0x85 ||
         point == 0xA0 || point == 0x1680 || (point >= 0x2000 && point <= 0x200A) ||
         point == 0x2028 || point == 0x2029 || point == 0x202F || point == 0x205F ||
         point == 0x3000;
}

std::string_view strip_left(std::string_view text) {
  size_t i = 0;
  for (size_t bytes = 0; i < text.size(); i += bytes) {
    if (!is_space(point_at(text, i, bytes))) break;
  }
  return text.substr(i);
}

std::string_view strip_right(std::string_view text) {
  size_t end = text.size();
  while (end > 0) {
    const size_t start = previous(text, end);
    size_t bytes = 0;
    if (!is_space(point_at(text, start, bytes))) break;
    end = start;
  }
  return text.substr(0, end);
}

std::string_view strip_left(std::string_view text, std::string_view characters) {
  size_t i = 0;
  for (size_t bytes = 0; i < text.size(); i += bytes) {
    if (!contains_point(characters, point_at(text, i, bytes))) break;
  }
  return text.substr(i);
}

std::string_view strip_right(std::string_view text, std::string_view characters) {
  size_t end = text.size();
  while (end > 0) {
    const size_t start = previous(text, end);
    size_t bytes = 0;
    if (!contains_point(characters, point_at(text, start, bytes))) break;
    end = start;
  }
  return text.substr(0, end);
}

std::string upper(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t i = 0, bytes = 0; i < text.size(); i += bytes)
    append_upper(out, point_at(text, i, bytes));
  return out;
}

std::string lower(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  bool after_letter = false;
  for (size_t i = 0, bytes = 0; i < text.size(); i += bytes) {
    const int32_t point = point_at(text, i, bytes);
    if (point == 0x3A3) {  // capital sigma: final form at a word's end
      size_t next_bytes = 0;
      const bool before_letter =
          i + bytes < text.size() && is_alphabetic(point_at(text, i + bytes, next_bytes));
      append_point(out, after_letter && !before_letter ? 0x3C2 : 0x3C3);
    } else {
      append_lower(out, point);
    }
    after_letter = is_alphabetic(point);
  }
  return out;
}

std::string capitalize(std::string_view text) {
  if (text.empty()) return {};
  size_t bytes = 0;
  std::string out;
  append_title(out, point_at(text, 0, bytes));
  return out + lower(text.substr(bytes));
}

std::string title(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  bool in_word = false;
  for (size_t i = 0, bytes = 0; i < text.size(); i += bytes) {
    const int32_t point = point_at(text, i, bytes);
    if (in_word) {
      append_lower(out, point);
    } else {
      append_title(out, point);
    }
    in_word =
        is_upper_case(point) || is_lower_case(point) || category(point) == UTF8PROC_CATEGORY_LT;
  }
  return out;
}

bool is_alphabetic(int32_t point) {
  const auto c = category(point);
  return c >= UTF8PROC_CATEGORY_LU && c <= UTF8PROC_CATEGORY_LO;
}

bool is_word(int32_t point) {
  const auto c = category(point);
  return point == '_' || is_alphabetic(point) ||
         (c >= UTF8PROC_CATEGORY_ND && c <= UTF8PROC_CATEGORY_NO);
}

bool is_decimal(int32_t point) {
  return category(point) == UTF8PROC_CATEGORY_ND;
}

bool is_upper_case(int32_t point) {
  return category(point) == UTF8PROC_CATEGORY_LU;
}

bool is_lower_case(int32_t point) {
  return category(point) == UTF8PROC_CATEGORY_LL;
}

size_t find_text(std::string_view text, std::string_view part, size_t from) {
  if (from > text.size()) return std::string_view::npos;
  if (part.empty()) return from;
  // memmem is linear in glibc, where string_view::find is quadratic on hostile input.
  const void* hit = memmem(text.data() + from, text.size() - from, part.data(), part.size());
  if (hit == nullptr) return std::string_view::npos;
  return static_cast<size_t>(static_cast<const char*>(hit) - text.data());
}

std::string shortened(std::string_view text, size_t bytes_max) {
  if (text.size() <= bytes_max) return std::string(text);
  size_t end = bytes_max;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) --end;
  return std::string(text.substr(0, end)) + "...";
}

std::string escape_html(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (const char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '\'':
        out += "&#39;";
        break;
      case '"':
        out += "&#34;";
        break;
      default:
        out += c;
    }
  }
  return out;
}

std::string float_text(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
  char buffer[64];
  const auto end =
      std::to_chars(buffer, buffer + sizeof(buffer), value, std::chars_format::scientific).ptr;
  std::string_view text(buffer, static_cast<size_t>(end - buffer));
  std::string out;
  if (text.front() == '-') {
    out += '-';
    text.remove_prefix(1);
  }
  const size_t e = text.find('e');
  std::string digits(1, text[0]);
  if (e > 2) digits += text.substr(2, e - 2);
  int exponent = 0;
  std::string_view power = text.substr(e + 1);
  if (power.front() == '+') power.remove_prefix(1);
  std::from_chars(power.data(), power.data() + power.size(), exponent);
  if (exponent < -4 || exponent >= 16) {
    out += digits[0];
    if (digits.size() > 1) out += '.' + digits.substr(1);
    return out + fmt::format("e{}{:02}", exponent < 0 ? '-' : '+', std::abs(exponent));
  }
  if (exponent < 0)
    return out + "0." + std::string(static_cast<size_t>(-exponent - 1), '0') + digits;
  const auto whole = static_cast<size_t>(exponent) + 1;
  if (digits.size() <= whole) {
    return out + digits + std::string(whole - digits.size(), '0') + ".0";
  }
  return out + digits.substr(0, whole) + "." + digits.substr(whole);
}

std::string string_repr(std::string_view text) {
  const bool has_single = text.find('\'') != std::string_view::npos;
  const bool has_double = text.find('"') != std::string_view::npos;
  const char quote = has_single && !has_double ? '"' : '\'';
  std::string out(1, quote);
  for (size_t i = 0, bytes = 0; i < text.size(); i += bytes) {
    const int32_t point = point_at(text, i, bytes);
    if (point == quote || point == '\\') {
      out += '\\';
      out += static_cast<char>(point);
    } else if (point == '\n') {
      out += "\\n";
    } else if (point == '\r') {
      out += "\\r";
    } else if (point == '\t') {
      out += "\\t";
    } else if (is_printable(point)) {
      append_point(out, point);
    } else if (point < 0x100) {
      out += fmt::format("\\x{:02x}", point);
    } else if (point < 0x10000) {
      out += fmt::format("\\u{:04x}", point);
    } else {
      out += fmt::format("\\U{:08x}", point);
    }
  }
  return out + quote;
}

void append_json_string(std::string& out, std::string_view text, bool ensure_ascii) {
  out += '"';
  for (size_t i = 0, bytes = 1; i < text.size(); i += bytes) {
    bytes = 1;
    const char c = text[i];
    switch (c) {
      case '"':
        out += "\\\"";
        continue;
      case '\\':
        out += "\\\\";
        continue;
      case '\n':
        out += "\\n";
        continue;
      case '\r':
        out += "\\r";
        continue;
      case '\t':
        out += "\\t";
        continue;
      case '\f':
        out += "\\f";
        continue;
      case '\b':
        out += "\\b";
        continue;
      default:
        break;
    }
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || (byte == 0x7F && ensure_ascii)) {
      out += fmt::format("\\u{:04x}", byte);
    } else if (byte < 0x80 || !ensure_ascii) {
      out += c;
    } else {
      const int32_t point = point_at(text, i, bytes);
      if (point < 0x10000) {
        out += fmt::format("\\u{:04x}", point);
      } else {
        const int32_t rest = point - 0x10000;
        out += fmt::format("\\u{:04x}\\u{:04x}", 0xD800 + (rest >> 10), 0xDC00 + (rest & 0x3FF));
      }
    }
  }
  out += '"';
}

}  // namespace impetus::jinja

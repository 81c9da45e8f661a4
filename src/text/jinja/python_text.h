// Python's str on UTF-8 bytes: code points, whitespace, case, and how floats and strings print.
// A byte that belongs to no valid sequence counts as one code point, so nothing here can overrun.
// Sources: the Python 3 library reference (str, repr, format specification), Unicode 15 by
// utf8proc.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace impetus::jinja {

// The code point at `position` (< text.size()); `bytes` gets its length. Invalid bytes give
// 0xDC00 + byte and length 1.
int32_t point_at(std::string_view text, size_t position, size_t& bytes);
size_t count_points(std::string_view text);
// Byte offset of code point `index`; text.size() where index is the end or beyond.
size_t byte_offset(std::string_view text, size_t index);
bool is_valid_utf8(std::string_view text);
void append_point(std::string& out, int32_t point);

bool is_space(int32_t point);  // str.isspace
std::string_view strip_left(std::string_view text);
std::string_view strip_right(std::string_view text);
// Strips code points of the set `characters`.
std::string_view strip_left(std::string_view text, std::string_view characters);
std::string_view strip_right(std::string_view text, std::string_view characters);

std::string upper(std::string_view text);
std::string lower(std::string_view text);
std::string capitalize(std::string_view text);
std::string title(std::string_view text);
bool is_alphabetic(int32_t point);
bool is_word(int32_t point);  // \w
bool is_decimal(int32_t point);
bool is_upper_case(int32_t point);
bool is_lower_case(int32_t point);

// Linear-time search; npos where absent.
size_t find_text(std::string_view text, std::string_view part, size_t from = 0);

// At most `bytes_max` bytes and "...", cut between code points: names and values in messages.
std::string shortened(std::string_view text, size_t bytes_max = 80);

std::string escape_html(std::string_view text);
std::string float_text(double value);            // repr(float)
std::string string_repr(std::string_view text);  // repr(str), quotes included
// Appends a JSON string, quotes included, as json.dumps does.
void append_json_string(std::string& out, std::string_view text, bool ensure_ascii);

}  // namespace impetus::jinja

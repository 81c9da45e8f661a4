// Boost.JSON behind the project's error type, with the limits that hostile input needs.
// Values are ordinary boost::json values: not thread-shared while written.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/serialize.hpp>
#include <boost/json/value.hpp>

#include "base/result.h"

namespace impetus {

namespace json = boost::json;

// Parses one document: strict JSON, UTF-8 checked, nesting at most `depth_max`. The message names
// the byte at which it broke.
Result<json::value> parse_json(std::string_view text, size_t depth_max = 64);

// As parse_json, but a name that occurs twice in one object is an error that names it. For formats
// where the second entry could contradict the first (parse_json keeps the last).
Result<json::value> parse_json_unique(std::string_view text, size_t depth_max = 64);

// Reads and parses a file; the message names it.
Result<json::value> read_json_file(const std::string& path);

// Typed access to an object's field. nullopt or the fallback where the key is absent or null;
// an error naming the field where it has another type or does not fit.
Result<std::optional<int64_t>> int_field(const json::object& object, std::string_view key);
Result<std::optional<double>> number_field(const json::object& object, std::string_view key);
Result<std::optional<bool>> bool_field(const json::object& object, std::string_view key);
Result<std::optional<std::string>> string_field(const json::object& object, std::string_view key);

}  // namespace impetus

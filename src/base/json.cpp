#include "base/json.h"

#include <cmath>
#include <unordered_set>
#include <vector>

#include <boost/json/basic_parser_impl.hpp>
#include <boost/json/parse_options.hpp>
#include <boost/json/stream_parser.hpp>

#include "base/mapped_file.h"

namespace impetus {
namespace {

const json::value* present(const json::object& object, std::string_view key) {
  const json::value* value = object.if_contains(key);
  return value == nullptr || value->is_null() ? nullptr : value;
}

Error wrong_type(std::string_view key, std::string_view wanted, const json::value& value) {
  Error failure = error(ErrorCode::invalid_argument, "'{}' must be {}, not {}", key, wanted,
                        std::string_view(json::to_string(value.kind())));
  failure.param = std::string(key);
  return failure;
}

// A basic_parser handler that only watches the names of each object: boost's own DOM keeps the last
// of two equal names without a word.
struct DuplicateNames {
  static constexpr std::size_t max_object_size = static_cast<std::size_t>(-1);
  static constexpr std::size_t max_array_size = static_cast<std::size_t>(-1);
  static constexpr std::size_t max_key_size = static_cast<std::size_t>(-1);
  static constexpr std::size_t max_string_size = static_cast<std::size_t>(-1);

  using Code = boost::system::error_code;
  using View = boost::core::string_view;

  std::vector<std::unordered_set<std::string>> open_objects;
  std::string name;
  std::optional<std::string> duplicate;

  bool on_document_begin(Code&) { return true; }
  bool on_document_end(Code&) { return true; }
  bool on_object_begin(Code&) {
    open_objects.emplace_back();
    return true;
  }
  bool on_object_end(std::size_t, Code&) {
    open_objects.pop_back();
    return true;
  }
  bool on_array_begin(Code&) { return true; }
  bool on_array_end(std::size_t, Code&) { return true; }
  bool on_key_part(View part, std::size_t, Code&) {
    name.append(part.data(), part.size());
    return true;
  }
  bool on_key(View part, std::size_t, Code& code) {
    name.append(part.data(), part.size());
    const bool fresh = open_objects.back().insert(name).second;
    if (!fresh) {
      duplicate = name;
      code = boost::system::errc::make_error_code(boost::system::errc::invalid_argument);
    }
    name.clear();
    return fresh;
  }
  bool on_string_part(View, std::size_t, Code&) { return true; }
  bool on_string(View, std::size_t, Code&) { return true; }
  bool on_number_part(View, Code&) { return true; }
  bool on_int64(std::int64_t, View, Code&) { return true; }
  bool on_uint64(std::uint64_t, View, Code&) { return true; }
  bool on_double(double, View, Code&) { return true; }
  bool on_bool(bool, Code&) { return true; }
  bool on_null(Code&) { return true; }
  bool on_comment_part(View, Code&) { return true; }
  bool on_comment(View, Code&) { return true; }
};

}  // namespace

Result<json::value> parse_json_unique(std::string_view text, size_t depth_max) {
  auto parsed = parse_json(text, depth_max);
  if (!parsed.ok()) return parsed;
  try {
    json::parse_options options;
    options.max_depth = depth_max;
    json::basic_parser<DuplicateNames> parser(options);
    boost::system::error_code code;
    parser.write_some(false, text.data(), text.size(), code);
    if (const auto& duplicate = parser.handler().duplicate) {
      return error(ErrorCode::invalid_argument, "JSON: the name '{}' occurs twice in one object",
                   duplicate->substr(0, 200));
    }
  } catch (const std::exception& failure) {
    return error(ErrorCode::invalid_argument, "JSON: {}", failure.what());
  }
  return parsed;
}

Result<json::value> parse_json(std::string_view text, size_t depth_max) {
  json::parse_options options;
  options.max_depth = depth_max;
  json::stream_parser parser({}, options);
  boost::system::error_code code;
  try {
    const size_t used = parser.write_some(text.data(), text.size(), code);
    if (!code) {
      if (used < text.size() && text.find_first_not_of(" \t\r\n", used) != std::string_view::npos) {
        return error(ErrorCode::invalid_argument, "JSON: text after the document at byte {}", used);
      }
      parser.finish(code);
    }
    if (code) {
      return error(ErrorCode::invalid_argument, "JSON: {} near byte {} of {}", code.message(), used,
                   text.size());
    }
    return parser.release();
  } catch (const std::exception& failure) {  // bad_alloc, length_error
    return error(ErrorCode::invalid_argument, "JSON: {}", failure.what());
  }
}

Result<json::value> read_json_file(const std::string& path) {
  IMPETUS_TRY(const std::string text, read_file(path));
  auto parsed = parse_json(text);
  if (!parsed.ok()) {
    Error failure = std::move(parsed).error().within(path);
    failure.code = ErrorCode::corrupt;
    return failure;
  }
  return parsed;
}

Result<std::optional<int64_t>> int_field(const json::object& object, std::string_view key) {
  const json::value* value = present(object, key);
  if (value == nullptr) return std::optional<int64_t>{};
  boost::system::error_code code;
  const int64_t number = value->to_number<int64_t>(code);
  if (!value->is_number() || code) return wrong_type(key, "an integer", *value);
  return std::optional<int64_t>{number};
}

Result<std::optional<double>> number_field(const json::object& object, std::string_view key) {
  const json::value* value = present(object, key);
  if (value == nullptr) return std::optional<double>{};
  boost::system::error_code code;
  const double number = value->to_number<double>(code);
  if (!value->is_number() || code || !std::isfinite(number)) {
    return wrong_type(key, "a finite number", *value);
  }
  return std::optional<double>{number};
}

Result<std::optional<bool>> bool_field(const json::object& object, std::string_view key) {
  const json::value* value = present(object, key);
  if (value == nullptr) return std::optional<bool>{};
  if (!value->is_bool()) return wrong_type(key, "true or false", *value);
  return std::optional<bool>{value->get_bool()};
}

Result<std::optional<std::string>> string_field(const json::object& object, std::string_view key) {
  const json::value* value = present(object, key);
  if (value == nullptr) return std::optional<std::string>{};
  if (!value->is_string()) return wrong_type(key, "a string", *value);
  return std::optional<std::string>{std::string(value->get_string())};
}

}  // namespace impetus

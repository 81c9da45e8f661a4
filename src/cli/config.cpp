#include "cli/config.h"

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <optional>

#include <toml++/toml.h>

namespace impetus::cli {
namespace {

// Takes "--config FILE" or "--config=FILE" out of the arguments.
Result<std::optional<std::string>> take_config_option(std::vector<std::string>& arguments) {
  using Path = std::optional<std::string>;
  for (auto it = arguments.begin(); it != arguments.end(); ++it) {
    if (it->starts_with("--config=")) {
      Path path = it->substr(9);
      arguments.erase(it);
      return path;
    }
    if (*it == "--config") {
      if (it + 1 == arguments.end()) {
        return error(ErrorCode::invalid_argument, "--config needs a file");
      }
      Path path = *(it + 1);
      arguments.erase(it, it + 2);
      return path;
    }
  }
  return Path{};
}

bool on_command_line(const std::vector<std::string>& arguments, const std::string& key) {
  const std::string flag = "--" + key;
  return std::any_of(arguments.begin(), arguments.end(), [&](const std::string& argument) {
    return argument == flag || argument.starts_with(flag + "=");
  });
}

bool in_environment(const std::string& key) {
  std::string name = "IMPETUS_" + key;
  for (char& c : name) c = c == '-' ? '_' : static_cast<char>(std::toupper(c));
  return std::getenv(name.c_str()) != nullptr;
}

Result<std::string> value_text(const toml::node& node, const std::string& key) {
  if (const auto* text = node.as_string()) return text->get();
  if (const auto* number = node.as_integer()) return fmt::format("{}", number->get());
  if (const auto* number = node.as_floating_point()) return fmt::format("{}", number->get());
  if (const auto* flag = node.as_boolean()) return std::string(flag->get() ? "true" : "false");
  return error(ErrorCode::invalid_argument,
               "'{}' must be a string, number, boolean or an array of them", key);
}

}  // namespace

Result<void> merge_config_file(std::vector<std::string>& arguments) {
  if (std::find(arguments.begin(), arguments.end(), "serve") == arguments.end()) return {};
  IMPETUS_TRY(const auto given, take_config_option(arguments));
  std::string path;
  if (given) {
    path = *given;
  } else if (const char* variable = std::getenv("IMPETUS_CONFIG"); variable && *variable) {
    path = variable;
  } else if (const char* home = std::getenv("HOME"); home && *home) {
    path = (std::filesystem::path(home) / ".impetus" / "config.toml").string();
    std::error_code code;
    if (!std::filesystem::exists(path, code)) return {};
  } else {
    return {};
  }
  toml::table table;
  try {
    table = toml::parse_file(path);
  } catch (const toml::parse_error& failure) {
    return error(ErrorCode::invalid_argument, "{}:{}: {}", path, failure.source().begin.line,
                 failure.description());
  }
  for (const auto& [toml_key, node] : table) {
    const std::string key(toml_key.str());
    if (on_command_line(arguments, key) || in_environment(key)) continue;
    const auto add = [&](const toml::node& one) -> Result<void> {
      auto text = value_text(one, key);
      if (!text.ok()) return std::move(text).error().within(path);
      arguments.push_back("--" + key + "=" + *text);
      return {};
    };
    if (const auto* array = node.as_array()) {
      for (const auto& one : *array) IMPETUS_CHECK(add(one));
    } else {
      IMPETUS_CHECK(add(node));
    }
  }
  return {};
}

}  // namespace impetus::cli

#include "cli/chat_parameters.h"

#include <charconv>
#include <cmath>
#include <cstdlib>

#include <fmt/ranges.h>

#include "terminal/message.h"
#include "terminal/text_writer.h"

namespace impetus::cli {
namespace {

struct Parameter {
  std::string_view name, values;
  double least, most;
  std::optional<float> SamplingOptions::* number = nullptr;
};
// Bounds as the options of `run` and the fields of requests have them.
constexpr Parameter kNumbers[] = {
    {"temperature", "0 to 10; 0: the likeliest token", 0, 10, &SamplingOptions::temperature},
    {"top-p", "0 to 1", 0, 1, &SamplingOptions::top_p},
    {"min-p", "0 to 1", 0, 1, &SamplingOptions::min_p},
    {"repetition-penalty", "0.01 to 10; 1: none", 0.01, 10, &SamplingOptions::repetition_penalty},
};

std::optional<int64_t> whole_number(const std::string& text) {
  int64_t value = 0;
  const auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (code != std::errc{} || end != text.data() + text.size()) return std::nullopt;
  return value;
}

Error refused(std::string_view name, const std::string& value, std::string_view values) {
  return error(ErrorCode::invalid_argument, "{} is {}, or default; not '{}'", name, values, value);
}

template <typename T>
std::string shown(const std::optional<T>& value, std::string_view otherwise) {
  return value ? fmt::format("{}", *value) : std::string(otherwise);
}

std::vector<std::pair<std::string, std::string>> all(const ChatParameters& parameters) {
  constexpr std::string_view own = "the model's own";
  std::vector<std::pair<std::string, std::string>> lines;
  for (const Parameter& one : kNumbers) {
    lines.emplace_back(one.name, shown(parameters.sampling.*one.number, own));
  }
  lines.emplace_back("top-k", shown(parameters.sampling.top_k, own));
  lines.emplace_back("seed", shown(parameters.sampling.seed, "another each time"));
  lines.emplace_back("max-tokens", fmt::format("{}", parameters.tokens_max_or_default()));
  lines.emplace_back("stop", parameters.stop.empty()
                                 ? "nothing but the model's end"
                                 : fmt::format("'{}'", fmt::join(parameters.stop, "', '")));
  return lines;
}

}  // namespace

Result<std::string> set_parameter(ChatParameters& parameters, const std::string& argument) {
  const size_t cut = argument.find_first_of(" \t\n");
  const std::string name = argument.substr(0, cut);
  const std::string value(trimmed(cut == argument.npos ? "" : argument.substr(cut)));
  const bool reset = value == "default";
  if (!name.empty()) {
    bool known = false;
    for (const auto& [one, is] : all(parameters)) known |= one == name;
    if (!known) {
      std::vector<std::string> names;
      for (const auto& [one, is] : all(parameters)) names.push_back(one);
      return error(ErrorCode::invalid_argument, "there is no '{}' to set; there are: {}", name,
                   fmt::join(names, ", "));
    }
  }
  if (!value.empty()) {
    for (const Parameter& one : kNumbers) {
      if (one.name != name) continue;
      char* end = nullptr;
      const double number = std::strtod(value.c_str(), &end);
      if (!reset && (*end != '\0' || !(number >= one.least && number <= one.most))) {
        return refused(name, value, one.values);
      }
      parameters.sampling.*one.number =
          reset ? std::nullopt : std::optional(static_cast<float>(number));
    }
    const auto number = whole_number(value);
    if (name == "top-k") {
      if (!reset && (!number || *number < 0 || *number > INT32_MAX)) {
        return refused(name, value, "a whole number from 0; 0: all tokens");
      }
      parameters.sampling.top_k =
          reset ? std::nullopt : std::optional(static_cast<int32_t>(*number));
    } else if (name == "seed") {
      if (!reset && (!number || *number < 0)) {
        return refused(name, value, "a whole number from 0");
      }
      parameters.sampling.seed =
          reset ? std::nullopt : std::optional(static_cast<uint64_t>(*number));
    } else if (name == "max-tokens") {
      if (!reset && (!number || *number < 1)) return refused(name, value, "a whole number from 1");
      parameters.tokens_max = reset ? std::nullopt : number;
    } else if (name == "stop") {
      if (reset)
        parameters.stop.clear();
      else
        parameters.stop.push_back(value);
    }
  }
  std::string said;
  for (const auto& [one, is] : all(parameters)) {
    if (name.empty() || one == name) said += fmt::format("  {:<19}  {}\n", one, harmless(is));
  }
  return said;
}

}  // namespace impetus::cli

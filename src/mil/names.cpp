#include <algorithm>
#include <array>

#include "mil/operations.h"

namespace impetus::mil {
namespace {

// Words of MIL's text form (coremltools: NameSanitizer).
constexpr std::array<std::string_view, 24> kReserved{
    "any",   "bool",  "program", "func",  "tensor", "list",   "dict",   "tuple",
    "true",  "false", "string",  "bf16",  "fp16",   "fp32",   "fp64",   "int8",
    "int16", "int32", "int64",   "uint8", "uint16", "uint32", "uint64", "state"};

bool is_start(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
}
bool is_inner(char c) {
  return is_start(c) || (c >= '0' && c <= '9') || c == '@';
}
bool is_reserved(std::string_view name) {
  return std::ranges::find(kReserved, name) != kReserved.end();
}

}  // namespace

bool is_identifier(std::string_view name) {
  return !name.empty() && is_start(name.front()) && std::ranges::all_of(name, is_inner) &&
         !is_reserved(name);
}

std::string shown(std::string_view name) {
  constexpr size_t kMax = 80;
  std::string text(name.substr(0, kMax));
  for (char& c : text) {
    if (static_cast<unsigned char>(c) < 0x20 || static_cast<unsigned char>(c) >= 0x7f) c = '?';
  }
  return name.size() > kMax ? text + "..." : text;
}

std::string sanitised(std::string_view name) {
  std::string result(name);
  for (char& c : result) {
    if (!is_inner(c)) c = '_';
  }
  if (result.empty() || !is_start(result.front())) result.insert(result.begin(), '_');
  if (is_reserved(result)) result += '_';
  return result;
}

}  // namespace impetus::mil

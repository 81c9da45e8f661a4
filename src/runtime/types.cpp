#include "runtime/types.h"

#include <algorithm>

#include <fmt/ranges.h>

namespace impetus {
namespace {

void add_each(std::vector<std::string>& to, const std::vector<std::string>& from) {
  for (const std::string& one : from) {
    if (std::ranges::find(to, one) == to.end()) to.push_back(one);
  }
}

}  // namespace

void Devices::add(const Devices& others) {
  if (!others.fallback_reason.empty()) fallback_reason = others.fallback_reason;
  add_each(prefill, others.prefill);
  add_each(decode, others.decode);
  add_each(embeddings, others.embeddings);
}

std::vector<std::string> Devices::all() const {
  std::vector<std::string> names;
  for (const auto* list : {&prefill, &decode, &embeddings}) add_each(names, *list);
  return names;
}

std::string Devices::text() const {
  return fmt::format("{}", fmt::join(all(), ", "));
}

}  // namespace impetus

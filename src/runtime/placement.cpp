#include "runtime/placement.h"

#include <algorithm>

#include <fmt/ranges.h>

namespace impetus {
namespace {

Result<std::vector<Rung>> resolve(const std::vector<std::string>& names,
                                  const std::map<std::string, std::string>& absent,
                                  std::span<const std::unique_ptr<Backend>> backends) {
  std::vector<Rung> rungs;
  if (names.empty()) {
    for (const auto& backend : backends) {
      rungs.push_back({backend->descriptor().backend, backend.get()});
    }
    return rungs;
  }
  for (const std::string& name : names) {
    const auto found = std::ranges::find_if(backends, [&](const auto& backend) {
      return backend->descriptor().backend == name || backend->descriptor().device == name;
    });
    if (found != backends.end()) {
      rungs.push_back({name, found->get()});
    } else if (const auto why = absent.find(name); why != absent.end()) {
      rungs.push_back({name, nullptr, why->second});
    } else {
      std::vector<std::string> there;
      for (const auto& backend : backends) there.push_back(backend->descriptor().backend);
      return error(ErrorCode::invalid_argument, "there is no processor '{}'; there are: {}", name,
                   fmt::join(there, ", "));
    }
  }
  return rungs;
}

}  // namespace

Result<Placement> parse_placement(std::span<const std::string> items) {
  Placement placement;
  std::vector<std::string> every;
  std::vector<std::string>* list = &every;
  for (const std::string& item : items) {
    std::string name = item;
    if (const size_t at = item.find('='); at != item.npos) {
      const std::string phase = item.substr(0, at);
      name = item.substr(at + 1);
      list = phase == "prefill"      ? &placement.prefill
             : phase == "decode"     ? &placement.decode
             : phase == "embeddings" ? &placement.embeddings
                                     : nullptr;
      if (!list) {
        return error(ErrorCode::invalid_argument,
                     "'{}' is no part of the work: prefill, decode or embeddings", phase);
      }
    }
    if (name.empty()) {
      return error(ErrorCode::invalid_argument, "'{}' names no processor", item);
    }
    list->push_back(std::move(name));
  }
  for (auto* phase : {&placement.prefill, &placement.decode, &placement.embeddings}) {
    for (const std::string& name : every) {
      if (std::ranges::find(*phase, name) == phase->end()) phase->push_back(name);
    }
  }
  return placement;
}

Ladders Ladders::only(Backend& backend) {
  const std::vector<Rung> rungs{{backend.descriptor().backend, &backend}};
  Ladders ladders;
  ladders.prefill = ladders.decode = ladders.embeddings = rungs;
  return ladders;
}

Result<Ladders> resolve_placement(const Placement& placement,
                                  std::span<const std::unique_ptr<Backend>> backends) {
  Ladders ladders;
  IMPETUS_TRY(ladders.prefill, resolve(placement.prefill, placement.absent, backends));
  IMPETUS_TRY(ladders.decode, resolve(placement.decode, placement.absent, backends));
  IMPETUS_TRY(ladders.embeddings, resolve(placement.embeddings, placement.absent, backends));
  return ladders;
}

}  // namespace impetus

// The wall of a backend: no exception of what it uses leaves it.
#pragma once

#include <new>
#include <stdexcept>
#include <string_view>

#include "base/result.h"

namespace impetus {

// What a foreign exception inside a backend becomes.
template <typename Body>
auto guarded(std::string_view what, Body&& body) -> decltype(body()) {
  try {
    return body();
  } catch (const std::bad_alloc&) {
    return error(ErrorCode::insufficient_memory, "{}: the system is out of memory", what);
  } catch (const std::exception& failure) {
    return error(ErrorCode::internal, "{}: {}", what, failure.what());
  }
}

}  // namespace impetus

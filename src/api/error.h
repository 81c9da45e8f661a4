// Errors as clients expect them: {"error": {"message", "type", "param", "code"}} and a status.
#pragma once

#include <string>

#include "base/result.h"

namespace impetus::api {

struct WireError {
  int status;
  const char* type;
  std::string code;
};
WireError wire_error(const Error& error);
std::string error_body(const Error& error);

}  // namespace impetus::api

#include "api/error.h"

#include "base/json.h"
#include "base/utf8.h"

namespace impetus::api {

WireError wire_error(const Error& error) {
  switch (error.code) {
    case ErrorCode::invalid_argument:
      return {400, "invalid_request_error", "invalid_request"};
    case ErrorCode::unsupported:
      return {400, "invalid_request_error", "unsupported"};
    case ErrorCode::context_length:
      return {400, "invalid_request_error", "context_length_exceeded"};
    case ErrorCode::unauthorized:
      return {401, "authentication_error", "invalid_api_key"};
    case ErrorCode::not_found:
      return {404, "not_found_error", error.param == "model" ? "model_not_found" : "not_found"};
    case ErrorCode::overloaded:
      return {429, "overloaded_error", "server_overloaded"};
    case ErrorCode::cancelled:
      return {499, "cancelled_error", "cancelled"};
    case ErrorCode::unavailable:
      return {503, "unavailable_error", "server_unavailable"};
    case ErrorCode::insufficient_memory:
      return {507, "insufficient_memory_error", "insufficient_memory"};
    case ErrorCode::corrupt:
    case ErrorCode::io:
    case ErrorCode::internal:
      return {500, "server_error", std::string(to_string(error.code))};
  }
  return {500, "server_error", "internal"};
}

std::string error_body(const Error& error) {
  const WireError wire = wire_error(error);
  json::object body{{"message", repair_utf8(error.message)},
                    {"type", wire.type},
                    {"param", nullptr},
                    {"code", wire.code}};
  if (!error.param.empty()) body["param"] = repair_utf8(error.param);
  return json::serialize(json::object{{"error", std::move(body)}});
}

}  // namespace impetus::api

#include "base/result.h"

namespace impetus {

std::string_view to_string(ErrorCode code) {
  switch (code) {
    case ErrorCode::invalid_argument: return "invalid_argument";
    case ErrorCode::not_found: return "not_found";
    case ErrorCode::corrupt: return "corrupt";
    case ErrorCode::unsupported: return "unsupported";
    case ErrorCode::context_length: return "context_length";
    case ErrorCode::insufficient_memory: return "insufficient_memory";
    case ErrorCode::overloaded: return "overloaded";
    case ErrorCode::unauthorized: return "unauthorized";
    case ErrorCode::cancelled: return "cancelled";
    case ErrorCode::unavailable: return "unavailable";
    case ErrorCode::io: return "io";
    case ErrorCode::internal: return "internal";
  }
  return "internal";
}

}  // namespace impetus

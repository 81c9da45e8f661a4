// Who may talk to the server: API key, Host (against DNS rebinding), Origin (against other sites).
// Pure and thread-safe.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"
#include "server/http.h"
#include "server/options.h"

namespace impetus {

// "localhost", 127.0.0.0/8, ::1 (with or without brackets).
bool is_loopback_host(std::string_view host);

// A Host header's or an authority's host, without its port; nullopt where malformed.
std::optional<std::string> host_of(std::string_view authority);

class Gate {
 public:
  explicit Gate(const ServerOptions& options);

  // Host and Origin: invalid_argument -> 403 by the caller.
  Result<void> check_sender(const HttpRequest& request) const;
  // `Authorization: Bearer KEY` or `x-api-key: KEY`, compared in constant time.
  Result<void> check_key(const HttpRequest& request) const;
  // The CORS headers this request's origin is owed; empty where it sent none.
  Headers cors(const HttpRequest& request) const;

 private:
  bool origin_allowed(std::string_view origin) const;

  ServerOptions options_;
  bool loopback_;
};

// A fresh key from the system's random source: 32 bytes in hex behind "imp-".
std::string generate_api_key();

}  // namespace impetus
